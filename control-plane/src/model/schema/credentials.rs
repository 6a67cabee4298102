//! What consumers prove with who they are.
//!
//! Source: entities.md section 9. None has `updated_at`.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA1_OUTPUT_LEN, digest};
use serde_json::{Map, Value};

use super::format::{id, seconds, tags};
use super::{Before, Body, Completion, EndpointKey, Field, Schema, Transform};
use crate::model::Kind;
use crate::model::expiry::TTL;
use crate::model::index::reference;

pub(super) fn key_auths() -> Schema {
    let fields = vec![
        id(),
        seconds("created_at"),
        ("consumer", Field::owner(Kind::Consumer).required()),
        ("key", Field::string().optional().unique().auto()),
        tags(),
        (TTL, Field::integer()),
    ];
    Schema {
        endpoint_key: Some(EndpointKey::Global("key")),
        complete: Some(make_key),
        expires: true,
        ..Schema::new(fields, Vec::new())
    }
}

pub(super) fn basic_auths() -> Schema {
    let fields = vec![
        id(),
        seconds("created_at"),
        ("consumer", Field::owner(Kind::Consumer).required()),
        ("username", Field::string().required().unique()),
        ("password", Field::string().required().remark("encrypted")),
        tags(),
    ];
    Schema {
        endpoint_key: Some(EndpointKey::Global("username")),
        complete: Some(hash_password),
        ..Schema::new(fields, Vec::new())
    }
}

/// A key is made where there is none, and kept by writes that do not name it; null asks for a new one.
fn make_key(body: &mut Body, completion: &mut Completion<'_>) -> Result<(), Map<String, Value>> {
    let kept = match (body.get("key"), completion.before) {
        (None, Before::Merged(_)) => return Ok(()),
        (Some(key), _) if !key.is_null() => return Ok(()),
        (None, Before::Replaced(stored)) => stored.get("key").cloned(),
        (None, Before::Nothing) | (Some(_), _) => None,
    };
    let key = kept.unwrap_or_else(|| (completion.new_id)().simple().to_string().into());
    body.insert("key".to_owned(), key);
    Ok(())
}

/// Stores the hash in the place of the password. What is no password is left for its field to refuse, and so is a
/// consumer that is none.
fn hash_password(body: &mut Body, completion: &mut Completion<'_>) -> Result<(), Map<String, Value>> {
    if completion.transform == Transform::Done {
        return check_hash(body);
    }
    let consumer = reference(body, "consumer");
    let before = match completion.before {
        Before::Merged(stored) => reference(stored, "consumer"),
        Before::Nothing | Before::Replaced(_) => None,
    };
    let (consumer, moves) = match (consumer, before) {
        (Some(to), Some(from)) => (to, to != from),
        (Some(consumer), None) | (None, Some(consumer)) => (consumer, false),
        (None, None) => return Ok(()),
    };
    let hash = match body.get("password") {
        Some(Value::String(password)) if !password.is_empty() => hashed(password, &consumer.to_string()),
        // The hash holds the consumer: with another one nobody could tell the password any more.
        None if moves => Value::Null,
        Some(_) | None => return Ok(()),
    };
    body.insert("password".to_owned(), hash);
    Ok(())
}

/// What is said to be a hash already, and is none, would let nobody in; nodes do not take it.
fn check_hash(body: &Body) -> Result<(), Map<String, Value>> {
    match body.get("password") {
        Some(Value::String(hash)) if hex::decode(hash).is_ok_and(|hash| hash.len() == SHA1_OUTPUT_LEN) => {
            Ok(())
        }
        Some(Value::String(_)) => {
            let text = "expected the hash of a password (40 hexadecimal digits), since _transform is false";
            Err(Map::from_iter([("password".to_owned(), text.into())]))
        }
        // For the field to refuse.
        Some(_) | None => Ok(()),
    }
}

/// Hexadecimal SHA-1 of the password followed by the consumer's id: what the reference stores, and its clients compare.
fn hashed(password: &str, consumer: &str) -> Value {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, [password, consumer].concat().as_bytes());
    hex::encode(digest).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: `printf '%s' hello00000000-0000-0000-0000-000000000001 | sha1sum`.
    #[test]
    fn a_password_is_hashed_with_its_consumer() {
        let hash = hashed("hello", "00000000-0000-0000-0000-000000000001");
        assert_eq!(hash, "59e4413fe0284fc03da075d66e47cb89a199af98");
    }
}
