//! The proxy.

pub mod rewrite;
