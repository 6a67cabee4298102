//! The side of the process that takes over.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::sockets::Group;
use super::{PROTOCOL, wire};

/// Groups of sockets that are taken, each of at least one socket.
const GROUPS_MAX: usize = 4096;

/// How long the node may take to go: its disk is waited for, and its control plane.
const GO: Duration = Duration::from_secs(30);

/// Why the place of a running node cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("the running node does not hand over")]
pub struct TakeoverError(#[from] io::Error);

/// The node whose place is taken.
#[derive(Debug)]
pub struct Predecessor {
    connection: OwnedFd,
    groups: Vec<Group>,
}

impl Predecessor {
    /// Asks the node that listens at `path` for its sockets; `None` where there is no such node. `patience` bounds every
    /// single step. Blocks.
    ///
    /// # Errors
    /// When it is there but does not give them.
    pub fn ask(path: &Path, patience: Duration) -> Result<Option<Self>, TakeoverError> {
        let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
        let connection = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let connection = connection.map_err(io::Error::from)?;
        match connect(&connection, &address) {
            Ok(()) => {}
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => return Ok(None),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        wire::set_patience(&connection, patience)?;
        wire::send(&connection, &format!("hello {PROTOCOL} {}", std::process::id()), &[])?;
        let mut groups: Vec<Group> = Vec::new();
        loop {
            let packet = wire::receive(&connection)?;
            if packet.words == "end" {
                return Ok(Some(Self { connection, groups }));
            }
            let (number, name, address) =
                socket(&packet.words).ok_or_else(|| wire::unexpected(&packet.words))?;
            let is_next = number == groups.len() && number < GROUPS_MAX;
            match groups.get_mut(number) {
                Some(group) => group.sockets.extend(packet.descriptors),
                None if is_next => {
                    groups.push(Group { name: name.to_owned(), address, sockets: packet.descriptors });
                }
                None => return Err(wire::unexpected(&packet.words).into()),
            }
        }
    }

    /// Its sockets; once.
    pub fn groups(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.groups)
    }

    /// Says that all is ready, and waits until the node goes. Gives the lock of its cache directory. Blocks.
    ///
    /// # Errors
    /// When it does not go after all.
    pub fn ready(self) -> Result<Option<OwnedFd>, TakeoverError> {
        wire::send(&self.connection, "ready", &[])?;
        wire::set_patience(&self.connection, GO)?;
        let mut packet = wire::receive(&self.connection)?;
        if packet.words != "go" {
            return Err(wire::unexpected(&packet.words).into());
        }
        Ok(packet.descriptors.pop())
    }
}

/// Reads `socket <group> <name> <address>`.
fn socket(words: &str) -> Option<(usize, &str, std::net::SocketAddr)> {
    let mut words = words.split_whitespace();
    let (Some("socket"), Some(number), Some(name), Some(address), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    Some((number.parse().ok()?, name, address.parse().ok()?))
}
