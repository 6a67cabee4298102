//! Laws and tables of the codec. Whole exchanges with hostile bytes are in `proxy::tests`.

use proptest::prelude::*;

use super::host::split_host;
use super::*;

const LIMITS: Limits = Limits { line_bytes_max: 200, head_bytes_max: 1000, headers_max: 10 };

/// What a stream of requests or responses comes out as.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Head(String),
    Data(Vec<u8>),
    End(Vec<u8>),
    Refused(String),
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Responses,
}

/// Reads messages from bytes that come in `parts`, as a shell around the codec does. Adjacent data is joined.
fn events(side: Side, parts: &[&[u8]]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut scan = HeadScan::default();
    let mut body: Option<BodyDecoder> = None;
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            if let Some(decoder) = &mut body {
                match decoder.next(&buffer) {
                    Ok(Step::Data { skip, length }) => {
                        let data = buffer.drain(..skip + length).skip(skip);
                        match events.last_mut() {
                            Some(Event::Data(before)) => before.extend(data),
                            _ => events.push(Event::Data(data.collect())),
                        }
                    }
                    Ok(Step::More { skip }) => {
                        buffer.drain(..skip);
                        break;
                    }
                    Ok(Step::End { skip }) => {
                        buffer.drain(..skip);
                        events.push(Event::End(decoder.trailers().to_vec()));
                        body = None;
                    }
                    Err(error) => {
                        events.push(Event::Refused(error.to_string()));
                        return events;
                    }
                }
                continue;
            }
            let head = match scan.advance(&buffer, &LIMITS) {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(error) => {
                    events.push(Event::Refused(error.to_string()));
                    return events;
                }
            };
            scan = HeadScan::default();
            match read(side, &buffer[head.clone()]) {
                Ok((text, decoder)) => {
                    events.push(Event::Head(text));
                    body = Some(decoder);
                }
                Err(error) => {
                    events.push(Event::Refused(error));
                    return events;
                }
            }
            buffer.drain(..head.end);
        }
    }
    events
}

fn read(side: Side, bytes: &[u8]) -> Result<(String, BodyDecoder), String> {
    let mut storage = HeadStorage::new();
    match side {
        Side::Requests => {
            let head = RequestHead::parse(bytes, &mut storage).map_err(|error| error.to_string())?;
            let decoder = match head.framing {
                Framing::Absent => BodyDecoder::length(0),
                Framing::Length(length) => BodyDecoder::length(length),
                Framing::Chunked => BodyDecoder::chunked(),
            };
            Ok((format!("{head:?}"), decoder))
        }
        Side::Responses => {
            let head = ResponseHead::parse(bytes, false, &mut storage).map_err(|error| error.to_string())?;
            let decoder = match head.body {
                ResponseBody::Absent => BodyDecoder::length(0),
                ResponseBody::Length(length) => BodyDecoder::length(length),
                ResponseBody::Chunked => BodyDecoder::chunked(),
                ResponseBody::UntilClose => BodyDecoder::until_close(),
            };
            Ok((format!("{head:?}"), decoder))
        }
    }
}

/// Pieces of messages, good and bad, so that random streams get past the first line.
fn piece(side: Side) -> impl Strategy<Value = Vec<u8>> {
    let start = match side {
        Side::Requests => {
            vec!["GET / HTTP/1.1\r\nHost: a\r\n", "POST /a?b HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.0\r\n"]
        }
        Side::Responses => vec!["HTTP/1.1 200 OK\r\n", "HTTP/1.1 204 \r\n", "HTTP/1.0 404 X\r\n"],
    };
    let known = [
        "\r\n",
        "\n",
        "\r",
        "X: a\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n\r\n",
        "hello",
        "5\r\nhello\r\n",
        "5;a=b\r\nhello\r\n",
        "a\r\n0123456789\r\n",
        "0\r\n",
        "0\r\n\r\n",
        "0\r\nX-Sum: 1\r\n\r\n",
        "Connection: close\r\n",
        "Host: b\r\n",
        " ",
        "\0",
        "ffffffffffffffff\r\n",
    ];
    prop_oneof![
        6 => prop::sample::select(start).prop_map(|text| text.as_bytes().to_vec()),
        12 => prop::sample::select(known.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

fn stream(side: Side) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(side), 0..14).prop_map(|pieces| pieces.concat())
}

fn cut<'a>(bytes: &'a [u8], at: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<_> = at.iter().map(|at| at.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn requests_come_out_the_same_however_they_are_cut(
        bytes in stream(Side::Requests), at in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = events(Side::Requests, &[&bytes]);
        prop_assert_eq!(&events(Side::Requests, &cut(&bytes, &at)), &whole);
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(&events(Side::Requests, &single), &whole);
    }

    #[test]
    fn responses_come_out_the_same_however_they_are_cut(
        bytes in stream(Side::Responses), at in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = events(Side::Responses, &[&bytes]);
        prop_assert_eq!(&events(Side::Responses, &cut(&bytes, &at)), &whole);
        let single: Vec<_> = bytes.chunks(1).collect();
        prop_assert_eq!(&events(Side::Responses, &single), &whole);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        events(Side::Requests, &[&bytes]);
        events(Side::Responses, &[&bytes]);
        read(Side::Requests, &bytes).ok();
        read(Side::Responses, &bytes).ok();
        split_host(&bytes);
    }

    #[test]
    fn a_chunked_body_gives_its_data_back(data in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8)) {
        let mut text = Vec::new();
        for chunk in &data {
            push_chunk_size(&mut text, chunk.len());
            text.extend_from_slice(chunk);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(LAST_CHUNK);
        let mut decoder = BodyDecoder::chunked();
        let (mut rest, mut found) = (&text[..], Vec::new());
        loop {
            match decoder.next(rest).unwrap() {
                Step::Data { skip, length } => {
                    found.extend_from_slice(&rest[skip..skip + length]);
                    rest = &rest[skip + length..];
                }
                Step::More { .. } => panic!("the body is whole"),
                Step::End { skip } => {
                    prop_assert_eq!(skip, rest.len());
                    break;
                }
            }
        }
        prop_assert_eq!(found, data.concat());
        prop_assert!(decoder.closes_well());
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_does(number: u64, size in 1..usize::MAX) {
        let mut out = Vec::new();
        push_decimal(&mut out, number);
        prop_assert_eq!(out, number.to_string().into_bytes());
        let mut out = Vec::new();
        push_chunk_size(&mut out, size);
        prop_assert_eq!(out, format!("{size:x}\r\n").into_bytes());
    }
}

#[test]
fn a_head_is_found_behind_empty_lines_and_within_its_limits() {
    let long = "a".repeat(300);
    let many = "X: a\r\n".repeat(11);
    for (name, bytes, want) in [
        ("whole", "GET / HTTP/1.1\r\n\r\nrest".to_owned(), Ok(Some(0..18))),
        ("behind an empty line", "\r\nGET / HTTP/1.1\r\n\r\n".to_owned(), Ok(Some(2..20))),
        ("incomplete", "GET / HTTP/1.1\r\n".to_owned(), Ok(None)),
        ("nothing", String::new(), Ok(None)),
        ("bare LF", "GET / HTTP/1.1\n".to_owned(), Err(HeadError::BareLineFeed)),
        ("too many empty lines", "\r\n\r\n\r\n".to_owned(), Err(HeadError::BlankLines)),
        ("first line", long.clone(), Err(HeadError::FirstLineTooLong)),
        ("header line", format!("A\r\n{long}"), Err(HeadError::HeaderTooLarge)),
        (
            "all lines",
            format!("A\r\n{}", format!("{}\r\n", "b".repeat(190)).repeat(6)),
            Err(HeadError::HeaderTooLarge),
        ),
        ("count", format!("A\r\n{many}\r\n"), Err(HeadError::TooManyHeaders)),
    ] {
        assert_eq!(HeadScan::default().advance(bytes.as_bytes(), &LIMITS), want, "{name}");
    }
}

#[test]
fn a_host_is_taken_apart() {
    for (value, want) in [
        ("a.com", Some(("a.com", None))),
        ("a.com:80", Some(("a.com", Some(80)))),
        ("a.com:", Some(("a.com", None))),
        ("[::1]", Some(("[::1]", None))),
        ("[::1]:8080", Some(("[::1]", Some(8080)))),
        ("a_b", Some(("a_b", None))),
        ("", None),
        (":80", None),
        ("a b", None),
        ("a,b", None),
        ("a/b", None),
        ("u@a", None),
        ("a:1:2", None),
        ("a:-1", None),
        ("a:65536", None),
        ("[::1", None),
        ("[::1]a", None),
        ("[a]", None),
        ("::1", None),
    ] {
        let text = value.as_bytes();
        let want = want.map(|(name, port)| HostPort { text, name: str::as_bytes(name), port });
        assert_eq!(split_host(text), want, "{value:?}");
    }
}

#[test]
fn every_known_name_is_known_in_any_case() {
    for (name, want) in [
        ("Host", Name::Host),
        ("TE", Name::Te),
        ("CONTENT-LENGTH", Name::ContentLength),
        ("transfer-encoding", Name::TransferEncoding),
        ("X-Kong-Upstream-Latency", Name::XKongUpstreamLatency),
        ("X-Kong-Upstream-Status", Name::XKongUpstreamStatus),
        ("X-Kong-Response-Latency", Name::Other),
        ("X-Kong-Proxy-Latency", Name::XKongProxyLatency),
        ("X-Accel-Expires", Name::XAccel),
        ("X-Forwarded-Prefix", Name::XForwardedPrefix),
        ("X-Forwarded-Prefiy", Name::Other),
        ("X_Forwarded_Prefix", Name::Alias),
        ("content-Length", Name::ContentLength),
        ("CONTENT_LENGTH", Name::Alias),
        ("x-kong_request-id", Name::Alias),
        ("_ost", Name::Other),
        ("h-st", Name::Other),
        ("", Name::Other),
    ] {
        assert_eq!(Name::of(name), want, "{name}");
    }
}

#[test]
fn a_connection_lives_as_long_as_version_and_options_say() {
    for (name, value, http10, http11) in [
        ("nothing", "", false, true),
        ("keep-alive", "Keep-Alive", true, true),
        ("close", "close", false, false),
        ("close wins", "keep-alive, close", false, false),
        ("others", "x, ,y", false, true),
    ] {
        let mut connection = Connection::default();
        connection.note(value.as_bytes()).unwrap();
        assert_eq!(connection.persists(Version::Http10), http10, "{name}");
        assert_eq!(connection.persists(Version::Http11), http11, "{name}");
        assert_eq!(connection.names_headers, value.contains('x'), "{name}");
    }
}

#[test]
fn trailers_that_could_pass_for_headers_are_dropped() {
    let body = "0\r\nX-Sum: 1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\nX-Forwarded-For: 1\r\n\
                Authorization: a\r\nSet-Cookie: a\r\nX-Consumer-Username: root\r\nx_consumer_id: 1\r\n\
                X-Credential-Identifier: 1\r\nX_Anonymous-Consumer: true\r\nX-Consumers: 2\r\ngrpc-status: 0\r\n\r\n";
    let mut decoder = BodyDecoder::chunked();
    assert_eq!(decoder.next(body.as_bytes()), Ok(Step::End { skip: body.len() }));
    assert_eq!(decoder.trailers(), b"X-Sum: 1\r\nX-Consumers: 2\r\ngrpc-status: 0\r\n");
}

/// What a request comes to: its host and path, or why it is refused.
fn asked(start: &str) -> Result<(String, String), Refusal> {
    let bytes = format!("{start}\r\n\r\n");
    let mut storage = HeadStorage::new();
    let head = RequestHead::parse(bytes.as_bytes(), &mut storage)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((head.host.map(|host| text(host.name)).unwrap_or_default(), text(head.target.path)))
}

#[test]
fn an_absolute_form_and_the_host_ask_for_the_same() {
    let refused = Err(Refusal::Malformed("another host"));
    let is = |host: &str, path: &str| Ok((host.to_owned(), path.to_owned()));
    for (start, want) in [
        ("GET http://a/b HTTP/1.1\r\nHost: A", is("A", "/b")),
        ("GET http://a:80/b HTTP/1.1\r\nHost: a", is("a", "/b")),
        ("GET https://a/b HTTP/1.1\r\nHost: a:443", is("a", "/b")),
        ("GET http://a/b HTTP/1.0", is("a", "/b")),
        ("GET /b HTTP/1.0", is("", "/b")),
        ("GET http://a/b HTTP/1.1\r\nHost: b", refused.clone()),
        ("GET https://a/b HTTP/1.1\r\nHost: a:80", refused.clone()),
        ("GET http://a:81/b HTTP/1.1\r\nHost: a:80", refused.clone()),
        ("GET http://a/b HTTP/1.0\r\nHost: b", refused),
        ("GET http://a/b HTTP/1.1", Err(Refusal::Malformed("no host"))),
    ] {
        assert_eq!(asked(start), want, "{start}");
    }
}

#[test]
fn a_target_has_no_fragment() {
    for target in ["/a#b", "/#", "/a?b#c", "http://a#b", "http://a/?#"] {
        assert_eq!(
            asked(&format!("GET {target} HTTP/1.1\r\nHost: a")),
            Err(Refusal::Malformed("target")),
            "{target}"
        );
    }
    assert!(asked("GET /a%23?%23 HTTP/1.1\r\nHost: a").is_ok());
}

#[test]
fn an_answer_that_cannot_have_a_body_does_not_speak_of_one() {
    for (head, want) in [
        ("204 No Content\r\nContent-Length: 0", Ok(true)),
        ("204 No Content\r\nContent-Length: 1", Ok(false)),
        ("204 No Content\r\nTransfer-Encoding: chunked", Ok(false)),
        ("304 Not Modified\r\nContent-Length: 1", Ok(true)),
        ("103 Early Hints\r\nContent-Length: 0", Ok(true)),
        ("103 Early Hints\r\nContent-Length: 1", Err(InvalidResponse::InterimBody)),
        ("100 Continue\r\nTransfer-Encoding: chunked", Err(InvalidResponse::InterimBody)),
    ] {
        let bytes = format!("HTTP/1.1 {head}\r\n\r\n");
        let mut storage = HeadStorage::new();
        let persists = ResponseHead::parse(bytes.as_bytes(), false, &mut storage).map(|head| head.persists());
        assert_eq!(persists, want, "{head}");
    }
}

#[test]
fn a_climb_is_one_to_every_hop_or_refused() {
    let refused = Err(Refusal::Malformed("target"));
    for path in [
        "/a/..%2fb",
        "/a%2f../b",
        "/a/b%2F..",
        "/a/%2e%2e%2Fb",
        "/a\\..\\b",
        "/a/..\\b",
        "/a/..%5Cb",
        "/a%5c../b",
        "/a/..;/b",
        "/a/..;c",
        "/a/%2e.%3bc",
        "/a%2f..%2f..%2fb",
    ] {
        assert_eq!(asked(&format!("GET {path} HTTP/1.1\r\nHost: a")), refused, "{path}");
    }
    for path in [
        "/a/../b",
        "/a/%2e%2E/b",
        "/a/..",
        "/a/..b",
        "/a/b..%2Fc",
        "/a/...%2Fc",
        "/a/.%2Fc",
        "/a/b;..",
        "/a%5Cb",
    ] {
        assert!(asked(&format!("GET {path} HTTP/1.1\r\nHost: a")).is_ok(), "{path}");
    }
}
