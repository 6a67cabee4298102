//! How the journal and checkpoints are encrypted, under a key that is outside the data directory.
//!
//! A segment of the journal is sealed frame by frame, a checkpoint chunk by chunk; each is bound to its file's head and to where in
//! it it stands, so that none opens elsewhere. Lengths and checksums stay outside: what a crash or a disk did is told as before,
//! without a key. What was written by a build that did not encrypt is read, and sealed at the first start (`recover`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use equipoise_identity::SealKeys;
use equipoise_identity::seal::{BrokenSeal, SEALED_MORE_BYTES, SubKey, UnknownKey};

use super::frame::{SegmentHeader, encode_header};
use super::identity::{Identity, identity_path, read_identity};
use super::{checkpoint, frame, journal, rows};

/// What frames are bound to, beside their segment's header and their offset.
const FRAME: &[u8] = b"equipoise journal frame";

/// What chunks are bound to, beside their checkpoint's head, their number and whether they are the last.
const CHUNK: &[u8] = b"equipoise checkpoint chunk";

/// Bytes that are sealed at once.
const CHUNK_BYTES: usize = 64 << 10;

/// In a chunk's length: it is the last one.
const LAST: u32 = 1 << 31;

/// Seals and opens the frames of one segment.
#[derive(Debug)]
pub(super) struct SegmentSeal {
    key: SubKey,
    header: Vec<u8>,
}

impl SegmentSeal {
    /// Of the segment with this header; `None`: it is in clear.
    pub(super) fn of(header: &SegmentHeader, keys: &SealKeys) -> Result<Option<Self>, UnknownKey> {
        let key = header.key.map(|id| keys.opens(id, header.salt)).transpose()?;
        Ok(key.map(|key| Self { key, header: encode_header(header) }))
    }

    /// The payload of the frame at `offset`.
    pub(super) fn seal(&self, offset: u64, records: &[u8]) -> Result<Vec<u8>, BrokenSeal> {
        self.key.seal(rand::random(), &[FRAME, &self.header, &offset.to_le_bytes()], records)
    }

    /// The other way.
    pub(super) fn open(&self, offset: u64, payload: &[u8]) -> Result<Vec<u8>, BrokenSeal> {
        self.key.open(&[FRAME, &self.header, &offset.to_le_bytes()], payload)
    }
}

/// Seals what is written to it; [`SealedWriter::finish`] writes the last chunk.
pub(super) struct SealedWriter<W> {
    to: W,
    key: SubKey,
    head: Vec<u8>,
    number: u64,
    waiting: Vec<u8>,
}

fn seal_error(_: BrokenSeal) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, BrokenSeal)
}

impl<W: Write> SealedWriter<W> {
    /// `head`: what the file begins with.
    pub(super) fn new(to: W, key: SubKey, head: Vec<u8>) -> Self {
        Self { to, key, head, number: 0, waiting: Vec::with_capacity(CHUNK_BYTES) }
    }

    fn chunk(&mut self, mark: u32) -> io::Result<()> {
        let place = [CHUNK, &self.head, &self.number.to_le_bytes(), &mark.to_le_bytes()];
        let sealed = self.key.seal(rand::random(), &place, &self.waiting).map_err(seal_error)?;
        let length = u32::try_from(sealed.len()).expect("a chunk is short") | mark;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&sealed)?;
        self.number += 1;
        self.waiting.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.chunk(LAST)
    }
}

impl<W: Write> Write for SealedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waiting.len() == CHUNK_BYTES {
            self.chunk(0)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Opens what a [`SealedWriter`] sealed. A broken seal is an error of the kind `InvalidData`; see [`is_broken`].
pub(super) struct SealedReader<R> {
    from: R,
    key: SubKey,
    head: Vec<u8>,
    number: u64,
    is_last: bool,
    opened: Vec<u8>,
    taken: usize,
}

impl<R: Read> SealedReader<R> {
    pub(super) fn new(from: R, key: SubKey, head: Vec<u8>) -> Self {
        Self { from, key, head, number: 0, is_last: false, opened: Vec::new(), taken: 0 }
    }

    fn next(&mut self) -> io::Result<()> {
        let mut length = [0; 4];
        self.from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        let (mark, length) = (length & LAST, usize::try_from(length & !LAST).unwrap_or(usize::MAX));
        if length > CHUNK_BYTES + SEALED_MORE_BYTES {
            return Err(seal_error(BrokenSeal));
        }
        let mut sealed = vec![0; length];
        self.from.read_exact(&mut sealed)?;
        let place = [CHUNK, &self.head, &self.number.to_le_bytes(), &mark.to_le_bytes()];
        self.opened = self.key.open(&place, &sealed).map_err(seal_error)?;
        (self.taken, self.is_last) = (0, mark == LAST);
        self.number += 1;
        Ok(())
    }
}

impl<R: Read> Read for SealedReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.opened.len() && !self.is_last {
            self.next()?;
        }
        let read = (&self.opened[self.taken..]).read(into)?;
        self.taken += read;
        Ok(read)
    }
}

/// Whether reading failed since a seal is broken.
pub(super) fn is_broken(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|source| source.is::<BrokenSeal>())
}

/// Something in a data directory that is encrypted, if anything is: a key for it is to be found, not to be made.
///
/// # Errors
/// When the directory or a file in it cannot be read.
pub fn sealed_file(directory: &Path) -> io::Result<Option<PathBuf>> {
    if !directory.try_exists()? {
        return Ok(None);
    }
    if matches!(read_identity(directory)?, Identity::Known(_)) {
        return Ok(Some(identity_path(directory)));
    }
    let files = journal::list(directory)?.into_iter().chain(checkpoint::list(directory)?);
    for (_, path) in files {
        let mut first = Vec::new();
        File::open(&path)?.take(frame::MARK_BYTES).read_to_end(&mut first)?;
        if frame::is_sealed(&first) || checkpoint::is_sealed(&first) {
            return Ok(Some(path));
        }
    }
    Ok(rows::sealed_copies(directory)?.into_iter().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> SealKeys {
        SealKeys::parse(&"5a".repeat(32), "the test").unwrap()
    }

    fn sealed(content: &[u8], head: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        let mut writer = SealedWriter::new(&mut sealed, keys().seals([1; 16]), head.to_vec());
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
        sealed
    }

    fn opened(sealed: &[u8], head: &[u8]) -> io::Result<Vec<u8>> {
        let mut opened = Vec::new();
        SealedReader::new(sealed, keys().seals([1; 16]), head.to_vec()).read_to_end(&mut opened)?;
        Ok(opened)
    }

    #[test]
    fn content_of_any_size_comes_back_and_nothing_of_it_is_in_clear() {
        for size in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let content = b"secret!!".repeat(size.div_ceil(8));
            let sealed = sealed(&content[..size], b"head");
            assert_eq!(opened(&sealed, b"head").unwrap(), &content[..size], "{size}");
            assert!(!sealed.windows(6).any(|window| window == b"secret"), "{size}");
            let error = opened(&sealed, b"another head").unwrap_err();
            assert!(is_broken(&error), "{size}: {error}");
        }
    }

    #[test]
    fn chunks_that_are_swapped_left_out_or_cut_are_noticed() {
        let chunk = 4 + CHUNK_BYTES + SEALED_MORE_BYTES;
        let good = sealed(&vec![7; 2 * CHUNK_BYTES + 1], b"head");
        let (first, rest) = good.split_at(chunk);
        let (second, last) = rest.split_at(chunk);
        let rows: [(&str, &[&[u8]]); 4] = [
            ("swapped", &[second, first, last]),
            ("left out", &[first, last]),
            ("only the last", &[last]),
            ("repeated", &[first, first, second, last]),
        ];
        for (name, parts) in rows {
            assert!(is_broken(&opened(&parts.concat(), b"head").unwrap_err()), "{name}");
        }
        for cut in [0, 3, chunk, chunk + 2, good.len() - 1] {
            assert!(opened(&good[..cut], b"head").is_err(), "cut at {cut}");
        }
        let mut ended_early = first.to_vec();
        ended_early[3] |= 0x80;
        assert!(is_broken(&opened(&ended_early, b"head").unwrap_err()));
    }
}
