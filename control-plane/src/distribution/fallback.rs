//! Leaves the config as a file for nodes that start while nobody answers: a control plane's or a relay's last word.
//!
//! Off the commit path: it follows the newest durable state, and writes the latest of it every [`PAUSE`] at most, and again
//! every [`REFRESH`], so that a file without news still says that its writer lived. The file replaces the one before at once.
//! What cannot be written is told once for each reason, counted, and tried again; nothing else waits for it.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use equipoise_follower::fallback::FILE_NAME;
use equipoise_follower::fallback::format::{Content, SealError, Sealed};
use equipoise_identity::tls::{Presented, Signer};
use equipoise_identity::{Certificate, SealKey, files};
use equipoise_proto::Revision;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::snapshot::Snapshot;
use crate::observability::FallbackGauges;
use crate::store::{Head, Store};

/// Time between two files, however fast the config changes: each costs as much as the config is large.
const PAUSE: Duration = Duration::from_secs(2);

/// After so long without news the same config is signed anew, with the certificate of now.
const REFRESH: Duration = Duration::from_secs(3600);

/// Pause after a file that could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// How long a stop waits for the last file.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Anybody may read it, a static server for one: it is sealed.
const MODE: u32 = 0o644;

/// What is written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackSettings {
    /// The directory; it must be there.
    pub directory: PathBuf,
    /// What files are sealed with.
    pub key: SealKey,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("there is no certificate to sign it with yet")]
    NoSigner,
    #[error(
        "the certificate that would sign it does not say that this is a control plane or a relay: nodes would refuse it"
    )]
    Nameless,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Writes files of what `store` has, signed as whoever is `presented`.
#[derive(Debug)]
pub struct Writer {
    settings: FallbackSettings,
    presented: Presented,
    store: Store,
    gauges: FallbackGauges,
    /// Why the last one was not written.
    failed: Option<String>,
}

impl Writer {
    /// One writer a directory.
    pub const fn new(
        settings: FallbackSettings,
        presented: Presented,
        store: Store,
        gauges: FallbackGauges,
    ) -> Self {
        Self { settings, presented, store, gauges, failed: None }
    }

    /// Writes until `stop`, and then once more if there is news.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut heads = self.store.watch();
        // What is there already.
        heads.mark_changed();
        let mut refresh = Instant::now() + REFRESH;
        loop {
            let is_news = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    if heads.has_changed().unwrap_or(false) {
                        let head = heads.borrow_and_update().clone();
                        // Whoever stops does not wait for a disk that does not answer.
                        drop(timeout(STOP_MAX, self.write(head)).await);
                    }
                    return;
                }
                changed = heads.changed() => changed.is_ok(),
                () = sleep_until(refresh) => true,
            };
            if !is_news {
                return;
            }
            let head = heads.borrow_and_update().clone();
            let is_written = self.write(head).await;
            refresh = Instant::now() + if is_written { REFRESH } else { RETRY_AFTER };
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(PAUSE) => {}
            }
        }
    }

    /// Whether all is well: an empty config is not written, since it would take the place of one that is not.
    async fn write(&mut self, head: Head) -> bool {
        if head.position.revision == Revision::ZERO || !self.store.is_filled() {
            return true;
        }
        let (position, settings) = (head.position, self.settings.clone());
        let written = SystemTime::now();
        let signer = self.presented.signer().ok_or(WriteError::NoSigner);
        let done = match signer {
            Ok(signer) => {
                let write = move || write(&head, &settings, &signer, written);
                tokio::task::spawn_blocking(write)
                    .await
                    .unwrap_or_else(|error| Err(io::Error::other(error).into()))
            }
            Err(error) => Err(error),
        };
        let directory = self.settings.directory.display();
        match done {
            Ok(bytes) => {
                self.gauges.written(position.revision, written);
                if self.failed.take().is_some() {
                    info!(%directory, %position, bytes, "the fallback snapshot is written again");
                } else {
                    tracing::debug!(%directory, %position, bytes, "fallback snapshot written");
                }
                true
            }
            Err(error) => {
                self.gauges.failed();
                let why = error.to_string();
                if self.failed.as_ref() != Some(&why) {
                    warn!(%directory, %error, "the fallback snapshot is not written; it is tried again");
                    self.failed = Some(why);
                }
                false
            }
        }
    }
}

/// Bytes of the file.
fn write(
    head: &Head,
    settings: &FallbackSettings,
    signer: &Signer,
    written: SystemTime,
) -> Result<usize, WriteError> {
    let own = signer.chain().first().and_then(|der| Certificate::parse(der).ok());
    if !own.and_then(|own| own.name()).is_some_and(|name| name.role.serves()) {
        return Err(WriteError::Nameless);
    }
    let Snapshot { position, compressed, raw_bytes, min_protocol, .. } =
        Snapshot::build(head, CancellationToken::new())?;
    // Nobody else has it: it is taken, not copied.
    let content = Content { position, compressed: compressed.into(), raw_bytes, min_protocol };
    let sealed = Sealed::new(content, &settings.key, signer, written, rand::random())?;
    files::replace(&settings.directory.join(FILE_NAME), MODE, &sealed.parts())?;
    Ok(sealed.parts().iter().map(|part| part.len()).sum())
}
