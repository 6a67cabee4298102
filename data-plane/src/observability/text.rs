//! Writes the Prometheus text format.
//!
//! By hand: the exact names and label order of existing dashboards matter, and the OpenMetrics encoder would
//! rename `kong_bandwidth_bytes` and refuse a gauge that ends in `_total`.

use std::fmt::Write as _;
use std::time::Duration;

use super::counter::HistogramSum;

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// Kind of a metric family.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Label names and values, in order.
pub(super) type Labels<'a> = [(&'a str, &'a str)];

impl Text {
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    pub(super) fn sample(&mut self, name: &str, labels: &Labels<'_>, value: u64) {
        self.0.push_str(name);
        self.labels(labels, None);
        self.put(format_args!(" {value}\n"));
    }

    pub(super) fn seconds(&mut self, name: &str, value: Duration) {
        self.put(format_args!("{name} {}\n", value.as_secs_f64()));
    }

    pub(super) fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &Labels<'_>,
        bounds_ms: &[u32; N],
        sum: &HistogramSum<N>,
    ) {
        let mut count = 0;
        for (bound, bucket) in bounds_ms.iter().zip(&sum.buckets) {
            count += bucket;
            self.bucket(name, labels, &bound.to_string(), count);
        }
        count += sum.over;
        self.bucket(name, labels, "+Inf", count);
        self.0.push_str(name);
        self.0.push_str("_count");
        self.labels(labels, None);
        self.put(format_args!(" {count}\n"));
        self.0.push_str(name);
        self.0.push_str("_sum");
        self.labels(labels, None);
        self.put(format_args!(" {}.{:03}\n", sum.sum_micros / 1000, sum.sum_micros % 1000));
    }

    fn bucket(&mut self, name: &str, labels: &Labels<'_>, bound: &str, count: u64) {
        self.0.push_str(name);
        self.0.push_str("_bucket");
        self.labels(labels, Some(bound));
        self.put(format_args!(" {count}\n"));
    }

    fn labels(&mut self, labels: &Labels<'_>, bound: Option<&str>) {
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut opening = '{';
        for (name, value) in all {
            self.0.push(opening);
            opening = ',';
            self.0.push_str(name);
            self.0.push_str("=\"");
            for character in value.chars() {
                match character {
                    '"' => self.0.push_str("\\\""),
                    '\\' => self.0.push_str("\\\\"),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if opening == ',' {
            self.0.push('}');
        }
    }

    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.0.write_fmt(arguments).expect("writing to a String cannot fail");
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_labels_are_escaped() {
        let mut text = Text::default();
        text.family("x_ms", Kind::Histogram, "Time.");
        let sum = HistogramSum { buckets: [2, 1], over: 3, sum_micros: 1_002_030 };
        text.histogram("x_ms", &[("a", "q\"\\\n")], &[5, 10], &sum);
        assert_eq!(
            text.into_string(),
            "# HELP x_ms Time.\n# TYPE x_ms histogram\n\
             x_ms_bucket{a=\"q\\\"\\\\\\n\",le=\"5\"} 2\n\
             x_ms_bucket{a=\"q\\\"\\\\\\n\",le=\"10\"} 3\n\
             x_ms_bucket{a=\"q\\\"\\\\\\n\",le=\"+Inf\"} 6\n\
             x_ms_count{a=\"q\\\"\\\\\\n\"} 6\n\
             x_ms_sum{a=\"q\\\"\\\\\\n\"} 1002.030\n"
        );
    }
}
