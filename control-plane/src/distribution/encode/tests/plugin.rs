//! Consumers, credentials and plugins as nodes get them.

use v1::plugin::Config;

use super::*;
use crate::model::PluginName;

const CONSUMER: &str = "00000000-0000-0000-0000-000000000001";

fn consumer() -> Bytes {
    Bytes::copy_from_slice(Uuid::from_u128(1).as_bytes())
}

#[test]
fn nodes_get_no_key_and_no_password() {
    let key: v1::KeyAuth = decode(
        Kind::KeyAuth,
        json!({"consumer": {"id": CONSUMER}, "key": "top", "ttl": 1_795_759_250, "tags": null}),
    );
    let want = v1::KeyAuth {
        consumer: consumer(),
        key_hash: Bytes::copy_from_slice(blake3::hash(b"top").as_bytes()),
        expires_at_s: 1_795_759_250,
    };
    assert_eq!(key, want);
    let for_ever: v1::KeyAuth =
        decode(Kind::KeyAuth, json!({"consumer": {"id": CONSUMER}, "key": "a", "ttl": null}));
    assert_eq!(for_ever.expires_at_s, 0);
    let sha1 = "59e4413fe0284fc03da075d66e47cb89a199af98";
    let password: v1::BasicAuth =
        decode(Kind::BasicAuth, json!({"consumer": {"id": CONSUMER}, "username": "me", "password": sha1}));
    assert_eq!((password.username.as_str(), password.password_sha1.len()), ("me", 20));
    assert_eq!(password.password_sha1[..3], [0x59, 0xe4, 0x41]);
    let joe: v1::Consumer = decode(Kind::Consumer, json!({"username": "joe", "custom_id": null}));
    assert_eq!(joe, v1::Consumer { username: "joe".to_owned(), custom_id: String::new() });
}

#[test]
fn every_plugin_is_sent_as_what_it_is() {
    for name in PluginName::ALL {
        let sent: v1::Plugin = decode(Kind::Plugin, json!({"name": name.as_str(), "config": {}}));
        let sent = match sent.config.unwrap() {
            Config::KeyAuth(_) => PluginName::KeyAuth,
            Config::BasicAuth(_) => PluginName::BasicAuth,
            Config::RateLimiting(_) => PluginName::RateLimiting,
            Config::RequestTermination(_) => PluginName::RequestTermination,
            Config::CorrelationId(_) => PluginName::CorrelationId,
            Config::IpRestriction(_) => PluginName::IpRestriction,
            Config::Cors(_) => PluginName::Cors,
            Config::ProxyCache(_) => PluginName::ProxyCache,
            Config::Prometheus(_) => PluginName::Prometheus,
        };
        assert_eq!(sent, *name);
    }
}

#[test]
fn a_plugin_keeps_what_it_belongs_to_and_what_it_is_told() {
    let sent: v1::Plugin = decode(
        Kind::Plugin,
        json!({"name": "rate-limiting", "enabled": false, "protocols": ["http", "grpcs"], "route": null,
            "service": null, "consumer": {"id": CONSUMER},
            "config": {"minute": 5.0, "hour": 0.5, "limit_by": "header", "header_name": "x-t", "error_code": 430}}),
    );
    let limits = v1::RateLimitingPlugin {
        minute: Some(5.0),
        hour: Some(0.5),
        limit_by: v1::rate_limiting_plugin::LimitBy::Header.into(),
        header_name: "x-t".to_owned(),
        error_code: 430,
        error_message: "API rate limit exceeded".to_owned(),
        ..v1::RateLimitingPlugin::default()
    };
    let want = v1::Plugin {
        consumer: Some(consumer()),
        enabled: false,
        protocols: vec![v1::Protocol::Http.into(), v1::Protocol::Grpcs.into()],
        config: Some(Config::RateLimiting(limits)),
        ..v1::Plugin::default()
    };
    assert_eq!(sent, want);
    // No arguments at all, and all of them, are not the same.
    for (value, want) in [(json!(null), false), (json!([]), true)] {
        let sent: v1::Plugin =
            decode(Kind::Plugin, json!({"name": "proxy-cache", "config": {"vary_query_params": value}}));
        let Some(Config::ProxyCache(cache)) = sent.config else { panic!("it is one") };
        assert_eq!(cache.has_vary_query_params, want);
    }
}
