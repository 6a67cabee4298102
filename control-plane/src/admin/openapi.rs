//! `/openapi.json`: the API as OpenAPI 3.1, made from the endpoint table and the schemas that check what is sent; and `/docs`, a
//! page to browse it, which loads nothing from elsewhere.

use std::sync::OnceLock;

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::endpoint::{Endpoint, Endpoints, Of, Page, Verb};
use super::reply::Reply;
use crate::model::{Kind, Side, openapi_schema};

/// What the page may do: run its own script, wear its own style, read from where it came.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// `/openapi.json`
pub(super) fn document(endpoints: &Endpoints) -> Reply {
    /// It follows from the build alone.
    static WRITTEN: OnceLock<Vec<u8>> = OnceLock::new();
    let written = WRITTEN.get_or_init(|| describe(endpoints).to_string().into_bytes());
    Reply::written(StatusCode::OK, written.clone())
}

/// `/docs` and its parts.
pub(super) fn page(page: Page) -> Reply {
    let (content_type, text) = match page {
        Page::Html => ("text/html; charset=utf-8", include_str!("docs/page.html")),
        Page::Script => ("text/javascript; charset=utf-8", include_str!("docs/page.js")),
        Page::Style => ("text/css; charset=utf-8", include_str!("docs/page.css")),
    };
    Reply::text(HeaderValue::from_static(content_type), text.to_owned())
        .header(CONTENT_SECURITY_POLICY, POLICY)
        .header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
        .header(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"))
        .header(CACHE_CONTROL, HeaderValue::from_static("no-cache"))
}

fn describe(endpoints: &Endpoints) -> Value {
    let mut paths = Map::new();
    for (path, endpoint) in endpoints.listed() {
        let mut operations = Map::new();
        for verb in endpoint.verbs() {
            operations.insert(verb.name().to_ascii_lowercase(), operation(&path, endpoint, *verb));
        }
        let parameters: Vec<_> = path
            .split(['{', '}'])
            .skip(1)
            .step_by(2)
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
            .collect();
        operations.insert("parameters".to_owned(), parameters.into());
        paths.insert(path, operations.into());
    }
    let mut schemas = Map::new();
    for kind in Kind::ALL {
        schemas.insert(kind.singular().to_owned(), openapi_schema(kind, Side::Answer));
        schemas.insert(written(kind), openapi_schema(kind, Side::Request));
    }
    schemas.insert("message".to_owned(), message());
    schemas.insert("error".to_owned(), error());
    schemas.insert("batch".to_owned(), batch());
    schemas.insert("question".to_owned(), question());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Equipoise Admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Kong's Admin API, and what Equipoise adds to it.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// Name of the schema of a kind in requests.
fn written(kind: Kind) -> String {
    format!("{}_request", kind.singular())
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn operation(path: &str, endpoint: Endpoint, verb: Verb) -> Value {
    let tag = path.split('/').nth(1).filter(|first| !first.is_empty()).unwrap_or("gateway");
    let id = format!("{} {path}", verb.name().to_ascii_lowercase());
    let id: Vec<_> = id.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let (status, summary, shown) = said(endpoint, verb);
    let mut success = json!({ "description": summary });
    if let Some(shown) = shown {
        success["content"] = json!({ shown.0: { "schema": shown.1 } });
    }
    let mut out = json!({
        "operationId": id.join("_"),
        "tags": [tag],
        "summary": summary,
        "responses": {
            status: success,
            "default": {
                "description": "refused",
                "content": { "application/json": { "schema": reference("error") } },
            },
        },
    });
    let parameters = parameters(endpoint, verb);
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    if let Some(body) = body(endpoint, verb) {
        out["requestBody"] = body;
    }
    if verb == Verb::Get && is_one(endpoint) {
        out["responses"]["304"] = json!({ "description": "the client has it already" });
    }
    out
}

const fn is_one(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::Entity(_) | Endpoint::Child(_) | Endpoint::Foreign(_) | Endpoint::Only(_))
}

/// The kind that an endpoint shows and takes.
const fn kind(endpoint: Endpoint) -> Option<Kind> {
    match endpoint {
        Endpoint::Collection(kind) | Endpoint::Entity(kind) => Some(kind),
        Endpoint::Children(reference) | Endpoint::Child(reference) | Endpoint::Only(reference) => {
            Some(reference.child)
        }
        Endpoint::Foreign(reference) => Some(reference.parent),
        _ => None,
    }
}

/// Status of success, what it does, and what it answers, by type.
fn said(endpoint: Endpoint, verb: Verb) -> (&'static str, String, Option<(&'static str, Value)>) {
    const JSON: &str = "application/json";
    let json = |schema: Value| Some((JSON, schema));
    let object = || json(json!({ "type": "object" }));
    if let Some(kind) = kind(endpoint) {
        let (one, all) = (kind.singular().replace('_', " "), kind.collection());
        let entity = || json(reference(kind.singular()));
        return match (endpoint, verb) {
            (Endpoint::Collection(_) | Endpoint::Children(_), Verb::Get) => {
                ("200", format!("lists {all}"), json(list(&reference(kind.singular()))))
            }
            (_, Verb::Get) => ("200", format!("shows a {one}"), entity()),
            (_, Verb::Post) => ("201", format!("makes a {one}"), entity()),
            (_, Verb::Put) => ("200", format!("replaces a {one}, or makes it"), entity()),
            (_, Verb::Patch) => ("200", format!("changes a {one}"), entity()),
            (Endpoint::Foreign(_), Verb::Delete) => ("default", "is refused".to_owned(), None),
            (_, Verb::Delete) => ("204", format!("deletes a {one}"), None),
        };
    }
    let message = || json(reference("message"));
    let (status, text, shown) = match (endpoint, verb) {
        (Endpoint::Root, _) => ("200", "what this gateway is", object()),
        (Endpoint::Status, _) => ("200", "connections, memory, and whether writes can be stored", object()),
        (Endpoint::Endpoints, _) => ("200", "lists all paths", object()),
        (Endpoint::Timers, _) => ("200", "timers of the reference's kind: none", object()),
        (Endpoint::Metrics, _) => {
            ("200", "metrics for Prometheus", Some(("text/plain", json!({ "type": "string" }))))
        }
        (Endpoint::OpenApi, _) => ("200", "this description", object()),
        (Endpoint::Robots | Endpoint::Docs(_), _) => ("200", "a page", None),
        (Endpoint::Config, Verb::Get) => ("200", "the whole config as one document", object()),
        (Endpoint::Config, _) => ("201", "puts a document in the place of the whole config", object()),
        (Endpoint::Batch, _) => ("200", "many writes in one revision, all of them or none", object()),
        (Endpoint::Explain, _) => {
            ("200", "which route a request takes, why not another, and whom it can reach", object())
        }
        (Endpoint::Tags, Verb::Get) => ("200", "lists all tags", json(list(&json!({ "type": "object" })))),
        (Endpoint::Tag, Verb::Get) => {
            ("200", "lists what has a tag", json(list(&json!({ "type": "object" }))))
        }
        (Endpoint::Tags | Endpoint::Tag, _) => ("default", "is refused: tags are parts of entities", None),
        (Endpoint::Schema | Endpoint::PluginSchema | Endpoint::PluginConfigSchema, _) => {
            ("200", "what may be configured, in the reference's words", object())
        }
        (Endpoint::Validate | Endpoint::ValidatePlugin, _) => {
            ("200", "checks a body and stores nothing", message())
        }
        (Endpoint::ValidateVault, _) => ("default", "is refused: there are no vaults", None),
        (Endpoint::FilterSchema | Endpoint::VaultSchema, _) => {
            ("default", "is not found: there is none", None)
        }
        (Endpoint::EnabledPlugins, _) => ("200", "lists the plugins that can be configured", object()),
        (Endpoint::FilterChains, _) => ("default", "is refused: there is no wasm", None),
        (Endpoint::DnsStatus, _) => ("501", "is not known here: names are looked up by nodes", message()),
        (Endpoint::Cached, Verb::Get) => ("default", "is not found: nothing is cached", None),
        (Endpoint::Cache | Endpoint::Cached, _) => ("204", "empties what is always empty", None),
        (Endpoint::LogLevel, _) => ("200", "the level of the log", message()),
        (Endpoint::SetLogLevel, _) => ("200", "sets the level of the log for a while", message()),
        (Endpoint::Unheld(unheld), Verb::Get) if matches!(unheld.of, Of::All | Of::Children(_)) => {
            ("200", "an empty list: there are none", json(list(&json!({ "type": "object" }))))
        }
        (Endpoint::Unheld(unheld), Verb::Delete) if unheld.of == Of::One => {
            ("204", "deletes what is not there", None)
        }
        (Endpoint::Unheld(_), _) => ("default", "is refused: there are none", None),
        (Endpoint::TargetsAll, _) => {
            ("200", "lists all targets of an upstream", json(list(&reference(Kind::Target.singular()))))
        }
        (Endpoint::Health, _) => ("200", "the health of an upstream's targets, as nodes report it", object()),
        (Endpoint::Balancer, _) => ("200", "how the nodes balance an upstream now", object()),
        (Endpoint::SetHealth(_), _) => ("204", "says that a target is healthy, or is not", None),
        (Endpoint::DataPlanes, _) => ("200", "lists the nodes", json(list(&json!({ "type": "object" })))),
        (Endpoint::DataPlane, Verb::Delete) => ("204", "forgets a node", None),
        (Endpoint::DataPlane, _) => ("200", "shows a node", object()),
        (Endpoint::DrainDataPlane, _) => ("200", "lets a node's clients go, or stay", object()),
        (Endpoint::Zones, _) => ("200", "the nodes by zone", object()),
        (Endpoint::ClusteringStatus, _) => ("200", "the nodes, by id", object()),
        (Endpoint::Tokens, Verb::Post) => ("201", "makes a join token", object()),
        (Endpoint::Tokens | Endpoint::Enrolments | Endpoint::DeniedIds, _) => {
            ("200", "lists who may join, has joined, or may not", json(list(&json!({ "type": "object" }))))
        }
        (Endpoint::DeniedId, Verb::Put) => ("200", "keeps a node out", object()),
        (Endpoint::Token | Endpoint::Enrolment | Endpoint::DeniedId, _) => ("204", "takes it back", None),
        (Endpoint::Authorities, _) => ("200", "the authorities of the cluster, and their rotation", object()),
        (
            Endpoint::Collection(_)
            | Endpoint::Entity(_)
            | Endpoint::Children(_)
            | Endpoint::Child(_)
            | Endpoint::Foreign(_)
            | Endpoint::Only(_),
            _,
        ) => ("200", "an entity", object()),
    };
    (status, text.to_owned(), shown)
}

fn list(of: &Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "data": { "type": "array", "items": of },
            "next": { "type": ["string", "null"], "description": "path and query of the next page" },
            "offset": { "type": "string", "description": "where the next page begins; absent on the last" },
        },
        "required": ["data", "next"],
    })
}

fn parameters(endpoint: Endpoint, verb: Verb) -> Vec<Value> {
    let query = |name: &str, schema: Value, description: &str| json!({ "name": name, "in": "query", "schema": schema, "description": description });
    let header = |name: &str, description: &str| json!({ "name": name, "in": "header", "schema": { "type": "string" }, "description": description });
    let is_list = matches!(
        endpoint,
        Endpoint::Collection(_)
            | Endpoint::Children(_)
            | Endpoint::Tags
            | Endpoint::Tag
            | Endpoint::DataPlanes
    );
    let mut parameters = Vec::new();
    if verb == Verb::Get && is_list {
        let size = json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 });
        parameters.push(query("size", size, "rows of a page"));
        parameters.push(query(
            "offset",
            json!({ "type": "string" }),
            "where the page begins, as the one before says",
        ));
        if matches!(endpoint, Endpoint::Collection(_)) {
            let text = "`a,b`: with all of them; `a/b`: with any";
            parameters.push(query("tags", json!({ "type": "string" }), text));
        }
    }
    if verb == Verb::Get && is_one(endpoint) {
        parameters.push(header("If-None-Match", "304 if the entity has one of these ETags"));
    }
    let is_stored = kind(endpoint).is_some() || matches!(endpoint, Endpoint::Config | Endpoint::Batch);
    if verb != Verb::Get && is_stored {
        parameters.push(query(
            "dry_run",
            json!({ "type": "boolean" }),
            "checks and answers, and stores nothing",
        ));
        let wait = json!({ "type": "string", "enum": ["applied"] });
        parameters.push(query("wait", wait, "the answer comes when the connected nodes have it"));
    }
    if verb != Verb::Get && is_one(endpoint) {
        parameters.push(header("If-Match", "412 unless the entity has one of these ETags"));
    }
    if verb == Verb::Post && endpoint != Endpoint::Config {
        parameters.push(header("Idempotency-Key", "the same again is answered, and not done twice"));
    }
    parameters
}

fn body(endpoint: Endpoint, verb: Verb) -> Option<Value> {
    if !verb.has_body() {
        return None;
    }
    let (schema, is_form) = match (endpoint, kind(endpoint)) {
        (_, Some(kind)) if verb == Verb::Patch => {
            // Of what is not sent, nothing changes.
            let mut partial = openapi_schema(kind, Side::Request);
            partial["required"] = json!([]);
            (partial, true)
        }
        (_, Some(kind)) => (reference(&written(kind)), true),
        (Endpoint::Config, _) => (json!({ "type": "object" }), false),
        (Endpoint::Batch, _) => (reference("batch"), false),
        (Endpoint::Explain, _) => (reference("question"), false),
        (Endpoint::Validate | Endpoint::ValidatePlugin | Endpoint::Tokens | Endpoint::Authorities, _) => {
            (json!({ "type": "object" }), true)
        }
        _ => return None,
    };
    let mut content = json!({ "application/json": { "schema": schema } });
    if is_form {
        content["application/x-www-form-urlencoded"] = json!({ "schema": schema });
    }
    Some(
        json!({ "content": content, "required": matches!(endpoint, Endpoint::Batch | Endpoint::Config | Endpoint::Explain) }),
    )
}

fn message() -> Value {
    json!({ "type": "object", "properties": { "message": { "type": "string" } }, "required": ["message"] })
}

fn error() -> Value {
    json!({
        "type": "object",
        "properties": {
            "message": { "type": "string" },
            "code": { "type": "integer", "description": "of the reference's catalogue" },
            "name": { "type": "string" },
            "fields": { "type": "object", "description": "what is wrong, as the entity is made" },
        },
        "required": ["message"],
    })
}

fn batch() -> Value {
    json!({
        "type": "object",
        "properties": {
            "operations": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "method": { "type": "string", "enum": ["POST", "PUT", "PATCH", "DELETE"] },
                        "path": { "type": "string", "description": "of an entity or a collection, without a query" },
                        "body": { "type": ["object", "null"] },
                        "if_match": { "type": ["string", "null"] },
                        "if_none_match": { "type": ["string", "null"] },
                    },
                    "required": ["method", "path"],
                    "additionalProperties": false,
                },
            },
        },
        "required": ["operations"],
        "additionalProperties": false,
    })
}

fn question() -> Value {
    let text = |said: &str| json!({ "type": ["string", "null"], "description": said });
    json!({
        "type": "object",
        "properties": {
            "method": text("GET if not said"),
            "scheme": { "type": ["string", "null"], "enum": ["http", "https", null] },
            "host": text("as in the Host header, with a port or without"),
            "port": { "type": ["integer", "null"], "minimum": 0, "maximum": 65535, "description": "of the listener" },
            "path": text("with a query or without"),
            "headers": { "type": ["object", "null"], "description": "names to a value, or to an array of values" },
            "sni": text("server name of the handshake"),
            "client_ip": text("who asks"),
            "flavour": { "type": ["string", "null"], "enum": ["traditional_compatible", "traditional", null] },
            "route": text("id or name: only this one is of interest among those that did not win"),
        },
        "additionalProperties": false,
    })
}
