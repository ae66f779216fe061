//! Pages that somebody names: reports and figures, which may be a link, a pipe or a device.

use std::{fs, io, path::Path};

use super::whole::{try_file, write_whole};

/// Writes a page that somebody names whole, in a folder that is there. What is a link, a pipe or a device is written to as it is, since a rename would put a
/// file in its place; and so is a file that may be written in a folder that may not.
pub fn write_page(file: &Path, page: &[u8]) -> io::Result<()> {
    let is_other = fs::symlink_metadata(file).is_ok_and(|found| !found.is_file());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if is_other || !folder.is_dir() {
        return fs::write(file, page);
    }
    let is_shut = |error: &io::Error| {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
        matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | ResourceBusy)
    };
    match write_whole(file, page) {
        Err(error) if is_shut(&error) => fs::write(file, page),
        written => written,
    }
}

/// Whether a page that somebody names can be written; leaves no file behind, and what is there as it is.
pub fn try_page(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::symlink_metadata(file) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // A pipe would wait for its reader.
        Ok(found) if !found.is_file() => Ok(()),
        Ok(_) | Err(_) => fs::File::options().append(true).open(file).map(drop).or_else(|_| try_file(folder)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_page_can_be_written_is_known_before_it_is_and_changes_nothing() {
        let dir = tempfile::tempdir().expect("there is a temporary folder");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("old.html"), "old").expect("it can be written");
        for good in [at("new.html"), at("old.html"), "/dev/null".into()] {
            assert!(try_page(&good).is_ok(), "{}", good.display());
        }
        for bad in
            [at("nowhere/page.html"), dir.path().to_path_buf(), at("old.html/page.html"), "/proc/page.html".into()]
        {
            assert!(try_page(&bad).is_err(), "{}", bad.display());
        }
        let left: Vec<_> = fs::read_dir(dir.path()).expect("it is there").collect();
        assert_eq!((left.len(), fs::read_to_string(at("old.html")).expect("a file").as_str()), (1, "old"));
    }

    #[test]
    fn those_that_ask_side_by_side_do_not_meet() {
        let dir = tempfile::tempdir().expect("there is a temporary folder");
        let ask = || (0..500).try_for_each(|_| try_page(&dir.path().join("new.html")));
        std::thread::scope(|scope| {
            let asked = [scope.spawn(ask), scope.spawn(ask), scope.spawn(ask)];
            for one in asked {
                one.join().expect("it does not panic").expect("each has a file of its own");
            }
        });
    }
}
