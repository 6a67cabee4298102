//! The node's metrics as Prometheus text.

use std::collections::HashSet;
use std::sync::Arc;

use equipoise_access_log::Counts;
use equipoise_settings::logs;

use super::node::{ConfigSource, NodeState};
use super::text::{Kind, Text};
use super::worker::{WorkerSum, Workers};
use super::{names, process, routes, session};
use crate::spans;
use crate::table::events::Events;
use crate::table::view::{LoadView, upstream_load};
use crate::table::{AddressState, Directory, MemberTarget, Members, Route, Table};
use crate::tls::Reason;

/// States of an address, in the order in which their series are written.
const HEALTH_STATES: [&str; 4] = ["healthchecks_off", "healthy", "unhealthy", "dns_error"];

/// What is counted outside of the config.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    /// By the workers.
    pub workers: &'a Workers,
    /// By the builder.
    pub events: &'a Events,
    /// By all access logs together.
    pub access_logs: Counts,
    /// By the exporter of spans, if there is one.
    pub spans: Option<spans::Counts>,
}

/// Renders everything. Cost: O(routes + targets); nothing is locked that a worker needs.
pub fn render(node: &NodeState, counted: &Counted<'_>, table: &Table, directory: &Directory) -> String {
    let Counted { workers, events, .. } = *counted;
    let mut text = Text::default();
    let mut sum = WorkerSum::default();
    workers.iter().for_each(|worker| worker.add_to(&mut sum));
    render_node(&mut text, node);
    render_workers(&mut text, node, &sum);
    render_access_log(&mut text, counted.access_logs);
    let spans = counted.spans.unwrap_or_default();
    text.family(names::SPANS, Kind::Counter, "Spans of traced requests, by what became of them.");
    text.sample(names::SPANS, &[("result", "exported")], spans.exported);
    text.sample(names::SPANS, &[("result", "dropped")], spans.dropped);
    routes::render(
        &mut text,
        table,
        std::mem::take(&mut sum.unmatched),
        std::mem::take(&mut sum.unmatched_sessions),
    );
    session::render(&mut text, &sum.sessions);
    let upstreams_left_out = render_upstreams(&mut text, directory);
    let addresses_left_out = render_health(&mut text, table, directory, names::SUBJECTS_MAX);
    text.family(names::LEFT_OUT, Kind::Gauge, "What has no series for want of room.");
    for (kind, count) in [("upstream", upstreams_left_out), ("address", addresses_left_out)] {
        text.sample(names::LEFT_OUT, &[("kind", kind)], u64::try_from(count).unwrap_or(u64::MAX));
    }
    text.family(names::TRANSITIONS, Kind::Counter, "Changes of who takes requests, by cause.");
    for (why, count) in events.counts() {
        text.sample(names::TRANSITIONS, &[("cause", why.as_str())], count);
    }
    text.into_string()
}

fn render_node(text: &mut Text, node: &NodeState) {
    let id = node.id().to_string();
    let counts = node.counts();
    let mut gauge = |name, help, value: u64| {
        text.family(name, Kind::Gauge, help);
        text.sample(name, &[], value);
    };
    let is_connected = u64::from(node.is_connected());
    if let Some(expiry) = node.certificate_expiry() {
        let what = "When the node's certificate for the cluster runs out, seconds since 1970.";
        gauge(names::CLUSTER_CERTIFICATE_EXPIRY, what, expiry);
    }
    gauge(names::CONTROL_PLANE_CONNECTED, "Whether a control plane is connected.", is_connected);
    gauge(names::DATASTORE_REACHABLE, "Whether the node has config.", node.has_table().into());
    gauge(names::CONFIG_REVISION, "Revision in force.", node.revision());
    text.family(names::CONFIG_SOURCE, Kind::Gauge, "Where the config in force comes from.");
    for source in ConfigSource::ALL {
        let is_it = u64::from(source == node.config_source());
        text.sample(names::CONFIG_SOURCE, &[("source", source.as_str())], is_it);
    }
    text.family(names::CONFIG_APPLY, Kind::Gauge, "Receipt to swap of the newest change.");
    text.seconds(names::CONFIG_APPLY, node.apply_time());
    let mut counter = |name, help, value| {
        text.family(name, Kind::Counter, help);
        text.sample(name, &[], value);
    };
    counter(names::CONFIG_APPLIED, "Changes applied.", counts.applied);
    counter(names::CONFIG_REFUSED, "Changes refused.", counts.refused);
    counter(names::EJECTIONS, "Targets that stopped being available.", counts.ejections);
    counter(names::RESTORATIONS, "Targets that became available again.", counts.restorations);
    counter(names::STALLS, "Times that a worker stalled.", counts.stalls);
    counter(names::LOG_DROPPED, "Lines of the log that were dropped.", logs::dropped());
    text.family(names::DNS_LOOKUPS, Kind::Counter, "Look-ups of names.");
    text.sample(names::DNS_LOOKUPS, &[("result", "answered")], counts.dns_answers);
    text.sample(names::DNS_LOOKUPS, &[("result", "failed")], counts.dns_failures);
    gauge_of_config_age(text, node);
    text.family(names::NODE_INFO, Kind::Gauge, "Node id and build.");
    text.sample(names::NODE_INFO, &[("node_id", &id), ("version", env!("CARGO_PKG_VERSION"))], 1);
    if let Some(resident) = process::resident_bytes() {
        let pid = std::process::id().to_string();
        text.family(names::MEMORY, Kind::Gauge, "Resident memory.");
        text.sample(names::MEMORY, &[("node_id", &id), ("pid", &pid), ("kong_subsystem", "http")], resident);
        if let Some(limit) = process::memory_limit_bytes() {
            let labels = [("node_id", &*id), ("shared_dict", "process"), ("kong_subsystem", "http")];
            text.family(names::SHARED_MEMORY, Kind::Gauge, "What a bounded part of memory holds.");
            text.sample(names::SHARED_MEMORY, &labels, resident);
            text.family(names::SHARED_MEMORY_TOTAL, Kind::Gauge, "What it may hold.");
            text.sample(names::SHARED_MEMORY_TOTAL, &labels, limit);
        }
    }
}

fn gauge_of_config_age(text: &mut Text, node: &NodeState) {
    let what = "When config was applied last, seconds since 1970; 0: never.";
    text.family(names::CONFIG_APPLIED_AT, Kind::Gauge, what);
    text.sample(names::CONFIG_APPLIED_AT, &[], node.applied_at());
}

fn render_workers(text: &mut Text, node: &NodeState, sum: &WorkerSum) {
    let id = node.id().to_string();
    let [reading, writing, waiting] = sum.states;
    // Those that are no HTTP are among them.
    let (accepted, active) = sum.sessions.connections;
    text.family(names::CONNECTIONS, Kind::Gauge, "Client connections by state.");
    let states = [
        ("accepted", sum.accepted.saturating_sub(accepted)),
        ("handled", sum.accepted.saturating_sub(accepted)),
        ("total", sum.requests),
        ("active", sum.active.saturating_sub(active)),
        ("reading", reading),
        ("writing", writing),
        ("waiting", waiting),
    ];
    for (state, value) in states {
        let labels = [("node_id", &*id), ("subsystem", "http"), ("state", state)];
        text.sample(names::CONNECTIONS, &labels, value);
    }
    for (state, value) in [("accepted", accepted), ("handled", accepted), ("active", active)] {
        let labels = [("node_id", &*id), ("subsystem", "stream"), ("state", state)];
        text.sample(names::CONNECTIONS, &labels, value);
    }
    text.family(names::REQUESTS, Kind::Gauge, "Requests that came in.");
    text.sample(names::REQUESTS, &[("node_id", &id), ("subsystem", "http")], sum.requests);
    text.family(names::TIMERS, Kind::Gauge, "Deadlines of connections, and ticks that look at them.");
    for (state, value) in [("running", sum.workers), ("pending", sum.deadlines)] {
        let labels = [("node_id", &*id), ("subsystem", "http"), ("state", state)];
        text.sample(names::TIMERS, &labels, value);
    }
    text.family(names::RETRIES, Kind::Counter, "Attempts after the first.");
    text.sample(names::RETRIES, &[], sum.retries);
    text.family(names::RETRIES_OVER_BUDGET, Kind::Counter, "Retries that the budget did not allow.");
    text.sample(names::RETRIES_OVER_BUDGET, &[], sum.retries_over_budget);
    text.family(
        names::HEDGES,
        Kind::Counter,
        "Second attempts beside a first one, and those that gave the answer.",
    );
    text.sample(names::HEDGES, &[("result", "made")], sum.hedges);
    text.sample(names::HEDGES, &[("result", "won")], sum.hedges_won);
    text.family(
        names::QUEUE,
        Kind::Counter,
        "Requests that came to the queue of an upstream, by what became of it.",
    );
    for (result, count) in
        [("queued", sum.queued), ("full", sum.queue_full), ("timed_out", sum.queue_timed_out)]
    {
        text.sample(names::QUEUE, &[("result", result)], count);
    }
    text.family(names::POOL, Kind::Counter, "Attempts by where their connection came from.");
    text.sample(names::POOL, &[("source", "pool")], sum.pool_hits);
    text.sample(names::POOL, &[("source", "connect")], sum.pool_misses);
    text.family(
        names::PROXY_HEADERS,
        Kind::Counter,
        "Connections where the PROXY protocol is spoken, by their header.",
    );
    text.sample(names::PROXY_HEADERS, &[("result", "read")], sum.proxy_headers);
    text.sample(names::PROXY_HEADERS, &[("result", "refused")], sum.failed_proxy_headers);
    text.family(names::HANDSHAKES, Kind::Counter, "TLS handshakes of clients, by how they ended.");
    text.sample(names::HANDSHAKES, &[("result", "done")], sum.handshakes);
    text.sample(names::HANDSHAKES, &[("result", "failed")], sum.failed_handshakes);
    text.family(names::PANICS, Kind::Counter, "Connections that a defect of this program ended.");
    text.sample(names::PANICS, &[], sum.panics);
    text.family(names::ACCEPT_PAUSES, Kind::Counter, "Pauses of accepting for want of descriptors.");
    text.sample(names::ACCEPT_PAUSES, &[], sum.accept_pauses);
    text.family(names::HTTP2_REQUESTS, Kind::Counter, "Requests that came by HTTP/2.");
    text.sample(names::HTTP2_REQUESTS, &[], sum.http2_streams);
    text.family(
        names::HTTP2_GLITCHES,
        Kind::Counter,
        "HTTP/2: requests taken back, or malformed; connections ended for breaking the protocol, and for asking too much.",
    );
    text.sample(names::HTTP2_GLITCHES, &[("kind", "taken_back")], sum.http2_taken_back);
    text.sample(names::HTTP2_GLITCHES, &[("kind", "malformed")], sum.http2_malformed);
    text.sample(names::HTTP2_GLITCHES, &[("kind", "broken")], sum.http2_broken);
    text.sample(names::HTTP2_GLITCHES, &[("kind", "calmed")], sum.http2_calmed);
    text.family(names::UPSTREAM_HANDSHAKES, Kind::Counter, "TLS handshakes with targets, by kind.");
    text.sample(names::UPSTREAM_HANDSHAKES, &[("kind", "full")], sum.upstream_handshakes);
    text.sample(names::UPSTREAM_HANDSHAKES, &[("kind", "resumed")], sum.resumed_handshakes);
    text.family(
        names::UPSTREAM_HANDSHAKE_FAILURES,
        Kind::Counter,
        "Failed TLS handshakes with targets, by reason.",
    );
    for (reason, count) in Reason::ALL.iter().zip(sum.undone_handshakes) {
        text.sample(names::UPSTREAM_HANDSHAKE_FAILURES, &[("reason", reason.as_str())], count);
    }
}

fn render_access_log(text: &mut Text, counts: Counts) {
    text.family(names::ACCESS_LOG_LINES, Kind::Counter, "Lines that the access log took.");
    text.sample(names::ACCESS_LOG_LINES, &[], counts.written);
    text.family(names::ACCESS_LOG_DROPPED, Kind::Counter, "Lines that the access log had no room for.");
    text.sample(names::ACCESS_LOG_DROPPED, &[], counts.dropped);
}

/// What a gauge of an upstream shows.
type OfLoad = fn(&LoadView) -> u64;

/// How each upstream is loaded; gives the number of those that are left out.
fn render_upstreams(text: &mut Text, directory: &Directory) -> usize {
    let named = || directory.values().filter(|upstream| upstream.name.is_some());
    let loads: Vec<_> = named()
        .take(names::SUBJECTS_MAX)
        .map(|upstream| (upstream.name.as_deref().unwrap_or_default(), upstream_load(upstream)))
        .collect();
    let gauges: [(&str, &str, OfLoad); 7] = [
        (names::UPSTREAM_ACTIVE, "Requests under way.", |load| load.active.into()),
        (names::UPSTREAM_PENDING, "Requests that wait for room.", |load| load.pending.into()),
        (names::UPSTREAM_RETRIES, "Retries under way.", |load| load.retries.into()),
        (names::UPSTREAM_AVAILABLE, "Weight of what is available.", |load| load.weight.available),
        (names::UPSTREAM_TOTAL, "Weight of all that is there.", |load| load.weight.total),
        (names::UPSTREAM_SPILLOVER, "Percent of requests that leave their zone.", |load| {
            load.spillover_percent.into()
        }),
        (names::UPSTREAM_PANIC, "Whether a level is in panic.", |load| load.is_in_panic.into()),
    ];
    for (name, help, value) in gauges {
        text.family(name, Kind::Gauge, help);
        for (upstream, load) in &loads {
            text.sample(name, &[("upstream", upstream)], value(load));
        }
    }
    named().count() - loads.len()
}

/// The health of at most so many addresses; gives the number of those that are left out. A target without any counts as
/// one.
fn render_health(text: &mut Text, table: &Table, directory: &Directory, most: usize) -> usize {
    text.family(names::TARGET_HEALTH, Kind::Gauge, "Health of targets: 1 for the state that holds.");
    let of_streams = of_streams_only(table);
    let (mut room, mut left_out) = (most, 0);
    for upstream in directory.values() {
        let Some(name) = &upstream.name else { continue };
        let subsystem = if of_streams.contains(&**name) { "stream" } else { "http" };
        let members = upstream.members();
        for target in members.targets() {
            let taken = target.addresses.len().max(1).min(room);
            left_out += target.addresses.len().max(1) - taken;
            room -= taken;
            render_target(text, (name, subsystem), target, &members, taken);
        }
    }
    left_out
}

/// Names of the upstreams that routes for streams lead to, and no others do. In the reference each subsystem tells of all
/// upstreams; here there is one series of each address, so that a sum counts it once.
fn of_streams_only(table: &Table) -> HashSet<&str> {
    let routes = || table.routes.iter().flatten();
    let mut names: HashSet<_> = routes().filter(|route| route.stream.is_some()).filter_map(led_to).collect();
    if !names.is_empty() {
        for name in routes().filter(|route| route.stream.is_none()).filter_map(led_to) {
            names.remove(name);
        }
    }
    names
}

/// The name of the upstream that a route leads to.
fn led_to(route: &Arc<Route>) -> Option<&str> {
    route.service.as_ref()?.upstream.name.as_deref()
}

/// The first `most` addresses of a target, of an upstream with this name in this subsystem.
fn render_target(
    text: &mut Text,
    (upstream, subsystem): (&str, &str),
    target: &MemberTarget,
    members: &Members,
    most: usize,
) {
    let mut series = |address: &str, holds: &str| {
        for state in HEALTH_STATES {
            let labels = [
                ("upstream", upstream),
                ("target", &target.label),
                ("address", address),
                ("state", state),
                ("subsystem", subsystem),
            ];
            text.sample(names::TARGET_HEALTH, &labels, u64::from(state == holds));
        }
    };
    if target.addresses.is_empty() && most > 0 {
        series("", "dns_error");
    }
    for member in target.addresses.iter().take(most) {
        let state = match members.state_of(member) {
            AddressState::ChecksOff => "healthchecks_off",
            AddressState::Healthy => "healthy",
            AddressState::Unhealthy => "unhealthy",
        };
        series(&member.target.address().to_string(), state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::fixture::{id, target, upstream};
    use crate::table::{Update, builder};
    use equipoise_proto::NodeId;

    #[tokio::test]
    async fn addresses_past_the_bound_are_counted_and_not_shown() {
        let (builder, seams) = builder(Arc::new(NodeState::new(NodeId::new(id(9)))));
        tokio::spawn(builder.run());
        let mut records = vec![upstream(1, "u"), target(50, 1, "a.test:80", 1)];
        records.extend((10..15).map(|number| target(number, 1, &format!("10.0.0.{number}:80"), 1)));
        let position = crate::table::fixture::position(1);
        seams.updates.apply(position, Update::Snapshot(records)).await.unwrap();
        for (most, want) in [(10, 0), (6, 0), (5, 1), (2, 4), (0, 6)] {
            let mut text = Text::default();
            assert_eq!(
                render_health(&mut text, &seams.active.load(), &seams.directory.load(), most),
                want,
                "{most}"
            );
            let series = text.into_string().matches("state=\"healthy\"").count();
            assert_eq!(series + want, 6, "{most}");
        }
    }
}
