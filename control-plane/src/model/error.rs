//! Why a change is refused, as Kong's error objects say it.

use serde_json::Value;

/// A change that is not made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Plain `{"message":"Not found"}`, 404.
    #[error("not found")]
    NotFound,
    /// A structured error of the data layer.
    #[error("{}", .0.message)]
    Object(Box<ErrorObject>),
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
    /// 13
    ForeignKeysUnresolved,
}
