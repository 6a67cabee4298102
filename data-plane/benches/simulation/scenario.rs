//! What a run is of: targets, nodes, requests, and what goes wrong. Values only.

use equipoise_data_plane::balancer::{Algorithm, BalanceFactor, HashInput, SlowStart};
use equipoise_data_plane::health::outlier;

/// Virtual time, in microseconds from the start of a run.
pub type Micros = u64;

/// A second.
pub const SECOND: Micros = 1_000_000;

/// Half of all requests take a worker so long, when nothing is wrong.
pub const MEDIAN_US: f64 = 10_000.0;

/// Of the logarithm of that time: one of a hundred takes 3.2 times the median, one of a thousand 4.7 times.
pub const SIGMA: f64 = 0.5;

/// One situation, in which all algorithms are compared.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Names its chart: lower case and hyphens.
    pub name: &'static str,
    /// What stands above its table.
    pub title: &'static str,
    /// How long requests arrive.
    pub seconds: u64,
    /// Requests that arrive before are not counted.
    pub warm_up_seconds: u64,
    /// The zone of each node. A request arrives at any of them, all alike.
    pub nodes: Vec<u8>,
    /// All targets, those included that join later.
    pub targets: Vec<TargetPlan>,
    /// Requests as a part of what the targets present at the start can do.
    pub utilisation: f64,
    /// What requests are hashed by.
    pub keys: Keys,
    /// What the upstream's policy asks for.
    pub rules: Rules,
    /// Whether its tail is drawn over time.
    pub has_chart: bool,
}

/// One target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TargetPlan {
    /// Its configured share.
    pub weight: u16,
    /// Requests that it works on at once; the others wait.
    pub workers: usize,
    /// Where it is.
    pub zone: u8,
    /// What goes wrong with it.
    pub trouble: Trouble,
}

impl Default for TargetPlan {
    fn default() -> Self {
        Self { weight: 100, workers: 4, zone: 0, trouble: Trouble::None }
    }
}

/// What goes wrong with a target. Times are seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Everything takes so much longer.
    Slow {
        /// From when on.
        from: u64,
        /// Until when.
        to: u64,
        /// So many times.
        factor: f64,
    },
    /// It comes and goes: it is well, then bad, over and over.
    Flapping {
        /// Length of one round.
        every: u64,
        /// At the end of each it is bad for so long.
        bad: u64,
        /// How it is bad.
        how: Flap,
    },
    /// It joins late, and is slow at first, less and less.
    Cold {
        /// When it joins.
        at: u64,
        /// When it has come to its full speed, after joining.
        over: u64,
        /// So many times longer does a request take in the beginning.
        factor: f64,
    },
    /// It dies with all that it has, and comes back.
    Lost {
        /// From when on.
        from: u64,
        /// Until when.
        to: u64,
    },
}

/// How a target is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flap {
    /// It takes no connections.
    Refuses,
    /// It answers 503 at once.
    Answers503,
}

/// How a target is at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Condition {
    /// It works, so many times slower than it should.
    Works(f64),
    /// It takes no connections.
    Refuses,
    /// It answers 503 at once.
    Answers503,
    /// It is not there.
    Lost,
}

impl Trouble {
    /// How a target with it is at a moment.
    pub fn condition(self, now: Micros) -> Condition {
        let is_between = |from: u64, to: u64| (from * SECOND..to * SECOND).contains(&now);
        match self {
            Self::Slow { from, to, factor } if is_between(from, to) => Condition::Works(factor),
            Self::Flapping { every, bad, how } if now % (every * SECOND) >= (every - bad) * SECOND => {
                match how {
                    Flap::Refuses => Condition::Refuses,
                    Flap::Answers503 => Condition::Answers503,
                }
            }
            Self::Cold { at, .. } if now < at * SECOND => Condition::Lost,
            Self::Cold { at, over, factor } if is_between(at, at + over) => {
                let left = 1.0 - (now - at * SECOND) as f64 / (over * SECOND) as f64;
                Condition::Works(1.0 + (factor - 1.0) * left)
            }
            Self::Lost { from, to } if is_between(from, to) => Condition::Lost,
            Self::None
            | Self::Slow { .. }
            | Self::Flapping { .. }
            | Self::Cold { .. }
            | Self::Lost { .. } => Condition::Works(1.0),
        }
    }

    /// Whether it is in trouble at a moment, and there.
    pub fn is_on(self, now: Micros) -> bool {
        let has_joined = !matches!(self, Self::Cold { at, .. } if now < at * SECOND);
        has_joined && self.condition(now) != Condition::Works(1.0)
    }
}

/// What requests are hashed by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keys {
    /// So many keys, all alike.
    Even(u64),
    /// The same, but one of them has this part of all requests.
    Hot(u64, f64),
}

/// What an upstream's policy asks for.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Takes out who fails.
    pub outliers: Option<outlier::Settings>,
    /// Lets newcomers in slowly.
    pub slow_start: Option<SlowStart>,
    /// How targets are told apart by zone.
    pub locality: Locality,
}

/// How targets are told apart by zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locality {
    /// Not at all.
    #[default]
    Off,
    /// Own zone first, the others for what it cannot take.
    Failover,
    /// Own zone as far as it has its share of the targets.
    ZoneAware,
}

/// An algorithm in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// In turn.
    RoundRobin,
    /// The fewest requests under way.
    LeastConnections,
    /// By key.
    Hashing,
    /// By key, with bounded loads.
    BoundedHashing,
    /// The shortest answer times.
    Latency,
    /// Of two the one that is likely to answer sooner.
    PeakEwma,
}

impl Contender {
    /// All of them, as tables have them.
    pub const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::LeastConnections,
        Self::Hashing,
        Self::BoundedHashing,
        Self::Latency,
        Self::PeakEwma,
    ];

    /// As an operator would write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::Hashing => "consistent-hashing",
            Self::BoundedHashing => "bounded hashing 1.25",
            Self::Latency => "latency",
            Self::PeakEwma => "peak-ewma",
        }
    }

    /// The algorithm itself.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::RoundRobin => Algorithm::RoundRobin,
            Self::LeastConnections => Algorithm::LeastConnections,
            Self::Hashing | Self::BoundedHashing => Algorithm::ConsistentHashing {
                slots: 10_000,
                hash_on: HashInput::Ip,
                fallback: HashInput::None,
            },
            Self::Latency => Algorithm::Latency,
            Self::PeakEwma => Algorithm::PeakEwma,
        }
    }

    /// How far above its part of the load a target may be.
    pub fn balance_factor(self) -> Option<BalanceFactor> {
        match self {
            Self::BoundedHashing => BalanceFactor::new(1.25),
            Self::RoundRobin | Self::LeastConnections | Self::Hashing | Self::Latency | Self::PeakEwma => {
                None
            }
        }
    }
}

impl Scenario {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        let mean_seconds = MEDIAN_US / SECOND as f64 * (SIGMA * SIGMA / 2.0).exp();
        let is_there = |plan: &&TargetPlan| !matches!(plan.trouble, Trouble::Cold { .. });
        let workers: usize = self.targets.iter().filter(is_there).map(|plan| plan.workers).sum();
        self.utilisation * workers as f64 / mean_seconds
    }
}
