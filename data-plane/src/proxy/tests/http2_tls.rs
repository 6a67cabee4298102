//! Clients that speak HTTP/2 over TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use h2::Reason;
use http::Request;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::harness::{Node, Origin, PATIENCE, Plan, eventually};
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
