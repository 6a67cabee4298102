//! Factors and percents as whole millionths: what an operator wrote as 1.4 is 1.4, not 1.399999999999999911.

/// One.
pub(super) const MILLION: u64 = 1_000_000;

/// Largest value; far above any factor that makes a difference.
const MAX: f64 = 1e6;

/// The value in millionths, rounded. What is below 0 or no number counts as 0, what is above a million as a million.
pub(super) fn millionths(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 10^12; NaN becomes 0"
    )]
    let millionths = (value.clamp(0.0, MAX) * 1e6).round() as u64;
    millionths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_what_was_written() {
        let rows = [
            (1.4, 1_400_000),
            (1.25, 1_250_000),
            (0.1, 100_000),
            (0.0, 0),
            (-1.0, 0),
            (f64::NAN, 0),
            (f64::INFINITY, MILLION * MILLION),
        ];
        for (value, want) in rows {
            assert_eq!(millionths(value), want, "{value}");
        }
    }
}
