//! How far the end has come, and who is still waited for.
//!
//! The port's life has stages, and only moves forward; another process may take it over, or it drains. While it drains, the port stays open: a client whose connection is refused
//! cannot tell a daemon that stops from one that was never there, and a 503 with Retry-After tells it. What is waited for is every request
//! whose queries may have been admitted, and nothing else: neither an idle connection nor half a body holds the end up.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, watch};

/// Where the port stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    /// It takes whatever comes.
    Serving,
    /// Another process accepts connections; it answers what comes on those that it has, and closes them.
    Leaving,
    /// It finishes what was admitted, and refuses the rest.
    Draining,
    /// It waits for nobody any more.
    Over,
}

/// The stage, and the number of requests that may hold admitted queries.
#[derive(Debug)]
pub(crate) struct Drain {
    stage: watch::Sender<Stage>,
    waiting: AtomicUsize,
    settled: Notify,
}

/// A request that may hold admitted queries, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Awaited(Arc<Drain>);

impl Drain {
    /// Nothing has ended.
    pub(crate) fn new() -> Self {
        Drain { stage: watch::Sender::new(Stage::Serving), waiting: AtomicUsize::new(0), settled: Notify::new() }
    }

    /// Whether a connection should close once its request is answered.
    pub(crate) fn closes_connections(&self) -> bool {
        *self.stage.borrow() >= Stage::Leaving
    }

    /// Resolves when nobody should come any more: another process accepts connections, or the end begins.
    pub(crate) async fn left(&self) {
        self.reached(Stage::Leaving).await;
    }

    /// Resolves when the end begins.
    pub(crate) async fn begun(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Resolves when admitted queries are not waited for any longer.
    pub(crate) async fn over(&self) {
        self.reached(Stage::Over).await;
    }

    /// Another process accepts connections from now on.
    pub(crate) fn leave(&self) {
        self.stage.send_replace(Stage::Leaving);
    }

    /// The end begins.
    pub(crate) fn begin(&self) {
        self.stage.send_replace(Stage::Draining);
    }

    /// Admitted queries are not waited for any longer.
    pub(crate) fn end(&self) {
        self.stage.send_replace(Stage::Over);
    }

    /// Requests that may hold admitted queries.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Taken before admission is asked. Admission's answer follows this count, and the end's look at the count follows its refusals: so
    /// an admitted request is seen.
    pub(crate) fn await_me(self: &Arc<Self>) -> Awaited {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Awaited(Arc::clone(self))
    }

    /// Resolves when no request may hold admitted queries.
    pub(crate) async fn settled(&self) {
        loop {
            // A wake-up that comes between the look and the wait is kept for a `Notified` that exists already.
            let notified = self.settled.notified();
            if self.waiting() == 0 {
                return;
            }
            notified.await;
        }
    }

    async fn reached(&self, stage: Stage) {
        let mut stages = self.stage.subscribe();
        let seen = stages.wait_for(|&now| now >= stage).await;
        seen.expect("the sender is a field of this value, which the caller holds");
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.settled.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_settles_when_the_last_request_is_answered() {
        let drain = Arc::new(Drain::new());
        drain.settled().await;
        let (first, second) = (drain.await_me(), drain.await_me());
        assert_eq!(drain.waiting(), 2);
        tokio::join!(drain.settled(), async {
            drop(first);
            tokio::task::yield_now().await;
            drop(second);
        });
        assert_eq!(drain.waiting(), 0);
    }

    #[tokio::test]
    async fn a_stage_that_was_reached_is_seen_by_who_asks_later() {
        let drain = Drain::new();
        assert!(!drain.closes_connections());
        drain.leave();
        assert!(drain.closes_connections());
        drain.begin();
        drain.begun().await;
        drain.end();
        drain.over().await;
        drain.begun().await;
    }
}
