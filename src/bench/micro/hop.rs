//! A hop from one thread to another through a queue, and back: parked as lanes are, and spinning.

use std::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{Beside, Figure, quantile};
use crate::{
    clock::Clock,
    query::LaneId,
    queue::{Bells, Bounded},
};

/// Round trips that are timed.
const TRIPS: usize = 5_000;

/// Between two of them: long enough for the other thread to sleep.
const PAUSE: Duration = Duration::from_micros(200);

pub(super) fn figures(clock: Clock) -> Vec<Figure> {
    let bare = Beside { what: "a bare park and unpark".to_owned(), p50_ns: bare(clock) };
    vec![
        Figure { beside: Some(bare), ..trips(clock, true, "a job to a parked thread and back (queue and bell)") },
        trips(clock, false, "a job to a spinning thread and back (queue)"),
    ]
}

fn trips(clock: Clock, parks: bool, what: &str) -> Figure {
    let (there, back, bells, over) =
        (Bounded::<usize>::new(8), Bounded::<usize>::new(8), Bells::new(2), AtomicBool::new(false));
    let (client, lane) = (LaneId(0), LaneId(1));
    let mut times = Vec::with_capacity(TRIPS);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                match there.pop() {
                    Some(job) => {
                        back.push(job).expect("one job is on its way");
                        bells.ring(client);
                    }
                    None if parks => bells.wait(lane),
                    None => hint::spin_loop(),
                }
            }
        });
        for job in 0..TRIPS {
            if parks {
                clock.pause(PAUSE);
            }
            let from = clock.now();
            there.push(job).expect("one job is on its way");
            bells.ring(lane);
            while back.pop().is_none() {
                if parks { bells.wait(client) } else { hint::spin_loop() }
            }
            times.push(clock.now().since(from).as_secs_f64() * 1e9);
        }
        over.store(true, Ordering::Release);
        bells.ring(lane);
    });
    let (p50_ns, p99_ns) = (quantile(&mut times, 0.5), Some(quantile(&mut times, 0.99)));
    Figure { what: what.to_owned(), p50_ns, p99_ns, beside: None, target: None }
}

/// Round trip of the standard library's park and unpark, with a flag and no queue.
fn bare(clock: Clock) -> f64 {
    let (asked, answered, over) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    let client = thread::current();
    let mut times = Vec::with_capacity(TRIPS);
    thread::scope(|scope| {
        let lane = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                if asked.swap(false, Ordering::AcqRel) {
                    answered.store(true, Ordering::Release);
                    client.unpark();
                } else {
                    thread::park();
                }
            }
        });
        for _ in 0..TRIPS {
            clock.pause(PAUSE);
            let from = clock.now();
            asked.store(true, Ordering::Release);
            lane.thread().unpark();
            while !answered.swap(false, Ordering::AcqRel) {
                thread::park();
            }
            times.push(clock.now().since(from).as_secs_f64() * 1e9);
        }
        over.store(true, Ordering::Release);
        lane.thread().unpark();
    });
    quantile(&mut times, 0.5)
}
