//! What the control plane says of itself: `/`, `/status`, `/endpoints`, `/timers`, `/schemas`, `/metrics`, `/cache`; and
//! the paths that clients probe for what there is none of: plugins of other makers, filters, vaults, DNS.

use std::borrow::Cow;
use std::time::SystemTime;

use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::body::Payload;
use super::endpoint::Verb;
use super::gate::Asked;
use super::list::text;
use super::reply::Reply;
use super::{AdminState, KONG_VERSION};
use crate::clock::now_ms;
use crate::model::form::{self, Brackets, Inference};
use crate::model::{self, Kind, PluginName, Refusal};
use crate::observability::Scraped;

/// `/`: what clients choose their features by.
pub(super) fn root(state: &AdminState) -> Reply {
    let settings = &state.settings;
    let head = state.store.head();
    let mut configuration = json!({
        "router_flavor": "traditional_compatible",
        "log_level": "notice",
        "plugins": [],
        "admin_listen": [],
        "proxy_listeners": [],
        "admin_gui_listeners": [],
    });
    if let Some(configuration) = configuration.as_object_mut() {
        configuration.extend(settings.configuration.clone());
        // Writable and with a cluster at once is what the reference never is. For anything but these two,
        // decK and Kong Manager switch features off that are there.
        configuration.insert("database".to_owned(), "postgres".into());
        configuration.insert("role".to_owned(), "traditional".into());
    }
    let pid = std::process::id();
    let answer = json!({
        "tagline": "Welcome to kong",
        "version": KONG_VERSION,
        "edition": "community",
        "hostname": settings.hostname,
        "node_id": settings.node_id.to_string(),
        "lua_version": "none",
        "pids": { "master": pid, "workers": [pid] },
        "timers": { "running": 0, "pending": 0 },
        "plugins": {
            "available_on_server": available(state),
            "enabled_in_cluster": head.config.plugins_in_use().map(PluginName::as_str).collect::<Vec<_>>(),
        },
        "configuration": configuration,
        "equipoise": {
            "version": env!("CARGO_PKG_VERSION"),
            "epoch": head.position.epoch.to_string(),
            "revision": head.position.revision.get(),
            "entities": head.config.len(),
            "nodes_connected": state.nodes.connected_nodes(),
        },
    });
    Reply::json(StatusCode::OK, &answer)
}

/// Plugins that may be configured, by name. Their version is the reference's, whose rules they keep to.
fn available(state: &AdminState) -> Value {
    let plugins = state.store.plugins().iter();
    let told = |plugin: &PluginName| json!({ "version": KONG_VERSION, "priority": plugin.priority() });
    plugins.map(|plugin| (plugin.as_str().to_owned(), told(plugin))).collect::<Map<_, _>>().into()
}

/// `/plugins/enabled`
pub(super) fn enabled_plugins(state: &AdminState) -> Reply {
    let names: Vec<_> = state.store.plugins().iter().map(|plugin| plugin.as_str()).collect();
    Reply::json(StatusCode::OK, &json!({ "enabled_plugins": names }))
}

/// `/schemas/plugins/{plugin}`
pub(super) fn plugin_schema(state: &AdminState, asked: &Asked) -> Reply {
    plugin(state, asked).map_or_else(
        || no_plugin(asked),
        |plugin| Reply::json(StatusCode::OK, &model::plugin_schema_json(plugin)),
    )
}

/// `/plugins/schema/{plugin}`: of its config alone.
pub(super) fn plugin_config_schema(state: &AdminState, asked: &Asked) -> Reply {
    let Some(plugin) = plugin(state, asked) else { return no_plugin(asked) };
    let schema = model::plugin_schema_json(plugin);
    let fields = schema["fields"].as_array().into_iter().flatten();
    let config = fields.filter_map(|field| field.get("config")).map(|config| &config["fields"]).next();
    Reply::json(StatusCode::OK, &json!({ "fields": config }))
}

/// A plugin that the path names and that may be configured.
fn plugin(state: &AdminState, asked: &Asked) -> Option<PluginName> {
    PluginName::from_name(&name(asked)).filter(|plugin| state.store.plugins().contains(plugin))
}

fn no_plugin(asked: &Asked) -> Reply {
    Reply::message(StatusCode::NOT_FOUND, &format!("No plugin named '{}'", name(asked)))
}

/// `/filter-chains`
pub(super) fn filter_chains() -> Reply {
    Reply::message(StatusCode::BAD_REQUEST, "this endpoint is only available when wasm is enabled")
}

/// `/schemas/filters/{filter}`
pub(super) fn filter_schema(asked: &Asked) -> Reply {
    Reply::message(StatusCode::NOT_FOUND, &format!("Filter '{}' not found", name(asked)))
}

/// `/schemas/vaults/{vault}`
pub(super) fn vault_schema(asked: &Asked) -> Reply {
    Reply::message(StatusCode::NOT_FOUND, &format!("No vault named '{}'", name(asked)))
}

/// `/status/dns`: names are looked up by nodes, which tell of it in their metrics.
pub(super) fn dns_status() -> Reply {
    Reply::message(StatusCode::NOT_IMPLEMENTED, "not implemented with the legacy DNS client")
}

/// `/cache` and `/cache/{key}`: what is answered is read from the config itself, so that nothing is ever cached.
pub(super) fn cache(asked: &Asked) -> Reply {
    if asked.verb == Verb::Get { Reply::not_found() } else { Reply::empty(StatusCode::NO_CONTENT) }
}

/// `/status[?unit=b|k|m|g][&scale=n]`
pub(super) fn status(state: &AdminState, asked: &Asked) -> Reply {
    let unit = text(asked, "unit").unwrap_or("m");
    let Some(unit) = Unit::parse(unit) else {
        let text = format!("invalid unit '{unit}' (expected 'k/K', 'm/M', or 'g/G')");
        return Reply::message(StatusCode::BAD_REQUEST, &text);
    };
    let scale = text(asked, "scale").and_then(|scale| scale.parse().ok()).unwrap_or(2);
    let connections = state.metrics.connections();
    let answer = json!({
        "database": { "reachable": !state.store.is_read_only() },
        "server": {
            "connections_active": connections.active,
            "connections_reading": 0,
            "connections_writing": connections.requests_active,
            "connections_waiting": connections.active.saturating_sub(connections.requests_active),
            "connections_accepted": connections.accepted,
            "connections_handled": connections.accepted,
            "total_requests": connections.requests,
        },
        "memory": {
            "lua_shared_dicts": {},
            "workers_lua_vms": [{
                "pid": std::process::id(),
                "http_allocated_gc": unit.show(resident_bytes(), scale),
            }],
        },
    });
    Reply::json(StatusCode::OK, &answer)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Kibi,
    Mebi,
    Gibi,
}

impl Unit {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "b" | "B" => Some(Self::Bytes),
            "k" | "K" => Some(Self::Kibi),
            "m" | "M" => Some(Self::Mebi),
            "g" | "G" => Some(Self::Gibi),
            _ => None,
        }
    }

    /// A number in bytes, else text with the unit; more than ten digits after the point show nothing.
    fn show(self, bytes: u64, scale: u8) -> Value {
        let (divisor, name) = match self {
            Self::Bytes => return bytes.into(),
            Self::Kibi => (1_u64 << 10, "KiB"),
            Self::Mebi => (1 << 20, "MiB"),
            Self::Gibi => (1 << 30, "GiB"),
        };
        #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
        let amount = bytes as f64 / divisor as f64;
        format!("{amount:.*} {name}", usize::from(scale.min(10))).into()
    }
}

/// Resident memory of this process; 0 where the kernel does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// `/endpoints`
pub(super) fn endpoints(state: &AdminState) -> Reply {
    Reply::json(StatusCode::OK, &json!({ "data": state.endpoints.paths() }))
}

/// `/timers`: there are none of the reference's kind.
pub(super) fn timers() -> Reply {
    let answer = json!({
        "worker": { "id": 0, "count": 1 },
        "stats": {
            "flamegraph": { "running": "", "pending": "", "elapsed_time": "" },
            "sys": { "total": 0, "runs": 0, "running": 0, "pending": 0, "waiting": 0 },
            "timers": {},
        },
    });
    Reply::json(StatusCode::OK, &answer)
}

/// `/metrics`
pub(super) async fn metrics(state: &AdminState) -> Reply {
    let head = state.store.head().position;
    let nodes = state.nodes.list(&head, SystemTime::now());
    let is_store_writable = !state.store.is_read_only();
    let metrics = state.metrics.clone();
    // Series for each node: thousands of them are not written on a thread that other requests wait for.
    let text = tokio::task::spawn_blocking(move || {
        metrics.encode(&Scraped { revision: head.revision, is_store_writable, nodes: &nodes })
    });
    match text.await {
        Ok(text) => Reply::text(HeaderValue::from_static("text/plain; charset=UTF-8"), text),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            Reply::unexpected()
        }
    }
}

/// `/robots.txt`
pub(super) fn robots() -> Reply {
    Reply::text(HeaderValue::from_static("text/plain"), "User-agent: *\nDisallow: /".to_owned())
}

/// `/schemas/{entity}`
pub(super) fn schema(asked: &Asked) -> Reply {
    match kind(asked) {
        Some(kind) => Reply::json(StatusCode::OK, &model::schema_json(kind)),
        None => no_entity(asked),
    }
}

/// `/schemas/{entity}/validate`
pub(super) async fn validate(state: &AdminState, asked: Asked) -> Result<Reply, Refusal> {
    match kind(&asked) {
        Some(kind) => validate_as(state, asked, kind).await,
        None => Ok(no_entity(&asked)),
    }
}

/// An old-style endpoint, so that query arguments count as well, under the body.
pub(super) async fn validate_as(state: &AdminState, asked: Asked, kind: Kind) -> Result<Reply, Refusal> {
    let plugins = state.store.plugins();
    // Compiles whatever regular expressions are in it: not on a worker. What the body takes is counted until that is done,
    // even if the client is gone by then.
    let judge = move || {
        let _memory = asked.memory;
        let mut body = form::decode(Inference::Plain, Brackets::Literal, &asked.query)?;
        match asked.payload {
            Payload::Empty | Payload::Raw(_) => {}
            Payload::Json(sent) => body.extend(sent),
            Payload::Form(pairs) => body.extend(form::decode(Inference::Plain, Brackets::Split, &pairs)?),
        }
        model::validate(kind, body, now_ms(), plugins)
    };
    Ok(match tokio::task::spawn_blocking(judge).await {
        Ok(verdict) => verdict.map(|()| Reply::message(StatusCode::OK, "schema validation successful"))?,
        Err(_) => Reply::unexpected(),
    })
}

/// The name in the path as text.
fn name(asked: &Asked) -> Cow<'_, str> {
    String::from_utf8_lossy(asked.parameters.first().map_or(&[][..], Vec::as_slice))
}

fn kind(asked: &Asked) -> Option<Kind> {
    Kind::from_collection(&name(asked))
}

fn no_entity(asked: &Asked) -> Reply {
    Reply::message(StatusCode::NOT_FOUND, &format!("No entity named '{}'", name(asked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_unit_and_scale_asked_for() {
        let bytes = 5 * 1024 * 1024 + 512 * 1024;
        for (unit, scale, want) in [
            ("m", 2, json!("5.50 MiB")),
            ("M", 0, json!("6 MiB")),
            ("k", 1, json!("5632.0 KiB")),
            ("g", 4, json!("0.0054 GiB")),
            ("b", 2, json!(bytes)),
        ] {
            assert_eq!(Unit::parse(unit).unwrap().show(bytes, scale), want, "{unit}");
        }
        assert_eq!(Unit::parse("V"), None);
    }
}
