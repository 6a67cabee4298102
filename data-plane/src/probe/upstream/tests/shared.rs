//! Probes that nodes share. This node has id 1.

use std::num::NonZeroU32;

use equipoise_proto::NodeId;
use uuid::Uuid;

use super::*;
use crate::health::Probing;
use crate::table::{AddressId, SharedPlan, SharedTarget, Vouched};

/// Upstream 7, whose verdicts count for 15 s (healthy) and 6 s (not); of every address the target has its serial's number.
fn shared_plan(targets: &[Arc<Target>], is_used: bool) -> Arc<ProbePlan> {
    let of = |target: &Arc<Target>| (target.serial(), SharedTarget { id: target_id(target), is_used });
    let shared = SharedPlan {
        upstream: id(7),
        probing: Probing { checkers: NonZeroU32::MIN, verdict_ttl: None },
        targets: targets.iter().map(of).collect(),
    };
    Arc::new(ProbePlan { shared: Some(shared), ..ProbePlan::clone(&plan(active(), targets)) })
}

fn target_id(target: &Target) -> Uuid {
    id(u128::from(target.serial()))
}

fn shared(count: u16) -> Probed {
    probed_by(count, |targets| shared_plan(targets, true))
}

impl Probed {
    fn told_of_peers(&self, numbers: &[u128]) {
        self.fleet.peers.send_replace(Some(numbers.iter().copied().map(id).collect()));
    }

    fn address(&self, at: usize) -> AddressId {
        let target = &self.targets[at];
        AddressId { upstream: id(7), target: target_id(target), address: target.address() }
    }

    async fn told(&self, at: usize, is_available: bool) {
        let verdict = Verdict { of: self.address(at), is_available, checked: Instant::now() };
        self.fleet.verdicts.send(vec![verdict]).await.unwrap();
        self.until(Instant::now()).await;
    }

    /// What this node told since it was asked last.
    fn tells(&self) -> Vec<Option<bool>> {
        let told = self.fleet.findings.take().into_iter();
        told.map(|(_, finding)| finding.map(|finding| finding.is_available)).collect()
    }

    async fn seconds(&self, seconds: u64) {
        self.until(Instant::now() + Duration::from_secs(seconds)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_never_told_of_others_probes_everything_and_tells_nobody() {
    let probed = shared(3);
    let start = first(&probed).await;
    probed.until(start + 11 * SECOND).await;
    assert_eq!(probed.seen().len(), 9);
    assert_eq!(probed.tells(), []);
}

#[tokio::test(start_paused = true)]
async fn a_checker_tells_what_it_found_and_tells_it_again_with_every_probe() {
    let probed = shared(1);
    let start = first(&probed).await;
    probed.told_of_peers(&[1]);
    probed.until(Instant::now()).await;
    assert_eq!(probed.tells(), [Some(true)], "what it had found before");
    probed.until(start + 5 * SECOND).await;
    assert_eq!(
        probed.fleet.findings.take(),
        [(
            probed.address(0),
            Some(Vouched { is_available: true, checked: start + 5 * SECOND, ttl: 15 * SECOND }),
        )]
    );
    probed.net(|net| net.says = Report::Tcp);
    probed.until(start + 10 * SECOND).await;
    assert_eq!(probed.tells(), [Some(true)], "one failure is not enough");
    probed.until(start + 15 * SECOND).await;
    assert_eq!(probed.tells(), [Some(false)]);
    assert_eq!(probed.state(), State::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn what_requests_saw_is_not_told_to_others() {
    let probed = shared(1);
    let start = first(&probed).await;
    probed.told_of_peers(&[1]);
    probed.targets[0].set_health(false);
    probed.until(start + 5 * SECOND).await;
    let tells = probed.tells();
    assert!(!tells.is_empty() && tells.iter().all(|told| *told == Some(true)), "{tells:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_others_check_is_left_alone_while_they_tell() {
    let probed = shared(1);
    first(&probed).await;
    probed.told_of_peers(&[2]);
    let start = Instant::now();
    for _ in 0..10 {
        probed.told(0, true).await;
        probed.seconds(5).await;
    }
    assert!(probed.seconds_since(start).is_empty());
    // A verdict counts for 15 s from the check; then up to an interval may pass.
    let silent = Instant::now() - 5 * SECOND;
    probed.until(silent + 15 * SECOND - Duration::from_millis(20)).await;
    assert!(probed.seconds_since(start).is_empty());
    probed.until(silent + 20 * SECOND).await;
    assert_eq!(probed.seconds_since(start).len(), 1);
    probed.seconds(10).await;
    assert_eq!(probed.seconds_since(start).len(), 3, "on its own schedule");
    probed.told(0, true).await;
    let told = Instant::now();
    probed.seconds(14).await;
    assert!(probed.seconds_since(told).is_empty(), "others tell again");
    assert_eq!(probed.tells(), [], "it never told anybody");
}

#[tokio::test(start_paused = true)]
async fn what_others_find_is_in_force_at_once() {
    let probed = shared(2);
    first(&probed).await;
    probed.told_of_peers(&[2]);
    probed.told(0, false).await;
    assert_eq!((probed.state(), probed.targets[1].health().state), (State::Unhealthy, State::Healthy));
    probed.told(0, true).await;
    assert_eq!(probed.state(), State::Healthy);
    let late = Verdict { of: probed.address(0), is_available: false, checked: Instant::now() - 6 * SECOND };
    probed.fleet.verdicts.send(vec![late]).await.unwrap();
    probed.until(Instant::now()).await;
    assert_eq!(probed.state(), State::Healthy, "it counts no more");
}

#[tokio::test(start_paused = true)]
async fn who_checks_an_address_goes_by_its_own_probes() {
    let probed = shared(1);
    first(&probed).await;
    probed.told_of_peers(&[1]);
    probed.until(Instant::now()).await;
    probed.told(0, false).await;
    assert_eq!(probed.state(), State::Healthy);
}

#[tokio::test(start_paused = true)]
async fn who_takes_over_probes_at_once_and_who_hands_over_takes_back_what_it_told() {
    let probed = shared(1);
    first(&probed).await;
    probed.told_of_peers(&[2]);
    probed.seconds(4).await;
    probed.told(0, true).await;
    probed.seconds(10).await;
    let start = Instant::now();
    probed.told_of_peers(&[1]);
    probed.until(start).await;
    assert_eq!(probed.seconds_since(start), [0]);
    assert_eq!(probed.tells(), [Some(true)]);
    probed.told_of_peers(&[2]);
    probed.until(Instant::now()).await;
    assert_eq!(probed.tells(), [None]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_shared_or_there_is_taken_back() {
    let probed = shared(2);
    first(&probed).await;
    probed.told_of_peers(&[1]);
    probed.seconds(2).await;
    assert_eq!(probed.tells(), [Some(true), Some(true)]);
    probed.plan.send_replace(shared_plan(&probed.targets[..1], true));
    probed.until(Instant::now()).await;
    assert_eq!(probed.tells(), [None]);
    probed.plan.send_replace(plan(active(), &probed.targets[..1]));
    probed.until(Instant::now()).await;
    assert_eq!(probed.tells(), [None]);
    let start = Instant::now();
    probed.seconds(10).await;
    assert_eq!(probed.seconds_since(start).len(), 2, "it goes on alone");
}

#[tokio::test(start_paused = true)]
async fn what_a_node_does_not_use_it_probes_for_others_alone() {
    let probed = probed_by(1, |targets| shared_plan(targets, false));
    probed.seconds(20).await;
    assert_eq!(probed.seen(), []);
    probed.told_of_peers(&[2]);
    probed.seconds(20).await;
    assert_eq!(probed.seen(), []);
    let start = Instant::now();
    probed.told_of_peers(&[1]);
    probed.until(start + 11 * SECOND).await;
    assert_eq!(probed.seen().len(), 3);
    assert_eq!(probed.tells(), [Some(true)]);
}

#[tokio::test(start_paused = true)]
async fn of_four_nodes_each_address_has_one_that_probes_it() {
    let nodes: Vec<_> = (1..=4).map(Uuid::from_u128).collect();
    let mut probes = 0;
    for node in &nodes {
        let targets: Vec<_> =
            (1..=40).map(|number| checked(([127, 0, 0, 1], number).into(), Passive::default())).collect();
        let (link, ends) = fleet(NodeId::new(*node));
        link.peers.send_replace(Some(nodes.clone().into()));
        let mut slots = Slots::default();
        slots.follow(&shared_plan(&targets, false), &mut for_upstream(ends), Instant::now());
        probes += slots.due.len();
    }
    assert_eq!(probes, 40);
}
