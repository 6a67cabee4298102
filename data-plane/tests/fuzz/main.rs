//! Laws that hold for any bytes, with inputs of a seeded generator: so many by default, or as long as `FUZZ_SECONDS` says. With
//! `FUZZ_SEED` others come. A broken law prints its input.

#![allow(clippy::print_stdout, reason = "how many inputs there were is what a person runs this for")]

#[path = "laws.rs"]
mod laws;

mod inputs;

use std::time::{Duration, Instant};

use inputs::Inputs;

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

/// Holds a law against `runs` inputs.
fn hold(name: &str, law: fn(&[u8]), inputs: Inputs, runs: u64) {
    hold_each(name, law, inputs, runs);
}

/// Holds a law against `runs` inputs, of which it must come to something with one in `share`: two who refuse everything agree, and
/// nothing is known of them.
fn hold_where_taken(name: &str, law: fn(&[u8]) -> usize, inputs: Inputs, runs: u64, share: u64) {
    let mut taken = 0;
    let held = hold_each(name, |data| taken += u64::from(law(data) > 0), inputs, runs);
    println!("{name}: both took {taken} of {held}");
    assert!(taken * share >= held, "{name}: both took {taken} of {held} only");
}

fn hold_each(name: &str, mut law: impl FnMut(&[u8]), mut inputs: Inputs, runs: u64) -> u64 {
    let begun = Instant::now();
    let seconds = number("FUZZ_SECONDS").map(Duration::from_secs);
    let mut held = 0_u64;
    while seconds.map_or(held < runs, |seconds| begun.elapsed() < seconds) {
        let input = inputs.next();
        let shown = Shown(&input);
        law(&input);
        drop(shown);
        held += 1;
    }
    println!("{name}: {held} inputs in {:.1} s", begun.elapsed().as_secs_f64());
    held
}

fn seed() -> u64 {
    number("FUZZ_SEED").unwrap_or(1)
}

#[test]
fn requests_are_read_as_hyper_reads_them_where_both_take_them() {
    hold_where_taken("requests", laws::requests, Inputs::requests(seed()), 3_000, 4);
}

#[test]
fn responses_are_read_as_hyper_reads_them_where_both_take_them() {
    hold_where_taken("responses", laws::responses, Inputs::responses(seed()), 3_000, 4);
}

#[test]
fn messages_come_out_the_same_however_they_are_cut() {
    hold("cut requests", laws::cuts, Inputs::requests(seed()), 10_000);
    hold("cut responses", laws::cuts, Inputs::responses(seed()), 10_000);
}

#[test]
fn proxy_headers_come_out_the_same_however_they_are_cut() {
    hold("PROXY headers", laws::proxy_headers, Inputs::proxy_headers(seed()), 20_000);
}

#[test]
fn handshakes_ask_for_the_same_however_they_are_cut() {
    hold("ClientHellos", laws::client_hellos, Inputs::client_hellos(seed()), 20_000);
}

#[test]
fn no_path_leads_out_of_what_was_routed() {
    hold("paths", laws::paths, Inputs::paths(seed()), 20_000);
}
