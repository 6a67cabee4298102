//! A block of fields, over as many frames as it takes. Source: RFC 9113 4.3, 6.2 and 6.10. Pure.

use std::borrow::Cow;

use h2::Reason;

use super::FRAME_BYTES_MAX;
use super::head::{
    CONTINUATION, END_HEADERS, END_STREAM, HEAD_BYTES, HEADERS, Head, PADDED, PRIORITY, PRIORITY_BYTES,
};
use crate::proxy::http2::hpack;

/// What is there of a block.
#[derive(Debug)]
pub enum Gathered<'a> {
    /// Not all.
    More,
    /// It breaks the connection.
    Broken(Reason),
    /// All of it.
    Whole {
        /// Bytes of its frames.
        length: usize,
        block: Cow<'a, [u8]>,
        /// Its stream is to end, whatever it says.
        has_fault: bool,
    },
}

/// Gathers the block that begins in the frame with this head, the first of `bytes`.
///
/// It is held back until its end is here, as `h2` holds back a message; who lets it grow over more than `continuations_max` frames is told
/// to calm down.
pub fn gather(first: Head, bytes: &[u8], continuations_max: usize) -> Gathered<'_> {
    let Some(payload) = payload(first, bytes) else { return Gathered::More };
    let Ok((fragment, has_fault)) = fragment(first, payload) else {
        return Gathered::Broken(Reason::PROTOCOL_ERROR);
    };
    // Looked for first: who sends byte by byte has nothing copied each time.
    let mut length = HEAD_BYTES + first.length;
    let mut last = first;
    let mut continuations = Vec::new();
    while !last.has(END_HEADERS) {
        if continuations.len() > continuations_max {
            return Gathered::Broken(Reason::ENHANCE_YOUR_CALM);
        }
        let bytes = bytes.get(length..).unwrap_or_default();
        let Some(head) = Head::parse(bytes) else { return Gathered::More };
        if head.kind != CONTINUATION || head.stream != first.stream {
            return Gathered::Broken(Reason::PROTOCOL_ERROR);
        }
        if !head.fits() {
            return Gathered::Broken(Reason::FRAME_SIZE_ERROR);
        }
        let Some(payload) = self::payload(head, bytes) else { return Gathered::More };
        continuations.push(payload);
        length += HEAD_BYTES + head.length;
        last = head;
    }
    let mut block = Cow::Borrowed(fragment);
    for payload in continuations {
        block.to_mut().extend_from_slice(payload);
    }
    Gathered::Whole { length, block, has_fault }
}

fn payload(head: Head, bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(HEAD_BYTES..)?.get(..head.length)
}

/// More padding than there is room for.
struct Overpadded;

/// What the first frame has of the block, and whether it asks for its own stream to come first, to which `h2` says what it should, but
/// without a look at the block.
fn fragment(head: Head, mut payload: &[u8]) -> Result<(&[u8], bool), Overpadded> {
    if head.has(PADDED) {
        let (padding, behind) = payload.split_first().ok_or(Overpadded)?;
        let rest = behind.len().checked_sub(usize::from(*padding)).ok_or(Overpadded)?;
        payload = &behind[..rest];
    }
    if !head.has(PRIORITY) {
        return Ok((payload, false));
    }
    let (priority, behind) = payload.split_at_checked(PRIORITY_BYTES).ok_or(Overpadded)?;
    let depends_on = priority.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) & 0x7fff_ffff);
    Ok((behind, depends_on == Some(head.stream)))
}

/// The frames of another block in place of this one; priority and padding are lost.
pub fn written(first: Head, block: &[u8]) -> Vec<u8> {
    let cuts = if block.len() > FRAME_BYTES_MAX { hpack::cuts(block, FRAME_BYTES_MAX) } else { Vec::new() };
    let mut out = Vec::with_capacity(block.len() + HEAD_BYTES * (cuts.len() + 1));
    let (mut kind, mut end_stream, mut from) = (HEADERS, first.flags & END_STREAM, 0);
    for to in cuts.iter().copied().chain([block.len()]) {
        let flags = end_stream | if to == block.len() { END_HEADERS } else { 0 };
        Head { length: to - from, kind, flags, stream: first.stream }.push(&mut out);
        out.extend_from_slice(&block[from..to]);
        (kind, end_stream, from) = (CONTINUATION, 0, to);
    }
    out
}
