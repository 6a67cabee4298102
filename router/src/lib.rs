#![doc = include_str!("../README.md")]
//!
//! Which route a request goes to: pure.
//!
//! Source of every rule: Kong 3.10, flavour `traditional_compatible` or, by settings, `traditional` (`proxy.md` section
//! 1); where it differs, the item says so. The index finds the few routes that can match by host, beginning of the path and header value;
//! of those the one with the greatest rank wins. A clone shares everything, and a change copies only what it
//! touches: `table` clones the router in force, changes the clone and swaps it in.

mod authority;
mod index;
pub mod input;
mod rank;
pub mod stream;
mod traditional;
mod trie;
mod unmet;

use std::sync::Arc;

use equipoise_proto::pattern::PathCaptures;
use equipoise_proto::{HeaderName, HeaderPattern, HostPattern, PathPattern, SniPattern};
use imbl::Vector;
use uuid::Uuid;

pub use input::HashInput;
pub use unmet::Condition;

use authority::HostKey;
use index::{Best, Candidate, Group, Place};
use rank::Rank;
use trie::Trie;

/// Whose rules decide. The two of the reference differ in the order of routes ([`Rule`]s that both match) and in some
/// conditions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flavour {
    /// `traditional_compatible`, the reference's default: one priority a route.
    #[default]
    Compatible,
    /// `traditional`, the reference's before 3.0: the number and kind of attributes first, the older route last. A
    /// wildcard stands for one character at least, server names have none, and a header's value is a regex only if it is
    /// the only one.
    Traditional,
}

/// What the router looks at. All of it borrows from the request's head.
pub struct Query<'a> {
    /// Whether the request came over TLS. Without it `snis` are not looked at.
    pub is_tls: bool,
    /// As received.
    pub method: &'a [u8],
    /// Host without port; empty if there was none. Case and a trailing dot do not matter.
    pub host: &'a [u8],
    /// Port of the Host header, else by [`Router::assumed_port`].
    pub port: u16,
    /// Normalised path, without query.
    pub path: &'a [u8],
    /// TLS server name, lower case.
    pub sni: Option<&'a str>,
    /// The request's headers.
    pub headers: &'a dyn Headers,
}

/// Header look-up, whatever protocol the request came by.
pub trait Headers {
    /// Calls `found` with each value of the header `name` (lower case), in order.
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8]));
}

/// The outcome of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Index into the routes that the router was built from.
    pub route: usize,
    /// Bytes of the request path that the route's path matched: what `strip_path` strips. 0 without a path.
    pub prefix_bytes: usize,
    /// Index into the rule's paths; `None` if it has none.
    pub path: Option<usize>,
}

/// What the router knows of one route. An empty list does not restrict; of a list, any entry may match; of the
/// lists, all must.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Of the route: breaks ties.
    pub id: Uuid,
    /// Hosts it is for.
    pub hosts: Vec<HostPattern>,
    /// Paths it is for.
    pub paths: Vec<PathPattern>,
    /// Methods it is for, as they are sent.
    pub methods: Vec<Box<str>>,
    /// Headers it wants, each name once.
    pub headers: Vec<HeaderRule>,
    /// TLS server names it is for; only looked at when the request came over TLS.
    pub snis: Vec<SniPattern>,
    /// Among regex paths: greater goes first.
    pub regex_priority: i64,
    /// When the route was made, in seconds: breaks ties in the flavour `traditional`.
    pub created_at_s: i64,
}

/// A header that a route wants, with any of some values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRule {
    /// Which header.
    pub name: HeaderName,
    /// Any value of the request's header may match any of these.
    pub values: Vec<HeaderPattern>,
}

impl HeaderRule {
    fn matches(&self, flavour: Flavour, query: &Query<'_>) -> bool {
        let is_wanted = |wanted: &HeaderPattern, value: &[u8]| match flavour {
            Flavour::Traditional if self.values.len() > 1 => wanted.is_written(value),
            Flavour::Traditional | Flavour::Compatible => wanted.matches(value),
        };
        let mut is_found = false;
        query.headers.each(self.name.as_str(), &mut |value| {
            is_found = is_found || self.values.iter().any(|wanted| is_wanted(wanted, value));
        });
        is_found
    }
}

impl Rule {
    /// Method, SNI and headers.
    fn fits(&self, flavour: Flavour, query: &Query<'_>) -> bool {
        self.has_method(query)
            && self.has_sni(flavour, query)
            && self.headers.iter().all(|header| header.matches(flavour, query))
    }

    fn has_method(&self, query: &Query<'_>) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|method| method.as_bytes() == query.method)
    }

    fn has_sni(&self, flavour: Flavour, query: &Query<'_>) -> bool {
        let may_be = |wanted: &SniPattern| flavour == Flavour::Compatible || !wanted.is_wildcard();
        let is_wanted = |sni: &str| self.snis.iter().any(|wanted| may_be(wanted) && wanted.matches(sni));
        !query.is_tls || self.snis.is_empty() || query.sni.is_some_and(is_wanted)
    }

    /// One candidate for each path, not placed yet.
    fn candidates(self: &Arc<Self>, flavour: Flavour, route: usize) -> impl Iterator<Item = Candidate> {
        let pathless = self.paths.is_empty().then_some(None);
        let paths = (0..self.paths.len()).map(Some);
        pathless.into_iter().chain(paths).map(move |path| Candidate::new(flavour, self, route, path))
    }
}

/// Routes, indexed. A clone is cheap and shares everything.
#[derive(Debug, Clone, Default)]
pub struct Router {
    flavour: Flavour,
    rules: Vector<Option<Arc<Rule>>>,
    /// Keys written backwards: `moc.a` for `a.com`, `moc.a.` for `*.a.com`. One walk finds both kinds, which
    /// their last byte tells apart.
    by_end: Trie<Arc<Group>>,
    /// `a.` for `a.*`.
    by_start: Trie<Arc<Group>>,
    /// Rules without hosts.
    hostless: Group,
}

impl Router {
    /// Indexes `rules`, by the default flavour; a match gives the index of its rule. Cost: O(n log n).
    pub fn new(rules: Vec<Rule>) -> Self {
        Self::of(Flavour::default(), rules)
    }

    /// The same, by this flavour.
    pub fn of(flavour: Flavour, rules: Vec<Rule>) -> Self {
        let mut router = Self { flavour, ..Self::default() };
        let rules: Vec<_> = rules.into_iter().map(Arc::new).collect();
        let candidates = rules.iter().enumerate().flat_map(|(route, rule)| rule.candidates(flavour, route));
        let mut placed: Vec<_> = candidates.flat_map(Candidate::placed).collect();
        // In the order of the index, so that what one request needs lies together in memory (with many routes a
        // look-up costs what it misses), and best first, so that each goes to the end of its list.
        placed.sort_unstable_by(|(place, a), (other, b)| {
            place.cmp(other).then_with(|| a.path_key().cmp(b.path_key())).then_with(|| b.rank.cmp(&a.rank))
        });
        for (place, candidate) in &placed {
            router.group_mut(place).insert(candidate);
        }
        router.rules = rules.into_iter().map(Some).collect();
        router
    }

    /// Puts `rule` at index `route` in place of what is there; `None` leaves the place empty. Cost: that of the
    /// two rules (and of lists of routes that differ neither in host nor in path nor in a header's value).
    pub fn set(&mut self, route: usize, rule: Option<Rule>) {
        while self.rules.len() <= route {
            self.rules.push_back(None);
        }
        let flavour = self.flavour;
        let rule = rule.map(Arc::new);
        let before = self.rules.set(route, rule.clone());
        let gone = before.iter().flat_map(|before| before.candidates(flavour, route));
        for (place, candidate) in gone.flat_map(Candidate::placed) {
            self.remove(&place, &candidate);
        }
        let new = rule.iter().flat_map(|rule| rule.candidates(flavour, route));
        for (place, candidate) in new.flat_map(Candidate::placed) {
            self.group_mut(&place).insert(&candidate);
        }
    }

    /// The route for a request, or `None` (the client gets 404). Allocates nothing.
    pub fn find(&self, query: &Query<'_>) -> Option<Match> {
        let mut best = Best { flavour: self.flavour, rank: Rank::LOWEST, found: None };
        let has_hosts = !self.by_end.is_empty() || !self.by_start.is_empty();
        if has_hosts && let Some(host) = HostKey::new(query.host) {
            let may_be_wildcard = |len: usize| self.flavour == Flavour::Compatible || len < host.len();
            self.by_end.walk_back(host.backwards(), |len, group| {
                let is_wildcard = host.backwards()[..len].ends_with(b".");
                let is_hit = if is_wildcard { may_be_wildcard(len) } else { len == host.len() };
                if is_hit {
                    group.find(query, &mut best);
                }
            });
            self.by_start.walk_back(host.forwards(), |len, group| {
                if may_be_wildcard(len) {
                    group.find(query, &mut best);
                }
            });
        }
        self.hostless.find(query, &mut best);
        let (candidate, prefix_bytes) = best.found?;
        Some(Match { route: candidate.rank.route(), prefix_bytes, path: candidate.rank.path() })
    }

    /// The groups of the regex that matched; `None` if it was no regex, or has no group. `path` is the query's.
    pub fn captures<'p>(&self, found: &Match, path: &'p [u8]) -> Option<PathCaptures<'p>> {
        let rule = self.rules.get(found.route)?.as_ref()?;
        match rule.paths.get(found.path?)? {
            PathPattern::Prefix(_) => None,
            PathPattern::Regex(regex) => regex.captures(path),
        }
    }

    /// By which flavour it decides.
    pub const fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// The port that a request is for whose Host header names none. `listener`: the one it came in by, as clients see it.
    pub const fn assumed_port(&self, is_tls: bool, listener: u16) -> u16 {
        match self.flavour {
            Flavour::Compatible => listener,
            Flavour::Traditional if is_tls => 443,
            Flavour::Traditional => 80,
        }
    }

    /// Another route that stands where route `route` does, in the same place in the index and with the same priority: where
    /// both match, nothing that anybody chose decides between them. Whether both can match is looked at no closer than by
    /// their methods, so it is a hint for people. Cost: that of a look-up for each path and host.
    pub fn rival(&self, route: usize) -> Option<usize> {
        let rule = self.rules.get(route)?.as_ref()?;
        let mut candidates = rule.candidates(self.flavour, route).flat_map(Candidate::placed);
        candidates.find_map(|(place, candidate)| {
            let group = match &place {
                Place::Hostless => Some(&self.hostless),
                Place::End(key) => self.by_end.get(key).map(AsRef::as_ref),
                Place::Start(key) => self.by_start.get(key).map(AsRef::as_ref),
            };
            group?.rival(&candidate)
        })
    }

    /// Whether one of the route's paths has a possessive quantifier, which is an ordinary one here.
    pub fn is_possessive(&self, route: usize) -> bool {
        let rule = self.rules.get(route).and_then(Option::as_ref);
        rule.is_some_and(|rule| {
            rule.paths.iter().any(|path| match path {
                PathPattern::Regex(regex) => regex.is_possessive(),
                PathPattern::Prefix(_) => false,
            })
        })
    }

    fn group_mut(&mut self, place: &Place) -> &mut Group {
        match place {
            Place::Hostless => &mut self.hostless,
            Place::End(key) => Arc::make_mut(self.by_end.entry(key)),
            Place::Start(key) => Arc::make_mut(self.by_start.entry(key)),
        }
    }

    fn remove(&mut self, place: &Place, candidate: &Candidate) {
        let group = self.group_mut(place);
        group.remove(candidate);
        if group.is_empty() {
            match place {
                Place::Hostless => {}
                Place::End(key) => self.by_end.remove(key),
                Place::Start(key) => self.by_start.remove(key),
            }
        }
    }
}

#[cfg(test)]
mod tests;
