//! A registrar on disk: what outlives a restart, what a damaged file costs, how authorities are rotated.

use std::fs;

use equipoise_identity::certificate::Serial;
use equipoise_identity::{Csr, PrivateKey};

use super::*;

const LIFETIMES: Lifetimes = Lifetimes { certificate: Duration::from_secs(86_400) };

fn seal() -> SealKeys {
    SealKeys::parse(&"5a".repeat(32), "the test").unwrap()
}

fn open(directory: &Path) -> Registrar {
    Registrar::open(directory, &seal(), LIFETIMES).unwrap()
}

fn order(uses: u32) -> TokenOrder {
    TokenOrder { role: Role::Node, place: Place::default(), ttl: Duration::from_secs(3600), uses }
}

fn id(number: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(number))
}

fn enrol(
    registrar: &Registrar,
    token: &JoinToken,
    key: &PrivateKey,
    node: u128,
) -> Result<Issued, EnrolError> {
    registrar.enrol(&token.reveal(), &key.csr().unwrap(), id(node), "host".to_owned())
}

#[test]
fn what_was_answered_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (registrar, key) = (open(dir.path()), PrivateKey::generate().unwrap());
    let token = registrar.create_token(&order(1)).unwrap();
    assert_eq!(token.authority(), registrar.issuer());
    let issued = enrol(&registrar, &token, &key, 1).unwrap();
    assert_eq!(issued.certificate.name(), Some(SpiffeId { role: Role::Node, id: id(1) }));
    assert_eq!(*issued.certificate.key(), key.public());
    registrar.deny(id(5)).unwrap();
    let before = registrar.ledger();
    drop(registrar);

    let registrar = open(dir.path());
    // Times are kept in whole seconds.
    assert_eq!(registrar.ledger().members().len(), 1);
    assert_eq!(registrar.ledger().denied().len(), before.denied().len());
    assert_eq!(registrar.issuer(), token.authority());
    // The same key with the same token: the answer may have been lost.
    assert!(enrol(&registrar, &token, &key, 1).is_ok());
    let other = PrivateKey::generate().unwrap();
    let refused = enrol(&registrar, &token, &other, 2).unwrap_err();
    assert!(matches!(refused, EnrolError::Refused(Refusal::UsedUp)), "{refused}");
    assert!(registrar.admit(&issued.certificate).is_ok());
}

#[test]
fn a_certificate_is_followed_by_one_for_the_same_key_only() {
    let dir = tempfile::tempdir().unwrap();
    let (registrar, key) = (open(dir.path()), PrivateKey::generate().unwrap());
    let token = registrar.create_token(&order(1)).unwrap();
    let first = enrol(&registrar, &token, &key, 1).unwrap().certificate;
    let csr = key.csr().unwrap();
    let next = registrar.renew(first.der(), &csr).unwrap().certificate;
    assert_ne!(next.serial(), first.serial());
    assert_eq!(next.name(), first.name());
    let other = PrivateKey::generate().unwrap();
    assert!(matches!(registrar.renew(first.der(), &other.csr().unwrap()), Err(EnrolError::Malformed(_))));
    // Of another cluster.
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = open(elsewhere.path());
    let token = foreign.create_token(&order(1)).unwrap();
    let shown = enrol(&foreign, &token, &key, 1).unwrap().certificate;
    assert!(matches!(registrar.renew(shown.der(), &csr), Err(EnrolError::Certificate)));
    assert!(foreign.admit(&first).is_ok(), "a handshake is what keeps it out: the key is the same");
    registrar.forget(id(1)).unwrap();
    let refused = registrar.renew(first.der(), &csr).unwrap_err();
    assert!(matches!(refused, EnrolError::Refused(Refusal::NotEnrolled)), "{refused}");
    assert!(matches!(registrar.renew(b"junk", &csr), Err(EnrolError::Malformed(_))));
    assert!(matches!(registrar.renew(first.der(), b"junk"), Err(EnrolError::Malformed(_))));
}

#[test]
fn of_a_request_only_the_key_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (registrar, key) = (open(dir.path()), PrivateKey::generate().unwrap());
    let token = registrar.create_token(&order(1)).unwrap();
    let mut wishes = rcgen::CertificateParams::new(vec!["control.example".to_owned()]).unwrap();
    wishes.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let uri = format!("spiffe://equipoise/control-plane/{}", Uuid::from_u128(9));
    wishes.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
    let pair = rcgen::KeyPair::from_pem(&key.to_pem()).unwrap();
    let csr = wishes.serialize_request(&pair).unwrap();
    assert!(Csr::parse(csr.der()).is_ok());
    let issued = registrar.enrol(&token.reveal(), csr.der(), id(1), String::new()).unwrap();
    assert_eq!(issued.certificate.name(), Some(SpiffeId { role: Role::Node, id: id(1) }));
    let life = issued.certificate.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(life <= LIFETIMES.certificate);
}

#[test]
fn a_torn_last_line_is_cut_off_and_damage_before_it_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("members/ledger");
    let registrar = open(dir.path());
    registrar.create_token(&order(1)).unwrap();
    registrar.create_token(&order(2)).unwrap();
    drop(registrar);
    let whole = fs::read(&path).unwrap();
    // In the midst of a letter of more than one byte.
    fs::write(&path, [&whole[..whole.len() - 3], "\u{e9}".as_bytes().split_at(1).0].concat()).unwrap();
    let registrar = open(dir.path());
    assert_eq!(registrar.ledger().tokens().len(), 1, "it was not answered for");
    drop(registrar);
    let mut damaged = whole;
    damaged[30] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let error = Registrar::open(dir.path(), &seal(), LIFETIMES).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("ledger"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), damaged, "nothing was touched");
}

#[test]
fn the_ledger_does_not_grow_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("members/ledger");
    let registrar = open(dir.path());
    registrar.deny(id(1)).unwrap();
    for _ in 0..1_500 {
        registrar.deny(id(2)).unwrap();
        registrar.allow(id(2)).unwrap();
    }
    let lines = || fs::read_to_string(&path).unwrap().lines().count();
    assert!(lines() < 1_100, "{}", lines());
    drop(registrar);
    let denied = open(dir.path()).ledger().denied().keys().copied().collect::<Vec<_>>();
    assert_eq!(denied, [id(1)]);
}

#[test]
fn a_missing_or_mixed_up_authority_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let files: Vec<_> =
        fs::read_dir(dir.path().join("members")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let key = files.iter().find(|path| path.to_string_lossy().ends_with("key.pem")).unwrap();
    let text = fs::read(key).unwrap();
    fs::write(key, PrivateKey::generate().unwrap().to_pem()).unwrap();
    let error = Registrar::open(dir.path(), &seal(), LIFETIMES).unwrap_err().to_string();
    assert!(error.contains("does not belong") && error.contains("backup"), "{error}");
    fs::remove_file(key).unwrap();
    let error = Registrar::open(dir.path(), &seal(), LIFETIMES).unwrap_err().to_string();
    assert!(error.contains("it is missing"), "{error}");
    fs::write(key, text).unwrap();
    open(dir.path());
}

#[test]
fn the_authoritys_key_is_sealed_also_where_it_was_in_clear_and_needs_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = open(dir.path()).issuer();
    let files = fs::read_dir(dir.path().join("members")).unwrap().map(|entry| entry.unwrap().path());
    let key = files.into_iter().find(|path| path.to_string_lossy().ends_with("key.pem")).unwrap();
    let sealed = fs::read_to_string(&key).unwrap();
    assert!(!sealed.contains("PRIVATE KEY"), "{sealed}");
    let text = equipoise_identity::sealed_file::read_sealed(&key, &seal()).unwrap().unwrap();
    assert!(text.contains("PRIVATE KEY"));
    // As builds before wrote it.
    fs::write(&key, text).unwrap();
    assert_eq!(open(dir.path()).issuer(), issuer);
    let sealed = fs::read(&key).unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("PRIVATE KEY"));
    let other = SealKeys::parse(&"5b".repeat(32), "another file").unwrap();
    let error = Registrar::open(dir.path(), &other, LIFETIMES).unwrap_err().to_string();
    assert!(error.contains("another file") && error.contains(&seal().first().to_string()), "{error}");
    assert_eq!(fs::read(&key).unwrap(), sealed, "nothing was touched");
}

#[test]
fn what_is_missing_of_a_store_that_had_it_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    for name in ["ledger", authorities::INDEX] {
        let (path, away) = (dir.path().join("members").join(name), dir.path().join("away"));
        fs::rename(&path, &away).unwrap();
        let error = Registrar::open(dir.path(), &seal(), LIFETIMES).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("backup") && error.contains(MARKER), "{error}");
        assert!(!path.exists(), "nothing was made");
        fs::rename(&away, &path).unwrap();
    }
    fs::remove_dir_all(dir.path().join("members")).unwrap();
    assert!(matches!(Registrar::open(dir.path(), &seal(), LIFETIMES), Err(IdentityError::Missing { .. })));
    fs::remove_file(dir.path().join(MARKER)).unwrap();
    open(dir.path());
}

#[test]
fn nothing_is_acknowledged_that_a_restart_would_not_find() {
    let dir = tempfile::tempdir().unwrap();
    let registrar = open(dir.path());
    registrar.deny(id(1)).unwrap();
    fs::rename(dir.path().join("members"), dir.path().join("away")).unwrap();
    assert!(matches!(registrar.deny(id(2)), Err(EnrolError::Failed(_))));
    assert!(registrar.create_token(&order(1)).is_err());
    assert!(!registrar.ledger().denied().contains_key(&id(2)));
}

#[test]
fn a_ledger_that_could_not_be_written_goes_on_once_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let registrar = open(dir.path());
    registrar.deny(id(1)).unwrap();
    let path = dir.path().join("members/ledger");
    // As if the last write had failed.
    let broken = fs::OpenOptions::new().read(true).open(&path).unwrap();
    registrar.state().log.break_with(broken);
    assert!(registrar.deny(id(2)).is_err(), "read only");
    fs::create_dir(dir.path().join("members/ledger.new")).unwrap();
    assert!(registrar.deny(id(2)).is_err(), "it cannot be made anew");
    fs::remove_dir(dir.path().join("members/ledger.new")).unwrap();
    registrar.deny(id(3)).unwrap();
    drop(registrar);
    let denied = open(dir.path()).ledger().denied().keys().copied().collect::<Vec<_>>();
    assert_eq!(denied, [id(1), id(3)]);
}

#[test]
fn authorities_are_rotated_in_three_steps_that_wait_for_members() {
    let dir = tempfile::tempdir().unwrap();
    let (registrar, key) = (open(dir.path()), PrivateKey::generate().unwrap());
    let token = registrar.create_token(&order(1)).unwrap();
    let first = enrol(&registrar, &token, &key, 1).unwrap();
    let [introduce, switch, retire] = Step::ALL;
    assert!(matches!(registrar.rotate(switch, Force::Yes), Err(RotateError::Order { .. })));
    registrar.rotate(introduce, Force::No).unwrap();
    assert_eq!(registrar.issuer(), token.authority(), "the new one does not issue yet");
    assert!(matches!(registrar.rotate(switch, Force::No), Err(RotateError::Waiting(1))));
    let csr = key.csr().unwrap();
    let second = registrar.renew(first.certificate.der(), &csr).unwrap();
    assert_eq!(second.authorities.iter().len(), 2);
    registrar.rotate(switch, Force::Yes).unwrap();
    assert_ne!(registrar.issuer(), token.authority());
    drop(registrar);

    let registrar = open(dir.path());
    let rotation = registrar.rotation().unwrap();
    assert_eq!((rotation.stage, rotation.waiting), (Stage::Switched, 1));
    let third = registrar.renew(second.certificate.der(), &csr).unwrap();
    registrar.rotate(retire, Force::Yes).unwrap();
    assert_eq!(registrar.rotation().unwrap().authorities.iter().len(), 1);
    assert!(registrar.renew(third.certificate.der(), &csr).is_ok());
    assert!(matches!(registrar.renew(second.certificate.der(), &csr), Err(EnrolError::Certificate)));
}

#[test]
fn whoever_loses_his_place_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let registrar = open(dir.path());
    let changes = registrar.changes();
    registrar.deny(id(1)).unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(registrar.allow(id(1)).unwrap());
    assert!(!registrar.allow(id(1)).unwrap());
    assert!(!registrar.forget(id(1)).unwrap());
}

#[test]
fn whoever_can_not_renew_any_more_is_let_go_of_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let now = SystemTime::now();
    let (mut log, mut ledger) = Log::open(&path, now).unwrap();
    for node in [1, 2] {
        let issued = Issue {
            at: now,
            serial: Serial::from_bytes(vec![1]),
            not_after: now + Duration::from_secs(node * 86_400),
        };
        let member = Member {
            key: PrivateKey::generate().unwrap().public(),
            role: Role::Node,
            place: Place::default(),
            token: TokenId::new([0; 8]),
            hostname: String::new(),
            enrolled: now,
            issued,
        };
        let entry = Entry::Enrolled(id(node.into()), Box::new(member));
        log.append(&entry, &Ledger::default(), SystemTime::now()).unwrap();
        ledger.apply(entry);
    }
    drop(log);
    for (hours, members) in [(31 * 24 - 1, 2), (31 * 24 + 1, 1), (32 * 24 + 1, 0), (0, 2)] {
        let (_, ledger) = Log::open(&path, now + Duration::from_secs(hours * 3600)).unwrap();
        assert_eq!(ledger.members().len(), members, "after {hours} hours");
    }
}
