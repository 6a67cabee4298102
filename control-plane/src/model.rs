//! What operators write, and the checks it passes: pure, no socket, file, clock or randomness.
//!
//! An entity is kept as the JSON object that the Admin API returns, complete with defaults and nulls; the
//! declared schemas say what may stand in it. [`Config`] is immutable: [`Config::apply`] returns the next one.

mod apply;
mod batch;
mod change;
mod condition;
mod config;
pub mod declarative;
mod dump;
mod entity;
mod error;
mod expiry;
pub mod form;
mod index;
mod number;
mod patterns;
mod plugin;
mod query;
mod schema;

pub use change::{Answer, Change, Context, Effect, Mutation, Op, Parent, Write};
pub use condition::{Condition, Tag, Tags};
pub use config::Config;
pub use declarative::{Declarative, InvalidDeclarative};
pub use entity::{Body, Entity, Key, Kind};
pub use error::{ErrorCode, ErrorObject, Refusal};
pub use expiry::expires_at;
pub use plugin::PluginName;
pub use query::{Page, PageSize, TagFilter, TagRow};
pub use schema::{Side, openapi_schema, plugin_schema_json, schema_json, validate};

#[cfg(test)]
mod tests;
