//! A config of many routes and targets, and what processes take that have it, in memory and in time.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

/// Upstreams of the config.
const UPSTREAMS: usize = 100;

/// A declarative config: routes `r0`, `r1` ... with the paths `/r/0`, `/r/1` ..., all of the service `s`, which leads to this host
/// and port; and upstreams `u0` to `u99` that share the targets.
pub fn document(routes: usize, targets: usize, (host, port): (&str, u16)) -> Value {
    let routes: Vec<Value> = (0..routes)
        .map(|at| json!({"name": format!("r{at}"), "paths": [format!("/r/{at}")], "service": "s"}))
        .collect();
    let of = targets.div_ceil(UPSTREAMS);
    let upstreams: Vec<Value> = (0..UPSTREAMS)
        .map(|upstream| {
            let targets = (0..of.min(targets.saturating_sub(upstream * of)))
                .map(|at| json!({"target": format!("10.{upstream}.{}.{}:80", at / 250, at % 250 + 1)}));
            json!({"name": format!("u{upstream}"), "targets": targets.collect::<Vec<_>>()})
        })
        .collect();
    let services = [json!({"name": "s", "host": host, "port": port})];
    json!({"_format_version": "3.0", "services": services, "routes": routes, "upstreams": upstreams})
}

/// Resident memory of a process, now and at most.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: u32) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let mebibytes = |name| of(name).map_or(0, |kib| kib / 1024);
    Ok(format!("{} MiB resident, {} MiB at most", mebibytes("VmRSS"), mebibytes("VmHWM")))
}

/// The middle and the longest but one in a hundred, for people.
///
/// # Panics
/// When there are none.
pub fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    format!("p50 {:?}, p99 {:?}", at(50), at(99))
}
