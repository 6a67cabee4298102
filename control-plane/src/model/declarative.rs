//! A whole config in one document: read and checked here, written by `export`, put in force by `replace`.
//!
//! Everything is made from the declared schemas: a kind is in the document under its collection's name, and nested under
//! each kind that it refers to. Entities without an id get one that follows from what they are, so that the same document
//! read twice is the same config.
//!
//! Source: the reference's declarative format (`admin-api.md` section 6 of the specification).

mod export;
mod invalid;
mod replace;
mod unmet;

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::entity::uuid;
use super::index;
use super::schema::{Before, Completion, EndpointKey, Schema, Stamp, Transform};
use super::{Body, Config, Context, Entity, Kind, expiry};

pub use export::export;
pub use invalid::InvalidDeclarative;

use invalid::{Report, Step};

/// Versions of the format.
const VERSIONS: [&str; 3] = ["1.1", "2.1", "3.0"];

/// Where ids of entities without one begin (`admin-api.md` section 6).
const NAMESPACE: Uuid = Uuid::from_u128(0xfd02_801f_0957_4a15_a55a_c8d9_606f_30b5);

/// A checked config, as a document had it.
#[derive(Debug, Clone)]
pub struct Declarative {
    /// A kind refers only to kinds before it.
    entities: Vec<Declared>,
}

/// One of its entities.
#[derive(Debug, Clone)]
struct Declared {
    entity: Entity,
    /// Fields that the document left to us, of those that tell of time.
    untold: Vec<&'static str>,
}

/// Fields that tell of time: what a document does not say of them is no change.
const TIMES: [&str; 2] = ["created_at", "updated_at"];

/// An entity on its way through the checks.
struct Item {
    kind: Kind,
    place: Vec<Step>,
    /// As it was written, for reports.
    input: Body,
    body: Body,
    /// Its parent in the document: the field that refers to it, and which item it is.
    parent: Option<(&'static str, usize)>,
    id: Uuid,
}

impl Declarative {
    /// Number of entities.
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// Reads a document. `base` is what is stored now: what only we know of an entity (a secret) is taken from there.
    ///
    /// # Errors
    /// All that is wrong with it, by entity.
    pub fn read(
        document: Value,
        base: &Config,
        context: &mut Context<'_>,
    ) -> Result<Self, InvalidDeclarative> {
        let Value::Object(document) = document else {
            return Err(InvalidDeclarative::parse("expected an object"));
        };
        let mut report = Report::default();
        let version = header(&document, &mut report);
        let transform = match document.get("_transform") {
            Some(Value::Bool(false)) => Transform::Done,
            _ => Transform::Apply,
        };
        let mut items = Vec::new();
        for (name, value) in document {
            match Kind::from_collection(&name) {
                Some(kind) => collect(kind, value, vec![Step::Key(name)], None, &mut items, &mut report),
                None if HEADER.contains(&name.as_str()) => {}
                None => report.add(&[Step::Key(name)], "unknown field".into()),
            }
        }
        // Parents before what refers to them; within a kind as written.
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|at| items[*at].kind);
        if version.is_some_and(|version| version != "3.0") {
            items
                .iter_mut()
                .filter(|item| item.kind == Kind::Route)
                .for_each(|item| mark_regexes(&mut item.body));
        }
        let mut names = Names::default();
        let mut entities = Vec::with_capacity(items.len());
        for at in order {
            let parent = items[at].parent.map(|(field, parent)| (field, items[parent].id));
            let item = &mut items[at];
            if let Some((field, parent)) = parent {
                item.body.insert(field.to_owned(), serde_json::json!({ "id": parent.to_string() }));
            }
            match check(item, &mut names, base, transform, context) {
                Ok(declared) => entities.push(declared),
                Err(errors) => report.entity(item, parent, errors),
            }
        }
        // What was exported may have been overtaken by a change of its route, and must come back all the same.
        let unmet = if transform == Transform::Apply { unmet::unmet(&items, &entities) } else { Vec::new() };
        for (at, text) in unmet {
            let parent = items[at].parent.map(|(field, parent)| (field, items[parent].id));
            report.entity(&items[at], parent, Map::from_iter([("protocols".to_owned(), text.into())]));
        }
        report.finish()?;
        list_children(&mut entities);
        Ok(Self { entities })
    }
}

/// Fills in the lists of children's names, which a document has as entities.
fn list_children(entities: &mut [Declared]) {
    for kind in Kind::ALL {
        let Some(listed) = Schema::of(kind).listed() else { continue };
        let mut names: HashMap<Uuid, BTreeSet<String>> = HashMap::new();
        for child in entities.iter().filter(|one| one.entity.kind == listed.child) {
            let body = child.entity.body();
            let name = body.get(listed.name).and_then(Value::as_str).map(str::to_owned);
            if let Some((parent, name)) = index::reference(&body, listed.parent).zip(name) {
                names.entry(parent).or_default().insert(name);
            }
        }
        for one in entities.iter_mut().filter(|one| one.entity.kind == kind) {
            let mut body = one.entity.body();
            let list = names.remove(&one.entity.id).unwrap_or_default().into_iter().collect();
            body.insert(listed.field.to_owned(), list);
            one.entity = Entity::new(kind, one.entity.id, &body);
        }
    }
}

/// Fields of the document that are no collections.
const HEADER: [&str; 4] = ["_format_version", "_transform", "_comment", "_ignore"];

/// Checks them; gives the version.
fn header(document: &Body, report: &mut Report) -> Option<String> {
    let mut wrong = |name: &str, error: &str| report.add(&[Step::Key(name.to_owned())], error.into());
    match document.get("_transform") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(_) => wrong("_transform", "expected a boolean"),
    }
    if let Err((name, error)) = remarks(document) {
        wrong(name, error);
    }
    match document.get("_format_version") {
        None | Some(Value::Null) => wrong("_format_version", "required field missing"),
        Some(Value::String(version)) if VERSIONS.contains(&version.as_str()) => return Some(version.clone()),
        Some(Value::String(_)) => wrong("_format_version", "expected one of: 1.1, 2.1, 3.0"),
        Some(_) => wrong("_format_version", "expected a string"),
    }
    None
}

/// Checks the remarks that may stand anywhere.
fn remarks(body: &Body) -> Result<(), (&'static str, &'static str)> {
    match (body.get("_comment"), body.get("_ignore")) {
        (Some(comment), _) if !comment.is_null() && !comment.is_string() => {
            Err(("_comment", "expected a string"))
        }
        (_, Some(ignore)) if !ignore.is_null() && !ignore.is_array() => Err(("_ignore", "expected an array")),
        _ => Ok(()),
    }
}

/// What an entity of `kind` may have nested in it: the child, its field that refers to the parent, and under which name.
fn nested(kind: Kind) -> impl Iterator<Item = (Kind, &'static str, &'static str)> {
    Kind::ALL.into_iter().flat_map(move |child| {
        let schema = Schema::of(child);
        let fields = schema.foreign().filter(move |(_, referenced, _)| *referenced == kind);
        fields.map(move |(field, _, _)| {
            let is_only = schema.only_of == Some(field);
            (child, field, if is_only { child.singular() } else { child.collection() })
        })
    })
}

/// Takes the entities of one list, and what is nested in them.
fn collect(
    kind: Kind,
    list: Value,
    place: Vec<Step>,
    parent: Option<(&'static str, usize)>,
    items: &mut Vec<Item>,
    report: &mut Report,
) {
    let list = match list {
        Value::Array(list) => list,
        Value::Null => return,
        // What some languages make of an empty list.
        Value::Object(map) if map.is_empty() => return,
        _ => return report.add(&place, "expected an array".into()),
    };
    for (at, value) in list.into_iter().enumerate() {
        let place = [&place[..], &[Step::Index(at)]].concat();
        take(kind, value, place, parent, items, report);
    }
}

fn take(
    kind: Kind,
    value: Value,
    place: Vec<Step>,
    parent: Option<(&'static str, usize)>,
    items: &mut Vec<Item>,
    report: &mut Report,
) {
    let Value::Object(mut body) = value else { return report.add(&place, "expected a record".into()) };
    if let Err((name, error)) = remarks(&body) {
        report.add(&[&place[..], &[Step::Key(name.to_owned())]].concat(), error.into());
    }
    body.remove("_comment");
    body.remove("_ignore");
    let children: Vec<_> = nested(kind)
        .filter_map(|(child, field, name)| Some((child, field, name, body.remove(name)?)))
        .collect();
    let own = items.len();
    let (input, below) = (body.clone(), place.clone());
    items.push(Item { kind, place, input, body, parent, id: Uuid::nil() });
    for (child, field, name, value) in children {
        let place = [&below[..], &[Step::Key(name.to_owned())]].concat();
        match Schema::of(child).only_of {
            Some(only) if only == field => {
                if !value.is_null() {
                    take(child, value, place, Some((field, own)), items, report);
                }
            }
            Some(_) | None => collect(child, value, place, Some((field, own)), items, report),
        }
    }
}

/// Who has been declared so far.
#[derive(Default)]
struct Names {
    ids: HashSet<(Kind, Uuid)>,
    keys: HashMap<index::UniqueKey, Uuid>,
    children: HashMap<(Kind, Uuid), usize>,
    /// Entities that are only told apart by their number.
    equal: HashMap<Uuid, u32>,
}

impl Names {
    /// Which entity of `kind` a reference means.
    fn find(&self, kind: Kind, reference: &Value) -> Option<Uuid> {
        let by_name = |name: &str| {
            let Some(EndpointKey::Global(field)) = Schema::of(kind).endpoint_key else { return None };
            self.keys.get(&index::unique_key(kind, &[(field, name)])?).copied()
        };
        let by_id = |text: &str| uuid(text).filter(|id| self.ids.contains(&(kind, *id)));
        match reference {
            Value::String(text) => by_id(text).or_else(|| by_name(text)),
            Value::Object(part) => {
                let name = match Schema::of(kind).endpoint_key {
                    Some(EndpointKey::Global(field)) => part.get(field),
                    Some(EndpointKey::Nested(..) | EndpointKey::Listed(_)) | None => None,
                };
                match (part.get("id"), name) {
                    (Some(Value::String(id)), _) => by_id(id),
                    (None | Some(Value::Null), Some(Value::String(name))) => by_name(name),
                    _ => None,
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
        }
    }
}

/// Checks one entity against its schema and those before it.
fn check(
    item: &mut Item,
    names: &mut Names,
    base: &Config,
    transform: Transform,
    context: &mut Context<'_>,
) -> Result<Declared, Map<String, Value>> {
    let (kind, schema) = (item.kind, Schema::of(item.kind));
    let mut errors = resolve(item, names);
    item.id = id(item, names);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut body = std::mem::take(&mut item.body);
    if let Some(first) = schema.first {
        first(&body)?;
    }
    if let Some(complete) = schema.complete {
        let stored = base.by_id(kind, item.id).map(|stored| stored.body());
        let before = stored.as_ref().map_or(Before::Nothing, Before::Replaced);
        complete(&mut body, &mut Completion { before, transform, new_id: context.new_id })?;
    }
    let moment =
        (schema.expires && transform == Transform::Done).then(|| expiry::take_moment(&mut body)).flatten();
    let has_time = |time: &str| schema.field(time).is_some();
    let told = if has_time("updated_at") { body.remove("updated_at") } else { None };
    let told = told.filter(|told| !told.is_null());
    let untold: Vec<_> = TIMES
        .into_iter()
        .filter(|time| has_time(time))
        .filter(|time| match *time {
            "updated_at" => told.is_none(),
            time => body.get(time).is_none_or(Value::is_null),
        })
        .collect();
    let stamp = Stamp { now_ms: context.now_ms, id: item.id, plugins: context.plugins, transform };
    let mut body = schema.insert(body, stamp).map_err(|error| {
        let Some(Value::Object(fields)) = error.fields else { return Map::new() };
        fields
    })?;
    if let Some(moment) = moment {
        body.insert(expiry::TTL.to_owned(), moment);
    }
    if let Some(mut told) = told {
        match schema.field("updated_at").map_or(Ok(()), |field| field.check(&mut told)) {
            Ok(()) => drop(body.insert("updated_at".to_owned(), told)),
            Err(error) => return Err(Map::from_iter([("updated_at".to_owned(), error)])),
        }
    }
    if let Some(field) = schema.only_of
        && index::reference(&body, field) != Some(item.id)
    {
        errors.insert("id".to_owned(), format!("expected the id of its {field}").into());
        return Err(errors);
    }
    unique(kind, item.id, &body, names)?;
    room(kind, &body, names)?;
    Ok(Declared { entity: Entity::new(kind, item.id, &body), untold })
}

/// Replaces what names an entity of the document by its id.
fn resolve(item: &mut Item, names: &Names) -> Map<String, Value> {
    let mut errors = Map::new();
    for (field, referenced, _) in Schema::of(item.kind).foreign() {
        let Some(reference) = item.body.get(field).filter(|reference| !reference.is_null()) else { continue };
        match names.find(referenced, reference) {
            Some(id) => {
                item.body.insert(field.to_owned(), serde_json::json!({ "id": id.to_string() }));
            }
            None => {
                let what = match reference {
                    Value::String(text) => text.clone(),
                    other => super::dump::line(other),
                };
                let collection = referenced.collection();
                let error = format!("invalid reference '{field}: {what}' (no such entry in '{collection}')");
                errors.insert(field.to_owned(), error.into());
            }
        }
    }
    errors
}

/// The id that an entity has or gets.
fn id(item: &Item, names: &mut Names) -> Uuid {
    let schema = Schema::of(item.kind);
    if let Some(parent) = schema.only_of.and_then(|field| index::reference(&item.body, field)) {
        return parent;
    }
    if let Some(id) = item.body.get("id").and_then(Value::as_str).and_then(uuid) {
        return id;
    }
    let of = Uuid::new_v5(&NAMESPACE, item.kind.collection().as_bytes());
    let text = |field: &str| item.body.get(field).and_then(Value::as_str);
    let key = match schema.endpoint_key {
        Some(EndpointKey::Global(field)) => text(field).map(str::to_owned),
        Some(EndpointKey::Nested(above, field)) => {
            let above = index::reference(&item.body, above);
            above.zip(text(field)).map(|(above, text)| format!("{above}:{text}"))
        }
        Some(EndpointKey::Listed(_)) | None => None,
    };
    // What has no name may be told by a key of several parts, parents among them.
    let key = key.or_else(|| {
        let fields = schema.composite_keys.first()?;
        let part = |field: &&str| {
            let text = text(field).map(str::to_owned);
            text.or_else(|| Some(index::reference(&item.body, field)?.to_string())).unwrap_or_default()
        };
        Some(fields.iter().map(part).collect::<Vec<_>>().join(":"))
    });
    if let Some(key) = key {
        return Uuid::new_v5(&of, key.as_bytes());
    }
    // The reference makes a random one here, so that every import of the same file makes the entity anew.
    let content = Uuid::new_v5(&of, Value::Object(item.body.clone()).to_string().as_bytes());
    let number = names.equal.entry(content).or_insert(0);
    *number += 1;
    if *number == 1 { content } else { Uuid::new_v5(&content, &number.to_be_bytes()) }
}

/// Takes note of its keys, if they are free.
fn unique(kind: Kind, id: Uuid, body: &Body, names: &mut Names) -> Result<(), Map<String, Value>> {
    let taken = |what: String| {
        let collection = kind.collection();
        let text = format!("uniqueness violation: '{collection}' entity with {what} already declared");
        Map::from_iter([("@entity".to_owned(), serde_json::json!([text]))])
    };
    if !names.ids.insert((kind, id)) {
        return Err(taken(format!("primary key set to '{id}'")));
    }
    for (key, fields) in index::unique_keys(kind, body) {
        if names.keys.insert(key, id).is_some() {
            let values = fields.iter().map(|field| match body.get(*field) {
                Some(Value::String(text)) => format!("{field} set to '{text}'"),
                other => format!("{field} set to '{}'", other.map(super::dump::line).unwrap_or_default()),
            });
            return Err(taken(values.collect::<Vec<_>>().join(" and ")));
        }
    }
    Ok(())
}

/// Whether its parent can have one more.
fn room(kind: Kind, body: &Body, names: &mut Names) -> Result<(), Map<String, Value>> {
    let Some((field, most)) = Schema::of(kind).children_max else { return Ok(()) };
    let Some(parent) = index::reference(body, field) else { return Ok(()) };
    let count = names.children.entry((kind, parent)).or_insert(0);
    *count += 1;
    if *count <= most {
        return Ok(());
    }
    let text = format!("no more than {most} '{}' entities each", kind.collection());
    Err(Map::from_iter([(field.to_owned(), text.into())]))
}

/// Before 3.0 a path was a regular expression if it had more than plain characters.
fn mark_regexes(route: &mut Body) {
    let Some(Value::Array(paths)) = route.get_mut("paths") else { return };
    for path in paths {
        if let Value::String(text) = path
            && !text.starts_with('~')
            && !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_~/%".contains(&byte))
        {
            text.insert(0, '~');
        }
    }
}

#[cfg(test)]
mod tests;
