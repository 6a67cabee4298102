//! Two small files: `identity` says that a store lives here, and its epoch; `acknowledged` says how far
//! clients were told that their writes are durable.
//!
//! `identity` is written last when a store is made, so that a directory whose making was cut short is a new
//! one, and one that lost its journal is not. `acknowledged` is written after each sync of the journal and is
//! itself not synced: it need not survive a power cut, for it answers the question whether a bad end of the
//! journal is a write that was never finished (normal after a crash) or one that a client relies on (damage).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use equipoise_proto::{Epoch, Revision};
use uuid::Uuid;

use super::disk::{Medium, write_whole};
use super::frame::checksum;

/// Format of the data directory of this build: what is in it is encrypted.
const FORMAT: u32 = 2;

/// The format before: all in clear. A build that knows only this one refuses the other by its number.
const FORMAT_CLEAR: u32 = 1;

/// First bytes of the identity file.
const MAGIC: [u8; 8] = *b"EQIDENTY";

/// What the identity file says.
#[derive(Debug)]
pub(super) enum Identity {
    /// There is none.
    Missing,
    /// It is not what was written.
    Damaged,
    /// Another format.
    Newer(u32),
    /// As it was written.
    Known(Epoch),
    /// Written by a build that did not encrypt.
    Clear(Epoch),
}

/// Path of the identity file.
pub(super) fn identity_path(directory: &Path) -> PathBuf {
    directory.join("identity")
}

/// Reads the identity file.
pub(super) fn read_identity(directory: &Path) -> io::Result<Identity> {
    let bytes = match std::fs::read(identity_path(directory)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Identity::Missing),
        Err(error) => return Err(error),
    };
    Ok(parse_identity(&bytes).unwrap_or(Identity::Damaged))
}

fn parse_identity(bytes: &[u8]) -> Option<Identity> {
    let (fields, sum) = bytes.split_last_chunk()?;
    if checksum(&[fields]) != *sum {
        return None;
    }
    let (format, epoch) = fields.strip_prefix(MAGIC.as_slice())?.split_first_chunk()?;
    let epoch = || Uuid::from_slice(epoch).ok().map(Epoch::new);
    match u32::from_le_bytes(*format) {
        FORMAT => epoch().map(Identity::Known),
        FORMAT_CLEAR => epoch().map(Identity::Clear),
        other => Some(Identity::Newer(other)),
    }
}

/// Replaces the identity file.
pub(super) fn write_identity(directory: &Path, epoch: Epoch, medium: &Arc<dyn Medium>) -> io::Result<()> {
    let mut bytes = [MAGIC.as_slice(), &FORMAT.to_le_bytes(), epoch.as_bytes()].concat();
    let sum = checksum(&[&bytes]);
    bytes.extend(sum);
    write_whole(&identity_path(directory), medium, |file| io::Write::write_all(file, &bytes))
}

/// The file that says how far writes were acknowledged.
#[derive(Debug)]
pub(super) struct Acknowledged {
    file: File,
}

impl Acknowledged {
    /// Path of the file.
    pub(super) fn path(directory: &Path) -> PathBuf {
        directory.join("acknowledged")
    }

    /// What it says; `None` when it is missing or torn.
    pub(super) fn read(directory: &Path) -> Option<Revision> {
        let bytes = std::fs::read(Self::path(directory)).ok()?;
        let (revision, sum) = bytes.split_last_chunk()?;
        let number = u64::from_le_bytes(revision.try_into().ok()?);
        (checksum(&[revision]) == *sum).then_some(Revision::new(number))
    }

    /// Opens it for writing.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(false).mode(0o600).open(Self::path(directory))?;
        Ok(Self { file })
    }

    /// Notes that everything up to `revision` is durable and about to be answered.
    pub(super) fn note(&self, revision: Revision) -> io::Result<()> {
        let number = revision.get().to_le_bytes();
        let bytes = [number.as_slice(), &checksum(&[&number])].concat();
        self.file.write_all_at(&bytes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::RealMedium;

    #[test]
    fn identity_survives_and_any_flipped_byte_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read_identity(directory.path()), Ok(Identity::Missing)));
        let (epoch, medium) = (Epoch::new(Uuid::from_u128(8)), Arc::new(RealMedium) as Arc<dyn Medium>);
        write_identity(directory.path(), epoch, &medium).unwrap();
        assert!(matches!(read_identity(directory.path()), Ok(Identity::Known(found)) if found == epoch));
        let good = std::fs::read(identity_path(directory.path())).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            assert!(parse_identity(&bytes).is_none(), "byte {at}");
            assert!(parse_identity(&good[..at]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn the_newest_acknowledgement_counts_and_a_torn_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Acknowledged::read(directory.path()), None);
        let file = Acknowledged::open(directory.path()).unwrap();
        file.note(Revision::new(7)).unwrap();
        file.note(Revision::new(8)).unwrap();
        assert_eq!(Acknowledged::read(directory.path()), Some(Revision::new(8)));
        let path = Acknowledged::path(directory.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Acknowledged::read(directory.path()), None);
    }
}
