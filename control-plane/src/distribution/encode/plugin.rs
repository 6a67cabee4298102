//! A plugin as nodes get it: one message a plugin, so that a node which does not know one says so.

use equipoise_proto::v1;
use serde_json::Value;
use v1::plugin::Config;

use super::{flag, items, number, protocol, record, reference, text, texts, uint};
use crate::model::{Body, PluginName};

/// `None` for one that nodes do not have, which the model does not accept.
pub(super) fn plugin(body: &Body) -> Option<v1::Plugin> {
    let name = PluginName::from_name(body.get("name")?.as_str()?)?;
    let config = record(body, "config");
    Some(v1::Plugin {
        route: reference(body, "route"),
        service: reference(body, "service"),
        consumer: reference(body, "consumer"),
        enabled: flag(body, "enabled").unwrap_or(true),
        protocols: items(body, "protocols").iter().map(|name| protocol(Some(name)).into()).collect(),
        config: Some(match name {
            PluginName::KeyAuth => Config::KeyAuth(key_auth(config)),
            PluginName::BasicAuth => Config::BasicAuth(basic_auth(config)),
            PluginName::RateLimiting => Config::RateLimiting(rate_limiting(config)),
            PluginName::RequestTermination => Config::RequestTermination(request_termination(config)),
            PluginName::CorrelationId => Config::CorrelationId(correlation_id(config)),
            PluginName::IpRestriction => Config::IpRestriction(ip_restriction(config)),
            PluginName::Cors => Config::Cors(cors(config)),
            PluginName::ProxyCache => Config::ProxyCache(proxy_cache(config)),
            PluginName::Prometheus => Config::Prometheus(prometheus(config)),
        }),
    })
}

fn is_on(config: &Body, field: &str) -> bool {
    flag(config, field).unwrap_or(false)
}

fn key_auth(config: &Body) -> v1::KeyAuthPlugin {
    v1::KeyAuthPlugin {
        key_names: texts(config, "key_names"),
        hide_credentials: is_on(config, "hide_credentials"),
        anonymous: some_text(config, "anonymous"),
        key_in_header: flag(config, "key_in_header").unwrap_or(true),
        key_in_query: flag(config, "key_in_query").unwrap_or(true),
        key_in_body: is_on(config, "key_in_body"),
        run_on_preflight: flag(config, "run_on_preflight").unwrap_or(true),
        realm: text(config, "realm"),
    }
}

fn basic_auth(config: &Body) -> v1::BasicAuthPlugin {
    v1::BasicAuthPlugin {
        hide_credentials: is_on(config, "hide_credentials"),
        anonymous: some_text(config, "anonymous"),
        realm: text(config, "realm").unwrap_or_else(|| "service".to_owned()),
    }
}

fn rate_limiting(config: &Body) -> v1::RateLimitingPlugin {
    use v1::rate_limiting_plugin::LimitBy;
    let limit_by = match text(config, "limit_by").as_deref() {
        Some("credential") => LimitBy::Credential,
        Some("ip") => LimitBy::Ip,
        Some("service") => LimitBy::Service,
        Some("header") => LimitBy::Header,
        Some("path") => LimitBy::Path,
        Some(_) | None => LimitBy::Consumer,
    };
    v1::RateLimitingPlugin {
        second: number(config, "second"),
        minute: number(config, "minute"),
        hour: number(config, "hour"),
        day: number(config, "day"),
        month: number(config, "month"),
        year: number(config, "year"),
        limit_by: limit_by.into(),
        header_name: text(config, "header_name").unwrap_or_default(),
        path: text(config, "path").unwrap_or_default(),
        hide_client_headers: is_on(config, "hide_client_headers"),
        error_code: uint(config, "error_code").unwrap_or(429),
        error_message: text(config, "error_message").unwrap_or_else(|| "API rate limit exceeded".to_owned()),
    }
}

fn request_termination(config: &Body) -> v1::RequestTerminationPlugin {
    v1::RequestTerminationPlugin {
        status_code: uint(config, "status_code").unwrap_or(503),
        message: text(config, "message"),
        body: text(config, "body"),
        content_type: text(config, "content_type"),
        echo: is_on(config, "echo"),
        trigger: text(config, "trigger"),
    }
}

fn correlation_id(config: &Body) -> v1::CorrelationIdPlugin {
    use v1::correlation_id_plugin::Generator;
    v1::CorrelationIdPlugin {
        header_name: text(config, "header_name").unwrap_or_else(|| "Kong-Request-ID".to_owned()),
        generator: match text(config, "generator").as_deref() {
            Some("uuid") => Generator::Uuid,
            Some("tracker") => Generator::Tracker,
            Some(_) | None => Generator::UuidCounter,
        }
        .into(),
        echo_downstream: is_on(config, "echo_downstream"),
    }
}

fn ip_restriction(config: &Body) -> v1::IpRestrictionPlugin {
    v1::IpRestrictionPlugin {
        allow: texts(config, "allow"),
        deny: texts(config, "deny"),
        status: uint(config, "status").unwrap_or(403),
        message: some_text(config, "message"),
    }
}

fn cors(config: &Body) -> v1::CorsPlugin {
    v1::CorsPlugin {
        origins: texts(config, "origins"),
        headers: texts(config, "headers"),
        exposed_headers: texts(config, "exposed_headers"),
        methods: texts(config, "methods"),
        // The header has whole seconds (the Fetch standard).
        max_age_s: number(config, "max_age").map(f64::floor),
        credentials: is_on(config, "credentials"),
        private_network: is_on(config, "private_network"),
        preflight_continue: is_on(config, "preflight_continue"),
        allow_origin_absent: flag(config, "allow_origin_absent").unwrap_or(true),
    }
}

fn proxy_cache(config: &Body) -> v1::ProxyCachePlugin {
    let codes = items(config, "response_code").iter().filter_map(super::unsigned).collect();
    let seconds = |field| uint(config, field).map(u64::from);
    let shown = record(config, "response_headers");
    let is_shown = |name| flag(shown, name).unwrap_or(true);
    v1::ProxyCachePlugin {
        response_codes: codes,
        request_methods: texts(config, "request_method"),
        content_types: texts(config, "content_type"),
        cache_ttl_s: seconds("cache_ttl").unwrap_or(300),
        storage_ttl_s: seconds("storage_ttl").unwrap_or(0),
        cache_control: is_on(config, "cache_control"),
        ignore_uri_case: is_on(config, "ignore_uri_case"),
        vary_query_params: texts(config, "vary_query_params"),
        has_vary_query_params: config.get("vary_query_params").is_some_and(Value::is_array),
        vary_headers: texts(config, "vary_headers"),
        show_age: is_shown("age"),
        show_status: is_shown("X-Cache-Status"),
        show_key: is_shown("X-Cache-Key"),
    }
}

fn prometheus(config: &Body) -> v1::PrometheusPlugin {
    v1::PrometheusPlugin {
        per_consumer: is_on(config, "per_consumer"),
        status_code_metrics: is_on(config, "status_code_metrics"),
        latency_metrics: is_on(config, "latency_metrics"),
        bandwidth_metrics: is_on(config, "bandwidth_metrics"),
        upstream_health_metrics: is_on(config, "upstream_health_metrics"),
    }
}

/// A text that means nothing when it is empty.
fn some_text(config: &Body, field: &str) -> Option<String> {
    text(config, field).filter(|text| !text.is_empty())
}
