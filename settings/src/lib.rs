#![doc = include_str!("../README.md")]

pub mod access_log;
pub mod cli;
pub mod health;
pub mod keys;
pub mod kong;
pub mod listen;
pub mod logs;
pub mod notify;
pub mod reload;
pub mod signal;
pub mod source;
mod stream;
pub mod value;

pub use keys::{Key, Plane, Process};
pub use listen::{Keepalive, Listen, ListenFlags};
pub use source::{Problem, Settings};
pub use stream::StreamListen;
pub use value::Value;
