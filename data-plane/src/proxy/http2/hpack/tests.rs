use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let hex: Vec<char> = hex.chars().filter(|one| !one.is_whitespace()).collect();
    hex.chunks(2).map(|two| u8::from_str_radix(&two.iter().collect::<String>(), 16).unwrap()).collect()
}

/// A field in full, that goes into no table.
fn plain(name: &str, value: &[u8]) -> Vec<u8> {
    said(0, name, value)
}

/// The same, with this as its first byte.
fn said(first: u8, name: &str, value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
    [&[first, length(name.as_bytes())], name.as_bytes(), &[length(value)], value].concat()
}

const GET: &[u8] = &[0x82, 0x86, 0x84];

#[test]
fn the_blocks_of_the_appendix_are_followed() {
    // RFC 7541 C.3 to C.6: blocks, and the size of the table behind each.
    let first = Message::Request;
    for (name, message, size_max, blocks) in [
        (
            "C.3",
            first,
            4096,
            [
                ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", 57),
                ("8286 84be 5808 6e6f 2d63 6163 6865", 110),
                ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", 164),
            ],
        ),
        (
            "C.4",
            first,
            4096,
            [
                ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", 57),
                ("8286 84be 5886 a8eb 1064 9cbf", 110),
                ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", 164),
            ],
        ),
        (
            "C.5",
            Message::Answer,
            256,
            [
                (
                    "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133
                     3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                    222,
                ),
                ("4803 3330 37c1 c0bf", 222),
                (
                    "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a
                     6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d
                     6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
                    215,
                ),
            ],
        ),
        (
            "C.6",
            Message::Answer,
            256,
            [
                (
                    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
                     29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                    222,
                ),
                ("4883 640e ffc1 c0bf", 222),
                (
                    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d
                     d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106
                     3d50 07",
                    215,
                ),
            ],
        ),
    ] {
        let mut hpack = Hpack::new();
        hpack.table.resize(size_max).unwrap();
        for (block, size) in blocks {
            let followed = hpack.follow(&bytes(block), message, false).unwrap();
            let is_final = message == Message::Answer;
            assert_eq!(followed, Block { is_final, is_malformed: false, instead: None }, "{name}");
            assert_eq!(hpack.table.size(), size, "{name}");
        }
    }
}

#[test]
fn what_breaks_a_rule_of_messages_is_malformed() {
    use Message::{Answer, Request, Trailers, Unknown};
    let get = |more: &[u8]| [GET, more].concat();
    let connect =
        |more: &[u8]| [plain(":method", b"CONNECT"), plain(":authority", b"a:1"), more.to_vec()].concat();
    let method = |method: &[u8]| [&[0x86, 0x84], plain(":method", method).as_slice()].concat();
    let path = |path: &[u8]| [&[0x82, 0x86], plain(":path", path).as_slice()].concat();
    let scheme = |scheme: &[u8]| [&[0x82, 0x84], plain(":scheme", scheme).as_slice()].concat();
    for (name, message, block, is_malformed) in [
        ("a request", Request, GET.to_vec(), false),
        ("with a field", Request, get(&plain("x-a", b"b")), false),
        ("with a text", Request, get(&plain("x-a", "é\tè".as_bytes())), false),
        ("with te", Request, get(&plain("te", b"trailers")), false),
        ("with more te", Request, get(&plain("te", b"gzip")), true),
        ("of a connection", Request, get(&plain("connection", b"close")), true),
        ("by the table", Request, get(b"\x0f\x2a\x01x"), true),
        ("an upgrade", Request, get(&plain("upgrade", b"x")), true),
        ("a large name", Request, get(&plain("X-a", b"b")), true),
        ("a name with a space", Request, get(&plain("x a", b"b")), true),
        ("no name", Request, get(&plain("", b"b")), true),
        ("a line end", Request, get(&plain("x-a", b"b\r\nc: d")), true),
        ("a null", Request, get(&plain("x-a", b"\0")), true),
        (
            "a path behind a field",
            Request,
            [&[0x82, 0x86], plain("x-a", b"b").as_slice(), &[0x84]].concat(),
            true,
        ),
        ("a pseudo-header twice", Request, get(&[0x84]), true),
        ("one that nobody knows", Request, [&plain(":x", b"y"), GET].concat(), true),
        ("a protocol", Request, [GET, &plain(":protocol", b"websocket")].concat(), true),
        ("a status", Request, get(&[0x88]), true),
        ("no path", Request, vec![0x82, 0x86], true),
        ("no method", Request, vec![0x86, 0x84], true),
        ("no scheme", Request, vec![0x82, 0x84], true),
        ("nothing", Request, vec![], true),
        ("a method", Request, method(b"REPORT"), false),
        ("an empty method", Request, method(b""), true),
        ("a method of two words", Request, method(b"GET /"), true),
        ("a connect", Request, connect(&[]), false),
        ("a connect to a path", Request, connect(&[0x84]), true),
        ("a connect by a scheme", Request, connect(&[0x86]), true),
        ("all", Request, path(b"*"), false),
        ("a path of bytes", Request, path("/é".as_bytes()), false),
        ("a path of no text", Request, path(b"/\xff"), true),
        ("a path with a space", Request, path(b"/a b"), true),
        ("a path with a fragment", Request, path(b"/a#b"), true),
        ("an empty path", Request, path(b""), true),
        ("a path that does not begin", Request, path(b"a"), true),
        ("a foreign scheme", Request, scheme(b"ftp"), false),
        ("no scheme at all", Request, scheme(b"a b"), true),
        ("an authority", Request, get(&[]), false),
        ("a port", Request, [&plain(":authority", b"a:80"), GET].concat(), false),
        ("an empty authority", Request, [&[0x81], GET].concat(), true),
        ("a path as an authority", Request, [&plain(":authority", b"a/b"), GET].concat(), true),
        ("an answer", Answer, vec![0x88], false),
        ("with a field of its own", Answer, [&[0x88], plain("x-a", b"b").as_slice()].concat(), false),
        ("without a status", Answer, plain("x-a", b"b"), true),
        ("two statuses", Answer, vec![0x88, 0x88], true),
        ("with a path", Answer, vec![0x88, 0x84], true),
        ("a short status", Answer, plain(":status", b"20"), true),
        ("a long status", Answer, plain(":status", b"2000"), true),
        ("no status", Answer, plain(":status", b"2x0"), true),
        ("a status of zeros", Answer, plain(":status", b"099"), true),
        ("trailers", Trailers, plain("x-a", b"b"), false),
        ("empty trailers", Trailers, vec![], false),
        ("trailers with a status", Trailers, vec![0x88], true),
        ("trailers of two lines", Trailers, plain("x-a", b"b\n"), true),
        ("whatever", Unknown, vec![0x88, 0x84, 0x84], false),
        ("whatever, with a null", Unknown, plain("x-a", b"\0"), true),
    ] {
        let followed = Hpack::new().follow(&block, message, false).unwrap();
        assert_eq!(followed.is_malformed, is_malformed, "{name}");
        assert_eq!(followed.instead.is_some(), is_malformed, "{name}");
        assert!(followed.instead.is_none_or(|block| block.ends_with(&REFUSED)), "{name}");
        assert!(Hpack::new().follow(&block, message, true).unwrap().is_malformed, "{name}");
    }
}

#[test]
fn an_answer_is_final_or_interim_however_its_status_is_said() {
    for (block, is_final) in [
        (vec![0x88], true),
        (plain(":status", b"200"), true),
        (said(0x40, ":status", b"404"), true),
        (b"\x08\x82\x64\x02".to_vec(), true),
        (b"\x08\x03103".to_vec(), false),
        (plain(":status", b"100"), false),
    ] {
        assert_eq!(
            Hpack::new().follow(&block, Message::Answer, false).unwrap().is_final,
            is_final,
            "{block:?}"
        );
    }
    let mut hpack = Hpack::new();
    hpack.follow(b"\x48\x03103\x48\x03302", Message::Unknown, false).unwrap();
    assert!(hpack.follow(&[0xbe], Message::Answer, false).unwrap().is_final);
    assert!(!hpack.follow(&[0xbf], Message::Answer, false).unwrap().is_final);
}

#[test]
fn what_cannot_be_read_breaks() {
    for (name, block) in [
        ("an index of nothing", vec![0x80]),
        ("an index behind the table", vec![0xbe]),
        ("a name behind the table", vec![0x7e, 0]),
        ("a table that is too large", vec![0x3f, 0xe2, 0x1f]),
        ("a size behind a field", vec![0x82, 0x20]),
        ("an integer without end", vec![0xff, 0x80]),
        ("an integer that is too long", vec![0xff, 0x80, 0x80, 0x80, 0x80, 0x00]),
        ("a string that is cut off", vec![0, 5, b'x']),
        ("no value", vec![0, 1, b'x']),
        ("no code", vec![0, 1, b'x', 0x81, 0x00]),
        ("what nothing can stand for", vec![0x40, 0, 0]),
    ] {
        assert_eq!(Hpack::new().follow(&block, Message::Unknown, false), Err(Broken), "{name}");
    }
    let sizes = [&[0x20, 0x3f, 0xe1, 0x1f], GET].concat();
    assert!(!Hpack::new().follow(&sizes, Message::Request, false).unwrap().is_malformed);
}

#[test]
fn what_takes_the_place_of_a_bad_field_is_as_large_and_remembered_as_bad() {
    let mut hpack = Hpack::new();
    let mut follow = |block: &[u8]| {
        let followed = hpack.follow(&[GET, block].concat(), Message::Request, false).unwrap();
        let sizes: Vec<usize> = hpack.table.entries().iter().map(|field| field.size()).collect();
        (followed.is_malformed, followed.instead.map(|block| block[GET.len()..].to_vec()), sizes)
    };
    let with = |block: &[u8]| Some([block, &REFUSED].concat());
    // A value, whose name is asked for again, a name, and a method that is none.
    assert_eq!(follow(&said(0x40, "x-a", b"\0\0")), (true, with(b"\x40\x03x-a\x02xx"), vec![37]));
    assert_eq!(follow(&said(0x40, "X", b"yz")), (true, with(b"\x40\x01x\x02xx"), vec![35, 37]));
    assert_eq!(follow(b"\x42\x00"), (true, with(b"\x40\x01x\x06xxxxxx"), vec![39, 35, 37]));
    // All are there: the first one's name is good, the second one's is not, the third one's is said by the other table.
    assert_eq!(follow(b"\x0f\x31\x01b"), (false, None, vec![39, 35, 37]));
    assert_eq!(follow(b"\x0f\x30\x01b"), (true, with(b""), vec![39, 35, 37]));
    for place in [0xbe, 0xbf, 0xc0] {
        assert_eq!(follow(&[place]), (true, with(b""), vec![39, 35, 37]), "{place}");
    }
    let renamed = hpack.follow(b"\x86\x84\x0f\x2f\x03PUT", Message::Request, false).unwrap();
    assert_eq!(
        (renamed.is_malformed, renamed.instead.as_deref()),
        (false, Some(&b"\x86\x84\x02\x03PUT"[..]))
    );
    let renamed = hpack.follow(b"\x86\x84\x7e\x03PUT", Message::Request, false).unwrap();
    assert_eq!(
        (renamed.is_malformed, renamed.instead.as_deref()),
        (false, Some(&b"\x86\x84\x42\x03PUT"[..]))
    );
}

#[test]
fn a_filler_of_any_length_is_read_as_that() {
    for length in [0, 1, 126, 127, 128, 254, 255, 300, 16_510, 16_511, 70_000] {
        let mut out = Vec::new();
        push_filler(&mut out, length);
        let mut rest = Rest(&out);
        assert_eq!(rest.string().unwrap().text().unwrap().bytes, length);
        assert!(rest.0.is_empty());
    }
}

#[test]
fn a_block_is_cut_within_fields() {
    let fields = [&[0x82, 0x86][..], &plain("x-a", b"b"), &[0x84], &plain("x-b", &[b'c'; 100])].concat();
    for most in 10..fields.len() {
        let cuts = cuts(&fields, most);
        let mut from = 0;
        for cut in cuts {
            assert!(cut > from && cut - from <= most, "{most}");
            let ends = [1, 2, 9, 10];
            assert!(!ends.contains(&cut), "{most}: {cut}");
            from = cut;
        }
        assert!(fields.len() - from <= most, "{most}");
    }
    assert_eq!(cuts(&[0x82; 30], 10), [10, 20], "there is no choice");
    assert_eq!(cuts(&[0x82; 10], 10), [0; 0]);
}

proptest! {
    #[test]
    fn any_bytes_are_followed_within_bounds(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
        let mut hpack = Hpack::new();
        for block in &blocks {
            let Ok(followed) = hpack.follow(block, Message::Request, false) else { break };
            prop_assert!(hpack.table.size() <= table::SIZE_MAX && hpack.table.entries().len() <= table::SIZE_MAX / 32);
            let sizes: usize = hpack.table.entries().iter().map(|field| field.size()).sum();
            prop_assert_eq!(sizes, hpack.table.size());
            // Five bits of a code are a byte.
            prop_assert!(followed.instead.is_none_or(|instead| instead.len() <= block.len() * 8 / 5 + 16));
            drop(cuts(block, 7));
        }
    }
}
