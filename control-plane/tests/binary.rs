//! The control plane as a process: killed under writers, and on a disk that is full.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use serde_json::Value;

/// Longest that anything here may take.
const DEADLINE: Duration = Duration::from_secs(60);

const ROUNDS: usize = 4;
const WRITERS: usize = 4;

/// A running control plane on a data directory.
struct ControlPlane {
    child: Child,
    admin: SocketAddr,
}

impl ControlPlane {
    /// Starts it and waits until it listens; `limits` are words of the shell's that go before it.
    fn start(directory: &Path, limits: &str) -> Self {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("{limits} exec \"$0\" \"$@\""))
            .arg(env!("CARGO_BIN_EXE_equipoise-control-plane"))
            .args([
                "--admin-listen",
                "127.0.0.1:0",
                "--cluster-listen",
                "127.0.0.1:0",
                "--log-level",
                "error",
            ])
            .args(["--store-log-revisions-max", "200", "--store-dir"])
            .arg(directory)
            .env_clear()
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let (listens, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if let Some(address) =
                    line.trim().strip_prefix("admin").and_then(|rest| rest.split("//").nth(1))
                {
                    let _nobody_waits = listens.send(address.parse().unwrap());
                }
            }
        });
        match ready.recv_timeout(DEADLINE) {
            Ok(admin) => Self { child, admin },
            Err(error) => panic!("it does not start: {error}, {:?}", child.try_wait()),
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One request on a connection of its own; `None` when it is not answered whole.
fn send(admin: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect_timeout(&admin, DEADLINE).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let content = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{content}\r\n{body}")
        .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let is_whole = length.is_none_or(|length| length.parse() == Ok(body.len()));
    is_whole.then(|| (status, serde_json::from_str(body).unwrap_or_default()))
}

/// Creates, changes and deletes services of its own until it gets no answer; returns what each acknowledged
/// write left: the retries, or nothing once it is deleted. What was not answered may be either way.
fn write_until_killed(
    admin: SocketAddr,
    prefix: &str,
    first: &mpsc::Sender<()>,
) -> BTreeMap<String, Option<u64>> {
    let mut noted = BTreeMap::new();
    for n in 0_u64.. {
        let name = format!("{prefix}-{n}");
        let path = format!("/services/{name}");
        let steps = [
            ("PUT", r#"{"host":"a","retries":1}"#, 200, Some(1)),
            ("PATCH", r#"{"retries":2}"#, 200, Some(2)),
            ("DELETE", "", 204, None),
        ];
        for (method, body, want, left) in steps.into_iter().take(if n % 2 == 0 { 2 } else { 3 }) {
            let Some((status, answer)) = send(admin, method, &path, body) else {
                noted.remove(&name);
                return noted;
            };
            assert_eq!(status, want, "{method} {path}: {answer}");
            noted.insert(name.clone(), left);
            let _nobody_waits = first.send(());
        }
    }
    noted
}

#[test]
fn nothing_that_was_answered_is_lost_by_kills() {
    let directory = tempfile::tempdir().unwrap();
    let mut noted = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut control = ControlPlane::start(directory.path(), "");
        let admin = control.admin;
        check(admin, &noted);
        let (first, seen) = mpsc::channel();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let first = first.clone();
                    scope.spawn(move || write_until_killed(admin, &format!("r{round}-w{writer}"), &first))
                })
                .collect();
            seen.recv_timeout(DEADLINE).expect("something is written");
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(20..300)));
            control.kill();
            for writer in writers {
                noted.extend(writer.join().unwrap());
            }
        });
    }
    let control = ControlPlane::start(directory.path(), "");
    check(control.admin, &noted);
    assert!(noted.len() >= ROUNDS, "{noted:?}");
}

fn check(admin: SocketAddr, noted: &BTreeMap<String, Option<u64>>) {
    let mut stored = BTreeMap::new();
    let mut next = Some("/services?size=1000".to_owned());
    while let Some(path) = next {
        let (status, page) = send(admin, "GET", &path, "").unwrap();
        assert_eq!(status, 200, "{page}");
        for service in page["data"].as_array().unwrap() {
            stored.insert(service["name"].as_str().unwrap().to_owned(), service["retries"].as_u64());
        }
        next = page["next"].as_str().map(str::to_owned);
    }
    for (name, left) in noted {
        assert_eq!(stored.get(name).copied().flatten(), *left, "{name}");
    }
}

/// A limit on the size of files fails writes as a full disk does, in the middle of one; the signal that comes with
/// it is ignored.
#[test]
fn a_full_disk_makes_it_read_only_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // Room for a first start.
    drop(ControlPlane::start(directory.path(), ""));
    let mut noted = BTreeMap::new();
    let mut control = ControlPlane::start(directory.path(), "trap '' XFSZ; ulimit -f 1024;");
    // Large, so that one file of the journal meets the limit.
    let tags = serde_json::json!((0..200).map(|n| format!("{n:0>400}")).collect::<Vec<_>>());
    let deadline = Instant::now() + DEADLINE;
    let mut n = 0;
    let (status, refused) = loop {
        let name = format!("svc-{n}");
        let body = format!(r#"{{"host":"a","retries":1,"tags":{tags}}}"#);
        let (status, answer) = send(control.admin, "PUT", &format!("/services/{name}"), &body).unwrap();
        if status != 200 {
            break (status, answer);
        }
        noted.insert(name, Some(1));
        n += 1;
        assert!(Instant::now() < deadline, "the disk does not fill");
    };
    assert!(status >= 500, "{status}: {refused}");
    let (_, later) = send(control.admin, "PUT", "/services/later", r#"{"host":"a"}"#).unwrap();
    assert!(later["message"].as_str().unwrap().contains("read-only"), "{later}");
    let (_, shown) = send(control.admin, "GET", "/status", "").unwrap();
    assert_eq!(shown["database"]["reachable"], false);
    check(control.admin, &noted);
    control.kill();
    // With room again, all that was answered is there.
    let control = ControlPlane::start(directory.path(), "");
    check(control.admin, &noted);
    assert_eq!(send(control.admin, "PUT", "/services/later", r#"{"host":"a"}"#).unwrap().0, 200);
}
