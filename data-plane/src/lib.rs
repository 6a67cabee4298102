#![doc = include_str!("../README.md")]

pub mod http1;
pub mod proxy;
pub mod router;
pub mod table;
