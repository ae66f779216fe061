//! How many files this process may have open: a connection is one, and so each of a thousand clients needs one.
//!
//! Systems begin a process with few (1024, as a rule) because programs that use `select` cannot tell more apart, and let it ask for more: none here uses it. No
//! more is asked for than is needed, because some programs that others start go through all that there might be.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many as `wanted`, if there are fewer; gives how many there are.
pub(crate) fn at_least(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let files = |limit: Option<u64>| limit.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    if files(limit.current) >= wanted {
        return files(limit.current);
    }
    let more = u64::try_from(wanted).unwrap_or(u64::MAX).min(limit.maximum.unwrap_or(u64::MAX));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(more), ..limit });
    files(if raised.is_ok() { Some(more) } else { limit.current })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_holds_and_never_falls() {
        let before = at_least(0);
        assert!(before >= 256, "{before} are too few for any test");
        assert_eq!(at_least(before), before);
        let more = at_least(before + 1);
        assert!([before, before + 1].contains(&more), "{more} of {before} and one more");
        let current = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        assert_eq!(current, Some(more));
        assert_eq!(at_least(10), more);
    }
}
