//! Windows of time as people count them, in UTC: when the one began that a moment is in, and when it ends.

use super::Window;

const DAY_S: u64 = 86_400;

/// Seconds since 1970 at which the window began and at which the next one begins.
pub(super) fn bounds(window: Window, now_s: u64) -> (u64, u64) {
    let even = |length: u64| {
        let from = now_s - now_s % length;
        (from, from + length)
    };
    match window {
        Window::Second => even(1),
        Window::Minute => even(60),
        Window::Hour => even(3600),
        Window::Day => even(DAY_S),
        Window::Month | Window::Year => {
            let (year, month) = month_of(now_s / DAY_S);
            let (from, to) = match (window, month) {
                (Window::Year, _) => ((year, 1), (year + 1, 1)),
                (_, 12) => ((year, 12), (year + 1, 1)),
                (_, month) => ((year, month), (year, month + 1)),
            };
            (first_day(from) * DAY_S, first_day(to) * DAY_S)
        }
    }
}

/// Year and month (1 to 12) of a day, counted from 1 January 1970.
fn month_of(day: u64) -> (u64, u64) {
    // No year is longer: this one is it, or one before it.
    let mut year = 1970 + day / 366;
    while first_day((year + 1, 1)) <= day {
        year += 1;
    }
    let month = (2..=12).rev().find(|month| first_day((year, *month)) <= day);
    (year, month.unwrap_or(1))
}

/// The first day of a month, counted from 1 January 1970. The years are counted from March, so that a leap day is a year's last.
fn first_day((year, month): (u64, u64)) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: `date -u -d DATE +%s`.
    #[test]
    fn windows_begin_and_end_by_the_calendar() {
        // 2024-02-29T23:59:58Z
        let leap = 1_709_251_198;
        for (window, now, from, to) in [
            (Window::Second, leap, leap, leap + 1),
            (Window::Minute, leap, 1_709_251_140, 1_709_251_200),
            (Window::Hour, leap, 1_709_247_600, 1_709_251_200),
            (Window::Day, leap, 1_709_164_800, 1_709_251_200),
            (Window::Month, leap, 1_706_745_600, 1_709_251_200),
            (Window::Year, leap, 1_704_067_200, 1_735_689_600),
            // 2026-12-31T00:00:00Z
            (Window::Month, 1_798_675_200, 1_796_083_200, 1_798_761_600),
            (Window::Year, 1_798_675_200, 1_767_225_600, 1_798_761_600),
            (Window::Month, 0, 0, 31 * DAY_S),
            (Window::Year, 0, 0, 365 * DAY_S),
        ] {
            assert_eq!(bounds(window, now), (from, to), "{window:?} {now}");
        }
    }

    #[test]
    fn every_moment_is_in_its_window() {
        for now in (0..10_000_000_000).step_by(7_654_321) {
            for window in Window::ALL {
                let (from, to) = bounds(window, now);
                assert!(from <= now && now < to, "{window:?} {now}");
                assert_eq!(bounds(window, to).0, to, "the next one begins where it ends: {window:?} {now}");
            }
        }
    }
}
