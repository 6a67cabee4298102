//! The upstream: writes down all that reaches it, and says what a case wants it to say.
//!
//! A request is written down without what this node adds to every request, so that anything else shows: the first of each
//! header of [`Added`] goes where it has exactly the value it must have, and `-Name` stands for one that is missing. A body in
//! chunks is written down as its data, then its trailers if it has any. What ended early ends with [`CUT`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use equipoise_tests::PATIENCE;

use crate::bytes::Step;

/// Ends what was not sent to its end.
pub(crate) const CUT: &[u8] = b" (cut)";

/// Begins what follows a 101.
const TUNNEL: &[u8] = b"tunnel: ";

const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
const GOOD_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";

/// More than any request of the data is long.
const REQUEST_BYTES_MAX: usize = 32 << 20;

/// What a case wants the upstream to say.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) steps: Vec<Step>,
    pub(crate) is_reusable: bool,
}

/// Something that reached the upstream.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) at: Instant,
    /// Whom X-Real-IP names.
    pub(crate) client: Option<Ipv4Addr>,
    pub(crate) text: Vec<u8>,
    /// Whether the connection had carried a reply after which it is of no use.
    pub(crate) is_on_spoilt_connection: bool,
}

/// A running upstream.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    port: u16,
    replies: HashMap<Ipv4Addr, Reply>,
    /// All of them, and the one where TLS is spoken.
    proxy_ports: Mutex<(Vec<u16>, u16)>,
    records: Mutex<Vec<Record>>,
}

impl Upstream {
    /// Starts one that says this to requests of these clients.
    pub(crate) fn start(replies: HashMap<Ipv4Addr, Reply>) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let port = address.port();
        let shared =
            Arc::new(Shared { port, replies, proxy_ports: Mutex::default(), records: Mutex::default() });
        let each = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&each);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self { address, shared })
    }

    /// Where clients reach the node, as X-Forwarded-Port names it; `tls` is among them.
    pub(crate) fn expect_ports(&self, ports: Vec<u16>, tls: u16) {
        *self.shared.proxy_ports.lock().expect("no panic while held") = (ports, tls);
    }

    /// All that reached it, in order of arrival.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.shared.records.lock().expect("no panic while held").clone()
    }
}

/// One connection of the node.
struct Line {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A request as it came.
struct Request {
    head: Vec<u8>,
    body: Vec<u8>,
    is_whole: bool,
}

fn serve(stream: TcpStream, shared: &Shared) {
    // Errors here end the connection, as they would one of a real upstream.
    drop(stream.set_read_timeout(Some(PATIENCE * 2)));
    drop(stream.set_nodelay(true));
    let mut line = Line { stream, unread: Vec::new() };
    let mut is_spoilt = false;
    while let Some(request) = line.read_request() {
        let client = value(&request.head, "x-real-ip").and_then(|value| value.parse().ok());
        let text = shared.write_down(&request, client);
        shared.record(Record { at: Instant::now(), client, text, is_on_spoilt_connection: is_spoilt });
        if !request.is_whole {
            return;
        }
        let reply = client.and_then(|client| shared.replies.get(&client));
        let is_asked_for = first_line(&request.head).split(' ').nth(1).is_some_and(|path| path != "/good");
        let Some(reply) = reply.filter(|_| is_asked_for) else {
            let is_head = request.head.starts_with(b"HEAD ");
            if line.stream.write_all(if is_head { GOOD_HEAD } else { GOOD }).is_err() {
                return;
            }
            continue;
        };
        is_spoilt = !reply.is_reusable;
        let is_over = line.play(&reply.steps);
        let is_tunnel =
            matches!(reply.steps.first(), Some(Step::Send(bytes)) if bytes.starts_with(b"HTTP/1.1 101"));
        if is_tunnel {
            while line.more() {}
            if !line.unread.is_empty() {
                let text = [TUNNEL, &line.unread].concat();
                shared.record(Record { at: Instant::now(), client, text, is_on_spoilt_connection: false });
            }
        }
        if is_tunnel || is_over {
            return;
        }
    }
}

impl Line {
    fn more(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.unread.extend_from_slice(&bytes[..length]);
                self.unread.len() <= REQUEST_BYTES_MAX
            }
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        self.unread.drain(..length).collect()
    }

    /// Up to and with `end`; if that does not come, all there is.
    fn take_until(&mut self, end: &[u8]) -> (Vec<u8>, bool) {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return (self.take(at + end.len()), true);
            }
            if !self.more() {
                return (self.take(self.unread.len()), false);
            }
        }
    }

    fn take_exactly(&mut self, length: usize) -> (Vec<u8>, bool) {
        while self.unread.len() < length {
            if !self.more() {
                return (self.take(self.unread.len()), false);
            }
        }
        (self.take(length), true)
    }

    /// `None` when the connection ends between requests.
    fn read_request(&mut self) -> Option<Request> {
        let (head, is_whole) = self.take_until(b"\r\n\r\n");
        if head.is_empty() {
            return None;
        }
        let mut request = Request { head, body: Vec::new(), is_whole };
        if !is_whole {
            return Some(request);
        }
        if let Some(length) = value(&request.head, "content-length") {
            (request.body, request.is_whole) = self.take_exactly(length.parse().ok()?);
        } else if value(&request.head, "transfer-encoding").is_some() {
            request.is_whole = self.read_chunks(&mut request.body);
        }
        Some(request)
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let (size, is_whole) = self.take_until(b"\r\n");
            let size = String::from_utf8_lossy(&size).trim_end().to_owned();
            let Ok(length) = usize::from_str_radix(&size, 16) else { return false };
            if !is_whole {
                return false;
            }
            if length == 0 {
                break;
            }
            let (mut data, is_whole) = self.take_exactly(length + 2);
            data.truncate(length);
            body.append(&mut data);
            if !is_whole {
                return false;
            }
        }
        loop {
            let (trailer, is_whole) = self.take_until(b"\r\n");
            if !is_whole || trailer == b"\r\n" {
                return is_whole;
            }
            body.extend_from_slice(&trailer);
        }
    }

    /// Whether the connection ended with it.
    fn play(&mut self, steps: &[Step]) -> bool {
        for step in steps {
            match step {
                Step::Send(bytes) if self.stream.write_all(bytes).is_err() => return true,
                Step::Send(_) | Step::Await(_) => {}
                Step::Pause(pause) => std::thread::sleep(*pause),
                Step::End => {
                    drop(self.stream.shutdown(Shutdown::Write));
                    // Until the node has closed as well, so that nothing is reset.
                    drop(self.stream.set_read_timeout(Some(Duration::from_secs(5))));
                    while self.more() {
                        self.unread.clear();
                    }
                    return true;
                }
                Step::Reset => {
                    drop(socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
                    return true;
                }
            }
        }
        false
    }
}

impl Shared {
    fn record(&self, record: Record) {
        self.records.lock().expect("no panic while held").push(record);
    }

    fn write_down(&self, request: &Request, client: Option<Ipv4Addr>) -> Vec<u8> {
        let mut missing: Vec<&Added> = ADDED.iter().collect();
        let mut text = Vec::new();
        for line in request.head.split_inclusive(|byte| *byte == b'\n') {
            let shown = String::from_utf8_lossy(line);
            let is_added = shown.trim_end().split_once(": ").and_then(|(name, value)| {
                missing.iter().position(|added| {
                    added.name == name && self.is_right(added, value, client, &request.head)
                })
            });
            match is_added {
                Some(at) => drop(missing.remove(at)),
                None => text.extend_from_slice(line),
            }
        }
        if request.is_whole {
            let end = text.len() - 2;
            let missing: String = missing.iter().map(|added| format!("-{}\r\n", added.name)).collect();
            text.splice(end..end, missing.into_bytes());
        }
        text.extend_from_slice(&request.body);
        if !request.is_whole {
            text.extend_from_slice(CUT);
        }
        text
    }

    fn is_right(&self, added: &Added, value: &str, client: Option<Ipv4Addr>, head: &[u8]) -> bool {
        match added.value {
            Value::Is(wanted) => value == wanted,
            Value::Client => client.is_some_and(|client| client.to_string() == value),
            Value::OwnAddress => value == format!("127.0.0.1:{}", self.port),
            Value::ProxyPort => {
                let (ports, _) = &*self.proxy_ports.lock().expect("no panic while held");
                value.parse().is_ok_and(|port| ports.contains(&port))
            }
            Value::Scheme => {
                let (_, tls) = &*self.proxy_ports.lock().expect("no panic while held");
                let is_tls = self::value(head, "x-forwarded-port") == Some(tls.to_string());
                value == if is_tls { "https" } else { "http" }
            }
            Value::Path => value.starts_with('/') && !value.contains(' '),
            Value::Via => value.split_once(' ').is_some_and(|(version, by)| {
                matches!(version, "1" | "1.1" | "2") && by.starts_with("kong/") && !by.contains([',', ' '])
            }),
            Value::Id => value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
        }
    }
}

/// A header that every request has by this node.
struct Added {
    name: &'static str,
    value: Value,
}

enum Value {
    Is(&'static str),
    Client,
    OwnAddress,
    ProxyPort,
    Scheme,
    Path,
    Via,
    Id,
}

const ADDED: &[Added] = &[
    Added { name: "Host", value: Value::OwnAddress },
    Added { name: "Connection", value: Value::Is("keep-alive") },
    Added { name: "X-Real-IP", value: Value::Client },
    Added { name: "X-Forwarded-For", value: Value::Client },
    Added { name: "X-Forwarded-Proto", value: Value::Scheme },
    Added { name: "X-Forwarded-Host", value: Value::Is("a.com") },
    Added { name: "X-Forwarded-Port", value: Value::ProxyPort },
    Added { name: "X-Forwarded-Path", value: Value::Path },
    Added { name: "Via", value: Value::Via },
    Added { name: "X-Kong-Request-Id", value: Value::Id },
];

fn first_line(head: &[u8]) -> String {
    String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned()
}

/// The last value of a header: what the node adds comes after what clients send.
fn value(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).into_owned();
    let lines = text.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).last().map(|(_, value)| value.to_owned())
}
