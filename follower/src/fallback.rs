//! Fallback snapshots: files that control planes and relays leave for who starts while nobody answers.
//!
//! `format` is the file, `place` where it lies. Whoever has no config of its own asks [`Fallback::seek`]; what that gives is
//! put in force like a config of the cache. A file holds private keys: it is encrypted under a key of the settings, and only
//! one that a control plane or relay of the same cluster signed is read at all.

pub mod format;
mod place;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use equipoise_identity::tls::Known;
use equipoise_identity::{SealKey, SpiffeId};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::membership::Membership;
use crate::replica::Replica;
use format::{Refusal, Verified};

pub use place::{InvalidPlace, Place, PlaceError};

/// Name of the file in its directory.
pub const FILE_NAME: &str = "equipoise-snapshot.eqs";

/// How long control planes are waited for before a file is looked for: longer than a connection to one of them may take.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// Pause before the places are looked at again.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// What a settings file says of fallback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// In the order in which they are looked at; at least one.
    pub places: Vec<Place>,
    /// What the files are sealed with.
    pub key: SealKey,
}

/// Looks for a fallback snapshot.
#[derive(Debug)]
pub struct Fallback {
    places: Places,
    membership: Arc<Membership>,
}

/// A snapshot that was found, signed and whole.
#[derive(Debug)]
pub struct Found {
    /// All of it.
    pub replica: Replica,
    /// zstd, as a snapshot crosses the wire.
    pub compressed: Vec<u8>,
    /// Size before compression.
    pub raw_bytes: u64,
}

/// What a file is judged by.
#[derive(Debug, Clone)]
struct Judge {
    known: Known,
    key: SealKey,
    now: SystemTime,
}

impl Judge {
    fn read(&self, bytes: &[u8]) -> Result<Option<Verified>, Refusal> {
        Verified::read(bytes, &self.known, &self.key, self.now)
    }
}

/// All bytes of a file whose head counts.
struct Judged {
    verified: Verified,
    bytes: Vec<u8>,
}

impl Fallback {
    /// Looks at `places` for what was signed by whom `membership` trusts or, before it has a certificate, by the cluster
    /// that its join token names.
    pub const fn new(places: Places, membership: Arc<Membership>) -> Self {
        Self { places, membership }
    }

    /// Completes with a snapshot once no control plane was connected for [`PATIENCE`], or when the last one is gone after that.
    /// Looks again until there is one, and logs each reason once. Never completes while `is_needed` says no. Cancel safe.
    pub async fn seek(
        &self,
        mut connected: watch::Receiver<Option<Channel>>,
        is_needed: impl Fn() -> bool,
    ) -> Found {
        let mut said = BTreeMap::new();
        sleep(PATIENCE).await;
        loop {
            // An error: nobody connects any more.
            drop(connected.wait_for(Option::is_none).await);
            if !is_needed() {
                return std::future::pending().await;
            }
            let found = self.look(&mut said).await;
            let is_alone = connected.borrow().is_none();
            match found {
                Some(found) if is_alone && is_needed() => return found,
                Some(_) | None => sleep(RETRY_AFTER).await,
            }
        }
    }

    /// The first good one. `said`: why the last look at a place was in vain.
    async fn look(&self, said: &mut BTreeMap<String, String>) -> Option<Found> {
        for place in &self.places.places {
            let name = place.to_string();
            match self.open(place).await {
                Ok((found, written, signer)) => {
                    let age = SystemTime::now().duration_since(written).unwrap_or_default();
                    let position = found.replica.position();
                    info!(
                        file = name, %position, %signer, age = ?Duration::from_secs(age.as_secs()),
                        "no control plane answers: the config of a fallback snapshot is taken"
                    );
                    return Some(found);
                }
                Err(error) => {
                    let why = error.to_string();
                    if said.get(&name) != Some(&why) {
                        warn!(file = name, %error, "no control plane answers, and a fallback snapshot is of no use");
                        said.insert(name, why);
                    }
                }
            }
        }
        None
    }

    async fn open(&self, place: &Place) -> Result<(Found, SystemTime, SpiffeId), PlaceError> {
        let known = self.membership.known().ok_or(PlaceError::NobodyKnown)?;
        let key = self.places.key.clone();
        let judge = Judge { known, key: key.clone(), now: SystemTime::now() };
        let Judged { verified, bytes } = place.read(&judge).await?;
        let (written, signer) = (verified.written, verified.signer);
        let opened = tokio::task::spawn_blocking(move || verified.open(bytes, &key)).await;
        let (replica, compressed, raw_bytes) =
            opened.map_err(|error| PlaceError::Io(std::io::Error::other(error)))??;
        Ok((Found { replica, compressed, raw_bytes }, written, signer))
    }
}

#[cfg(test)]
mod tests;
