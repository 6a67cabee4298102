//! Whether enough of an upstream's weight is available for it to serve at all.

/// Whether more than `threshold_percent` of the total weight is available (strictly; so 100 is never reached
/// and 0 asks for anything at all).
///
/// Source: Kong 3.10, `spec/balancer.md` section 1.
#[expect(clippy::cast_precision_loss, reason = "weights of a million targets fit into 52 bits")]
pub fn is_enough(available: u64, total: u64, threshold_percent: f64) -> bool {
    total > 0 && (available as f64 / total as f64) * 100.0 > threshold_percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_of_the_specification() {
        // Threshold, then whether 100, 75, 50, 25 and 0 percent available are enough.
        let rows = [
            (0.0, [true, true, true, true, false]),
            (25.0, [true, true, true, false, false]),
            (75.0, [true, false, false, false, false]),
            (99.0, [true, false, false, false, false]),
            (100.0, [false; 5]),
        ];
        for (threshold, want) in rows {
            for (available, want) in [100, 75, 50, 25, 0].into_iter().zip(want) {
                assert_eq!(is_enough(available, 100, threshold), want, "{available} % at {threshold}");
            }
        }
        assert!(!is_enough(0, 0, 0.0), "nobody there");
        assert!(is_enough(200, 300, 60.0));
        assert!(!is_enough(200, 300, 67.0));
    }
}
