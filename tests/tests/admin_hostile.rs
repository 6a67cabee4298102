//! What nobody in their right mind would send to the Admin API: each is refused as documented, nothing of it is stored, memory stays
//! bounded, and no answer is an error of the server.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use equipoise_tests::{Client, Process};
use serde_json::{Value, json};
use tempfile::TempDir;

const TYPE_JSON: (&str, &str) = ("Content-Type", "application/json");
const TYPE_FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const TYPE_YAML: (&str, &str) = ("Content-Type", "application/yaml");

struct ControlPlane {
    process: Process,
    _dir: TempDir,
}

impl ControlPlane {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0";
        let arguments = ["--admin-listen", any, "--cluster-listen", any, "--cluster-mtls", "off"];
        Self {
            process: Process::start("equipoise-control-plane", dir.path(), &arguments).unwrap(),
            _dir: dir,
        }
    }

    fn admin(&self) -> Client {
        self.process.client("admin")
    }

    /// Revision and number of entities.
    fn stored(&self) -> (Value, Value) {
        let root = self.admin().get("/").unwrap().json();
        (root["equipoise"]["revision"].clone(), root["equipoise"]["entities"].clone())
    }

    /// The most memory that it ever had, in MiB.
    fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024
    }

    /// Bytes as they are, on a connection of their own; what comes back until it ends or says nothing more.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.process.address("admin")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // Who was refused already may not read the rest.
        let _refused = stream.write_all(request);
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// It is well, and has nothing but what was there before.
    fn check(&self, before: &(Value, Value)) {
        assert_eq!(&self.stored(), before, "something was stored");
        assert_eq!(self.admin().get("/status").unwrap().json()["database"]["reachable"], true);
        assert!(!self.process.log().contains("a defect of this program"), "{}", self.process.log());
    }
}

/// How a request is meant, what it is, and how it is refused.
struct Case {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    status: u16,
    /// In the answer.
    text: &'static str,
}

fn case(name: &'static str, body: impl Into<Vec<u8>>, status: u16, text: &'static str) -> Case {
    Case { name, method: "POST", path: "/services", headers: &[TYPE_JSON], body: body.into(), status, text }
}

fn bodies() -> Vec<Case> {
    let numbers = |count: usize| vec!["1"; count].join(",");
    let texts = |count: usize| (0..count).map(|n| format!("\"t{n}\"")).collect::<Vec<_>>().join(",");
    let not_json = "Cannot parse JSON body";
    let config = |case: Case| Case { path: "/config", ..case };
    let yaml = |case: Case| Case { path: "/config", headers: &[TYPE_YAML], ..case };
    let form = |case: Case| Case { headers: &[TYPE_FORM], ..case };
    let laughs: String = (1..10)
        .map(|level| format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(",")))
        .fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |all, line| all + &line);
    vec![
        case("deep arrays", "[".repeat(1_000_000), 400, not_json),
        case("deep objects", "{\"a\":".repeat(200_000), 400, not_json),
        case(
            "a deep value",
            format!("{{\"host\":{}1{}}}", "[".repeat(1_500), "]".repeat(1_500)),
            400,
            not_json,
        ),
        case(
            "a value as deep as may be",
            format!("{{\"host\":{}1{}}}", "[".repeat(900), "]".repeat(900)),
            400,
            "expected a string",
        ),
        case("many elements", format!("{{\"host\":\"h\",\"tags\":[{}]}}", texts(100_000)), 400, ""),
        case("many numbers", format!("{{\"host\":[{}]}}", numbers(100_000)), 400, "expected a string"),
        case(
            "too many numbers",
            format!("{{\"host\":[{}]}}", numbers(2_000_000)),
            400,
            "Too many values in JSON body",
        ),
        case(
            "many keys",
            format!("{{{}\"host\":\"h\"}}", (0..60_000).map(|n| format!("\"k{n}\":1,")).collect::<String>()),
            400,
            "unknown field",
        ),
        case("a long name", format!("{{\"host\":\"h\",\"name\":\"{}\"}}", "n".repeat(2_000_000)), 400, ""),
        case("a long host", format!("{{\"host\":\"{}\"}}", "h".repeat(1_000_000)), 400, ""),
        case("a number beyond all", r#"{"host":"h","port":1e400}"#, 400, not_json),
        case("a large number", r#"{"host":"h","port":1e308}"#, 400, "port"),
        case("a long number", format!("{{\"host\":\"h\",\"port\":{}}}", "9".repeat(100_000)), 400, ""),
        case("a long fraction", format!("{{\"host\":\"h\",\"port\":0.{}1}}", "1".repeat(100_000)), 400, ""),
        case("a negative one", r#"{"host":"h","retries":-9223372036854775809}"#, 400, "retries"),
        case("not a number", r#"{"host":"h","port":NaN}"#, 400, not_json),
        case("no UTF-8", b"{\"host\":\"h\",\"name\":\"\xff\xfe\"}".to_vec(), 400, not_json),
        case("half a surrogate", r#"{"host":"h","name":"\ud800"}"#, 400, not_json),
        case("a NUL", "{\"host\":\"h\",\"name\":\"a\\u0000b\"}", 400, "invalid value"),
        case("a byte-order mark", "\u{feff}{\"host\":\"h\"}", 400, not_json),
        case("nothing", "", 400, not_json),
        case("a text", r#""host""#, 400, not_json),
        case("two bodies", r#"{"host":"h"}{"host":"h"}"#, 400, not_json),
        case("an id that is none", r#"{"host":"h","id":"../../etc/passwd"}"#, 400, "expected a valid UUID"),
        form(case("many arguments", "a=1&".repeat(200_000), 400, "Too many arguments")),
        form(case("a deep key", format!("{}=1", vec!["a"; 100_000].join(".")), 400, "")),
        form(case("deep brackets", format!("host{}=1", "[1]".repeat(100_000)), 400, "")),
        form(case("a far index", "host=h&tags[4294967295]=x", 400, "")),
        form(case("an index beyond all", format!("host=h&tags[{}]=x", "9".repeat(10_000)), 400, "")),
        form(case(
            "no UTF-8 in a form",
            b"host=h&name=%ff".to_vec(),
            400,
            "invalid utf-8 character sequence",
        )),
        Case {
            headers: &[("Content-Type", "multipart/form-data; boundary=X")],
            ..case(
                "parts without end",
                "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n".repeat(10_000),
                400,
                "Too many arguments",
            )
        },
        Case {
            headers: &[("Content-Type", "multipart/form-data")],
            ..case("no boundary", "--X\r\n", 400, "has no boundary")
        },
        Case {
            headers: &[("Content-Type", "text/plain")],
            ..case("another type", "host=h", 415, "415 Unsupported Media Type")
        },
        Case {
            headers: &[TYPE_JSON, TYPE_FORM],
            ..case("two types", "{}", 400, "Multiple Content-Type headers not allowed")
        },
        Case { headers: &[], ..case("no type", "{}", 415, "415 Unsupported Media Type") },
        Case {
            headers: &[TYPE_FORM, ("Origin", "https://evil.example")],
            ..case(
                "a form of another site",
                "host=h",
                403,
                "writes from web pages of this origin are not allowed",
            )
        },
        Case {
            headers: &[TYPE_FORM, ("Origin", "http://evil.example"), ("Host", "evil.example")],
            ..case("a name that leads here", "host=h", 421, "none of its names")
        },
        Case {
            headers: &[TYPE_JSON, ("If-Match", "x")],
            ..case("no tag", r#"{"host":"h"}"#, 400, "If-Match")
        },
        Case {
            headers: &[TYPE_JSON, ("Idempotency-Key", "a key")],
            ..case("no key", r#"{"host":"h"}"#, 400, "Idempotency-Key")
        },
        Case { path: "/services?dry_run=perhaps", ..case("no boolean", r#"{"host":"h"}"#, 400, "dry_run") },
        config(case(
            "a deep document",
            format!("{{\"_format_version\":\"3.0\",\"services\":{}", "[".repeat(500_000)),
            400,
            "",
        )),
        yaml(case("laughs", format!("_format_version: \"3.0\"\n{laughs}"), 400, "")),
        yaml(case(
            "equal keys",
            "_format_version: \"3.0\"\nservices: []\nservices: []\n",
            400,
            "failed parsing declarative configuration",
        )),
        yaml(case("a deep flow", "[".repeat(500_000), 400, "")),
        yaml(case("no UTF-8 in a document", b"_format_version: \"3.0\xff\"".to_vec(), 400, "")),
        yaml(case(
            "a tag that makes things",
            "_format_version: !!python/object/apply:os.system [\"true\"]",
            400,
            "",
        )),
        Case {
            path: "/batch",
            ..case(
                "many operations",
                format!("{{\"operations\":[{}]}}", vec!["{}"; 50_000].join(",")),
                400,
                "no more than 1000",
            )
        },
        Case {
            path: "/schemas/services/validate",
            ..case("to be checked", format!("{{\"host\":[{}]}}", numbers(2_000_000)), 400, "Too many values")
        },
    ]
}

#[test]
fn what_cannot_be_an_entity_is_refused_as_documented() {
    let control = ControlPlane::start();
    let before = control.stored();
    let mut wrong = Vec::new();
    for Case { name, method, path, headers, body, status, text } in bodies() {
        let got = control.admin().send(method, path, headers, &body).unwrap();
        let said = got.text();
        let is_json = got.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
        let has_message = !is_json || got.json()["message"].as_str().is_some_and(|text| !text.is_empty());
        if got.status != status || !said.contains(text) || !has_message || said.len() > 8 << 20 {
            let shown: String = said.chars().take(300).collect();
            wrong.push(format!("{name}: {}, {} bytes: {shown}", got.status, said.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    control.check(&before);
    assert!(control.peak_mib() < 300, "{} MiB", control.peak_mib());
}

#[test]
fn paths_and_heads_that_are_none_are_refused() {
    let control = ControlPlane::start();
    let before = control.stored();
    let long = "a".repeat(200_000);
    let mut wrong = Vec::new();
    let many: String = (0..500).map(|n| format!("X-{n}: 1\r\n")).collect();
    for (name, request, statuses) in [
        ("no UTF-8 in a name", "GET /services/%ff HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), &[400][..]),
        ("a climb", "GET /services/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), &[404]),
        ("an escaped climb", "GET /services/..%2f..%2fetc HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), &[404]),
        ("a long path", format!("GET /services/{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), &[414, 431, 400]),
        ("a long header", format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"), &[431]),
        ("many headers", format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), &[431]),
        ("two lengths", "POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}".to_owned(), &[400]),
        ("a length that is none", "POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".to_owned(), &[400]),
        ("a large length", format!("POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", u64::MAX), &[400, 413, 431]),
        ("a body over the limit", "POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10485761\r\n\r\n".to_owned(), &[413]),
        ("a bad chunk", "POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(), &[400]),
        ("many arguments", format!("GET /services?{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a&".repeat(1_001)), &[400]),
        ("a bad size", "GET /services?size=1e9 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), &[400]),
        ("a bad offset", "GET /services?offset=%00 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), &[400]),
        ("no verb", "\u{1} / HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        ("no protocol", "GET / FTP/9\r\n\r\n".to_owned(), &[400]),
    ] {
        let answer = control.raw(request.as_bytes());
        let status = answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).unwrap_or(0);
        if !statuses.contains(&status) {
            wrong.push(format!("{name}: {}", answer.chars().take(200).collect::<String>()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    control.check(&before);
}

#[test]
fn of_a_thousand_equal_creations_one_is_made() {
    /// Connections at once.
    const CLIENTS: usize = 50;
    let control = ControlPlane::start();
    let body = json!({ "name": "u" }).to_string();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut admin = control.admin();
                    let mut send =
                        || admin.send("POST", "/upstreams", &[TYPE_JSON], body.as_bytes()).unwrap().status;
                    (0..1_000 / CLIENTS).map(|_| send()).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(201), count(409)), (1, 999));
    control.check(&(json!(1), json!(1)));
}

/// Large bodies from many clients at once wait for their turn.
#[test]
fn memory_is_bounded_whoever_sends_how_much_at_once() {
    let control = ControlPlane::start();
    let before = control.stored();
    // Of values, so that decoding takes many times the text; and just below the limit of a body.
    let body = format!("{{\"host\":[{}1]}}", "1,".repeat(120_000)) + &" ".repeat(9 << 20);
    std::thread::scope(|scope| {
        for _ in 0..48 {
            scope.spawn(|| {
                let got = control.admin().send("POST", "/services", &[TYPE_JSON], body.as_bytes()).unwrap();
                assert_eq!(got.status, 400, "{}", got.text());
            });
        }
    });
    control.check(&before);
    // 16 bodies of 10 MiB at once, twice while their buffers grow, and what is decoded of them.
    assert!(control.peak_mib() < 600, "{} MiB", control.peak_mib());
}

/// Equal keys: the last one counts, as in the reference.
#[test]
fn of_equal_keys_the_last_counts() {
    let control = ControlPlane::start();
    let body = br#"{"host":"a.example","host":"b.example"}"#;
    let got = control.admin().send("POST", "/services", &[TYPE_JSON], body).unwrap();
    assert_eq!((got.status, &got.json()["host"]), (201, &json!("b.example")));
}
