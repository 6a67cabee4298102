//! `/batch`: many writes in one revision, all of them or none.
//!
//! Each operation is a request of its own, less its headers: method, path and JSON body. What it stands for is looked up as
//! for any request, so that a batch can write what a client can write one by one, by the same rules.

use http::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::aim::Aim;
use super::body::Payload;
use super::crud::write;
use super::endpoint::Verb;
use super::gate::Asked;
use super::reply::Reply;
use super::{AdminState, condition};
use crate::clock::now_ms;
use crate::model::{Answer, Body, Change, Condition, ErrorObject, Refusal, Write};

/// The only key of the body.
const OPERATIONS: &str = "operations";

/// `/batch`
pub(super) async fn batch(state: &AdminState, mut asked: Asked) -> Result<Reply, Refusal> {
    let mut body = match std::mem::take(&mut asked.payload) {
        Payload::Json(body) => body,
        Payload::Empty | Payload::Form(_) | Payload::Raw(_) => {
            return Ok(Reply::message(StatusCode::BAD_REQUEST, "a batch is JSON: {\"operations\": [...]}"));
        }
    };
    if !condition::of_write(&asked.headers)?.is_empty() {
        let text = "conditions of a batch stand in its operations: if_match, if_none_match";
        return Ok(Reply::message(StatusCode::BAD_REQUEST, text));
    }
    let operations = body.remove(OPERATIONS);
    let mut errors: Map<String, Value> =
        body.keys().map(|key| (key.clone(), "unknown field".into())).collect();
    let most = state.settings.batch_items_max;
    let operations = match operations {
        None | Some(Value::Null) => Err("required field missing".to_owned()),
        Some(Value::Array(operations)) if operations.len() > most => {
            Err(format!("no more than {most} operations in a batch (admin.batch_items_max)"))
        }
        Some(Value::Array(operations)) => Ok(operations),
        Some(_) => Err("expected an array".to_owned()),
    };
    let operations = match operations {
        Ok(operations) => operations,
        Err(text) => {
            errors.insert(OPERATIONS.to_owned(), text.into());
            return Err(ErrorObject::schema_violation(errors).into());
        }
    };
    let (mut changes, mut statuses) = (Vec::with_capacity(operations.len()), Vec::new());
    let mut wrong = Vec::new();
    for (item, operation) in operations.into_iter().enumerate() {
        match read(state, operation) {
            Ok((verb, change, condition)) => {
                statuses.push(if verb == Verb::Post { StatusCode::CREATED } else { StatusCode::OK });
                changes.push((change, condition));
            }
            Err(Wrong::Fields(fields)) => {
                wrong.resize(item, Value::Null);
                wrong.push(Value::Object(fields));
            }
            Err(Wrong::Refused(refusal)) => {
                return Err(Refusal::InBatch { item, refusal: Box::new(refusal) });
            }
        }
    }
    if !wrong.is_empty() {
        errors.insert(OPERATIONS.to_owned(), wrong.into());
    }
    if !errors.is_empty() {
        return Err(ErrorObject::schema_violation(errors).into());
    }
    Ok(write(state, &mut asked, Write::Batch(changes), |answer| self::answer(answer, &statuses)).await)
}

/// Why an operation is none.
enum Wrong {
    /// By field.
    Fields(Map<String, Value>),
    /// As the request would be refused.
    Refused(Refusal),
}

fn read(state: &AdminState, operation: Value) -> Result<(Verb, Change, Condition), Wrong> {
    let of = |field: &str, text: &str| Wrong::Fields(Map::from_iter([(field.to_owned(), text.into())]));
    let Value::Object(mut fields) = operation else { return Err(of("@entity", "expected a record")) };
    let mut text = |field: &'static str| match fields.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(of(field, "expected a string")),
    };
    let method = text("method")?.ok_or_else(|| of("method", "required field missing"))?;
    let path = text("path")?.ok_or_else(|| of("path", "required field missing"))?;
    let (is, is_not) = (text("if_match")?, text("if_none_match")?);
    let body = match fields.remove("body") {
        None | Some(Value::Null) => Body::new(),
        Some(Value::Object(body)) => body,
        Some(_) => return Err(of("body", "expected a record")),
    };
    if let Some(unknown) = fields.keys().next() {
        return Err(of(unknown, "unknown field"));
    }
    let verb = match method.as_str() {
        "DELETE" => Verb::Delete,
        "PATCH" => Verb::Patch,
        "POST" => Verb::Post,
        "PUT" => Verb::Put,
        _ => return Err(of("method", "expected one of: DELETE, PATCH, POST, PUT")),
    };
    let condition = condition::of_item(is.as_deref(), is_not.as_deref())
        .ok_or_else(|| of("if_match", "expected `*` or a list of entity tags in quotes"))?;
    if path.contains(['?', '#']) {
        return Err(of("path", "must not have a query"));
    }
    let found = state.endpoints.find(&path).ok_or_else(|| of("path", "there is no such endpoint"))?;
    let aim = Aim::of(found.endpoint, &found.parameters).map_err(Wrong::Refused)?;
    let aim = aim.ok_or_else(|| of("path", "no entity is written there"))?;
    let change = aim.change(verb, body).ok_or_else(|| of("method", "not one that this path takes"))?;
    Ok((verb, change, condition))
}

fn answer(answer: &Answer, statuses: &[StatusCode]) -> Reply {
    let Answer::Each(answers) = answer else { return Reply::unexpected() };
    let now_ms = now_ms();
    let results: Vec<_> =
        answers.iter().zip(statuses).map(|(answer, ok)| result(answer, *ok, now_ms)).collect();
    match results.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(results) => Reply::json(StatusCode::OK, &std::collections::BTreeMap::from([("results", results)])),
        Err(_) => Reply::unexpected(),
    }
}

/// What the request would have been answered.
fn result(answer: &Answer, ok: StatusCode, now_ms: u64) -> serde_json::Result<Box<RawValue>> {
    match answer {
        Answer::Entity(entity) => {
            let shown = entity.shown(now_ms);
            let (status, tag) = (ok.as_u16(), entity.tag().to_string());
            RawValue::from_string(format!(
                "{{\"status\":{status},\"etag\":{},\"body\":{}}}",
                Value::from(tag),
                shown.get()
            ))
        }
        Answer::Deleted | Answer::Replaced | Answer::Each(_) => serde_json::value::to_raw_value(
            &json!({ "status": StatusCode::NO_CONTENT.as_u16(), "body": null }),
        ),
    }
}
