//! `?dry_run=true`: a write with all its checks and its answer, of which nothing stays.

use http::{HeaderName, HeaderValue};

use super::body::Pair;
use super::endpoint::{Endpoint, Verb};
use super::reply::Reply;

/// Says that nothing was stored.
const DRY_RUN: HeaderName = HeaderName::from_static("equipoise-dry-run");

/// Whether a write is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    #[default]
    Commit,
    /// It is only tried.
    Trial,
}

impl Mode {
    /// What a request asks for.
    ///
    /// # Errors
    /// When the argument is not understood, or the endpoint does something that cannot be tried, neither of which is taken for a
    /// wish to go ahead: 400.
    pub(super) fn of(query: &[Pair], endpoint: Endpoint, verb: Verb) -> Result<Self, &'static str> {
        let argument = query.iter().find(|(name, _)| name == "dry_run");
        let wish = argument.map(|(_, value)| value.as_deref().unwrap_or("true").to_ascii_lowercase());
        match wish.as_deref() {
            None | Some("false" | "0" | "off" | "no") => Ok(Self::Commit),
            Some("true" | "1" | "on" | "yes") if verb == Verb::Get || !endpoint.is_act() => Ok(Self::Trial),
            Some("true" | "1" | "on" | "yes") => {
                Err("dry_run: what this endpoint does cannot be tried; nothing was done")
            }
            Some(_) => Err("dry_run: expected a boolean (true or false)"),
        }
    }
}

/// An answer of a trial.
pub(super) fn marked(reply: Reply) -> Reply {
    reply.header(DRY_RUN, HeaderValue::from_static("true"))
}
