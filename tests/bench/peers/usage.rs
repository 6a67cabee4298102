//! What processes have used, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};

/// CPU time that processes have used, over all their threads.
#[derive(Default)]
pub struct Used {
    /// Exact.
    ns: u64,
    /// Of the samples that the kernel's clock took: in the programs themselves, and in the kernel for them.
    user_ticks: u64,
    system_ticks: u64,
}

impl Used {
    /// So far.
    pub fn by(pids: &[u32]) -> Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = fs::read_to_string(thread?.path().join("schedstat"))?;
                sum.ns += text.split_whitespace().next().context("schedstat")?.parse::<u64>()?;
            }
            let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // Behind the name, which is in brackets and may have spaces, come field 3 and the rest.
            let mut fields = text.rsplit(')').next().context("stat")?.split_whitespace().skip(11);
            let mut ticks = || fields.next().context("stat")?.parse::<u64>().context("stat");
            sum.user_ticks += ticks()?;
            sum.system_ticks += ticks()?;
        }
        Ok(sum)
    }
}

/// What one measurement found.
#[derive(Clone, Copy)]
pub struct Figure {
    /// CPU time of the proxy for one request.
    pub micros: f64,
    /// Of them in the program itself, the rest in the kernel.
    pub user_micros: f64,
    /// Requests.
    pub per_second: u64,
}

impl Figure {
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn new(before: &Used, after: &Used, requests: u64, seconds: u32) -> Self {
        let micros = (after.ns - before.ns) as f64 / 1000.0 / requests as f64;
        let user = after.user_ticks - before.user_ticks;
        let all = user + after.system_ticks - before.system_ticks;
        let user_micros = micros * user as f64 / (all.max(1)) as f64;
        Self { micros, user_micros, per_second: requests / u64::from(seconds) }
    }

    /// The one in the middle, by time.
    pub fn median(figures: &[Self]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(|a, b| a.micros.total_cmp(&b.micros));
        sorted[sorted.len() / 2]
    }
}

/// Resident memory, over all the processes.
pub fn resident_kib(pids: &[u32]) -> Result<u64> {
    let each = pids.iter().map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
        line.split_whitespace().nth(1).context("VmRSS")?.parse::<u64>().context("VmRSS")
    });
    each.sum()
}

/// How many connections a proxy can hold here: two descriptors each, and a few for itself. HAProxy does not start
/// when asked for more.
pub fn connections_max() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/limits")?;
    let line =
        text.lines().find(|line| line.starts_with("Max open files")).context("the limit of open files")?;
    // The second of soft and hard: the proxies raise theirs.
    let files: usize = line.split_whitespace().nth(4).context("a hard limit")?.parse().context("a number")?;
    Ok((files.min(100_000) - 200) / 2)
}
