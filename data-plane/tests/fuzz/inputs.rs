//! Inputs: good messages with parts put in, taken out, repeated and altered, so that they get past the first line.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// An endless series of inputs; of one seed always the same.
pub struct Inputs {
    rng: StdRng,
    wholes: &'static [&'static [u8]],
    parts: &'static [&'static [u8]],
}

impl Inputs {
    pub fn requests(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), wholes: REQUESTS, parts: PARTS }
    }

    pub fn responses(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), wholes: RESPONSES, parts: PARTS }
    }

    pub fn paths(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), wholes: PATHS, parts: PATH_PARTS }
    }

    pub fn proxy_headers(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), wholes: PROXY_HEADERS, parts: PROXY_PARTS }
    }

    pub fn client_hellos(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), wholes: CLIENT_HELLOS, parts: HELLO_PARTS }
    }

    fn pick(&mut self, of: &'static [&'static [u8]]) -> &'static [u8] {
        of[self.rng.random_range(0..of.len())]
    }

    /// The next one.
    pub fn next(&mut self) -> Vec<u8> {
        let mut input = Vec::new();
        for _ in 0..self.rng.random_range(1..=3) {
            input.extend_from_slice(self.pick(self.wholes));
        }
        for _ in 0..self.rng.random_range(0..=4) {
            self.alter(&mut input);
        }
        input
    }

    fn alter(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.random_range(0..=input.len());
        let end = (at + self.rng.random_range(0..12)).min(input.len());
        match self.rng.random_range(0..8) {
            0..=3 => {
                let part = self.pick(self.parts);
                input.splice(at..at, part.iter().copied());
            }
            4 => drop(input.drain(at..end)),
            5 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            6 => input.insert(at, self.rng.random()),
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << self.rng.random_range(0..8);
                }
            }
        }
    }
}

const REQUESTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/b?c=d HTTP/1.1\r\nHost: a.com:80\r\nX: y\r\nX: z\r\n\r\n",
    b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    b"OPTIONS http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
];

const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3;a\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
    b"HTTP/1.1 404 \r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 500 No\r\nConnection: close\r\n\r\nbroken",
];

const PARTS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b":",
    b",",
    b";",
    b"0\r\n\r\n",
    b"5\r\n",
    b"ffffffffffffffff\r\n",
    b"00000000000000005\r\n",
    b"5;\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 6\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length : 5\r\n",
    b"content-length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"transfer-encoding:\tChunked \r\n",
    b"Transfer-Encoding: x\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Host: b\r\n",
    b"X: a\r\n b\r\n",
    b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"CONNECT",
    b"101",
    b"204",
    b"304",
    b"#",
    b"?",
    b"http://a",
    b"//",
    b"%00",
    b"*",
    b"-",
    b"hello",
];

const PROXY_HEADERS: &[&[u8]] = &[
    b"PROXY TCP4 9.9.9.9 127.0.0.1 4369 80\r\n",
    b"PROXY TCP6 ::9 ::1 4369 80\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x09\x09\x09\x09\x7f\x00\x00\x01\x11\x11\x00\x50",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11\x09\x09\x09\x09\x7f\x00\x00\x01\x11\x11\x00\x50\x04\x00\x02ab",
];

const PROXY_PARTS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"PROXY ",
    b"TCP4",
    b"TCP6",
    b"UNKNOWN",
    b"0",
    b"65536",
    b"::",
    b"1.2.3.4",
    b"\0",
    b"\xff\xff",
    b"\x03\x00\x04",
    b"\x21\x11",
    b"\x20",
    b"\x00\x0c",
    b"\x31",
    b"GET / HTTP/1.1\r\n\r\n",
];

const PATHS: &[&[u8]] = &[
    b"a/b",
    b"a/../b",
    b"a/./b",
    b"a//b",
    b"a%2Fb",
    b"a/b;c=d/e",
    b"caf%C3%A9",
    b"a%20b",
    b"r./x",
    b"r../x",
    b"a%25b",
    b"users/42/profile",
    b"",
    b"a/b/",
    b"a\\b",
    b"a?b",
];

const PATH_PARTS: &[&[u8]] = &[
    b".",
    b"..",
    b"/",
    b"//",
    b"/./",
    b"/../",
    b"..;",
    b";",
    b";a=b",
    b"\\",
    b"..\\",
    b"%2e",
    b"%2E%2e",
    b"%2f",
    b"%2F",
    b"%5c",
    b"%5C",
    b"%3b",
    b"%3B",
    b"%25",
    b"%252e",
    b"%252f",
    b"%00",
    b"%",
    b"%2",
    b"%zz",
    b"%c0%ae",
    b"%41",
    b"%7e",
    b"*",
    b"!",
    b"[",
    b"|",
    b"\"",
    b"?",
    b"#",
    b"\xc3\xa9",
    b"\xff",
    b"%ff",
    b"%3f",
    b"%23",
    b"a",
    b"srv",
    b"..a",
    b"a..",
];

/// With a name or without, of TLS 1.2 and 1.3, in one record and in several.
const CLIENT_HELLOS: &[&[u8]] = &[
    b"\x16\x03\x01\0\x82\x01\0\0~\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
      \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x04\x13\x01\xc0+\x01\0\0Q\0\0\
      \0\x0a\0\x08\0\0\x05a.com\0\x0a\0\x04\0\x02\0\x1d\0\x0d\0\x06\0\x04\x04\x03\
      \x08\x04\0+\0\x03\x02\x03\x04\x003\0&\0$\0\x1d\0\x20\x01\x02\x03\x04\x05\x06\x07\x08\x09\
      \x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20",
    b"\x16\x03\x01\0<\x01\0\0\x86\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
      \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x04\x13\x01\xc0+\x01\0\0Y\0\x0a\
      \0\x04\0\x02\0\x1d\0\x0d\0\x16\x03\x01\0<\x06\0\x04\x04\x03\x08\x04\0+\0\x03\x02\x03\x04\
      \x003\0&\0$\0\x1d\0\x20\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\
      \x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20\0\0\0\x12\x16\x03\x01\0\x12\0\x10\0\0\x0d\
      A.Example.com",
    b"\x16\x03\x01\0R\x01\0\0N\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
      \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x02\xc0+\x01\0\0#\0\x0a\0\x04\
      \0\x02\0\x1d\0\x0d\0\x06\0\x04\x04\x03\x08\x04\0\0\0\x0d\0\x0b\0\0\x08a_b.t\
      est",
    b"\x16\x03\x01\0t\x01\0\0p\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
      \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x04\x13\x01\xc0+\x01\0\0C\0\x0a\
      \0\x04\0\x02\0\x1d\0\x0d\0\x06\0\x04\x04\x03\x08\x04\0+\0\x03\x02\x03\x04\x003\0&\0\
      $\0\x1d\0\x20\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\
      \x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20",
    b"\x16\x03\x01\0\x86\x01\0\0\x82\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
      \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x04\x13\x01\xc0+\x01\0\0U\0\0\
      \0\x0e\0\x0c\0\0\x09127.0.0.1\0\x0a\0\x04\0\x02\0\x1d\0\x0d\0\x06\
      \0\x04\x04\x03\x08\x04\0+\0\x03\x02\x03\x04\x003\0&\0$\0\x1d\0\x20\x01\x02\x03\x04\x05\
      \x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20",
    b"\x16\x03\x01\0(\x01\0\0\x7f\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
      \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x16\x03\x01\0(\x04\x13\x01\xc0+\x01\
      \0\0R\0\0\0\x0b\0\x09\0\0\x06a.com.\0\x0a\0\x04\0\x02\0\x1d\0\x0d\
      \0\x06\0\x04\x04\x03\x16\x03\x01\0(\x08\x04\0+\0\x03\x02\x03\x04\x003\0&\0$\0\x1d\
      \0\x20\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x03\x01\0\x0b\
      \x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20",
    b"\x16\x03\x01\0-\x01\0\0)\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\
      \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\0\0\x02\xc0+\x01\0",
];

const HELLO_PARTS: &[&[u8]] = &[
    b"\x16\x03\x01",
    b"\x16\x03\x03\0\x05",
    b"\x17\x03\x03\0\x01a",
    b"\x15\x03\x01\0\x02\x01\0",
    b"\x14\x03\x03\0\x01\x01",
    b"\x01",
    b"\0",
    b"\xff",
    b"\xff\xff",
    b"\0\0",
    b"\0\x01",
    b"\0\x05",
    b"\0\0\0\x0a\0\x08\0\0\x05b.com",
    b"\0\0\0\x05\0\x03\0\0\0",
    b"\0\0\0\x08\0\x06\0\0\x03a b",
    b"\0\0\0\x07\0\x05\0\0\x02\xc3\xa9",
    b"\0\0\0\0",
    b"\0\0\0\x06\0\x04\x01\0\x01x",
    b"b.com",
    b".",
    b"..",
    b"*",
    b"_",
    b"\0\x10\0\x05\0\x03\x02h2",
    b"\0+\0\x03\x02\x03\x04",
    b"GET / HTTP/1.1\r\n",
];
