//! Why a change is refused, as Kong's error objects say it.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::schema::Schema;
use super::{Key, Kind, Tag, dump};

/// A change that is not made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Plain `{"message":"Not found"}`, 404.
    #[error("not found")]
    NotFound,
    /// Plain `{"message":"SNI not found"}`, 404: a certificate by a name that no SNI has.
    #[error("SNI not found")]
    NoSni,
    /// 412: the entity is not as the client thinks; its tag, if there is one.
    #[error("the entity is not the one that the request is for")]
    Stale(Option<Tag>),
    /// A structured error of the data layer.
    #[error("{}", .0.message)]
    Object(Box<ErrorObject>),
    /// One write of a batch, by its place from 0, is refused, and with it all of them.
    #[error("operations[{item}]: {refusal}")]
    InBatch {
        /// Which.
        item: usize,
        /// Why.
        refusal: Box<Refusal>,
    },
}

impl Refusal {
    /// The HTTP status it is answered with.
    pub fn status(&self) -> u16 {
        match self {
            Self::NotFound | Self::NoSni => 404,
            Self::Stale(_) => 412,
            Self::Object(error) => error.status(),
            Self::InBatch { refusal, .. } => refusal.status(),
        }
    }

    /// The body it is answered with.
    pub fn to_json(&self) -> Value {
        match self {
            Self::NotFound => json!({ "message": "Not found" }),
            Self::NoSni => json!({ "message": "SNI not found" }),
            Self::Stale(Some(tag)) => {
                let text = format!("precondition failed: the entity has the ETag {tag} by now");
                json!({ "message": text })
            }
            Self::Stale(None) => json!({ "message": "precondition failed: there is no such entity" }),
            Self::Object(error) => error.to_json(),
            Self::InBatch { item, refusal } => {
                let error = refusal.to_json();
                let text = error.get("message").and_then(Value::as_str).unwrap_or_default();
                json!({ "message": format!("operations[{item}]: {text}"), "item": item, "error": error })
            }
        }
    }
}

impl Refusal {
    /// A path names an entity that is not there, as a parent or to do something with it.
    pub fn missing(kind: Kind, key: &Key) -> Self {
        match key {
            Key::Name(_) if Schema::of(kind).listed().is_some() => Self::NoSni,
            Key::Id(_) | Key::Name(_) | Key::Only => Self::NotFound,
        }
    }

    /// A path asks for an entity that is not there.
    pub fn unread(kind: Kind, key: &Key) -> Self {
        match key {
            Key::Id(id) if Schema::of(kind).listed().is_some() => ErrorObject::no_such_id(*id).into(),
            Key::Id(_) | Key::Name(_) | Key::Only => Self::missing(kind, key),
        }
    }
}

impl From<ErrorObject> for Refusal {
    fn from(error: ErrorObject) -> Self {
        Self::Object(Box::new(error))
    }
}

/// `{"code":…,"name":…,"message":…,"fields":…}`; see `errors.md` section 2 of the specification.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorObject {
    /// Which of the catalogue.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// `fields`, or `options` for code 11; absent where the code has none.
    pub fields: Option<Value>,
}

/// The catalogue of error codes, with the statuses they are answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorCode {
    /// 1
    InvalidPrimaryKey,
    /// 2
    SchemaViolation,
    /// 3
    PrimaryKeyViolation,
    /// 4
    ForeignKeyViolation,
    /// 5
    UniqueViolation,
    /// 6
    NotFound,
    /// 7
    InvalidOffset,
    /// 9
    InvalidSize,
    /// 10, with the field that names the entity
    InvalidUnique(&'static str),
    /// 11
    InvalidOptions,
    /// 12
    Unsupported,
    /// 13
    ForeignKeysUnresolved,
    /// 19
    ReferencedByOthers,
}

impl ErrorCode {
    /// The number in the body.
    pub const fn number(&self) -> u16 {
        match self {
            Self::InvalidPrimaryKey => 1,
            Self::SchemaViolation => 2,
            Self::PrimaryKeyViolation => 3,
            Self::ForeignKeyViolation => 4,
            Self::UniqueViolation => 5,
            Self::NotFound => 6,
            Self::InvalidOffset => 7,
            Self::InvalidSize => 9,
            Self::InvalidUnique(_) => 10,
            Self::InvalidOptions => 11,
            Self::Unsupported => 12,
            Self::ForeignKeysUnresolved => 13,
            Self::ReferencedByOthers => 19,
        }
    }

    /// The `name` in the body.
    pub fn name(&self) -> String {
        match self {
            Self::InvalidPrimaryKey => "invalid primary key".to_owned(),
            Self::SchemaViolation => "schema violation".to_owned(),
            Self::PrimaryKeyViolation => "primary key violation".to_owned(),
            Self::ForeignKeyViolation => "foreign key violation".to_owned(),
            Self::UniqueViolation => "unique constraint violation".to_owned(),
            Self::NotFound => "not found".to_owned(),
            Self::InvalidOffset => "invalid offset".to_owned(),
            Self::InvalidSize => "invalid size".to_owned(),
            Self::InvalidUnique(field) => format!("invalid unique {field}"),
            Self::InvalidOptions => "invalid options".to_owned(),
            Self::Unsupported => "operation unsupported".to_owned(),
            Self::ForeignKeysUnresolved => "foreign keys unresolved".to_owned(),
            Self::ReferencedByOthers => "referenced by others".to_owned(),
        }
    }

    /// The HTTP status it is answered with.
    pub const fn status(&self) -> u16 {
        match self {
            Self::UniqueViolation => 409,
            Self::NotFound => 404,
            Self::Unsupported => 405,
            Self::InvalidPrimaryKey
            | Self::SchemaViolation
            | Self::PrimaryKeyViolation
            | Self::ForeignKeyViolation
            | Self::InvalidOffset
            | Self::InvalidSize
            | Self::InvalidUnique(_)
            | Self::InvalidOptions
            | Self::ForeignKeysUnresolved
            | Self::ReferencedByOthers => 400,
        }
    }
}

impl ErrorObject {
    /// The HTTP status it is answered with.
    pub const fn status(&self) -> u16 {
        self.code.status()
    }

    /// The body it is answered with.
    pub fn to_json(&self) -> Value {
        let mut body = Map::new();
        body.insert("code".to_owned(), self.code.number().into());
        body.insert("name".to_owned(), self.code.name().into());
        body.insert("message".to_owned(), self.message.clone().into());
        if let Some(fields) = &self.fields {
            let key = if self.code == ErrorCode::InvalidOptions { "options" } else { "fields" };
            body.insert(key.to_owned(), fields.clone());
        }
        Value::Object(body)
    }

    /// Code 1: a path segment that had to be a UUID.
    pub fn invalid_primary_key() -> Self {
        let fields = json!({ "id": "expected a valid UUID" });
        let message = format!("invalid primary key: '{}'", dump::line(&fields));
        Self { code: ErrorCode::InvalidPrimaryKey, message, fields: Some(fields) }
    }

    /// Code 2. `errors` mirrors the entity: strings at the leaves, `@entity` for cross-field checks.
    pub fn schema_violation(errors: Map<String, Value>) -> Self {
        let pieces = dump::pieces(&errors);
        let message = match pieces.len() {
            1 => format!("schema violation ({})", pieces[0]),
            n => format!("{n} schema violations ({})", pieces.join("; ")),
        };
        Self { code: ErrorCode::SchemaViolation, message, fields: Some(Value::Object(errors)) }
    }

    /// Code 3: a POST with an id that exists.
    pub fn primary_key_violation(id: Uuid) -> Self {
        let fields = json!({ "id": id.to_string() });
        let message = format!("primary key violation on key '{}'", dump::line(&fields));
        Self { code: ErrorCode::PrimaryKeyViolation, message, fields: Some(fields) }
    }

    /// Code 4 of a write: `field` refers to nothing.
    pub fn dangling_foreign_key(field: &str, id: &str, referenced: &str) -> Self {
        let key = json!({ "id": id });
        let message = format!(
            "the foreign key '{}' does not reference an existing '{referenced}' entity.",
            dump::line(&key)
        );
        Self { code: ErrorCode::ForeignKeyViolation, message, fields: Some(json!({ field: key })) }
    }

    /// Code 4 of a deletion: something still refers to it.
    pub fn still_referenced(parent: Kind, child: Kind) -> Self {
        let (parent, child) = (parent.collection(), child.collection());
        Self {
            code: ErrorCode::ForeignKeyViolation,
            message: format!("an existing '{child}' entity references this '{parent}' entity"),
            fields: Some(json!({ "@referenced_by": child })),
        }
    }

    /// Code 19: a list of ids still names it.
    pub fn still_listed(parent: (Kind, Uuid), child: (Kind, Uuid)) -> Self {
        let ((parent, id), (child, by)) = (parent, child);
        let what = parent.singular().replace('_', " ");
        let collection = child.collection();
        let message = format!("{what} {id} is still referenced by {collection} (id = {by})");
        Self { code: ErrorCode::ReferencedByOthers, message, fields: None }
    }

    /// Code 5; `key` holds all parts of the key.
    pub fn unique_violation(key: Map<String, Value>) -> Self {
        let key = Value::Object(key);
        let message = format!("UNIQUE violation detected on '{}'", dump::line(&key));
        Self { code: ErrorCode::UniqueViolation, message, fields: Some(key) }
    }

    /// Code 6: a PATCH of an id that is not there.
    pub fn no_such_id(id: Uuid) -> Self {
        let fields = json!({ "id": id.to_string() });
        let message = format!("could not find the entity with primary key '{}'", dump::line(&fields));
        Self { code: ErrorCode::NotFound, message, fields: Some(fields) }
    }

    /// Code 6: a PATCH of a name that is not there.
    pub fn no_such_name(field: &str, name: &str) -> Self {
        let fields = json!({ field: name });
        let message = format!("could not find the entity with '{}'", dump::line(&fields));
        Self { code: ErrorCode::NotFound, message, fields: Some(fields) }
    }

    /// Code 7.
    pub fn invalid_offset(offset: &str, problem: &str) -> Self {
        let message = format!("'{offset}' is not a valid offset: {problem}");
        Self { code: ErrorCode::InvalidOffset, message, fields: None }
    }

    /// Code 9.
    pub fn invalid_size(message: &str) -> Self {
        Self { code: ErrorCode::InvalidSize, message: message.to_owned(), fields: None }
    }

    /// Code 10: a path segment that no entity of the kind could have as `field`.
    pub fn invalid_unique(field: &'static str, message: String) -> Self {
        Self { code: ErrorCode::InvalidUnique(field), message, fields: None }
    }

    /// Code 11: a query option, `tags` for instance.
    pub fn invalid_option(option: &str, problem: &str) -> Self {
        Self {
            code: ErrorCode::InvalidOptions,
            message: format!("invalid option ({option}: {problem})"),
            fields: Some(json!({ option: problem })),
        }
    }

    /// Code 12: a kind of the reference that is not kept here.
    pub fn unheld(what: &str, collection: &str) -> Self {
        let message = format!("cannot {what} '{collection}' entities: Equipoise has none");
        Self { code: ErrorCode::Unsupported, message, fields: None }
    }

    /// Code 13. `errors` holds field -> unique field of the referenced kind -> text.
    pub fn foreign_keys_unresolved(errors: Map<String, Value>) -> Self {
        let pieces = dump::pieces(&errors);
        let message = match pieces.len() {
            1 => format!("foreign key unresolved ({})", pieces[0]),
            n => format!("{n} foreign keys unresolved ({})", pieces.join("; ")),
        };
        Self { code: ErrorCode::ForeignKeysUnresolved, message, fields: Some(Value::Object(errors)) }
    }
}
