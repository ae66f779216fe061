//! Standard output: what was asked for, and nothing else.

use std::io::{self, Write};

use anyhow::Result;

/// Prints to standard output. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    written(writeln!(io::stdout().lock(), "{}", text.trim_end()))
}

/// What became of words on standard output.
pub(crate) fn written(outcome: io::Result<()>) -> Result<()> {
    match outcome.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            anyhow::bail!("cannot write to standard output: {error}")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
