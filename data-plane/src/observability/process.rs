//! What the operating system says of this process.

/// Resident memory; `None` where there is no `/proc`. Reads a file of the kernel's, which does not block.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What a thread of this process does, as the kernel says it; `None` where there is no `/proc`.
pub(crate) fn thread_state(thread: i32) -> Option<&'static str> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    match stat.rsplit_once(')')?.1.trim_start().chars().next()? {
        'R' => Some("running"),
        'S' => Some("waiting"),
        'D' => Some("waiting for a disk"),
        'T' | 't' => Some("stopped"),
        'Z' | 'X' => Some("dead"),
        _ => None,
    }
}
