//! What a GET tells, over TCP and over TLS. Source: `spec/health.md` section 5.2.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::super::check::{Answer, Failure, Found, check};
use super::super::http::{Version, get};
use super::refusing;
use crate::health::{Active, ProbeKind, Report, TlsTerms, Transport};
use crate::table::fixture::tcp_checks;
use crate::table::{ProbePlan, Target};
use crate::tls::Clients;
use crate::tls::fixture::{Authority, Valid, nobody, self_signed};

/// Nothing takes this long unless it never ends.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// For what never ends.
pub(super) const SHORT: Duration = Duration::from_millis(50);

/// What a server does once it has read a request.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// This, by the request's text; then it closes.
    Text(fn(&str) -> &'static str),
    /// Nothing, for ever.
    Nothing,
    /// Nothing, and breaks the connection.
    Reset,
}

struct Server {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// The version of each request that came.
    fn versions(&self) -> Vec<String> {
        self.heard()
            .iter()
            .filter_map(|request| Some(request.lines().next()?.rsplit(' ').next()?.to_owned()))
            .collect()
    }
}

async fn server(says: Says, tls: Option<Arc<ServerConfig>>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let server = Server { address, heard: Arc::clone(&heard) };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Says::Reset = says {
                stream.set_zero_linger().unwrap();
            }
            let (heard, tls) = (Arc::clone(&heard), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => answer(stream, says, &heard).await,
                    Some(config) => {
                        if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                            answer(stream, says, &heard).await;
                        }
                    }
                }
            });
        }
    });
    server
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, says: Says, heard: &Mutex<Vec<String>>) {
    let mut buffer = [0; 1024];
    let Ok(length) = stream.read(&mut buffer).await else { return };
    let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
    heard.lock().unwrap().push(request.clone());
    match says {
        Says::Text(text) => {
            stream.write_all(text(&request).as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
        Says::Nothing => std::future::pending().await,
        Says::Reset => {}
    }
}

/// Probes `address`, whose target is called `host`.
pub(super) async fn probed(
    (address, host): (SocketAddr, &str),
    active: Active,
    host_header: Option<&str>,
    tls: &Clients,
    version: Version,
) -> Found {
    let target = Target::new(address, host);
    let host_header = host_header.map(Into::into);
    let plan = ProbePlan {
        upstream: "u".into(),
        active,
        host_header,
        client: None,
        targets: Vec::new(),
        shared: None,
    };
    check(&target, &plan, tls, version).await
}

pub(super) fn verified() -> Transport {
    Transport::Tls(TlsTerms { sni: None, is_verified: true })
}

fn active(transport: &Transport, timeout: Duration) -> Active {
    Active {
        kind: ProbeKind::Http(transport.clone()),
        timeout,
        path: "/check".into(),
        healthy: [200, 302].into_iter().collect(),
        unhealthy: [302, 500, 505].into_iter().collect(),
        ..tcp_checks()
    }
}

#[tokio::test]
async fn every_outcome_over_tcp_and_over_tls() {
    let authority = Authority::root("root");
    let config = authority.issue(&["a.test"], Valid::Now).server(&[]);
    let clients = authority.trusted(1);
    let long = format!("HTTP/1.1 {}", "2".repeat(2000)).leak();
    let cases: [(&str, Says, Duration, Option<Report>); 11] = [
        ("healthy status", Says::Text(|_| "HTTP/1.1 200 OK\r\n\r\n"), LONG, Some(Report::Success)),
        ("only the status line counts", Says::Text(|_| "HTTP/1.0 200 OK\r\nX"), LONG, Some(Report::Success)),
        ("in both lists", Says::Text(|_| "HTTP/1.1 302 Found\r\n\r\n"), LONG, Some(Report::Success)),
        ("unhealthy status", Says::Text(|_| "HTTP/1.1 500 Oops\r\n\r\n"), LONG, Some(Report::Http)),
        (
            "a redirect is not followed",
            Says::Text(|_| "HTTP/1.1 301 Moved\r\nLocation: /ok\r\n\r\n"),
            LONG,
            None,
        ),
        ("in neither list", Says::Text(|_| "HTTP/1.1 418 Teapot\r\n\r\n"), LONG, None),
        ("no HTTP", Says::Text(|_| "SSH-2.0-OpenSSH\r\n"), LONG, Some(Report::Http)),
        ("closed within the status line", Says::Text(|_| "HTTP/1.1 20"), LONG, Some(Report::Tcp)),
        ("closed without an answer", Says::Text(|_| ""), LONG, Some(Report::Tcp)),
        ("broke", Says::Reset, LONG, Some(Report::Tcp)),
        ("no answer", Says::Nothing, SHORT, Some(Report::Timeout)),
    ];
    for transport in [Transport::Plain, verified()] {
        let tls = (transport != Transport::Plain).then(|| Arc::clone(&config));
        for (name, says, timeout, want) in cases {
            let server = server(says, tls.clone()).await;
            let active = active(&transport, timeout);
            let found = probed((server.address, "a.test"), active, None, &clients, Version::Http11).await;
            assert_eq!(found.report, want, "{name}, {transport:?}");
            assert_eq!(server.heard().len(), 1, "{name}, {transport:?}");
        }
        let active = active(&transport, LONG);
        let found = probed((refusing().await, "a.test"), active, None, &clients, Version::Http11).await;
        assert_eq!(found.report, Some(Report::Tcp), "refused, {transport:?}");
    }
    let (mut near, mut far) = tokio::io::duplex(1 << 12);
    far.write_all(long.as_bytes()).await.unwrap();
    let answer = get(&mut near, "GET", LONG).await;
    assert!(matches!(answer, Ok(Answer::Bad)), "a status line without end: {answer:?}");
}

#[tokio::test]
async fn a_full_backlog_is_a_timeout() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts: soon the kernel drops what comes.
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100, "the backlog has an end");
    }
    for kind in [ProbeKind::Tcp, ProbeKind::Http(Transport::Plain), ProbeKind::Grpc(verified())] {
        let active = Active { kind, ..active(&Transport::Plain, SHORT) };
        let found = probed((address, "a.test"), active, None, &nobody(), Version::Http11).await;
        assert_eq!(found.report, Some(Report::Timeout));
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_has_the_time_out() {
    let limit = Duration::from_secs(1);
    let is_timeout = |answer| matches!(answer, Err(Failure::Timeout));
    // No room, and nobody reads.
    let (mut near, _far) = tokio::io::duplex(1);
    let start = tokio::time::Instant::now();
    assert!(is_timeout(get(&mut near, "GET", limit).await), "send");
    assert_eq!(start.elapsed(), limit);
    let (mut near, _far) = tokio::io::duplex(64);
    let start = tokio::time::Instant::now();
    assert!(is_timeout(get(&mut near, "GET", limit).await), "read");
    assert_eq!(start.elapsed(), limit);
    let (mut near, far) = tokio::io::duplex(64);
    drop(far);
    assert!(matches!(get(&mut near, "GET", limit).await, Err(Failure::Broken(_))), "send fails");
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_a_tcp_failure_unless_nobody_looks() {
    let authority = Authority::root("root");
    let clients = authority.trusted(1);
    let deep = authority.intermediate("one").intermediate("two");
    let cases = [
        ("valid", authority.issue(&["a.test"], Valid::Now), Report::Success),
        ("another name", authority.issue(&["b.test"], Valid::Now), Report::Tcp),
        ("ran out", authority.issue(&["a.test"], Valid::Past), Report::Tcp),
        ("not yet", authority.issue(&["a.test"], Valid::Future), Report::Tcp),
        ("unknown authority", Authority::root("other").issue(&["a.test"], Valid::Now), Report::Tcp),
        ("self-signed", self_signed(&["a.test"]), Report::Tcp),
        ("too long a chain", deep.issue(&["a.test"], Valid::Now), Report::Tcp),
    ];
    for (name, shown, want) in cases {
        let server = server(Says::Text(|_| "HTTP/1.1 200 OK\r\n\r\n"), Some(shown.server(&[]))).await;
        for (is_verified, want) in [(true, want), (false, Report::Success)] {
            let transport = Transport::Tls(TlsTerms { sni: None, is_verified });
            let active = active(&transport, LONG);
            let found = probed((server.address, "a.test"), active, None, &clients, Version::Http11).await;
            assert_eq!(found.report, Some(want), "{name}, verified: {is_verified}");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_fails_is_a_tcp_failure_and_one_that_hangs_a_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = server(Says::Text(|_| "HTTP/1.1 400 Bad\r\n\r\n"), None).await;
    let closing = server(Says::Reset, None).await;
    for (name, address, timeout, want) in [
        ("no TLS there", plain.address, LONG, Report::Tcp),
        ("breaks", closing.address, LONG, Report::Tcp),
        ("hangs", silent.local_addr().unwrap(), SHORT, Report::Timeout),
    ] {
        for kind in [ProbeKind::Http(verified()), ProbeKind::Grpc(verified())] {
            let active = Active { kind, ..active(&Transport::Plain, timeout) };
            let found = probed((address, "a.test"), active, None, &nobody(), Version::Http11).await;
            assert_eq!(found.report, Some(want), "{name}");
        }
    }
}

#[tokio::test]
async fn the_name_is_the_snis_else_the_host_headers_else_the_targets() {
    let authority = Authority::root("root");
    let names = ["sni.test", "header.test", "target.test", "127.0.0.1"];
    let cases = [
        (Some("sni.test"), Some("header.test"), "target.test", "sni.test"),
        (None, Some("header.test:8443"), "target.test", "header.test"),
        (None, None, "target.test", "target.test"),
        (None, None, "127.0.0.1", "127.0.0.1"),
        (Some("sni.test"), None, "127.0.0.1", "sni.test"),
    ];
    for (sni, host_header, host, want) in cases {
        for name in names {
            let config = authority.issue(&[name], Valid::Now).server(&[]);
            let server = server(Says::Text(|_| "HTTP/1.1 200 OK\r\n\r\n"), Some(config)).await;
            let transport = Transport::Tls(TlsTerms { sni: sni.map(Into::into), is_verified: true });
            let clients = authority.trusted(1);
            let active = active(&transport, LONG);
            let found = probed((server.address, host), active, host_header, &clients, Version::Http11).await;
            let want = if name == want { Report::Success } else { Report::Tcp };
            assert_eq!(found.report, Some(want), "{sni:?} {host_header:?} {host}: certificate for {name}");
        }
    }
    let server = server(Says::Nothing, Some(self_signed(&["a.test"]).server(&[]))).await;
    let active = active(&verified(), LONG);
    let found = probed((server.address, "no-name.9"), active, None, &nobody(), Version::Http11).await;
    assert_eq!(found.report, Some(Report::Tcp), "no certificate can be for that");
}

#[tokio::test]
async fn a_version_that_is_refused_is_changed_at_once_and_the_better_one_is_kept() {
    use Version::{Http10, Http11};
    const OLD: &str = "HTTP/1.0";
    const NEW: &str = "HTTP/1.1";
    /// What a server says to each version.
    type Talk = fn(&str) -> &'static str;
    let cases: [(_, Talk, _, _, _, &[&str]); 9] = [
        (
            "505 to 1.1",
            |r| if is_new(r) { "HTTP/1.0 505 No\r\n" } else { "HTTP/1.0 200 OK\r\n" },
            Http11,
            Some(Report::Success),
            Http10,
            &[NEW, OLD],
        ),
        (
            "426 to 1.1",
            |r| if is_new(r) { "HTTP/1.0 426 No\r\n" } else { "HTTP/1.0 500 Oops\r\n" },
            Http11,
            Some(Report::Http),
            Http10,
            &[NEW, OLD],
        ),
        ("1.0 goes on", |_| "HTTP/1.0 200 OK\r\n", Http10, Some(Report::Success), Http10, &[OLD]),
        (
            "426 to 1.0",
            |r| if is_new(r) { "HTTP/1.1 200 OK\r\n" } else { "HTTP/1.1 426 No\r\n" },
            Http10,
            Some(Report::Success),
            Http11,
            &[OLD, NEW],
        ),
        (
            "505 to 1.0",
            |r| if is_new(r) { "HTTP/1.1 418 Tea\r\n" } else { "HTTP/1.1 505 No\r\n" },
            Http10,
            None,
            Http11,
            &[OLD, NEW],
        ),
        ("neither", |_| "HTTP/1.1 505 No\r\n", Http11, Some(Report::Http), Http11, &[NEW, OLD]),
        ("neither, in no list", |_| "HTTP/1.1 426 No\r\n", Http11, None, Http11, &[NEW, OLD]),
        (
            "the other breaks",
            |r| if is_new(r) { "HTTP/1.1 505 No\r\n" } else { "" },
            Http11,
            Some(Report::Tcp),
            Http11,
            &[NEW, OLD],
        ),
        ("another status", |_| "HTTP/1.1 500 No\r\n", Http11, Some(Report::Http), Http11, &[NEW]),
    ];
    for (name, talk, before, want, after, versions) in cases {
        let server = server(Says::Text(talk), None).await;
        let active = active(&Transport::Plain, LONG);
        let found = probed((server.address, "a.test"), active, None, &nobody(), before).await;
        assert_eq!(found, Found { report: want, version: after, is_own: false }, "{name}");
        assert_eq!(server.versions(), versions, "{name}");
    }
    let server = server(Says::Text(|_| "HTTP/1.1 505 No\r\n"), None).await;
    let active = Active { healthy: [505].into_iter().collect(), ..active(&Transport::Plain, LONG) };
    let found = probed((server.address, "a.test"), active, None, &nobody(), Http11).await;
    assert_eq!(found, Found { report: Some(Report::Success), version: Http11, is_own: false });
    assert_eq!(server.versions(), [NEW], "a status that is healthy needs no other version");
}

fn is_new(request: &str) -> bool {
    request.lines().next().is_some_and(|line| line.ends_with("HTTP/1.1"))
}
