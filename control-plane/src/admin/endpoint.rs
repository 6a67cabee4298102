//! The one table of endpoints: which path stands for what, and which verbs it takes. Pure.
//!
//! The paths of entities follow from `declaration`: a later kind appears here by what it declares, not by a
//! handler. Must not look at headers or bodies; called by the request gate and by `/endpoints`.

mod declaration;
mod unheld;

use percent_encoding::percent_decode_str;

use crate::model::Kind;
use crate::nodes::Verdict;

use declaration::{Nested, Presence, declaration};
pub use unheld::{Of, Unheld};

/// A verb that an endpoint can take; HEAD counts as GET, OPTIONS is answered for every path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// DELETE
    Delete,
    /// GET and HEAD
    Get,
    /// PATCH
    Patch,
    /// POST
    Post,
    /// PUT
    Put,
}

impl Verb {
    /// The verb of a method; `None` for OPTIONS and for what the API does not know.
    pub fn from_method(method: &http::Method) -> Option<Self> {
        match method.as_str() {
            "DELETE" => Some(Self::Delete),
            "GET" | "HEAD" => Some(Self::Get),
            "PATCH" => Some(Self::Patch),
            "POST" => Some(Self::Post),
            "PUT" => Some(Self::Put),
            _ => None,
        }
    }

    /// Whether requests with it carry a body that is read.
    pub const fn has_body(self) -> bool {
        match self {
            Self::Patch | Self::Post | Self::Put => true,
            Self::Delete | Self::Get => false,
        }
    }

    /// As in a request line.
    pub const fn name(self) -> &'static str {
        self.names()[0]
    }

    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Delete => &["DELETE"],
            Self::Get => &["GET", "HEAD"],
            Self::Patch => &["PATCH"],
            Self::Post => &["POST"],
            Self::Put => &["PUT"],
        }
    }
}

/// A child's foreign field and the two kinds that it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The kind that has the field.
    pub child: Kind,
    /// The field's name, e.g. `service`.
    pub field: &'static str,
    /// The kind it refers to.
    pub parent: Kind,
}

/// A part of the page that shows the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Itself.
    Html,
    /// What builds it in the browser.
    Script,
    /// How it looks.
    Style,
}

/// What a path stands for. The parameters of a path come in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/`
    Root,
    /// `/status`
    Status,
    /// `/endpoints`
    Endpoints,
    /// `/timers`
    Timers,
    /// `/config`
    Config,
    /// `/batch`
    Batch,
    /// `/explain`
    Explain,
    /// `/metrics`
    Metrics,
    /// `/robots.txt`
    Robots,
    /// `/openapi.json`
    OpenApi,
    /// `/docs`, and what its page loads.
    Docs(Page),
    /// `/tags`
    Tags,
    /// `/tags/{tag}`
    Tag,
    /// `/schemas/{entity}`
    Schema,
    /// `/schemas/{entity}/validate`
    Validate,
    /// `/schemas/plugins/{plugin}`
    PluginSchema,
    /// `/schemas/plugins/validate`
    ValidatePlugin,
    /// `/plugins/schema/{plugin}`
    PluginConfigSchema,
    /// `/plugins/enabled`
    EnabledPlugins,
    /// `/filter-chains`, and all that is about them: there are none, which is said in words.
    FilterChains,
    /// `/schemas/filters/{filter}`: there is none.
    FilterSchema,
    /// `/schemas/vaults/{vault}`: there is none.
    VaultSchema,
    /// `/schemas/vaults/validate`
    ValidateVault,
    /// `/status/dns`
    DnsStatus,
    /// `/cache`
    Cache,
    /// `/cache/{key}`
    Cached,
    /// `/debug/node/log-level`
    LogLevel,
    /// `/debug/node/log-level/{log_level}` and `/debug/cluster/log-level/{log_level}`
    SetLogLevel,
    /// Of kinds of the reference that are not kept here: there is none of them, ever.
    Unheld(Unheld),
    /// `/clustering/data-planes`
    DataPlanes,
    /// `/clustering/data-planes/{id}`
    DataPlane,
    /// `/clustering/data-planes/{id}/drain`
    DrainDataPlane,
    /// `/clustering/zones`
    Zones,
    /// `/clustering/status`
    ClusteringStatus,
    /// `/clustering/tokens`
    Tokens,
    /// `/clustering/tokens/{id}`
    Token,
    /// `/clustering/enrolments`
    Enrolments,
    /// `/clustering/enrolments/{id}`
    Enrolment,
    /// `/clustering/denied`
    DeniedIds,
    /// `/clustering/denied/{id}`
    DeniedId,
    /// `/clustering/authorities`
    Authorities,
    /// `/services`
    Collection(Kind),
    /// `/services/{service}`
    Entity(Kind),
    /// `/services/{service}/routes`
    Children(Reference),
    /// `/services/{service}/routes/{route}`
    Child(Reference),
    /// `/routes/{route}/service`
    Foreign(Reference),
    /// `/upstreams/{upstream}/policy`
    Only(Reference),
    /// `/upstreams/{upstream}/targets/all`
    TargetsAll,
    /// `/upstreams/{upstream}/health`
    Health,
    /// `/upstreams/{upstream}/balancer`
    Balancer,
    /// `/upstreams/{upstream}/targets/{target}[/{address}]/healthy` and `…/unhealthy`
    SetHealth(Verdict),
}

impl Endpoint {
    /// The verbs it takes, ascending by name.
    pub const fn verbs(self) -> &'static [Verb] {
        match self {
            Self::Root
            | Self::Status
            | Self::Endpoints
            | Self::Timers
            | Self::Metrics
            | Self::Robots
            | Self::OpenApi
            | Self::Docs(_)
            | Self::Schema
            | Self::PluginSchema
            | Self::PluginConfigSchema
            | Self::EnabledPlugins
            | Self::DataPlanes
            | Self::ClusteringStatus
            | Self::Zones
            | Self::Enrolments
            | Self::DeniedIds
            | Self::TargetsAll
            | Self::Health
            | Self::FilterSchema
            | Self::VaultSchema
            | Self::DnsStatus
            | Self::LogLevel
            | Self::Balancer => &[Verb::Get],
            Self::Cache => &[Verb::Delete],
            Self::Cached => &[Verb::Delete, Verb::Get],
            Self::Unheld(unheld) => unheld.verbs(),
            Self::Tokens | Self::Authorities | Self::Config => &[Verb::Get, Verb::Post],
            Self::Token | Self::Enrolment => &[Verb::Delete],
            Self::DataPlane => &[Verb::Delete, Verb::Get],
            Self::DrainDataPlane => &[Verb::Delete, Verb::Post],
            Self::DeniedId => &[Verb::Delete, Verb::Put],
            // POST on `/tags` and the writes on one tag exist to be refused with a reason.
            Self::Tags | Self::Collection(_) | Self::Children(_) => &[Verb::Get, Verb::Post],
            Self::Tag | Self::Entity(_) | Self::Child(_) | Self::Foreign(_) | Self::Only(_) => {
                &[Verb::Delete, Verb::Get, Verb::Patch, Verb::Put]
            }
            Self::Validate | Self::ValidatePlugin | Self::ValidateVault | Self::Batch | Self::Explain => {
                &[Verb::Post]
            }
            Self::FilterChains => &[Verb::Delete, Verb::Get, Verb::Patch, Verb::Post, Verb::Put],
            Self::SetHealth(_) | Self::SetLogLevel => &[Verb::Put],
        }
    }

    /// What OPTIONS answers in `Allow`: sorted, with HEAD and OPTIONS.
    pub fn allow(self) -> String {
        let mut names: Vec<_> = self.verbs().iter().flat_map(|verb| verb.names()).copied().collect();
        names.push("OPTIONS");
        names.sort_unstable();
        names.join(", ")
    }

    /// Whether a relay can answer it: from what it knows of itself and of its nodes, without a config.
    pub const fn is_of_relays(self) -> bool {
        match self {
            Self::Root
            | Self::Status
            | Self::Endpoints
            | Self::Timers
            | Self::Metrics
            | Self::Robots
            | Self::OpenApi
            | Self::Docs(_)
            | Self::DataPlanes
            | Self::DataPlane
            | Self::Zones
            | Self::ClusteringStatus => true,
            Self::Config
            | Self::Batch
            | Self::Explain
            | Self::Tags
            | Self::Tag
            | Self::Schema
            | Self::Validate
            | Self::PluginSchema
            | Self::ValidatePlugin
            | Self::PluginConfigSchema
            | Self::EnabledPlugins
            | Self::FilterChains
            | Self::FilterSchema
            | Self::VaultSchema
            | Self::ValidateVault
            | Self::DnsStatus
            | Self::Cache
            | Self::Cached
            | Self::LogLevel
            | Self::SetLogLevel
            | Self::Unheld(_)
            | Self::DrainDataPlane
            | Self::Tokens
            | Self::Token
            | Self::Enrolments
            | Self::Enrolment
            | Self::DeniedIds
            | Self::DeniedId
            | Self::Authorities
            | Self::Collection(_)
            | Self::Entity(_)
            | Self::Children(_)
            | Self::Child(_)
            | Self::Foreign(_)
            | Self::Only(_)
            | Self::TargetsAll
            | Self::Health
            | Self::Balancer
            | Self::SetHealth(_) => false,
        }
    }

    /// Whether its writes do something at once that no trial can show: to nodes, to members, to this process.
    pub const fn is_act(self) -> bool {
        matches!(
            self,
            Self::SetHealth(_)
                | Self::SetLogLevel
                | Self::DataPlane
                | Self::DrainDataPlane
                | Self::Tokens
                | Self::Token
                | Self::Enrolment
                | Self::DeniedId
                | Self::Authorities
        )
    }

    /// Whether `/endpoints` names it; the reference keeps quiet about its static pages.
    fn is_listed(self) -> bool {
        !matches!(self, Self::Robots | Self::Docs(_))
    }
}

/// One segment of a path pattern; literals sort before parameters, so that they win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(&'static str),
    Parameter(&'static str),
}

#[derive(Debug)]
struct Entry {
    pattern: Vec<Segment>,
    endpoint: Endpoint,
}

/// All endpoints of this build, literals before parameters.
#[derive(Debug)]
pub struct Endpoints {
    entries: Vec<Entry>,
}

/// A path that was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// What it stands for.
    pub endpoint: Endpoint,
    /// The decoded parameters, in the path's order; bytes, because they need not be UTF-8.
    pub parameters: Vec<Vec<u8>>,
}

impl Endpoints {
    /// Builds the table from the declarations.
    pub fn new() -> Self {
        use Segment::{Literal, Parameter};
        let mut entries = Vec::new();
        let mut add = |pattern: &[Segment], endpoint| {
            entries.push(Entry { pattern: pattern.to_vec(), endpoint });
        };
        add(&[], Endpoint::Root);
        for (name, endpoint) in [
            ("status", Endpoint::Status),
            ("endpoints", Endpoint::Endpoints),
            ("timers", Endpoint::Timers),
            ("config", Endpoint::Config),
            ("batch", Endpoint::Batch),
            ("explain", Endpoint::Explain),
            ("metrics", Endpoint::Metrics),
            ("robots.txt", Endpoint::Robots),
            ("openapi.json", Endpoint::OpenApi),
            ("docs", Endpoint::Docs(Page::Html)),
            ("tags", Endpoint::Tags),
        ] {
            add(&[Literal(name)], endpoint);
        }
        add(&[Literal("tags"), Parameter("tags")], Endpoint::Tag);
        add(&[Literal("docs"), Literal("page.js")], Endpoint::Docs(Page::Script));
        add(&[Literal("docs"), Literal("page.css")], Endpoint::Docs(Page::Style));
        add(&[Literal("status"), Literal("dns")], Endpoint::DnsStatus);
        let cached = [Literal("cache"), Parameter("key")];
        add(&cached[..1], Endpoint::Cache);
        add(&cached, Endpoint::Cached);
        for (of, get) in [("node", Some(Endpoint::LogLevel)), ("cluster", None)] {
            let level = [Literal("debug"), Literal(of), Literal("log-level"), Parameter("log_level")];
            if let Some(get) = get {
                add(&level[..3], get);
            }
            add(&level, Endpoint::SetLogLevel);
        }
        add(&[Literal("schemas"), Parameter("name")], Endpoint::Schema);
        add(&[Literal("schemas"), Parameter("db_entity_name"), Literal("validate")], Endpoint::Validate);
        let plugins = [Literal("schemas"), Literal("plugins")];
        add(&[plugins[0], plugins[1], Parameter("name")], Endpoint::PluginSchema);
        add(&[plugins[0], plugins[1], Literal("validate")], Endpoint::ValidatePlugin);
        add(&[Literal("plugins"), Literal("schema"), Parameter("name")], Endpoint::PluginConfigSchema);
        add(&[Literal("plugins"), Literal("enabled")], Endpoint::EnabledPlugins);
        for pattern in filter_chains() {
            add(&pattern, Endpoint::FilterChains);
        }
        add(&[Literal("schemas"), Literal("filters"), Parameter("name")], Endpoint::FilterSchema);
        add(&[Literal("schemas"), Literal("vaults"), Parameter("name")], Endpoint::VaultSchema);
        add(&[Literal("schemas"), Literal("vaults"), Literal("validate")], Endpoint::ValidateVault);
        for (pattern, unheld) in unheld::patterns() {
            add(&pattern, Endpoint::Unheld(unheld));
        }
        for (name, endpoint, one) in [
            ("data-planes", Endpoint::DataPlanes, Some(Endpoint::DataPlane)),
            ("zones", Endpoint::Zones, None),
            ("status", Endpoint::ClusteringStatus, None),
            ("tokens", Endpoint::Tokens, Some(Endpoint::Token)),
            ("enrolments", Endpoint::Enrolments, Some(Endpoint::Enrolment)),
            ("denied", Endpoint::DeniedIds, Some(Endpoint::DeniedId)),
            ("authorities", Endpoint::Authorities, None),
        ] {
            let path = [Literal("clustering"), Literal(name), Parameter("id")];
            add(&path[..2], endpoint);
            if let Some(one) = one {
                add(&path, one);
            }
        }
        let node = [Literal("clustering"), Literal("data-planes"), Parameter("id"), Literal("drain")];
        add(&node, Endpoint::DrainDataPlane);
        for kind in Kind::ALL {
            let (name, declared) = (kind.collection(), declaration(kind));
            let entity = [Literal(kind.path()), Parameter(name)];
            if declared.top_level == Presence::Present {
                add(&entity[..1], Endpoint::Collection(kind));
                add(&entity, Endpoint::Entity(kind));
            }
            for paths in declared.references {
                let reference = Reference { child: kind, field: paths.field, parent: paths.parent };
                let (path, parent) = (paths.parent.path(), paths.parent.collection());
                let below = |word| [Literal(path), Parameter(parent), Literal(word)];
                match paths.nested {
                    Nested::Many(word) => {
                        let children = below(word);
                        add(&children, Endpoint::Children(reference));
                        add(&[&children[..], &[Parameter(name)]].concat(), Endpoint::Child(reference));
                    }
                    Nested::Only => add(&below(kind.singular()), Endpoint::Only(reference)),
                }
                if paths.foreign == Presence::Present {
                    add(&[entity[0], entity[1], Literal(paths.field)], Endpoint::Foreign(reference));
                }
            }
        }
        let upstreams = Kind::Upstream.collection();
        let upstream = [Literal(upstreams), Parameter(upstreams)];
        add(&[upstream[0], upstream[1], Literal("health")], Endpoint::Health);
        add(&[upstream[0], upstream[1], Literal("balancer")], Endpoint::Balancer);
        add(&[upstream[0], upstream[1], Literal("targets"), Literal("all")], Endpoint::TargetsAll);
        let targets = Kind::Target.collection();
        let target = [upstream[0], upstream[1], Literal(targets), Parameter(targets)];
        for (word, verdict) in [("healthy", Verdict::Healthy), ("unhealthy", Verdict::Unhealthy)] {
            let endpoint = Endpoint::SetHealth(verdict);
            add(&[&target[..], &[Literal(word)]].concat(), endpoint);
            add(&[&target[..], &[Parameter("address"), Literal(word)]].concat(), endpoint);
        }
        entries.sort_by(|a, b| a.pattern.cmp(&b.pattern));
        Self { entries }
    }

    /// Finds a path as it stood in the request line, without its query.
    ///
    /// Case-sensitive; each segment is percent-decoded once, after the split, and one that then holds a `/`
    /// or is empty matches nothing. One trailing slash more or less makes no difference.
    pub fn find(&self, path: &str) -> Option<Found> {
        let path = path.strip_prefix('/')?;
        let segments: Vec<Vec<u8>> = if path.is_empty() {
            Vec::new()
        } else {
            let path = path.strip_suffix('/').unwrap_or(path);
            path.split('/').map(|segment| percent_decode_str(segment).collect()).collect()
        };
        if segments.iter().any(|segment| segment.is_empty() || segment.contains(&b'/')) {
            return None;
        }
        let entry = self.entries.iter().find(|entry| entry.matches(&segments))?;
        let parameters = segments
            .into_iter()
            .zip(&entry.pattern)
            .filter_map(|(segment, pattern)| match pattern {
                Segment::Literal(_) => None,
                Segment::Parameter(_) => Some(segment),
            })
            .collect();
        Some(Found { endpoint: entry.endpoint, parameters })
    }

    /// All that `/endpoints` names, with what they stand for, in the table's order.
    pub fn listed(&self) -> impl Iterator<Item = (String, Endpoint)> {
        let listed = self.entries.iter().filter(|entry| entry.endpoint.is_listed());
        listed.map(|entry| (entry.to_path(), entry.endpoint))
    }

    /// All paths with parameters as `{name}`, sorted with `/` as the lowest character.
    pub fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> =
            self.entries.iter().filter(|entry| entry.endpoint.is_listed()).map(Entry::to_path).collect();
        paths.sort_by(|a, b| {
            let key = |path: &str| path.bytes().map(|b| if b == b'/' { 0 } else { b }).collect::<Vec<_>>();
            key(a).cmp(&key(b))
        });
        paths
    }
}

/// Where the reference has filter chains.
fn filter_chains() -> Vec<Vec<Segment>> {
    use Segment::{Literal, Parameter};
    let chains = [Literal("filter-chains"), Parameter("filter_chains")];
    let mut patterns = vec![chains[..1].to_vec(), chains.to_vec()];
    for parents in [Kind::Route, Kind::Service] {
        let parent = [Literal(parents.path()), Parameter(parents.collection())];
        patterns.push([&parent, &chains[..1]].concat());
        patterns.push([&parent, &chains[..]].concat());
        patterns.push([&chains[..], &[Literal(parents.singular())]].concat());
    }
    let routes = [Literal(Kind::Route.path()), Parameter(Kind::Route.collection())];
    for which in ["all", "disabled", "enabled"] {
        patterns.push([&routes[..], &[Literal("filters"), Literal(which)]].concat());
    }
    patterns
}

impl Default for Endpoints {
    fn default() -> Self {
        Self::new()
    }
}

impl Entry {
    fn matches(&self, segments: &[Vec<u8>]) -> bool {
        self.pattern.len() == segments.len()
            && self.pattern.iter().zip(segments).all(|(pattern, segment)| match pattern {
                Segment::Literal(literal) => literal.as_bytes() == segment,
                Segment::Parameter(_) => true,
            })
    }

    fn to_path(&self) -> String {
        if self.pattern.is_empty() {
            return "/".to_owned();
        }
        self.pattern
            .iter()
            .map(|segment| match segment {
                Segment::Literal(literal) => format!("/{literal}"),
                Segment::Parameter(name) => format!("/{{{name}}}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
