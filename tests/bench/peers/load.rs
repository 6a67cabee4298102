//! What sends requests, and what it says of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use equipoise_tests::tls::{SCHEMES, client};
use rustls::{ClientConnection, StreamOwned};

use crate::programs::{Peer, load_cpus};
use crate::usage::connections_max;
use crate::{CONNECTIONS, SECONDS};

/// What a WebSocket client asks, and the only answer to its key (RFC 6455 section 1.3).
const UPGRADE: &[u8] = b"GET /echo HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A masked text frame of 128 bytes: two octets of head, two of length, four of mask.
const FRAME: [u8; 136] = {
    let mut frame = [b'x'; 136];
    (frame[0], frame[1], frame[2], frame[3]) = (0x81, 0xfe, 0, 128);
    frame
};

/// One way of sending requests.
pub enum Load {
    /// By wrk: HTTP/1.1, with a script.
    Http1 { tls: bool, path: &'static str, script: &'static str },
    /// By h2load: HTTP/2 over TLS, so many streams at a time on each connection.
    Http2 { path: &'static str, connections: u32, streams: u32 },
    /// Messages of a WebSocket there and back: all connections send one, then all read theirs.
    Echo,
}

impl Load {
    /// Sends for [`SECONDS`], and says how many requests were answered.
    pub fn run(&self, dir: &Path, peer: &Peer) -> Result<u64> {
        let seconds = SECONDS.to_string();
        let requests = match self {
            Self::Http1 { tls, path, script } => {
                let file = dir.join("case.lua");
                std::fs::write(&file, script)?;
                let url = if *tls {
                    format!("https://{}{path}", peer.tls)
                } else {
                    format!("http://{}{path}", peer.plain)
                };
                let file = file.to_str().context("a path in UTF-8")?;
                let text = run(&[
                    "wrk",
                    "-t1",
                    &format!("-c{CONNECTIONS}"),
                    &format!("-d{seconds}s"),
                    "-s",
                    file,
                    &url,
                ])?;
                let is_good = !text.contains("Non-2xx") && !text.contains("Socket errors");
                ensure!(is_good, "{} answered with errors:\n{text}", peer.name);
                number(&text, |line| line.split_once(" requests in ").map(|(number, _)| number))?
            }
            Self::Http2 { path, connections, streams } => {
                let url = format!("https://{}{path}", peer.tls);
                let text = run(&[
                    "h2load",
                    "-t1",
                    &format!("-c{connections}"),
                    &format!("-m{streams}"),
                    "-D",
                    &seconds,
                    &url,
                ])?;
                let is_good = text.contains(", 0 3xx, 0 4xx, 0 5xx") && text.contains(" 0 failed, 0 errored");
                ensure!(is_good, "{} answered with errors:\n{text}", peer.name);
                number(&text, |line| line.strip_prefix("status codes: ")?.split_once(" 2xx").map(|(n, _)| n))?
            }
            Self::Echo => echo(peer).with_context(|| peer.name.clone())?,
        };
        ensure!(requests > 0, "{} answered nothing", peer.name);
        Ok(requests)
    }
}

fn run(words: &[&str]) -> Result<String> {
    let output = Command::new("taskset").args(["-c", &load_cpus()]).args(words).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}: {text}{}", words[0], String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

fn number(text: &str, of: impl Fn(&str) -> Option<&str>) -> Result<u64> {
    text.lines()
        .find_map(|line| of(line.trim())?.parse().ok())
        .with_context(|| format!("no count in:\n{text}"))
}

/// Begins to send WebSocket messages back, on a thread for each connection, to the end of the process.
pub fn echo_origin() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || send_back(stream));
        }
    });
    Ok(address)
}

fn send_back(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    if stream.set_nodelay(true).is_err() || head(&mut stream).is_err() || stream.write_all(UPGRADED).is_err()
    {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Reads to the end of a head, and no further.
fn head(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

fn echo(peer: &Peer) -> Result<u64> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(peer.plain)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(UPGRADE)?;
        let answer = head(&mut stream)?;
        ensure!(answer.starts_with(b"HTTP/1.1 101 "), "{}: {}", peer.name, String::from_utf8_lossy(&answer));
        streams.push(stream);
    }
    let end = Instant::now() + Duration::from_secs(u64::from(SECONDS));
    let (mut messages, mut buffer) = (0, FRAME);
    while Instant::now() < end {
        for stream in &mut streams {
            stream.write_all(&FRAME)?;
        }
        for stream in &mut streams {
            stream.read_exact(&mut buffer)?;
        }
        messages += u64::from(CONNECTIONS);
    }
    ensure!(buffer == FRAME, "{} changed a message", peer.name);
    Ok(messages)
}

/// Sends requests at a constant rate over [`CONNECTIONS`], and says how long each took from when it was due, not
/// from when it was sent: a stall counts for all that it held up.
pub fn steady(peer: &Peer, per_second: u64) -> Result<Vec<Duration>> {
    let interval = Duration::from_secs_f64(f64::from(CONNECTIONS) / f64::from(u32::try_from(per_second)?));
    let begin = Instant::now() + Duration::from_millis(100);
    let end = begin + Duration::from_secs(u64::from(SECONDS));
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|at| {
            let address = peer.plain;
            let first = begin + interval.mul_f64(f64::from(at) / f64::from(CONNECTIONS));
            std::thread::spawn(move || -> Result<Vec<Duration>> {
                let mut stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let (mut due, mut took) = (first, Vec::new());
                while due < end {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    one(&mut stream)?;
                    took.push(due.elapsed());
                    due += interval;
                }
                Ok(took)
            })
        })
        .collect();
    let mut all = Vec::new();
    for thread in threads {
        let took = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        all.extend(took.with_context(|| peer.name.clone())?);
    }
    all.sort_unstable();
    Ok(all)
}

/// One GET of 128 bytes.
fn one(stream: &mut (impl Read + Write)) -> Result<()> {
    stream.write_all(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(&[b'x'; 128]) {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("closed a connection"),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Opens so many connections, has one request answered on each, and holds them.
pub fn idle(peer: &Peer, count: usize) -> Result<Vec<TcpStream>> {
    hold(peer, count, peer.plain, |mut stream| {
        one(&mut stream)?;
        Ok(stream)
    })
}

/// The same over TLS; what the client keeps of it is dropped.
pub fn idle_tls(peer: &Peer, count: usize) -> Result<Vec<TcpStream>> {
    let config = client(None, &[], SCHEMES);
    hold(peer, count, peer.tls, |stream| {
        let connection = ClientConnection::new(Arc::clone(&config), "localhost".try_into()?)?;
        let mut stream = StreamOwned::new(connection, stream);
        one(&mut stream)?;
        Ok(stream.sock)
    })
}

fn hold(
    peer: &Peer,
    count: usize,
    address: SocketAddr,
    mut ask: impl FnMut(TcpStream) -> Result<TcpStream>,
) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count.min(connections_max()? - 100) {
        let Ok(stream) = TcpStream::connect(address) else { break };
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        held.push(ask(stream).with_context(|| peer.name.clone())?);
    }
    ensure!(held.len() >= 100, "{} took only {} connections", peer.name, held.len());
    Ok(held)
}
