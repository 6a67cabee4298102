//! Laws of the ledger, and every refusal.

use equipoise_identity::Fingerprint;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::identity::record::{decode, encode};

const HOUR: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn token(number: u8) -> JoinToken {
    JoinToken::new(TokenId::new([number; 8]), [number; 32], Fingerprint::from_bytes([0; 32]))
}

fn id(number: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(number))
}

fn key(number: u8) -> PublicKey {
    PublicKey::from_der(vec![number])
}

fn issue(seconds: u64) -> Issue {
    Issue { at: at(seconds), serial: Serial::from_bytes(vec![1, 2]), not_after: at(seconds + 86_400) }
}

fn created(number: u8, uses: u32) -> Entry {
    let place = Place { zone: Some("z".to_owned()), ..Place::default() };
    let hash = token(number).hash();
    let token = Token {
        hash,
        role: Role::Node,
        place,
        created: at(0),
        expires: at(0) + HOUR,
        uses_left: uses,
        is_revoked: false,
    };
    Entry::Created(TokenId::new([number; 8]), Box::new(token))
}

/// What the registrar does with an application.
fn apply_for(ledger: &mut Ledger, by: u8, node: u128, with: u8, now: SystemTime) -> Result<Verdict, Refusal> {
    let verdict = ledger.judge(&token(by), id(node), &key(with), now)?;
    if let Verdict::Joins { role, place } = verdict.clone() {
        let (token, hostname) = (token(by).id(), "h".to_owned());
        let member = Member { key: key(with), role, place, token, hostname, enrolled: now, issued: issue(1) };
        ledger.apply(Entry::Enrolled(id(node), Box::new(member)));
    }
    Ok(verdict)
}

#[test]
fn whoever_may_not_join_is_told_why() {
    let mut ledger = Ledger::default();
    for entry in [created(1, 1), created(2, 5), created(3, 5)] {
        ledger.apply(entry);
    }
    ledger.apply(Entry::Revoked(token(3).id()));
    ledger.apply(Entry::Denied(id(66), at(0)));
    apply_for(&mut ledger, 1, 1, 1, at(1)).unwrap();
    let forged = JoinToken::new(TokenId::new([2; 8]), [9; 32], Fingerprint::from_bytes([0; 32]));
    let judge =
        |token: &JoinToken, node, with, now| ledger.judge(token, id(node), &key(with), now).unwrap_err();
    for (name, got, want) in [
        ("no such token", judge(&token(9), 2, 2, at(1)), Refusal::UnknownToken),
        ("another secret", judge(&forged, 2, 2, at(1)), Refusal::UnknownToken),
        ("too late", judge(&token(2), 2, 2, at(0) + HOUR), Refusal::ExpiredToken),
        ("taken back", judge(&token(3), 2, 2, at(1)), Refusal::RevokedToken),
        ("no use left", judge(&token(1), 2, 2, at(1)), Refusal::UsedUp),
        ("another key", judge(&token(1), 1, 2, at(1)), Refusal::OtherKey),
        ("denied", judge(&token(2), 66, 2, at(1)), Refusal::Denied),
    ] {
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn a_repeated_application_is_answered_again_and_costs_nothing() {
    let mut ledger = Ledger::default();
    ledger.apply(created(1, 1));
    assert!(matches!(apply_for(&mut ledger, 1, 1, 1, at(1)), Ok(Verdict::Joins { .. })));
    for _ in 0..3 {
        assert_eq!(apply_for(&mut ledger, 1, 1, 1, at(2)), Ok(Verdict::Again { role: Role::Node }));
    }
    // With another token it is a use of that one.
    ledger.apply(created(2, 1));
    assert!(matches!(apply_for(&mut ledger, 2, 1, 1, at(3)), Ok(Verdict::Joins { .. })));
    assert_eq!(apply_for(&mut ledger, 2, 2, 2, at(3)), Err(Refusal::UsedUp));
}

#[test]
fn a_member_is_who_has_the_key_of_the_id_and_is_not_denied() {
    let mut ledger = Ledger::default();
    ledger.apply(created(1, 2));
    apply_for(&mut ledger, 1, 1, 1, at(1)).unwrap();
    assert_eq!(ledger.member(id(1), &key(1), Role::Node).unwrap().place.zone.as_deref(), Some("z"));
    assert_eq!(ledger.member(id(1), &key(2), Role::Node).unwrap_err(), Refusal::OtherKey);
    assert_eq!(ledger.member(id(1), &key(1), Role::Relay).unwrap_err(), Refusal::OtherRole);
    assert_eq!(ledger.member(id(2), &key(1), Role::Node).unwrap_err(), Refusal::NotEnrolled);
    ledger.apply(Entry::Denied(id(1), at(2)));
    assert_eq!(ledger.member(id(1), &key(1), Role::Node).unwrap_err(), Refusal::Denied);
    ledger.apply(Entry::Allowed(id(1)));
    assert!(ledger.member(id(1), &key(1), Role::Node).is_ok());
    ledger.apply(Entry::Forgotten(id(1)));
    assert_eq!(ledger.member(id(1), &key(1), Role::Node).unwrap_err(), Refusal::NotEnrolled);
    assert!(matches!(apply_for(&mut ledger, 1, 1, 7, at(3)), Ok(Verdict::Joins { .. })), "for another key");
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let place = (any::<Option<String>>(), proptest::collection::btree_map(".{1,4}", ".{0,4}", 0..3))
        .prop_map(|(zone, labels)| Place { region: None, zone, labels });
    let token_id = (0..4_u8).prop_map(|number| TokenId::new([number; 8]));
    let node = (0..6_u128).prop_map(id);
    let member = (0..3_u8, place, token_id.clone(), ".{0,8}").prop_map(|(with, place, token, hostname)| {
        let (role, enrolled) = (Role::Relay, at(5));
        Member { key: key(with), role, place, token, hostname, enrolled, issued: issue(5) }
    });
    let entry = prop_oneof![
        (0..4_u8, 0..4_u32).prop_map(|(number, uses)| created(number, uses)),
        token_id.prop_map(Entry::Revoked),
        (node.clone(), member).prop_map(|(id, member)| Entry::Enrolled(id, Box::new(member))),
        (node.clone(), 0..90_u64).prop_map(|(id, seconds)| Entry::Issued(id, issue(seconds))),
        node.clone().prop_map(Entry::Forgotten),
        (node.clone(), 0..90_u64).prop_map(|(id, seconds)| Entry::Denied(id, at(seconds))),
        node.prop_map(Entry::Allowed),
    ];
    proptest::collection::vec(entry, 0..40)
}

proptest! {
    #[test]
    fn a_line_reads_back_and_a_damaged_one_does_not(entries in entries(), at in any::<prop::sample::Index>()) {
        for entry in entries {
            let line = encode(&entry);
            let line = line.strip_suffix('\n').unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(decode(line), Some(entry));
            let mut damaged = line.as_bytes().to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= 1;
            if let Ok(damaged) = String::from_utf8(damaged) {
                prop_assert_eq!(decode(&damaged), None);
            }
        }
    }

    #[test]
    fn the_shortest_way_leads_to_the_same_ledger(entries in entries()) {
        let mut ledger = Ledger::default();
        entries.into_iter().for_each(|entry| ledger.apply(entry));
        let mut again = Ledger::default();
        ledger.entries(at(0)).into_iter().for_each(|entry| again.apply(entry));
        prop_assert_eq!(again, ledger);
    }

    #[test]
    fn no_more_join_than_a_token_has_uses(
        uses in 0..5_u32,
        applications in proptest::collection::vec((0..6_u128, 0..4_u8), 0..40),
    ) {
        let mut ledger = Ledger::default();
        ledger.apply(created(1, uses));
        let mut joined = 0;
        for (node, with) in applications {
            if let Ok(Verdict::Joins { .. }) = apply_for(&mut ledger, 1, node, with, at(1)) {
                joined += 1;
            }
        }
        prop_assert!(joined <= uses);
        prop_assert_eq!(ledger.members().len(), usize::try_from(joined).unwrap());
    }
}

#[test]
fn a_member_has_its_place_as_long_as_it_can_renew() {
    let mut ledger = Ledger::default();
    ledger.apply(created(1, 3));
    for node in 1..=3 {
        apply_for(&mut ledger, 1, node, 1, at(1)).unwrap();
    }
    // One renews, one is forgotten.
    ledger.apply(Entry::Issued(id(2), issue(500)));
    ledger.apply(Entry::Forgotten(id(3)));
    ledger.apply(Entry::Denied(id(1), at(2)));
    let ends = issue(1).not_after;
    let mut before = ledger.clone();
    assert_eq!(before.prune(ends - Duration::from_secs(1)), 0);
    assert!(before.is_forgotten(id(3), &key(1)));
    assert_eq!(ledger.prune(ends + LATE_MAX), 0, "it may renew still");
    assert!(!ledger.is_forgotten(id(3), &key(1)) && ledger.tokens().is_empty());
    assert_eq!(ledger.prune(ends + LATE_MAX + Duration::from_secs(1)), 1);
    assert_eq!(ledger.members().keys().copied().collect::<Vec<_>>(), [id(2)]);
    assert!(ledger.denied().contains_key(&id(1)), "that is for good");
}
