//! A file that says what a library does which stands for a driver: `tests/nvml-stub` and `tests/cuda-emulator` read it at each call.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

/// The file, in a folder of its own.
pub(crate) struct Control(TempDir);

impl Control {
    /// One that says nothing yet.
    pub(crate) fn new() -> Self {
        let control = Control(tempfile::tempdir().unwrap());
        control.says("");
        control
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.beside("control")
    }

    /// A file of this name in the same folder.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// From now on it says this, and nothing else.
    pub(crate) fn says(&self, lines: &str) {
        let next = self.beside("next");
        fs::write(&next, lines).unwrap();
        // Nobody reads half of it.
        fs::rename(next, self.file()).unwrap();
    }
}
