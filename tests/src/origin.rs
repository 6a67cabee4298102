//! A target that says its name, can be stopped and started again on its port, can hold its answers back, and fail.

use std::io::{BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::message::Head;

/// Paths that an origin remembers.
const PATHS_MAX: usize = 1000;

/// Answers every request with JSON: its `name`, and the `method`, `path`, `headers` and `body_bytes` it got.
pub struct Origin {
    name: String,
    address: SocketAddr,
    seen: Arc<Seen>,
    gate: Arc<Gate>,
    manner: Arc<Mutex<Manner>>,
    running: Option<Running>,
}

/// What arrived.
#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    connections: AtomicU64,
    paths: Mutex<Vec<String>>,
}

/// How an origin answers.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Status of the answers.
    pub status: u16,
    /// Passes before each.
    pub delay: Duration,
    /// More header lines, each with its line end.
    pub headers: &'static str,
}

impl Default for Manner {
    fn default() -> Self {
        Self { status: 200, delay: Duration::ZERO, headers: "" }
    }
}

/// Answers wait here while it is closed.
#[derive(Default)]
struct Gate {
    held: Mutex<Held>,
    changed: Condvar,
}

/// What is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Held {
    #[default]
    Nothing,
    /// All of every answer.
    Answers,
    /// The second half of every body.
    Bodies,
}

impl Gate {
    fn set(&self, held: Held) {
        *self.held.lock().expect("no panic while held") = held;
        self.changed.notify_all();
    }

    /// Waits while `what` is held back.
    fn pass(&self, what: Held) {
        let held = self.held.lock().expect("no panic while held");
        drop(self.changed.wait_while(held, |held| *held == what).expect("no panic while held"));
    }
}

struct Running {
    is_stopping: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    accepting: JoinHandle<()>,
}

impl Origin {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn start(name: &str) -> Self {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Starts one at this address; port 0 is any that is free.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (seen, gate, manner) = (Arc::default(), Arc::default(), Arc::default());
        let mut origin = Self { name: name.to_owned(), address, seen, gate, manner, running: None };
        origin.serve(listener);
        origin
    }

    /// Where it listens, also while it is stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that have arrived so far.
    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// Connections that were accepted so far.
    pub fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Paths of the first requests, in the order in which they arrived.
    pub fn paths(&self) -> Vec<String> {
        self.seen.paths.lock().expect("no panic while held").clone()
    }

    /// Changes how it answers from now on.
    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().expect("no panic while held") = manner;
    }

    /// Changes the status of its answers, and nothing else of what is usual.
    pub fn answer_with(&self, status: u16) {
        self.behave(Manner { status, ..Manner::default() });
    }

    /// Holds answers back until [`Self::release`].
    pub fn hold(&self) {
        self.gate.set(Held::Answers);
    }

    /// Holds the second half of every body back until [`Self::release`].
    pub fn hold_bodies(&self) {
        self.gate.set(Held::Bodies);
    }

    /// Lets all answers go.
    pub fn release(&self) {
        self.gate.set(Held::Nothing);
    }

    /// Dies: closes its port and all connections at once.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.is_stopping.store(true, Ordering::SeqCst);
            // Wakes the accept loop; when it has ended already there is nothing to wake.
            drop(TcpStream::connect(self.address));
            running.accepting.join().expect("the accept loop does not panic");
            for connection in running.connections.lock().expect("no panic while held").drain(..) {
                drop(connection.shutdown(Shutdown::Both));
            }
        }
    }

    /// Comes back on the same port.
    ///
    /// # Panics
    /// When the port was taken in between.
    pub fn restart(&mut self) {
        self.stop();
        let listener = TcpListener::bind(self.address).expect("nobody else takes this port");
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let accepting = std::thread::spawn({
            let (is_stopping, connections) = (Arc::clone(&is_stopping), Arc::clone(&connections));
            let (name, seen) = (self.name.clone(), Arc::clone(&self.seen));
            let (gate, manner) = (Arc::clone(&self.gate), Arc::clone(&self.manner));
            move || {
                for stream in listener.incoming() {
                    if is_stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    if let Ok(handle) = stream.try_clone() {
                        connections.lock().expect("no panic while held").push(handle);
                    }
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    let (name, seen) = (name.clone(), Arc::clone(&seen));
                    let (gate, manner) = (Arc::clone(&gate), Arc::clone(&manner));
                    // The thread ends when either side closes the connection.
                    std::thread::spawn(move || answer(stream, &name, &seen, &gate, &manner));
                }
            }
        });
        self.running = Some(Running { is_stopping, connections, accepting });
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.release();
        self.stop();
    }
}

fn answer(stream: TcpStream, name: &str, seen: &Seen, gate: &Gate, manner: &Mutex<Manner>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let request = Head::read(&mut reader).ok()?;
        let body_bytes = request.skip_body(&mut reader).ok()?;
        {
            let mut paths = seen.paths.lock().expect("no panic while held");
            if paths.len() < PATHS_MAX {
                paths.push(request.path.clone());
            }
            seen.requests.fetch_add(1, Ordering::SeqCst);
        }
        gate.pass(Held::Answers);
        let Manner { status, delay, headers: more } = manner.lock().expect("no panic while held").clone();
        std::thread::sleep(delay);
        let body = json!({
            "name": name,
            "method": request.method,
            "path": request.path,
            "headers": request.headers,
            "body_bytes": body_bytes,
        })
        .to_string();
        let head = format!(
            "HTTP/1.1 {status} As Told\r\nContent-Type: application/json\r\n{more}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let (first, second) = body.split_at(body.len() / 2);
        if *gate.held.lock().expect("no panic while held") == Held::Bodies {
            reader.get_mut().write_all((head + first).as_bytes()).ok()?;
            gate.pass(Held::Bodies);
            reader.get_mut().write_all(second.as_bytes()).ok()?;
        } else {
            reader.get_mut().write_all((head + &body).as_bytes()).ok()?;
        }
    }
}
