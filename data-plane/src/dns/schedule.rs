//! When which name is looked up, and what its look-up means for those who use it: pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Settings;
use super::lookup::Found;
use crate::table::Answer;

/// Shortest pause between two look-ups of a name, whatever is set.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause: clocks do not add centuries well.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Largest share of a pause that is added to it at random.
const JITTER_SHARE: f64 = 0.1;

/// All names and when they are due.
#[derive(Debug)]
pub(super) struct Schedule {
    settings: Settings,
    names: HashMap<Arc<str>, Entry>,
    due: BTreeSet<(Instant, Arc<str>)>,
    /// The newest.
    generation: Generation,
}

/// Which time it is that a name is followed: no two times have the same, of whatever names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

#[derive(Debug, Default)]
struct Entry {
    /// A look-up of another one is of an earlier time, whose end says nothing here.
    generation: Generation,
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
        Self { settings, names: HashMap::new(), due: BTreeSet::new(), generation: Generation::default() }
    }

    /// Follows a name; it is due at once.
    pub(super) fn add(&mut self, name: &Arc<str>, now: Instant) {
        self.generation = Generation(self.generation.0.wrapping_add(1));
        let entry = Entry { generation: self.generation, due: Some(now), ..Entry::default() };
        self.names.insert(Arc::clone(name), entry);
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

    /// A name that is due, and what [`Self::finish`] is to be told; its look-up is under way from now on.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Arc<str>, Generation)> {
        let (due, name) = self.due.first()?;
        if *due > now {
            return None;
        }
        // It is there: a name that is removed is due no more.
        let entry = self.names.get_mut(name)?;
        entry.due = None;
        let generation = entry.generation;
        self.due.pop_first().map(|(_, name)| (name, generation))
    }

    /// Whether the last look-up of a name failed.
    pub(super) fn has_failed(&self, name: &Arc<str>) -> bool {
        self.names.get(name).is_some_and(|entry| entry.failures > 0)
    }

    /// A look-up is over. `generation`: what [`Self::take_due`] said. `jitter`: 0 to 1.
    pub(super) fn finish(
        &mut self,
        name: &Arc<str>,
        generation: Generation,
        found: Found,
        now: Instant,
        jitter: f64,
    ) -> Verdict {
        let Some(entry) = self.names.get_mut(name) else { return Verdict::Kept };
        if entry.generation != generation {
            // Added again while this look-up was under way: a new one follows, or is under way too.
            return Verdict::Kept;
        }
        entry.failures = match found {
            Found::Failed(_) => entry.failures.saturating_add(1),
            Found::Records { .. } | Found::Empty(_) | Found::Missing(_) => 0,
        };
        let pause = pause(&self.settings, &found, entry.failures);
        let answer = match found {
            Found::Records { kind, records, .. } => {
                entry.stale_until = Some(now + pause + self.settings.stale_ttl);
                Some(Answer::Records(kind, records))
            }
            Found::Missing(_) => {
                entry.stale_until = None;
                Some(Answer::NoAddress)
            }
            Found::Empty(_) => (!entry.is_stale_good(now)).then_some(Answer::NoAddress),
            Found::Failed(reason) => (!entry.is_stale_good(now)).then(|| Answer::Failed(reason.into())),
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

/// How long a name has peace after a look-up, but for the jitter. `failures`: failed look-ups in a row, this one
/// included.
fn pause(settings: &Settings, found: &Found, failures: u32) -> Duration {
    let Settings { ttl_min, ttl_max, valid_ttl, not_found_ttl, error_ttl, .. } = *settings;
    let pause = match found {
        Found::Records { ttl, .. } => valid_ttl.unwrap_or_else(|| (*ttl).max(ttl_min).min(ttl_max)),
        Found::Empty(ttl) | Found::Missing(ttl) => {
            ttl.map_or(not_found_ttl, |ttl| ttl.max(ttl_min).min(not_found_ttl))
        }
        Found::Failed(_) => {
            let doubled = error_ttl.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
            doubled.min(not_found_ttl.max(error_ttl))
        }
    };
    pause.clamp(PAUSE_MIN, PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// One name, whose look-up is under way.
    struct One {
        schedule: Schedule,
        name: Arc<str>,
        generation: Generation,
    }

    impl One {
        fn take_due(&mut self, now: Instant) -> Option<Generation> {
            let (name, generation) = self.schedule.take_due(now)?;
            assert_eq!(name, self.name);
            Some(generation)
        }

        fn finish(&mut self, found: Found, now: Instant, jitter: f64) -> Verdict {
            self.schedule.finish(&self.name, self.generation, found, now, jitter)
        }

        fn next_due(&self) -> Option<Instant> {
            self.schedule.next_due()
        }
    }

    fn looking_up() -> (One, Instant) {
        let mut schedule = Schedule::new(Settings::default());
        let name: Arc<str> = "a.test".into();
        let now = Instant::now();
        schedule.add(&name, now);
        let (_, generation) = schedule.take_due(now).unwrap();
        (One { schedule, name, generation }, now)
    }

    #[test]
    fn a_name_is_looked_up_again_when_its_records_run_out() {
        let (mut one, now) = looking_up();
        assert_eq!(one.finish(records("10.0.0.1", 60), now, 0.0), answer("10.0.0.1"));
        assert_eq!(one.next_due(), Some(now + 60 * SECOND));
        assert_eq!(one.take_due(now + 59 * SECOND), None);
        assert!(one.take_due(now + 60 * SECOND).is_some());
        assert_eq!(one.finish(records("10.0.0.1", 60), now, 1.0), Verdict::Kept, "nothing new");
        assert_eq!(one.next_due(), Some(now + 66 * SECOND), "with jitter");
    }

    #[test]
    fn pauses_keep_to_their_bounds() {
        const DAY: u64 = 86_400;
        let seconds = |ttl| Some(Duration::from_secs(ttl));
        let own = Settings::default();
        let valid = |ttl: u64| Settings { valid_ttl: seconds(ttl), ..own.clone() };
        let failed = || Found::Failed("no".into());
        let hasty = Settings { error_ttl: Duration::from_millis(100), ..own.clone() };
        let patient = Settings { error_ttl: Duration::from_secs(60), ..own.clone() };
        for (name, settings, found, failures, want_ms) in [
            ("a time to live of 0", &own, records("10.0.0.1", 0), 0, 2000),
            ("of 1", &own, records("10.0.0.1", 1), 0, 2000),
            ("of a minute", &own, records("10.0.0.1", 60), 0, 60_000),
            ("of a week", &own, records("10.0.0.1", 7 * DAY), 0, 3_600_000),
            ("of its own setting", &valid(1), records("10.0.0.1", 60), 0, 1000),
            ("of its own setting, above the bound", &valid(DAY), records("10.0.0.1", 60), 0, 86_400_000),
            ("nothing", &own, Found::Empty(None), 0, 30_000),
            ("no such name", &own, Found::Missing(None), 0, 30_000),
            ("no such name, for a while", &own, Found::Missing(seconds(5)), 0, 5000),
            ("no such name, for no time", &own, Found::Missing(seconds(0)), 0, 2000),
            ("nothing, for long", &own, Found::Empty(seconds(DAY)), 0, 30_000),
            ("the first failure", &own, failed(), 1, 1000),
            ("the third", &own, failed(), 3, 4000),
            ("the hundredth", &own, failed(), 100, 30_000),
            ("the last that can be counted", &own, failed(), u32::MAX, 30_000),
            ("the first failure of the hasty", &hasty, failed(), 1, 100),
            ("the second of the patient", &patient, failed(), 2, 60_000),
        ] {
            assert_eq!(pause(settings, &found, failures).as_millis(), want_ms, "{name}");
        }
    }

    #[test]
    fn a_failure_keeps_what_there_was_until_it_is_too_old() {
        let (mut one, mut now) = looking_up();
        one.finish(records("10.0.0.1", 60), now, 0.0);
        let mut pauses = Vec::new();
        let end = now + Duration::from_secs(3660);
        loop {
            now = one.next_due().unwrap();
            one.take_due(now);
            let verdict = one.finish(Found::Failed("no".into()), now, 0.0);
            if now >= end {
                assert_eq!(verdict, Verdict::Changed(Answer::Failed("no".into())));
                break;
            }
            assert_eq!(verdict, Verdict::Kept);
            pauses.push((one.next_due().unwrap() - now).as_secs());
        }
        assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_name_that_is_gone_is_gone_at_once() {
        let (mut one, now) = looking_up();
        one.finish(records("10.0.0.1", 2), now, 0.0);
        one.take_due(now + 2 * SECOND);
        let verdict = one.finish(Found::Missing(None), now + 2 * SECOND, 0.0);
        assert_eq!(verdict, Verdict::Changed(Answer::NoAddress));
        assert_eq!(one.next_due(), Some(now + 32 * SECOND));
    }

    #[test]
    fn an_answer_without_addresses_does_not_replace_what_there_was() {
        let (mut one, now) = looking_up();
        assert_eq!(one.finish(Found::Empty(None), now, 0.0), Verdict::Changed(Answer::NoAddress));
        one.take_due(now + 30 * SECOND);
        let found = records("10.0.0.1", 2);
        assert_eq!(one.finish(found, now + 30 * SECOND, 0.0), answer("10.0.0.1"));
        one.take_due(now + 32 * SECOND);
        assert_eq!(one.finish(Found::Empty(None), now + 32 * SECOND, 0.0), Verdict::Kept);
        let end = now + 32 * SECOND + Settings::default().stale_ttl;
        one.take_due(end);
        assert_eq!(one.finish(Found::Empty(None), end, 0.0), Verdict::Changed(Answer::NoAddress));
    }

    #[test]
    fn a_result_for_a_name_nobody_wants_goes_for_nothing() {
        let (mut one, now) = looking_up();
        let name = Arc::clone(&one.name);
        one.schedule.remove(&name);
        assert_eq!(one.finish(records("10.0.0.1", 1), now, 0.0), Verdict::Kept);
        assert_eq!(one.next_due(), None);
        one.schedule.add(&name, now);
        assert_eq!(one.finish(records("10.0.0.1", 1), now, 0.0), Verdict::Kept, "an older look-up");
        assert!(one.take_due(now).is_some());
    }

    #[test]
    fn of_two_look_ups_of_a_name_the_newer_counts_whichever_ends_first() {
        for older_is_first in [true, false] {
            let (mut one, now) = looking_up();
            let (name, older) = (Arc::clone(&one.name), one.generation);
            one.schedule.remove(&name);
            one.schedule.add(&name, now);
            one.generation = one.take_due(now).unwrap();
            let end_older =
                |one: &mut One| one.schedule.finish(&name, older, Found::Failed("no".into()), now, 0.0);
            if older_is_first {
                assert_eq!(end_older(&mut one), Verdict::Kept);
                assert_eq!(one.next_due(), None, "the newer is still under way");
            }
            assert_eq!(one.finish(records("10.0.0.1", 60), now, 0.0), answer("10.0.0.1"));
            if !older_is_first {
                assert_eq!(end_older(&mut one), Verdict::Kept);
            }
            assert_eq!(one.next_due(), Some(now + 60 * SECOND));
            assert!(!one.schedule.has_failed(&name));
        }
    }

    /// One look-up's end, and how much of the jitter it drew.
    fn any_found() -> impl Strategy<Value = (Found, f64)> {
        let ttl = || prop_oneof![0_u64..10, 0_u64..100_000];
        let held = move || prop::option::of(ttl().prop_map(Duration::from_secs));
        let found = prop_oneof![
            (1_u8..4, ttl()).prop_map(|(last, ttl)| records(&format!("10.0.0.{last}"), ttl)),
            held().prop_map(Found::Empty),
            held().prop_map(Found::Missing),
            Just(()).prop_map(|()| Found::Failed("no".into())),
        ];
        (found, 0.0..1.0)
    }

    proptest! {
        /// Whatever servers say: a name is always due, never sooner than the least bound and never later than the
        /// greatest; users hear of changes only; and only a server that says so, or the end of the stale time, takes
        /// addresses away.
        #[test]
        fn a_name_is_asked_for_in_bounds_and_keeps_what_it_may(
            rounds in prop::collection::vec(any_found(), 1..60),
        ) {
            let settings = Settings::default();
            let (mut one, mut now) = looking_up();
            let mut has: Option<Answer> = None;
            let mut good_until = None;
            for (found, jitter) in rounds {
                let of_records = match &found {
                    Found::Records { ttl, .. } => Some((*ttl).clamp(settings.ttl_min, settings.ttl_max)),
                    Found::Empty(_) | Found::Missing(_) | Found::Failed(_) => None,
                };
                let is_missing = matches!(found, Found::Missing(_));
                let verdict = one.finish(found, now, jitter);
                if let Verdict::Changed(answer) = &verdict {
                    prop_assert_ne!(Some(answer), has.as_ref());
                    let loses = matches!(has, Some(Answer::Records(..))) && !matches!(answer, Answer::Records(..));
                    prop_assert!(!loses || is_missing || good_until.is_none_or(|until| now >= until));
                    has = Some(answer.clone());
                }
                prop_assert!(has.is_some(), "the first look-up always says something");
                if let Some(ttl) = of_records {
                    good_until = Some(now + ttl + settings.stale_ttl);
                }
                let due = one.next_due();
                prop_assert!(due.is_some(), "it is due again");
                let pause = due.map_or(Duration::ZERO, |due| due - now);
                prop_assert!(pause >= settings.error_ttl.min(settings.ttl_min));
                prop_assert!(pause <= settings.ttl_max.mul_f64(1.0 + JITTER_SHARE));
                prop_assert_eq!(one.take_due(now + pause - Duration::from_nanos(1)), None);
                now += pause;
                prop_assert_eq!(one.take_due(now), Some(one.generation));
                prop_assert_eq!(one.next_due(), None, "one look-up of a name at a time");
            }
        }
    }
}
