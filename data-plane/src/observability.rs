//! The node's metrics: counted per worker, summed at scrape time.
//!
//! A worker owns one [`WorkerMetrics`] and is the only one that writes to it and to its shard of a route's
//! metrics, so that counting is a plain load and store and no cache line is shared. `proxy` counts, `status`
//! renders.

mod counter;
pub mod names;
mod node;
pub(crate) mod process;
mod render;

mod route;
mod routes;
mod session;
mod text;
mod worker;

pub use counter::{Counter, Histogram};
pub use node::{ConfigSource, NodeState};

pub use render::{Counted, render};
pub use route::{Groups, RequestSample, RouteMetrics, Source};
pub use session::{ActiveSession, SessionKind};
pub use worker::{ConnectionState, Connections, Http2End, PoolUse, WorkerMetrics, Workers};
