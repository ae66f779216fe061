//! Answers on their way back: the one place where "exactly once" is made true.
//!
//! A request of n rows shares one board of n answers. [`Admitted::answer`] sets a row's place once; the first to set it wins, whoever it
//! is (lane, decoder, timer), and everyone else is told [`Late`]. The last place to be set wakes the request's task. There is no lock:
//! each place is a `OnceLock`, the count of open places an atomic. A request whose [`Pending`] is dropped (its client left) is marked
//! gone, and its queued rows become tombstones that lanes skip.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use atomic_waker::AtomicWaker;

use crate::query::{Answer, Failure, LaneId, Query};

/// A place in the bounded number of admitted queries; dropping it frees the place.
#[derive(Debug)]
pub struct Permit {
    taken: Arc<AtomicUsize>,
    freed: AtomicBool,
}

impl Permit {
    /// Takes `count` places out of `limit`, all or none.
    pub fn acquire(taken: &Arc<AtomicUsize>, limit: usize, count: usize) -> Option<Vec<Permit>> {
        let fits = |now: usize| now.checked_add(count).filter(|&after| after <= limit);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some((0..count).map(|_| Permit { taken: Arc::clone(taken), freed: AtomicBool::new(false) }).collect())
    }
}

impl Permit {
    /// Frees the place, once.
    fn free(&self) {
        if !self.freed.swap(true, Ordering::AcqRel) {
            self.taken.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.free();
    }
}

/// The answers of one request.
#[derive(Debug)]
struct Board {
    answers: Box<[OnceLock<Answer>]>,
    open: AtomicUsize,
    gone: AtomicBool,
    waker: AtomicWaker,
}

/// Someone else answered first. Not an error: it is how redundancy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

/// An admitted query: its terms, its permit and its place on the request's board.
#[derive(Debug)]
pub struct Admitted {
    /// The row and its terms.
    pub query: Query,
    board: Arc<Board>,
    index: usize,
    /// The first lane that lost it; [`NOBODY`] if none has.
    lost_by: AtomicU32,
    /// Which exact second run of it waits or runs: [`NO_SECOND`], [`HEDGE_WAITS`], [`HEDGE_RUNS`] or [`RESCUE`].
    second: AtomicU8,
    /// [`ANSWERED`] and [`STARTED`]; with both, the permit is free, although a hung lane or a stripe may hold the query for long.
    passed: AtomicU8,
    permit: Permit,
}

const NOBODY: u32 = u32::MAX;
const NO_SECOND: u8 = 0;
const HEDGE_WAITS: u8 = 1;
const HEDGE_RUNS: u8 = 2;
const RESCUE: u8 = 3;
const ANSWERED: u8 = 1;
const STARTED: u8 = 2;

impl Admitted {
    /// Puts the queries of one request on a new board. One permit per query.
    pub fn request(queries: Vec<Query>, permits: Vec<Permit>) -> (Vec<Arc<Admitted>>, Pending) {
        assert_eq!(queries.len(), permits.len(), "one permit per query");
        let board = Arc::new(Board {
            answers: queries.iter().map(|_| OnceLock::new()).collect(),
            open: AtomicUsize::new(queries.len()),
            gone: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let admitted = queries
            .into_iter()
            .zip(permits)
            .enumerate()
            .map(|(index, (query, permit))| {
                let board = Arc::clone(&board);
                Arc::new(Admitted {
                    query,
                    board,
                    index,
                    lost_by: AtomicU32::new(NOBODY),
                    second: AtomicU8::new(NO_SECOND),
                    passed: AtomicU8::new(0),
                    permit,
                })
            })
            .collect();
        (admitted, Pending(board))
    }

    /// Answers the query, unless it has been answered.
    pub fn answer(&self, answer: Answer) -> Result<(), Late> {
        self.board.answers[self.index].set(answer).map_err(|_| Late)?;
        self.pass(ANSWERED);
        if self.board.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.board.waker.wake();
        }
        Ok(())
    }

    /// It has left the queue of admission for good: a lane starts it, or passes it over. `true` the first time.
    pub fn start(&self) -> bool {
        self.pass(STARTED)
    }

    fn pass(&self, mark: u8) -> bool {
        let before = self.passed.fetch_or(mark, Ordering::AcqRel);
        if before | mark == ANSWERED | STARTED {
            self.permit.free();
        }
        before & mark == 0
    }

    /// The answer that won, if there is one yet.
    pub fn answered(&self) -> Option<&Answer> {
        self.board.answers[self.index].get()
    }

    /// Whether work on it can still matter: unanswered, and its client is still there.
    pub fn is_open(&self) -> bool {
        self.answered().is_none() && !self.board.gone.load(Ordering::Acquire)
    }

    /// A lane lost it; returns the lane that had lost it before, if this is not the first time.
    pub fn lose(&self, lane: LaneId) -> Option<LaneId> {
        let lost = self.lost_by.compare_exchange(NOBODY, u32::from(lane.0), Ordering::AcqRel, Ordering::Acquire);
        lost.err().and_then(|first| u16::try_from(first).ok()).map(LaneId)
    }

    fn turn_second(&self, from: u8, to: u8) -> bool {
        self.second.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Claims its rescue; `false` if one waits or runs already, or a hedge runs, which does as well. A hedge that only waits may wait for
    /// long, so it gives way.
    pub fn begin_rescue(&self) -> bool {
        self.turn_second(NO_SECOND, RESCUE) || self.turn_second(HEDGE_WAITS, RESCUE)
    }

    /// Its rescue was lost, too, or hangs.
    pub fn end_rescue(&self) {
        self.turn_second(RESCUE, NO_SECOND);
    }

    /// Claims its hedge; `false` if a hedge or a rescue waits or runs already.
    pub fn begin_hedge(&self) -> bool {
        self.turn_second(NO_SECOND, HEDGE_WAITS)
    }

    /// A lane takes its hedge; `false` if a rescue has taken its place.
    pub fn start_hedge(&self) -> bool {
        self.turn_second(HEDGE_WAITS, HEDGE_RUNS)
    }

    /// Its hedge was lost or is late, too, or was dropped before it started.
    pub fn end_hedge(&self) {
        if !self.turn_second(HEDGE_RUNS, NO_SECOND) {
            self.turn_second(HEDGE_WAITS, NO_SECOND);
        }
    }
}

/// A query that everybody has let go of can get no other answer any more: the daemon stops.
impl Drop for Admitted {
    fn drop(&mut self) {
        self.answer(Err(Failure::Stopped)).unwrap_or(());
    }
}

/// Resolves to a request's answers, in row order, once the last row has its answer. Dropping it tells the lanes that nobody waits.
#[derive(Debug)]
pub struct Pending(Arc<Board>);

impl Pending {
    /// Blocks the calling thread until the last row has its answer, which is by the deadline as long as the engine runs. For programs without an executor.
    pub fn wait(mut self) -> Vec<Answer> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            // A wake-up between the look and the park is not lost: the next park returns at once.
            match Pin::new(&mut self).poll(&mut context) {
                Poll::Ready(answers) => return answers,
                Poll::Pending => thread::park(),
            }
        }
    }
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Future for Pending {
    type Output = Vec<Answer>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<Answer>> {
        // Register before looking: an answer that comes between the two would otherwise wake nobody.
        self.0.waker.register(context.waker());
        if self.0.open.load(Ordering::Acquire) > 0 {
            return Poll::Pending;
        }
        let answer = |place: &OnceLock<Answer>| place.get().cloned().expect("no place is open");
        Poll::Ready(self.0.answers.iter().map(answer).collect())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Time,
        query::{Accepts, Confidence, Prediction, Provenance, Row},
    };

    fn query() -> Query {
        Query {
            row: Row::whole(vec![0.0]),
            admitted: Time::ZERO,
            deadline: Time::ZERO,
            accepts: Accepts::Any,
            min_confidence: Confidence::NONE,
            in_range: true,
        }
    }

    fn direct(value: f32) -> Prediction {
        Prediction { values: [value].into(), provenance: Provenance::Direct, confidence: None }
    }

    #[test]
    fn the_first_answer_wins_and_the_rest_are_late() {
        let taken = Arc::new(AtomicUsize::new(0));
        let permits = Permit::acquire(&taken, 2, 2).expect("two places");
        let (admitted, mut pending) = Admitted::request(vec![query(), query()], permits);
        assert_eq!(admitted[0].answer(Ok(direct(1.0))), Ok(()));
        assert_eq!(admitted[0].answer(Err(Failure::Deadline)), Err(Late));
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
        assert_eq!(admitted[1].answer(Err(Failure::Deadline)), Ok(()));
        let Poll::Ready(answers) = Pin::new(&mut pending).poll(&mut context) else {
            unreachable!("both rows are answered")
        };
        assert_eq!(answers[0].as_ref().unwrap().values[..], [1.0]);
        assert_eq!(answers[1].as_ref().unwrap_err(), &Failure::Deadline);
    }

    #[test]
    fn a_thread_can_wait_without_an_executor() {
        let taken = Arc::new(AtomicUsize::new(0));
        let permits = Permit::acquire(&taken, 2, 2).expect("two places");
        let (admitted, pending) = Admitted::request(vec![query(), query()], permits);
        let waiting = thread::spawn(|| pending.wait());
        assert_eq!(admitted[1].answer(Ok(direct(2.0))), Ok(()));
        assert_eq!(admitted[0].answer(Ok(direct(1.0))), Ok(()));
        let answers = waiting.join().unwrap();
        let values = |answer: &Answer| answer.as_ref().unwrap().values[0].to_bits();
        assert_eq!(answers.iter().map(values).collect::<Vec<_>>(), [1.0_f32.to_bits(), 2.0_f32.to_bits()]);
    }

    #[test]
    fn permits_are_all_or_none_and_come_back_with_the_query() {
        let taken = Arc::new(AtomicUsize::new(0));
        let permits = Permit::acquire(&taken, 3, 2).expect("two of three");
        assert!(Permit::acquire(&taken, 3, 2).is_none());
        assert_eq!(taken.load(Ordering::Relaxed), 2, "a refusal takes nothing");
        let (mut admitted, mut pending) = Admitted::request(vec![query(), query()], permits);
        admitted[0].start();
        assert_eq!(taken.load(Ordering::Relaxed), 2, "started, but not answered");
        assert_eq!(admitted[0].answer(Ok(direct(1.0))), Ok(()));
        assert_eq!(taken.load(Ordering::Relaxed), 1, "over, although somebody still holds the query");
        drop(admitted.pop());
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(answers) = Pin::new(&mut pending).poll(&mut context) else {
            unreachable!("a query that everybody has let go of is answered")
        };
        assert_eq!(answers[1].as_ref().unwrap_err(), &Failure::Stopped);
        drop(pending);
        assert!(!admitted[0].is_open(), "its client has left");
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
