//! From submission to reply: the whole engine, with a lane whose model takes no time.

use std::{
    future::Future,
    hint,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use super::{Figure, Target, quantile};
use crate::{
    admission::{Admission, Terms},
    bench::BenchError,
    clock::Clock,
    config::{Placement, Policy, PolicyKind},
    dispatch::{LaneSettings, Settings},
    engine::{AdmissionLimits, Engine},
    health::Rules,
    job::{Completion, Feed, Role, Work},
    metrics::Metrics,
    query::{Accepts, LaneId, Rows, Values},
};

/// Queries that are timed.
const QUERIES: usize = 5_000;

/// Between two of them where threads park: long enough for the lane to sleep.
const PAUSE: Duration = Duration::from_micros(200);

const LANE: LaneId = LaneId(0);

pub(super) fn figures(clock: Clock) -> Result<Vec<Figure>, BenchError> {
    let figure = |parks, what: &str, most| {
        let mut times = queries(clock, parks)?;
        let (p50_ns, p99_ns) = (quantile(&mut times, 0.5), Some(quantile(&mut times, 0.99)));
        let target = Some(Target::Nanos(most));
        Ok::<_, BenchError>(Figure { what: what.to_owned(), p50_ns, p99_ns, beside: None, target })
    };
    Ok(vec![
        figure(true, "submit to reply, model that takes no time, client and lane parked", 15_000.0)?,
        figure(false, "the same, client and lane spinning", 2_000.0)?,
    ])
}

/// Nanoseconds of each query.
fn queries(clock: Clock, parks: bool) -> Result<Vec<f64>, BenchError> {
    let settings = Settings {
        lanes: vec![LaneSettings::alone(Role::Base, 0)],
        batch_max: 1,
        queue_max: 16,
        code: None,
        calibration: None,
        stripe_fill: Duration::from_millis(20),
        policy: Policy::usual(PolicyKind::Hedged, Placement::Dedicated),
        health: Rules { canary_every: None, ..Rules::default() },
    };
    let limits = AdmissionLimits {
        queue_max: 16,
        deadline: Duration::from_secs(2),
        input_range: (0.0, 1.0),
        ready_lanes_min: 1,
    };
    let engine = Arc::new(Engine::new(settings, limits, clock, Arc::new(Metrics::new("bench", 1))));
    engine.ready(LANE, Duration::from_millis(1));
    let ticking = Arc::clone(&engine);
    let timer = thread::Builder::new().name("timer".to_owned()).spawn(move || ticking.run_timer());
    let timer = timer.map_err(BenchError::Start)?;
    let over = AtomicBool::new(false);
    let nanos = thread::scope(|scope| {
        scope.spawn(|| lane(&engine, parks, &over));
        let row = Rows::new(vec![0.5; 784], 784).expect("one row");
        let ask_one = |_| {
            if parks {
                clock.pause(PAUSE);
            }
            let from = clock.now();
            ask(&engine, &row, parks);
            clock.now().since(from).as_secs_f64() * 1e9
        };
        let nanos = (0..QUERIES).map(ask_one).collect();
        over.store(true, Ordering::Release);
        engine.stop();
        nanos
    });
    drop(timer.join());
    Ok(nanos)
}

fn ask(engine: &Engine, row: &Rows, parks: bool) {
    let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
    let mut pending = engine.admit(row, terms).expect("there is room for the one query");
    let answers = if parks {
        pending.wait()
    } else {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            match Pin::new(&mut pending).poll(&mut context) {
                Poll::Ready(answers) => break answers,
                Poll::Pending => hint::spin_loop(),
            }
        }
    };
    assert!(answers[0].is_ok(), "a lane that takes no time answers");
}

/// What a lane's thread does, without a device.
fn lane(engine: &Engine, parks: bool, over: &AtomicBool) {
    let (output, mut completions) = (Values::from(vec![0.5; 10]), Vec::new());
    while !over.load(Ordering::Acquire) {
        match engine.pull(LANE) {
            Some(Work::Batch(batch)) => {
                completions.resize(batch.jobs(), Completion::Output(Arc::clone(&output)));
                engine.complete(LANE, batch, &mut completions, Duration::from_micros(1));
            }
            Some(Work::Canary) => engine.canary(LANE, Ok(())),
            None if parks => drop(engine.park(LANE)),
            None => hint::spin_loop(),
        }
    }
}
