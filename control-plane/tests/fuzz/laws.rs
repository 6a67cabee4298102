//! What is fuzzed: each function takes any bytes and panics where a law is broken. They are run by `cargo test`, with inputs of a
//! seeded generator, and by the coverage-guided targets in `fuzz/`.

use bytes::Bytes;
use equipoise_control_plane::admin::body::{self, MediaType, Payload};
use equipoise_control_plane::model::form::{self, Brackets, Inference};
use equipoise_control_plane::model::{
    self, Answer, Body, Change, Config, Context, Key, Kind, Op, PluginName,
};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use uuid::Uuid;

/// Whatever is sent as a body, it is decoded or refused: nothing panics, and what is decoded is no larger than what was sent allows.
pub fn bodies(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let (media_type, name) = match kind % 3 {
        0 => (MediaType::Json, "application/json"),
        1 => (MediaType::Form, "application/x-www-form-urlencoded"),
        _ => (MediaType::Multipart, "multipart/form-data; boundary=X"),
    };
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(name));
    let decoded = body::decode(media_type, &headers, Bytes::copy_from_slice(data));
    // Nothing in it waits: the whole body is there.
    let decoded =
        futures_util::FutureExt::now_or_never(decoded).expect("a body that is there is decoded at once");
    match decoded {
        Ok(Payload::Json(body)) => {
            let again = serde_json::to_vec(&body).expect("an object is JSON");
            assert!(serde_json::from_slice::<Value>(&again).is_ok(), "what was decoded is JSON");
        }
        Ok(Payload::Form(pairs)) => {
            assert!(pairs.len() <= body::ARGUMENTS_MAX, "{} arguments", pairs.len());
            for kind in Kind::ALL {
                for brackets in [Brackets::Split, Brackets::Literal] {
                    // Refused or decoded, for every kind.
                    form::decode(Inference::Declared(kind), brackets, &pairs).err();
                }
            }
        }
        Ok(Payload::Empty | Payload::Raw(_)) | Err(_) => {}
    }
}

/// Whatever object is sent for an entity, it is refused, or stored as what is stored again when it is sent again. Gives whether it was
/// stored.
pub fn entities(data: &[u8]) -> usize {
    let Some((kind, data)) = data.split_first() else { return 0 };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let Ok(Value::Object(sent)) = serde_json::from_slice(data) else { return 0 };
    let mut next = 0;
    let mut new_id = || {
        next += 1;
        Uuid::from_u128(next)
    };
    let plugins = PluginName::ALL;
    let mut context = Context { now_ms: 1_700_000_000_000, new_id: &mut new_id, plugins };
    // What is validated without being stored never says yes to what a store then finds malformed.
    let verdict = model::validate(kind, sent.clone(), context.now_ms, plugins);
    let create = Change { kind, op: Op::Create(sent), parent: None };
    let Ok((config, effect)) = Config::default().apply(create, &mut context) else { return 0 };
    let Answer::Entity(made) = effect.answer else { panic!("a creation answers with what it made") };
    assert!(verdict.is_ok() || kind == Kind::Target, "stored although it does not validate: {made:?}");
    // What is answered can be sent as it is: clients do.
    let mut put = |config: &Config, body: Body| {
        let change = Change { kind, op: Op::Put(Key::Id(made.id), body), parent: None };
        let (config, effect) = config.apply(change, &mut context).expect("what was answered is accepted");
        let Answer::Entity(again) = effect.answer else { panic!("a PUT answers with what it made") };
        (config, again.body())
    };
    let (after, second) = put(&config, made.body());
    // In the reference a `hash_on` of `none` that is sent makes the algorithm `round-robin`, which it need not have been before; from
    // then on it stays.
    let first = if kind == Kind::Upstream { second } else { made.body() };
    let (after, again) = put(&after, first.clone());
    let [first, again] = [first, again].map(|mut body| {
        body.remove("updated_at");
        body
    });
    assert_eq!(first, again, "another one, sent as it was answered");
    assert_eq!(after.len(), config.len());
    1
}
