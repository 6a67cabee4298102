//! What comes in on a stream, read as the bytes of HTTP/1.1.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::RecvStream;
use http::header::HOST;
use tokio::io::ReadBuf;

use super::head::{Coding, push_trailers};
use super::io_error;
use crate::http1::push_chunk_size;

/// Room for text that stays where nothing is in it.
const TEXT_KEPT_MAX: usize = 1024;

/// One direction of a stream: a head, and the body behind it.
///
/// Memory is bounded by the window that the other end was given: room in it is given back when bytes are read.
#[derive(Debug)]
pub struct Incoming {
    /// Composed: the head, size lines, the end.
    text: Vec<u8>,
    text_at: usize,
    /// Data behind it.
    data: Bytes,
    coding: Coding,
    /// Until its end.
    body: Option<RecvStream>,
    has_begun: bool,
}

impl Incoming {
    /// `head`, and what comes behind it.
    pub fn new(head: Vec<u8>, coding: Coding, body: RecvStream) -> Self {
        let body = (!body.is_end_stream()).then_some(body);
        Self { text: head, text_at: 0, data: Bytes::new(), coding, body, has_begun: false }
    }

    /// Whether something can be read; false at the end. Ready as well when the stream broke.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.text_at == self.text.len() && self.data.is_empty() {
            self.text.clear();
            self.text_at = 0;
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(false)) };
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => {
                    if self.coding == Coding::Chunked && !data.is_empty() {
                        if std::mem::replace(&mut self.has_begun, true) {
                            self.text.extend_from_slice(b"\r\n");
                        }
                        push_chunk_size(&mut self.text, data.len());
                    }
                    self.data = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => {
                    let mut trailers = ready!(body.poll_trailers(cx)).map_err(io_error)?;
                    // It has no place there (RFC 9110 6.5.1).
                    let _host = trailers.as_mut().and_then(|trailers| trailers.remove(HOST));
                    self.body = None;
                    if self.coding == Coding::Chunked {
                        self.text.extend_from_slice(if self.has_begun { b"\r\n0\r\n" } else { b"0\r\n" });
                        if let Some(trailers) = trailers {
                            push_trailers(&mut self.text, &trailers);
                        }
                        self.text.extend_from_slice(b"\r\n");
                    }
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Reads what [`Self::poll_ready`] found.
    pub fn read(&mut self, space: &mut ReadBuf<'_>) {
        let text = self.text.get(self.text_at..).unwrap_or_default();
        let length = text.len().min(space.remaining());
        space.put_slice(text.get(..length).unwrap_or_default());
        self.text_at += length;
        // A head may be large, and what comes behind it takes its time.
        if self.text_at == self.text.len() && self.text.capacity() > TEXT_KEPT_MAX {
            (self.text, self.text_at) = (Vec::new(), 0);
        }
        let length = self.data.len().min(space.remaining());
        if length > 0 {
            space.put_slice(self.data.get(..length).unwrap_or_default());
            self.data.advance(length);
            if let Some(body) = &mut self.body {
                // It was received: no more than that is released.
                drop(body.flow_control().release_capacity(length));
            }
        }
    }
}
