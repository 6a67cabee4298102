use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::harness::*;
use crate::health::{Limits, Passive};
use crate::proxy::ProxySettings;
use crate::proxy::tests::harness::{PATIENCE, eventually};
use crate::router::stream::{End, Transports};

const UDP: Transports = Transports { tcp: false, tls: false, tls_passthrough: false, udp: true };

fn plan(targets: &[SocketAddr]) -> Plan {
    Plan { transports: UDP, ..Plan::tcp(targets) }
}

/// One refusal makes a target unhealthy.
fn one_refusal() -> Passive {
    let limits = Limits { tcp: std::num::NonZeroU8::new(1), ..Limits::default() };
    Passive { limits, healthy: Default::default(), unhealthy: Default::default() }
}

fn start(plan: Plan, change: impl FnOnce(&mut ProxySettings)) -> Node {
    Node::start(vec![plan], None, |settings| {
        settings.datagram_listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
        change(settings);
    })
}

/// A socket with a deadline.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A client of the node.
fn client(node: &Node) -> UdpSocket {
    client_of(node.running.datagram_addresses()[0])
}

fn client_of(address: SocketAddr) -> UdpSocket {
    let socket = socket();
    socket.connect(address).unwrap();
    socket
}

/// A target that answers every datagram with its name and the datagram, until it is told to stop. Stopped, nobody
/// takes datagrams there.
struct Target {
    address: SocketAddr,
    stops: Arc<AtomicBool>,
}

impl Target {
    fn echo(name: &'static str) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let address = socket.local_addr().unwrap();
        let stops = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stops);
        std::thread::spawn(move || {
            let mut bytes = vec![0; 65_535];
            while !stopped.load(Ordering::SeqCst) {
                if let Ok((length, source)) = socket.recv_from(&mut bytes) {
                    let answer = [name.as_bytes(), &bytes[..length]].concat();
                    drop(socket.send_to(&answer, source));
                }
            }
            drop(socket);
        });
        Self { address, stops }
    }

    fn stop(&self) {
        self.stops.store(true, Ordering::SeqCst);
        eventually("nobody listens there", || UdpSocket::bind(self.address).is_ok());
    }
}

fn ask(client: &UdpSocket, datagram: &[u8]) -> String {
    client.send(datagram).unwrap();
    let mut bytes = vec![0; 65_535];
    let length = client.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

#[test]
fn a_client_keeps_its_target_and_another_has_another() {
    let (a, b) = (Target::echo("a"), Target::echo("b"));
    let node = start(plan(&[a.address, b.address]), |_| {});
    let clients = [client(&node), client(&node)];
    let names: Vec<_> = clients.iter().map(|client| ask(client, b"")).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 2, "they are balanced");
    for _ in 0..5 {
        for (client, name) in clients.iter().zip(&names) {
            assert_eq!(ask(client, b"x"), format!("{name}x"));
        }
    }
    assert_eq!(node.metric("equipoise_stream_active_sessions{transport=\"udp\"}"), 2.0);
    let largest = vec![b'x'; 60_000];
    assert_eq!(ask(&clients[0], &largest).len(), 60_001);
    let ingress = "kong_bandwidth_bytes{service=\"service\",route=\"route-0\",direction=\"ingress\"";
    eventually("bytes are counted", || node.metric(ingress) == 60_010.0);
}

#[test]
fn a_session_ends_when_nothing_is_said() {
    let target = Target::echo("a");
    let node = start(Plan { timeout: Duration::from_millis(200), ..plan(&[target.address]) }, |_| {});
    assert_eq!(ask(&client(&node), b"x"), "ax");
    node.assert_sessions(200, 1.0);
    node.assert_active("udp", 0.0);
}

#[test]
fn who_takes_no_datagrams_counts_as_refusing_and_another_is_asked() {
    let (dead, b) = (Target::echo("a"), Target::echo("b"));
    dead.stop();
    let node = start(Plan { passive: Some(one_refusal()), ..plan(&[dead.address, b.address]) }, |_| {});
    let deadline = Instant::now() + PATIENCE;
    // As clients over UDP do, these ask again.
    for _ in 0..4 {
        let client = client(&node);
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        loop {
            client.send(b"x").unwrap();
            let mut bytes = [0; 16];
            if let Ok(length) = client.recv(&mut bytes) {
                assert_eq!(&bytes[..length], b"bx");
                break;
            }
            assert!(Instant::now() < deadline, "the other target answers");
        }
    }
    assert!(!node.targets[0][0].is_available());
    node_has_502(&node);
}

#[test]
fn clients_that_say_one_thing_each_are_enough_to_see_that_a_target_takes_none() {
    let (dead, b) = (Target::echo("a"), Target::echo("b"));
    dead.stop();
    let node = start(Plan { passive: Some(one_refusal()), ..plan(&[dead.address, b.address]) }, |_| {});
    let clients = [client(&node), client(&node)];
    for client in &clients {
        client.send(b"x").unwrap();
    }
    eventually("it counts as refusing", || !node.targets[0][0].is_available());
    node_has_502(&node);
    assert_eq!(ask(&client(&node), b"x"), "bx");
}

fn node_has_502(node: &Node) {
    eventually("it is counted", || node.sessions(502) >= 1.0);
}

#[test]
fn a_target_that_dies_is_left_for_another() {
    let (a, b) = (Target::echo("a"), Target::echo("b"));
    let node = start(Plan { passive: Some(one_refusal()), ..plan(&[a.address, b.address]) }, |_| {});
    let client = client(&node);
    let first = ask(&client, b"");
    let (dies, lives) = if first == "a" { (&a, "b") } else { (&b, "a") };
    dies.stop();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    eventually("the other one answers", || {
        client.send(b"").unwrap();
        let mut bytes = [0; 16];
        matches!(client.recv(&mut bytes), Ok(1) if bytes[0] == lives.as_bytes()[0])
    });
}

#[test]
fn without_a_route_a_service_or_a_target_the_status_is_counted() {
    let nowhere = vec![End { network: None, port: Some(1) }];
    let rows: [(&str, Plan, &str); 3] = [
        ("no route", Plan { destinations: nowhere, ..plan(&[]) }, "{service=\"\",route=\"\",code=\"500\""),
        (
            "no service",
            Plan { has_service: false, ..plan(&[]) },
            "{service=\"service\",route=\"route-0\",code=\"503\"",
        ),
        ("no target", plan(&[]), "{service=\"service\",route=\"route-0\",code=\"503\""),
    ];
    for (name, plan, labels) in rows {
        let node = start(plan, |_| {});
        client(&node).send(b"x").unwrap();
        eventually(name, || node.metric(&format!("kong_stream_sessions_total{labels}")) == 1.0);
        eventually(name, || node.metric("equipoise_stream_active_sessions{transport=\"udp\"}") == 0.0);
    }
}

#[test]
fn ten_thousand_clients_are_bounded_and_the_busy_one_stays() {
    const MOST: usize = 100;
    let target = Target::echo("a");
    let node = start(plan(&[target.address]), |settings| settings.datagram_sessions_max = MOST);
    let busy = client(&node);
    assert_eq!(ask(&busy, b"x"), "ax");
    let address = node.running.datagram_addresses()[0];
    for number in 0..10_000_u32 {
        // 127.0.0.0/8 is all ours: each is another client.
        let [_, high, middle, low] = number.to_be_bytes();
        let socket = UdpSocket::bind(((Ipv4Addr::new(127, high + 1, middle, low)), 0)).unwrap();
        socket.send_to(b"x", address).unwrap();
        if number % 50 == 0 {
            assert_eq!(ask(&busy, b"x"), "ax", "{number}");
            let active = node.metric("equipoise_stream_active_sessions{transport=\"udp\"}");
            // Those that were told to end may be on their way.
            assert!(active <= 2.0 * MOST as f64, "{active}");
        }
    }
    assert!(node.metric("equipoise_stream_evicted_sessions_total") > 5_000.0);
    let active = || node.metric("equipoise_stream_active_sessions{transport=\"udp\"}");
    eventually("no more than the bound stay", || active() <= MOST as f64);
    assert_eq!(ask(&busy, b"x"), "ax");
}

#[test]
fn sessions_leave_the_reserve_of_descriptors_alone() {
    let target = Target::echo("a");
    // Below the number of whatever is opened next.
    let node = start(plan(&[target.address]), |settings| settings.descriptors_for_clients = 3);
    let client = client(&node);
    client.send(b"x").unwrap();
    eventually("it is dropped, and counted", || {
        node.metric("equipoise_stream_dropped_datagrams_total") == 1.0 && node.sessions(502) == 1.0
    });
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(client.recv(&mut [0; 16]).is_err());
    assert!(node.targets[0][0].is_available(), "no fault of the target");
    node.assert_active("udp", 0.0);
}

#[test]
fn answers_come_from_where_the_client_has_sent_to() {
    let target = Target::echo("a");
    let node = start(plan(&[target.address]), |settings| {
        settings.datagram_listen = vec![(Ipv4Addr::UNSPECIFIED, 0).into()];
    });
    let port = node.running.datagram_addresses()[0].port();
    // Connected: it takes answers from there only.
    let client = client_of((Ipv4Addr::new(127, 0, 0, 7), port).into());
    assert_eq!(ask(&client, b"x"), "ax");
}

#[test]
fn a_stop_leaves_sessions_a_moment_for_their_answers() {
    let target = Target::echo("a");
    let node = start(plan(&[target.address]), |_| {});
    let client = client(&node);
    assert_eq!(ask(&client, b"x"), "ax");
    client.send(b"y").unwrap();
    let Node { running, .. } = node;
    let drained = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let start = Instant::now();
        runtime.block_on(running.drain(start + PATIENCE));
        start.elapsed()
    });
    let mut bytes = [0; 16];
    assert_eq!(client.recv(&mut bytes).unwrap(), 2);
    assert_eq!(&bytes[..2], b"ay");
    let took = drained.join().unwrap();
    assert!(took < PATIENCE, "{took:?}: nobody waits for those who say nothing");
}
