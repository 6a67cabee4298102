//! Cells with their live state: what turns a compiled state into something that serves.
//!
//! Owned by the builder task alone, so no two writers can lose each other's update. Computes at a cost that
//! follows the cells at hand, never the config.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use equipoise_proto::placement::{Placement, TargetState};
use rand::Rng;
use rustls::sign::CertifiedKey;
use uuid::Uuid;

use super::changes::{Bell, Changes};
use super::clock;
use super::compile::{CellKey, CellSpec, Host};
use super::events::{Events, Why};
use super::judge::{Judging, Memory, NodePlace, judge};
use super::leaving::Leaving;
use super::members::{Member, MemberTarget, Members, Origin, literal_host};
use super::outliers::{Outliers, Turned};
use super::target::Target;
use super::upstream::{PickError, Upstream};
use crate::balancer::{Averaging, Ewma};
use crate::health::Checks;
use crate::observability::NodeState;

/// How long the state of a target that was removed is kept, in case it comes back.
///
/// Source: Kong 3.10.
pub const FORGET_AFTER: Duration = Duration::from_secs(300);

/// What a look-up gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Addresses, from records of this type (`A`, `AAAA`, `SRV`).
    Records(&'static str, Arc<[Resolved]>),
    /// The name does not exist or has no address.
    NoAddress,
    /// The look-up failed and there is nothing to fall back on.
    Failed(Box<str>),
}

impl Answer {
    /// Whether it leaves the name without an address.
    const fn is_failure(&self) -> bool {
        match self {
            Self::Records(..) => false,
            Self::NoAddress | Self::Failed(_) => true,
        }
    }
}

/// One address of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The address.
    pub ip: IpAddr,
    /// What an SRV record adds.
    pub srv: Option<SrvPart>,
}

/// What an SRV record adds to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvPart {
    /// The name that the record points to.
    pub name: Arc<str>,
    /// 0: the target's own.
    pub port: u16,
    /// Its share; 0 counts as 1.
    pub weight: u16,
}

/// Names a live state within its cell.
type Place = (Box<str>, SocketAddr);

/// By place. Addresses come from operators and their DNS, so that a hash against hostile ones would cost a start without
/// need.
type Places<T> = HashMap<Place, T, foldhash::fast::RandomState>;

/// One upstream cell and what it holds.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) upstream: Arc<Upstream>,
    pub(super) names: BTreeSet<Arc<str>>,
    states: Places<Arc<Target>>,
    bell: Arc<Bell>,
    checks: Option<Arc<Checks>>,
    memory: Memory,
    outliers: Option<Outliers>,
    leaving: Leaving,
}

impl Cell {
    /// When time alone changes who serves.
    pub(super) fn due(&self) -> Option<Instant> {
        let of_outliers = self.outliers.as_ref().map(Outliers::due);
        self.memory.due.into_iter().chain(of_outliers).chain(self.leaving.due()).min()
    }
}

/// States of removed targets, waiting to be forgotten.
#[derive(Debug, Default)]
struct Retired(HashMap<CellKey, Places<(Instant, Arc<Target>)>>);

/// All cells.
#[derive(Debug)]
pub(super) struct Live {
    cells: HashMap<CellKey, Cell>,
    retired: Retired,
    answers: HashMap<Arc<str>, Answered>,
    users: HashMap<Arc<str>, BTreeSet<CellKey>>,
    /// Names that lost their last user in the change that is being made.
    idle: BTreeSet<Arc<str>>,
    changes: Arc<Changes>,
    node: Arc<NodeState>,
    events: Arc<Events>,
    place: NodePlace,
    /// Targets of cells that went.
    pub(super) parting: Leaving,
}

/// What a look-up gave, and since when it has been a failure, or none.
#[derive(Debug)]
struct Answered {
    answer: Answer,
    since: SystemTime,
}

/// What became of a cell.
pub(super) struct Rebuilt {
    pub(super) name: Option<Box<str>>,
    pub(super) host_header: Option<Box<str>>,
    pub(super) client: Option<Arc<CertifiedKey>>,
    pub(super) members: Members,
}

impl Live {
    pub(super) fn new(
        changes: Arc<Changes>,
        node: Arc<NodeState>,
        events: Arc<Events>,
        place: NodePlace,
    ) -> Self {
        Self {
            place,
            parting: Leaving::default(),
            events,
            cells: HashMap::new(),
            retired: Retired::default(),
            answers: HashMap::new(),
            users: HashMap::new(),
            idle: BTreeSet::new(),
            changes,
            node,
        }
    }

    pub(super) fn get(&self, key: &CellKey) -> Option<&Cell> {
        self.cells.get(key)
    }

    pub(super) fn contains(&self, key: &CellKey) -> bool {
        self.cells.contains_key(key)
    }

    /// Takes an answer in; gives the cells that use the name. One for a name that nobody uses is dropped.
    pub(super) fn answer(&mut self, name: &Arc<str>, answer: Answer) -> BTreeSet<CellKey> {
        let Some(users) = self.users.get(name) else { return BTreeSet::new() };
        let is_alike = |before: &&Answered| before.answer.is_failure() == answer.is_failure();
        let since = self.answers.get(name).filter(is_alike).map_or_else(SystemTime::now, |one| one.since);
        self.answers.insert(Arc::clone(name), Answered { answer, since });
        users.clone()
    }

    /// Computes the members of a cell anew, by its spec, the answers and the health of its targets. Makes
    /// the cell if it is not there, but puts nothing in force.
    pub(super) fn rebuild(&mut self, key: &CellKey, spec: &CellSpec, now: Instant) -> Rebuilt {
        let terms = spec.terms();
        let averaging = terms.algorithm.averaging();
        let mut cell = self.cells.remove(key).unwrap_or_else(|| self.fresh(key));
        cell.bell.rename(spec.name());
        if cell.checks != terms.checks {
            cell.states.values().for_each(|state| state.set_checks(terms.checks.clone()));
            cell.checks.clone_from(&terms.checks);
        }
        let mut adopting = Adopting {
            before: std::mem::take(&mut cell.states),
            after: Places::with_capacity_and_hasher(spec.len(), foldhash::fast::RandomState::default()),
            retired: self.retired.0.entry(key.clone()).or_default(),
            bell: &cell.bell,
            checks: cell.checks.as_ref(),
        };
        let mut names = BTreeSet::new();
        let (name, host_header, targets): (_, _, Result<Vec<_>, _>) = match spec {
            CellSpec::Upstream { upstream, targets, .. } => {
                let targets = targets.iter().map(|(id, target)| {
                    let asked = Asked {
                        id: Some(*id),
                        label: Arc::clone(&target.label),
                        host: &target.host,
                        port: target.port,
                        weight: target.weight,
                        placement: &target.placement,
                        uses_srv_name: upstream.uses_srv_name,
                    };
                    asked.resolve(&self.answers, &mut names, &mut adopting)
                });
                (Some((&*upstream.name).into()), upstream.host_header.clone(), Ok(targets.collect()))
            }
            CellSpec::Implicit { host, port } => {
                let label = match host {
                    Host::Literal(ip) => SocketAddr::new(*ip, *port).to_string().into(),
                    Host::Name(name) => format!("{name}:{port}").into(),
                };
                let weight = super::members::DEFAULT_WEIGHT;
                let placement = &Arc::default();
                let asked =
                    Asked { id: None, label, host, port: *port, weight, placement, uses_srv_name: false };
                (None, None, Ok(vec![asked.resolve(&self.answers, &mut names, &mut adopting)]))
            }
            CellSpec::Unsupported { protocol } => {
                let reason = format!("services of protocol {protocol} are not supported yet");
                let error = PickError::Resolve { host: (*protocol).into(), reason: reason.into() };
                (None, None, Err(error))
            }
        };
        let mut leavers: Vec<_> = adopting.before.values().cloned().collect();
        for state in &leavers {
            state.set_leaving(true);
            state.note_service(None);
        }
        cell.states = adopting.finish(now);
        leavers.extend(cell.states.values().cloned());
        cell.leaving.follow(leavers, terms.policy_or_none().drain_timeout, now);
        match averaging {
            None => {}
            Some(Averaging::Even) => begin_averages(&cell.states, mean_average(&cell.states, now)),
            Some(Averaging::Peak) => begin_averages(&cell.states, Ewma::before_peaks(clock::millis(now))),
        }
        Outliers::follow(
            &mut cell.outliers,
            terms.policy_or_none().outliers.as_ref(),
            cell.states.values(),
            now,
        );
        let members = match targets {
            Ok(targets) => {
                let mut judging = Judging { now, node: &self.place, memory: &mut cell.memory };
                judge(targets, terms, &mut judging, Some(&cell.upstream.members()))
            }
            Err(error) => Members::refused(error),
        };
        let rebuilt = Rebuilt { name, host_header, client: spec.client().cloned(), members };
        if self.retired.0.get(key).is_some_and(HashMap::is_empty) {
            self.retired.0.remove(key);
        }
        self.use_names(key, &cell.names, &names);
        cell.names = names;
        self.cells.insert(key.clone(), cell);
        rebuilt
    }

    /// Computes who serves anew, after the health of targets changed.
    pub(super) fn rejudge(&mut self, key: &CellKey, now: Instant) -> Option<(&Cell, Members)> {
        let cell = self.cells.get_mut(key)?;
        let mut judging = Judging { now, node: &self.place, memory: &mut cell.memory };
        let again = cell.upstream.members().judged_again(&mut judging);
        Some((cell, again))
    }

    /// Cuts off what is left at targets of a cell whose time to finish is over; how many requests that are.
    pub(super) fn cut(&mut self, key: &CellKey, now: Instant) -> u32 {
        self.cells.get_mut(key).map_or(0, |cell| cell.leaving.cut(now))
    }

    /// Lets outlier detection look at a cell. Whoever it takes out or lets in changes who serves.
    pub(super) fn look_for_outliers(
        &mut self,
        key: &CellKey,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Vec<Turned> {
        let Some(cell) = self.cells.get_mut(key) else { return Vec::new() };
        let Some(outliers) = &mut cell.outliers else { return Vec::new() };
        outliers.look(&cell.upstream.members(), &self.place, now, rng)
    }

    /// Puts another cell in the place of `key`'s.
    pub(super) fn replace(&mut self, key: &CellKey, upstream: Arc<Upstream>) {
        if let Some(cell) = self.cells.get_mut(key) {
            cell.upstream = upstream;
        }
    }

    /// Drops a cell that the config needs no longer, and at once all that was known of its targets.
    pub(super) fn remove(&mut self, key: &CellKey, now: Instant) -> Option<Cell> {
        let mut cell = self.cells.remove(key)?;
        self.retired.0.remove(key);
        self.use_names(key, &cell.names, &BTreeSet::new());
        let states: Vec<_> = cell.states.values().cloned().collect();
        states.iter().for_each(|state| state.set_leaving(true));
        let timeout = cell.upstream.members().policy().and_then(|policy| policy.drain_timeout);
        let mut leaving = std::mem::take(&mut cell.leaving);
        leaving.follow(states, timeout, now);
        self.parting.join(leaving);
        Some(cell)
    }

    /// Forgets states that were removed long enough ago.
    pub(super) fn forget(&mut self, now: Instant) {
        self.retired.0.retain(|_, states| {
            states.retain(|_, (since, _)| now.saturating_duration_since(*since) < FORGET_AFTER);
            !states.is_empty()
        });
    }

    fn fresh(&self, key: &CellKey) -> Cell {
        let upstream = Upstream::with_members(None, None, Members::refused(PickError::NoPeer));
        let (changes, node) = (Arc::clone(&self.changes), Arc::clone(&self.node));
        let (events, gate) = (Arc::clone(&self.events), Arc::clone(upstream.gate()));
        let bell = Bell::new(key.clone(), changes, node, events, gate);
        Cell {
            upstream,
            names: BTreeSet::new(),
            states: Places::default(),
            bell: Arc::new(bell),
            checks: None,
            memory: Memory::default(),
            outliers: None,
            leaving: Leaving::default(),
        }
    }

    fn use_names(&mut self, key: &CellKey, before: &BTreeSet<Arc<str>>, after: &BTreeSet<Arc<str>>) {
        for name in before.difference(after) {
            if let Some(users) = self.users.get_mut(name) {
                users.remove(key);
                if users.is_empty() {
                    self.users.remove(name);
                    self.idle.insert(Arc::clone(name));
                }
            }
        }
        for name in after.difference(before) {
            self.users.entry(Arc::clone(name)).or_default().insert(key.clone());
        }
    }

    /// Drops the answers of names that lost their last user and found no other, and gives these names. Called when
    /// a change is complete: before, a name may be on its way from one cell to another.
    pub(super) fn drop_idle_names(&mut self) -> Vec<Arc<str>> {
        let mut idle: Vec<_> = std::mem::take(&mut self.idle).into_iter().collect();
        idle.retain(|name| !self.users.contains_key(name));
        for name in &idle {
            self.answers.remove(name);
        }
        idle
    }
}

/// Gives an average to targets that have none.
fn begin_averages(states: &Places<Arc<Target>>, begin: Ewma) {
    states.values().for_each(|state| state.begin_ewma(begin));
}

/// New targets begin with the mean of all that are available, themselves counted as 0: better than what is known, so
/// that they get their first requests, but not all of them.
///
/// Source: Kong 3.10 (`spec/balancer.md` section 6).
fn mean_average(states: &Places<Arc<Target>>, now: Instant) -> Ewma {
    let available = || states.values().filter(|state| state.is_available());
    let (sum, count) = available()
        .fold((0.0, 0.0), |(sum, count), state| (sum + f64::from(state.ewma().seconds()), count + 1.0));
    let mean = if count > 0.0 { sum / count } else { 0.0 };
    Ewma::new(mean, clock::millis(now))
}

/// A target whose addresses are wanted.
struct Asked<'a> {
    id: Option<Uuid>,
    label: Arc<str>,
    host: &'a Host,
    port: u16,
    weight: u16,
    placement: &'a Arc<Placement>,
    uses_srv_name: bool,
}

impl Asked<'_> {
    fn resolve(
        self,
        answers: &HashMap<Arc<str>, Answered>,
        names: &mut BTreeSet<Arc<str>>,
        adopting: &mut Adopting<'_>,
    ) -> MemberTarget {
        let mut since = None;
        let (origin, addresses) = match self.host {
            Host::Literal(ip) => {
                let address = SocketAddr::new(*ip, self.port);
                let target = adopting.adopt(literal_host(address), address, &self.label);
                (Origin::Literal, vec![Member { target, weight: self.weight }])
            }
            Host::Name(name) => {
                names.insert(Arc::clone(name));
                let answered = answers.get(name);
                since = answered.map(|answered| answered.since);
                match answered.map(|answered| &answered.answer) {
                    None => (Origin::Pending, Vec::new()),
                    Some(Answer::NoAddress) => (Origin::NoAddress, Vec::new()),
                    Some(Answer::Failed(reason)) => (Origin::Failed(reason.clone()), Vec::new()),
                    Some(Answer::Records(kind, records)) => {
                        let member = |record: &Resolved| self.member(name, record, adopting);
                        (Origin::Dns(kind), records.iter().map(member).collect())
                    }
                }
            }
        };
        let is_leaving = self.placement.state != TargetState::Ready || self.weight == 0;
        for member in &addresses {
            member.target.set_leaving(is_leaving);
            member.target.set_state(self.placement.state);
        }
        let placement = Arc::clone(self.placement);
        let (id, label, weight) = (self.id, self.label, self.weight);
        MemberTarget { id, label, weight, placement, origin, since, addresses }
    }

    fn member(&self, name: &str, record: &Resolved, adopting: &mut Adopting<'_>) -> Member {
        // The dot is for the resolver; no Host header has one.
        let bare = name.strip_suffix('.').unwrap_or(name);
        let (host, port, weight) = match &record.srv {
            None => (bare, self.port, self.weight),
            Some(srv) => {
                let host = if self.uses_srv_name { &srv.name } else { bare };
                let port = if srv.port == 0 { self.port } else { srv.port };
                // SRV weights rule, but a target of weight 0 still takes nothing.
                let weight = if self.weight == 0 { 0 } else { srv.weight.max(1) };
                (host, port, weight)
            }
        };
        let target = adopting.adopt(host.into(), SocketAddr::new(record.ip, port), &self.label);
        Member { target, weight }
    }
}

/// Finds the live states of a cell's targets: those it has, those it had lately, new ones.
struct Adopting<'a> {
    before: Places<Arc<Target>>,
    after: Places<Arc<Target>>,
    retired: &'a mut Places<(Instant, Arc<Target>)>,
    bell: &'a Arc<Bell>,
    checks: Option<&'a Arc<Checks>>,
}

impl Adopting<'_> {
    /// `label`: of the target that wants it. Where several want one, the first gives its name to what is recorded.
    fn adopt(&mut self, host: Box<str>, address: SocketAddr, label: &Arc<str>) -> Arc<Target> {
        let place = (host, address);
        if let Some(state) = self.after.get(&place) {
            return Arc::clone(state);
        }
        let state = self.before.remove(&place).unwrap_or_else(|| match self.retired.remove(&place) {
            Some((_, state)) => {
                state.readopt();
                // Detection may have ended while it was away, or begins anew with it.
                state.watch(None);
                state.uneject(Why::DetectionOff);
                state.set_checks(self.checks.cloned());
                state
            }
            None => {
                let (label, checks, bell) = (Arc::clone(label), self.checks.cloned(), Arc::clone(self.bell));
                Target::with_bell(address, &place.0, label, checks, Some(bell))
            }
        });
        self.after.insert(place, Arc::clone(&state));
        state
    }

    /// Retires what is left over and gives the states in use.
    fn finish(self, now: Instant) -> Places<Arc<Target>> {
        self.retired.extend(self.before.into_iter().map(|(place, state)| (place, (now, state))));
        self.after
    }
}
