#![doc = include_str!("../README.md")]

pub mod balancer;
pub mod descriptors;
pub mod dns;
pub mod health;
pub mod http1;
pub mod observability;
pub mod plugin;
pub mod probe;
pub mod proxy;
pub mod proxy_protocol;
pub mod run;
pub mod settings;
pub mod spans;
pub mod status;
pub mod stream_proxy;
pub mod sync;
pub mod table;
pub mod takeover;
pub mod tls;
pub mod watchdog;

pub use equipoise_router as router;
