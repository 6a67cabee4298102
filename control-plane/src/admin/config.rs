//! `/config`: the whole config as one declarative document, in and out.
//!
//! A document is decoded and checked beside the threads that serve requests, one at a time; the store's writer only works
//! out what differs. Nothing is stored of a document with one error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use equipoise_proto::Position;
use http::header::{IF_MATCH, IF_NONE_MATCH, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::AdminState;
use super::body::Payload;
use super::crud::{REVISION, author};
use super::endpoint::Verb;
use super::gate::Asked;
use super::list::text;
use super::reply::Reply;
use super::trial::{self, Mode};
use super::wait::{self, Wait};
use super::{error, yaml};
use crate::clock::now_ms;
use crate::model::declarative::export;
use crate::model::{Config, Context, Declarative, InvalidDeclarative, Kind, Mutation, PluginName, Refusal};

/// What the last import came to: the same text again is no change while the config is what it made.
#[derive(Debug)]
pub(super) struct Imported {
    text: blake3::Hash,
    position: Position,
}

/// A document as it was sent.
enum Document {
    /// Text: JSON, or YAML.
    Text(Bytes),
    /// None.
    Missing,
}

/// `/config`
pub(super) async fn config(state: &AdminState, mut asked: Asked) -> Result<Reply, Refusal> {
    if asked.verb == Verb::Post {
        return Ok(import(state, &mut asked).await);
    }
    // The text of a whole config is large: one at a time, and who has left is out of the queue.
    let turn = Arc::clone(&state.exporting).acquire_owned().await;
    let config = state.store.head().config;
    Ok(beside(move || {
        let _turn = turn;
        yaml::write(&export(&config))
            .map_or_else(unexpected, |text| Reply::json(StatusCode::OK, &json!({ "config": text })))
    })
    .await)
}

async fn import(state: &AdminState, asked: &mut Asked) -> Reply {
    let Ok(last) = Arc::clone(&state.importing).try_lock_owned() else {
        return Reply::message(StatusCode::TOO_MANY_REQUESTS, "Currently loading previous configuration")
            .header(RETRY_AFTER, HeaderValue::from_static("1"));
    };
    if asked.headers.contains_key(IF_MATCH) {
        return Reply::message(StatusCode::BAD_REQUEST, "If-Match: a whole config has no ETag");
    }
    let document = match document(std::mem::take(&mut asked.payload)) {
        Document::Text(text) => text,
        Document::Missing => {
            return Reply::message(StatusCode::BAD_REQUEST, "expected a declarative configuration");
        }
    };
    let hash = blake3::hash(&document);
    let head = state.store.head();
    let is_same = last.as_ref().is_some_and(|last| last.text == hash && last.position == head.position);
    let asks_for_change = is_truthy(asked, "check_hash") || asked.headers.contains_key(IF_NONE_MATCH);
    if is_same && asks_for_change {
        return Reply::empty(StatusCode::NOT_MODIFIED);
    }
    let is_flat = is_truthy(asked, "flatten_errors");
    let is_trial = asked.mode == Mode::Trial;
    let (base, plugins, memory) = (head.config, state.store.plugins(), asked.memory.take());
    // The work goes on when its client leaves: its turn and its memory go with the work.
    let work = move || (read(&document, base, plugins, is_trial), last, memory);
    let (checked, mut last, memory) = match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => return unexpected(error),
    };
    let (declared, trial) = match checked {
        Ok(checked) => checked,
        Err(invalid) => {
            let refused = Reply::json(StatusCode::BAD_REQUEST, &invalid.to_json(is_flat));
            return if is_trial { trial::marked(refused) } else { refused };
        }
    };
    if let Some(trial) = trial {
        let reply = trial
            .map_or_else(|refused| error::refusal(&refused), |trial| Reply::json(StatusCode::OK, &trial));
        return trial::marked(reply);
    }
    let began = std::time::Instant::now();
    let committed = state.store.commit_holding(declared, author(asked), memory).await;
    let committed = match committed {
        Ok(committed) => committed,
        Err(failed) => return error::commit(&failed),
    };
    // Before anything else: the nodes that are connected now are those that the write waits for.
    let wait = Wait::begin(state, asked, &committed.position);
    if !committed.effect.mutations.is_empty() {
        state.metrics.committed(began.elapsed());
    }
    *last = Some(Imported { text: hash, position: committed.position });
    let config = state.store.head().config;
    let shown = beside(move || {
        let _turn = last;
        Reply::json(StatusCode::CREATED, &flattened(&config))
    });
    let mut reply = shown.await;
    reply = reply.header(REVISION, HeaderValue::from(committed.position.revision.get()));
    if let Some(wait) = wait {
        wait::write(&wait.end(state).await, &mut reply.headers);
    }
    reply
}

/// The document of a body, wherever it stands in it.
fn document(payload: Payload) -> Document {
    match payload {
        Payload::Empty => Document::Missing,
        Payload::Json(body) => Document::Text(Value::Object(body).to_string().into()),
        Payload::Form(pairs) => pairs
            .into_iter()
            .find(|(name, _)| name == "config")
            .and_then(|(_, text)| text)
            .map_or(Document::Missing, |text| Document::Text(text.into())),
        Payload::Raw(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Document::Missing,
        Payload::Raw(bytes) => Document::Text(bytes),
    }
}

/// Of a trial, what it would change.
type Trial = Option<Result<Value, Refusal>>;

/// Decodes and checks a document. Takes time that follows its size.
fn read(
    text: &[u8],
    base: Config,
    plugins: &'static [PluginName],
    is_trial: bool,
) -> Result<(Declarative, Trial), InvalidDeclarative> {
    let document = unwrap(yaml::read(text)?)?;
    let mut context = Context { now_ms: now_ms(), new_id: &mut Uuid::new_v4, plugins };
    let declared = Declarative::read(document, &base, &mut context)?;
    let trial = is_trial.then(|| {
        let (_, effect) = base.replace(declared.clone())?;
        Ok(trial(&effect.mutations))
    });
    // Large, and not needed any more: not dropped where requests are served.
    drop(base);
    Ok((declared, trial))
}

/// `{"config": "<text>"}` stands for the text.
fn unwrap(document: Value) -> Result<Value, InvalidDeclarative> {
    match &document {
        Value::Object(map) if map.len() == 1 => match map.get("config") {
            Some(Value::String(text)) => yaml::read(text.as_bytes()),
            Some(_) | None => Ok(document),
        },
        _ => Ok(document),
    }
}

fn trial(mutations: &[Mutation]) -> Value {
    let count = |is_it: fn(&Mutation) -> bool| mutations.iter().filter(|mutation| is_it(mutation)).count();
    json!({
        "created": count(|mutation| mutation.before.is_none()),
        "updated": count(|mutation| mutation.before.is_some() && mutation.after.is_some()),
        "deleted": count(|mutation| mutation.after.is_none()),
    })
}

/// All entities, by collection and id.
fn flattened(config: &Config) -> BTreeMap<&'static str, BTreeMap<String, Cow<'_, RawValue>>> {
    let (mut all, now_ms) = (BTreeMap::new(), now_ms());
    for kind in Kind::ALL {
        let entities: BTreeMap<_, _> =
            config.iter(kind).map(|entity| (entity.id.to_string(), entity.shown(now_ms))).collect();
        if !entities.is_empty() {
            all.insert(kind.collection(), entities);
        }
    }
    all
}

/// Makes an answer that takes long beside the threads that serve requests.
async fn beside(work: impl FnOnce() -> Reply + Send + 'static) -> Reply {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(unexpected)
}

fn unexpected(error: impl std::fmt::Display) -> Reply {
    tracing::error!(%error, "a declarative config could not be read or written");
    Reply::unexpected()
}

fn is_truthy(asked: &Asked, name: &str) -> bool {
    text(asked, name).is_some_and(|text| ["true", "1", "on", "yes"].contains(&text))
}
