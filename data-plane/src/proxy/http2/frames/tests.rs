use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Head { length: 0, kind, flags, stream }.push(kind, flags, payload.len(), &mut out);
    [out, payload.to_vec()].concat()
}

/// What comes of these bytes, which arrive in pieces of up to so many.
fn through(sender: Sender, bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut frames = Frames::of(sender);
    let (mut held, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            match frames.next(&held) {
                Step::Pass(length) => out.extend(held.drain(..length)),
                Step::Skip(length) => drop(held.drain(..length)),
                Step::Instead(length, bytes) => {
                    held.drain(..length);
                    out.extend(bytes);
                }
                Step::More => break,
            }
        }
    }
    out.extend(held);
    out
}

/// Of a connection that begins well, what comes of these frames, however they are cut.
fn after_settings(sender: Sender, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut begin = if sender == Sender::Client { vec![b'p'; PREFACE_BYTES] } else { Vec::new() };
    begin.extend(frame(SETTINGS, 0, 0, &[]));
    let bytes = [begin.clone(), frames.concat()].concat();
    let whole = through(sender, &bytes, bytes.len());
    for piece in 1..=bytes.len().min(40) {
        assert_eq!(through(sender, &bytes, piece), whole, "in pieces of {piece}");
    }
    assert!(whole.starts_with(&begin));
    whole[begin.len()..].to_vec()
}

const POST: &[u8] = &[0x83, 0x86, 0x84];
const PATH: &[u8] = &[0x84];

#[test]
fn a_first_frame_that_is_no_settings_becomes_one_that_breaks_the_connection() {
    for (name, first) in [
        ("a ping", frame(6, 0, 0, &[0; 8])),
        ("a head", frame(HEADERS, END_STREAM | END_HEADERS, 1, POST)),
        ("an answer to settings", frame(SETTINGS, ACK, 0, &[])),
        ("of no kind", frame(99, 0, 0, b"x")),
    ] {
        for (sender, begin) in [(Sender::Client, vec![b'p'; PREFACE_BYTES]), (Sender::Server, Vec::new())] {
            let bytes = [begin.clone(), first.clone()].concat();
            for piece in 1..=bytes.len() {
                let came = through(sender, &bytes, piece);
                assert_eq!(
                    came[..begin.len() + HEAD_BYTES],
                    [begin.clone(), BROKEN.to_vec()].concat(),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn trailers_are_marked_behind_sizes_and_without_their_padding() {
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    let rest = |flags, block: &[u8]| frame(CONTINUATION, flags, 1, block);
    let all = END_STREAM | END_HEADERS;
    let marked = frame(HEADERS, END_STREAM, 1, &[MARK]);
    for (name, trailers, want) in [
        ("plain", frame(HEADERS, all, 1, PATH), [marked.clone(), rest(END_HEADERS, PATH)].concat()),
        ("to be continued", frame(HEADERS, END_STREAM, 1, PATH), [marked.clone(), rest(0, PATH)].concat()),
        (
            "padded, with priority",
            frame(HEADERS, all | PADDED | PRIORITY, 1, &[2, 0, 0, 0, 0, 9, 0x84, 0, 0]),
            [marked.clone(), rest(END_HEADERS, PATH)].concat(),
        ),
        (
            "behind two sizes",
            frame(HEADERS, all, 1, &[0x20, 0x3f, 0xe1, 0x1f, 0x84]),
            [frame(HEADERS, END_STREAM, 1, &[0x20, 0x3f, 0xe1, 0x1f, MARK]), rest(END_HEADERS, PATH)]
                .concat(),
        ),
        (
            "behind two sizes of more",
            frame(HEADERS, all, 1, &[0x20, 0x20, 0x20, 0x84]),
            [frame(HEADERS, END_STREAM, 1, &[0x20, 0x20, MARK]), rest(END_HEADERS, &[0x20, 0x84])].concat(),
        ),
        (
            "before a size without end",
            frame(HEADERS, all, 1, &[[0x3f].as_slice(), &[0x80; 99]].concat()),
            [marked, rest(END_HEADERS, &[[0x3f].as_slice(), &[0x80; 99]].concat())].concat(),
        ),
        (
            "in a second frame",
            [frame(HEADERS, END_STREAM, 1, &[]), rest(0, &[0x20]), rest(END_HEADERS, PATH)].concat(),
            [frame(HEADERS, END_STREAM, 1, &[]), rest(0, &[0x20]), rest(0, &[MARK]), rest(END_HEADERS, PATH)]
                .concat(),
        ),
    ] {
        let after = frame(6, 0, 0, b"12345678");
        let came = after_settings(Sender::Client, &[open.clone(), trailers, after.clone()]);
        assert_eq!(came, [open.clone(), want, after].concat(), "{name}");
    }
}

#[test]
fn nothing_else_is_touched() {
    let all = END_STREAM | END_HEADERS;
    let (open, trailers) = (frame(HEADERS, END_HEADERS, 1, POST), frame(HEADERS, all, 1, PATH));
    for (name, sender, frames) in [
        ("requests", Sender::Client, vec![frame(HEADERS, all, 1, POST), frame(HEADERS, all, 3, POST)]),
        (
            "a stream that goes back",
            Sender::Client,
            vec![frame(HEADERS, all, 5, POST), frame(HEADERS, all, 3, POST)],
        ),
        (
            "an ended stream",
            Sender::Client,
            vec![open.clone(), frame(DATA, END_STREAM, 1, b"x"), trailers.clone()],
        ),
        ("a reset stream", Sender::Client, vec![open.clone(), frame(RST_STREAM, 0, 1, &[0; 4]), trailers]),
        (
            "padding that is too long",
            Sender::Client,
            vec![open.clone(), frame(HEADERS, all | PADDED, 1, &[9, 0x84])],
        ),
        ("padding without a byte", Sender::Client, vec![open.clone(), frame(HEADERS, all | PADDED, 1, &[])]),
        ("a size that is cut off", Sender::Client, vec![open.clone(), frame(HEADERS, all, 1, &[0x3f, 0x80])]),
        ("no trailers at all", Sender::Client, vec![open, frame(HEADERS, all, 1, &[])]),
        (
            "an interim answer, and one without a body",
            Sender::Server,
            vec![frame(HEADERS, END_HEADERS, 1, b"\x08\x03103"), frame(HEADERS, all, 1, &[0x89])],
        ),
    ] {
        assert_eq!(after_settings(sender, &frames), frames.concat(), "{name}");
    }
}

#[test]
fn trailers_of_an_answer_are_known_by_its_status_or_its_data() {
    let trailers = frame(HEADERS, END_STREAM | END_HEADERS, 1, PATH);
    let marked = [frame(HEADERS, END_STREAM, 1, &[MARK]), frame(CONTINUATION, END_HEADERS, 1, PATH)].concat();
    for (name, before) in [
        ("by its status", vec![frame(HEADERS, END_HEADERS, 1, &[0x88])]),
        ("padded", vec![frame(HEADERS, END_HEADERS | PADDED, 1, &[1, 0x88, 0])]),
        ("by its data", vec![frame(HEADERS, END_HEADERS, 1, &[0xbe]), frame(DATA, 0, 1, b"x")]),
    ] {
        let came = after_settings(Sender::Server, &[before.clone(), vec![trailers.clone()]].concat());
        assert_eq!(came, [before.concat(), marked.clone()].concat(), "{name}");
    }
}

#[test]
fn streams_that_never_end_are_forgotten_at_a_bound() {
    let mut frames = Frames::of(Sender::Server);
    for stream in 0..10_000 {
        frames.begin(stream);
    }
    assert_eq!(frames.begun.len(), BEGUN_MAX);
    assert_eq!(frames.begun.last(), Some(&9999));
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

#[test]
fn little_is_held_back_whatever_is_said() {
    // A frame that claims to be as long as one can be, of changes of the table's size.
    for fill in [0x20, 0x80] {
        let mut long =
            vec![255, 255, 255, HEADERS, END_STREAM | PADDED | PRIORITY, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x3f];
        long.resize(HEAD_BYTES + 6 + SIZES_MAX * (SIZE_BYTES_MAX + 1) + 1, fill);
        assert!(
            matches!(
                Frames { begun: vec![1], is_first: false, pass: 0, ..Frames::of(Sender::Client) }.next(&long),
                Step::Instead(..)
            ),
            "{fill}"
        );
    }
}
