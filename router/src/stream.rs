//! Which route a connection or a datagram goes to that speaks no HTTP: pure.
//!
//! Source: Kong 3.10, flavour `traditional_compatible` (`proxy.md` 3.4); where it differs, the item says so. As with
//! requests, an index finds the few routes that can match (by server name, else by destination, else by source), the
//! greatest rank wins, and a clone shares everything.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use equipoise_proto::sni::SniShape;
use equipoise_proto::{NetworkRange, SniPattern};
use imbl::Vector;
use uuid::Uuid;

use super::trie::Trie;

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// UDP.
    Udp,
}

/// What the router looks at.
#[derive(Debug, Clone, Copy)]
pub struct StreamQuery<'a> {
    /// How the client came.
    pub transport: Transport,
    /// The client.
    pub source: SocketAddr,
    /// Where it came in.
    pub destination: SocketAddr,
    /// Server name of its handshake, lower case. Without one `snis` are not looked at.
    pub sni: Option<&'a str>,
}

/// How a session may come to be a route's.
///
/// The reference takes the route that wins whatever it is for, and then fails or serves it all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transports {
    /// TCP.
    pub tcp: bool,
    /// TLS that ends here.
    pub tls: bool,
    /// TLS that is passed on; needs a server name.
    pub tls_passthrough: bool,
    /// UDP.
    pub udp: bool,
}

impl Transports {
    const fn take(self, query: &StreamQuery<'_>) -> bool {
        match query.transport {
            Transport::Tcp => self.tcp,
            Transport::Udp => self.udp,
            Transport::Tls => self.tls || (self.tls_passthrough && query.sni.is_some()),
        }
    }
}

/// One element of `sources` or `destinations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Its address is one of these.
    pub network: Option<NetworkRange>,
    /// Its port is this.
    pub port: Option<u16>,
}

impl End {
    fn matches(&self, address: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == address.port())
            && self.network.is_none_or(|network| network.contains(address.ip()))
    }
}

/// What the router knows of one route. An empty list does not restrict; of a list, any entry may match; of the
/// lists, all must.
#[derive(Debug, Clone, Default)]
pub struct StreamRule {
    /// Of the route: breaks ties.
    pub id: Uuid,
    /// How sessions may come.
    pub transports: Transports,
    /// Clients it is for.
    pub sources: Vec<End>,
    /// Addresses it is for that clients come in by.
    pub destinations: Vec<End>,
    /// Server names it is for; only looked at where there is one.
    pub snis: Vec<SniPattern>,
}

impl StreamRule {
    fn matches(&self, query: &StreamQuery<'_>) -> bool {
        let is_one = |ends: &[End], address| ends.is_empty() || ends.iter().any(|end| end.matches(address));
        let is_named = |sni: &str| self.snis.is_empty() || self.snis.iter().any(|one| one.matches(sni));
        self.transports.take(query)
            && query.sni.is_none_or(is_named)
            && is_one(&self.sources, query.source)
            && is_one(&self.destinations, query.destination)
    }

    /// Bit 61: whether there are server names, or sources as well as destinations; then what the sources and the
    /// destinations say, four bits each.
    fn priority(&self) -> u64 {
        let has_both = !self.sources.is_empty() && !self.destinations.is_empty();
        let is_narrow = has_both || !self.snis.is_empty();
        u64::from(is_narrow) << 61 | said(&self.sources) << 4 | said(&self.destinations)
    }

    /// Under what it is found by those who come with one of its server names.
    fn names(&self) -> impl Iterator<Item = Vec<u8>> {
        self.snis.iter().map(|sni| match sni.shape() {
            SniShape::Exact(name) => reversed(name).chain([ENDED]).collect(),
            SniShape::Suffix(suffix) => reversed(suffix).collect(),
            SniShape::Prefix(prefix) => [BEGINS].into_iter().chain(prefix.bytes()).collect(),
        })
    }

    /// Under what it is found by all others.
    fn ends(&self) -> Vec<Vec<u8>> {
        match (&*self.destinations, &*self.sources) {
            ([], []) => vec![Vec::new()],
            ([], sources) => sources.iter().map(|end| end_key(SOURCE, end)).collect(),
            (destinations, _) => destinations.iter().map(|end| end_key(DESTINATION, end)).collect(),
        }
    }
}

/// 8 for an address, 4 for a port, 1 for a network.
fn said(ends: &[End]) -> u64 {
    ends.iter().fold(0, |said, end| {
        let network = match end.network {
            Some(network) if network.is_address() => 8,
            Some(_) => 1,
            None => 0,
        };
        said | network | if end.port.is_some() { 4 } else { 0 }
    })
}

/// Follows a name that is meant as a whole, written backwards.
const ENDED: u8 = 0;
/// Comes before the beginning of a name.
const BEGINS: u8 = 1;

fn reversed(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().rev()
}

const SOURCE: u8 = b's';
const DESTINATION: u8 = b'd';
const ANY_PORT: u8 = b'*';
const ONE_PORT: u8 = b'=';

/// An element as a key that the keys of all addresses that it matches begin with.
fn end_key(side: u8, end: &End) -> Vec<u8> {
    let mut key = port_key(side, end.port);
    if let Some(network) = &end.network {
        let (address, bits) = network.prefix();
        push_address(&mut key, address, bits);
    }
    key
}

fn port_key(side: u8, port: Option<u16>) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + 1 + 128);
    match port {
        None => key.extend([side, ANY_PORT]),
        Some(port) => {
            key.extend([side, ONE_PORT]);
            key.extend(port.to_be_bytes());
        }
    }
    key
}

/// Appends the first bits of an address, a byte each.
fn push_address(key: &mut Vec<u8>, address: IpAddr, bits: u8) {
    let (family, number) = match address {
        IpAddr::V4(address) => (4, u128::from(address.to_bits()) << 96),
        IpAddr::V6(address) => (6, address.to_bits()),
    };
    key.push(family);
    key.extend((0..u32::from(bits)).map(|bit| u8::from(number >> (127 - bit) & 1 == 1)));
}

/// Place of a route in the order of trial: the greatest that matches wins; of two of one priority, that with the larger
/// id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    priority: u64,
    id: Uuid,
    /// Two rules with one id do not occur in a config; the order is total all the same.
    route: Reverse<usize>,
}

#[derive(Debug, Clone)]
struct Candidate {
    rank: Rank,
    rule: Arc<StreamRule>,
}

/// Best first.
type Candidates = Arc<Vec<Candidate>>;

/// Stream routes, indexed. A clone is cheap and shares everything.
#[derive(Debug, Clone, Default)]
pub struct StreamRouter {
    rules: Vector<Option<Arc<StreamRule>>>,
    by_name: Trie<Candidates>,
    /// Those without server names, by their ends.
    nameless: Trie<Candidates>,
    /// Those with server names, by their ends: for clients that send none.
    named: Trie<Candidates>,
}

impl StreamRouter {
    /// Puts `rule` at index `route` in place of what is there; `None` leaves the place empty. Cost: that of the two
    /// rules, and of lists of routes that the index does not tell apart.
    pub fn set(&mut self, route: usize, rule: Option<StreamRule>) {
        if rule.is_none() && self.rules.get(route).is_none_or(Option::is_none) {
            return;
        }
        while self.rules.len() <= route {
            self.rules.push_back(None);
        }
        let rule = rule.map(Arc::new);
        let before = self.rules.set(route, rule.clone());
        if let Some(before) = before {
            let rank = rank(&before, route);
            self.each_place(&before, |trie, key| {
                let list = trie.entry(key);
                Arc::make_mut(list).retain(|candidate| candidate.rank != rank);
                if list.is_empty() {
                    trie.remove(key);
                }
            });
        }
        if let Some(rule) = rule {
            let rank = rank(&rule, route);
            self.each_place(&rule, |trie, key| {
                let list = Arc::make_mut(trie.entry(key));
                // Under one key once, however often its list has it.
                if let Err(at) = list.binary_search_by(|candidate| rank.cmp(&candidate.rank)) {
                    list.insert(at, Candidate { rank, rule: Arc::clone(&rule) });
                }
            });
        }
    }

    fn each_place(&mut self, rule: &StreamRule, mut place: impl FnMut(&mut Trie<Candidates>, &[u8])) {
        rule.names().for_each(|key| place(&mut self.by_name, &key));
        let Transports { tcp, tls, udp, tls_passthrough: _ } = rule.transports;
        if rule.snis.is_empty() {
            rule.ends().iter().for_each(|key| place(&mut self.nameless, key));
        } else if tcp || tls || udp {
            rule.ends().iter().for_each(|key| place(&mut self.named, key));
        }
    }

    /// The route of a session: an index as it was given to [`Self::set`].
    pub fn find(&self, query: &StreamQuery<'_>) -> Option<usize> {
        let mut best: Option<&Candidate> = None;
        match query.sni {
            Some(sni) => {
                let whole: Vec<u8> = reversed(sni).chain([ENDED]).collect();
                let begun: Vec<u8> = [BEGINS].into_iter().chain(sni.bytes()).collect();
                for key in [whole, begun] {
                    self.by_name.walk_back(&key, |_, list| consider(list, query, &mut best));
                }
            }
            None => self.find_by_ends(&self.named, query, &mut best),
        }
        self.find_by_ends(&self.nameless, query, &mut best);
        Some(best?.rank.route.0)
    }

    fn find_by_ends<'r>(
        &self,
        trie: &'r Trie<Candidates>,
        query: &StreamQuery<'_>,
        best: &mut Option<&'r Candidate>,
    ) {
        if trie.is_empty() {
            return;
        }
        for (side, address) in [(DESTINATION, query.destination), (SOURCE, query.source)] {
            for port in [None, Some(address.port())] {
                let mut key = port_key(side, port);
                let ip = address.ip().to_canonical();
                push_address(&mut key, ip, if ip.is_ipv4() { 32 } else { 128 });
                // What restricts neither end lies at the root, before all keys: seen four times, which is no matter.
                trie.walk_back(&key, |_, list| consider(list, query, best));
            }
        }
    }
}

fn rank(rule: &StreamRule, route: usize) -> Rank {
    Rank { priority: rule.priority(), id: rule.id, route: Reverse(route) }
}

fn consider<'r>(list: &'r [Candidate], query: &StreamQuery<'_>, best: &mut Option<&'r Candidate>) {
    let better = |candidate: &&Candidate| best.is_none_or(|best| candidate.rank > best.rank);
    if let Some(found) = list.iter().take_while(better).find(|candidate| candidate.rule.matches(query)) {
        *best = Some(found);
    }
}

#[cfg(test)]
mod tests;
