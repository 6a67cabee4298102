//! The stream as a node sees it, over an in-memory pipe and over TCP. Time is paused: it moves only when
//! everybody waits.

mod behind;
mod conduct;
mod config;
mod peer;
mod questions;
mod sharing;
