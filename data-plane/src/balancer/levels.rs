//! Which level of priority, or which zone, a request goes to: before an algorithm chooses inside it. Pure; for
//! `table`, which computes the shares when the availability changes, and draws for each request.
//!
//! Source: `balancer.md` sections 10.1 and 10.2, which follow Envoy. Factors and percents are reckoned in whole
//! millionths: as floats, 1.4 x 71 and the like fall on the wrong side of a whole number.

use super::decimal::{MILLION, millionths};

/// How much of a level can be used, by weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// Weight of the members that may get new requests: one that is drained may not.
    pub available: u64,
    /// Weight of all members.
    pub total: u64,
}

/// How the requests are spread over levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loads {
    /// Of each level; 100 together, or all 0 where no level has anything available. Who ignores health then (every
    /// level is in panic) asks again with `available` equal to `total`.
    pub percent: Vec<u8>,
    /// What all levels together could take of the requests (T); below 100 a level can be in panic.
    pub total_percent: u8,
}

/// Spreads requests over `levels`, the preferred one first. A level takes more than the available part of it by the
/// factor `overprovisioning`: 1.4 means that it takes all as long as 5 of 7 are available.
pub fn priority_loads(levels: &[Availability], overprovisioning: f64) -> Loads {
    let factor = u128::from(millionths(overprovisioning));
    let effective: Vec<u64> = levels.iter().map(|level| effective_percent(*level, factor)).collect();
    let total = effective.iter().sum::<u64>().min(100);
    let mut left = 100;
    let mut loads: Vec<u64> = effective
        .iter()
        .map(|effective| {
            // Rounded half up; where T is 0, so is everything.
            let load = (200 * effective + total).checked_div(2 * total).unwrap_or(0).min(left);
            left -= load;
            load
        })
        .collect();
    let first = effective.iter().position(|effective| *effective > 0);
    // One of 200 rounds down to E = 0, and is yet better than nobody.
    if let Some(first) = first.or_else(|| levels.iter().position(|level| level.available > 0)) {
        loads[first] += left;
    }
    Loads { percent: loads.into_iter().map(percent).collect(), total_percent: percent(total) }
}

/// Whether the health of a level's members is to be ignored: so little is available, in the level and all in all,
/// that what is there would be overrun. `total_percent` is that of [`Loads`]; a threshold of 0 means never.
pub fn in_panic(level: Availability, total_percent: u8, threshold_percent: f64) -> bool {
    let threshold = u128::from(millionths(threshold_percent));
    // An empty level counts as one with nothing available.
    let available = u128::from(level.available) * 100 * u128::from(MILLION);
    total_percent < 100 && available < threshold * u128::from(level.total.max(1))
}

/// min(100, floor(factor x 100 x available / total)).
fn effective_percent(level: Availability, factor_millionths: u128) -> u64 {
    let total = u128::from(level.total) * u128::from(MILLION);
    // Weights are far below what could overflow: 2^64 x 10^12 x 100 is not.
    let wanted = u128::from(level.available).saturating_mul(100).saturating_mul(factor_millionths);
    u64::try_from(wanted.checked_div(total).unwrap_or(0).min(100)).unwrap_or(100)
}

fn percent(value: u64) -> u8 {
    u8::try_from(value).expect("at most 100")
}

/// To which zones the requests of zone `own` go: shares that sum to 1, or all 0 where no zone has a host. `gateways` and
/// `hosts` are of each zone the number, or share, of nodes and of available members.
///
/// As much as possible stays in the zone, under the rule that in the end every zone gets requests as it has hosts: if
/// all nodes get as many requests and all do this, the load of zone y is exactly its share of hosts.
pub fn zone_aware(gateways: &[f64], hosts: &[f64], own: usize) -> Vec<f64> {
    let sum = |values: &[f64]| values.iter().copied().map(positive).sum::<f64>();
    let (all_gateways, all_hosts) = (sum(gateways), sum(hosts));
    let share = |values: &[f64], all: f64, zone: usize| {
        let value = values.get(zone).copied().map_or(0.0, positive);
        if all > 0.0 { value / all } else { 0.0 }
    };
    let of_gateways = |zone| share(gateways, all_gateways, zone);
    let of_hosts = |zone| share(hosts, all_hosts, zone);
    let zones = 0..hosts.len();
    let (here, wanted) = (of_hosts(own), of_gateways(own));
    if here > 0.0 && here >= wanted {
        return zones.map(|zone| if zone == own { 1.0 } else { 0.0 }).collect();
    }
    let local = if wanted > 0.0 { here / wanted } else { 0.0 };
    let surplus: Vec<f64> = zones
        .map(|zone| if zone == own { 0.0 } else { (of_hosts(zone) - of_gateways(zone)).max(0.0) })
        .collect();
    let all_surplus: f64 = surplus.iter().sum();
    if all_surplus <= 0.0 {
        // This zone has neither nodes, as far as is known, nor hosts, and the others are even.
        return (0..hosts.len()).map(of_hosts).collect();
    }
    let spread = surplus.iter().map(|surplus| surplus / all_surplus * (1.0 - local));
    spread.enumerate().map(|(zone, share)| if zone == own { local } else { share }).collect()
}

/// How requests are spread over zones with these weights: a zone's weight times min(1, `overprovisioning` x the
/// available part of it). Shares that sum to 1, or all 0 where nothing is available.
#[expect(clippy::cast_precision_loss, reason = "weights of a million targets fit into 52 bits")]
pub fn weighted_zones(
    zone_weights: &[f64],
    availability: &[Availability],
    overprovisioning: f64,
) -> Vec<f64> {
    let effective: Vec<f64> = zone_weights
        .iter()
        .zip(availability)
        .map(|(weight, zone)| {
            let available = zone.available as f64 / zone.total.max(1) as f64;
            positive(*weight) * (positive(overprovisioning) * available).min(1.0)
        })
        .collect();
    let sum: f64 = effective.iter().sum();
    effective.iter().map(|effective| if sum > 0.0 { effective / sum } else { 0.0 }).collect()
}

/// What is below 0, or no number, counts as 0.
const fn positive(value: f64) -> f64 {
    if value > 0.0 && value.is_finite() { value } else { 0.0 }
}

/// Draws a level or zone by its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Of each place that has a share, ascending: the first random number above its own, and the place.
    ends: Box<[(u64, usize)]>,
}

/// All random numbers.
const RANGE: u64 = 1 << u32::BITS;

impl Draw {
    /// By shares of any sum; `None` if there is none above 0. A share below 2^-32 of the sum may never be drawn.
    pub fn new(shares: &[f64]) -> Option<Self> {
        let sum: f64 = shares.iter().copied().map(positive).sum();
        let mut so_far = 0.0;
        let ends = shares.iter().map(|share| {
            so_far += positive(*share) / sum;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "between 0 and 2^32, or NaN, which becomes 0 and is left out with its share of 0"
            )]
            let end = (so_far * RANGE as f64).round() as u64;
            (end, *share > 0.0)
        });
        let with_share = ends.enumerate().filter(|(_, (_, has_share))| *has_share);
        let mut ends: Box<[_]> = with_share.map(|(place, (end, _))| (end, place)).collect();
        // Whatever rounding made of it.
        ends.last_mut()?.0 = RANGE;
        Some(Self { ends })
    }

    /// The place for a random number, evenly spread over all of its range. For an algorithm that hashes it is the hash
    /// of the key: its high bits decide here, so that the ring inside, which takes a remainder, is used as before.
    pub fn draw(&self, random: u32) -> usize {
        let at = self.ends.partition_point(|(end, _)| *end <= u64::from(random));
        self.ends[at].1
    }
}

#[cfg(test)]
mod tests;
