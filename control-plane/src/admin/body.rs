//! Request bodies and query strings, decoded: content type, size and time limits, JSON, form, multipart.
//!
//! What the pairs of a form mean (nesting, types) is the model's business. Called by the request gate.

use std::str::Utf8Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use equipoise_proto::query::{self, Argument};
use http::HeaderMap;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::json;
use crate::model::Body;

/// Most query arguments and most form arguments a request may have (as in the reference).
pub const ARGUMENTS_MAX: usize = 1000;

/// Bodies up to this size are read without asking: nearly all are.
pub const SMALL_BYTES_MAX: usize = 64 * 1024;

/// A key of a query or form and its value; `None` where there was no `=`.
pub type Pair = (String, Option<String>);

/// A decoded body.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Payload {
    /// There was none.
    #[default]
    Empty,
    /// A JSON object.
    Json(Body),
    /// URL-encoded or multipart pairs, in order.
    Form(Vec<Pair>),
    /// As it came: a whole config, which whoever takes it decodes beside the threads that serve requests.
    Raw(Bytes),
}

/// The content types that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/x-www-form-urlencoded`
    Form,
    /// `multipart/form-data`
    Multipart,
    /// `application/yaml`, `text/yaml`: of a whole config only.
    Yaml,
}

/// Why a request stops at the gate because of its body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// 415, a page.
    #[error("unsupported media type")]
    UnsupportedMediaType,
    /// 400.
    #[error("several content types")]
    MultipleContentTypes,
    /// 413, a page; the connection closes.
    #[error("body too large")]
    TooLarge,
    /// 408; the connection closes.
    #[error("body took too long")]
    TimedOut,
    /// The connection broke off, or its framing was wrong: 400.
    #[error("body incomplete")]
    Incomplete,
    /// 400.
    #[error("not JSON")]
    NotJson,
    /// 400: the parts of a multipart body could not be told apart.
    #[error("malformed multipart body")]
    NotMultipart,
    /// 400: what separates the parts of a multipart body is not said.
    #[error("multipart body without a boundary")]
    NoBoundary,
    /// 400, naming the field: a key or value of a form is not UTF-8.
    #[error("not UTF-8 at position {at} of {key}")]
    NotUtf8 {
        /// The key, as far as it can be read.
        key: String,
        /// Which byte of the key or value, from 1.
        at: usize,
    },
    /// 400: more than any entity can have.
    #[error("too many values")]
    TooManyValues,
    /// 400.
    #[error("too many arguments")]
    TooManyArguments,
}

/// The content type of a POST, PUT or PATCH; `None` where it has none and no body either.
///
/// Compares the start of the value, case-sensitively, as the reference does.
///
/// # Errors
/// [`BodyError::UnsupportedMediaType`] or [`BodyError::MultipleContentTypes`].
pub fn media_type(headers: &HeaderMap, has_body: bool) -> Result<Option<MediaType>, BodyError> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = match (values.next(), values.next()) {
        (None, _) if has_body => return Err(BodyError::UnsupportedMediaType),
        (None, _) => return Ok(None),
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return Err(BodyError::MultipleContentTypes),
    };
    let types = [
        ("application/json", MediaType::Json),
        ("multipart/form-data", MediaType::Multipart),
        ("application/x-www-form-urlencoded", MediaType::Form),
        ("application/yaml", MediaType::Yaml),
        ("text/yaml", MediaType::Yaml),
    ];
    let found = types.into_iter().find(|(prefix, _)| value.starts_with(prefix.as_bytes()));
    found.map(|(_, media_type)| Some(media_type)).ok_or(BodyError::UnsupportedMediaType)
}

/// A body that has been read.
#[derive(Debug)]
pub struct Collected {
    /// All of it.
    pub bytes: Bytes,
    /// Stands for the memory of a large one: to be kept as long as anything of it is, decoded or not.
    pub memory: Option<OwnedSemaphorePermit>,
}

/// Reads a whole body. `large` bounds how many bodies past [`SMALL_BYTES_MAX`] are in memory at once; the
/// others wait, unread, for their turn.
///
/// # Errors
/// When it is larger than `bytes_max`, not complete after `timeout`, or breaks off.
pub async fn collect<B>(
    body: &mut B,
    bytes_max: usize,
    timeout: Duration,
    large: &Arc<Semaphore>,
) -> Result<Collected, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let read = async {
        let mut read = BytesMut::new();
        let mut permit = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BodyError::Incomplete)?;
            if let Some(data) = frame.data_ref() {
                if read.len() + data.len() > bytes_max {
                    return Err(BodyError::TooLarge);
                }
                read.extend_from_slice(data);
            }
            if read.len() > SMALL_BYTES_MAX && permit.is_none() {
                permit = Arc::clone(large).acquire_owned().await.ok();
            }
        }
        Ok(Collected { bytes: read.freeze(), memory: permit })
    };
    tokio::time::timeout(timeout, read).await.unwrap_or(Err(BodyError::TimedOut))
}

/// Decodes a body that has been read.
///
/// # Errors
/// When it is not what its type says; an empty body is not JSON.
pub async fn decode(media_type: MediaType, headers: &HeaderMap, body: Bytes) -> Result<Payload, BodyError> {
    match media_type {
        MediaType::Json => match json::parse(&body) {
            Ok(Value::Object(object)) => Ok(Payload::Json(object)),
            // The reference's language cannot tell an empty array from an empty object.
            Ok(Value::Array(array)) if array.is_empty() => Ok(Payload::Json(Body::new())),
            Err(json::InvalidJson::TooManyValues(_)) => Err(BodyError::TooManyValues),
            Ok(_) | Err(json::InvalidJson::Syntax) => Err(BodyError::NotJson),
        },
        MediaType::Form => Ok(Payload::Form(form(&body)?)),
        MediaType::Yaml => Err(BodyError::UnsupportedMediaType),
        MediaType::Multipart => Ok(Payload::Form(parts(headers, body).await?)),
    }
}

/// Decodes the pairs of a query `a=1&b&c=`. What is not UTF-8 is replaced, since nothing of it is stored.
///
/// # Errors
/// When there are more than [`ARGUMENTS_MAX`].
pub fn query(text: &[u8]) -> Result<Vec<Pair>, BodyError> {
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let pairs = split(text)?.into_iter();
    Ok(pairs.map(|Argument { name, value }| (lossy(name), value.map(lossy))).collect())
}

/// Decodes the pairs of a form `a=1&b&c=`, of which every one may be stored.
fn form(text: &[u8]) -> Result<Vec<Pair>, BodyError> {
    split(text)?.into_iter().map(|Argument { name, value }| to_text(name, value)).collect()
}

/// The arguments of a text, before they are known to be text themselves.
fn split(text: &[u8]) -> Result<Vec<Argument>, BodyError> {
    let pairs: Vec<_> = query::all(text).take(ARGUMENTS_MAX + 1).collect();
    if pairs.len() > ARGUMENTS_MAX { Err(BodyError::TooManyArguments) } else { Ok(pairs) }
}

/// A key and a value as texts.
fn to_text(key: Vec<u8>, value: Option<Vec<u8>>) -> Result<Pair, BodyError> {
    let not_utf8 = |key: &[u8], error: Utf8Error| BodyError::NotUtf8 {
        key: String::from_utf8_lossy(key).into_owned(),
        at: error.valid_up_to() + 1,
    };
    let name = std::str::from_utf8(&key).map_err(|error| not_utf8(&key, error))?.to_owned();
    let value = value.map(String::from_utf8).transpose();
    let value = value.map_err(|error| not_utf8(&key, error.utf8_error()))?;
    Ok((name, value))
}

/// The parts of a multipart body; of equal names the last counts, at the place of the first.
async fn parts(headers: &HeaderMap, body: Bytes) -> Result<Vec<Pair>, BodyError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if body.is_empty() {
        return Ok(Vec::new());
    }
    // The reference finds no parts then, and says that a write which changed nothing went well.
    let boundary = content_type.and_then(|value| multer::parse_boundary(value).ok());
    let boundary = boundary.ok_or(BodyError::NoBoundary)?;
    let stream = futures_util::stream::once(async move { Ok::<_, std::convert::Infallible>(body) });
    let mut multipart = multer::Multipart::new(stream, boundary);
    let mut pairs: Vec<Pair> = Vec::new();
    let mut parts = 0;
    while let Some(field) = multipart.next_field().await.map_err(|_| BodyError::NotMultipart)? {
        let name = match (field.name(), field.headers().get(CONTENT_DISPOSITION)) {
            (Some(name), _) => name.to_owned(),
            // A name that is not UTF-8 is not found there.
            (None, Some(value)) if std::str::from_utf8(value.as_bytes()).is_err() => {
                return Err(BodyError::NotMultipart);
            }
            (None, _) => String::new(),
        };
        let content = field.bytes().await.map_err(|_| BodyError::NotMultipart)?;
        let (name, value) = to_text(name.into_bytes(), Some(content.into()))?;
        parts += 1;
        if parts > ARGUMENTS_MAX {
            return Err(BodyError::TooManyArguments);
        }
        match pairs.iter_mut().find(|(key, _)| *key == name) {
            Some(pair) => pair.1 = value,
            None => pairs.push((name, value)),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::Full;
    use serde_json::json;

    use super::*;

    fn headers(types: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in types {
            headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn content_types_are_compared_by_their_start() {
        use MediaType::{Form, Json, Multipart};
        type Case = (&'static str, &'static [&'static str], bool, Result<Option<MediaType>, BodyError>);
        let cases: [Case; 9] = [
            ("none, no body", &[], false, Ok(None)),
            ("none, a body", &[], true, Err(BodyError::UnsupportedMediaType)),
            ("json", &["application/json; charset=utf-8"], true, Ok(Some(Json))),
            ("json-like", &["application/jsonx"], true, Ok(Some(Json))),
            ("upper case", &["Application/JSON"], true, Err(BodyError::UnsupportedMediaType)),
            ("text without a body", &["text/plain"], false, Err(BodyError::UnsupportedMediaType)),
            ("form", &["application/x-www-form-urlencoded"], true, Ok(Some(Form))),
            ("multipart", &["multipart/form-data; boundary=x"], true, Ok(Some(Multipart))),
            ("two", &["application/json", "application/json"], true, Err(BodyError::MultipleContentTypes)),
        ];
        for (name, types, has_body, want) in cases {
            assert_eq!(media_type(&headers(types), has_body), want, "{name}");
        }
    }

    fn pair(key: &str, value: Option<&str>) -> Pair {
        (key.to_owned(), value.map(str::to_owned))
    }

    #[test]
    fn pairs_are_decoded_once() {
        let text = b"a%5B%5D=x+y&&b&c=&d=%252F&e=1=2&f=%zz";
        let want = [
            pair("a[]", Some("x y")),
            pair("b", None),
            pair("c", Some("")),
            pair("d", Some("%2F")),
            pair("e", Some("1=2")),
            pair("f", Some("%zz")),
        ];
        assert_eq!(query(text).unwrap(), want);
        assert_eq!(form(text).unwrap(), want);
    }

    #[test]
    fn a_form_is_utf8_and_a_query_is_made_so() {
        let not_utf8 = |key: &str, at| Err(BodyError::NotUtf8 { key: key.to_owned(), at });
        for (name, text, want) in [
            ("a value", &b"name=ab%ff"[..], not_utf8("name", 3)),
            ("a raw value", b"a=1&name=\xff", not_utf8("name", 1)),
            ("a cut character", b"name=a%c3", not_utf8("name", 2)),
            ("a key", b"na%ffme=a", not_utf8("na\u{fffd}me", 3)),
            ("a key alone", b"%ff", not_utf8("\u{fffd}", 1)),
            ("what is well", b"name=%C3%A9", Ok(vec![pair("name", Some("\u{e9}"))])),
        ] {
            assert_eq!(form(text), want, "{name}");
        }
        assert_eq!(query(b"%ff=a%ff"), Ok(vec![pair("\u{fffd}", Some("a\u{fffd}"))]));
    }

    #[test]
    fn a_thousand_arguments_are_the_most() {
        for decode in [query, form] {
            assert_eq!(decode("a=1&".repeat(1000).as_bytes()).map(|pairs| pairs.len()), Ok(1000));
            assert_eq!(decode("a=1&".repeat(1001).as_bytes()), Err(BodyError::TooManyArguments));
        }
    }

    #[tokio::test]
    async fn json_bodies_are_objects() {
        let cases: [(&str, &[u8], Result<Payload, BodyError>); 6] = [
            ("object", b"{\"a\":1}", Ok(Payload::Json(json!({"a": 1}).as_object().unwrap().clone()))),
            ("empty array", b"[]", Ok(Payload::Json(Body::new()))),
            ("array", b"[1]", Err(BodyError::NotJson)),
            ("string", b"\"x\"", Err(BodyError::NotJson)),
            ("null", b"null", Err(BodyError::NotJson)),
            ("empty", b"", Err(BodyError::NotJson)),
        ];
        for (name, body, want) in cases {
            let got = decode(MediaType::Json, &HeaderMap::new(), Bytes::from_static(body)).await;
            assert_eq!(got, want, "{name}");
        }
    }

    #[tokio::test]
    async fn of_equal_multipart_names_the_last_counts() {
        let body = "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
                    --X\r\nContent-Disposition: form-data; name=\"b\"; filename=\"f\"\r\nContent-Type: text/x\r\n\r\nfile\r\n\
                    --X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n2\r\n--X--\r\n";
        let headers = headers(&["multipart/form-data; boundary=X"]);
        let got = decode(MediaType::Multipart, &headers, Bytes::from_static(body.as_bytes())).await;
        assert_eq!(got, Ok(Payload::Form(vec![pair("a", Some("2")), pair("b", Some("file"))])));
        let cut = decode(MediaType::Multipart, &headers, Bytes::from_static(&body.as_bytes()[..60])).await;
        assert_eq!(cut, Err(BodyError::NotMultipart));
    }

    #[tokio::test]
    async fn multipart_bodies_are_refused_rather_than_read_as_less() {
        let part = |disposition: &[u8], content: &[u8]| {
            let head = b"--X\r\nContent-Disposition: form-data; ".as_slice();
            Bytes::from([head, disposition, b"\r\n\r\n", content, b"\r\n--X--\r\n"].concat())
        };
        let not_utf8 = BodyError::NotUtf8 { key: "a".to_owned(), at: 2 };
        let latin1_file = Ok(Payload::Form(vec![pair("a", Some("x"))]));
        for (name, media_type, body, want) in [
            ("no boundary", "multipart/form-data", part(b"name=\"a\"", b"x"), Err(BodyError::NoBoundary)),
            ("nothing to separate", "multipart/form-data", Bytes::new(), Ok(Payload::Form(Vec::new()))),
            ("a value", "multipart/form-data; boundary=X", part(b"name=\"a\"", b"x\xff"), Err(not_utf8)),
            (
                "a name",
                "multipart/form-data; boundary=X",
                part(b"name=\"\xff\"", b"x"),
                Err(BodyError::NotMultipart),
            ),
            (
                "the name of a file",
                "multipart/form-data; boundary=X",
                part(b"name=\"a\"; filename=\"\xff\"", b"x"),
                latin1_file,
            ),
        ] {
            assert_eq!(decode(MediaType::Multipart, &headers(&[media_type]), body).await, want, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_wait_for_their_turn_and_small_ones_do_not() {
        let large = Arc::new(Semaphore::new(1));
        let collect = async |length| {
            let mut sent = Full::new(Bytes::from(vec![b' '; length]));
            collect(&mut sent, usize::MAX, Duration::from_secs(1), &large).await
        };
        let first = collect(SMALL_BYTES_MAX + 1).await.unwrap();
        assert_eq!(collect(SMALL_BYTES_MAX + 1).await.unwrap_err(), BodyError::TimedOut);
        assert!(collect(SMALL_BYTES_MAX).await.is_ok());
        drop(first);
        assert!(collect(SMALL_BYTES_MAX + 1).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_past_its_limit_is_refused() {
        for (body, want) in [("12345", Ok(Bytes::from("12345"))), ("123456", Err(BodyError::TooLarge))] {
            let (mut sent, large) = (Full::new(Bytes::from(body)), Arc::new(Semaphore::new(1)));
            let got = collect(&mut sent, 5, Duration::from_secs(1), &large).await;
            assert_eq!(got.map(|body| body.bytes), want);
        }
    }
}
