//! Raw bytes, hostile and odd, against the real binary: what is required of each is data (`data/`, of HTTP/2 `http2/`, of what is within TLS
//! `within/`, format in [`bytes`] and [`case`]). None gets through that is not meant to, and the process is none the worse for it.

#![allow(clippy::print_stdout, reason = "the table of results is what a person runs this for")]

mod answers;
mod bytes;
mod case;
mod client;
mod frames;
mod upstream;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Step, show};
use case::{Carrier, Case, Port};
use upstream::Record;
use world::World;

/// Cases at once. Most of the time of the slow ones is waiting.
const AT_ONCE: usize = 24;

/// What failed, by the number of the case; and what reached the upstreams.
struct Results {
    failures: BTreeMap<usize, Vec<String>>,
    strays: Vec<String>,
    took: Duration,
}

/// Sends all cases to one node.
fn run(cases: &[Case]) -> anyhow::Result<Results> {
    let begun = Instant::now();
    let world = World::start(cases)?;
    let failures: Mutex<BTreeMap<usize, Vec<String>>> = Mutex::default();
    // The slow ones first: the others run beside them.
    let mut order: Vec<_> = (0..cases.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(pauses(&cases[*at])));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let case = &cases[*at];
                    let tls = world.tls(case);
                    let ran = client::run(case, world.address(case.port), tls, world.address(Port::Clear));
                    if let Err(error) = ran {
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        failures.entry(*at).or_default().push(error);
                    }
                }
            });
        }
    });
    let records = world.end()?;
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (at, case) in cases.iter().enumerate() {
        if let Err(error) = got_through(case, &records) {
            failures.entry(at).or_default().push(error);
        }
    }
    let is_known = |record: &&Record| cases.iter().any(|case| record.client == Some(case.client));
    let strays = records.iter().filter(|record| !is_known(record)).map(|record| show(&record.text)).collect();
    Ok(Results { failures, strays, took: begun.elapsed() })
}

fn pauses(case: &Case) -> Duration {
    let steps = case.send.iter().chain(case.reply.iter().flatten());
    steps.map(|step| if let Step::Pause(pause) = step { *pause } else { Duration::ZERO }).sum()
}

/// Whether what reached the upstream is what may.
fn got_through(case: &Case, records: &[Record]) -> Result<(), String> {
    let own = world::of_client(records, case.client);
    if let Some(record) = own.iter().find(|record| record.is_on_spoilt_connection) {
        return Err(format!("it was sent on a spoilt connection: `{}`", show(&record.text)));
    }
    if let (Some(begin), [one]) = (&case.upstream_begins, own.as_slice())
        && one.text.starts_with(begin)
        && one.text.ends_with(upstream::CUT)
    {
        return Ok(());
    }
    let texts: Vec<_> = own.iter().map(|record| record.text.as_slice()).collect();
    if texts != case.upstream {
        let shown =
            |texts: &[&[u8]]| texts.iter().map(|text| format!("`{}`", show(text))).collect::<Vec<_>>();
        let wanted: Vec<_> = case.upstream.iter().map(Vec::as_slice).collect();
        return Err(format!("the upstream got {:?}, not {:?}", shown(&texts), shown(&wanted)));
    }
    Ok(())
}

#[test]
fn hostile_bytes_get_no_further_than_they_may() -> anyhow::Result<()> {
    hold(&["data"], Carrier::AsSaid)
}

#[test]
fn hostile_frames_get_no_further_than_they_may() -> anyhow::Result<()> {
    hold(&["http2"], Carrier::AsSaid)
}

/// The same, and what there is only within TLS.
#[test]
fn hostile_bytes_get_no_further_within_tls() -> anyhow::Result<()> {
    hold(&["data", "within"], Carrier::Tls)
}

#[test]
fn hostile_frames_get_no_further_within_tls() -> anyhow::Result<()> {
    hold(&["http2"], Carrier::Tls)
}

/// Sends what the directories have, prints a table of it, and names what does not hold.
fn hold(dirs: &[&str], carrier: Carrier) -> anyhow::Result<()> {
    let cases = case::read_all(dirs, carrier).map_err(anyhow::Error::msg)?;
    let results = run(&cases)?;
    let mut areas: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (at, case) in cases.iter().enumerate() {
        let (all, well) = areas.entry(&case.area).or_default();
        *all += 1;
        *well += usize::from(!results.failures.contains_key(&at));
    }
    println!("{:<24} {:>6} {:>6}", "area", "cases", "held");
    for (area, (all, well)) in &areas {
        println!("{area:<24} {all:>6} {well:>6}");
    }
    println!("{:<24} {:>6} {:>6}", "all", cases.len(), cases.len() - results.failures.len());
    println!("in {:.1} s", results.took.as_secs_f64());
    let mut report = String::new();
    for (at, errors) in &results.failures {
        let case = &cases[*at];
        report.push_str(&format!("{}: {}: {}\n", case.area, case.name, errors.join("\n    ")));
    }
    assert!(report.is_empty(), "\n{report}");
    assert!(results.strays.is_empty(), "from no client that there is: {:?}", results.strays);
    Ok(())
}

/// The runner itself: each of these requires something that is not so.
#[test]
fn every_requirement_that_is_not_met_is_noticed() {
    let cases = case::read_all(&["wrong"], Carrier::AsSaid).unwrap();
    let results = run(&cases).unwrap();
    let unnoticed: Vec<_> = (0..cases.len())
        .filter(|at| !results.failures.contains_key(at))
        .map(|at| format!("{} ({:?})", cases[at].name, cases[at].send))
        .collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
