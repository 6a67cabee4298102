//! Whole exchanges over real sockets: a node with a table built by hand, scripted upstreams, raw clients.

mod access_log;
mod bad_responses;
mod bodies;
mod caching;
mod callers;
mod clients;
mod counts;
mod drain;
mod exchanges;
pub(crate) mod harness;
mod headers;
mod http2;
mod http2_targets;
mod http2_tls;
mod large_heads;
pub(crate) mod log_file;
mod mishaps;
mod names;
mod passive;
mod policies;
mod protocols;
mod retries;
mod tls;
mod traces;
mod upstream_tls;
mod websocket;
