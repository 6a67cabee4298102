use proptest::prelude::*;

use super::InvalidHeader::*;
use super::*;

type Parsed = Result<Option<(Header, usize)>, InvalidHeader>;

fn proxied(source: &str, destination: &str) -> Header {
    Header::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// A binary header with these bytes behind its length.
pub fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, body].concat()
}

const V4_BODY: [u8; 12] = [192, 168, 0, 1, 10, 0, 0, 1, 0x12, 0x34, 0x01, 0xBB];

#[test]
fn text_headers_are_read_as_the_specification_says() {
    let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 16));
    assert_eq!(long.len(), V1_BYTES_MAX);
    let longer = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 15));
    let whole = |header: Header, text: &str| -> Parsed { Ok(Some((header, text.len()))) };
    let v4 = "PROXY TCP4 192.168.0.1 10.0.0.1 4660 443\r\n";
    let v6 = "PROXY TCP6 2001:db8::1 ::1 65535 0\r\n";
    let cases: &[(&str, Parsed)] = &[
        (v4, whole(proxied("192.168.0.1:4660", "10.0.0.1:443"), v4)),
        (v6, whole(proxied("[2001:db8::1]:65535", "[::1]:0"), v6)),
        ("PROXY UNKNOWN\r\n", whole(Header::Unsaid, "PROXY UNKNOWN\r\n")),
        ("PROXY UNKNOWN any \x01thing\r\n", whole(Header::Unsaid, "PROXY UNKNOWN any \x01thing\r\n")),
        (&long, whole(Header::Unsaid, &long)),
        (&longer, Err(Line)),
        ("", Ok(None)),
        ("P", Ok(None)),
        ("PROXY TCP4 1.2.3.4", Ok(None)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r", Ok(None)),
        ("GET / HTTP/1.1\r\n", Err(Signature)),
        ("PROXX", Err(Signature)),
        ("proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Err(Signature)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", Err(Line)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rx", Err(Line)),
        ("PROXY \r\n", Err(Protocol)),
        ("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", Err(Protocol)),
        ("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", Err(Protocol)),
        ("PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", Err(Protocol)),
        ("PROXY UNKNOWNX\r\n", Err(Protocol)),
        ("PROXY TCP4\r\n", Err(Address)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4\r\n", Err(Port)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Err(Port)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Err(Port)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", Err(Port)),
        ("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", Err(Address)),
        ("PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", Err(Address)),
        ("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", Err(Address)),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", Err(Address)),
        ("PROXY TCP6 1.2.3.4 ::1 1 2\r\n", Err(Address)),
        ("PROXY TCP6 fe80::1%lo ::1 1 2\r\n", Err(Address)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", Err(Port)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", Err(Port)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", Err(Port)),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n", Err(Port)),
    ];
    for (text, want) in cases {
        assert_eq!(parse(text.as_bytes()), *want, "{text:?}");
    }
}

#[test]
fn binary_headers_are_read_as_the_specification_says() {
    let v6_body = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[2], &[0, 80, 0, 81]].concat();
    let with_extension = [&V4_BODY[..], &[0x04, 0, 2, 9, 9], &[0xEA, 0, 0]].concat();
    let cut_extension = [&V4_BODY[..], &[0x04, 0, 3, 9, 9]].concat();
    let half_extension = [&V4_BODY[..], &[0x04, 0]].concat();
    let v4 = proxied("192.168.0.1:4660", "10.0.0.1:443");
    let cases: &[(&str, Vec<u8>, Result<Header, InvalidHeader>)] = &[
        ("tcp over v4", v2(0x21, 0x11, &V4_BODY), Ok(v4)),
        ("tcp over v6", v2(0x21, 0x21, &v6_body), Ok(proxied("[2001:db8::1]:80", "[::2]:81"))),
        ("with extensions", v2(0x21, 0x11, &with_extension), Ok(v4)),
        ("local", v2(0x20, 0x00, &[]), Ok(Header::Unsaid)),
        ("local with a family and any block", v2(0x20, 0x11, &[1, 2, 3]), Ok(Header::Unsaid)),
        ("no family", v2(0x21, 0x00, &[]), Ok(Header::Unsaid)),
        ("datagrams", v2(0x21, 0x12, &V4_BODY), Ok(Header::Unsaid)),
        ("no transport", v2(0x21, 0x10, &V4_BODY), Ok(Header::Unsaid)),
        ("unix", v2(0x21, 0x31, &[0; 216]), Ok(Header::Unsaid)),
        ("version 1", v2(0x11, 0x11, &V4_BODY), Err(Version)),
        ("version 3", v2(0x31, 0x11, &V4_BODY), Err(Version)),
        ("command 2", v2(0x22, 0x11, &V4_BODY), Err(Command)),
        ("family 4", v2(0x21, 0x41, &V4_BODY), Err(Family)),
        ("transport 3", v2(0x21, 0x13, &V4_BODY), Err(Family)),
        ("short v4", v2(0x21, 0x11, &V4_BODY[..11]), Err(Length)),
        ("short v6", v2(0x21, 0x21, &v6_body[..35]), Err(Length)),
        ("short unix", v2(0x21, 0x31, &[0; 215]), Err(Length)),
        ("too long", v2(0x21, 0x00, &[0; BYTES_MAX - V2_START + 1]), Err(Length)),
        ("an extension cut off", v2(0x21, 0x11, &cut_extension), Err(Extension)),
        ("half an extension", v2(0x21, 0x11, &half_extension), Err(Extension)),
    ];
    for (name, bytes, want) in cases {
        let got = parse(bytes).map(|parsed| parsed.expect("whole"));
        assert_eq!(got, want.map(|header| (header, bytes.len())), "{name}");
    }
}

/// A header with a checksum, which `spoil` may alter.
fn summed(spoil: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = v2(0x21, 0x11, &[&V4_BODY[..], &[CRC32C, 0, 4, 0, 0, 0, 0], &[0x04, 0, 1, 0]].concat());
    let sum = crc32c(&bytes, 0..0).to_be_bytes();
    bytes[31..35].copy_from_slice(&sum);
    spoil(&mut bytes);
    bytes
}

#[test]
fn a_checksum_is_verified_where_there_is_one() {
    // RFC 3720 B.4: 32 bytes of zeros, and of ones.
    assert_eq!(crc32c(&[0; 32], 0..0), 0x8A91_36AA);
    assert_eq!(crc32c(&[0xFF; 32], 0..0), 0x62A8_AB43);
    assert!(matches!(parse(&summed(|_| {})), Ok(Some((Header::Proxied { .. }, 39)))));
    for at in [16, 27, 31, 34, 38] {
        assert_eq!(parse(&summed(|bytes| bytes[at] ^= 1)), Err(Checksum), "byte {at}");
    }
    let short = [&V4_BODY[..], &[CRC32C, 0, 3, 0, 0, 0]].concat();
    assert_eq!(parse(&v2(0x21, 0x11, &short)), Err(Checksum));
    // Each of two is right, both being zeros while it is summed: of how many there are, one is worked for.
    let twice = [&V4_BODY[..], &[CRC32C, 0, 4, 0, 0, 0, 0].repeat(2)].concat();
    let mut twice = v2(0x21, 0x11, &twice);
    let sum = crc32c(&twice, 0..0).to_be_bytes();
    twice[31..35].copy_from_slice(&sum);
    assert_eq!(parse(&twice), Err(Extension));
}

#[test]
fn garbage_is_refused_with_its_first_wrong_byte() {
    for (bytes, want) in [
        (&b"\x16"[..], Signature),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Signature),
        (b"\r\n\r\n\0\r\nQUIX", Signature),
        (b"\r\n\r\n\0\r\nQUIT\n\x01", Version),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x51", Family),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x00", Length),
    ] {
        assert_eq!(parse(bytes), Err(want), "{bytes:?}");
    }
}

fn valid() -> impl Strategy<Value = Vec<u8>> {
    let v1 = (any::<(std::net::Ipv4Addr, std::net::Ipv4Addr)>(), any::<(u16, u16)>())
        .prop_map(|((a, b), (c, d))| format!("PROXY TCP4 {a} {b} {c} {d}\r\n").into_bytes());
    let v1_v6 = (any::<(std::net::Ipv6Addr, std::net::Ipv6Addr)>(), any::<(u16, u16)>())
        .prop_map(|((a, b), (c, d))| format!("PROXY TCP6 {a} {b} {c} {d}\r\n").into_bytes());
    let v2 = prop::collection::vec(any::<u8>(), 36).prop_map(|body| v2(0x21, 0x21, &body));
    prop_oneof![v1, v1_v6, v2]
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for start in [&b""[..], WORD, b"PROXY TCP4 ", SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"] {
            let whole = [start, &bytes].concat();
            if let Ok(Some((_, used))) = parse(&whole) {
                prop_assert!(used <= whole.len());
            }
        }
    }

    #[test]
    fn a_header_is_known_with_its_last_byte_and_takes_none_of_what_follows(
        header in valid(),
        after in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let whole = [&header[..], &after].concat();
        for length in 0..header.len() {
            prop_assert_eq!(parse(&whole[..length]), Ok(None), "{} bytes", length);
        }
        let parsed = parse(&header);
        prop_assert!(matches!(parsed, Ok(Some((_, used))) if used == header.len()), "{:?}", parsed);
        prop_assert_eq!(parse(&whole), parsed);
    }
}
