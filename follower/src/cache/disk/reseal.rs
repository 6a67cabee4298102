//! Files of the cache that are not sealed with the first key: found, and sealed anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use equipoise_identity::sealed_file::is_sealed;
use tracing::warn;

use super::generation::{Found, LookError};
use super::{CacheError, Disk, Generation, MODE, numbers};
use crate::cache::entry::TailSeal;
use crate::cache::format::{self, InvalidSnapshot, Snapshot, TailHead, decode_tail_head, encode_tail_head};

impl Disk {
    /// Seals anew what is in clear, of a build that did not encrypt, or sealed with a key that is not the first any more. Each file is
    /// whole all the time. What is damaged is left as it is, and found out by who reads it; a disk that is full costs only this.
    pub(super) fn reseal(&self) -> Result<(), CacheError> {
        for Generation { number, .. } in &self.generations {
            let is_sealed = self.is_sealed_with_first(*number);
            if is_sealed.unwrap_or(false) {
                continue;
            }
            match self.look(*number) {
                Ok(found) => {
                    if let Err(error) = self.write_anew(*number, &found) {
                        warn!(%error, generation = number, "a cached config could not be encrypted; it is replaced soon");
                    }
                }
                Err(LookError::Snapshot(InvalidSnapshot::Key(key))) => {
                    return Err(CacheError::Key { file: self.snapshot_path(*number), key });
                }
                Err(LookError::TailKey(key)) => {
                    return Err(CacheError::Key { file: self.tail_path(*number), key });
                }
                Err(LookError::Io(_) | LookError::Snapshot(_)) => {}
            }
        }
        Ok(())
    }

    /// By its first bytes: reading all of it is for when it is needed.
    fn is_sealed_with_first(&self, generation: u64) -> io::Result<bool> {
        let first = |path: PathBuf| {
            let mut bytes = Vec::new();
            let read = File::open(path).and_then(|file| {
                file.take(format::FIRST_BYTES).read_to_end(&mut bytes)?;
                Ok(())
            });
            match read {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(bytes),
            }
        };
        let own = self.keys.first();
        let snapshot = format::key_of(&first(self.snapshot_path(generation))?) == Some(own);
        Ok(snapshot
            && match decode_tail_head(&first(self.tail_path(generation))?, &self.keys) {
                Ok(TailHead::Sealed(key)) => key.id() == own,
                Ok(TailHead::Torn) => true,
                Ok(TailHead::Clear) | Err(_) => false,
            })
    }

    fn write_anew(&self, generation: u64, found: &Found) -> io::Result<()> {
        let Snapshot { position, compressed, raw_bytes, key } = &found.snapshot;
        if *key != Some(self.keys.first()) {
            self.put_snapshot(generation, *position, compressed, *raw_bytes)?;
        }
        let key = self.keys.seals(rand::random());
        let mut bytes = encode_tail_head(&key);
        let seal = TailSeal::new(key, *position);
        for entry in &found.entries {
            let offset = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            bytes.extend(entry.encode(&seal, offset, rand::random()).map_err(io::Error::other)?);
        }
        let temporary = self.directory.join("tail.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.tail_path(generation))?;
        File::open(&self.directory)?.sync_all()
    }
}

/// Something in the directory that is encrypted, if anything is: a key for it is to be found, not to be made.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub fn sealed_file(directory: &Path) -> io::Result<Option<PathBuf>> {
    if !directory.try_exists()? {
        return Ok(None);
    }
    for number in numbers(directory)? {
        let path = directory.join(format!("config-{number}.snapshot"));
        let mut first = Vec::new();
        File::open(&path)?.take(format::FIRST_BYTES).read_to_end(&mut first)?;
        if format::is_sealed(&first) {
            return Ok(Some(path));
        }
    }
    let key = crate::settings::key_file(directory);
    Ok(is_sealed(&key)?.then_some(key))
}
