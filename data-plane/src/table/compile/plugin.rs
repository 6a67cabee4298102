//! Plugins, consumers and credentials as a node needs them, parsed once, from the wire.

use std::sync::Arc;

use bytes::Bytes;
use equipoise_proto::{HeaderName, NetworkRange, entity_id, v1};
use v1::plugin::Config as Read;

use super::CompileError;
use super::entity::{Reading, Wire};
use super::plugged;
use crate::observability::Groups;
use crate::plugin::{
    BasicAuth, Config, Consumer, CorrelationId, Cors, Credential, Generator, IpRestriction, Key, KeyAuth,
    KeyHash, LimitBy, MediaType, Meets, Origin, Password, Plugin, Prometheus, ProxyCache, RateLimiting,
    RequestTermination, Scope,
};

impl Reading {
    pub(super) fn consumer(&self, wire: &Bytes) -> Result<plugged::Consumer, CompileError> {
        let read: v1::Consumer = self.decode(wire)?;
        let (username, custom_id) = (some(read.username), some(read.custom_id));
        let consumer = Arc::new(Consumer { id: self.id, username, custom_id });
        Ok(plugged::Consumer { wire: Wire::of(wire), consumer })
    }

    pub(super) fn key_auth(&self, wire: &Bytes) -> Result<plugged::KeyAuth, CompileError> {
        let read: v1::KeyAuth = self.decode(wire)?;
        let hash = <[u8; 32]>::try_from(&*read.key_hash);
        let hash = KeyHash::from_bytes(hash.map_err(|_| self.error("key", "its hash has 32 bytes"))?);
        let expires_at_s = (read.expires_at_s > 0).then_some(read.expires_at_s);
        let key = Key { credential: self.credential(&read.consumer)?, expires_at_s };
        Ok(plugged::KeyAuth { wire: Wire::of(wire), hash, key })
    }

    pub(super) fn basic_auth(&self, wire: &Bytes) -> Result<plugged::BasicAuth, CompileError> {
        let read: v1::BasicAuth = self.decode(wire)?;
        let sha1 = <[u8; 20]>::try_from(&*read.password_sha1);
        let sha1 = sha1.map_err(|_| self.error("password", "its hash has 20 bytes"))?;
        let password = Password { credential: self.credential(&read.consumer)?, sha1 };
        Ok(plugged::BasicAuth { wire: Wire::of(wire), username: read.username.into(), password })
    }

    fn credential(&self, consumer: &[u8]) -> Result<Credential, CompileError> {
        let consumer = entity_id(consumer).map_err(|error| self.error("consumer", error))?;
        Ok(Credential { id: self.id, consumer })
    }

    pub(super) fn plugin(&self, wire: &Bytes) -> Result<plugged::Plugin, CompileError> {
        let read: v1::Plugin = self.decode(wire)?;
        let scope = Scope {
            route: self.reference("route", read.route.as_ref())?,
            service: self.reference("service", read.service.as_ref())?,
        };
        let consumer = self.reference("consumer", read.consumer.as_ref())?;
        use v1::Protocol::{Grpc, Grpcs, Http, Https, Tcp, Tls, TlsPassthrough, Udp};
        let meets = |protocols: &[v1::Protocol]| read.protocols().any(|one| protocols.contains(&one));
        let meets = Meets {
            requests: meets(&[Http, Https, Grpc, Grpcs]),
            streams: meets(&[Tcp, Tls, TlsPassthrough, Udp]),
        };
        let config = match read.config {
            Some(config) => self.config(config)?,
            // A oneof of which nothing is known here looks empty.
            None => return Err(self.error("name", "unknown to this node")),
        };
        let plugin = Plugin { id: self.id, config, meets };
        let is_on = read.enabled;
        Ok(plugged::Plugin { wire: Wire::of(wire), scope, consumer, plugin: is_on.then(|| Arc::new(plugin)) })
    }

    fn config(&self, read: Read) -> Result<Config, CompileError> {
        Ok(match read {
            Read::CorrelationId(read) => Config::CorrelationId(self.correlation_id(read)?),
            Read::Cors(read) => Config::Cors(self.cors(read)?),
            Read::KeyAuth(read) => Config::KeyAuth(key_auth(read)),
            Read::BasicAuth(read) => Config::BasicAuth(BasicAuth {
                hides: read.hide_credentials,
                anonymous: read.anonymous.map(Into::into),
                challenge: BasicAuth::challenge(&read.realm),
            }),
            Read::IpRestriction(read) => Config::IpRestriction(self.ip_restriction(read)?),
            Read::RateLimiting(read) => Config::RateLimiting(self.rate_limiting(read)?),
            Read::RequestTermination(read) => Config::RequestTermination(RequestTermination {
                status: self.status("config.status_code", read.status_code)?,
                message: read.message.map(Into::into),
                body: read.body.map(Into::into),
                content_type: read.content_type.map(Into::into),
                echoes: read.echo,
                trigger: read.trigger.map(Into::into),
            }),
            Read::ProxyCache(read) => Config::ProxyCache(self.proxy_cache(read)?),
            Read::Prometheus(read) => Config::Prometheus(Prometheus {
                groups: Groups {
                    codes: read.status_code_metrics,
                    latency: read.latency_metrics,
                    bandwidth: read.bandwidth_metrics,
                },
                per_consumer: read.per_consumer,
                health: read.upstream_health_metrics,
            }),
        })
    }

    fn correlation_id(&self, read: v1::CorrelationIdPlugin) -> Result<CorrelationId, CompileError> {
        use v1::correlation_id_plugin::Generator as Wired;
        let header_name = HeaderName::parse(&read.header_name);
        header_name.map_err(|error| self.error("config.header_name", error))?;
        Ok(CorrelationId {
            generator: match read.generator() {
                Wired::Uuid => Generator::Uuid,
                Wired::UuidCounter => Generator::UuidCounter,
                Wired::Tracker => Generator::Tracker,
            },
            echoes: read.echo_downstream,
            header_name: read.header_name.into(),
        })
    }

    fn cors(&self, read: v1::CorsPlugin) -> Result<Cors, CompileError> {
        let origins = read.origins.iter().map(|origin| Origin::parse(origin));
        let origins = origins.map(|origin| origin.map_err(|error| self.error("config.origins", error)));
        let joined = |names: &[String]| names.join(",").into_boxed_str();
        Ok(Cors {
            origins: origins.collect::<Result<_, _>>()?,
            headers: (!read.headers.is_empty()).then(|| joined(&read.headers)),
            exposed_headers: (!read.exposed_headers.is_empty()).then(|| joined(&read.exposed_headers)),
            methods: joined(&read.methods),
            max_age: read.max_age_s.map(|seconds| seconds.to_string().into()),
            credentials: read.credentials,
            private_network: read.private_network,
            continues: read.preflight_continue,
            on_absent: read.allow_origin_absent,
        })
    }

    fn ip_restriction(&self, read: v1::IpRestrictionPlugin) -> Result<IpRestriction, CompileError> {
        let ranges = |field: &'static str, ranges: &[String]| {
            let parsed = ranges.iter().map(|range| NetworkRange::parse(range));
            parsed.map(|range| range.map_err(|error| self.error(field, error))).collect::<Result<_, _>>()
        };
        Ok(IpRestriction {
            allow: ranges("config.allow", &read.allow)?,
            deny: ranges("config.deny", &read.deny)?,
            status: self.status("config.status", read.status)?,
            message: read.message.map(Into::into),
        })
    }

    fn rate_limiting(&self, read: v1::RateLimitingPlugin) -> Result<RateLimiting, CompileError> {
        use v1::rate_limiting_plugin::LimitBy as Wired;
        let limits = [read.second, read.minute, read.hour, read.day, read.month, read.year];
        if limits.iter().flatten().any(|limit| !limit.is_finite()) {
            return Err(self.error("config", "a limit that is no number"));
        }
        Ok(RateLimiting {
            limits,
            by: match read.limit_by() {
                Wired::Consumer => LimitBy::Consumer,
                Wired::Credential => LimitBy::Credential,
                Wired::Ip => LimitBy::Ip,
                Wired::Service => LimitBy::Service,
                Wired::Header => LimitBy::Header(read.header_name.into()),
                Wired::Path => LimitBy::Path(read.path.into()),
            },
            hides: read.hide_client_headers,
            status: self.status("config.error_code", read.error_code)?,
            message: read.error_message.into(),
        })
    }

    fn proxy_cache(&self, read: v1::ProxyCachePlugin) -> Result<ProxyCache, CompileError> {
        let names =
            |names: &[String]| names.iter().map(|name| name.as_str().into()).collect::<Box<[Box<str>]>>();
        let codes = read.response_codes.iter().map(|code| self.status("config.response_code", *code));
        Ok(ProxyCache {
            response_codes: codes.collect::<Result<_, _>>()?,
            methods: names(&read.request_methods),
            content_types: read.content_types.iter().map(|kind| MediaType::parse(kind)).collect(),
            ttl_s: read.cache_ttl_s,
            storage_ttl_s: (read.storage_ttl_s > 0).then_some(read.storage_ttl_s),
            by_cache_control: read.cache_control,
            ignores_case: read.ignore_uri_case,
            arguments: read.has_vary_query_params.then(|| names(&read.vary_query_params)),
            headers: names(&read.vary_headers),
            shows_age: read.show_age,
            shows_status: read.show_status,
            shows_key: read.show_key,
        })
    }

    fn status(&self, field: &'static str, status: u32) -> Result<u16, CompileError> {
        match u16::try_from(status) {
            Ok(status @ 100..=999) => Ok(status),
            Ok(_) | Err(_) => Err(self.error(field, "no status")),
        }
    }
}

fn key_auth(read: v1::KeyAuthPlugin) -> KeyAuth {
    KeyAuth {
        key_names: read.key_names.iter().map(|name| name.as_str().into()).collect(),
        hides: read.hide_credentials,
        anonymous: read.anonymous.map(Into::into),
        in_header: read.key_in_header,
        in_query: read.key_in_query,
        on_preflight: read.run_on_preflight,
        challenge: KeyAuth::challenge(read.realm.as_deref()),
    }
}

fn some(text: String) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}
