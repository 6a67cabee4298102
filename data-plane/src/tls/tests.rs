use std::io;
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::fixture::{Authority, Shown, Valid, nobody, self_signed};
use super::*;

/// Shakes hands over memory; gives the SNI that the server saw.
async fn shake(
    config: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    host: &str,
) -> io::Result<Option<String>> {
    let (near, far) = tokio::io::duplex(1 << 14);
    let serving = tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        let sni = stream.get_ref().1.server_name().map(str::to_owned);
        stream.write_all(b"x").await?;
        stream.shutdown().await?;
        Ok::<_, io::Error>(sni)
    });
    let mut stream = TlsConnector::from(config).connect(server_name(host).unwrap(), near).await?;
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await?;
    serving.await.unwrap()
}

async fn is_taken(config: Arc<ClientConfig>, shown: &Shown, host: &str) -> bool {
    shake(config, shown.server(&[]), host).await.is_ok()
}

#[tokio::test]
async fn only_a_certificate_that_is_signed_in_time_and_for_the_name_is_good() {
    let authority = Authority::root("root");
    let stranger = Authority::root("stranger");
    let twin = Authority::root("root");
    let names = ["a.test", "*.w.test", "127.0.0.1", "::1"];
    let good = authority.issue(&names, Valid::Now);
    let cases = [
        ("valid", &good, "a.test", true),
        ("in any case, with a port and a trailing dot", &good, "A.test.:80", true),
        ("by wildcard", &good, "x.w.test", true),
        ("a wildcard is one label", &good, "x.y.w.test", false),
        ("an address", &good, "127.0.0.1", true),
        ("an address of version 6", &good, "[::1]:80", true),
        ("another name", &good, "b.test", false),
        ("another address", &good, "127.0.0.2", false),
        ("ran out", &authority.issue(&names, Valid::Past), "a.test", false),
        ("not yet", &authority.issue(&names, Valid::Future), "a.test", false),
        ("by somebody unknown", &stranger.issue(&names, Valid::Now), "a.test", false),
        ("by somebody of the same name", &twin.issue(&names, Valid::Now), "a.test", false),
        ("by itself", &self_signed(&names), "a.test", false),
    ];
    for (name, shown, host, want) in cases {
        let clients = authority.trusted(1);
        assert_eq!(is_taken(clients.verifying(None), shown, host).await, want, "{name}");
        assert!(is_taken(clients.unverifying(None), shown, host).await, "{name}, unverified");
    }
    assert!(!is_taken(nobody().verifying(None), &good, "a.test").await, "nobody is trusted");
}

#[tokio::test]
async fn both_versions_of_tls_are_verified() {
    let authority = Authority::root("root");
    let good = authority.issue(&["a.test"], Valid::Now);
    for version in [&TLS12, &TLS13] {
        for (host, want) in [("a.test", true), ("b.test", false)] {
            let server = good.server_of(&[version], &[]);
            let clients = authority.trusted(1);
            let taken = shake(clients.verifying(None), Arc::clone(&server), host).await;
            assert_eq!(taken.is_ok(), want, "{version:?} {host}");
            shake(clients.unverifying(None), server, host).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_chain_has_at_most_so_many_intermediates() {
    let root = Authority::root("root");
    let first = root.intermediate("first");
    let second = first.intermediate("second");
    let shown = [&root, &first, &second].map(|authority| authority.issue(&["a.test"], Valid::Now));
    for (depth, want) in [(0, [true, false, false]), (1, [true, true, false]), (2, [true; 3])] {
        let clients = root.trusted(depth);
        for (length, (shown, want)) in shown.iter().zip(want).enumerate() {
            let taken = is_taken(clients.verifying(None), shown, "a.test").await;
            assert_eq!(taken, want, "{length} intermediates, {depth} allowed");
        }
    }
    let clients = first.trusted(0);
    assert!(
        is_taken(clients.verifying(None), &shown[1], "a.test").await,
        "one in between can be trusted itself"
    );
}

#[tokio::test]
async fn names_are_asked_for_and_addresses_are_not() {
    let server = self_signed(&["a.test"]).server(&[]);
    for (host, want) in
        [("a.test", Some("a.test")), ("a_b.test.:8080", Some("a_b.test")), ("127.0.0.1:1", None)]
    {
        let sni = shake(nobody().unverifying(None), Arc::clone(&server), host).await.unwrap();
        assert_eq!(sni.as_deref(), want, "{host}");
    }
    for host in ["", "a..test", "-a.test", "a.9", "a b", "[::1", "1.2.3.400"] {
        assert_eq!(server_name(host), None, "{host}");
    }
}

#[tokio::test]
async fn a_certificate_is_looked_at_in_every_handshake() {
    let clients = Authority::root("root").trusted(1);
    let server = self_signed(&["a.test"]).server(&[]);
    for _ in 0..2 {
        let (near, far) = tokio::io::duplex(1 << 14);
        let acceptor = TlsAcceptor::from(Arc::clone(&server));
        let serving = tokio::spawn(async move {
            let mut stream = acceptor.accept(far).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let name = server_name("a.test").unwrap();
        let mut stream = TlsConnector::from(clients.unverifying(None)).connect(name, near).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind();
        assert!(
            matches!(
                kind,
                Some(rustls::HandshakeKind::Full | rustls::HandshakeKind::FullWithHelloRetryRequest)
            ),
            "{kind:?}"
        );
        serving.await.unwrap();
    }
}

#[test]
fn files_are_used_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (one, two) = (Authority::root("one").pem(), Authority::root("two").pem());
    let both = write("both.pem", &format!("# two of them\n{one}{two}"));
    let none = write("none.pem", "nothing\n");
    let broken = write("broken.pem", &format!("{one}{}", two.replace("-----END", "----")));
    let no_certificate = write("other.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let missing = directory.path().join("missing.pem");
    let load = |path: &PathBuf| Trust { system: false, files: vec![path.clone()], depth: 1 }.load();
    assert_eq!(load(&both).unwrap().len(), 2);
    assert!(matches!(load(&none), Err(TrustError::Empty { path }) if path == none));
    assert!(matches!(load(&missing), Err(TrustError::File { path, .. }) if path == missing));
    assert!(matches!(load(&broken), Err(TrustError::File { .. } | TrustError::Certificate { .. })));
    assert!(matches!(load(&no_certificate), Err(TrustError::Certificate { .. })));
    let system = Trust { system: true, files: vec![both], depth: 1 }.load().unwrap();
    assert!(system.len() >= 2, "the files are trusted besides the system's own");
}
