//! The proxy for what is no HTTP: TCP, TLS (ended here or passed on) and UDP, relayed as bytes.
//!
//! It runs on the workers of `proxy`, with their timers, buffers and view of the table, and picks targets, leases them
//! and tells of their health as requests do. `proxy` knows of it where a listener is for streams, and nowhere else.
//! `session` serves one connection (`peek`: what its handshake asks for), `relay` moves its bytes, `udp` does all of it for
//! datagrams, and `account` tells of each at its end.

mod account;
mod attempt;
mod patience;
mod peek;
mod relay;
mod say;
mod session;
pub(crate) mod udp;

#[cfg(test)]
mod tests;

pub(crate) use session::serve;
