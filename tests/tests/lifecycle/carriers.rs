//! What is no HTTP/1 while new processes take over: HTTP/2, and sessions over TCP, TLS and UDP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use equipoise_tests::cluster::{balance, write};
use equipoise_tests::echo::{self, Echo};
use equipoise_tests::tls::{SCHEMES, client};
use equipoise_tests::{Http2Load, Origin, PATIENCE, eventually};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio_rustls::TlsConnector;

use crate::rig::{Rig, workers};

const LISTEN: &str = "127.0.0.1:0 http2, 127.0.0.1:0 http2 ssl";

/// A node of so many workers with every carrier, whose sessions may last as long as the test.
fn settings(count: usize) -> String {
    let all = "stream_listen = \"127.0.0.1:0, 127.0.0.1:0 ssl, 127.0.0.1:0 udp\"\n";
    workers(count).replace("\"10s\"", "\"60s\"") + all
}

/// All that goes on while processes take turns.
struct World {
    rig: Rig,
    requests: Http2Load,
    fresh: Rounds,
    tcp: Rounds,
    udp: Rounds,
    kept: TcpStream,
    kept_tls: rustls::StreamOwned<ClientConnection, TcpStream>,
    targets: (Origin, Echo),
}

impl World {
    fn start() -> Self {
        let rig = Rig::start(LISTEN, &settings(2));
        let (origin, echo) = (Origin::start("only"), Echo::tcp("1"));
        let mut admin = rig.control.client("admin");
        balance(&mut admin, "", &[origin.address()]);
        let (tcp, tls, udp) =
            (rig.node.address("stream"), rig.node.address("stream tls"), rig.node.address("stream udp"));
        let services = [("echo", "tcp", echo.address()), ("datagrams", "udp", echo::udp())];
        for (name, protocol, to) in services {
            let form = format!("name={name}&protocol={protocol}&host={}&port={}", to.ip(), to.port());
            write(&mut admin, "POST", "/services", &form, 201);
        }
        for (service, route) in [
            ("echo", format!("protocols[]=tcp&destinations[1].port={}", tcp.port())),
            ("echo", "protocols[]=tls&snis[]=ended.test".to_owned()),
            ("datagrams", "protocols[]=udp&sources[1].ip=127.0.0.0/8".to_owned()),
        ] {
            write(&mut admin, "POST", &format!("/services/{service}/routes"), &route, 201);
        }
        let name = ServerName::try_from("ended.test").unwrap();
        let kept_tls = ClientConnection::new(client(None, &[], SCHEMES), name).unwrap();
        let over_tls = rig.node.address("proxy tls");
        let config = client(None, &["h2"], SCHEMES);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut world = Self {
            requests: Http2Load::start(rig.node.address("proxy"), 3, "/mock"),
            fresh: Rounds::start(move || {
                let asked = async { tokio::time::timeout(PATIENCE, fresh(over_tls, &config)).await };
                runtime.block_on(asked).unwrap_or_else(|_| Err("no answer in time".to_owned()))
            }),
            tcp: Rounds::start(move || session(tcp)),
            udp: Rounds::start(move || datagrams(udp)),
            kept: connect(tcp).unwrap(),
            kept_tls: rustls::StreamOwned::new(kept_tls, connect(tls).unwrap()),
            rig,
            targets: (origin, echo),
        };
        assert_eq!(says(&mut world.kept, 1), "1");
        assert_eq!(says(&mut world.kept_tls, 1), "1");
        world.go_on();
        world
    }

    /// Waits until everything went on for a while.
    fn go_on(&mut self) {
        self.requests.wait_for(40);
        self.fresh.wait_for(5);
        self.tcp.wait_for(5);
        self.udp.wait_for(5);
        self.kept.write_all(b"still here").unwrap();
        assert_eq!(says(&mut self.kept, 10), "still here");
        self.kept_tls.write_all(b"still here").unwrap();
        assert_eq!(says(&mut self.kept_tls, 10), "still here");
    }

    /// Ends it all and gives the node, and how many connections of HTTP/2 were told to end.
    fn end(self) -> (Rig, u64) {
        let Self { rig, requests, fresh, tcp, udp, targets, .. } = self;
        let tally = requests.stop();
        let done = Arc::clone(&fresh.done);
        assert_eq!(fresh.stop(), Vec::<String>::new(), "HTTP/2 over TLS, each on a connection of its own");
        let answered = tally.answered + done.load(Ordering::SeqCst);
        assert_eq!(targets.0.requests(), answered, "what is said not to have begun has not");
        assert!(tally.failures.is_empty(), "HTTP/2, of {}: {:?}", tally.answered, tally.failures);
        assert_eq!(tcp.stop(), Vec::<String>::new(), "sessions over TCP");
        assert_eq!(udp.stop(), Vec::<String>::new(), "datagrams");
        assert!(!rig.node.log().contains("broke off"), "{}", rig.node.log());
        (rig, tally.told)
    }
}

/// Something that is done again and again until it is told to stop.
struct Rounds {
    is_stopping: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Vec<String>>,
}

impl Rounds {
    fn start(round: impl Fn() -> Result<(), String> + Send + 'static) -> Self {
        let (is_stopping, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stop, count) = (Arc::clone(&is_stopping), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                failures.extend(round().err());
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            }
            failures
        });
        Self { is_stopping, done, thread }
    }

    fn wait_for(&self, more: u64) {
        let goal = self.done.load(Ordering::SeqCst) + more;
        eventually("rounds to go on", PATIENCE, || (self.done.load(Ordering::SeqCst) >= goal).then_some(()));
    }

    fn stop(self) -> Vec<String> {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn says(stream: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A request of HTTP/2 over TLS on a connection of its own, which nobody may have told to go before it asked.
async fn fresh(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<(), String> {
    let of = |step: &'static str| move |error: std::io::Error| format!("{step}: {error}");
    let of_http2 = |step: &'static str| move |error: h2::Error| format!("{step}: {error}");
    let stream = tokio::net::TcpStream::connect(address).await.map_err(of("connecting"))?;
    let name = ServerName::try_from("a.test").map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    let (mut requests, connection) =
        h2::client::handshake(stream.map_err(of("TLS"))?).await.map_err(of_http2("HTTP/2"))?;
    let request = http::Request::get("https://a.test/mock").body(()).map_err(|error| error.to_string())?;
    let (response, _) = requests.send_request(request, true).map_err(of_http2("asking"))?;
    let connection = tokio::spawn(connection);
    let response = response.await.map_err(of_http2("no answer"))?;
    let status = response.status();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.map_err(of_http2("half an answer"))?;
        drop(body.flow_control().release_capacity(data.len()));
    }
    drop((requests, body));
    // However it ends: it has its answer.
    drop(connection.await);
    if status == 200 { Ok(()) } else { Err(format!("status {status}")) }
}

/// A session of its own.
fn session(address: SocketAddr) -> Result<(), String> {
    let exchange = || {
        let mut stream = connect(address)?;
        stream.write_all(b"ping")?;
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    match exchange() {
        Ok(bytes) if &bytes == b"1ping" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// A few datagrams from one port; every one comes back.
fn datagrams(address: SocketAddr) -> Result<(), String> {
    let exchange = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(PATIENCE / 6))?;
        socket.connect(address)?;
        for number in 0..5_u8 {
            socket.send(&[number])?;
            let mut byte = [u8::MAX];
            socket.recv(&mut byte)?;
            if byte != [number] {
                return Err(std::io::Error::other(format!("{byte:?} for {number}")));
            }
        }
        Ok(())
    };
    exchange().map_err(|error| error.to_string())
}

#[test]
fn new_processes_take_over_every_carrier_and_sessions_go_on() {
    const HANDOVERS: usize = 8;
    let mut world = World::start();
    for round in 0..HANDOVERS {
        // More workers than sockets, and fewer.
        world.rig.write_settings(&settings([3, 1, 4, 2][round % 4]));
        world.rig.hand_over();
        world.go_on();
    }
    // The kept sessions are of the first process, which ends with them.
    world.kept.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(world.kept.read(&mut [0]).unwrap(), 0);
    world.kept_tls.conn.send_close_notify();
    world.kept_tls.flush().unwrap();
    assert_eq!(world.kept_tls.read(&mut [0]).unwrap(), 0);
    let (mut rig, told) = world.end();
    let status = rig.node.wait(PATIENCE);
    assert!(status.success(), "{status}");
    assert!(told >= u64::try_from(HANDOVERS).unwrap(), "clients of HTTP/2 were told {told} times to go");
}

#[test]
fn a_successor_that_cannot_start_leaves_every_carrier_as_it_is() {
    let mut world = World::start();
    for (count, bad) in [
        settings(2).replace("workers = 2", "workers = \"none\""),
        // It has the sockets by then, and lets go of them.
        settings(2) + "error_template_json = \"/no/such/file\"\n",
        settings(2) + "[tls]\ntrusted_certificates = \"/no/such/file\"\n",
    ]
    .into_iter()
    .enumerate()
    {
        world.rig.write_settings(&bad);
        world.rig.signal("USR2");
        world.rig.wait_for_log("the successor ended before it took over", count + 1);
        world.go_on();
        assert!(!world.rig.node.log().contains("handed over;"), "{bad}");
    }
    let (_, told) = world.end();
    assert_eq!(told, 0, "nobody was asked to go");
}
