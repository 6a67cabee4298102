//! Packets of words and descriptors over a Unix socket. All of it blocks, for as long as the socket's time-outs say.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors in one packet; the kernel takes 253.
pub(super) const DESCRIPTORS_MAX: usize = 64;

/// Longest packet.
const BYTES_MAX: usize = 512;

/// What one side said.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) words: String,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// How long a read or a write may take from now on.
pub(super) fn set_patience(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    // Zero would be without end.
    let patience = Some(patience.max(Duration::from_millis(1)));
    set_socket_timeout(&socket, Timeout::Recv, patience)?;
    Ok(set_socket_timeout(&socket, Timeout::Send, patience)?)
}

/// Sends one packet.
pub(super) fn send(socket: impl AsFd, words: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one packet"));
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(words.as_bytes())], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// Waits for one packet; the end of the connection is an error.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0_u8; BYTES_MAX];
    let received = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other process has ended"));
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet did not arrive whole"));
    }
    let words = bytes.get(..received.bytes).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let words = words.ok_or_else(|| unexpected("bytes that are no text"))?.to_owned();
    Ok(Packet { words, descriptors })
}

/// Something that does not belong here.
pub(super) fn unexpected(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the other process said `{what}`, which is not expected"),
    )
}
