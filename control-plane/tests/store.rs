//! The store from outside: durability, history, positions, and what happens to damaged directories.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "store/common.rs"]
mod common;
#[path = "store/damage.rs"]
mod damage;
#[path = "store/laws.rs"]
mod laws;
#[path = "store/sealed.rs"]
mod sealed;
#[path = "store/whole.rs"]
mod whole;
