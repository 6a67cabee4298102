//! Versions of the contract between a control plane and its nodes, and which of them understands what.

use std::ops::RangeInclusive;

use prost::Message as _;

use crate::placement::Placement;
use crate::{EntityKind, v1};

/// Newest version of the contract that this build speaks.
pub const PROTOCOL: u32 = 7;

/// Oldest version of the contract that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;

/// Least version whose nodes answer `Inspect`.
pub const PROTOCOL_OF_INSPECT: u32 = 3;

/// Least version whose nodes understand `Away`.
pub const PROTOCOL_OF_AWAY: u32 = 4;

/// Least version that knows relays: an older control plane would take one for a node, and not see the nodes behind it.
pub const PROTOCOL_OF_RELAYS: u32 = 5;

/// The version that two ends speak, the highest that both know; `None` if they have none in common.
pub fn highest_common(one: RangeInclusive<u32>, other: RangeInclusive<u32>) -> Option<u32> {
    let highest = *one.end().min(other.end());
    (highest >= *one.start().max(other.start())).then_some(highest)
}

/// Least version that understands an entity, of which `wire` are the bytes, or its deletion: the one table of what came
/// when.
///
/// A node ignores a field that it does not know: where it would act wrongly without it, this looks whether an entity has
/// it.
pub fn min_protocol(kind: EntityKind, wire: Option<&[u8]>) -> u32 {
    match (kind, wire) {
        // Version 1 would send to a target in maintenance, and to all priorities alike.
        (EntityKind::Target, Some(wire)) if is_placed(wire) => 2,
        (EntityKind::Service | EntityKind::Route | EntityKind::Upstream | EntityKind::Target, _) => 1,
        (EntityKind::Policy, _) => 2,
        (EntityKind::Certificate | EntityKind::Sni | EntityKind::CaCertificate, _) => 6,
        // An older node would let pass whom a plugin refuses.
        (EntityKind::Consumer | EntityKind::KeyAuth | EntityKind::BasicAuth | EntityKind::Plugin, _) => 7,
    }
}

fn is_placed(target: &[u8]) -> bool {
    v1::Target::decode(target).is_ok_and(|target| {
        let tags = target.tags.iter().map(String::as_str);
        !target.tags.is_empty()
            && Placement::from_tags(tags).is_ok_and(|placed| placed != Placement::default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_speak_the_highest_version_that_both_know() {
        type Case = (&'static str, RangeInclusive<u32>, RangeInclusive<u32>, Option<u32>);
        let cases: [Case; 7] = [
            ("the same", 1..=1, 1..=1, Some(1)),
            ("a newer one that still speaks ours", 1..=2, 1..=1, Some(1)),
            ("partly", 2..=5, 3..=9, Some(5)),
            ("one inside the other", 1..=9, 3..=4, Some(4)),
            ("too new", 2..=3, 1..=1, None),
            ("too old", 1..=1, 2..=3, None),
            #[expect(clippy::reversed_empty_ranges, reason = "a node may say anything")]
            ("no range at all", 1..=3, 3..=1, None),
        ];
        for (name, one, other, want) in cases {
            assert_eq!(highest_common(one.clone(), other.clone()), want, "{name}");
            assert_eq!(highest_common(other, one), want, "{name}, the other way round");
        }
    }

    #[test]
    fn no_kind_needs_a_version_that_this_build_does_not_speak() {
        for kind in EntityKind::ALL {
            for wire in [None, Some(&[][..])] {
                assert!((PROTOCOL_MIN..=PROTOCOL).contains(&min_protocol(kind, wire)), "{kind}");
            }
        }
    }

    #[test]
    fn a_target_whose_tags_mean_something_is_not_for_nodes_that_do_not_read_them() {
        for (tags, want) in [
            (vec![], 1),
            (vec!["env=prod"], 1),
            (vec!["state=ready", "priority=0"], 1),
            (vec!["state=maint"], 2),
            (vec!["env=prod", "zone=a"], 2),
        ] {
            let tags = tags.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let wire = v1::Target { tags: tags.clone(), ..Default::default() }.encode_to_vec();
            assert_eq!(min_protocol(EntityKind::Target, Some(&wire)), want, "{tags:?}");
        }
    }
}
