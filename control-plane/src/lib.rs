#![doc = include_str!("../README.md")]

pub mod distribution;
pub mod model;
pub mod nodes;
pub mod store;
