//! Kinds of the reference that are not kept here: their lists are empty, and what would write them is refused by name.

use http::StatusCode;
use serde_json::Value;

use super::endpoint::{Of, Unheld, Verb};
use super::gate::Asked;
use super::list::{PageJson, text};
use super::reply::Reply;
use super::{AdminState, crud};
use crate::model::{ErrorObject, Kind, PageSize, Refusal};

/// Any path of such a kind.
pub(super) fn unheld(state: &AdminState, asked: &Asked, unheld: Unheld) -> Result<Reply, Refusal> {
    let Unheld { collection, of } = unheld;
    let parent = match of {
        Of::Children(parent) | Of::Child(parent) => Some(parent),
        Of::All | Of::One | Of::Nothing(_) => None,
    };
    if let Some(parent) = parent {
        find(state, asked, parent)?;
    }
    match (of, asked.verb) {
        (Of::All | Of::Children(_), Verb::Get) => {
            PageSize::parse(text(asked, "size"))?;
            Ok(Reply::json(StatusCode::OK, &PageJson::<Value> { data: Vec::new(), next: None, offset: None }))
        }
        (Of::All | Of::Children(_), _) => Err(ErrorObject::unheld("create", collection).into()),
        (Of::One | Of::Child(_), Verb::Put) => {
            Err(ErrorObject::unheld("create or update", collection).into())
        }
        // Whatever never was is gone as well.
        (Of::One, Verb::Delete) => Ok(Reply::empty(StatusCode::NO_CONTENT)),
        (Of::One | Of::Child(_) | Of::Nothing(_), _) => Err(Refusal::NotFound),
    }
}

fn find(state: &AdminState, asked: &Asked, parent: Kind) -> Result<(), Refusal> {
    let key = crud::key(asked, 0, parent)?;
    let config = state.store.head().config;
    config.get(parent, &key).map(|_| ()).ok_or_else(|| Refusal::missing(parent, &key))
}

/// `/schemas/vaults/validate`: no vault can be configured, whatever it is.
pub(super) fn validate_vault(asked: &Asked) -> Refusal {
    let name = match &asked.payload {
        super::body::Payload::Json(body) => body.get("name").and_then(Value::as_str).map(str::to_owned),
        super::body::Payload::Form(pairs) => {
            pairs.iter().find(|(key, _)| key == "name").and_then(|(_, value)| value.clone())
        }
        super::body::Payload::Empty | super::body::Payload::Raw(_) => None,
    };
    let name = name.or_else(|| text(asked, "name").map(str::to_owned));
    let text = name.map_or_else(
        || "required field missing".to_owned(),
        |name| format!("vault '{name}' is not installed"),
    );
    ErrorObject::schema_violation(serde_json::Map::from_iter([("name".to_owned(), text.into())])).into()
}
