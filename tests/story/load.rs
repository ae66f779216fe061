//! An open-loop client: requests leave when the schedule says so, whatever became of the ones before.
//!
//! Latency counts from the *intended* time, so a daemon that stalls cannot hide the requests that should have been sent meanwhile. Requests
//! are seeded: the same seed sends the same images at the same times.

use std::{
    io::ErrorKind,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parityd::data::{self, Images};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::daemon::{Daemon, agent};

/// Connections of the client. More than requests can be in flight at the rates used here: rate x deadline, and some.
const CONNECTIONS: usize = 256;

/// A request that is not answered by then counts as unanswered: the longest deadline and much slack.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a lane may take to heal before queries come to show that it has.
const BY_ITSELF: Duration = Duration::from_secs(5);

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) per_second: u32,
    pub(crate) duration: Duration,
    pub(crate) rows: usize,
    pub(crate) allow_reconstructed: bool,
    pub(crate) min_confidence: Option<f64>,
    pub(crate) seed: u64,
}

impl Load {
    /// `per_second` requests of one row.
    pub(crate) fn new(per_second: u32, duration: Duration) -> Self {
        Load { per_second, duration, rows: 1, allow_reconstructed: true, min_confidence: None, seed: 1 }
    }
}

/// What came back of one request.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// The images of its rows.
    pub(crate) images: Vec<usize>,
    /// 0 if nothing came back.
    pub(crate) status: u16,
    /// One word a row; empty unless the status is 200.
    pub(crate) provenance: Vec<String>,
    /// One number a row, if any row was judged.
    pub(crate) confidence: Vec<f64>,
    /// One row of outputs a row.
    pub(crate) logits: Vec<Vec<f32>>,
    /// `reason` of an error.
    pub(crate) reason: String,
    pub(crate) retry_after: bool,
    /// Nobody listens on the port any more.
    pub(crate) refused: bool,
    /// When it should have been sent, from the start of the load.
    pub(crate) sent_at: Duration,
    /// The same moment on the system's clock.
    pub(crate) due: Instant,
    /// From then to its answer.
    pub(crate) latency: Duration,
}

impl Reply {
    /// Whether any row was decoded.
    pub(crate) fn is_decoded(&self) -> bool {
        self.provenance.iter().any(|word| word == "reconstructed" || word == "approximate")
    }
}

/// A thousand labelled test images.
pub(crate) fn images() -> Images {
    data::test(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")).unwrap()
}

/// Sends the load and waits for what comes back; in the order in which it was sent.
pub(crate) fn send(url: &str, load: Load) -> Vec<Reply> {
    send_until(url, load, &AtomicBool::new(false))
}

/// The same, but that nothing is sent any more once `enough` is set.
pub(crate) fn send_until(url: &str, load: Load, enough: &AtomicBool) -> Vec<Reply> {
    let images = images();
    let mut random = ChaCha8Rng::seed_from_u64(load.seed);
    let count = (load.duration.as_secs_f64() * f64::from(load.per_second)).round() as usize;
    let picked: Vec<Vec<usize>> =
        (0..count).map(|_| (0..load.rows).map(|_| random.random_range(0..images.count())).collect()).collect();
    let (next, replies) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    let start = Instant::now() + Duration::from_millis(20);
    let client = || {
        let agent = agent(PATIENCE);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(picked) = picked.get(index) else { return };
            let body = body(&images, picked, load.allow_reconstructed, load.min_confidence);
            let sent_at = Duration::from_secs(index as u64) / load.per_second;
            thread::sleep((start + sent_at).saturating_duration_since(Instant::now()));
            if enough.load(Ordering::Relaxed) {
                return;
            }
            let outcome = exchange(&agent, url, &body);
            let latency = Instant::now().saturating_duration_since(start + sent_at);
            let reply = Reply { images: picked.clone(), sent_at, due: start + sent_at, latency, ..outcome };
            replies.lock().unwrap().push((index, reply));
        }
    };
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(count) {
            scope.spawn(client);
        }
    });
    let mut replies = replies.into_inner().unwrap();
    replies.sort_by_key(|(index, _)| *index);
    replies.into_iter().map(|(_, reply)| reply).collect()
}

/// What the base model itself says of the given images: one a request, one after the other, nothing but direct.
pub(crate) fn ask_direct(daemon: &Daemon, picked: &[usize]) -> Vec<Reply> {
    let (images, agent) = (images(), agent(PATIENCE));
    let one = |&image: &usize| Reply {
        images: vec![image],
        ..exchange(&agent, &daemon.url, &body(&images, &[image], false, None))
    };
    picked.iter().map(one).collect()
}

fn body(images: &Images, picked: &[usize], allow_reconstructed: bool, min_confidence: Option<f64>) -> String {
    let values: Vec<f32> = picked.iter().flat_map(|&image| images.row(image).iter().copied()).collect();
    let input = json!({"name": "input", "shape": [picked.len(), 1, 28, 28], "datatype": "FP32", "data": values});
    let parameters = json!({"allow_reconstructed": allow_reconstructed, "min_confidence": min_confidence});
    json!({"inputs": [input], "parameters": parameters}).to_string()
}

fn exchange(agent: &ureq::Agent, url: &str, body: &str) -> Reply {
    let nothing = Reply {
        images: Vec::new(),
        status: 0,
        provenance: Vec::new(),
        confidence: Vec::new(),
        logits: Vec::new(),
        reason: String::new(),
        retry_after: false,
        refused: false,
        sent_at: Duration::ZERO,
        due: Instant::now(),
        latency: Duration::ZERO,
    };
    let route = format!("{url}/v2/models/fashion-mnist/infer");
    let mut reply = match agent.post(route).content_type("application/json").send(body) {
        Ok(reply) => reply,
        Err(ureq::Error::Io(error)) => {
            return Reply { refused: error.kind() == ErrorKind::ConnectionRefused, ..nothing };
        }
        Err(_) => return nothing,
    };
    let (status, retry_after) = (reply.status().as_u16(), reply.headers().contains_key("retry-after"));
    let Ok(told) = reply.body_mut().read_json::<Value>() else { return Reply { status, retry_after, ..nothing } };
    let reason = told["reason"].as_str().unwrap_or_default().to_owned();
    if status != 200 {
        return Reply { status, reason, retry_after, ..nothing };
    }
    let provenance =
        told["parameters"]["provenance"].as_str().expect("a label").split(',').map(str::to_owned).collect();
    let confidence = told["parameters"]["confidence"].as_str().unwrap_or_default().split(',');
    let confidence = confidence.filter_map(|number| number.parse().ok()).collect();
    let values = told["outputs"][0]["data"].as_array().expect("outputs").iter();
    let values: Vec<f32> = values.map(|value| value.as_f64().expect("a number") as f32).collect();
    let logits = values.chunks(10).map(<[f32]>::to_vec).collect();
    Reply { status, provenance, confidence, logits, ..nothing }
}

/// The class with the largest output.
pub(crate) fn argmax(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}

impl Daemon {
    /// Waits until every lane has healed from what it was slow with: by itself, as a rule. A device that has rested may be slower than it was at work, so that it shows
    /// only under load that this is over.
    pub(crate) fn wait_healed(&self) {
        let begun = Instant::now();
        self.wait_until("healthy on every lane", |daemon| {
            if begun.elapsed() > BY_ITSELF {
                send(&daemon.url, Load::new(100, Duration::from_millis(100)));
            }
            daemon.is_healthy()
        });
    }
}
