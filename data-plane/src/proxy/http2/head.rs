//! Heads, from one form into the other. Pure.
//!
//! What arrives as HTTP/2 is written as HTTP/1.1 and judged by the codec that judges every request, so that both have the
//! same rules. Here is only what that codec cannot see any more: what HTTP/2 says in its own way (RFC 9113 8).

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, request, response};

use crate::http1::{Header, Name, RequestHead, ResponseHead, push_decimal};

/// The end of a head in HTTP/1.1.
const END: &[u8] = b"\r\n\r\n";

/// Adds to `text`, a head in the making, what of `bytes` belongs to it. Gives how many bytes that are, and whether the
/// head is whole.
pub fn gather(text: &mut Vec<u8>, bytes: &[u8]) -> (usize, bool) {
    let before = text.len();
    text.extend_from_slice(bytes);
    // The end may have begun in what was there before.
    let from = before.saturating_sub(END.len() - 1);
    match memchr::memmem::find(text.get(from..).unwrap_or_default(), END) {
        None => (bytes.len(), false),
        Some(at) => {
            text.truncate(from + at + END.len());
            (text.len() - before, true)
        }
    }
}

/// How large a request's head is, without what stands between its parts.
pub fn bytes<T>(request: &http::Request<T>) -> usize {
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    lines.fold(path, usize::saturating_add)
}

/// How the body of a message is framed as HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// There is none, or its length is known: as it is.
    Plain,
    /// In chunks.
    Chunked,
}

/// A head that HTTP/2 cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a head that HTTP/2 cannot carry")]
pub struct Unfit;

/// Writes a request's head; `has_body`: more than the head comes.
pub fn push_request(out: &mut Vec<u8>, parts: &request::Parts, has_body: bool) -> Coding {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    // Of a request whose scheme is none of HTTP's the codec sees just that, and refuses it as it does in HTTP/1. The scheme of one
    // without an authority is not told.
    let scheme = parts.uri.scheme_str().unwrap_or_default();
    if authority.is_some() && !matches!(scheme, "http" | "https") && parts.uri.path_and_query().is_some() {
        out.extend_from_slice(scheme.as_bytes());
        out.extend_from_slice(b"://");
    }
    match parts.uri.path_and_query() {
        Some(path) => out.extend_from_slice(path.as_str().as_bytes()),
        // CONNECT; it is refused, but by those who refuse it in HTTP/1.
        None => out.extend_from_slice(authority.unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b" HTTP/1.1");
    if let Some(authority) = authority {
        push(out, "Host", authority.as_bytes());
    }
    for (name, value) in &parts.headers {
        match *name {
            // The same said twice (RFC 9113 8.3.1); where it differs, the codec finds two.
            header::HOST
                if authority.is_some_and(|own| value.as_bytes().eq_ignore_ascii_case(own.as_bytes())) => {}
            header::COOKIE => {}
            _ => push(out, name.as_str(), value.as_bytes()),
        }
    }
    push_cookies(out, &parts.headers);
    let coding = if has_body && !parts.headers.contains_key(header::CONTENT_LENGTH) {
        push(out, "Transfer-Encoding", b"chunked");
        Coding::Chunked
    } else {
        Coding::Plain
    };
    out.extend_from_slice(b"\r\n\r\n");
    coding
}

/// What HTTP/2 cuts into pieces to compress it better is one header in HTTP/1 (RFC 9113 8.2.3).
fn push_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (place, value) in headers.get_all(header::COOKIE).iter().enumerate() {
        out.extend_from_slice(if place == 0 { b"\r\ncookie: " } else { b"; " });
        out.extend_from_slice(value.as_bytes());
    }
}

/// Writes a response's head. Whether the request was HEAD tells whether a body follows that is not announced.
pub fn push_response(out: &mut Vec<u8>, parts: &response::Parts, has_body: bool, is_head: bool) -> Coding {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, parts.status.as_u16().into());
    out.push(b' ');
    for (name, value) in &parts.headers {
        push(out, name.as_str(), value.as_bytes());
    }
    let is_bodiless =
        is_head || parts.status.is_informational() || matches!(parts.status.as_u16(), 204 | 304);
    let coding = if is_bodiless || parts.headers.contains_key(header::CONTENT_LENGTH) {
        Coding::Plain
    } else if has_body {
        push(out, "Transfer-Encoding", b"chunked");
        Coding::Chunked
    } else {
        push(out, "Content-Length", b"0");
        Coding::Plain
    };
    out.extend_from_slice(b"\r\n\r\n");
    coding
}

/// Writes trailers as lines.
pub fn push_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    for (name, value) in trailers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn push(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

/// A response as HTTP/2 has it.
///
/// # Errors
/// When it has a status or a header that cannot be said there.
pub fn response(head: &ResponseHead<'_, '_>) -> Result<http::Response<()>, Unfit> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status).map_err(|_| Unfit)?;
    *response.headers_mut() = headers(head.headers, head.names)?;
    Ok(response)
}

/// A request as HTTP/2 has it.
///
/// # Errors
/// When it has a target or a header that cannot be said there.
pub fn request(head: &RequestHead<'_, '_>, scheme: Scheme) -> Result<http::Request<()>, Unfit> {
    let host = head.host.ok_or(Unfit)?;
    let uri = http::Uri::builder().scheme(scheme).authority(host.text).path_and_query(target(head)?);
    let mut request = http::Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).map_err(|_| Unfit)?;
    *request.uri_mut() = uri.build().map_err(|_| Unfit)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers(head.headers, head.names)?;
    if head.accepts_trailers {
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// Path and query, as they came if they can be said so: of what HTTP/1 lets pass, some bytes must be percent-encoded.
fn target(head: &RequestHead<'_, '_>) -> Result<PathAndQuery, Unfit> {
    let mut target = Cow::Borrowed(head.target.path);
    if let Some(query) = head.target.query {
        target = [head.target.path, query].join(&b'?').into();
    }
    if let Ok(target) = PathAndQuery::try_from(target.as_ref()) {
        return Ok(target);
    }
    let mut escaped = Vec::with_capacity(target.len() + 16);
    equipoise_proto::path::escape(&target, &mut escaped);
    PathAndQuery::try_from(escaped).map_err(|_| Unfit)
}

/// All headers but those that speak of one HTTP/1 connection (RFC 9113 8.2.2).
fn headers(headers: &[Header<'_>], names: &[Name]) -> Result<HeaderMap, Unfit> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (header, name) in headers.iter().zip(names) {
        let stays = matches!(
            name,
            Name::Connection
                | Name::Host
                | Name::KeepAlive
                | Name::ProxyConnection
                | Name::Te
                | Name::TransferEncoding
                | Name::Upgrade
        );
        if !stays {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Unfit)?;
            map.append(name, HeaderValue::from_bytes(header.value).map_err(|_| Unfit)?);
        }
    }
    Ok(map)
}

/// Trailer lines as a body's decoder keeps them.
///
/// # Errors
/// When one of them cannot be said in HTTP/2.
pub fn trailers(lines: &[u8]) -> Result<HeaderMap, Unfit> {
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Unfit)?;
        let (name, value) = line.split_at(colon);
        let value = crate::http1::trim(value.get(1..).unwrap_or_default());
        let name = HeaderName::from_bytes(name).map_err(|_| Unfit)?;
        map.append(name, HeaderValue::from_bytes(value).map_err(|_| Unfit)?);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{Framing, HeadStorage};

    fn written(request: http::request::Builder, has_body: bool) -> String {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut out = Vec::new();
        push_request(&mut out, &parts, has_body);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_is_written_as_the_codec_reads_it() {
        let request = http::Request::post("https://a.com:8443/x?y")
            .header("cookie", "a=1")
            .header("x-b", "2")
            .header("cookie", "b=2");
        let head = written(request, true);
        assert_eq!(
            head,
            "POST /x?y HTTP/1.1\r\nHost: a.com:8443\r\nx-b: 2\r\ncookie: a=1; b=2\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let mut storage = HeadStorage::new();
        let read = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
        assert_eq!(read.framing, Framing::Chunked);
        let again = super::request(&read, Scheme::HTTP).unwrap();
        assert_eq!(again.uri(), "http://a.com:8443/x?y");
        assert!(!again.headers().contains_key("transfer-encoding"));
    }

    #[test]
    fn what_the_codec_lets_pass_can_be_said_or_is_said_in_percents() {
        let request = |target: &[u8]| {
            let head = [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            let mut storage = HeadStorage::new();
            let head = RequestHead::parse(&head, &mut storage).ok()?;
            Some(super::request(&head, Scheme::HTTP).unwrap().uri().path_and_query().unwrap().to_string())
        };
        for (target, want) in [
            ("/a<b", "/a%3Cb"),
            ("/a>b`c^d", "/a%3Eb%60c%5Ed"),
            ("/a?b<c>", "/a?b%3Cc%3E"),
            ("/%61/<?", "/%61/%3C?"),
            ("/a/{b}|c", "/a/{b}|c"),
            ("/r/%61//b?x=%20", "/r/%61//b?x=%20"),
        ] {
            assert_eq!(request(target.as_bytes()).as_deref(), Some(want), "{target}");
        }
        for byte in 0..=u8::MAX {
            for place in ["/a", "/a?b"] {
                if let Some(said) = request(&[place.as_bytes(), &[byte], b"c"].concat()) {
                    assert!(said.starts_with(place) && said.ends_with('c'), "{byte}: {said}");
                }
            }
        }
        for host in ["a", "a:", "a:80", "[::1]", "[::1]:80", "a-b.c_d~e!f$g&h'i*j+k=l;m"] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let mut storage = HeadStorage::new();
            let head = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
            assert_eq!(super::request(&head, Scheme::HTTP).unwrap().uri().authority().unwrap(), host);
        }
    }

    #[test]
    fn a_host_beside_the_authority_must_be_the_same() {
        let same = written(http::Request::get("http://a.com/").header("host", "A.com"), false);
        assert_eq!(same, "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n");
        let other = written(http::Request::get("http://a.com/").header("host", "b.com"), false);
        let mut storage = HeadStorage::new();
        RequestHead::parse(other.as_bytes(), &mut storage).unwrap_err();
        let alone = written(http::Request::get("/").header("host", "b.com"), false);
        assert_eq!(alone, "GET / HTTP/1.1\r\nhost: b.com\r\n\r\n");
    }

    #[test]
    fn a_scheme_that_is_none_of_http_is_refused() {
        let head = written(http::Request::get("ftp://a.com/x"), false);
        let mut storage = HeadStorage::new();
        RequestHead::parse(head.as_bytes(), &mut storage).unwrap_err();
        let head = written(http::Request::get("https://a.com/x"), false);
        let mut storage = HeadStorage::new();
        RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
    }

    #[test]
    fn a_response_keeps_what_is_of_one_connection_to_itself() {
        let bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: 5\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\n";
        let mut storage = HeadStorage::new();
        let head = ResponseHead::parse(bytes, false, &mut storage).unwrap();
        let response = super::response(&head).unwrap();
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-a", "content-length"]);
        let (parts, ()) = response.into_parts();
        let mut out = Vec::new();
        assert_eq!(push_response(&mut out, &parts, true, false), Coding::Plain);
        assert_eq!(out, b"HTTP/1.1 200 \r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 2\r\n\r\n");
    }

    #[test]
    fn a_head_is_gathered_however_it_is_cut() {
        let all = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody";
        for cut in 0..all.len() {
            let (mut text, mut taken, mut is_whole) = (Vec::new(), 0, false);
            for piece in [&all[..cut], &all[cut..]] {
                if !is_whole {
                    let (length, whole) = gather(&mut text, piece);
                    (taken, is_whole) = (taken + length, whole);
                }
            }
            assert!(is_whole, "{cut}");
            assert_eq!((taken, text.as_slice()), (all.len() - 4, &all[..all.len() - 4]), "{cut}");
        }
    }

    #[test]
    fn trailers_survive_both_ways() {
        let map = trailers(b"grpc-status: 0\r\ngrpc-message:  a b \r\n").unwrap();
        let mut out = Vec::new();
        push_trailers(&mut out, &map);
        assert_eq!(out, b"grpc-status: 0\r\ngrpc-message: a b\r\n");
        assert_eq!(trailers(b"no colon\r\n"), Err(Unfit));
    }
}
