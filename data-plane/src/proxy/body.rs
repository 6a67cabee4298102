//! A request's body before a target is chosen: what is held in memory can be sent again.

use std::future::poll_fn;
use std::task::{Poll, ready};

use super::connection::Client;
use super::error::Problem;
use super::exchange::Failure;
use super::request::{Facts, Matched};
use super::worker::Worker;
use crate::http1::{BodyDecoder, Framing, Step};

/// A request's body, as far as it was read before a target is chosen.
#[derive(Debug)]
pub enum Body {
    /// There is none.
    Absent,
    /// Whole, at the front of the client's buffer, where it stays until the answer begins.
    InPlace(usize),
    /// Whole, without its framing; and its trailers.
    Collected(Vec<u8>, Vec<u8>),
    /// The rest follows; what was collected goes first.
    Streaming(BodyDecoder, Vec<u8>),
}

/// What is left of a request's body in the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Nothing: it was taken, or there was none.
    Nothing,
    /// So much at the front of the buffer.
    InPlace(usize),
    /// All of it, unread.
    All,
    /// Nobody knows.
    Unknown,
}

impl Remains {
    /// After an upload that ended, or did not.
    pub const fn after(is_sent: bool) -> Self {
        if is_sent { Self::Nothing } else { Self::Unknown }
    }

    /// Takes it out of the client's buffer; false if some of it is not there.
    pub fn use_up(self, client: &mut Client, facts: &Facts) -> bool {
        match self {
            Self::Nothing => true,
            Self::InPlace(length) => {
                client.buffer.consume(length);
                true
            }
            Self::All => skip_body(client, facts),
            Self::Unknown => false,
        }
    }
}

impl Body {
    /// The body, where nothing must be waited for: there is none, all of it is here, or it is streamed anyway.
    /// `here`: bytes after the head that came already.
    pub fn at_hand(here: usize, worker: &Worker, facts: &Facts, matched: &Matched<'_>) -> Option<Self> {
        match facts.framing {
            Framing::Absent | Framing::Length(0) => Some(Self::Absent),
            Framing::Length(length) => {
                let is_small = length <= worker.settings.body_buffer_bytes as u64;
                match usize::try_from(length) {
                    Ok(length) if is_small && length <= here => Some(Self::InPlace(length)),
                    _ if facts.expects_continue && here == 0 => None,
                    _ if is_small && matched.route.request_buffering => None,
                    _ => Some(Self::Streaming(BodyDecoder::length(length), Vec::new())),
                }
            }
            Framing::Chunked => None,
        }
    }

    /// What of it the connection still holds.
    pub const fn remains(&self) -> Remains {
        match self {
            Self::Absent | Self::Collected(..) => Remains::Nothing,
            Self::InPlace(length) => Remains::InPlace(*length),
            Self::Streaming(..) => Remains::Unknown,
        }
    }

    /// It will not be sent again: takes it out of the client's buffer. Gives the bytes it held.
    pub fn use_up(&self, client: &mut Client) -> usize {
        match self {
            Self::Absent => 0,
            Self::InPlace(length) => {
                client.buffer.consume(*length);
                *length
            }
            Self::Collected(bytes, _) | Self::Streaming(_, bytes) => bytes.len(),
        }
    }
}

/// Reads the body as far as it is held in memory; asks the client for it first if the client waits.
pub async fn read_body(
    client: &mut Client,
    worker: &Worker,
    facts: &Facts,
    matched: &Matched<'_>,
) -> Result<Body, Failure> {
    let settings = &worker.settings;
    if facts.expects_continue
        && client.buffer.filled().is_empty()
        && client.write(b"HTTP/1.1 100 Continue\r\n\r\n", &[], settings.send_timeout).await.is_err()
    {
        return Err(Failure::ClientGone);
    }
    let (decoder, is_long) = match facts.framing {
        Framing::Absent => return Ok(Body::Absent),
        Framing::Length(length) => (BodyDecoder::length(length), length > settings.body_buffer_bytes as u64),
        Framing::Chunked => (BodyDecoder::chunked(), false),
    };
    if !matched.route.request_buffering || is_long {
        return Ok(Body::Streaming(decoder, Vec::new()));
    }
    if let Framing::Length(length) = facts.framing
        && client.buffer.fits(length)
        && let Ok(length) = usize::try_from(length)
    {
        while client.buffer.filled().len() < length {
            read_more(client, worker).await?;
        }
        return Ok(Body::InPlace(length));
    }
    collect(client, worker, decoder).await
}

/// Takes the body out of its framing, up to what is held in memory.
async fn collect(client: &mut Client, worker: &Worker, mut decoder: BodyDecoder) -> Result<Body, Failure> {
    let settings = &worker.settings;
    let mut collected = Vec::new();
    loop {
        let step = decoder.next(client.buffer.filled()).map_err(|_| Failure::Problem(Problem::Body))?;
        match step {
            Step::Data { skip, length } => {
                client.buffer.consume(skip);
                collected.extend_from_slice(client.buffer.filled().get(..length).unwrap_or_default());
                client.buffer.consume(length);
                if settings.body_bytes_max.is_some_and(|most| collected.len() as u64 > most) {
                    return Err(Failure::Problem(Problem::TooLarge));
                }
                if collected.len() > settings.body_buffer_bytes {
                    return Ok(Body::Streaming(decoder, collected));
                }
            }
            Step::More { skip } => {
                client.buffer.consume(skip);
                read_more(client, worker).await?;
            }
            Step::End { skip } => {
                client.buffer.consume(skip);
                return Ok(Body::Collected(collected, decoder.trailers().to_vec()));
            }
        }
    }
}

async fn read_more(client: &mut Client, worker: &Worker) -> Result<(), Failure> {
    client.timer.arm(worker.settings.body_timeout);
    poll_fn(|cx| match client.poll_more(cx, worker) {
        Poll::Ready(true) => Poll::Ready(Ok(())),
        Poll::Ready(false) => Poll::Ready(Err(Failure::ClientGone)),
        Poll::Pending => {
            ready!(client.timer.poll_expired(cx));
            Poll::Ready(Err(Failure::Problem(Problem::BodyTimeout)))
        }
    })
    .await
}

/// Uses up a body that is in the buffer already; false if some of it is not, or cannot be read.
fn skip_body(client: &mut Client, facts: &Facts) -> bool {
    let mut decoder = match facts.framing {
        Framing::Absent => return true,
        Framing::Length(length) => BodyDecoder::length(length),
        Framing::Chunked => BodyDecoder::chunked(),
    };
    loop {
        match decoder.next(client.buffer.filled()) {
            Ok(Step::Data { skip, length }) => client.buffer.consume(skip + length),
            Ok(Step::End { skip }) => {
                client.buffer.consume(skip);
                return true;
            }
            Ok(Step::More { .. }) | Err(_) => return false,
        }
    }
}
