#![doc = include_str!("../README.md")]

pub mod router;
pub mod sync;
pub mod table;
