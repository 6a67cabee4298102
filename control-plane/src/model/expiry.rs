//! Entities that go by themselves: a `ttl` in seconds becomes the moment at which it has run out. Pure; the moment at
//! which something is judged is an argument.
//!
//! What people write and read is the time that is left, what is stored is the moment, in whole seconds since 1970: a
//! restart, a slow disk or an export gives nobody more time.

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::number::whole;
use super::{Answer, Body, Config, Effect, ErrorObject, Kind, Mutation};

/// The field.
pub(super) const TTL: &str = "ttl";

/// The longest time in seconds (entities.md section 9). Every moment since 1973 is larger, so the two are never mixed up.
const SECONDS_MAX: i64 = 100_000_000;

/// Entities that go in one revision; the next ones go in the next.
const GONE_AT_ONCE_MAX: usize = 1_000;

/// Replaces the time in a request by the moment at which it has run out; 0 is for ever, as in the reference.
///
/// # Errors
/// Code 11.
pub(super) fn to_moment(body: &mut Body, now_ms: u64) -> Result<(), ErrorObject> {
    let Some(value) = body.get_mut(TTL).filter(|value| !value.is_null()) else { return Ok(()) };
    let Some(seconds) = whole(value).filter(|seconds| (0..=SECONDS_MAX).contains(seconds)) else {
        let problem = format!("must be an integer between 0 and {SECONDS_MAX}");
        return Err(ErrorObject::invalid_option(TTL, &problem));
    };
    *value = match u64::try_from(seconds) {
        // Never less than was asked for.
        Ok(seconds) if seconds > 0 => (now_ms.div_ceil(1_000) + seconds).into(),
        Ok(_) | Err(_) => Value::Null,
    };
    Ok(())
}

/// Takes a moment out of an exported entity: it is what is stored, and no time that could be checked.
pub(super) fn take_moment(body: &mut Body) -> Option<Value> {
    let moment = body.get(TTL).and_then(whole).filter(|moment| *moment > SECONDS_MAX)?;
    body.remove(TTL);
    Some(moment.into())
}

/// When a stored entity goes, in seconds since 1970; `None`: never.
pub fn expires_at(body: &Body) -> Option<u64> {
    body.get(TTL).and_then(Value::as_u64)
}

/// Whole seconds that are left.
pub(super) const fn seconds_left(expires_at: u64, now_ms: u64) -> u64 {
    expires_at.saturating_mul(1_000).saturating_sub(now_ms) / 1_000
}

impl Config {
    /// When the next entity goes, in milliseconds since 1970; `None` while none has a `ttl`. Cost: O(log n).
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.index.expiring().next().map(|(at, ..)| at.saturating_mul(1_000))
    }

    /// The config without what has run out at `now_ms`: up to 1,000 entities, oldest first.
    pub fn expire(&self, now_ms: u64) -> (Self, Effect) {
        let gone: Vec<(Kind, Uuid)> = self
            .index
            .expiring()
            .take_while(|(at, ..)| at.saturating_mul(1_000) <= now_ms)
            .take(GONE_AT_ONCE_MAX)
            .map(|(_, kind, id)| (kind, id))
            .collect();
        let gone = gone.into_iter().filter_map(|(kind, id)| self.by_id(kind, id));
        let mutations: Vec<_> =
            gone.map(|entity| Mutation { before: Some(Arc::clone(entity)), after: None }).collect();
        let mut next = self.clone();
        mutations.iter().for_each(|mutation| next.restore(mutation));
        (next, Effect { answer: Answer::Deleted, mutations })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn moment(ttl: Value, now_ms: u64) -> Result<Value, Value> {
        let mut body = Body::from_iter([(TTL.to_owned(), ttl)]);
        to_moment(&mut body, now_ms).map_err(|error| error.to_json())?;
        Ok(body[TTL].clone())
    }

    #[test]
    fn a_time_becomes_the_moment_at_which_it_has_run_out() {
        for (name, ttl, now_ms, want) in [
            ("a second", json!(1), 5_000, json!(6)),
            ("never less than was asked for", json!(1), 5_001, json!(7)),
            ("as a float", json!(2.0), 5_000, json!(7)),
            ("the longest", json!(100_000_000), 0, json!(100_000_000)),
            ("zero is for ever", json!(0), 5_000, Value::Null),
            ("null is for ever", Value::Null, 5_000, Value::Null),
        ] {
            assert_eq!(moment(ttl, now_ms), Ok(want), "{name}");
        }
        for wrong in [json!(-1), json!(100_000_001), json!(1.5), json!("60"), json!([])] {
            let error = moment(wrong.clone(), 0).unwrap_err();
            assert_eq!(
                error,
                json!({"code": 11, "name": "invalid options",
                    "message": "invalid option (ttl: must be an integer between 0 and 100000000)",
                    "options": {"ttl": "must be an integer between 0 and 100000000"}}),
                "{wrong}"
            );
        }
    }

    #[test]
    fn what_is_left_runs_down_to_nothing() {
        for (now_ms, want) in [(0, 7), (1, 6), (1_000, 6), (6_999, 0), (7_000, 0), (9_000, 0)] {
            assert_eq!(seconds_left(7, now_ms), want, "{now_ms}");
        }
    }

    #[test]
    fn only_what_cannot_be_a_time_is_taken_for_a_moment() {
        for (value, want) in [
            (json!(100_000_000), None),
            (json!(1_700_000_000), Some(json!(1_700_000_000))),
            (Value::Null, None),
            (json!("x"), None),
        ] {
            let mut body = Body::from_iter([(TTL.to_owned(), value)]);
            assert_eq!(take_moment(&mut body), want);
            assert_eq!(body.contains_key(TTL), want.is_none());
        }
    }
}
