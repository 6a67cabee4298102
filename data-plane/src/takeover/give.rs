//! The side of the node that runs: it offers its sockets, and goes once its successor is ready.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as Connection;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::sockets::Group;
use super::{PROTOCOL, wire};

/// Processes that may wait to be spoken to.
const BACKLOG: i32 = 16;

/// Connections that have not said anything yet, beside each other: one that never does so holds up nobody.
const SILENT_MAX: usize = 16;

/// Time for whatever needs no work on the other side.
const STEP: Duration = Duration::from_secs(5);

/// What a node offers to its successor, and where.
#[derive(Debug)]
pub struct Offer {
    listener: UnixListener,
    groups: Arc<Vec<Group>>,
    /// How long a successor may take to be ready.
    patience: Duration,
}

/// A process that is ready to take over.
#[derive(Debug)]
pub struct Successor {
    connection: OwnedFd,
    /// Its process id.
    pub pid: u32,
}

impl Offer {
    /// Listens at `path`; whatever a process before left there goes. To be called only by who holds the lock of the cache
    /// directory.
    ///
    /// # Errors
    /// When the path is too long for a socket (some 100 bytes) or cannot be made.
    pub fn new(path: &Path, groups: Vec<Group>, patience: Duration) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Before anybody could come: the mode of a socket that is bound follows that of its file.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, groups: Arc::new(groups), patience })
    }

    /// Answers who comes, one after the other as they begin to speak, until one is ready, which is sent to `ready`, or `stop`. The
    /// sockets are let go of at the end.
    pub async fn run(self, ready: mpsc::Sender<Successor>, stop: CancellationToken) {
        let Self { listener, groups, patience } = self;
        let mut silent = JoinSet::new();
        loop {
            let heard = tokio::select! {
                () = stop.cancelled() => return,
                Some(heard) = silent.join_next() => heard,
                accepted = listener.accept(), if silent.len() < SILENT_MAX => {
                    match accepted {
                        Ok((connection, _)) => drop(silent.spawn(first_word(connection))),
                        Err(error) => {
                            warn!(%error, "a successor could not be spoken to");
                            tokio::time::sleep(STEP).await;
                        }
                    }
                    continue;
                }
            };
            let connection = match heard.map_err(io::Error::from).flatten().and_then(UnixStream::into_std) {
                Ok(connection) => connection,
                Err(error) => {
                    warn!(%error, "whoever came to take over did not begin");
                    continue;
                }
            };
            let groups = Arc::clone(&groups);
            let speaking = tokio::task::spawn_blocking(move || speak(connection, &groups, patience));
            let spoken = tokio::select! {
                () = stop.cancelled() => return,
                spoken = speaking => spoken,
            };
            match spoken {
                Ok(Ok(successor)) => {
                    if ready.send(successor).await.is_err() {
                        return;
                    }
                }
                Ok(Err(error)) => error!(%error, "the successor is not ready: this process goes on serving"),
                Err(error) => {
                    error!(%error, "speaking to the successor broke off: this process goes on serving");
                }
            }
        }
    }
}

/// Waits for somebody to begin.
async fn first_word(connection: UnixStream) -> io::Result<UnixStream> {
    tokio::time::timeout(STEP, connection.readable()).await??;
    Ok(connection)
}

fn speak(connection: Connection, groups: &[Group], patience: Duration) -> io::Result<Successor> {
    connection.set_nonblocking(false)?;
    let connection = OwnedFd::from(connection);
    let peer = socket_peercred(&connection)?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    wire::set_patience(&connection, STEP)?;
    let hello = wire::receive(&connection)?;
    let mut words = hello.words.split_whitespace();
    let (Some("hello"), Some(protocol), Some(pid)) = (words.next(), words.next(), words.next()) else {
        return Err(wire::unexpected(&hello.words));
    };
    if protocol.parse() != Ok(PROTOCOL) {
        let what = format!("it speaks version {protocol} of the handover, this process {PROTOCOL}");
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let pid = pid.parse().map_err(|_| wire::unexpected(&hello.words))?;
    info!(pid, "a successor has come");
    for (number, Group { name, address, sockets }) in groups.iter().enumerate() {
        for part in sockets.chunks(wire::DESCRIPTORS_MAX) {
            let descriptors: Vec<_> = part.iter().map(|socket| socket.as_fd()).collect();
            wire::send(&connection, &format!("socket {number} {name} {address}"), &descriptors)?;
        }
    }
    wire::send(&connection, "end", &[])?;
    wire::set_patience(&connection, patience)?;
    let ready = wire::receive(&connection).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it was not ready in time"),
        _ => error,
    })?;
    if ready.words != "ready" {
        return Err(wire::unexpected(&ready.words));
    }
    Ok(Successor { connection, pid })
}

impl Successor {
    /// Lets it begin; `lock` is that of the cache directory, in which this process writes nothing any more.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn go(&self, lock: Option<&OwnedFd>) -> io::Result<()> {
        wire::set_patience(&self.connection, STEP)?;
        let lock: Vec<_> = lock.iter().map(|lock| lock.as_fd()).collect();
        wire::send(&self.connection, "go", &lock)
    }
}
