//! What a path of entities is about, and the change that a verb makes of it. Pure.
//!
//! Called for each request by `crud`, and for each operation of a batch.

use super::endpoint::{Endpoint, Reference, Verb};
use super::error;
use crate::model::{Body, Change, ErrorObject, Key, Kind, Op, Parent, Refusal};

/// What a path of entities is about.
#[derive(Debug)]
pub(super) struct Aim {
    /// The kind that the path ends at; of `/routes/{r}/service` the one that refers to another.
    pub(super) kind: Kind,
    /// The kind that a body is of.
    pub(super) written: Kind,
    /// Below what, in a nested path.
    pub(super) parent: Option<Parent>,
    /// Which one; `None` for all of them.
    pub(super) key: Option<Key>,
    /// Of `/routes/{r}/service`: the field that refers to what is written.
    pub(super) field: Option<&'static str>,
}

impl Aim {
    /// What a path that was found is about; `None` where it is about no entity.
    ///
    /// # Errors
    /// When a parameter cannot name what it stands for.
    pub(super) fn of(endpoint: Endpoint, parameters: &[Vec<u8>]) -> Result<Option<Self>, Refusal> {
        let plain = |kind| Self { kind, written: kind, parent: None, key: None, field: None };
        Ok(Some(match endpoint {
            Endpoint::Collection(kind) => plain(kind),
            Endpoint::Entity(kind) => Self { key: Some(key(parameters, 0, kind)?), ..plain(kind) },
            Endpoint::Children(reference) => {
                Self { parent: Some(parent(parameters, reference)?), ..plain(reference.child) }
            }
            Endpoint::Child(reference) => {
                let parent = Some(parent(parameters, reference)?);
                Self { parent, key: Some(key(parameters, 1, reference.child)?), ..plain(reference.child) }
            }
            Endpoint::Only(reference) => {
                let parent = Some(parent(parameters, reference)?);
                Self { parent, key: Some(Key::Only), ..plain(reference.child) }
            }
            Endpoint::Foreign(Reference { child, field, parent }) => {
                let key = Some(key(parameters, 0, child)?);
                Self { key, written: parent, field: Some(field), ..plain(child) }
            }
            _ => return Ok(None),
        }))
    }

    /// The change that a verb makes of it; `None` where it makes none.
    pub(super) fn change(self, verb: Verb, body: Body) -> Option<Change> {
        let Self { kind, parent, key, field, .. } = self;
        let op = match (verb, key, field) {
            (Verb::Post, None, _) => Op::Create(body),
            (Verb::Put, Some(key), None) => Op::Put(key, body),
            (Verb::Patch, Some(key), None) => Op::Patch(key, body),
            (Verb::Delete, Some(key), None) => Op::Delete(key),
            (Verb::Put, Some(key), Some(field)) => Op::PutReferenced(key, field, body),
            (Verb::Patch, Some(key), Some(field)) => Op::PatchReferenced(key, field, body),
            (Verb::Get, ..)
            | (Verb::Delete, Some(_), Some(_))
            | (Verb::Post, Some(_), _)
            | (Verb::Put | Verb::Patch | Verb::Delete, None, _) => return None,
        };
        Some(Change { kind, op, parent })
    }
}

/// The entity that a parameter of a path names.
///
/// # Errors
/// When it cannot name one of this kind.
pub(super) fn key(parameters: &[Vec<u8>], at: usize, kind: Kind) -> Result<Key, Refusal> {
    let segment = parameters.get(at).map_or(&[][..], Vec::as_slice);
    match std::str::from_utf8(segment) {
        Ok(segment) => Key::parse(kind, segment),
        Err(invalid) => {
            let message = error::not_utf8(invalid.valid_up_to() + 1);
            Err(ErrorObject::invalid_unique("name", message).into())
        }
    }
}

/// The parent that the first parameter of a path names.
///
/// # Errors
/// When it cannot name one of its kind.
pub(super) fn parent(parameters: &[Vec<u8>], reference: Reference) -> Result<Parent, Refusal> {
    let key = key(parameters, 0, reference.parent)?;
    Ok(Parent { kind: reference.parent, key, field: reference.field })
}
