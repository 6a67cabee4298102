//! The journal's bytes: a segment is a header (twice) and frames; a frame is one batch of records, appended by
//! one write and made durable by one sync. Pure.
//!
//! A frame is the unit of the sync, so after a crash at most the last one is torn. A good frame after a bad
//! one is therefore never the work of a crash: it is damage, and is reported as a hole.

use std::ops::Range;

use equipoise_identity::seal::{SealKeyId, UnknownKey};
use equipoise_proto::Position;
use prost::Message as _;

use super::record::{InvalidRecord, StoredPosition};

/// Journal format of this build: payloads are sealed.
const FORMAT: u32 = 2;

/// The format before: payloads are in clear.
const FORMAT_CLEAR: u32 = 1;

/// Bytes of a short checksum: enough against accident; the salt is against forgery.
const SUM: usize = 16;

/// Bytes in front of each payload: marker, length, checksum.
const FRAME_HEAD: usize = 4 + 4 + SUM;

/// Where to look for the next frame behind a bad one.
const MARKER: [u8; 4] = [0xf7, b'E', b'q', 0xfa];

/// First bytes of a segment.
const MAGIC: [u8; 8] = *b"EQJOURNL";

/// Bytes of one copy of the header; it is there twice, so that one flipped byte does not cost a segment.
const HEADER: usize = 128;

/// Where the first frame is.
pub(super) const FRAMES_AT: usize = 2 * HEADER;

/// So many bytes of a segment tell whether it is sealed.
pub(super) const MARK_BYTES: u64 = 12;

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Random, part of every frame's checksum: an entity that contains the bytes of a frame is no frame. The salt of the segment's
    /// key as well.
    pub salt: [u8; 16],
    /// Which key it is sealed with; `None`: it is in clear, as builds before this one wrote it.
    pub key: Option<SealKeyId>,
    /// Before its first record.
    pub base: Position,
}

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Scan {
    pub header: SegmentHeader,
    /// Payloads of good frames, ascending.
    pub frames: Vec<Range<usize>>,
    /// Where the last good frame begins; `end` when there is none.
    pub last: usize,
    /// Where the last good frame ends.
    pub end: usize,
    /// Offset of the first bad frame that has a good one after it.
    pub hole: Option<usize>,
    /// What lies behind the last good frame.
    pub tail: Tail,
}

/// What lies behind the last good frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    Clean,
    /// The beginning of a frame whose end was never written: a crash.
    Incomplete,
    /// A whole frame with a bad checksum: a crash, most likely, but it may be damage.
    Bad,
}

/// Why a segment cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidSegment {
    #[error("its header is damaged")]
    Header,
    #[error("journal format {0}")]
    Newer(u32),
    #[error(transparent)]
    Key(#[from] UnknownKey),
    #[error(transparent)]
    Position(#[from] InvalidRecord),
}

/// A short checksum over `parts`.
pub(super) fn checksum(parts: &[&[u8]]) -> [u8; SUM] {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    let mut sum = [0; SUM];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// The bytes a segment begins with.
pub(super) fn encode_header(header: &SegmentHeader) -> Vec<u8> {
    let position = StoredPosition::from(&header.base).encode_to_vec();
    let length = u32::try_from(position.len()).expect("a position has less than 100 bytes");
    let mut copy = Vec::with_capacity(FRAMES_AT);
    copy.extend(MAGIC);
    copy.extend(if header.key.is_some() { FORMAT } else { FORMAT_CLEAR }.to_le_bytes());
    copy.extend(header.salt);
    copy.extend(header.key.iter().flat_map(SealKeyId::as_bytes));
    copy.extend(length.to_le_bytes());
    copy.extend(position);
    copy.resize(HEADER - SUM, 0);
    copy.extend(checksum(&[&copy]));
    copy.extend_from_within(..);
    copy
}

fn decode_header(copy: &[u8]) -> Result<SegmentHeader, InvalidSegment> {
    let (fields, sum) = copy.split_last_chunk::<SUM>().ok_or(InvalidSegment::Header)?;
    if checksum(&[fields]) != *sum {
        return Err(InvalidSegment::Header);
    }
    let mut rest = fields.strip_prefix(MAGIC.as_slice()).ok_or(InvalidSegment::Header)?;
    let format = u32::from_le_bytes(take(&mut rest).ok_or(InvalidSegment::Header)?);
    let is_sealed = match format {
        FORMAT => true,
        FORMAT_CLEAR => false,
        newer => return Err(InvalidSegment::Newer(newer)),
    };
    let salt = take(&mut rest).ok_or(InvalidSegment::Header)?;
    let key = is_sealed.then(|| take(&mut rest).map(SealKeyId::from_bytes).ok_or(InvalidSegment::Header));
    let key = key.transpose()?;
    let length = usize::try_from(u32::from_le_bytes(take(&mut rest).ok_or(InvalidSegment::Header)?));
    let position = length.ok().and_then(|length| rest.get(..length)).ok_or(InvalidSegment::Header)?;
    let position = StoredPosition::decode(position).map_err(InvalidRecord::from)?;
    Ok(SegmentHeader { salt, key, base: (&position).try_into()? })
}

/// Whether a segment that begins so is sealed.
pub(super) fn is_sealed(first: &[u8]) -> bool {
    first.strip_prefix(MAGIC.as_slice()).is_some_and(|rest| rest.starts_with(&FORMAT.to_le_bytes()))
}

/// Where the frame begins that has this payload.
pub(super) fn frame_of(payload: &Range<usize>) -> u64 {
    u64::try_from(payload.start - FRAME_HEAD).unwrap_or(u64::MAX)
}

/// Puts a frame's head in front of `payload`, which is to begin at `offset` of the segment.
/// `None` when it is too long for a frame (4 GiB).
pub(super) fn encode_frame(salt: &[u8; 16], offset: u64, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok()?.to_le_bytes();
    let mut frame = Vec::with_capacity(FRAME_HEAD + payload.len());
    frame.extend(MARKER);
    frame.extend(length);
    frame.extend(checksum(&[salt, &offset.to_le_bytes(), &length, payload]));
    frame.extend(payload);
    Some(frame)
}

/// What stands at an offset.
enum Found {
    Frame(Range<usize>),
    Incomplete,
    Bad,
}

fn frame_at(bytes: &[u8], offset: usize, salt: &[u8; 16]) -> Found {
    let mut rest = &bytes[offset..];
    if rest.len() < FRAME_HEAD || rest.iter().all(|byte| *byte == 0) {
        // A file system may have made the file longer and not have got to writing the bytes.
        return Found::Incomplete;
    }
    let (Some(marker), Some(length), Some(sum)) =
        (take::<4>(&mut rest), take::<4>(&mut rest), take::<SUM>(&mut rest))
    else {
        return Found::Incomplete;
    };
    let Ok(size) = usize::try_from(u32::from_le_bytes(length)) else { return Found::Bad };
    if marker != MARKER {
        return Found::Bad;
    }
    let Some(payload) = rest.get(..size) else { return Found::Incomplete };
    let at = u64::try_from(offset).unwrap_or(u64::MAX).to_le_bytes();
    if checksum(&[salt, &at, &length, payload]) != sum {
        return Found::Bad;
    }
    let start = offset + FRAME_HEAD;
    Found::Frame(start..start + size)
}

/// Reads a whole segment.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan, InvalidSegment> {
    let copies = bytes.get(..FRAMES_AT).ok_or(InvalidSegment::Header)?.split_at(HEADER);
    let header = decode_header(copies.0).or_else(|first| match first {
        InvalidSegment::Header => decode_header(copies.1),
        other @ (InvalidSegment::Newer(_) | InvalidSegment::Position(_) | InvalidSegment::Key(_)) => {
            Err(other)
        }
    })?;
    let mut scan =
        Scan { header, frames: Vec::new(), last: FRAMES_AT, end: FRAMES_AT, hole: None, tail: Tail::Clean };
    while scan.end < bytes.len() {
        let tail = match frame_at(bytes, scan.end, &scan.header.salt) {
            Found::Frame(payload) => {
                scan.last = scan.end;
                scan.end = payload.end;
                scan.frames.push(payload);
                continue;
            }
            Found::Incomplete => Tail::Incomplete,
            Found::Bad => Tail::Bad,
        };
        let Some(next) = next_frame(bytes, scan.end + 1, &scan.header.salt) else {
            scan.tail = tail;
            break;
        };
        scan.hole.get_or_insert(scan.end);
        scan.end = next;
        scan.last = next;
    }
    Ok(scan)
}

/// Offset of the first good frame at or after `from`.
fn next_frame(bytes: &[u8], from: usize, salt: &[u8; 16]) -> Option<usize> {
    let mut from = from;
    loop {
        let rest = bytes.get(from..)?;
        let found = from + rest.windows(MARKER.len()).position(|window| window == MARKER)?;
        match frame_at(bytes, found, salt) {
            Found::Frame(_) => return Some(found),
            Found::Incomplete | Found::Bad => from = found + 1,
        }
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use equipoise_proto::{ContentHash, Epoch, Revision};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn header() -> SegmentHeader {
        let base = Position {
            epoch: Epoch::new(Uuid::from_u128(5)),
            revision: Revision::new(u64::MAX),
            content_hash: ContentHash::from_bytes([7; 32]),
        };
        SegmentHeader { salt: [3; 16], key: Some(SealKeyId::from_bytes([4; 8])), base }
    }

    fn segment(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = encode_header(&header());
        for payload in payloads {
            let at = u64::try_from(bytes.len()).unwrap();
            bytes.extend(encode_frame(&header().salt, at, payload).unwrap());
        }
        bytes
    }

    fn payloads<'a>(bytes: &'a [u8], scan: &Scan) -> Vec<&'a [u8]> {
        scan.frames.iter().map(|range| &bytes[range.clone()]).collect()
    }

    #[test]
    fn a_segment_comes_back_whole() {
        let bytes = segment(&[b"one", b"", b"three"]);
        let scan = scan(&bytes).unwrap();
        assert_eq!(scan.header, header());
        assert_eq!(payloads(&bytes, &scan), [b"one".as_slice(), b"", b"three"]);
        assert_eq!((scan.end, scan.hole, scan.tail), (bytes.len(), None, Tail::Clean));
        assert_eq!(scan.last, segment(&[b"one", b""]).len());
    }

    #[test]
    fn a_header_of_before_encryption_is_read_as_such() {
        let clear = SegmentHeader { key: None, ..header() };
        let bytes = encode_header(&clear);
        assert_eq!(scan(&bytes).unwrap().header, clear);
        assert!(!is_sealed(&bytes) && is_sealed(&encode_header(&header())));
    }

    #[test]
    fn a_cut_anywhere_in_the_last_frame_leaves_those_before_it() {
        let bytes = segment(&[b"one", b"two"]);
        let last = segment(&[b"one"]).len();
        for cut in last + 1..bytes.len() {
            let scan = scan(&bytes[..cut]).unwrap();
            assert_eq!((scan.frames.len(), scan.end, scan.hole), (1, last, None), "cut at {cut}");
            assert_eq!(scan.tail, Tail::Incomplete, "cut at {cut}");
        }
    }

    #[test]
    fn a_tail_that_was_never_written_is_incomplete() {
        let mut bytes = segment(&[b"one"]);
        bytes.resize(bytes.len() + 4_096, 0);
        assert_eq!(scan(&bytes).unwrap().tail, Tail::Incomplete);
    }

    #[test]
    fn any_flipped_byte_is_noticed_and_costs_no_other_frame() {
        let good = segment(&[b"one", b"two", b"three"]);
        let starts = [segment(&[]).len(), segment(&[b"one"]).len(), segment(&[b"one", b"two"]).len()];
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x20;
            let scan = scan(&bytes).unwrap();
            if at < FRAMES_AT {
                assert_eq!(scan.frames.len(), 3, "header, byte {at}");
                assert_eq!(scan.header, header(), "header, byte {at}");
            } else if at < starts[2] {
                let frame = starts.iter().rfind(|start| **start <= at).copied();
                assert_eq!((scan.frames.len(), scan.hole), (2, frame), "byte {at}");
            } else {
                assert_eq!((scan.frames.len(), scan.end, scan.hole), (2, starts[2], None), "byte {at}");
                assert_ne!(scan.tail, Tail::Clean, "byte {at}");
            }
        }
    }

    #[test]
    fn a_frame_inside_an_entity_is_not_taken_for_one() {
        let inner = encode_frame(&[9; 16], 400, b"forged").unwrap();
        let mut bytes = segment(&[&inner]);
        let at = FRAMES_AT + FRAME_HEAD - 1;
        bytes[at] ^= 1;
        assert_eq!(scan(&bytes).unwrap().frames.len(), 0);
    }

    #[test]
    fn a_header_damaged_twice_is_refused() {
        let mut bytes = segment(&[b"one"]);
        bytes[20] ^= 1;
        bytes[HEADER + 20] ^= 1;
        assert!(matches!(scan(&bytes), Err(InvalidSegment::Header)));
        assert!(matches!(scan(&bytes[..50]), Err(InvalidSegment::Header)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), keep in 0..400_usize) {
            let mut segment = segment(&[b"one", b"two"]);
            segment.truncate(keep);
            segment.extend(bytes);
            let _scan = scan(&segment);
        }
    }
}
