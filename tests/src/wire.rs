//! A TCP relay between two processes, whose wire can be slow, silent in one way or both, or cut.
//!
//! What it cannot do is lose packets: it ends TCP on both sides. Bytes that a silent way has taken are kept and arrive once it is
//! healed, as TCP would send them again; beyond a few kilobytes it takes none, so that the window of who sends fills up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Connections at once; more wait in the backlog.
const CONNECTIONS_MAX: usize = 1_024;

/// Of each socket towards who sends: small, so that a silent way is soon a full window.
const WINDOW_BYTES: u32 = 16 * 1024;

/// Taken by one read.
const CHUNK_BYTES: usize = 4 * 1024;

/// Chunks under way in one direction of a slow connection.
const CHUNKS_MAX: usize = 64;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connects to where the wire leads.
    There,
    /// From there.
    Back,
}

/// One wire; gone with all its connections when dropped.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: watch::Sender<State>,
    carried: Arc<Carried>,
    runtime: Option<Runtime>,
}

/// Bytes that have arrived.
#[derive(Debug, Default)]
struct Carried {
    there: AtomicU64,
    back: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    there: Flow,
    back: Flow,
    is_refusing: bool,
    /// How often it was cut.
    cuts: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    delay: Duration,
    is_silent: bool,
}

impl State {
    const fn flow(&self, way: Way) -> Flow {
        match way {
            Way::There => self.there,
            Way::Back => self.back,
        }
    }

    const fn flow_mut(&mut self, way: Way) -> &mut Flow {
        match way {
            Way::There => &mut self.there,
            Way::Back => &mut self.back,
        }
    }
}

impl Wire {
    /// Lays a wire that leads to `to`, whether somebody is there or not.
    ///
    /// # Errors
    /// When no port or thread can be had.
    pub fn lay(to: SocketAddr) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (state, orders) = watch::channel(State::default());
        let carried = Arc::new(Carried::default());
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(WINDOW_BYTES)?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            socket.listen(1_024)?
        };
        let address = listener.local_addr()?;
        runtime.spawn(accept(listener, to, orders, Arc::clone(&carried)));
        Ok(Self { address, state, carried, runtime: Some(runtime) })
    }

    /// Where it begins.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that have arrived in one direction, over all connections.
    pub fn carried(&self, way: Way) -> u64 {
        match way {
            Way::There => &self.carried.there,
            Way::Back => &self.carried.back,
        }
        .load(Ordering::SeqCst)
    }

    /// Everything takes so much longer, each way.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| (state.there.delay, state.back.delay) = (delay, delay));
    }

    /// Nothing arrives in one direction any more, and the window of who sends there fills up; the other one flows. Silent
    /// [`Way::There`], no new connection arrives either.
    pub fn silence(&self, way: Way) {
        self.state.send_modify(|state| state.flow_mut(way).is_silent = true);
    }

    /// Nothing arrives any more, and nobody is told.
    pub fn partition(&self) {
        self.state.send_modify(|state| (state.there.is_silent, state.back.is_silent) = (true, true));
    }

    /// Resets all connections, and every new one.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.is_refusing = true;
            state.cuts += 1;
        });
    }

    /// As new; what silent ways kept arrives.
    pub fn heal(&self) {
        self.state.send_modify(|state| *state = State { cuts: state.cuts, ..State::default() });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    mut orders: watch::Receiver<State>,
    carried: Arc<Carried>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((near, _)) = listener.accept().await else { continue };
        // An error: the wire is gone.
        if orders.wait_for(|state| !state.there.is_silent).await.is_err() {
            return;
        }
        let State { is_refusing, cuts, .. } = *orders.borrow();
        if is_refusing {
            // Without it, this is only a closed connection; nothing else follows from an error.
            drop(near.set_zero_linger());
            continue;
        }
        let (orders, carried) = (orders.clone(), Arc::clone(&carried));
        tokio::spawn(async move {
            let _place = place;
            match dial(to).await {
                Ok(far) => carry((near, far), cuts, orders, &carried).await,
                Err(_) => drop(near.set_zero_linger()),
            }
        });
    }
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(WINDOW_BYTES)?;
    socket.connect(to).await
}

/// Carries both ways until both have ended, or the wire was cut more than `cuts` times.
async fn carry(
    (near, far): (TcpStream, TcpStream),
    cuts: u64,
    orders: watch::Receiver<State>,
    carried: &Carried,
) {
    // An error: the connection is gone, as the first read will tell.
    drop(near.set_nodelay(true));
    drop(far.set_nodelay(true));
    let (mut near_reads, mut near_writes) = near.into_split();
    let (mut far_reads, mut far_writes) = far.into_split();
    let both = async {
        let there = pump(&mut near_reads, &mut far_writes, (Way::There, &carried.there), orders.clone());
        let back = pump(&mut far_reads, &mut near_writes, (Way::Back, &carried.back), orders.clone());
        // An error of one way is a reset of the connection, which ends the other as well.
        tokio::try_join!(there, back).is_err()
    };
    let is_cut = {
        let mut cut = orders.clone();
        tokio::select! {
            is_reset = both => is_reset,
            _ = cut.wait_for(|state| state.cuts > cuts) => true,
        }
    };
    if is_cut {
        // Put together again: the half that writes says goodbye when it is dropped.
        for stream in [near_reads.reunite(near_writes), far_reads.reunite(far_writes)].into_iter().flatten() {
            drop(stream.set_zero_linger());
        }
    }
}

/// Carries one way until its end.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    (way, carried): (Way, &AtomicU64),
    mut orders: watch::Receiver<State>,
) -> io::Result<()> {
    let (under_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let mut flows = orders.clone();
    let reading = async move {
        loop {
            flowing(&mut flows, way).await?;
            let mut chunk = vec![0; CHUNK_BYTES];
            let length = from.read(&mut chunk).await?;
            if length == 0 {
                return Ok(());
            }
            chunk.truncate(length);
            let due = Instant::now() + flows.borrow().flow(way).delay;
            if under_way.send((due, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async {
        while let Some((due, chunk)) = arriving.recv().await {
            sleep_until(due).await;
            flowing(&mut orders, way).await?;
            to.write_all(&chunk).await?;
            carried.fetch_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
        flowing(&mut orders, way).await?;
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

/// Waits while a way is silent.
async fn flowing(orders: &mut watch::Receiver<State>, way: Way) -> io::Result<()> {
    let flowing = orders.wait_for(|state| !state.flow(way).is_silent).await;
    flowing.map(drop).map_err(|_| io::ErrorKind::NotConnected.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{PATIENCE, eventually};

    /// Long enough for what must not come to have come.
    const SHORT: Duration = Duration::from_millis(100);

    /// Both ends of a connection over a new wire.
    fn ends() -> (Wire, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire::lay(listener.local_addr().unwrap()).unwrap();
        let near = TcpStream::connect(wire.address()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (wire, near, far)
    }

    fn hears(end: &mut TcpStream, want: &[u8]) {
        let mut heard = vec![0; want.len()];
        end.read_exact(&mut heard).unwrap();
        assert_eq!(heard, want);
    }

    fn hears_nothing(end: &mut TcpStream) {
        end.set_read_timeout(Some(SHORT)).unwrap();
        let heard = end.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(heard, Err(io::ErrorKind::WouldBlock)), "{heard:?}");
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    #[test]
    fn both_ways_flow_and_end_one_by_one() {
        let (wire, mut near, mut far) = ends();
        near.write_all(b"there").unwrap();
        hears(&mut far, b"there");
        near.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
        far.write_all(b"back").unwrap();
        hears(&mut near, b"back");
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        eventually("both ways to be counted", PATIENCE, || {
            ((wire.carried(Way::There), wire.carried(Way::Back)) == (5, 4)).then_some(())
        });
    }

    #[test]
    fn a_silent_way_keeps_what_it_has_fills_the_window_and_leaves_the_other_alone() {
        let (wire, mut near, mut far) = ends();
        wire.silence(Way::Back);
        far.write_all(b"kept").unwrap();
        hears_nothing(&mut near);
        near.write_all(b"there").unwrap();
        hears(&mut far, b"there");
        far.set_nonblocking(true).unwrap();
        let mut sent = 0_usize;
        let full = loop {
            match far.write(&[0; 4096]) {
                Ok(length) => sent += length,
                Err(error) => break error.kind(),
            }
            assert!(sent < 64 << 20, "the window is bounded");
        };
        assert_eq!(full, io::ErrorKind::WouldBlock);
        wire.heal();
        hears(&mut near, b"kept");
        near.read_exact(&mut vec![0; sent]).unwrap();
    }

    #[test]
    fn behind_a_partition_nothing_arrives_and_no_new_connection_either() {
        let (wire, mut near, mut far) = ends();
        wire.partition();
        near.write_all(b"there").unwrap();
        far.write_all(b"back").unwrap();
        hears_nothing(&mut near);
        hears_nothing(&mut far);
        drop(far);
        hears_nothing(&mut near);
        wire.heal();
        hears(&mut near, b"back");
    }

    #[test]
    fn a_cut_wire_resets_what_there_is_and_what_comes() {
        let (wire, mut near, mut far) = ends();
        wire.cut();
        for end in [&mut near, &mut far] {
            assert_eq!(end.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
        let mut new = TcpStream::connect(wire.address()).unwrap();
        new.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(new.read(&mut [0]).is_err());
    }

    #[test]
    fn a_slow_wire_takes_its_time_each_way() {
        let (wire, mut near, mut far) = ends();
        wire.delay(SHORT);
        let begun = Instant::now();
        near.write_all(b"there").unwrap();
        hears(&mut far, b"there");
        far.write_all(b"back").unwrap();
        hears(&mut near, b"back");
        assert!(begun.elapsed() >= 2 * SHORT);
    }
}
