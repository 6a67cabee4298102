//! How a process is asked to stop, and what it does not die of.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGXFSZ: a file grew past its limit. Taken over, the write fails instead, and its caller copes.
const FILE_TOO_LARGE: i32 = 25;

/// The signals that a process takes over. Made before the first listener, so that none is missed.
pub struct StopSignals {
    stopping: [(&'static str, Signal); 3],
    ignored: [(&'static str, Signal); 3],
    _file_too_large: Signal,
}

impl StopSignals {
    /// Takes them over: SIGTERM, SIGINT and SIGQUIT stop a process; SIGHUP (a closed terminal), SIGUSR1 and SIGUSR2
    /// (log rotation, an upgrade of the reference) do not. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> io::Result<Self> {
        let named = |name, kind| Ok::<_, io::Error>((name, signal(kind)?));
        Ok(Self {
            stopping: [
                named("SIGTERM", SignalKind::terminate())?,
                named("SIGINT", SignalKind::interrupt())?,
                named("SIGQUIT", SignalKind::quit())?,
            ],
            ignored: [
                named("SIGHUP", SignalKind::hangup())?,
                named("SIGUSR1", SignalKind::user_defined1())?,
                named("SIGUSR2", SignalKind::user_defined2())?,
            ],
            _file_too_large: signal(SignalKind::from_raw(FILE_TOO_LARGE))?,
        })
    }

    /// Waits for the next one that stops and gives its name; others are logged and have no effect.
    pub async fn next(&mut self) -> &'static str {
        let Self { stopping: [terminate, interrupt, quit], ignored: [hangup, first, second], .. } = self;
        loop {
            let ignored = tokio::select! {
                _ = terminate.1.recv() => return terminate.0,
                _ = interrupt.1.recv() => return interrupt.0,
                _ = quit.1.recv() => return quit.0,
                _ = hangup.1.recv() => hangup.0,
                _ = first.1.recv() => first.0,
                _ = second.1.recv() => second.0,
            };
            tracing::info!(signal = ignored, "has no effect");
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
