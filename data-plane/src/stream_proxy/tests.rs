//! Whole sessions over real sockets: a node with a table built by hand, scripted targets, raw clients.

mod harness;
mod tcp;
mod tls;
mod udp;
