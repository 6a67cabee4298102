//! A target: workers, and requests that wait for them.

use std::collections::VecDeque;

use super::scenario::{Condition, Micros, TargetPlan};

/// More than so many waiting are refused, as by a full backlog.
const WAITING_MAX: usize = 1_024;

/// A target that answers at once does so after this long.
const AT_ONCE_US: Micros = 500;

/// One attempt of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    /// Number of the request.
    pub request: usize,
    /// Its attempts before.
    pub number: u8,
}

/// The state of a target.
#[derive(Debug)]
pub struct Target {
    plan: TargetPlan,
    busy: usize,
    waiting: VecDeque<Attempt>,
}

/// What becomes of an attempt that has come to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// A worker took it.
    Started,
    /// It waits.
    Waits,
    /// No connection.
    Refused,
    /// An error comes after so long.
    Fails(Micros),
}

impl Target {
    /// One without load.
    pub const fn new(plan: TargetPlan) -> Self {
        Self { plan, busy: 0, waiting: VecDeque::new() }
    }

    /// What it was planned to be.
    pub const fn plan(&self) -> &TargetPlan {
        &self.plan
    }

    /// Takes an attempt in.
    pub fn arrive(&mut self, attempt: Attempt, now: Micros) -> Arrival {
        match self.plan.trouble.condition(now) {
            Condition::Refuses | Condition::Lost => Arrival::Refused,
            Condition::Answers503 => Arrival::Fails(AT_ONCE_US),
            Condition::Works(_) if self.busy < self.plan.workers => {
                self.busy += 1;
                Arrival::Started
            }
            Condition::Works(_) if self.waiting.len() >= WAITING_MAX => Arrival::Refused,
            Condition::Works(_) => {
                self.waiting.push_back(attempt);
                Arrival::Waits
            }
        }
    }

    /// How long a worker is busy with what it begins now. What takes less, or more, while it works counts no more.
    pub fn service_us(&self, work_us: Micros, now: Micros) -> Micros {
        let factor = match self.plan.trouble.condition(now) {
            Condition::Works(factor) => factor,
            // It takes no connections, or answers new requests with errors: what it has goes on.
            Condition::Refuses | Condition::Answers503 | Condition::Lost => 1.0,
        };
        rounded(work_us as f64 * factor)
    }

    /// A worker is free: the next that waits, of those that are still wanted.
    pub fn free(&mut self, is_wanted: impl Fn(Attempt) -> bool) -> Option<Attempt> {
        while let Some(next) = self.waiting.pop_front() {
            if is_wanted(next) {
                return Some(next);
            }
        }
        self.busy = self.busy.saturating_sub(1);
        None
    }

    /// All that wait are lost.
    pub fn lose(&mut self) -> VecDeque<Attempt> {
        std::mem::take(&mut self.waiting)
    }
}

/// A time of at least a microsecond.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and below a day")]
pub fn rounded(micros: f64) -> Micros {
    micros.round().max(1.0) as Micros
}
