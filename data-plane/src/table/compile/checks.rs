//! Health checks, from the wire.

use std::num::NonZeroU8;
use std::time::Duration;

use equipoise_proto::{HeaderValue, v1};

use crate::health::{Active, Checks, Limits, Passive, ProbeKind, Statuses, TlsTerms, Transport};

/// What a time-out of 0 means: the default of the reference's sockets.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// Largest interval or time-out that the schema accepts.
const SECONDS_MAX_MS: u64 = 65_535 * 1000;

/// A field of the health checks that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct InvalidChecks {
    /// Which field.
    pub(super) field: &'static str,
    /// What is wrong with it.
    pub(super) reason: &'static str,
}

/// Reads the checks from the wire; `None` when they are not in use: all of both intervals and the passive
/// failure limits are 0 (passive successes alone switch nothing on).
///
/// # Errors
/// When a limit is above 255, a status or kind is unknown, or a header or path cannot be sent.
pub(super) fn read(wire: &v1::HealthChecks) -> Result<Option<Checks>, InvalidChecks> {
    let active = match &wire.active {
        Some(active) => read_active(active)?,
        None => read_active(&v1::ActiveChecks::default())?,
    };
    let passive = match &wire.passive {
        Some(passive) => read_passive(passive)?,
        None => Passive::default(),
    };
    let limits = passive.limits;
    let is_used =
        active.is_on() || limits.tcp.is_some() || limits.timeouts.is_some() || limits.http.is_some();
    Ok(is_used.then_some(Checks { active, passive }))
}

fn read_active(wire: &v1::ActiveChecks) -> Result<Active, InvalidChecks> {
    let tls = || {
        let sni = wire.https_sni.as_deref().filter(|sni| !sni.is_empty()).map(Into::into);
        Transport::Tls(TlsTerms { sni, is_verified: wire.https_verify_certificate })
    };
    let kind = match v1::CheckType::try_from(wire.r#type) {
        Ok(v1::CheckType::Tcp) => ProbeKind::Tcp,
        Ok(v1::CheckType::Http) => ProbeKind::Http(Transport::Plain),
        Ok(v1::CheckType::Https) => ProbeKind::Http(tls()),
        Ok(v1::CheckType::Grpc) => ProbeKind::Grpc(Transport::Plain),
        Ok(v1::CheckType::Grpcs) => ProbeKind::Grpc(tls()),
        Err(_) => return Err(invalid("healthchecks.active.type", "unknown to this node")),
    };
    let path = if wire.http_path.is_empty() { "/" } else { wire.http_path.as_str() };
    if !path.starts_with('/') || path.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err(invalid("healthchecks.active.http_path", "not a path that can be requested"));
    }
    let mut headers = Vec::new();
    for header in &wire.headers {
        for value in &header.values {
            headers.push(read_header(&header.name, value)?);
        }
    }
    Ok(Active {
        kind,
        timeout: interval(wire.timeout_ms).unwrap_or(TIMEOUT_DEFAULT),
        concurrency: wire.concurrency.max(1),
        path: path.into(),
        headers: headers.into(),
        healthy_interval: interval(wire.healthy_interval_ms),
        unhealthy_interval: interval(wire.unhealthy_interval_ms),
        limits: Limits {
            successes: limit("healthchecks.active.healthy.successes", wire.healthy_successes)?,
            http: limit("healthchecks.active.unhealthy.http_failures", wire.unhealthy_http_failures)?,
            tcp: limit("healthchecks.active.unhealthy.tcp_failures", wire.unhealthy_tcp_failures)?,
            timeouts: limit("healthchecks.active.unhealthy.timeouts", wire.unhealthy_timeouts)?,
        },
        healthy: statuses("healthchecks.active.healthy.http_statuses", &wire.healthy_statuses)?,
        unhealthy: statuses("healthchecks.active.unhealthy.http_statuses", &wire.unhealthy_statuses)?,
    })
}

fn read_passive(wire: &v1::PassiveChecks) -> Result<Passive, InvalidChecks> {
    Ok(Passive {
        limits: Limits {
            successes: limit("healthchecks.passive.healthy.successes", wire.healthy_successes)?,
            http: limit("healthchecks.passive.unhealthy.http_failures", wire.unhealthy_http_failures)?,
            tcp: limit("healthchecks.passive.unhealthy.tcp_failures", wire.unhealthy_tcp_failures)?,
            timeouts: limit("healthchecks.passive.unhealthy.timeouts", wire.unhealthy_timeouts)?,
        },
        healthy: statuses("healthchecks.passive.healthy.http_statuses", &wire.healthy_statuses)?,
        unhealthy: statuses("healthchecks.passive.unhealthy.http_statuses", &wire.unhealthy_statuses)?,
    })
}

const fn invalid(field: &'static str, reason: &'static str) -> InvalidChecks {
    InvalidChecks { field, reason }
}

fn interval(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis.min(SECONDS_MAX_MS)))
}

fn limit(field: &'static str, value: u32) -> Result<Option<NonZeroU8>, InvalidChecks> {
    u8::try_from(value).map(NonZeroU8::new).map_err(|_| invalid(field, "above 255"))
}

fn statuses(field: &'static str, wire: &[u32]) -> Result<Statuses, InvalidChecks> {
    let read = |status: &u32| match u16::try_from(*status) {
        Ok(status @ 100..=999) => Ok(status),
        Ok(_) | Err(_) => Err(invalid(field, "not an HTTP status")),
    };
    wire.iter().map(read).collect()
}

/// Reads one header; refuses what would break the request's framing.
fn read_header(name: &str, value: &str) -> Result<(Box<str>, Box<str>), InvalidChecks> {
    let field = "healthchecks.active.headers";
    http::HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid(field, "not a header name"))?;
    let value = HeaderValue::parse(value).map_err(|_| invalid(field, "not a header value"))?;
    Ok((name.into(), value.as_str().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_in_use_only_where_something_can_change_the_state() {
        let active = |change: fn(&mut v1::ActiveChecks)| {
            let mut active = v1::ActiveChecks { timeout_ms: 1000, concurrency: 10, ..Default::default() };
            change(&mut active);
            v1::HealthChecks { active: Some(active), ..Default::default() }
        };
        let passive = |change: fn(&mut v1::PassiveChecks)| {
            let mut passive = v1::PassiveChecks::default();
            change(&mut passive);
            v1::HealthChecks { passive: Some(passive), ..Default::default() }
        };
        let cases = [
            ("nothing", v1::HealthChecks::default(), false),
            ("healthy interval", active(|active| active.healthy_interval_ms = 1), true),
            ("unhealthy interval", active(|active| active.unhealthy_interval_ms = 1), true),
            ("active limits alone", active(|active| active.unhealthy_tcp_failures = 1), false),
            ("passive tcp", passive(|passive| passive.unhealthy_tcp_failures = 1), true),
            ("passive timeouts", passive(|passive| passive.unhealthy_timeouts = 1), true),
            ("passive http", passive(|passive| passive.unhealthy_http_failures = 255), true),
            ("passive successes alone", passive(|passive| passive.healthy_successes = 1), false),
        ];
        for (name, wire, want) in cases {
            assert_eq!(read(&wire).unwrap().is_some(), want, "{name}");
        }
    }

    #[test]
    fn every_type_is_its_own_probe() {
        let sni = || Some("sni.test".to_owned());
        let tls = |sni: Option<&str>| {
            Transport::Tls(TlsTerms { sni: sni.map(Into::into), is_verified: sni.is_some() })
        };
        let cases = [
            (v1::CheckType::Tcp, sni(), ProbeKind::Tcp),
            (v1::CheckType::Http, sni(), ProbeKind::Http(Transport::Plain)),
            (v1::CheckType::Https, sni(), ProbeKind::Http(tls(Some("sni.test")))),
            (v1::CheckType::Https, None, ProbeKind::Http(tls(None))),
            (v1::CheckType::Https, Some(String::new()), ProbeKind::Http(tls(None))),
            (v1::CheckType::Grpc, sni(), ProbeKind::Grpc(Transport::Plain)),
            (v1::CheckType::Grpcs, sni(), ProbeKind::Grpc(tls(Some("sni.test")))),
        ];
        for (kind, https_sni, want) in cases {
            let https_verify_certificate = https_sni.as_deref().is_some_and(|sni| !sni.is_empty());
            let wire = v1::ActiveChecks {
                r#type: kind.into(),
                https_sni,
                https_verify_certificate,
                ..Default::default()
            };
            assert_eq!(read_active(&wire).unwrap().kind, want, "{kind:?}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused_with_its_field() {
        let active = |change: fn(&mut v1::ActiveChecks)| {
            let mut active = v1::ActiveChecks::default();
            change(&mut active);
            v1::HealthChecks { active: Some(active), ..Default::default() }
        };
        let cases = [
            (active(|active| active.r#type = 9), "healthchecks.active.type"),
            (active(|active| active.unhealthy_timeouts = 256), "healthchecks.active.unhealthy.timeouts"),
            (active(|active| active.http_path = "no".into()), "healthchecks.active.http_path"),
            (active(|active| active.http_path = "/a b".into()), "healthchecks.active.http_path"),
            (
                active(|active| active.healthy_statuses = vec![1000]),
                "healthchecks.active.healthy.http_statuses",
            ),
            (
                active(|active| {
                    active.headers =
                        vec![v1::HeaderMatch { name: "a".into(), values: vec!["x\r\nb: c".into()] }];
                }),
                "healthchecks.active.headers",
            ),
        ];
        for (wire, field) in cases {
            assert_eq!(read(&wire).unwrap_err().field, field);
        }
    }
}
