#![doc = include_str!("../README.md")]

use std::time::{Duration, Instant};

pub mod client;
pub mod cluster;
pub mod dns;
pub mod fleet;
pub mod large;
pub mod load;
pub mod metrics;
pub mod origin;
pub mod process;
pub mod tls;
pub mod wire;

pub use client::{Client, Response};
pub use dns::NameServer;
pub use load::Load;
pub use origin::Origin;
pub use process::Process;
pub use wire::{Way, Wire};

/// Long enough for a loaded 2-core machine; nothing waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none by the deadline; `what` says what was waited for.
pub fn eventually<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
