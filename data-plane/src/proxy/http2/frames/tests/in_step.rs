//! What `h2` makes of a connection behind [`Frames`]: every sound message is what its client said, every other one ends its stream, and
//! the connection outlives them all, since both tables stay in step with the client's.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::proxy::http2::hpack;

type Field = (Vec<u8>, Vec<u8>);

/// One field of a block, as an encoder might say it. The first byte of a literal and whether its strings are Huffman codes are drawn from a number.
#[derive(Debug, Clone)]
enum Say {
    /// By a place in one of the tables.
    Indexed(usize),
    /// With the name at such a place.
    ByName(u8, usize, Vec<u8>),
    /// In full.
    Full(u8, Vec<u8>, Vec<u8>),
}

/// The table of an encoder.
#[derive(Default)]
struct Encoder {
    table: VecDeque<Field>,
}

const SIZE_MAX: usize = 4096;

/// As many places as these tests use of the table that never changes.
const STATIC: [(&str, &str); 20] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
];

impl Encoder {
    /// A place in a table, and what is there.
    fn place(&self, any: usize) -> (usize, Field) {
        let any = any % (STATIC.len() + self.table.len());
        match STATIC.get(any) {
            Some((name, value)) => (any + 1, (name.as_bytes().to_vec(), value.as_bytes().to_vec())),
            None => (any - STATIC.len() + 62, self.table[any - STATIC.len()].clone()),
        }
    }

    /// Writes a field, and gives it.
    fn say(&mut self, say: &Say, out: &mut Vec<u8>) -> Field {
        match say {
            Say::Indexed(any) => {
                let (place, field) = self.place(*any);
                push_integer(0x80, 7, place, out);
                field
            }
            Say::ByName(way, any, value) => {
                let (place, (name, _)) = self.place(*any);
                let (first, bits) = [(0x40, 6), (0x00, 4), (0x10, 4)][usize::from(way % 3)];
                push_integer(first, bits, place, out);
                self.finish(*way, name, value, out)
            }
            Say::Full(way, name, value) => {
                out.push([0x40, 0x00, 0x10][usize::from(way % 3)]);
                push_string(*way, name, out);
                self.finish(*way, name.clone(), value, out)
            }
        }
    }

    fn finish(&mut self, way: u8, name: Vec<u8>, value: &[u8], out: &mut Vec<u8>) -> Field {
        push_string(way >> 1, value, out);
        let field = (name, value.to_vec());
        if way.is_multiple_of(3) {
            self.table.push_front(field.clone());
            while self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
                > SIZE_MAX
            {
                self.table.pop_back();
            }
        }
        field
    }
}

fn push_integer(first: u8, bits: u32, integer: usize, out: &mut Vec<u8>) {
    let mask = (1 << bits) - 1;
    if integer < mask {
        return out.push(first | u8::try_from(integer).unwrap());
    }
    out.push(first | u8::try_from(mask).unwrap());
    let mut rest = integer - mask;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn push_string(way: u8, text: &[u8], out: &mut Vec<u8>) {
    let code = if way & 4 == 0 { text.to_vec() } else { hpack::huffman_code(text) };
    push_integer(if way & 4 == 0 { 0 } else { 0x80 }, 7, code.len(), out);
    out.extend(code);
}

/// The headers of a request, if it is one. Source: RFC 9113 8.2 and 8.3, by the libraries that read its parts.
fn sound(fields: &[Field]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    let mut pseudos: Vec<(&[u8], &[u8])> = Vec::new();
    for (name, value) in fields {
        if name.starts_with(b":") {
            let is_first = map.is_empty() && pseudos.iter().all(|(other, _)| other != name);
            let is_good = match name.as_slice() {
                b":method" => Method::from_bytes(value).is_ok(),
                b":scheme" => str::from_utf8(value).is_ok_and(|text| text.parse::<Scheme>().is_ok()),
                b":authority" => Authority::try_from(value.as_slice()).is_ok(),
                b":path" => !value.contains(&b'#') && PathAndQuery::try_from(value.as_slice()).is_ok(),
                _ => false,
            };
            if !is_first || !is_good {
                return None;
            }
            pseudos.push((name, value));
            continue;
        }
        let name = HeaderName::from_lowercase(name).ok()?;
        let value = HeaderValue::from_bytes(value).ok()?;
        let is_barred = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"]
            .contains(&name.as_str());
        if is_barred || name == "te" && value != "trailers" {
            return None;
        }
        map.append(name, value);
    }
    let find = |name: &[u8]| pseudos.iter().find(|(found, _)| *found == name);
    let is_connect = find(b":method")?.1 == b"CONNECT";
    let is_whole = find(b":scheme").is_some() != is_connect && find(b":path").is_some() != is_connect;
    is_whole.then_some(map)
}

/// What became of a connection.
#[derive(Debug, Default, PartialEq)]
struct Served {
    /// Headers of requests that were accepted.
    accepted: Vec<HeaderMap>,
    /// Streams that were reset, and why.
    resets: BTreeMap<u32, u32>,
    /// Why the connection ended, if it did.
    left: Option<u32>,
}

/// Says this to a server until it has answered, or reset, so many streams.
async fn served(bytes: Vec<u8>, streams: usize) -> Served {
    let (mut ours, theirs) = tokio::io::duplex(4 << 20);
    let mut accepted = Vec::new();
    let serving = async {
        let mut connection = h2::server::handshake(theirs).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            accepted.push(request.into_parts().0.headers);
            let answer = http::Response::builder().status(StatusCode::OK).body(()).unwrap();
            drop(respond.send_response(answer, true));
        }
    };
    let mut served = Served::default();
    let asking = async {
        ours.write_all(&bytes).await.unwrap();
        let (mut said, mut answered) = (Vec::new(), 0);
        while answered + served.resets.len() < streams && served.left.is_none() {
            if ours.read_buf(&mut said).await.unwrap() == 0 {
                break;
            }
            while let Some(head) = Head::parse(&said).filter(|head| said.len() >= HEAD_BYTES + head.length) {
                let payload: Vec<u8> = said.drain(..HEAD_BYTES + head.length).skip(HEAD_BYTES).collect();
                let reason = |at: usize| u32::from_be_bytes(*payload[at..].first_chunk().unwrap());
                match head.kind {
                    HEADERS => answered += 1,
                    RST_STREAM => drop(served.resets.insert(head.stream, reason(0))),
                    GOAWAY => served.left = Some(reason(4)),
                    _ => {}
                }
            }
        }
        drop(ours);
    };
    tokio::join!(serving, asking);
    Served { accepted, ..served }
}

/// Sends these blocks, each as a request of its own in frames of up to so many bytes.
fn check(blocks: &[Vec<Say>], piece: usize) {
    let mut encoder = Encoder::default();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let mut want = Served::default();
    for (block, stream) in blocks.iter().zip((1..).step_by(2)) {
        let mut out = Vec::new();
        let fields: Vec<Field> = block.iter().map(|say| encoder.say(say, &mut out)).collect();
        let pieces: Vec<&[u8]> = if out.is_empty() { vec![&[]] } else { out.chunks(piece).collect() };
        for (place, part) in pieces.iter().enumerate() {
            let (kind, begins) = if place == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
            let ends = if place + 1 == pieces.len() { END_HEADERS } else { 0 };
            bytes.extend(frame(kind, begins | ends, stream, part));
        }
        match sound(&fields) {
            Some(headers) => want.accepted.push(headers),
            None => drop(want.resets.insert(stream, Reason::PROTOCOL_ERROR.into())),
        }
    }
    let (out, broken) = through(Sender::Client, &bytes, bytes.len());
    assert_eq!(broken, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let served = runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), served(out, blocks.len())).await });
    assert_eq!(served.expect("every stream is answered or reset"), want);
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec!["x-a", "x-b", "cookie", "accept", "te"]),
        2 => prop::sample::select(vec![":method", ":path", ":scheme", ":authority", ":status"]),
        2 => prop::sample::select(vec!["X-A", "x a", "", ":nope", ":protocol", "connection", "upgrade", "naïve"]),
    ]
    .prop_map(|name| name.as_bytes().to_vec())
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    let good = ["a", "trailers", "é", "GET", "/x?y", "https", "a.com:80"];
    let bad = ["b\0", "\n", "/x#y", "20", "CONNECT", "a b", "299"];
    prop_oneof![
        4 => prop::sample::select(good.to_vec()).prop_map(|value| value.as_bytes().to_vec()),
        2 => prop::sample::select(bad.to_vec()).prop_map(|value| value.as_bytes().to_vec()),
        1 => Just(b"\xff\xfe".to_vec()),
        // So long that others have to go.
        1 => (900..3000_usize).prop_map(|length| vec![b'z'; length]),
        1 => (900..3000_usize).prop_map(|length| vec![1; length]),
    ]
}

fn say() -> impl Strategy<Value = Say> {
    let place = || 0..10_000_usize;
    prop_oneof![
        place().prop_map(Say::Indexed),
        (any::<u8>(), place(), values()).prop_map(|(way, any, value)| Say::ByName(way, any, value)),
        (any::<u8>(), names(), values()).prop_map(|(way, name, value)| Say::Full(way, name, value)),
    ]
}

fn get() -> Vec<Say> {
    let full = |name: &str, value: &str| Say::Full(1, name.as_bytes().to_vec(), value.as_bytes().to_vec());
    vec![full(":method", "GET"), full(":scheme", "http"), full(":path", "/")]
}

/// Most begin like a request.
fn blocks() -> impl Strategy<Value = Vec<Vec<Say>>> {
    let block = (0..8_u8, prop::collection::vec(say(), 0..4));
    let block = block.prop_map(|(begin, says)| [if begin == 0 { vec![] } else { get() }, says].concat());
    prop::collection::vec(block, 1..12)
}

proptest! {
    #[test]
    fn sound_messages_are_what_was_said_and_others_end_their_stream(
        blocks in blocks(),
        piece in prop_oneof![1..60_usize, Just(FRAME_BYTES_MAX)],
    ) {
        let length = |say: &Say| match say {
            Say::Indexed(_) => 3,
            Say::ByName(_, _, value) => value.len() + 8,
            Say::Full(_, name, value) => name.len() + value.len() + 8,
        };
        let longest = blocks.iter().map(|block| block.iter().map(length).sum::<usize>()).max().unwrap_or_default();
        // More continuations than may be are another matter. A code takes up to four times its text.
        check(&blocks, piece.max(longest));
    }
}

#[test]
fn a_malformed_message_in_many_frames_ends_its_stream() {
    let long = Say::Full(1, b"x-a".to_vec(), vec![b'y'; 9000]);
    let fine = [get(), vec![Say::Full(0, b"x-b".to_vec(), b"c".to_vec())]].concat();
    for bad in [
        Say::Full(0, b"X".to_vec(), b"y".to_vec()),
        Say::Full(0, b"connection".to_vec(), b"close".to_vec()),
        Say::Full(0, b"x".to_vec(), vec![0; 20_000]),
        Say::Indexed(3),
    ] {
        let block = [get(), vec![bad.clone()], vec![long.clone(); 5]].concat();
        // What is in the table after all is asked for once more.
        let again = [get(), vec![Say::Indexed(STATIC.len())]].concat();
        for piece in [8 * 1024, 9010, FRAME_BYTES_MAX] {
            check(&[fine.clone(), block.clone(), fine.clone(), again.clone()], piece);
        }
    }
}
