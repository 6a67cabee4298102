//! Where the keys of a directory are from: a setting, a file that one names, or a file beside the directory, which is made.
//!
//! A key is made only where nothing is encrypted yet: one that is missing is told of, and never replaced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use equipoise_identity::SealKeys;
use equipoise_identity::files::read;
use equipoise_identity::seal::InvalidSealKeys;
use tracing::warn;

/// What of a file's mode is for anybody.
const OTHERS: u32 = 0o007;

/// Where keys are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// They are in the settings themselves.
    Given(SealKeys),
    /// In a file that a setting names.
    File {
        /// Which.
        path: PathBuf,
        /// Name of the setting.
        setting: &'static str,
    },
    /// Nobody said: in a file beside the directory, under its name and `.key`.
    Beside {
        /// What is encrypted with them.
        directory: PathBuf,
        /// Name of the setting that could say.
        setting: &'static str,
    },
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the keys in {} ({setting}) cannot be read", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Of which setting.
        setting: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file that a setting names is not there.
    #[error("{setting} names {}, and there is no such file (`openssl rand -hex 32` makes a key)", .path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
        /// Of which setting.
        setting: &'static str,
    },
    /// Anybody may read it.
    #[error("{} ({setting}) may be read by anybody (its mode is {mode:o}): its owner and its group are enough", .path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Of which setting.
        setting: &'static str,
        /// Its mode.
        mode: u32,
    },
    /// It holds something else.
    #[error("{} ({setting}) {error}", .path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Of which setting.
        setting: &'static str,
        /// What is wrong.
        error: InvalidSealKeys,
    },
    /// What it opens is there, and it is not.
    #[error(
        "{} is encrypted, and its key is missing: {} is not there; put that file back, or name the one that has the key \
         by {setting}; nothing was changed",
        .sealed.display(), .path.display()
    )]
    Lost {
        /// Where it should be.
        path: PathBuf,
        /// Of which setting.
        setting: &'static str,
        /// What is encrypted.
        sealed: PathBuf,
    },
    /// No name could be found for it.
    #[error("{} has no name that a key file beside it could have: set {setting}", .directory.display())]
    Nameless {
        /// What was to be encrypted.
        directory: PathBuf,
        /// Of which setting.
        setting: &'static str,
    },
    /// It cannot be made.
    #[error("no key is set ({setting}), and none can be made in {}", .path.display())]
    Make {
        /// Which file.
        path: PathBuf,
        /// Of which setting.
        setting: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl KeySource {
    /// Reads the keys; where nobody said which, makes one, with one warning. `sealed` finds something in the directory that is
    /// encrypted already. Blocks.
    ///
    /// # Errors
    /// Why there are none.
    pub fn open(&self, sealed: impl FnOnce() -> io::Result<Option<PathBuf>>) -> Result<SealKeys, KeyError> {
        let (directory, setting) = match self {
            Self::Given(keys) => return Ok(keys.clone()),
            Self::File { path, setting } => {
                let missing = || KeyError::Missing { path: path.clone(), setting };
                return read_keys(path, setting)?.ok_or_else(missing);
            }
            Self::Beside { directory, setting } => (directory, *setting),
        };
        let path = beside(directory, setting)?;
        if let Some(keys) = read_keys(&path, setting)? {
            return Ok(keys);
        }
        let failed = |source| KeyError::Make { path: path.clone(), setting, source };
        if let Some(sealed) = sealed().map_err(failed)? {
            return Err(KeyError::Lost { path, setting, sealed });
        }
        let is_ours = make(&path).map_err(failed)?;
        // Whose it is: another process may have been first.
        let keys = read_keys(&path, setting)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        if is_ours {
            warn!(
                file = %path.display(), directory = %directory.display(), key = %keys.first(),
                "no encryption key is set ({setting}): one was made; without this file the directory cannot be read"
            );
        }
        Ok(keys)
    }

    /// Looks whether keys can be read that are there, and makes none. Blocks.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn check(&self) -> Result<(), KeyError> {
        match self {
            Self::Given(_) | Self::File { .. } => self.open(|| Ok(None)).map(drop),
            Self::Beside { directory, setting } => read_keys(&beside(directory, setting)?, setting).map(drop),
        }
    }
}

/// The file beside a directory.
fn beside(directory: &Path, setting: &'static str) -> Result<PathBuf, KeyError> {
    let nameless = || KeyError::Nameless { directory: directory.to_owned(), setting };
    let absolute = std::path::absolute(directory).map_err(|_| nameless())?;
    let mut name = absolute.file_name().ok_or_else(nameless)?.to_owned();
    name.push(".key");
    Ok(directory
        .file_name()
        .map_or_else(|| absolute.with_file_name(&name), |_| directory.with_file_name(&name)))
}

fn read_keys(path: &Path, setting: &'static str) -> Result<Option<SealKeys>, KeyError> {
    let unreadable = |source| KeyError::Read { path: path.to_owned(), setting, source };
    let Some(text) = read(path).map_err(unreadable)? else { return Ok(None) };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(KeyError::Mode { path: path.to_owned(), setting, mode });
    }
    let origin = format!("{} ({setting})", path.display());
    let keys = SealKeys::parse(&text, &origin);
    keys.map(Some).map_err(|error| KeyError::Invalid { path: path.to_owned(), setting, error })
}

/// Whether it was made here: it appears whole, and never in the place of another.
fn make(path: &Path) -> io::Result<bool> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    // Nobody else's, so that what appears under the name is what was written here.
    let mut whole = path.as_os_str().to_owned();
    whole.push(format!(".{:016x}.new", rand::random::<u64>()));
    let whole = PathBuf::from(whole);
    let key: [u8; 32] = rand::random();
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&whole)?;
    let linked = file
        .set_permissions(fs::Permissions::from_mode(0o600))
        .and_then(|()| writeln!(file, "{digits}"))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&whole, path));
    fs::remove_file(&whole)?;
    let is_ours = match linked {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    File::open(parent)?.sync_all()?;
    Ok(is_ours)
}

#[cfg(test)]
mod tests;
