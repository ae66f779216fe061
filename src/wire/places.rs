//! The places of a port's connections: how many there are, who has one, and who gives it up when all are taken.
//!
//! What always holds: a connection that has something to answer keeps its place until it has answered. For each client that waits, one of the
//! others is told to leave: whoever has had nothing to answer for `kept`, the longest resting first; and if there is none, the next that is answered and has
//! had its place for `kept` closes with that. So no client waits for longer than those ahead of it keep their places, however many there are. Otherwise
//! a thousand connections that are kept alive lock everybody out for as long as they please, the probe that asks whether the daemon lives
//! included. With `kept` at zero nobody would wait at all, and most of the machine would open and close connections. A stream of gRPC
//! has something to answer for as long as it is open, unless it watches the health.
//!
//! A request that has arrived in part does not protect its place, or one byte a connection would hold the whole port. It is [`Arriving`]: its first bytes begin the
//! connection's rest anew, and once the place is needed, what is missing has [`LAST_BYTES`] to come, or the request is refused.
//!
//! A connection counts who is [`Busy`] with it, and notes when the last one was done. So a request costs two counts and a look at the clock, and
//! only a full port looks through its connections.

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    clock::{Clock, Time},
    metrics::{Connected, Connections},
};

/// What a request has for the rest of it that has come in part when its connection's place is needed.
pub(crate) const LAST_BYTES: Duration = Duration::from_millis(100);

/// The places of a port's connections.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    taken: Arc<Taken>,
    connections: Connections,
}

/// Who has a place.
#[derive(Debug)]
struct Taken {
    clock: Clock,
    /// For how long, whoever waits.
    kept: Duration,
    /// Each with what tells it to leave.
    guests: Mutex<HashMap<u64, (Arc<Guest>, Leave)>>,
    /// The number of the next one.
    next: AtomicU64,
    /// Somebody waits for one, nobody was told to leave for him, and nobody has said yet that it closes.
    is_one_wanted: AtomicBool,
}

/// Gone once it has been told.
type Leave = Option<oneshot::Sender<()>>;

/// Who has one of the places.
#[derive(Debug)]
struct Guest {
    came: Time,
    busy: AtomicUsize,
    arriving: AtomicUsize,
    /// When it came, or when the last that was busy was done, or when the last that arrives began to; see [`Time`].
    idle_since: AtomicU64,
    /// It was told to leave.
    is_needed: AtomicBool,
    needed: Notify,
}

/// A connection's place. Once it is dropped the place is free, and the connection counted no more.
#[derive(Debug)]
pub(crate) struct Place {
    _room: Option<OwnedSemaphorePermit>,
    _connected: Connected,
    number: u64,
    guest: Arc<Guest>,
    told: oneshot::Receiver<()>,
    taken: Arc<Taken>,
}

/// Makes a connection's [`Busy`], wherever its requests are answered.
#[derive(Clone, Debug)]
pub(crate) struct Activity {
    guest: Arc<Guest>,
    taken: Arc<Taken>,
}

/// Something that a connection has to answer, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Busy(Activity);

/// A request that has come in part, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Arriving(Activity);

impl Places {
    /// As many as `connections_max`, all of them free, and each kept for `kept`, whoever else waits.
    pub(crate) fn new(connections_max: usize, kept: Duration, connections: Connections) -> Self {
        let free = Arc::new(Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS)));
        let taken = Taken {
            clock: Clock::start(),
            kept,
            guests: Mutex::default(),
            next: AtomicU64::new(0),
            is_one_wanted: AtomicBool::new(false),
        };
        Places { free, taken: Arc::new(taken), connections }
    }

    /// Room for one, if there is any.
    pub(crate) fn try_room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Room for one, as soon as there is any.
    pub(crate) async fn room(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// The place of a connection that has come; without `room` it is one too many.
    pub(crate) fn place(&self, room: Option<OwnedSemaphorePermit>) -> Place {
        let (leave, told) = oneshot::channel();
        let guest = Arc::new(Guest::new(self.taken.clock.now()));
        let number = self.taken.next.fetch_add(1, Ordering::Relaxed);
        self.taken.guests.lock().insert(number, (Arc::clone(&guest), Some(leave)));
        let (connected, taken) = (self.connections.opened(), Arc::clone(&self.taken));
        Place { _room: room, _connected: connected, number, guest, told, taken }
    }

    /// Somebody waits for one.
    pub(crate) fn want_one(&self) {
        let is_one_wanted = !self.send_one_away();
        self.taken.is_one_wanted.store(is_one_wanted, Ordering::Relaxed);
    }

    /// Tells whoever has rested the longest to leave; false if nobody has rested for long enough.
    fn send_one_away(&self) -> bool {
        let now = self.taken.clock.now();
        let mut guests = self.taken.guests.lock();
        let untold = guests.values_mut().filter(|(_, leave)| leave.is_some());
        let resting = untold.filter_map(|(guest, leave)| Some((guest.rested(now)?, leave)));
        let longest = resting.filter(|(rested, _)| *rested >= self.taken.kept).max_by_key(|(rested, _)| *rested);
        // It may be busy by now: then it answers that, and leaves.
        longest.and_then(|(_, leave)| leave.take()?.send(()).ok()).is_some()
    }

    /// Nobody waits any more.
    pub(crate) fn want_none(&self) {
        self.taken.is_one_wanted.store(false, Ordering::Relaxed);
    }
}

impl Guest {
    fn new(came: Time) -> Self {
        let [busy, arriving] = [0; 2].map(AtomicUsize::new);
        let (idle_since, is_needed) = (AtomicU64::new(came.nanos()), AtomicBool::new(false));
        Guest { came, busy, arriving, idle_since, is_needed, needed: Notify::new() }
    }

    /// For how long it has had nothing to answer; `None` if it has.
    fn rested(&self, now: Time) -> Option<Duration> {
        // Whoever sees that the last one is done sees when.
        let is_idle = self.busy.load(Ordering::Acquire) == 0;
        is_idle.then(|| now.since(Time::from_nanos(self.idle_since.load(Ordering::Relaxed))))
    }
}

impl Place {
    /// For where its requests are answered.
    pub(crate) fn activity(&self) -> Activity {
        Activity { guest: Arc::clone(&self.guest), taken: Arc::clone(&self.taken) }
    }

    /// Whether there is nothing to answer, and nothing that arrives.
    pub(crate) fn rests(&self) -> bool {
        // In this order: who has arrived is busy before he arrives no more.
        self.guest.arriving.load(Ordering::Acquire) == 0 && self.guest.busy.load(Ordering::Acquire) == 0
    }

    /// Resolves, once, when it should leave because somebody else needs the place.
    pub(crate) async fn needed(&mut self) {
        // Whoever tells it has the other end for as long as this lives.
        drop(Pin::new(&mut self.told).await);
    }

    /// From now on it leaves as soon as it may: what arrives is to be whole soon.
    pub(crate) fn hurry(&self) {
        self.guest.is_needed.store(true, Ordering::Release);
        self.guest.needed.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.guests.lock().remove(&self.number);
    }
}

impl Activity {
    /// One more that is to be answered.
    pub(crate) fn busy(&self) -> Busy {
        self.guest.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// The head of one more has come.
    pub(crate) fn arriving(&self) -> Arriving {
        self.guest.idle_since.store(self.taken.clock.now().nanos(), Ordering::Relaxed);
        self.guest.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving(self.clone())
    }

    /// Whether to close with an answer, because somebody waits for a place; whoever has asked must then do so.
    pub(crate) fn should_close(&self) -> bool {
        self.taken.is_one_wanted.load(Ordering::Relaxed)
            && self.taken.clock.now().since(self.guest.came) >= self.taken.kept
            && self.taken.is_one_wanted.swap(false, Ordering::Relaxed)
    }
}

impl Arriving {
    /// Resolves once the rest of it has taken too long, for somebody else needs the place.
    pub(crate) async fn is_too_late(&self) {
        let guest = &self.0.guest;
        let mut needed = pin!(guest.needed.notified());
        // From here on no word is missed, and one that came before is seen.
        needed.as_mut().enable();
        if !guest.is_needed.load(Ordering::Acquire) {
            needed.await;
        }
        tokio::time::sleep(LAST_BYTES).await;
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.guest.arriving.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Activity { guest, taken } = &self.0;
        guest.idle_since.store(taken.clock.now().nanos(), Ordering::Relaxed);
        guest.busy.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, Protocol};

    fn places(connections_max: usize, rest: Duration) -> Places {
        Places::new(connections_max, rest, Metrics::new("any", 0).connections(Protocol::Http))
    }

    /// Some that came one after the other.
    fn come<const N: usize>(places: &Places) -> [Place; N] {
        std::array::from_fn(|_| {
            Clock::start().pause(Duration::from_millis(1));
            places.place(places.try_room())
        })
    }

    fn is_needed(place: &mut Place) -> bool {
        place.told.try_recv().is_ok()
    }

    #[test]
    fn who_has_rested_the_longest_goes_first_and_is_told_once() {
        let places = places(3, Duration::ZERO);
        let [mut first, mut second, mut third] = come(&places);
        assert!(places.try_room().is_none());
        let busy = first.activity().busy();
        drop(second.activity().busy());
        assert!(places.send_one_away());
        assert!(is_needed(&mut third), "the second was busy after the third came");
        assert!(places.send_one_away());
        assert!(is_needed(&mut second));
        assert!(!places.send_one_away(), "the first is busy");
        drop(busy);
        assert!(places.send_one_away());
        assert!(is_needed(&mut first));
        assert!(!places.send_one_away(), "all have been told");
        drop(second);
        assert!(places.try_room().is_some());
    }

    /// What has begun to come is the work of somebody who is there; what rests can come again.
    #[test]
    fn who_sends_a_request_has_not_rested_since_it_came() {
        let places = places(2, Duration::ZERO);
        let [mut first, mut second] = come(&places);
        let arriving = first.activity().arriving();
        assert!(!first.rests() && second.rests());
        assert!(places.send_one_away());
        assert!(is_needed(&mut second), "though it came later");
        assert!(places.send_one_away(), "half a request keeps no place");
        assert!(is_needed(&mut first));
        drop(arriving);
        assert!(first.rests());
    }

    #[tokio::test]
    async fn what_arrives_is_too_late_a_moment_after_its_place_is_needed() {
        let places = places(1, Duration::ZERO);
        let [place] = come(&places);
        let arriving = place.activity().arriving();
        assert!(tokio::time::timeout(2 * LAST_BYTES, arriving.is_too_late()).await.is_err(), "nobody needs it");
        let hurried = async {
            tokio::task::yield_now().await;
            place.hurry();
            Clock::start()
        };
        let ((), clock) = tokio::join!(arriving.is_too_late(), hurried);
        assert!(clock.now().since(Time::ZERO) >= LAST_BYTES, "the rest may come until then");
        // One whose head comes after the word.
        place.activity().arriving().is_too_late().await;
    }

    #[test]
    fn one_closes_with_its_answer_for_each_that_waits() {
        let places = places(2, Duration::ZERO);
        let [first, second] = come(&places);
        let busy = [first.activity().busy(), second.activity().busy()];
        assert!(!first.activity().should_close());
        places.want_one();
        assert!(first.activity().should_close());
        assert!(!second.activity().should_close(), "one is enough");
        places.want_one();
        places.want_none();
        assert!(!second.activity().should_close());
        drop(busy);
    }

    #[test]
    fn whoever_has_just_come_or_was_just_answered_stays() {
        let places = places(2, Duration::from_hours(1));
        let [first, _second] = come(&places);
        drop(first.activity().busy());
        assert!(!places.send_one_away());
        places.want_one();
        assert!(!first.activity().should_close());
    }

    #[test]
    fn a_connection_rests_when_the_last_of_its_calls_is_done() {
        let places = places(1, Duration::ZERO);
        let [place] = come(&places);
        assert!(place.rests());
        let activity = place.activity();
        let both = [activity.busy(), activity.busy()];
        for call in both {
            assert!(!place.rests());
            drop(call);
        }
        assert!(place.rests());
    }
}
