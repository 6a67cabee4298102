//! `correlation-id`: one id for a request and all that it leads to.
//!
//! Source: Kong 3.10's plugin.

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::{Builder, Uuid};

use super::answer::Answer;
use super::run::At;

/// Which header, and what is in it where the client says nothing.
#[derive(Debug)]
pub struct CorrelationId {
    /// Its name.
    pub header_name: Box<str>,
    /// What is in it.
    pub generator: Generator,
    /// Whether the client is told.
    pub echoes: bool,
}

/// How ids are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    /// A UUID each.
    Uuid,
    /// A UUID of the node, and a number.
    UuidCounter,
    /// Address and port, the process, its request, and the time.
    Tracker,
}

/// What ids of a node are made of.
#[derive(Debug)]
pub struct Ids {
    node: Uuid,
    count: AtomicU64,
}

impl Ids {
    /// `seed` is random.
    pub fn new(seed: u128) -> Self {
        Self { node: of(seed), count: AtomicU64::new(0) }
    }

    fn next(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed) + 1
    }
}

fn of(random: u128) -> Uuid {
    Builder::from_random_bytes(random.to_be_bytes()).into_uuid()
}

pub(super) fn run(config: &CorrelationId, at: &mut At<'_>) -> Option<Answer> {
    let said = at.header(&config.header_name).next().filter(|value| !value.is_empty()).map(<[u8]>::to_vec);
    let id = match said {
        Some(id) => id,
        None => {
            let id = make(config.generator, at).into_bytes();
            at.passed.request.set(config.header_name.to_string(), &id);
            id
        }
    };
    if config.echoes {
        at.passed.response.set(config.header_name.to_string(), &id);
    }
    None
}

fn make(generator: Generator, at: &At<'_>) -> String {
    let ids = &at.stores.ids;
    match generator {
        Generator::Uuid => of((at.asked.random)()).to_string(),
        Generator::UuidCounter => format!("{}#{}", ids.node, ids.next()),
        // The reference counts connections and their requests; here one number tells requests apart.
        Generator::Tracker => format!(
            "{}-{}-{}-{}-{:.3}",
            at.asked.client,
            at.asked.port,
            std::process::id(),
            ids.next(),
            at.asked.now.as_secs_f64()
        ),
    }
}
