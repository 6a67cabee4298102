//! The failure matrix: for each thing that can go wrong in a cluster, what must keep working, asserted by a load that counts every
//! request; and that what was written meanwhile arrives once it is over. Real binaries, with certificates.
//!
//! Rows that other suites hold: loss of a node's only control plane and restart without it (`planes`), a relay that starts without
//! its primary and one whose nodes move on (`relay`), snapshots refused, restored backups, nodes that die of a revision, damaged
//! caches (`distribution`), loss of targets (`failover`), a thousand nodes at once (`bench/fleet.rs`).

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

mod control;
mod crowd;
mod disk;
mod kernel;
#[path = "../../bench/light.rs"]
mod light;
mod lists;
mod network;
mod nodes;
mod region;
mod wires;
mod world;
