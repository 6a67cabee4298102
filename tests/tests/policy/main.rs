//! An upstream's policy through the real binaries: set by the Admin API, seen by clients and targets.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

mod hedging;
mod life;
mod limits;
mod outliers;
mod places;
mod retries;
mod sessions;
mod shares;
mod waiting;
mod world;
