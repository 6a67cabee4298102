//! The pure state behind [`super::Nodes`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use equipoise_identity::Role;
use equipoise_proto::{ContentHash, EntityKind, NodeId, Position};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::SendFull;
use super::away::Away;
use super::health::{ReportError, ReportedTarget, Reports, View};
use super::inspect::{Asking, Asks, Scope};
use super::record::Known;
use crate::identity::ledger::Place;

/// How long a node that left stays listed (Kong: `cluster_data_plane_purge_delay`).
pub const FORGET_AFTER: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Bounds of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Nodes known at once, connected or not. One that left makes room for one that joins.
    pub nodes_max: usize,
    /// Targets that one node may have reported.
    pub reported_targets_max: usize,
    /// Addresses that one node may have reported, of all its targets together.
    pub reported_addresses_max: usize,
}

impl Default for Limits {
    /// 5,000 nodes; 200,000 targets a node, twice the largest config that was measured, of two addresses each.
    fn default() -> Self {
        Self { nodes_max: 5_000, reported_targets_max: 200_000, reported_addresses_max: 400_000 }
    }
}

/// Who a node says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id, stable over its restarts.
    pub id: NodeId,
    /// Whether it serves requests, or other nodes.
    pub role: Role,
    /// The relay that it follows; `None` of those that follow us.
    pub via: Option<NodeId>,
    /// Its host's name.
    pub hostname: String,
    /// Where its stream comes from; `None` over an in-memory pipe.
    pub address: Option<IpAddr>,
    /// Where its Status API listens; "" if nowhere.
    pub status_address: String,
    /// Its region; "" if none is set.
    pub region: String,
    /// Its zone; "" if none is set.
    pub zone: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its own version.
    pub build: String,
    /// Protocol version spoken with it: the highest that both ends know.
    pub protocol: u32,
    /// The certificate that it shows; `None` without mTLS.
    pub certificate: Option<ShownCertificate>,
    /// Whether it lets its clients go, as it says in its hello.
    pub is_away: bool,
}

/// What is told of a node's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCertificate {
    /// In hexadecimal.
    pub serial: String,
    /// When it runs out.
    pub not_after: SystemTime,
}

impl NodeInfo {
    /// What the cluster says of it wins over what it says itself.
    pub fn bind(&mut self, place: Place, certificate: Option<ShownCertificate>) {
        if let Some(region) = place.region {
            self.region = region;
        }
        if let Some(zone) = place.zone {
            self.zone = zone;
        }
        self.labels.extend(place.labels);
        self.certificate = certificate;
    }

    /// Where it is; one over an in-memory pipe is on this host.
    pub fn ip(&self) -> IpAddr {
        self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// What a node serves when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Which config.
    pub position: Position,
    /// Whether it is warm at that.
    pub is_warm: bool,
}

/// How far an ack goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The table is swapped in.
    Applied,
    /// Its new names are resolved and its new targets probed, or given up on.
    Warm,
}

/// Why a node refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NackCause {
    /// An entity does not compile.
    Invalid,
    /// The content hash did not come out.
    Drift,
    /// It needs a newer node.
    Protocol,
}

/// A refusal, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NackRecord {
    /// What was refused.
    pub position: Position,
    /// Why.
    pub cause: NackCause,
    /// The entity to blame, if one is.
    pub entity: Option<(EntityKind, Uuid)>,
    /// Its field; "" if none is to blame.
    pub field: String,
    /// For people.
    pub reason: String,
    /// When it arrived.
    pub at: SystemTime,
}

/// A node as the Admin API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Who it says it is.
    pub info: NodeInfo,
    /// What it serves; `None` if nothing yet.
    pub position: Option<Position>,
    /// Whether it is warm at that position.
    pub is_warm: bool,
    /// Revisions that it is behind; `None` when its position is of another history, or it has none.
    pub lag: Option<u64>,
    /// Number of its stream, or of its last one; a later one is larger.
    pub session: u64,
    /// Since when its stream is open; `None`: it is gone.
    pub connected_since: Option<SystemTime>,
    /// When it was last heard of.
    pub last_contact: SystemTime,
    /// When it last applied something, and how long that took from receipt to swap.
    pub last_apply: Option<(SystemTime, Duration)>,
    /// Its last refusal, kept until it applies that revision or a later one.
    pub last_nack: Option<NackRecord>,
    /// Whether it is to let its clients go.
    pub is_away: bool,
}

impl NodeView {
    /// Hash of what it serves as it is shown, in as many hexadecimal digits as the reference's has (32); that of the
    /// empty config if nothing.
    pub fn config_hash(&self) -> String {
        let hash = self.position.map_or(ContentHash::EMPTY, |position| position.content_hash);
        format!("{:.32}", hash.to_string())
    }
}

/// Why a node may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// As many nodes as allowed are connected.
    #[error("{0} nodes are connected, which is the limit")]
    Full(usize),
}

/// Why a node is not forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DropError {
    /// There is none with this id.
    #[error("not a known node")]
    Unknown,
    /// Its stream is open.
    #[error("the node is connected: it would come back; stop it first, or say force=true to end its stream")]
    Connected,
}

/// A node that reports never opened a config stream here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node {0} is not known: it has to open its config stream first")]
pub struct UnknownNode(pub NodeId);

/// Tells the streams of one node apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionNumber(u64);

/// A point in what has happened to the nodes so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Moment(u64);

/// Where a node stands with a position somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Applied,
    Refused,
    Pending,
    Left,
}

#[derive(Debug)]
struct Stream {
    number: SessionNumber,
    since: SystemTime,
    ended: CancellationToken,
    asks: Asks,
}

#[derive(Debug)]
struct Node {
    info: NodeInfo,
    stream: Option<Stream>,
    /// Of its newest stream.
    session: SessionNumber,
    position: Option<Position>,
    is_warm: bool,
    last_contact: SystemTime,
    last_apply: Option<(SystemTime, Duration)>,
    last_nack: Option<NackRecord>,
    /// `None` until its first full list.
    reports: Option<Reports>,
    /// Whether it is to let its clients go; its stream looks at it.
    away: Away,
    /// When something was heard of it that a waiting write may want to know.
    changed: Moment,
    /// Whether it is here because it was known before a restart, and nobody spoke of it since.
    is_restored: bool,
}

impl Node {
    fn view(&self, head: &Position) -> NodeView {
        let lag = self
            .position
            .filter(|position| position.epoch == head.epoch)
            .and_then(|position| head.revision.get().checked_sub(position.revision.get()));
        NodeView {
            info: self.info.clone(),
            position: self.position,
            is_warm: self.is_warm,
            lag,
            session: self.session.0,
            connected_since: self.stream.as_ref().map(|stream| stream.since),
            last_contact: self.last_contact,
            last_apply: self.last_apply,
            last_nack: self.last_nack.clone(),
            is_away: self.away.is_set(),
        }
    }

    fn is_session(&self, number: SessionNumber) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.number == number)
    }
}

/// All known nodes.
#[derive(Debug)]
pub(super) struct Registry {
    limits: Limits,
    nodes: BTreeMap<NodeId, Node>,
    sessions: u64,
    connected: usize,
    now: Moment,
    /// Every node, by its last change.
    by_change: BTreeMap<Moment, NodeId>,
    /// When a node was forgotten last.
    forgot: Moment,
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            nodes: BTreeMap::new(),
            sessions: 0,
            connected: 0,
            now: Moment::default(),
            by_change: BTreeMap::new(),
            forgot: Moment::default(),
        }
    }

    pub(super) fn join(
        &mut self,
        info: NodeInfo,
        serving: Option<Serving>,
        (ended, asks): (CancellationToken, Asks),
        now: SystemTime,
    ) -> Result<SessionNumber, JoinError> {
        self.forget(now);
        if !self.nodes.contains_key(&info.id) && self.nodes.len() >= self.limits.nodes_max {
            let gone = self.nodes.iter().filter(|(_, node)| node.stream.is_none());
            let oldest = gone.min_by_key(|(_, node)| node.last_contact).map(|(id, _)| *id);
            let Some(oldest) = oldest else { return Err(JoinError::Full(self.nodes.len())) };
            self.remove(oldest);
        }
        self.sessions += 1;
        let number = SessionNumber(self.sessions);
        let stream = Stream { number, since: now, ended, asks };
        let id = info.id;
        let before = self.nodes.remove(&id);
        match before.as_ref().and_then(|node| node.stream.as_ref()) {
            Some(older) => older.ended.cancel(),
            None => self.connected += 1,
        }
        let changed = before.as_ref().map_or(Moment::default(), |node| node.changed);
        // What an operator said here counts; after a restart, what the node remembers of it.
        let away = match &before {
            // Either may have missed the last word before the restart: none is let loose by mistake.
            Some(node) if node.is_restored => Away::new(info.is_away || node.away.is_set()),
            Some(node) => node.away.clone(),
            None => Away::new(info.is_away),
        };
        let (last_apply, last_nack, reports) =
            before.map_or((None, None, None), |node| (node.last_apply, node.last_nack, node.reports));
        let node = Node {
            info,
            stream: Some(stream),
            session: number,
            position: serving.map(|serving| serving.position),
            is_warm: serving.is_some_and(|serving| serving.is_warm),
            last_contact: now,
            last_apply,
            last_nack,
            reports,
            away,
            changed,
            is_restored: false,
        };
        self.nodes.insert(id, node);
        self.touch(id);
        Ok(number)
    }

    /// What is worth to be known after a restart.
    pub(super) fn known(&self) -> Vec<Known> {
        let known = |node: &Node| Known {
            info: NodeInfo { is_away: node.away.is_set(), ..node.info.clone() },
            last_contact: node.last_contact,
        };
        self.nodes.values().map(known).collect()
    }

    /// Takes in what was known before a restart, as nodes that are gone. Of too many, those heard of last.
    pub(super) fn restore(&mut self, mut known: Vec<Known>, now: SystemTime) {
        known.sort_by_key(|known| std::cmp::Reverse(known.last_contact));
        for Known { info, last_contact } in known {
            let id = info.id;
            if self.nodes.len() >= self.limits.nodes_max || self.nodes.contains_key(&id) {
                continue;
            }
            let node = Node {
                away: Away::new(info.is_away),
                info,
                stream: None,
                session: SessionNumber(0),
                position: None,
                is_warm: false,
                // A clock that was ahead then must not keep it for ever.
                last_contact: last_contact.min(now),
                last_apply: None,
                last_nack: None,
                reports: None,
                changed: Moment::default(),
                is_restored: true,
            };
            self.nodes.insert(id, node);
            self.touch(id);
        }
        self.forget(now);
    }

    pub(super) fn leave(&mut self, id: NodeId, number: SessionNumber) {
        if let Some(node) = self.session(id, number) {
            node.stream = None;
            self.connected -= 1;
            self.touch(id);
        }
    }

    pub(super) fn contact(&mut self, id: NodeId, number: SessionNumber, now: SystemTime) {
        if let Some(node) = self.session(id, number) {
            node.last_contact = now;
        }
    }

    pub(super) fn acked(
        &mut self,
        id: NodeId,
        number: SessionNumber,
        position: Position,
        stage: Stage,
        apply_micros: u64,
        now: SystemTime,
    ) {
        let Some(node) = self.session(id, number) else { return };
        node.last_contact = now;
        match stage {
            Stage::Applied => {
                node.position = Some(position);
                node.is_warm = false;
                node.last_apply = Some((now, Duration::from_micros(apply_micros)));
                if node.last_nack.as_ref().is_some_and(|nack| !is_before(&position, &nack.position)) {
                    node.last_nack = None;
                }
            }
            // It may come after the node has applied something newer, which has a warm-up of its own.
            Stage::Warm => node.is_warm = node.is_warm || node.position == Some(position),
        }
        self.touch(id);
    }

    pub(super) fn nacked(&mut self, id: NodeId, number: SessionNumber, nack: NackRecord) {
        if let Some(node) = self.session(id, number) {
            node.last_contact = nack.at;
            node.last_nack = Some(nack);
            self.touch(id);
        }
    }

    /// Drops nodes that left long ago.
    pub(super) fn forget(&mut self, now: SystemTime) {
        let is_old = |node: &Node| {
            node.stream.is_none() && now.duration_since(node.last_contact).unwrap_or_default() >= FORGET_AFTER
        };
        let old: Vec<NodeId> =
            self.nodes.iter().filter(|(_, node)| is_old(node)).map(|(id, _)| *id).collect();
        old.into_iter().for_each(|id| self.remove(id));
    }

    /// Forgets one node now. One that is connected only by force: its stream is told to end.
    pub(super) fn drop_node(&mut self, id: NodeId, is_forced: bool) -> Result<(), DropError> {
        let node = self.nodes.get(&id).ok_or(DropError::Unknown)?;
        match &node.stream {
            Some(_) if !is_forced => return Err(DropError::Connected),
            Some(stream) => {
                stream.ended.cancel();
                self.connected -= 1;
            }
            None => {}
        }
        self.remove(id);
        Ok(())
    }

    /// Whether a node is to let its clients go: looked at by its stream.
    pub(super) fn away(&self, id: NodeId) -> Option<&Away> {
        self.nodes.get(&id).map(|node| &node.away)
    }

    /// An operator lets a node's clients go, or stay; whether it is known.
    pub(super) fn set_away(&mut self, id: NodeId, is_away: bool) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        node.is_restored = false;
        node.away.set(is_away);
        true
    }

    fn remove(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            self.by_change.remove(&node.changed);
            self.now.0 += 1;
            self.forgot = self.now;
        }
    }

    /// Something was heard of a node.
    fn touch(&mut self, id: NodeId) {
        self.now.0 += 1;
        if let Some(node) = self.nodes.get_mut(&id) {
            self.by_change.remove(&node.changed);
            node.changed = self.now;
            self.by_change.insert(self.now, id);
        }
    }

    /// Up to where things have happened.
    pub(super) const fn now(&self) -> Moment {
        self.now
    }

    /// Nodes of which something was heard after `moment`; `None` where that is not known any more, because one
    /// was forgotten since.
    pub(super) fn changed_since(&self, moment: Moment) -> Option<impl Iterator<Item = NodeId>> {
        let after = (Bound::Excluded(moment), Bound::Unbounded);
        (self.forgot <= moment).then(|| self.by_change.range(after).map(|(_, id)| *id))
    }

    /// Puts a full list in the place of what the node said before, which is returned.
    pub(super) fn report_all(
        &mut self,
        id: NodeId,
        reports: Reports,
        now: SystemTime,
    ) -> Result<Option<Reports>, UnknownNode> {
        Ok(self.reporter(id, now)?.reports.replace(reports))
    }

    pub(super) fn report(
        &mut self,
        id: NodeId,
        changes: Vec<ReportedTarget>,
        now: SystemTime,
    ) -> Result<SendFull, ReportError> {
        let limits = self.limits;
        let node = self.reporter(id, now)?;
        // Changes to a list that is not known say little: ask for the list.
        let Some(reports) = node.reports.as_mut() else { return Ok(SendFull::Yes) };
        let taken = reports.take(changes, &limits);
        if taken.is_err() {
            node.reports = None;
        }
        taken.map(|()| SendFull::No)
    }

    fn reporter(&mut self, id: NodeId, now: SystemTime) -> Result<&mut Node, UnknownNode> {
        let node = self.nodes.get_mut(&id).ok_or(UnknownNode(id))?;
        node.last_contact = node.last_contact.max(now);
        Ok(node)
    }

    pub(super) fn views(&self, head: &Position) -> Vec<NodeView> {
        self.nodes.values().map(|node| node.view(head)).collect()
    }

    pub(super) fn view(&self, id: NodeId, head: &Position) -> Option<NodeView> {
        self.nodes.get(&id).map(|node| node.view(head))
    }

    pub(super) const fn connected(&self) -> usize {
        self.connected
    }

    pub(super) fn connected_nodes(&self) -> usize {
        let connected = self.nodes.values().filter(|node| node.stream.is_some());
        connected.filter(|node| node.info.role == Role::Node).count()
    }

    /// Connected nodes, ascending by id. Relays are none: what they have is in force nowhere.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (NodeId, SessionNumber)> {
        let nodes = self.nodes.iter().filter(|(_, node)| node.info.role == Role::Node);
        nodes.filter_map(|(id, node)| node.stream.as_ref().map(|stream| (*id, stream.number)))
    }

    /// The first `most` connected nodes of a scope, ascending by id, with the way to ask them; and the number of the others.
    pub(super) fn inspectable(&self, scope: &Scope, most: usize) -> (Vec<Asking>, usize) {
        let of_scope =
            self.nodes.values().filter(|node| node.info.role == Role::Node && scope.has(&node.info));
        let mut connected = of_scope.filter_map(|node| Some((&node.info, node.stream.as_ref()?)));
        let first = connected.by_ref().take(most);
        let first =
            first.map(|(info, stream)| Asking(info.clone(), stream.number, stream.asks.clone())).collect();
        (first, connected.count())
    }

    /// The way to ask a node that is connected.
    pub(super) fn asks(&self, id: NodeId) -> Option<&Asks> {
        self.nodes.get(&id)?.stream.as_ref().map(|stream| &stream.asks)
    }

    /// Whether this is the node's stream now.
    pub(super) fn is_session(&self, id: NodeId, number: SessionNumber) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_session(number))
    }

    pub(super) fn standing(&self, id: NodeId, number: SessionNumber, wanted: &Position) -> Standing {
        let Some(node) = self.nodes.get(&id) else { return Standing::Left };
        let reached = |position: &Position| position.epoch == wanted.epoch && !is_before(position, wanted);
        if node.position.as_ref().is_some_and(reached) {
            Standing::Applied
        } else if node.last_nack.as_ref().is_some_and(|nack| reached(&nack.position)) {
            Standing::Refused
        } else if node.is_session(number) {
            Standing::Pending
        } else {
            Standing::Left
        }
    }

    /// The reports that count for a view. A node that left is no witness.
    pub(super) fn reporters(&self, view: View) -> impl Iterator<Item = &Reports> {
        self.nodes
            .iter()
            .filter(move |(id, node)| match view {
                View::Majority => node.stream.is_some(),
                View::Node(wanted) => **id == wanted,
            })
            .filter_map(|(_, node)| node.reports.as_ref())
    }

    pub(super) fn reporters_in(&self, region: &str, zone: &str) -> impl Iterator<Item = &Reports> {
        let is_there = move |node: &&Node| node.info.region == region && node.info.zone == zone;
        let connected = self.nodes.values().filter(|node| node.stream.is_some());
        connected.filter(is_there).filter_map(|node| node.reports.as_ref())
    }

    fn session(&mut self, id: NodeId, number: SessionNumber) -> Option<&mut Node> {
        self.nodes.get_mut(&id).filter(|node| node.is_session(number))
    }
}

/// Whether a node at `position` has not reached `wanted`. Another history counts as reached: it can only have
/// replaced the one of `wanted`.
fn is_before(position: &Position, wanted: &Position) -> bool {
    position.epoch == wanted.epoch && position.revision < wanted.revision
}
