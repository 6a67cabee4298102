//! Why a request goes where it goes: pure.
//!
//! The answer is the node's own: winners come from the router that nodes route by, and it also says which conditions of a loser
//! are not met. Nothing here says again what a condition means. Called by `admin`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use equipoise_proto::{HeaderName, HeaderPattern, HostPattern, PathPattern, SniPattern, path};
use equipoise_router::input::{HashInput, Parts};
use equipoise_router::{Condition, Flavour, HeaderRule, Headers, Query, Router, Rule};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::distribution::hash_input;
use crate::model::{Body, Config, Entity, Key, Kind};

/// Most routes and most targets that an explanation names; of more it says how many.
pub const NAMED_MAX: usize = 50;

/// Protocols of requests, whatever carries them.
const HTTP: [&str; 4] = ["http", "https", "grpc", "grpcs"];

/// Routes that match are ranked as soon as so many are there, and only those that may be named are kept: a decoded route takes a
/// few kibibytes, and all of them may match.
const RANKED_AT: usize = 1_024;

/// A request as it would come to a node.
#[derive(Debug, Clone)]
pub struct Question {
    /// By whose rules.
    pub flavour: Flavour,
    /// Whether it comes by TLS.
    pub is_tls: bool,
    /// As sent.
    pub method: String,
    /// Host and port of its Host header; an empty host is none.
    pub host: (String, Option<u16>),
    /// Port of the listener.
    pub listener: u16,
    /// Path and query, as sent; begins with `/`.
    pub target: String,
    /// Server name of the handshake, lower case.
    pub sni: Option<String>,
    /// Names in lower case, each value by itself.
    pub headers: Vec<(String, String)>,
    /// Who asks.
    pub client: Option<IpAddr>,
    /// Only this one of the other routes is of interest.
    pub about: Option<Key>,
}

/// The headers of a question.
struct Lines<'a>(&'a [(String, String)]);

impl Headers for Lines<'_> {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        self.0
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .for_each(|(_, value)| found(value.as_bytes()));
    }
}

/// A route.
struct Candidate<'a> {
    route: &'a Entity,
    body: Body,
    rule: Known,
}

/// What the router knows of a route.
enum Known {
    /// How it matches.
    Rule(Rule),
    /// Nothing, since it serves no HTTP.
    OtherProtocols,
    /// Nothing, since its service is switched off.
    ServiceOff,
}

/// Services that are switched off: no node's router knows their routes.
struct SwitchedOff(HashSet<Uuid>);

impl SwitchedOff {
    fn of(config: &Config) -> Self {
        let services = config.iter(Kind::Service);
        let is_off = |service: &&Arc<Entity>| service.body().get("enabled") == Some(&Value::Bool(false));
        Self(services.filter(is_off).map(|service| service.id).collect())
    }
}

/// What becomes of the request, and why not something else. Cost: O(routes), some ten microseconds each.
pub fn explain(config: &Config, question: &Question) -> Value {
    let Question { flavour, is_tls, .. } = *question;
    let (sent, query_text) = path::split_target(question.target.as_bytes());
    let path = path::normalise(sent);
    let lines = Lines(&question.headers);
    let assumed = Router::of(flavour, Vec::new()).assumed_port(is_tls, question.listener);
    let query = Query {
        is_tls,
        method: question.method.as_bytes(),
        host: question.host.0.as_bytes(),
        port: question.host.1.unwrap_or(assumed),
        path: &path,
        sni: question.sni.as_deref(),
        headers: &lines,
    };
    let off = SwitchedOff::of(config);
    let about = question.about.as_ref().map(|key| config.get(Kind::Route, key).map(|route| route.id));
    let is_asked = |route: &Entity| about.is_none_or(|about| about == Some(route.id));
    let (mut matching, mut missed, mut asked) = (Vec::new(), Vec::new(), None);
    for route in config.iter(Kind::Route) {
        let candidate = Candidate::new(route, &off);
        let misses = candidate.misses(flavour, &query).len();
        if misses > 0 {
            missed.extend(is_asked(route).then_some((misses, route)));
            continue;
        }
        asked = asked.or_else(|| (about.is_some() && is_asked(route)).then_some(route));
        matching.push(candidate);
        if matching.len() == RANKED_AT {
            matching =
                ranked(flavour, matching, &query).into_iter().map(|(candidate, _)| candidate).collect();
        }
    }
    let mut best = ranked(flavour, matching, &query);
    // Whom somebody asks for is told of wherever it stands.
    if let Some(route) = asked
        && !best.iter().any(|(candidate, _)| candidate.route.id == route.id)
    {
        best.extend(ranked(flavour, vec![Candidate::new(route, &off)], &query));
    }
    // Those that nearly matched are what somebody looks for.
    missed.sort_unstable_by_key(|(misses, route)| (*misses, route.id));
    let others_left_out = missed.len().saturating_sub(NAMED_MAX);
    let others = missed.into_iter().take(NAMED_MAX).map(|(_, route)| {
        let candidate = Candidate::new(route, &off);
        with(candidate.named(), "because", json!(candidate.misses(flavour, &query)))
    });
    let others: Vec<_> = others.collect();
    let lost = best.iter().skip(1).filter(|(candidate, _)| is_asked(candidate.route));
    let lost: Vec<_> = lost
        .take(NAMED_MAX)
        .map(|(candidate, matched)| with(candidate.named(), "path", json!(matched)))
        .collect();
    let mut answer = json!({
        "request": {
            "method": question.method,
            "scheme": if is_tls { "https" } else { "http" },
            "host": question.host.0,
            "port": query.port,
            "path": String::from_utf8_lossy(&path),
            "query": query_text.map(String::from_utf8_lossy),
            "client": question.client.map(|client| client.to_string()),
            "flavour": flavour_name(flavour),
        },
        "also_matched": lost,
        "not_matched": others,
        "not_matched_left_out": others_left_out,
    });
    let found = best.first().map_or_else(nowhere, |(winner, matched)| {
        let mut told = follow(config, question, winner, &query);
        told.insert("route".to_owned(), with(winner.named(), "path", json!(matched)));
        told
    });
    if let Value::Object(answer) = &mut answer {
        answer.extend(found);
    }
    answer
}

fn nowhere() -> Map<String, Value> {
    let mut told = Map::new();
    told.insert("outcome".to_owned(), "no_route".into());
    told.insert("status".to_owned(), 404.into());
    for key in ["route", "service", "upstream"] {
        told.insert(key.to_owned(), Value::Null);
    }
    told.insert("targets".to_owned(), json!([]));
    told.insert("targets_left_out".to_owned(), 0.into());
    told
}

/// Where a request goes that a route has taken.
fn follow(
    config: &Config,
    question: &Question,
    winner: &Candidate<'_>,
    query: &Query<'_>,
) -> Map<String, Value> {
    let mut told = nowhere();
    let mut say = |outcome: &str, status: Option<u16>| {
        told.insert("outcome".to_owned(), outcome.into());
        told.insert("status".to_owned(), json!(status));
    };
    let service = config.referenced(Kind::Route, &Key::Id(winner.route.id), "service");
    let body = service.map(|service| service.body());
    let protocol = body.as_ref().and_then(|body| body.get("protocol")?.as_str().map(str::to_owned));
    let is_http = protocol.is_some_and(|protocol| HTTP.contains(&protocol.as_str()));
    let speaks = |protocols: &[&str]| winner.protocols().any(|one| protocols.contains(&one));
    let is_grpc = question.headers.iter().any(|(name, value)| {
        name == "content-type" && value.to_ascii_lowercase().starts_with("application/grpc")
    });
    if speaks(&["https"]) && !speaks(&["http"]) && !question.is_tls {
        let status = winner.body.get("https_redirect_status_code").and_then(Value::as_u64);
        say("https_required", status.and_then(|status| u16::try_from(status).ok()));
    } else if speaks(&["grpc", "grpcs"]) && !is_grpc {
        say("grpc_required", None);
    } else if speaks(&["grpcs"]) && !speaks(&["grpc"]) && !question.is_tls {
        say("tls_required", None);
    } else if service.is_none() {
        say("no_service", Some(503));
    } else if !is_http {
        say("no_http_service", Some(503));
    } else {
        say("proxied", None);
    }
    let (Some(service), Some(body)) = (service, body) else { return told };
    let shown: Map<String, Value> = ["id", "name", "protocol", "host", "port", "path", "enabled"]
        .into_iter()
        .map(|field| (field.to_owned(), body.get(field).cloned().unwrap_or_default()))
        .collect();
    told.insert("service".to_owned(), shown.into());
    debug_assert!(service.kind == Kind::Service, "what a route refers to");
    let host = body.get("host").and_then(Value::as_str).unwrap_or_default();
    let Some(upstream) = config.by_unique_field(Kind::Upstream, "name", host) else { return told };
    let of = upstream.body();
    let field = |name: &str| of.get(name).cloned().unwrap_or_default();
    told.insert(
        "upstream".to_owned(),
        json!({
            "id": upstream.id.to_string(),
            "name": field("name"),
            "algorithm": field("algorithm"),
            "hash_on": field("hash_on"),
            "hash_value": hashed(question, winner, &of, query),
        }),
    );
    let targets = config.children(Kind::Target, "upstream", upstream.id);
    let candidates: Vec<_> = targets
        .iter()
        .map(|target| target.body())
        .filter(|target| target.get("weight").and_then(Value::as_u64) != Some(0))
        .collect();
    let shown: Vec<_> = candidates
        .iter()
        .take(NAMED_MAX)
        .map(|target| {
            let field = |name: &str| target.get(name).cloned().unwrap_or_default();
            json!({ "id": field("id"), "target": field("target"), "weight": field("weight"), "tags": field("tags") })
        })
        .collect();
    told.insert("targets_left_out".to_owned(), candidates.len().saturating_sub(NAMED_MAX).into());
    told.insert("targets".to_owned(), shown.into());
    told
}

/// What consistent hashing looks at, where the question says it: a cookie that is missing is made by the node, and a consumer found
/// by it.
fn hashed(question: &Question, winner: &Candidate<'_>, upstream: &Body, query: &Query<'_>) -> Option<String> {
    let router = winner.rule().map(|rule| Router::of(question.flavour, vec![rule.clone()]));
    let capture = |name: &str| {
        let router = router.as_ref()?;
        let groups = router.captures(&router.find(query)?, query.path)?;
        let numbered = || groups.get(name.parse().ok()?);
        groups.name(name).or_else(numbered).map(<[u8]>::to_vec)
    };
    let (sent, arguments) = path::split_target(question.target.as_bytes());
    let client = question.client.map(|client| client.to_string());
    let parts = Parts {
        client: client.as_deref().unwrap_or_default(),
        path: sent,
        query: arguments,
        headers: query.headers,
        capture: &capture,
        consumer: None,
    };
    let value = |prefix: &str| match HashInput::from(Some(hash_input(upstream, prefix))) {
        HashInput::Ip if client.is_none() => None,
        input => input.value(&parts).map(|value| String::from_utf8_lossy(&value).into_owned()),
    };
    value("hash_on").or_else(|| value("hash_fallback"))
}

const fn flavour_name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Compatible => "traditional_compatible",
        Flavour::Traditional => "traditional",
    }
}

/// Of those that match the best, as many as are named and the winner, which comes first; each with the path that matched.
fn ranked<'a>(
    flavour: Flavour,
    matching: Vec<Candidate<'a>>,
    query: &Query<'_>,
) -> Vec<(Candidate<'a>, Option<String>)> {
    let rules = matching.iter().filter_map(Candidate::rule).cloned().collect();
    let mut router = Router::of(flavour, rules);
    let mut matching: Vec<_> = matching.into_iter().map(Some).collect();
    let mut ranked = Vec::new();
    while ranked.len() <= NAMED_MAX
        && let Some(found) = router.find(query)
        && let Some(candidate) = matching.get_mut(found.route).and_then(Option::take)
    {
        let path = found.path.and_then(|at| candidate.texts("paths").nth(at).map(str::to_owned));
        ranked.push((candidate, path));
        router.set(found.route, None);
    }
    ranked
}

impl<'a> Candidate<'a> {
    fn new(route: &'a Entity, off: &SwitchedOff) -> Self {
        let mut candidate = Self { route, body: route.body(), rule: Known::OtherProtocols };
        let is_http = candidate.protocols().any(|one| HTTP.contains(&one));
        let service = || Uuid::try_parse(candidate.body.get("service")?.get("id")?.as_str()?).ok();
        if is_http && service().is_some_and(|service| off.0.contains(&service)) {
            candidate.rule = Known::ServiceOff;
        } else if is_http {
            candidate.rule = Known::Rule(candidate.to_rule());
        }
        candidate
    }

    const fn rule(&self) -> Option<&Rule> {
        match &self.rule {
            Known::Rule(rule) => Some(rule),
            Known::OtherProtocols | Known::ServiceOff => None,
        }
    }

    /// As nodes have it. What was stored was checked: nothing of it fails to parse.
    fn to_rule(&self) -> Rule {
        let values = |value: &Value| -> Vec<HeaderPattern> {
            let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.filter_map(|text| HeaderPattern::parse(text).ok()).collect()
        };
        let headers = self.body.get("headers").and_then(Value::as_object).into_iter().flatten();
        let number = |field: &str| self.body.get(field).and_then(Value::as_f64);
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers, and a cast of a float saturates")]
        let whole = |field: &str| number(field).map_or(0, |number| number as i64);
        Rule {
            id: self.route.id,
            hosts: self.texts("hosts").filter_map(|text| HostPattern::parse(text).ok()).collect(),
            paths: self.texts("paths").filter_map(|text| PathPattern::parse(text).ok()).collect(),
            methods: self.texts("methods").map(Into::into).collect(),
            headers: headers
                .filter_map(|(name, value)| {
                    Some(HeaderRule { name: HeaderName::parse(name).ok()?, values: values(value) })
                })
                .collect(),
            snis: self.texts("snis").filter_map(|text| SniPattern::parse(text).ok()).collect(),
            regex_priority: whole("regex_priority"),
            created_at_s: whole("created_at"),
        }
    }

    fn texts(&self, field: &str) -> impl Iterator<Item = &str> {
        self.body.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    fn protocols(&self) -> impl Iterator<Item = &str> {
        self.texts("protocols")
    }

    fn named(&self) -> Value {
        json!({ "id": self.route.id.to_string(), "name": self.body.get("name").cloned().unwrap_or_default() })
    }

    /// The fields whose conditions the request does not meet.
    fn misses(&self, flavour: Flavour, query: &Query<'_>) -> Vec<String> {
        let rule = match &self.rule {
            Known::Rule(rule) => rule,
            Known::OtherProtocols => return vec!["protocols".to_owned()],
            Known::ServiceOff => return vec!["service.enabled".to_owned()],
        };
        let named = |condition| match condition {
            Condition::Hosts => "hosts".to_owned(),
            Condition::Paths => "paths".to_owned(),
            Condition::Methods => "methods".to_owned(),
            Condition::Snis => "snis".to_owned(),
            Condition::Header(name) => format!("headers.{}", name.as_str()),
        };
        rule.unmet(flavour, query).into_iter().map(named).collect()
    }
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    object[key] = value;
    object
}
