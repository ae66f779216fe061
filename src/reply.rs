//! Answers on their way back: the one place where "exactly once" is made true.
//!
//! A request of n rows shares one board of n answers. [`Admitted::answer`] sets a row's place once; the first to set it wins, whoever it
//! is (lane, decoder, timer), and everyone else is told [`Late`]. The last place to be set wakes the request's task. There is no lock:
//! each place is a `OnceLock`, the count of open places an atomic. A request whose [`Pending`] is dropped (its client left) is marked
//! gone, and its queued rows become tombstones that lanes skip.
//!
//! [`Requests`] bounds how many queries are admitted at once, and keeps the memory of those that are over: boards and queries are used again
//! once nobody holds them.

mod second;

use std::{
    future::Future,
    ops::Index,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use atomic_waker::AtomicWaker;
pub use second::Claim;
use second::SecondRun;

use crate::{
    clock::Time,
    pool::{Pool, Reuse, Shared},
    query::{Accepts, Answer, Confidence, Failure, LaneId, Query, Row},
};

/// Admits queries, up to a limit.
#[derive(Debug)]
pub struct Requests {
    taken: Arc<AtomicUsize>,
    limit: usize,
    boards: Pool<Board>,
    queries: Pool<Admitted>,
}

impl Requests {
    /// Nothing is admitted yet; `limit` queries may be at once, and the memory of so many is kept.
    pub fn new(limit: usize) -> Self {
        Requests { taken: Arc::default(), limit, boards: Pool::new(limit), queries: Pool::new(limit) }
    }

    /// Takes a permit for each query of a request, all or none, and puts them on a board. They come one by one; those that nobody takes out are
    /// let go of.
    pub fn admit<Q>(&self, queries: Q) -> Option<(Entering<'_, Q::IntoIter>, Pending)>
    where
        Q: IntoIterator<Item = Query, IntoIter: ExactSizeIterator>,
    {
        let queries = queries.into_iter();
        let count = queries.len();
        let fits = |now: usize| now.checked_add(count).filter(|&after| after <= self.limit);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        let board = self.boards.take(Board::default, |board| {
            board.answers.resize_with(count, OnceLock::new);
            *board.open.get_mut() = count;
            *board.gone.get_mut() = false;
        });
        let entering = Entering { requests: self, board: board.clone(), queries, index: 0 };
        Some((entering, Pending(board)))
    }

    /// Queries that hold a permit.
    pub fn admitted(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

/// The queries of a request on their way in.
#[derive(Debug)]
pub struct Entering<'r, Q: Iterator<Item = Query>> {
    requests: &'r Requests,
    board: Shared<Board>,
    queries: Q,
    index: usize,
}

impl<Q: Iterator<Item = Query>> Iterator for Entering<'_, Q> {
    type Item = Shared<Admitted>;

    fn next(&mut self) -> Option<Shared<Admitted>> {
        let query = self.queries.next()?;
        let new = || Admitted::vacant(Arc::clone(&self.requests.taken));
        let admitted =
            self.requests.queries.take(new, |admitted| admitted.occupy(query, self.board.clone(), self.index));
        self.index += 1;
        Some(admitted)
    }
}

impl<Q: Iterator<Item = Query>> Drop for Entering<'_, Q> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// A place in the bounded number of admitted queries.
#[derive(Debug)]
struct Permit {
    taken: Arc<AtomicUsize>,
    held: AtomicBool,
}

impl Permit {
    /// Frees the place, once.
    fn free(&self) {
        if self.held.swap(false, Ordering::AcqRel) {
            self.taken.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Answers for which a board that waits to be used again keeps room.
const ROWS_KEPT: usize = 64;

/// The answers of one request.
#[derive(Debug, Default)]
struct Board {
    answers: Vec<OnceLock<Answer>>,
    open: AtomicUsize,
    gone: AtomicBool,
    waker: AtomicWaker,
}

impl Reuse for Board {
    fn empty(&mut self) {
        self.answers.clear();
        // Large requests are rare, and each board would keep the room of the largest that it has had.
        self.answers.shrink_to(ROWS_KEPT);
        drop(self.waker.take());
    }
}

/// Someone else answered first. Not an error: it is how redundancy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

/// An admitted query: its terms, its permit and its place on the request's board.
#[derive(Debug)]
pub struct Admitted {
    /// The row and its terms.
    pub query: Query,
    /// `None` while it waits to be used again.
    board: Option<Shared<Board>>,
    index: usize,
    /// The first lane that lost it; [`NOBODY`] if none has.
    lost_by: AtomicU32,
    /// The hedge or rescue of it that waits or runs.
    second: SecondRun,
    /// [`ANSWERED`] and [`STARTED`]; with both, the permit is free, although a hung lane or a stripe may hold the query for long.
    passed: AtomicU8,
    permit: Permit,
}

const NOBODY: u32 = u32::MAX;
const ANSWERED: u8 = 1;
const STARTED: u8 = 2;

impl Admitted {
    /// One that is no query yet.
    fn vacant(taken: Arc<AtomicUsize>) -> Self {
        let query = Query {
            row: Row::default(),
            admitted: Time::ZERO,
            deadline: Time::ZERO,
            accepts: Accepts::Any,
            min_confidence: Confidence::NONE,
            in_range: true,
        };
        Admitted {
            query,
            board: None,
            index: 0,
            lost_by: AtomicU32::new(NOBODY),
            second: SecondRun::default(),
            passed: AtomicU8::new(0),
            permit: Permit { taken, held: AtomicBool::new(false) },
        }
    }

    /// Is `query` from now on, with a permit that was taken for it.
    fn occupy(&mut self, query: Query, board: Shared<Board>, index: usize) {
        (self.query, self.board, self.index) = (query, Some(board), index);
        *self.lost_by.get_mut() = NOBODY;
        self.second.reset();
        *self.passed.get_mut() = 0;
        *self.permit.held.get_mut() = true;
    }

    fn board(&self) -> &Board {
        self.board.as_ref().expect("whatever is held is in use")
    }

    /// Answers the query, unless it has been answered.
    pub fn answer(&self, answer: Answer) -> Result<(), Late> {
        let board = self.board();
        board.answers[self.index].set(answer).map_err(|_| Late)?;
        self.pass(ANSWERED);
        if board.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            board.waker.wake();
        }
        Ok(())
    }

    /// It has left the queue of admission for good: a lane starts it, or passes it over. `true` the first time.
    pub fn start(&self) -> bool {
        self.pass(STARTED)
    }

    /// It was found to be open no more, and nobody will work on it: its permit is free, although its timer holds it.
    pub fn pass_over(&self) {
        self.permit.free();
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
        self.board().answers[self.index].get()
    }

    /// Whether work on it can still matter: unanswered, and its client is still there.
    pub fn is_open(&self) -> bool {
        self.answered().is_none() && !self.board().gone.load(Ordering::Acquire)
    }

    /// A lane lost it; returns the lane that had lost it before, if this is not the first time.
    pub fn lose(&self, lane: LaneId) -> Option<LaneId> {
        let lost = self.lost_by.compare_exchange(NOBODY, u32::from(lane.0), Ordering::AcqRel, Ordering::Acquire);
        lost.err().and_then(|first| u16::try_from(first).ok()).map(LaneId)
    }

    /// Claims its rescue; `None` if one waits or runs already, or a hedge runs, which does as well. A hedge that only waits gives way.
    pub fn begin_rescue(&self) -> Option<Claim> {
        self.second.begin_rescue()
    }

    /// Claims its hedge; `None` if a hedge or a rescue waits or runs already.
    pub fn begin_hedge(&self) -> Option<Claim> {
        self.second.begin_hedge()
    }

    /// A lane takes its hedge; `false` if a rescue has taken its place.
    pub fn start_hedge(&self, hedge: Claim) -> bool {
        self.second.start_hedge(hedge)
    }

    /// Its hedge or rescue was lost, is late or hangs, or was dropped before it started; of no effect if another has taken its place.
    pub fn end_second_run(&self, run: Claim) {
        self.second.end(run);
    }
}

/// A query that everybody has let go of can get no other answer any more: the daemon stops.
impl Reuse for Admitted {
    fn empty(&mut self) {
        if self.board.is_none() {
            return;
        }
        self.answer(Err(Failure::Stopped)).unwrap_or(());
        self.permit.free();
        self.board = None;
        self.query.row = Row::default();
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.empty();
    }
}

/// Resolves to a request's answers once the last row has its answer. Dropping it tells the lanes that nobody waits.
#[derive(Debug)]
pub struct Pending(Shared<Board>);

impl Pending {
    /// Blocks the calling thread until the last row has its answer, which is by the deadline as long as the engine runs. For programs without an executor.
    pub fn wait(mut self) -> Answers {
        UNPARK.with(|waker| {
            let mut context = Context::from_waker(waker);
            loop {
                // A wake-up between the look and the park is not lost: the next park returns at once.
                match Pin::new(&mut self).poll(&mut context) {
                    Poll::Ready(answers) => return answers,
                    Poll::Pending => thread::park(),
                }
            }
        })
    }
}

thread_local! {
    /// Wakes this thread.
    static UNPARK: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

impl Future for Pending {
    type Output = Answers;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answers> {
        // Register before looking: an answer that comes between the two would otherwise wake nobody.
        self.0.waker.register(context.waker());
        if self.0.open.load(Ordering::Acquire) > 0 {
            return Poll::Pending;
        }
        Poll::Ready(Answers(self.0.clone()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
    }
}

/// The answers of a request, in row order.
#[derive(Debug)]
pub struct Answers(Shared<Board>);

impl Answers {
    /// Each row's answer.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Answer> {
        (0..self.0.answers.len()).map(|row| &self[row])
    }
}

impl Index<usize> for Answers {
    type Output = Answer;

    fn index(&self, row: usize) -> &Answer {
        self.0.answers[row].get().expect("no place is open")
    }
}

#[cfg(test)]
mod tests;
