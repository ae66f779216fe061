//! How many files this process may have open: a connection is one, and so each of a thousand clients needs one.
//!
//! Systems begin a process with few (1024, as a rule) because programs that use `select` cannot tell more apart, and let it take more: none here uses it.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Takes as many as the system allows; gives how many that are.
pub(crate) fn raise() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    // Some systems allow fewer than they say.
    let now = if setrlimit(Resource::Nofile, limit).is_ok() { limit.current } else { before };
    now.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_holds() {
        let files = raise();
        assert!(files >= 256, "{files} are too few for any test");
        assert_eq!(getrlimit(Resource::Nofile).current.map(usize::try_from), Some(Ok(files)));
        assert_eq!(raise(), files, "there are no more");
    }
}
