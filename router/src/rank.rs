//! Which of two matching routes wins.

use std::cmp::Reverse;

use equipoise_proto::PathPattern;
use uuid::Uuid;

use super::{Flavour, Rule, traditional};

/// Place of one path of one route in the order of trial: the greatest that matches wins.
///
/// Source: `proxy.md` 1.4, and for the flavour `traditional` 1.5. A route with several paths is taken apart: by flavour, one
/// part for each length of prefix and one for all regexes, or one for each path; and each part has its own priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    priority: u64,
    /// Ties: in the flavour `traditional` the older route, whose `created_at` is less; then the larger id. A part of a route taken apart
    /// has an id of its own, derived from the route's.
    tie: (Reverse<i64>, Uuid),
    /// Two rules with one id do not occur in a config; the order is total all the same.
    route: Reverse<usize>,
    /// Of several regexes of one route, the first in its list.
    path: Reverse<Option<usize>>,
}

impl Rank {
    /// Below everything.
    pub(super) const LOWEST: Self = Self {
        priority: 0,
        tie: (Reverse(i64::MAX), Uuid::nil()),
        route: Reverse(usize::MAX),
        path: Reverse(Some(usize::MAX)),
    };

    /// Of the path with this index in `rule`; `None` for a rule without paths.
    pub(super) fn new(flavour: Flavour, rule: &Rule, route: usize, path: Option<usize>) -> Self {
        let pattern = path.and_then(|path| rule.paths.get(path));
        let (priority, tie) = match (flavour, pattern) {
            (Flavour::Compatible, Some(pattern)) if rule.paths.len() > 1 => {
                (priority(rule, Some(pattern)), (AGELESS, part_id(&rule.id, pattern)))
            }
            (Flavour::Compatible, pattern) => (priority(rule, pattern), (AGELESS, rule.id)),
            (Flavour::Traditional, pattern) => (traditional::priority(rule, pattern), traditional::tie(rule)),
        };
        Self { priority, tie, route: Reverse(route), path: Reverse(path) }
    }

    /// What counts most of it.
    pub(super) const fn priority(&self) -> u64 {
        self.priority
    }

    /// Index of the rule.
    pub(super) const fn route(&self) -> usize {
        self.route.0
    }

    /// Index into the rule's paths.
    pub(super) const fn path(&self) -> Option<usize> {
        self.path.0
    }
}

/// Where a route's age counts for nothing.
const AGELESS: Reverse<i64> = Reverse(0);

/// Of what the reference derives the ids of parts.
const PARTS: Uuid = Uuid::from_u128(0x7f14_5bf9_0dce_4f91_98eb_debb_ce4b_9f6b);

/// The reference's id of the part that a path is in: by its length, or that of all regexes. So ties fall as they do there.
fn part_id(id: &Uuid, pattern: &PathPattern) -> Uuid {
    let name = match pattern {
        PathPattern::Prefix(prefix) => format!("{id}#{}", prefix.as_str().len()),
        PathPattern::Regex(_) => format!("{id}#true"),
    };
    Uuid::new_v5(&PARTS, name.as_bytes())
}

/// Bits 61–63 number of attributes, 60 whether hosts are all without wildcard, 52–59 number of headers, 51
/// whether the path is a regex, 19–50 `regex_priority`, 0–18 length of the prefix.
///
/// Differs from the reference in one thing: `regex_priority` is shifted by 2^31 (and clamped to 32 bits), so that
/// a negative one is less than 0, where the reference lets it spill into the bits above.
pub(super) fn priority(rule: &Rule, path: Option<&PathPattern>) -> u64 {
    let is_set = [
        !rule.hosts.is_empty(),
        !rule.headers.is_empty(),
        path.is_some(),
        !rule.methods.is_empty(),
        !rule.snis.is_empty(),
    ];
    let attributes = is_set.into_iter().map(u64::from).sum::<u64>();
    let is_plain = !rule.hosts.is_empty() && !rule.hosts.iter().any(|host| host.is_wildcard());
    let headers = rule.headers.len().min(255) as u64;
    let path = match path {
        Some(PathPattern::Prefix(prefix)) => (prefix.as_str().len() as u64).min((1 << 19) - 1),
        Some(PathPattern::Regex(_)) => 1 << 51 | u64::from(shifted(rule.regex_priority)) << 19,
        None => 0,
    };
    attributes << 61 | u64::from(is_plain) << 60 | headers << 52 | path
}

/// Where `regex_priority` 0 is.
pub(super) const REGEX_PRIORITY_ZERO: u32 = 1 << 31;

pub(super) fn shifted(regex_priority: i64) -> u32 {
    let clamped = regex_priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
    let shifted = clamped + i64::from(REGEX_PRIORITY_ZERO);
    u32::try_from(shifted).expect("clamped to the range of i32 and shifted by 2^31")
}
