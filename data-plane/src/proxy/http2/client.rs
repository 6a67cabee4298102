//! One request to a target that speaks HTTP/2: a connection of HTTP/1.1 that carries one request, to those who send it.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::uri::Scheme;
use rustls::AlertDescription;
use tokio::io::ReadBuf;

use super::head;
use super::incoming::Incoming;
use super::io_error;
use super::multiplex::Place;
use super::outgoing::{Outgoing, unfit};
use crate::http1::{BodyDecoder, Framing, HeadStorage, RequestHead};
use crate::proxy::reach::Identity;

/// The stream.
#[derive(Debug)]
pub struct ClientStream {
    requests: SendRequest<Bytes>,
    request: Request,
    response: Response,
    scheme: Scheme,
    /// The target said that it has not begun with it: it may be sent again, whatever it asks for.
    is_unprocessed: bool,
    /// The request cannot be said in HTTP/2: no fault of the target.
    is_unfit: bool,
    /// Its part of the connection.
    place: Place,
}

/// How far the request is.
#[derive(Debug)]
enum Request {
    /// What there is of its head.
    Head(Vec<u8>),
    /// The whole head, which waits for a place among the streams.
    Waiting(Vec<u8>),
    /// Its body.
    Body(Outgoing),
}

/// How far the response is.
#[derive(Debug)]
enum Response {
    /// Nobody was asked yet.
    Unasked,
    /// It is waited for.
    Waiting { response: ResponseFuture, is_head: bool },
    /// It is here.
    Begun(Incoming),
    /// There will be none: the request could not be sent.
    Failed,
}

impl ClientStream {
    /// A request on this connection.
    pub fn new(requests: SendRequest<Bytes>, scheme: Scheme, place: Place) -> Self {
        let request = Request::Head(Vec::new());
        let response = Response::Unasked;
        Self { requests, request, response, scheme, is_unprocessed: false, is_unfit: false, place }
    }

    /// Whether it is sure that the target did nothing.
    pub const fn is_unprocessed(&self) -> bool {
        self.is_unprocessed
    }

    /// Whether the request cannot be said in HTTP/2.
    pub const fn is_unfit(&self) -> bool {
        self.is_unfit
    }

    /// What the target said against the handshake of its connection, and who it is.
    pub fn take_objection(&self) -> Option<(Identity, AlertDescription)> {
        self.place.take_objection()
    }

    /// It has timed out: the connection may be dead.
    pub fn doubt(&self) {
        self.place.doubt();
    }

    /// Ready when there may be something to read, the end included.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_response(cx).map_ok(drop)
    }

    /// Reads the response into `space`; nothing is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if ready!(self.poll_response(cx))?
            && let Response::Begun(incoming) = &mut self.response
        {
            incoming.read(space);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether something can be read; false at the end.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match &mut self.response {
                // Whoever writes wakes whoever reads: they are one task.
                Response::Unasked => return Poll::Pending,
                Response::Waiting { response, is_head } => {
                    let response = match ready!(Pin::new(response).poll(cx)) {
                        Ok(response) => response,
                        Err(error) => return Poll::Ready(Err(self.failed(error))),
                    };
                    let (parts, body) = response.into_parts();
                    let mut text = Vec::with_capacity(512);
                    let coding = head::push_response(&mut text, &parts, !body.is_end_stream(), *is_head);
                    self.response = Response::Begun(Incoming::new(text, coding, body));
                }
                Response::Begun(incoming) => return incoming.poll_ready(cx),
                // Why is told to whoever writes.
                Response::Failed => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    fn failed(&mut self, error: h2::Error) -> io::Error {
        // RFC 9113 8.7: such a request has not been processed.
        let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        self.is_unprocessed |= error.is_remote() && (is_refused || error.is_go_away());
        io_error(error)
    }

    /// Writes some of the request.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_begin(cx))?;
        match &mut self.request {
            Request::Body(body) => {
                let written = body.poll_write(cx, bytes);
                if let Poll::Ready(Err(error)) = &written
                    && error.kind() == io::ErrorKind::InvalidData
                {
                    // The target is not to wait for the rest.
                    body.abort(Reason::CANCEL);
                    self.fail_as_unfit();
                }
                written
            }
            Request::Head(text) | Request::Waiting(text) => {
                let (taken, is_whole) = head::gather(text, bytes);
                if is_whole {
                    self.request = Request::Waiting(std::mem::take(text));
                    if let Poll::Ready(Err(error)) = self.poll_begin(cx) {
                        return Poll::Ready(Err(error));
                    }
                }
                Poll::Ready(Ok(taken))
            }
        }
    }

    /// Sends a head that is whole, once the connection has room for another stream. Whatever fails here has left nothing of it
    /// with the target.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Request::Waiting(text) = &mut self.request else { return Poll::Ready(Ok(())) };
        if let Err(error) = ready!(self.requests.poll_ready(cx)) {
            self.is_unprocessed = true;
            self.response = Response::Failed;
            return Poll::Ready(Err(io_error(error)));
        }
        let text = std::mem::take(text);
        let begun = self.begin(&text);
        if begun.is_err() {
            self.is_unprocessed = true;
            self.fail_as_unfit();
        }
        Poll::Ready(begun)
    }

    /// Sends this head on a connection that takes it.
    ///
    /// # Errors
    /// When HTTP/2, or this implementation of it, cannot say it.
    fn begin(&mut self, text: &[u8]) -> io::Result<()> {
        let mut storage = HeadStorage::new();
        let head = RequestHead::parse(text, &mut storage).map_err(invalid)?;
        let request = head::request(&head, self.scheme.clone()).map_err(unfit)?;
        let decoder = match head.framing {
            Framing::Absent | Framing::Length(0) => None,
            Framing::Length(length) => Some(BodyDecoder::length(length)),
            Framing::Chunked => Some(BodyDecoder::chunked()),
        };
        let (response, stream) = self.requests.send_request(request, decoder.is_none()).map_err(invalid)?;
        self.response = Response::Waiting { response, is_head: head.method == "HEAD" };
        self.request = Request::Body(match decoder {
            Some(decoder) => Outgoing::new(stream, decoder),
            None => Outgoing::ended(stream),
        });
        Ok(())
    }

    /// There will be no response, unless it is here already.
    fn fail_as_unfit(&mut self) {
        self.is_unfit = true;
        if matches!(self.response, Response::Unasked | Response::Waiting { .. }) {
            self.response = Response::Failed;
        }
    }

    /// Ready once all that was written is on its way.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_begin(cx))?;
        match &mut self.request {
            Request::Body(body) => body.poll_flush(cx),
            Request::Head(_) | Request::Waiting(_) => Poll::Ready(Ok(())),
        }
    }

    /// Nothing is left to say: the request has its own end.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }

    /// Takes the request back.
    pub fn abort(&mut self) {
        if let Request::Body(body) = &mut self.request {
            body.abort(Reason::CANCEL);
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const HEAD: &[u8] = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";

    /// A stream on a connection whose target has left.
    async fn left() -> ClientStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let target = async {
            let mut target = h2::server::handshake(theirs).await.unwrap();
            target.abrupt_shutdown(Reason::NO_ERROR);
            while target.accept().await.is_some() {}
        };
        let client = async {
            let (mut requests, connection) = h2::client::handshake(ours).await.unwrap();
            // It ends with the target's word that it leaves.
            drop(connection.await);
            assert!(poll_fn(|cx| requests.poll_ready(cx)).await.is_err());
            ClientStream::new(requests, Scheme::HTTP, Place::alone())
        };
        tokio::join!(target, client).1
    }

    #[tokio::test]
    async fn what_cannot_be_sent_fails_at_once_and_was_not_processed() {
        let mut stream = left().await;
        let written = poll_fn(|cx| stream.poll_write(cx, HEAD)).await;
        written.unwrap_err();
        let read =
            tokio::time::timeout(std::time::Duration::from_secs(5), poll_fn(|cx| stream.poll_readable(cx)));
        read.await.expect("nobody waits for an answer to what was not sent").unwrap_err();
        assert!(stream.is_unprocessed() && !stream.is_unfit());
    }
}
