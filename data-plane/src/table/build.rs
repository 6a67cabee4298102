//! The builder: the only writer of tables and cells.
//!
//! One task owns all that changes and turns events (updates from `sync`, answers from `dns`, changes of
//! health from workers and probes) into swaps. `sync` waits for its update's result; everybody else hands in
//! an event and goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use equipoise_proto::Position;
use imbl::OrdMap;
use rustls::sign::CertifiedKey;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::Active;
use super::assemble::Assembly;
use super::changes::{Changed, Changes};
use super::compile::{CellKey, CellSpec, CompileError, Dirty, State, Update, compile};
use super::events::{Events, UpstreamName};
use super::judge::NodePlace;
use super::live::{Answer, Cell, Live};
use super::members::{Members, Origin};
use super::outliers::Turned;
use super::plan::{Names, ProbePlan, Probes, whom};
use super::reaper::Reaper;
use super::report::Reports;
use super::upstream::{PickError, Upstream};
use crate::observability::NodeState;
use crate::router::Flavour;

/// How often states of removed targets are looked through.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Updates that may wait; `sync` sends one at a time.
const UPDATES_WAITING: usize = 1;

/// Answers that may wait; the resolver waits when there are more.
const ANSWERS_WAITING: usize = 64;

/// The cells in force, for the Status API.
pub type Directory = OrdMap<CellKey, Arc<Upstream>>;

/// An update that is in force.
#[derive(Debug)]
pub struct Applied {
    /// Receipt to swap.
    pub took: Duration,
    /// Ends when the names are resolved and the targets probed that this update or one before it brought; an
    /// error when a later update took over.
    pub warm: oneshot::Receiver<()>,
}

/// An update, and where its answer goes. Dropping `reply` unanswered says that the builder is gone.
#[derive(Debug)]
pub struct Request {
    /// Where it leads.
    pub position: Position,
    /// What changes.
    pub update: Update,
    /// Answered when the update is in force, or refused.
    pub reply: oneshot::Sender<Result<Applied, CompileError>>,
}

/// Where updates go. One at a time: the next comes when this one is answered.
#[derive(Debug, Clone)]
pub struct Updates(mpsc::Sender<Request>);

/// Why an update is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It does not compile; the table before stays.
    #[error("config refused")]
    Refused(#[from] CompileError),
    /// Nobody makes tables any more.
    #[error("the builder has stopped")]
    Stopped,
}

impl Updates {
    /// Updates, and where they arrive.
    pub fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (updates, requests) = mpsc::channel(UPDATES_WAITING);
        (Self(updates), requests)
    }

    /// Compiles an update that leads to `position`, and puts it in force.
    ///
    /// # Errors
    /// When it does not compile, or the builder is gone.
    pub async fn apply(&self, position: Position, update: Update) -> Result<Applied, ApplyError> {
        let (reply, applied) = oneshot::channel();
        self.0.send(Request { position, update, reply }).await.map_err(|_| ApplyError::Stopped)?;
        Ok(applied.await.map_err(|_| ApplyError::Stopped)??)
    }
}

/// What the other parts of the node hold of the builder.
#[derive(Debug, Clone)]
pub struct Seams {
    /// The table in force: for workers.
    pub active: Active,
    /// For `sync`.
    pub updates: Updates,
    /// For `sync`.
    pub reports: Arc<Reports>,
    /// For `dns`: names to keep resolved.
    pub names: watch::Receiver<Names>,
    /// For `dns`: where its answers go.
    pub answers: mpsc::Sender<(Arc<str>, Answer)>,
    /// For `probe`.
    pub probes: watch::Receiver<Probes>,
    /// For `status`, and for questions of a control plane.
    pub directory: Arc<ArcSwap<Directory>>,
    /// For `status`.
    pub events: Arc<Events>,
}

/// The builder's own end.
#[derive(Debug)]
pub struct Builder {
    requests: mpsc::Receiver<Request>,
    answers: mpsc::Receiver<(Arc<str>, Answer)>,
    core: Core,
}

/// Makes a builder and the seams to it. Nothing happens before [`Builder::run`].
pub fn builder(node: Arc<NodeState>) -> (Builder, Seams) {
    let (updates, requests) = Updates::channel();
    let (answers_in, answers) = mpsc::channel(ANSWERS_WAITING);
    let (core, seams) = Core::new(node);
    let seams = Seams {
        active: seams.active,
        updates,
        reports: seams.reports,
        names: seams.names,
        answers: answers_in,
        probes: seams.probes,
        directory: seams.directory,
        events: seams.events,
    };
    (Builder { requests, answers, core }, seams)
}

impl Builder {
    /// One whose tables route by this flavour. To be said before it runs.
    #[must_use]
    pub fn of_flavour(mut self, flavour: Flavour) -> Self {
        self.core.assembly = Assembly::of(flavour);
        self
    }

    /// Works until nobody can send updates any more.
    pub async fn run(mut self) {
        let mut forget = tokio::time::interval(FORGET_EVERY);
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.apply(request),
                    None => return,
                },
                Some((name, answer)) = self.answers.recv() => self.core.answer(&name, answer, Instant::now()),
                changed = self.core.changes.take() => self.core.look(changed, Instant::now()),
                () = sleep_until(self.core.next_due()) => self.core.pulse(Instant::now()),
                _ = forget.tick() => self.core.live.forget(Instant::now()),
            }
        }
    }

    fn apply(&mut self, Request { position, update, reply }: Request) {
        let start = Instant::now();
        let result = self.core.apply(update, start).map(|warm| {
            let took = start.elapsed();
            self.core.node.set_position(&position);
            self.core.node.config_applied(took);
            Applied { took, warm }
        });
        if let Err(error) = &result {
            self.core.node.config_refused();
            warn!(%error, "config refused");
        }
        // Nobody waits for the answer any more: the update is in force all the same.
        drop(reply.send(result));
    }
}

/// The builder without its task: every event is a plain call.
#[derive(Debug)]
pub(super) struct Core {
    state: State,
    live: Live,
    assembly: Assembly,
    active: Active,
    directory: Arc<ArcSwap<Directory>>,
    names: watch::Sender<Names>,
    probes: watch::Sender<Probes>,
    reports: Arc<Reports>,
    changes: Arc<Changes>,
    events: Arc<Events>,
    node: Arc<NodeState>,
    names_wished: u64,
    cold: BTreeSet<CellKey>,
    /// Cells in which time alone changes something, by when.
    dues: BTreeSet<(Instant, CellKey)>,
    warm: Option<oneshot::Sender<()>>,
    reaper: Reaper,
}

pub(super) struct CoreSeams {
    pub(super) active: Active,
    pub(super) reports: Arc<Reports>,
    pub(super) names: watch::Receiver<Names>,
    pub(super) probes: watch::Receiver<Probes>,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) events: Arc<Events>,
}

impl Core {
    pub(super) fn new(node: Arc<NodeState>) -> (Self, CoreSeams) {
        let changes = Arc::new(Changes::default());
        let events = Arc::new(Events::default());
        let (names, names_out) = watch::channel(Names::new());
        let (probes, probes_out) = watch::channel(Probes::new());
        let core = Self {
            state: State::default(),
            live: Live::new(Arc::clone(&changes), Arc::clone(&node), Arc::clone(&events), place(&node)),
            dues: BTreeSet::new(),
            assembly: Assembly::default(),
            active: Active::default(),
            directory: Arc::default(),
            names,
            probes,
            reports: Arc::default(),
            changes,
            events,
            node,
            names_wished: 0,
            cold: BTreeSet::new(),
            warm: None,
            reaper: Reaper::start(),
        };
        let seams = CoreSeams {
            active: core.active.clone(),
            reports: Arc::clone(&core.reports),
            names: names_out,
            probes: probes_out,
            directory: Arc::clone(&core.directory),
            events: Arc::clone(&core.events),
        };
        (core, seams)
    }

    /// Compiles `update` and puts the result in force: one store of a table where anything but the members
    /// of cells changed, else one store a changed cell.
    pub(super) fn apply(
        &mut self,
        update: Update,
        now: Instant,
    ) -> Result<oneshot::Receiver<()>, CompileError> {
        let compiled = compile(&self.state, update)?;
        // What uses credentials is dirty by itself.
        let Dirty { cells, services, routes, snis, credentials: _, scopes, callers } = compiled.dirty;
        let previous = std::mem::replace(&mut self.state, compiled.state);
        let is_structural =
            !services.is_empty() || !routes.is_empty() || !snis.is_empty() || !scopes.is_empty() || callers;
        let mut gone = Vec::new();
        let mut superseded = Vec::new();
        for key in &cells {
            match self.state.cell(key) {
                Some(spec) => superseded.extend(self.renew(key, &spec, is_structural, now)),
                None => gone.push(key.clone()),
            }
        }
        if is_structural {
            let mut services = services;
            services.extend(cells.iter().flat_map(|key| self.state.services_of(key)));
            let live = &self.live;
            let cell = |key: &CellKey| live.get(key).map(|cell| Arc::clone(&cell.upstream));
            let table = self.assembly.assemble(&self.state, &services, &routes, &snis, &scopes, cell);
            self.reaper.drop_later(self.active.swap(Arc::new(table)));
        }
        // Requests that wait in a cell that is no longer in any table wait in its successor from now on.
        for (before, after) in superseded {
            before.succeed(Some(&after));
            if before.members().is_pending() {
                before.store(Members::moved(after));
            }
        }
        for key in gone {
            let successor = self.successor(&previous, &key);
            self.discard(&key, successor, now);
        }
        self.drop_idle_names();
        let (warm, warmed) = oneshot::channel();
        self.warm = Some(warm);
        self.cold.extend(cells);
        self.warm_up();
        Ok(warmed)
    }

    /// Rebuilds one cell. In a structural change the result is a new cell, which the next table brings into
    /// force; the pair of old and new is returned.
    fn renew(
        &mut self,
        key: &CellKey,
        spec: &CellSpec,
        is_structural: bool,
        now: Instant,
    ) -> Option<(Arc<Upstream>, Arc<Upstream>)> {
        let is_new = !self.live.contains(key);
        let due = self.live.get(key).and_then(Cell::due);
        let rebuilt = self.live.rebuild(key, spec, now);
        self.schedule(key, due);
        self.wish_names(key);
        Self::warn_of_gaps(spec);
        let before = self.live.get(key).map(|cell| Arc::clone(&cell.upstream))?;
        let members_before = before.members();
        let ids_before = target_ids(&members_before);
        let (host_header, client) = (rebuilt.host_header.clone(), rebuilt.client.clone());
        let mut superseded = None;
        // Where services use the cell, a change of its name, host header or certificate is structural already.
        let is_renamed = before.name != rebuilt.name
            || before.host_header != rebuilt.host_header
            || before.client.as_ref().map(Arc::as_ptr) != client.as_ref().map(Arc::as_ptr);
        if is_new || is_structural || is_renamed {
            let after = Upstream::after(&before, rebuilt);
            self.live.replace(key, Arc::clone(&after));
            self.list(key, &after);
            superseded = Some((before, after));
        } else {
            self.reaper.drop_later(before.store(rebuilt.members));
        }
        let members = self.live.get(key).map(|cell| cell.upstream.members())?;
        self.wish_probes(key, &members, (host_header, client));
        self.note(key, ids_before, &members);
        self.note_changes(key, &members_before, &members);
        superseded
    }

    /// An answer came: rebuilds the cells that use the name.
    pub(super) fn answer(&mut self, name: &Arc<str>, answer: Answer, now: Instant) {
        for key in self.live.answer(name, answer) {
            if let Some(spec) = self.state.cell(&key) {
                debug!(cell = ?key, %name, "rebuilt for an answer");
                self.renew(&key, &spec, false, now);
            }
        }
        self.warm_up();
    }

    /// The health of targets changed, or they failed often.
    pub(super) fn look(&mut self, changed: Changed, now: Instant) {
        let Changed { mut judged, suspect } = changed;
        judged.extend(suspect.into_iter().filter(|key| self.turn_outliers(key, now)));
        self.rejudge(judged, now);
    }

    /// When [`Self::pulse`] is due; `None`: never, as things are.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.dues.first().map(|(due, _)| *due).into_iter().chain(self.live.parting.due()).min()
    }

    /// Time has passed: looks at the cells in which that changes something.
    pub(super) fn pulse(&mut self, now: Instant) {
        let mut cells = BTreeSet::new();
        while let Some((due, _)) = self.dues.first()
            && *due <= now
            && let Some((_, key)) = self.dues.pop_first()
        {
            cells.insert(key);
        }
        let mut cut = self.live.parting.cut(now);
        for key in &cells {
            cut += self.live.cut(key, now);
            self.turn_outliers(key, now);
        }
        if cut > 0 {
            info!(requests = cut, "requests are cut off at targets that left and had their time");
            self.active.call();
        }
        self.rejudge(cells, now);
    }

    /// Lets outlier detection look at a cell; whether it took anybody out or let anybody in.
    fn turn_outliers(&mut self, key: &CellKey, now: Instant) -> bool {
        let turned = self.live.look_for_outliers(key, now, &mut rand::rng());
        for turned in &turned {
            match turned {
                // The log of events has names and reasons.
                Turned::Ejected(..) => self.node.target_ejected(),
                Turned::Restored(_) => self.node.target_restored(),
            }
        }
        !turned.is_empty()
    }

    /// Computes anew who serves in cells.
    fn rejudge(&mut self, cells: BTreeSet<CellKey>, now: Instant) {
        for key in cells {
            let due = self.live.get(&key).and_then(Cell::due);
            let Some((cell, members)) = self.live.rejudge(&key, now) else { continue };
            let upstream = Arc::clone(&cell.upstream);
            let before = upstream.store(members);
            self.schedule(&key, due);
            let members = upstream.members();
            self.note(&key, Vec::new(), &members);
            self.note_changes(&key, &before, &members);
            self.reaper.drop_later(before);
            // The prober looks again: a target is now in the other set.
            let own = (upstream.host_header.clone(), upstream.client.clone());
            self.wish_probes(&key, &members, own);
        }
        self.warm_up();
    }

    /// Notes when to look at a cell again; `before`: when it was to be looked at so far.
    fn schedule(&mut self, key: &CellKey, before: Option<Instant>) {
        let due = self.live.get(key).and_then(Cell::due);
        if let Some(before) = before {
            self.dues.remove(&(before, key.clone()));
        }
        self.dues.extend(due.map(|due| (due, key.clone())));
    }

    /// The one cell that all services of a cell that went have now.
    fn successor(&self, previous: &State, key: &CellKey) -> Option<Arc<Upstream>> {
        let services = previous.services_of(key);
        let now = services.iter().filter_map(|id| self.state.service(id)).map(|one| self.state.cell_of(one));
        let mut cells: Vec<_> = now.collect();
        cells.dedup();
        let [only] = &*cells else { return None };
        self.live.get(only).map(|cell| Arc::clone(&cell.upstream))
    }

    /// Drops a cell. Requests that wait in it for a first answer go on in its successor, or end.
    fn discard(&mut self, key: &CellKey, successor: Option<Arc<Upstream>>, now: Instant) {
        let due = self.live.get(key).and_then(Cell::due);
        let Some(cell) = self.live.remove(key, now) else { return };
        if let Some(due) = due {
            self.dues.remove(&(due, key.clone()));
        }
        let members = cell.upstream.members();
        cell.upstream.succeed(successor.as_ref());
        if members.is_pending() {
            let to = successor.map_or_else(|| Members::refused(PickError::NoPeer), Members::moved);
            cell.upstream.store(to);
        }
        self.probes.send_if_modified(|probes| probes.remove(key).is_some());
        self.directory.rcu(|directory| directory.without(key));
        self.note(key, target_ids(&members), &Members::refused(PickError::NoPeer));
    }

    fn list(&self, key: &CellKey, upstream: &Arc<Upstream>) {
        let mut directory = Directory::clone(&self.directory.load());
        directory.insert(key.clone(), Arc::clone(upstream));
        self.directory.store(Arc::new(directory));
    }

    fn wish_names(&mut self, key: &CellKey) {
        let Some(cell) = self.live.get(key) else { return };
        let wished = self.names.borrow();
        let missing: Vec<_> = cell.names.iter().filter(|name| !wished.contains_key(*name)).cloned().collect();
        drop(wished);
        if !missing.is_empty() {
            self.names_wished += 1;
            let number = self.names_wished;
            self.names.send_modify(|names| names.extend(missing.into_iter().map(|name| (name, number))));
        }
    }

    fn drop_idle_names(&mut self) {
        let idle = self.live.drop_idle_names();
        self.names.send_if_modified(|names| {
            let before = names.len();
            for name in &idle {
                names.remove(name);
            }
            names.len() < before
        });
    }

    fn wish_probes(
        &self,
        key: &CellKey,
        members: &Members,
        (host_header, client): (Option<Box<str>>, Option<Arc<CertifiedKey>>),
    ) {
        let plan = members.checks().filter(|checks| checks.active.is_on()).map(|checks| {
            let upstream = self.live.get(key).and_then(|cell| cell.upstream.name.clone());
            let (targets, shared) = whom(key, members);
            Arc::new(ProbePlan {
                upstream: upstream.unwrap_or_default(),
                active: checks.active.clone(),
                host_header,
                client,
                targets,
                shared,
            })
        });
        self.probes.send_if_modified(|probes| match plan {
            Some(plan) => {
                probes.insert(key.clone(), plan);
                true
            }
            None => probes.remove(key).is_some(),
        });
    }

    fn note(&self, key: &CellKey, before: Vec<Uuid>, members: &Members) {
        let CellKey::Upstream(id) = key else { return };
        let now: BTreeSet<Uuid> = target_ids(members).into_iter().collect();
        self.reports.note(*id, before.into_iter().filter(|target| !now.contains(target)), members);
    }

    /// Tells the log of events what addresses do not tell it themselves.
    fn note_changes(&self, key: &CellKey, before: &Members, after: &Members) {
        let Some(cell) = self.live.get(key) else { return };
        let name = UpstreamName::of(key, cell.upstream.name.as_deref());
        self.events.compare(&name, before, after, SystemTime::now());
    }

    fn warm_up(&mut self) {
        let live = &self.live;
        self.cold.retain(|key| live.get(key).is_some_and(|cell| is_cold(&cell.upstream.members())));
        if self.cold.is_empty()
            && let Some(warm) = self.warm.take()
        {
            // Whoever asked may have left.
            warm.send(()).unwrap_or_default();
        }
    }

    fn warn_of_gaps(spec: &CellSpec) {
        match spec {
            CellSpec::Unsupported { protocol } => {
                warn!(
                    protocol,
                    "services of this protocol are not supported yet, their requests are refused"
                );
            }
            CellSpec::Upstream { .. } | CellSpec::Implicit { .. } => {}
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Where the node is.
pub(super) fn place(node: &NodeState) -> NodePlace {
    let text = |text: &str| (!text.is_empty()).then(|| text.into());
    NodePlace { id: node.id().as_uuid(), region: text(node.region()), zone: text(node.zone()) }
}

/// Whether something of a cell is not known yet: a name's first answer, or a target's first probe.
fn is_cold(members: &Members) -> bool {
    let is_pending = members.targets().iter().any(|target| target.origin == Origin::Pending);
    let probed = members.checks().map(|checks| &checks.active).filter(|active| active.is_on());
    let awaits_probe = probed.is_some_and(|active| {
        members
            .checked()
            .filter(|(_, member)| !member.target.is_probed())
            .any(|(_, member)| active.interval(member.target.health().state).is_some())
    });
    is_pending || awaits_probe
}

fn target_ids(members: &Members) -> Vec<Uuid> {
    members.targets().iter().filter_map(|target| target.id).collect()
}

#[cfg(test)]
mod tests;
