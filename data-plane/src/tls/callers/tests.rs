use std::fs;
use std::ops::DerefMut;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, ConnectionCommon, SideData};

use super::super::fixture::{Authority, Shown, Valid, asking, nobody, self_signed};
use super::super::server::{self, Speaks};
use super::*;
use crate::table::Active;

/// Passes on what one end has to say; whether that was anything.
fn pass<A: SideData, B: SideData>(
    from: &mut impl DerefMut<Target = ConnectionCommon<A>>,
    to: &mut impl DerefMut<Target = ConnectionCommon<B>>,
) -> Result<bool, Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(!bytes.is_empty())
}

/// Shakes hands in memory; gives the server's end, or the alert that the client is told.
fn shake(client: &Arc<ClientConfig>, server: &Speaks) -> Result<ServerConnection, AlertDescription> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(server.config()).unwrap();
    loop {
        // An error of the server's is what its alert tells the client.
        let refused = pass(&mut client, &mut server).err();
        match pass(&mut server, &mut client) {
            Err(Error::AlertReceived(alert)) => return Err(alert),
            Err(error) => panic!("{error}"),
            Ok(false) if !client.wants_write() => {
                assert_eq!(refused, None);
                return Ok(server);
            }
            Ok(_) => {}
        }
    }
}

fn showing(shown: Option<&Shown>) -> Arc<ClientConfig> {
    nobody().unverifying(shown.map(Shown::certified).as_ref())
}

/// The same node in one version of TLS only.
fn speaking(
    authority: &Authority,
    directory: &Path,
    tls13: bool,
    more: impl FnOnce(&mut server::Shown),
) -> Speaks {
    let file = directory.join("clients.pem");
    fs::write(&file, authority.pem()).unwrap();
    let callers = Callers { need: Need::Required, files: vec![file], depth: 1, told: Told::Certificate };
    let mut shown =
        server::Shown { callers: Some(callers), tls12: !tls13, tls13, ..server::Shown::default() };
    more(&mut shown);
    shown.load(directory, &crate::tls::fixture::seal(), Active::default()).unwrap()
}

#[test]
fn who_cannot_be_judged_good_is_told_why() {
    use AlertDescription::{
        CertificateExpired, CertificateRequired, CertificateUnknown, DecryptError, UnknownCA,
        UnsupportedCertificate,
    };
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::root("root");
    let (twin, stranger) = (Authority::root("root"), Authority::root("stranger"));
    let first = authority.intermediate("first");
    let second = first.intermediate("second");
    let good = |authority: &Authority| authority.issue(&["client"], Valid::Now);
    let used_for = |usage| {
        authority.issue_as(&["client"], Valid::Now, |params| params.extended_key_usages = vec![usage])
    };
    let as_authority = authority.issue_as(&["client"], Valid::Now, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let cases = [
        ("good", Some(good(&authority)), None),
        ("over an intermediate", Some(good(&first)), None),
        ("over one too many", Some(good(&second)), Some(UnknownCA)),
        ("for clients", Some(used_for(ExtendedKeyUsagePurpose::ClientAuth)), None),
        ("for servers", Some(used_for(ExtendedKeyUsagePurpose::ServerAuth)), Some(UnsupportedCertificate)),
        ("ran out", Some(authority.issue(&["client"], Valid::Past)), Some(CertificateExpired)),
        ("not yet", Some(authority.issue(&["client"], Valid::Future)), Some(CertificateExpired)),
        ("a stranger's", Some(good(&stranger)), Some(UnknownCA)),
        ("of one of the same name", Some(good(&twin)), Some(DecryptError)),
        ("its own", Some(self_signed(&["client"])), Some(UnknownCA)),
        ("an authority's", Some(as_authority), Some(CertificateUnknown)),
        ("none", None, Some(CertificateRequired)),
    ];
    for tls13 in [false, true] {
        for need in [Need::Required, Need::Optional] {
            let node = speaking(&authority, directory.path(), tls13, |shown| {
                shown.callers.as_mut().unwrap().need = need;
            });
            for (name, shown, want) in &cases {
                let want = want.filter(|_| shown.is_some() || need == Need::Required);
                let got = shake(&showing(shown.as_ref()), &node).err();
                assert_eq!(got, want, "{name}, {need:?}, TLS 1.3: {tls13}");
            }
        }
    }
}

/// The certificates in a header of these lines.
fn certificates(lines: &[u8], name: &str) -> Vec<CertificateDer<'static>> {
    let lines = std::str::from_utf8(lines).unwrap();
    let found: Vec<_> = lines.split("\r\n").filter_map(|line| line.split_once(": ")).collect();
    let values = found.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value);
    let decode = |item: &str| {
        let text = item.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).unwrap();
        CertificateDer::from(STANDARD.decode(text).unwrap())
    };
    values.flat_map(|value| value.split(", ").map(decode)).collect()
}

#[test]
fn targets_are_told_of_the_certificate_and_of_who_vouched_for_it() {
    let authority = Authority::root("root");
    let first = authority.intermediate("first");
    let beside = || Authority::root("beside").der();
    let shown = first.issue(&["client"], Valid::Now).beside(beside()).beside(authority.der());
    let direct = authority.issue(&["client"], Valid::Now);
    let told = |told, shown: Option<&Shown>| {
        let node = asking(&authority, |callers| {
            (callers.told, callers.need) = (told, Need::Optional);
        });
        let session = shake(&showing(shown), &node).unwrap();
        node.told(&session, UnixTime::now()).unwrap()
    };
    assert_eq!(told(Told::Chain, None), b"", "who shows nothing");
    assert_eq!(told(Told::Nothing, Some(&shown)), b"");
    let lines = told(Told::Certificate, Some(&shown));
    assert_eq!(certificates(&lines, "Client-Cert"), shown.chain[..1]);
    assert_eq!(certificates(&lines, "Client-Cert-Chain"), []);
    let lines = told(Told::Chain, Some(&shown));
    assert_eq!(certificates(&lines, "Client-Cert"), shown.chain[..1]);
    assert_eq!(certificates(&lines, "Client-Cert-Chain"), [first.der()], "not what was shown besides");
    let lines = told(Told::Chain, Some(&direct));
    assert_eq!(certificates(&lines, "Client-Cert-Chain"), []);
    assert!(lines.starts_with(b"\r\nClient-Cert: :") && lines.ends_with(b":"), "{lines:?}");
}

#[test]
fn a_session_goes_on_by_the_trust_that_it_began_with_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::root("root"), Authority::root("other"));
    let shown = authority.issue(&["client"], Valid::Now);
    for (tls13, tickets) in [(false, true), (false, false), (true, true), (true, false)] {
        let case = format!("TLS 1.3: {tls13}, tickets: {tickets}");
        let load = |authority| speaking(authority, directory.path(), tls13, |shown| shown.tickets = tickets);
        let mut client = ClientConfig::clone(&showing(Some(&shown)));
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        let node = load(&authority);
        let full = shake(&client, &node).unwrap();
        assert_ne!(full.handshake_kind(), Some(HandshakeKind::Resumed), "{case}");
        let resumed = shake(&client, &node).unwrap();
        assert_eq!(resumed.handshake_kind(), Some(HandshakeKind::Resumed), "{case}");
        let now = UnixTime::now();
        let lines = node.told(&resumed, now).unwrap();
        assert_eq!(certificates(&lines, "Client-Cert"), shown.chain[..1], "{case}: it is still known");
        let late = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 4000 * 366 * 24 * 3600));
        assert!(node.told(&resumed, late).is_err(), "{case}: it has run out since");
        // The same authority, read again: the certificate is asked for again.
        let again = load(&authority);
        let session = shake(&client, &again).unwrap();
        assert_ne!(session.handshake_kind(), Some(HandshakeKind::Resumed), "{case}");
        let elsewhere = load(&other);
        assert_eq!(shake(&client, &elsewhere).err(), Some(AlertDescription::UnknownCA), "{case}");
    }
}

#[test]
fn streams_and_listeners_without_http2_ask_as_well() {
    let authority = Authority::root("root");
    let node = asking(&authority, |callers| callers.told = Told::Certificate);
    let good = authority.issue(&["client"], Valid::Now);
    for node in [node.http1_only(), node.for_streams()] {
        assert_eq!(shake(&showing(None), &node).err(), Some(AlertDescription::CertificateRequired));
        let session = shake(&showing(Some(&good)), &node).unwrap();
        let lines = node.told(&session, UnixTime::now()).unwrap();
        assert_eq!(certificates(&lines, "Client-Cert"), good.chain);
    }
}
