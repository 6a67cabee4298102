#![doc = include_str!("../README.md")]

pub mod balancer;
pub mod health;
pub mod http1;
pub mod observability;
pub mod proxy;
pub mod router;
pub mod table;
