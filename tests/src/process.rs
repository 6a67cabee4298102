//! Starts a binary, reads where it listens, kills or stops it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Client, PATIENCE, eventually};

/// A running binary; killed when dropped.
pub struct Process {
    child: Child,
    listens: BTreeMap<String, SocketAddr>,
    log: Arc<Mutex<String>>,
}

/// Path of a binary of this workspace, next to the running test.
pub fn binary(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("a test has a path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join(name)
}

/// Where `cargo build --release` puts the binaries, seen from a benchmark: two above it.
///
/// # Errors
/// When they are not built.
pub fn release_dir() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let dir = own.parent().and_then(Path::parent).context("a benchmark is in target/release/deps")?;
    if !dir.join("equipoise-data-plane").exists() {
        bail!("build the binaries first: cargo build --release --workspace");
    }
    Ok(dir.to_owned())
}

fn command(program: &Path, dir: &Path, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Process {
    /// Starts a binary of this workspace and waits until it has said where everything listens.
    ///
    /// # Errors
    /// When it cannot be started or ends before that; its output is in the error.
    pub fn start(name: &str, dir: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<Self> {
        Self::start_at(&binary(name), dir, arguments)
    }

    /// Starts a binary of this workspace by a shell: `script` ends with `exec "$@"`, which starts the binary in its place.
    ///
    /// # Errors
    /// When it cannot be started or ends before that; its output is in the error.
    pub fn start_by(script: &str, name: &str, dir: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<Self> {
        let program = binary(name);
        let shell = [OsStr::new("-c"), OsStr::new(script), OsStr::new("sh"), program.as_os_str()];
        let arguments: Vec<_> = shell.into_iter().chain(arguments.iter().map(AsRef::as_ref)).collect();
        Self::start_at(Path::new("/bin/sh"), dir, &arguments)
    }

    /// Starts a program at any path.
    ///
    /// # Errors
    /// When it cannot be started or ends before that; its output is in the error.
    pub fn start_at(program: &Path, dir: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<Self> {
        let name = program.display();
        let mut child = command(program, dir, arguments)
            .spawn()
            .with_context(|| format!("{name} is not built: run `cargo test --workspace`"))?;
        let log = Arc::new(Mutex::new(String::new()));
        let said = Arc::new(Mutex::new(Vec::<String>::new()));
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        follow(stdout, {
            let (said, log) = (Arc::clone(&said), Arc::clone(&log));
            move |line| {
                append(&log, &line);
                said.lock().expect("no panic while held").push(line);
            }
        });
        follow(stderr, {
            let log = Arc::clone(&log);
            move |line| append(&log, &line)
        });
        let mut process = Self { child, listens: BTreeMap::new(), log };
        let ready = eventually("the process to say where it listens", PATIENCE, || {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Some(Err(status));
            }
            let said = said.lock().expect("no panic while held");
            said.iter()
                .any(|line| line == READY)
                .then(|| Ok(said.iter().filter_map(|line| listen(line)).collect()))
        });
        match ready {
            Ok(listens) => process.listens = listens,
            Err(status) => bail!("{name} ended with {status}:\n{}", process.log()),
        }
        Ok(process)
    }

    /// Where one of its listeners is, by the name the process prints.
    pub fn address(&self, listener: &str) -> SocketAddr {
        *self
            .listens
            .get(listener)
            .unwrap_or_else(|| panic!("no listener `{listener}` in {:?}", self.listens))
    }

    /// A client of one of its listeners.
    pub fn client(&self, listener: &str) -> Client {
        Client::new(self.address(listener))
    }

    /// Of a node's metrics, the one whose line begins so.
    ///
    /// # Panics
    /// When there is none, or the node does not answer.
    pub fn metric(&self, begin: &str) -> u64 {
        let text = self.client("status").get("/metrics").expect("the Status API answers").text();
        let line = text.lines().find(|line| line.starts_with(begin));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.unwrap_or_else(|| panic!("no metric `{begin}` in:\n{text}"))
    }

    /// All it has printed.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic while held").clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        self.terminate();
        self.wait(PATIENCE)
    }

    /// Asks it to stop (SIGTERM).
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal, named without `SIG`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "SIG{name} must reach the process");
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        eventually("the process to end", deadline, || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("---- output of process {} ----\n{}", self.pid(), self.log());
        }
    }
}

/// What a binary prints when it serves.
const READY: &str = "ready";

/// Reads `  admin API   http://127.0.0.1:8001`.
fn listen(line: &str) -> Option<(String, SocketAddr)> {
    let (name, address) = line.strip_prefix("  ")?.rsplit_once(' ')?;
    let address = address.rsplit_once("://").map_or(address, |(_, address)| address).parse().ok()?;
    Some((name.trim().to_owned(), address))
}

fn append(log: &Mutex<String>, line: &str) {
    let mut log = log.lock().expect("no panic while held");
    log.push_str(line);
    log.push('\n');
}

/// Calls `each` with every line until the end; the thread ends with the process that writes them.
fn follow(from: impl std::io::Read + Send + 'static, each: impl Fn(String) + Send + 'static) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            match line {
                Ok(line) => each(line),
                Err(_) => break,
            }
        }
    });
}

/// Runs a binary that is expected to end by itself; gives its exit code and all it printed.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub fn run(
    name: &str,
    dir: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Option<i32>, String) {
    let child = command(&binary(name), dir, arguments).envs(environment.iter().copied()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{name} must start: {error}"));
    let status = {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if start.elapsed() > PATIENCE {
                drop(child.kill());
                panic!("{name} {arguments:?} did not end by itself");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let output = child.wait_with_output().expect("its output can be read");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (status.code(), text.into_owned())
}

/// Runs a binary at any path, which is expected to end well by itself; gives what it printed on standard output.
///
/// # Errors
/// When it cannot be started or ends otherwise.
pub fn run_at(program: &Path, dir: &Path, arguments: &[&str]) -> Result<String> {
    let output = command(program, dir, arguments).output()?;
    if !output.status.success() {
        bail!("{} {arguments:?}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
