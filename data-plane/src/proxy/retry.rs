//! Whether a failed attempt is followed by another: pure.
//!
//! Source: Kong 3.10 with its default conditions (`proxy.md` 6.4); what an upstream's policy changes of them:
//! `balancer.md` 10.6.

use std::time::Duration;

use crate::table::RetryOn;

/// How an attempt failed before a response head was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection.
    Connect,
    /// No connection, for want of something on this machine: says nothing of the target.
    Exhausted,
    /// No connection in time.
    ConnectTimeout,
    /// The connection broke.
    Broken,
    /// The target left, and its time to finish was over: no fault of its own.
    Cut,
    /// Writing or reading took too long.
    TimedOut,
    /// What came is no response.
    Invalid,
}

/// Whether a request may be carried out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// POST, PATCH and LOCK may not.
    Once,
    /// All others may.
    Repeatable,
}

impl Method {
    /// Source: nginx's `proxy_next_upstream` without `non_idempotent`.
    pub fn of(method: &str) -> Self {
        if matches!(method, "POST" | "PATCH" | "LOCK") { Self::Once } else { Self::Repeatable }
    }
}

/// What the target may have seen of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Nothing was accepted by the connection.
    Nothing,
    /// Something was, and all of it can be sent again.
    Replayable,
    /// Something was, and part of the body is gone.
    Consumed,
}

/// Where the connection came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made for this attempt.
    Fresh,
    /// From the pool, and not a byte of a response was read.
    Pooled,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Once more to the same target, on a connection of its own; costs none of the retries.
    Reconnect,
    /// Once more, to another target if there is one; costs a retry.
    Next,
    /// 502.
    BadGateway,
    /// 504.
    GatewayTimeout,
}

/// Judges a failed attempt. `retries_left`: extra attempts that the service still allows; `conditions`: after what alone
/// one is made, where an upstream's policy says.
pub fn judge(
    fault: Fault,
    method: Method,
    sent: Sent,
    origin: Origin,
    retries_left: u16,
    conditions: Option<RetryOn>,
) -> Verdict {
    let give_up = give_up(fault);
    let may_repeat = match (fault, sent, method) {
        (Fault::Invalid, _, _) | (_, Sent::Consumed, _) => false,
        (Fault::Connect | Fault::Exhausted | Fault::ConnectTimeout, _, _) | (_, Sent::Nothing, _) => true,
        (Fault::Broken | Fault::Cut | Fault::TimedOut, Sent::Replayable, method) => {
            method == Method::Repeatable
        }
    };
    match (may_repeat, fault, origin) {
        (false, _, _) => give_up,
        (true, Fault::Broken, Origin::Pooled) => Verdict::Reconnect,
        (true, _, _) if retries_left > 0 && is_named(fault, conditions) => Verdict::Next,
        (true, _, _) => give_up,
    }
}

/// The verdict on a fault after which there is no further attempt.
pub const fn give_up(fault: Fault) -> Verdict {
    match fault {
        Fault::ConnectTimeout | Fault::TimedOut => Verdict::GatewayTimeout,
        Fault::Connect | Fault::Exhausted | Fault::Broken | Fault::Cut | Fault::Invalid => {
            Verdict::BadGateway
        }
    }
}

fn is_named(fault: Fault, conditions: Option<RetryOn>) -> bool {
    conditions.is_none_or(|conditions| match fault {
        // What this machine lacks is no target's fault, and a target that never answered a connection had no part in it.
        Fault::Connect | Fault::Exhausted | Fault::ConnectTimeout => conditions.connect_failure,
        Fault::Broken | Fault::Cut => conditions.reset,
        Fault::TimedOut => conditions.timeout,
        Fault::Invalid => false,
    })
}

/// Whether a response of this status is dropped for another attempt.
pub fn is_retried(status: u16, method: Method, sent: Sent, retries_left: u16, conditions: RetryOn) -> bool {
    let is_named = match status {
        429 => conditions.too_many_requests,
        502 => conditions.bad_gateway,
        503 => conditions.unavailable,
        504 => conditions.gateway_timeout,
        _ => false,
    };
    is_named && retries_left > 0 && method == Method::Repeatable && sent != Sent::Consumed
}

/// Longest pause before an attempt, and longest wish of a target that is heard.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pause before the `number`th retry, counted from 0: evenly drawn below base x 2^number. `random` is evenly spread
/// over its range.
pub fn pause(base: Duration, number: u32, random: u32) -> Duration {
    let longest = base.saturating_mul(1 << number.min(16)).min(PAUSE_MAX);
    longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::Fault::{Broken, Connect, ConnectTimeout, Cut, Exhausted, Invalid, TimedOut};
    use super::Method::{Once, Repeatable};
    use super::Origin::{Fresh, Pooled};
    use super::Sent::{Consumed, Nothing, Replayable};
    use super::Verdict::{BadGateway, GatewayTimeout, Next, Reconnect};
    use super::*;

    /// Rows of `proxy.md` 6.4.
    const CASES: &[(&str, Fault, Method, Sent, Origin, u16, Verdict)] = &[
        ("refused, GET", Connect, Repeatable, Nothing, Fresh, 1, Next),
        ("refused, POST", Connect, Once, Nothing, Fresh, 1, Next),
        ("refused, none left", Connect, Repeatable, Nothing, Fresh, 0, BadGateway),
        ("nothing left here, POST", Exhausted, Once, Nothing, Fresh, 1, Next),
        ("nothing left here, none left", Exhausted, Repeatable, Nothing, Fresh, 0, BadGateway),
        ("connect timeout, GET", ConnectTimeout, Repeatable, Nothing, Fresh, 1, Next),
        ("connect timeout, POST", ConnectTimeout, Once, Nothing, Fresh, 1, Next),
        ("connect timeout, none left", ConnectTimeout, Once, Nothing, Fresh, 0, GatewayTimeout),
        ("broken, GET", Broken, Repeatable, Replayable, Fresh, 1, Next),
        ("broken, POST", Broken, Once, Replayable, Fresh, 1, BadGateway),
        ("broken, POST, nothing accepted", Broken, Once, Nothing, Fresh, 1, Next),
        ("broken, PUT, body gone", Broken, Repeatable, Consumed, Fresh, 1, BadGateway),
        ("cut, GET", Cut, Repeatable, Replayable, Fresh, 1, Next),
        ("cut, GET, pooled", Cut, Repeatable, Replayable, Pooled, 1, Next),
        ("cut, POST", Cut, Once, Replayable, Fresh, 1, BadGateway),
        ("timed out, GET", TimedOut, Repeatable, Replayable, Fresh, 1, Next),
        ("timed out, GET, none left", TimedOut, Repeatable, Replayable, Fresh, 0, GatewayTimeout),
        ("timed out, POST", TimedOut, Once, Replayable, Fresh, 1, GatewayTimeout),
        ("timed out, PUT, body gone", TimedOut, Repeatable, Consumed, Fresh, 1, GatewayTimeout),
        ("invalid, GET", Invalid, Repeatable, Replayable, Fresh, 1, BadGateway),
        ("invalid, POST", Invalid, Once, Replayable, Fresh, 1, BadGateway),
        ("invalid, pooled", Invalid, Repeatable, Replayable, Pooled, 1, BadGateway),
        ("stale, GET", Broken, Repeatable, Replayable, Pooled, 1, Reconnect),
        ("stale, GET, costs no retry", Broken, Repeatable, Replayable, Pooled, 0, Reconnect),
        ("stale, POST", Broken, Once, Replayable, Pooled, 1, BadGateway),
        ("stale, POST, nothing accepted", Broken, Once, Nothing, Pooled, 0, Reconnect),
        ("stale, body gone", Broken, Repeatable, Consumed, Pooled, 1, BadGateway),
        ("pooled and timed out", TimedOut, Repeatable, Replayable, Pooled, 1, Next),
    ];

    #[test]
    fn a_failed_attempt_is_judged_as_the_table_says() {
        for (name, fault, method, sent, origin, retries, want) in CASES {
            assert_eq!(judge(*fault, *method, *sent, *origin, *retries, None), *want, "{name}");
        }
    }

    #[test]
    fn post_patch_and_lock_are_sent_once() {
        for (method, want) in [("POST", Once), ("PATCH", Once), ("LOCK", Once), ("GET", Repeatable)] {
            assert_eq!(Method::of(method), want, "{method}");
        }
    }
}
