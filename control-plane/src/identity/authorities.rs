//! The control plane's own authorities, on disk: the one that issues and, during a rotation, the one that follows or goes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use equipoise_identity::files::{pem, read, write_private};
use equipoise_identity::sealed_file::{SealedFileError, read_sealed, write_sealed};
use equipoise_identity::{Authorities, Authority, SealKeys};
use serde::{Deserialize, Serialize};

use super::record::seconds;

/// Name of the file that says which authorities there are.
pub(super) const INDEX: &str = "authorities.json";

/// Why the authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is missing or is not what it should be.
    #[error("{}: {why}; put the directory back from a backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The key of an authority cannot be read.
    #[error("{}: {source}", path.display())]
    Sealed {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: SealedFileError,
    },
    /// No key or certificate can be made.
    #[error(transparent)]
    Make(#[from] equipoise_identity::authority::AuthorityError),
}

/// Where a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// There is one authority.
    Single,
    /// A second one is trusted, and does not issue yet.
    Introduced,
    /// The second one issues, and the first is still trusted.
    Switched,
}

impl Stage {
    /// As in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Introduced => "introduced",
            Self::Switched => "switched",
        }
    }
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A second authority is made, and trusted from now on.
    Introduce,
    /// It issues from now on.
    Switch,
    /// The first is not trusted any more.
    Retire,
}

impl Step {
    /// As in requests.
    pub const ALL: [(&'static str, Self); 3] =
        [("introduce", Self::Introduce), ("switch", Self::Switch), ("retire", Self::Retire)];

    /// The stage that it starts from.
    pub const fn from(self) -> Stage {
        match self {
            Self::Introduce => Stage::Single,
            Self::Switch => Stage::Introduced,
            Self::Retire => Stage::Switched,
        }
    }
}

/// The index file. The authorities in the order of trust: the one that issues first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    stage: Stage,
    /// Seconds since 1970.
    since: u64,
    authorities: Vec<String>,
}

/// The authorities in force.
#[derive(Debug)]
pub(super) struct Keys {
    directory: PathBuf,
    seal: SealKeys,
    index: Index,
    authorities: Vec<Authority>,
}

impl Keys {
    /// Reads them, or makes the first one. Their private keys are sealed.
    pub(super) fn open(directory: &Path, seal: &SealKeys, now: SystemTime) -> Result<Self, AuthoritiesError> {
        let path = directory.join(INDEX);
        let failed = |source| AuthoritiesError::Io { path: path.clone(), source };
        let Some(text) = read(&path).map_err(failed)? else {
            let index = Index { stage: Stage::Single, since: seconds(now), authorities: Vec::new() };
            let (directory, seal) = (directory.to_owned(), seal.clone());
            let mut keys = Self { directory, seal, index, authorities: Vec::new() };
            let (name, first) = keys.make(now)?;
            keys.index.authorities.push(name);
            keys.authorities.push(first);
            keys.write(&keys.index)?;
            return Ok(keys);
        };
        let damaged = |why: String| AuthoritiesError::Damaged { path: path.clone(), why };
        let index: Index = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let wanted = if index.stage == Stage::Single { 1 } else { 2 };
        if index.authorities.len() != wanted {
            return Err(damaged(format!("it names {} authorities, not {wanted}", index.authorities.len())));
        }
        let authorities = index.authorities.iter().map(|name| load(directory, seal, name));
        let authorities = authorities.collect::<Result<_, _>>()?;
        Ok(Self { directory: directory.to_owned(), seal: seal.clone(), index, authorities })
    }

    /// The one that issues.
    pub(super) fn issuer(&self) -> &Authority {
        // `open` saw to it that there is one.
        &self.authorities[0]
    }

    /// All that are trusted, the one that issues first.
    pub(super) fn trusted(&self) -> Result<Authorities, AuthoritiesError> {
        let certificates = self.authorities.iter().map(|authority| authority.certificate().clone());
        Ok(Authorities::new(certificates.collect())?)
    }

    /// Where a rotation is, and since when (seconds since 1970).
    pub(super) const fn stage(&self) -> (Stage, u64) {
        (self.index.stage, self.index.since)
    }

    /// Takes a step; it is to be taken from the stage that it starts from.
    pub(super) fn step(&mut self, step: Step, now: SystemTime) -> Result<(), AuthoritiesError> {
        let mut index = Index { since: seconds(now), ..self.index.clone() };
        match step {
            Step::Introduce => {
                let (name, next) = self.make(now)?;
                index.authorities.push(name);
                index.stage = Stage::Introduced;
                self.write(&index)?;
                self.authorities.push(next);
            }
            Step::Switch => {
                index.authorities.reverse();
                index.stage = Stage::Switched;
                self.write(&index)?;
                self.authorities.reverse();
            }
            Step::Retire => {
                index.authorities.truncate(1);
                index.stage = Stage::Single;
                self.write(&index)?;
                self.authorities.truncate(1);
            }
        }
        self.index = index;
        Ok(())
    }

    /// A new authority in its files, which count once the index names them.
    fn make(&self, now: SystemTime) -> Result<(String, Authority), AuthoritiesError> {
        let authority = Authority::generate(rand::random(), now)?;
        let name = authority.certificate().fingerprint().to_string()[..16].to_owned();
        let path = key_path(&self.directory, &name);
        write_sealed(&path, &self.seal, &authority.key().to_pem())
            .map_err(|source| AuthoritiesError::Io { path, source })?;
        let certificate = pem("CERTIFICATE", authority.certificate().der());
        let path = certificate_path(&self.directory, &name);
        write_private(&path, certificate.as_bytes())
            .map_err(|source| AuthoritiesError::Io { path, source })?;
        Ok((name, authority))
    }

    fn write(&self, index: &Index) -> Result<(), AuthoritiesError> {
        let path = self.directory.join(INDEX);
        let text = serde_json::to_string_pretty(index).expect("an index has only strings as keys");
        write_private(&path, text.as_bytes()).map_err(|source| AuthoritiesError::Io { path, source })
    }
}

fn key_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("authority-{name}.key.pem"))
}

fn certificate_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("authority-{name}.pem"))
}

fn load(directory: &Path, seal: &SealKeys, name: &str) -> Result<Authority, AuthoritiesError> {
    let missing =
        |path: &Path| AuthoritiesError::Damaged { path: path.to_owned(), why: "it is missing".to_owned() };
    let (path, key) = (certificate_path(directory, name), key_path(directory, name));
    let failed = |source| AuthoritiesError::Io { path: path.clone(), source };
    let certificate = read(&path).map_err(failed)?.ok_or_else(|| missing(&path))?;
    let unreadable = |source| AuthoritiesError::Sealed { path: key.clone(), source };
    let key = read_sealed(&key, seal).map_err(unreadable)?.ok_or_else(|| missing(&key))?;
    Authority::from_pem(&certificate, &key)
        .map_err(|error| AuthoritiesError::Damaged { path, why: error.to_string() })
}
