//! A look at what a client sends first, which is left where it is: whoever serves the connection reads it again.

use std::io;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::patience::within_or_drain;
use crate::proxy::worker::Worker;
use crate::tls::hello::{self, HELLO_BYTES_MAX, Hello, NotHello};

/// Why a client's handshake is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    /// What came is no ClientHello.
    #[error(transparent)]
    Hello(#[from] NotHello),
    /// It did not come in time.
    #[error("it took too long")]
    TooSlow,
    /// The client is gone.
    #[error("the client left")]
    Gone,
}

/// Bytes that are looked at first: enough for what most clients send.
const USUAL_BYTES: usize = 4 * 1024;

/// Waits for a whole ClientHello, within the time for a request's head.
pub(super) async fn hello(stream: &TcpStream, worker: &Worker) -> Result<Hello, Unknown> {
    let peeked = within_or_drain(worker, worker.settings.header_timeout, peek(stream));
    peeked.await.unwrap_or(Err(Unknown::TooSlow))
}

async fn peek(stream: &TcpStream) -> Result<Hello, Unknown> {
    let mut bytes = vec![0; USUAL_BYTES];
    let mut seen = 0;
    loop {
        let is_ended = stream.ready(Interest::READABLE).await.map_err(|_| Unknown::Gone)?.is_read_closed();
        let peeked = stream.try_io(Interest::READABLE, || {
            let (length, _) =
                rustix::net::recv(stream, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            // What was seen before is still there: as if there were nothing, so that the next byte is waited for.
            if length == seen && !is_ended { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(length) }
        });
        seen = match peeked {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(Unknown::Gone),
        };
        match hello::read(bytes.get(..seen).unwrap_or_default()) {
            Ok(hello) => return Ok(hello),
            Err(NotHello::Incomplete) if seen >= HELLO_BYTES_MAX => return Err(NotHello::TooLong.into()),
            Err(NotHello::Incomplete) if seen == bytes.len() => bytes.resize(HELLO_BYTES_MAX, 0),
            Err(NotHello::Incomplete) if is_ended => return Err(Unknown::Gone),
            Err(NotHello::Incomplete) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
