//! The socket that clients come in by: it knows which of this machine's addresses each datagram was sent to, and answers
//! from that address.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket as Bound};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{DATAGRAM_BYTES_MAX, Ends};

/// A worker's socket for one address.
#[derive(Debug)]
pub(super) struct Door {
    socket: UdpSocket,
    local: SocketAddr,
    /// Where datagrams come in by all addresses of this machine.
    any: Option<UdpSocketState>,
    /// For one datagram of a target, lent for as long as it is passed on.
    buffer: RefCell<Vec<u8>>,
}

/// Listens for datagrams at `address`, which others may do as well if they do it so.
///
/// # Errors
/// When it cannot be listened on.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether nobody listens there yet: sockets that share a port would also share it with another node of the same user.
///
/// # Errors
/// When somebody does.
pub(crate) fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

impl Door {
    pub(super) fn new(socket: Bound) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let mut any = None;
        if local.ip().is_unspecified() {
            any = Some(UdpSocketState::new((&socket).into())?);
            // It was set up as QUIC wants it: never in fragments. Answers may be larger than what a link takes at once.
            match local {
                SocketAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::WANT)?,
                SocketAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::WANT)?,
            }
        }
        let buffer = RefCell::new(vec![0; DATAGRAM_BYTES_MAX]);
        Ok(Self { socket: UdpSocket::from_std(socket)?, local, any, buffer })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes what came: one datagram, or several of one client.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    pub(super) fn receive(&self, bytes: &mut [u8], mut take: impl FnMut(Ends, &[u8])) -> io::Result<()> {
        let Some(any) = &self.any else {
            let (length, source) = self.socket.try_recv_from(bytes)?;
            take(Ends { source, destination: self.local }, bytes.get(..length).unwrap_or_default());
            return Ok(());
        };
        let mut came = [RecvMeta::default()];
        self.socket.try_io(Interest::READABLE, || {
            any.recv((&self.socket).into(), &mut [IoSliceMut::new(bytes)], &mut came)
        })?;
        let [came] = came;
        let destination = SocketAddr::new(came.dst_ip.unwrap_or(self.local.ip()), self.local.port());
        let ends = Ends { source: came.addr, destination };
        if came.len == 0 {
            take(ends, &[]);
        }
        let all = bytes.get(..came.len).unwrap_or_default();
        all.chunks(came.stride.max(1)).for_each(|datagram| take(ends, datagram));
        Ok(())
    }

    /// Answers, from the address that the client has sent to.
    ///
    /// # Errors
    /// When the system does not take it now, or never.
    pub(super) fn send(&self, datagram: &[u8], ends: &Ends) -> io::Result<()> {
        let Some(any) = &self.any else {
            return self.socket.try_send_to(datagram, ends.source).map(drop);
        };
        let answer = Transmit {
            destination: ends.source,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: Some(ends.destination.ip()),
        };
        self.socket.try_io(Interest::WRITABLE, || any.try_send((&self.socket).into(), &answer))
    }

    /// Lends room for one datagram.
    pub(super) fn with_buffer<T>(&self, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
        use_it(&mut self.buffer.borrow_mut())
    }
}
