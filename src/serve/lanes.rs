//! The lanes of one engine: starting them, replacing threads that are stuck, telling how they are, breaking them on request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use super::{Plan, ServeError};
use crate::{
    clock::Clock,
    code::Code,
    engine::Engine,
    health::device::{Sign, Told},
    http::{Lanes, UnknownLane},
    job::{Fault, Feed, LaneEvent, LaneReport, Loss},
    lane::{self, Emulation, Held, Inside, OpenError, Spec},
    query::LaneId,
    repeat::{Line, Repeats},
};

/// Lanes may take so long to let go of their devices, all together: a process that ends while CUDA's libraries are closed may crash on the way. A lane
/// that hangs does not come back for that.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// Threads of one lane that are left stuck, at most: each keeps what it had loaded.
const STUCK_MAX: usize = 3;

/// All lanes that were started.
#[derive(Debug)]
pub struct Crew {
    engine: Arc<Engine>,
    lanes: Vec<Arc<Member>>,
    /// Whether its end has begun: it is waited for once.
    ended: AtomicBool,
}

/// One lane, and the threads that run it or may.
#[derive(Debug)]
struct Member {
    /// What a thread of it is started with.
    spec: Spec,
    threads: Mutex<Threads>,
}

#[derive(Debug)]
struct Threads {
    /// The one that runs the lane.
    running: Held,
    /// The one that opens the device to replace it.
    next: Option<Next>,
    /// Those that were left stuck, and have not come back.
    stuck: Vec<Held>,
    /// The call that `running` is left in, because no other thread is tried any more.
    given_up: Option<Inside>,
    /// What is said of tries that come to nothing; each wait brings one more.
    lines: Repeats,
}

impl Threads {
    fn new(running: Held) -> Self {
        Threads { running, next: None, stuck: Vec::new(), given_up: None, lines: Repeats::default() }
    }

    /// Nobody is tried any more in place of a thread that is inside this call; `true` if that is new.
    fn give_up(&mut self, call: Inside) -> bool {
        let is_new = self.given_up.as_ref().is_none_or(|before| !before.is(&call));
        self.given_up = Some(call);
        is_new
    }
}

/// A thread that opens the device of a lane.
#[derive(Debug)]
struct Next {
    held: Held,
    /// Whether it has been so for longer than it was given.
    is_stuck: bool,
}

impl Crew {
    /// Starts every lane; returns once all have loaded, or with the first that could not.
    pub(super) fn start(
        plan: &Plan,
        code: Option<&Arc<dyn Code>>,
        engine: &Arc<Engine>,
        clock: Clock,
        emulation: Option<&Arc<dyn Emulation>>,
    ) -> Result<Self, ServeError> {
        let configured = plan.config.lanes();
        let (told, opened) = mpsc::sync_channel(configured.len());
        // Dropped where one does not open, with those that do.
        let mut crew = Crew { engine: Arc::clone(engine), lanes: Vec::new(), ended: AtomicBool::new(false) };
        for (lane, core) in configured.iter().zip(lane::cores(configured)) {
            let spec = Spec {
                lane: lane.clone(),
                core,
                batch_max: plan.config.deployment.batch_max,
                bundle: Arc::clone(&plan.bundle),
                code: code.cloned(),
                faults: Arc::default(),
                clock,
                emulation: emulation.cloned(),
                left_out: plan.left_out.contains(&lane.id),
            };
            let (id, told) = (lane.id, told.clone());
            let feed = Arc::clone(engine) as Arc<dyn Feed>;
            // If nobody listens any more, another lane has failed and the start with it.
            let tell = move |outcome| drop(told.send((id, outcome)));
            let running = lane::start(spec.clone(), feed, tell).map_err(ServeError::Thread)?;
            crew.lanes.push(Arc::new(Member { spec, threads: Mutex::new(Threads::new(running)) }));
        }
        drop(told);
        for _ in &crew.lanes {
            let (id, outcome) = opened.recv().expect("a lane tells how it opened, or the process ends with it");
            outcome.map_err(|source| ServeError::Lane { lane: id, source })?;
        }
        let (watched, members) = (Arc::clone(engine), crew.lanes.clone());
        let replaces = move || {
            while let Some(lane) = watched.await_stuck() {
                members[usize::from(lane.0)].replace(&watched);
            }
        };
        thread::Builder::new().name("replacements".to_owned()).spawn(replaces).map_err(ServeError::Thread)?;
        Ok(crew)
    }

    /// Ends every lane that is not stuck, and waits until it has let go of its device.
    pub(super) fn end(&self) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        self.engine.stop();
        // A lane that hangs in an injected fault would otherwise outlive the daemon's library user.
        self.lanes.iter().for_each(|member| member.spec.faults.end());
        let Some(clock) = self.lanes.first().map(|member| member.spec.clock) else { return };
        let until = clock.now() + CLOSING_MAX;
        for member in &self.lanes {
            let running = member.threads.lock().running.clone();
            if !running.ends_within(until.since(clock.now())) {
                tracing::debug!(lane = %member.spec.lane.id, "the lane's thread is left where it is");
            }
        }
    }
}

impl Member {
    /// Tries to replace the lane's thread, which is stuck, unless a try is under way.
    fn replace(self: &Arc<Self>, engine: &Arc<Engine>) {
        let lane = self.spec.lane.id;
        let threads = &mut *self.threads.lock();
        let now = self.spec.clock.now();
        if let Some(next) = &mut threads.next {
            // It had the wait of a fence, at least. Another one here would not fare better.
            if let Line::Told { left_out } = threads.lines.next(now) {
                tracing::warn!(%lane, left_out, "the lane's thread is stuck, and so is the one that is to open its device");
            }
            if !std::mem::replace(&mut next.is_stuck, true) {
                engine.told(&[lane], Told::Happened(Sign::Stuck));
            }
            return;
        }
        // First the call, then the question: one that has come back since it was found is in another call by now, in which it is well.
        let Some(stuck) = threads.running.inside().filter(|_| engine.is_stuck(lane)) else {
            return tracing::debug!(%lane, "the lane's thread has come back by itself");
        };
        threads.stuck.retain(Held::is_left);
        if threads.stuck.len() >= STUCK_MAX {
            if let Line::Told { left_out } = threads.lines.next(now) {
                tracing::error!(%lane, stuck = threads.stuck.len(), left_out, "too many of the lane's threads are stuck: the daemon must be restarted");
            }
            if threads.give_up(stuck) {
                engine.told(&[lane], Told::Happened(Sign::Stuck));
            }
            return;
        }
        let (member, told) = (Arc::clone(self), Arc::clone(engine));
        let feed = Arc::clone(engine) as Arc<dyn Feed>;
        match lane::replace(self.spec.clone(), feed, stuck, move |tried| member.tried(tried, &told)) {
            Ok(held) => threads.next = Some(Next { held, is_stuck: false }),
            Err(error) => {
                if let Line::Told { left_out } = threads.lines.next(now) {
                    tracing::error!(%lane, %error, left_out, "no thread to replace the lane's");
                }
            }
        }
    }

    /// What became of a try; told by the thread that was to replace the lane's.
    fn tried(&self, outcome: Result<bool, (OpenError, Loss)>, engine: &Engine) {
        let lane = self.spec.lane.id;
        let mut threads = self.threads.lock();
        let next = threads.next.take();
        match (outcome, next) {
            (Ok(true), Some(next)) => {
                let before = std::mem::replace(&mut threads.running, next.held);
                threads.stuck.push(before);
                tracing::warn!(%lane, stuck = threads.stuck.len(), "another thread runs the lane: its own is stuck");
            }
            (Ok(_), _) => tracing::debug!(%lane, "the lane's thread has come back by itself"),
            (Err((error, loss)), _) => {
                if let Line::Told { left_out } = threads.lines.next(self.spec.clock.now()) {
                    tracing::warn!(%lane, %error, left_out, "the lane's thread is stuck, and its device does not open again");
                }
                if loss == Loss::Fatal {
                    engine.told(&[lane], Told::Happened(Sign::Broken));
                }
            }
        }
    }
}

impl Lanes for Crew {
    fn report(&self) -> Vec<LaneReport> {
        let report = |member: &Arc<Member>| {
            let Spec { lane, faults, .. } = &member.spec;
            let (state, reason) = self.engine.describe(lane.id);
            let device = lane.device.to_string();
            LaneReport { id: lane.id, device, role: lane.role, state, reason, fault: faults.get() }
        };
        self.lanes.iter().map(report).collect()
    }

    fn events(&self) -> Vec<LaneEvent> {
        self.engine.events()
    }

    fn set_fault(&self, lane: LaneId, fault: Option<Fault>) -> Result<(), UnknownLane> {
        let member = self.lanes.get(usize::from(lane.0)).ok_or(UnknownLane)?;
        member.spec.faults.set(fault);
        if let Some(fault) = fault {
            tracing::warn!(%lane, %fault, "fault injected");
        } else {
            tracing::info!(%lane, "fault cleared");
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{Admission, Terms},
        config::Config,
        query::{Accepts, Failure, Rows},
        reply::Pending,
        serve::Running,
    };

    const SLOW: &str = r#"
[[lane]]
device = "cpu"
role = "base"
service_ms = 4000
[[deployment]]
name = "m"
weights = "weights/fashion-mnist-mlp/1"
[deployment.policy]
kind = "none"
"#;

    /// A daemon whose one lane is well, and for seconds inside a call.
    fn inside_a_call() -> (Running, Pending) {
        let config = Config::parse(SLOW, env!("CARGO_MANIFEST_DIR").as_ref(), "config.toml").unwrap();
        let running = Running::start(&Plan::check(config).unwrap()).unwrap();
        let rows = Rows::new(vec![0.5; 784], 784).unwrap();
        let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
        let pending = running.engine.admit(&rows, terms).unwrap();
        let member = &running.crew.lanes[0];
        while member.threads.lock().running.inside().is_none() {
            member.spec.clock.pause(Duration::from_millis(1));
        }
        (running, pending)
    }

    /// It was stuck when that was told, and has come back since.
    #[test]
    fn a_thread_that_is_well_is_not_replaced() {
        let (running, _pending) = inside_a_call();
        let member = &running.crew.lanes[0];
        member.replace(&running.engine);
        assert!(member.threads.lock().next.is_none());
    }

    /// What hangs while it is opened is given up by this process, once; it may open later all the same.
    #[test]
    fn a_device_that_does_not_open_in_a_thread_of_its_own_needs_another_process() {
        let config = SLOW
            .replace("service_ms = 4000\n", "")
            .replace("[[deployment]]", "[health]\nhang_ms = 20\nfence_ms = 200\n[[deployment]]");
        let config = Config::parse(&config, env!("CARGO_MANIFEST_DIR").as_ref(), "config.toml").unwrap();
        let running = Running::start(&Plan::check(config).unwrap()).unwrap();
        let (engine, member) = (&running.engine, &running.crew.lanes[0]);
        member.spec.faults.set(Some(Fault::Hang));
        let rows = Rows::new(vec![0.5; 784], 784).unwrap();
        let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
        let _pending = engine.admit(&rows, terms).unwrap();
        let wait_until = |what: &dyn Fn() -> bool| {
            while !what() {
                member.spec.clock.pause(Duration::from_millis(1));
            }
        };
        wait_until(&|| member.threads.lock().next.is_some());
        wait_until(&|| engine.is_broken());
        assert_eq!(engine.describe(LaneId(0)).0, "fenced");
        member.spec.faults.set(None);
        wait_until(&|| engine.is_usable(LaneId(0)));
        assert!(!engine.is_broken() && member.threads.lock().next.is_none());
    }

    /// Nobody else would: the engine has ended, and its lane is busy for longer.
    #[test]
    fn who_was_admitted_is_answered_at_the_deadline_after_the_end_too() {
        let (running, pending) = inside_a_call();
        drop(running);
        assert!(pending.wait().iter().all(|answer| answer.as_ref().unwrap_err() == &Failure::Deadline));
    }

    #[test]
    fn the_end_waits_once_for_a_lane_that_does_not_come_back() {
        let (running, _pending) = inside_a_call();
        let clock = running.crew.lanes[0].spec.clock;
        let took = |end: &dyn Fn()| {
            let before = clock.now();
            end();
            clock.now().since(before)
        };
        assert!(took(&|| running.crew.end()) >= CLOSING_MAX);
        assert!(took(&|| running.crew.end()) < CLOSING_MAX / 2, "whoever drops it last ends it again");
    }
}
