//! What a client gets in the place of its upstream's answer.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::{Edits, Stored};

/// An answer that a plugin gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 100 to 999; of what HTTP forbids as a final status (1xx) the client gets 500.
    pub status: u16,
    /// Its body.
    pub content: Content,
    /// Headers of its own, besides those that plugins add to every answer.
    pub headers: Edits,
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// None.
    Nothing,
    /// This text, in the type that the client takes: as the gateway's own errors are.
    Error(Cow<'static, str>),
    /// A JSON object that says this.
    ///
    /// Source: Kong 3.10 (`kong.response.exit`).
    Message(Cow<'static, str>),
    /// Headers and body of another answer, out of memory.
    Stored(Arc<Stored>),
    /// These bytes, of this type.
    Bytes(Cow<'static, str>, Bytes),
}

impl Answer {
    /// One without headers of its own.
    pub fn new(status: u16, content: Content) -> Self {
        Self { status, content, headers: Edits::default() }
    }

    /// An error with this text.
    pub fn error(status: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status, Content::Error(text.into()))
    }

    /// Somebody who does not prove who it is, and what would prove it.
    ///
    /// Source: RFC 9110 15.5.2.
    pub fn unauthorized(text: &'static str, challenge: &str) -> Self {
        let mut answer = Self::error(401, text);
        answer.headers.set("WWW-Authenticate", challenge.as_bytes());
        answer
    }
}

/// The object that says a text.
pub fn json(text: &str) -> String {
    serde_json::json!({ "message": text }).to_string()
}

/// The type of what this program says.
pub const JSON: &str = "application/json; charset=utf-8";
