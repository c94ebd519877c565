//! A bare HTTP/1 client: it sends what it is told to, right or wrong, and repairs nothing.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// As it goes over the wire, but for `Host` and `Content-Length`, which are added when they are not there.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) version: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
    /// The body is sent after `100 Continue`.
    pub(crate) waits_for_continue: bool,
}

pub(crate) enum Body {
    None,
    Whole(Vec<u8>),
    /// In chunks of these sizes, and the rest as the last.
    Chunked {
        bytes: Vec<u8>,
        sizes: Vec<usize>,
    },
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

impl Request {
    pub(crate) fn new(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Self {
        Self {
            method: method.into(),
            path: path.into(),
            version: "1.1".into(),
            headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            body: body.map_or(Body::None, |body| Body::Whole(body.to_vec())),
            waits_for_continue: false,
        }
    }

    fn head(&self) -> Vec<u8> {
        let has = |name: &str| self.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let mut head = format!("{} {} HTTP/{}\r\n", self.method, self.path, self.version);
        let mut header = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        if !has("host") {
            header("Host", "127.0.0.1");
        }
        for (name, value) in &self.headers {
            header(name, value);
        }
        let length = match &self.body {
            Body::Whole(bytes) => Some(bytes.len()),
            Body::Chunked { .. } => None,
            Body::None => ["POST", "PUT"].contains(&self.method.as_str()).then_some(0),
        };
        match length {
            Some(length) if !has("content-length") => header("Content-Length", &length.to_string()),
            None if matches!(self.body, Body::Chunked { .. }) && !has("transfer-encoding") => {
                header("Transfer-Encoding", "chunked");
            }
            _ => {}
        }
        if self.waits_for_continue && !has("expect") {
            header("Expect", "100-continue");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn payload(&self) -> Vec<u8> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Whole(bytes) => bytes.clone(),
            Body::Chunked { bytes, sizes } => {
                let (mut payload, mut rest) = (Vec::new(), bytes.as_slice());
                for size in sizes.iter().copied().chain([usize::MAX]) {
                    let (chunk, after) = rest.split_at(size.min(rest.len()));
                    if !chunk.is_empty() {
                        payload.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                        payload.extend_from_slice(chunk);
                        payload.extend_from_slice(b"\r\n");
                    }
                    rest = after;
                }
                payload.extend_from_slice(b"0\r\n\r\n");
                payload
            }
        }
    }
}

/// A connection to the service.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request and reads its answer.
    pub(crate) fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        self.send(&request.head())?;
        if request.waits_for_continue {
            self.0.get_ref().set_read_timeout(Some(Duration::from_secs(5)))?;
            let interim = self.read_head()?;
            self.0.get_ref().set_read_timeout(Some(Duration::from_secs(30)))?;
            if interim.status != 100 {
                return self.read_body(interim, request);
            }
        }
        // A service that refuses a body may close before it has come; the answer is there all the same.
        let sent = self.send(&request.payload());
        let answer = self.read_answer(request);
        if answer.is_err() {
            sent?;
        }
        answer
    }

    /// Whether the service closes the connection, soon.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.0.get_ref().set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.0.get_mut();
        stream.write_all(bytes)?;
        stream.flush()
    }

    fn read_answer(&mut self, request: &Request) -> io::Result<Answer> {
        loop {
            let head = self.read_head()?;
            if head.status != 100 {
                return self.read_body(head, request);
            }
        }
    }

    fn read_head(&mut self) -> io::Result<Answer> {
        let bad = |line: &[u8]| io::Error::other(format!("not HTTP: {:?}", String::from_utf8_lossy(line)));
        let line = self.read_line()?;
        let status = line.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
        let status = status.filter(|_| line.starts_with(b"HTTP/1.")).ok_or_else(|| bad(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok(Answer { status, headers, body: Vec::new() });
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| bad(&line))?;
            let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
            headers.push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line)?;
        let line = line.strip_suffix(b"\r\n").map(<[u8]>::to_vec);
        line.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn read_body(&mut self, mut answer: Answer, request: &Request) -> io::Result<Answer> {
        if request.method == "HEAD" || [204, 304].contains(&answer.status) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.read_line()?;
                let size = usize::from_str_radix(&String::from_utf8_lossy(&line), 16).map_err(io::Error::other)?;
                let mut chunk = vec![0; size + 2];
                self.0.read_exact(&mut chunk)?;
                answer.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        match answer.header("content-length") {
            Some(length) => {
                answer.body = vec![0; length.parse().map_err(io::Error::other)?];
                self.0.read_exact(&mut answer.body)?;
            }
            None => drop(self.0.read_to_end(&mut answer.body)?),
        }
        Ok(answer)
    }
}
