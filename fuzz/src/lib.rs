//! The targets: what each does with an input, and what must hold. They share a deployment, an engine that answers at once, and both servers in front of it.
//!
//! `fuzz_targets/` hands inputs to them, and so does `tests/corpus.rs` with the inputs that are kept.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, OnceLock},
    time::Duration,
};

use parityd::{
    admission::{Admission, Refusal, Terms},
    clock::Time,
    grpc,
    http::{self, Limits, parse},
    metrics::Metrics,
    query::{Confidence, Prediction, Provenance, Query, Rows, Signature, TensorSpec},
    reply::{Pending, Requests},
};

/// What takes an input.
pub type Target = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const TARGETS: [(&str, Target); 6] = [
    ("json", json),
    ("binary", binary),
    ("request", request),
    ("picture", picture),
    ("coding", coding),
    ("grpc", call),
];

/// An infer request's body in JSON, as `parse` reads it.
pub fn json(body: &[u8]) {
    if parsed(body, None) {
        // What was understood is JSON to a reader of another kind, but for the words of Triton's clients.
        let has = |word: &[u8]| body.windows(word.len()).any(|window| window == word);
        if !has(b"NaN") && !has(b"Inf") {
            serde_json::from_slice::<serde_json::Value>(body).expect("JSON");
        }
    }
}

/// A body with binary tensors behind its JSON, or without JSON: the first two bytes say how much of the rest is JSON.
pub fn binary(data: &[u8]) {
    if let Some((length, body)) = data.split_first_chunk::<2>() {
        parsed(body, Some(usize::from(u16::from_le_bytes(*length))));
    }
}

/// Whether a body is understood; checks what must hold either way.
fn parsed(body: &[u8], json_bytes: Option<usize>) -> bool {
    match parse(body, json_bytes, &signature(), QUEUE_MAX) {
        Ok(call) => {
            assert!((1..=QUEUE_MAX).contains(&call.rows.count()));
            assert!(call.rows.iter().all(|row| row.len() == 12));
            true
        }
        Err(error) => {
            assert!(!error.reason().is_empty() && error.to_string().len() < 2_000, "{error}");
            false
        }
    }
}

/// Any bytes to the port: heads, routes, bodies that are cut off or go on.
pub fn request(bytes: &[u8]) {
    ask(bytes, SHORT);
}

/// Files to `classify`: as they are, and in a form if the first byte is odd.
pub fn picture(data: &[u8]) {
    let Some((form, body)) = data.split_first() else { return };
    let header = if form % 2 == 1 { "Content-Type: multipart/form-data; boundary=b\r\n" } else { "" };
    let reply = ask(&post("/v2/models/m/classify", header, body), LONG).expect("the request is whole");
    assert!([200, 400, 413, 429].contains(&reply.status), "{}", reply.head);
}

/// Compressed bodies: gzip, or deflate if the first byte is odd.
pub fn coding(data: &[u8]) {
    let Some((deflate, body)) = data.split_first() else { return };
    let coding = if deflate % 2 == 1 { "deflate" } else { "gzip" };
    let header = format!("Content-Encoding: {coding}\r\nAccept-Encoding: {coding}\r\n");
    let reply = ask(&post("/v2/models/m/infer", &header, body), LONG).expect("the request is whole");
    assert!([200, 400, 413].contains(&reply.status), "{}", reply.head);
}

/// The body of a gRPC call: messages, whole and broken. The first byte says of which method, and how those are compressed that are.
pub fn call(data: &[u8]) {
    let Some((form, body)) = data.split_first() else { return };
    let method = if form % 2 == 1 { "ModelStreamInfer" } else { "ModelInfer" };
    let encoding = ["identity", "gzip", "deflate", "br"][usize::from(form / 2 % 4)];
    let kinds = frames_after(method, encoding, body);
    assert!([1, 3, 7].iter().any(|kind| kinds.contains(kind)), "an answer, a reset or a farewell: {kinds:?}");
}

/// Rows of one request.
const QUEUE_MAX: usize = 16;

/// Small pictures in colour, of which two values are made.
fn signature() -> Signature {
    Signature {
        name: "m".into(),
        version: "1".into(),
        platform: "fuzz".into(),
        input: TensorSpec { name: "input".into(), shape: vec![3, 2, 2] },
        input_range: (0.0, 1.0),
        output: TensorSpec { name: "logits".into(), shape: vec![2] },
        labels: vec!["cat".into(), "dog".into()],
    }
}

struct Engine(Requests);

impl Admission for Engine {
    fn has_room(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit(&self, rows: &Rows, terms: Terms) -> Result<Pending, Refusal> {
        let query = |row| Query {
            row,
            admitted: Time::ZERO,
            deadline: Time::ZERO,
            accepts: terms.accepts,
            min_confidence: terms.min_confidence.unwrap_or(Confidence::NONE),
            in_range: true,
        };
        let (entering, pending) = self.0.admit(rows.iter().map(query)).ok_or(Refusal::Full)?;
        for admitted in entering {
            let sum = admitted.query.row.iter().sum::<f32>();
            let answer = Prediction { values: [sum, -sum].into(), provenance: Provenance::Direct, confidence: None };
            let _late = admitted.answer(Ok(answer));
        }
        Ok(pending)
    }

    fn readiness(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Both servers.
struct Ports {
    http: SocketAddr,
    grpc: SocketAddr,
}

/// Servers that give up after [`LONG`] or [`SHORT`] what is not whole by then.
fn ports(patience: Duration) -> &'static Ports {
    static PATIENT: OnceLock<Ports> = OnceLock::new();
    static HASTY: OnceLock<Ports> = OnceLock::new();
    let ports = if patience == LONG { &PATIENT } else { &HASTY };
    ports.get_or_init(|| Ports::open(patience))
}

impl Ports {
    fn open(patience: Duration) -> Self {
        let bind = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.set_nonblocking(true).expect("it can be");
            (listener.local_addr().expect("it is bound"), listener)
        };
        let ((http, for_http), (grpc, for_grpc)) = (bind(), bind());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("threads").block_on(serve(for_http, for_grpc, patience));
        });
        Ports { http, grpc }
    }
}

async fn serve(for_http: TcpListener, for_grpc: TcpListener, patience: Duration) {
    let admission = || Arc::new(Engine(Requests::new(QUEUE_MAX))) as Arc<dyn Admission>;
    let metrics = Arc::new(Metrics::new("m", 1));
    let limits = Limits { header_timeout: patience, body_timeout: patience, ..Limits::new(QUEUE_MAX, Duration::ZERO) };
    let site = http::Site {
        signature: signature(),
        admission: admission(),
        metrics: Arc::clone(&metrics),
        lanes: None,
        limits,
    };
    let other = grpc::Site { signature: signature(), admission: admission(), metrics, limits };
    let listener = |listener| tokio::net::TcpListener::from_std(listener).expect("a runtime");
    let never = std::future::pending::<()>;
    tokio::join!(
        http::serve(listener(for_http), Arc::new(site), never(), never(), never()),
        grpc::serve(listener(for_grpc), Arc::new(other), never(), never()),
    );
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server lives");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.set_nodelay(true).expect("it can be");
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it can be");
    stream
}

/// A reply of HTTP.
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// For requests that are whole, on a machine that is busy.
const LONG: Duration = Duration::from_secs(10);
/// For those that need not be.
const SHORT: Duration = Duration::from_millis(10);

/// Sends bytes, and gives the first reply; `None` if the server closes without one. Checks what holds of every reply.
fn ask(bytes: &[u8], patience: Duration) -> Option<Reply> {
    let mut stream = connect(ports(patience).http);
    drop(stream.write_all(bytes));
    let reply = read(&mut stream, bytes.starts_with(b"HEAD "))?;
    check(&reply);
    Some(reply)
}

fn read(stream: &mut TcpStream, no_body: bool) -> Option<Reply> {
    let mut ahead = Vec::new();
    let mut more = |ahead: &mut Vec<u8>| {
        let mut part = [0; 8192];
        match stream.read(&mut part) {
            Ok(read) => {
                ahead.extend_from_slice(&part[..read]);
                read > 0
            }
            // A reset: the server had answered and closed, or did not want the rest.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => true,
            Err(error) => panic!("neither a reply nor an end: {error}"),
        }
    };
    let end = loop {
        if let Some(end) = ahead.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if !more(&mut ahead) {
            return None;
        }
    };
    let head = String::from_utf8(ahead[..end].to_vec()).expect("a head is text");
    let status = head.get(9..12).and_then(|text| text.parse().ok()).expect("a status");
    let told =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    let length: usize = told.filter(|_| !no_body).map_or(0, |text| text.trim().parse().expect("a number"));
    while ahead.len() < end + length {
        if !more(&mut ahead) {
            return None;
        }
    }
    Some(Reply { status, head, body: ahead[end..end + length].to_vec() })
}

fn check(reply: &Reply) {
    let Reply { status, head, body } = reply;
    assert!(!(500..=599).contains(status) || *status == 503, "{head}");
    let is_plain = !head.to_ascii_lowercase().contains("content-encoding:");
    // A head that hyper itself refuses has no body.
    if *status >= 400 && !body.is_empty() && is_plain {
        let error: serde_json::Value = serde_json::from_slice(body).expect("an error is JSON");
        assert!(
            error["error"].is_string() && error["reason"].is_string() && error["retryable"].is_boolean(),
            "{error}"
        );
    }
    if *status == 200 && head.contains("application/json") && !body.is_empty() && is_plain {
        serde_json::from_slice::<serde_json::Value>(body).expect("what is called JSON is JSON");
    }
}

/// A POST with this body.
fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Calls a method with this body, which need not be a message; gives the kinds of frames that come back.
fn frames_after(method: &str, encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = connect(ports(LONG).grpc);
    let mut head = Vec::new();
    let path = format!("/inference.GRPCInferenceService/{method}");
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path.as_str()),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-encoding", encoding),
    ] {
        head.push(0);
        for text in [name, value] {
            head.push(u8::try_from(text.len()).expect("short"));
            head.extend_from_slice(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &head));
    for part in body.chunks(16_000) {
        bytes.extend(frame(0, 0, 1, part));
    }
    bytes.extend(frame(0, 1, 1, &[]));
    drop(stream.write_all(&bytes));
    let (mut ahead, mut kinds) = (Vec::new(), Vec::new());
    loop {
        while ahead.len() >= 9 {
            let length = 9 + usize::try_from(u32::from_be_bytes([0, ahead[0], ahead[1], ahead[2]])).expect("a length");
            if ahead.len() < length {
                break;
            }
            let (kind, flags, of) = (ahead[3], ahead[4], u32::from_be_bytes([ahead[5], ahead[6], ahead[7], ahead[8]]));
            kinds.push(kind);
            ahead.drain(..length);
            // The stream has ended, was reset, or the connection is to end.
            if of == 1 && (flags & 1 == 1 && kind <= 1 || kind == 3) || kind == 7 {
                return kinds;
            }
        }
        let mut part = [0; 8192];
        match stream.read(&mut part) {
            Ok(0) => return kinds,
            Ok(read) => ahead.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return kinds,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("neither an end of the call nor of the connection: {error}"),
        }
    }
}
