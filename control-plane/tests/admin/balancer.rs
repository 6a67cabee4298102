//! How the nodes balance an upstream, as they say it when they are asked.

use std::time::SystemTime;

use equipoise_control_plane::nodes::inspect::{Address, Ask, Balancing, Level, Part, QUERIES_MAX, Target};
use equipoise_control_plane::nodes::{NodeInfo, Session};
use equipoise_identity::Role;
use equipoise_proto::{NodeId, PROTOCOL_OF_INSPECT};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::support::{Admin, Response};

fn join(admin: &Admin, n: u128, zone: &str) -> (Session, mpsc::Receiver<Ask>) {
    let info = NodeInfo {
        id: NodeId::new(Uuid::from_u128(n)),
        role: Role::Node,
        via: None,
        hostname: format!("node-{n}"),
        address: None,
        status_address: String::new(),
        region: "eu".to_owned(),
        zone: zone.to_owned(),
        labels: Default::default(),
        build: "0.1.0".to_owned(),
        protocol: PROTOCOL_OF_INSPECT,
        certificate: None,
        is_away: false,
    };
    let mut session = admin.nodes.join(info, None, SystemTime::now()).unwrap();
    let asks = session.asks();
    (session, asks)
}

fn address(last: u8, state: &str, in_flight: u32) -> Address {
    Address {
        address: ([10, 0, 0, last], 80).into(),
        state: state.to_owned(),
        why: "probe_tcp".to_owned(),
        since_ms: 1_700_000_000_123,
        is_drained: false,
        weight: 100,
        weight_in_force: if state == "healthy" { 100.0 } else { 0.0 },
        in_flight,
        ewma_ms: Some(1.5),
        ejections: 2,
        ejected_until_ms: None,
        probe: Some((1_700_000_000_500, "tcp".to_owned())),
        is_used: true,
        level: Some(0),
    }
}

fn said(addresses: Vec<Address>) -> Balancing {
    let level = Level {
        priority: 0,
        distance: None,
        zone: None,
        available_weight: 100,
        total_weight: 200,
        load_percent: 100.0,
        is_in_panic: false,
        is_refusing: false,
    };
    let target = Target {
        id: Uuid::from_u128(70),
        label: "a.test:80".to_owned(),
        weight: 100,
        priority: 0,
        zone: Some("b".to_owned()),
        region: None,
        dns: "A".to_owned(),
        dns_error_since_ms: None,
        addresses,
    };
    Balancing {
        readiness: "serving".to_owned(),
        algorithm: "peak-ewma".to_owned(),
        active: 3,
        levels: vec![level],
        targets: vec![target],
        ..Balancing::default()
    }
}

/// The answer of a node to the question that it is asked next.
async fn answer(admin: &Admin, node: u128, asks: &mut mpsc::Receiver<Ask>, said: Option<Balancing>) {
    let Ask { query, upstream } = asks.recv().await.unwrap();
    admin.nodes.answer(NodeId::new(Uuid::from_u128(node)), Part { query, upstream, said, has_more: false });
}

async fn balanced(admin: &Admin, query: &str) -> Value {
    let got = admin.get(&format!("/upstreams/u/balancer{query}")).await;
    assert_eq!(got.status, 200, "{}", got.text());
    got.json()
}

fn words(got: &Response) -> (u16, Value) {
    (got.status, got.json()["message"].clone())
}

#[tokio::test]
async fn every_node_tells_its_own_view_and_who_does_not_is_named() {
    let admin = Admin::start().await;
    let upstream = admin.create("/upstreams", json!({ "name": "u", "algorithm": "least-connections" })).await;
    let (_first, mut first_asked) = join(&admin, 1, "a");
    let (_second, mut second_asked) = join(&admin, 2, "b");
    let (unaware, mut unaware_asked) = join(&admin, 4, "");
    let (leaving, mut leaving_asked) = join(&admin, 5, "a");
    let nodes = async {
        answer(
            &admin,
            1,
            &mut first_asked,
            Some(said(vec![address(1, "healthy", 2), address(2, "unhealthy", 0)])),
        )
        .await;
        answer(
            &admin,
            2,
            &mut second_asked,
            Some(said(vec![address(1, "healthy", 1), address(2, "healthy", 0)])),
        )
        .await;
        answer(&admin, 4, &mut unaware_asked, None).await;
        leaving_asked.recv().await.unwrap();
        drop(leaving);
    };
    let (got, ()) = tokio::join!(balanced(&admin, "?timeout=10"), nodes);
    assert_eq!(got["upstream"], json!({ "id": upstream["id"], "name": "u" }));
    assert_eq!(got["algorithm"], "least-connections");
    let nodes = got["nodes"].as_array().unwrap();
    let names: Vec<_> = nodes.iter().map(|node| node["hostname"].as_str().unwrap()).collect();
    assert_eq!(names, ["node-1", "node-2"]);
    assert_eq!((&nodes[0]["zone"], &nodes[0]["algorithm"]), (&json!("a"), &json!("peak-ewma")));
    assert_eq!(nodes[0]["levels"][0]["load_percent"], 100.0);
    let address = &nodes[0]["targets"][0]["addresses"][1];
    assert_eq!(
        *address,
        json!({
            "ip": "10.0.0.2", "port": 80, "state": "unhealthy", "why": "probe_tcp", "since": 1_700_000_000.123,
            "drained": false, "weight": 100, "weight_in_force": 0.0, "in_flight": 0, "ewma_ms": 1.5, "ejections": 2,
            "ejected_until": null, "probe": { "at": 1_700_000_000.5, "found": "tcp" }, "used": true, "level": 0,
        })
    );
    let missing = got["missing"].as_array().unwrap();
    let missing: Vec<_> =
        missing.iter().map(|one| (one["hostname"].clone(), one["reason"].clone())).collect();
    assert_eq!(
        missing,
        [
            (json!("node-4"), json!("the node does not have the upstream")),
            (json!("node-5"), json!("the node left")),
        ]
    );
    assert_eq!(
        got["summary"],
        json!([
            { "zone": "a", "nodes": 1, "available_weight": 0, "total_weight": 0, "in_flight": 0 },
            { "zone": "b", "nodes": 1, "available_weight": 100, "total_weight": 200, "in_flight": 3 },
        ])
    );
    drop(unaware);
}

#[tokio::test]
async fn a_node_that_never_answers_is_named_when_the_time_is_up() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let (_silent, mut asked) = join(&admin, 3, "a");
    let got = balanced(&admin, "?timeout=0.05").await;
    assert_eq!((&got["nodes"], &got["summary"]), (&json!([]), &json!([])));
    assert_eq!(
        (&got["missing"][0]["hostname"], &got["missing"][0]["reason"]),
        (&json!("node-3"), &json!("no answer in time"))
    );
    // What it says afterwards is nobody's: the next question has an answer of its own.
    answer(&admin, 3, &mut asked, Some(said(vec![]))).await;
    let late = answer(&admin, 3, &mut asked, Some(said(vec![address(1, "healthy", 0)])));
    let (got, ()) = tokio::join!(balanced(&admin, "?timeout=10"), late);
    assert_eq!(got["nodes"][0]["targets"][0]["addresses"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_query_narrows_who_is_asked() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let none = balanced(&admin, "").await;
    assert_eq!((&none["nodes"], &none["missing"], &none["summary"]), (&json!([]), &json!([]), &json!([])));
    let (_first, mut first_asked) = join(&admin, 1, "a");
    let (_second, mut second_asked) = join(&admin, 2, "b");
    let (got, ()) = tokio::join!(
        balanced(&admin, "?zone=b&region=eu"),
        answer(&admin, 2, &mut second_asked, Some(said(vec![])))
    );
    assert_eq!((got["nodes"].as_array().unwrap().len(), &got["missing"]), (1, &json!([])));
    assert!(first_asked.try_recv().is_err(), "it is in another zone");
    let id = Uuid::from_u128(9);
    let got = balanced(&admin, &format!("?node_id={id}")).await;
    assert_eq!(
        got["missing"],
        json!([{ "node_id": id.to_string(), "hostname": "", "reason": "the node is not connected" }])
    );
    admin.json("PUT", "/upstreams/u/policy", &json!({ "algorithm": "peak-ewma" })).await;
    assert_eq!(balanced(&admin, "?zone=none").await["algorithm"], "peak-ewma");
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let ask = async |query: &str| words(&admin.get(&format!("/upstreams/u/balancer{query}")).await);
    let wrong_time = "timeout must be a number of seconds from 0 to 10";
    for (query, text) in [
        ("?node_id=x", "node_id must be the id of a node"),
        ("?zone=", "zone must be the name of a zone"),
        ("?region=", "region must be the name of a region"),
        ("?timeout=11", wrong_time),
        ("?timeout=-1", wrong_time),
        ("?timeout=nan", wrong_time),
        ("?timeout=soon", wrong_time),
    ] {
        assert_eq!(ask(query).await, (400, json!(text)), "{query}");
    }
    assert_eq!(words(&admin.get("/upstreams/v/balancer").await), (404, json!("Not found")));
    assert_eq!(admin.json("POST", "/upstreams/u/balancer", &json!({})).await.status, 405);
    let (_silent, _asked) = join(&admin, 1, "a");
    let scope = Default::default();
    let open: Vec<_> = (0..QUERIES_MAX).map(|_| admin.nodes.inspect(Uuid::nil(), &scope).unwrap()).collect();
    let refused = admin.get("/upstreams/u/balancer").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    drop(open);
    assert_eq!(admin.get("/upstreams/u/balancer?timeout=0").await.status, 200);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_nodes() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let (_silent, mut asked) = join(&admin, 1, "a");
    let stop = async {
        asked.recv().await.unwrap();
        admin.shutdown.cancel();
    };
    let started = std::time::Instant::now();
    let (got, ()) = tokio::join!(balanced(&admin, "?timeout=10"), stop);
    assert_eq!(got["missing"][0]["hostname"], "node-1");
    assert!(started.elapsed() < std::time::Duration::from_secs(9), "{:?}", started.elapsed());
}
