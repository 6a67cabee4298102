//! Traces: where a request belongs in one, and the spans of it that a collector is sent.
//!
//! `proxy` makes spans and hands them over; nothing of it waits. [`export`] sends them from the auxiliary runtime.

pub mod context;
pub mod export;
mod otlp;
mod record;

pub use context::Context;
pub use export::{Counts, Exporter, Plan, Protocol, Queue, start};
pub use record::{RequestSpan, Tracer, TrySpan};

#[cfg(test)]
pub(crate) mod fixture;
