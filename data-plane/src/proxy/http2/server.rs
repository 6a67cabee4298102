//! One stream of a client: a connection of HTTP/1.1 that carries one request, to those who serve it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request};
use tokio::io::ReadBuf;

use super::head;
use super::incoming::Incoming;
use super::io_error;
use super::outgoing::{Outgoing, unfit};
use crate::http1::{BodyDecoder, HeadStorage, ResponseBody, ResponseHead};

/// The stream.
#[derive(Debug)]
pub struct ServerStream {
    request: Incoming,
    is_head: bool,
    response: Response,
    fate: Rc<Cell<Fate>>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// Nothing yet, or nothing that was its client's doing.
    #[default]
    Open,
    /// An answer began.
    Answered,
    /// Its client took it back before.
    TakenBack,
}

/// How far the response is.
#[derive(Debug)]
enum Response {
    /// What there is of its head.
    Head(SendResponse<Bytes>, Vec<u8>),
    /// Its body.
    Body(Outgoing),
}

impl ServerStream {
    /// A request that was accepted; what becomes of it is told in `fate`.
    pub fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>, fate: Rc<Cell<Fate>>) -> Self {
        let (parts, body) = request.into_parts();
        let mut text = Vec::with_capacity(512);
        let coding = head::push_request(&mut text, &parts, !body.is_end_stream());
        Self {
            request: Incoming::new(text, coding, body),
            is_head: parts.method == Method::HEAD,
            response: Response::Head(respond, Vec::new()),
            fate,
        }
    }

    /// An error of the stream, which before an answer is its client's doing.
    fn broken(&self, error: io::Error) -> io::Error {
        if self.fate.get() == Fate::Open {
            self.fate.set(Fate::TakenBack);
        }
        error
    }

    /// Ready when there may be something to read. After the request that is the client's leaving.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if ready!(self.request.poll_ready(cx)).map_err(|error| self.broken(error))? {
            return Poll::Ready(Ok(()));
        }
        let error = match &mut self.response {
            Response::Head(respond, _) => ready!(respond.poll_reset(cx)).err().map(io_error),
            Response::Body(body) => {
                ready!(body.poll_reset(cx));
                None
            }
        };
        let error = error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
        Poll::Ready(Err(self.broken(error)))
    }

    /// Reads the request into `space`.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_readable(cx))?;
        self.request.read(space);
        Poll::Ready(Ok(()))
    }

    /// Writes some of the response.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.response {
            Response::Body(body) => body.poll_write(cx, bytes),
            Response::Head(_, text) => {
                let (taken, is_whole) = head::gather(text, bytes);
                if is_whole {
                    self.begin()?;
                }
                Poll::Ready(Ok(taken))
            }
        }
    }

    /// Sends the head.
    fn begin(&mut self) -> io::Result<()> {
        let Response::Head(respond, text) = &mut self.response else { return Ok(()) };
        let text = std::mem::take(text);
        let mut storage = HeadStorage::new();
        let head = ResponseHead::parse(&text, self.is_head, &mut storage);
        let head = head.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let response = head::response(&head).map_err(unfit)?;
        if head.status < 200 {
            let sent = respond.send_informational(response);
            return sent.map_err(|error| self.broken(io_error(error)));
        }
        let decoder = match head.body {
            ResponseBody::Absent => None,
            ResponseBody::Length(length) => Some(BodyDecoder::length(length)),
            ResponseBody::Chunked => Some(BodyDecoder::chunked()),
            ResponseBody::UntilClose => Some(BodyDecoder::until_close()),
        };
        let sent = respond.send_response(response, decoder.is_none());
        let stream = sent.map_err(|error| self.broken(io_error(error)))?;
        self.fate.set(Fate::Answered);
        self.response = Response::Body(match decoder {
            Some(decoder) => Outgoing::new(stream, decoder),
            None => Outgoing::ended(stream),
        });
        Ok(())
    }

    /// Ready once all that was written is on its way.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.response {
            Response::Head(..) => Poll::Ready(Ok(())),
            Response::Body(body) => body.poll_flush(cx),
        }
    }

    /// Ends the response where its end is that of the connection.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.response {
            Response::Head(..) => Poll::Ready(Ok(())),
            Response::Body(body) => body.poll_shutdown(cx),
        }
    }

    /// Breaks the stream off.
    pub fn abort(&mut self) {
        match &mut self.response {
            Response::Head(respond, _) => respond.send_reset(Reason::INTERNAL_ERROR),
            Response::Body(body) => body.abort(Reason::INTERNAL_ERROR),
        }
    }
}
