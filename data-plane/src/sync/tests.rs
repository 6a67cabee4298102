//! The node against a control plane that says what the test says. Time is paused.

mod reports;
mod rig;
mod sharing;
mod start;
mod stream;
