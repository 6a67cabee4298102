//! A clock for what is kept in atomics. Of the moving averages: milliseconds in 32 bits, so that an average and its time
//! fit one word.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since some moment of this process.
pub(super) fn micros(now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(*START).as_micros()).unwrap_or(u64::MAX)
}

/// Undoes [`micros`].
pub(super) fn instant(micros: u64) -> Instant {
    *START + Duration::from_micros(micros)
}

/// Milliseconds since some moment of this process; wraps after 49 days.
pub(super) fn millis(now: Instant) -> u32 {
    let millis = now.saturating_duration_since(*START).as_millis() & u128::from(u32::MAX);
    u32::try_from(millis).unwrap_or_default()
}
