//! Whole sessions over real sockets: a node with a table built by hand, scripted targets, raw clients.

mod access_log;
mod harness;
mod tcp;
mod tls;
mod udp;
