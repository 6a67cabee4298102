//! The few things the store does to files, so that a failing disk can be put in their place.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::OpenError;

/// Appending and syncing: the two steps that durability hangs on.
pub(super) trait Medium: fmt::Debug + Send + Sync {
    /// Writes all of `bytes` at the end of `file`.
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    /// Returns when the bytes of `file` are on the disk.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// Files as they are.
#[derive(Debug)]
pub(super) struct RealMedium;

impl Medium for RealMedium {
    fn append(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// A file under a medium, for writers of streams.
pub(super) struct MediumFile {
    file: File,
    medium: Arc<dyn Medium>,
}

impl Write for MediumFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.medium.append(&self.file, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Suffix of files that are not finished; one found at boot is removed.
pub(super) const UNFINISHED: &str = "tmp";

/// Makes `path` appear whole or not at all: written beside it, synced, renamed, the directory synced.
pub(super) fn write_whole(
    path: &Path,
    medium: &Arc<dyn Medium>,
    fill: impl FnOnce(&mut MediumFile) -> io::Result<()>,
) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".");
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let mut file = MediumFile { file, medium: Arc::clone(medium) };
    fill(&mut file)?;
    medium.sync(&file.file)?;
    std::fs::rename(&unfinished, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes creations, renames and removals in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Opens a file of ours for appending.
pub(super) fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).read(true).open(path)
}

/// Makes the data directory if it is missing, and takes its lock, which the returned file holds.
pub(super) fn lock_directory(directory: &Path) -> Result<File, OpenError> {
    let unusable = |source| OpenError::Directory { path: directory.to_owned(), source };
    if directory.is_dir() {
        let mode = std::fs::metadata(directory).map_err(unusable)?.permissions().mode();
        if mode & 0o077 != 0 {
            // Not changed: it may be a directory that others need.
            warn!(directory = %directory.display(), "the data directory can be entered by other users");
        }
    } else {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new("."))).map_err(unusable)?;
    }
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join("lock"))
        .map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let process = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::InUse { path: directory.to_owned(), process });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    lock.set_len(0).map_err(unusable)?;
    lock.rewind().map_err(unusable)?;
    writeln!(lock, "{}", std::process::id()).map_err(unusable)?;
    Ok(lock)
}

/// Moves damaged files into a new `set-aside-<n>` directory, where nothing reads them again.
pub(super) fn set_aside(directory: &Path, files: &[PathBuf], why: &str) -> Result<(), OpenError> {
    let io = |path: &Path| OpenError::io("set aside", path);
    let aside = new_aside(directory).map_err(io(directory))?;
    for file in files {
        let Some(name) = file.file_name() else { continue };
        std::fs::rename(file, aside.join(name)).map_err(io(file))?;
        warn!(file = %file.display(), to = %aside.display(), why, "set a damaged file aside");
        let parent = file.parent().unwrap_or(directory);
        sync_directory(parent).map_err(io(parent))?;
    }
    sync_directory(&aside).and_then(|()| sync_directory(directory)).map_err(io(directory))
}

fn new_aside(directory: &Path) -> io::Result<PathBuf> {
    let mut number = 1_u32;
    loop {
        let aside = directory.join(format!("set-aside-{number}"));
        match DirBuilder::new().mode(0o700).create(&aside) {
            Ok(()) => return Ok(aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number = number.saturating_add(1),
            Err(error) => return Err(error),
        }
    }
}

/// Files of `directory` called `<prefix><revision><suffix>`, ascending by revision.
pub(super) fn numbered(directory: &Path, prefix: &str, suffix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, directory.join(&name)));
        }
    }
    found.sort();
    Ok(found)
}

/// Removes what a crash left unfinished.
pub(super) fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|suffix| suffix == UNFINISHED) && entry.file_type()?.is_file() {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
