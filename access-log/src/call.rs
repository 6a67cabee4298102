//! Calls of an API, which are told of once they are answered; whether the client took the answer is not known then.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use http::header::{HOST, HeaderMap, HeaderName, REFERER, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};

use crate::entry::Entry;
use crate::log::SharedPen;

/// What is told of a call after its request is used up.
#[derive(Debug)]
pub struct Call {
    began: Instant,
    client: String,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Call {
    /// Of a request that has just come from `peer`.
    pub fn of<B>(peer: SocketAddr, request: &Request<B>) -> Self {
        Self {
            began: Instant::now(),
            client: peer.ip().to_canonical().to_string(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }
    }

    /// Tells that it was answered, with a body of so many bytes.
    pub fn answered(&self, pen: &SharedPen, status: StatusCode, body_bytes: u64) {
        pen.request(&Entry {
            at: SystemTime::now(),
            client: &self.client,
            peer: &self.client,
            method: self.method.as_str().as_bytes(),
            target: self.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes(),
            protocol: "HTTP/1.1",
            host: self.header(HOST).unwrap_or_default(),
            status: status.as_u16(),
            response_bytes: body_bytes,
            body_bytes,
            referer: self.header(REFERER),
            user_agent: self.header(USER_AGENT),
            total: self.began.elapsed(),
            ..Entry::default()
        });
    }

    fn header(&self, name: HeaderName) -> Option<&[u8]> {
        self.headers.get(name).map(http::HeaderValue::as_bytes)
    }
}
