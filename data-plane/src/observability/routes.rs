//! Series of routes as Prometheus text, alike for requests and for sessions of streams.

use std::sync::LazyLock;

use super::names;
use super::route::{RouteMetrics, Sum};
use super::text::{Kind, Labels, Text};
use crate::table::{Route, Table};

/// The only workspace there is yet.
const WORKSPACE: &str = "default";

/// Labels of what no route matched.
static NO_ROUTE: LazyLock<RouteMetrics> = LazyLock::new(RouteMetrics::default);

/// What routes are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RouteKind {
    Requests,
    Streams,
}

/// What there is to tell of routes of one kind.
struct Series<'a> {
    matched: Vec<(&'a RouteMetrics, Sum)>,
    unmatched: Option<(&'a RouteMetrics, Sum)>,
}

impl<'a> Series<'a> {
    /// Of those that had anything.
    fn of(table: &'a Table, kind: RouteKind, unmatched: Sum) -> Self {
        let of_kind = |route: &Route| route.stream.is_some() == (kind == RouteKind::Streams);
        let routes = table.routes.iter().flatten().filter(|route| of_kind(route));
        let routes = routes.map(|route| &*route.metrics);
        Self {
            matched: routes.filter_map(|route| Some((route, route.sum()?))).collect(),
            unmatched: Some((&*NO_ROUTE, unmatched)).filter(|(_, sum)| !sum.codes.is_empty()),
        }
    }

    fn all(&self) -> impl Iterator<Item = &(&'a RouteMetrics, Sum)> {
        self.matched.iter().chain(&self.unmatched)
    }

    /// How many there were by code and source; `more` are labels after those that all have.
    fn render_codes(&self, text: &mut Text, name: &str, help: &str, more: &Labels<'_>) {
        text.family(name, Kind::Counter, help);
        for (route, sum) in self.all() {
            for ((code, source), count) in &sum.codes {
                let code = code.to_string();
                let common = [
                    ("service", route.service()),
                    ("route", route.route()),
                    ("code", &code),
                    ("source", source.as_str()),
                    ("workspace", WORKSPACE),
                ];
                text.sample(name, &[&common, more].concat(), *count);
            }
        }
    }

    /// The same by who called, of those who are told apart.
    fn render_consumers(&self, text: &mut Text, name: &str) {
        for (route, sum) in self.all() {
            for (consumer, counts) in &sum.consumers {
                for ((code, source), count) in &counts.codes {
                    let labels = [
                        ("service", route.service()),
                        ("route", route.route()),
                        ("code", &*code.to_string()),
                        ("source", source.as_str()),
                        ("workspace", WORKSPACE),
                        ("consumer", consumer),
                    ];
                    text.sample(name, &labels, *count);
                }
            }
        }
    }
}

/// Writes all series of routes.
pub(super) fn render(text: &mut Text, table: &Table, unmatched: Sum, unmatched_sessions: Sum) {
    let requests = Series::of(table, RouteKind::Requests, unmatched);
    let sessions = Series::of(table, RouteKind::Streams, unmatched_sessions);
    let consumer = ("consumer", "");
    let what = "Requests by service, route, code and source.";
    requests.render_codes(text, names::HTTP_REQUESTS, what, &[consumer]);
    requests.render_consumers(text, names::HTTP_REQUESTS);
    let what = "Stream sessions by service, route, code and source.";
    sessions.render_codes(text, names::STREAM_SESSIONS, what, &[]);
    text.family(names::BANDWIDTH, Kind::Counter, "Bytes from and to clients.");
    // What no route matched has one series, that of requests: nothing passes in a session without a route.
    for (route, sum) in requests.all().chain(&sessions.matched) {
        let nobody = ("", sum.ingress_bytes, sum.egress_bytes);
        let consumers = sum.consumers.iter().map(|(name, of)| (&**name, of.ingress_bytes, of.egress_bytes));
        // Of a consumer whose requests are counted and not their bytes there is nothing to tell here.
        let consumers = consumers.filter(|(_, ingress, egress)| ingress + egress > 0);
        for (consumer, ingress, egress) in std::iter::once(nobody).chain(consumers) {
            for (direction, bytes) in [("ingress", ingress), ("egress", egress)] {
                let labels = [
                    ("service", route.service()),
                    ("route", route.route()),
                    ("direction", direction),
                    ("workspace", WORKSPACE),
                    ("consumer", consumer),
                ];
                text.sample(names::BANDWIDTH, &labels, bytes);
            }
        }
    }
    text.family(names::KONG_LATENCY, Kind::Histogram, "Time of requests that is not the upstream's.");
    for (route, sum) in requests.all() {
        text.histogram(names::KONG_LATENCY, &labels_of(route), &names::KONG_BUCKETS_MS, &sum.kong);
    }
    let what = "Time from the pick of a target to the head of its response.";
    text.family(names::UPSTREAM_LATENCY, Kind::Histogram, what);
    for (route, sum) in requests.all() {
        text.histogram(
            names::UPSTREAM_LATENCY,
            &labels_of(route),
            &names::UPSTREAM_BUCKETS_MS,
            &sum.upstream,
        );
    }
    let what = "Time from the head of a request to the end of its response.";
    text.family(names::REQUEST_LATENCY, Kind::Histogram, what);
    for (route, sum) in requests.all() {
        text.histogram(names::REQUEST_LATENCY, &labels_of(route), &names::UPSTREAM_BUCKETS_MS, &sum.request);
    }
}

fn labels_of(route: &RouteMetrics) -> [(&'static str, &str); 3] {
    [("service", route.service()), ("route", route.route()), ("workspace", WORKSPACE)]
}
