//! The daemon's clock: monotonic nanoseconds since the process began.
//!
//! Owns the only call to `Instant::now` in the crate. Everything below the rim (dispatch, stripes, health) is told the time as an
//! argument, so that a simulator can run the same code under a virtual clock. Wall-clock time can jump: it is told to clients that ask when
//! something was, and nothing is decided by it.

use std::{
    fmt,
    ops::Add,
    time::{Duration, Instant, SystemTime},
};

/// A point on the monotonic clock, in nanoseconds since the clock was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The clock's origin.
    pub const ZERO: Time = Time(0);

    /// The point `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Time(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(nanos(duration)))
    }
}

/// A duration in nanoseconds, for an atomic; 584 years are the longest.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// Milliseconds since 1970, as the system's clock has it; 0 if that stands before.
#[expect(clippy::disallowed_methods, reason = "told, never reckoned with")]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads the monotonic clock. Copies share one origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose origin is this moment.
    #[expect(clippy::disallowed_methods, reason = "the one place where time enters the crate")]
    pub fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    /// Blocks the calling thread for about `duration`.
    #[expect(clippy::disallowed_methods, reason = "the one place where a thread waits for time to pass")]
    pub fn pause(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}
