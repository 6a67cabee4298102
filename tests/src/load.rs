//! Bounded request loops that count answers and failures.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Client, Response, eventually};

/// A load ends by itself after this.
const LONGEST: Duration = Duration::from_secs(120);

/// Pause between two requests of a thread, so that a load leaves the machine to what is tested.
const PAUSE: Duration = Duration::from_millis(1);

/// Failures kept word for word.
const FAILURES_MAX: usize = 20;

/// Several threads that send requests until told to stop.
pub struct Load {
    is_stopping: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    tally: Arc<Mutex<Tally>>,
}

/// What came of the requests.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Answers with status 200, by the `name` in them.
    pub by_origin: BTreeMap<String, u64>,
    /// Requests without such an answer.
    pub failed: u64,
    /// The first of them, word for word.
    pub failures: Vec<String>,
}

impl Tally {
    /// Answers with status 200.
    pub fn succeeded(&self) -> u64 {
        self.by_origin.values().sum()
    }
}

impl Load {
    /// Starts `threads` loops of `method path`; every thread keeps one connection.
    pub fn start(address: SocketAddr, threads: usize, method: &'static str, path: &str) -> Self {
        Self::start_over(&[address], threads, method, path)
    }

    /// The same of clients that know several nodes: what one of them does not answer is sent to the next, which they then stay
    /// with. A request has failed when none has answered it.
    pub fn start_over(addresses: &[SocketAddr], threads: usize, method: &'static str, path: &str) -> Self {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let threads = (0..threads)
            .map(|thread| {
                let mut clients: Vec<_> = addresses.iter().map(|address| Client::new(*address)).collect();
                // Spread over the nodes.
                clients.rotate_left(thread % addresses.len().max(1));
                let (is_stopping, done) = (Arc::clone(&is_stopping), Arc::clone(&done));
                let (tally, path) = (Arc::clone(&tally), path.to_owned());
                std::thread::spawn(move || {
                    let start = Instant::now();
                    while !is_stopping.load(Ordering::SeqCst) && start.elapsed() < LONGEST {
                        let body: &[u8] = if method == "POST" { b"hello" } else { b"" };
                        let answer = send(&mut clients, method, &path, body);
                        let mut tally = tally.lock().expect("no panic while held");
                        match answer {
                            Ok(answer) if answer.status == 200 => {
                                let name = answer.json()["name"].as_str().unwrap_or_default().to_owned();
                                *tally.by_origin.entry(name).or_default() += 1;
                            }
                            other => {
                                tally.failed += 1;
                                if tally.failures.len() < FAILURES_MAX {
                                    let text = match other {
                                        Ok(answer) => format!("{}: {}", answer.status, answer.text()),
                                        Err(error) => error.to_string(),
                                    };
                                    tally.failures.push(format!("{:?} {text}", start.elapsed()));
                                }
                            }
                        }
                        drop(tally);
                        done.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        Self { is_stopping, done, threads, tally }
    }

    /// What came of the requests so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("no panic while held").clone()
    }

    /// Waits until `more` further requests have ended.
    pub fn wait_for(&self, more: u64) {
        let goal = self.done.load(Ordering::SeqCst) + more;
        eventually("the load to go on", crate::PATIENCE, || {
            (self.done.load(Ordering::SeqCst) >= goal).then_some(())
        });
    }

    /// Stops and tells what came of it.
    ///
    /// # Panics
    /// When a loop panicked.
    pub fn stop(self) -> Tally {
        self.is_stopping.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a load thread does not panic");
        }
        self.tally.lock().expect("no panic while held").clone()
    }
}

/// Asks one after the other until there is an answer; who gave it is first from then on.
fn send(clients: &mut [Client], method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
    let mut last = Err(io::ErrorKind::NotConnected.into());
    for _ in 0..clients.len() {
        last = clients[0].send(method, path, &[], body);
        if last.is_ok() {
            break;
        }
        clients.rotate_left(1);
    }
    last
}
