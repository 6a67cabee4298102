//! Paths of kinds that the reference has and that are not kept here, so that clients which ask for them in passing find an
//! empty list rather than an error.
//!
//! Source: `clients.md` 1.4, 2 and 3 of the specification: decK reads all of these, aio-kong `/consumers/{c}/acls`. What
//! only the reference's Enterprise has stays 404, which they take for the same.

use super::{Segment, Verb};
use crate::model::Kind;

/// What a path of such a kind stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unheld {
    /// The kind's name in messages.
    pub collection: &'static str,
    /// Which of its paths.
    pub of: Of,
}

/// Which path of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// `/vaults`
    All,
    /// `/vaults/{vault}`
    One,
    /// `/consumers/{consumer}/acls`: below something that may be there.
    Children(Kind),
    /// `/consumers/{consumer}/acls/{acl}`
    Child(Kind),
    /// `/key-sets/{set}/keys`, `/keys/{key}/set`: below something that is never there.
    Nothing(&'static [Verb]),
}

impl Unheld {
    /// The verbs it takes: those of a kind that is kept, so that OPTIONS says the same.
    pub const fn verbs(self) -> &'static [Verb] {
        match self.of {
            Of::All | Of::Children(_) => LIST,
            Of::One | Of::Child(_) => ENTITY,
            Of::Nothing(verbs) => verbs,
        }
    }
}

const LIST: &[Verb] = &[Verb::Get, Verb::Post];
const ENTITY: &[Verb] = &[Verb::Delete, Verb::Get, Verb::Patch, Verb::Put];

/// Credentials: collection in messages, in paths, below a consumer.
const CREDENTIALS: [(&str, &str, &str); 3] = [
    ("acls", "acls", "acls"),
    ("hmacauth_credentials", "hmac-auths", "hmac-auth"),
    ("jwt_secrets", "jwts", "jwt"),
];

/// All of their paths.
pub(super) fn patterns() -> Vec<(Vec<Segment>, Unheld)> {
    use Segment::{Literal, Parameter};
    let mut patterns = Vec::new();
    let mut add = |pattern: &[Segment], collection, of| {
        patterns.push((pattern.to_vec(), Unheld { collection, of }));
    };
    for (collection, path) in [("vaults", "vaults"), ("keys", "keys"), ("key_sets", "key-sets")] {
        add(&[Literal(path)], collection, Of::All);
        add(&[Literal(path), Parameter(collection)], collection, Of::One);
    }
    for (collection, path, below) in CREDENTIALS {
        let one = [Literal(path), Parameter(collection)];
        add(&one[..1], collection, Of::All);
        add(&one, collection, Of::One);
        add(&[one[0], one[1], Literal("consumer")], collection, Of::Nothing(ENTITY));
        let consumers = Kind::Consumer.collection();
        let child =
            [Literal(Kind::Consumer.path()), Parameter(consumers), Literal(below), Parameter(collection)];
        add(&child[..3], collection, Of::Children(Kind::Consumer));
        add(&child, collection, Of::Child(Kind::Consumer));
    }
    let set = [Literal("key-sets"), Parameter("key_sets"), Literal("keys"), Parameter("keys")];
    add(&set[..3], "keys", Of::Nothing(LIST));
    add(&set, "keys", Of::Nothing(ENTITY));
    add(&[Literal("keys"), Parameter("keys"), Literal("set")], "keys", Of::Nothing(ENTITY));
    patterns
}
