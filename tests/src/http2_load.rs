//! Bounded loops of requests over HTTP/2, which count answers, failures and connections that were asked to end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use tokio::net::TcpStream;

use crate::{PATIENCE, eventually};

/// A load ends by itself after this.
const LONGEST: Duration = Duration::from_secs(120);

/// Requests of one connection at a time.
const AT_ONCE: usize = 4;

/// Pause between two rounds of a connection, so that a load leaves the machine to what is tested.
const PAUSE: Duration = Duration::from_millis(2);

/// Failures kept word for word.
const FAILURES_MAX: usize = 20;

/// Several clients that send requests until told to stop, each over one connection, and over a new one where it is asked to.
pub struct Http2Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_stopping: AtomicBool,
    answered: AtomicU64,
    told: AtomicU64,
    unbegun: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What came of the requests.
#[derive(Debug, Clone)]
pub struct Http2Tally {
    /// Answers with status 200.
    pub answered: u64,
    /// Connections that ended because the other end asked for it (GOAWAY without an error).
    pub told: u64,
    /// Requests that crossed with that, and that the other end said it did not begin (RFC 9113 6.8): they may be sent again.
    pub unbegun: u64,
    /// Requests without such an answer, connections that could not be made or ended in another way: the first of them, word for
    /// word.
    pub failures: Vec<String>,
}

impl Http2Load {
    /// Starts `clients` loops of `GET path`, in clear and by prior knowledge.
    ///
    /// # Panics
    /// When no runtime can be made.
    pub fn start(address: SocketAddr, clients: usize, path: &str) -> Self {
        let shared = Arc::<Shared>::default();
        let one = |_| {
            let (shared, uri) = (Arc::clone(&shared), format!("http://{address}{path}"));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime of one thread");
            std::thread::spawn(move || {
                let start = Instant::now();
                while !shared.is_stopping.load(Ordering::SeqCst) && start.elapsed() < LONGEST {
                    if let Err(failure) = runtime.block_on(connection(address, &uri, &shared)) {
                        let mut failures = shared.failures.lock().expect("no panic while held");
                        if failures.len() < FAILURES_MAX {
                            failures.push(format!("{:?} {failure}", start.elapsed()));
                        }
                        drop(failures);
                        // A node that is gone is not to be asked without a pause.
                        std::thread::sleep(PAUSE);
                    }
                }
            })
        };
        let threads = (0..clients).map(one).collect();
        Self { shared, threads }
    }

    /// Waits until `more` further requests were answered.
    pub fn wait_for(&self, more: u64) {
        let goal = self.shared.answered.load(Ordering::SeqCst) + more;
        eventually("the load over HTTP/2 to go on", PATIENCE, || {
            (self.shared.answered.load(Ordering::SeqCst) >= goal).then_some(())
        });
    }

    /// Stops and tells what came of it.
    ///
    /// # Panics
    /// When a loop panicked.
    pub fn stop(self) -> Http2Tally {
        self.shared.is_stopping.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a load thread does not panic");
        }
        Http2Tally {
            answered: self.shared.answered.load(Ordering::SeqCst),
            told: self.shared.told.load(Ordering::SeqCst),
            unbegun: self.shared.unbegun.load(Ordering::SeqCst),
            failures: self.shared.failures.lock().expect("no panic while held").clone(),
        }
    }
}

/// One connection, until it is asked to end or all is to stop.
async fn connection(address: SocketAddr, uri: &str, shared: &Shared) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("cannot connect: {error}"))?;
    let shaken = h2::client::handshake(stream).await;
    let (mut requests, connection) = shaken.map_err(|error| format!("cannot shake hands: {error}"))?;
    // Ends with the requests, or before; then they say so.
    let connection = tokio::spawn(connection);
    while !shared.is_stopping.load(Ordering::SeqCst) {
        requests = match requests.clone().ready().await {
            Ok(requests) => requests,
            Err(error) if asks_to_go(&error) => {
                shared.told.fetch_add(1, Ordering::SeqCst);
                break;
            }
            Err(error) => return Err(format!("the connection ended: {error}")),
        };
        let round: Result<Vec<_>, _> = (0..AT_ONCE).map(|_| ask(&mut requests, uri)).collect();
        for response in round.map_err(|error| format!("cannot ask: {error}"))? {
            let count = if answer(response).await? { &shared.answered } else { &shared.unbegun };
            count.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(PAUSE).await;
    }
    drop(requests);
    // However it ends: nothing of it is asked any more.
    drop(tokio::time::timeout(PATIENCE, connection).await);
    Ok(())
}

fn ask(requests: &mut SendRequest<Bytes>, uri: &str) -> Result<ResponseFuture, h2::Error> {
    let request = Request::get(uri).body(()).map_err(|_| h2::Error::from(h2::Reason::INTERNAL_ERROR))?;
    requests.send_request(request, true).map(|(response, _)| response)
}

fn asks_to_go(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// Waits for an answer; false: the request was not begun.
async fn answer(response: ResponseFuture) -> Result<bool, String> {
    let response =
        tokio::time::timeout(PATIENCE, response).await.map_err(|_| "no answer in time".to_owned())?;
    let response = match response {
        Ok(response) => response,
        Err(error) if asks_to_go(&error) => return Ok(false),
        Err(error) => return Err(format!("no answer: {error}")),
    };
    if response.status() != 200 {
        return Err(format!("status {}", response.status()));
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| format!("half an answer: {error}"))?;
        drop(body.flow_control().release_capacity(data.len()));
    }
    Ok(true)
}
