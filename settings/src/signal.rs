//! How a process is asked to stop, to read its settings again or to give way, and what it does not die of.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGXFSZ: a file grew past its limit. Taken over, the write fails instead, and its caller copes.
const FILE_TOO_LARGE: i32 = 25;

/// What a process is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To end, once what is under way is done; by this signal.
    Stop(&'static str),
    /// To read its settings again (SIGHUP).
    Reload,
    /// To start its program anew and to let that take over (SIGUSR2, as of nginx).
    TakeOver,
    /// To open the files of its access logs anew, which were moved (SIGUSR1, as of nginx).
    ReopenLogs,
}

/// The signals that a process takes over. Made before the first listener, so that none is missed.
pub struct StopSignals {
    stopping: [(&'static str, Signal); 3],
    reload: Signal,
    take_over: Signal,
    reopen_logs: Signal,
    _file_too_large: Signal,
}

impl StopSignals {
    /// Takes them over: SIGTERM, SIGINT and SIGQUIT stop a process; SIGHUP, SIGUSR2 and SIGUSR1 do not.
    /// Must be called within a tokio runtime.
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
            reload: signal(SignalKind::hangup())?,
            take_over: signal(SignalKind::user_defined2())?,
            reopen_logs: signal(SignalKind::user_defined1())?,
            _file_too_large: signal(SignalKind::from_raw(FILE_TOO_LARGE))?,
        })
    }

    /// Waits for the next one and says what it asks for.
    pub async fn asked(&mut self) -> Asked {
        let Self { stopping: [terminate, interrupt, quit], reload, take_over, reopen_logs, .. } = self;
        tokio::select! {
            _ = terminate.1.recv() => Asked::Stop(terminate.0),
            _ = interrupt.1.recv() => Asked::Stop(interrupt.0),
            _ = quit.1.recv() => Asked::Stop(quit.0),
            _ = reload.recv() => Asked::Reload,
            _ = take_over.recv() => Asked::TakeOver,
            _ = reopen_logs.recv() => Asked::ReopenLogs,
        }
    }

    /// Waits for the next one that stops and gives its name; others are logged and have no effect.
    pub async fn next(&mut self) -> &'static str {
        loop {
            match self.asked().await {
                Asked::Stop(signal) => return signal,
                Asked::Reload => tracing::info!(signal = "SIGHUP", "has no effect"),
                Asked::TakeOver => tracing::info!(signal = "SIGUSR2", "has no effect"),
                Asked::ReopenLogs => tracing::info!(signal = "SIGUSR1", "has no effect"),
            }
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
