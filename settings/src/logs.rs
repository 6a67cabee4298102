//! Logs: lines for people on a terminal, JSON on request.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::keys;
use crate::source::Settings;

/// Starts logging to standard error. Call once, before the first thing worth logging.
pub fn start(settings: &Settings) {
    let level = level(settings.text(&keys::LOG_LEVEL).unwrap_or_default());
    let builder = fmt().with_writer(|| Lossy(io::stderr())).with_max_level(level);
    let result = match settings.text(&keys::LOG_FORMAT) {
        Some("json") => builder.json().flatten_event(true).with_current_span(false).try_init(),
        _ => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
    };
    // Only fails if a subscriber is there already, and then somebody else decides where logs go.
    drop(result);
}

/// Drops what cannot be written: a full disk or a dead pipe behind the log must not end a process, nor any of its
/// tasks, and there is nowhere to say so.
struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes).unwrap_or_default();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().unwrap_or_default();
        Ok(())
    }
}

/// The reference's levels; it has more of them than `tracing`.
fn level(name: &str) -> LevelFilter {
    match name {
        "debug" => LevelFilter::DEBUG,
        "info" | "notice" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        _ => LevelFilter::ERROR,
    }
}
