//! Sending a case, and judging what its client sees.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, Error};
use socket2::{Domain, Socket, Type};

use crate::answers::{Answer, answers};
use crate::bytes::{Step, show};
use crate::case::{Case, End, Port};
use crate::frames::{self, Scheme};

/// Longest wait for anything that the node does. Its own deadlines are shorter.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of a client that reads late: what is in nobody's buffer soon waits in the node.
const SMALL_WINDOW: usize = 4 * 1024;

/// What is sent to see that the node still serves.
const GOOD: &[u8] = b"GET /good HTTP/1.1\r\nHost: a.com\r\n\r\n";

/// The stream of a good request over HTTP/2: higher than any of the data.
const GOOD_STREAM: u32 = 1_000_001;
const GOOD_EVENT: &str = "1000001:200";

/// Sends a case, by TLS if `tls` says how, and a good request after it.
///
/// # Errors
/// Says what is not as required.
pub(crate) fn run(
    case: &Case,
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    clear: SocketAddr,
) -> Result<(), String> {
    let judged = send(case, address, tls);
    let good = good(case.client, clear).map_err(|error| format!("a good request after it: {error}"));
    judged.and(good)
}

fn good(client: Ipv4Addr, clear: SocketAddr) -> Result<(), String> {
    let mut line = Line::connect(client, clear, None, false).map_err(|error| error.to_string())?;
    line.write(GOOD);
    line.wait(|heard| {
        heard.has_ended || matches!(heard.answers(false).as_deref(), Ok([one]) if one.is_whole)
    });
    match line.heard().answers(false)?.as_slice() {
        [one] if one.status == 200 => Ok(()),
        other => Err(format!("answered by {other:?}")),
    }
}

fn send(case: &Case, address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Result<(), String> {
    let line = Line::connect(case.client, address, tls, case.reads_late);
    let mut line = line.map_err(|error| error.to_string())?;
    let is_head = matches!(case.send.first(), Some(Step::Send(bytes)) if bytes.starts_with(b"HEAD "));
    for step in &case.send {
        match step {
            Step::Send(bytes) => line.write(bytes),
            Step::Pause(pause) => std::thread::sleep(*pause),
            Step::Await(count) if case.is_frames => line.wait(|heard| {
                heard.has_ended || frames::events(&heard.bytes).is_ok_and(|found| found.len() >= *count)
            }),
            Step::Await(count) => line.wait(|heard| {
                heard.has_ended || heard.answers(is_head).is_ok_and(|found| found.len() >= *count)
            }),
            Step::End => line.end(),
            Step::Reset => {
                // Whoever still reads keeps the connection open.
                line.leave(Shutdown::Read);
                drop(socket2::SockRef::from(&line.stream).set_linger(Some(Duration::ZERO)));
                return Ok(());
            }
        }
    }
    line.start_to_read();
    if case.is_frames {
        return judge_frames(case, &mut line);
    }
    let wanted = case.want.statuses.len();
    let mut heard = line.wait_for(case.want.end, wanted, is_head);
    if case.want.end == End::Open && !heard.has_ended {
        line.write(GOOD);
        heard = line.wait_for(End::Open, wanted + 1, is_head);
    }
    judge(case, &heard, is_head).map_err(|error| format!("{error}; the client got `{}`", show(&heard.bytes)))
}

fn judge(case: &Case, heard: &Heard, is_head: bool) -> Result<(), String> {
    let want = &case.want;
    if want.end == End::Alert {
        return match heard.alert {
            _ if !heard.has_ended => Err("it stays open".to_owned()),
            Some(alert) => is_alert(case, alert),
            None if case.port == Port::Tls => ends_in_alert(&heard.bytes),
            None => Err("no TLS alert".to_owned()),
        };
    }
    let found = heard.answers(is_head)?;
    let mut wanted = want.statuses.clone();
    wanted.extend((want.end == End::Open).then_some(200));
    let statuses: Vec<_> = found.iter().map(|answer| answer.status).collect();
    if statuses != wanted {
        return Err(format!("answers {statuses:?}, wanted {wanted:?}"));
    }
    match (want.end, heard.has_ended) {
        (End::Close | End::Cut | End::Reset, false) => return Err("the connection stays open".to_owned()),
        (End::Open, true) => return Err("the connection is closed".to_owned()),
        _ => {}
    }
    if want.end == End::Reset {
        return if heard.is_reset { Ok(()) } else { Err("the connection ends well".to_owned()) };
    }
    let is_cut = found.last().is_some_and(|last| !last.is_whole);
    if is_cut != (want.end == End::Cut) && want.end != End::Any {
        return Err(if is_cut { "the last answer is cut off" } else { "the last answer is whole" }.to_owned());
    }
    found.iter().try_for_each(|answer| is_sound(answer, want.end))?;
    let has = |part: &[u8]| heard.bytes.windows(part.len().max(1)).any(|window| window == part);
    if let Some(says) = case.says.as_deref().filter(|says| !has(says)) {
        return Err(format!("it does not say `{}`", show(says)));
    }
    if let Some(hidden) = case.hides.as_deref().filter(|hidden| has(hidden)) {
        return Err(format!("it says `{}`", show(hidden)));
    }
    Ok(())
}

/// The same over HTTP/2: each wanted event comes, and no answer that is not wanted.
fn judge_frames(case: &Case, line: &mut Line) -> Result<(), String> {
    let want = &case.want;
    let is_wanted = |found: &[String], one_of: &[String]| one_of.iter().any(|event| found.contains(event));
    let has_all = |heard: &Heard| match frames::events(&heard.bytes) {
        Ok(found) => want.events.iter().all(|one_of| is_wanted(&found, one_of)),
        Err(_) => true,
    };
    line.wait(|heard| heard.has_ended || (has_all(heard) && want.end != End::Close));
    if want.end == End::Open && !line.heard().has_ended {
        let scheme = if case.port == Port::WithinHttp2 { Scheme::Https } else { Scheme::Http };
        line.write(&frames::good(GOOD_STREAM, scheme));
        let is_good = |heard: &Heard| {
            frames::events(&heard.bytes).is_ok_and(|found| found.iter().any(|event| event == GOOD_EVENT))
        };
        line.wait(|heard| heard.has_ended || is_good(heard));
    }
    let heard = line.heard();
    let found = frames::events(&heard.bytes)?;
    if let Some(missing) = want.events.iter().find(|one_of| !is_wanted(&found, one_of)) {
        return Err(format!("none of {missing:?} among {found:?}"));
    }
    let is_answer =
        |event: &str| event.rsplit(':').next().is_some_and(|status| status.parse::<u16>().is_ok());
    let unwanted = found.iter().find(|event| {
        is_answer(event)
            && *event != GOOD_EVENT
            && !want.events.iter().flatten().any(|wanted| wanted == *event)
    });
    if let Some(unwanted) = unwanted {
        return Err(format!("{unwanted} among {found:?}"));
    }
    match want.end {
        End::Open if !found.iter().any(|event| event == GOOD_EVENT) => {
            Err(format!("no good answer among {found:?}"))
        }
        End::Close if !heard.has_ended => Err(format!("it stays open after {found:?}")),
        _ => Ok(()),
    }
}

/// What holds for every answer: at most one length, and a last one says that it is.
fn is_sound(answer: &Answer, end: End) -> Result<(), String> {
    let framing = answer.values("content-length").len() + answer.values("transfer-encoding").len();
    if framing > 1 {
        return Err(format!("an ambiguous answer: {:?}", answer.head));
    }
    let is_refused = (400..500).contains(&answer.status) && answer.is_whole && end == End::Close;
    if is_refused && answer.values("connection") != ["close"] {
        return Err(format!("a last answer without `Connection: close`: {:?}", answer.head));
    }
    Ok(())
}

/// Within TLS: whether it is the one that the case says, by the library's name for it.
fn is_alert(case: &Case, alert: AlertDescription) -> Result<(), String> {
    let name = format!("{alert:?}");
    match &case.says {
        Some(says) if says != name.as_bytes() => Err(format!("the alert {name}, wanted {}", show(says))),
        _ => Ok(()),
    }
}

/// Source: RFC 8446 5.1, 6.
fn ends_in_alert(bytes: &[u8]) -> Result<(), String> {
    const ALERT: u8 = 21;
    let mut last = None;
    let mut rest = bytes;
    while let [kind, _, _, high, low, ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        last = Some(*kind);
        rest = rest.get(5 + length..).ok_or("a TLS record is cut off")?;
    }
    if last == Some(ALERT) && rest.is_empty() { Ok(()) } else { Err("no TLS alert".to_owned()) }
}

/// What came so far.
#[derive(Debug, Clone, Default)]
struct Heard {
    bytes: Vec<u8>,
    has_ended: bool,
    is_reset: bool,
    /// Within TLS.
    alert: Option<AlertDescription>,
}

impl Heard {
    fn answers(&self, first_is_head: bool) -> Result<Vec<Answer>, String> {
        answers(&self.bytes, first_is_head, self.has_ended)
    }
}

/// TLS over a connection. Who writes and who reads share it, and neither has it while it waits for the other end.
type Session = Arc<Mutex<ClientConnection>>;

fn shake(stream: &mut TcpStream, config: Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from("a.com").map_err(io::Error::other)?;
    let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    while session.is_handshaking() {
        session.complete_io(stream)?;
    }
    stream.set_read_timeout(None)?;
    Ok(session)
}

/// What `bytes` are within TLS.
fn seal(session: &Session, bytes: &[u8]) -> Vec<u8> {
    let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
    let mut sealed = Vec::new();
    let mut records = bytes.chunks(RECORD_BYTES);
    loop {
        while session.wants_write() && session.write_tls(&mut sealed).is_ok() {}
        let Some(record) = records.next() else { return sealed };
        drop(session.writer().write_all(record));
    }
}

/// Less than what is kept of what is not sent.
const RECORD_BYTES: usize = 16 * 1024;

/// What is within these bytes of TLS, and the alert that ended it.
fn unseal(session: &Session, mut bytes: &[u8]) -> (Vec<u8>, Option<AlertDescription>) {
    let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
    let mut plain = Vec::new();
    loop {
        // It has an end only where that is said: without, it would block.
        drop(session.reader().read_to_end(&mut plain));
        if bytes.is_empty() || session.read_tls(&mut bytes).is_err() {
            return (plain, None);
        }
        if let Err(error) = session.process_new_packets() {
            let alert = if let Error::AlertReceived(alert) = error { Some(alert) } else { None };
            drop(session.reader().read_to_end(&mut plain));
            return (plain, alert);
        }
    }
}

/// A connection whose bytes are read by a thread of its own, so that whoever sends is never in the way.
struct Line {
    stream: TcpStream,
    session: Option<Session>,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Line {
    fn connect(
        client: Ipv4Addr,
        address: SocketAddr,
        tls: Option<Arc<ClientConfig>>,
        reads_late: bool,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((client, 0)).into())?;
        if reads_late {
            socket.set_recv_buffer_size(SMALL_WINDOW)?;
        }
        socket.connect_timeout(&address.into(), PATIENCE)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut stream = TcpStream::from(socket);
        let session = tls.map(|config| shake(&mut stream, config)).transpose()?;
        let session = session.map(|session| Arc::new(Mutex::new(session)));
        let mut line = Self { stream, session, heard: Arc::default(), reader: None };
        if !reads_late {
            line.start_to_read();
        }
        Ok(line)
    }

    /// Whoever is refused may not take any more: no error.
    fn write(&mut self, bytes: &[u8]) {
        drop(match &self.session {
            None => self.stream.write_all(bytes),
            Some(session) => self.stream.write_all(&seal(session, bytes)),
        });
    }

    fn end(&mut self) {
        if let Some(session) = &self.session {
            session.lock().unwrap_or_else(PoisonError::into_inner).send_close_notify();
            let said = seal(session, b"");
            drop(self.stream.write_all(&said));
        }
        drop(self.stream.shutdown(Shutdown::Write));
    }

    fn start_to_read(&mut self) {
        if self.reader.is_some() {
            return;
        }
        let heard = Arc::clone(&self.heard);
        let Ok(mut stream) = self.stream.try_clone() else { return };
        let session = self.session.clone();
        self.reader = Some(std::thread::spawn(move || {
            let mut bytes = [0; 16 * 1024];
            // What came with the handshake.
            let first = session.as_ref().map(|session| unseal(session, b"").0).unwrap_or_default();
            heard.0.lock().expect("no panic while held").bytes.extend(first);
            loop {
                let read = stream.read(&mut bytes);
                let is_reset = read.is_err();
                let read = read.unwrap_or(0);
                let (plain, alert) = match &session {
                    None => (bytes[..read].to_vec(), None),
                    Some(session) => unseal(session, &bytes[..read]),
                };
                let (state, news) = &*heard;
                let mut state = state.lock().expect("no panic while held");
                state.bytes.extend(plain);
                (state.has_ended, state.is_reset) = (read == 0, is_reset);
                state.alert = state.alert.or(alert);
                news.notify_all();
                if read == 0 {
                    return;
                }
            }
        }));
    }

    fn heard(&self) -> Heard {
        self.heard.0.lock().expect("no panic while held").clone()
    }

    /// Waits until `is_enough`, or for too long.
    fn wait(&self, is_enough: impl Fn(&Heard) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let (state, news) = &*self.heard;
        let mut state = state.lock().expect("no panic while held");
        while !is_enough(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = news.wait_timeout(state, left).expect("no panic while held").0;
        }
    }

    /// What came once it ended as it has to, or has come as far as is looked at.
    fn wait_for(&self, end: End, answers: usize, is_head: bool) -> Heard {
        match end {
            End::Close | End::Cut | End::Reset | End::Alert => self.wait(|heard| heard.has_ended),
            End::Open | End::Any => self.wait(|heard| {
                let found = heard.answers(is_head);
                heard.has_ended
                    || found.is_err()
                    || found.is_ok_and(|found| {
                        found.len() >= answers
                            && found.iter().all(|answer| answer.is_whole || answer.status == 101)
                    })
            }),
        }
        self.heard()
    }

    fn leave(&mut self, how: Shutdown) {
        if let Some(reader) = self.reader.take() {
            drop(self.stream.shutdown(how));
            drop(reader.join());
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.leave(Shutdown::Both);
    }
}
