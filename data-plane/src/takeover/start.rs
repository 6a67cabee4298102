//! Starts the successor of this process: the same program, from the same path, with the same settings.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info};

/// The flag that makes a process take the place of the running one.
pub const FLAG: &str = "take-over";

/// The process id of the first one in a machine or a container.
const FIRST: u32 = 1;

/// Pause between two looks at a successor that starts.
const LOOK: Duration = Duration::from_millis(100);

/// A successor that was started. It is looked after until it has taken over, or has ended.
#[derive(Debug, Clone)]
pub struct Started {
    child: Arc<Mutex<Child>>,
    has_taken_over: Arc<AtomicBool>,
    is_under_way: Arc<AtomicBool>,
}

impl Started {
    /// It has taken over: it is nobody's to end any more.
    pub fn has_taken_over(&self) {
        self.has_taken_over.store(true, Ordering::Release);
    }

    /// Ends it, since this process is told to stop: by itself it would find nobody to take over from, and serve.
    pub fn end(&self) {
        if self.is_under_way() && !self.has_taken_over.load(Ordering::Acquire) {
            info!("the successor has not taken over, and is ended as well");
            end(&mut self.child.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Whether it may still take over.
    pub fn is_under_way(&self) -> bool {
        self.is_under_way.load(Ordering::Acquire)
    }
}

/// Starts it. One that has not taken over within `patience` is ended.
///
/// # Errors
/// When there is no such program, or it cannot be started.
pub fn start(patience: Duration) -> io::Result<Started> {
    if std::process::id() == FIRST {
        return Err(io::Error::other(
            "with the first process of a container all others end: replace the container",
        ));
    }
    let mut arguments = std::env::args_os();
    // As it was named: the program that runs may have another file's place by now.
    let program = arguments.next().ok_or(io::ErrorKind::NotFound)?;
    let flag = format!("--{FLAG}");
    let mut command = Command::new(program);
    command.args(arguments.filter(|argument| *argument != *flag)).arg(flag).stdin(Stdio::null());
    let child = command.spawn()?;
    info!(pid = child.id(), "a successor was started");
    let started = Started {
        child: Arc::new(Mutex::new(child)),
        has_taken_over: Arc::default(),
        is_under_way: Arc::new(AtomicBool::new(true)),
    };
    let thread = std::thread::Builder::new().name("successor".to_owned());
    thread.spawn({
        let started = started.clone();
        move || {
            look_after(&started, Instant::now() + patience);
            started.is_under_way.store(false, Ordering::Release);
        }
    })?;
    Ok(started)
}

fn look_after(started: &Started, deadline: Instant) {
    loop {
        let mut child = started.child.lock().unwrap_or_else(PoisonError::into_inner);
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return error!(%status, "the successor ended before it took over"),
            Err(error) => return error!(%error, "the successor cannot be looked after"),
        }
        if started.has_taken_over.load(Ordering::Acquire) {
            return;
        }
        if Instant::now() >= deadline {
            error!("the successor did not take over in time, and is ended");
            return end(&mut child);
        }
        drop(child);
        std::thread::sleep(LOOK);
    }
}

fn end(child: &mut Child) {
    // An error: it has ended by itself.
    drop(child.kill());
    drop(child.wait());
}
