//! What a gRPC health check tells, over TCP and over TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::super::http::Version;
use super::outcomes::{LONG, SHORT, probed, verified};
use super::refusing;
use crate::health::{Active, ProbeKind, Report, Transport};
use crate::table::fixture::tcp_checks;
use crate::tls::Clients;
use crate::tls::fixture::{Authority, Valid, nobody};

fn active(transport: Transport, path: &str, timeout: Duration) -> Active {
    Active { kind: ProbeKind::Grpc(transport), path: path.into(), timeout, ..tcp_checks() }
}

async fn told(address: SocketAddr, active: Active, tls: &Clients) -> Option<Report> {
    probed((address, "a.test"), active, None, tls, Version::Http11).await.report
}

/// A real server of the protocol.
async fn tonic_server(health: HealthServer<impl Health>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(health);
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    address
}

/// Ends TLS before `plain`.
async fn tls_before(plain: SocketAddr, config: Arc<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            tokio::spawn(async move {
                let Ok(mut near) = acceptor.accept(stream).await else { return };
                let mut far = TcpStream::connect(plain).await.unwrap();
                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_is_asked_for_its_service() {
    let (reporter, health) = tonic_health::server::health_reporter();
    for (service, status) in [
        ("", ServingStatus::Serving),
        ("up", ServingStatus::Serving),
        ("pkg.v1/x", ServingStatus::Serving),
        ("down", ServingStatus::NotServing),
        ("unsure", ServingStatus::Unknown),
    ] {
        reporter.set_service_status(service, status).await;
    }
    let plain = tonic_server(health).await;
    let authority = Authority::root("root");
    let good = authority.issue(&["a.test"], Valid::Now);
    let over_tls = tls_before(plain, good.server(&["h2"])).await;
    let without_alpn = tls_before(plain, good.server(&[])).await;
    let clients = authority.trusted(1);
    for (path, want) in [
        ("/", Report::Success),
        ("/up", Report::Success),
        ("/pkg.v1/x", Report::Success),
        ("/down", Report::Http),
        ("/unsure", Report::Http),
        ("/unknown", Report::Http),
    ] {
        let told_plain = told(plain, active(Transport::Plain, path, LONG), &clients).await;
        assert_eq!(told_plain, Some(want), "{path}");
        for address in [over_tls, without_alpn] {
            let told_tls = told(address, active(verified(), path, LONG), &clients).await;
            assert_eq!(told_tls, Some(want), "{path} over TLS");
        }
    }
    reporter.set_service_status("down", ServingStatus::Serving).await;
    let now = told(plain, active(Transport::Plain, "/down", LONG), &clients).await;
    assert_eq!(now, Some(Report::Success), "it came up");
    let strange = told(over_tls, active(verified(), "/", LONG), &nobody()).await;
    assert_eq!(strange, Some(Report::Tcp), "a certificate that nobody vouches for");
    let other_protocol = tls_before(plain, good.server(&["http/1.1"])).await;
    let refused = told(other_protocol, active(verified(), "/", LONG), &clients).await;
    assert_eq!(refused, Some(Report::Tcp), "does not speak HTTP/2");
}

/// Answers one call.
type Talk = fn(SendResponse<Bytes>);

/// A server that hands each request on and then talks; none of what it says need make sense.
async fn h2_server(talk: Talk) -> (SocketAddr, mpsc::UnboundedReceiver<(Request<()>, Bytes)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let heard = heard.clone();
                    tokio::spawn(async move {
                        let (head, body) = request.into_parts();
                        let body = whole(body).await;
                        heard.send((Request::from_parts(head, ()), body)).ok();
                        talk(respond);
                    });
                }
            });
        }
    });
    (address, requests)
}

async fn whole(mut body: RecvStream) -> Bytes {
    let mut all = BytesMut::new();
    while let Some(Ok(part)) = body.data().await {
        all.extend_from_slice(&part);
    }
    all.freeze()
}

fn head(status: u16, grpc_status: Option<&'static str>) -> Response<()> {
    let mut response = Response::builder().status(status).body(()).unwrap();
    response.headers_mut().extend(trailers(grpc_status));
    response
}

fn trailers(grpc_status: Option<&'static str>) -> HeaderMap {
    let status = grpc_status
        .map(|status| (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(status)));
    status.into_iter().collect()
}

/// A message with this prefix byte, this length and this content.
fn message(is_compressed: u8, length: u32, content: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(is_compressed);
    bytes.put_u32(length);
    bytes.put_slice(content);
    bytes.freeze()
}

/// `status: 1` in protobuf.
const SERVING: &[u8] = &[8, 1];

fn reply(mut respond: SendResponse<Bytes>, body: Bytes, grpc_status: Option<&'static str>) {
    let mut stream = respond.send_response(head(200, None), false).unwrap();
    stream.send_data(body, false).unwrap();
    stream.send_trailers(trailers(grpc_status)).unwrap();
}

#[tokio::test]
async fn answers_are_judged_by_status_trailers_and_message() {
    let cases: [(&str, Talk, Report); 15] = [
        ("serving", |r| reply(r, message(0, 2, SERVING), Some("0")), Report::Success),
        ("not serving", |r| reply(r, message(0, 2, &[8, 2]), Some("0")), Report::Http),
        ("unknown", |r| reply(r, message(0, 0, &[]), Some("0")), Report::Http),
        ("service unknown", |r| reply(r, message(0, 2, &[8, 3]), Some("0")), Report::Http),
        ("a status yet to come", |r| reply(r, message(0, 2, &[8, 9]), Some("0")), Report::Http),
        ("serving, yet failed", |r| reply(r, message(0, 2, SERVING), Some("14")), Report::Http),
        ("no grpc-status", |r| reply(r, message(0, 2, SERVING), None), Report::Http),
        ("no message", |r| reply(r, Bytes::new(), Some("0")), Report::Http),
        ("two messages", |r| reply(r, message(0, 2, &[8, 1, 0, 0, 0, 0, 2, 8, 1]), Some("0")), Report::Http),
        ("compressed", |r| reply(r, message(1, 2, SERVING), Some("0")), Report::Http),
        ("no protobuf", |r| reply(r, message(0, 2, &[0xff, 0xff]), Some("0")), Report::Http),
        ("endless", |r| reply(r, message(0, 3000, &[0; 3000]), Some("0")), Report::Http),
        ("failed at once", |mut r| drop(r.send_response(head(200, Some("12")), true).unwrap()), Report::Http),
        ("no gRPC there", |mut r| drop(r.send_response(head(404, None), true).unwrap()), Report::Http),
        ("reset", |mut r| r.send_reset(h2::Reason::REFUSED_STREAM), Report::Http),
    ];
    for (name, talk, want) in cases {
        let (address, _requests) = h2_server(talk).await;
        let told = told(address, active(Transport::Plain, "/", LONG), &nobody()).await;
        assert_eq!(told, Some(want), "{name}");
    }
}

#[tokio::test]
async fn the_call_is_that_of_the_protocol() {
    let (address, mut requests) = h2_server(|r| reply(r, message(0, 2, SERVING), Some("0"))).await;
    let headers: [(&str, &str); 5] =
        [("X-A", "1"), ("x-a", "2"), ("Connection", "close"), ("TE", "gzip"), ("Content-Length", "9")];
    let headers = || headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let with_host = || headers().chain([("Host".into(), "own.test".into())]).collect();
    let by_address = address.to_string();
    let cases: [(_, Box<_>, _, &str); 4] = [
        ("a.test", headers().collect(), None, "a.test"),
        ("a.test", headers().collect(), Some("up.test:81"), "up.test:81"),
        ("a.test", with_host(), Some("up.test"), "own.test"),
        ("a.test", headers().collect(), Some("::1"), &by_address),
    ];
    for (host, headers, host_header, authority) in cases {
        let active = Active { headers, ..active(Transport::Plain, "/pkg.Service", LONG) };
        let found = probed((address, host), active, host_header, &nobody(), Version::Http11).await;
        assert_eq!(found.report, Some(Report::Success), "{authority}");
        let (request, body) = requests.recv().await.unwrap();
        assert_eq!(request.method(), "POST");
        assert_eq!(*request.uri(), *format!("http://{authority}/grpc.health.v1.Health/Check"));
        let map = request.headers();
        assert_eq!(map["content-type"], "application/grpc");
        assert_eq!(map["te"], "trailers");
        assert_eq!(map.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(map.len(), 4, "nothing of the connection: {map:?}");
        assert_eq!(body, message(0, 13, b"\x0a\x0bpkg.Service"));
    }
}

#[tokio::test]
async fn what_the_connection_does_counts_as_for_every_probe() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (deaf, _requests) = h2_server(std::mem::forget).await;
    let (half, _requests) =
        h2_server(|mut r| std::mem::forget(r.send_response(head(200, None), false).unwrap())).await;
    for (name, address, timeout, want) in [
        ("refused", refusing().await, LONG, Report::Tcp),
        ("says nothing", silent.local_addr().unwrap(), SHORT, Report::Timeout),
        ("does not answer the call", deaf, SHORT, Report::Timeout),
        ("does not end the answer", half, SHORT, Report::Timeout),
        ("closes at once", raw_server(b"").await, LONG, Report::Tcp),
        ("speaks HTTP/1", raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, LONG, Report::Http),
        // SETTINGS, then GOAWAY with the last stream 0 and ENHANCE_YOUR_CALM.
        (
            "goes away",
            raw_server(b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b").await,
            LONG,
            Report::Http,
        ),
    ] {
        let told = told(address, active(Transport::Plain, "/", timeout), &nobody()).await;
        assert_eq!(told, Some(want), "{name}");
    }
}

/// Reads what comes first, says `text`, closes.
async fn raw_server(text: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                assert!(stream.read(&mut buffer).await.is_ok_and(|read| read > 0), "it is asked");
                stream.write_all(text).await.ok();
                stream.shutdown().await.ok();
                // Until the other side has closed as well: what it has sent since must not cut the answer short.
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    address
}
