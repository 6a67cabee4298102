//! From the text form of OpenMetrics, which is what can be written, to the one of Prometheus, which is what is promised: pure.
//!
//! They differ in few ways. A counter's family is named without the `_total` of its samples in the one and with it in the other,
//! so that a reader of the other would take it for something of no kind, and without help.

use std::collections::HashSet;

const COUNTER: &str = " counter";

/// Writes `open_metrics` as Prometheus has it.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let kinds = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: HashSet<&str> = kinds.filter_map(|kind| kind.strip_suffix(COUNTER)).collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|word| {
            let (name, rest) = line.strip_prefix(word)?.split_once(' ')?;
            counters.contains(name).then_some((word, name, rest))
        });
        match described {
            Some((word, name, rest)) => text.extend([word, name, "_total ", rest]),
            None if line.starts_with("# UNIT ") || line == "# EOF" => continue,
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_their_samples_and_all_else_stays() {
        let open = "# HELP a A thing.\n# TYPE a counter\na_total{b=\"# EOF\"} 1\n# HELP c C a.\n# TYPE c gauge\n# UNIT c seconds\nc 2\n\
                    # HELP d Counts a counter.\n# TYPE d unknown\nd 3\n# EOF\n";
        let want = "# HELP a_total A thing.\n# TYPE a_total counter\na_total{b=\"# EOF\"} 1\n# HELP c C a.\n# TYPE c gauge\nc 2\n\
                    # HELP d Counts a counter.\n# TYPE d unknown\nd 3\n";
        assert_eq!(prometheus(open), want);
    }
}
