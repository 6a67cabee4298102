//! What comes from nodes: who they are, health of targets, waiting for them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use equipoise_control_plane::nodes::{
    AddressReport, Health, Mark, NackCause, NackRecord, NodeInfo, ReportedTarget, Reports, Session, Stage,
    TargetReport, Verdict,
};
use equipoise_control_plane::store::Head;
use equipoise_identity::Role;
use equipoise_proto::NodeId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Admin, DEADLINE, FORM, Response};

fn id(n: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(n))
}

/// A node that has just connected.
pub fn join(admin: &Admin, n: u128) -> Session {
    join_as(admin, n, Role::Node)
}

fn join_as(admin: &Admin, n: u128, role: Role) -> Session {
    let info = NodeInfo {
        id: id(n),
        role,
        via: None,
        hostname: format!("node-{n}"),
        address: None,
        status_address: String::new(),
        region: "eu".to_owned(),
        zone: "a".to_owned(),
        labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
        build: "0.1.0".to_owned(),
        protocol: 1,
        certificate: None,
        is_away: false,
    };
    admin.nodes.join(info, None, SystemTime::now()).unwrap()
}

fn apply(admin: &Admin, node: &Session) {
    node.acked(admin.store.head().position, Stage::Applied, 1_000, SystemTime::now());
}

#[tokio::test]
async fn nodes_are_listed_with_revision_lag_and_refusal() {
    let admin = Admin::start().await;
    let (good, bad) = (join(&admin, 1), join(&admin, 2));
    admin.create("/upstreams", json!({ "name": "u" })).await;
    apply(&admin, &good);
    apply(&admin, &bad);
    admin.create("/upstreams", json!({ "name": "v" })).await;
    bad.nacked(NackRecord {
        position: admin.store.head().position,
        cause: NackCause::Invalid,
        entity: None,
        field: "name".to_owned(),
        reason: "no such thing".to_owned(),
        at: SystemTime::now(),
    });
    let listed = admin.get("/clustering/data-planes").await.json();
    let rows = listed["data"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["hostname"], &rows[0]["sync_status"]), (&json!("node-1"), &json!("normal")));
    assert_eq!((&rows[0]["revision"], &rows[0]["lag"]), (&json!(1), &json!(1)));
    assert_eq!(rows[0]["labels"], json!({ "rack": "7" }));
    assert_eq!(
        (&rows[1]["sync_status"], &rows[1]["last_nack"]["reason"]),
        (&json!("unknown"), &json!("no such thing"))
    );
    for key in [
        "id",
        "ip",
        "last_seen",
        "updated_at",
        "config_hash",
        "version",
        "cert_details",
        "rpc_capabilities",
        "ttl",
    ] {
        assert!(rows[0].get(key).is_some(), "{key}");
    }
    let first = admin.get("/clustering/data-planes?size=1").await.json();
    let second = admin.get(first["next"].as_str().unwrap()).await.json();
    assert_eq!((&second["data"][0]["hostname"], &second["next"]), (&json!("node-2"), &Value::Null));

    let status = admin.get("/clustering/status").await;
    assert_eq!(status.header("deprecation"), Some("true"));
    assert_eq!(status.json()[id(1).to_string()]["hostname"], "node-1");
}

#[tokio::test]
async fn a_relay_is_no_node_of_its_zone() {
    let admin = Admin::start().await;
    let _node = join(&admin, 1);
    let _relay = join_as(&admin, 2, Role::Relay);
    let zones = admin.get("/clustering/zones").await.json();
    assert_eq!(zones["data"][0]["nodes"]["connected"], 1, "{zones}");
    let listed = admin.get("/clustering/data-planes?zone=a").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2, "{listed}");
}

async fn next_commit(watch: &mut tokio::sync::watch::Receiver<Head>) {
    tokio::time::timeout(DEADLINE, watch.changed()).await.expect("a commit in time").unwrap();
}

async fn patch(admin: &Admin, query: &str, headers: &[(&str, &str)]) -> Response {
    let headers: Vec<_> = headers.iter().copied().chain([FORM]).collect();
    admin.send("PATCH", &format!("/upstreams/u{query}"), &headers, "slots=100").await
}

#[tokio::test]
async fn a_write_can_wait_for_the_nodes() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let alone = patch(&admin, "?wait=applied", &[]).await;
    assert_eq!(
        (alone.status, alone.header("equipoise-applied")),
        (200, Some("applied=0, refused=0, pending=0"))
    );
    assert_eq!(patch(&admin, "", &[]).await.header("equipoise-applied"), None);

    let (fast, slow) = (join(&admin, 1), join(&admin, 2));
    let mut watch = admin.store.watch();
    watch.borrow_and_update();
    let applying = async {
        next_commit(&mut watch).await;
        apply(&admin, &fast);
    };
    let (cut_short, ()) = tokio::join!(patch(&admin, "", &[("Prefer", "wait=1")]), applying);
    assert_eq!(cut_short.status, 200);
    assert_eq!(cut_short.header("equipoise-applied"), Some("applied=1, refused=0, pending=1"));
    assert_eq!(cut_short.header("equipoise-laggards"), Some(id(2).to_string().as_str()));

    watch.borrow_and_update();
    let leaving = async {
        next_commit(&mut watch).await;
        drop(slow);
        apply(&admin, &fast);
    };
    let (complete, ()) = tokio::join!(patch(&admin, "?wait=applied", &[]), leaving);
    assert_eq!(complete.header("equipoise-applied"), Some("applied=1, refused=0, pending=0"));
    assert_eq!(complete.header("equipoise-laggards"), None);
    assert_eq!(
        complete.header("equipoise-revision").unwrap(),
        admin.store.head().position.revision.to_string()
    );
}

#[tokio::test]
async fn stopping_cuts_a_wait_short_but_not_its_answer() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    let _silent = join(&admin, 1);
    let mut watch = admin.store.watch();
    watch.borrow_and_update();
    let stopping = async {
        next_commit(&mut watch).await;
        admin.shutdown.cancel();
    };
    let (got, ()) = tokio::join!(patch(&admin, "", &[("Prefer", "wait=60")]), stopping);
    assert_eq!((got.status, got.header("equipoise-applied")), (200, Some("applied=0, refused=0, pending=1")));
    tokio::time::timeout(Duration::from_secs(5), admin.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn health_is_what_the_nodes_report() {
    let admin = Admin::start().await;
    let upstream = admin.create("/upstreams", json!({ "name": "u" })).await;
    let target = admin.create("/upstreams/u/targets", json!({ "target": "10.0.0.1:80" })).await;
    let health = |query: &'static str| {
        let admin = &admin;
        async move { admin.get(&format!("/upstreams/u/health{query}")).await.json() }
    };
    let unheard = health("").await;
    assert_eq!(unheard["data"][0]["target"], "10.0.0.1:80");
    assert!(unheard["data"][0].get("health").is_none());
    assert!(unheard["node_id"].is_string());

    let node = join(&admin, 1);
    admin.nodes.report_all(id(1), Reports::default(), SystemTime::now()).unwrap();
    assert_eq!(health("").await["data"][0]["health"], "HEALTHCHECKS_OFF");
    admin.form("PATCH", "/upstreams/u", "healthchecks.active.healthy.interval=1").await;
    let row = &health("/").await["data"][0];
    assert_eq!(row["health"], "HEALTHY");
    assert_eq!(
        row["data"]["addresses"],
        json!([{ "ip": "10.0.0.1", "port": 80, "weight": 100, "health": "HEALTHY" }])
    );
    assert_eq!((&row["data"]["dns"], &row["data"]["nodeWeight"]), (&json!("A"), &json!(100)));

    let bad =
        AddressReport { address: "10.0.0.1:80".parse().unwrap(), weight: 100, health: Health::Unhealthy };
    let reported = ReportedTarget {
        target: target["id"].as_str().unwrap().parse().unwrap(),
        report: Some(TargetReport { dns: "A".to_owned(), addresses: vec![bad] }),
    };
    admin.nodes.report(id(1), vec![reported], SystemTime::now()).unwrap();
    assert_eq!(health("").await["data"][0]["health"], "UNHEALTHY");
    let balancer = health("?balancer_health=1").await;
    assert_eq!(
        (&balancer["data"]["health"], &balancer["data"]["id"]),
        (&json!("UNHEALTHY"), &upstream["id"])
    );
    assert_eq!(
        balancer["data"]["details"]["weight"],
        json!({ "total": 100, "available": 0, "unavailable": 100 })
    );
    assert_eq!(balancer["data"]["details"]["hosts"][0]["addresses"][0]["healthy"], false);
    let own = admin.get(&format!("/upstreams/u/health?node_id={}", id(1))).await.json();
    assert_eq!(
        (&own["data"][0]["health"], &own["node_id"]),
        (&json!("UNHEALTHY"), &json!(id(1).to_string()))
    );
    assert_eq!(admin.get("/upstreams/u/health?node_id=x").await.status, 400);
    assert_eq!(admin.get("/upstreams/nope/health").await.status, 404);
    drop(node);
}

#[tokio::test]
async fn a_large_upstream_is_answered_like_a_small_one() {
    let admin = Admin::start().await;
    admin.create("/upstreams", json!({ "name": "u" })).await;
    for number in 0..60_u8 {
        let target = format!("10.0.0.{number}:80");
        admin.create("/upstreams/u/targets", json!({ "target": target })).await;
    }
    // Together more reports than are looked up on the spot.
    let mut sessions = Vec::new();
    for number in 0..100 {
        sessions.push(join(&admin, number));
        admin.nodes.report_all(id(number), Reports::default(), SystemTime::now()).unwrap();
    }
    let balancer = admin.get("/upstreams/u/health?balancer_health=1").await.json();
    assert_eq!(balancer["data"]["details"]["weight"]["total"], 6_000);
    assert_eq!(admin.get("/upstreams/u/health").await.json()["data"].as_array().unwrap().len(), 60);
}

#[tokio::test]
async fn health_set_by_hand_is_passed_on_to_the_nodes() {
    let admin = Admin::start().await;
    let upstream = admin.create("/upstreams", json!({ "name": "u" })).await;
    admin.create("/upstreams", json!({ "name": "other" })).await;
    let target = admin.create("/upstreams/u/targets", json!({ "target": "10.0.0.1:80" })).await;
    let put = |path: &str| {
        let path = path.to_owned();
        let admin = &admin;
        async move { admin.send("PUT", &path, &[], "").await }
    };
    let off = put("/upstreams/u/targets/10.0.0.1:80/healthy").await;
    assert_eq!((off.status, off.json()), (400, json!({ "message": "no healthchecker found for u" })));
    admin.form("PATCH", "/upstreams/u", "healthchecks.passive.unhealthy.http_failures=1").await;

    let id = |entity: &Value| entity["id"].as_str().unwrap().parse::<Uuid>().unwrap();
    let mut marks = admin.nodes.marks();
    let mark = |address: Option<&str>, verdict| Mark {
        upstream: id(&upstream),
        target: id(&target),
        address: address.map(|address| address.parse().unwrap()),
        verdict,
        seen_at: admin.store.head().position,
    };
    let by_id = format!("/upstreams/{}/targets/{}/healthy", id(&upstream), id(&target));
    for (path, want) in [
        ("/upstreams/u/targets/10.0.0.1:80/unhealthy", mark(None, Verdict::Unhealthy)),
        (&*by_id, mark(None, Verdict::Healthy)),
        (
            "/upstreams/u/targets/10.0.0.1:80/10.0.0.1:80/unhealthy",
            mark(Some("10.0.0.1:80"), Verdict::Unhealthy),
        ),
        ("/upstreams/u/targets/10.0.0.1:80/10.0.0.9/healthy", mark(Some("10.0.0.9:8000"), Verdict::Healthy)),
        ("/upstreams/u/targets/10.0.0.1:80/a.example/healthy", mark(None, Verdict::Healthy)),
    ] {
        let answer = put(path).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}");
        assert_eq!(marks.try_recv(), Ok(want), "{path}");
    }
    for (method, path, status) in [
        ("PUT", "/upstreams/nope/targets/10.0.0.1:80/healthy", 404),
        ("PUT", "/upstreams/u/targets/10.0.0.2:80/healthy", 404),
        ("PUT", "/upstreams/other/targets/10.0.0.1:80/healthy", 404),
        ("POST", "/upstreams/u/targets/10.0.0.1:80/healthy", 405),
        ("GET", "/upstreams/u/targets/10.0.0.1:80/unhealthy", 405),
    ] {
        assert_eq!(admin.send(method, path, &[], "").await.status, status, "{method} {path}");
    }
    assert!(marks.try_recv().is_err(), "what was refused is told to nobody");
}
