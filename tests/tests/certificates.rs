//! Certificates of the Admin API, through the real binary: what a client is shown follows config, and no connection ends by it.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use equipoise_tests::cluster::{Standalone, balance};
use equipoise_tests::{Client, Origin, PATIENCE, eventually};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use serde_json::json;

/// PEM of a certificate and its key.
fn pair(algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn ecdsa() -> (String, String) {
    pair(&PKCS_ECDSA_P256_SHA256)
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Takes whatever is shown: the tests look at it themselves.
#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

const ALL: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// A connection for a name, or an address that is no SNI, by a client that can verify these signatures.
struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    fn open(proxy: SocketAddr, name: &str, schemes: &[SignatureScheme]) -> std::io::Result<Self> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(schemes.to_vec())))
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(proxy)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self(stream))
    }

    fn shown(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    fn get(&mut self) -> String {
        self.0.write_all(b"GET /mock HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
        let mut read = Vec::new();
        let mut byte = [0];
        while !read.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
        let head = String::from_utf8(read).unwrap();
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        head
    }
}

fn shown(proxy: SocketAddr, name: &str) -> CertificateDer<'static> {
    Connection::open(proxy, name, ALL).unwrap().shown()
}

fn send(admin: &mut Client, method: &str, path: &str, body: &serde_json::Value) -> serde_json::Value {
    let path = format!("{path}?wait=applied");
    let answer = admin.json(method, &path, body).unwrap();
    assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
    assert_eq!(
        answer.header("equipoise-applied"),
        Some("applied=1, refused=0, pending=0"),
        "{method} {path}"
    );
    if answer.status == 204 { serde_json::Value::Null } else { answer.json() }
}

#[test]
fn clients_are_shown_what_the_admin_api_says_while_connections_live() {
    let node = Standalone::start_with(&["--proxy-listen", "127.0.0.1:0 ssl, 127.0.0.1:0"]).unwrap();
    let (proxy, mut admin) = (node.process().address("proxy tls"), node.process().client("admin"));
    let origin = Origin::start("only");
    balance(&mut admin, "", &[origin.address()]);
    let own = shown(proxy, "a.test");
    assert_eq!(shown(proxy, "127.0.0.1"), own);

    let (one, other) = (ecdsa(), ecdsa());
    let body = json!({ "cert": one.0, "key": one.1, "snis": ["a.test", "*.b.test"] });
    let made = send(&mut admin, "PUT", "/certificates/a.test", &body);
    assert_eq!(made["snis"], json!(["*.b.test", "a.test"]));
    for (name, want) in [
        ("a.test", &der(&one.0)),
        ("A.TEST", &der(&one.0)),
        ("x.b.test", &der(&one.0)),
        ("b.test", &own),
        ("x.a.test", &own),
        ("127.0.0.1", &own),
    ] {
        assert_eq!(&shown(proxy, name), want, "{name}");
    }

    let mut open = Connection::open(proxy, "a.test", ALL).unwrap();
    assert!(open.get().starts_with("HTTP/1.1 200 "));
    send(&mut admin, "PATCH", "/certificates/a.test", &json!({ "cert": other.0, "key": other.1 }));
    assert_eq!(shown(proxy, "a.test"), der(&other.0), "changed");
    assert!(open.get().starts_with("HTTP/1.1 200 "), "an open connection goes on");
    assert_eq!(open.shown(), der(&one.0));

    let rsa = pair(&PKCS_RSA_SHA256);
    send(&mut admin, "PATCH", "/certificates/a.test", &json!({ "cert_alt": rsa.0, "key_alt": rsa.1 }));
    assert_eq!(shown(proxy, "a.test"), der(&other.0), "who can verify both gets the cheaper one");
    let old = Connection::open(proxy, "a.test", &ALL[1..]).unwrap();
    assert_eq!(old.shown(), der(&rsa.0), "who can only verify RSA");

    send(&mut admin, "DELETE", "/snis/a.test", &json!({}));
    assert_eq!(shown(proxy, "a.test"), own, "one name less");
    assert_eq!(shown(proxy, "x.b.test"), der(&other.0));
    let id = made["id"].as_str().unwrap();
    send(&mut admin, "POST", &format!("/certificates/{id}/snis"), &json!({ "name": "*" }));
    assert_eq!(shown(proxy, "whatever.test"), der(&other.0), "for every name");
    send(&mut admin, "DELETE", &format!("/certificates/{id}"), &json!({}));
    assert_eq!(shown(proxy, "x.b.test"), own, "back to the default");
    assert!(open.get().starts_with("HTTP/1.1 200 "), "still the same connection");
    let log = node.process().log();
    assert!(
        !log.contains("PRIVATE KEY") && !log.contains(one.1.lines().nth(1).unwrap()),
        "keys are no log lines"
    );
}

#[test]
fn a_node_has_its_certificates_after_a_restart() {
    let mut node = Standalone::start_with(&["--proxy-listen", "127.0.0.1:0 ssl"]).unwrap();
    let one = ecdsa();
    let body = json!({ "cert": one.0, "key": one.1, "snis": ["a.test"] });
    send(&mut node.process().client("admin"), "POST", "/certificates", &body);
    node.kill();
    node.start_again().unwrap();
    let proxy = node.process().address("proxy tls");
    eventually("its certificate to be shown", PATIENCE, || {
        (Connection::open(proxy, "a.test", ALL).ok()?.shown() == der(&one.0)).then_some(())
    });
}
