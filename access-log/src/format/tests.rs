//! Lines as their readers know them, and that no client can forge one.

use std::time::SystemTime;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{SessionEnd, StreamProtocol};

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

/// What a client may send: any bytes, and often those that end something.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let telling = prop::sample::select(&b"\"\\\r\n\t\0\x1b\x7f\x85 ,:{}[]-"[..]);
    let letter = prop::sample::select(vec![
        "\u{2028}",
        "\u{85}",
        "\u{1f600}",
        "\u{202e}",
        "a",
        "\\n",
        "\\\"",
        "\\u0022",
    ]);
    let part = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        telling.prop_map(|byte| vec![byte]),
        letter.prop_map(|letter| letter.as_bytes().to_vec()),
    ];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

/// Reads what stands between quotes in a line of [`Format::Combined`], as its readers do.
fn unescaped(field: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), field.as_bytes());
    while let [first, more @ ..] = rest {
        let escaped = std::str::from_utf8(more.get(1..3).unwrap_or_default()).ok();
        match (first, more.first(), escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'\\', Some(b'x'), Some(byte)) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            (byte, ..) => {
                bytes.push(*byte);
                rest = more;
            }
        }
    }
    bytes
}

/// Nothing but the end of a line ends one, and nothing in it moves a terminal.
fn is_one_line(line: &str) -> bool {
    let Some(text) = line.strip_suffix('\n') else { return false };
    !text.chars().any(|character| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}'))
}

proptest! {
    #[test]
    fn whatever_a_client_sends_is_one_line_that_says_so(
        method in anything(),
        target in anything(),
        host in anything(),
        referer in prop::option::of(anything()),
        agent in prop::option::of(anything()),
        sni in prop::option::of(anything().prop_map(|name| String::from_utf8_lossy(&name).into_owned())),
    ) {
        let sent = Entry {
            method: &method,
            target: &target,
            host: &host,
            referer: referer.as_deref(),
            user_agent: agent.as_deref(),
            tls: Some(Tls { version: "TLSv1.2", sni: sni.as_deref() }),
            ..entry()
        };
        let object = line(Format::Json, &sent);
        prop_assert!(is_one_line(&object), "{object:?}");
        let read: Value = serde_json::from_str(&object).unwrap();
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        for (name, want) in [
            ("method", Some(&method[..])),
            ("target", Some(&target[..])),
            ("host", Some(&host[..])),
            ("referer", referer.as_deref()),
            ("user_agent", agent.as_deref()),
            ("sni", sni.as_deref().map(str::as_bytes)),
            // What the client cannot say stays as it was.
            ("client", Some(&b"192.0.2.1"[..])),
            ("source", Some(b"service")),
        ] {
            prop_assert_eq!(read[name].as_str().map(str::to_owned), text(want), "{}", name);
        }
        prop_assert_eq!(&read["status"], 200);
        let given = [&referer, &agent].iter().filter(|field| field.is_some()).count() + usize::from(sni.is_some());
        prop_assert_eq!(read.as_object().unwrap().len(), 23 + given);

        let combined = line(Format::Combined, &sent);
        prop_assert!(is_one_line(&combined) && combined.is_ascii(), "{combined:?}");
        let fields: Vec<_> = combined.split('"').collect();
        let [before, request, numbers, said_referer, " ", said_agent, id, _, "\n"] = fields[..] else {
            panic!("{combined}")
        };
        prop_assert_eq!(before, "192.0.2.1 - - [26/Nov/2026:18:16:21 +0000] ");
        prop_assert_eq!((numbers, id), (" 200 128 ", " kong_request_id: "));
        // nginx's sign for nothing.
        let or_dash = |bytes: &[u8]| if bytes.is_empty() { b"-".to_vec() } else { bytes.to_vec() };
        let mut line = method.clone();
        if !method.is_empty() {
            line.push(b' ');
        }
        line.extend([&or_dash(&target), &b" HTTP/1.1"[..]].concat());
        prop_assert_eq!(unescaped(request), line);
        prop_assert_eq!(unescaped(said_referer), or_dash(referer.as_deref().unwrap_or_default()));
        prop_assert_eq!(unescaped(said_agent), or_dash(agent.as_deref().unwrap_or_default()));
    }

    #[test]
    fn a_session_is_one_line_whatever_name_its_client_asked_for(name in anything()) {
        let name = String::from_utf8_lossy(&name).into_owned();
        let tls = Some(Tls { version: "", sni: Some(&name) });
        let mut out = Vec::new();
        Format::Json.push_session(&mut out, &Session { tls, ..session() });
        let line = String::from_utf8(out).unwrap();
        prop_assert!(is_one_line(&line), "{line:?}");
        let read: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(read["sni"].as_str(), Some(&*name));
        prop_assert_eq!(read.as_object().unwrap().len(), 14);
    }
}

fn session() -> Session<'static> {
    Session {
        at: SystemTime::UNIX_EPOCH,
        client: ([192, 0, 2, 1], 4000).into(),
        port: 9000,
        protocol: StreamProtocol::TlsPassthrough,
        status: 200,
        end: Some(SessionEnd::Idle),
        request_bytes: 12,
        response_bytes: u64::MAX,
        total: Duration::from_millis(61_005),
        service: Some("s"),
        route: Some("r"),
        upstream: Some(([10, 0, 0, 2], 443).into()),
        tries: 1,
        tls: Some(Tls { version: "", sni: Some("a.test") }),
    }
}

#[test]
fn sessions_have_lines_as_well() {
    let of = |format: Format, session: &Session<'_>| {
        let mut out = Vec::new();
        format.push_session(&mut out, session);
        String::from_utf8(out).unwrap()
    };
    let read = |session: &Session<'_>| -> Value { serde_json::from_str(&of(Format::Json, session)).unwrap() };
    let start = "192.0.2.1 [01/Jan/1970:00:00:00 +0000]";
    assert_eq!(of(Format::Combined, &session()), format!("{start} TCP 200 18446744073709551615 12 61.005\n"));
    let want = json!({
        "time": "1970-01-01T00:00:00.000Z",
        "client": "192.0.2.1",
        "port": 9000,
        "protocol": "tls_passthrough",
        "status": 200,
        "end": "idle",
        "request_bytes": 12,
        "response_bytes": u64::MAX,
        "service": "s",
        "route": "r",
        "upstream": "10.0.0.2:443",
        "tries": 1,
        "total_ms": 61_005.0,
        "sni": "a.test",
    });
    assert_eq!(read(&session()), want);
    let unserved = Session {
        protocol: StreamProtocol::Udp,
        status: 500,
        end: None,
        service: None,
        route: None,
        upstream: None,
        tries: 0,
        tls: None,
        ..session()
    };
    assert_eq!(of(Format::Combined, &unserved), format!("{start} UDP 500 18446744073709551615 12 61.005\n"));
    let object = read(&unserved);
    assert_eq!((&object["protocol"], &object["status"]), (&json!("udp"), &json!(500)));
    for absent in ["end", "service", "route", "upstream", "tries", "tls_version", "sni"] {
        assert_eq!(object.get(absent), None, "{absent}");
    }
}
