//! Compares the algorithms by their tails, in virtual time, and writes what it finds into `BALANCING.md` and
//! `balancing/`: `cargo bench -p equipoise-data-plane --bench simulation`, and a name to run the scenarios that have it in
//! theirs, without writing.
//!
//! Nothing here waits or measures this machine: the same seed gives the same page.

#![allow(clippy::print_stdout)]

mod chart;
mod node;
mod page;
mod random;
mod report;
mod scenario;
mod scenarios;
mod simulator;
mod target;

use std::path::Path;
use std::{env, fs, io};

/// Of all runs of the page.
const SEED: u64 = 1;

fn main() -> io::Result<()> {
    let wanted = env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = package.join("BALANCING.md");
    let mut text = fs::read_to_string(&path)?;
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| name.contains(wanted));
    for scenario in scenarios::all().iter().filter(|scenario| is_wanted(scenario.name)) {
        let run = |contender| simulator::run(scenario, contender, SEED);
        let reports: Vec<_> = scenario::Contender::ALL.into_iter().map(run).collect();
        println!("{}: {}\n\n{}", scenario.name, scenario.title, page::table(&reports));
        // Two builds that print the same have done the same, to the microsecond.
        let digests: Vec<_> = reports.iter().map(|report| report.digest().to_hex()[..8].to_owned()).collect();
        println!("digests {}\n", digests.join(" "));
        let block = page::block(scenario, &reports);
        text = page::put(&text, scenario.name, &block)
            .ok_or_else(|| io::Error::other(format!("BALANCING.md has no place for {}", scenario.name)))?;
        if scenario.has_chart && wanted.is_none() {
            let chart = package.join("balancing").join(scenario.name).with_extension("svg");
            fs::write(chart, page::chart(scenario, &reports))?;
        }
    }
    if wanted.is_none() {
        fs::write(path, text)?;
    }
    Ok(())
}
