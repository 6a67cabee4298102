//! A route's metrics, in one shard a worker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::counter::{Counter, Histogram, HistogramSum};
use super::names::{KONG_BUCKETS_MS, UPSTREAM_BUCKETS_MS};

/// Who made the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The upstream.
    Service,
    /// The gateway itself.
    Kong,
}

impl Source {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Kong => "kong",
        }
    }
}

/// What is counted of one finished request.
#[derive(Debug, Clone, Copy)]
pub struct RequestSample {
    /// Status that the client got; 499 if it left before any.
    pub code: u16,
    /// Who made it.
    pub source: Source,
    /// From the request's whole head to the last byte of the response. What is not `upstream` is the gateway's
    /// own share, the passing on of bodies included.
    pub request: Duration,
    /// From the last pick of a target to the head of its response, or to its failure; `None` when no target was
    /// picked.
    pub upstream: Option<Duration>,
    /// Bytes the client sent, head and body.
    pub ingress_bytes: u64,
    /// Bytes the client was sent, head and body.
    pub egress_bytes: u64,
}

/// Groups of series.
///
/// Source: the `prometheus` plugin of Kong 3.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Requests by status.
    pub codes: bool,
    /// How long they took.
    pub latency: bool,
    /// Bytes.
    pub bandwidth: bool,
}

impl Default for Groups {
    fn default() -> Self {
        Self { codes: true, latency: true, bandwidth: true }
    }
}

/// Consumers that have series of their own with one route and worker; others are counted as nobody's.
const CONSUMERS_MAX: usize = 10_000;

/// Metrics of one route; survives swaps as long as its labels stay. Holds no shard before its first request,
/// so idle routes cost (almost) nothing.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    service: Box<str>,
    route: Box<str>,
    shards: OnceLock<Box<[OnceLock<Box<Shard>>]>>,
}

impl RouteMetrics {
    /// Metrics under these labels. Label of a service: its name, else its host; of a route: its name, else its id.
    pub fn new(service: &str, route: &str) -> Self {
        Self { service: service.into(), route: route.into(), shards: OnceLock::new() }
    }

    /// Label of the service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Label of the route.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The shard of worker `index` of `workers`; `None` if there is no such worker.
    pub(super) fn shard(&self, index: usize, workers: usize) -> Option<&Shard> {
        let shards = self.shards.get_or_init(|| (0..workers).map(|_| OnceLock::new()).collect());
        Some(shards.get(index)?.get_or_init(Box::default))
    }

    /// All shards added up; `None` before the first request.
    pub(super) fn sum(&self) -> Option<Sum> {
        let shards = self.shards.get()?;
        let mut sum = Sum::default();
        shards.iter().filter_map(OnceLock::get).for_each(|shard| shard.add_to(&mut sum));
        Some(sum)
    }
}

/// Distinct (code, source) pairs of one route that are counted without a lock; more go to a map.
const CODES_INLINE: usize = 16;

/// One worker's share of a route's metrics.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard {
    codes: [CodeCounter; CODES_INLINE],
    more_codes: Mutex<BTreeMap<(u16, Source), u64>>,
    kong: Histogram<{ KONG_BUCKETS_MS.len() }>,
    upstream: Histogram<{ UPSTREAM_BUCKETS_MS.len() }>,
    request: Histogram<{ UPSTREAM_BUCKETS_MS.len() }>,
    ingress: Counter,
    egress: Counter,
    /// Of requests that are told apart by who called. Only its worker writes: nobody waits for the lock but for a scrape.
    consumers: Mutex<BTreeMap<Box<str>, OfConsumer>>,
}

/// What is counted of one consumer.
#[derive(Debug, Clone, Default)]
pub(super) struct OfConsumer {
    pub(super) codes: BTreeMap<(u16, Source), u64>,
    pub(super) ingress_bytes: u64,
    pub(super) egress_bytes: u64,
}

#[derive(Debug, Default)]
struct CodeCounter {
    /// Code and source plus one; 0 while free.
    key: AtomicU32,
    count: Counter,
}

impl Shard {
    pub(super) fn record(&self, sample: &RequestSample, groups: Groups, consumer: Option<&str>) {
        let is_counted = consumer.is_some_and(|consumer| self.count_consumer(consumer, sample, groups));
        if groups.codes && !is_counted {
            self.count_code(sample.code, sample.source);
        }
        if groups.bandwidth && !is_counted {
            self.pass(sample.ingress_bytes, sample.egress_bytes);
        }
        if !groups.latency {
            return;
        }
        let kong = sample.request.saturating_sub(sample.upstream.unwrap_or_default());
        self.kong.observe(&KONG_BUCKETS_MS, kong);
        self.request.observe(&UPSTREAM_BUCKETS_MS, sample.request);
        if let Some(upstream) = sample.upstream {
            self.upstream.observe(&UPSTREAM_BUCKETS_MS, upstream);
        }
    }

    /// Counts it under its consumer, if there is room.
    fn count_consumer(&self, consumer: &str, sample: &RequestSample, groups: Groups) -> bool {
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        if !consumers.contains_key(consumer) {
            if consumers.len() >= CONSUMERS_MAX {
                return false;
            }
            consumers.insert(consumer.into(), OfConsumer::default());
        }
        let Some(counts) = consumers.get_mut(consumer) else { return false };
        if groups.codes {
            *counts.codes.entry((sample.code, sample.source)).or_default() += 1;
        }
        if groups.bandwidth {
            counts.ingress_bytes += sample.ingress_bytes;
            counts.egress_bytes += sample.egress_bytes;
        }
        true
    }

    pub(super) fn pass(&self, ingress_bytes: u64, egress_bytes: u64) {
        self.ingress.add(ingress_bytes);
        self.egress.add(egress_bytes);
    }

    pub(super) fn count_code(&self, code: u16, source: Source) {
        let key = pack(code, source);
        for cell in &self.codes {
            let held = cell.key.load(Ordering::Relaxed);
            if held == key {
                return cell.count.add(1);
            }
            if held == 0 {
                cell.count.add(1);
                // The count first, so that a scrape never sees a key without one.
                return cell.key.store(key, Ordering::Release);
            }
        }
        let mut more = self.more_codes.lock().unwrap_or_else(PoisonError::into_inner);
        *more.entry((code, source)).or_default() += 1;
    }

    fn add_to(&self, sum: &mut Sum) {
        for cell in &self.codes {
            if let Some(key) = unpack(cell.key.load(Ordering::Acquire)) {
                *sum.codes.entry(key).or_default() += cell.count.get();
            }
        }
        for (key, count) in self.more_codes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *sum.codes.entry(*key).or_default() += count;
        }
        self.kong.add_to(&mut sum.kong);
        self.upstream.add_to(&mut sum.upstream);
        self.request.add_to(&mut sum.request);
        sum.ingress_bytes += self.ingress.get();
        sum.egress_bytes += self.egress.get();
        for (consumer, counts) in self.consumers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let all = sum.consumers.entry(consumer.clone()).or_default();
            counts.codes.iter().for_each(|(key, count)| *all.codes.entry(*key).or_default() += count);
            all.ingress_bytes += counts.ingress_bytes;
            all.egress_bytes += counts.egress_bytes;
        }
    }
}

fn pack(code: u16, source: Source) -> u32 {
    let source = match source {
        Source::Service => 1,
        Source::Kong => 2,
    };
    u32::from(code) << 2 | source
}

fn unpack(key: u32) -> Option<(u16, Source)> {
    let source = match key & 3 {
        1 => Source::Service,
        2 => Source::Kong,
        _ => return None,
    };
    u16::try_from(key >> 2).ok().map(|code| (code, source))
}

/// A route's shards added up.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) codes: BTreeMap<(u16, Source), u64>,
    pub(super) kong: HistogramSum<{ KONG_BUCKETS_MS.len() }>,
    pub(super) upstream: HistogramSum<{ UPSTREAM_BUCKETS_MS.len() }>,
    pub(super) request: HistogramSum<{ UPSTREAM_BUCKETS_MS.len() }>,
    pub(super) ingress_bytes: u64,
    pub(super) egress_bytes: u64,
    pub(super) consumers: BTreeMap<Box<str>, OfConsumer>,
}

impl Sum {
    pub(super) fn merge_shard(&mut self, shard: &Shard) {
        shard.add_to(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_codes_than_fit_inline_are_all_counted() {
        let shard = Shard::default();
        for code in 200..240 {
            shard.count_code(code, Source::Service);
            shard.count_code(code, Source::Service);
            shard.count_code(code, Source::Kong);
        }
        let mut sum = Sum::default();
        shard.add_to(&mut sum);
        assert_eq!(sum.codes.len(), 80);
        for (key, count) in sum.codes {
            assert_eq!(count, if key.1 == Source::Service { 2 } else { 1 }, "{key:?}");
        }
    }

    #[test]
    fn an_idle_route_has_no_series() {
        let route = RouteMetrics::new("s", "r");
        assert!(route.sum().is_none());
        assert!(route.shard(0, 2).is_some());
        assert!(route.shard(2, 2).is_none(), "there are two workers");
        assert!(route.sum().is_some());
    }
}
