#![doc = include_str!("../README.md")]

pub mod header;
pub mod host;
pub mod limits;
pub mod network;
pub mod path;
pub mod pattern;
pub mod placement;
pub mod position;
pub mod query;
pub mod sni;
pub mod target;
pub mod v1;

mod codec;
mod id;
mod protocol;

pub use header::{HeaderName, HeaderPattern, HeaderValue};
pub use host::{Host, HostName, HostPattern, HostPort};
pub use id::{EntityKind, InvalidId, NodeId, Record, entity_id};
pub use network::NetworkRange;
pub use path::PathPattern;
pub use placement::{Placement, TargetState};
pub use position::{ContentHash, Epoch, InvalidPosition, Position, Revision};
pub use protocol::{
    PROTOCOL, PROTOCOL_MIN, PROTOCOL_OF_AWAY, PROTOCOL_OF_INSPECT, PROTOCOL_OF_RELAYS, highest_common,
    min_protocol,
};
pub use sni::{SniPattern, SniShape};
pub use target::TargetAddress;
