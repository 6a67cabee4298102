//! Counters that one thread writes and any thread reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A count with one writer: adding is a load and a store, without a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`; only the owning thread may.
    pub fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes one off; only the owning thread may.
    pub(super) fn take_one(&self) {
        self.0.store(self.get().saturating_sub(1), Ordering::Relaxed);
    }

    /// Makes it this; only the owning thread may.
    pub(super) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram with one writer. `N` upper bounds in ms, given with each observation; larger values only
/// count in the total.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    buckets: [Counter; N],
    over: Counter,
    sum_micros: Counter,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            over: Counter::default(),
            sum_micros: Counter::default(),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts `value` into the first bucket of `bounds_ms` that holds it.
    pub fn observe(&self, bounds_ms: &[u32; N], value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let found = bounds_ms.iter().position(|bound| micros <= u64::from(*bound) * 1000);
        found.and_then(|bucket| self.buckets.get(bucket)).unwrap_or(&self.over).add(1);
        self.sum_micros.add(micros);
    }

    /// Adds this histogram to `sum`.
    pub fn add_to(&self, sum: &mut HistogramSum<N>) {
        for (total, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.get();
        }
        sum.over += self.over.get();
        sum.sum_micros = sum.sum_micros.wrapping_add(self.sum_micros.get());
    }
}

/// Several histograms added up.
#[derive(Debug, Clone)]
pub struct HistogramSum<const N: usize> {
    /// Not cumulative.
    pub buckets: [u64; N],
    /// Past the last bound.
    pub over: u64,
    /// Of all values.
    pub sum_micros: u64,
}

impl<const N: usize> Default for HistogramSum<N> {
    fn default() -> Self {
        Self { buckets: [0; N], over: 0, sum_micros: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::<2>::default();
        for (name, millis, want) in [
            ("below", 1, [1, 0, 0]),
            ("on the bound", 10, [2, 0, 0]),
            ("second", 11, [2, 1, 0]),
            ("over", 21, [2, 1, 1]),
        ] {
            histogram.observe(&[10, 20], Duration::from_millis(millis));
            let mut sum = HistogramSum::default();
            histogram.add_to(&mut sum);
            assert_eq!([sum.buckets[0], sum.buckets[1], sum.over], want, "{name}");
        }
        let mut sum = HistogramSum::default();
        histogram.add_to(&mut sum);
        assert_eq!(sum.sum_micros, 43_000);
    }
}
