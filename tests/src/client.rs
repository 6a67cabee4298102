//! A small blocking HTTP/1.1 client that reports every failure and never retries by itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than any answer takes when all is well.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Most headers an answer may have.
const HEADERS_MAX: usize = 64;

/// One client; keeps one connection alive.
pub struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// In order, names lower case.
    pub headers: Vec<(String, String)>,
    /// Decoded from chunks if need be.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

impl Client {
    /// A client of `address`, not connected yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// GET.
    ///
    /// # Errors
    /// Whatever goes wrong on the wire.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send("GET", path, &[], b"")
    }

    /// A request with a form, as `curl --data` sends it.
    ///
    /// # Errors
    /// Whatever goes wrong on the wire.
    pub fn form(&mut self, method: &str, path: &str, form: &str) -> io::Result<Response> {
        self.send(method, path, &[("Content-Type", "application/x-www-form-urlencoded")], form.as_bytes())
    }

    /// A request with a JSON body.
    ///
    /// # Errors
    /// Whatever goes wrong on the wire.
    pub fn json(&mut self, method: &str, path: &str, body: &Value) -> io::Result<Response> {
        self.send(method, path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// Any request, for the host that it connects to where the headers name none. The connection is kept if the answer allows it.
    ///
    /// # Errors
    /// Whatever goes wrong on the wire.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                BufReader::new(stream)
            }
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        stream.get_mut().write_all(&bytes)?;
        let (response, is_kept) = read(&mut stream, method)?;
        if is_kept {
            self.stream = Some(stream);
        }
        Ok(response)
    }
}

fn read(stream: &mut BufReader<TcpStream>, method: &str) -> io::Result<(Response, bool)> {
    loop {
        let head = read_head(stream)?;
        let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut slots);
        parsed.parse(&head).map_err(invalid)?;
        let status = parsed.code.unwrap_or_default();
        if (100..200).contains(&status) {
            continue;
        }
        let is_old = parsed.version == Some(0);
        let headers: Vec<_> = parsed
            .headers
            .iter()
            .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        let has_body = method != "HEAD" && status != 204 && status != 304;
        let mut is_kept = !is_old && response.header("connection").is_none_or(|v| !v.contains("close"));
        if has_body {
            if response.header("transfer-encoding").is_some() {
                response.body = read_chunks(stream)?;
            } else if let Some(length) = response.header("content-length") {
                let length: usize = length.parse().map_err(invalid)?;
                response.body = vec![0; length];
                stream.read_exact(&mut response.body)?;
            } else {
                stream.read_to_end(&mut response.body)?;
                is_kept = false;
            }
        }
        return Ok((response, is_kept));
    }
}

fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        if stream.read_until(b'\n', &mut head)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a whole head"));
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(head);
        }
    }
}

fn read_chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = line.trim().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(invalid)?;
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..])?;
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
            if line.is_empty() || size > 0 {
                return Err(invalid("a chunk does not end where it should"));
            }
        }
        if size == 0 {
            return Ok(body);
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
