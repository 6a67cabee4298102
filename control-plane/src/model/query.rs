//! What the Admin API's reads ask of a config: lists by page, tag filters, `/tags`.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::entity::uuid;
use super::schema::{Order, Schema};
use super::{Config, Entity, ErrorObject, Kind, Refusal};
use super::{number, patterns};

/// Entities of one page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T = Arc<Entity>> {
    /// In the order of the list.
    pub entities: Vec<T>,
    /// Where the next page begins; `None` on the last one.
    pub offset: Option<String>,
}

impl<T> Page<T> {
    /// From up to one entity more than fits; `token` names the last one shown.
    fn cut(mut entities: Vec<T>, size: PageSize, token: impl FnOnce(&T) -> String) -> Self {
        let has_more = entities.len() > size.get();
        entities.truncate(size.get());
        let offset = entities.last().filter(|_| has_more).map(token);
        Self { entities, offset }
    }
}

/// How many entities a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(usize);

impl PageSize {
    /// When the client does not say.
    pub const DEFAULT: Self = Self(100);
    /// The most that a client can ask for.
    pub const MAX: Self = Self(1000);

    /// The `size` argument.
    ///
    /// # Errors
    /// Code 9 when it is no integer in 1..=1000.
    pub fn parse(size: Option<&str>) -> Result<Self, Refusal> {
        let Some(number) = Self::number(size)? else { return Ok(Self::DEFAULT) };
        let size = number.as_u64().and_then(|size| usize::try_from(size).ok());
        size.filter(|size| (1..=Self::MAX.0).contains(size))
            .map(Self)
            .ok_or_else(|| ErrorObject::invalid_size("size must be an integer between 1 and 1000").into())
    }

    /// The `size` argument of lists of targets, where a number out of range is moved into it.
    ///
    /// # Errors
    /// Code 9 when it is no number.
    pub fn parse_lenient(size: Option<&str>) -> Result<Self, Refusal> {
        let Some(number) = Self::number(size)? else { return Ok(Self::DEFAULT) };
        let size = number.as_f64().unwrap_or_default().clamp(1.0, 1000.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=1000")]
        Ok(Self(size as usize))
    }

    fn number(size: Option<&str>) -> Result<Option<Value>, Refusal> {
        let number = |text| {
            number::number(text).ok_or_else(|| ErrorObject::invalid_size("size must be a number").into())
        };
        size.map(number).transpose()
    }

    /// The number.
    pub const fn get(self) -> usize {
        self.0
    }
}

/// The `tags` argument of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagFilter {
    /// `a,b` (or `a`): has each of them.
    All(Vec<String>),
    /// `a/b`: has one of them.
    Any(Vec<String>),
}

impl TagFilter {
    /// Most tags in a filter.
    pub const TAGS_MAX: usize = 5;

    /// Reads the argument's value.
    ///
    /// # Errors
    /// Code 11.
    pub fn parse(tags: &str) -> Result<Self, Refusal> {
        let refused = |problem| Err(ErrorObject::invalid_option("tags", problem).into());
        if tags.is_empty() {
            return refused("cannot be null");
        }
        let separator = if tags.contains('/') { '/' } else { ',' };
        let list: Vec<_> = tags.split(separator).map(str::to_owned).collect();
        // A tag has neither separator, so that a mix of them is no list of tags.
        if list.iter().any(|tag| patterns::tag(tag).is_err()) {
            return refused("invalid filter syntax");
        }
        if list.len() > Self::TAGS_MAX {
            return refused("cannot query more than 5 tags");
        }
        Ok(if separator == '/' { Self::Any(list) } else { Self::All(list) })
    }

    /// Ids from `from` on that pass, ascending; at most `most`.
    fn ids(&self, config: &Config, kind: Kind, from: Uuid, most: usize) -> Vec<Uuid> {
        let index = &config.index;
        match self {
            Self::All(tags) => index.tagged_all_from(kind, tags, from).take(most).collect(),
            Self::Any(tags) => {
                let ids = tags.iter().flat_map(|tag| index.tagged_from(kind, tag, from).take(most));
                ids.collect::<BTreeSet<_>>().into_iter().take(most).collect()
            }
        }
    }
}

/// One row of `/tags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRow {
    /// Kind of the tagged entity.
    pub kind: Kind,
    /// Its id.
    pub id: Uuid,
    /// One of its tags.
    pub tag: String,
}

impl TagRow {
    /// As `/tags` shows it.
    pub fn to_json(&self) -> Value {
        json!({ "entity_name": self.kind.collection(), "entity_id": self.id.to_string(), "tag": self.tag })
    }
}

impl Config {
    /// One page of a kind, ascending by id.
    ///
    /// # Errors
    /// Code 7 when `offset` is not one that this list handed out.
    pub fn page(
        &self,
        kind: Kind,
        size: PageSize,
        offset: Option<&str>,
        tags: Option<&TagFilter>,
    ) -> Result<Page, Refusal> {
        let after = offset.map(id_of).transpose()?;
        let from = after.unwrap_or_default();
        // One more than fits tells whether there is more; another one may be the last of the page before.
        let most = size.get() + 2;
        let entities: Vec<_> = match tags {
            None => self.iter_from(kind, from).take(most).cloned().collect(),
            Some(tags) => {
                let ids = tags.ids(self, kind, from, most);
                ids.into_iter().filter_map(|id| self.by_id(kind, id).cloned()).collect()
            }
        };
        let entities = entities.into_iter().filter(|entity| Some(entity.id) != after).collect();
        Ok(Page::cut(entities, size, |entity| token(&json!([entity.id.to_string()]))))
    }

    /// One page of the entities of `kind` whose `field` refers to `parent`: ascending by id, but targets newest
    /// first, with a decimal index as offset.
    ///
    /// # Errors
    /// Code 7 when `offset` is not one that this list handed out.
    pub fn page_of_children(
        &self,
        kind: Kind,
        field: &'static str,
        parent: Uuid,
        size: PageSize,
        offset: Option<&str>,
    ) -> Result<Page, Refusal> {
        let most = size.get() + 1;
        match Schema::of(kind).order {
            Order::ById => {
                let after = offset.map(id_of).transpose()?;
                let ids: Vec<_> = match after {
                    Some(after) => self.index.children_after(kind, field, parent, after).take(most).collect(),
                    None => self.index.children(kind, field, parent).take(most).collect(),
                };
                let page = self.entities_of(kind, ids);
                Ok(Page::cut(page, size, |entity| token(&json!([entity.id.to_string()]))))
            }
            Order::NewestFirst => {
                let at = offset.map(|offset| {
                    let number = Some(offset).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                    number
                        .and_then(|text| text.parse::<usize>().ok())
                        .ok_or_else(|| ErrorObject::invalid_offset(offset, BAD_BASE64))
                });
                let at = at.transpose()?.unwrap_or_default();
                let ids = self.index.children(kind, field, parent).rev().skip(at).take(most).collect();
                let next = at.saturating_add(size.get());
                Ok(Page::cut(self.entities_of(kind, ids), size, |_| next.to_string()))
            }
        }
    }

    /// All entities of `kind` whose `field` refers to `parent`, ascending by id.
    pub fn children(&self, kind: Kind, field: &'static str, parent: Uuid) -> Vec<&Arc<Entity>> {
        let ids: BTreeSet<_> = self.index.children(kind, field, parent).collect();
        ids.into_iter().filter_map(|id| self.by_id(kind, id)).collect()
    }

    /// One page of `/tags`: by entity id, then position in the entity's tags.
    ///
    /// # Errors
    /// Code 7 when `offset` is not one that this list handed out.
    pub fn page_of_tags(&self, size: PageSize, offset: Option<&str>) -> Result<Page<TagRow>, Refusal> {
        let after = offset.map(place_of).transpose()?;
        let from = after.map_or(Uuid::nil(), |(id, _)| id);
        let mut rows: Vec<((Uuid, usize), TagRow)> = Vec::new();
        for (id, kind) in self.index.all_tagged_from(from) {
            // Entities of several kinds may share an id: positions count on.
            let known =
                rows.iter().rev().take_while(|((known, _), _)| *known == id).map(|((_, at), _)| at + 1);
            let first = known.max().unwrap_or_default();
            let body = self.by_id(kind, id).map(|entity| entity.body()).unwrap_or_default();
            let tags =
                body.get("tags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            rows.extend(
                tags.zip(first..).map(|(tag, at)| ((id, at), TagRow { kind, id, tag: tag.to_owned() })),
            );
            let shown = rows.iter().rev().take_while(|(place, _)| Some(*place) > after).count();
            if shown > size.get() {
                break;
            }
        }
        rows.retain(|(place, _)| Some(*place) > after);
        rows.truncate(size.get() + 1);
        Ok(paged(rows, size))
    }

    /// One page of `/tags/{tag}`, by entity id.
    ///
    /// # Errors
    /// Code 10 when `tag` is no legal tag, code 7 when `offset` is not one that this list handed out.
    pub fn page_of_tag(
        &self,
        tag: &str,
        size: PageSize,
        offset: Option<&str>,
    ) -> Result<Page<TagRow>, Refusal> {
        patterns::tag(tag).map_err(|error| ErrorObject::invalid_unique("tag", error))?;
        let after = offset.map(place_of).transpose()?;
        let from = after.map_or(Uuid::nil(), |(id, _)| id);
        let mut rows = Vec::new();
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            let ids = self.index.tagged_from(kind, tag, from).take(size.get() + 2);
            rows.extend(ids.map(|id| ((id, at), TagRow { kind, id, tag: tag.to_owned() })));
        }
        rows.retain(|(place, _)| Some(*place) > after);
        rows.sort_by_key(|(place, _)| *place);
        Ok(paged(rows, size))
    }

    fn entities_of(&self, kind: Kind, ids: Vec<Uuid>) -> Vec<Arc<Entity>> {
        ids.into_iter().filter_map(|id| self.by_id(kind, id).cloned()).collect()
    }
}

const BAD_BASE64: &str = "bad base64 encoding";
const BAD_JSON: &str = "bad json encoding";

fn paged(rows: Vec<((Uuid, usize), TagRow)>, size: PageSize) -> Page<TagRow> {
    let Page { entities, offset } =
        Page::cut(rows, size, |((id, at), _)| token(&json!([id.to_string(), at])));
    Page { entities: entities.into_iter().map(|(_, row)| row).collect(), offset }
}

fn token(place: &Value) -> String {
    STANDARD_NO_PAD.encode(place.to_string())
}

fn decoded(offset: &str) -> Result<Value, Refusal> {
    let bytes = STANDARD_NO_PAD.decode(offset).or_else(|_| STANDARD.decode(offset));
    let bytes = bytes.map_err(|_| ErrorObject::invalid_offset(offset, BAD_BASE64))?;
    serde_json::from_slice(&bytes).map_err(|_| ErrorObject::invalid_offset(offset, BAD_JSON).into())
}

/// An offset `["<id>"]`.
fn id_of(offset: &str) -> Result<Uuid, Refusal> {
    let place = decoded(offset)?;
    let id = place.get(0).and_then(Value::as_str).and_then(uuid);
    id.ok_or_else(|| ErrorObject::invalid_offset(offset, BAD_JSON).into())
}

/// An offset `["<id>",position]`.
fn place_of(offset: &str) -> Result<(Uuid, usize), Refusal> {
    let at = decoded(offset)?.get(1).and_then(Value::as_u64).and_then(|at| usize::try_from(at).ok());
    let at = at.ok_or_else(|| ErrorObject::invalid_offset(offset, BAD_JSON))?;
    Ok((id_of(offset)?, at))
}
