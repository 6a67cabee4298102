//! What is told of how an upstream is balanced: the view of it, and the events.

use std::time::{Duration, SystemTime};

use equipoise_proto::v1;

use super::{A, B, Node, pick, records};
use crate::health::{Limits, Report};
use crate::table::events::{Event, Subject, Why};
use crate::table::fixture::{
    outlier_policy, passive, policy, route, service, tagged, target, upstream, upstream_with,
};
use crate::table::view::{AddressView, BalancerView, ReadinessView, VIEW_ADDRESSES_MAX, upstream_load, view};
use crate::table::{Answer, CellKey, Outcome, Record, Tried};

/// Upstream 1 behind `/u`, with passive checks that one failure trips.
fn checked(targets: impl IntoIterator<Item = Record>) -> Vec<Record> {
    let mut records = vec![
        upstream_with(1, "u", |upstream| passive(upstream, 1)),
        service(2, "u", 80),
        route(3, Some(2), "/u"),
    ];
    records.extend(targets);
    records
}

fn seen(node: &Node) -> BalancerView {
    let directory = node.seams.directory.load();
    let key = CellKey::Upstream(crate::table::fixture::id(1));
    view(&key, &directory[&key], &node.core.node)
}

fn address_of(view: &BalancerView, address: &str) -> AddressView {
    let address = address.parse().unwrap();
    let mut all = view.targets.iter().flat_map(|target| &target.addresses);
    all.find(|one| one.address == address).unwrap().clone()
}

/// State, reason and weight in force of an address.
fn told(node: &Node, address: &str) -> (&'static str, &'static str, f64) {
    let one = address_of(&seen(node), address);
    (one.condition.as_str(), one.since.why.as_str(), one.weight_in_force)
}

fn words(event: &Event) -> [String; 4] {
    let change = &event.change;
    let subject = match &change.subject {
        Subject::Address { target, address } => format!("{target} {address}"),
        Subject::Target(target) => target.to_string(),
        Subject::Level((priority, _)) => format!("level {priority}"),
    };
    [subject, change.from.as_str().into(), change.to.as_str().into(), change.why.as_str().into()]
}

/// Events that were not looked at yet.
struct Log(u64);

impl Log {
    fn next(&mut self, node: &Node) -> Vec<[String; 4]> {
        let found = node.seams.events.after(self.0, None);
        self.0 = found.last;
        assert!(found.events.iter().all(|event| &*event.upstream.name == "u"));
        found.events.iter().map(|event| words(event)).collect()
    }
}

fn of(address: &str) -> String {
    format!("{address} {address}")
}

#[test]
fn an_address_tells_which_report_reached_its_limit_and_who_made_it() {
    let node = Node::with(checked([target(11, 1, A, 100), target(12, 1, B, 50)]));
    let mut log = Log(0);
    assert_eq!(told(&node, A), ("healthy", "first_seen", 100.0));
    assert_eq!(log.next(&node), [[""; 4]; 0], "what begins is no change");
    let begun = SystemTime::now();
    let one = Limits { successes: 1.try_into().ok(), ..Limits::default() };
    let all = Limits { http: one.successes, tcp: one.successes, timeouts: one.successes, ..one };
    let members = node.upstream("/u").members();
    let state = &members.addresses().next().unwrap().target;
    let cases: [(Report, bool, &str, &str); 6] = [
        (Report::Tcp, false, "unhealthy", "request_tcp"),
        (Report::Success, true, "healthy", "probe_successes"),
        (Report::Timeout, true, "unhealthy", "probe_timeouts"),
        (Report::Success, false, "healthy", "request_successes"),
        (Report::Http, true, "unhealthy", "probe_http"),
        (Report::Http, false, "unhealthy", "probe_http"),
    ];
    for (report, by_probe, condition, why) in cases {
        if by_probe {
            state.probe_report(report, &all);
        } else {
            state.report(report, &all);
        }
        let weight = if condition == "healthy" { 100.0 } else { 0.0 };
        assert_eq!(told(&node, A), (condition, why, weight), "{report:?}");
    }
    state.set_health(true);
    assert_eq!(told(&node, A), ("healthy", "operator", 100.0));
    let one = address_of(&seen(&node), A);
    assert!(one.since.at >= begun && one.since.at <= SystemTime::now());
    let events = log.next(&node);
    assert_eq!(events.len(), 6, "what changes nothing is no event: {events:?}");
    assert_eq!(events[0], [&*of(A), "healthy", "unhealthy", "request_tcp"]);
    assert_eq!(events[5], [&*of(A), "unhealthy", "healthy", "operator"]);
    let counted = node.seams.events.counts().find(|(why, _)| *why == Why::RequestTcp).unwrap().1;
    assert_eq!(counted, 1);
}

#[test]
fn changes_of_one_address_are_recorded_in_their_order_whoever_makes_them() {
    /// Reports of each thread: fewer changes in all than events are kept.
    const REPORTS: usize = 100;
    let node = Node::with(checked([target(11, 1, A, 100)]));
    let members = node.upstream("/u").members();
    let state = &members.addresses().next().unwrap().target;
    let limits = Limits { successes: 1.try_into().ok(), tcp: 1.try_into().ok(), ..Limits::default() };
    std::thread::scope(|scope| {
        for first in [Report::Tcp, Report::Success, Report::Tcp, Report::Success] {
            let other = if first == Report::Tcp { Report::Success } else { Report::Tcp };
            let (state, limits) = (state, &limits);
            scope.spawn(move || {
                for _ in 0..REPORTS / 2 {
                    state.report(first, limits);
                    state.probe_report(other, limits);
                }
            });
        }
    });
    let events = node.seams.events.after(0, None).events;
    let mut before = "healthy";
    for event in &events {
        assert_eq!(event.change.from.as_str(), before, "{}", event.number);
        before = event.change.to.as_str();
    }
    let (condition, why, _) = told(&node, A);
    let last = events.last().map(|event| (event.change.to.as_str(), event.change.why.as_str()));
    assert_eq!(last, Some((condition, why)));
}

#[test]
fn the_last_probe_is_told_also_when_it_found_nothing() {
    let node = Node::with(checked([target(11, 1, A, 100)]));
    let members = node.upstream("/u").members();
    let state = &members.addresses().next().unwrap().target;
    let found = || address_of(&seen(&node), A).probe.map(|(_, found)| found.as_str());
    assert_eq!(found(), None);
    state.probe_report(Report::Timeout, &Limits::default());
    assert_eq!(found(), Some("timeout"), "with what is made of it, not after");
    state.probed(true);
    assert_eq!(found(), Some("timeout"));
    state.probed(false);
    assert_eq!(found(), Some("nothing"), "a status that counts for nothing");
}

#[test]
fn checks_tags_and_weights_are_reasons_as_well() {
    let mut node = Node::with(checked([target(11, 1, A, 100), target(12, 1, B, 0)]));
    let mut log = Log(0);
    assert_eq!(told(&node, B), ("checks_off", "no_weight", 0.0));
    node.fail("/u", A, 1);
    node.delta(vec![upstream(1, "u")]);
    assert_eq!(told(&node, A), ("checks_off", "checks_off", 100.0));
    let mut lease = Some(pick(&node.upstream("/u"), &mut Tried::default()).unwrap());
    for (tags, condition, events) in [
        (&["state=drain"][..], "draining", &["draining"][..]),
        (&["state=maint"], "maintenance", &["maintenance", "drained"]),
        (&[], "checks_off", &["checks_off"]),
    ] {
        log.next(&node);
        node.delta(vec![tagged(11, 1, A, tags)]);
        assert_eq!(told(&node, A).0, condition);
        assert_eq!(told(&node, A).1, "tags");
        if condition == "draining" {
            assert!(!address_of(&seen(&node), A).is_drained);
        }
        if condition == "maintenance" {
            drop(lease.take());
        }
        let to: Vec<_> = log.next(&node).into_iter().map(|[_, _, to, _]| to).collect();
        assert_eq!(to, events, "{condition}");
    }
    node.delta(vec![tagged(11, 1, A, &["state=drain"])]);
    let events = log.next(&node);
    assert_eq!(events[1], [&*of(A), "draining", "drained", "no_requests"], "nothing was under way");
    assert!(address_of(&seen(&node), A).is_drained);
    node.delta(vec![tagged(11, 1, A, &["state=drain", "other"])]);
    assert_eq!(log.next(&node), [[""; 4]; 0], "once a drain");
}

#[test]
fn an_ejection_tells_its_cause_how_often_and_until_when() {
    let mut records = checked([target(11, 1, A, 100), target(12, 1, B, 100)]);
    records.push(outlier_policy(1, 1, 5_000));
    let mut node = Node::with(records);
    let mut log = Log(0);
    let upstream = node.upstream("/u");
    let mut tried = Tried::default();
    let lease = loop {
        let lease = pick(&upstream, &mut tried).unwrap();
        if lease.address() == A.parse().unwrap() {
            break lease;
        }
    };
    lease.observe(Outcome::Replied(500));
    drop(lease);
    let before = SystemTime::now();
    node.settle();
    assert_eq!(told(&node, A), ("ejected", "outlier_consecutive_5xx", 0.0));
    let one = address_of(&seen(&node), A);
    let out_for = one.ejected_until.unwrap().duration_since(before).unwrap();
    assert!(out_for >= Duration::from_secs(5) && out_for < Duration::from_secs(15), "{out_for:?}");
    assert_eq!(one.ejections, 1);
    node.now += Duration::from_secs(7);
    node.core.pulse(node.now);
    assert_eq!(told(&node, A), ("healthy", "ejection_over", 100.0));
    let one = address_of(&seen(&node), A);
    assert_eq!((one.ejections, one.ejected_until), (1, None));
    let events = log.next(&node);
    assert_eq!(
        events,
        [
            [&*of(A), "healthy", "ejected", "outlier_consecutive_5xx"],
            [&*of(A), "ejected", "healthy", "ejection_over"]
        ]
    );
}

#[test]
fn a_name_without_addresses_is_told_once_and_since_when() {
    let mut node = Node::with(checked([target(11, 1, "a.test:80", 100)]));
    let mut log = Log(0);
    assert_eq!(seen(&node).readiness, ReadinessView::Pending);
    let failed = || Answer::Failed("dns server error".into());
    node.answer("a.test", failed());
    let since = seen(&node).targets[0].dns_error_since;
    assert!(since.is_some());
    node.answer("a.test", Answer::NoAddress);
    assert_eq!(seen(&node).targets[0].dns_error_since, since, "another error is still an error");
    assert_eq!(seen(&node).readiness, ReadinessView::Refused);
    node.answer("a.test", records(&["10.0.0.1"]));
    assert_eq!((seen(&node).targets[0].dns_error_since, &*seen(&node).targets[0].dns), (None, "A"));
    assert_eq!(
        log.next(&node),
        [["a.test:80", "resolved", "dns_error", "dns"], ["a.test:80", "dns_error", "resolved", "dns"]]
    );
    let detail = node.seams.events.after(0, None).events[0].change.detail.clone();
    assert_eq!(detail.as_deref(), Some("dns server error"));
    node.fail("/u", "10.0.0.1:80", 1);
    assert_eq!(log.next(&node)[0][0], "a.test:80 10.0.0.1:80", "an address has its target's name");
}

#[test]
fn levels_tell_what_they_have_and_what_they_get_and_panic_is_an_event() {
    let mut records = checked([
        tagged(11, 1, "10.0.0.1:80", &["zone=a"]),
        tagged(12, 1, "10.0.0.2:80", &["zone=b"]),
        tagged(13, 1, "10.0.0.3:80", &["priority=1"]),
    ]);
    records.push(policy(1, |policy| policy.panic_threshold_percent = 60.0));
    let mut node = Node::with(records);
    let mut log = Log(0);
    let levels = |node: &Node| -> Vec<(u8, u64, u64, f64, bool)> {
        let levels = seen(node).levels.into_iter();
        let level = |one: crate::table::view::LevelView| {
            (one.priority, one.available_weight, one.total_weight, one.load_percent, one.is_in_panic)
        };
        levels.map(level).collect()
    };
    assert_eq!(levels(&node), [(0, 200, 200, 100.0, false), (1, 100, 100, 0.0, false)]);
    node.fail("/u", "10.0.0.1:80", 1);
    node.settle();
    assert_eq!(levels(&node), [(0, 100, 200, 70.0, false), (1, 100, 100, 30.0, false)]);
    assert_eq!(address_of(&seen(&node), "10.0.0.1:80").level, Some(0), "it counts where it would be");
    assert_eq!(address_of(&seen(&node), "10.0.0.3:80").level, Some(1));
    log.next(&node);
    node.fail("/u", "10.0.0.3:80", 1);
    node.settle();
    assert_eq!(levels(&node)[0], (0, 100, 200, 100.0, true), "70 percent are to be had of all");
    assert_eq!(told(&node, "10.0.0.1:80").2, 100.0, "in panic it gets its part");
    let panic = |log: &mut Log, node: &Node| -> Vec<[String; 4]> {
        log.next(node).into_iter().filter(|event| event[0].starts_with("level")).collect()
    };
    let began: Vec<_> = panic(&mut log, &node);
    assert_eq!(began[0], ["level 0", "normal", "panic", "availability"]);
    let load = upstream_load(&node.upstream("/u"));
    assert_eq!((load.weight.available, load.weight.total, load.is_in_panic), (100, 300, true));
    let members = node.upstream("/u").members();
    members.addresses().for_each(|member| member.target.set_health(true));
    node.settle();
    let ended = panic(&mut log, &node);
    assert!(ended.contains(&["level 0", "panic", "normal", "availability"].map(str::to_owned)), "{ended:?}");
}

#[test]
fn a_newcomer_tells_the_part_of_its_weight_that_counts() {
    let mut records = checked([target(11, 1, A, 100)]);
    records.push(policy(1, |policy| {
        policy.slow_start =
            Some(v1::SlowStart { window_ms: 60_000, aggression: 1.0, min_weight_percent: 10.0 });
    }));
    let mut node = Node::with(records);
    node.delta(vec![target(12, 1, B, 100)]);
    assert_eq!((told(&node, A).2, told(&node, B).2), (100.0, 10.0));
    let one = address_of(&seen(&node), B);
    assert_eq!(one.weight, 100);
}

#[test]
fn requests_under_way_are_counted_with_or_without_a_gate() {
    for has_gate in [false, true] {
        let mut records = checked([target(11, 1, A, 100)]);
        if has_gate {
            let limits = v1::Limits {
                upstream_max_requests: 9,
                max_pending: 1,
                queue_timeout_ms: 1,
                ..Default::default()
            };
            records.push(policy(1, |policy| policy.limits = Some(limits)));
        }
        let node = Node::with(records);
        let lease = pick(&node.upstream("/u"), &mut Tried::default()).unwrap();
        assert_eq!((seen(&node).active, address_of(&seen(&node), A).in_flight), (1, 1), "{has_gate}");
        drop(lease);
        assert_eq!(seen(&node).active, 0, "{has_gate}");
    }
}

#[test]
fn a_view_has_a_bound_and_says_what_it_leaves_out() {
    let ip = |number: usize| format!("10.0.{}.{}", number / 250, number % 250 + 1);
    let many: Vec<_> = (0..VIEW_ADDRESSES_MAX + 5).map(ip).collect();
    let mut node = Node::with(checked([target(11, 1, "a.test:80", 1), target(12, 1, A, 1)]));
    node.answer("a.test", records(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    let view = seen(&node);
    let shown: usize = view.targets.iter().map(|target| target.addresses.len()).sum();
    assert_eq!((shown, view.addresses_left_out), (VIEW_ADDRESSES_MAX, 6));
    assert_eq!(view.levels[0].total_weight, 10_006, "who is left out counts all the same");
}
