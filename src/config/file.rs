//! The file: read as text, of which there is not too much.

use std::{fs::File, io::Read, path::Path};

use super::ConfigFaults;

/// A configuration is a page or two. What is longer is another file, or a device that goes on for ever.
const BYTES_MAX: u64 = 1 << 20;

/// The text of the file at `path`.
pub(super) fn text(path: &Path) -> Result<String, ConfigFaults> {
    let refused = |rule: String| ConfigFaults::one(&path.display().to_string(), "", rule);
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
    let length = read.map_err(|error| ConfigFaults::unread(path, &error))?;
    if length as u64 > BYTES_MAX {
        return Err(refused(
            "is longer than 1 MiB, and so no configuration; name the configuration with --config".to_owned(),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.split(|&byte| byte == b'\n').count();
        refused(format!("must be UTF-8, and line {line} is not; save it as UTF-8"))
    })
}
