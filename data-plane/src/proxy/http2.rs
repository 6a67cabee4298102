//! HTTP/2: many requests on one connection, each served as if it had a connection of HTTP/1.1 to itself.
//!
//! Translation is at the edge: a stream is a carrier of bytes like any other ([`super::stream::Stream`]). What
//! comes in is written as HTTP/1.1 and read by the codec that judges every request, and what the pipeline answers is read
//! back; nothing behind `stream` knows of HTTP/2, and no rule exists twice. The frames, their flow control and
//! HPACK are `h2`'s, which hyper is built on; hyper itself would bring a second idea of requests and bodies.
//!
//! `serve` drives a client's connection, `server` is one of its streams. `multiplex` keeps the connections to targets
//! (`dials`: those in the making), `client` is a stream of one. `io` is what is below all of them, `frames` holds the rules that `h2` does not, and
//! `hpack` reads fields for it. `head`, `incoming` and `outgoing` are what both ends share.

mod client;
mod dials;
mod frames;
mod head;
mod hpack;
mod incoming;
mod io;
mod multiplex;
mod outgoing;
mod serve;
mod server;

use std::time::Duration;

use crate::http1::Limits;

pub use client::ClientStream;
pub use dials::Part;
pub use multiplex::{Bounds, Multiplexed};
pub use serve::serve;
pub use server::ServerStream;

/// What a client that speaks HTTP/2 without being asked begins with (RFC 9113 3.4), as far as it looks like a head.
pub const PREFACE_HEAD: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Bounds of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Settings {
    /// Requests of one client connection that are served at a time.
    pub streams_max: u32,
    /// Bytes of one request's body that may be under way before they are read.
    pub stream_window: u32,
    /// The same for all requests of a connection together.
    pub connection_window: u32,
    /// Bytes of one response that wait for the client beside what it has room for.
    pub send_buffer_bytes: usize,
    /// Requests that a client may take back within a second and unanswered, more than were answered, before its connection is ended.
    pub resets_max: u32,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            streams_max: 128,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            send_buffer_bytes: 64 * 1024,
            resets_max: 100,
        }
    }
}

/// How long a client that is told to leave may take to say so.
const LEAVING: Duration = super::connection::DRAIN_GRACE;

/// How much larger than a head may be what `h2` lets pass of one: what is too large is refused as in HTTP/1, with an id and a line in
/// the access log. Only what is far beyond, and would take memory, gets its bare 431. It counts 32 bytes more for each field, besides.
const LISTS: usize = 4;

/// Bytes of a list of fields that `h2` lets pass.
pub fn list_bytes_max(heads: Limits) -> usize {
    heads.head_bytes_max.saturating_mul(LISTS)
}

/// An error of a stream as one of a connection.
fn io_error(error: h2::Error) -> std::io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| std::io::ErrorKind::ConnectionReset.into());
    }
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, error)
}
