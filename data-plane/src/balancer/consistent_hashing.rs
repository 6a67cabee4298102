//! Consistent hashing: a key always goes to the same member, on every node, and a change of members moves only what
//! it must.
//!
//! Source: `balancer.md` section 5. As in Kong, a member has points at XXH32 of `ip::port i` modulo the number of
//! places on the ring, and a key goes to the first available point at or below its own place. Where two points meet
//! in one place, Kong drops the later one and gives its member another point elsewhere, which moves keys of others
//! when a member leaves, and fails when the ring is full. Here both stay, and the rest of the key's hash decides
//! between them: no key moves but those of the member that left, and there is no limit on members.

use std::net::{IpAddr, SocketAddr};

use twox_hash::XxHash32;

/// Points of a member of average weight.
const POINTS: u64 = 160;

/// Points of a ring (3 MiB) beyond which every target gets half as many, or a quarter, and so on; each address has one
/// all the same.
pub const POINTS_MAX: u64 = 262_144;

/// Below this, Kong uses as many.
const PLACES_MIN: u32 = 1_000;

/// XXH32 of a key, as Kong hashes it.
pub fn hash(key: &[u8]) -> u32 {
    XxHash32::oneshot(0, key)
}

/// What is known of a member when the ring is made.
#[derive(Debug, Clone, Copy)]
pub struct RingMember<'a> {
    /// Where it listens. Its `ip:port`, an IPv6 address in brackets, decides its places.
    pub address: SocketAddr,
    /// Tells members at one address apart.
    pub host: &'a str,
    /// Its share.
    pub weight: u16,
}

/// Points on a ring.
#[derive(Debug)]
pub struct ConsistentHashing {
    places: u32,
    points: Box<[Point]>,
    /// For each place, the index of its first point or of the next there is; and one more at the end.
    starts: Box<[u32]>,
    /// Members with weight: bounds a walk.
    members: usize,
    /// Of each member, by its place.
    weights: Box<[u16]>,
}

/// Ordered by place, then by the rest of the hash.
#[derive(Debug, Clone, Copy)]
struct Point {
    place: u32,
    rest: u32,
    member: u32,
}

impl ConsistentHashing {
    /// Lays out a ring of `slots` places. `targets` is the number of targets that the members are addresses of. The
    /// order of `members` has no effect.
    pub fn new(members: &[RingMember<'_>], targets: usize, slots: u32) -> Self {
        let places = slots.max(PLACES_MIN);
        let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
        let mut wanted = u64::try_from(targets.max(1)).unwrap_or(u64::MAX).saturating_mul(POINTS);
        while wanted > POINTS_MAX {
            wanted /= 2;
        }
        let mut points = Vec::new();
        for (at, member) in (0_u32..).zip(members).filter(|(_, member)| member.weight > 0) {
            let count = (u64::from(member.weight) * wanted / total).max(1);
            let host = match member.address.ip() {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
            let port = member.address.port();
            for point in 1..=count {
                let hash = hash(format!("{host}::{port} {point}").as_bytes());
                points.push(Point { place: hash % places, rest: hash / places, member: at });
            }
        }
        // Two points of one hash: the address decides, so that the order of members does not.
        points.sort_unstable_by(|a, b| {
            let name =
                |point: &Point| members.get(index(point.member)).map(|member| (member.address, member.host));
            (a.place, a.rest).cmp(&(b.place, b.rest)).then_with(|| name(a).cmp(&name(b)))
        });
        let mut starts = Vec::with_capacity(index(places) + 1);
        for (at, point) in (0_u32..).zip(&points) {
            while starts.len() <= index(point.place) {
                starts.push(at);
            }
        }
        starts.resize(index(places) + 1, u32::try_from(points.len()).unwrap_or(u32::MAX));
        let with_weight = members.iter().filter(|member| member.weight > 0).count();
        let weights = members.iter().map(|member| member.weight).collect();
        Self { places, points: points.into(), starts: starts.into(), members: with_weight, weights }
    }

    /// The member for a key with this hash, among those for which `may_take` holds: that of the nearest point
    /// downwards. `None` when there is none of them. Cost: that of the points passed, on average as many as there are
    /// members that may not be taken for one that may.
    pub fn pick(&self, key: u32, may_take: impl Fn(usize) -> bool) -> Option<usize> {
        let (place, rest) = (key % self.places, key / self.places);
        let mut refused = Refused::default();
        let mut end = self.start(place + 1);
        let mut left = self.points.len();
        while left > 0 {
            if end == 0 {
                end = self.points.len();
            }
            let start = self.start(self.points.get(end - 1)?.place);
            let here = self.points.get(start..end)?;
            // Within a place it is a ring again.
            let (low, high) = here.split_at(here.partition_point(|point| point.rest <= rest));
            for point in low.iter().rev().chain(high.iter().rev()) {
                if may_take(index(point.member)) {
                    return Some(index(point.member));
                }
                if refused.add(point.member) == self.members {
                    return None;
                }
            }
            left = left.saturating_sub(here.len());
            end = start;
        }
        None
    }

    /// Share of a member.
    pub(super) fn weight(&self, place: usize) -> u16 {
        self.weights.get(place).copied().unwrap_or(0)
    }

    fn start(&self, place: u32) -> usize {
        self.starts.get(index(place)).map_or(0, |start| index(*start))
    }

    /// Points of all members.
    #[cfg(test)]
    pub(crate) fn point_count(&self) -> usize {
        self.points.len()
    }

    /// Points of a member.
    #[cfg(test)]
    fn points_of(&self, member: u32) -> usize {
        self.points.iter().filter(|point| point.member == member).count()
    }
}

/// Counts distinct members that may not be taken, exactly for few: with many it only shortens a walk that ends anyway.
#[derive(Default)]
struct Refused {
    seen: [u32; 8],
    count: usize,
}

impl Refused {
    fn add(&mut self, member: u32) -> usize {
        let known = &self.seen[..self.count];
        if !known.contains(&member)
            && let Some(free) = self.seen.get_mut(self.count)
        {
            *free = member;
            self.count += 1;
        }
        self.count
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("a pointer has at least 32 bits")
}

#[cfg(test)]
mod tests;
