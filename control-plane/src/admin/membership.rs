//! Who may join the cluster, as the Admin API shows and changes it: join tokens, enrolments, the denied, the authorities.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use equipoise_identity::{Role, TokenId};
use equipoise_proto::NodeId;
use equipoise_proto::limits::{NODE_LABELS_MAX, NODE_TEXT_BYTES_MAX, is_node_text};
use http::StatusCode;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::AdminState;
use super::body::Payload;
use super::clustering::{paged, parameter, seconds};
use super::endpoint::Verb;
use super::gate::Asked;
use super::reply::Reply;
use crate::identity::authorities::Step;
use crate::identity::ledger::{Member, Place, Token};
use crate::identity::{EnrolError, Force, Registrar, RotateError, TokenOrder};
use crate::model::{ErrorObject, Refusal};

/// How long a token can be used if nothing is said, and at most.
const TTL: Duration = Duration::from_secs(3600);
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Most that may join with one token.
const USES_MAX: u32 = 100_000;

/// `/clustering/tokens`
pub(super) async fn tokens(state: &AdminState, asked: Asked) -> Result<Reply, Refusal> {
    let Some(registrar) = &state.registrar else { return Ok(not_here()) };
    if asked.verb == Verb::Post {
        let order = token_order(fields(asked.payload))?;
        let shown = order.clone();
        let made = blocking(registrar, move |registrar| registrar.create_token(&order)).await;
        return Ok(made.map_or_else(
            |reply| reply,
            |token| {
                let answer = json!({
                    "id": token.id().to_string(),
                    "token": token.reveal(),
                    "role": shown.role.as_str(),
                    "uses_left": shown.uses,
                    "ttl": shown.ttl.as_secs(),
                });
                Reply::json(StatusCode::CREATED, &answer)
            },
        ));
    }
    let (ledger, now) = (registrar.ledger(), SystemTime::now());
    let rows = ledger.tokens().iter().map(|(id, token)| (*id, token));
    paged(&asked, "a token", rows, |(id, token)| token_row(id, token, now))
}

/// `/clustering/tokens/{id}`
pub(super) async fn token(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let Some(registrar) = &state.registrar else { return Ok(not_here()) };
    let id: TokenId = parameter(asked)?;
    gone(blocking(registrar, move |registrar| registrar.revoke_token(id)).await)
}

/// `/clustering/enrolments`
pub(super) fn enrolments(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let Some(registrar) = &state.registrar else { return Ok(not_here()) };
    let ledger = registrar.ledger();
    let rows = ledger.members().iter().map(|(id, member)| (id.as_uuid(), member));
    paged(asked, "an enrolment", rows, |(id, member)| member_row(id, member))
}

/// `/clustering/enrolments/{id}`
pub(super) async fn enrolment(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let Some(registrar) = &state.registrar else { return Ok(not_here()) };
    let id = NodeId::new(parameter(asked)?);
    gone(forget(registrar, id).await)
}

/// Frees an id for another key; whether it was taken.
pub(super) async fn forget(registrar: &Registrar, id: NodeId) -> Result<bool, Reply> {
    blocking(registrar, move |registrar| registrar.forget(id)).await
}

/// `/clustering/denied`
pub(super) fn denied(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let Some(registrar) = &state.registrar else { return Ok(not_here()) };
    let ledger = registrar.ledger();
    let rows = ledger.denied().iter().map(|(id, at)| (id.as_uuid(), at));
    paged(asked, "a denied id", rows, |(id, at)| json!({ "id": id.to_string(), "since": seconds(*at) }))
}

/// `/clustering/denied/{id}`
pub(super) async fn deny(state: &AdminState, asked: &Asked) -> Result<Reply, Refusal> {
    let Some(registrar) = &state.registrar else { return Ok(not_here()) };
    let id = NodeId::new(parameter::<Uuid>(asked)?);
    if asked.verb == Verb::Delete {
        return gone(blocking(registrar, move |registrar| registrar.allow(id)).await);
    }
    let denied = blocking(registrar, move |registrar| registrar.deny(id)).await;
    Ok(denied.map_or_else(
        |reply| reply,
        |()| Reply::json(StatusCode::OK, &json!({ "id": id.to_string(), "denied": true })),
    ))
}

/// `/clustering/authorities`
pub(super) async fn authorities(state: &AdminState, asked: Asked) -> Result<Reply, Refusal> {
    let Some(registrar) = &state.registrar else { return Ok(not_here()) };
    if asked.verb == Verb::Post {
        let (step, force) = rotation_order(fields(asked.payload))?;
        let registrar = registrar.clone();
        let rotated = tokio::task::spawn_blocking(move || registrar.rotate(step, force)).await;
        match rotated {
            Ok(Ok(())) => {}
            Ok(Err(RotateError::Failed(error))) => {
                tracing::error!(error = %error, "the authorities could not be rotated");
                return Ok(Reply::unexpected());
            }
            Ok(Err(refused @ (RotateError::Order { .. } | RotateError::Waiting(_)))) => {
                return Ok(Reply::message(StatusCode::CONFLICT, &refused.to_string()));
            }
            Err(error) => {
                tracing::error!(%error, "the rotation of the authorities broke off");
                return Ok(Reply::unexpected());
            }
        }
    }
    let shown = registrar.clone();
    // It may have to wait for a file that is synced.
    let rotation = tokio::task::spawn_blocking(move || shown.rotation()).await;
    let rotation = match rotation {
        Ok(rotation) => rotation,
        Err(error) => {
            tracing::error!(%error, "the authorities cannot be shown");
            return Ok(Reply::unexpected());
        }
    };
    match rotation {
        Ok(rotation) => {
            let rows: Vec<Value> = rotation
                .authorities
                .iter()
                .map(|one| {
                    json!({
                        "fingerprint": one.fingerprint().to_string(),
                        "issues": one == rotation.authorities.issuer(),
                        "not_after": seconds(one.not_after()),
                    })
                })
                .collect();
            let answer = json!({
                "stage": rotation.stage.as_str(),
                "since": rotation.since,
                "members_waiting": rotation.waiting,
                "data": rows,
            });
            Ok(Reply::json(StatusCode::OK, &answer))
        }
        Err(error) => {
            tracing::error!(error = %error, "the authorities cannot be shown");
            Ok(Reply::unexpected())
        }
    }
}

fn not_here() -> Reply {
    let text = "this control plane gives out no certificates: cluster.mtls is not `managed`, or there is no cluster port";
    Reply::message(StatusCode::BAD_REQUEST, text)
}

/// Calls what syncs a file beside the threads that serve requests.
async fn blocking<T: Send + 'static>(
    registrar: &Registrar,
    call: impl FnOnce(&Registrar) -> Result<T, EnrolError> + Send + 'static,
) -> Result<T, Reply> {
    let registrar = registrar.clone();
    match tokio::task::spawn_blocking(move || call(&registrar)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(EnrolError::Failed(error))) => {
            tracing::error!(error = %error, "the ledger of members cannot be written");
            Err(Reply::unexpected())
        }
        Ok(Err(refused)) => Err(Reply::message(StatusCode::CONFLICT, &refused.to_string())),
        Err(error) => {
            tracing::error!(%error, "a change of members broke off");
            Err(Reply::unexpected())
        }
    }
}

fn gone(was_there: Result<bool, Reply>) -> Result<Reply, Refusal> {
    match was_there {
        Ok(true) => Ok(Reply::empty(StatusCode::NO_CONTENT)),
        Ok(false) => Err(Refusal::NotFound),
        Err(reply) => Ok(reply),
    }
}

fn token_row(id: TokenId, token: &Token, now: SystemTime) -> Value {
    let state = match token {
        Token { is_revoked: true, .. } => "revoked",
        Token { expires, .. } if now >= *expires => "expired",
        Token { uses_left: 0, .. } => "used up",
        Token { .. } => "good",
    };
    json!({
        "id": id.to_string(),
        "state": state,
        "role": token.role.as_str(),
        "region": token.place.region,
        "zone": token.place.zone,
        "labels": token.place.labels,
        "uses_left": token.uses_left,
        "created_at": seconds(token.created),
        "expires_at": seconds(token.expires),
    })
}

fn member_row(id: Uuid, member: &Member) -> Value {
    json!({
        "id": id.to_string(),
        "role": member.role.as_str(),
        "hostname": member.hostname,
        "region": member.place.region,
        "zone": member.place.zone,
        "labels": member.place.labels,
        "token": member.token.to_string(),
        "enrolled_at": seconds(member.enrolled),
        "certificate": {
            "serial": member.issued.serial.to_string(),
            "issued_at": seconds(member.issued.at),
            "not_after": seconds(member.issued.not_after),
        },
    })
}

/// The fields of a body; of a form all are texts.
fn fields(payload: Payload) -> Map<String, Value> {
    match payload {
        // Raw: only of a whole config.
        Payload::Empty | Payload::Raw(_) => Map::new(),
        Payload::Json(body) => body.into_iter().collect(),
        Payload::Form(pairs) => {
            pairs.into_iter().map(|(name, value)| (name, value.unwrap_or_default().into())).collect()
        }
    }
}

fn token_order(mut fields: Map<String, Value>) -> Result<TokenOrder, Refusal> {
    let mut wrong = Map::new();
    let mut take = |name: &str| fields.remove(name).filter(|value| !value.is_null());
    let role = take("role").map_or(Ok(Role::Node), |value| role(&value));
    let ttl = take("ttl").map_or(Ok(TTL.as_secs()), |value| whole(&value, TTL_MAX.as_secs()));
    let uses = take("uses").map_or(Ok(1), |value| whole(&value, USES_MAX.into()));
    let region = take("region").map(|value| name(&value)).transpose();
    let zone = take("zone").map(|value| name(&value)).transpose();
    let labels = take("labels").map_or(Ok(BTreeMap::new()), |value| labels(&value));
    for name in fields.keys() {
        wrong.insert(name.clone(), "unknown field".into());
    }
    let mut note = |name: &str, problem: Option<&String>| {
        if let Some(problem) = problem {
            wrong.insert(name.to_owned(), problem.clone().into());
        }
    };
    note("role", role.as_ref().err());
    note("ttl", ttl.as_ref().err());
    note("uses", uses.as_ref().err());
    note("region", region.as_ref().err());
    note("zone", zone.as_ref().err());
    note("labels", labels.as_ref().err());
    match (role, ttl, uses, region, zone, labels) {
        (Ok(role), Ok(ttl), Ok(uses), Ok(region), Ok(zone), Ok(labels)) if wrong.is_empty() => {
            let uses = u32::try_from(uses).unwrap_or(USES_MAX);
            Ok(TokenOrder {
                role,
                place: Place { region, zone, labels },
                ttl: Duration::from_secs(ttl),
                uses,
            })
        }
        _ => Err(ErrorObject::schema_violation(wrong).into()),
    }
}

fn rotation_order(mut fields: Map<String, Value>) -> Result<((&'static str, Step), Force), Refusal> {
    let mut wrong = Map::new();
    let said = fields.remove("step");
    let step = Step::ALL.into_iter().find(|(name, _)| said.as_ref().and_then(Value::as_str) == Some(name));
    let force = match fields.remove("force") {
        None | Some(Value::Null | Value::Bool(false)) => Force::No,
        Some(Value::Bool(true)) => Force::Yes,
        Some(Value::String(text)) if text == "true" => Force::Yes,
        Some(Value::String(text)) if text == "false" => Force::No,
        Some(_) => {
            wrong.insert("force".to_owned(), "expected a boolean".into());
            Force::No
        }
    };
    for name in fields.keys() {
        wrong.insert(name.clone(), "unknown field".into());
    }
    match step {
        Some(step) if wrong.is_empty() => Ok((step, force)),
        Some(_) => Err(ErrorObject::schema_violation(wrong).into()),
        None => {
            wrong.insert("step".to_owned(), "expected one of: introduce, switch, retire".into());
            Err(ErrorObject::schema_violation(wrong).into())
        }
    }
}

fn role(value: &Value) -> Result<Role, String> {
    match value.as_str() {
        Some("node") => Ok(Role::Node),
        Some("relay") => Ok(Role::Relay),
        _ => Err("expected one of: node, relay".to_owned()),
    }
}

fn whole(value: &Value, max: u64) -> Result<u64, String> {
    let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.filter(|number| (1..=max).contains(number)).ok_or(format!("value should be between 1 and {max}"))
}

fn name(value: &Value) -> Result<String, String> {
    let text = value.as_str().filter(|text| !text.is_empty() && is_node_text(text));
    text.map(str::to_owned)
        .ok_or(format!("expected a text of 1 to {NODE_TEXT_BYTES_MAX} bytes without control characters"))
}

fn labels(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let map = value.as_object().filter(|map| map.len() <= NODE_LABELS_MAX);
    let map = map.ok_or(format!("expected a map of at most {NODE_LABELS_MAX} labels"))?;
    map.iter()
        .map(|(key, value)| {
            if key.is_empty() || !is_node_text(key) {
                return Err("expected names of 1 to 256 bytes without control characters".to_owned());
            }
            Ok((key.clone(), name(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(value: Value) -> Result<TokenOrder, Value> {
        let Value::Object(map) = value else { panic!("not an object") };
        token_order(map).map_err(|refusal| refusal.to_json()["fields"].clone())
    }

    #[test]
    fn a_token_has_safe_defaults() {
        let order = order(json!({})).unwrap();
        assert_eq!((order.role, order.ttl, order.uses), (Role::Node, TTL, 1));
        assert_eq!(order.place, Place::default());
    }

    #[test]
    fn what_is_wrong_with_a_token_is_named_by_field() {
        let wrong = order(json!({
            "role": "control-plane", "ttl": 0, "uses": "many", "region": "", "zone": "a\nb", "labels": {"a": 1}, "x": 1,
        }))
        .unwrap_err();
        let mut named: Vec<_> = wrong.as_object().unwrap().keys().map(String::as_str).collect();
        named.sort_unstable();
        assert_eq!(named, ["labels", "region", "role", "ttl", "uses", "x", "zone"]);
        let said = json!({"role": "relay", "ttl": "60", "uses": 5, "zone": "z", "labels": {"rack": "1"}});
        let order = order(said).unwrap();
        assert_eq!((order.role, order.ttl.as_secs(), order.uses), (Role::Relay, 60, 5));
        assert_eq!(order.place.zone.as_deref(), Some("z"));
    }

    #[test]
    fn a_step_of_the_rotation_is_named() {
        let read = |value: Value| rotation_order(value.as_object().unwrap().clone());
        assert_eq!(
            read(json!({"step": "switch", "force": true})).unwrap(),
            (("switch", Step::Switch), Force::Yes)
        );
        for bad in [
            json!({}),
            json!({"step": "next"}),
            json!({"step": "switch", "force": 3}),
            json!({"step": "switch", "x": 1}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
