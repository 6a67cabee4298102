//! A membership against an enrolment service that the test answers for, over real TLS.

use std::sync::Mutex as StdMutex;

use equipoise_identity::authority::Order;
use equipoise_identity::tls::{Presented, server};
use equipoise_identity::token::TokenId;
use equipoise_identity::{Authority, Csr, SealKeys, SpiffeId};
use equipoise_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response};
use uuid::Uuid;

use super::*;
use crate::ControlPlane;

const DAY: Duration = Duration::from_secs(86_400);

/// What the service does with its next certificates.
#[derive(Clone, Copy)]
struct Conduct {
    /// As if it were then.
    now: SystemTime,
    role: Role,
}

/// An authority and what was asked of it.
struct Service {
    authority: Authority,
    conduct: StdMutex<Conduct>,
    asked: StdMutex<Vec<&'static str>>,
    names: StdMutex<Vec<Option<SpiffeId>>>,
}

impl Service {
    fn issue(&self, id: NodeId, csr: &[u8]) -> v1::Enrolled {
        let Conduct { now, role } = *self.conduct.lock().unwrap();
        let csr = Csr::parse(csr).unwrap();
        let serial = [u8::try_from(self.asked.lock().unwrap().len()).unwrap(); 16];
        let order = Order { name: SpiffeId { role, id }, key: csr.key(), serial, now, lifetime: DAY };
        v1::Enrolled {
            certificate: self.authority.issue(order).unwrap().der().to_vec().into(),
            authorities: vec![self.authority.certificate().der().to_vec().into()],
        }
    }

    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// The names that peers showed, once there are so many: the server's half of a handshake ends after the client's.
    async fn names(&self, count: usize) -> Vec<Option<SpiffeId>> {
        let all = async {
            loop {
                let names = self.names.lock().unwrap().clone();
                if names.len() >= count {
                    return names;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), all).await.expect("in time")
    }

    fn conduct(&self, now: SystemTime, role: Role) {
        *self.conduct.lock().unwrap() = Conduct { now, role };
    }
}

#[derive(Clone)]
struct Handle(Arc<Service>);

#[tonic::async_trait]
impl Enrolment for Handle {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::Enrolled>, Status> {
        let request = request.into_inner();
        self.0.asked.lock().unwrap().push("enrol");
        let id = NodeId::from_wire(&request.node_id).unwrap();
        match request.token.parse::<JoinToken>() {
            Ok(token) if token == self::token(&self.0.authority) => {
                Ok(Response::new(self.0.issue(id, &request.csr)))
            }
            Ok(_) | Err(_) => Err(Status::unauthenticated("no such token")),
        }
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::Enrolled>, Status> {
        let request = request.into_inner();
        self.0.asked.lock().unwrap().push("renew");
        let old = Certificate::parse(&request.certificate).unwrap();
        assert_eq!(old.key(), Csr::parse(&request.csr).unwrap().key());
        Ok(Response::new(self.0.issue(old.name().unwrap().id, &request.csr)))
    }
}

fn token(authority: &Authority) -> JoinToken {
    JoinToken::new(TokenId::new([1; 8]), [2; 32], authority.certificate().fingerprint())
}

/// A control plane that certifies, and where it is. Its own certificate is of `role`.
async fn control(role: Role) -> (Arc<Service>, Address) {
    let now = SystemTime::now();
    let authority = Authority::generate([1; 16], now).unwrap();
    let key = PrivateKey::generate().unwrap();
    let name = SpiffeId { role, id: NodeId::new(Uuid::from_u128(99)) };
    let own =
        authority.issue(Order { name, key: &key.public(), serial: [3; 16], now, lifetime: DAY }).unwrap();
    let presented = Presented::nothing();
    presented.set(vec![own.der().clone(), authority.certificate().der().clone()], &key).unwrap();
    let trust = Trust::new(Authorities::new(vec![authority.certificate().clone()]).unwrap()).unwrap();
    let acceptor = TlsAcceptor::from(server(&presented, &trust, Naming::Uri).unwrap());
    let service = Arc::new(Service {
        authority,
        conduct: StdMutex::new(Conduct { now, role: Role::Node }),
        asked: StdMutex::default(),
        names: StdMutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let serving = Arc::clone(&service);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(tcp).await else { continue };
            let shown = stream.get_ref().1.peer_certificates();
            let name = shown.and_then(|chain| Certificate::parse(&chain[0]).unwrap().name());
            serving.names.lock().unwrap().push(name);
            let service = TowerToHyperService::new(EnrolmentServer::new(Handle(Arc::clone(&serving))));
            let connection = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    (service, address)
}

fn node(token: Option<JoinToken>) -> Applicant {
    Applicant { role: Role::Node, id: NodeId::new(Uuid::from_u128(7)), hostname: "host".to_owned(), token }
}

async fn connect(membership: &Arc<Membership>, address: &Address) -> Result<Channel, ConnectError> {
    ControlPlane::Tls(address.clone(), Arc::clone(membership)).connect(&Settings::default()).await
}

fn keys() -> SealKeys {
    SealKeys::parse(&"5a".repeat(32), "the test").unwrap()
}

fn open(directory: &Path, token: Option<JoinToken>) -> Arc<Membership> {
    Arc::new(Membership::open(directory, &keys(), node(token)).unwrap())
}

#[tokio::test]
async fn a_token_gets_a_certificate_that_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (service, address) = control(Role::ControlPlane).await;
    let membership = open(dir.path(), Some(token(&service.authority)));
    connect(&membership, &address).await.unwrap();
    connect(&membership, &address).await.unwrap();
    assert_eq!(service.asked(), ["enrol"]);
    assert!(membership.expiry().borrow().unwrap() > SystemTime::now());
    // Without a token now: it has no use for one.
    let membership = open(dir.path(), None);
    connect(&membership, &address).await.unwrap();
    assert_eq!(service.asked(), [] as [&str; 0]);
    let name = SpiffeId { role: Role::Node, id: node(None).id };
    assert_eq!(service.names(4).await, [None, Some(name), Some(name), Some(name)]);
    assert!(membership.server().unwrap().is_some());
}

#[tokio::test]
async fn without_certificate_and_token_there_is_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (service, address) = control(Role::ControlPlane).await;
    let error = connect(&open(dir.path(), None), &address).await.unwrap_err();
    assert!(matches!(error, ConnectError::Membership(MembershipError::NoToken)), "{error}");
    assert_eq!(service.asked(), [] as [&str; 0]);
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_said() {
    let (service, address) = control(Role::ControlPlane).await;
    let own = service.authority.certificate().fingerprint();
    let other = equipoise_identity::Fingerprint::from_bytes([5; 32]);
    for (name, token, want) in [
        ("another secret", JoinToken::new(TokenId::new([1; 8]), [3; 32], own), "refuses: no such token"),
        ("another authority", JoinToken::new(TokenId::new([1; 8]), [2; 32], other), "not in the chain"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let error = connect(&open(dir.path(), Some(token)), &address).await.unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_node_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (service, address) = control(Role::Node).await;
    let error = connect(&open(dir.path(), Some(token(&service.authority))), &address).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Membership(MembershipError::Connect(_))), "{error}");
    assert_eq!(service.asked(), [] as [&str; 0], "the token is not shown to it");
}

#[tokio::test]
async fn a_certificate_of_another_role_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (service, address) = control(Role::ControlPlane).await;
    service.conduct(SystemTime::now(), Role::Relay);
    let error = connect(&open(dir.path(), Some(token(&service.authority))), &address).await.unwrap_err();
    assert!(error.to_string().contains("for another role"), "{error}");
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_late_or_not_at_all() {
    let now = SystemTime::now();
    for (name, issued, want) in [
        ("half of its life is over", now - DAY * 3 / 4, ["renew"]),
        ("it ran out", now - 3 * DAY, ["renew"]),
        ("it ran out long ago", now - 60 * DAY, ["enrol"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (service, address) = control(Role::ControlPlane).await;
        service.conduct(issued, Role::Node);
        let membership = open(dir.path(), Some(token(&service.authority)));
        // The first one is old already.
        drop(connect(&membership, &address).await);
        assert_eq!(service.asked(), ["enrol"], "{name}");
        service.conduct(now, Role::Node);
        connect(&membership, &address).await.unwrap();
        assert_eq!(service.asked(), want, "{name}");
        assert!(membership.expiry().borrow().unwrap() > now, "{name}");
        connect(&open(dir.path(), None), &address).await.unwrap();
        assert_eq!(service.asked(), [] as [&str; 0], "{name}: the new one is kept");
    }
}

#[tokio::test]
async fn a_connected_member_renews_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (service, address) = control(Role::ControlPlane).await;
    // Its renewal is due between now and 2.5 hours ago.
    service.conduct(SystemTime::now() - DAY * 7 / 10, Role::Node);
    let membership = open(dir.path(), Some(token(&service.authority)));
    let channel = connect(&membership, &address).await.unwrap();
    assert_eq!(service.asked(), ["enrol"]);
    service.conduct(SystemTime::now(), Role::Node);
    let mut expiry = membership.expiry();
    let before = expiry.borrow_and_update().unwrap();
    let (_channels, watched) = watch::channel(Some(channel));
    let keeping = Arc::clone(&membership);
    let keeper = tokio::spawn(async move { keeping.keep(watched, Settings::default()).await });
    let changed = timeout(Duration::from_secs(20), expiry.changed()).await;
    changed.expect("in time").unwrap();
    assert!(expiry.borrow().unwrap() > before);
    assert_eq!(service.asked(), ["renew"]);
    keeper.abort();
}

#[tokio::test]
async fn damaged_files_cost_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (service, address) = control(Role::ControlPlane).await;
    let secret = || Some(token(&service.authority));
    connect(&open(dir.path(), secret()), &address).await.unwrap();
    service.asked();
    for file in ["certificate.pem", "authorities.pem"] {
        std::fs::write(dir.path().join(file), "nonsense").unwrap();
        connect(&open(dir.path(), secret()), &address).await.unwrap();
        assert_eq!(service.asked(), ["enrol"], "{file}: the same key with the same token");
    }
    // A key is not replaced: the id is bound to it.
    std::fs::write(dir.path().join("key.pem"), "nonsense").unwrap();
    let error = Membership::open(dir.path(), &keys(), node(secret())).unwrap_err().to_string();
    assert!(error.contains("key.pem") && error.contains("delete it"), "{error}");
    // Nor is one whose own key is missing.
    let sealed = dir.path().join("key.pem");
    equipoise_identity::sealed_file::write_sealed(
        &sealed,
        &keys(),
        &PrivateKey::generate().unwrap().to_pem(),
    )
    .unwrap();
    let other = SealKeys::parse(&"5b".repeat(32), "another file").unwrap();
    let error = Membership::open(dir.path(), &other, node(secret())).unwrap_err().to_string();
    assert!(error.contains("key.pem") && error.contains("another file"), "{error}");
    // Another key has no use for the certificate.
    std::fs::remove_file(dir.path().join("key.pem")).unwrap();
    connect(&open(dir.path(), secret()), &address).await.unwrap();
    assert_eq!(service.asked(), ["enrol"]);
    // Nor has another id.
    let other = Applicant { id: NodeId::new(Uuid::from_u128(8)), ..node(secret()) };
    let other = Arc::new(Membership::open(dir.path(), &keys(), other).unwrap());
    connect(&other, &address).await.unwrap();
    assert_eq!(service.asked(), ["enrol"]);
}

#[tokio::test]
async fn static_files_are_read_again_and_bad_ones_do_not_replace_good_ones() {
    let (service, address) = control(Role::ControlPlane).await;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let files = StaticFiles { certificate: at("tls.crt"), key: at("tls.key"), authorities: at("ca.crt") };
    let write = |id: u128| {
        let key = PrivateKey::generate().unwrap();
        let name = SpiffeId { role: Role::Node, id: NodeId::new(Uuid::from_u128(id)) };
        let now = SystemTime::now();
        let order = Order { name, key: &key.public(), serial: [4; 16], now, lifetime: DAY };
        let certificate = service.authority.issue(order).unwrap();
        let pem = |der: &[u8]| equipoise_identity::files::pem("CERTIFICATE", der);
        std::fs::write(&files.certificate, pem(certificate.der())).unwrap();
        std::fs::write(&files.key, key.to_pem()).unwrap();
        std::fs::write(&files.authorities, pem(service.authority.certificate().der())).unwrap();
        Some(name)
    };
    let error = Membership::from_files(files.clone()).unwrap_err().to_string();
    assert!(error.contains("there is no such file"), "{error}");
    let first = write(1);
    let membership = Arc::new(Membership::from_files(files.clone()).unwrap());
    connect(&membership, &address).await.unwrap();
    let second = write(2);
    connect(&membership, &address).await.unwrap();
    std::fs::write(&files.key, "nonsense").unwrap();
    connect(&membership, &address).await.unwrap();
    assert_eq!(service.names(3).await, [first, second, second]);
    assert_eq!(service.asked(), [] as [&str; 0]);
}
