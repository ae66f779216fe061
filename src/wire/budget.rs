//! The memory that requests may take while they arrive, all connections of a port together.
//!
//! Bytes are claimed as they arrive, not as they are declared: otherwise a few clients that declare much and send nothing would shut everyone
//! else out.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{Crowd, Error};

/// Bytes of request bodies that may be in memory, all connections together.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Budget {
    /// A budget of `bytes_max`, all of it free.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Budget { used: Arc::default(), bytes_max }
    }

    /// Nothing of it yet.
    pub(crate) fn claim(&self) -> Claim {
        Claim { budget: self.clone(), bytes: 0 }
    }
}

/// A part of the budget; free again when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    budget: Budget,
    bytes: usize,
}

impl Claim {
    /// Takes more of it, if so much is free.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let fits = |used: usize| used.checked_add(bytes).filter(|&after| after <= self.budget.bytes_max);
        self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).map_err(|_| Crowd::Bodies)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_refused_whole_and_comes_back_when_dropped() {
        let budget = Budget::new(10);
        let mut first = budget.claim();
        first.grow(6).expect("six of ten");
        let mut second = budget.claim();
        assert_eq!(second.grow(5), Err(Crowd::Bodies.into()));
        second.grow(4).expect("four are left");
        drop(first);
        second.grow(6).expect("six came back");
        drop(second);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
