//! Targets that speak TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use super::harness::*;
use crate::tls::ALPN_HTTP2;
use crate::tls::fixture::{Authority, Shown, Valid, self_signed};
use crate::tls::{Asked, Clients};

/// What a target heard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heard {
    sni: Option<String>,
    is_resumed: bool,
    /// Certificates that it was shown.
    shown: usize,
    head: String,
}

/// A target that speaks TLS, and what it heard.
struct Secure {
    origin: Origin,
    heard: Arc<Mutex<Vec<Heard>>>,
}

type Session = StreamOwned<ServerConnection, TcpStream>;

impl Secure {
    /// Plays `script` with each request and the number of its connection; it says whether there may be another.
    fn script(
        server: Arc<ServerConfig>,
        script: impl Fn(&mut Session, usize) -> bool + Send + Sync + 'static,
    ) -> Self {
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let log = Arc::clone(&heard);
        let origin = Origin::script(move |line, number| {
            let stream = line.stream.try_clone().unwrap();
            let mut session = Session::new(ServerConnection::new(Arc::clone(&server)).unwrap(), stream);
            while let Some(head) = read_head(&mut session) {
                let connection = &session.conn;
                log.lock().unwrap().push(Heard {
                    sni: connection.server_name().map(str::to_owned),
                    is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
                    shown: connection.peer_certificates().map_or(0, <[_]>::len),
                    head,
                });
                if !script(&mut session, number) {
                    return;
                }
            }
        });
        Self { origin, heard }
    }

    /// Answers 200.
    fn start(server: Arc<ServerConfig>) -> Self {
        Self::script(server, |session, number| session.write_all(ok(&number.to_string()).as_bytes()).is_ok())
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

fn read_head(session: &mut impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        session.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).ok()
}

/// A plan by which TLS is spoken.
fn plan(clients: Clients, asked: Asked) -> Plan {
    let mut plan = Plan { tls: Some(asked), host_header: Some("a.test"), retries: 0, ..Plan::default() };
    plan.settings.tls = clients;
    plan
}

fn verified() -> Asked {
    Asked { verify: Some(true), ..Asked::default() }
}

const BAD_GATEWAY: &str = "An invalid response was received from the upstream server";

#[test]
fn requests_pass_in_both_versions_over_one_connection() {
    let authority = Authority::root("root");
    let shown = authority.issue(&["a.test"], Valid::Now);
    for version in [&TLS12, &TLS13] {
        let target = Secure::start(shown.server_of(&[version], &["http/1.1"]));
        let node = plan(authority.trusted(1), verified()).start(&[target.origin.address]);
        let mut client = node.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").body, "0", "{version:?}");
        }
        let answer = client.ask("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((answer.status(), &*answer.body), (200, "0"), "{version:?}");
        let heard = target.heard();
        assert_eq!((heard.len(), heard[0].sni.as_deref()), (4, Some("a.test")));
        let port = target.origin.address.port();
        assert!(heard[0].head.contains(&format!("\r\nHost: a.test:{port}\r\n")), "{heard:?}");
        assert!((node.metric("equipoise_upstream_tls_handshakes_total{kind=\"full\"}") - 1.0).abs() < 0.1);
    }
}

#[test]
fn what_a_target_shows_is_judged_where_that_is_wanted() {
    let authority = Authority::root("root");
    let far = authority.intermediate("one").intermediate("two");
    let stranger = Authority::root("stranger");
    let good = authority.issue(&["a.test", "127.0.0.1"], Valid::Now);
    let other = authority.issue(&["b.test"], Valid::Now);
    let late = authority.issue(&["a.test"], Valid::Past);
    let early = authority.issue(&["a.test"], Valid::Future);
    let strange = stranger.issue(&["a.test"], Valid::Now);
    let itself = self_signed(&["a.test"]);
    let deep = far.issue(&["a.test"], Valid::Now);
    let asked = |verify, depth| Asked { verify, depth, ..Asked::default() };
    let with = |roots: &Authority| Asked { authorities: Some(roots.roots().into()), ..verified() };
    let nobody = Asked { authorities: Some(Arc::new(rustls::RootCertStore::empty())), ..verified() };
    let name = Some("a.test");
    type Case<'a> = (&'a str, &'a Shown, bool, Asked, Option<&'static str>, bool);
    let cases: [Case<'_>; 18] = [
        ("good", &good, false, verified(), name, true),
        ("another name", &other, false, verified(), name, false),
        ("ran out", &late, false, verified(), name, false),
        ("not yet", &early, false, verified(), name, false),
        ("a stranger's", &strange, false, verified(), name, false),
        ("its own", &itself, false, verified(), name, false),
        ("its own, as the settings have it", &itself, true, asked(None, None), name, false),
        ("its own, and nobody looks", &itself, false, asked(None, None), name, true),
        ("its own, and the service says not to look", &itself, true, asked(Some(false), None), name, true),
        ("too deep", &deep, false, verified(), name, false),
        ("as deep as the service has it", &deep, false, asked(Some(true), Some(2)), name, true),
        ("deeper than the service has it", &deep, false, asked(Some(true), Some(0)), name, false),
        ("the service's own authority", &strange, false, with(&stranger), name, true),
        ("in place of the settings'", &good, false, with(&stranger), name, false),
        ("an authority that is not there", &good, false, nobody, name, false),
        ("for the address", &good, false, verified(), None, true),
        ("not for the address", &other, false, verified(), None, false),
        ("no name for a certificate", &good, false, verified(), Some("a..test"), false),
    ];
    for (case, shown, verify, asked, host_header, want) in cases {
        let target = Secure::start(shown.server(&[]));
        let clients = authority.trusted(1).with_defaults(verify, None);
        let node = Plan { host_header, ..plan(clients, asked) }.start(&[target.origin.address]);
        let answer = node.connect().get("/");
        if want {
            assert_eq!(answer.status(), 200, "{case}");
            assert_eq!(target.heard()[0].sni.as_deref(), host_header, "{case}");
        } else {
            assert_eq!(answer.status(), 502, "{case}");
            assert!(answer.body.contains(BAD_GATEWAY), "{case}");
            assert!(target.heard().is_empty(), "{case}: nothing is sent");
            let reason = if host_header == Some("a..test") { "name" } else { "certificate" };
            let line = format!("equipoise_upstream_tls_failures_total{{reason=\"{reason}\"}} 1");
            assert!(node.metric(&line) > 0.0, "{case}");
        }
    }
}

#[test]
fn a_name_that_no_certificate_can_be_for_is_asked_of_nobody() {
    let target = Secure::start(self_signed(&["a.test"]).server(&[]));
    let plan = Plan { host_header: Some("a..test"), ..plan(Clients::default(), Asked::default()) };
    let node = plan.start(&[target.origin.address]);
    assert_eq!(node.connect().get("/").status(), 200);
    assert_eq!(target.heard()[0].sni, None);
}

#[test]
fn another_target_takes_over_from_one_that_cannot_be_trusted() {
    let authority = Authority::root("root");
    let bad = Secure::start(self_signed(&["a.test"]).server(&[]));
    let good = Secure::start(authority.issue(&["a.test"], Valid::Now).server(&[]));
    let plan = Plan { retries: 1, ..plan(authority.trusted(1), verified()) };
    let node = plan.start(&[bad.origin.address, good.origin.address]);
    for _ in 0..4 {
        let answer = node.connect().ask("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(answer.status(), 200);
    }
    assert!(bad.origin.connections() > 0 && bad.heard().is_empty(), "it was asked, and told nothing");
    node.assert_no_lease();
}

#[test]
fn a_handshake_that_hangs_is_a_timeout_and_is_retried() {
    let authority = Authority::root("root");
    let silent = Origin::script(|line, _| drop(line.read_to_end()));
    let good = Secure::start(authority.issue(&["a.test"], Valid::Now).server(&[]));
    let patience = Duration::from_millis(200);
    let alone = Plan { timeout: patience, ..plan(authority.trusted(1), verified()) }.start(&[silent.address]);
    let began = Instant::now();
    let answer = alone.connect().get("/");
    assert_eq!(answer.status(), 504);
    assert!(answer.body.contains("The upstream server is timing out"));
    assert!(began.elapsed() >= patience);
    assert!(alone.metric("equipoise_upstream_tls_failures_total{reason=\"timeout\"} 1") > 0.0);
    let both = Plan { timeout: patience, retries: 1, ..plan(authority.trusted(1), verified()) };
    let both = both.start(&[silent.address, good.origin.address]);
    for _ in 0..2 {
        assert_eq!(both.connect().get("/").status(), 200);
    }
}

#[test]
fn what_does_not_speak_tls_is_no_target() {
    let http = Origin::script(|line, _| {
        line.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        drop(line.read_to_end());
    });
    let closing = Origin::script(|_, _| {});
    for (target, reason) in [(&http, "protocol"), (&closing, "broken")] {
        let node = plan(Clients::default(), Asked::default()).start(&[target.address]);
        assert_eq!(node.connect().get("/").status(), 502, "{reason}");
        let line = format!("equipoise_upstream_tls_failures_total{{reason=\"{reason}\"}} 1");
        assert!(node.metric(&line) > 0.0, "{reason}");
    }
}

#[test]
fn a_certificate_is_shown_to_who_wants_to_see_it() {
    let authority = Authority::root("root");
    let server = authority.issue(&["a.test"], Valid::Now).server_asking(&authority);
    let own = authority.issue(&["node"], Valid::Now).certified();
    let strange = Authority::root("stranger").issue(&["node"], Valid::Now).certified();
    let showing = |certificate: &_| Asked { certificate: Some(Arc::clone(certificate)), ..verified() };
    for (case, default, asked, want) in [
        ("the service's", None, showing(&own), true),
        ("the settings'", Some(&own), verified(), true),
        ("the service's before the settings'", Some(&own), showing(&strange), false),
        ("none", None, verified(), false),
    ] {
        let target = Secure::start(Arc::clone(&server));
        let clients = authority.trusted(1).with_defaults(false, default.cloned());
        let node = plan(clients, asked).start(&[target.origin.address]);
        let answer = node.connect().get("/");
        assert_eq!(answer.status(), if want { 200 } else { 502 }, "{case}");
        let shown: Vec<_> = target.heard().iter().map(|heard| heard.shown).collect();
        assert_eq!(shown, if want { vec![1] } else { vec![] }, "{case}");
    }
}

#[test]
fn a_target_that_misses_a_certificate_after_the_handshake_is_told_of() {
    let authority = Authority::root("root");
    let server = authority.issue(&["a.test"], Valid::Now).server_asking(&authority);
    for http2 in [false, true] {
        let mut server = ServerConfig::clone(&server);
        server.alpn_protocols = if http2 { vec![ALPN_HTTP2.to_vec()] } else { Vec::new() };
        let server = Arc::new(server);
        let origin = Origin::script(move |line, _| {
            let stream = line.stream.try_clone().unwrap();
            let mut session = Session::new(ServerConnection::new(Arc::clone(&server)).unwrap(), stream);
            assert!(read_head(&mut session).is_none());
            // Closed at once, its alert would be lost with what it did not read.
            drop(line.read_to_end());
        });
        let plan = Plan { http2, ..plan(authority.trusted(1), verified()) };
        let node = plan.start(&[origin.address]);
        let failures = || node.metric("equipoise_upstream_tls_failures_total{reason=\"alert\"}");
        for count in [1.0, 2.0] {
            assert_eq!(node.connect().get("/").status(), 502, "{http2}");
            assert_eq!(failures(), count, "{http2}");
        }
    }
}

#[test]
fn a_connection_is_used_for_the_same_identity_only() {
    let authority = Authority::root("root");
    let stranger = Authority::root("stranger");
    let target = Secure::start(authority.issue(&["a.test", "b.test"], Valid::Now).server(&[]));
    let address = [target.origin.address];
    let clients = authority.trusted(1);
    let node = plan(clients.clone(), Asked::default()).start(&address);
    let mut client = node.connect();
    assert_eq!(client.get("/").body, "0");
    // Unverified before: what is to be trusted now has to prove itself.
    node.change(plan(clients.clone(), verified()), &address);
    assert_eq!(client.get("/").body, "1");
    assert_eq!(client.get("/").body, "1");
    node.change(Plan { host_header: Some("b.test"), ..plan(clients.clone(), verified()) }, &address);
    assert_eq!(client.get("/").body, "2");
    let roots = Some(Arc::new(stranger.roots()));
    node.change(plan(clients.clone(), Asked { authorities: roots, ..verified() }), &address);
    assert_eq!(client.get("/").status(), 502, "whom nobody trusts any more is not spoken to");
    node.change(Plan { tls: None, ..plan(clients, verified()) }, &address);
    assert_eq!(client.get("/").status(), 502, "in clear it does not answer");
    let resumed: Vec<_> = target.heard().iter().map(|heard| heard.is_resumed).collect();
    assert_eq!(resumed, [false; 4], "nor is a session");
}

#[test]
fn what_the_settings_trust_now_is_all_that_counts() {
    let (authority, stranger) = (Authority::root("root"), Authority::root("stranger"));
    let target = Secure::start(authority.issue(&["a.test"], Valid::Now).server(&[]));
    let clients = authority.trusted(1);
    let node = plan(clients.clone(), verified()).start(&[target.origin.address]);
    let mut client = node.connect();
    assert_eq!(client.get("/").body, "0");
    clients.adopt(&authority.trusted(1));
    assert_eq!(client.get("/").body, "0", "the same, read again, changes nothing");
    clients.adopt(&stranger.trusted(1));
    assert_eq!(client.get("/").status(), 502, "neither a connection nor a session from before is used");
    clients.adopt(&authority.trusted(1));
    assert_eq!(client.get("/").body, "2");
    // As little as the depth may be, and a certificate that is shown from now on.
    clients.adopt(&authority.trusted(0));
    assert_eq!(client.get("/").body, "3");
    let own = authority.issue(&["node"], Valid::Now).certified();
    clients.adopt(&authority.trusted(0).with_defaults(false, Some(Arc::clone(&own))));
    assert_eq!(client.get("/").body, "4");
    clients.adopt(&authority.trusted(0).with_defaults(false, Some(own)));
    assert_eq!(client.get("/").body, "4");
    let resumed: Vec<_> = target.heard().iter().map(|heard| heard.is_resumed).collect();
    assert_eq!(resumed, [false; 6]);
}

#[test]
fn a_session_is_not_gone_on_with_once_its_terms_or_the_trust_has_changed() {
    let authority = Authority::root("root");
    let server = authority.issue(&["a.test"], Valid::Now).server(&[]);
    // Each request has a connection of its own.
    let target = Secure::script(server, |session, _| {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        drop(session.write_all(answer.as_bytes()));
        session.conn.send_close_notify();
        drop(session.flush());
        false
    });
    let (address, clients) = ([target.origin.address], authority.trusted(1));
    let own = Some(Arc::new(authority.roots()));
    let node = plan(clients.clone(), Asked { verify: Some(false), ..Asked::default() }).start(&address);
    let mut client = node.connect();
    let mut steps = |name: &str| {
        for is_resumed in [false, true] {
            assert_eq!(client.get("/").status(), 200, "{name}");
            assert_eq!(target.heard().pop().unwrap().is_resumed, is_resumed, "{name}");
        }
    };
    steps("unverified");
    node.change(plan(clients.clone(), verified()), &address);
    steps("verified from now on");
    node.change(plan(clients.clone(), Asked { authorities: own, ..verified() }), &address);
    steps("by another authority");
    node.change(plan(clients.clone(), Asked { depth: Some(0), ..verified() }), &address);
    steps("to another depth");
    let mut roots = authority.roots();
    roots.extend(Authority::root("more").roots().roots);
    clients.adopt(&Clients::new(roots, 1));
    steps("the settings trust others");
}

#[test]
fn with_the_clients_host_each_name_has_a_connection_of_its_own() {
    let authority = Authority::root("root");
    let target = Secure::start(authority.issue(&["a.test", "b.test"], Valid::Now).server(&[]));
    let plan = Plan { preserve_host: true, ..plan(authority.trusted(1), verified()) };
    let node = plan.start(&[target.origin.address]);
    let mut client = node.connect();
    for (host, want) in [("a.test:81", "0"), ("b.test", "1"), ("A.test", "0"), ("b.test", "1")] {
        let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!((answer.status(), &*answer.body), (200, want), "{host}");
        let heard = target.heard().pop().unwrap();
        assert!(heard.head.contains(&format!("\r\nHost: {host}\r\n")), "{heard:?}");
        let name = host.split(':').next().unwrap().to_ascii_lowercase();
        assert_eq!(heard.sni, Some(name), "{host}");
    }
    let answer = client.ask("GET / HTTP/1.1\r\nHost: c.test\r\n\r\n");
    assert_eq!(answer.status(), 502, "the certificate is not for it");
}

#[test]
fn sessions_are_resumed() {
    let authority = Authority::root("root");
    for version in [&TLS12, &TLS13] {
        let server = authority.issue(&["a.test"], Valid::Now).server_of(&[version], &[]);
        let target = Secure::script(server, |session, _| {
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            drop(session.write_all(answer.as_bytes()));
            session.conn.send_close_notify();
            drop(session.flush());
            false
        });
        let node = plan(authority.trusted(1), verified()).start(&[target.origin.address]);
        let mut client = node.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").status(), 200);
        }
        let resumed: Vec<_> = target.heard().iter().map(|heard| heard.is_resumed).collect();
        assert_eq!(resumed, [false, true, true], "{version:?}");
        assert!((node.metric("equipoise_upstream_tls_handshakes_total{kind=\"resumed\"}") - 2.0).abs() < 0.1);
    }
}

/// A target that answers without a length and then closes, having said so or not.
fn closing(says_so: bool) -> Secure {
    Secure::script(self_signed(&["a.test"]).server(&[]), move |session, _| {
        drop(session.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello"));
        if says_so {
            session.conn.send_close_notify();
        }
        drop(session.flush());
        false
    })
}

#[test]
fn an_end_that_is_not_said_is_a_cut() {
    let whole = plan(Clients::default(), Asked::default()).start(&[closing(true).origin.address]);
    let answer = whole.connect().get("/");
    assert_eq!((answer.status(), &*answer.body), (200, "5\r\nhello\r\n0\r\n\r\n"));
    let cut = plan(Clients::default(), Asked::default()).start(&[closing(false).origin.address]);
    let mut client = cut.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
    assert!(client.read_message().is_none(), "the last chunk never comes");
}

#[test]
fn a_target_that_closed_its_connection_is_asked_over_another() {
    let server = self_signed(&["a.test"]).server(&[]);
    for says_so in [true, false] {
        let target = Secure::script(Arc::clone(&server), move |session, number| {
            drop(session.write_all(ok(&number.to_string()).as_bytes()));
            if says_so {
                session.conn.send_close_notify();
            }
            drop(session.flush());
            false
        });
        let node = plan(Clients::default(), Asked::default()).start(&[target.origin.address]);
        let mut client = node.connect();
        for number in 0..4 {
            // What may be sent once only is not sent on a connection that is closed.
            let answer = client.ask("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n");
            if answer.status() == 502 {
                // It closed just after it was looked at, which nobody can see.
                continue;
            }
            assert_eq!(answer.status(), 200, "{number}");
        }
        assert_eq!(client.get("/").status(), 200, "what may be repeated always comes through");
    }
}

#[test]
fn websocket_goes_through() {
    let target = Secure::script(self_signed(&["a.test"]).server(&[]), |session, _| {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        drop(session.write_all(answer.as_bytes()));
        let mut bytes = [0; 64];
        loop {
            match session.read(&mut bytes) {
                Ok(0) => return false,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return false,
                Err(_) => {}
                Ok(length) => drop(session.write_all(&bytes[..length])),
            }
        }
    });
    let node = plan(Clients::default(), Asked::default()).start(&[target.origin.address]);
    let mut client = node.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert!(client.read_head().unwrap().starts_with("HTTP/1.1 101 "));
    for text in ["one", "two"] {
        let frame = [&[0x81, 3][..], text.as_bytes()].concat();
        client.send(&frame);
        assert!(client.read_bytes(5).unwrap().ends_with(text));
    }
    drop(client);
    node.assert_no_lease();
}

#[test]
fn a_large_body_goes_both_ways() {
    let target = Secure::script(self_signed(&["a.test"]).server(&[]), |session, _| {
        let mut body = vec![0; 1 << 20];
        if session.read_exact(&mut body).is_err() {
            return false;
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        session.write_all(head.as_bytes()).is_ok() && session.write_all(&body).is_ok()
    });
    let node = plan(Clients::default(), Asked::default()).start(&[target.origin.address]);
    let mut client = node.connect();
    let body: String = (0..1 << 20).map(|at| char::from(b'a' + u8::try_from(at % 26).unwrap())).collect();
    for _ in 0..2 {
        let head = format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = client.ask(head + &body);
        assert_eq!(answer.status(), 200);
        assert!(answer.body == body);
    }
    assert_eq!(target.origin.connections(), 1);
}

#[test]
fn a_hedged_request_shakes_hands_as_well() {
    use crate::table::{Hedging, Policy};
    let authority = Authority::root("root");
    let slow = Secure::script(authority.issue(&["a.test"], Valid::Now).server(&[]), |session, _| {
        let mut byte = [0];
        drop(session.read(&mut byte));
        false
    });
    let fast = Secure::start(authority.issue(&["a.test"], Valid::Now).server(&[]));
    let policy =
        Policy { hedging: Some(Hedging { delay: Some(Duration::from_millis(20)) }), ..Policy::default() };
    let plan = Plan { policy: Some(policy), ..plan(authority.trusted(1), verified()) };
    let node = plan.start(&[slow.origin.address, fast.origin.address]);
    for _ in 0..4 {
        assert_eq!(node.connect().get("/").status(), 200);
    }
    assert!(!fast.heard().is_empty() && !slow.heard().is_empty());
}
