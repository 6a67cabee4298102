#![doc = include_str!("../README.md")]

pub mod address;
pub mod backoff;
pub mod cache;
pub mod fallback;
pub mod home;
pub mod key_source;
pub mod membership;
pub mod node_id;
pub mod partial;
pub mod replica;
pub mod settings;

mod connect;

use std::time::Duration;

pub use address::{Address, InvalidAddress};
pub use cache::{Beside, Cache, CacheError, Loaded, Pending};
pub use connect::{ConnectError, ControlPlane};
pub use equipoise_identity::Role;
pub use key_source::{KeyError, KeySource};
pub use membership::{Applicant, Membership, MembershipError, StaticFiles};
pub use partial::{Partial, WINDOW};
pub use replica::{Replica, ReplicaError};

/// Those who go back to their first choice do so within this many times [`Settings::home_after`] more.
const HOME_SPREAD: u32 = 4;

/// Times of the link to a control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A control plane sends `Head` every 5 s; after this much silence another one is looked for.
    pub silence_max: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Bounds the first pause before a reconnect.
    pub backoff_first: Duration,
    /// Bounds every pause before a reconnect.
    pub backoff_max: Duration,
    /// A stream that lived this long has proven good: the next pause is a first one.
    pub proven_after: Duration,
    /// The first choice has to be good for so long before whoever follows another one goes back to it.
    pub home_after: Duration,
    /// Those that go back do so within this much more time.
    pub home_spread: Duration,
    /// HTTP/2 ping interval, and how long its answer may take.
    pub keepalive: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            silence_max: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            backoff_first: Duration::from_millis(250),
            backoff_max: Duration::from_secs(15),
            proven_after: Duration::from_secs(10),
            home_after: Duration::from_secs(60),
            home_spread: Duration::from_secs(60) * HOME_SPREAD,
            keepalive: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// The defaults, with another time for which the first choice has to be good.
    pub fn home_after(home_after: Duration) -> Self {
        Self { home_after, home_spread: home_after * HOME_SPREAD, ..Self::default() }
    }
}
