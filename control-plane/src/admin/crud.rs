//! Create, read, update, delete: one implementation for every kind of entity.
//!
//! Verb and path become a [`Change`]; what it means and whether it is allowed is the model's business.

use std::time::Instant;

use http::{HeaderName, HeaderValue, StatusCode};

use super::body::Payload;
use super::endpoint::{Reference, Verb};
use super::gate::Asked;
use super::reply::Reply;
use super::wait::Wait;
use super::{AdminState, error, list, now_ms, wait};
use crate::model::form::{self, Brackets, Inference};
use crate::model::{Answer, Body, Change, ErrorObject, Key, Kind, Op, Parent, Refusal};
use crate::store::Author;

/// The revision that holds a write.
pub(super) const REVISION: HeaderName = HeaderName::from_static("equipoise-revision");

/// `/services`
pub(super) async fn collection(state: &AdminState, mut asked: Asked, kind: Kind) -> Result<Reply, Refusal> {
    match asked.verb {
        Verb::Get => list::collection(state, &asked, kind),
        Verb::Post => {
            let change = Change { kind, op: Op::Create(to_body(&mut asked, kind)?), parent: None };
            Ok(write(state, &mut asked, change, StatusCode::CREATED).await)
        }
        Verb::Delete | Verb::Patch | Verb::Put => Ok(Reply::method_not_allowed()),
    }
}

/// `/services/{service}`
pub(super) async fn entity(state: &AdminState, asked: Asked, kind: Kind) -> Result<Reply, Refusal> {
    let key = key(&asked, 0, kind)?;
    one(state, asked, kind, key, None).await
}

/// `/services/{service}/routes`
pub(super) async fn children(
    state: &AdminState,
    mut asked: Asked,
    reference: Reference,
) -> Result<Reply, Refusal> {
    let parent = parent(&asked, reference)?;
    match asked.verb {
        Verb::Get => list::children(state, &asked, reference, &parent.key),
        Verb::Post => {
            let body = to_body(&mut asked, reference.child)?;
            let change = Change { kind: reference.child, op: Op::Create(body), parent: Some(parent) };
            Ok(write(state, &mut asked, change, StatusCode::CREATED).await)
        }
        Verb::Delete | Verb::Patch | Verb::Put => Ok(Reply::method_not_allowed()),
    }
}

/// `/services/{service}/routes/{route}`
pub(super) async fn child(state: &AdminState, asked: Asked, reference: Reference) -> Result<Reply, Refusal> {
    let parent = parent(&asked, reference)?;
    let key = key(&asked, 1, reference.child)?;
    one(state, asked, reference.child, key, Some(parent)).await
}

/// `/upstreams/{upstream}/policy`
pub(super) async fn only(state: &AdminState, asked: Asked, reference: Reference) -> Result<Reply, Refusal> {
    let parent = parent(&asked, reference)?;
    one(state, asked, reference.child, Key::Only, Some(parent)).await
}

/// `/routes/{route}/service`
pub(super) async fn foreign(
    state: &AdminState,
    mut asked: Asked,
    reference: Reference,
) -> Result<Reply, Refusal> {
    let Reference { child: kind, field, parent: referenced } = reference;
    let key = key(&asked, 0, kind)?;
    let op = match asked.verb {
        Verb::Get | Verb::Delete => {
            let head = state.store.head();
            return Ok(match (head.config.referenced(kind, &key, field), asked.verb) {
                (None, _) => Reply::not_found(),
                (Some(_), Verb::Delete) => Reply::method_not_allowed(),
                (Some(entity), _) => Reply::json(StatusCode::OK, &entity.shown(now_ms())),
            });
        }
        Verb::Put => Op::PutReferenced(key, field, to_body(&mut asked, referenced)?),
        Verb::Patch => Op::PatchReferenced(key, field, to_body(&mut asked, referenced)?),
        Verb::Post => return Ok(Reply::method_not_allowed()),
    };
    Ok(write(state, &mut asked, Change { kind, op, parent: None }, StatusCode::OK).await)
}

/// One entity, at the top level or under its parent.
async fn one(
    state: &AdminState,
    mut asked: Asked,
    kind: Kind,
    key: Key,
    parent: Option<Parent>,
) -> Result<Reply, Refusal> {
    let op = match asked.verb {
        Verb::Get => {
            let head = state.store.head();
            let found = head.config.find(kind, &key, parent.as_ref());
            let missing = || match &parent {
                None => Refusal::unread(kind, &key),
                Some(parent) if head.config.get(parent.kind, &parent.key).is_none() => {
                    Refusal::missing(parent.kind, &parent.key)
                }
                Some(_) => Refusal::NotFound,
            };
            return found
                .map(|entity| Reply::json(StatusCode::OK, &entity.shown(now_ms())))
                .ok_or_else(missing);
        }
        Verb::Put => Op::Put(key, to_body(&mut asked, kind)?),
        Verb::Patch => {
            let body = to_patch(state, &mut asked, (kind, &key, parent.as_ref()))?;
            Op::Patch(key, body)
        }
        Verb::Delete => Op::Delete(key),
        Verb::Post => return Ok(Reply::method_not_allowed()),
    };
    Ok(write(state, &mut asked, Change { kind, op, parent }, StatusCode::OK).await)
}

/// Commits and answers; with `ok` where there is an entity to show.
async fn write(state: &AdminState, asked: &mut Asked, change: Change, ok: StatusCode) -> Reply {
    let began = Instant::now();
    let committed = match state.store.commit_holding(change, author(asked), asked.memory.take()).await {
        Ok(committed) => committed,
        Err(failed) => return error::commit(&failed),
    };
    // Before anything else: the nodes that are connected now are those that the write waits for.
    let wait = Wait::begin(state, asked, &committed.position);
    if !committed.effect.mutations.is_empty() {
        state.metrics.committed(began.elapsed());
    }
    let reply = match &committed.effect.answer {
        Answer::Entity(entity) => Reply::json(ok, &entity.shown(now_ms())),
        Answer::Deleted | Answer::Replaced => Reply::empty(StatusCode::NO_CONTENT),
    };
    let mut reply = reply.header(REVISION, HeaderValue::from(committed.position.revision.get()));
    if let Some(wait) = wait {
        wait::write(&wait.end(state).await, &mut reply.headers);
    }
    reply
}

/// Who asks for a write, and for which.
pub(super) fn author(asked: &Asked) -> Author {
    Author { name: asked.peer.ip().to_string(), what: format!("{} {}", asked.verb.name(), asked.path) }
}

/// Takes the body of a write; what a form's values are follows from the kind's schema.
fn to_body(asked: &mut Asked, kind: Kind) -> Result<Body, Refusal> {
    match std::mem::take(&mut asked.payload) {
        // Raw: only of a whole config.
        Payload::Empty | Payload::Raw(_) => Ok(Body::new()),
        Payload::Json(body) => Ok(body),
        Payload::Form(pairs) => form::decode(Inference::Declared(kind), Brackets::Split, &pairs),
    }
}

/// Takes the body of a PATCH; what a form's values are may follow from what is stored.
fn to_patch(
    state: &AdminState,
    asked: &mut Asked,
    (kind, key, parent): (Kind, &Key, Option<&Parent>),
) -> Result<Body, Refusal> {
    let config = state.store.head().config;
    match (std::mem::take(&mut asked.payload), config.find(kind, key, parent)) {
        (Payload::Form(pairs), Some(stored)) => {
            form::decode(Inference::Merged(stored), Brackets::Split, &pairs)
        }
        (payload, _) => {
            asked.payload = payload;
            to_body(asked, kind)
        }
    }
}

/// The entity that a parameter of the path names.
///
/// # Errors
/// When it cannot name one of this kind.
pub(super) fn key(asked: &Asked, at: usize, kind: Kind) -> Result<Key, Refusal> {
    let segment = asked.parameters.get(at).map_or(&[][..], Vec::as_slice);
    match std::str::from_utf8(segment) {
        Ok(segment) => Key::parse(kind, segment),
        Err(invalid) => {
            let message = error::not_utf8(invalid.valid_up_to() + 1);
            Err(ErrorObject::invalid_unique("name", message).into())
        }
    }
}

/// The parent that the first parameter of the path names.
///
/// # Errors
/// When it cannot name one of its kind.
pub(super) fn parent(asked: &Asked, reference: Reference) -> Result<Parent, Refusal> {
    let key = key(asked, 0, reference.parent)?;
    Ok(Parent { kind: reference.parent, key, field: reference.field })
}
