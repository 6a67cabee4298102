use proptest::prelude::*;

use super::*;
use Verdict::{Healthy, Unhealthy};

fn id(number: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(number))
}

fn place(last: u8) -> Place {
    Place { upstream: Uuid::from_u128(1), target: Uuid::from_u128(2), address: ([10, 0, 0, last], 80).into() }
}

fn found(verdict: Verdict, checked: Instant) -> Option<Finding> {
    Some(Finding { verdict, checked, ttl: Duration::from_secs(12) })
}

/// Verdicts, and a clock that begins with them.
struct World {
    verdicts: Verdicts,
    start: Instant,
}

impl World {
    fn new() -> Self {
        Self { verdicts: Verdicts::default(), start: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn says(&mut self, node: u128, verdict: Verdict, seconds: u64) {
        let now = self.at(seconds);
        self.verdicts.take(id(node), [(place(1), found(verdict, now))], 9, now).unwrap();
    }

    fn is(&mut self, seconds: u64) -> Option<Verdict> {
        let now = self.at(seconds);
        let (all, _) = self.verdicts.since(0, 99, now);
        all.first().map(|(_, merged)| merged.verdict)
    }
}

#[test]
fn the_majority_of_what_counts_decides_and_a_tie_is_unhealthy() {
    let cases: [(&str, &[Verdict], Option<Verdict>); 6] = [
        ("nobody", &[], None),
        ("one", &[Healthy], Some(Healthy)),
        ("the other", &[Unhealthy], Some(Unhealthy)),
        ("a tie", &[Healthy, Unhealthy], Some(Unhealthy)),
        ("two of three", &[Healthy, Unhealthy, Healthy], Some(Healthy)),
        ("one of three", &[Healthy, Unhealthy, Unhealthy], Some(Unhealthy)),
    ];
    for (name, said, want) in cases {
        let mut world = World::new();
        for (number, verdict) in said.iter().enumerate() {
            world.says(u128::try_from(number).unwrap(), *verdict, 0);
        }
        assert_eq!(world.is(0), want, "{name}");
    }
}

#[test]
fn a_verdict_counts_for_its_time_only() {
    let mut world = World::new();
    world.says(1, Unhealthy, 0);
    world.says(2, Healthy, 5);
    assert_eq!(world.is(11), Some(Unhealthy));
    assert_eq!(world.is(12), Some(Healthy), "the first is over");
    assert_eq!(world.is(17), None, "and the second");
    let late = found(Healthy, world.at(0));
    let now = world.at(12);
    world.verdicts.take(id(3), [(place(1), late)], 9, now).unwrap();
    assert_eq!(world.is(12), None, "it was over when it came");
    assert!(world.verdicts.said.is_empty() && world.verdicts.ends.is_empty(), "nothing is left");
    assert!(world.verdicts.by_change.is_empty() && world.verdicts.by_node.is_empty());
}

#[test]
fn who_left_or_took_it_back_counts_no_more() {
    let mut world = World::new();
    world.says(1, Unhealthy, 0);
    world.says(2, Healthy, 0);
    world.verdicts.leave(id(1));
    assert_eq!(world.is(0), Some(Healthy));
    world.verdicts.take(id(2), [(place(1), None)], 9, world.start).unwrap();
    assert_eq!(world.is(0), None);
}

#[test]
fn what_changed_is_found_by_number_and_the_newest_counts() {
    let mut world = World::new();
    let now = world.start;
    let say = |verdicts: &mut Verdicts, last, verdict| {
        verdicts.take(id(1), [(place(last), found(verdict, now))], 9, now).unwrap();
    };
    say(&mut world.verdicts, 1, Healthy);
    say(&mut world.verdicts, 2, Healthy);
    let (all, upto) = world.verdicts.since(0, 99, now);
    assert_eq!((all.len(), upto), (2, 2));
    assert_eq!(world.verdicts.since(upto, 99, now), (vec![], 2));
    say(&mut world.verdicts, 1, Unhealthy);
    say(&mut world.verdicts, 1, Healthy);
    let merged = Merged { verdict: Healthy, checked: now };
    assert_eq!(world.verdicts.since(upto, 99, now), (vec![(place(1), merged)], 4));
    let (part, upto) = world.verdicts.since(0, 1, now);
    assert_eq!((part, upto), (vec![(place(2), merged)], 2), "the oldest first");
    assert_eq!(world.verdicts.since(upto, 1, now).0, [(place(1), merged)]);
}

#[test]
fn the_same_again_is_passed_on_when_it_is_newer_by_a_sixth_of_its_time() {
    let mut world = World::new();
    world.says(1, Healthy, 0);
    world.says(2, Healthy, 1);
    assert_eq!(world.verdicts.newest(), 1);
    world.says(1, Healthy, 2);
    assert_eq!(world.verdicts.newest(), 2);
    world.says(2, Unhealthy, 3);
    assert_eq!(world.verdicts.newest(), 3, "a turn in any case");
}

#[test]
fn a_node_has_a_bound() {
    let mut world = World::new();
    let now = world.start;
    let say =
        |verdicts: &mut Verdicts, last| verdicts.take(id(1), [(place(last), found(Healthy, now))], 2, now);
    assert_eq!(say(&mut world.verdicts, 1), Ok(()));
    assert_eq!(say(&mut world.verdicts, 2), Ok(()));
    assert_eq!(say(&mut world.verdicts, 1), Ok(()), "it has that already");
    assert_eq!(say(&mut world.verdicts, 3), Err(TooMany));
}

#[derive(Debug, Clone)]
enum Step {
    Says(u128, u8, bool),
    TakesBack(u128, u8),
    Leaves(u128),
    Passes(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u128..4, 0_u8..3, any::<bool>()).prop_map(|(node, place, is)| Step::Says(node, place, is)),
        1 => (0_u128..4, 0_u8..3).prop_map(|(node, place)| Step::TakesBack(node, place)),
        1 => (0_u128..4).prop_map(Step::Leaves),
        2 => (1_u64..8).prop_map(Step::Passes),
    ]
}

proptest! {
    /// Whoever asks for changes only comes to know what whoever asks for everything does.
    #[test]
    fn merged_verdicts_are_those_of_a_plain_count(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        let mut model: BTreeMap<(Place, NodeId), (Verdict, u64)> = BTreeMap::new();
        let (mut now, mut known, mut cursor) = (0, HashMap::new(), 0);
        for step in steps {
            let at = world.at(now);
            match step {
                Step::Says(node, last, is_healthy) => {
                    let verdict = if is_healthy { Healthy } else { Unhealthy };
                    model.insert((place(last), id(node)), (verdict, now));
                    world.verdicts.take(id(node), [(place(last), found(verdict, at))], 9, at).unwrap();
                }
                Step::TakesBack(node, last) => {
                    model.remove(&(place(last), id(node)));
                    world.verdicts.take(id(node), [(place(last), None)], 9, at).unwrap();
                }
                Step::Leaves(node) => {
                    model.retain(|(_, who), _| *who != id(node));
                    world.verdicts.leave(id(node));
                }
                Step::Passes(seconds) => now += seconds,
            }
            model.retain(|_, (_, checked)| now < *checked + 12);
            let at = world.at(now);
            let (all, _) = world.verdicts.since(0, 99, at);
            let all: BTreeMap<_, _> = all.into_iter().map(|(place, merged)| (place, merged.verdict)).collect();
            let mut want: BTreeMap<Place, i32> = BTreeMap::new();
            for ((place, _), (verdict, _)) in &model {
                *want.entry(*place).or_default() += if *verdict == Healthy { 1 } else { -1 };
            }
            let want: BTreeMap<_, _> = want.into_iter()
                .map(|(place, sum)| (place, if sum > 0 { Healthy } else { Unhealthy })).collect();
            prop_assert_eq!(&all, &want);
            let (news, upto) = world.verdicts.since(cursor, 99, at);
            known.extend(news.into_iter().map(|(place, merged)| (place, merged.verdict)));
            cursor = upto;
            for (place, verdict) in &all {
                prop_assert_eq!(known.get(place), Some(verdict));
            }
        }
    }
}
