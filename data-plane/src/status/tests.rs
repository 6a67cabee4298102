use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use equipoise_proto::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;
use uuid::Uuid;

use super::*;
use crate::observability::{RequestSample, Source};
use crate::table::fixture::{id, passive, position, route, service, target, upstream_with};
use crate::table::{CellKey, Update, builder};

/// Few, so that a test can have all of them.
const CONNECTIONS_MAX: usize = 8;

struct Answer {
    status: StatusCode,
    kind: String,
    text: String,
}

async fn ask(sources: &Sources, method: &str, path: &str, body: &'static str) -> Answer {
    let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
    let response = router(sources.clone()).oneshot(request).await.unwrap();
    let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap().to_owned());
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    Answer { status, kind: kind.unwrap_or_default(), text: String::from_utf8(bytes.to_vec()).unwrap() }
}

/// A node with two targets of which the first is ejected, and one whose name has no answer.
async fn node() -> Sources {
    let node = Arc::new(NodeState::new(NodeId::new(Uuid::from_u128(7))));
    let (builder, seams) = builder(Arc::clone(&node));
    let updates = seams.updates.clone();
    tokio::spawn(builder.run());
    let records = vec![
        upstream_with(1, "u", |upstream| passive(upstream, 1)),
        target(11, 1, "127.0.0.1:9001", 100),
        target(12, 1, "127.0.0.1:9002", 100),
        target(13, 1, "a.test:80", 100),
        service(2, "u", 80),
        route(3, Some(2), "/u"),
    ];
    updates.apply(position(1), Update::Snapshot(records)).await.unwrap();
    let directory = Arc::clone(&seams.directory);
    let cell = directory.load().get(&CellKey::Upstream(id(1))).cloned().unwrap();
    cell.members().addresses().next().unwrap().target.set_health(false);
    let hostname = "h".into();
    Sources {
        hostname,
        node,
        workers: Workers::new(2),
        active: seams.active.clone(),
        directory,
        events: seams.events,
        access_logs: [].into(),
        spans: None,
        plugins: Stores::new(0, 1_000, 1 << 20).into(),
        pen: None,
    }
}

/// A Status API on loopback, and what stops it.
async fn listening() -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, CONNECTIONS_MAX, node().await, stop.clone()));
    (address, stop, serving)
}

const READY: &[u8] = b"GET /status/ready HTTP/1.1\r\nHost: a\r\n\r\n";

async fn read_ready(client: &mut TcpStream) {
    let mut answer = [0; 1024];
    let read = client.read(&mut answer).await.unwrap();
    assert!(
        answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"),
        "{}",
        String::from_utf8_lossy(&answer[..read])
    );
}

#[tokio::test(start_paused = true)]
async fn a_head_or_a_body_that_does_not_come_ends_its_connection() {
    let (address, _stop, _serving) = listening().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /status HT").await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "");
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = b"POST /status/ready HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nstat";
    client.write_all(head).await.unwrap();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn connections_past_the_bound_wait_until_others_end() {
    let (address, stop, serving) = listening().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(READY).await.unwrap();
        read_ready(&mut client).await;
        held.push(client);
    }
    let mut waiting = TcpStream::connect(address).await.unwrap();
    waiting.write_all(READY).await.unwrap();
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(50), waiting.peek(&mut byte)).await;
    assert!(early.is_err(), "answered past the bound");
    held.pop();
    read_ready(&mut waiting).await;
    // Idle connections do not delay a stop.
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn readiness_follows_config_and_drain() {
    let empty = Sources {
        hostname: "h".into(),
        node: Arc::new(NodeState::new(NodeId::new(Uuid::from_u128(7)))),
        workers: Workers::new(1),
        active: Active::default(),
        directory: Arc::default(),
        events: Arc::default(),
        access_logs: [].into(),
        spans: None,
        plugins: Stores::new(0, 1_000, 1 << 20).into(),
        pen: None,
    };
    let answer = ask(&empty, "GET", "/status/ready", "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "before any config");
    empty.node.config_applied(Duration::from_millis(1));
    let answer = ask(&empty, "GET", "/status/ready", "").await;
    assert_eq!(
        (answer.status, &*answer.text),
        (StatusCode::OK, "{\"message\":\"ready\"}"),
        "even an empty one"
    );
    assert_eq!(ask(&empty, "POST", "/status/ready", "status=up").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ask(&empty, "POST", "/status/ready", "").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ask(&empty, "POST", "/status/ready", "status=draining").await.status, StatusCode::NO_CONTENT);
    let answer = ask(&empty, "GET", "/status/ready", "").await;
    assert_eq!(
        (answer.status, &*answer.text),
        (StatusCode::SERVICE_UNAVAILABLE, "{\"message\":\"draining\"}")
    );
    assert_eq!(ask(&empty, "GET", "/nope", "").await.text, "{\"message\":\"Not found\"}");
    assert_eq!(ask(&empty, "DELETE", "/status", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn status_counts_connections_of_all_workers() {
    let sources = node().await;
    sources.workers.get(0).unwrap().connection_opened();
    sources.workers.get(1).unwrap().connection_opened();
    sources.workers.get(1).unwrap().connection_closed();
    let answer = ask(&sources, "GET", "/status", "").await;
    let status: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(status["server"]["connections_accepted"], 2);
    assert_eq!(status["server"]["connections_active"], 1);
    assert_eq!(status["configuration_hash"], "07".repeat(16));
}

#[tokio::test]
async fn metrics_have_the_names_and_labels_of_the_dashboards() {
    let sources = node().await;
    let table = sources.active.load();
    let metrics = table.routes.iter().flatten().next().unwrap().metrics.clone();
    let sample = RequestSample {
        code: 200,
        source: Source::Service,
        request: Duration::from_millis(60),
        upstream: Some(Duration::from_millis(57)),
        ingress_bytes: 10,
        egress_bytes: 20,
    };
    for worker in sources.workers.iter() {
        worker.request(Some(&metrics), &sample);
    }
    sources
        .workers
        .get(0)
        .unwrap()
        .request(None, &RequestSample { code: 404, source: Source::Kong, ..sample });
    let answer = ask(&sources, "GET", "/metrics", "").await;
    assert_eq!(answer.kind, "text/plain; charset=UTF-8");
    let health = |target: &str, address: &str, state: &str, value: u8| {
        format!(
            "kong_upstream_target_health{{upstream=\"u\",target=\"{target}\",address=\"{address}\",\
             state=\"{state}\",subsystem=\"http\"}} {value}\n"
        )
    };
    let wanted = [
        "# TYPE kong_http_requests_total counter\n".to_owned(),
        "kong_http_requests_total{service=\"service-2\",route=\"route-3\",code=\"200\",source=\"service\",\
         workspace=\"default\",consumer=\"\"} 2\n"
            .to_owned(),
        "kong_http_requests_total{service=\"\",route=\"\",code=\"404\",source=\"kong\",\
         workspace=\"default\",consumer=\"\"} 1\n"
            .to_owned(),
        "kong_kong_latency_ms_bucket{service=\"service-2\",route=\"route-3\",workspace=\"default\",le=\"5\"} 2\n"
            .to_owned(),
        "kong_upstream_latency_ms_bucket{service=\"service-2\",route=\"route-3\",workspace=\"default\",\
         le=\"25\"} 0\n"
            .to_owned(),
        "kong_request_latency_ms_sum{service=\"service-2\",route=\"route-3\",workspace=\"default\"} 120.000\n"
            .to_owned(),
        "kong_bandwidth_bytes{service=\"service-2\",route=\"route-3\",direction=\"egress\",\
         workspace=\"default\",consumer=\"\"} 40\n"
            .to_owned(),
        "# TYPE kong_nginx_connections_total gauge\n".to_owned(),
        "equipoise_target_ejections_total 1\n".to_owned(),
        health("127.0.0.1:9001", "127.0.0.1:9001", "unhealthy", 1),
        health("127.0.0.1:9001", "127.0.0.1:9001", "healthy", 0),
        health("127.0.0.1:9002", "127.0.0.1:9002", "healthy", 1),
        health("a.test:80", "", "dns_error", 1),
    ];
    for line in wanted {
        assert!(answer.text.contains(&line), "no {line} in\n{}", answer.text);
    }
    assert_eq!(answer.text.matches("address=\"127.0.0.1:9001\"").count(), 4, "four series an address");
}

#[tokio::test]
async fn health_of_an_upstream_by_name_and_by_id() {
    let sources = node().await;
    let answer = ask(&sources, "GET", "/upstreams/u/health", "").await;
    let health: Value = serde_json::from_str(&answer.text).unwrap();
    let states: Vec<_> = health["data"].as_array().unwrap().iter().map(|one| one["health"].clone()).collect();
    assert_eq!(states, ["DNS_ERROR", "HEALTHY", "UNHEALTHY"]);
    assert_eq!(health["data"][2]["data"]["weight"]["unavailable"], 100);
    let by_id = ask(&sources, "GET", &format!("/upstreams/{}/health", id(1)), "").await;
    assert_eq!(by_id.text, answer.text);
    assert_eq!(ask(&sources, "GET", "/upstreams/x/health", "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_node_tells_how_it_balances_and_what_happened() {
    let sources = node().await;
    let ask_json = async |path: &str| {
        let answer = ask(&sources, "GET", path, "").await;
        (answer.status.as_u16(), serde_json::from_str::<Value>(&answer.text).unwrap())
    };
    let (status, balancer) = ask_json("/upstreams/u/balancer").await;
    assert_eq!(
        (status, &balancer["hostname"], &balancer["algorithm"]),
        (200, &json!("h"), &json!("round-robin"))
    );
    let labels: Vec<_> = balancer["targets"].as_array().unwrap().iter().map(|one| &one["target"]).collect();
    assert_eq!(labels, ["a.test:80", "127.0.0.1:9002", "127.0.0.1:9001"]);
    let address = &balancer["targets"][2]["addresses"][0];
    assert_eq!((&address["state"], &address["why"]), (&json!("unhealthy"), &json!("operator")));
    assert!(address["since"].as_f64().unwrap() > 1.7e9, "{address}");
    assert_eq!(ask_json(&format!("/upstreams/{}/balancer", id(1))).await.1["targets"], balancer["targets"]);
    assert_eq!(ask_json("/upstreams/x/balancer").await.0, 404);

    let (status, upstreams) = ask_json("/upstreams").await;
    assert_eq!((status, upstreams["data"].as_array().unwrap().len()), (200, 1));
    assert_eq!(
        (&upstreams["data"][0]["name"], &upstreams["data"][0]["readiness"]),
        (&json!("u"), &json!("serving"))
    );
    assert_eq!(upstreams["next"], Value::Null);
    assert_eq!(ask_json("/upstreams?offset=1").await.1["data"], json!([]));
    assert_eq!(
        ask_json("/upstreams?offset=x").await,
        (400, json!({ "message": "offset must be a whole number" }))
    );

    let (status, events) = ask_json("/events?upstream=u&after=0").await;
    let event = &events["data"][0];
    assert_eq!((status, &event["number"], &event["target"]), (200, &json!(1), &json!("127.0.0.1:9001")));
    assert_eq!(
        (&event["from"], &event["to"], &event["why"]),
        (&json!("healthy"), &json!("unhealthy"), &json!("operator"))
    );
    assert_eq!((&events["last"], &events["has_lost"]), (&json!(1), &json!(false)));
    assert_eq!(ask_json("/events?after=1").await.1["data"], json!([]));
    assert_eq!(ask_json("/events?upstream=v").await.1["data"], json!([]));
    assert_eq!(
        ask_json("/events?after=-1").await,
        (400, json!({ "message": "after must be a whole number" }))
    );
}

#[tokio::test]
async fn metrics_tell_the_load_of_upstreams_and_why_targets_changed() {
    let sources = node().await;
    let answer = ask(&sources, "GET", "/metrics", "").await;
    for line in [
        "equipoise_upstream_active_requests{upstream=\"u\"} 0\n",
        "equipoise_upstream_pending_requests{upstream=\"u\"} 0\n",
        "equipoise_upstream_active_retries{upstream=\"u\"} 0\n",
        "equipoise_upstream_available_weight{upstream=\"u\"} 100\n",
        "equipoise_upstream_total_weight{upstream=\"u\"} 200\n",
        "equipoise_upstream_panic{upstream=\"u\"} 0\n",
        "equipoise_target_transitions_total{cause=\"operator\"} 1\n",
        "equipoise_target_transitions_total{cause=\"probe_tcp\"} 0\n",
        "equipoise_metrics_left_out{kind=\"address\"} 0\n",
    ] {
        assert!(answer.text.contains(line), "no {line} in\n{}", answer.text);
    }
}

#[tokio::test]
async fn routes_that_are_odd_are_named_as_long_as_they_are() {
    let sources = node().await;
    let none = ask(&sources, "GET", "/routes/warnings", "").await;
    assert_eq!(none.text, "{\"data\":[],\"next\":null}");
    let node = Arc::new(NodeState::new(NodeId::new(Uuid::from_u128(7))));
    let (builder, seams) = builder(node);
    tokio::spawn(builder.run());
    let sources = Sources { active: seams.active.clone(), ..sources };
    let records = vec![
        upstream_with(1, "u", |_| {}),
        service(2, "u", 80),
        route(3, Some(2), "/u"),
        route(4, Some(2), "/u"),
        route(5, Some(2), "~/a++$"),
    ];
    seams.updates.apply(position(1), Update::Snapshot(records)).await.unwrap();
    let warnings = async |offset: &str| {
        let answer = ask(&sources, "GET", &format!("/routes/warnings{offset}"), "").await;
        let answer: Value = serde_json::from_str(&answer.text).unwrap();
        let rows = answer["data"].as_array().unwrap().iter();
        let row = |row: &Value| {
            [&row["route"]["id"], &row["warning"], &row["rival"]["id"]].map(ToString::to_string)
        };
        let mut rows: Vec<_> = rows.map(row).collect();
        rows.sort();
        rows
    };
    let name = |number| json!(id(number)).to_string();
    let equal = json!("equal_priority").to_string();
    let all = [
        [name(3), equal.clone(), name(4)],
        [name(4), equal, name(3)],
        [name(5), json!("possessive_quantifier").to_string(), "null".to_owned()],
    ];
    assert_eq!(warnings("").await, all);
    assert_eq!(warnings("?offset=2").await.len(), 1);
    assert_eq!(ask(&sources, "GET", "/routes/warnings?offset=x", "").await.status, StatusCode::BAD_REQUEST);
    let records = vec![upstream_with(1, "u", |_| {}), service(2, "u", 80), route(4, Some(2), "/u")];
    seams.updates.apply(position(2), Update::Snapshot(records)).await.unwrap();
    assert!(warnings("").await.is_empty(), "it has no rival any more");
}
