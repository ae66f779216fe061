//! What a query allocates from admission to its answers: nothing, once pools are warm.
//!
//! The first part drives the core by hand, event by event, so that its count is exact. The second runs the daemon's engine and lanes without a
//! port, on real weights. There a busy machine may keep the timer waiting, so that pools grow, and make jobs late, which calls for second runs and
//! decodes; so it allows one allocation in four queries. One a query, or one a request, would be more.
//!
//! A program of its own and no test of a harness, because the allocator counts for the whole process: on a busy machine the harness's thread allocated while this
//! one counted. To see where an allocation comes from: without `testing()`, dhat writes
//! `dhat-heap.json` at the end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "what was counted is the test's report")]

use std::{path::Path, sync::Arc, time::Duration};

use parityd::{
    admission::{Admission, Terms},
    clock::Time,
    code::{Code, Kind, Reading, Spec},
    config::{Config, Grace, Placement, Policy, PolicyKind},
    dispatch::{Completed, Dispatch, Effect, LaneSettings, Settings},
    health::Rules,
    job::{Batch, Completion, Role, Work},
    metrics::Metrics,
    query::{Accepts, Confidence, LaneId, Query, Row, Rows, Values},
    reply::{Pending, Requests},
    serve::{Plan, Running},
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The last alone where a stripe has two parity rows.
const LANES: [LaneId; 4] = [LaneId(0), LaneId(1), LaneId(2), LaneId(3)];
const WARM_UP: usize = 2_000;
const COUNTED: usize = 5_000;

fn allocations(during: impl FnOnce()) -> u64 {
    let before = dhat::HeapStats::get().total_blocks;
    during();
    dhat::HeapStats::get().total_blocks - before
}

/// Fails unless a query allocates nothing once pools are warm.
fn main() {
    let _profiler = dhat::Profiler::builder().testing().build();
    for (name, rows, code) in [
        ("hedged", 1, None),
        ("hedged, three rows", 3, None),
        ("coded", 2, Some((Kind::Sum, 1))),
        ("coded, two parity rows", 2, Some((Kind::Sum, 2))),
        ("coded, compact", 2, Some((Kind::Compact, 1))),
        ("coded, replica", 2, Some((Kind::Replica, 2))),
    ] {
        let mut core = Core::new(code.map(|(kind, r)| Spec::of(kind, 2, r).build(&[784], None).unwrap()));
        (0..WARM_UP).for_each(|_| core.request(rows));
        assert_eq!(allocations(|| (0..COUNTED).for_each(|_| core.request(rows))), 0, "the core, {name}");
    }
    for (name, config) in [("none", PLAIN.to_owned()), ("hedged", PLAIN.replace("none", "hedged")), ("coded", coded())]
    {
        let config = Config::parse(&config, Path::new(env!("CARGO_MANIFEST_DIR")), name).unwrap();
        let running = Running::start(&Plan::check(config).unwrap()).unwrap();
        let rows = Rows::new(vec![0.5; 2 * 784], 784).unwrap();
        let ask = || {
            let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
            let answers = running.engine.admit(&rows, terms).unwrap().wait();
            assert!(answers.iter().all(Result::is_ok));
        };
        (0..WARM_UP).for_each(|_| ask());
        let found = allocations(|| (0..COUNTED).for_each(|_| ask()));
        println!("the engine and its lanes, {name}: {found} allocations in {} queries", 2 * COUNTED);
        assert!(found < 2 * COUNTED as u64 / 4, "the engine and its lanes, {name}: {found}");
    }
}

/// A core with three lanes or four, and what moves it.
struct Core {
    lanes: &'static [LaneId],
    dispatch: Dispatch,
    requests: Requests,
    now: Time,
    row: Row,
    output: Values,
    /// That of a model that gives one for each row.
    stacked: Values,
    stacks: bool,
    completions: Vec<Completion>,
    effects: Vec<Effect>,
    pending: Option<Pending>,
}

impl Core {
    fn new(code: Option<Arc<dyn Code>>) -> Self {
        let third = if code.is_some() { Role::Parity } else { Role::Base };
        let roles = [Role::Base, Role::Base, third, third];
        let stacks = code.as_ref().is_some_and(|code| code.reading() == Reading::Rows);
        let lanes = &LANES[..2 + code.as_ref().map_or(1, |code| code.r())];
        let kind = if code.is_some() { PolicyKind::Coded } else { PolicyKind::Hedged };
        let settings = Settings {
            lanes: lanes.iter().map(|lane| LaneSettings::alone(roles[usize::from(lane.0)], lane.0)).collect(),
            batch_max: 1,
            queue_max: 64,
            code,
            calibration: None,
            stripe_fill: Duration::from_millis(20),
            policy: Policy {
                grace: Grace::Fixed(Duration::from_millis(5)),
                ..Policy::usual(kind, Placement::Dedicated)
            },
            health: Rules { canary_every: None, ..Rules::default() },
        };
        let dispatch = Dispatch::new(settings, Arc::new(Metrics::new("allocations", lanes.len())));
        let mut effects = Vec::new();
        for &lane in lanes {
            dispatch.ready(lane, Duration::from_millis(1), &mut effects);
        }
        Core {
            lanes,
            dispatch,
            requests: Requests::new(64),
            now: Time::ZERO,
            row: Row::whole(vec![0.5; 784]),
            output: vec![0.5; 10].into(),
            stacked: vec![0.5; 20].into(),
            stacks,
            completions: Vec::new(),
            effects,
            pending: None,
        }
    }

    /// A request of `rows` rows, from admission to its answers: each lane runs one, where there is a code the other lanes run their parity
    /// queries, whose outputs come first; and a tick.
    fn request(&mut self, rows: usize) {
        self.now = self.now + Duration::from_millis(1);
        let query = Query {
            row: self.row.clone(),
            admitted: self.now,
            deadline: self.now + Duration::from_secs(2),
            accepts: Accepts::Any,
            min_confidence: Confidence::NONE,
            in_range: true,
        };
        let (queries, pending) = self.requests.admit((0..rows).map(|_| query.clone())).expect("there is room");
        self.pending = Some(pending);
        self.dispatch.submit(queries, &mut self.effects);
        let mut batches: [Option<Batch>; 4] = [const { None }; 4];
        for (&lane, batch) in self.lanes.iter().zip(&mut batches) {
            if let Some(Work::Batch(pulled)) = self.dispatch.pull(lane, self.now, &mut self.effects) {
                *batch = Some(pulled);
            } else {
                assert!(self.dispatch.rest(lane));
            }
        }
        for (&lane, batch) in self.lanes.iter().zip(batches).rev() {
            let Some(batch) = batch else { continue };
            let stacked = matches!(&batch, Batch::Parity(_)) && self.stacks;
            let output = if stacked { &self.stacked } else { &self.output };
            self.completions.push(Completion::Output(Arc::clone(output)));
            let (completions, service) = (&mut self.completions, Duration::from_millis(1));
            let completed = Completed { lane, batch, completions, service };
            self.dispatch.complete(completed, self.now, &mut self.effects);
        }
        self.dispatch.tick(self.now, &mut self.effects);
        self.effects.clear();
        let answers = self.pending.take().unwrap().wait();
        assert!(answers.iter().all(Result::is_ok));
    }
}

const PLAIN: &str = r#"
[[lane]]
device = "cpu"
role = "base"
[[lane]]
device = "cpu"
role = "base"
[[deployment]]
name = "fashion-mnist"
weights = "weights/fashion-mnist/1"
[deployment.policy]
kind = "none"
"#;

fn coded() -> String {
    let lane = "[[lane]]\ndevice = \"cpu\"\nrole = \"parity\"\n[[deployment]]";
    PLAIN.replace("[[deployment]]", lane).replace("none", "coded")
}
