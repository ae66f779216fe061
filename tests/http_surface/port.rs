//! The server in front of the engine, and a client that can misbehave.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parityd::{
    admission::Admission,
    http::{self, Lanes, Limits, Site, UnknownLane},
    job::{Fault, LaneEvent, LaneReport, Role},
    metrics::Metrics,
    query::LaneId,
};
use serde_json::{Value, json};

pub(crate) use crate::engine::{Adder, QUEUE_MAX, ROW, signature, wait_until};

pub(crate) const INFER: &str = "/v2/models/adder/infer";

/// One lane that remembers its fault.
#[derive(Default)]
pub(crate) struct OneLane(Mutex<Option<Fault>>);

impl Lanes for OneLane {
    fn report(&self) -> Vec<LaneReport> {
        vec![LaneReport {
            id: LaneId(0),
            device: "cpu".into(),
            role: Role::Base,
            state: "healthy",
            reason: String::new(),
            fault: *self.0.lock().unwrap(),
        }]
    }

    fn events(&self) -> Vec<LaneEvent> {
        let (age, reason) = (Duration::from_millis(1500), "two jobs".to_owned());
        vec![LaneEvent { age, lane: LaneId(0), from: "healthy", to: "straggler", reason }]
    }

    fn set_fault(&self, lane: LaneId, fault: Option<Fault>) -> Result<(), UnknownLane> {
        if lane != LaneId(0) {
            return Err(UnknownLane);
        }
        *self.0.lock().unwrap() = fault;
        Ok(())
    }
}

/// The server in a runtime of its own; dropping it shuts it down and waits for it.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Arc<Adder>,
    pub(crate) stop: Option<tokio::sync::oneshot::Sender<()>>,
    /// Threads that the server's runtime has started so far: workers, and those for what would hold a worker up.
    pub(crate) threads: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// Threads of the server that carry sockets.
pub(crate) const WORKERS: usize = 2;

impl Port {
    pub(crate) fn open() -> Port {
        Port::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Site)) -> Port {
        let engine = Arc::new(Adder::new());
        let mut site = Site {
            signature: signature(),
            admission: Arc::clone(&engine) as Arc<dyn Admission>,
            metrics: Arc::new(Metrics::new("adder", 1).of_version("adder", "1")),
            lanes: Some(Arc::new(OneLane::default())),
            limits: Limits::new(QUEUE_MAX, Duration::from_secs(5)),
        };
        change(&mut site);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let threads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&threads);
        let thread = std::thread::spawn(move || {
            let count = move || {
                counted.fetch_add(1, Ordering::SeqCst);
            };
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(WORKERS).on_thread_start(count).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let stopped = async { drop(stopped.await) };
                http::serve(listener, Arc::new(site), std::future::pending(), stopped, std::future::ready(())).await;
            });
        });
        Port { address: told.recv().unwrap(), engine, stop: Some(stop), threads, thread: Some(thread) }
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("the port is open");
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Client { stream, ahead: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, request: &[u8]) -> Reply {
        self.connect().ask(request)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask(request("GET", path, "", "").as_bytes())
    }

    pub(crate) fn infer(&self, body: &str) -> Reply {
        self.ask(request("POST", INFER, "Content-Type: application/json\r\n", body).as_bytes())
    }

    pub(crate) fn shut(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server does not panic");
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shut();
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    ahead: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) bytes: Vec<u8>,
    /// The bytes as text.
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).expect("JSON")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// The JSON and the binary data behind it.
    #[track_caller]
    pub(crate) fn split(&self) -> (Value, &[u8]) {
        assert_eq!((self.status, self.header("content-type")), (200, Some("application/octet-stream")), "{self:?}");
        let length = self.header("inference-header-content-length").expect("the JSON's length");
        let (json, data) = self.bytes.split_at(length.parse().expect("a number"));
        (serde_json::from_slice(json).expect("JSON"), data)
    }

    /// Checks the JSON that every error has.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, reason: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["reason"], reason, "{self:?}");
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        assert!(body["retryable"].is_boolean(), "{self:?}");
        assert_eq!(self.header("retry-after").is_some(), matches!(status, 429 | 503), "{self:?}");
    }
}

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // The server may have answered and closed already; what it said is what counts.
        drop(self.stream.write_all(bytes));
    }

    pub(crate) fn ask(&mut self, request: &[u8]) -> Reply {
        self.send(request);
        self.reply(!request.starts_with(b"HEAD"))
    }

    fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = self.stream.read(&mut bytes).expect("a reply, or an end, within the timeout");
        self.ahead.extend_from_slice(&bytes[..read]);
        read > 0
    }

    pub(crate) fn reply(&mut self, has_body: bool) -> Reply {
        let end = loop {
            if let Some(end) = self.ahead.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.more(), "the connection ended in {:?}", String::from_utf8_lossy(&self.ahead));
        };
        let head = String::from_utf8(self.ahead.drain(..end).collect()).expect("a head is text");
        let status = head[9..12].parse().expect("a status");
        let mut reply = Reply { status, head, bytes: Vec::new(), body: String::new() };
        let length = reply.header("content-length").filter(|_| has_body).map_or(0, |text| text.parse().unwrap());
        while self.ahead.len() < length {
            assert!(self.more(), "the body ended early: {reply:?}");
        }
        reply.bytes = self.ahead.drain(..length).collect();
        reply.body = String::from_utf8_lossy(&reply.bytes).into_owned();
        reply
    }

    /// Whether the server closes, with nothing more to say.
    pub(crate) fn is_closed(&mut self) -> bool {
        while self.more() {}
        self.ahead.is_empty()
    }
}

pub(crate) fn request(verb: &str, path: &str, headers: &str, body: &str) -> String {
    let length = if verb == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    format!("{verb} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n{body}")
}

/// An infer request whose body is any bytes; a header of `json_bytes`, if given, tells how many of them are JSON.
pub(crate) fn post(headers: &str, json_bytes: Option<usize>, body: &[u8]) -> Vec<u8> {
    let json_bytes =
        json_bytes.map(|bytes| format!("Inference-Header-Content-Length: {bytes}\r\n")).unwrap_or_default();
    let length = body.len();
    let head =
        format!("POST {INFER} HTTP/1.1\r\nHost: localhost\r\n{headers}{json_bytes}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// An infer body of the given rows.
pub(crate) fn rows(rows: &[[f32; 4]]) -> String {
    tensor(&json!(rows)).to_string()
}

pub(crate) fn tensor(data: &Value) -> Value {
    let count = data.as_array().map_or(1, Vec::len);
    json!({"inputs": [{"name": "input", "shape": [count, 1, 2, 2], "datatype": "FP32", "data": data}]})
}
