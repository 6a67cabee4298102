#![doc = include_str!("../README.md")]

pub mod proxy;
pub mod router;
pub mod sync;
pub mod table;
