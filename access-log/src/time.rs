//! Moments as text, in UTC.

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A day, by the calendar.
struct Day {
    year: u64,
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
}

/// The day that begins so many days after 1 January 1970.
///
/// The years are counted from March, so that a leap day is a year's last.
fn day(since_1970: u64) -> Day {
    // Days from 1 March of year 0 to 1 January 1970.
    let days = since_1970 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    Day {
        year: year_of_era + era * 400 + u64::from(month <= 2),
        month,
        day: of_year - (153 * from_march + 2) / 5 + 1,
    }
}

fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn push(out: &mut Vec<u8>, number: u64, digits: u32) {
    for place in (0..digits).rev() {
        let digit = number / 10_u64.pow(place) % 10;
        out.push(b"0123456789".get(usize::try_from(digit).unwrap_or(0)).copied().unwrap_or(b'0'));
    }
}

fn push_clock(out: &mut Vec<u8>, seconds: u64) {
    push(out, seconds / 3600 % 24, 2);
    out.push(b':');
    push(out, seconds / 60 % 60, 2);
    out.push(b':');
    push(out, seconds % 60, 2);
}

/// Appends `26/Nov/2026:18:16:21 +0000`.
pub fn push_common(out: &mut Vec<u8>, at: SystemTime) {
    let seconds = since_1970(at).as_secs();
    let Day { year, month, day } = day(seconds / 86_400);
    push(out, day, 2);
    out.push(b'/');
    let month = usize::try_from(month - 1).ok().and_then(|month| MONTHS.get(month));
    out.extend_from_slice(month.copied().unwrap_or_default().as_bytes());
    out.push(b'/');
    push(out, year, 4);
    out.push(b':');
    push_clock(out, seconds);
    out.extend_from_slice(b" +0000");
}

/// Appends `2026-11-26T18:16:21.123Z`.
pub fn push_iso(out: &mut Vec<u8>, at: SystemTime) {
    let since = since_1970(at);
    let Day { year, month, day } = day(since.as_secs() / 86_400);
    push(out, year, 4);
    out.push(b'-');
    push(out, month, 2);
    out.push(b'-');
    push(out, day, 2);
    out.push(b'T');
    push_clock(out, since.as_secs());
    out.push(b'.');
    push(out, since.subsec_millis().into(), 3);
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        // Seconds as `date -u -d ... +%s` gives them.
        for (seconds, common, iso) in [
            (0, "01/Jan/1970:00:00:00 +0000", "1970-01-01T00:00:00.007Z"),
            (951_782_399, "28/Feb/2000:23:59:59 +0000", "2000-02-28T23:59:59.007Z"),
            (951_782_400, "29/Feb/2000:00:00:00 +0000", "2000-02-29T00:00:00.007Z"),
            (951_868_800, "01/Mar/2000:00:00:00 +0000", "2000-03-01T00:00:00.007Z"),
            (1_767_225_599, "31/Dec/2025:23:59:59 +0000", "2025-12-31T23:59:59.007Z"),
            (1_795_716_981, "26/Nov/2026:18:16:21 +0000", "2026-11-26T18:16:21.007Z"),
            (4_107_542_400, "01/Mar/2100:00:00:00 +0000", "2100-03-01T00:00:00.007Z"),
        ] {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
            let (mut first, mut second) = (Vec::new(), Vec::new());
            push_common(&mut first, at);
            push_iso(&mut second, at);
            assert_eq!((first.as_slice(), second.as_slice()), (common.as_bytes(), iso.as_bytes()));
        }
    }
}
