//! What the access log says of sessions, good and bad.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use equipoise_access_log::{AccessLog, Destination, Format, Plan as LogPlan};
use serde_json::{Value, json};

use super::harness::*;
use super::tls::{secure, secure_echo};
use crate::proxy::tests::harness::{Origin, PATIENCE};
use crate::proxy::tests::log_file::{LogFile, part};
use crate::router::stream::{End, Transports};
use crate::tls::fixture::{Authority, Valid};

/// What a line says of how a session went.
const OUTCOME: &[&str] = &["protocol", "status", "end", "service", "route", "upstream", "tries"];

fn logged(plans: Vec<Plan>, file: &LogFile) -> Node {
    Node::start(plans, None, |settings| settings.stream_access_log = Some(file.log.clone()))
}

#[test]
fn a_session_is_told_of_at_its_end_with_all_that_is_known() {
    let file = LogFile::start();
    let (refusing, target) = (Origin::refusing(), echo("a:"));
    let node = logged(vec![Plan::tcp(&[refusing, target])], &file);
    let began = Instant::now();
    let mut client = node.connect();
    assert_eq!(read(&mut client, 2), "a:");
    client.write_all(b"hello").unwrap();
    assert_eq!(read(&mut client, 5), "hello");
    assert!(file.lines(0).is_empty(), "it is under way");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let line = file.lines(1).remove(0);
    let took = line["total_ms"].as_f64().unwrap();
    assert!((0.0..=began.elapsed().as_secs_f64() * 1000.0).contains(&took), "{line}");
    let tries = line["tries"].clone();
    let want = json!({
        "client": "127.0.0.1",
        "port": node.address.port(),
        "protocol": "tcp",
        "status": 200,
        "end": "closed",
        "request_bytes": 5,
        "response_bytes": 7,
        "service": "service",
        "route": "route-0",
        "upstream": target.to_string(),
        "tries": tries,
        "total_ms": took,
        "time": line["time"],
    });
    assert_eq!(line, want);
    // Round-robin: of two sessions one begins with the target that refuses.
    assert_eq!(read(&mut node.connect(), 2), "a:");
    let mut tries: Vec<_> = file.lines(2).iter().map(|line| line["tries"].as_u64()).collect();
    tries.sort();
    assert_eq!(tries, [Some(1), Some(2)]);
}

#[test]
fn each_way_to_end_has_its_word() {
    let file = LogFile::start();
    let reset = target(|mut stream| {
        drop(stream.read(&mut [0]));
        // What was not read when it is closed makes it a reset.
    });
    let silent = target(|mut stream| drop(stream.read(&mut [0])));
    let waits = Duration::from_millis(200);
    let [broken, idle, removed] = [
        logged(vec![Plan::tcp(&[reset])], &file),
        logged(vec![Plan { timeout: waits, ..Plan::tcp(&[silent]) }], &file),
        logged(vec![Plan::tcp(&[echo("a")])], &file),
    ];
    let mut client = broken.connect();
    client.write_all(b"hello").unwrap();
    assert!(client.read_to_end(&mut Vec::new()).is_err());
    let mut outcomes = vec![json!({"end": "broken", "status": 200})];
    drop(idle.connect().read(&mut [0]));
    outcomes.push(json!({"end": "idle", "status": 200}));
    assert_eq!(of(&file.lines(2), &["end", "status"]), outcomes);

    let mut client = removed.connect();
    assert_eq!(read(&mut client, 1), "a");
    removed.cut(0);
    drop(client.read(&mut [0]));
    outcomes.push(json!({"end": "removed", "status": 200}));
    assert_eq!(of(&file.lines(3), &["end", "status"]), outcomes);
}

fn of(lines: &[Value], names: &[&str]) -> Vec<Value> {
    lines.iter().map(|line| part(line, names)).collect()
}

#[test]
fn who_cannot_be_served_has_a_line_as_well() {
    let elsewhere = vec![End { network: None, port: Some(1) }];
    let refusing = Origin::refusing();
    for (name, plan, want) in [
        (
            "no route",
            Plan { destinations: elsewhere, ..Plan::tcp(&[]) },
            json!({"protocol": "tcp", "status": 500, "end": null, "service": null, "route": null, "upstream": null, "tries": null}),
        ),
        (
            "no service",
            Plan { has_service: false, ..Plan::tcp(&[]) },
            json!({"protocol": "tcp", "status": 503, "end": null, "service": "service", "route": "route-0", "upstream": null, "tries": null}),
        ),
        (
            "no target",
            Plan::tcp(&[]),
            json!({"protocol": "tcp", "status": 503, "end": null, "service": "service", "route": "route-0", "upstream": null, "tries": null}),
        ),
        (
            "nobody reached",
            Plan { retries: 1, ..Plan::tcp(&[refusing]) },
            json!({"protocol": "tcp", "status": 502, "end": null, "service": "service", "route": "route-0", "upstream": refusing.to_string(), "tries": 2}),
        ),
    ] {
        let file = LogFile::start();
        let node = logged(vec![plan], &file);
        drop(node.connect().read(&mut [0]));
        assert_eq!(part(&file.lines(1)[0], OUTCOME), want, "{name}");
    }
}

#[test]
fn tls_is_told_of_by_what_became_of_it_and_the_name() {
    let file = LogFile::start();
    let (own, targets) = (Authority::root("the node's"), Authority::root("the target's"));
    let shown = own.issue(&["ended.test", "passed.test"], Valid::Now).server(&[]);
    let passed = secure_echo("passed", targets.issue(&["passed.test"], Valid::Now).server(&[]));
    let plans = vec![Plan::tls(&[echo("ended")], "ended.test"), Plan::passthrough(&[passed], "passed.test")];
    let node = Node::start(plans, Some(shown.into()), |settings| {
        settings.stream_access_log = Some(file.log.clone());
    });
    let names = ["protocol", "status", "route", "tls_version", "sni"];
    let mut ended = secure(node.connect(), own.trusted(1).verifying(None), "ended.test");
    ended.write_all(b"x").unwrap();
    assert_eq!(read(&mut ended, 6), "endedx");
    drop(ended);
    let want = json!({"protocol": "tls", "status": 200, "route": "route-0", "tls_version": "TLSv1.3", "sni": "ended.test"});
    assert_eq!(part(&file.lines(1)[0], &names), want);
    let mut through = secure(node.connect(), targets.trusted(1).verifying(None), "passed.test");
    through.write_all(b"x").unwrap();
    assert_eq!(read(&mut through, 7), "passedx");
    drop(through);
    let want = json!({"protocol": "tls_passthrough", "status": 200, "route": "route-1", "tls_version": null, "sni": "passed.test"});
    assert_eq!(part(&file.lines(2)[1], &names), want);
    node.connect().write_all(b"no handshake").unwrap();
    let want = json!({"protocol": "tls", "status": 400, "route": null, "tls_version": null, "sni": null});
    assert_eq!(part(&file.lines(3)[2], &names), want);
    // Whoever does not trust the certificate ends the handshake.
    let mut wary = secure(node.connect(), targets.trusted(1).verifying(None), "ended.test");
    assert!(wary.write_all(b"x").and_then(|()| wary.read_exact(&mut [0])).is_err());
    let want = json!({"protocol": "tls", "status": 400, "route": "route-0", "tls_version": null, "sni": "ended.test"});
    assert_eq!(part(&file.lines(4)[3], &names), want);
}

const UDP: Transports = Transports { tcp: false, tls: false, tls_passthrough: false, udp: true };

fn udp_node(file: &LogFile, plan: Plan, sessions_max: usize) -> Node {
    Node::start(vec![Plan { transports: UDP, ..plan }], None, |settings| {
        settings.stream_access_log = Some(file.log.clone());
        settings.datagram_listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
        settings.datagram_sessions_max = sessions_max;
    })
}

fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, source)) = socket.recv_from(&mut bytes) {
            drop(socket.send_to(&[&bytes[..length], &b"!"[..]].concat(), source));
        }
    });
    address
}

fn udp_client(node: &Node) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(node.running.datagram_addresses()[0]).unwrap();
    socket
}

#[test]
fn datagrams_of_a_client_are_one_session_with_one_line() {
    let file = LogFile::start();
    let target = udp_echo();
    let node = udp_node(&file, Plan { timeout: Duration::from_millis(300), ..Plan::tcp(&[target]) }, 100);
    let client = udp_client(&node);
    for _ in 0..3 {
        client.send(b"1234").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 5);
    }
    let line = file.lines(1).remove(0);
    let want = json!({"protocol": "udp", "status": 200, "end": "idle", "service": "service", "route": "route-0", "upstream": target.to_string(), "tries": 1});
    assert_eq!(part(&line, OUTCOME), want);
    assert_eq!(
        part(&line, &["request_bytes", "response_bytes"]),
        json!({"request_bytes": 12, "response_bytes": 15})
    );
    assert_eq!(line["port"], node.running.datagram_addresses()[0].port());

    // Who makes way for another, and what has no target.
    let file = LogFile::start();
    let node = udp_node(&file, Plan::tcp(&[target]), 1);
    let clients = [udp_client(&node), udp_client(&node), udp_client(&node)];
    for client in &clients {
        client.send(b"x").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 2);
    }
    let want = json!({"status": 200, "end": "evicted", "request_bytes": 1, "response_bytes": 2});
    let lines = file.lines(2);
    assert_eq!(of(&lines, &["status", "end", "request_bytes", "response_bytes"]), [want.clone(), want]);
    let file = LogFile::start();
    let node = udp_node(&file, Plan { has_service: false, ..Plan::tcp(&[]) }, 1);
    udp_client(&node).send(b"123").unwrap();
    let want = json!({"status": 503, "end": null, "request_bytes": 3});
    assert_eq!(part(&file.lines(1)[0], &["status", "end", "request_bytes"]), want);
}

#[test]
fn a_session_that_a_stop_cuts_off_is_told_of() {
    let file = LogFile::start();
    let node = logged(vec![Plan::tcp(&[echo("a")])], &file);
    let mut client = node.connect();
    assert_eq!(read(&mut client, 1), "a");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(node.running.drain(Instant::now() + Duration::from_millis(100)));
    assert!(file.log.close(PATIENCE));
    let want = json!({"status": 200, "end": "stopped", "response_bytes": 1});
    assert_eq!(part(&file.lines(1)[0], &["status", "end", "response_bytes"]), want);
}

#[test]
fn a_log_that_cannot_be_written_holds_up_no_session() {
    let destination = Destination::File("/dev/full".into());
    let plan = LogPlan { destination, format: Format::Combined, buffer_bytes: 1 << 16 };
    let log = AccessLog::start(plan).unwrap();
    let node = Node::start(vec![Plan::tcp(&[echo("a")])], None, |settings| {
        settings.stream_access_log = Some(log.clone());
    });
    let ask = || -> TcpStream {
        let mut client = node.connect();
        assert_eq!(read(&mut client, 1), "a");
        client
    };
    (0..200).for_each(|_| drop(ask()));
    node.assert_active("tcp", 0.0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(node.running.drain(Instant::now() + PATIENCE));
    assert!(log.close(PATIENCE));
    assert_eq!((log.counts().written, log.counts().dropped), (0, 200));
}
