//! Random numbers of a run.
//!
//! The generator is named: xoshiro256++ (Blackman, Vigna 2019), which `rand` keeps under that name, while its `StdRng` and
//! `SmallRng` may become another one in any version. So do floats and distributions come from here: what `rand` makes of
//! a generator's words may change as well. What is left is the platform's logarithm, whose last bit may differ.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, SeedableRng as _};

/// What numbers are drawn for: each has a sequence of its own, so that all algorithms see the same requests.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// When requests arrive, where, and with which key.
    Arrivals,
    /// How much work each is.
    Work,
    /// The chances of outlier detection.
    Chances,
}

/// A sequence of random numbers.
#[derive(Debug)]
pub struct Random(Xoshiro256PlusPlus);

impl Random {
    /// The sequence of `stream` for a run's seed.
    pub fn new(seed: u64, stream: Stream) -> Self {
        let number = match stream {
            Stream::Arrivals => 1,
            Stream::Work => 2,
            Stream::Chances => 3,
        };
        Self(Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(4).wrapping_add(number)))
    }

    /// All of a word.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Evenly from `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        // As many bits as a float holds.
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Evenly below `count`, which is small.
    pub fn below(&mut self, count: usize) -> usize {
        let count = u128::try_from(count).unwrap_or(0);
        usize::try_from((u128::from(self.word()) * count) >> u64::BITS).unwrap_or(0)
    }

    /// The time to the next of events that come by chance, on average `mean` apart.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Log-normal: half are below `median`; `sigma` is the standard deviation of the logarithm.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box and Muller 1958; the second number of the pair is not used.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        median * (sigma * normal).exp()
    }
}
