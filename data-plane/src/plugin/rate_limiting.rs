//! `rate-limiting`: how many requests in a window of time. Each node counts for itself.
//!
//! Source: Kong 3.10's plugin, policy `local`. Unlike there, a limit is exact on a node however many come at once, and months and years are the
//! calendar's.

use super::answer::Answer;
use super::run::At;
use super::{counters::Standing, edits::Edits};

/// A window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Window {
    /// By the clock, as all of them.
    Second,
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// In UTC.
    Day,
    /// In UTC.
    Month,
    /// In UTC.
    Year,
}

impl Window {
    /// All of them, the shortest first.
    pub const ALL: [Self; 6] = [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Month, Self::Year];

    const fn limit_header(self) -> &'static str {
        match self {
            Self::Second => "X-RateLimit-Limit-Second",
            Self::Minute => "X-RateLimit-Limit-Minute",
            Self::Hour => "X-RateLimit-Limit-Hour",
            Self::Day => "X-RateLimit-Limit-Day",
            Self::Month => "X-RateLimit-Limit-Month",
            Self::Year => "X-RateLimit-Limit-Year",
        }
    }

    const fn remaining_header(self) -> &'static str {
        match self {
            Self::Second => "X-RateLimit-Remaining-Second",
            Self::Minute => "X-RateLimit-Remaining-Minute",
            Self::Hour => "X-RateLimit-Remaining-Hour",
            Self::Day => "X-RateLimit-Remaining-Day",
            Self::Month => "X-RateLimit-Remaining-Month",
            Self::Year => "X-RateLimit-Remaining-Year",
        }
    }
}

/// How many, of whom.
#[derive(Debug)]
pub struct RateLimiting {
    /// By window; `None`: without a limit.
    pub limits: [Option<f64>; Window::ALL.len()],
    /// Whose requests are counted together.
    pub by: LimitBy,
    /// Whether clients are told nothing of limits.
    pub hides: bool,
    /// Status of a refusal.
    pub status: u16,
    /// What a refusal says.
    pub message: Box<str>,
}

/// Whose requests are counted together. Where what is named is not there, those of one address are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitBy {
    /// Of one consumer.
    Consumer,
    /// Of one credential.
    Credential,
    /// Of one address.
    Ip,
    /// To one service.
    Service,
    /// With one value of this header.
    Header(Box<str>),
    /// To this path.
    Path(Box<str>),
}

impl Default for RateLimiting {
    fn default() -> Self {
        Self {
            limits: [None; Window::ALL.len()],
            by: LimitBy::Consumer,
            hides: false,
            status: 429,
            message: "API rate limit exceeded".into(),
        }
    }
}

impl RateLimiting {
    /// The limits that there are, that of the shortest window first.
    pub fn limits(&self) -> impl Iterator<Item = (Window, f64)> {
        Window::ALL.into_iter().zip(self.limits).filter_map(|(window, limit)| Some((window, limit?)))
    }
}

pub(super) fn run(config: &RateLimiting, at: &mut At<'_>) -> Option<Answer> {
    let who = who(config, at);
    let standings = at.stores.counters.take(at.plugin.id, &who, config, at.asked.now.as_secs());
    let is_refused = standings.iter().any(|standing| standing.is_exceeded);
    let reset_s = tell(&standings, if config.hides { None } else { Some(&mut at.passed.response) });
    if !is_refused {
        return None;
    }
    let mut answer = Answer::error(config.status, config.message.to_string());
    if !config.hides {
        answer.headers.set("Retry-After", reset_s.to_string().as_bytes());
    }
    Some(answer)
}

/// Of a header or path that requests are counted under as it is.
const PLAIN_BYTES_MAX: usize = 64;

/// What requests are counted under. What it is stands before it, so that a header cannot name an address.
fn who(config: &RateLimiting, at: &At<'_>) -> Vec<u8> {
    let caller = at.passed.caller.as_ref();
    let consumer = || caller.map(|caller| caller.consumer.id.as_bytes().to_vec());
    let credential = || caller.and_then(|caller| caller.credential).map(|id| id.as_bytes().to_vec());
    let found = match &config.by {
        LimitBy::Consumer => consumer(),
        LimitBy::Credential => credential(),
        LimitBy::Ip => None,
        LimitBy::Service => at.asked.service.map(|id| id.as_bytes().to_vec()),
        LimitBy::Header(name) => at.header(name).next().map(<[u8]>::to_vec),
        LimitBy::Path(path) => {
            (at.asked.head.target.path == path.as_bytes()).then(|| path.as_bytes().to_vec())
        }
    };
    match found {
        // What is long takes no more memory than what is not.
        Some(found) if found.len() > PLAIN_BYTES_MAX => {
            [blake3::hash(&found).as_bytes().as_slice(), b"#"].concat()
        }
        Some(mut found) => {
            found.push(b'=');
            found
        }
        None => at.asked.client.as_bytes().to_vec(),
    }
}

/// Tells of all windows, and of the one that is nearest to its limit by the names of the drafts of a standard. Seconds until that one ends.
///
/// Source: Kong 3.10; draft-polli-ratelimit-headers.
fn tell(standings: &[Standing], edits: Option<&mut Edits>) -> u64 {
    let nearer = |one: &&Standing, other: &&Standing| {
        one.remaining.total_cmp(&other.remaining).then(other.window.cmp(&one.window))
    };
    let Some(nearest) = standings.iter().min_by(nearer) else { return 1 };
    if let Some(edits) = edits {
        let mut set = |name: &'static str, value: String| edits.set(name, value.as_bytes());
        for standing in standings {
            set(standing.window.limit_header(), standing.limit.to_string());
            set(standing.window.remaining_header(), standing.remaining.to_string());
        }
        set("RateLimit-Limit", nearest.limit.to_string());
        set("RateLimit-Remaining", nearest.remaining.to_string());
        set("RateLimit-Reset", nearest.reset_s.to_string());
    }
    nearest.reset_s
}
