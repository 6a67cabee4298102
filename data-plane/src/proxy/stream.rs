//! A connection, be it a client's or an upstream's: the one place that knows what carries its bytes.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection.
#[derive(Debug)]
pub struct Stream(TcpStream);

impl Stream {
    /// One that was accepted; its listener set the options.
    pub const fn accepted(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Ready when there may be something to read, the end included.
    #[inline]
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// Reads into `space`; nothing is the end.
    #[inline]
    pub fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, space)
    }

    /// Writes some of `bytes`.
    #[inline]
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    /// Writes some of `parts`, in order.
    #[inline]
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }

    /// Says that nothing more will be written.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    /// Resets the connection, so that the other end cannot take what it got for the whole.
    pub fn abort(self) {
        // An error leaves an ordinary close.
        drop(self.0.set_zero_linger());
    }

    /// Whether nothing came that was not read: neither bytes nor the end. Only where a readiness event says
    /// otherwise is the kernel asked, and then a byte may be lost: the connection is of no use any more.
    pub fn is_quiet(&self) -> bool {
        matches!(self.0.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether nothing came, asking the kernel even if no readiness event came yet: a system call more. Takes
    /// nothing away.
    pub fn is_surely_quiet(&self) -> bool {
        let mut byte = [0_u8; 1];
        let peeked = rustix::net::recv(&self.0, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
    }
}
