//! HTTP/1.1 to one server: connections that stay open, and one exchange over one of them.
//!
//! A connection carries one request at a time; there are as many as requests have ever been in flight together, the last used first. Kept by
//! hand on hyper's connections and not in hyper-util's pool, because opening a connection is part of a request's latency, must not be
//! retried behind our back, and its failures (no more descriptors here, or nobody there) mean different things.

use std::{
    fmt,
    fmt::Write,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpStream, time::timeout};

use super::BenchError;

/// The longest reply that is read.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long anything but an infer request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a server listens: `http://host[:port]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerUrl {
    host: String,
    port: u16,
}

impl ServerUrl {
    /// The server that listens on that address of this machine; `None` for port 0, which is any.
    pub fn of(listen: SocketAddr) -> Option<Self> {
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        (listen.port() != 0).then_some(ServerUrl { host, port: listen.port() })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}; write http://HOST:PORT"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("bench speaks http only; name a port without TLS".to_owned()),
            Some(_) | None => return Err("write http://HOST:PORT".to_owned()),
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err("write http://HOST:PORT without a path; bench knows the protocol's paths".to_owned());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("write http://HOST:PORT")?;
        Ok(ServerUrl { host: host.to_owned(), port: uri.port_u16().unwrap_or(80) })
    }
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum Silence {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke, or the reply is not HTTP.
    #[error("no reply: {0}")]
    Lost(#[from] hyper::Error),
    /// The reply broke off, or is longer than is read.
    #[error("no whole reply: {0}")]
    Broken(String),
    /// It did not come in time.
    #[error("no reply in time")]
    TooLate,
    /// It was not sent: no reply could have come in time.
    #[error("its deadline was over before this client came to send it")]
    Overdue,
}

impl Silence {
    /// Whether this machine, and not the server, had no descriptor or port left.
    pub(super) fn is_ours(&self) -> bool {
        // EMFILE, ENFILE, EADDRNOTAVAIL on Linux.
        matches!(self, Silence::Connect(error) if matches!(error.raw_os_error(), Some(24 | 23 | 99)))
    }
}

/// A whole reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Reply {
    /// What an error says: its `error`, or its text.
    pub(super) fn told(&self) -> String {
        let json = serde_json::from_slice::<serde_json::Value>(&self.body).ok();
        let told = json.as_ref().and_then(|json| json["error"].as_str()).map(str::to_owned);
        told.unwrap_or_else(|| String::from_utf8_lossy(&self.body).chars().take(200).collect())
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// A server and the connections to it.
#[derive(Debug)]
pub(super) struct Server {
    url: ServerUrl,
    address: SocketAddr,
    rested: Mutex<Vec<Sender>>,
}

impl Server {
    /// Looks up its address, once, and connects.
    pub(super) async fn find(url: &ServerUrl) -> Result<Self, BenchError> {
        let unreachable = |problem: String| BenchError::Unreachable { url: url.clone(), problem };
        let host = url.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = tokio::net::lookup_host((host, url.port)).await;
        let mut problem = "the name has no address".to_owned();
        for address in addresses.map_err(|error| unreachable(error.to_string()))? {
            let server = Server { url: url.clone(), address, rested: Mutex::default() };
            match timeout(PATIENCE, server.connect()).await {
                Ok(Ok(sender)) => {
                    server.rested.lock().push(sender);
                    return Ok(server);
                }
                Ok(Err(silence)) => problem = silence.to_string(),
                Err(_) => problem = Silence::TooLate.to_string(),
            }
        }
        Err(unreachable(problem))
    }

    pub(super) fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// Sends a request and reads the whole reply. The only limit in time is that of whoever drops this.
    pub(super) async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Reply, Silence> {
        while let Some(mut sender) = self.rested().await {
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(sender, response).await,
                // The server had closed it. What never left may leave by another connection; what left must not leave twice.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await?;
        self.read(sender, response).await
    }

    /// `GET path`, for what is not measured.
    pub(super) async fn get(&self, path: &str) -> Result<Reply, Silence> {
        let request = self.request(Method::GET, path, Bytes::new());
        timeout(PATIENCE, self.exchange(request)).await.unwrap_or(Err(Silence::TooLate))
    }

    /// `POST path` with JSON, for what is not measured.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Reply, Silence> {
        let request = self.request(Method::POST, path, body);
        timeout(PATIENCE, self.exchange(request)).await.unwrap_or(Err(Silence::TooLate))
    }

    /// A request with the headers that all have.
    pub(super) fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let host = format!("{}:{}", self.url.host, self.url.port);
        let head = Request::builder().method(method).uri(path).header(HOST, host);
        let head = head.header(CONTENT_TYPE, "application/json");
        head.body(Full::new(body)).expect("paths are percent-encoded, and a parsed host is a header value")
    }

    /// A connection that is open, with nothing under way on it.
    async fn rested(&self) -> Option<Sender> {
        loop {
            let mut sender = self.rested.lock().pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender, Silence> {
        let stream = TcpStream::connect(self.address).await.map_err(Silence::Connect)?;
        stream.set_nodelay(true).map_err(Silence::Connect)?;
        // A port that was closed the usual way cannot be used for a minute: a run in which thousands of requests are given up would have none left.
        stream.set_zero_linger().map_err(Silence::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; whoever uses the sender learns why.
        drop(tokio::spawn(connection));
        Ok(sender)
    }

    async fn read(&self, sender: Sender, response: Response<Incoming>) -> Result<Reply, Silence> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, REPLY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Silence::Broken(error.to_string()))?.to_bytes();
        self.rested.lock().push(sender);
        Ok(Reply { status: head.status, body })
    }
}

/// `name` as one segment of a path.
pub(super) fn segment(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(byte)),
            other => write!(text, "%{other:02X}").expect("writing to a string cannot fail"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_a_host_and_a_port() {
        let told = |text: &str| text.parse::<ServerUrl>().map(|url| url.to_string());
        assert_eq!(told("http://127.0.0.1:8000"), Ok("http://127.0.0.1:8000".to_owned()));
        assert_eq!(told("http://gpu-box/"), Ok("http://gpu-box:80".to_owned()));
        assert_eq!(told("http://[::1]:9"), Ok("http://[::1]:9".to_owned()));
        assert!(told("https://gpu-box").unwrap_err().contains("http only"));
        for text in ["", "gpu-box", "gpu-box:8000", "http://", "http://a/v2", "http://a?b", "ftp://a"] {
            assert!(told(text).unwrap_err().contains("http://HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn names_become_one_segment() {
        assert_eq!(segment("fashion-mnist"), "fashion-mnist");
        assert_eq!(segment("a/b é"), "a%2Fb%20%C3%A9");
    }
}
