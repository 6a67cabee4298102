//! Access logs of the real binaries: what they say of good and bad traffic, in each format and place; that nothing is lost when
//! files are rotated, and that neither a full disk nor a reader that stopped holds up anybody.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::fleet::says;
use equipoise_tests::{Client, Http2Client, Load, Origin, PATIENCE, Process, eventually};
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::TestRunner;
use regex::Regex;
use serde_json::{Value, json};

/// Longest that one request may take beside a log that cannot be written.
const NOTICEABLE: Duration = Duration::from_secs(5);

/// In clear, both HTTP/1.1 and HTTP/2.
const LISTEN: &str = "127.0.0.1:0 http2";

const WRITTEN: &str = "equipoise_access_log_lines_total";
const DROPPED: &str = "equipoise_access_log_dropped_total";

/// Nobody listens there.
fn nobody() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Both planes with a log, and an origin behind `/mock`.
struct World {
    standalone: Standalone,
    origin: Origin,
}

impl World {
    fn start(arguments: &[&str]) -> Self {
        let arguments = [&["--proxy-listen", LISTEN], arguments].concat();
        let standalone = Standalone::start_with(&arguments).unwrap();
        let origin = Origin::start("only");
        balance(&mut standalone.process().client("admin"), "", &[origin.address()]);
        Self { standalone, origin }
    }

    /// With a log of JSON in a file.
    fn of_json(more: &[&str]) -> Self {
        let log = ["--proxy-access-log", "access.log", "--log-access-format", "json"];
        Self::start(&[&log, more].concat())
    }

    fn process(&self) -> &Process {
        self.standalone.process()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.standalone.home().join(name)
    }

    /// The lines of its log of JSON, once there are so many.
    fn objects(&self, count: usize) -> Vec<Value> {
        let read = || lines(&self.file("access.log"));
        eventually("the lines", PATIENCE, || (read().len() >= count).then_some(()));
        let objects: Vec<Value> = read().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), count, "{objects:?}");
        objects
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What of `line` is under these names; null where there is nothing.
fn part(line: &Value, names: &[&str]) -> Value {
    let one = |name: &&str| ((*name).to_owned(), line[*name].clone());
    names.iter().map(one).collect::<serde_json::Map<_, _>>().into()
}

/// The requests of every format: by HTTP/1, by HTTP/2, without a route, and what is none.
fn ask(process: &Process) {
    let mut client = process.client("proxy");
    let headers = [("User-Agent", "curl/8 \"x\""), ("Referer", "http://a.test/")];
    assert_eq!(client.send("POST", "/mock/a?b=c", &headers, b"12345").unwrap().status, 200);
    let (status, _) = Http2Client::connect(process.address("proxy")).unwrap().get("/mock", &[]).unwrap();
    assert_eq!(status, 200);
    assert_eq!(client.get("/elsewhere").unwrap().status, 404);
    let mut raw = connect(process.address("proxy"));
    raw.write_all(b"G\x07T /\"\x1b[2J HTTP/1.1\r\n\r\n").unwrap();
    raw.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn each_format_says_the_same_in_a_file_and_on_standard_output() {
    for format in ["combined", "json"] {
        let mut said = Vec::new();
        for place in ["access.log", "stdout"] {
            // One worker: lines of several come in the order in which each hands over its own.
            let one = ["--proxy-workers", "1"];
            let log = ["--proxy-access-log", place, "--log-access-format", format];
            let world = World::start(&[&one[..], &log].concat());
            ask(world.process());
            let read = || match place {
                "stdout" => world.process().log().lines().map(str::to_owned).collect(),
                path => lines(&world.file(path)),
            };
            let is_line = |line: &String| line.contains("127.0.0.1") && line.contains("HTTP/");
            let is_unread = |line: &String| line.contains("400") && line.contains("G\\");
            let lines: Vec<String> = eventually("the lines", PATIENCE, || {
                let lines: Vec<_> =
                    read().into_iter().filter(|line| is_line(line) || is_unread(line)).collect();
                (lines.len() >= 4).then_some(lines)
            });
            assert_eq!(lines.len(), 4, "{lines:?}");
            match format {
                "json" => are_the_four_objects(&lines, &world),
                _ => are_the_four_lines(&lines),
            }
            said.push(lines.len());
        }
        assert_eq!(said, [4, 4]);
    }
}

fn are_the_four_lines(lines: &[String]) {
    let begin = r"^127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] ";
    let id = r#"kong_request_id: "[0-9a-f]{32}"$"#;
    for (line, rest) in lines.iter().zip([
        r#""POST /mock/a\?b=c HTTP/1\.1" 200 [1-9]\d* "http://a\.test/" "curl/8 \\x22x\\x22" "#,
        r#""GET /mock HTTP/2\.0" 200 [1-9]\d* "-" "-" "#,
        r#""GET /elsewhere HTTP/1\.1" 404 [1-9]\d* "-" "-" "#,
        r#""G\\x07T /\\x22\\x1B\[2J HTTP/1\.1" 400 [1-9]\d* "-" "-" "#,
    ]) {
        assert!(Regex::new(&format!("{begin}{rest}{id}")).unwrap().is_match(line), "{line}");
    }
}

fn are_the_four_objects(lines: &[String], world: &World) {
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names = [
        "method", "target", "protocol", "status", "complete", "source", "service", "route", "upstream",
        "tries",
    ];
    let target = world.origin.address().to_string();
    let served = |method: &str, path: &str, protocol: &str| {
        json!({"method": method, "target": path, "protocol": protocol, "status": 200, "complete": true,
               "source": "service", "service": "s", "route": "r", "upstream": target, "tries": 1})
    };
    let refused = |method: &str, path: &str, protocol: &str, status: u16| {
        json!({"method": method, "target": path, "protocol": protocol, "status": status, "complete": true,
               "source": "kong", "service": null, "route": null, "upstream": null, "tries": null})
    };
    let want = [
        served("POST", "/mock/a?b=c", "HTTP/1.1"),
        served("GET", "/mock", "HTTP/2.0"),
        refused("GET", "/elsewhere", "HTTP/1.1", 404),
        refused("", "G\u{7}T /\"\u{1b}[2J HTTP/1.1", "", 400),
    ];
    for (line, want) in lines.iter().zip(want) {
        assert_eq!(part(line, &names), want);
        for name in ["request_bytes", "response_bytes", "body_bytes"] {
            assert!(line[name].as_u64() > Some(0) || line["method"] != "POST", "{name}: {line}");
        }
    }
}

#[test]
fn targets_that_fail_and_clients_that_leave_are_told_of() {
    let world = World::of_json(&["--upstream-pool-size", "0"]);
    let (process, origin) = (world.process(), &world.origin);
    let mut admin = process.client("admin");
    let dead = nobody();
    write(
        &mut admin,
        "POST",
        "/services",
        &format!("name=dead&host=127.0.0.1&port={}&retries=2", dead.port()),
        201,
    );
    write(&mut admin, "POST", "/services/dead/routes", "name=dead&paths[]=/dead", 201);
    write(&mut admin, "POST", "/upstreams", "name=mixed", 201);
    for target in [dead, origin.address()] {
        write(&mut admin, "POST", "/upstreams/mixed/targets", &format!("target={target}"), 201);
    }
    write(&mut admin, "POST", "/services", "name=mixed&host=mixed", 201);
    write(&mut admin, "POST", "/services/mixed/routes", "name=mixed&paths[]=/mixed", 201);
    let outcome = ["status", "complete", "source", "upstream", "tries"];
    let mut count = 0;
    let mut next = || {
        count += 1;
        part(&world.objects(count)[count - 1], &outcome)
    };
    let told = |status: u16, complete: bool, source: &str, upstream: SocketAddr, tries: u32| json!({"status": status, "complete": complete, "source": source, "upstream": upstream.to_string(), "tries": tries});

    assert_eq!(process.client("proxy").get("/dead").unwrap().status, 502);
    assert_eq!(next(), told(502, true, "kong", dead, 3));
    let mut tries = Vec::new();
    for _ in 0..2 {
        assert_eq!(process.client("proxy").get("/mixed").unwrap().status, 200);
        let line = next();
        tries.push(line["tries"].as_u64().unwrap());
        assert_eq!(line["upstream"], origin.address().to_string(), "the one that answered");
    }
    tries.sort_unstable();
    assert_eq!(tries, [1, 2], "one of the two began with the one that refuses");
    origin.answer_with(503);
    assert_eq!(process.client("proxy").get("/mock").unwrap().status, 503);
    assert_eq!(next(), told(503, true, "service", origin.address(), 1));
    origin.answer_with(200);

    // Clients that leave before there is an answer.
    let is_asked = |before: u64| {
        eventually("the request to be with the target", PATIENCE, || {
            (origin.requests() > before).then_some(())
        });
    };
    origin.hold();
    let before = origin.requests();
    let mut client = connect(process.address("proxy"));
    client.write_all(b"GET /mock HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    is_asked(before);
    drop(client);
    let left = json!({"status": 499, "complete": false, "source": "kong", "upstream": origin.address().to_string(), "tries": 1});
    assert_eq!(next(), left);
    let before = origin.requests();
    let mut client = Http2Client::connect(process.address("proxy")).unwrap();
    client.take_back("/mock", || is_asked(before)).unwrap();
    assert_eq!(next(), left);
    drop(client);
    origin.release();

    // One that has a part of its answer. What it has not read makes its end a reset, which is known at once.
    origin.hold_bodies();
    let mut client = connect(process.address("proxy"));
    client.write_all(b"GET /mock HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    origin.release();
    assert_eq!(next(), told(200, false, "service", origin.address(), 1));
}

#[test]
fn sessions_of_streams_have_lines_where_requests_have_or_a_place_of_their_own() {
    let combined = ["--proxy-access-log", "access.log", "--proxy-stream-listen", "127.0.0.1:0"];
    for (own, file) in
        [(&[][..], "access.log"), (&["--proxy-stream-access-log", "streams.log"], "streams.log")]
    {
        let world = World::start(&[&combined, own].concat());
        let (process, origin) = (world.process(), &world.origin);
        let mut admin = process.client("admin");
        let to =
            format!("name=t&protocol=tcp&host=127.0.0.1&read_timeout=300&port={}", origin.address().port());
        write(&mut admin, "POST", "/services", &to, 201);
        write(
            &mut admin,
            "POST",
            "/services/t/routes",
            "name=t&protocols[]=tcp&sources[1].ip=127.0.0.1",
            201,
        );
        let mut session = connect(process.address("stream"));
        session.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        // It ends when nothing is said any more.
        let answered = session.read_to_end(&mut Vec::new()).unwrap();
        assert!(answered > 0);
        assert_eq!(process.client("proxy").get("/mock").unwrap().status, 200);
        // As of nginx's stream log.
        let want = format!(
            r"^127\.0\.0\.1 \[\d\d/[A-Z][a-z]{{2}}/\d{{4}}:\d\d:\d\d:\d\d \+0000\] TCP 200 {answered} 18 \d+\.\d{{3}}$"
        );
        let is_session = Regex::new(&want).unwrap();
        let has_both = || {
            let sessions = lines(&world.file(file)).iter().filter(|line| is_session.is_match(line)).count();
            let requests = lines(&world.file("access.log"));
            let requests = requests.iter().filter(|line| line.contains("GET /mock")).count();
            (sessions, requests) == (1, 1)
        };
        eventually(&format!("a line of each, in {file}"), PATIENCE, || has_both().then_some(()));
        eventually("both to be counted", PATIENCE, || (process.metric(WRITTEN) == 2).then_some(()));
        if !own.is_empty() {
            assert_eq!(lines(&world.file("access.log")).len(), 1);
        }
    }
}

#[test]
fn rotation_by_signal_loses_nothing_under_load() {
    let world = World::of_json(&["--admin-access-log", "admin.log"]);
    let process = world.process();
    let load = Load::start(process.address("proxy"), 2, "GET", "/mock");
    eventually("lines", PATIENCE, || (!lines(&world.file("access.log")).is_empty()).then_some(()));
    for turn in 0..3 {
        load.wait_for(50);
        for name in ["access", "admin"] {
            fs::rename(world.file(&format!("{name}.log")), world.file(&format!("{name}.{turn}"))).unwrap();
        }
        process.signal("USR1");
        eventually("a new file", PATIENCE, || world.file("admin.log").exists().then_some(()));
        eventually("lines in the other", PATIENCE, || {
            (!lines(&world.file("access.log")).is_empty()).then_some(())
        });
    }
    says(process, "opening access logs anew");
    load.wait_for(50);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    eventually("all lines", PATIENCE, || (process.metric(WRITTEN) == tally.succeeded()).then_some(()));
    let all: Vec<_> =
        ["access.0", "access.1", "access.2", "access.log"].map(|name| lines(&world.file(name))).into();
    let ids: std::collections::BTreeSet<String> = all
        .iter()
        .flatten()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["request_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((ids.len() as u64, all.concat().len() as u64), (tally.succeeded(), tally.succeeded()));
    process.client("admin").get("/services").unwrap();
    eventually("a line in the new file", PATIENCE, || {
        lines(&world.file("admin.log")).iter().any(|line| line.contains("\"/services\"")).then_some(())
    });
}

#[test]
fn files_are_opened_anew_at_once() {
    let world = World::start(&["--proxy-access-log", "access.log", "--admin-access-log", "admin.log"]);
    for name in ["access.log", "admin.log"] {
        let path = world.file(name);
        // By itself it would look once a second.
        let took = (0..5).map(|turn| {
            let began = Instant::now();
            fs::rename(&path, world.file(&format!("{name}.{turn}"))).unwrap();
            world.process().signal("USR1");
            eventually("a new file", PATIENCE, || path.exists().then_some(()));
            began.elapsed()
        });
        let fastest = took.min().unwrap();
        assert!(fastest < Duration::from_millis(500), "{name}: {fastest:?}");
    }
}

/// Sends so many requests, none of which may fail or take long.
fn load(process: &Process, count: u64, agent: &str) {
    let mut client = process.client("proxy");
    for number in 0..count {
        let began = Instant::now();
        let answer = client.send("GET", "/mock", &[("User-Agent", agent)], b"").unwrap();
        assert_eq!(answer.status, 200);
        assert!(began.elapsed() < NOTICEABLE, "request {number} took {:?}", began.elapsed());
    }
}

/// Stops it; false if that takes longer than a log may hold it up, or goes wrong.
fn stops(world: &mut World) -> bool {
    let mut process = world.standalone.process.take().unwrap();
    process.terminate();
    process.wait(PATIENCE).success()
}

#[test]
fn a_full_disk_costs_lines_that_are_counted_and_nothing_else() {
    let mut world = World::start(&["--proxy-access-log", "/dev/full"]);
    load(world.process(), 1_000, "");
    eventually("all lines to be counted", PATIENCE, || {
        (world.process().metric(DROPPED) == 1_000).then_some(())
    });
    assert_eq!(world.process().metric(WRITTEN), 0);
    says(world.process(), "the access log cannot be written");
    assert!(stops(&mut world));
}

#[test]
fn a_reader_that_stops_costs_lines_that_are_counted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Both ways: opening it waits for nobody.
    const NONBLOCK: i32 = 0o4000;
    let mut reader = OpenOptions::new().read(true).write(true).custom_flags(NONBLOCK).open(&pipe).unwrap();
    let arguments = ["--proxy-access-log", pipe.to_str().unwrap(), "--log-access-buffer-bytes", "32k"];
    let mut world = World::start(&[&arguments[..], &["--log-access-format", "json"]].concat());
    // 64 KiB are in the pipe and what two workers may keep; this is several times as much.
    let (count, agent) = (600, "x".repeat(2_000));
    load(world.process(), count, &agent);
    let lost = eventually("lines to be lost", PATIENCE, || {
        Some(world.process().metric(DROPPED)).filter(|lost| *lost > 0)
    });
    assert!(lost < count, "some are in the pipe");
    // Once it goes on, all others come, each whole.
    let mut text = Vec::new();
    let arrived = |reader: &mut File, text: &mut Vec<u8>| {
        let mut bytes = [0; 65_536];
        match reader.read(&mut bytes) {
            Ok(length) => text.extend_from_slice(&bytes[..length]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        text.iter().filter(|byte| **byte == b'\n').count() as u64
    };
    eventually("the rest of the lines", PATIENCE, || {
        let lines = arrived(&mut reader, &mut text);
        (lines + world.process().metric(DROPPED) == count).then_some(())
    });
    for line in String::from_utf8(text).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["user_agent"], agent);
    }
    // It stops again, and a stop does not wait for it for long.
    load(world.process(), count, &agent);
    let began = Instant::now();
    assert!(stops(&mut world));
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

#[test]
fn no_bytes_of_a_client_forge_a_line() {
    let world = World::of_json(&[]);
    let address = world.process().address("proxy");
    let telling = proptest::sample::select(&b"\"\\\r\n\t\0\x1b\x7f ,:{}"[..]);
    let part = proptest::prop_oneof![proptest::arbitrary::any::<u8>(), telling];
    let bytes = proptest::collection::vec(part, 1..60);
    let mut runner = TestRunner::deterministic();
    let mut sent = 0;
    for _ in 0..150 {
        let bytes = bytes.new_tree(&mut runner).unwrap().current();
        let header = String::from_utf8_lossy(&bytes).replace(['\r', '\n', '\0'], " ");
        for message in [
            [&bytes[..], b" HTTP/1.1\r\n\r\n"].concat(),
            [b"GET /", &bytes[..], b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat(),
            [
                b"GET /mock HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUser-Agent: ",
                header.as_bytes(),
                b"\r\n\r\n",
            ]
            .concat(),
        ] {
            let mut client = connect(address);
            client.write_all(&message).unwrap();
            drop(client.shutdown(Shutdown::Write));
            let mut answer = Vec::new();
            // It may be reset, since not all that it sent was read.
            drop(client.read_to_end(&mut answer));
            sent += 1;
        }
    }
    assert_eq!(Client::new(address).get("/mock/last").unwrap().status, 200);
    let is_last = |line: &String| line.contains("\"/mock/last\"");
    let all = eventually("the last line", PATIENCE, || {
        Some(lines(&world.file("access.log"))).filter(|all| all.iter().any(is_last))
    });
    assert!(all.len() > sent / 2, "{} of {sent}", all.len());
    for line in &all {
        let read: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let status = read["status"].as_u64().unwrap();
        assert!([200, 400, 404, 405, 414, 431, 499, 501, 505].contains(&status), "{line}");
        assert_eq!(read["client"], "127.0.0.1");
    }
}
