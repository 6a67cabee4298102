//! Names of metrics that more than one suite reads; see [`crate::Process::metric`].

/// Requests that had to wait in a queue.
pub const QUEUED: &str = "equipoise_upstream_queue_total{result=\"queued\"}";

/// Attempts after a failed one.
pub const RETRIES: &str = "equipoise_upstream_retries_total";
