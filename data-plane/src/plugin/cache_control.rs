//! What `Cache-Control` says, and for how long an answer counts.
//!
//! Source: RFC 9111 4.2 and 5.2.

use std::num::IntErrorKind;
use std::time::{Duration, SystemTime};

use crate::http1::list;

/// Directives of a request or an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Directives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) private: bool,
    pub(super) only_if_cached: bool,
    /// By `s-maxage` too (RFC 9111 5.2.2.10).
    pub(super) must_revalidate: bool,
    pub(super) max_age: Option<u64>,
    pub(super) shared_max_age: Option<u64>,
    /// Without a number: however old.
    pub(super) max_stale: Option<u64>,
    pub(super) min_fresh: Option<u64>,
}

impl Directives {
    /// Takes a line in.
    pub(super) fn note(&mut self, line: &[u8]) {
        for directive in list(line) {
            let (name, value) = match directive.iter().position(|byte| *byte == b'=') {
                Some(at) => (&directive[..at], Some(&directive[at + 1..])),
                None => (directive, None),
            };
            let number = || {
                let digits = value?.trim_ascii();
                let digits =
                    digits.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(digits);
                match std::str::from_utf8(digits).ok()?.parse::<u64>() {
                    // RFC 9111 1.2.2.
                    Err(error) if *error.kind() == IntErrorKind::PosOverflow => Some(1 << 31),
                    number => number.ok(),
                }
            };
            match name.trim_ascii().to_ascii_lowercase().as_slice() {
                b"no-store" => self.no_store = true,
                b"no-cache" => self.no_cache = true,
                b"private" => self.private = true,
                b"only-if-cached" => self.only_if_cached = true,
                // What is no number has run out (RFC 9111 4.2.1).
                b"max-age" => self.max_age = Some(number().unwrap_or(0)),
                b"s-maxage" => {
                    self.shared_max_age = Some(number().unwrap_or(0));
                    self.must_revalidate = true;
                }
                b"must-revalidate" | b"proxy-revalidate" => self.must_revalidate = true,
                b"max-stale" => self.max_stale = Some(value.map_or(u64::MAX, |_| number().unwrap_or(0))),
                b"min-fresh" => self.min_fresh = number(),
                _ => {}
            }
        }
    }
}

/// The age, in seconds, up to which an answer says that it counts; `None` where it does not. `age_s` is what it has at `now_s`.
pub(super) fn freshness_s(said: &Directives, expires: Option<&[u8]>, age_s: u64, now_s: u64) -> Option<u64> {
    said.shared_max_age.or(said.max_age).or_else(|| {
        let at = httpdate::parse_http_date(std::str::from_utf8(expires?).ok()?).ok()?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now_s);
        Some(at.duration_since(now).map_or(0, |left| left.as_secs().saturating_add(age_s)))
    })
}

/// Seconds that an answer was on its way from where it was made, by its `Age`; what is no number says nothing.
///
/// Source: RFC 9111 5.1 and 1.2.2.
pub(super) fn said_age_s(said: Option<&[u8]>) -> u64 {
    let digits = said.map(<[u8]>::trim_ascii).unwrap_or_default();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    // One that is too large is very old.
    if is_number { digits.parse().unwrap_or(u64::MAX) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_whatever_their_case_and_place() {
        let mut said = Directives::default();
        said.note(b"No-Cache=\"set-cookie\" , max-age=60");
        said.note(b"s-maxage=\"5\",max-stale, private, x=1, min-fresh=a");
        let want = Directives {
            no_cache: true,
            private: true,
            max_age: Some(60),
            shared_max_age: Some(5),
            must_revalidate: true,
            max_stale: Some(u64::MAX),
            ..Directives::default()
        };
        assert_eq!(said, want);
    }

    #[test]
    fn an_age_is_a_number_of_any_size() {
        for (said, want) in [
            (&b"50"[..], 50),
            (b" 0 ", 0),
            (b"99999999999999999999", u64::MAX),
            (b"-1", 0),
            (b"+1", 0),
            (b"a", 0),
            (b"", 0),
        ] {
            assert_eq!(said_age_s(Some(said)), want, "{said:?}");
        }
        assert_eq!(said_age_s(None), 0);
    }

    #[test]
    fn the_word_for_shared_caches_counts_before_that_for_all_and_before_a_date() {
        let date = Some(&b"Sun, 06 Nov 1994 08:49:37 GMT"[..]);
        let at = 784_111_777;
        let said = |line: &[u8]| {
            let mut said = Directives::default();
            said.note(line);
            said
        };
        for (line, expires, now, want) in [
            (&b"max-age=60, s-maxage=5"[..], date, at, Some(5)),
            (b"max-age=60", date, at, Some(60)),
            (b"max-age=x", date, at, Some(0)),
            (b"max-age=99999999999999999999", date, at, Some(1 << 31)),
            (b"", date, at - 7, Some(7)),
            (b"", date, at + 7, Some(0)),
            (b"", Some(&b"0"[..]), at, None),
            (b"", None, at, None),
        ] {
            assert_eq!(freshness_s(&said(line), expires, 0, now), want, "{line:?} {now}");
            // A date is one, however old the answer is.
            let by_date = want.map(|left| if left == 7 { left + 100 } else { left });
            assert_eq!(freshness_s(&said(line), expires, 100, now), by_date, "{line:?} {now}");
        }
    }
}
