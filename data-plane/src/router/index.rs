//! Candidates by host, by beginning of the path, and by header value.
//!
//! Each candidate is one path of one route under one of its hosts. What the place in the index does not prove
//! (port, method, headers, SNI, a regex) is checked on the candidate.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use equipoise_proto::{HeaderName, HeaderPattern, PathPattern};
use foldhash::fast::FixedState;

use super::rank::Rank;
use super::trie::Trie;
use super::{HeaderRule, Query, Rule};

/// One path of one route under one host.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) rank: Rank,
    pub(super) rule: Arc<Rule>,
    /// What the host pattern says.
    pub(super) port: Option<u16>,
}

impl Candidate {
    fn path(&self) -> Option<&PathPattern> {
        self.rank.path().and_then(|path| self.rule.paths.get(path))
    }

    /// Bytes of the path that match, if all of the candidate does.
    fn check(&self, query: &Query<'_>) -> Option<usize> {
        let rule = &*self.rule;
        let fits = self.port.is_none_or(|port| port == query.port)
            && (rule.methods.is_empty() || rule.methods.iter().any(|known| known.as_bytes() == query.method))
            && rule.takes_sni(query)
            && rule.headers.iter().all(|header| header.matches(query));
        if !fits {
            return None;
        }
        match self.path() {
            None => Some(0),
            Some(PathPattern::Prefix(prefix)) => Some(prefix.as_str().len()),
            Some(PathPattern::Regex(regex)) => regex.match_len(query.path),
        }
    }
}

/// The best candidate so far that matches.
pub(super) struct Best<'r> {
    pub(super) rank: Rank,
    pub(super) found: Option<(&'r Candidate, usize)>,
}

impl<'r> Best<'r> {
    fn consider(&mut self, candidates: &'r [Candidate], query: &Query<'_>) {
        for candidate in candidates {
            if candidate.rank <= self.rank {
                return;
            }
            if let Some(prefix_bytes) = candidate.check(query) {
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
    /// By prefix path, or what a regex's matches begin with; "" without path.
    paths: Trie<Bucket>,
    /// No candidate ranks higher. It is not lowered when one leaves: that costs speed at most.
    top: Option<Rank>,
    count: usize,
}

impl Group {
    pub(super) fn insert(&mut self, candidate: &Candidate) {
        self.top = self.top.max(Some(candidate.rank));
        self.count += 1;
        self.paths.entry(path_key(candidate)).insert(candidate);
    }

    pub(super) fn remove(&mut self, candidate: &Candidate) {
        let key = path_key(candidate);
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

    /// Improves `best` with what is here.
    pub(super) fn find<'r>(&'r self, query: &Query<'_>, best: &mut Best<'r>) {
        if self.top.is_none_or(|top| top <= best.rank) {
            return;
        }
        self.paths.walk_back(query.path, |_, bucket| bucket.find(query, best));
    }
}

fn path_key(candidate: &Candidate) -> &[u8] {
    match candidate.path() {
        None => b"",
        Some(PathPattern::Prefix(prefix)) => prefix.as_str().as_bytes(),
        Some(PathPattern::Regex(regex)) => regex.literal_prefix(),
    }
}

/// The candidates under one host and one beginning of a path, best first.
#[derive(Debug, Clone, Default)]
struct Bucket {
    candidates: Vec<Candidate>,
    /// Those that want one of some literal values of a header, by the first such header: a thousand tenants told
    /// apart by a header cost no more than one.
    by_header: Vec<ByHeader>,
}

#[derive(Debug, Clone)]
struct ByHeader {
    name: HeaderName,
    /// By hash of the value in lower case. Values that collide share a list: each candidate is checked anyway.
    values: HashMap<u64, Vec<Candidate>, FixedState>,
}

impl Bucket {
    fn insert(&mut self, candidate: &Candidate) {
        let Some(header) = literal_header(&candidate.rule) else {
            return insert(&mut self.candidates, candidate);
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
            return remove(&mut self.candidates, candidate);
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

    const fn is_empty(&self) -> bool {
        self.candidates.is_empty() && self.by_header.is_empty()
    }

    fn find<'r>(&'r self, query: &Query<'_>, best: &mut Best<'r>) {
        for by in &self.by_header {
            query.headers.each(by.name.as_str(), &mut |value| {
                if let Some(candidates) = by.values.get(&hash(value)) {
                    best.consider(candidates, query);
                }
            });
        }
        best.consider(&self.candidates, query);
    }
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
