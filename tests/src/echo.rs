//! Targets that are no HTTP: over TCP and UDP.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{PATIENCE, eventually};

/// A target over TCP that says who it is and echoes what it is told, until it is stopped: then nobody listens.
pub struct Echo {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
}

impl Echo {
    /// Starts one that says `name` to whoever connects.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn tcp(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                std::thread::spawn(move || {
                    drop(stream.write_all(name.as_bytes()));
                    let mut bytes = [0; 4096];
                    while let Ok(length) = stream.read(&mut bytes)
                        && length > 0
                    {
                        drop(stream.write_all(&bytes[..length]));
                    }
                    drop(stream.shutdown(Shutdown::Write));
                });
            }
        });
        Self { address, is_stopped }
    }

    /// Where it listens, also once it is stopped.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes its port; connections go on.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // It sees so with the next connection.
        eventually("nobody to listen there", PATIENCE, || TcpStream::connect(self.address).err());
    }
}

/// Where datagrams come back from, until the process ends.
///
/// # Panics
/// When no port can be had.
pub fn udp() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = socket.local_addr().expect("a bound socket has an address");
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, source)) = socket.recv_from(&mut bytes) {
            drop(socket.send_to(&bytes[..length], source));
        }
    });
    address
}
