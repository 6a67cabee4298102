//! The clock of the moving averages: milliseconds in 32 bits, so that an average and its time fit one atomic word.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since some moment of this process; wraps after 49 days.
pub(super) fn millis(now: Instant) -> u32 {
    let millis = now.saturating_duration_since(*START).as_millis() & u128::from(u32::MAX);
    u32::try_from(millis).unwrap_or_default()
}
