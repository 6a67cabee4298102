//! Tags of entities, and what a write may ask of them: who lost a race is told so instead of undoing what the other did.
//!
//! Source: RFC 9110, sections 8.8.3 and 13.

use std::fmt;

use super::schema::{Put, Schema};
use super::{Change, Config, Context, Effect, Entity, Key, Op, Refusal};

/// Names one state of one entity (`ETag`): a hash of what is stored. What follows from the clock (the rest of a key's `ttl`) is
/// not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag([u8; 16]);

impl Tag {
    /// Reads what [`fmt::Display`] writes, quotes included; `None` for what can be the tag of no entity.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        // As it is shown: tags are compared byte by byte.
        if digits.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        let mut bytes = [0; 16];
        hex::decode_to_slice(digits, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("\"")
    }
}

impl Entity {
    /// Its tag. Cost: a hash of its text, a microsecond for most.
    pub fn tag(&self) -> Tag {
        let hash = blake3::hash(self.json().get().as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        Tag(bytes)
    }
}

/// Tags that a header lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// `*`: any entity, as long as there is one.
    Any,
    /// Those of entities among what was listed; what can be the tag of none is left out.
    Listed(Vec<Tag>),
}

impl Tags {
    /// Whether it has that of `entity`.
    pub fn have(&self, entity: Option<&Entity>) -> bool {
        match (self, entity) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Listed(tags), Some(entity)) => tags.contains(&entity.tag()),
        }
    }
}

/// What has to be so of the entity that a write is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// `If-Match`: it is one of these.
    pub is: Option<Tags>,
    /// `If-None-Match`: it is none of these.
    pub is_not: Option<Tags>,
}

impl Condition {
    /// Whether anything is asked.
    pub const fn is_empty(&self) -> bool {
        self.is.is_none() && self.is_not.is_none()
    }

    fn check(&self, entity: Option<&Entity>) -> Result<(), Refusal> {
        let is_met = self.is.as_ref().is_none_or(|tags| tags.have(entity))
            && !self.is_not.as_ref().is_some_and(|tags| tags.have(entity));
        if is_met { Ok(()) } else { Err(Refusal::Stale(entity.map(Entity::tag))) }
    }
}

impl Config {
    /// As [`Config::apply`], if `condition` holds.
    ///
    /// # Errors
    /// [`Refusal::Stale`] when it does not, and those of `apply`.
    pub fn apply_if(
        &self,
        change: Change,
        condition: &Condition,
        context: &mut Context<'_>,
    ) -> Result<(Self, Effect), Refusal> {
        if !condition.is_empty() {
            condition.check(self.about(&change).map(AsRef::as_ref))?;
        }
        self.apply(change, context)
    }

    /// The entity that a change is about, as it is before; a new one has none.
    fn about(&self, change: &Change) -> Option<&std::sync::Arc<Entity>> {
        let Change { kind, op, parent } = change;
        match op {
            Op::Create(_) => None,
            // Of another parent it is taken over.
            Op::Put(key @ (Key::Id(_) | Key::Name(_)), _) if Schema::of(*kind).put == Put::Replace => {
                self.get(*kind, key)
            }
            Op::Put(key, _) | Op::Patch(key, _) | Op::Delete(key) => self.find(*kind, key, parent.as_ref()),
            Op::PutReferenced(key, field, _) | Op::PatchReferenced(key, field, _) => {
                self.referenced(*kind, key, field)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::model::{Body, Kind};

    fn entity(name: &str) -> Entity {
        let body: Body = serde_json::from_value(json!({ "name": name })).unwrap();
        Entity::new(Kind::Service, Uuid::nil(), &body)
    }

    #[test]
    fn a_tag_is_read_as_it_is_written_and_nothing_else_is_one() {
        let tag = entity("a").tag();
        assert_eq!(Tag::parse(tag.to_string().as_bytes()), Some(tag));
        assert_ne!(tag, entity("b").tag());
        let text = tag.to_string();
        for other in ["", "\"", "\"\"", &text[1..], &text.to_uppercase(), "\"zz\"", &format!("W/{text}")] {
            assert_eq!(Tag::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn conditions_are_those_of_http() {
        let (a, b) = (entity("a"), entity("b"));
        let listed =
            |entities: &[&Entity]| Some(Tags::Listed(entities.iter().map(|one| one.tag()).collect()));
        for (name, is, is_not, stored, want) in [
            ("nothing asked", None, None, None, true),
            ("the same", listed(&[&b, &a]), None, Some(&a), true),
            ("another", listed(&[&b]), None, Some(&a), false),
            ("gone", listed(&[&a]), None, None, false),
            ("any", Some(Tags::Any), None, Some(&a), true),
            ("any of none", Some(Tags::Any), None, None, false),
            ("only if it is new", None, Some(Tags::Any), None, true),
            ("not new", None, Some(Tags::Any), Some(&a), false),
            ("not this one", None, listed(&[&a]), Some(&a), false),
            ("any but this one", None, listed(&[&a]), Some(&b), true),
            ("of two, one fails", listed(&[&a]), listed(&[&a]), Some(&a), false),
        ] {
            assert_eq!(Condition { is, is_not }.check(stored).is_ok(), want, "{name}");
        }
    }
}
