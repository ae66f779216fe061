//! What the process or the system has no more of: files, threads, memory. It may pass by itself, so whoever meets it may try again.

use std::io;

use rustix::io::Errno;

/// Whether the process or the system has no more of something.
pub(crate) fn is_short(error: &io::Error) -> bool {
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN];
    Errno::from_io_error(error).is_some_and(|found| short.contains(&found))
}

/// What to do about it.
pub(crate) fn more(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::MFILE) => "raise LimitNOFILE= (ulimit -n)",
        Some(Errno::NFILE) => "raise fs.file-max, or end other programs",
        Some(Errno::AGAIN) => "raise TasksMax= and LimitNPROC= (ulimit -u, pids.max), or end other programs",
        Some(_) | None => "end other programs, or give this one more memory",
    }
}
