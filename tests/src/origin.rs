//! A target that says its name, can be stopped and started again on its port, and can hold its answers back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use serde_json::json;

/// Answers every request with JSON: its `name`, and the `method`, `path`, `headers` and `body_bytes` it got.
pub struct Origin {
    name: String,
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    gate: Arc<Gate>,
    running: Option<Running>,
}

/// Answers wait here while it is closed.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, is_closed: bool) {
        *self.is_closed.lock().expect("no panic while held") = is_closed;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let is_closed = self.is_closed.lock().expect("no panic while held");
        drop(self.changed.wait_while(is_closed, |is_closed| *is_closed).expect("no panic while held"));
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
        let (requests, gate) = (Arc::default(), Arc::default());
        let mut origin = Self { name: name.to_owned(), address, requests, gate, running: None };
        origin.serve(listener);
        origin
    }

    /// Where it listens, also while it is stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that have arrived so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Holds answers back until [`Self::release`].
    pub fn hold(&self) {
        self.gate.set(true);
    }

    /// Lets all answers go.
    pub fn release(&self) {
        self.gate.set(false);
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
            let (name, requests) = (self.name.clone(), Arc::clone(&self.requests));
            let gate = Arc::clone(&self.gate);
            move || {
                for stream in listener.incoming() {
                    if is_stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(stream) = stream else { continue };
                    if let Ok(handle) = stream.try_clone() {
                        connections.lock().expect("no panic while held").push(handle);
                    }
                    let (name, requests, gate) = (name.clone(), Arc::clone(&requests), Arc::clone(&gate));
                    // The thread ends when either side closes the connection.
                    std::thread::spawn(move || answer(stream, &name, &requests, &gate));
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

fn answer(stream: TcpStream, name: &str, requests: &AtomicU64, gate: &Gate) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        let mut slots = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut slots);
        request.parse(&head).ok()?;
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value)))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: u64 = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        let body_bytes = std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).ok()?;
        requests.fetch_add(1, Ordering::SeqCst);
        gate.pass();
        let body = json!({
            "name": name,
            "method": request.method,
            "path": request.path,
            "headers": headers.iter().map(|(n, v)| (n.clone(), v.to_string())).collect::<Vec<_>>(),
            "body_bytes": body_bytes,
        })
        .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        reader.get_mut().write_all((head + &body).as_bytes()).ok()?;
    }
}
