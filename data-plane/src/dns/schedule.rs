//! When which name is looked up, and what its look-up means for those who use it: pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Settings;
use super::lookup::Found;
use crate::table::Answer;

/// Shortest pause between two look-ups of a name: records with a time to live of 0 are kept as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Longest pause: the hosts file's entries have a time to live of years, which clocks do not add well.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Largest share of a pause that is added to it at random.
const JITTER_SHARE: f64 = 0.1;

/// All names and when they are due.
#[derive(Debug)]
pub(super) struct Schedule {
    settings: Settings,
    names: HashMap<Arc<str>, Entry>,
    due: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Entry {
    /// `None` while a look-up is under way.
    due: Option<Instant>,
    /// What users have.
    answer: Option<Answer>,
    /// Until when `answer` may serve although it ran out.
    stale_until: Option<Instant>,
    /// Failed look-ups in a row.
    failures: u32,
}

impl Entry {
    fn is_stale_good(&self, now: Instant) -> bool {
        self.stale_until.is_some_and(|until| now < until)
    }
}

/// What a look-up means for users.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They get another answer.
    Changed(Answer),
    /// They keep what they have.
    Kept,
}

impl Schedule {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, names: HashMap::new(), due: BTreeSet::new() }
    }

    /// Follows a name; it is due at once.
    pub(super) fn add(&mut self, name: &Arc<str>, now: Instant) {
        self.names.insert(Arc::clone(name), Entry { due: Some(now), ..Entry::default() });
        self.due.insert((now, Arc::clone(name)));
    }

    /// Follows a name no longer; a look-up under way goes for nothing.
    pub(super) fn remove(&mut self, name: &Arc<str>) {
        if let Some(due) = self.names.remove(name).and_then(|entry| entry.due) {
            self.due.remove(&(due, Arc::clone(name)));
        }
    }

    /// When the next name is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A name that is due; its look-up is under way from now on.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Arc<str>> {
        let (due, _) = self.due.first()?;
        if *due > now {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        if let Some(entry) = self.names.get_mut(&name) {
            entry.due = None;
        }
        Some(name)
    }

    /// A look-up is over. `jitter`: 0 to 1.
    pub(super) fn finish(&mut self, name: &Arc<str>, found: Found, now: Instant, jitter: f64) -> Verdict {
        let Some(entry) = self.names.get_mut(name) else { return Verdict::Kept };
        if entry.due.is_some() {
            // Added again while this look-up was under way: a new one follows.
            return Verdict::Kept;
        }
        let Settings { stale_ttl, not_found_ttl, error_ttl, valid_ttl, .. } = self.settings;
        let (answer, pause) = match found {
            Found::Records { kind, records, ttl } => {
                let pause = valid_ttl.unwrap_or(ttl).clamp(PAUSE_MIN, PAUSE_MAX);
                entry.stale_until = Some(now + pause + stale_ttl);
                entry.failures = 0;
                (Some(Answer::Records(kind, records)), pause)
            }
            Found::Missing => {
                entry.stale_until = None;
                entry.failures = 0;
                (Some(Answer::NoAddress), not_found_ttl)
            }
            Found::Empty => {
                entry.failures = 0;
                ((!entry.is_stale_good(now)).then_some(Answer::NoAddress), not_found_ttl)
            }
            Found::Failed(reason) => {
                let pause = error_ttl * 2_u32.saturating_pow(entry.failures.min(16));
                entry.failures += 1;
                let answer = (!entry.is_stale_good(now)).then(|| Answer::Failed(reason.into()));
                (answer, pause.min(not_found_ttl))
            }
        };
        let due = now + pause.mul_f64(1.0 + JITTER_SHARE * jitter.clamp(0.0, 1.0));
        entry.due = Some(due);
        self.due.insert((due, Arc::clone(name)));
        match answer {
            Some(answer) if entry.answer.as_ref() != Some(&answer) => {
                entry.answer = Some(answer.clone());
                Verdict::Changed(answer)
            }
            Some(_) | None => Verdict::Kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Resolved;

    fn records(ip: &str, ttl: u64) -> Found {
        let records = [Resolved { ip: ip.parse().unwrap(), srv: None }].into();
        Found::Records { kind: "A", records, ttl: Duration::from_secs(ttl) }
    }

    fn answer(ip: &str) -> Verdict {
        let Found::Records { kind, records, .. } = records(ip, 0) else { unreachable!() };
        Verdict::Changed(Answer::Records(kind, records))
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// A schedule with one name, whose look-up is under way.
    fn looking_up() -> (Schedule, Arc<str>, Instant) {
        let mut schedule = Schedule::new(Settings::default());
        let name: Arc<str> = "a.test".into();
        let now = Instant::now();
        schedule.add(&name, now);
        assert_eq!(schedule.take_due(now).as_ref(), Some(&name));
        (schedule, name, now)
    }

    #[test]
    fn a_name_is_looked_up_again_when_its_records_run_out() {
        let (mut schedule, name, now) = looking_up();
        assert_eq!(schedule.finish(&name, records("10.0.0.1", 60), now, 0.0), answer("10.0.0.1"));
        assert_eq!(schedule.next_due(), Some(now + 60 * SECOND));
        assert_eq!(schedule.take_due(now + 59 * SECOND), None);
        assert!(schedule.take_due(now + 60 * SECOND).is_some());
        assert_eq!(schedule.finish(&name, records("10.0.0.1", 60), now, 1.0), Verdict::Kept, "nothing new");
        assert_eq!(schedule.next_due(), Some(now + 66 * SECOND), "with jitter");
    }

    #[test]
    fn a_time_to_live_of_zero_does_not_spin() {
        let (mut schedule, name, now) = looking_up();
        schedule.finish(&name, records("10.0.0.1", 0), now, 0.0);
        assert_eq!(schedule.next_due(), Some(now + SECOND));
    }

    #[test]
    fn a_failure_keeps_what_there_was_until_it_is_too_old() {
        let (mut schedule, name, mut now) = looking_up();
        schedule.finish(&name, records("10.0.0.1", 60), now, 0.0);
        let mut pauses = Vec::new();
        let end = now + Duration::from_secs(3660);
        loop {
            now = schedule.next_due().unwrap();
            schedule.take_due(now);
            let verdict = schedule.finish(&name, Found::Failed("no".into()), now, 0.0);
            if now >= end {
                assert_eq!(verdict, Verdict::Changed(Answer::Failed("no".into())));
                break;
            }
            assert_eq!(verdict, Verdict::Kept);
            pauses.push((schedule.next_due().unwrap() - now).as_secs());
        }
        assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_name_that_is_gone_is_gone_at_once() {
        let (mut schedule, name, now) = looking_up();
        schedule.finish(&name, records("10.0.0.1", 1), now, 0.0);
        schedule.take_due(now + SECOND);
        let verdict = schedule.finish(&name, Found::Missing, now + SECOND, 0.0);
        assert_eq!(verdict, Verdict::Changed(Answer::NoAddress));
        assert_eq!(schedule.next_due(), Some(now + 31 * SECOND));
    }

    #[test]
    fn an_answer_without_addresses_does_not_replace_what_there_was() {
        let (mut schedule, name, now) = looking_up();
        assert_eq!(schedule.finish(&name, Found::Empty, now, 0.0), Verdict::Changed(Answer::NoAddress));
        schedule.take_due(now + 30 * SECOND);
        let found = records("10.0.0.1", 1);
        assert_eq!(schedule.finish(&name, found, now + 30 * SECOND, 0.0), answer("10.0.0.1"));
        schedule.take_due(now + 31 * SECOND);
        assert_eq!(schedule.finish(&name, Found::Empty, now + 31 * SECOND, 0.0), Verdict::Kept);
        let end = now + 31 * SECOND + Settings::default().stale_ttl;
        schedule.take_due(end);
        assert_eq!(schedule.finish(&name, Found::Empty, end, 0.0), Verdict::Changed(Answer::NoAddress));
    }

    #[test]
    fn a_result_for_a_name_nobody_wants_goes_for_nothing() {
        let (mut schedule, name, now) = looking_up();
        schedule.remove(&name);
        assert_eq!(schedule.finish(&name, records("10.0.0.1", 1), now, 0.0), Verdict::Kept);
        assert_eq!(schedule.next_due(), None);
        schedule.add(&name, now);
        assert_eq!(
            schedule.finish(&name, records("10.0.0.1", 1), now, 0.0),
            Verdict::Kept,
            "an older look-up"
        );
        assert!(schedule.take_due(now).is_some());
    }
}
