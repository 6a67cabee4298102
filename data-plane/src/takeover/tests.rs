//! Both sides in one process, over a real socket.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn groups(sockets: usize) -> Vec<Group> {
    let open = || OwnedFd::from(TcpListener::bind(any()).unwrap());
    let group = |name: &str, count: usize| Group {
        name: name.to_owned(),
        address: any(),
        sockets: (0..count).map(|_| open()).collect(),
    };
    vec![group("proxy", sockets), group("status", 1)]
}

fn ports(groups: &[Group]) -> Vec<Vec<u16>> {
    let port = |socket: &OwnedFd| TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap().port();
    groups.iter().map(|group| group.sockets.iter().map(port).collect()).collect()
}

async fn ask(path: &Path) -> Result<Option<Predecessor>, TakeoverError> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || Predecessor::ask(&path, PATIENCE)).await.unwrap()
}

#[tokio::test]
async fn sockets_and_lock_go_from_one_process_to_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("takeover.sock");
    assert!(ask(&path).await.unwrap().is_none(), "nobody is there");
    // More than fit into one packet.
    let given = groups(wire::DESCRIPTORS_MAX * 2 + 1);
    let wanted = ports(&given);
    let offer = Offer::new(&path, given, PATIENCE).unwrap();
    let (ready, mut successors) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let offering = tokio::spawn(offer.run(ready, stop.clone()));
    // One that ends before it is ready changes nothing.
    drop(ask(&path).await.unwrap().unwrap());
    let mut predecessor = ask(&path).await.unwrap().unwrap();
    let taken = predecessor.groups();
    assert_eq!(ports(&taken), wanted);
    assert!(successors.try_recv().is_err(), "it is not ready yet");
    let waiting = tokio::task::spawn_blocking(move || predecessor.ready());
    let successor = successors.recv().await.unwrap();
    assert_eq!(successor.pid, std::process::id());
    let lock = OwnedFd::from(tempfile::tempfile().unwrap());
    successor.go(Some(&lock)).unwrap();
    assert!(waiting.await.unwrap().unwrap().is_some(), "the lock came");
    stop.cancel();
    offering.await.unwrap();
    assert!(ask(&path).await.unwrap().is_none(), "what is left of a process that has ended is nobody");
}

#[tokio::test]
async fn one_that_is_not_ready_in_time_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("takeover.sock");
    let offer = Offer::new(&path, groups(1), Duration::from_millis(50)).unwrap();
    let (ready, mut successors) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let offering = tokio::spawn(offer.run(ready, stop.clone()));
    let slow = ask(&path).await.unwrap().unwrap();
    // The next one is answered once that is given up.
    let next = ask(&path).await.unwrap().unwrap();
    assert!(successors.try_recv().is_err());
    let error = tokio::task::spawn_blocking(move || slow.ready()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("does not hand over"), "{error}");
    drop(next);
    stop.cancel();
    offering.await.unwrap();
}

#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("takeover.sock");
    let offer = Offer::new(&path, groups(1), PATIENCE).unwrap();
    let (ready, mut successors) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let offering = tokio::spawn(offer.run(ready, stop.clone()));
    let silent: Vec<_> = (0..4)
        .map(|_| {
            let flags = rustix::net::SocketFlags::CLOEXEC;
            let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET);
            let socket = rustix::net::socket_with(family, kind, flags, None).unwrap();
            rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
            socket
        })
        .collect();
    let began = std::time::Instant::now();
    let predecessor = ask(&path).await.unwrap().unwrap();
    let waiting = tokio::task::spawn_blocking(move || predecessor.ready());
    successors.recv().await.unwrap().go(None).unwrap();
    assert!(waiting.await.unwrap().unwrap().is_none(), "there was no lock");
    assert!(began.elapsed() < Duration::from_secs(4), "each of them has five seconds: {:?}", began.elapsed());
    drop(silent);
    stop.cancel();
    offering.await.unwrap();
}

#[tokio::test]
async fn a_path_that_is_too_long_is_an_error() {
    let path = Path::new("/tmp").join("x".repeat(200));
    assert!(Offer::new(&path, Vec::new(), PATIENCE).is_err());
    assert!(ask(&path).await.is_err());
}
