//! Who gets into the cluster, through the real binaries: join tokens, certificates, what is refused and by whom.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use equipoise_tests::cluster::balance;
use equipoise_tests::fleet::{Fleet, says};
use equipoise_tests::{Load, Origin, PATIENCE, Process, eventually};

/// Of a control plane's metrics, the value of the one that begins so; 0 if it is not there yet.
fn metric(control: &Process, begin: &str) -> u64 {
    let text = control.client("admin").get("/metrics").unwrap().text();
    let line = text.lines().find(|line| line.starts_with(begin));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

fn id(node: &serde_json::Value) -> String {
    node["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_token_lets_a_node_in_for_good_and_binds_its_place() {
    let mut fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--region", "north", "--zone", "a", "--label", "rack=7"]);
    let wishes = ["--cluster-join-token", &token, "--node-region", "south", "--node-labels", "rack:1,row:2"];
    let node = fleet.node("one", &wishes).unwrap();
    let listed = fleet.connected(1).remove(0);
    assert_eq!((&listed["region"], &listed["zone"]), (&"north".into(), &"a".into()));
    assert_eq!(listed["labels"], serde_json::json!({"rack": "7", "row": "2"}));
    let expiry = listed["cert_details"]["expiry_timestamp"].as_u64().unwrap();
    assert_eq!(node.metric("kong_data_plane_cluster_cert_expiry_timestamp"), expiry);
    let only = Origin::start("only");
    balance(&mut fleet.control().client("admin"), "", &[only.address()]);
    assert_eq!(node.client("proxy").get("/mock").unwrap().status, 200);
    // Neither end needs the token any more.
    drop(node);
    fleet.control.take().unwrap().kill();
    fleet.start_control().unwrap();
    let _node = fleet.node("one", &[]).unwrap();
    assert_eq!(id(&fleet.connected(1)[0]), id(&listed));
    // And nothing more joins with it.
    let more = fleet.node("two", &["--cluster-join-token", &token]).unwrap();
    says(&more, "the join token is used up");
    says(fleet.control(), "the join token is used up");
    assert!(metric(fleet.control(), "equipoise_enrolments_total{outcome=\"used_up\"}") > 0);
    assert!(
        !more.log().contains(&token) && !fleet.control().log().contains(&token),
        "a token is no log line"
    );
}

#[test]
fn a_node_of_another_cluster_is_refused_by_both_ends() {
    let (ours, theirs) = (Fleet::start(&[]).unwrap(), Fleet::start(&[]).unwrap());
    let token = ours.token(&[]);
    let to = theirs.cluster().to_string();
    // Its token is shown to nobody but the control plane that gave it out.
    let stray =
        ours.node("stray", &["--cluster-join-token", &token, "--cluster-control-plane", &to]).unwrap();
    says(&stray, "the authority of the join token is not in the chain");
    says(theirs.control(), "a peer of the cluster port is refused");
    drop(stray);
    let member = ours.node("stray", &["--cluster-join-token", &token]).unwrap();
    ours.connected(1);
    drop(member);
    let member = ours.node("stray", &["--cluster-control-plane", &to]).unwrap();
    says(&member, "no TLS: invalid peer certificate: UnknownIssuer");
    assert!(metric(theirs.control(), "equipoise_cluster_handshakes_total{outcome=\"refused\"}") > 0);
}

#[test]
fn a_denied_node_is_cut_off_at_once_and_serves_on_from_what_it_has() {
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&[]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    let listed = fleet.connected(1).remove(0);
    let only = Origin::start("only");
    balance(&mut fleet.control().client("admin"), "", &[only.address()]);
    let load = Load::start(node.address("proxy"), 2, "GET", "/mock");
    load.wait_for(50);
    assert_eq!(fleet.command(&["node", "deny", &id(&listed)]), (Some(0), "denied\n".to_owned()));
    says(&node, "this id is denied");
    fleet.connected(0);
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert_eq!(fleet.command(&["node", "allow", &id(&listed)]).0, Some(0));
    fleet.connected(1);
    // Forgotten, the id is free for another key, and the old one has lost it.
    assert_eq!(fleet.command(&["node", "forget", &id(&listed)]), (Some(0), "forgotten\n".to_owned()));
    says(&node, "this id is not enrolled, or was forgotten");
    fleet.connected(0);
    let (code, text) = fleet.command(&["node", "forget", &id(&listed)]);
    assert_eq!(code, Some(1));
    assert!(text.contains("Not found"), "{text}");
}

#[test]
fn a_node_that_is_not_known_any_more_joins_anew_with_its_token() {
    let mut fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--uses", "3"]);
    let _node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    let listed = fleet.connected(1).remove(0);
    let serial = |fleet: &Fleet| fleet.connected(1)[0]["certificate_serial"].clone();
    let first = serial(&fleet);
    assert_eq!(fleet.command(&["node", "forget", &id(&listed)]).0, Some(0));
    eventually("a new place", PATIENCE, || (serial(&fleet) != first).then_some(()));
    assert_eq!(id(&fleet.connected(1)[0]), id(&listed));
    // A ledger of before it joined.
    fleet.control.take().unwrap().kill();
    let ledger = fleet.home("control").join("equipoise-data/members/ledger");
    let kept: String = std::fs::read_to_string(&ledger)
        .unwrap()
        .lines()
        .take_while(|line| !line.contains(&id(&listed)))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(!kept.is_empty());
    std::fs::write(&ledger, kept).unwrap();
    fleet.start_control().unwrap();
    assert_eq!(id(&fleet.connected(1)[0]), id(&listed));
}

#[test]
fn an_id_belongs_to_its_first_key() {
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--uses", "5"]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    let listed = fleet.connected(1).remove(0);
    drop(node);
    let thief = fleet.node("two", &["--cluster-join-token", &token, "--node-id", &id(&listed)]).unwrap();
    says(&thief, "another key is enrolled with this id");
    // The id of a certificate cannot be changed by a setting either.
    drop(thief);
    let other = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    let node = fleet.node("one", &["--node-id", other]).unwrap();
    says(&node, "it is for another id");
}

#[test]
fn certificates_are_renewed_while_connected_and_a_late_one_after_its_end() {
    let fleet = Fleet::start(&["--cluster-certificate-lifetime", "10s"]).unwrap();
    let token = fleet.token(&[]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    let first = fleet.connected(1).remove(0);
    let serial = |node: &serde_json::Value| node["certificate_serial"].clone();
    eventually("a renewal", PATIENCE, || {
        (metric(fleet.control(), "equipoise_enrolments_total{outcome=\"renewed\"}") > 0).then_some(())
    });
    // Its connection ends with its certificate, and the next one comes with the next.
    eventually("another certificate to be shown", PATIENCE, || {
        let shown = fleet.connected(1).remove(0);
        (serial(&shown) != serial(&first)).then_some(())
    });
    drop(node);
    // Long enough for the last one to run out.
    let certificate = fleet.home("one").join("equipoise-node/identity/certificate.pem");
    eventually("the certificate to run out", PATIENCE, || {
        let checked = Command::new("openssl")
            .args(["x509", "-noout", "-checkend", "0", "-in"])
            .arg(&certificate)
            .output();
        (!checked.ok()?.status.success()).then_some(())
    });
    let _node = fleet.node("one", &[]).unwrap();
    fleet.connected(1);
}

#[test]
fn the_authority_is_rotated_without_losing_a_node() {
    let fleet = Fleet::start(&["--cluster-certificate-lifetime", "10s"]).unwrap();
    let token = fleet.token(&[]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    fleet.connected(1);
    let (code, text) = fleet.command(&["ca", "rotate", "switch"]);
    assert!(code == Some(1) && text.contains("not the next step"), "{text}");
    for step in ["introduce", "switch", "retire"] {
        eventually("the members to be ready for the next step", PATIENCE, || {
            let (code, text) = fleet.command(&["ca", "rotate", step]);
            assert!(code == Some(0) || text.contains("members have a certificate"), "{text}");
            (code == Some(0)).then_some(())
        });
    }
    let (_, text) = fleet.command(&["ca", "show"]);
    assert!(text.contains("\"stage\": \"single\""), "{text}");
    let serial = |fleet: &Fleet| fleet.connected(1)[0]["certificate_serial"].clone();
    let before = serial(&fleet);
    eventually("a new connection", PATIENCE, || (serial(&fleet) != before).then_some(()));
    drop(node);
    // A token of before names the authority that is gone.
    let late = fleet.node("late", &["--cluster-join-token", &token]).unwrap();
    says(&late, "the authority of the join token is not in the chain");
}

#[test]
fn plaintext_and_unknown_peers_get_nothing() {
    let fleet = Fleet::start(&[]).unwrap();
    let plain = fleet.node("plain", &["--cluster-mtls", "off"]).unwrap();
    says(fleet.control(), "a peer of the cluster port is refused");
    says(&plain, "no config stream");
    let nobody = fleet.node("nobody", &[]).unwrap();
    says(&nobody, "there is no certificate, and no join token");
    fleet.connected(0);
}

#[test]
fn a_crowd_that_says_nothing_takes_no_place_of_a_node() {
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--uses", "2"]);
    let _node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    fleet.connected(1);
    let crowd: Vec<_> = (0..1_200).map_while(|_| TcpStream::connect(fleet.cluster()).ok()).collect();
    eventually("the crowd to be turned away", PATIENCE, || {
        (metric(fleet.control(), "equipoise_cluster_handshakes_total{outcome=\"crowded\"}") > 0).then_some(())
    });
    // Whoever is in stays in, and config flows.
    let mut admin = fleet.control().client("admin");
    let written = admin.form("POST", "/services?wait=applied", "name=s&host=h").unwrap();
    assert_eq!(written.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"));
    drop(crowd);
    let _other = fleet.node("two", &["--cluster-join-token", &token]).unwrap();
    fleet.connected(2);
}

#[test]
fn certificates_of_a_static_pki_work_on_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new();
    let control = pki.write(dir.path(), "control", Some("control-plane"));
    let node = pki.write(dir.path(), "node", Some("node"));
    let foreign = Pki::new().write(dir.path(), "foreign", Some("node"));
    let fleet = Fleet::start(&control.each_ref().map(String::as_str)).unwrap();
    let with = |files: &[String; 8]| {
        let mut flags = vec!["--node-id", NODE];
        flags.extend(files.iter().map(String::as_str));
        fleet.node("one", &flags).unwrap()
    };
    let stranger = with(&foreign);
    says(&stranger, "no TLS");
    says(fleet.control(), "a peer of the cluster port is refused");
    drop(stranger);
    let member = with(&node);
    assert_eq!(id(&fleet.connected(1)[0]), NODE);
    drop(member);
    let (code, text) = fleet.command(&["token", "create"]);
    assert!(code == Some(1) && text.contains("cluster.mtls is not `managed`"), "{text}");
}

/// Id of the node in its certificate.
const NODE: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// Somebody's own authority.
struct Pki(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Pki {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes a certificate, its key and the authority; gives the flags that name them.
    fn write(&self, dir: &Path, name: &str, role: Option<&str>) -> [String; 8] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        if let Some(role) = role {
            let uri = format!("spiffe://equipoise/{role}/{NODE}");
            params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
        }
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let file = |what: &str, text: String| {
            let path = dir.join(format!("{name}.{what}"));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let flags = ["--cluster-mtls", "--cluster-cert", "--cluster-cert-key", "--cluster-ca-cert"];
        let values = [
            "pki".to_owned(),
            file("crt", certificate.pem()),
            file("key", key.serialize_pem()),
            file("ca", self.0.pem()),
        ];
        let mut all = flags.iter().zip(values).flat_map(|(flag, value)| [(*flag).to_owned(), value]);
        std::array::from_fn(|_| all.next().unwrap())
    }
}
