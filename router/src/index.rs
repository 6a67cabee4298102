//! Candidates by host, by beginning of the path, and by header value.
//!
//! Each candidate is one path of one route under one of its hosts. What the place in the index does not prove
//! (port, method, headers, SNI, a regex) is checked on the candidate.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use equipoise_proto::host::HostShape;
use equipoise_proto::{HeaderName, HeaderPattern, HostPattern, PathPattern, SniPattern};
use foldhash::fast::FixedState;

use super::rank::Rank;
use super::trie::Trie;
use super::{Flavour, HeaderRule, Query, Rule};

/// One path of one route under one host.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) rank: Rank,
    /// What the host pattern says.
    pub(super) port: Option<u16>,
    /// Whether there is nothing to check but the port and a regex: then the rule is not even touched.
    is_bare: bool,
    path: PathCheck,
    pub(super) rule: Arc<Rule>,
}

/// Where in the index a candidate is, as its host pattern says.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Its rule has no hosts.
    Hostless,
    /// Under the end of a host, written backwards: `moc.a` for `a.com`, `moc.a.` for `*.a.com`.
    End(Vec<u8>),
    /// Under the start of a host: `a.` for `a.*`.
    Start(Vec<u8>),
}

impl Place {
    fn of(host: &HostPattern) -> Self {
        match host.shape() {
            HostShape::Exact(end) | HostShape::Suffix(end) => Self::End(end.bytes().rev().collect()),
            HostShape::Prefix(start) => Self::Start(start.as_bytes().to_vec()),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum PathCheck {
    Absent,
    /// Proved by the place in the index; so long.
    Prefix(usize),
    Regex,
}

impl Candidate {
    pub(super) fn new(flavour: Flavour, rule: &Arc<Rule>, route: usize, path: Option<usize>) -> Self {
        let is_bare = rule.methods.is_empty() && rule.headers.is_empty() && rule.snis.is_empty();
        let check = match path.and_then(|path| rule.paths.get(path)) {
            None => PathCheck::Absent,
            Some(PathPattern::Prefix(prefix)) => PathCheck::Prefix(prefix.as_str().len()),
            Some(PathPattern::Regex(_)) => PathCheck::Regex,
        };
        let rank = Rank::new(flavour, rule, route, path);
        Self { rank, port: None, is_bare, path: check, rule: Arc::clone(rule) }
    }

    /// The candidate under each host of its rule.
    pub(super) fn placed(self) -> Vec<(Place, Self)> {
        if self.rule.hosts.is_empty() {
            return vec![(Place::Hostless, self)];
        }
        let under = |host: &HostPattern| (Place::of(host), Self { port: host.port(), ..self.clone() });
        self.rule.hosts.iter().map(under).collect()
    }

    /// A prefix path, or what a regex's matches begin with; empty without path.
    pub(super) fn path_key(&self) -> &[u8] {
        match self.pattern() {
            None => b"",
            Some(PathPattern::Prefix(prefix)) => prefix.as_str().as_bytes(),
            Some(PathPattern::Regex(regex)) => regex.literal_prefix(),
        }
    }

    fn pattern(&self) -> Option<&PathPattern> {
        self.rank.path().and_then(|path| self.rule.paths.get(path))
    }

    /// Bytes of the path that match, if all of the candidate does.
    fn check(&self, flavour: Flavour, query: &Query<'_>) -> Option<usize> {
        let fits = self.port.is_none_or(|port| port == query.port)
            && (self.is_bare || self.rule.fits(flavour, query));
        if !fits {
            return None;
        }
        match self.path {
            PathCheck::Absent => Some(0),
            PathCheck::Prefix(prefix_bytes) => Some(prefix_bytes),
            PathCheck::Regex => match self.pattern()? {
                PathPattern::Regex(regex) => regex.match_len(query.path),
                PathPattern::Prefix(_) => None,
            },
        }
    }
}

/// The best candidate so far that matches.
pub(super) struct Best<'r> {
    pub(super) flavour: Flavour,
    pub(super) rank: Rank,
    pub(super) found: Option<(&'r Candidate, usize)>,
}

impl<'r> Best<'r> {
    fn consider(&mut self, candidates: &'r [Candidate], query: &Query<'_>) {
        for candidate in candidates {
            if candidate.rank <= self.rank {
                return;
            }
            if let Some(prefix_bytes) = candidate.check(self.flavour, query) {
                self.rank = candidate.rank;
                self.found = Some((candidate, prefix_bytes));
                return;
            }
        }
    }
}

/// All candidates under one host.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// By [`Candidate::path_key`].
    paths: Trie<Bucket>,
    /// No candidate has a higher priority. It is not lowered when one leaves: that costs speed at most.
    top: u64,
    count: usize,
}

impl Group {
    pub(super) fn insert(&mut self, candidate: &Candidate) {
        self.top = self.top.max(candidate.rank.priority());
        self.count += 1;
        self.paths.entry(candidate.path_key()).insert(candidate);
    }

    pub(super) fn remove(&mut self, candidate: &Candidate) {
        let key = candidate.path_key();
        let bucket = self.paths.entry(key);
        bucket.remove(candidate);
        if bucket.is_empty() {
            self.paths.remove(key);
        }
        self.count -= 1;
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Another route's candidate with the same path and priority, if there is one.
    pub(super) fn rival(&self, candidate: &Candidate) -> Option<usize> {
        self.paths.get(candidate.path_key())?.lists.rival(candidate)
    }

    /// Improves `best` with what is here.
    pub(super) fn find<'r>(&'r self, query: &Query<'_>, best: &mut Best<'r>) {
        if self.top < best.rank.priority() {
            return;
        }
        self.paths.walk_back(query.path, |_, bucket| bucket.find(query, best));
    }
}

/// The candidates under one host and one beginning of a path.
#[derive(Debug, Clone, Default)]
struct Bucket {
    /// As in [`Group`]: what is outranked by a longer path is not even touched.
    top: u64,
    lists: Arc<Lists>,
}

/// Lists of candidates, best first.
#[derive(Debug, Clone, Default)]
struct Lists {
    others: Vec<Candidate>,
    /// Those that want one of some literal values of a header, by the first such header: a thousand tenants told
    /// apart by a header cost no more than one.
    by_header: Vec<ByHeader>,
    /// Of the rest, those that are for certain server names, which only matter over TLS. Boxed: most have none.
    by_sni: Option<Box<BySni>>,
}

/// Candidates for whole server names, so that a thousand tenants told apart by name cost no more than one.
#[derive(Debug, Clone, Default)]
struct BySni {
    /// By hash of the name, as in [`ByHeader`].
    names: HashMap<u64, Vec<Candidate>, FixedState>,
    /// The same, for requests without TLS: any of them takes those.
    all: Vec<Candidate>,
}

#[derive(Debug, Clone)]
struct ByHeader {
    name: HeaderName,
    /// By hash of the value in lower case. Values that collide share a list: each candidate is checked anyway.
    values: HashMap<u64, Vec<Candidate>, FixedState>,
}

impl Bucket {
    fn insert(&mut self, candidate: &Candidate) {
        self.top = self.top.max(candidate.rank.priority());
        Arc::make_mut(&mut self.lists).insert(candidate);
    }

    fn remove(&mut self, candidate: &Candidate) {
        Arc::make_mut(&mut self.lists).remove(candidate);
    }

    fn is_empty(&self) -> bool {
        self.lists.others.is_empty() && self.lists.by_header.is_empty() && self.lists.by_sni.is_none()
    }

    fn find<'r>(&'r self, query: &Query<'_>, best: &mut Best<'r>) {
        if self.top < best.rank.priority() {
            return;
        }
        for by in &self.lists.by_header {
            query.headers.each(by.name.as_str(), &mut |value| {
                if let Some(candidates) = by.values.get(&hash(value)) {
                    best.consider(candidates, query);
                }
            });
        }
        if let Some(by_sni) = &self.lists.by_sni {
            best.consider(by_sni.of(query), query);
        }
        best.consider(&self.lists.others, query);
    }
}

impl Lists {
    fn insert(&mut self, candidate: &Candidate) {
        let Some(header) = literal_header(&candidate.rule) else {
            return if has_whole_names(&candidate.rule) {
                self.by_sni.get_or_insert_default().insert(candidate);
            } else {
                insert(&mut self.others, candidate);
            };
        };
        let at = self.by_header.iter().position(|by| by.name == header.name).unwrap_or_else(|| {
            self.by_header.push(ByHeader { name: header.name.clone(), values: HashMap::default() });
            self.by_header.len() - 1
        });
        for hash in literal_hashes(header) {
            insert(self.by_header[at].values.entry(hash).or_default(), candidate);
        }
    }

    fn remove(&mut self, candidate: &Candidate) {
        let Some(header) = literal_header(&candidate.rule) else {
            let Some(by_sni) = self.by_sni.as_mut().filter(|_| has_whole_names(&candidate.rule)) else {
                return remove(&mut self.others, candidate);
            };
            by_sni.remove(candidate);
            if by_sni.all.is_empty() {
                self.by_sni = None;
            }
            return;
        };
        let Some(by) = self.by_header.iter_mut().find(|by| by.name == header.name) else { return };
        for hash in literal_hashes(header) {
            if let Some(list) = by.values.get_mut(&hash) {
                remove(list, candidate);
                if list.is_empty() {
                    by.values.remove(&hash);
                }
            }
        }
        self.by_header.retain(|by| !by.values.is_empty());
    }
}

impl Lists {
    fn rival(&self, candidate: &Candidate) -> Option<usize> {
        let in_list = |list: &[Candidate]| {
            let priority = candidate.rank.priority();
            let from = list.partition_point(|known| known.rank.priority() > priority);
            let equals = list.iter().skip(from).take_while(|known| known.rank.priority() == priority);
            let mut rivals = equals.filter(|known| known.rivals(candidate));
            rivals.next().map(|rival| rival.rank.route())
        };
        let Some(header) = literal_header(&candidate.rule) else {
            let by_sni = self.by_sni.as_ref().filter(|_| has_whole_names(&candidate.rule));
            return in_list(by_sni.map_or(&self.others, |by_sni| &by_sni.all));
        };
        let by = self.by_header.iter().find(|by| by.name == header.name)?;
        literal_hashes(header).find_map(|hash| in_list(by.values.get(&hash)?))
    }
}

impl Candidate {
    /// Whether both are of different routes and may well match the same request.
    fn rivals(&self, other: &Self) -> bool {
        let (mine, others) = (&self.rule.methods, &other.rule.methods);
        self.rank.route() != other.rank.route()
            && self.port == other.port
            && self.pattern() == other.pattern()
            && self.rule.headers == other.rule.headers
            && (mine.is_empty() || others.is_empty() || mine.iter().any(|method| others.contains(method)))
            && (self.rule.snis.is_empty() || self.rule.snis == other.rule.snis)
    }
}

impl BySni {
    fn insert(&mut self, candidate: &Candidate) {
        for name in names(&candidate.rule) {
            insert(self.names.entry(hash(name.as_bytes())).or_default(), candidate);
        }
        insert(&mut self.all, candidate);
    }

    fn remove(&mut self, candidate: &Candidate) {
        for name in names(&candidate.rule) {
            let key = hash(name.as_bytes());
            if let Some(list) = self.names.get_mut(&key) {
                remove(list, candidate);
                if list.is_empty() {
                    self.names.remove(&key);
                }
            }
        }
        remove(&mut self.all, candidate);
    }

    /// Those that may take a request.
    fn of(&self, query: &Query<'_>) -> &[Candidate] {
        if !query.is_tls {
            return &self.all;
        }
        query.sni.and_then(|sni| self.names.get(&hash(sni.as_bytes()))).map_or(&[], Vec::as_slice)
    }
}

/// Whether a rule is for server names, of which none has a wildcard.
fn has_whole_names(rule: &Rule) -> bool {
    !rule.snis.is_empty() && rule.snis.iter().all(|sni| !sni.is_wildcard())
}

fn names(rule: &Rule) -> impl Iterator<Item = &str> {
    rule.snis.iter().filter_map(SniPattern::whole)
}

fn insert(list: &mut Vec<Candidate>, candidate: &Candidate) {
    let at = list.partition_point(|known| known.rank > candidate.rank);
    // Two hosts of a route may have one key (`a.com:80`, `a.com:81`), or a value stand there twice.
    list.insert(at, candidate.clone());
}

fn remove(list: &mut Vec<Candidate>, candidate: &Candidate) {
    let is_it = |known: &Candidate| known.rank == candidate.rank && known.port == candidate.port;
    if let Some(at) = list.iter().position(is_it) {
        list.remove(at);
    }
}

/// The first header that wants nothing but literal values.
fn literal_header(rule: &Rule) -> Option<&HeaderRule> {
    let is_literal = |value: &HeaderPattern| match value {
        HeaderPattern::Literal(_) => true,
        HeaderPattern::Regex(_) => false,
    };
    rule.headers.iter().find(|header| header.values.iter().all(is_literal) && !header.values.is_empty())
}

fn literal_hashes(header: &HeaderRule) -> impl Iterator<Item = u64> {
    header.values.iter().filter_map(|value| match value {
        HeaderPattern::Literal(literal) => Some(hash(literal.as_str().as_bytes())),
        HeaderPattern::Regex(_) => None,
    })
}

/// Of the value in lower case, a piece at a time, so that nothing is allocated.
fn hash(value: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    for piece in value.chunks(32) {
        let mut lower = [0; 32];
        for (lower, byte) in lower.iter_mut().zip(piece) {
            *lower = byte.to_ascii_lowercase();
        }
        hasher.write(&lower[..piece.len()]);
    }
    hasher.finish()
}
