//! What completes the body of a write: what cannot come from defaults, and what is stored in another form than it is sent.

use uuid::Uuid;

use serde_json::{Map, Value};

use super::Body;

/// Completes the body of a write; an `Err` holds what is wrong, by field.
pub(in crate::model) type Complete = fn(&mut Body, &mut Completion<'_>) -> Result<(), Map<String, Value>>;

/// What completing a body needs from outside of it.
pub(in crate::model) struct Completion<'a> {
    /// What is stored so far.
    pub(in crate::model) before: Before<'a>,
    /// Whether values are as people write them.
    pub(in crate::model) transform: Transform,
    /// A fresh random id at each call.
    pub(in crate::model) new_id: &'a mut dyn FnMut() -> Uuid,
}

/// Whether what is stored is made from what was written (a password's hash, for one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Transform {
    /// Yes.
    Apply,
    /// No: it has been done already, as in an exported config.
    Done,
}

/// What a write meets.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) enum Before<'a> {
    /// Nothing.
    Nothing,
    /// An entity that the body takes the place of.
    Replaced(&'a Body),
    /// An entity that the body is merged into.
    Merged(&'a Body),
}
