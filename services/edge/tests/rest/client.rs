//! An HTTP client that sends exactly what it is told and shows exactly what comes back.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// An answer as it was read off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In the order in which they came, names as they were spelled.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is repeated");
        value
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of the problem that this answer must be; checks what all problems have in common.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let document = self.json();
        assert_eq!((self.status, &document["code"]), (status, &Value::from(code)), "{document}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(document["type"], format!("urn:pulse:problem:{code}"));
        assert_eq!(document["status"], status);
        assert!(document["title"].is_string() && document["detail"].is_string(), "{document}");
        assert_eq!(document["request_id"].as_str(), self.header("x-request-id"), "{document}");
        document
    }

    /// As [`Answer::problem`], with the fields that it names and their codes.
    #[track_caller]
    pub(crate) fn refused_fields(&self, status: u16, code: &str) -> Vec<(String, String)> {
        let document = self.problem(status, code);
        let text = |error: &Value, key: &str| error[key].as_str().expect("a string").to_owned();
        let errors = document["errors"].as_array().unwrap_or_else(|| panic!("no errors in {document}"));
        errors.iter().map(|error| (text(error, "field"), text(error, "code"))).collect()
    }

    /// The answer without what differs between any two: the id and the time.
    pub(crate) fn without_id_and_time(mut self) -> Self {
        let varies = |name: &str| ["x-request-id", "date"].iter().any(|n| name.eq_ignore_ascii_case(n));
        self.headers.iter_mut().filter(|(name, _)| varies(name)).for_each(|(_, value)| value.clear());
        self
    }
}

/// A request in the making.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    addr: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    chunked: bool,
}

pub(crate) fn request(addr: SocketAddr, method: &str, path: &str) -> Request {
    let (method, path) = (method.to_owned(), path.to_owned());
    Request { addr, method, path, headers: Vec::new(), body: None, chunked: false }
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends the body without saying how long it is.
    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let stream = TcpStream::connect(self.addr).await.expect("the edge accepts");
        self.send_on(stream).await
    }

    /// As [`Request::send`], by a caller who reads nothing before everything is sent, and little of it fits on the way.
    pub(crate) async fn send_all_first(self) -> Answer {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_send_buffer_size(8 * 1024).expect("a small buffer");
        let mut stream = socket.connect(self.addr).await.expect("the edge accepts");
        stream.write_all(&self.bytes()).await.expect("nobody hangs up meanwhile");
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).await.expect("an answer, and then the end of the connection");
        parse(&raw, false)
    }

    async fn send_on(self, mut stream: TcpStream) -> Answer {
        let head_only = self.method == "HEAD";
        // A server may refuse before it has read everything; what it said is then there to be read.
        let _ = stream.write_all(&self.bytes()).await;
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).await.expect("an answer, and then the end of the connection");
        parse(&raw, head_only)
    }

    fn bytes(&self) -> Vec<u8> {
        let body = self.body.clone().unwrap_or_default();
        let mut headers = vec![("host", "edge".to_owned()), ("connection", "close".to_owned())];
        headers.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let body = if self.chunked {
            headers.push(("transfer-encoding", "chunked".to_owned()));
            chunks(&body)
        } else {
            headers.extend(self.body.as_ref().map(|body| ("content-length", body.len().to_string())));
            body
        };
        let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let line = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        [line.as_bytes(), headers.concat().as_bytes(), b"\r\n", &body].concat()
    }
}

fn chunks(body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    for chunk in body.chunks(8000) {
        framed.extend(format!("{:x}\r\n", chunk.len()).bytes());
        framed.extend(chunk);
        framed.extend(b"\r\n");
    }
    framed.extend(b"0\r\n\r\n");
    framed
}

fn parse(raw: &[u8], head_only: bool) -> Answer {
    let shown = || String::from_utf8_lossy(raw).into_owned();
    let end =
        raw.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer: {:?}", shown()));
    let head = std::str::from_utf8(&raw[..end]).expect("a head is text");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
        (name.to_owned(), value.to_owned())
    });
    let answer = Answer {
        status: status.parse().expect("a status is a number"),
        headers: headers.collect(),
        body: raw[end + 4..].to_vec(),
    };
    if let Some(length) = answer.header("content-length").filter(|_| !head_only) {
        assert_eq!(length.parse(), Ok(answer.body.len()), "{}", shown());
    }
    answer
}
