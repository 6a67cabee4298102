//! Entries as lines.

use std::net::SocketAddr;
use std::time::Duration;

use crate::entry::{Entry, Session, Tls};
use crate::escape::{push_json, push_plain};
use crate::time::{push_common, push_iso};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As most programs that read access logs know it, with the request's id at the end.
    ///
    /// Source: nginx's `combined`, Kong 3.10's `kong_log_format`, and of sessions its `basic`.
    Combined,
    /// An object with all there is.
    Json,
}

impl Format {
    /// The format of this name: `combined` or `json`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "combined" => Some(Self::Combined),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// Appends the line about a request, its line end included.
    pub fn push(self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        match self {
            Self::Combined => push_combined(out, entry),
            Self::Json => push_object(out, entry),
        }
    }

    /// Appends the line about a session, its line end included.
    pub fn push_session(self, out: &mut Vec<u8>, session: &Session<'_>) {
        match self {
            Self::Combined => push_basic(out, session),
            Self::Json => push_session_object(out, session),
        }
    }
}

fn push_combined(out: &mut Vec<u8>, entry: &Entry<'_>) {
    push_plain(out, entry.client.as_bytes());
    out.extend_from_slice(b" - - [");
    push_common(out, entry.at);
    out.extend_from_slice(b"] \"");
    if !entry.method.is_empty() {
        push_plain(out, entry.method);
        out.push(b' ');
    }
    push_plain(out, entry.target);
    if !entry.protocol.is_empty() {
        out.push(b' ');
        push_plain(out, entry.protocol.as_bytes());
    }
    out.extend_from_slice(b"\" ");
    push_number(out, entry.status.into());
    out.push(b' ');
    push_number(out, entry.body_bytes);
    for header in [entry.referer, entry.user_agent] {
        out.extend_from_slice(b" \"");
        push_plain(out, header.unwrap_or_default());
        out.push(b'"');
    }
    if let Some(id) = entry.request_id {
        out.extend_from_slice(b" kong_request_id: \"");
        push_plain(out, id.as_bytes());
        out.push(b'"');
    }
    out.push(b'\n');
}

fn push_basic(out: &mut Vec<u8>, session: &Session<'_>) {
    push_address(out, session.client, WithPort::No);
    out.extend_from_slice(b" [");
    push_common(out, session.at);
    out.extend_from_slice(b"] ");
    out.extend_from_slice(session.protocol.transport().as_bytes());
    for number in [session.status.into(), session.response_bytes, session.request_bytes] {
        out.push(b' ');
        push_number(out, number);
    }
    out.push(b' ');
    let millis = session.total.as_millis();
    push_number(out, u64::try_from(millis / 1000).unwrap_or(u64::MAX));
    out.extend_from_slice(format!(".{:03}\n", millis % 1000).as_bytes());
}

fn push_object(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let mut object = Object::begin(out);
    object.moment(entry.at);
    object.text("client", entry.client.as_bytes());
    if entry.peer != entry.client {
        object.text("peer", entry.peer.as_bytes());
    }
    object.text("method", entry.method);
    object.text("host", entry.host);
    object.text("target", entry.target);
    object.text("protocol", entry.protocol.as_bytes());
    object.number("status", entry.status.into());
    object.truth("complete", entry.is_complete);
    object.number("request_bytes", entry.request_bytes);
    object.number("response_bytes", entry.response_bytes);
    object.number("body_bytes", entry.body_bytes);
    object.given("referer", entry.referer);
    object.given("user_agent", entry.user_agent);
    object.given("request_id", entry.request_id.map(str::as_bytes));
    object.given("source", entry.source.map(str::as_bytes));
    object.place(entry.service, entry.route, entry.upstream, entry.tries);
    if let Some(kong) = entry.kong {
        object.millis("kong_ms", kong);
    }
    if let Some(upstream) = entry.upstream_time {
        object.millis("upstream_ms", upstream);
    }
    object.millis("total_ms", entry.total);
    object.tls(entry.tls.as_ref());
    object.given("trace_id", entry.trace_id.map(str::as_bytes));
    object.end();
}

fn push_session_object(out: &mut Vec<u8>, session: &Session<'_>) {
    let mut object = Object::begin(out);
    object.moment(session.at);
    object.address("client", session.client, WithPort::No);
    object.number("port", session.port.into());
    object.text("protocol", session.protocol.as_str().as_bytes());
    object.number("status", session.status.into());
    object.given("end", session.end.map(|end| end.as_str().as_bytes()));
    object.number("request_bytes", session.request_bytes);
    object.number("response_bytes", session.response_bytes);
    object.place(session.service, session.route, session.upstream, session.tries);
    object.millis("total_ms", session.total);
    object.tls(session.tls.as_ref());
    object.end();
}

/// A JSON object on one line. Names are ours and need no escape.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    fn name(&mut self, name: &str) {
        self.out.extend([self.separator, b'"']);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.separator = b',';
    }

    fn moment(&mut self, at: std::time::SystemTime) {
        self.name("time");
        self.out.push(b'"');
        push_iso(self.out, at);
        self.out.push(b'"');
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        push_json(self.out, value);
    }

    fn given(&mut self, name: &str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        push_number(self.out, value);
    }

    fn truth(&mut self, name: &str, value: bool) {
        self.name(name);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// With three decimals.
    fn millis(&mut self, name: &str, value: Duration) {
        self.name(name);
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        push_number(self.out, micros / 1000);
        self.out.push(b'.');
        for scale in [100, 10, 1] {
            push_number(self.out, micros / scale % 10);
        }
    }

    fn address(&mut self, name: &str, value: SocketAddr, with_port: WithPort) {
        self.name(name);
        self.out.push(b'"');
        push_address(self.out, value, with_port);
        self.out.push(b'"');
    }

    fn place(&mut self, service: Option<&str>, route: Option<&str>, to: Option<SocketAddr>, tries: u32) {
        self.given("service", service.map(str::as_bytes));
        self.given("route", route.map(str::as_bytes));
        if let Some(to) = to {
            self.address("upstream", to, WithPort::Yes);
        }
        if tries > 0 {
            self.number("tries", tries.into());
        }
    }

    fn tls(&mut self, tls: Option<&Tls<'_>>) {
        if let Some(tls) = tls {
            self.given("tls_version", Some(tls.version.as_bytes()).filter(|version| !version.is_empty()));
            self.given("sni", tls.sni.map(str::as_bytes));
        }
    }

    fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WithPort {
    Yes,
    No,
}

fn push_address(out: &mut Vec<u8>, address: SocketAddr, with_port: WithPort) {
    let text = match with_port {
        WithPort::Yes => address.to_string(),
        WithPort::No => address.ip().to_canonical().to_string(),
    };
    out.extend_from_slice(text.as_bytes());
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    /// Digits of the largest number.
    const DIGITS_MAX: usize = 20;
    let mut digits = [b'0'; DIGITS_MAX];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(DIGITS_MAX - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests;
