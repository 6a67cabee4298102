//! Entities as a node needs them: parsed once, from the wire.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use equipoise_proto::{
    self as proto, EntityKind, HeaderName, HeaderPattern, HostPattern, NetworkRange, PathPattern, SniPattern,
    TargetAddress, entity_id, placement::Placement, v1,
};
use uuid::Uuid;

use super::super::GrpcRoute;
use super::super::members::Terms;
use super::CompileError;
use crate::balancer::{Algorithm, HashInput};
use crate::router::stream::{End, StreamRule, Transports};
use crate::router::{HeaderRule, Rule};
use crate::table::PathHandling;

/// What changes an entity's compiled form: the bytes it came as. They are the replica's own, so that keeping them takes no
/// more than a checksum of them would.
pub(super) struct Wire(Bytes);

impl Wire {
    pub(super) fn of(wire: &Bytes) -> Self {
        Self(wire.clone())
    }

    pub(super) fn is(&self, wire: &Bytes) -> bool {
        self.0 == *wire
    }
}

impl fmt::Debug for Wire {
    /// Without the bytes: a policy's hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({} bytes)", self.0.len())
    }
}

/// Where a target without tags stands: the same for most.
static PLAIN: LazyLock<Arc<Placement>> = LazyLock::new(Arc::default);

/// A service.
#[derive(Debug)]
pub struct Service {
    pub(super) wire: Wire,
    pub(crate) name: Option<Box<str>>,
    pub(crate) protocol: v1::Protocol,
    /// As written: what joins it with an upstream of that name.
    pub(crate) host: Arc<str>,
    /// Whom to connect to where there is no such upstream.
    pub(crate) address: Host,
    pub(crate) port: u16,
    pub(crate) path: Option<Box<str>>,
    pub(crate) retries: u16,
    pub(crate) connect_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) read_timeout: Duration,
    pub(crate) is_enabled: bool,
    pub(crate) tls_verify: Option<bool>,
    pub(crate) tls_verify_depth: Option<usize>,
    /// Who is trusted in place of whom the settings name; without any, those are.
    pub(crate) ca_certificates: Box<[Uuid]>,
    /// What its targets are shown.
    pub(super) client_certificate: Option<Uuid>,
}

impl Service {
    /// Whether it is called by gRPC.
    pub(crate) const fn is_grpc(&self) -> bool {
        matches!(self.protocol, v1::Protocol::Grpc | v1::Protocol::Grpcs)
    }

    /// Whether TLS is spoken with its targets.
    pub(crate) const fn is_tls(&self) -> bool {
        match self.protocol {
            v1::Protocol::Https | v1::Protocol::Grpcs | v1::Protocol::Tls => true,
            v1::Protocol::Http
            | v1::Protocol::Grpc
            | v1::Protocol::Tcp
            | v1::Protocol::TlsPassthrough
            | v1::Protocol::Udp
            | v1::Protocol::Unspecified => false,
        }
    }

    /// Whether requests can be sent to it.
    pub(crate) const fn speaks_http(&self) -> bool {
        match self.protocol {
            v1::Protocol::Http | v1::Protocol::Https | v1::Protocol::Grpc | v1::Protocol::Grpcs => true,
            v1::Protocol::Tcp
            | v1::Protocol::Tls
            | v1::Protocol::TlsPassthrough
            | v1::Protocol::Udp
            | v1::Protocol::Unspecified => false,
        }
    }
}

/// A route.
#[derive(Debug)]
pub struct Route {
    pub(super) wire: Wire,
    pub(crate) name: Option<Box<str>>,
    pub(crate) service: Option<Uuid>,
    /// `None` for a route that serves no kind of HTTP.
    pub(crate) rule: Option<Rule>,
    /// `None` for a route that serves nothing else.
    pub(crate) stream: Option<StreamRule>,
    pub(crate) allows_plain: bool,
    pub(crate) grpc: Option<GrpcRoute>,
    pub(crate) https_redirect_status: u16,
    pub(crate) strip_path: bool,
    pub(crate) path_handling: PathHandling,
    pub(crate) preserve_host: bool,
    pub(crate) request_buffering: bool,
    pub(crate) response_buffering: bool,
}

/// An upstream.
#[derive(Debug)]
pub struct Upstream {
    pub(super) wire: Wire,
    pub(crate) name: Arc<str>,
    pub(crate) host_header: Option<Box<str>>,
    pub(crate) uses_srv_name: bool,
    pub(super) client_certificate: Option<Uuid>,
    pub(crate) terms: Terms,
}

/// A target.
#[derive(Debug)]
pub struct Target {
    pub(super) wire: Wire,
    pub(crate) upstream: Uuid,
    /// `host:port`, as written.
    pub(crate) label: Arc<str>,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) weight: u16,
    pub(crate) placement: Arc<Placement>,
    pub(crate) created_at_ms: i64,
}

/// Whom a target or a service names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address, used as it is.
    Literal(IpAddr),
    /// A name to look up, in lower case. A trailing dot stays: such a name has no search suffixes.
    Name(Arc<str>),
}

impl From<&proto::Host> for Host {
    fn from(host: &proto::Host) -> Self {
        match host {
            proto::Host::V4(address) => Self::Literal((*address).into()),
            proto::Host::V6(address) => Self::Literal((*address).into()),
            proto::Host::Name(name) => Self::Name(name.as_str().to_ascii_lowercase().into()),
        }
    }
}

/// Names the record that is being read, for errors.
pub(super) struct Reading {
    pub(super) kind: EntityKind,
    pub(super) id: Uuid,
}

impl Reading {
    pub(super) fn error(&self, field: &'static str, reason: impl ToString) -> CompileError {
        CompileError { kind: self.kind, id: self.id, field, reason: reason.to_string().into() }
    }

    pub(super) fn decode<M: prost::Message + Default>(&self, wire: &Bytes) -> Result<M, CompileError> {
        M::decode(wire.clone()).map_err(|error| self.error("", error))
    }

    fn u16(&self, field: &'static str, value: u32) -> Result<u16, CompileError> {
        u16::try_from(value).map_err(|_| self.error(field, "out of range"))
    }

    pub(super) fn service(&self, wire: &Bytes) -> Result<Service, CompileError> {
        let read: v1::Service = self.decode(wire)?;
        let protocol = v1::Protocol::try_from(read.protocol)
            .map_err(|_| self.error("protocol", "unknown to this node"))?;
        let address = proto::Host::parse(&read.host).map_err(|error| self.error("host", error))?;
        if read.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err(self.error("path", "should start with /"));
        }
        let client_certificate = self.reference("client_certificate", read.client_certificate.as_ref())?;
        Ok(Service {
            wire: Wire::of(wire),
            name: named(read.name),
            protocol,
            host: read.host.into(),
            address: Host::from(&address),
            port: self.u16("port", read.port)?,
            path: read.path.map(Into::into),
            retries: self.u16("retries", read.retries)?,
            connect_timeout: Duration::from_millis(read.connect_timeout_ms.into()),
            write_timeout: Duration::from_millis(read.write_timeout_ms.into()),
            read_timeout: Duration::from_millis(read.read_timeout_ms.into()),
            is_enabled: read.enabled,
            client_certificate,
            tls_verify: read.tls_verify,
            tls_verify_depth: read.tls_verify_depth.map(|depth| usize::try_from(depth).unwrap_or(usize::MAX)),
            ca_certificates: read
                .ca_certificates
                .iter()
                .map(|id| entity_id(id).map_err(|error| self.error("ca_certificates", error)))
                .collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn reference(
        &self,
        field: &'static str,
        id: Option<&Bytes>,
    ) -> Result<Option<Uuid>, CompileError> {
        id.map(|id| entity_id(id)).transpose().map_err(|error| self.error(field, error))
    }

    pub(super) fn route(&self, wire: &Bytes) -> Result<Route, CompileError> {
        let read: v1::Route = self.decode(wire)?;
        let service = self.reference("service", read.service.as_ref())?;
        let serves = |protocols: &[v1::Protocol]| read.protocols().any(|one| protocols.contains(&one));
        use v1::Protocol::{Grpc, Grpcs, Http, Https};
        let is_http = serves(&[Http, Https, Grpc, Grpcs]);
        let allows_plain = !serves(&[Https]) || serves(&[Http]);
        let grpc =
            serves(&[Grpc, Grpcs]).then(|| if serves(&[Grpc]) { GrpcRoute::Any } else { GrpcRoute::Tls });
        let https_redirect_status = self.u16("https_redirect_status_code", read.https_redirect_status)?;
        let rule = if is_http { Some(self.rule(&read)?) } else { None };
        Ok(Route {
            wire: Wire::of(wire),
            service,
            rule,
            stream: self.stream_rule(&read)?,
            allows_plain,
            grpc,
            https_redirect_status,
            strip_path: read.strip_path,
            path_handling: match read.path_handling() {
                v1::route::PathHandling::V0 => PathHandling::V0,
                v1::route::PathHandling::V1 => PathHandling::V1,
            },
            preserve_host: read.preserve_host,
            request_buffering: read.request_buffering,
            response_buffering: read.response_buffering,
            name: named(read.name),
        })
    }

    fn rule(&self, read: &v1::Route) -> Result<Rule, CompileError> {
        let header = |wire: &v1::HeaderMatch| -> Result<HeaderRule, CompileError> {
            Ok(HeaderRule {
                name: HeaderName::parse(&wire.name).map_err(|error| self.error("headers", error))?,
                values: self.each("headers", &wire.values, HeaderPattern::parse)?,
            })
        };
        Ok(Rule {
            id: self.id,
            hosts: self.each("hosts", &read.hosts, HostPattern::parse)?,
            paths: self.each("paths", &read.paths, PathPattern::parse)?,
            methods: read.methods.iter().map(|method| method.as_str().into()).collect(),
            headers: read.headers.iter().map(header).collect::<Result<_, _>>()?,
            snis: self.each("snis", &read.snis, SniPattern::parse)?,
            regex_priority: read.regex_priority,
            created_at_s: read.created_at,
        })
    }

    /// `None` for a route that serves some kind of HTTP only.
    fn stream_rule(&self, read: &v1::Route) -> Result<Option<StreamRule>, CompileError> {
        let has = |wanted: v1::Protocol| read.protocols().any(|one| one == wanted);
        let transports = Transports {
            tcp: has(v1::Protocol::Tcp),
            tls: has(v1::Protocol::Tls),
            tls_passthrough: has(v1::Protocol::TlsPassthrough),
            udp: has(v1::Protocol::Udp),
        };
        if transports == Transports::default() {
            return Ok(None);
        }
        let ends = |field: &'static str, ends: &[v1::Cidr]| -> Result<Vec<End>, CompileError> {
            ends.iter().map(|end| self.end(field, end)).collect()
        };
        Ok(Some(StreamRule {
            id: self.id,
            transports,
            sources: ends("sources", &read.sources)?,
            destinations: ends("destinations", &read.destinations)?,
            snis: self.each("snis", &read.snis, SniPattern::parse)?,
        }))
    }

    fn end(&self, field: &'static str, end: &v1::Cidr) -> Result<End, CompileError> {
        let network = end.ip.as_deref().map(NetworkRange::parse).transpose();
        let network = network.map_err(|error| self.error(field, error))?;
        let port = end.port.map(|port| self.u16(field, port)).transpose()?;
        if network.is_none() && port.is_none() {
            return Err(self.error(field, "neither an address nor a port"));
        }
        Ok(End { network, port })
    }

    fn each<T, E: ToString>(
        &self,
        field: &'static str,
        values: &[String],
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, CompileError> {
        values
            .iter()
            .map(|value| parse(value).map_err(|error| self.error(field, error.to_string())))
            .collect()
    }

    pub(super) fn upstream(&self, wire: &Bytes) -> Result<Upstream, CompileError> {
        let read: v1::Upstream = self.decode(wire)?;
        if read.name.is_empty() {
            return Err(self.error("name", "missing"));
        }
        let algorithm = match v1::upstream::Algorithm::try_from(read.algorithm) {
            Ok(v1::upstream::Algorithm::RoundRobin) => Algorithm::RoundRobin,
            Ok(v1::upstream::Algorithm::LeastConnections) => Algorithm::LeastConnections,
            Ok(v1::upstream::Algorithm::ConsistentHashing) => Algorithm::ConsistentHashing {
                slots: read.slots,
                hash_on: HashInput::from(read.hash_on),
                fallback: HashInput::from(read.hash_fallback),
            },
            Ok(v1::upstream::Algorithm::Latency) => Algorithm::Latency,
            Err(_) => return Err(self.error("algorithm", "unknown to this node")),
        };
        let health = read.healthchecks.unwrap_or_default();
        let checks =
            super::checks::read(&health).map_err(|invalid| self.error(invalid.field, invalid.reason))?;
        let threshold_percent = health.threshold_percent;
        if !(0.0..=100.0).contains(&threshold_percent) {
            return Err(self.error("healthchecks.threshold", "not a percentage"));
        }
        Ok(Upstream {
            wire: Wire::of(wire),
            name: read.name.into(),
            host_header: read.host_header.filter(|header| !header.is_empty()).map(Into::into),
            uses_srv_name: read.use_srv_name,
            client_certificate: self.reference("client_certificate", read.client_certificate.as_ref())?,
            terms: Terms {
                checks: checks.map(Arc::new),
                threshold_percent,
                algorithm: Arc::new(algorithm),
                policy: None,
            },
        })
    }

    pub(super) fn target(&self, wire: &Bytes) -> Result<Target, CompileError> {
        let read: v1::Target = self.decode(wire)?;
        let upstream = entity_id(&read.upstream).map_err(|error| self.error("upstream", error))?;
        let address = TargetAddress::parse(&read.target).map_err(|error| self.error("target", error))?;
        Ok(Target {
            wire: Wire::of(wire),
            upstream,
            host: Host::from(address.host()),
            port: address.port(),
            weight: self.u16("weight", read.weight)?,
            placement: placement(&read.tags),
            created_at_ms: read.created_at_ms,
            label: read.target.into(),
        })
    }
}

/// Control planes refuse tags that say what cannot be. One that was stored before they did must not hold all config up.
fn placement(tags: &[String]) -> Arc<Placement> {
    if tags.is_empty() {
        return Arc::clone(&PLAIN);
    }
    Placement::from_tags(tags.iter().map(String::as_str)).unwrap_or_default().into()
}

fn named(name: String) -> Option<Box<str>> {
    (!name.is_empty()).then(|| name.into())
}
