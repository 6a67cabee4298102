//! What a run showed.

use super::scenario::{Contender, Micros, SECOND, Scenario, TargetPlan};

/// Length of one point of a chart.
pub const WINDOW_SECONDS: u64 = 2;

/// A request that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it came.
    pub arrived: Micros,
    /// How long its client waited.
    pub took: Micros,
}

/// What a run showed. Times are virtual microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Who chose the targets.
    pub contender: Contender,
    /// Requests that came.
    pub arrived: u64,
    /// Those that were answered well, in the order of the answers.
    pub answered: Vec<Sample>,
    /// Those whose client got an error.
    pub failed: u64,
    /// Second attempts.
    pub retried: u64,
    /// Attempts at each target.
    pub attempts: Vec<u64>,
    targets: Vec<TargetPlan>,
    warm_up: Micros,
    seconds: u64,
    /// Attempts at targets in trouble, all attempts meanwhile.
    in_trouble: (u64, u64),
}

impl Report {
    /// Of a run that has not begun.
    pub fn new(scenario: &Scenario, contender: Contender) -> Self {
        Self {
            contender,
            arrived: 0,
            answered: Vec::new(),
            failed: 0,
            retried: 0,
            attempts: vec![0; scenario.targets.len()],
            targets: scenario.targets.clone(),
            warm_up: scenario.warm_up_seconds * SECOND,
            seconds: scenario.seconds,
            in_trouble: (0, 0),
        }
    }

    /// An attempt was made.
    pub fn attempted(&mut self, target: usize, now: Micros) {
        self.attempts[target] += 1;
        if self.targets.iter().any(|plan| plan.trouble.is_on(now)) {
            self.in_trouble.0 += u64::from(self.targets[target].trouble.is_on(now));
            self.in_trouble.1 += 1;
        }
    }

    /// Times of the answers after the warm-up, ascending.
    pub fn times(&self) -> Vec<Micros> {
        let counted = self.answered.iter().filter(|sample| sample.arrived >= self.warm_up);
        let mut times: Vec<_> = counted.map(|sample| sample.took).collect();
        times.sort_unstable();
        times
    }

    /// The most loaded target's attempts for its weight, as a multiple of the mean.
    pub fn max_to_mean(&self) -> f64 {
        let weight = |plan: &TargetPlan| f64::from(plan.weight);
        let of_one = |(attempts, plan): (&u64, &TargetPlan)| *attempts as f64 / weight(plan);
        let most = self.attempts.iter().zip(&self.targets).map(of_one).fold(0.0, f64::max);
        let weights: f64 = self.targets.iter().map(weight).sum();
        most * weights / self.attempts.iter().sum::<u64>() as f64
    }

    /// What targets in trouble got meanwhile, as a multiple of their fair share; `None` where there is no trouble.
    pub fn trouble_to_fair(&self) -> Option<f64> {
        let (there, all) = self.in_trouble;
        let weight = |plan: &&TargetPlan| f64::from(plan.weight);
        let troubled = self.targets.iter().filter(|plan| plan.trouble != super::scenario::Trouble::None);
        let fair = troubled.map(|plan| weight(&plan)).sum::<f64>()
            / self.targets.iter().map(|plan| weight(&plan)).sum::<f64>();
        (all > 0).then(|| there as f64 / (all as f64 * fair))
    }

    /// The 99th percentile of each window, by when the requests came; `None` where none was answered.
    pub fn p99_over_time(&self) -> Vec<Option<Micros>> {
        let count = usize::try_from(self.seconds.div_ceil(WINDOW_SECONDS)).unwrap_or(0);
        let mut windows = vec![Vec::new(); count];
        for sample in &self.answered {
            let window = usize::try_from(sample.arrived / (WINDOW_SECONDS * SECOND)).unwrap_or(usize::MAX);
            if let Some(window) = windows.get_mut(window) {
                window.push(sample.took);
            }
        }
        let p99 = |mut times: Vec<Micros>| {
            times.sort_unstable();
            percentile(&times, 9_900)
        };
        windows.into_iter().map(p99).collect()
    }

    /// Changes with anything in it.
    pub fn digest(&self) -> blake3::Hash {
        blake3::hash(format!("{self:?}").as_bytes())
    }
}

/// The smallest of `times`, which are ascending, that so many of 10,000 are not above; `None` of none.
pub fn percentile(times: &[Micros], of_10_000: usize) -> Option<Micros> {
    let rank = (times.len() * of_10_000).div_ceil(10_000).max(1);
    times.get(rank - 1).copied()
}
