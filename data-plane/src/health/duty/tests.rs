use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::table::fixture::tcp_checks;

const SECOND: Duration = Duration::from_secs(1);

fn peers(numbers: impl IntoIterator<Item = u128>) -> Vec<Uuid> {
    let peers: BTreeSet<_> = numbers.into_iter().map(Uuid::from_u128).collect();
    peers.into_iter().collect()
}

fn place(number: u64) -> Place {
    (Uuid::from_u128(7), number)
}

/// Who of `peers` takes itself for a checker.
fn checkers(peers: &[Uuid], place: Place, count: u32) -> BTreeSet<Uuid> {
    let count = NonZeroU32::new(count).unwrap();
    peers.iter().copied().filter(|node| is_checker(*node, peers, place, count)).collect()
}

#[test]
fn ranks_are_the_same_for_ever() {
    assert_eq!(rank(Uuid::from_u128(0x1234), (Uuid::from_u128(7), 8)), 3_738_504_544_788_976_199);
}

#[test]
fn a_hundred_nodes_share_evenly() {
    let peers = peers(1..=100);
    let mut checked = BTreeMap::new();
    for number in 0..1_000 {
        for node in checkers(&peers, place(number), 1) {
            *checked.entry(node).or_insert(0_u32) += 1;
        }
    }
    assert_eq!(checked.values().sum::<u32>(), 1_000);
    // 10 on average, with the standard deviation of so many throws of a coin: 3.2.
    assert!(checked.len() > 98 && checked.values().all(|count| *count < 25), "{checked:?}");
}

#[test]
fn duties() {
    let probing =
        |checkers| Some(Probing { checkers: NonZeroU32::new(checkers).unwrap(), verdict_ttl: None });
    let (two, own) = (peers([1, 2]), Uuid::from_u128(1));
    let cases = [
        ("not shared", None, Some(&two), true, Duty::Own),
        ("all check", probing(2), Some(&two), true, Duty::Check),
        ("all check, more than there are", probing(9), Some(&two), true, Duty::Check),
        ("never told of peers", probing(9), None, true, Duty::Rely),
        ("checks what it does not use", probing(2), Some(&two), false, Duty::Check),
        ("neither", probing(9), None, false, Duty::Spare),
    ];
    for (name, probing, peers, is_used, want) in cases {
        let peers = peers.map(Vec::as_slice);
        assert_eq!(Duty::of(probing, own, peers, place(1), is_used), want, "{name}");
    }
    let others = peers([2, 3]);
    assert_eq!(
        Duty::of(probing(2), own, Some(&others), place(1), true),
        Duty::Rely,
        "not one of them itself"
    );
}

#[test]
fn who_has_no_verdict_that_counts_probes_on_schedule() {
    let cases = [
        ("for itself", Duty::Own, Some(5), Some(9), Some(5)),
        ("for others", Duty::Check, Some(5), Some(9), Some(5)),
        ("a verdict counts", Duty::Rely, Some(5), Some(9), Some(9)),
        ("it counts no more", Duty::Rely, Some(5), Some(3), Some(5)),
        ("there never was one", Duty::Rely, Some(5), None, Some(5)),
        ("this set is not probed", Duty::Rely, None, Some(9), None),
        ("not used", Duty::Spare, Some(5), None, None),
    ];
    for (name, duty, scheduled, vouched, want) in cases {
        assert_eq!(duty.due(scheduled, vouched), want, "{name}");
    }
}

#[test]
fn how_long_a_verdict_counts() {
    let active = |healthy: Option<u64>, unhealthy: Option<u64>| Active {
        healthy_interval: healthy.map(Duration::from_secs),
        unhealthy_interval: unhealthy.map(Duration::from_secs),
        ..tcp_checks()
    };
    let cases = [
        ("three intervals", active(Some(5), Some(2)), None, true, 15),
        ("of its own set", active(Some(5), Some(2)), None, false, 6),
        ("or the other, where its own is not probed", active(None, Some(2)), None, true, 6),
        ("as long as the policy says", active(Some(5), Some(2)), Some(60), true, 60),
        ("but no shorter than two intervals", active(Some(5), Some(2)), Some(1), true, 10),
        ("nor than a second", active(Some(0), None), None, true, 1),
    ];
    for (name, active, ttl, is_available, want) in cases {
        let probing = Probing { checkers: NonZeroU32::MIN, verdict_ttl: ttl.map(Duration::from_secs) };
        assert_eq!(probing.ttl(&active, is_available), want * SECOND, "{name}");
    }
}

#[test]
fn a_verdict_is_renewed_before_a_third_of_its_time_is_over() {
    let cases = [
        ("with every check", 5, Some(5), 15, true),
        ("not yet", 10, Some(1), 60, false),
        ("the next one would be late", 20, Some(1), 60, true),
        ("the last one for now", 0, None, 60, true),
    ];
    for (name, since, interval, ttl, want) in cases {
        let interval = interval.map(Duration::from_secs);
        assert_eq!(is_to_renew(since * SECOND, interval, ttl * SECOND), want, "{name}");
    }
}

proptest! {
    #[test]
    fn there_are_as_many_checkers_as_wished_or_else_all(
        numbers in prop::collection::btree_set(any::<u128>(), 0..40), count in 1_u32..50, at in any::<u64>(),
    ) {
        let peers = peers(numbers);
        let want = peers.len().min(usize::try_from(count).unwrap());
        prop_assert_eq!(checkers(&peers, place(at), count).len(), want);
    }

    #[test]
    fn one_that_leaves_hands_on_only_what_it_checked(
        numbers in prop::collection::btree_set(any::<u128>(), 2..40), count in 1_u32..10,
        gone in any::<prop::sample::Index>(), at in any::<u64>(),
    ) {
        let before = peers(numbers);
        let gone = before[gone.index(before.len())];
        let after: Vec<_> = before.iter().copied().filter(|node| *node != gone).collect();
        let (was, is) = (checkers(&before, place(at), count), checkers(&after, place(at), count));
        let left: BTreeSet<_> = was.difference(&is).copied().collect();
        let came = is.difference(&was).count();
        if was.contains(&gone) {
            let someone_is_left = was.len() < before.len();
            prop_assert_eq!((left, came), (BTreeSet::from([gone]), usize::from(someone_is_left)));
        } else {
            prop_assert_eq!((left.len(), came), (0, 0));
        }
    }

    #[test]
    fn a_verdict_that_is_over_puts_no_probe_off(scheduled in 0_u32..100, vouched in 0_u32..100, now in 0_u32..100) {
        let due = Duty::Rely.due(Some(scheduled), Some(vouched)).unwrap();
        prop_assert_eq!(due <= now, scheduled <= now && vouched <= now);
    }
}
