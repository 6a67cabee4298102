use std::net::SocketAddr;

use equipoise_proto::{EntityKind, NodeId, v1};
use proptest::prelude::*;

use super::super::fixture::{
    gone, id, passive, position, route, route_with, service, service_with, target, upstream, upstream_with,
};
use super::super::{FORGET_AFTER, Lease, Outcome, Readiness, Record, Resolved, Route, SrvPart, Tried, Turn};
use super::*;
use crate::observability::NodeState;
use crate::router::{Headers, Query};

mod algorithms;
mod certificates;
mod policies;
mod returning;
mod streams;
mod view;

/// A pick by an algorithm that does not hash.
fn pick(upstream: &Upstream, tried: &mut Tried) -> Result<Lease, PickError> {
    upstream.pick(tried, Instant::now(), Turn::Arrived, &mut |_: &_, _: &_| panic!("nothing is hashed"))
}

struct NoHeaders;

impl Headers for NoHeaders {
    fn each(&self, _name: &str, _found: &mut dyn FnMut(&[u8])) {}
}

struct Node {
    core: Core,
    seams: CoreSeams,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        Self::at("", "")
    }

    fn at(region: &str, zone: &str) -> Self {
        let node = Arc::new(NodeState::at(NodeId::new(id(1)), region, zone));
        let (core, seams) = Core::new(node);
        Self { core, seams, now: Instant::now() }
    }

    fn with(records: Vec<Record>) -> Self {
        let mut node = Self::new();
        node.delta(records);
        node
    }

    fn delta(&mut self, records: Vec<Record>) -> oneshot::Receiver<()> {
        self.core.apply(Update::Delta(records), self.now).unwrap()
    }

    fn refuse(&mut self, records: Vec<Record>) -> CompileError {
        self.core.apply(Update::Delta(records), self.now).unwrap_err()
    }

    fn route(&self, path: &str) -> Option<Arc<Route>> {
        let query = Query {
            is_tls: false,
            method: b"GET",
            host: b"",
            port: 80,
            path: path.as_bytes(),
            sni: None,
            headers: &NoHeaders,
        };
        let mut reader = self.seams.active.reader();
        reader.load().resolve(&query).map(|(route, _)| Arc::clone(route))
    }

    fn upstream(&self, path: &str) -> Arc<Upstream> {
        Arc::clone(&self.route(path).unwrap().service.as_ref().unwrap().upstream)
    }

    fn picks(&self, path: &str, count: usize) -> Vec<SocketAddr> {
        let upstream = self.upstream(path);
        (0..count).map(|_| pick(&upstream, &mut Tried::default()).unwrap().address()).collect()
    }

    fn shares(&self, path: &str, count: usize, addresses: &[&str]) -> Vec<usize> {
        let picked = self.picks(path, count);
        let share = |wanted: &&str| {
            let wanted: SocketAddr = wanted.parse().unwrap();
            picked.iter().filter(|address| **address == wanted).count()
        };
        addresses.iter().map(share).collect()
    }

    fn refusal(&self, path: &str) -> PickError {
        pick(&self.upstream(path), &mut Tried::default()).unwrap_err()
    }

    /// Lets the next pick of `address` fail `times` times.
    fn fail(&self, path: &str, address: &str, times: usize) {
        let address: SocketAddr = address.parse().unwrap();
        let upstream = self.upstream(path);
        for _ in 0..times {
            let mut tried = Tried::default();
            let lease = loop {
                let lease = pick(&upstream, &mut tried).unwrap();
                if lease.address() == address {
                    break lease;
                }
            };
            lease.observe(Outcome::Refused);
        }
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.seams.names.borrow().keys().cloned().collect()
    }

    fn answer(&mut self, name: &str, answer: Answer) {
        self.core.answer(&name.into(), answer, self.now);
    }

    /// What the running builder does when a bell rang.
    fn settle(&mut self) {
        use futures_util::FutureExt as _;
        while let Some(cells) = self.core.changes.take().now_or_never() {
            self.core.look(cells, self.now);
        }
    }
}

fn records(addresses: &[&str]) -> Answer {
    let resolved = addresses.iter().map(|ip| Resolved { ip: ip.parse().unwrap(), srv: None });
    Answer::Records("A", resolved.collect())
}

const A: &str = "127.0.0.1:9001";
const B: &str = "127.0.0.1:9002";

fn two_targets(change: impl FnOnce(&mut v1::Upstream)) -> Vec<Record> {
    vec![
        upstream_with(1, "u", change),
        target(11, 1, A, 100),
        target(12, 1, B, 100),
        service(2, "u", 80),
        route(3, Some(2), "/u"),
    ]
}

#[test]
fn the_tutorial() {
    let mut node = Node::with(vec![service(2, "127.0.0.1", 9001)]);
    assert!(node.route("/mock").is_none());
    node.delta(vec![route(3, Some(2), "/mock")]);
    assert_eq!(node.shares("/mock", 2, &[A]), [2], "an address is used as it is");
    node.delta(vec![upstream(1, "example_upstream")]);
    node.delta(vec![target(11, 1, A, 100)]);
    node.delta(vec![target(12, 1, B, 100)]);
    node.delta(vec![service(2, "example_upstream", 9001)]);
    let picked = node.picks("/mock", 4);
    assert_eq!((picked[0], picked[1]), (picked[2], picked[3]));
    assert_ne!(picked[0], picked[1], "the answer alternates");
}

#[test]
fn weights_decide_shares_and_a_reweighted_target_keeps_the_table() {
    let mut node = Node::with(two_targets(|_| {}));
    let table = Arc::clone(node.seams.active.reader().load());
    node.delta(vec![target(12, 1, B, 50)]);
    assert!(Arc::ptr_eq(&table, node.seams.active.reader().load()), "one cell is stored, no table");
    assert_eq!(node.shares("/u", 30, &[A, B]), [20, 10]);
    node.delta(vec![target(12, 1, B, 0)]);
    assert_eq!(node.shares("/u", 30, &[A, B]), [30, 0]);
}

#[test]
fn a_change_of_both_levels_comes_into_force_with_the_table_alone() {
    let mut node = Node::with(two_targets(|_| {}));
    let before = node.upstream("/u");
    node.delta(vec![target(12, 1, B, 0), route(4, Some(2), "/new")]);
    let mut tried = Tried::default();
    let addresses: Vec<_> =
        [pick(&before, &mut tried), pick(&before, &mut tried)].map(|lease| lease.unwrap().address()).into();
    assert!(addresses.contains(&B.parse().unwrap()), "the old table still has the old members");
    assert_eq!(node.shares("/new", 10, &[A, B]), [10, 0]);
    assert_eq!(node.shares("/u", 10, &[A, B]), [10, 0]);
}

#[test]
fn an_upstream_takes_and_gives_back_the_services_of_its_name() {
    let mut node = Node::with(vec![service(2, "Name.test", 9001), route(3, Some(2), "/u")]);
    assert_eq!(node.refusal("/u"), PickError::Pending);
    assert_eq!(node.names(), ["name.test".into()]);
    node.delta(vec![upstream(1, "name.test"), target(11, 1, B, 1)]);
    assert_eq!(node.refusal("/u"), PickError::Pending, "names of upstreams are case-sensitive");
    node.delta(vec![upstream(1, "Name.test")]);
    assert_eq!(node.shares("/u", 1, &[B]), [1]);
    assert!(node.seams.names.borrow().is_empty(), "nobody needs the name any more");
    node.delta(vec![gone(EntityKind::Upstream, 1), gone(EntityKind::Target, 11)]);
    assert_eq!(node.refusal("/u"), PickError::Pending);
}

#[test]
fn names_can_be_exchanged_in_one_delta() {
    let mut node = Node::with(vec![
        upstream(1, "x"),
        upstream(2, "y"),
        target(11, 1, A, 1),
        target(12, 2, B, 1),
        service(3, "x", 80),
        route(4, Some(3), "/"),
    ]);
    node.delta(vec![upstream(1, "y"), upstream(2, "x")]);
    assert_eq!(node.shares("/", 2, &[A, B]), [0, 2]);
}

#[test]
fn a_service_that_is_switched_off_takes_its_routes_out_of_the_router() {
    let off = |service: &mut v1::Service| service.enabled = false;
    let mut node = Node::with(two_targets(|_| {}));
    node.delta(vec![route(5, None, "/lost"), service_with(2, "u", 80, off)]);
    assert!(node.route("/u").is_none());
    assert!(node.route("/lost").unwrap().service.is_none(), "a route without service stays and answers 503");
    node.delta(vec![service(2, "u", 80)]);
    assert!(node.route("/u").is_some());
}

#[test]
fn routes_without_http_are_left_out() {
    let only = |protocol: v1::Protocol| move |route: &mut v1::Route| route.protocols = vec![protocol.into()];
    let node = Node::with(vec![
        route_with(1, None, "/tcp", only(v1::Protocol::Tcp)),
        route_with(2, None, "/https", only(v1::Protocol::Https)),
        route_with(3, None, "/http", only(v1::Protocol::Http)),
    ]);
    assert!(node.route("/tcp").is_none());
    assert!(!node.route("/https").unwrap().allows_plain);
    assert!(node.route("/http").unwrap().allows_plain);
}

#[test]
fn a_protocol_that_cannot_be_spoken_yet_is_refused_by_name() {
    let passing = |service: &mut v1::Service| service.protocol = v1::Protocol::TlsPassthrough.into();
    let node = Node::with(vec![service_with(2, "127.0.0.1", 443, passing), route(3, Some(2), "/s")]);
    let PickError::Resolve { reason, .. } = node.refusal("/s") else { panic!("another refusal") };
    assert_eq!(&*reason, "services of protocol tls_passthrough are not supported yet");
}

#[test]
fn a_refused_update_names_its_entity_and_changes_nothing() {
    let mut node = Node::with(two_targets(|_| {}));
    let cases = [
        ("no such service", vec![route(9, Some(77), "/x")], (EntityKind::Route, 9, "service")),
        ("service in use", vec![gone(EntityKind::Service, 2)], (EntityKind::Route, 3, "service")),
        ("no such upstream", vec![target(9, 77, A, 1)], (EntityKind::Target, 9, "upstream")),
        ("upstream in use", vec![gone(EntityKind::Upstream, 1)], (EntityKind::Target, 11, "upstream")),
        ("name taken", vec![upstream(9, "u")], (EntityKind::Upstream, 9, "name")),
        ("host", vec![service(2, "a:b", 80)], (EntityKind::Service, 2, "host")),
        ("weight", vec![target(11, 1, A, 65_536)], (EntityKind::Target, 11, "weight")),
        ("path", vec![route(3, Some(2), "x")], (EntityKind::Route, 3, "paths")),
        ("port", vec![target(11, 1, "a:b", 1)], (EntityKind::Target, 11, "target")),
        (
            "not a message",
            vec![Record { kind: EntityKind::Target, id: id(9), wire: Some(vec![0xff].into()) }],
            (EntityKind::Target, 9, ""),
        ),
    ];
    for (name, update, (kind, number, field)) in cases {
        // A harmless change before it must not stay either.
        let update = [vec![target(12, 1, B, 0)], update].concat();
        let error = node.refuse(update);
        assert_eq!((error.kind, error.id, error.field), (kind, id(number), field), "{name}");
        assert_eq!(node.shares("/u", 10, &[A, B]), [5, 5], "{name}");
    }
}

#[test]
fn an_ejection_takes_effect_before_the_builder_acts() {
    let mut node = Node::with(two_targets(|upstream| passive(upstream, 2)));
    node.fail("/u", A, 1);
    assert_eq!(node.shares("/u", 4, &[A, B]), [2, 2], "below the limit");
    node.fail("/u", A, 1);
    assert_eq!(node.shares("/u", 4, &[A, B]), [0, 4]);
    node.settle();
    assert_eq!(node.shares("/u", 4, &[A, B]), [0, 4]);
    node.fail("/u", B, 2);
    assert_eq!(node.refusal("/u"), PickError::NoPeer);
    node.settle();
    assert_eq!(node.refusal("/u"), PickError::NoPeer);
}

#[test]
fn what_was_ejected_comes_back_in_turn() {
    let mut node = Node::with(two_targets(|upstream| passive(upstream, 1)));
    let members = node.upstream("/u").members();
    node.fail("/u", A, 1);
    node.settle();
    assert_eq!(node.shares("/u", 4, &[A, B]), [0, 4]);
    members.addresses().next().unwrap().target.set_health(true);
    node.settle();
    assert_eq!(node.shares("/u", 4, &[A, B]), [2, 2]);
}

#[test]
fn too_small_a_share_serves_nobody() {
    let mut node = Node::with(two_targets(|upstream| {
        passive(upstream, 1);
        upstream.healthchecks.as_mut().unwrap().threshold_percent = 50.0;
    }));
    node.fail("/u", A, 1);
    node.settle();
    assert_eq!(node.refusal("/u"), PickError::NoPeer, "half is not more than 50 percent");
}

#[test]
fn health_survives_weight_changes_table_swaps_and_a_short_absence() {
    let mut node = Node::with(two_targets(|upstream| passive(upstream, 1)));
    node.fail("/u", A, 1);
    node.settle();
    node.delta(vec![target(11, 1, A, 10)]);
    assert_eq!(node.shares("/u", 4, &[A, B]), [0, 4], "reweighted");
    node.delta(vec![target(11, 1, A, 100), route(4, Some(2), "/other")]);
    assert_eq!(node.shares("/other", 4, &[A, B]), [0, 4], "swapped");
    node.delta(vec![gone(EntityKind::Target, 11)]);
    node.now += FORGET_AFTER - Duration::from_secs(1);
    node.core.live.forget(node.now);
    node.delta(vec![target(13, 1, A, 100)]);
    assert_eq!(node.shares("/u", 4, &[A, B]), [0, 4], "back in time");
    node.delta(vec![gone(EntityKind::Target, 13)]);
    node.now += FORGET_AFTER;
    node.core.live.forget(node.now);
    node.delta(vec![target(14, 1, A, 100)]);
    assert_eq!(node.shares("/u", 4, &[A, B]), [2, 2], "forgotten");
}

#[test]
fn without_checks_everybody_is_healthy() {
    let mut node = Node::with(two_targets(|upstream| passive(upstream, 1)));
    node.fail("/u", A, 1);
    node.settle();
    node.delta(vec![upstream(1, "u")]);
    assert_eq!(node.shares("/u", 4, &[A, B]), [2, 2]);
}

#[test]
fn a_recreated_upstream_knows_nothing_of_the_one_before() {
    let mut node = Node::with(two_targets(|upstream| passive(upstream, 1)));
    node.fail("/u", A, 1);
    node.settle();
    let records: Vec<_> =
        [gone(EntityKind::Upstream, 1), gone(EntityKind::Target, 11), gone(EntityKind::Target, 12)].into();
    node.delta(records);
    node.delta(two_targets(|upstream| passive(upstream, 1)));
    assert_eq!(node.shares("/u", 4, &[A, B]), [2, 2]);
}

#[test]
fn a_removed_target_leaves_new_picks_while_its_request_goes_on() {
    let mut node = Node::with(two_targets(|_| {}));
    let upstream = node.upstream("/u");
    let mut tried = Tried::default();
    let leases = [pick(&upstream, &mut tried).unwrap(), pick(&upstream, &mut tried).unwrap()];
    node.delta(vec![gone(EntityKind::Target, 11)]);
    assert_eq!(node.shares("/u", 4, &[A, B]), [0, 4]);
    leases.iter().for_each(|lease| lease.observe(Outcome::Replied(200)));
}

#[test]
fn retries_prefer_targets_not_tried_and_then_start_over() {
    let mut node = Node::with(two_targets(|_| {}));
    node.delta(vec![target(13, 1, "127.0.0.1:9003", 1)]);
    let upstream = node.upstream("/u");
    for _ in 0..50 {
        let mut tried = Tried::default();
        let first: BTreeSet<_> = (0..3).map(|_| pick(&upstream, &mut tried).unwrap().address()).collect();
        assert_eq!(first.len(), 3);
        assert!(pick(&upstream, &mut tried).is_ok(), "all were tried");
    }
}

#[test]
fn every_address_has_the_full_weight_but_srv_records_their_own() {
    let mut node = Node::with(two_targets(|_| {}));
    node.delta(vec![target(13, 1, "a.test:80", 100), target(14, 1, "s.test:80", 7)]);
    assert_eq!(node.shares("/u", 4, &[A, B]), [2, 2], "whoever is known serves");
    node.answer("a.test", records(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(node.shares("/u", 4, &[A, B, "10.0.0.1:80", "10.0.0.2:80"]), [1, 1, 1, 1]);
    let srv = |ip: &str, port, weight| Resolved {
        ip: ip.parse().unwrap(),
        srv: Some(SrvPart { name: "t".into(), port, weight }),
    };
    node.delta(vec![
        gone(EntityKind::Target, 11),
        gone(EntityKind::Target, 12),
        gone(EntityKind::Target, 13),
    ]);
    node.answer("s.test", Answer::Records("SRV", [srv("10.0.0.1", 81, 10), srv("10.0.0.2", 0, 0)].into()));
    assert_eq!(node.shares("/u", 11, &["10.0.0.1:81", "10.0.0.2:80"]), [10, 1]);
}

#[test]
fn a_failed_look_up_answers_for_a_service_by_its_cause() {
    let mut node = Node::with(vec![service(2, "a.test", 80), route(3, Some(2), "/u")]);
    node.answer("a.test", Answer::NoAddress);
    assert_eq!(node.refusal("/u"), PickError::NoAddress);
    node.answer("a.test", Answer::Failed("no server".into()));
    assert_eq!(
        node.refusal("/u").to_string(),
        "failed the initial dns/balancer resolve for 'a.test' with: no server"
    );
    node.answer("a.test", records(&["10.0.0.1"]));
    assert_eq!(node.shares("/u", 1, &["10.0.0.1:80"]), [1]);
    assert_eq!(pick(&node.upstream("/u"), &mut Tried::default()).unwrap().host(), "a.test");
}

#[test]
fn a_name_that_moves_to_another_cell_keeps_its_answer() {
    let mut node = Node::with(vec![
        upstream(1, "u"),
        upstream(2, "v"),
        target(11, 1, "a.test:80", 1),
        target(12, 2, "b.test:80", 1),
        service(3, "u", 80),
        service(4, "v", 80),
        route(5, Some(3), "/u"),
        route(6, Some(4), "/v"),
    ]);
    node.answer("a.test", records(&["10.0.0.1"]));
    node.answer("b.test", records(&["10.0.0.2"]));
    let wished = node.seams.names.borrow().clone();
    node.delta(vec![target(11, 2, "a.test:80", 1), target(12, 1, "b.test:80", 1)]);
    assert_eq!(node.shares("/u", 1, &["10.0.0.2:80"]), [1]);
    assert_eq!(node.shares("/v", 1, &["10.0.0.1:80"]), [1]);
    assert_eq!(*node.seams.names.borrow(), wished);
    node.delta(vec![gone(EntityKind::Target, 11)]);
    assert_eq!(node.names(), ["b.test".into()]);
}

#[test]
fn hosts_are_read_as_the_control_plane_reads_them() {
    let mut node = Node::with(vec![service(2, "127.000.000.001", 9001), route(3, Some(2), "/u")]);
    assert_eq!(node.shares("/u", 1, &[A]), [1]);
    node.delta(vec![service(2, "API.", 80)]);
    assert_eq!(node.names(), ["api.".into()], "the dot keeps search suffixes away");
    node.answer("api.", records(&["10.0.0.1"]));
    assert_eq!(pick(&node.upstream("/u"), &mut Tried::default()).unwrap().host(), "api");
}

#[tokio::test]
async fn a_request_that_waits_for_a_name_wakes_with_its_answer_even_across_a_swap() {
    let mut node = Node::with(vec![service(2, "a.test", 80), route(3, Some(2), "/u")]);
    let upstream = node.upstream("/u");
    let waiting = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        async move {
            upstream.resolved().await;
            pick(&upstream, &mut Tried::default()).map(|lease| lease.address())
        }
    });
    tokio::task::yield_now().await;
    // The cell is replaced while the request waits.
    node.delta(vec![service(2, "b.test", 80)]);
    node.delta(vec![service(2, "a.test", 80)]);
    node.delta(vec![upstream_with(1, "a.test", |_| {}), target(11, 1, "a.test:80", 1)]);
    assert_eq!(pick(&upstream, &mut Tried::default()).unwrap_err(), PickError::Pending);
    node.delta(vec![gone(EntityKind::Upstream, 1), gone(EntityKind::Target, 11)]);
    node.answer("a.test", records(&["10.0.0.1"]));
    let woken = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert_eq!(woken, Ok("10.0.0.1:80".parse().unwrap()));
}

#[tokio::test]
async fn an_update_is_warm_once_its_names_are_resolved() {
    let mut node = Node::new();
    let mut warm = node.delta(two_targets(|_| {}));
    assert!(warm.try_recv().is_ok(), "nothing to wait for");
    let mut warm = node.delta(vec![target(13, 1, "a.test:80", 1)]);
    assert!(warm.try_recv().is_err());
    node.answer("a.test", Answer::NoAddress);
    assert!(warm.try_recv().is_ok());
}

#[test]
fn reports_say_what_the_config_does_not() {
    let mut node = Node::with(two_targets(|upstream| passive(upstream, 1)));
    assert!(node.seams.reports.full().is_empty());
    node.fail("/u", A, 1);
    node.settle();
    let full = node.seams.reports.full();
    assert_eq!(full.len(), 1);
    assert_eq!((full[0].upstream, full[0].target), (id(1), id(11)));
    assert_eq!(full[0].addresses[0].state, super::super::AddressState::Unhealthy);
    node.delta(vec![gone(EntityKind::Target, 11)]);
    assert!(node.seams.reports.full().is_empty());
}

#[test]
fn of_several_changes_of_a_target_the_newest_is_reported() {
    let mut node = Node::with(two_targets(|upstream| passive(upstream, 1)));
    let state = Arc::clone(&node.upstream("/u").members().addresses().next().unwrap().target);
    for is_healthy in [false, true, false] {
        state.set_health(is_healthy);
        node.settle();
    }
    let changes = node.seams.reports.take();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].addresses[0].state, super::super::AddressState::Unhealthy);
    node.settle();
    assert!(node.seams.reports.take().is_empty(), "told already");
    state.set_health(true);
    node.settle();
    assert!(node.seams.reports.take()[0].is_removed, "nothing is wrong with it any more");
    node.delta(vec![target(13, 1, "a.test:80", 1)]);
    assert!(!node.seams.reports.take()[0].is_removed);
    node.delta(vec![gone(EntityKind::Target, 13)]);
    assert!(node.seams.reports.take()[0].is_removed);
}

#[test]
fn a_snapshot_replaces_everything_it_does_not_name() {
    let mut node = Node::with(two_targets(|_| {}));
    let table = Arc::clone(node.seams.active.reader().load());
    node.core.apply(Update::Snapshot(two_targets(|_| {})), node.now).unwrap();
    assert!(Arc::ptr_eq(&table, node.seams.active.reader().load()), "the same config changes nothing");
    node.core.apply(Update::Snapshot(vec![route(7, None, "/only")]), node.now).unwrap();
    assert!(node.route("/u").is_none());
    assert!(node.route("/only").is_some());
    assert!(node.seams.directory.load().is_empty());
}

/// A write to a small config that keeps references whole.
#[derive(Debug, Clone)]
enum Write {
    Service { number: u128, host: u8, is_enabled: bool },
    Upstream { number: u128, name: u8 },
    Target { number: u128, upstream: u128, port: u16, weight: u32 },
    Route { number: u128, service: Option<u128> },
    Delete { kind: usize, number: u128 },
}

fn write() -> impl Strategy<Value = Write> {
    prop_oneof![
        (0..3_u128, 0..4_u8, any::<bool>()).prop_map(|(number, host, is_enabled)| Write::Service {
            number,
            host,
            is_enabled
        }),
        (0..3_u128, 0..4_u8).prop_map(|(number, name)| Write::Upstream { number, name }),
        (0..6_u128, 0..3_u128, 1..5_u16, 0..3_u32)
            .prop_map(|(number, upstream, port, weight)| Write::Target { number, upstream, port, weight }),
        (0..4_u128, prop::option::of(0..3_u128))
            .prop_map(|(number, service)| Write::Route { number, service }),
        (0..4_usize, 0..6_u128).prop_map(|(kind, number)| Write::Delete { kind, number }),
    ]
}

const HOSTS: [&str; 4] = ["u", "v", "w.test", "127.0.0.1"];

fn record_of(write: &Write) -> Record {
    match write {
        Write::Service { number, host, is_enabled } => {
            let is_enabled = *is_enabled;
            service_with(*number, HOSTS[usize::from(*host)], 80, |service| service.enabled = is_enabled)
        }
        Write::Upstream { number, name } => {
            upstream_with(*number, HOSTS[usize::from(*name)], |upstream| passive(upstream, 1))
        }
        Write::Target { number, upstream, port, weight } => {
            target(*number, *upstream, &format!("127.0.0.1:{port}"), *weight)
        }
        Write::Route { number, service } => route(*number, *service, &format!("/{number}")),
        Write::Delete { kind, number } => gone(EntityKind::ALL[*kind], *number),
    }
}

/// What requests would see: per route the weights of the addresses of its cell, or the refusal.
fn picture(node: &Node) -> Vec<(Uuid, Option<String>)> {
    let mut reader = node.seams.active.reader();
    let seen = reader.load().routes.iter().flatten().map(|route| {
        let service = route.service.as_ref().map(|service| {
            let members = service.upstream.members();
            let addresses: Vec<_> = members
                .addresses()
                .map(|one| (one.target.address(), one.weight, one.target.is_available()))
                .collect();
            let readiness = match members.readiness() {
                Readiness::Serving(_) => "serving".to_owned(),
                Readiness::Refused(error) => error.to_string(),
                Readiness::Moved(_) => "moved".to_owned(),
            };
            format!("{} {:?} {addresses:?} {readiness}", service.id, service.upstream.name)
        });
        (route.id, service)
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort();
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written, in whatever portions: the node ends where one that gets the whole config at once
    /// ends, and what it refuses leaves no trace.
    #[test]
    fn deltas_end_where_a_rebuild_from_scratch_ends(
        writes in prop::collection::vec(prop::collection::vec(write(), 1..4), 1..25),
    ) {
        let mut node = Node::new();
        let mut config = std::collections::BTreeMap::new();
        for portion in writes {
            let records: Vec<_> = portion.iter().map(record_of).collect();
            let before = picture(&node);
            if node.core.apply(Update::Delta(records.clone()), node.now).is_ok() {
                for record in records {
                    match &record.wire {
                        Some(_) => config.insert((record.kind, record.id), record),
                        None => config.remove(&(record.kind, record.id)),
                    };
                }
            } else {
                prop_assert_eq!(picture(&node), before);
            }
        }
        let mut scratch = Node::new();
        scratch.core.apply(Update::Snapshot(config.into_values().collect()), scratch.now).unwrap();
        prop_assert_eq!(picture(&node), picture(&scratch));
        let listed = |node: &Node| node.seams.directory.load().keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(listed(&node), listed(&scratch));
        prop_assert_eq!(node.names(), scratch.names());
    }

    #[test]
    fn a_swap_keeps_the_health_of_targets_in_both_tables(
        ejected in prop::collection::btree_set(1..20_u16, 0..10),
        left in prop::collection::btree_set(1..20_u16, 1..20),
        is_structural in any::<bool>(),
    ) {
        let number = |port: u16| u128::from(port) + 100;
        let member = |port: u16, weight| target(number(port), 1, &format!("127.0.0.1:{port}"), weight);
        let mut node = Node::with(vec![
            upstream_with(1, "u", |upstream| passive(upstream, 1)),
            service(2, "u", 80),
            route(3, Some(2), "/u"),
        ]);
        node.delta((1..20).map(|port| member(port, 1)).collect());
        let members = node.upstream("/u").members();
        for member in members.addresses().filter(|one| ejected.contains(&one.target.address().port())) {
            member.target.set_health(false);
        }
        node.settle();
        let mut update: Vec<_> = (1..20)
            .map(|port| if left.contains(&port) { member(port, 2) } else { gone(EntityKind::Target, number(port)) })
            .collect();
        if is_structural {
            update.push(route(4, Some(2), "/v"));
        }
        node.delta(update);
        for member in node.upstream("/u").members().addresses() {
            let is_ejected = ejected.contains(&member.target.address().port());
            prop_assert_eq!(member.target.is_available(), !is_ejected);
        }
    }
}

#[tokio::test]
async fn the_position_comes_into_force_with_its_update() {
    let node = Arc::new(NodeState::new(NodeId::new(id(1))));
    let (builder, seams) = builder(Arc::clone(&node));
    tokio::spawn(builder.run());
    seams.updates.apply(position(3), Update::Snapshot(two_targets(|_| {}))).await.unwrap();
    assert_eq!((node.revision(), node.has_table()), (3, true));
    let refused = Update::Delta(vec![gone(EntityKind::Upstream, 1)]);
    assert!(matches!(seams.updates.apply(position(4), refused).await, Err(ApplyError::Refused(_))));
    assert_eq!(node.revision(), 3);
    seams.updates.apply(position(5), Update::Delta(Vec::new())).await.unwrap();
    assert_eq!(node.revision(), 5, "the same content under another name");
}
