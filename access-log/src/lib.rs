#![doc = include_str!("../README.md")]

mod call;
mod destination;
mod entry;
mod escape;
mod format;
mod log;
mod time;

pub use call::Call;
pub use destination::{Destination, InvalidDestination};
pub use entry::{Entry, Session, SessionEnd, StreamProtocol, Tls};
pub use format::Format;
pub use log::{AccessLog, Counts, OpenError, Pen, Plan, SharedPen};
