//! When what is probed, under a clock that only the schedule moves. Source: `spec/health.md` section 5.

mod shared;

use std::num::NonZeroU8;
use std::sync::Mutex;

use super::*;
use crate::health::{Limits, Passive, Report, State};
use crate::table::fixture::{checked, id, tcp_checks};
use crate::table::{FleetLink, FleetProbes, fleet};

const SECOND: Duration = Duration::from_secs(1);

/// One probe, as the stand-in for the network saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    serial: u64,
    began: Instant,
    version: Version,
}

/// What stands in for the network.
#[derive(Debug)]
struct Net {
    says: Report,
    takes: Duration,
    learns: Version,
    seen: Vec<Seen>,
    under_way: Vec<u64>,
    most_at_once: usize,
}

/// An upstream that is probed over [`Net`].
struct Probed {
    net: Arc<Mutex<Net>>,
    plan: watch::Sender<Arc<ProbePlan>>,
    targets: Vec<Arc<Target>>,
    fleet: FleetLink,
    _probing: JoinSet<()>,
}

/// Takes its serial off the list however the probe ends.
struct UnderWay(Arc<Mutex<Net>>, u64);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().unwrap().under_way.retain(|serial| *serial != self.1);
    }
}

fn active() -> Active {
    let limit = NonZeroU8::new;
    Active {
        concurrency: 10,
        healthy_interval: Some(5 * SECOND),
        unhealthy_interval: Some(2 * SECOND),
        limits: Limits { successes: limit(2), http: limit(3), tcp: limit(2), timeouts: limit(2) },
        ..tcp_checks()
    }
}

fn plan(active: Active, targets: &[Arc<Target>]) -> Arc<ProbePlan> {
    Arc::new(ProbePlan {
        upstream: "u".into(),
        active,
        host_header: None,
        client: None,
        targets: targets.to_vec(),
        shared: None,
    })
}

/// The end of a node's fleet that the probes of an upstream have.
fn for_upstream(FleetProbes { node, wanted: _, peers, verdicts, findings }: FleetProbes) -> Fleet {
    Fleet { node, peers, findings, verdicts }
}

fn probed(count: u16, active: Active) -> Probed {
    probed_by(count, |targets| plan(active, targets))
}

fn probed_by(count: u16, plan: impl FnOnce(&[Arc<Target>]) -> Arc<ProbePlan>) -> Probed {
    let targets: Vec<_> =
        (0..count).map(|number| checked(([127, 0, 0, 1], 1 + number).into(), Passive::default())).collect();
    let net = Arc::new(Mutex::new(Net {
        says: Report::Success,
        takes: Duration::ZERO,
        learns: Version::Http11,
        seen: Vec::new(),
        under_way: Vec::new(),
        most_at_once: 0,
    }));
    let (plan, plans) = watch::channel(plan(&targets));
    let check = {
        let net = Arc::clone(&net);
        move |target: Arc<Target>, _: Arc<ProbePlan>, version| {
            let net = Arc::clone(&net);
            async move {
                let serial = target.serial();
                let (says, takes, learns) = {
                    let mut net = net.lock().unwrap();
                    assert!(!net.under_way.contains(&serial), "two probes of one address at once");
                    net.under_way.push(serial);
                    net.most_at_once = net.most_at_once.max(net.under_way.len());
                    net.seen.push(Seen { serial, began: Instant::now(), version });
                    (net.says, net.takes, net.learns)
                };
                let _under_way = UnderWay(net, serial);
                tokio::time::sleep(takes).await;
                Found { report: Some(says), version: learns, is_own: false }
            }
        }
    };
    let mut probing = JoinSet::new();
    let (link, probes) = fleet(equipoise_proto::NodeId::new(id(1)));
    let fleet = for_upstream(probes);
    probing.spawn(probe(plans, Arc::new(Semaphore::new(1000)), 1000, fleet, check));
    Probed { net, plan, targets, fleet: link, _probing: probing }
}

impl Probed {
    fn net(&self, change: impl FnOnce(&mut Net)) {
        change(&mut self.net.lock().unwrap());
    }

    fn seen(&self) -> Vec<Seen> {
        self.net.lock().unwrap().seen.clone()
    }

    fn state(&self) -> State {
        self.targets[0].health().state
    }

    /// Lets everything happen up to `time`, what is due then included.
    async fn until(&self, time: Instant) {
        // The clock has steps of a millisecond, and tasks that are woken then come after this one.
        tokio::time::sleep_until(time + Duration::from_millis(2)).await;
    }

    /// When each probe since `start` began, in whole seconds after it.
    fn seconds_since(&self, start: Instant) -> Vec<u64> {
        let seen = self.seen().into_iter().filter(|seen| seen.began >= start);
        seen.map(|seen| (seen.began - start + Duration::from_millis(1)).as_secs()).collect()
    }
}

/// Waits for the first probe; gives when it began.
async fn first(probed: &Probed) -> Instant {
    probed.until(Instant::now() + SECOND).await;
    probed.seen()[0].began
}

#[tokio::test(start_paused = true)]
async fn three_failures_at_an_interval_of_five_eject_at_eleven() {
    let probed = probed(1, active());
    // The first probe is at 1 - 5.
    let start = first(&probed).await + 4 * SECOND;
    probed.until(start).await;
    probed.net(|net| net.says = Report::Http);
    probed.until(start + 6 * SECOND).await;
    assert_eq!(probed.state(), State::MostlyHealthy);
    probed.until(start + 11 * SECOND - Duration::from_millis(5)).await;
    assert_eq!(probed.state(), State::MostlyHealthy);
    probed.until(start + 11 * SECOND).await;
    assert_eq!(probed.state(), State::Unhealthy);
    assert_eq!(probed.seconds_since(start), [1, 6, 11]);
}

#[tokio::test(start_paused = true)]
async fn two_successes_at_an_interval_of_two_readmit() {
    let probed = probed(1, active());
    probed.net(|net| net.says = Report::Tcp);
    // Ejected by the probes at 0 and 5, then probed at 7, 9, ... 19; the server recovers at 20.
    let start = first(&probed).await;
    probed.until(start + 20 * SECOND).await;
    assert_eq!(probed.state(), State::Unhealthy);
    assert_eq!(probed.seconds_since(start), [0, 5, 7, 9, 11, 13, 15, 17, 19]);
    probed.net(|net| net.says = Report::Success);
    probed.until(start + 21 * SECOND).await;
    assert_eq!(probed.state(), State::MostlyUnhealthy);
    probed.until(start + 23 * SECOND).await;
    assert_eq!(probed.state(), State::Healthy);
    assert_eq!(probed.seconds_since(start + 20 * SECOND), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_is_ejected_when_its_second_probe_times_out() {
    let probed = probed(1, active());
    // The first probe is at 2 - 5.
    let start = first(&probed).await + 3 * SECOND;
    probed.until(start).await;
    probed.net(|net| (net.says, net.takes) = (Report::Timeout, SECOND));
    probed.until(start + 7 * SECOND).await;
    assert_eq!(probed.state(), State::MostlyHealthy);
    probed.until(start + 8 * SECOND).await;
    assert_eq!(probed.state(), State::Unhealthy);
    assert_eq!(probed.seconds_since(start), [2, 7]);
}

#[tokio::test(start_paused = true)]
async fn the_first_probe_comes_within_a_tenth_of_the_interval() {
    let start = Instant::now();
    let healthy_interval = Some(Duration::from_secs(5));
    let probed = probed(200, Active { concurrency: 1000, healthy_interval, ..active() });
    probed.until(start + Duration::from_millis(500)).await;
    let began: Vec<_> = probed.seen().iter().map(|seen| seen.began - start).collect();
    assert_eq!(began.len(), 200);
    let (least, most) = (began.iter().min().unwrap(), began.iter().max().unwrap());
    assert!(*most - *least > Duration::from_millis(250), "not in step: {least:?} to {most:?}");
}

/// 25 addresses, 10 at once, a second each: the last is done after three seconds.
#[tokio::test(start_paused = true)]
async fn at_most_so_many_probes_of_an_upstream_are_under_way() {
    let probed = probed(25, Active { healthy_interval: Some(60 * SECOND), ..active() });
    probed.net(|net| (net.says, net.takes) = (Report::Timeout, SECOND));
    let start = first(&probed).await;
    probed.until(start + 3 * SECOND + FIRST_JITTER_MAX).await;
    let mut serials: Vec<_> = probed.seen().iter().map(|seen| seen.serial).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!((probed.seen().len(), serials.len()), (25, 25), "each was probed once");
    assert_eq!(probed.net.lock().unwrap().most_at_once, 10);
}

#[tokio::test(start_paused = true)]
async fn changes_of_config_neither_repeat_a_probe_nor_put_it_off() {
    let probed = probed(2, active());
    probed.net(|net| net.takes = SECOND);
    let start = first(&probed).await;
    let mut now = start;
    // While probes are under way and while none are.
    for number in 0..40 {
        now += Duration::from_millis(250);
        probed.until(now).await;
        let timeout = Duration::from_secs(2 + number % 3);
        probed.plan.send_replace(plan(Active { timeout, ..active() }, &probed.targets));
    }
    probed.until(start + 10 * SECOND + FIRST_JITTER_MAX).await;
    for target in &probed.targets {
        let began: Vec<_> = probed
            .seen()
            .iter()
            .filter(|seen| seen.serial == target.serial())
            .map(|seen| seen.began)
            .collect();
        let gaps: Vec<_> = began.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(gaps, [5, 5], "{began:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_an_address_that_went_says_nothing_and_a_new_one_begins_anew() {
    let probed = probed(1, active());
    probed.net(|net| (net.says, net.takes) = (Report::Tcp, SECOND));
    let start = first(&probed).await;
    probed.plan.send_replace(plan(active(), &[]));
    probed.until(start + 20 * SECOND).await;
    assert_eq!(probed.targets[0].health().tcp, 0);
    assert_eq!(probed.seen().len(), 1);
    assert!(probed.net.lock().unwrap().under_way.is_empty(), "it was broken off");
    probed.net(|net| net.takes = Duration::ZERO);
    probed.plan.send_replace(plan(active(), &probed.targets));
    probed.until(start + 21 * SECOND).await;
    assert_eq!(probed.seen().len(), 2, "soon, as every first probe");
}

#[tokio::test(start_paused = true)]
async fn the_version_that_an_address_took_is_kept_over_changes_of_config() {
    let probed = probed(1, active());
    probed.net(|net| net.learns = Version::Http10);
    let start = first(&probed).await;
    probed.until(start + 5 * SECOND).await;
    probed.plan.send_replace(plan(Active { path: "/new".into(), ..active() }, &probed.targets));
    probed.until(start + 10 * SECOND).await;
    let versions: Vec<_> = probed.seen().iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [Version::Http11, Version::Http10, Version::Http10]);
}

#[tokio::test(start_paused = true)]
async fn a_set_without_interval_is_left_alone() {
    let only_unhealthy = Active { healthy_interval: None, ..active() };
    let probed = probed(1, only_unhealthy);
    let start = Instant::now();
    probed.until(start + 60 * SECOND).await;
    assert_eq!(probed.seen(), []);
    probed.targets[0].set_health(false);
    // The builder hears of that and tells the prober.
    probed.plan.send_modify(|plan| *plan = Arc::new(ProbePlan::clone(plan)));
    probed.until(start + 70 * SECOND).await;
    assert_eq!(probed.state(), State::Healthy);
    assert_eq!(probed.seen().len(), 2, "two successes, then no more");
}

#[tokio::test]
async fn an_address_whose_probe_broke_off_is_probed_again() {
    let active = Active { healthy_interval: Some(Duration::from_secs(1)), ..tcp_checks() };
    let target = Target::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1");
    let plan = plan(active, &[Arc::clone(&target)]);
    let mut slots = Slots::default();
    let now = Instant::now();
    let mut fleet = for_upstream(fleet(equipoise_proto::NodeId::new(id(1))).1);
    slots.follow(&plan, &mut fleet, now);
    let due = slots.next_due().unwrap();
    let serial = slots.take_due(due).unwrap().0.serial();
    let mut running = JoinSet::<Version>::new();
    slots.started(serial, running.spawn(async { panic!("as a defect would") }), due);
    assert_eq!(slots.next_due(), None, "one is under way");
    let error = running.join_next_with_id().await.unwrap().map(|_| ()).unwrap_err();
    slots.finish(error.id(), None, &plan, due);
    assert_eq!(slots.next_due(), Some(due + Duration::from_secs(1)));
    assert!(target.is_probed(), "nobody waits for its first probe any more");
}
