//! Files that are replaced whole, and folders that one writer at a time has locked.
//!
//! New bytes lie in a temporary file beside the old ones until they are on the disk, so that a reader (or a crash) sees the old bytes or the
//! new ones. A writer that is killed leaves its temporary file; it holds a lock on it while it lives, so that the next one knows which may go.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// How the names of temporary files end, after the file's own and a number.
const ENDING: &str = "new";
/// Hexadecimal digits of that number.
const DIGITS: usize = 16;

/// New bytes of a file, on the disk but not in its place yet. They go unless they take it.
#[derive(Debug)]
pub(super) struct Beside {
    file: PathBuf,
    temporary: PathBuf,
    /// Locked: whoever removes what was left behind leaves it.
    held: fs::File,
}

impl Beside {
    /// Writes them.
    pub(super) fn write(file: &Path, bytes: &[u8]) -> io::Result<Self> {
        let folder = folder_of(file);
        fs::create_dir_all(folder)?;
        loop {
            // A file that two write is neither's.
            let mut name = file.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{:0DIGITS$x}.{ENDING}", nobody_elses()));
            let temporary = folder.join(name);
            let held = fs::File::create(&temporary)?;
            // Where files cannot be locked, what is left behind stays.
            let is_locked = held.lock().is_ok();
            let mut beside = Beside { file: file.to_path_buf(), temporary, held };
            // Before it was locked, somebody may have taken it for left behind.
            if is_locked && !beside.temporary.exists() {
                continue;
            }
            beside.held.write_all(bytes)?;
            beside.held.sync_all()?;
            return Ok(beside);
        }
    }

    /// Puts them into the file's place.
    pub(super) fn take_place(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.file)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // A part of a file is of no use to anybody, least of all on a disk that is full; that it cannot be removed is not what went wrong. What took
        // its place is no longer under this name.
        let _stays = fs::remove_file(&self.temporary);
    }
}

/// Writes a file by way of a temporary one beside it, so that a reader (or a crash) sees the old bytes or the new ones.
pub fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    Beside::write(file, bytes)?.take_place()
}

/// Removes the temporary files of writers that did not live to remove them: a checkpoint may be a gigabyte. What cannot be removed stays.
pub fn remove_left_behind(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name().to_string_lossy())) {
        let file = entry.path();
        let Ok(open) = fs::File::open(&file) else { continue };
        // Not one that is being written.
        if open.try_lock().is_ok() && fs::remove_file(&file).is_ok() {
            tracing::info!(file = %file.display(), "removed what an ended run left behind");
        }
    }
}

fn is_temporary(name: &str) -> bool {
    let mut parts = name.rsplitn(3, '.');
    let (ending, number, of) = (parts.next(), parts.next().unwrap_or_default(), parts.next());
    let is_number = number.len() == DIGITS && number.bytes().all(|byte| byte.is_ascii_hexdigit());
    ending == Some(ENDING) && is_number && of.is_some_and(|of| !of.is_empty())
}

/// Locks a folder for as long as what this gives lives; waits for whoever has it locked. The folder itself is locked: no file is left
/// behind.
pub(super) fn lock(folder: &Path) -> io::Result<fs::File> {
    let locked = fs::File::open(folder).and_then(|open| {
        match open.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                tracing::info!(folder = %folder.display(), "waits for whoever has locked the folder");
                open.lock()?;
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        Ok(open)
    });
    locked.map_err(|error| io::Error::new(error.kind(), format!("the folder cannot be locked: {error}")))
}

/// Whether a file can be written in a folder that is there. Several may ask at a time, each with a file of its own.
pub(super) fn try_file(folder: &Path) -> io::Result<()> {
    let file = folder.join(format!(".parityd-writes-here.{:016x}", nobody_elses()));
    fs::write(&file, []).and_then(|()| fs::remove_file(&file))
}

/// Whether a folder, which is made if it is not there, can be locked and written: to be found out before anything is learned or measured.
pub fn try_write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let _locked = lock(folder)?;
    try_file(folder)
}

/// The folder that a file lies in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A number that nobody else has, on another machine, in another container or thread.
fn nobody_elses() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_writer_left_goes_and_what_is_being_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let left = ["base.checkpoint.0123456789abcdef.new", "manifest.toml.fedcba9876543210.new"];
        let others =
            ["base.checkpoint", "notes.new", "base.0123.new", ".0123456789abcdef.new", "x.0123456789abcdeg.new"];
        for name in left.iter().chain(&others) {
            fs::write(at(name), "a part").unwrap();
        }
        let beside = Beside::write(&at("base.checkpoint"), b"whole").unwrap();
        remove_left_behind(dir.path());
        assert!(left.iter().all(|name| !at(name).exists()) && others.iter().all(|name| at(name).exists()));
        beside.take_place().unwrap();
        assert_eq!(fs::read(at("base.checkpoint")).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), others.len());
        remove_left_behind(&at("nowhere"));
    }

    #[test]
    fn bytes_that_do_not_take_their_place_go() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("row0.safetensors");
        write_whole(&file, b"old").unwrap();
        drop(Beside::write(&file, b"new").unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_could_not_be_written_leaves_no_part_behind() {
        let dir = tempfile::tempdir().unwrap();
        // Nothing can be renamed to a folder that is not empty.
        let file = dir.path().join("base.checkpoint");
        fs::create_dir_all(file.join("in the way")).unwrap();
        assert!(write_whole(&file, b"bytes").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        try_write(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(try_write(Path::new("/proc/nowhere")).is_err());
    }

    #[test]
    fn a_file_that_two_write_is_that_of_one_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("base.checkpoint");
        let write = |thread: u8| (0..20).for_each(|_| write_whole(&file, &vec![thread; 1 << 20]).unwrap());
        std::thread::scope(|scope| (0..4).for_each(|thread| drop(scope.spawn(move || write(thread)))));
        let written = fs::read(&file).unwrap();
        assert!(written.len() == 1 << 20 && written.iter().all(|byte| *byte == written[0]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
