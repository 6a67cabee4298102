//! Which of two matching routes wins.

use std::cmp::Reverse;

use equipoise_proto::PathPattern;
use uuid::Uuid;

use super::Rule;

/// Place of one path of one route in the order of trial: the greatest that matches wins.
///
/// Source: `proxy.md` 1.4. A route with several paths is taken apart, one part for each length of prefix and one
/// for all regexes, and each part has its own priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    priority: u64,
    /// Ties: the larger id. A part of a route taken apart has an id of its own, derived from the route's.
    id: Uuid,
    /// Two rules with one id do not occur in a config; the order is total all the same.
    route: Reverse<usize>,
    /// Of several regexes of one route, the first in its list.
    path: Reverse<Option<usize>>,
}

impl Rank {
    /// Below everything.
    pub(super) const LOWEST: Self =
        Self { priority: 0, id: Uuid::nil(), route: Reverse(usize::MAX), path: Reverse(Some(usize::MAX)) };

    /// Of the path with this index in `rule`; `None` for a rule without paths.
    pub(super) fn new(rule: &Rule, route: usize, path: Option<usize>) -> Self {
        let pattern = path.and_then(|path| rule.paths.get(path));
        let part = pattern.map(part);
        let is_split = rule.paths.iter().any(|other| Some(self::part(other)) != part);
        let id = match part {
            Some(part) if is_split => part_id(&rule.id, part),
            Some(_) | None => rule.id,
        };
        Self { priority: priority(rule, pattern), id, route: Reverse(route), path: Reverse(path) }
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

/// What one part of a route taken apart has in common.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Length(usize),
    Regex,
}

fn part(pattern: &PathPattern) -> Part {
    match pattern {
        PathPattern::Prefix(prefix) => Part::Length(prefix.as_str().len()),
        PathPattern::Regex(_) => Part::Regex,
    }
}

fn part_id(id: &Uuid, part: Part) -> Uuid {
    match part {
        Part::Length(length) => Uuid::new_v5(id, length.to_string().as_bytes()),
        Part::Regex => Uuid::new_v5(id, b"regex"),
    }
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

fn shifted(regex_priority: i64) -> u32 {
    let clamped = regex_priority.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
    let shifted = clamped + i64::from(REGEX_PRIORITY_ZERO);
    u32::try_from(shifted).expect("clamped to the range of i32 and shifted by 2^31")
}
