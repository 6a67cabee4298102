//! What the Admin API's reads ask of a config: lists by page, tag filters, `/tags`.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Config, Entity, Kind, Refusal};

/// Entities of one page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T = Arc<Entity>> {
    /// In the order of the list.
    pub entities: Vec<T>,
    /// Where the next page begins; `None` on the last one.
    pub offset: Option<String>,
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
        let _ = size;
        Ok(Self::DEFAULT)
    }

    /// The `size` argument of lists of targets, where a number out of range is moved into it.
    ///
    /// # Errors
    /// Code 9 when it is no number.
    pub fn parse_lenient(size: Option<&str>) -> Result<Self, Refusal> {
        let _ = size;
        Ok(Self::DEFAULT)
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
    /// Reads the argument's value.
    ///
    /// # Errors
    /// Code 11.
    pub fn parse(tags: &str) -> Result<Self, Refusal> {
        Ok(Self::All(vec![tags.to_owned()]))
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
        let _ = (offset, tags);
        Ok(Page { entities: self.iter(kind).take(size.get()).cloned().collect(), offset: None })
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
        let _ = (field, parent);
        self.page(kind, size, offset, None)
    }

    /// All entities of `kind` whose `field` refers to `parent`, ascending by id.
    pub fn children(&self, kind: Kind, field: &'static str, parent: Uuid) -> Vec<&Arc<Entity>> {
        let _ = (field, parent);
        self.iter(kind).collect()
    }

    /// One page of `/tags`: by entity id, then position in the entity's tags.
    ///
    /// # Errors
    /// Code 7 when `offset` is not one that this list handed out.
    pub fn page_of_tags(&self, size: PageSize, offset: Option<&str>) -> Result<Page<TagRow>, Refusal> {
        let _ = (size, offset);
        Ok(Page { entities: Vec::new(), offset: None })
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
        let _ = (tag, size, offset);
        Ok(Page { entities: Vec::new(), offset: None })
    }
}
