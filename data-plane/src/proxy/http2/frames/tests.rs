use proptest::prelude::*;

use super::block::written;
use super::head::*;
use super::*;

mod in_step;

const LIST_BYTES_MAX: usize = 64 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Head { length: payload.len(), kind, flags, stream }.push(&mut out);
    [out, payload.to_vec()].concat()
}

/// What comes of these bytes, which arrive in pieces of up to so many, and why they are the last.
fn through(sender: Sender, bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Reason>) {
    let mut frames = Frames::of(sender, LIST_BYTES_MAX);
    let (mut held, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            match frames.next(&held) {
                Step::Pass(length) => out.extend(held.drain(..length)),
                Step::Instead(length, bytes) | Step::Refused(length, bytes, _) => {
                    held.drain(..length);
                    out.extend(bytes);
                }
                Step::Broken(reason) => return (out, Some(reason)),
                Step::More => break,
            }
        }
    }
    out.extend(held);
    (out, None)
}

fn beginning(sender: Sender) -> Vec<u8> {
    let preface = if sender == Sender::Client { vec![b'p'; PREFACE_BYTES] } else { Vec::new() };
    [preface, frame(SETTINGS, 0, 0, &[])].concat()
}

/// Of a connection that begins well, what comes of these frames, however they are cut.
fn after_settings(sender: Sender, frames: &[Vec<u8>]) -> (Vec<u8>, Option<Reason>) {
    let begin = beginning(sender);
    let bytes = [begin.clone(), frames.concat()].concat();
    let (whole, broken) = through(sender, &bytes, bytes.len());
    for piece in 1..=bytes.len().min(40) {
        let (pieces, also) = through(sender, &bytes, piece);
        assert_eq!(also, broken, "in pieces of {piece}");
        // What is before a break may have passed or not.
        assert!(pieces == whole || broken.is_some() && whole.starts_with(&pieces), "in pieces of {piece}");
    }
    (whole[begin.len().min(whole.len())..].to_vec(), broken)
}

const POST: &[u8] = &[0x83, 0x86, 0x84];
const PATH: &[u8] = &[0x84];
const REFUSED: &[u8] = &[0x80 | 38, 0x82];
const ALL: u8 = END_STREAM | END_HEADERS;

#[test]
fn a_first_frame_that_is_no_settings_breaks_the_connection() {
    for (name, first) in [
        ("a ping", frame(PING, 0, 0, &[0; 8])),
        ("a head", frame(HEADERS, ALL, 1, POST)),
        ("an answer to settings", frame(SETTINGS, ACK, 0, &[])),
        ("of no kind", frame(99, 0, 0, b"x")),
    ] {
        for (sender, begin) in [(Sender::Client, vec![b'p'; PREFACE_BYTES]), (Sender::Server, Vec::new())] {
            let bytes = [begin.clone(), first.clone(), frame(SETTINGS, 0, 0, &[])].concat();
            for piece in 1..=bytes.len() {
                assert_eq!(
                    through(sender, &bytes, piece),
                    (begin.clone(), Some(Reason::PROTOCOL_ERROR)),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn sound_messages_pass_as_they_came() {
    let (open, trailers) = (frame(HEADERS, END_HEADERS, 1, POST), frame(HEADERS, ALL, 1, b"\0\x01x\x01y"));
    let answer = |block: &[u8]| frame(HEADERS, END_HEADERS, 1, block);
    for (name, sender, frames) in [
        ("requests", Sender::Client, vec![frame(HEADERS, ALL, 1, POST), frame(HEADERS, ALL, 3, POST)]),
        (
            "a stream that goes back",
            Sender::Client,
            vec![frame(HEADERS, ALL, 5, POST), frame(HEADERS, ALL, 3, POST)],
        ),
        (
            "an ended stream",
            Sender::Client,
            vec![open.clone(), frame(DATA, END_STREAM, 1, b"x"), trailers.clone()],
        ),
        (
            "a reset stream",
            Sender::Client,
            vec![open.clone(), frame(RST_STREAM, 0, 1, &[0; 4]), frame(HEADERS, ALL, 1, PATH)],
        ),
        ("trailers", Sender::Client, vec![open.clone(), trailers.clone()]),
        ("no trailers at all", Sender::Client, vec![open, frame(HEADERS, ALL, 1, &[])]),
        (
            "padding, priority and continuations",
            Sender::Client,
            vec![
                frame(HEADERS, END_STREAM | PADDED | PRIORITY, 1, &[2, 0, 0, 0, 0, 9, 0x83, 0, 0]),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, 0, 1, &[0x86]),
                frame(CONTINUATION, END_HEADERS, 1, &[0x84]),
                frame(PING, 0, 0, &[0; 8]),
            ],
        ),
        (
            "an interim answer, and one without a body",
            Sender::Server,
            vec![answer(b"\x08\x03103"), frame(HEADERS, ALL, 1, &[0x89])],
        ),
        ("answers with trailers", Sender::Server, vec![answer(&[0x88]), trailers.clone()]),
        ("an answer in full, with trailers", Sender::Server, vec![answer(b"\x08\x03299"), trailers]),
    ] {
        assert_eq!(after_settings(sender, &frames), (frames.concat(), None), "{name}");
    }
}

#[test]
fn a_malformed_message_ends_with_what_is_refused() {
    let refused = |flags, block: &[u8]| frame(HEADERS, flags | END_HEADERS, 1, &[block, REFUSED].concat());
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    for (name, sender, before, message, want) in [
        (
            "a null",
            Sender::Client,
            vec![],
            frame(HEADERS, ALL, 1, b"\x83\x86\x84\x40\x01x\x01\0"),
            refused(END_STREAM, b"\x83\x86\x84\x40\x01x\x01x"),
        ),
        (
            "with a body",
            Sender::Client,
            vec![],
            frame(HEADERS, END_HEADERS, 1, b"\x83\x86\x84\0\x01X\x01y"),
            refused(0, POST),
        ),
        (
            "padded, with priority",
            Sender::Client,
            vec![],
            frame(HEADERS, ALL | PADDED | PRIORITY, 1, &[2, 0, 0, 0, 0, 9, 0x83, 0, 0]),
            refused(END_STREAM, &[0x83]),
        ),
        (
            "in three frames",
            Sender::Client,
            vec![],
            [
                frame(HEADERS, END_STREAM, 1, &[0x83, 0x86]),
                frame(CONTINUATION, 0, 1, &[0x84, 0x84]),
                frame(CONTINUATION, END_HEADERS, 1, b"\0\x01x\0"),
            ]
            .concat(),
            refused(END_STREAM, b"\x83\x86\x84\x84\0\x01x\0"),
        ),
        (
            "before itself",
            Sender::Client,
            vec![],
            frame(HEADERS, ALL | PRIORITY, 1, &[0, 0, 0, 1, 9, 0x83, 0x86, 0x84]),
            refused(END_STREAM, POST),
        ),
        (
            "trailers",
            Sender::Client,
            vec![open.clone()],
            frame(HEADERS, ALL, 1, PATH),
            refused(END_STREAM, PATH),
        ),
        (
            "trailers that are not the end",
            Sender::Client,
            vec![open],
            frame(HEADERS, END_HEADERS, 1, b"\0\x01x\0"),
            refused(0, b"\0\x01x\0"),
        ),
        ("an answer", Sender::Server, vec![], frame(HEADERS, ALL, 1, PATH), refused(END_STREAM, PATH)),
        (
            "trailers of an answer",
            Sender::Server,
            vec![frame(HEADERS, END_HEADERS, 1, b"\x08\x03299")],
            frame(HEADERS, ALL, 1, &[0x88]),
            refused(END_STREAM, &[0x88]),
        ),
    ] {
        let after = frame(PING, 0, 0, b"12345678");
        let came = after_settings(sender, &[before.concat(), message, after.clone()]);
        assert_eq!(came, ([before.concat(), want, after].concat(), None), "{name}");
    }
}

#[test]
fn what_breaks_a_connection_has_its_own_reason() {
    let open = frame(HEADERS, 0, 1, POST);
    let long = vec![0; FRAME_BYTES_MAX + 1];
    for (name, bytes, reason) in [
        ("a block of nothing", frame(HEADERS, ALL, 1, &[0x80]), Reason::COMPRESSION_ERROR),
        (
            "another frame within a block",
            [open.clone(), frame(PING, 0, 0, &[0; 8])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "another stream within a block",
            [open.clone(), frame(CONTINUATION, END_HEADERS, 3, PATH)].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, PATH), Reason::PROTOCOL_ERROR),
        ("a push", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x84]), Reason::PROTOCOL_ERROR),
        ("padding that is too long", frame(HEADERS, ALL | PADDED, 1, &[9, 0x84]), Reason::PROTOCOL_ERROR),
        (
            "padding that eats a priority",
            frame(HEADERS, ALL | PADDED | PRIORITY, 1, &[2, 0, 0, 0, 0, 9, 0x84]),
            Reason::PROTOCOL_ERROR,
        ),
        ("padding without a byte", frame(HEADERS, ALL | PADDED, 1, &[]), Reason::FRAME_SIZE_ERROR),
        ("a priority without room", frame(HEADERS, ALL | PRIORITY, 1, &[0; 4]), Reason::FRAME_SIZE_ERROR),
        ("a short ping", frame(PING, 0, 0, &[0; 7]), Reason::FRAME_SIZE_ERROR),
        ("half a setting", frame(SETTINGS, 0, 0, &[0; 5]), Reason::FRAME_SIZE_ERROR),
        ("settings in an answer", frame(SETTINGS, ACK, 0, &[0; 6]), Reason::FRAME_SIZE_ERROR),
        ("a long reset", frame(RST_STREAM, 0, 1, &[0; 5]), Reason::FRAME_SIZE_ERROR),
        ("a short window", frame(WINDOW_UPDATE, 0, 1, &[0; 3]), Reason::FRAME_SIZE_ERROR),
        ("a short priority", frame(PRIORITY_FRAME, 0, 1, &[0; 4]), Reason::FRAME_SIZE_ERROR),
        ("a short goodbye", frame(GOAWAY, 0, 0, &[0; 7]), Reason::FRAME_SIZE_ERROR),
        ("data that is too long", frame(DATA, 0, 1, &long), Reason::FRAME_SIZE_ERROR),
        (
            "a continuation that is too long",
            [open.clone(), frame(CONTINUATION, 0, 1, &long)].concat(),
            Reason::FRAME_SIZE_ERROR,
        ),
        (
            "a block without end",
            [open, frame(CONTINUATION, 0, 1, &[]).repeat(100)].concat(),
            Reason::ENHANCE_YOUR_CALM,
        ),
    ] {
        for sender in [Sender::Client, Sender::Server] {
            let bytes = [beginning(sender), bytes.clone(), frame(PING, 0, 0, &[0; 8])].concat();
            for piece in [1, 7, bytes.len()] {
                let (_, broken) = through(sender, &bytes, piece);
                assert_eq!(broken, Some(reason), "{name}");
            }
        }
    }
}

#[test]
fn a_long_block_is_written_in_frames_that_h2_takes() {
    let block =
        [POST, &[[0, 1, b'x', 0x7f, 0x80, 0x01].as_slice(), &[b'y'; 255]].concat().repeat(200)].concat();
    let head = Head { length: 0, kind: HEADERS, flags: ALL | PADDED, stream: 7 };
    let (mut bytes, mut again, mut count) = (&written(head, &block)[..], Vec::new(), 0);
    while let Some(head) = Head::parse(bytes) {
        assert!(head.fits() && head.stream == 7);
        assert_eq!(
            (head.kind, head.has(END_STREAM)),
            if count == 0 { (HEADERS, true) } else { (CONTINUATION, false) }
        );
        let (payload, rest) = bytes[HEAD_BYTES..].split_at(head.length);
        again.extend_from_slice(payload);
        assert_eq!(head.has(END_HEADERS), rest.is_empty());
        (bytes, count) = (rest, count + 1);
    }
    assert_eq!((again, count), (block.clone(), block.len().div_ceil(FRAME_BYTES_MAX)));
}

#[test]
fn streams_that_never_end_are_forgotten_at_a_bound() {
    let mut frames = Frames::of(Sender::Server, LIST_BYTES_MAX);
    for stream in 0..10_000 {
        frames.begin(stream);
    }
    assert_eq!(frames.begun.len(), BEGUN_MAX);
    assert_eq!(frames.begun.last(), Some(&9999));
    // Whether these are trailers is not known any more.
    let trailers = |stream| frame(HEADERS, ALL, stream, b"\0\x01x\x01y");
    let mut frames = Frames { is_first: false, ..frames };
    for stream in [1, 9999] {
        assert_eq!(frames.next(&trailers(stream)), Step::Pass(trailers(stream).len()), "{stream}");
    }
    let refused = frames.next(&trailers(11_111));
    assert!(matches!(refused, Step::Refused(_, _, Message::Answer)), "an answer without a status");
}

#[test]
fn little_is_held_back_whatever_is_said() {
    // As a block that never ends, in the largest frames; each time it comes again with more behind.
    let most = (LIST_BYTES_MAX / FRAME_BYTES_MAX * 2 + 8) * (HEAD_BYTES + FRAME_BYTES_MAX);
    for size in [0, FRAME_BYTES_MAX] {
        let mut held =
            [frame(HEADERS, 0, 1, &[]), frame(CONTINUATION, 0, 1, &vec![0x84; size]).repeat(100)].concat();
        held.truncate(most);
        let mut frames = Frames { is_first: false, pass: 0, ..Frames::of(Sender::Client, LIST_BYTES_MAX) };
        assert_eq!(frames.next(&held), Step::Broken(Reason::ENHANCE_YOUR_CALM), "{size}");
    }
}

proptest! {
    #[test]
    fn what_comes_out_does_not_depend_on_how_it_is_cut(
        kinds in prop::collection::vec((0..10_u8, any::<u8>(), 0..4_u32, prop::collection::vec(any::<u8>(), 0..12)), 0..12),
        is_client in any::<bool>(),
    ) {
        let sender = if is_client { Sender::Client } else { Sender::Server };
        let frames: Vec<_> = kinds.iter().map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).collect();
        after_settings(sender, &frames);
    }
}
