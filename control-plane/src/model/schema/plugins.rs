//! Plugins: what all have in common, and for each a schema of its config in a file of its own.
//!
//! Source of fields, defaults and rules: entities.md section 10, and the reference's plugin documentation (3.10).

mod basic_auth;
mod correlation_id;
mod cors;
mod ip_restriction;
mod key_auth;
mod prometheus;
mod proxy_cache;
mod rate_limiting;
mod request_termination;

use std::borrow::Borrow;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::format::{PROTOCOLS, id, protocol, seconds, tags};
use super::{Body, Check, Custom, EndpointKey, Fault, Field, Named, Rule, Schema, Subschemas, When};
use crate::model::{Kind, PluginName, patterns};

/// The protocols of which plugins see requests.
const HTTP: [&str; 4] = ["grpc", "grpcs", "http", "https"];

pub(super) fn schema() -> Schema {
    let subschemas = Subschemas { field: "name", of };
    Schema { subschemas: Some(subschemas), ..with(Vec::new(), Vec::new()) }
}

/// What a plugin has of its own.
pub(super) struct Own {
    /// Its fields, in the place of those that all have by the same name.
    pub(super) fields: Vec<Named>,
    pub(super) checks: Vec<Check>,
}

impl Own {
    /// Of a plugin that takes part in requests of some protocols, which are those it has unless it is said.
    fn new(protocols: Field, config: Vec<Named>) -> Self {
        Self { fields: vec![("protocols", protocols), ("config", Field::nested(config))], checks: Vec::new() }
    }

    /// Not of a consumer: it is what finds out who that is, or has nothing to do with it.
    fn without_consumer(mut self) -> Self {
        let consumer = Field::owner(Kind::Consumer).rule(Rule::Null("value must be null".into()));
        self.fields.insert(0, ("consumer", consumer));
        self
    }

    /// It has nothing to do where there are streams only, though the reference would take protocols of those alone.
    fn of_requests(mut self) -> Self {
        self.checks.push(Check::Custom(Custom {
            sources: vec!["protocols"],
            runs_with_missing_fields: false,
            is_shown: false,
            when: When::NoOtherError,
            accept: |body| {
                let protocols = body.get("protocols").and_then(Value::as_array);
                let mut protocols = protocols.into_iter().flatten().filter_map(Value::as_str);
                if protocols.any(|protocol| HTTP.contains(&protocol)) {
                    return Ok(());
                }
                Err(Fault::Field(
                    &["protocols"],
                    format!("must include at least one of: {}", HTTP.join(", ")),
                ))
            },
        }));
        self
    }

    fn checks(self, checks: Vec<Check>) -> Self {
        Self { checks, ..self }
    }
}

/// What a plugin has of its own.
pub(super) fn own(name: PluginName) -> Own {
    match name {
        PluginName::BasicAuth => basic_auth::own(),
        PluginName::CorrelationId => correlation_id::own(),
        PluginName::Cors => cors::own(),
        PluginName::IpRestriction => ip_restriction::own(),
        PluginName::KeyAuth => key_auth::own(),
        PluginName::Prometheus => prometheus::own(),
        PluginName::ProxyCache => proxy_cache::own(),
        PluginName::RateLimiting => rate_limiting::own(),
        PluginName::RequestTermination => request_termination::own(),
    }
}

/// The whole schema of a plugin.
fn of(name: &Value, may_be_configured: &[PluginName]) -> Result<&'static Schema, String> {
    static ALL: LazyLock<Vec<(PluginName, Schema)>> = LazyLock::new(|| {
        let whole = |name: &PluginName| {
            let Own { fields, checks } = own(*name);
            (*name, with(fields, checks))
        };
        PluginName::ALL.iter().map(whole).collect()
    });
    let Value::String(name) = name else { return Err("expected a string".to_owned()) };
    let found = PluginName::from_name(name).filter(|name| may_be_configured.contains(name));
    found
        .and_then(|name| ALL.iter().find(|(known, _)| *known == name))
        .map(|(_, schema)| schema)
        .ok_or_else(|| format!("plugin '{name}' not enabled; add it to the 'plugins' configuration property"))
}

/// What all have, with some fields in the place of those by the same name.
fn with(own: Vec<Named>, checks: Vec<Check>) -> Schema {
    let mut fields = vec![
        id(),
        seconds("created_at"),
        seconds("updated_at"),
        ("name", Field::string().required()),
        ("instance_name", Field::string().custom(patterns::utf8_name).unique()),
        ("route", Field::owner(Kind::Route)),
        ("service", Field::owner(Kind::Service)),
        ("consumer", Field::owner(Kind::Consumer)),
        ("config", Field::record(Vec::new()).remark("abstract")),
        ("protocols", any_protocols(&HTTP)),
        ("enabled", Field::boolean().default(true).required()),
        tags(),
    ];
    for (name, field) in own {
        if let Some(slot) = fields.iter_mut().find(|(known, _)| *known == name) {
            slot.1 = field;
        }
    }
    Schema {
        endpoint_key: Some(EndpointKey::Global("instance_name")),
        composite_keys: vec![vec!["name", "route", "service", "consumer"]],
        ..Schema::new(fields, checks)
    }
}

/// Any protocols, these unless it is said.
fn any_protocols(default: &[&str]) -> Field {
    debug_assert!(default.iter().all(|name| PROTOCOLS.contains(name)), "{default:?}");
    Field::set(protocol()).default(json!(default)).required()
}

/// Those of HTTP only.
fn http_protocols() -> Field {
    Field::set(Field::string().one_of(&HTTP)).default(json!(HTTP)).required()
}

/// A flag that is always there.
fn flag(name: &'static str, default: bool) -> Named {
    (name, Field::boolean().default(default).required())
}

/// A status to answer with.
fn status() -> Field {
    Field::integer().between(100, 599)
}

/// A list of texts.
fn texts() -> Field {
    Field::array(Field::string())
}

/// Whether a plugin can meet a request of what it belongs to: of its route, else of one of the routes of its service,
/// as far as there are any; told by their `protocols`. `Err` says what is wrong with its own. Looks at routes until one
/// meets it, mostly the first.
pub(in crate::model) fn protocols_meet(
    plugin: &Body,
    of_route: Option<&Value>,
    of_service_routes: impl Iterator<Item = impl Borrow<Value>>,
) -> Result<(), &'static str> {
    let own = plugin.get("protocols").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let meets = |of: &Value| of.as_array().is_some_and(|of| of.iter().any(|one| own.contains(one)));
    if let Some(route) = of_route {
        return if meets(route) { Ok(()) } else { Err("must match the associated route's protocols") };
    }
    let mut routes = of_service_routes.peekable();
    if routes.peek().is_none() || routes.any(|route| meets(route.borrow())) {
        return Ok(());
    }
    Err("must match the protocols of at least one route pointing to this Plugin's service")
}

#[cfg(test)]
mod tests;
