//! Versions of the contract between a control plane and its nodes, and which of them understands what.

use std::ops::RangeInclusive;

use crate::EntityKind;

/// Newest version of the contract that this build speaks.
pub const PROTOCOL: u32 = 3;

/// Oldest version of the contract that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;

/// Least version whose nodes answer `Inspect`.
pub const PROTOCOL_OF_INSPECT: u32 = 3;

/// The version that two ends speak, the highest that both know; `None` if they have none in common.
pub fn highest_common(one: RangeInclusive<u32>, other: RangeInclusive<u32>) -> Option<u32> {
    let highest = *one.end().min(other.end());
    (highest >= *one.start().max(other.start())).then_some(highest)
}

impl EntityKind {
    /// Least version that understands entities of this kind: the one table of what came when.
    ///
    /// A node ignores a field that it does not know. A later field without which it would act wrongly makes this
    /// depend on whether an entity has the field.
    pub const fn min_protocol(self) -> u32 {
        match self {
            Self::Service | Self::Route | Self::Upstream | Self::Target => 1,
            Self::Policy => 2,
        }
    }
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
            assert!((PROTOCOL_MIN..=PROTOCOL).contains(&kind.min_protocol()), "{kind}");
        }
    }
}
