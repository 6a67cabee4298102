//! What a tail says: pure.

use bytes::Bytes;
use equipoise_proto::{Position, v1};
use prost::Message;

use super::DEATHS_MAX;
use super::entry::Entry;
use crate::sync::copy::Copy;

/// The state that a snapshot and its tail lead to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State {
    /// What is in force.
    pub copy: Copy,
    /// The newest revision that is good, if one is.
    pub good: Option<Copy>,
    /// Deaths while what is in force was pending.
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
        self.good.as_ref().is_some_and(|good| good.position() == self.copy.position())
    }

    pub(super) fn has_killed_the_node(&self) -> bool {
        !self.is_good() && self.deaths >= DEATHS_MAX
    }
}

/// Follows a tail from `base`. A delta that does not fit ends it, since what follows cannot fit either.
pub(super) fn replay(base: Copy, entries: Vec<Entry>) -> State {
    // First what is left of the steps, so that a dropped one is never applied.
    let mut steps: Vec<Step> = Vec::new();
    let mut good_steps: Option<usize> = None;
    let mut deaths = 0;
    let mut condemned = None;
    for entry in entries {
        match entry {
            Entry::Delta(bytes) => {
                let to = v1::Delta::decode(bytes.clone()).ok().and_then(|delta| delta.to);
                let Some(to) = to.and_then(|to| Position::try_from(&to).ok()) else { break };
                steps.push(Step { to, delta: Some(bytes) });
                (deaths, condemned) = (0, None);
            }
            Entry::Reposition(to) => {
                steps.push(Step { to, delta: None });
                deaths = 0;
            }
            Entry::Dropped(position) => {
                if steps.last().is_some_and(|step| step.to == position) {
                    steps.pop();
                }
            }
            Entry::Good(position) => {
                if let Some(at) = steps.iter().rposition(|step| step.to == position) {
                    good_steps = Some(at + 1);
                } else if *base.position() == position {
                    good_steps = Some(good_steps.unwrap_or(0));
                }
            }
            Entry::Died(_) => deaths += 1,
            Entry::Condemned(position) => {
                steps.truncate(good_steps.unwrap_or(steps.len()));
                (deaths, condemned) = (0, Some(position));
            }
        }
    }
    let mut state = State { good: None, deaths, condemned, copy: base };
    for (taken, step) in steps.iter().enumerate() {
        if good_steps == Some(taken) {
            state.good = Some(state.copy.clone());
        }
        let Some(next) = follow(&state.copy, step) else { return state };
        state.copy = next;
    }
    if good_steps == Some(steps.len()) {
        state.good = Some(state.copy.clone());
    }
    state
}

fn follow(copy: &Copy, step: &Step) -> Option<Copy> {
    match &step.delta {
        None => copy.reposition(step.to).ok(),
        Some(bytes) => {
            let delta = v1::Delta::decode(bytes.clone()).ok()?;
            copy.after(&delta).ok().map(|(next, _)| next)
        }
    }
}
