//! Clients that show certificates.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, ClientConnection, StreamOwned};

use super::harness::*;
use super::http2::Connection;
use super::tls::{Secure, ask};
use crate::tls::ALPN_HTTP2;
use crate::tls::callers::{Need, Told};
use crate::tls::fixture::{Authority, Shown, Valid, asking, nobody, self_signed};

/// Says of a certificate what it should not.
const GET: &str = "GET / HTTP/1.1\r\nHost: a.com\r\nClient-Cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\n\r\n";

/// A node that asks clients for certificates of `authority`, at its first listener; the second one is in clear.
fn node(authority: &Authority, need: Need, told: Told, target: SocketAddr) -> Node {
    let mut plan = Plan::default();
    plan.settings.listen.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into());
    plan.settings.asks_callers = true;
    plan.settings.listen[0].flags.http2 = true;
    plan.settings.listen[0].tls = Some(asking(authority, |asked| (asked.need, asked.told) = (need, told)));
    plan.start(&[target])
}

fn showing(certificate: Option<&Arc<CertifiedKey>>) -> Arc<ClientConfig> {
    nobody().unverifying(certificate)
}

fn connect(node: &Node, certificate: Option<&Arc<CertifiedKey>>) -> Secure {
    let name = ServerName::try_from("a.com").unwrap();
    let connection = ClientConnection::new(showing(certificate), name).unwrap();
    StreamOwned::new(connection, node.connect().stream)
}

/// A header that says these certificates.
fn sequences(certificates: &[impl AsRef<[u8]>]) -> String {
    let items: Vec<_> = certificates.iter().map(|der| format!(":{}:", STANDARD.encode(der))).collect();
    items.join(", ")
}

/// What the target was told, in the last request.
fn told(origin: &Origin) -> [Option<String>; 2] {
    let message = Message { head: origin.seen().pop().unwrap(), body: String::new() };
    ["client-cert", "client-cert-chain"].map(|name| message.header(name))
}

fn certificates() -> (Authority, Shown) {
    let authority = Authority::root("clients'");
    let shown = authority.intermediate("between").issue(&["client"], Valid::Now);
    (authority, shown)
}

#[test]
fn targets_are_told_what_the_client_has_shown_and_not_what_it_says() {
    let (authority, shown) = certificates();
    let (leaf, between) = (sequences(&shown.chain[..1]), sequences(&shown.chain[1..2]));
    let certificate = shown.certified();
    for (name, said, certificate, want) in [
        ("nothing", Told::Nothing, Some(&certificate), [None, None]),
        ("the certificate", Told::Certificate, Some(&certificate), [Some(&leaf), None]),
        ("the chain", Told::Chain, Some(&certificate), [Some(&leaf), Some(&between)]),
        ("of none", Told::Chain, None, [None, None]),
    ] {
        let origin = Origin::saying("hello");
        let node = node(&authority, Need::Optional, said, origin.address);
        let want = want.map(|header| header.cloned());
        let mut client = connect(&node, certificate);
        for _ in 0..2 {
            assert_eq!(ask(&mut client, GET).body, "hello", "{name}");
            assert_eq!(told(&origin), want, "{name}");
        }
        let config = ClientConfig::clone(&showing(certificate));
        let (client, agreed) = Connection::tls(node.address, config, &[ALPN_HTTP2]);
        assert_eq!(agreed.as_deref(), Some(ALPN_HTTP2));
        let request = http::Request::get("http://a.com/").header("client-cert", ":AAAA:").body(()).unwrap();
        assert_eq!(client.ask(request, &[], None).unwrap().body, "hello", "{name}");
        assert_eq!(told(&origin), want, "{name}, by HTTP/2");
        let mut clear = Line::connect(node.running.addresses()[1]);
        assert_eq!(clear.ask(GET).body, "hello");
        assert_eq!(told(&origin), [None, None], "{name}, in clear");
    }
}

#[test]
fn who_has_to_show_a_certificate_and_does_not_never_asks_for_anything() {
    let (authority, shown) = certificates();
    let (good, bad) = (shown.certified(), self_signed(&["client"]).certified());
    let origin = Origin::saying("hello");
    let node = node(&authority, Need::Required, Told::Nothing, origin.address);
    for (name, certificate, want) in [
        ("none", None, AlertDescription::CertificateRequired),
        ("a stranger's", Some(&bad), AlertDescription::UnknownCA),
    ] {
        let mut client = connect(&node, certificate);
        // What it asks for may be on its way before it is told.
        let error = client.write_all(GET.as_bytes()).and_then(|()| client.read_exact(&mut [0])).unwrap_err();
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        assert_eq!(inner, Some(&rustls::Error::AlertReceived(want)), "{name}: {error}");
    }
    assert_eq!(origin.connections(), 0);
    let failed = || node.metric("equipoise_tls_handshakes_total{result=\"failed\"");
    eventually("both were counted", || failed() == 2.0);
    assert_eq!(ask(&mut connect(&node, Some(&good)), GET).body, "hello");
    // Who goes on to ask before it reads is told all the same.
    let mut client = connect(&node, None);
    client.flush().unwrap();
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock).unwrap();
    }
    eventually("it was let go", || failed() == 3.0);
    for _ in 0..20 {
        client.sock.write_all(&[0; 1000]).unwrap();
    }
    let error = client.read_exact(&mut [0]).unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}
