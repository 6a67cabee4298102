//! What `POST /explain` says of a request is what a node does with it: hundreds of requests, to routes that compete.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use equipoise_tests::cluster::Standalone;
use equipoise_tests::{Client, Origin};
use serde_json::{Map, Value, json};

const ROUTES: usize = 60;
const REQUESTS: usize = 400;

/// Draws the same in every run (Knuth's MMIX generator).
struct Draws(u64);

impl Draws {
    fn of<'a>(&mut self, from: &[&'a str]) -> &'a str {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from[usize::try_from(self.0 >> 33).unwrap() % from.len()]
    }

    fn is(&mut self, one_in: u64) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33).is_multiple_of(one_in)
    }
}

const HOSTS: &[&str] = &["a.test", "b.a.test", "*.a.test", "b.*", "a.test:8000", "c.test"];
const PATHS: &[&str] = &["/x", "/x/y", "/x/", "~/x/[0-9]+", "~/x/(y|z)", "/é", "/z", "~/z$"];
const METHODS: &[&str] = &["GET", "POST", "PURGE"];

fn route(draws: &mut Draws, number: usize) -> Value {
    let mut route = Map::new();
    let mut list = |field: &str, from: &[&str], one_in| {
        if draws.is(one_in) {
            let values =
                if draws.is(3) { vec![draws.of(from), draws.of(from)] } else { vec![draws.of(from)] };
            route.insert(field.to_owned(), json!(values));
        }
    };
    list("hosts", HOSTS, 2);
    list("paths", PATHS, 1);
    list("methods", METHODS, 4);
    if draws.is(4) {
        route.insert("headers".to_owned(), json!({ "x-v": [draws.of(&["1", "2", "~*^[0-9]$"])] }));
    }
    if draws.is(5) {
        route.insert("regex_priority".to_owned(), json!(number % 3));
    }
    route.insert("name".to_owned(), json!(format!("r{number}")));
    route.insert("service".to_owned(), json!({ "name": format!("s{number}") }));
    route.into()
}

/// Which route a node took: its service's path says so.
fn taken(proxy: &mut Client, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<String> {
    let got = proxy.send(method, path, headers, b"").unwrap();
    if got.status == 404 {
        return None;
    }
    assert_eq!(got.status, 200, "{}", got.text());
    let seen = got.json()["path"].as_str().unwrap().to_owned();
    let service = seen.split(['/', '?']).nth(1).unwrap();
    Some(service.replace('s', "r"))
}

#[test]
fn an_explanation_is_what_a_node_does() {
    let standalone = Standalone::start().unwrap();
    let origin = Origin::start("only");
    let (mut admin, mut proxy) = (standalone.process().client("admin"), standalone.process().client("proxy"));
    let mut draws = Draws(7);
    let mut operations = Vec::new();
    for number in 0..ROUTES {
        let service = json!({
            "name": format!("s{number}"), "host": origin.address().ip().to_string(),
            "port": origin.address().port(), "path": format!("/s{number}"),
            "enabled": !draws.is(6),
        });
        operations.push(json!({ "method": "POST", "path": "/services", "body": service }));
        operations.push(json!({ "method": "POST", "path": "/routes", "body": route(&mut draws, number) }));
    }
    let made = admin.json("POST", "/batch?wait=applied", &json!({ "operations": operations })).unwrap();
    assert_eq!(made.status, 200, "{}", made.text());
    assert_eq!(made.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"));
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..REQUESTS {
        let host = draws.of(&["a.test", "b.a.test", "A.test:8000", "b.test", "none.test"]);
        let path =
            draws.of(&["/", "/x", "/x/y", "/x/12", "/x//y", "/x/./z", "/%c3%a9", "/z", "/z/z", "/X?x=/x/y"]);
        let method = draws.of(METHODS);
        let value = draws.of(&["1", "2", "9", "no"]);
        let headers = [("Host", host), ("X-V", value)];
        let want = taken(&mut proxy, method, path, &headers);
        let question = json!({
            "method": method, "path": path, "headers": { "Host": host, "X-V": value },
            "port": standalone.process().address("proxy").port(),
        });
        let told = admin.json("POST", "/explain", &question).unwrap();
        assert_eq!(told.status, 200, "{}", told.text());
        let told = told.json();
        let name = told["route"]["name"].as_str().map(str::to_owned);
        assert_eq!(name, want, "{question}: {told}");
        found.insert(name);
    }
    assert!(found.len() > 10 && found.contains(&None), "the same few routes again and again: {found:?}");
}
