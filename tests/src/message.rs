//! Requests as those read them who are sent some: a target, a collector.

use std::io::{self, BufRead, Read};

/// Headers that a request may have.
const HEADERS_MAX: usize = 64;

/// Longest head and longest body that are read.
const HEAD_BYTES_MAX: u64 = 1 << 20;
const BODY_BYTES_MAX: u64 = 64 << 20;

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Head {
    /// As it came.
    pub method: String,
    /// As it came.
    pub path: String,
    /// In order, names lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads one, up to the empty line.
    ///
    /// # Errors
    /// When the connection ends before, or it is none.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let mut head = Vec::new();
        let mut bounded = reader.take(HEAD_BYTES_MAX);
        while !head.ends_with(b"\r\n\r\n") {
            if bounded.read_until(b'\n', &mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut slots);
        request.parse(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let one = |header: &httparse::Header<'_>| {
            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
        };
        Ok(Self {
            method: request.method.unwrap_or_default().to_owned(),
            path: request.path.unwrap_or_default().to_owned(),
            headers: request.headers.iter().map(one).collect(),
        })
    }

    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Reads the body that follows, of the length that the head says.
    ///
    /// # Errors
    /// When the connection breaks, or ends before.
    pub fn read_body(&self, reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
        let length = self.body_bytes();
        let mut body = Vec::new();
        reader.take(length.min(BODY_BYTES_MAX)).read_to_end(&mut body)?;
        if (body.len() as u64) < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(body) }
    }

    /// Reads it and keeps nothing of it; gives how long it was, of any length.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn skip_body(&self, reader: &mut impl BufRead) -> io::Result<u64> {
        io::copy(&mut reader.take(self.body_bytes()), &mut io::sink())
    }

    fn body_bytes(&self) -> u64 {
        self.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}
