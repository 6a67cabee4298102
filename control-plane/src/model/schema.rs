//! Declared schemas: what an entity may look like, and the one engine that checks them all.
//!
//! A further entity costs a file in `schema/` and a line in [`Schema::of`]; the engine knows no entity.

mod certificates;
mod check;
mod completion;
mod consumers;
mod credentials;
mod describe;
mod engine;
mod field;
mod format;
mod openapi;
mod plugins;
mod policies;
mod routes;
mod rule;
mod services;
mod targets;
mod upstreams;

use std::sync::LazyLock;

use equipoise_proto::limits::ENTITY_WIRE_BYTES_MAX;
use serde_json::{Map, Value, json};
use uuid::Uuid;

pub(super) use check::{Check, Custom, Fault, If, Then, When};
pub(super) use completion::{Before, Complete, Completion, Transform};
pub(super) use engine::Op;
pub(super) use field::{Field, Named, OnDelete, Shape};
pub use openapi::Side;
pub(super) use plugins::protocols_meet;
pub(super) use rule::{Pattern, Rule};

use super::{Body, ErrorObject, Kind, PluginName, Refusal, expiry};

/// Everything that is particular to a kind of entity.
#[derive(Debug)]
pub(super) struct Schema {
    /// In the order of `/schemas`.
    pub(super) fields: Vec<Named>,
    checks: Vec<Check>,
    /// The field that paths may use in place of the id.
    pub(super) endpoint_key: Option<EndpointKey>,
    /// Keys of several fields; single ones are said at their field.
    pub(super) composite_keys: Vec<Vec<&'static str>>,
    shorthands: Vec<Shorthand>,
    /// Depends on the value of one field.
    variants: Option<Variants>,
    /// Another schema for each value of one field.
    subschemas: Option<Subschemas>,
    /// What PUT does.
    pub(super) put: Put,
    /// Order of nested lists.
    pub(super) order: Order,
    /// Runs on the body of a POST before all else.
    pub(super) first: Option<First>,
    /// Most children that one entity may have through a field.
    pub(super) children_max: Option<(&'static str, usize)>,
    /// The foreign field whose entity has one child of this kind at most; the child has its parent's id.
    pub(super) only_of: Option<&'static str>,
    /// Completes the body of a write with what cannot come from defaults.
    pub(super) complete: Option<Complete>,
    /// Whether entities have a `ttl`, after which they go; see [`expiry`].
    pub(super) expires: bool,
    /// Fields that list ids of a kind, which need not be there; an entity that is listed cannot be deleted.
    pub(super) id_lists: Vec<(&'static str, Kind)>,
}

/// Judges a body; an `Err` holds what is wrong, by field.
pub(super) type First = fn(&Body) -> Result<(), Map<String, Value>>;

/// A field that paths may use in place of the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointKey {
    /// Unique among all entities of the kind, checked in paths.
    Global(&'static str),
    /// Unique among the children of a parent: (foreign field, field), taken from paths as it is.
    Nested(&'static str, &'static str),
    /// Any of the names of its children.
    Listed(Listed),
}

/// A field that lists the names of an entity's children, and by which they are made and removed. In answers they are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// The field.
    pub(super) field: &'static str,
    /// The children's kind.
    pub(super) child: Kind,
    /// Their foreign field.
    pub(super) parent: &'static str,
    /// Their name, unique among all.
    pub(super) name: &'static str,
}

/// What PUT does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// Replaces all, or creates.
    Replace,
    /// The same as PATCH: merges, never creates.
    Merge,
}

/// Order of nested lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Ascending by id.
    ById,
    /// By time of creation, then id, descending.
    NewestFirst,
}

/// A value in a request that stands for others; checked before all else.
#[derive(Debug)]
pub(super) struct Shorthand {
    pub(super) name: &'static str,
    pub(super) field: Field,
    /// Rewrites the body.
    expand: fn(&mut Body),
}

/// Another schema for each value of one field.
#[derive(Debug, Clone, Copy)]
struct Subschemas {
    field: &'static str,
    /// The schema for a value that is not null, if it is among those that may be configured; else what is wrong with it.
    of: fn(&Value, &[PluginName]) -> Result<&'static Schema, String>,
}

/// Fields and checks that depend on the values of one list.
#[derive(Debug)]
struct Variants {
    field: &'static str,
    list: Vec<Variant>,
}

/// One of them.
#[derive(Debug)]
struct Variant {
    values: &'static [&'static str],
    /// All fields, with this variant's in place.
    fields: Vec<Named>,
    /// All checks, with this variant's in place.
    checks: Vec<Check>,
}

/// What an entity gets from outside of its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    /// Milliseconds since 1970.
    pub(super) now_ms: u64,
    /// Its id; the body's, if there is one, is checked all the same.
    pub(super) id: Uuid,
    /// Plugins that may be configured.
    pub(super) plugins: &'static [PluginName],
    /// Whether values are as people write them.
    pub(super) transform: Transform,
}

impl Schema {
    /// The schema of a kind.
    pub(super) fn of(kind: Kind) -> &'static Self {
        static CERTIFICATES: LazyLock<Schema> = LazyLock::new(certificates::certificates);
        static SNIS: LazyLock<Schema> = LazyLock::new(certificates::snis);
        static CA_CERTIFICATES: LazyLock<Schema> = LazyLock::new(certificates::ca_certificates);
        static SERVICES: LazyLock<Schema> = LazyLock::new(services::schema);
        static ROUTES: LazyLock<Schema> = LazyLock::new(routes::schema);
        static UPSTREAMS: LazyLock<Schema> = LazyLock::new(upstreams::schema);
        static TARGETS: LazyLock<Schema> = LazyLock::new(targets::schema);
        static POLICIES: LazyLock<Schema> = LazyLock::new(policies::schema);
        static CONSUMERS: LazyLock<Schema> = LazyLock::new(consumers::schema);
        static KEY_AUTHS: LazyLock<Schema> = LazyLock::new(credentials::key_auths);
        static BASIC_AUTHS: LazyLock<Schema> = LazyLock::new(credentials::basic_auths);
        static PLUGINS: LazyLock<Schema> = LazyLock::new(plugins::schema);
        match kind {
            Kind::Certificate => &CERTIFICATES,
            Kind::Sni => &SNIS,
            Kind::CaCertificate => &CA_CERTIFICATES,
            Kind::Service => &SERVICES,
            Kind::Route => &ROUTES,
            Kind::Upstream => &UPSTREAMS,
            Kind::Target => &TARGETS,
            Kind::Policy => &POLICIES,
            Kind::Consumer => &CONSUMERS,
            Kind::KeyAuth => &KEY_AUTHS,
            Kind::BasicAuth => &BASIC_AUTHS,
            Kind::Plugin => &PLUGINS,
        }
    }

    fn new(fields: Vec<Named>, checks: Vec<Check>) -> Self {
        let mut schema = Self {
            fields,
            checks,
            endpoint_key: None,
            composite_keys: Vec::new(),
            shorthands: Vec::new(),
            variants: None,
            subschemas: None,
            put: Put::Replace,
            order: Order::ById,
            first: None,
            children_max: None,
            only_of: None,
            complete: None,
            expires: false,
            id_lists: Vec::new(),
        };
        for check in &mut schema.checks {
            if let Check::Conditional(conditional) = check
                && let Some(field) = field::at(&schema.fields, conditional.then_field)
            {
                conditional.resolve(field);
            }
        }
        schema
    }

    /// Adds a variant that overrides fields and adds checks.
    fn variant(
        mut self,
        field: &'static str,
        values: &'static [&'static str],
        overrides: Vec<Named>,
        checks: Vec<Check>,
    ) -> Self {
        let mut fields = self.fields.clone();
        for (name, field) in overrides {
            if let Some(slot) = fields.iter_mut().find(|(known, _)| *known == name) {
                slot.1 = field;
            }
        }
        let (last, mut all): (Vec<_>, Vec<_>) = self.checks.iter().cloned().partition(is_last);
        all.extend(checks);
        all.extend(last);
        let variants = self.variants.get_or_insert_with(|| Variants { field, list: Vec::new() });
        variants.list.push(Variant { values, fields, checks: all });
        self
    }

    /// The names of children that an entity lists, if it does.
    pub(super) const fn listed(&self) -> Option<Listed> {
        match self.endpoint_key {
            Some(EndpointKey::Listed(listed)) => Some(listed),
            Some(EndpointKey::Global(_) | EndpointKey::Nested(..)) | None => None,
        }
    }

    /// The declaration of a field.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, field)| field)
    }

    /// The declaration of a field or shorthand: what a request may hold.
    pub(super) fn input(&self, name: &str) -> Option<&Field> {
        let shorthand = || self.shorthands.iter().find(|known| known.name == name).map(|known| &known.field);
        self.field(name).or_else(shorthand)
    }

    /// Foreign fields: name, what they refer to, what its deletion does.
    pub(super) fn foreign(&self) -> impl Iterator<Item = (&'static str, Kind, OnDelete)> {
        self.fields.iter().filter_map(|(name, field)| match &field.shape {
            Shape::Foreign { referenced, on_delete } => Some((*name, *referenced, *on_delete)),
            Shape::String
            | Shape::Integer
            | Shape::Number
            | Shape::Boolean
            | Shape::Array(_)
            | Shape::Set(_)
            | Shape::Map { .. }
            | Shape::Record { .. } => None,
        })
    }

    /// Unique keys, each as its fields.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[&'static str]> {
        let single = self.fields.iter().filter(|(_, field)| field.unique);
        let single = single.map(|(name, _)| std::slice::from_ref(name));
        single.chain(self.composite_keys.iter().map(Vec::as_slice))
    }

    /// The fields of a part of an entity that could name it, where their values are well formed.
    pub(super) fn unique_values<'a>(&self, part: &'a Body) -> impl Iterator<Item = (&'static str, &'a str)> {
        self.fields.iter().filter(|(_, field)| field.unique).filter_map(|(name, field)| {
            let value = part.get(*name)?;
            field.check(&mut value.clone()).ok()?;
            Some((*name, value.as_str()?))
        })
    }

    /// The schema that an entity goes by whose fields are these.
    fn of_body(&self, body: &Body, plugins: &[PluginName]) -> Result<&Self, ErrorObject> {
        let Some(Subschemas { field, of }) = self.subschemas else { return Ok(self) };
        let found = match body.get(field) {
            None | Some(Value::Null) => Err("required field missing".to_owned()),
            Some(value) => of(value, plugins),
        };
        found.map_err(|text| ErrorObject::schema_violation(Map::from_iter([(field.to_owned(), text.into())])))
    }

    /// The same to tell types by, whatever may be configured: its own where none is found.
    pub(super) fn of_form(&self, body: &Body) -> &Self {
        self.of_body(body, PluginName::ALL).unwrap_or(self)
    }

    /// The field that says which subschema an entity goes by, if there are any.
    pub(super) fn subschema_field(&self) -> Option<&'static str> {
        self.subschemas.map(|subschemas| subschemas.field)
    }

    /// A new entity from the body of a POST or PUT.
    ///
    /// # Errors
    /// Code 2; code 11 for a bad `ttl`.
    pub(super) fn insert(&self, body: Body, stamp: Stamp) -> Result<Body, ErrorObject> {
        self.of_body(&body, stamp.plugins)?.insert_own(body, stamp)
    }

    fn insert_own(&self, mut body: Body, stamp: Stamp) -> Result<Body, ErrorObject> {
        self.expand(&mut body, stamp)?;
        if body.get("created_at").is_none_or(Value::is_null) {
            body.insert("created_at".to_owned(), self.time("created_at", stamp.now_ms));
        }
        self.finish(body, Op::Insert, stamp)
    }

    /// A stored entity with the body of a PATCH merged in.
    ///
    /// # Errors
    /// Code 2; code 11 for a bad `ttl`.
    pub(super) fn update(&self, base: &Body, body: Body, stamp: Stamp) -> Result<Body, ErrorObject> {
        // Which sort of entity it is may be left to what is stored.
        let is_said = self.subschema_field().is_some_and(|field| body.contains_key(field));
        let told_by = if is_said { &body } else { base };
        self.of_body(told_by, stamp.plugins)?.update_own(base, body, stamp)
    }

    fn update_own(&self, base: &Body, mut body: Body, stamp: Stamp) -> Result<Body, ErrorObject> {
        self.expand(&mut body, stamp)?;
        if body.get("created_at").is_some_and(Value::is_null) {
            body.remove("created_at");
        }
        let mut merged = base.clone();
        merge(&self.fields, &mut merged, body);
        self.finish(merged, Op::Update(base), stamp)
    }

    fn finish(&self, mut body: Body, op: Op<'_>, stamp: Stamp) -> Result<Body, ErrorObject> {
        // Before anything that takes time: what follows costs in proportion to what is there. Defaults add little.
        if body.values().map(engine::bytes).sum::<usize>() > ENTITY_WIRE_BYTES_MAX {
            let error = json!([format!("larger than {ENTITY_WIRE_BYTES_MAX} bytes")]);
            return Err(ErrorObject::schema_violation(Map::from_iter([("@entity".to_owned(), error)])));
        }
        if self.field("updated_at").is_some() {
            body.insert("updated_at".to_owned(), self.time("updated_at", stamp.now_ms));
        }
        if body.get("id").is_none_or(Value::is_null) {
            body.insert("id".to_owned(), stamp.id.to_string().into());
        }
        let errors = self.check(&mut body, op);
        if !errors.is_empty() {
            return Err(ErrorObject::schema_violation(errors));
        }
        body.insert("id".to_owned(), stamp.id.to_string().into());
        Ok(body)
    }

    fn check(&self, body: &mut Body, op: Op<'_>) -> Map<String, Value> {
        let Some(variants) = &self.variants else {
            return engine::check_fields(&self.fields, &self.checks, body, op);
        };
        let value = match body.get(variants.field) {
            Some(value) => value.clone(),
            None => self.field(variants.field).map(Field::absent).unwrap_or_default(),
        };
        let items = match &value {
            Value::Array(items) => items.as_slice(),
            Value::Object(map) if map.is_empty() => &[],
            // Of a wrong type: that error comes from the field itself.
            _ => return engine::check_fields(&self.fields, &self.checks, body, op),
        };
        let of = |item: &Value| {
            let text = item.as_str()?;
            variants.list.iter().find(|variant| variant.values.contains(&text))
        };
        let Some(variant) = items.iter().find_map(of) else {
            let first = items.first().map_or("nil".to_owned(), |item| {
                item.as_str().map_or_else(|| item.to_string(), str::to_owned)
            });
            let error = format!("unknown type: {first}").into();
            return Map::from_iter([(variants.field.to_owned(), error)]);
        };
        engine::check_fields(&variant.fields, &variant.checks, body, op)
    }

    fn expand(&self, body: &mut Body, stamp: Stamp) -> Result<(), ErrorObject> {
        let mut errors = Map::new();
        for shorthand in &self.shorthands {
            let verdict = body.get_mut(shorthand.name).map(|value| shorthand.field.check(value));
            if let Some(Err(error)) = verdict {
                errors.insert(shorthand.name.to_owned(), error);
            }
        }
        if !errors.is_empty() {
            return Err(ErrorObject::schema_violation(errors));
        }
        for shorthand in &self.shorthands {
            // Fields that bend each other are bent already in what was exported.
            if stamp.transform == Transform::Apply || self.field(shorthand.name).is_none() {
                (shorthand.expand)(body);
            }
        }
        if self.expires { expiry::to_moment(body, stamp.now_ms) } else { Ok(()) }
    }

    /// A moment in the unit of a field: whole seconds, or seconds with a fraction.
    fn time(&self, field: &str, now_ms: u64) -> Value {
        match self.field(field).map(|field| &field.shape) {
            Some(Shape::Number) if !now_ms.is_multiple_of(1000) => {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay below 2^53")]
                let seconds = now_ms as f64 / 1000.0;
                seconds.into()
            }
            _ => (now_ms / 1000).into(),
        }
    }
}

fn is_last(check: &Check) -> bool {
    match check {
        Check::Custom(custom) => custom.when == When::NoOtherError,
        Check::Conditional(_) | Check::AtLeastOneOf(_) | Check::AllOrNone(_) | Check::Distinct(_) => false,
    }
}

/// Records merge, everything else is replaced.
fn merge(fields: &[Named], base: &mut Body, patch: Body) {
    for (key, value) in patch {
        let shape = fields.iter().find(|(name, _)| *name == key).map(|(_, field)| &field.shape);
        match (shape, base.get_mut(&key), value) {
            (Some(Shape::Record { fields, .. }), Some(Value::Object(base)), Value::Object(patch)) => {
                merge(fields, base, patch);
            }
            (_, _, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// What `GET /schemas/{entity}` returns.
pub fn schema_json(kind: Kind) -> Value {
    describe::schema(Schema::of(kind))
}

/// An entity in words of JSON Schema.
pub fn openapi_schema(kind: Kind, side: Side) -> Value {
    openapi::schema(kind, side)
}

/// What `GET /schemas/plugins/{name}` returns: what a plugin has of its own.
pub fn plugin_schema_json(name: PluginName) -> Value {
    let plugins::Own { fields, checks } = plugins::own(name);
    describe::parts(&fields, &checks)
}

/// What `POST /schemas/{entity}/validate` checks: an insert at a moment, without uniqueness and references. `plugins` are
/// those that may be configured.
///
/// # Errors
/// Code 2; code 11 for a bad `ttl`.
pub fn validate(kind: Kind, body: Body, now_ms: u64, plugins: &'static [PluginName]) -> Result<(), Refusal> {
    // Any id will do: nothing is stored.
    let stamp = Stamp { now_ms, id: Uuid::nil(), plugins, transform: Transform::Apply };
    Schema::of(kind).insert(body, stamp).map(drop).map_err(Refusal::from)
}

#[cfg(test)]
mod tests;
