//! What a tail says: pure.

use bytes::Bytes;
use equipoise_proto::{Position, v1};
use prost::Message;

use super::DEATHS_MAX;
use super::entry::Entry;
use crate::replica::Replica;

/// The state that a snapshot and its tail lead to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    /// What is in force.
    pub replica: Replica,
    /// The newest revision that is good, if one is.
    pub good: Option<Replica>,
    /// Deaths since something was good, as they were noted: the last one is not among them.
    pub deaths: u32,
    /// What is refused.
    pub condemned: Option<Position>,
}

/// A step that the tail takes from the snapshot.
struct Step {
    to: Position,
    delta: Option<Bytes>,
}

impl State {
    pub(super) fn is_good(&self) -> bool {
        self.good.as_ref().is_some_and(|good| good.position() == self.replica.position())
    }

    /// Whether what is in force was pending at so many deaths that it is not to be tried again. That it is
    /// pending now is a death too: whoever stops well makes it good.
    pub(super) fn has_killed_the_node(&self) -> bool {
        !self.is_good() && self.deaths + 1 >= DEATHS_MAX
    }
}

/// Follows a tail from `base`. A delta that does not fit ends it, since what follows cannot fit either.
pub(super) fn replay(base: Replica, entries: Vec<Entry>) -> State {
    // First what is left of the steps, so that a dropped one is never applied.
    let mut steps: Vec<Step> = Vec::new();
    let mut good_steps: Option<usize> = None;
    // Deaths count against all that is pending: were they counted for the newest revision alone, a node that
    // gets one more before each death would die on the same change for ever.
    let mut deaths = 0;
    let mut condemned: Option<(Position, usize)> = None;
    for entry in entries {
        match entry {
            Entry::Delta(bytes) => {
                let to = v1::Delta::decode(bytes.clone()).ok().and_then(|delta| delta.to);
                let Some(to) = to.and_then(|to| Position::try_from(&to).ok()) else { break };
                steps.push(Step { to, delta: Some(bytes) });
            }
            Entry::Reposition(to) => steps.push(Step { to, delta: None }),
            Entry::Dropped(position) => {
                if steps.last().is_some_and(|step| step.to == position) {
                    steps.pop();
                }
            }
            Entry::Good(position) => {
                let step = steps.iter().rposition(|step| step.to == position).map(|at| at + 1);
                let good = step.or_else(|| (*base.position() == position).then_some(0));
                if good.is_some() {
                    (good_steps, deaths) = (good_steps.max(good), 0);
                }
            }
            Entry::Died(_) => deaths += 1,
            Entry::Condemned(position) => {
                steps.truncate(good_steps.unwrap_or(steps.len()));
                (deaths, condemned) = (0, Some((position, steps.len())));
            }
        }
    }
    // Another content that was taken since makes it history.
    let is_history = |at: usize| steps.iter().skip(at).any(|step| step.delta.is_some());
    let condemned = condemned.filter(|(_, at)| !is_history(*at)).map(|(position, _)| position);
    let mut state = State { good: None, deaths, condemned, replica: base };
    for (taken, step) in steps.iter().enumerate() {
        if good_steps == Some(taken) {
            state.good = Some(state.replica.clone());
        }
        let Some(next) = follow(&state.replica, step) else { return state };
        state.replica = next;
    }
    if good_steps == Some(steps.len()) {
        state.good = Some(state.replica.clone());
    }
    state
}

fn follow(replica: &Replica, step: &Step) -> Option<Replica> {
    match &step.delta {
        None => replica.reposition(step.to).ok(),
        Some(bytes) => {
            let delta = v1::Delta::decode(bytes.clone()).ok()?;
            replica.after(&delta).ok().map(|(next, _)| next)
        }
    }
}
