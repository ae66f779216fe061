//! The engine under real threads: what the simulator cannot show, because it runs one event after the other.
//!
//! Lanes are threads that compute a linear model, so that every reconstruction can be compared with the output it stands for; faults are
//! drawn. Nothing is measured. The interleavings are the machine's, so a failure here may not come back: run it in a loop.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "lanes of this test take real time")]

use std::{
    pin::pin,
    sync::{Arc, Condvar, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use parityd::{
    admission::{Admission, Refusal, Terms},
    clock::Clock,
    code::{Calibration, Code, Sum, Temperature},
    config::{Grace, Placement, Policy, PolicyKind},
    dispatch::{LaneSettings, Settings},
    engine::{AdmissionLimits, Engine},
    health::Rules,
    job::{Batch, Completion, Feed, Loss, ParityInput, Role, Work},
    metrics::Metrics,
    query::{Accepts, Confidence, Failure, LaneId, Provenance, Row, Rows},
    reply::{Answers, Pending},
};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

const WIDTH: usize = 4;
const ROLES: [Role; 6] = [Role::Base, Role::Base, Role::Base, Role::Base, Role::Parity, Role::Parity];
const CLIENTS: u64 = 4;
const REQUESTS: usize = 1_500;

fn linear(row: &[f32]) -> Vec<f32> {
    vec![row.iter().sum(), row[0] - row[1] + 0.5 * row[2]]
}

fn encoded(code: &dyn Code, parity: usize, stripe: &[Row]) -> Vec<f32> {
    let rows: Vec<&[f32]> = stripe.iter().map(|row| &**row).collect();
    let mut query = vec![0.0; WIDTH];
    code.encode(parity, &rows, &mut query);
    linear(&query)
}

/// A lane's thread: now and then a batch is lost, blocks, or takes its time.
fn run_lane(engine: &Engine, code: &dyn Code, lane: LaneId) {
    let (mut random, mut completions) = (ChaCha8Rng::seed_from_u64(u64::from(lane.0)), Vec::new());
    engine.ready(lane, Duration::from_micros(50));
    loop {
        match engine.pull(lane) {
            None if !engine.park(lane) => return,
            None => {}
            Some(Work::Canary) => engine.canary(lane, Ok(())),
            Some(Work::Batch(batch)) => {
                let fate = random.random_range(0..1_000);
                thread::sleep(match fate {
                    0..2 => Duration::from_millis(80),
                    2..60 => Duration::from_millis(2),
                    _ => Duration::ZERO,
                });
                match &batch {
                    _ if fate >= 995 => completions.resize(batch.jobs(), Completion::Lost(Loss::Device)),
                    Batch::Base(inputs) => {
                        completions.extend(inputs.iter().map(|input| Completion::Output(linear(&input.row).into())));
                    }
                    Batch::Parity(inputs) => {
                        let output = |input: &ParityInput| encoded(code, input.row, &input.rows);
                        completions.extend(inputs.iter().map(|input| Completion::Output(output(input).into())));
                    }
                }
                engine.complete(lane, batch, &mut completions, Duration::from_micros(50));
            }
        }
    }
}

fn settings(code: Arc<dyn Code>) -> Settings {
    Settings {
        lanes: ROLES.iter().zip(0..).map(|(&role, domain)| LaneSettings::alone(role, domain)).collect(),
        batch_max: 3,
        queue_max: 64,
        code: Some(code),
        calibration: Some(Calibration { temperature: Temperature::UNIT, agreement: 1.0, rows: 1_000 }),
        stripe_fill: Duration::from_millis(5),
        policy: Policy {
            grace: Grace::Fixed(Duration::from_millis(1)),
            ..Policy::usual(PolicyKind::Coded, Placement::Dedicated)
        },
        health: Rules {
            hang: Some(Duration::from_millis(20)),
            canary_first: Duration::from_millis(1),
            canary_max: Duration::from_millis(10),
            ..Rules::default()
        },
    }
}

/// Stops the engine when dropped.
struct Stop<'a>(&'a Engine);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A waker for a thread that waits.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

/// Waits for a request's answers; panics if none come for far longer than any deadline.
fn wait(pending: Pending) -> Answers {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut pending = pin!(pending);
    loop {
        if let Poll::Ready(answers) = pending.as_mut().poll(&mut Context::from_waker(&waker)) {
            return answers;
        }
        let (mut rung, waited) =
            bell.1.wait_timeout_while(bell.0.lock().unwrap(), Duration::from_secs(20), |rung| !*rung).unwrap();
        assert!(!waited.timed_out(), "an admitted query was never answered");
        *rung = false;
    }
}

/// Sends requests of one to five rows one after the other; some leave before their answers come. Counts reconstructed rows.
fn run_client(engine: &Engine, seed: u64) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut reconstructed = 0;
    for _ in 0..REQUESTS {
        let count = random.random_range(1..=5);
        let values: Vec<f32> = (0..count * WIDTH).map(|_| random.random_range(0.0..1.0)).collect();
        let rows = Rows::new(values, WIDTH).unwrap();
        let accepts = if random.random_bool(0.1) { Accepts::DirectOnly } else { Accepts::Any };
        let min_confidence = random.random_bool(0.3).then(|| Confidence::new(0.8).unwrap());
        let pending = match engine.admit(&rows, Terms { accepts, min_confidence, timeout: None }) {
            Ok(pending) => pending,
            Err(Refusal::Full) => {
                thread::yield_now();
                continue;
            }
            Err(refusal) => unreachable!("{refusal}"),
        };
        if random.random_bool(0.02) {
            continue;
        }
        for (row, answer) in rows.iter().zip(wait(pending).iter()) {
            match answer {
                Ok(prediction) => {
                    let truth = linear(&row);
                    let far = truth.iter().zip(&*prediction.values).any(|(truth, value)| (truth - value).abs() > 1e-3);
                    assert!(!far, "{prediction:?} is not {truth:?}");
                    assert!(accepts == Accepts::Any || prediction.provenance == Provenance::Direct);
                    assert!(prediction.confidence >= min_confidence || prediction.provenance == Provenance::Direct);
                    reconstructed += usize::from(prediction.provenance == Provenance::Reconstructed);
                }
                // Two lanes may happen to lose one and the same row.
                Err(failure) => assert_eq!(*failure, Failure::QueryFault),
            }
        }
    }
    reconstructed
}

#[test]
fn every_query_is_answered_once_whatever_the_threads_do() {
    let code: Arc<dyn Code> = Arc::new(Sum::with_defaults(2, 1).unwrap());
    let metrics = Arc::new(Metrics::new("threads", ROLES.len()));
    let limits = AdmissionLimits {
        queue_max: 64,
        deadline: Duration::from_secs(5),
        input_range: (0.0, 1.0),
        ready_lanes_min: 1,
    };
    let engine = Engine::new(settings(Arc::clone(&code)), limits, Clock::start(), Arc::clone(&metrics));
    let reconstructed: usize = thread::scope(|scope| {
        let engine = &engine;
        scope.spawn(|| engine.run_timer());
        for lane in 0..ROLES.len() {
            let code = Arc::clone(&code);
            scope.spawn(move || run_lane(engine, &*code, LaneId(u16::try_from(lane).unwrap())));
        }
        // Without this, a client that fails would leave the scope waiting for lanes that nobody stops.
        let _stop = Stop(engine);
        while engine.readiness().is_err() {
            thread::yield_now();
        }
        let clients: Vec<_> = (0..CLIENTS).map(|seed| scope.spawn(move || run_client(engine, seed))).collect();
        let reconstructed = clients.into_iter().map(|client| client.join().unwrap()).sum();
        // What clients left behind is passed over by the lanes, and stripes that stay short are given up by the timer.
        while engine.admitted() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        reconstructed
    });
    assert!(reconstructed > 0, "some jobs were late enough to be decoded");
    assert!(metrics.gated.get() > 0, "some of them were not sure enough");
    drop(engine);
    assert_eq!(metrics.stripes_open.get(), 0, "every stripe is over");
}

/// A client may wait for less than the deployment's deadline, and never for more.
#[test]
fn a_timeout_shortens_the_deadline_and_never_lengthens_it() {
    let code: Arc<dyn Code> = Arc::new(Sum::with_defaults(2, 1).unwrap());
    let metrics = Arc::new(Metrics::new("threads", ROLES.len()));
    let deadline = Duration::from_secs(1);
    let limits = AdmissionLimits { queue_max: 64, deadline, input_range: (0.0, 1.0), ready_lanes_min: 1 };
    let clock = Clock::start();
    let engine = Engine::new(settings(code), limits, clock, metrics);
    thread::scope(|scope| {
        scope.spawn(|| engine.run_timer());
        let _stop = Stop(&engine);
        // Loaded, and then nobody pulls.
        for lane in 0..ROLES.len() {
            engine.ready(LaneId(u16::try_from(lane).unwrap()), Duration::from_micros(50));
        }
        for (timeout, least, most) in [(50, 50, 900), (60_000, 1_000, 15_000)] {
            let rows = Rows::new(vec![0.5; WIDTH], WIDTH).unwrap();
            let timeout = Some(Duration::from_millis(timeout));
            let before = clock.now();
            let pending = engine.admit(&rows, Terms { accepts: Accepts::Any, min_confidence: None, timeout }).unwrap();
            assert_eq!(wait(pending)[0].as_ref().unwrap_err(), &Failure::Deadline);
            let took = clock.now().since(before);
            assert!((Duration::from_millis(least)..Duration::from_millis(most)).contains(&took), "{took:?}");
        }
    });
}

/// What `has_room` says is what `admit` would say of any rows.
#[test]
fn there_is_room_while_lanes_are_loaded_and_permits_are_left() {
    let code: Arc<dyn Code> = Arc::new(Sum::with_defaults(2, 1).unwrap());
    let metrics = Arc::new(Metrics::new("threads", ROLES.len()));
    let deadline = Duration::from_secs(1);
    let limits = AdmissionLimits { queue_max: 64, deadline, input_range: (0.0, 1.0), ready_lanes_min: 1 };
    let engine = Engine::new(settings(code), limits, Clock::start(), metrics);
    assert_eq!(engine.has_room(), Err(Refusal::NotReady));
    for lane in 0..ROLES.len() {
        engine.ready(LaneId(u16::try_from(lane).unwrap()), Duration::from_micros(50));
    }
    let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
    let admit = |rows: usize| engine.admit(&Rows::new(vec![0.5; rows * WIDTH], WIDTH).unwrap(), terms);
    let _most = admit(63).unwrap();
    assert_eq!(engine.has_room(), Ok(()));
    let _last = admit(1).unwrap();
    assert_eq!((engine.has_room(), admit(1).err()), (Err(Refusal::Full), Some(Refusal::Full)));
    engine.drain();
    assert_eq!(engine.has_room(), Err(Refusal::Draining));
}

#[cfg(target_os = "linux")]
mod ending {
    use std::{fs, path::Path};

    use parityd::serve::{Plan, Running};

    use super::*;

    /// Threads of this process that run a lane.
    fn lanes() -> usize {
        let names = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path().join("comm"));
        names.filter_map(|name| fs::read_to_string(name).ok()).filter(|name| name.starts_with("lane-")).count()
    }

    /// Whoever drops a daemon, and then perhaps the libraries of its devices, has its lanes' threads no more: the end waits for what they run.
    #[test]
    fn no_lane_outlives_its_daemon() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let shipped = fs::read_to_string(root.join("config.toml")).unwrap();
        let text = shipped
            .replace("threads = 1", "threads = 1\nservice_ms = 400")
            .replace("weights = \"", &format!("weights = \"{}/", root.display()));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        let running = Running::start(&Plan::load(Some(&file)).unwrap()).unwrap();
        assert_eq!(lanes(), 3);
        let rows = Rows::new(vec![0.5; 28 * 28], 28 * 28).unwrap();
        let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
        let pending = running.engine.admit(&rows, terms).unwrap();
        thread::sleep(Duration::from_millis(50));
        drop(running);
        // What is left of a thread that has let go of everything.
        thread::sleep(Duration::from_millis(50));
        assert_eq!(lanes(), 0);
        drop(pending);
    }
}
