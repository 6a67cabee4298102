//! The order of the flavour `traditional`.
//!
//! Source: `proxy.md` 1.5. Categories are told apart by the attributes that a route has; the order inside one follows. That the
//! reference begins at the category of all attributes of which *some* route's value hit only saves it work: no route of an
//! earlier one can match as a whole.

use std::cmp::Reverse;

use equipoise_proto::PathPattern;
use uuid::Uuid;

use super::Rule;
use super::rank::shifted;

/// Bits 61–63 number of attributes, 54–60 which, 51–53 a wildcard host with a port, no wildcard host, a regex path, 32–50
/// number of headers, 0–31 `regex_priority` of a regex, length of a prefix.
pub(super) fn priority(rule: &Rule, path: Option<&PathPattern>) -> u64 {
    let attributes = [
        (64, !rule.hosts.is_empty()),
        (32, !rule.headers.is_empty()),
        (16, path.is_some()),
        (8, !rule.methods.is_empty()),
        (4, !rule.snis.is_empty()),
    ];
    let set = attributes.iter().filter(|(_, is_set)| *is_set);
    let (count, category) = set.fold((0, 0), |(count, bits), (bit, _)| (count + 1, bits | bit));
    let has_wildcard_port = rule.hosts.iter().any(|host| host.is_wildcard() && host.port().is_some());
    let is_plain = !rule.hosts.is_empty() && !rule.hosts.iter().any(|host| host.is_wildcard());
    let (is_regex, last) = match path {
        Some(PathPattern::Regex(_)) => (true, shifted(rule.regex_priority)),
        Some(PathPattern::Prefix(prefix)) => {
            (false, u32::try_from(prefix.as_str().len()).unwrap_or(u32::MAX))
        }
        None => (false, 0),
    };
    let weight = u64::from(has_wildcard_port) << 2 | u64::from(is_plain) << 1 | u64::from(is_regex);
    let headers = (rule.headers.len() as u64).min((1 << 19) - 1);
    count << 61 | category << 54 | weight << 51 | headers << 32 | u64::from(last)
}

/// What breaks a tie, the larger first: the older route, then (which the reference leaves open) the larger id.
pub(super) fn tie(rule: &Rule) -> (Reverse<i64>, Uuid) {
    (Reverse(rule.created_at_s), rule.id)
}
