//! How a process is asked to stop.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT. Made before the first listener, so that neither is missed.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Takes over both signals. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Runs `stop` to its end, or gives up on it at the next signal: whoever asks twice does not want to wait.
    pub async fn stop(&mut self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            signal = self.next() => tracing::warn!(signal, "asked again: not waiting for what is under way"),
        }
    }
}
