//! Create, read, update, delete: one implementation for every kind of entity.
//!
//! Verb and path become a change ([`Aim`]); what it means and whether it is allowed is the model's business.

use std::time::Instant;

use http::header::ETAG;
use http::{HeaderName, HeaderValue, StatusCode};

use super::aim::{self, Aim};
use super::body::Payload;
use super::endpoint::{Endpoint, Reference, Verb};
use super::gate::Asked;
use super::reply::Reply;
use super::trial::{self, Mode};
use super::wait::Wait;
use super::{AdminState, condition, error, list, wait};
use crate::clock::now_ms;
use crate::model::form::{self, Brackets, Inference};
use crate::model::{Answer, Body, Entity, Key, Kind, Parent, Refusal, Write};
use crate::store::Author;

/// The revision that holds a write.
pub(super) const REVISION: HeaderName = HeaderName::from_static("equipoise-revision");

/// Any path of entities: a write of what it is about, or a read.
pub(super) async fn entities(
    state: &AdminState,
    mut asked: Asked,
    endpoint: Endpoint,
) -> Result<Reply, Refusal> {
    let aim = Aim::of(endpoint, &asked.parameters)?.ok_or(Refusal::NotFound)?;
    if asked.verb == Verb::Get {
        return read(state, &asked, endpoint, &aim);
    }
    if let (Some(field), Some(key), Verb::Delete) = (aim.field, &aim.key, asked.verb) {
        // Refused by itself in the reference, but only where there is something to refuse.
        let is_there = state.store.head().config.referenced(aim.kind, key, field).is_some();
        return Ok(if is_there { Reply::method_not_allowed() } else { Reply::not_found() });
    }
    let condition = condition::of_write(&asked.headers)?;
    let body = to_body(state, &mut asked, &aim)?;
    let Some(change) = aim.change(asked.verb, body) else { return Ok(Reply::method_not_allowed()) };
    let ok = if asked.verb == Verb::Post { StatusCode::CREATED } else { StatusCode::OK };
    let write = if condition.is_empty() { Write::One(change) } else { Write::If(change, condition) };
    Ok(self::write(state, &mut asked, write, |answer| self::answer(answer, ok)).await)
}

fn read(state: &AdminState, asked: &Asked, endpoint: Endpoint, aim: &Aim) -> Result<Reply, Refusal> {
    let config = state.store.head().config;
    let entity = match (endpoint, &aim.key, &aim.parent) {
        (Endpoint::Children(reference), _, Some(parent)) => {
            return list::children(state, asked, reference, &parent.key);
        }
        (_, None, _) => return list::collection(state, asked, aim.kind),
        (_, Some(key), parent) => match aim.field {
            Some(field) => config.referenced(aim.kind, key, field).ok_or(Refusal::NotFound)?,
            None => config.find(aim.kind, key, parent.as_ref()).ok_or_else(|| match parent {
                None => Refusal::unread(aim.kind, key),
                Some(parent) if config.get(parent.kind, &parent.key).is_none() => {
                    Refusal::missing(parent.kind, &parent.key)
                }
                Some(_) => Refusal::NotFound,
            })?,
        },
    };
    if condition::is_known(&asked.headers, entity)? {
        return Ok(Reply::empty(StatusCode::NOT_MODIFIED).header(ETAG, condition::header(entity)));
    }
    Ok(shown(StatusCode::OK, entity))
}

/// An entity with its tag.
fn shown(status: StatusCode, entity: &Entity) -> Reply {
    Reply::json(status, &entity.shown(now_ms())).header(ETAG, condition::header(entity))
}

fn answer(answer: &Answer, ok: StatusCode) -> Reply {
    match answer {
        Answer::Entity(entity) => shown(ok, entity),
        Answer::Deleted | Answer::Replaced | Answer::Each(_) => Reply::empty(StatusCode::NO_CONTENT),
    }
}

/// Commits and answers, or only tries.
pub(super) async fn write(
    state: &AdminState,
    asked: &mut Asked,
    write: Write,
    answer: impl FnOnce(&Answer) -> Reply,
) -> Reply {
    if asked.mode == Mode::Trial {
        return match state.store.trial(write, asked.memory.take()).await {
            Ok(tried) => trial::marked(answer(&tried.effect.answer)),
            Err(failed) => trial::marked(error::commit(&failed)),
        };
    }
    let began = Instant::now();
    let committed = match state.store.commit_holding(write, author(asked), asked.memory.take()).await {
        Ok(committed) => committed,
        Err(failed) => return error::commit(&failed),
    };
    // Before anything else: the nodes that are connected now are those that the write waits for.
    let wait = Wait::begin(state, asked, &committed.position);
    if !committed.effect.mutations.is_empty() {
        state.metrics.committed(began.elapsed());
    }
    let reply = answer(&committed.effect.answer);
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

/// Takes the body of a write; what a form's values are follows from the kind's schema, and of a PATCH may follow from what is
/// stored.
fn to_body(state: &AdminState, asked: &mut Asked, aim: &Aim) -> Result<Body, Refusal> {
    match (std::mem::take(&mut asked.payload), aim.field) {
        // Raw: only of a whole config.
        (Payload::Empty | Payload::Raw(_), _) => Ok(Body::new()),
        (Payload::Json(body), _) => Ok(body),
        (Payload::Form(pairs), None) if asked.verb == Verb::Patch => {
            let config = state.store.head().config;
            let stored = aim.key.as_ref().and_then(|key| config.find(aim.kind, key, aim.parent.as_ref()));
            let inference = stored.map_or(Inference::Declared(aim.kind), |stored| Inference::Merged(stored));
            form::decode(inference, Brackets::Split, &pairs)
        }
        (Payload::Form(pairs), _) => form::decode(Inference::Declared(aim.written), Brackets::Split, &pairs),
    }
}

/// The entity that a parameter of the path names.
///
/// # Errors
/// When it cannot name one of this kind.
pub(super) fn key(asked: &Asked, at: usize, kind: Kind) -> Result<Key, Refusal> {
    aim::key(&asked.parameters, at, kind)
}

/// The parent that the first parameter of the path names.
///
/// # Errors
/// When it cannot name one of its kind.
pub(super) fn parent(asked: &Asked, reference: Reference) -> Result<Parent, Refusal> {
    aim::parent(&asked.parameters, reference)
}
