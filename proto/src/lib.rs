#![doc = include_str!("../README.md")]

pub mod position;
pub mod v1;

mod id;

pub use id::{EntityKind, InvalidId, NodeId, entity_id};
pub use position::{ContentHash, Epoch, InvalidPosition, Position, Revision};

/// Protocol version this build speaks; see [`v1::Change::min_protocol`].
pub const PROTOCOL: u32 = 1;
