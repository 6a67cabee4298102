//! An upstream's policy, from the wire.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use equipoise_proto::{entity_id, v1};

use super::super::members::Terms;
use super::super::policy::{
    self, Hedging, Limits, Locality, LocalityMode, Panic, PanicMode, RetryOn, RetryPolicy, Secure, Sticky,
};
use super::CompileError;
use super::entity::{Reading, Wire};
use crate::balancer::{Algorithm, BalanceFactor, RetryBudget, Secret, SlowStart};
use crate::health::Probing;
use crate::health::outlier::{self, Enforcing, FailurePercent, SuccessRate};

/// What an upstream asks for beyond the reference.
#[derive(Debug)]
pub struct Policy {
    pub(super) wire: Wire,
    policy: Arc<policy::Policy>,
    /// In place of the upstream's.
    algorithm: Option<Arc<Algorithm>>,
}

impl Policy {
    /// What its upstream asks for, with this.
    pub(super) fn apply(&self, terms: &Terms) -> Terms {
        let algorithm = Arc::clone(self.algorithm.as_ref().unwrap_or(&terms.algorithm));
        Terms { algorithm, policy: Some(Arc::clone(&self.policy)), ..terms.clone() }
    }
}

impl Reading {
    pub(super) fn policy(&self, wire: &Bytes) -> Result<Policy, CompileError> {
        let read: v1::Policy = self.decode(wire)?;
        let upstream = entity_id(&read.upstream).map_err(|error| self.error("upstream", error))?;
        if upstream != self.id {
            return Err(self.error("upstream", "not the one whose id it has"));
        }
        let (algorithm, is_sticky) = match v1::policy::Algorithm::try_from(read.algorithm) {
            Ok(v1::policy::Algorithm::AsUpstream) => (None, false),
            Ok(v1::policy::Algorithm::PeakEwma) => (Some(Arc::new(Algorithm::PeakEwma)), false),
            Ok(v1::policy::Algorithm::StickySessions) => (None, true),
            Err(_) => return Err(self.error("algorithm", "unknown to this node")),
        };
        let sticky = match read.sticky.filter(|_| is_sticky) {
            Some(sticky) => Some(self.sticky(&sticky)?),
            None if is_sticky => return Err(self.error("sticky", "missing")),
            None => None,
        };
        let balance_factor = match read.hash_balance_factor {
            0.0 => None,
            factor => {
                let factor = BalanceFactor::new(factor);
                Some(factor.ok_or_else(|| self.error("hash_balance_factor", "below 1"))?)
            }
        };
        let panic = Panic {
            threshold_percent: self.percent("panic_threshold", read.panic_threshold_percent)?,
            mode: if read.panic_fails { PanicMode::Fail } else { PanicMode::All },
        };
        let policy = policy::Policy {
            locality: self.locality(read.locality.unwrap_or_default())?,
            panic,
            outliers: read.outlier_detection.map(|read| self.outliers(&read)).transpose()?,
            slow_start: read.slow_start.map(|read| self.slow_start(&read)).transpose()?,
            limits: read.limits.map_or_else(Limits::default, |read| limits(&read)),
            retry: self.retry(&read.retry.unwrap_or_default())?,
            hedging: read.hedging.map(|read| Hedging { delay: duration(read.delay_ms) }),
            sticky,
            balance_factor,
            drain_timeout: duration(read.drain_timeout_ms),
            subset_size: NonZeroU32::new(read.subset_size),
            probing: read.probing.and_then(|read| {
                let checkers = NonZeroU32::new(read.checkers)?;
                Some(Probing { checkers, verdict_ttl: duration(read.verdict_ttl_ms) })
            }),
        };
        Ok(Policy { wire: Wire::of(wire), policy: policy.into(), algorithm })
    }

    fn percent(&self, field: &'static str, value: f64) -> Result<f64, CompileError> {
        if (0.0..=100.0).contains(&value) { Ok(value) } else { Err(self.error(field, "not a percentage")) }
    }

    fn sticky(&self, read: &v1::StickySessions) -> Result<Sticky, CompileError> {
        let secret = <[u8; 32]>::try_from(&*read.secret);
        let secret = secret.map_err(|_| self.error("sticky.secret", "not 32 bytes"))?;
        // They go into a header as they are.
        let is_plain =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
        if !is_plain(&read.cookie_name) || read.cookie_name.contains(['=', ',', '"']) {
            return Err(self.error("sticky.cookie.name", "not a cookie's name"));
        }
        if !is_plain(&read.cookie_path) {
            return Err(self.error("sticky.cookie.path", "not a cookie's path"));
        }
        let http_only = if read.http_only { "; HttpOnly" } else { "" };
        let same_site = match v1::sticky_sessions::SameSite::try_from(read.same_site) {
            Ok(v1::sticky_sessions::SameSite::Lax) => "Lax",
            Ok(v1::sticky_sessions::SameSite::Strict) => "Strict",
            Ok(v1::sticky_sessions::SameSite::None) => "None",
            Err(_) => return Err(self.error("sticky.cookie.same_site", "unknown to this node")),
        };
        Ok(Sticky {
            upstream: self.id,
            name: read.cookie_name.as_str().into(),
            attributes: format!("; Path={}{http_only}; SameSite={same_site}", read.cookie_path).into(),
            ttl: duration(read.ttl_ms),
            secure: match v1::sticky_sessions::Secure::try_from(read.secure) {
                Ok(v1::sticky_sessions::Secure::Auto) => Secure::Auto,
                Ok(v1::sticky_sessions::Secure::Always) => Secure::Always,
                Ok(v1::sticky_sessions::Secure::Never) => Secure::Never,
                Err(_) => return Err(self.error("sticky.cookie.secure", "unknown to this node")),
            },
            hides: read.hide,
            is_strict: read.strict,
            secret: Secret::new(secret),
        })
    }

    fn locality(&self, read: v1::Locality) -> Result<Locality, CompileError> {
        let mode = match v1::locality::Mode::try_from(read.mode) {
            Ok(v1::locality::Mode::Off) => LocalityMode::Off,
            Ok(v1::locality::Mode::Failover) => LocalityMode::Failover,
            Ok(v1::locality::Mode::ZoneAware) => LocalityMode::ZoneAware {
                addresses_min: read.min_cluster_size,
                node_shares: self.zones("locality.node_shares", read.node_shares)?,
            },
            Ok(v1::locality::Mode::Weighted) => {
                LocalityMode::Weighted(self.zones("locality.zone_weights", read.zone_weights)?)
            }
            Err(_) => return Err(self.error("locality.mode", "unknown to this node")),
        };
        let overprovisioning = match read.overprovisioning_factor {
            0.0 => Locality::default().overprovisioning,
            factor if factor.is_finite() && factor >= 1.0 => factor,
            _ => return Err(self.error("locality.overprovisioning_factor", "below 1")),
        };
        Ok(Locality { mode, overprovisioning, failback_hold: duration(read.failback_hold_ms) })
    }

    fn zones<C: FromIterator<(Box<str>, f64)>>(
        &self,
        field: &'static str,
        read: impl IntoIterator<Item = (String, f64)>,
    ) -> Result<C, CompileError> {
        let zone = |(zone, weight): (String, f64)| {
            if weight.is_finite() && weight >= 0.0 {
                Ok((zone.into(), weight))
            } else {
                Err(self.error(field, "not a weight"))
            }
        };
        read.into_iter().map(zone).collect()
    }

    fn slow_start(&self, read: &v1::SlowStart) -> Result<SlowStart, CompileError> {
        if !(read.aggression.is_finite() && read.aggression > 0.0) {
            return Err(self.error("slow_start.aggression", "not above 0"));
        }
        Ok(SlowStart {
            window: Duration::from_millis(read.window_ms),
            aggression: read.aggression,
            min_weight_percent: self.percent("slow_start.min_weight_percent", read.min_weight_percent)?,
        })
    }

    fn retry(&self, read: &v1::RetryPolicy) -> Result<RetryPolicy, CompileError> {
        let budget = match &read.budget {
            None => None,
            Some(budget) => Some(RetryBudget {
                min_concurrency: budget.min_concurrency,
                percent: self.percent("retry.budget.percent", budget.percent)?,
            }),
        };
        let conditions = if read.has_conditions { Some(self.conditions(&read.retry_on)?) } else { None };
        Ok(RetryPolicy {
            budget,
            conditions,
            backoff: duration(read.backoff_ms),
            per_try_timeout: duration(read.per_try_timeout_ms),
        })
    }

    fn conditions(&self, read: &[i32]) -> Result<RetryOn, CompileError> {
        let mut conditions = RetryOn::default();
        for condition in read {
            let named = match v1::RetryOn::try_from(*condition) {
                Ok(v1::RetryOn::ConnectFailure) => &mut conditions.connect_failure,
                Ok(v1::RetryOn::Reset) => &mut conditions.reset,
                Ok(v1::RetryOn::Timeout) => &mut conditions.timeout,
                Ok(v1::RetryOn::RetryOn429) => &mut conditions.too_many_requests,
                Ok(v1::RetryOn::RetryOn502) => &mut conditions.bad_gateway,
                Ok(v1::RetryOn::RetryOn503) => &mut conditions.unavailable,
                Ok(v1::RetryOn::RetryOn504) => &mut conditions.gateway_timeout,
                Err(_) => return Err(self.error("retry.retry_on", "unknown to this node")),
            };
            *named = true;
        }
        Ok(conditions)
    }

    fn outliers(&self, read: &v1::OutlierDetection) -> Result<outlier::Settings, CompileError> {
        if read.interval_ms == 0 {
            return Err(self.error("outlier_detection.interval", "0"));
        }
        if !(read.success_rate_stdev_factor.is_finite() && read.success_rate_stdev_factor >= 0.0) {
            return Err(self.error("outlier_detection.success_rate_stdev_factor", "not a factor"));
        }
        let chance = |field: &'static str, percent: u32| match u8::try_from(percent) {
            Ok(percent @ 0..=100) => Ok(percent),
            Ok(_) | Err(_) => Err(self.error(field, "not a percentage")),
        };
        Ok(outlier::Settings {
            consecutive_5xx: NonZeroU32::new(read.consecutive_5xx),
            consecutive_gateway: NonZeroU32::new(read.consecutive_gateway),
            interval: Duration::from_millis(read.interval_ms).max(SWEEP_MIN),
            base_ejection: Duration::from_millis(read.base_ejection_ms),
            max_ejection: Duration::from_millis(read.max_ejection_ms),
            jitter: Duration::from_millis(read.ejection_jitter_ms),
            max_ejection_percent: chance(
                "outlier_detection.max_ejection_percent",
                read.max_ejection_percent,
            )?,
            success_rate: SuccessRate {
                min_hosts: size(read.success_rate_min_hosts),
                min_volume: read.success_rate_min_volume.into(),
                stdev_factor: read.success_rate_stdev_factor,
            },
            failure_percent: FailurePercent {
                threshold: chance(
                    "outlier_detection.failure_percent_threshold",
                    read.failure_percent_threshold,
                )?,
                min_hosts: size(read.failure_percent_min_hosts),
                min_volume: read.failure_percent_min_volume.into(),
            },
            successful_check_uneject: read.successful_check_uneject,
            enforcing: Enforcing {
                consecutive_5xx: chance(
                    "outlier_detection.enforcing_consecutive_5xx",
                    read.enforcing_consecutive_5xx,
                )?,
                consecutive_gateway: chance(
                    "outlier_detection.enforcing_consecutive_gateway",
                    read.enforcing_consecutive_gateway,
                )?,
                success_rate: chance(
                    "outlier_detection.enforcing_success_rate",
                    read.enforcing_success_rate,
                )?,
                failure_percent: chance(
                    "outlier_detection.enforcing_failure_percent",
                    read.enforcing_failure_percent,
                )?,
            },
        })
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Shortest time between two sweeps: each looks at all targets of its upstream.
const SWEEP_MIN: Duration = Duration::from_millis(100);

fn limits(read: &v1::Limits) -> Limits {
    let of_target = [read.max_requests, read.max_connections].into_iter().filter_map(NonZeroU32::new).min();
    Limits {
        target_requests: of_target,
        upstream_requests: NonZeroU32::new(read.upstream_max_requests),
        pending_max: read.max_pending,
        queue_timeout: Duration::from_millis(read.queue_timeout_ms),
    }
}

/// 0 means that there is none.
fn duration(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}
