//! Laws that hold for any bytes, with inputs of a seeded generator: so many by default, or as long as `FUZZ_SECONDS` says. With
//! `FUZZ_SEED` others come. A broken law prints its input.

#![allow(clippy::print_stdout, reason = "how many inputs there were is what a person runs this for")]

mod laws;

use std::time::{Duration, Instant};

use rand::prelude::*;
use rand::rngs::StdRng;

/// Prints the input under which something panicked.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input: b\"{}\"", self.0.escape_ascii());
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Holds a law against `runs` inputs; gives how many came to something.
fn hold(
    name: &str,
    law: impl Fn(&[u8]) -> usize,
    input: impl Fn(&mut StdRng) -> Vec<u8>,
    runs: u64,
) -> (u64, u64) {
    let mut rng = StdRng::seed_from_u64(number("FUZZ_SEED").unwrap_or(1));
    let begun = Instant::now();
    let seconds = number("FUZZ_SECONDS").map(Duration::from_secs);
    let (mut held, mut taken) = (0, 0);
    while seconds.map_or(held < runs, |seconds| begun.elapsed() < seconds) {
        let input = input(&mut rng);
        let shown = Shown(&input);
        taken += u64::from(law(&input) > 0);
        drop(shown);
        held += 1;
    }
    println!("{name}: {held} inputs, {taken} taken, in {:.1} s", begun.elapsed().as_secs_f64());
    (held, taken)
}

/// Pieces of bodies, good and bad.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "1e999",
    "-0",
    "9223372036854775808",
    "null",
    "true",
    "\"name\":",
    "\"host\":\"h\"",
    "name=",
    "host=h",
    "a[1].b=",
    "a[]=",
    "[0]",
    "[10000]",
    "[b]",
    ".",
    "..",
    "&",
    "=",
    "+",
    "%ff",
    "%2541",
    "%",
    "--X",
    "--X--",
    "\r\n",
    "\r\n\r\n",
    "Content-Disposition: form-data; name=\"a\"",
    "; filename=\"f\"",
    "healthchecks.active.healthy.interval=1",
    "tags[]=t",
    "\u{feff}",
    "é",
];

fn body(rng: &mut StdRng) -> Vec<u8> {
    let mut body = vec![rng.random()];
    for _ in 0..rng.random_range(0..40) {
        match rng.random_range(0..20) {
            0 => body.push(rng.random()),
            1 => body.extend_from_slice("[".repeat(rng.random_range(1..200)).as_bytes()),
            _ => body.extend_from_slice(PIECES.choose(rng).unwrap_or(&"").as_bytes()),
        }
    }
    body
}

/// Fields and values of entities, good and bad.
const FIELDS: &[&str] = &[
    "name",
    "host",
    "port",
    "protocol",
    "path",
    "retries",
    "url",
    "tags",
    "paths",
    "hosts",
    "methods",
    "headers",
    "protocols",
    "service",
    "snis",
    "sources",
    "strip_path",
    "regex_priority",
    "algorithm",
    "hash_on",
    "hash_on_header",
    "healthchecks",
    "slots",
    "target",
    "weight",
    "upstream",
    "username",
    "custom_id",
    "key",
    "ttl",
    "password",
    "consumer",
    "config",
    "instance_name",
    "cert",
    "id",
    "created_at",
    "certificate",
    "client_certificate",
    "limits",
    "locality",
    "enabled",
    "x",
];
const VALUES: &[&str] = &[
    "null",
    "true",
    "0",
    "1",
    "-1",
    "80",
    "80.0",
    "65536",
    "1e30",
    "\"\"",
    "\"a\"",
    "\"a.example\"",
    "\"/\"",
    "\"/a\"",
    "\"~/a(b|c)\"",
    "\"~/(\"",
    "\"http\"",
    "\"tcp\"",
    "\"grpc\"",
    "\"10.0.0.1:80\"",
    "\"[::1]:8000\"",
    "\"::1\"",
    "\"é\"",
    "\"consistent-hashing\"",
    "\"header\"",
    "\"X-A\"",
    "\"rate-limiting\"",
    "\"key-auth\"",
    "\"http://a.example:81/x\"",
    "[]",
    "{}",
    "[null]",
    "[\"a\",\"a\"]",
    "[\"/a\",\"~/b\"]",
    "[\"GET\"]",
    "[\"https\"]",
    "[\"http\",\"tcp\"]",
    "{\"x-a\":[\"1\"]}",
    "{\"id\":\"7d5bb1ae-0e5c-4dcd-9b0e-5b8f7c2c1e0a\"}",
    "{\"active\":{\"healthy\":{\"interval\":1}}}",
    "{\"minute\":5}",
    "[{\"ip\":\"10.0.0.0/8\",\"port\":1}]",
    "\"7d5bb1ae-0e5c-4dcd-9b0e-5b8f7c2c1e0a\"",
];

/// Of kinds that can be stored by themselves: place in the order of kinds, what they need, and some of what they may have.
const KINDS: &[(u8, &str, &[&str])] = &[
    (
        3,
        "\"host\":\"h\"",
        &["name", "port", "protocol", "path", "retries", "url", "tags", "enabled", "created_at"],
    ),
    (
        4,
        "\"paths\":[\"/a\"]",
        &[
            "name",
            "hosts",
            "methods",
            "headers",
            "protocols",
            "snis",
            "strip_path",
            "regex_priority",
            "paths",
        ],
    ),
    (
        5,
        "\"name\":\"a.example\"",
        &["algorithm", "hash_on", "hash_on_header", "healthchecks", "slots", "tags", "id"],
    ),
    (8, "\"username\":\"u\"", &["custom_id", "tags", "id", "created_at"]),
    (11, "\"name\":\"key-auth\"", &["config", "instance_name", "protocols", "enabled", "tags"]),
];

fn entity(rng: &mut StdRng) -> Vec<u8> {
    let (kind, needed, own) = KINDS.choose(rng).copied().unwrap_or_default();
    let is_likely = rng.random_bool(0.7);
    let mut fields = if is_likely { vec![needed.to_owned()] } else { Vec::new() };
    for _ in 0..rng.random_range(0..4) {
        let from = if is_likely { own } else { FIELDS };
        let (field, value) = (from.choose(rng).unwrap_or(&"x"), VALUES.choose(rng).unwrap_or(&"0"));
        fields.push(format!("\"{field}\":{value}"));
    }
    let mut input = vec![if is_likely { kind } else { rng.random() }];
    input.extend_from_slice(format!("{{{}}}", fields.join(",")).as_bytes());
    input
}

#[test]
fn bodies_are_decoded_or_refused() {
    let law = |data: &[u8]| {
        laws::bodies(data);
        1
    };
    hold("bodies", law, body, 5_000);
}

#[test]
fn what_is_stored_is_stored_again_when_it_is_sent_as_it_was_answered() {
    let (held, taken) = hold("entities", laws::entities, entity, 20_000);
    // A law of which nothing is known holds as well.
    assert!(taken * 10 >= held, "only {taken} of {held} were stored");
}
