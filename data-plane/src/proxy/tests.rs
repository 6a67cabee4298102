//! Whole exchanges over real sockets: a node with a table built by hand, scripted upstreams, raw clients.

mod bodies;
mod clients;
mod counts;
mod drain;
mod exchanges;
mod harness;
mod headers;
mod hostile_requests;
mod hostile_responses;
mod names;
mod passive;
mod policies;
mod retries;
mod tls;
mod websocket;
