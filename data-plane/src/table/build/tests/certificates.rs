//! Certificates, SNIs and authorities: what is shown to whom, and how it follows config.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::super::super::fixture::{authority, certificate, certificate_with, pem_pair, sni, wire_ids};
use super::*;
use crate::tls::Terms;
use crate::tls::fixture::Authority;

impl Node {
    /// The leaf that is shown for a name.
    fn shown(&self, name: &str) -> Option<CertificateDer<'static>> {
        let table = self.seams.active.load();
        table.snis.find(Some(name)).map(|shown| shown[0].cert[0].clone())
    }

    fn tls(&self, path: &str) -> Arc<Terms> {
        self.route(path).unwrap().service.as_ref().unwrap().tls.clone().unwrap()
    }
}

fn der(pair: &(String, String)) -> Option<CertificateDer<'static>> {
    Some(CertificateDer::from_pem_slice(pair.0.as_bytes()).unwrap())
}

/// A service to `u.test` by TLS, at `/tls`.
fn tls_service(number: u128, change: impl FnOnce(&mut v1::Service)) -> Vec<Record> {
    let service = service_with(number, "u.test", 443, |service| {
        service.protocol = v1::Protocol::Https.into();
        change(service);
    });
    vec![service, route(number + 1, Some(number), "/tls")]
}

#[test]
fn names_are_shown_what_config_says_and_follow_it() {
    let (one, other) = (pem_pair("one.test"), pem_pair("other.test"));
    let mut node = Node::with(vec![
        sni(20, "one.test", 10),
        sni(21, "*.one.test", 10),
        certificate(10, &one),
        certificate(11, &other),
    ]);
    assert_eq!(node.shown("one.test"), der(&one));
    assert_eq!(node.shown("a.one.test"), der(&one));
    assert_eq!(node.shown("other.test"), None);
    node.delta(vec![sni(20, "one.test", 11)]);
    assert_eq!(node.shown("one.test"), der(&other), "another certificate");
    let new = pem_pair("new.test");
    node.delta(vec![certificate(10, &new)]);
    assert_eq!(node.shown("a.one.test"), der(&new), "the certificate changed");
    assert_eq!(node.shown("one.test"), der(&other));
    node.delta(vec![sni(20, "*.one.test", 11), sni(21, "one.test", 10)]);
    assert_eq!(node.shown("a.one.test"), der(&other), "names were exchanged");
    assert_eq!(node.shown("one.test"), der(&new));
    // Routes that come in between leave names alone.
    node.delta(vec![service(1, "1.2.3.4", 80), route(2, Some(1), "/a")]);
    assert_eq!(node.shown("one.test"), der(&new));
    node.delta(vec![gone(EntityKind::Certificate, 10), gone(EntityKind::Sni, 21)]);
    assert_eq!(node.shown("one.test"), None);
}

#[test]
fn what_a_node_cannot_use_is_refused_by_entity_and_field() {
    let (one, other) = (pem_pair("one.test"), pem_pair("other.test"));
    let base = || Node::with(vec![certificate(10, &one), sni(20, "one.test", 10)]);
    let client = |service: &mut v1::Service| service.client_certificate = Some(wire_ids(&[10])[0].clone());
    let cases: [(&str, Vec<Record>, EntityKind, u128, &str); 11] = [
        ("another key", vec![certificate(11, &(one.0.clone(), other.1))], EntityKind::Certificate, 11, "key"),
        (
            "no certificate",
            vec![certificate(11, &("x".into(), one.1.clone()))],
            EntityKind::Certificate,
            11,
            "cert",
        ),
        (
            "a broken second one",
            vec![certificate_with(11, |made| {
                (made.cert, made.key) = one.clone();
                made.cert_alt = "x".into();
            })],
            EntityKind::Certificate,
            11,
            "cert_alt",
        ),
        ("no name", vec![sni(21, "a.*.b", 10)], EntityKind::Sni, 21, "name"),
        ("a name that is taken", vec![sni(21, "ONE.test", 10)], EntityKind::Sni, 21, "name"),
        ("no such certificate", vec![sni(21, "b", 12)], EntityKind::Sni, 21, "certificate"),
        (
            "one that an SNI needs",
            vec![gone(EntityKind::Certificate, 10)],
            EntityKind::Sni,
            20,
            "certificate",
        ),
        ("no authority", vec![authority(30, "x")], EntityKind::CaCertificate, 30, "cert"),
        (
            "a service's that is not there",
            [gone(EntityKind::Certificate, 10), gone(EntityKind::Sni, 20)]
                .into_iter()
                .chain(tls_service(1, client))
                .collect(),
            EntityKind::Service,
            1,
            "client_certificate",
        ),
        (
            "an upstream's that is not there",
            vec![upstream_with(1, "u", |made| made.client_certificate = Some(wire_ids(&[12])[0].clone()))],
            EntityKind::Upstream,
            1,
            "client_certificate",
        ),
        (
            "an id that is none",
            tls_service(1, |service| service.ca_certificates = vec![bytes::Bytes::from_static(b"x")]),
            EntityKind::Service,
            1,
            "ca_certificates",
        ),
    ];
    for (name, records, kind, number, field) in cases {
        let mut node = base();
        let error = node.refuse(records);
        assert_eq!((error.kind, error.id, error.field), (kind, id(number), field), "{name}: {error}");
        assert!(!error.to_string().contains("PRIVATE"), "{name}: {error}");
        assert_eq!(node.shown("one.test"), der(&one), "{name}");
    }
}

#[test]
fn a_certificate_in_use_cannot_go_alone() {
    let pair = pem_pair("client.test");
    let client = |service: &mut v1::Service| service.client_certificate = Some(wire_ids(&[10])[0].clone());
    let mut node = Node::with([certificate(10, &pair)].into_iter().chain(tls_service(1, client)).collect());
    let error = node.refuse(vec![gone(EntityKind::Certificate, 10)]);
    assert_eq!((error.kind, error.field), (EntityKind::Service, "client_certificate"));
    let without = tls_service(1, |_| {}).remove(0);
    node.delta(vec![gone(EntityKind::Certificate, 10), without]);
    assert!(node.tls("/tls").asked().certificate.is_none());
}

#[test]
fn targets_are_shown_the_services_certificate_else_the_upstreams() {
    let (of_service, of_upstream) = (pem_pair("service.test"), pem_pair("upstream.test"));
    let own = |service: &mut v1::Service| service.client_certificate = Some(wire_ids(&[10])[0].clone());
    let upstreams =
        upstream_with(3, "u.test", |made| made.client_certificate = Some(wire_ids(&[11])[0].clone()));
    let mut node = Node::with(
        [certificate(10, &of_service), certificate(11, &of_upstream)]
            .into_iter()
            .chain(tls_service(1, own))
            // Of the same upstream.
            .chain([service(5, "u.test", 80), route(6, Some(5), "/plain")])
            .collect(),
    );
    let shown =
        |node: &Node| node.tls("/tls").asked().certificate.as_ref().map(|client| client.cert[0].clone());
    let mut digests = vec![node.tls("/tls").number()];
    assert_eq!(shown(&node), der(&of_service));
    node.delta(vec![upstreams]);
    assert_eq!(shown(&node), der(&of_service));
    assert_eq!(
        node.upstream("/plain").client.as_ref().map(|client| client.cert[0].clone()),
        der(&of_upstream)
    );
    node.delta(vec![tls_service(1, |_| {}).remove(0)]);
    assert_eq!(shown(&node), der(&of_upstream));
    digests.push(node.tls("/tls").number());
    let new = pem_pair("new.test");
    node.delta(vec![certificate(11, &new)]);
    assert_eq!(shown(&node), der(&new), "the certificate changed");
    assert_eq!(node.upstream("/plain").client.as_ref().map(|client| client.cert[0].clone()), der(&new));
    digests.push(node.tls("/tls").number());
    node.delta(vec![upstream(3, "u.test")]);
    assert_eq!(shown(&node), None, "the upstream has none any more");
    digests.push(node.tls("/tls").number());
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), count, "each has its own identity");
}

#[test]
fn a_service_trusts_its_own_authorities_alone() {
    let (one, other) = (Authority::root("one"), Authority::root("other"));
    let trusts = |ids: &'static [u128]| {
        move |service: &mut v1::Service| {
            service.tls_verify = Some(true);
            service.tls_verify_depth = Some(3);
            service.ca_certificates = wire_ids(ids);
        }
    };
    let mut node = Node::with(tls_service(1, trusts(&[30, 31])));
    let tls = node.tls("/tls");
    assert_eq!((tls.asked().verify, tls.asked().depth), (Some(true), Some(3)));
    // An authority that is not there is no reason to trust others.
    assert_eq!(tls.asked().authorities.as_ref().map(|roots| roots.len()), Some(0));
    node.delta(vec![authority(30, &one.pem())]);
    let with_one = node.tls("/tls");
    assert_eq!(with_one.asked().authorities.as_ref().map(|roots| roots.len()), Some(1));
    assert_ne!(with_one.number(), tls.number());
    node.delta(vec![authority(30, &other.pem())]);
    assert_ne!(node.tls("/tls").number(), with_one.number(), "the authority changed");
    node.delta(vec![gone(EntityKind::CaCertificate, 30)]);
    assert_eq!(node.tls("/tls").number(), tls.number());
    node.delta(vec![tls_service(1, |_| {}).remove(0)]);
    assert!(node.tls("/tls").asked().authorities.is_none());
    node.delta(vec![service(1, "u.test", 80)]);
    assert!(node.route("/tls").unwrap().service.as_ref().unwrap().tls.is_none(), "plain services have none");
}
