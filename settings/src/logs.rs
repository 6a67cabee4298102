//! Logs: lines for people on a terminal, JSON on request; written by a thread of their own, so that a reader who stops reading
//! holds up nobody.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::keys::{self, LEVELS};
use crate::source::Settings;

/// Lines that may wait to be written; what comes on top is dropped and counted.
const LINES_MAX: usize = 8_192;

/// Keeps the log going. Dropped at the end of the process: what waits is written then, for a second at most.
#[derive(Debug)]
#[must_use = "lines that wait when the process ends are lost without it"]
pub struct Logs {
    _writer: WorkerGuard,
}

/// Starts logging to standard error. Call once, before the first thing worth logging.
pub fn start(settings: &Settings) -> Logs {
    let name = named(settings);
    let filter = filter(name);
    let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("log");
    let (writer, guard) = writer.finish(Lossy(io::stderr()));
    DROPPED.get_or_init(|| writer.error_counter());
    let builder = fmt().with_writer(writer);
    // `try_init` only fails if a subscriber is there already, and then somebody else decides where logs go.
    if settings.text(&keys::LOG_FORMAT) == Some("json") {
        let builder = builder.json().flatten_event(true).with_current_span(false);
        let builder = builder.with_env_filter(filter).with_filter_reloading();
        let handle = builder.reload_handle();
        keep(builder.try_init().is_ok(), move |filter| handle.reload(filter).unwrap_or_default());
    } else {
        let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_target(false);
        let builder = builder.with_env_filter(filter).with_filter_reloading();
        let handle = builder.reload_handle();
        keep(builder.try_init().is_ok(), move |filter| handle.reload(filter).unwrap_or_default());
    }
    let mut told = told();
    (told.configured, told.in_force) = (name, name);
    drop(told);
    // A panic is told like everything else, with its place, and where it was met by whoever copes with it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        let why = panic.payload_as_str();
        tracing::error!(place, why, thread = thread.name(), "a defect of this program: it panicked");
    }));
    Logs { _writer: guard }
}

/// Lines that were dropped because those before them were not written yet.
pub fn dropped() -> u64 {
    DROPPED.get().map_or(0, |lines| u64::try_from(lines.dropped_lines()).unwrap_or(u64::MAX))
}

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Puts the level of these settings in force.
pub fn reload(settings: &Settings) {
    let mut told = told();
    told.configured = named(settings);
    put(&mut told, named(settings));
}

/// The level in force, by the name that it was asked for by.
pub fn level() -> &'static str {
    told().in_force
}

/// Which setting of the level it was, for who would undo that one and no later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn(u64);

/// Puts another level in force, until [`undo`] or [`reload`]; `None` when it is the name of none.
pub fn set_level(name: &str) -> Option<Turn> {
    let name = LEVELS.iter().find(|known| **known == name)?;
    let mut told = told();
    put(&mut told, name);
    Some(Turn(told.turn))
}

/// Puts the level of the settings in force again, unless the level was set once more since `turn`; whether it did.
pub fn undo(turn: Turn) -> bool {
    let mut told = told();
    let is_last = turn.0 == told.turn;
    if is_last {
        let configured = told.configured;
        put(&mut told, configured);
    }
    is_last
}

/// What was said of the level.
struct Told {
    configured: &'static str,
    in_force: &'static str,
    turn: u64,
}

fn told() -> std::sync::MutexGuard<'static, Told> {
    static TOLD: Mutex<Told> = Mutex::new(Told { configured: "notice", in_force: "notice", turn: 0 });
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(told: &mut Told, name: &'static str) {
    told.in_force = name;
    told.turn += 1;
    if let Some(set) = LEVEL.get() {
        set(filter(name));
    }
}

/// The level of these settings, which know no other names.
fn named(settings: &Settings) -> &'static str {
    let name = settings.text(&keys::LOG_LEVEL).unwrap_or_default();
    LEVELS.iter().find(|known| **known == name).copied().unwrap_or("error")
}

/// How the level is set while the process runs.
static LEVEL: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

fn keep(is_ours: bool, set: impl Fn(EnvFilter) + Send + Sync + 'static) {
    if is_ours {
        // The first one: logging starts once.
        LEVEL.get_or_init(|| Box::new(set));
    }
}

fn filter(name: &str) -> EnvFilter {
    let level = to_level(name);
    // What it says of what others send names nobody, and they decide how often: it is said here, once, by whoever knows who it was.
    let filter = EnvFilter::default().add_directive(level.into());
    match "h2=off".parse() {
        Ok(silent) => filter.add_directive(silent),
        Err(_) => filter,
    }
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
fn to_level(name: &str) -> LevelFilter {
    match name {
        "debug" => LevelFilter::DEBUG,
        "info" | "notice" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        _ => LevelFilter::ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_undone_only_by_who_set_it_last() {
        let first = set_level("debug").unwrap();
        assert_eq!(level(), "debug");
        let second = set_level("warn").unwrap();
        assert!(!undo(first));
        assert_eq!(level(), "warn");
        assert!(undo(second));
        assert_eq!(level(), "notice");
        assert_eq!(set_level("loud"), None);
    }
}
