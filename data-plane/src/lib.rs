#![doc = include_str!("../README.md")]

pub mod balancer;
pub mod health;
pub mod http1;
pub mod observability;
pub mod proxy;
pub mod router;
pub mod run;
pub mod settings;
pub mod sync;
pub mod table;

mod bridge;
mod node_id;
