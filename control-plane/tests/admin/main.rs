//! The Admin API over real sockets and an in-memory store: what clients see, byte by byte where it matters.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod balancer;
mod certificates;
mod cluster;
mod config;
mod consumers;
mod crud;
mod endpoints;
mod explain;
mod gate;
mod info;
mod openapi;
mod plugins;
mod policy;
mod support;
mod tutorial;
mod writes;
