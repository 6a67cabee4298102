#![doc = include_str!("../README.md")]

pub mod admin;
mod clock;
pub mod distribution;
mod expiry;
pub mod explain;
pub mod identity;
pub mod model;
pub mod nodes;
pub mod observability;
pub mod relay;
pub mod roster;
pub mod run;
pub mod settings;
pub mod store;
