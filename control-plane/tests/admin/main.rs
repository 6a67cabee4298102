//! The Admin API over real sockets and an in-memory store: what clients see, byte by byte where it matters.

mod cluster;
mod crud;
mod gate;
mod info;
mod support;
mod tutorial;
