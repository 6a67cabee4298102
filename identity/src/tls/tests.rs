//! Both ends against each other over an in-memory pipe: who is taken, and who is refused by whom.

use equipoise_proto::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use uuid::Uuid;

use super::*;
use crate::authority::{Authority, Order};
use crate::certificate::Csr;
use crate::spiffe::SpiffeId;

const DAY: Duration = Duration::from_secs(86_400);

/// A process: what it presents and whom it trusts.
struct Process {
    presented: Presented,
    trust: Trust,
}

fn authority(number: u8) -> Authority {
    Authority::generate([number; 16], SystemTime::now()).unwrap()
}

fn bundle<'a>(authorities: impl IntoIterator<Item = &'a Authority>) -> Authorities {
    Authorities::new(authorities.into_iter().map(|one| one.certificate().clone()).collect()).unwrap()
}

fn certify(authority: &Authority, role: Role, now: SystemTime) -> (Certificate, PrivateKey) {
    let key = PrivateKey::generate().unwrap();
    let name = SpiffeId { role, id: NodeId::new(Uuid::from_u128(7)) };
    let order = Order { name, key: &key.public(), serial: [9; 16], now, lifetime: DAY };
    (authority.issue(order).unwrap(), key)
}

fn process(by: &Authority, role: Role, trusts: &[&Authority]) -> Process {
    let (certificate, key) = certify(by, role, SystemTime::now());
    let presented = Presented::nothing();
    presented.set(vec![certificate.der().clone(), by.certificate().der().clone()], &key).unwrap();
    Process { presented, trust: Trust::new(bundle(trusts.iter().copied())).unwrap() }
}

/// What each end says of the other: the server first, with the name that the client showed.
async fn meet(
    server: &Process,
    client: Arc<ClientConfig>,
) -> (Result<Option<SpiffeId>, String>, Result<(), String>) {
    let config = super::server(&server.presented, &server.trust, Naming::Uri).unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let serve = async {
        let mut stream = TlsAcceptor::from(config).accept(far).await.map_err(|error| explain(&error))?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN));
        let shown = stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone());
        stream.write_all(b"!").await.unwrap();
        stream.flush().await.unwrap();
        Ok(shown.and_then(|der| Certificate::parse(&der).unwrap().name()))
    };
    let ask = async {
        let name = ServerName::try_from("anything.example").unwrap();
        let mut stream =
            TlsConnector::from(client).connect(name, near).await.map_err(|error| explain(&error))?;
        // In TLS 1.3 the server judges the client after the client's handshake is done.
        stream.read_u8().await.map_err(|error| explain(&error))?;
        Ok(())
    };
    tokio::join!(serve, ask)
}

#[tokio::test]
async fn a_node_and_a_control_plane_of_the_same_authority_meet() {
    let ours = authority(1);
    let server = process(&ours, Role::ControlPlane, &[&ours]);
    for role in [Role::Node, Role::Relay] {
        let node = process(&ours, role, &[&ours]);
        let met = meet(&server, client(&node.presented, &node.trust, Naming::Uri).unwrap()).await;
        assert_eq!(met, (Ok(Some(SpiffeId { role, id: NodeId::new(Uuid::from_u128(7)) })), Ok(())));
    }
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_let_in_nameless() {
    let ours = authority(1);
    let server = process(&ours, Role::Relay, &[&ours]);
    let met = meet(&server, enrolling(ours.certificate().fingerprint()).unwrap()).await;
    assert_eq!(met, (Ok(None), Ok(())));
}

#[tokio::test]
async fn whoever_is_not_as_he_should_be_is_refused_by_name() {
    let (ours, other) = (authority(1), authority(2));
    let control = process(&ours, Role::ControlPlane, &[&ours]);
    let node = process(&ours, Role::Node, &[&ours]);
    let trusting = |presented: &Presented, trust: &Trust| client(presented, trust, Naming::Uri).unwrap();

    let (_, says) = meet(&node, trusting(&node.presented, &node.trust)).await;
    let says = says.unwrap_err();
    assert!(says.contains("server authentication"), "a node serves nothing: {says}");

    let foreign = process(&other, Role::Node, &[&ours]);
    let (says, told) = meet(&control, trusting(&foreign.presented, &foreign.trust)).await;
    assert!(says.unwrap_err().contains("UnknownIssuer"));
    assert!(told.is_err());

    let foreign = process(&other, Role::ControlPlane, &[&ours]);
    let (_, says) = meet(&foreign, trusting(&node.presented, &node.trust)).await;
    assert!(says.unwrap_err().contains("UnknownIssuer"));

    let (_, says) = meet(&control, enrolling(other.certificate().fingerprint()).unwrap()).await;
    assert!(says.unwrap_err().contains("authority of the join token is not in the chain"));
    // An authority that is only shown, by one whom it did not certify.
    let forger = process(&ours, Role::ControlPlane, &[&ours]);
    let (certificate, key) = certify(&other, Role::ControlPlane, SystemTime::now());
    forger.presented.set(vec![certificate.der().clone(), ours.certificate().der().clone()], &key).unwrap();
    let (_, says) = meet(&forger, enrolling(ours.certificate().fingerprint()).unwrap()).await;
    assert!(says.unwrap_err().contains("UnknownIssuer"));

    let late = Process { presented: Presented::nothing(), trust: node.trust.clone() };
    let (certificate, key) = certify(&ours, Role::Node, SystemTime::now() - 2 * DAY);
    late.presented.set(vec![certificate.der().clone()], &key).unwrap();
    let (says, _) = meet(&control, trusting(&late.presented, &late.trust)).await;
    assert!(says.unwrap_err().contains("expired"));
    // Outside of a handshake it can still be told from a foreign one.
    assert!(control.trust.verify(&certificate, SystemTime::now()).is_err());
    assert!(control.trust.verify(&certificate, certificate.not_after() - Duration::from_secs(1)).is_ok());
    let (certificate, _) = certify(&other, Role::Node, SystemTime::now());
    assert!(control.trust.verify(&certificate, SystemTime::now()).is_err());
}

#[tokio::test]
async fn trust_and_certificate_change_while_the_configs_live() {
    let (old, new) = (authority(1), authority(2));
    let control = process(&old, Role::ControlPlane, &[&old]);
    let node = process(&old, Role::Node, &[&old]);
    let config = client(&node.presented, &node.trust, Naming::Uri).unwrap();
    // A node of the new authority is taken once that is trusted, and the old one until it is not.
    let newer = process(&new, Role::Node, &[&old, &new]);
    let newer = client(&newer.presented, &newer.trust, Naming::Uri).unwrap();
    assert!(meet(&control, Arc::clone(&newer)).await.0.is_err());
    control.trust.set(bundle([&old, &new])).unwrap();
    assert!(meet(&control, Arc::clone(&newer)).await.0.is_ok());
    assert!(meet(&control, Arc::clone(&config)).await.0.is_ok());
    // The server goes over to the new one: whoever has not heard of it refuses.
    let (certificate, key) = certify(&new, Role::ControlPlane, SystemTime::now());
    control.presented.set(vec![certificate.der().clone()], &key).unwrap();
    assert!(meet(&control, Arc::clone(&config)).await.1.is_err());
    assert!(meet(&control, newer).await.1.is_ok());
    node.trust.set(bundle([&new, &old])).unwrap();
    assert!(meet(&control, config).await.1.is_ok());
}

#[test]
fn a_key_of_another_certificate_is_not_presented() {
    let ours = authority(1);
    let (certificate, _) = certify(&ours, Role::Node, SystemTime::now());
    let presented = Presented::nothing();
    let other = PrivateKey::generate().unwrap();
    assert!(presented.set(vec![certificate.der().clone()], &other).is_err());
    assert!(!ResolvesClientCert::has_certs(&presented));
}

#[test]
fn what_was_written_is_the_same_authority() {
    let ours = authority(1);
    let pem = crate::files::pem("CERTIFICATE", ours.certificate().der());
    let again = Authority::from_pem(&pem, &ours.key().to_pem()).unwrap();
    assert_eq!(again.certificate(), ours.certificate());
    let other = authority(2);
    assert!(Authority::from_pem(&pem, &other.key().to_pem()).is_err());
    let both = bundle([&ours, &other]);
    assert_eq!(Authorities::from_pem(both.to_pem().as_bytes()).unwrap(), both);
    assert_eq!(both.issuer(), ours.certificate());
    assert!(Authorities::from_pem(both.to_pem().repeat(5).as_bytes()).is_err(), "more than are taken");
    assert!(Authorities::from_pem(b"").is_err());
}

#[test]
fn a_certificate_says_what_was_ordered() {
    let (ours, now) = (authority(1), SystemTime::now());
    let (certificate, key) = certify(&ours, Role::Node, now);
    assert_eq!(*certificate.key(), key.public());
    assert_eq!(
        certificate.name().unwrap().to_string(),
        format!("spiffe://equipoise/node/{}", Uuid::from_u128(7))
    );
    assert!(certificate.not_before() < now && certificate.not_after() <= now + DAY);
    assert!(certificate.half_life() > now && certificate.half_life() < now + DAY / 2);
    assert_eq!(certificate.fingerprint().to_string().len(), 64);
}

#[test]
fn of_a_request_only_the_key_counts_and_it_must_have_signed() {
    let key = PrivateKey::generate().unwrap();
    let request = key.csr().unwrap();
    assert_eq!(*Csr::parse(&request).unwrap().key(), key.public());
    for at in 0..request.len() {
        let mut damaged = request.clone();
        damaged[at] ^= 0x04;
        // Never a panic, and never another key that has not signed.
        if let Ok(parsed) = Csr::parse(&damaged) {
            assert_eq!(*parsed.key(), key.public(), "at {at}");
        }
    }
    for bytes in [&[][..], &[0x30], &[0; 20_000]] {
        assert!(Csr::parse(bytes).is_err());
        assert!(Certificate::parse(bytes).is_err());
    }
}

/// Who `known` says has signed `message`.
fn signed(known: &Known, by: &Signer, at: SystemTime) -> Result<Option<SpiffeId>, SignatureError> {
    let message = b"for a test: message";
    let signature = by.sign(message).unwrap();
    let certificate = known.judge(by.chain().iter().map(|der| der.as_ref()), at)?;
    verify(&certificate, by.scheme(), message, &signature)?;
    for (scheme, message, signature) in [
        (by.scheme(), &b"for a test: another"[..], signature.as_slice()),
        (by.scheme(), message, &signature[1..]),
        (by.scheme(), message, b""),
        // RSA with SHA-1, and one that there is not.
        (0x0201, message, &signature),
        (0xffff, message, &signature),
    ] {
        assert_eq!(verify(&certificate, scheme, message, signature), Err(SignatureError::Mismatch));
    }
    Ok(certificate.name())
}

#[test]
fn a_control_plane_and_a_relay_sign_for_their_cluster_and_nobody_else_does() {
    let (ours, other, now) = (authority(1), authority(2), SystemTime::now());
    let trusted = Known::Trusted(Trust::new(bundle([&ours])).unwrap());
    let by_token = Known::IssuedBy(ours.certificate().fingerprint());
    let signer = |by: &Authority, role| process(by, role, &[by]).presented.signer().unwrap();
    for known in [&trusted, &by_token] {
        for role in [Role::ControlPlane, Role::Relay] {
            let name = signed(known, &signer(&ours, role), now).unwrap().unwrap();
            assert_eq!(name.role, role);
        }
        let node = signed(known, &signer(&ours, Role::Node), now).unwrap_err();
        assert!(
            matches!(
                node,
                SignatureError::Certificate(_) | SignatureError::Peer(PeerError::Role(Role::Node))
            ),
            "{node}"
        );
        let late = signed(known, &signer(&ours, Role::Relay), now + 2 * DAY).unwrap_err();
        assert!(matches!(late, SignatureError::Certificate(_)), "{late}");
    }
    assert_eq!(signed(&trusted, &signer(&other, Role::ControlPlane), now), Err(SignatureError::Foreign));
    let unknown = signed(&by_token, &signer(&other, Role::ControlPlane), now);
    assert_eq!(unknown, Err(SignatureError::Peer(PeerError::Authority)));
    assert_eq!(trusted.judge([].into_iter(), now), Err(SignatureError::Chain(0)));
    assert_eq!(trusted.judge([&b"?"[..]; 9].into_iter(), now), Err(SignatureError::Chain(9)));
    assert_eq!(trusted.judge([&b"?"[..]].into_iter(), now), Err(SignatureError::Peer(PeerError::Malformed)));
    assert!(Presented::nothing().signer().is_none());
}
