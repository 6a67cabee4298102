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
    push_plain(out, session.protocol.as_bytes());
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
    object.text("protocol", session.protocol.as_bytes());
    object.number("status", session.status.into());
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
            self.text("tls_version", tls.version.as_bytes());
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
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_716_981),
            client: "192.0.2.1",
            peer: "10.0.0.1",
            method: b"GET",
            target: b"/a?b=c",
            protocol: "HTTP/1.1",
            host: b"a.test",
            status: 200,
            is_complete: true,
            request_bytes: 100,
            response_bytes: 250,
            body_bytes: 128,
            referer: Some(b"http://b.test/"),
            user_agent: Some(b"curl/8"),
            request_id: Some("0123456789abcdef0123456789abcdef"),
            service: Some("s"),
            route: Some("r"),
            source: Some("service"),
            upstream: Some(([10, 0, 0, 2], 80).into()),
            tries: 2,
            kong: Some(Duration::from_micros(70)),
            upstream_time: Some(Duration::from_micros(1230)),
            total: Duration::from_micros(1_001_300),
            tls: Some(Tls { version: "TLSv1.3", sni: Some("a.test") }),
            trace_id: Some("00000000000000000000000000000001"),
        }
    }

    fn line(format: Format, entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        format.push(&mut out, entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn combined_is_what_log_readers_know() {
        assert_eq!(
            line(Format::Combined, &entry()),
            "192.0.2.1 - - [26/Nov/2026:18:16:21 +0000] \"GET /a?b=c HTTP/1.1\" 200 128 \"http://b.test/\" \"curl/8\" \
             kong_request_id: \"0123456789abcdef0123456789abcdef\"\n"
        );
        let unread = Entry {
            method: b"",
            target: b"\x16\x03",
            protocol: "",
            status: 400,
            referer: None,
            user_agent: None,
            request_id: None,
            ..entry()
        };
        assert_eq!(
            line(Format::Combined, &unread),
            "192.0.2.1 - - [26/Nov/2026:18:16:21 +0000] \"\\x16\\x03\" 400 128 \"-\" \"-\"\n"
        );
    }

    #[test]
    fn json_has_every_field() {
        let read: Value = serde_json::from_str(&line(Format::Json, &entry())).unwrap();
        let want = json!({
            "time": "2026-11-26T18:16:21.000Z",
            "client": "192.0.2.1",
            "peer": "10.0.0.1",
            "method": "GET",
            "host": "a.test",
            "target": "/a?b=c",
            "protocol": "HTTP/1.1",
            "status": 200,
            "complete": true,
            "request_bytes": 100,
            "response_bytes": 250,
            "body_bytes": 128,
            "referer": "http://b.test/",
            "user_agent": "curl/8",
            "request_id": "0123456789abcdef0123456789abcdef",
            "source": "service",
            "service": "s",
            "route": "r",
            "upstream": "10.0.0.2:80",
            "tries": 2,
            "kong_ms": 0.07,
            "upstream_ms": 1.23,
            "total_ms": 1001.3,
            "tls_version": "TLSv1.3",
            "sni": "a.test",
            "trace_id": "00000000000000000000000000000001",
        });
        assert_eq!(read, want);
    }

    #[test]
    fn no_request_can_forge_a_line_or_a_field() {
        let evil = b"/\" 200 1 \"-\" \"-\"\r\n10.0.0.1 - - [x] \"GET /admin HTTP/1.1\" 200 0,\"status\":200";
        let forged = Entry {
            method: evil,
            target: evil,
            host: evil,
            referer: Some(evil),
            user_agent: Some(evil),
            tls: Some(Tls { version: "TLSv1.2", sni: std::str::from_utf8(evil).ok() }),
            ..entry()
        };
        for format in [Format::Combined, Format::Json] {
            let line = line(format, &forged);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
        }
        let read: Value = serde_json::from_str(&line(Format::Json, &forged)).unwrap();
        assert_eq!(read["target"].as_str().map(str::as_bytes), Some(&evil[..]));
        assert_eq!(read.as_object().unwrap().len(), 26);
        let combined = line(Format::Combined, &forged);
        assert_eq!(combined.matches('"').count(), 8, "{combined}");
    }

    #[test]
    fn sessions_have_lines_as_well() {
        let session = Session {
            at: SystemTime::UNIX_EPOCH,
            client: ([192, 0, 2, 1], 4000).into(),
            port: 9000,
            protocol: "tls",
            status: 502,
            request_bytes: 12,
            response_bytes: u64::MAX,
            total: Duration::from_millis(61_005),
            service: Some("s"),
            route: None,
            upstream: None,
            tries: 1,
            tls: Some(Tls { version: "", sni: None }),
        };
        let mut out = Vec::new();
        Format::Combined.push_session(&mut out, &session);
        Format::Json.push_session(&mut out, &session);
        let text = String::from_utf8(out).unwrap();
        let (basic, object) = text.split_once('\n').unwrap();
        assert_eq!(basic, "192.0.2.1 [01/Jan/1970:00:00:00 +0000] tls 502 18446744073709551615 12 61.005");
        let object: Value = serde_json::from_str(object).unwrap();
        assert_eq!(object["total_ms"], json!(61_005.0));
        assert_eq!((&object["client"], &object["route"]), (&json!("192.0.2.1"), &Value::Null));
    }
}
