//! A client that writes frames of HTTP/2 by hand, for half a message, and for none.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::port::Port;

/// A call of `ModelInfer` by hand, frame by frame: what no client would send.
pub(crate) struct Raw {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Raw {
    /// A call of `ModelInfer` whose client reads what comes.
    pub(crate) fn begin(port: &Port) -> Raw {
        Raw::taking(port, "ModelInfer", 65_535)
    }

    /// The same, with so much time as `grpc-timeout` says.
    pub(crate) fn within(port: &Port, timeout: &str) -> Raw {
        Raw::with(port, ("ModelInfer", 65_535), &[("grpc-timeout", timeout)])
    }

    /// The preface, with a window of so many bytes for each reply, and the head of the call. Field names and values stand as they are, so that no
    /// table is needed.
    pub(crate) fn taking(port: &Port, method: &str, window: u32) -> Raw {
        Raw::with(port, (method, window), &[])
    }

    /// A call of `method` whose client says more of it.
    pub(crate) fn saying(port: &Port, method: &str, more: &[(&str, &str)]) -> Raw {
        Raw::with(port, (method, 65_535), more)
    }

    /// A call of `ModelInfer` whose body is of another type, or of one that is not told.
    pub(crate) fn of_type(port: &Port, kind: &str) -> Raw {
        Raw::opened(port, ("ModelInfer", 65_535, kind), &[])
    }

    fn with(port: &Port, (method, window): (&str, u32), more: &[(&str, &str)]) -> Raw {
        Raw::opened(port, (method, window, "application/grpc"), more)
    }

    fn opened(port: &Port, (method, window, kind): (&str, u32, &str), more: &[(&str, &str)]) -> Raw {
        let mut stream = TcpStream::connect(port.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut raw = Raw { stream, ahead: Vec::new() };
        raw.frame(4, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
        // The server's own settings, of six words, and a larger window for the connection: before that it takes 64 KiB.
        while raw.ahead.len() < 9 + 24 + 9 + 4 && raw.more() {}
        raw.frame(4, 1, 0, &[]);
        raw.frame(1, 4, 1, &head((method, kind), more));
        raw
    }

    /// So many calls beside the first one, each of them cancelled, in one write.
    pub(crate) fn cancelled(&mut self, calls: u32) {
        let head = head(("ModelInfer", "application/grpc"), &[]);
        let cancel = 8_u32.to_be_bytes();
        let call = |stream| [framed((1, 4), stream, &head), framed((3, 0), stream, &cancel)].concat();
        let bytes = (1..=calls).flat_map(|number| call(2 * number + 1)).collect::<Vec<_>>();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Whether the server has read all that was written, and lives.
    pub(crate) fn is_heard(&mut self) -> bool {
        self.frame(6, 0, 0, b"pingpong");
        self.is_told("pingpong")
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // The server may have answered and closed already.
        drop(self.stream.write_all(&framed((kind, flags), stream, payload)));
    }

    /// Some bytes of the body.
    pub(crate) fn data(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(16_384) {
            self.frame(0, 0, 1, part);
        }
    }

    /// The body ends.
    pub(crate) fn end(&mut self) {
        self.frame(0, 1, 1, &[]);
    }

    fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = self.stream.read(&mut bytes).unwrap_or(0);
        self.ahead.extend_from_slice(&bytes[..read]);
        read > 0
    }

    /// Whether the server closes, in time.
    pub(crate) fn is_closed(&mut self) -> bool {
        loop {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(read) => self.ahead.extend_from_slice(&bytes[..read]),
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Whether the server says this word; it writes short ones of our own as they are, or in Huffman's code.
    pub(crate) fn is_told(&mut self, word: &str) -> bool {
        while !self.holds(word) {
            if !self.more() {
                return false;
            }
        }
        true
    }

    /// Whether the server has said this word by now.
    pub(crate) fn has_been_told(&mut self, word: &str) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        while self.more() {}
        self.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        self.holds(word)
    }

    pub(crate) fn holds(&self, word: &str) -> bool {
        let coded = huffman(word);
        [word.as_bytes(), &coded].iter().any(|form| self.ahead.windows(form.len()).any(|window| window == *form))
    }
}

/// A frame as it goes over the wire.
fn framed((kind, flags): (u8, u8), stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a call, whose names and values stand as they are.
fn head((method, kind): (&str, &str), more: &[(&str, &str)]) -> Vec<u8> {
    let path = format!("/inference.GRPCInferenceService/{method}");
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path.as_str()),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", kind),
    ];
    let mut head = Vec::new();
    for (name, value) in usual.iter().chain(more) {
        head.push(0);
        for text in [name, value] {
            head.push(u8::try_from(text.len()).unwrap());
            head.extend(text.as_bytes());
        }
    }
    head
}

/// A word of small letters, underscores and a few digits in HPACK's code, up to its last whole byte.
fn huffman(word: &str) -> Vec<u8> {
    let code = |c: char| match c {
        '1' => (0x1, 5),
        'a' => (0x3, 5),
        'c' => (0x4, 5),
        'e' => (0x5, 5),
        'i' => (0x6, 5),
        'o' => (0x7, 5),
        's' => (0x8, 5),
        't' => (0x9, 5),
        '-' => (0x16, 6),
        '4' => (0x1a, 6),
        '5' => (0x1b, 6),
        '_' => (0x22, 6),
        'b' => (0x23, 6),
        'd' => (0x24, 6),
        'f' => (0x25, 6),
        'g' => (0x26, 6),
        'h' => (0x27, 6),
        'l' => (0x28, 6),
        'm' => (0x29, 6),
        'n' => (0x2a, 6),
        'p' => (0x2b, 6),
        'r' => (0x2c, 6),
        'u' => (0x2d, 6),
        'j' => (0x74, 7),
        'k' => (0x75, 7),
        'q' => (0x76, 7),
        'v' => (0x77, 7),
        'w' => (0x78, 7),
        'x' => (0x79, 7),
        'y' => (0x7a, 7),
        'z' => (0x7b, 7),
        other => panic!("no code for {other}"),
    };
    let mut bits: Vec<bool> = Vec::new();
    for c in word.chars() {
        let (value, length): (u32, u32) = code(c);
        bits.extend((0..length).rev().map(|place| value >> place & 1 == 1));
    }
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |sum, &bit| sum << 1 | u8::from(bit))).collect()
}
