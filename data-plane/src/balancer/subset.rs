//! Which members a node uses where each node is to use only some of them: rendezvous hashing. With 1,000 nodes and
//! 1,000 targets, every target would otherwise hold connections of all nodes and be probed by all. Pure; for `table`.
//!
//! Source: "rendezvous hashing", Thaler and Ravishankar 1998; see also `balancer.md` section 10.
//!
//! Every node ranks the members by a hash of itself and the member and uses the first `size`. Nodes agree on nothing, and
//! a member that leaves moves only its own place on each node that used it.
//!
//! **Spread.** A member is used by `nodes x size / members` of the nodes on average, with the standard deviation of so
//! many coin throws: with 1,000 nodes that use 20 of 100, by 200 +- 13, the most used by about 1.16 times the mean. With
//! few nodes a member is at times used by none: let `nodes x size` be at least 20 times the members, and the least used
//! one still has a handful.
//!
//! **Weight** has no part in the choice, but for 0: among those it uses, a node balances by weight as ever, and so the
//! load is by weight. Were heavy members also used by more nodes, their weight would count twice. Only where one weight is
//! a large part of all the others of a subset together, its member gets less than its share: not all nodes use it.

use std::cmp::Reverse;
use std::net::SocketAddr;

use uuid::Uuid;

use super::consistent_hashing::RingMember;
use super::session::target_id;

/// How much a node is for a member: the higher, the sooner it uses it. The same on every run.
fn rank(node: Uuid, address: SocketAddr, host: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(node.as_bytes()).update(&target_id(address, host).to_le_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Places of the members that a node uses, ascending: of those with weight the highest ranks, as far as it takes to have
/// `size` that are available. Those between that are not available are among them: they come back to their place. Cost:
/// two short hashes a member, and sorting.
pub fn subset(
    node: Uuid,
    members: &[RingMember<'_>],
    size: usize,
    is_available: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let with_weight = members.iter().enumerate().filter(|(_, member)| member.weight > 0);
    let mut ranked: Vec<_> = with_weight
        // The address decides between equal ranks, so that the order of members does not.
        .map(|(place, member)| {
            (Reverse((rank(node, member.address, member.host), member.address, member.host)), place)
        })
        .collect();
    ranked.sort_unstable();
    let mut missing = size;
    let wanted = ranked.into_iter().map(|(_, place)| place).take_while(|place| {
        let is_wanted = missing > 0;
        missing = missing.saturating_sub(usize::from(is_available(*place)));
        is_wanted
    });
    let mut places: Vec<_> = wanted.collect();
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn address(at: usize) -> SocketAddr {
        let [.., c, d] = at.to_be_bytes();
        ([10, 0, c, d], 80).into()
    }

    fn members(weights: &[u16]) -> Vec<RingMember<'static>> {
        let members = weights.iter().enumerate();
        members.map(|(at, weight)| RingMember { address: address(at), host: "a", weight: *weight }).collect()
    }

    fn nodes(count: u128) -> impl Iterator<Item = Uuid> {
        (1..=count).map(|number| Uuid::from_u128(number << 64 | 0x8000_0000_0000_0000))
    }

    #[test]
    fn ranks_are_the_same_for_ever() {
        let node = Uuid::from_u128(0x1234);
        let rows = [
            ("10.0.0.1:80", "a.test", 8_977_144_805_773_279_333),
            ("[::1]:80", "[::1]", 16_453_630_102_947_382_937),
        ];
        for (address, host, want) in rows {
            assert_eq!(rank(node, address.parse().unwrap(), host), want, "{address} {host}");
        }
    }

    #[test]
    fn a_thousand_nodes_spread_evenly() {
        let members = members(&[100; 100]);
        let mut used = [0_u32; 100];
        for node in nodes(1_000) {
            let subset = subset(node, &members, 20, |_| true);
            assert_eq!(subset.len(), 20);
            subset.into_iter().for_each(|place| used[place] += 1);
        }
        assert!(used.iter().all(|used| (150..250).contains(used)), "max/mean below 1.25: {used:?}");
    }

    #[test]
    fn load_is_by_weight() {
        let weights: Vec<u16> = (0..100).map(|at| [100, 50, 25, 0][at % 4]).collect();
        let members = members(&weights);
        let mut load = [0.0; 4];
        for node in nodes(1_000) {
            let subset = subset(node, &members, 20, |_| true);
            let sum: f64 = subset.iter().map(|place| f64::from(weights[*place])).sum();
            subset.into_iter().for_each(|place| load[place % 4] += f64::from(weights[place]) / sum);
        }
        for (load, want) in load.iter().zip([4_000.0 / 7.0, 2_000.0 / 7.0, 1_000.0 / 7.0, 0.0]) {
            assert!((load - want).abs() <= want * 0.03, "{load} is not near {want}");
        }
    }

    proptest! {
        #[test]
        fn a_member_that_leaves_moves_only_its_own_place(
            count in 2_usize..60, size in 0_usize..70, gone in any::<prop::sample::Index>(), node in any::<u128>(),
        ) {
            let (node, gone) = (Uuid::from_u128(node), gone.index(count));
            let before = members(&vec![1; count]);
            let mut after = before.clone();
            after.remove(gone);
            let used = |members: &[RingMember<'_>]| -> BTreeSet<SocketAddr> {
                subset(node, members, size, |_| true).into_iter().map(|place| members[place].address).collect()
            };
            let (before, after) = (used(&before), used(&after));
            prop_assert_eq!(after.len(), size.min(count - 1));
            let left: Vec<_> = before.difference(&after).collect();
            let came = after.difference(&before).count();
            if before.contains(&address(gone)) {
                prop_assert_eq!(left, [&address(gone)]);
                prop_assert_eq!(came, usize::from(size < count));
            } else {
                prop_assert_eq!((left.len(), came), (0, 0));
            }
        }

        #[test]
        fn the_order_of_members_has_no_effect(count in 1_usize..40, turn in 0_usize..40, size in 0_usize..40, node in any::<u128>()) {
            let node = Uuid::from_u128(node);
            let members = members(&vec![1; count]);
            let mut other = members.clone();
            other.rotate_left(turn % count);
            let used = |members: &[RingMember<'_>]| -> BTreeSet<SocketAddr> {
                subset(node, members, size, |_| true).into_iter().map(|place| members[place].address).collect()
            };
            prop_assert_eq!(used(&members), used(&other));
        }
    }

    #[test]
    fn one_that_is_not_available_keeps_its_place_and_the_next_stands_in() {
        let members: Vec<_> = (1..=9)
            .map(|at| RingMember { address: ([10, 0, 0, at], 80).into(), host: "h", weight: 1 })
            .collect();
        let node = Uuid::from_u128(7);
        let all = subset(node, &members, 3, |_| true);
        let out = all[1];
        let without = subset(node, &members, 3, |place| place != out);
        assert_eq!(without.len(), 4);
        assert!(all.iter().all(|place| without.contains(place)), "{all:?} {without:?}");
        assert_eq!(subset(node, &members, 3, |_| false).len(), 9);
    }
}
