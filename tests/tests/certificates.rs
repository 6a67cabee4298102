//! Certificates of the Admin API, through the real binary: what a client is shown follows config, and no connection ends by it.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::net::SocketAddr;

use equipoise_tests::cluster::{Standalone, balance};
use equipoise_tests::tls::{Certified, Connection, SCHEMES, client, self_signed, self_signed_with};
use equipoise_tests::{Client, Origin, PATIENCE, eventually};
use rcgen::PKCS_RSA_SHA256;
use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;
use serde_json::json;

fn ecdsa() -> Certified {
    self_signed(&["a.test"])
}

fn open(proxy: SocketAddr, name: &str, schemes: &[SignatureScheme]) -> std::io::Result<Connection> {
    Connection::open(proxy, name, &client(None, &[], schemes))
}

fn shown(proxy: SocketAddr, name: &str) -> CertificateDer<'static> {
    open(proxy, name, SCHEMES).unwrap().shown()
}

fn is_served(connection: &mut Connection) -> bool {
    connection.get("/mock", "").unwrap().0.starts_with("HTTP/1.1 200 ")
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
    let body = json!({ "cert": one.pem(), "key": one.key_pem(), "snis": ["a.test", "*.b.test"] });
    let made = send(&mut admin, "PUT", "/certificates/a.test", &body);
    assert_eq!(made["snis"], json!(["*.b.test", "a.test"]));
    for (name, want) in [
        ("a.test", &one.der()),
        ("A.TEST", &one.der()),
        ("x.b.test", &one.der()),
        ("b.test", &own),
        ("x.a.test", &own),
        ("127.0.0.1", &own),
    ] {
        assert_eq!(&shown(proxy, name), want, "{name}");
    }

    let mut kept = open(proxy, "a.test", SCHEMES).unwrap();
    assert!(is_served(&mut kept));
    send(
        &mut admin,
        "PATCH",
        "/certificates/a.test",
        &json!({ "cert": other.pem(), "key": other.key_pem() }),
    );
    assert_eq!(shown(proxy, "a.test"), other.der(), "changed");
    assert!(is_served(&mut kept), "an open connection goes on");
    assert_eq!(kept.shown(), one.der());

    let rsa = self_signed_with(&PKCS_RSA_SHA256, &["a.test"]);
    send(
        &mut admin,
        "PATCH",
        "/certificates/a.test",
        &json!({ "cert_alt": rsa.pem(), "key_alt": rsa.key_pem() }),
    );
    assert_eq!(shown(proxy, "a.test"), other.der(), "who can verify both gets the cheaper one");
    let old = open(proxy, "a.test", &SCHEMES[1..]).unwrap();
    assert_eq!(old.shown(), rsa.der(), "who can only verify RSA");

    send(&mut admin, "DELETE", "/snis/a.test", &json!({}));
    assert_eq!(shown(proxy, "a.test"), own, "one name less");
    assert_eq!(shown(proxy, "x.b.test"), other.der());
    let id = made["id"].as_str().unwrap();
    send(&mut admin, "POST", &format!("/certificates/{id}/snis"), &json!({ "name": "*" }));
    assert_eq!(shown(proxy, "whatever.test"), other.der(), "for every name");
    send(&mut admin, "DELETE", &format!("/certificates/{id}"), &json!({}));
    assert_eq!(shown(proxy, "x.b.test"), own, "back to the default");
    assert!(is_served(&mut kept), "still the same connection");
    let log = node.process().log();
    assert!(
        !log.contains("PRIVATE KEY") && !log.contains(one.key_pem().lines().nth(1).unwrap()),
        "keys are no log lines"
    );
}

#[test]
fn a_node_has_its_certificates_after_a_restart() {
    let mut node = Standalone::start_with(&["--proxy-listen", "127.0.0.1:0 ssl"]).unwrap();
    let one = ecdsa();
    let body = json!({ "cert": one.pem(), "key": one.key_pem(), "snis": ["a.test"] });
    send(&mut node.process().client("admin"), "POST", "/certificates", &body);
    node.kill();
    node.start_again().unwrap();
    let proxy = node.process().address("proxy tls");
    eventually("its certificate to be shown", PATIENCE, || {
        (open(proxy, "a.test", SCHEMES).ok()?.shown() == one.der()).then_some(())
    });
}
