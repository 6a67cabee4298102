#![doc = include_str!("../README.md")]

pub mod observability;
pub mod router;
pub mod table;
