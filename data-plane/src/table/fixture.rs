//! Configs for tests: records as a control plane sends them, and checks as they are compiled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use equipoise_proto::{ContentHash, EntityKind, Epoch, Position, Revision, v1};
use uuid::Uuid;

use super::Target;
use super::compile::Record;
use crate::health::{Active, Checks, Limits, Passive, ProbeKind, Statuses};

pub(crate) fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

pub(crate) fn position(revision: u64) -> Position {
    let content_hash = ContentHash::from_bytes([7; 32]);
    Position { epoch: Epoch::new(id(1)), revision: Revision::new(revision), content_hash }
}

fn wire_id(number: u128) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(id(number).as_bytes())
}

fn record(kind: EntityKind, number: u128, message: &impl prost::Message) -> Record {
    Record { kind, id: id(number), wire: Some(message.encode_to_vec().into()) }
}

pub(crate) fn gone(kind: EntityKind, number: u128) -> Record {
    Record { kind, id: id(number), wire: None }
}

/// A service to `host:port`, with its defaults.
pub(crate) fn service(number: u128, host: &str, port: u32) -> Record {
    service_with(number, host, port, |_| {})
}

pub(crate) fn service_with(
    number: u128,
    host: &str,
    port: u32,
    change: impl FnOnce(&mut v1::Service),
) -> Record {
    let mut service = v1::Service {
        name: format!("service-{number}"),
        protocol: v1::Protocol::Http.into(),
        host: host.into(),
        port,
        retries: 5,
        connect_timeout_ms: 60_000,
        write_timeout_ms: 60_000,
        read_timeout_ms: 60_000,
        enabled: true,
        ..Default::default()
    };
    change(&mut service);
    record(EntityKind::Service, number, &service)
}

/// A route by path.
pub(crate) fn route(number: u128, service: Option<u128>, path: &str) -> Record {
    route_with(number, service, path, |_| {})
}

pub(crate) fn route_with(
    number: u128,
    service: Option<u128>,
    path: &str,
    change: impl FnOnce(&mut v1::Route),
) -> Record {
    let mut route = v1::Route {
        name: format!("route-{number}"),
        service: service.map(wire_id),
        protocols: vec![v1::Protocol::Http.into(), v1::Protocol::Https.into()],
        paths: vec![path.into()],
        https_redirect_status: 426,
        strip_path: true,
        request_buffering: true,
        response_buffering: true,
        ..Default::default()
    };
    change(&mut route);
    record(EntityKind::Route, number, &route)
}

pub(crate) fn upstream(number: u128, name: &str) -> Record {
    upstream_with(number, name, |_| {})
}

pub(crate) fn upstream_with(number: u128, name: &str, change: impl FnOnce(&mut v1::Upstream)) -> Record {
    let mut upstream = v1::Upstream { name: name.into(), slots: 10_000, ..Default::default() };
    change(&mut upstream);
    record(EntityKind::Upstream, number, &upstream)
}

pub(crate) fn target(number: u128, upstream: u128, target: &str, weight: u32) -> Record {
    let target = v1::Target {
        upstream: wire_id(upstream),
        target: target.into(),
        weight,
        created_at_ms: i64::try_from(number).unwrap(),
        ..Default::default()
    };
    record(EntityKind::Target, number, &target)
}

/// A target with tags, of weight 100.
pub(crate) fn tagged(number: u128, upstream: u128, target: &str, tags: &[&str]) -> Record {
    let target = v1::Target {
        upstream: wire_id(upstream),
        target: target.into(),
        weight: 100,
        created_at_ms: i64::try_from(number).unwrap(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    };
    record(EntityKind::Target, number, &target)
}

/// The policy of an upstream.
pub(crate) fn policy(upstream: u128, change: impl FnOnce(&mut v1::Policy)) -> Record {
    let mut policy = v1::Policy { upstream: wire_id(upstream), ..Default::default() };
    change(&mut policy);
    record(EntityKind::Policy, upstream, &policy)
}

/// The policy of an upstream whose targets are taken out after so many errors in a row, for so long.
pub(crate) fn outlier_policy(upstream: u128, errors: u32, base_ejection_ms: u64) -> Record {
    policy(upstream, |policy| {
        policy.outlier_detection = Some(v1::OutlierDetection {
            consecutive_5xx: errors,
            enforcing_consecutive_5xx: 100,
            interval_ms: 1_000,
            base_ejection_ms,
            max_ejection_ms: 300_000,
            max_ejection_percent: 10,
            ..Default::default()
        });
    })
}

/// A certificate for a name, as it is stored; another one each time.
pub(crate) fn pem_pair(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

pub(crate) fn certificate(number: u128, (cert, key): &(String, String)) -> Record {
    certificate_with(number, |certificate| {
        (certificate.cert, certificate.key) = (cert.clone(), key.clone());
    })
}

pub(crate) fn certificate_with(number: u128, change: impl FnOnce(&mut v1::Certificate)) -> Record {
    let mut certificate = v1::Certificate::default();
    change(&mut certificate);
    record(EntityKind::Certificate, number, &certificate)
}

pub(crate) fn sni(number: u128, name: &str, certificate: u128) -> Record {
    let sni = v1::Sni { name: name.into(), certificate: wire_id(certificate) };
    record(EntityKind::Sni, number, &sni)
}

pub(crate) fn authority(number: u128, cert: &str) -> Record {
    record(EntityKind::CaCertificate, number, &v1::CaCertificate { cert: cert.into() })
}

pub(crate) fn wire_ids(numbers: &[u128]) -> Vec<bytes::Bytes> {
    numbers.iter().map(|number| wire_id(*number)).collect()
}

/// Passive checks that eject after so many TCP failures and let back in after one success.
pub(crate) fn passive(upstream: &mut v1::Upstream, tcp_failures: u32) {
    let checks = upstream.healthchecks.get_or_insert_default();
    checks.passive = Some(v1::PassiveChecks {
        unhealthy_tcp_failures: tcp_failures,
        healthy_successes: 1,
        healthy_statuses: vec![200],
        ..Default::default()
    });
}

/// Active TCP checks that never run.
pub(crate) fn tcp_checks() -> Active {
    Active {
        kind: ProbeKind::Tcp,
        timeout: Duration::from_secs(1),
        concurrency: 1,
        path: "/".into(),
        headers: Box::default(),
        healthy_interval: None,
        unhealthy_interval: None,
        limits: Limits::default(),
        healthy: Statuses::default(),
        unhealthy: Statuses::default(),
    }
}

/// A target whose health reports can change, these passive checks among them.
pub(crate) fn checked(address: SocketAddr, passive: Passive) -> Arc<Target> {
    let target = Target::new(address, &address.ip().to_string());
    target.set_checks(Some(Arc::new(Checks { active: tcp_checks(), passive })));
    target
}
