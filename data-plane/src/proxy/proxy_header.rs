//! The beginning of a client's connection where the PROXY protocol is spoken.

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tracing::debug;

use super::forward::Peer;
use super::patience::Patience;
use super::worker::Worker;
use crate::proxy_protocol::{self, BYTES_MAX, Header};

/// Reads the header within the time for a head, and nothing of what follows it; `None`: the connection is over, and
/// nobody is told why, since who sends garbage here speaks no protocol that an answer could be given in.
pub(super) async fn read(stream: &TcpStream, peer: &Peer, worker: &Worker) -> Option<Header> {
    let header = read_header(stream, peer, worker).await;
    worker.metrics.proxy_header(header.is_some());
    header
}

async fn read_header(stream: &TcpStream, peer: &Peer, worker: &Worker) -> Option<Header> {
    let mut patience = Patience::new(worker);
    let mut seen = [0_u8; BYTES_MAX];
    // What was taken from the socket. Bytes are looked at first, and taken once they are known to be of the header.
    let mut taken = 0;
    loop {
        let mut space = ReadBuf::new(seen.get_mut(taken..)?);
        let peeked = patience.within(|cx| stream.poll_peek(cx, &mut space)).await;
        let Some(length) = peeked.and_then(Result::ok).filter(|length| *length > 0) else {
            debug!(peer = peer.text(), "a connection ended, or waited too long, before its PROXY header");
            return None;
        };
        let parsed = match proxy_protocol::parse(seen.get(..taken + length)?) {
            Ok(parsed) => parsed,
            Err(error) => {
                debug!(%error, peer = peer.text(), "a PROXY header is refused");
                return None;
            }
        };
        let end = parsed.map_or(taken + length, |(_, used)| used);
        while taken < end {
            // It was there a moment ago, and nobody else reads.
            taken += stream.try_read(seen.get_mut(taken..end)?).ok().filter(|length| *length > 0)?;
        }
        if let Some((header, _)) = parsed {
            return Some(header);
        }
    }
}
