//! What one worker counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::counter::Counter;
use super::node::NodeState;
use super::route::{RequestSample, RouteMetrics, Shard, Sum};
use super::session::{SessionSum, Sessions};
use crate::tls::Reason;

/// The metric shards of all workers of a node.
#[derive(Debug, Clone)]
pub struct Workers(Arc<[Arc<WorkerMetrics>]>, Option<Arc<NodeState>>);

impl Workers {
    /// Shards for `count` workers (at least one).
    pub fn new(count: usize) -> Self {
        let count = count.max(1);
        Self((0..count).map(|index| Arc::new(WorkerMetrics::of(index, count))).collect(), None)
    }

    /// The same, of a node that may be asked to let its clients go.
    #[must_use]
    pub fn of(self, node: Arc<NodeState>) -> Self {
        Self(self.0, Some(node))
    }

    /// The node, if it was told.
    pub fn node(&self) -> Option<&Arc<NodeState>> {
        self.1.as_ref()
    }

    /// The shard of worker `index`; each belongs to one thread.
    pub fn get(&self, index: usize) -> Option<&Arc<WorkerMetrics>> {
        self.0.get(index)
    }

    /// Client connections and requests of all workers.
    pub fn connections(&self) -> Connections {
        let mut sum = WorkerSum::default();
        self.iter().for_each(|worker| worker.add_to(&mut sum));
        sum.connections()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &WorkerMetrics> {
        self.0.iter().map(AsRef::as_ref)
    }
}

/// Client connections and requests of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Since the start.
    pub accepted: u64,
    /// Open now.
    pub active: u64,
    /// Of the open ones: reading a head.
    pub reading: u64,
    /// Of the open ones: proxying or answering.
    pub writing: u64,
    /// Of the open ones: idle.
    pub waiting: u64,
    /// Since the start.
    pub requests: u64,
}

/// Where a client connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// A request head is being read.
    Reading,
    /// A request is being proxied or answered.
    Writing,
    /// Idle between requests.
    Waiting,
}

/// How an attempt got its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolUse {
    /// From the pool.
    Hit,
    /// By connecting.
    Miss,
}

/// Why a connection of HTTP/2 was ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2End {
    /// The client breaks the protocol.
    Broken,
    /// The client keeps to it, but asks for work without end: it was told to calm down.
    Calmed,
}

#[derive(Debug, Default)]
struct Http2Counters {
    streams: Counter,
    broken: Counter,
    calmed: Counter,
    taken_back: Counter,
    malformed: Counter,
}

/// One worker's metrics. Only that worker's thread may write; anyone may read.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerMetrics {
    index: usize,
    workers: usize,
    accepted: Counter,
    active: Counter,
    states: [Counter; 3],
    requests: Counter,
    retries: Counter,
    retries_over_budget: Counter,
    hedges: Counter,
    hedges_won: Counter,
    queued: Counter,
    queue_full: Counter,
    queue_timed_out: Counter,
    pool_hits: Counter,
    pool_misses: Counter,
    handshakes: Counter,
    failed_handshakes: Counter,
    deadlines: Counter,
    panics: Counter,
    accept_pauses: Counter,
    /// Ticks of its timers.
    beats: Counter,
    /// The thread that serves; 0: none does.
    thread: AtomicI32,
    http2: Http2Counters,
    upstream_handshakes: Counter,
    resumed_handshakes: Counter,
    undone_handshakes: [Counter; Reason::ALL.len()],
    proxy_headers: Counter,
    failed_proxy_headers: Counter,
    unmatched: Box<Shard>,
    pub(super) sessions: Sessions,
    pub(super) unmatched_sessions: Box<Shard>,
}

impl Default for WorkerMetrics {
    /// Of a node with one worker.
    fn default() -> Self {
        Self::of(0, 1)
    }
}

impl WorkerMetrics {
    fn of(index: usize, workers: usize) -> Self {
        Self {
            index,
            workers,
            accepted: Counter::default(),
            active: Counter::default(),
            states: Default::default(),
            requests: Counter::default(),
            retries: Counter::default(),
            retries_over_budget: Counter::default(),
            hedges: Counter::default(),
            hedges_won: Counter::default(),
            queued: Counter::default(),
            queue_full: Counter::default(),
            queue_timed_out: Counter::default(),
            pool_hits: Counter::default(),
            pool_misses: Counter::default(),
            handshakes: Counter::default(),
            failed_handshakes: Counter::default(),
            deadlines: Counter::default(),
            panics: Counter::default(),
            accept_pauses: Counter::default(),
            beats: Counter::default(),
            thread: AtomicI32::new(0),
            http2: Http2Counters::default(),
            upstream_handshakes: Counter::default(),
            resumed_handshakes: Counter::default(),
            undone_handshakes: Default::default(),
            proxy_headers: Counter::default(),
            failed_proxy_headers: Counter::default(),
            unmatched: Box::default(),
            sessions: Sessions::default(),
            unmatched_sessions: Box::default(),
        }
    }

    /// A client connection was accepted; it is in no state yet.
    pub fn connection_opened(&self) {
        self.accepted.add(1);
        self.active.add(1);
    }

    /// A client connection ended; leave its state first.
    pub fn connection_closed(&self) {
        self.active.take_one();
    }

    /// A client connection moved between states; `None`: it is in none.
    pub fn connection_moved(&self, from: Option<ConnectionState>, to: Option<ConnectionState>) {
        if let Some(state) = from {
            self.state(state).take_one();
        }
        if let Some(state) = to {
            self.state(state).add(1);
        }
    }

    fn state(&self, state: ConnectionState) -> &Counter {
        let [reading, writing, waiting] = &self.states;
        match state {
            ConnectionState::Reading => reading,
            ConnectionState::Writing => writing,
            ConnectionState::Waiting => waiting,
        }
    }

    /// A request is done. `route`: [`crate::table::Route::metrics`]; `None` when no route matched.
    pub fn request(&self, route: Option<&RouteMetrics>, sample: &RequestSample) {
        self.requests.add(1);
        let shard = route.and_then(|route| self.shard_of(route));
        shard.unwrap_or(&self.unmatched).record(sample);
    }

    /// This worker's share of a route's metrics.
    pub(super) fn shard_of<'r>(&self, route: &'r RouteMetrics) -> Option<&'r Shard> {
        route.shard(self.index, self.workers)
    }

    /// An attempt after the first begins.
    pub fn retried(&self) {
        self.retries.add(1);
    }

    /// A retry was not made for want of budget.
    pub fn retry_over_budget(&self) {
        self.retries_over_budget.add(1);
    }

    /// A second attempt was made while the first was under way.
    pub fn hedged(&self) {
        self.hedges.add(1);
    }

    /// Such an attempt gave the answer.
    pub fn hedge_won(&self) {
        self.hedges_won.add(1);
    }

    /// A request took a place in an upstream's queue.
    pub fn queued(&self) {
        self.queued.add(1);
    }

    /// A request found no place in an upstream's queue.
    pub fn queue_full(&self) {
        self.queue_full.add(1);
    }

    /// A request waited in an upstream's queue in vain.
    pub fn queue_timed_out(&self) {
        self.queue_timed_out.add(1);
    }

    /// An attempt got a connection.
    pub fn pool(&self, used: PoolUse) {
        match used {
            PoolUse::Hit => self.pool_hits.add(1),
            PoolUse::Miss => self.pool_misses.add(1),
        }
    }

    /// So many deadlines there are now.
    pub fn deadlines(&self, count: usize) {
        self.deadlines.set(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// A client has shaken hands.
    pub fn handshake_done(&self) {
        self.handshakes.add(1);
    }

    /// A client did not get through its handshake.
    pub fn handshake_failed(&self) {
        self.failed_handshakes.add(1);
    }

    /// A connection's task panicked, which ended that connection and nothing else.
    pub fn connection_panicked(&self) {
        self.panics.add(1);
    }

    /// Accepting pauses: there are no descriptors, or none left for clients.
    pub fn accept_paused(&self) {
        self.accept_pauses.add(1);
    }

    /// The worker's timers have ticked.
    pub fn beat(&self) {
        self.beats.add(1);
    }

    /// Ticks since the start.
    pub fn beats(&self) -> u64 {
        self.beats.get()
    }

    /// The thread that serves from now on; `None`: none does any more.
    pub fn set_thread(&self, thread: Option<i32>) {
        self.thread.store(thread.unwrap_or(0), Ordering::Relaxed);
    }

    /// The thread that serves, as the kernel numbers it; `None` before the start and after the end.
    pub fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|thread| *thread != 0)
    }

    /// Connections and requests of this worker.
    pub fn connections(&self) -> Connections {
        let mut sum = WorkerSum::default();
        self.add_to(&mut sum);
        sum.connections()
    }

    /// A request came on a stream of HTTP/2.
    pub fn http2_stream(&self) {
        self.http2.streams.add(1);
    }

    /// A connection of HTTP/2 was ended because of its client.
    pub fn http2_ended(&self, end: Http2End) {
        match end {
            Http2End::Broken => self.http2.broken.add(1),
            Http2End::Calmed => self.http2.calmed.add(1),
        }
    }

    /// A client took a request back.
    pub fn http2_taken_back(&self) {
        self.http2.taken_back.add(1);
    }

    /// A client sent a message that HTTP/2 does not have, on a stream that ended for it.
    pub fn http2_malformed(&self) {
        self.http2.malformed.add(1);
    }

    /// A target has shaken hands, in full or going on from before.
    pub fn upstream_handshake(&self, is_resumed: bool) {
        if is_resumed { self.resumed_handshakes.add(1) } else { self.upstream_handshakes.add(1) }
    }

    /// There was no handshake with a target.
    pub fn upstream_handshake_failed(&self, reason: Reason) {
        let counters = Reason::ALL.iter().zip(&self.undone_handshakes);
        counters.filter(|(found, _)| **found == reason).for_each(|(_, counter)| counter.add(1));
    }

    /// A connection where the PROXY protocol is spoken began with a header, or did not.
    pub fn proxy_header(&self, is_read: bool) {
        if is_read { self.proxy_headers.add(1) } else { self.failed_proxy_headers.add(1) }
    }

    pub(super) fn add_to(&self, sum: &mut WorkerSum) {
        sum.accepted += self.accepted.get();
        sum.active += self.active.get();
        for (total, state) in sum.states.iter_mut().zip(&self.states) {
            *total += state.get();
        }
        sum.requests += self.requests.get();
        sum.retries += self.retries.get();
        sum.retries_over_budget += self.retries_over_budget.get();
        sum.hedges += self.hedges.get();
        sum.hedges_won += self.hedges_won.get();
        sum.queued += self.queued.get();
        sum.queue_full += self.queue_full.get();
        sum.queue_timed_out += self.queue_timed_out.get();
        sum.pool_hits += self.pool_hits.get();
        sum.pool_misses += self.pool_misses.get();
        sum.handshakes += self.handshakes.get();
        sum.failed_handshakes += self.failed_handshakes.get();
        sum.workers += 1;
        sum.deadlines += self.deadlines.get();
        sum.panics += self.panics.get();
        sum.accept_pauses += self.accept_pauses.get();
        sum.http2_streams += self.http2.streams.get();
        sum.http2_broken += self.http2.broken.get();
        sum.http2_calmed += self.http2.calmed.get();
        sum.http2_taken_back += self.http2.taken_back.get();
        sum.http2_malformed += self.http2.malformed.get();
        sum.upstream_handshakes += self.upstream_handshakes.get();
        sum.resumed_handshakes += self.resumed_handshakes.get();
        for (total, undone) in sum.undone_handshakes.iter_mut().zip(&self.undone_handshakes) {
            *total += undone.get();
        }
        sum.proxy_headers += self.proxy_headers.get();
        sum.failed_proxy_headers += self.failed_proxy_headers.get();
        sum.unmatched.merge_shard(&self.unmatched);
        self.sessions.add_to(&mut sum.sessions);
        sum.unmatched_sessions.merge_shard(&self.unmatched_sessions);
    }
}

/// All workers added up.
#[derive(Debug, Default)]
pub(super) struct WorkerSum {
    pub(super) accepted: u64,
    pub(super) active: u64,
    /// Reading, writing, waiting.
    pub(super) states: [u64; 3],
    pub(super) requests: u64,
    pub(super) retries: u64,
    pub(super) retries_over_budget: u64,
    pub(super) hedges: u64,
    pub(super) hedges_won: u64,
    pub(super) queued: u64,
    pub(super) queue_full: u64,
    pub(super) queue_timed_out: u64,
    pub(super) pool_hits: u64,
    pub(super) pool_misses: u64,
    pub(super) handshakes: u64,
    pub(super) failed_handshakes: u64,
    pub(super) workers: u64,
    pub(super) deadlines: u64,
    pub(super) panics: u64,
    pub(super) accept_pauses: u64,
    pub(super) http2_streams: u64,
    pub(super) http2_broken: u64,
    pub(super) http2_calmed: u64,
    pub(super) http2_taken_back: u64,
    pub(super) http2_malformed: u64,
    pub(super) upstream_handshakes: u64,
    pub(super) resumed_handshakes: u64,
    /// As [`Reason::ALL`].
    pub(super) undone_handshakes: [u64; Reason::ALL.len()],
    pub(super) proxy_headers: u64,
    pub(super) failed_proxy_headers: u64,
    pub(super) unmatched: Sum,
    pub(super) sessions: SessionSum,
    pub(super) unmatched_sessions: Sum,
}

impl WorkerSum {
    const fn connections(&self) -> Connections {
        let [reading, writing, waiting] = self.states;
        let Self { accepted, active, requests, .. } = *self;
        Connections { accepted, active, reading, writing, waiting, requests }
    }
}
