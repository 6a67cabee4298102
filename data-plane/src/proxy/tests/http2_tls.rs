//! Clients that speak HTTP/2 over TLS.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::Request;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::harness::{Node, Origin, PATIENCE, Plan, eventually, ok};
use super::http2::{plan, read, runtime};
use crate::tls::ALPN_HTTP2;
use crate::tls::fixture::{Authority, Valid};

/// A node that speaks TLS, and whom its clients trust.
struct Speaker {
    node: Node,
    config: Arc<ClientConfig>,
}

impl Speaker {
    fn start(mut plan: Plan, origin: &Origin) -> Self {
        let authority = Authority::root("clients trust it");
        let server = authority.issue(&["a.com"], Valid::Now).server_of(&[&TLS13], &["h2", "http/1.1"]);
        plan.settings.listen[0].tls = Some(server.into());
        let mut config = ClientConfig::clone(&authority.trusted(1).verifying(None));
        config.alpn_protocols = [ALPN_HTTP2, b"http/1.1"].map(<[u8]>::to_vec).into();
        Self { node: plan.start(&[origin.address]), config: config.into() }
    }
}

async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(ServerName::try_from("a.com").unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN_HTTP2));
    stream
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("https://a.com{path}")).body(()).unwrap()
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

#[test]
fn who_reads_late_and_then_waits_is_not_taken_for_one_who_takes_nothing() {
    const LENGTH: usize = 32 * 1024 * 1024;
    let may_go_on: Arc<[AtomicBool; 2]> = Arc::default();
    let sent = Arc::<AtomicUsize>::default();
    let (gates, count) = (Arc::clone(&may_go_on), Arc::clone(&sent));
    let origin = Origin::script(move |line, _| {
        while let Some(head) = line.read_head() {
            let is_large = head.contains(" /large ");
            let gate = &gates[usize::from(!is_large)];
            eventually("told to go on", || gate.load(Ordering::SeqCst));
            if !is_large {
                line.send(ok("late"));
                continue;
            }
            line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"));
            for _ in 0..LENGTH / 65536 {
                line.stream.write_all(&[b'x'; 65536]).unwrap();
                count.fetch_add(65536, Ordering::SeqCst);
            }
        }
    });
    let mut plan = plan();
    plan.settings.send_timeout = Duration::from_secs(1);
    let send_timeout = plan.settings.send_timeout;
    let speaker = Speaker::start(plan, &origin);
    runtime().block_on(in_time(async {
        let room = u32::try_from(2 * LENGTH).unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(room).initial_connection_window_size(room);
        let shaken =
            builder.handshake::<_, Bytes>(connect(speaker.node.address, &speaker.config).await).await;
        let (mut requests, connection) = shaken.unwrap();
        let mut connection = std::pin::pin!(connection);
        let (large, _) = requests.send_request(get("/large"), true).unwrap();
        let (slow, _) = requests.send_request(get("/slow"), true).unwrap();
        while speaker.node.targets[0].in_flight() < 2 {
            drop(tokio::time::timeout(Duration::from_millis(1), &mut connection).await);
        }
        // Nothing is read until nothing can be sent any more.
        may_go_on[0].store(true, Ordering::SeqCst);
        let (mut seen, mut since) = (0, Instant::now());
        while seen == 0 || since.elapsed() < Duration::from_millis(100) {
            if sent.load(Ordering::SeqCst) != seen {
                (seen, since) = (sent.load(Ordering::SeqCst), Instant::now());
            }
            tokio::task::yield_now().await;
        }
        assert!(seen < LENGTH, "there was room for all of it");
        let reading = async {
            let (body, _) = read(large.await.unwrap().into_body()).await.unwrap();
            assert_eq!(body.len(), LENGTH);
            // Nothing is owed to anybody for longer than a write may take.
            tokio::time::sleep(send_timeout + send_timeout / 2).await;
            may_go_on[1].store(true, Ordering::SeqCst);
            read(slow.await.unwrap().into_body()).await.unwrap().0
        };
        let late = tokio::select! {
            late = reading => late,
            ended = &mut connection => panic!("the connection ended: {ended:?}"),
        };
        assert_eq!(late, "late");
    }));
}

#[test]
fn a_client_that_is_about_to_begin_is_served_in_a_drain_and_a_silent_one_is_told_the_end() {
    let origin = Origin::saying("hello");
    let Speaker { node, config } = Speaker::start(plan(), &origin);
    let address = node.address;
    let runtime = runtime();
    let (begins, mut silent) = runtime
        .block_on(in_time(async { (connect(address, &config).await, connect(address, &config).await) }));
    eventually("both have shaken hands", || {
        node.metric("equipoise_tls_handshakes_total{result=\"done\"") == 2.0
    });
    let draining = runtime.spawn(node.running.drain(Instant::now() + PATIENCE));
    eventually("nobody listens", || std::net::TcpStream::connect(address).is_err());
    runtime.block_on(in_time(async {
        let (mut requests, connection) = h2::client::handshake(begins).await.unwrap();
        let (response, _) = requests.send_request(get("/"), true).unwrap();
        let ended = tokio::spawn(connection);
        assert_eq!(read(response.await.unwrap().into_body()).await.unwrap().0, "hello");
        let told = requests.ready().await.unwrap_err();
        assert!(told.is_go_away() && told.reason() == Some(Reason::NO_ERROR), "{told}");
        ended.await.unwrap().unwrap();
        // It gets the settings, and no more; without a close_notify, this is an error.
        silent.read_to_end(&mut Vec::new()).await.unwrap();
        draining.await.unwrap();
    }));
}
