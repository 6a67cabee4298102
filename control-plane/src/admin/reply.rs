//! Answers: status, headers and body of a response, complete before it is sent.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

/// Type of every JSON answer.
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// Type of the pages that a web server answers in front of the API.
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=UTF-8");

/// An answer in the making.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its own headers; those of every answer come later.
    pub headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    /// An answer without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// A JSON answer.
    pub fn json(status: StatusCode, value: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::with_type(status, JSON, body.into()),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written as JSON");
                Self::unexpected()
            }
        }
    }

    /// A JSON answer that is written already.
    pub fn written(status: StatusCode, json: Vec<u8>) -> Self {
        Self::with_type(status, JSON, json.into())
    }

    /// `{"message":"<text>"}`.
    pub fn message(status: StatusCode, text: &str) -> Self {
        Self::with_type(status, JSON, json!({ "message": text }).to_string().into())
    }

    /// 404 `Not found`.
    pub fn not_found() -> Self {
        Self::message(StatusCode::NOT_FOUND, "Not found")
    }

    /// 405 `Method not allowed`; there is no `Allow` header, as in the reference.
    pub fn method_not_allowed() -> Self {
        Self::message(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
    }

    /// 500, without internal text.
    pub fn unexpected() -> Self {
        Self::message(StatusCode::INTERNAL_SERVER_ERROR, "An unexpected error occurred")
    }

    /// The page of a web server for this status, as the reference answers 413, 415 and TRACE.
    pub fn page(status: StatusCode) -> Self {
        let title = format!("{} {}", status.as_str(), reason(status));
        let page = format!(
            "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
             <hr><center>openresty</center>\r\n</body>\r\n</html>\r\n"
        );
        Self::with_type(status, HTML, page.into())
    }

    /// Plain text of another type.
    pub fn text(content_type: HeaderValue, text: String) -> Self {
        Self::with_type(StatusCode::OK, content_type, text.into())
    }

    fn with_type(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type);
        Self { status, headers, body }
    }

    /// Rough bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        self.body.len() + headers.sum::<usize>()
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.insert(name, value.into());
        self
    }

    /// The response, with its length; to HEAD without its body.
    pub fn into_response(self, method: &http::Method) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        // Of a 304 it would have to be the length of the 200 (RFC 9110 8.6).
        if ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&self.status) {
            response.headers_mut().insert(CONTENT_LENGTH, self.body.len().into());
        }
        if method != http::Method::HEAD {
            *response.body_mut() = Full::new(self.body);
        }
        response
    }
}

/// nginx's words, which differ from the registry's.
fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => "Not Allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        other => other.canonical_reason().unwrap_or_default(),
    }
}
