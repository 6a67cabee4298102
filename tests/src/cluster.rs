//! The planes as an operator starts them: both in one process, or apart.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use crate::{Client, PATIENCE, Process, eventually};

/// Any free port of loopback.
const ANY: &str = "127.0.0.1:0";

/// Both planes in one process.
pub struct Standalone {
    /// The process; `None` between [`Standalone::kill`] and [`Standalone::start_again`].
    pub process: Option<Process>,
    more: Vec<String>,
    dir: TempDir,
}

/// Every listener on a free port.
const ARGUMENTS: [&str; 8] =
    ["--admin-listen", ANY, "--proxy-listen", ANY, "--status-listen", ANY, "--proxy-workers", "2"];

impl Standalone {
    /// Starts one with an empty store.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with an empty store and more arguments, which take the place of the usual ones.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with(more: &[&str]) -> Result<Self> {
        let more = more.iter().map(|&word| word.to_owned()).collect();
        let mut standalone = Self { process: None, more, dir: tempfile::tempdir()? };
        standalone.start_again()?;
        Ok(standalone)
    }

    /// Starts one by a shell, with an empty store; `script` ends with `exec "$@"`, which starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_by(script: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let process = Process::start_by(script, "equipoise", dir.path(), &ARGUMENTS)?;
        wait_for_node(&process);
        Ok(Self { process: Some(process), more: Vec::new(), dir })
    }

    /// Starts it on the store it left behind.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_again(&mut self) -> Result<()> {
        let said =
            |pair: &&[&str]| pair.first().is_some_and(|flag| self.more.iter().any(|word| word == flag));
        let usual = ARGUMENTS.chunks(2).filter(|pair| !said(pair)).flatten().copied();
        let arguments: Vec<_> = usual.chain(self.more.iter().map(String::as_str)).collect();
        let process = Process::start("equipoise", self.dir.path(), &arguments)?;
        // Before that, no write waits for it.
        wait_for_node(&process);
        self.process = Some(process);
        Ok(())
    }

    /// Where it keeps its config.
    pub fn store_dir(&self) -> PathBuf {
        self.home().join("equipoise-data")
    }

    /// Where it was started: relative paths of its settings begin there.
    pub fn home(&self) -> &Path {
        self.dir.path()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// The running process.
    ///
    /// # Panics
    /// When it was killed and not started again.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }
}

/// A control plane and one node, each a process of its own.
pub struct Apart {
    /// The control plane while it runs.
    pub control: Option<Process>,
    /// The node while it runs.
    pub node: Option<Process>,
    cluster: SocketAddr,
    dir: TempDir,
}

impl Apart {
    /// Starts both with an empty store and waits until the node is connected.
    ///
    /// # Errors
    /// When one does not start.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut apart = Self { control: None, node: None, cluster: ANY.parse()?, dir };
        apart.start_control()?;
        apart.start_node()?;
        apart.wait_for_node();
        Ok(apart)
    }

    /// Starts the control plane, again on the same cluster port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_control(&mut self) -> Result<()> {
        let cluster = self.cluster.to_string();
        let arguments = ["--admin-listen", ANY, "--cluster-listen", &cluster, "--cluster-mtls", "off"];
        let control = Process::start("equipoise-control-plane", &self.home("control"), &arguments)?;
        self.cluster = control.address("cluster");
        self.control = Some(control);
        Ok(())
    }

    /// Starts the node, again with the cache it left behind.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_node(&mut self) -> Result<()> {
        let cluster = self.cluster.to_string();
        let arguments = [
            "--proxy-listen",
            ANY,
            "--status-listen",
            ANY,
            "--proxy-workers",
            "2",
            "--cluster-mtls",
            "off",
            "--cluster-control-plane",
            &cluster,
        ];
        self.node = Some(Process::start("equipoise-data-plane", &self.home("node"), &arguments)?);
        Ok(())
    }

    /// Waits until the control plane lists a connected node.
    pub fn wait_for_node(&self) {
        wait_for_node(self.control());
    }

    /// The running control plane.
    ///
    /// # Panics
    /// When it was killed.
    pub fn control(&self) -> &Process {
        self.control.as_ref().expect("the control plane runs")
    }

    /// The running node.
    ///
    /// # Panics
    /// When it was killed.
    pub fn node(&self) -> &Process {
        self.node.as_ref().expect("the node runs")
    }

    fn home(&self, name: &str) -> PathBuf {
        let home = self.dir.path().join(name);
        std::fs::create_dir_all(&home).expect("a temporary directory can be written");
        home
    }
}

fn wait_for_node(control: &Process) {
    let mut admin = control.client("admin");
    eventually("the node to connect", PATIENCE, || {
        let nodes = admin.get("/clustering/data-planes").ok()?.json();
        nodes["data"].as_array()?.iter().any(|node| node["state"] == "connected").then_some(())
    });
}

/// Sends a write with `?wait=applied` and checks its status.
///
/// # Panics
/// When it fails.
pub fn write(admin: &mut Client, method: &str, path: &str, form: &str, want: u16) -> crate::Response {
    let separator = if path.contains('?') { '&' } else { '?' };
    let answer =
        admin.form(method, &format!("{path}{separator}wait=applied"), form).expect("the Admin API answers");
    assert_eq!(answer.status, want, "{method} {path} {form}: {}", answer.text());
    answer
}

/// A service `s`, its route `/mock`, and an upstream `u` with these targets.
///
/// # Panics
/// When a write fails.
pub fn balance(admin: &mut Client, upstream_form: &str, targets: &[SocketAddr]) {
    write(admin, "POST", "/upstreams", &format!("name=u{upstream_form}"), 201);
    for target in targets {
        write(admin, "POST", "/upstreams/u/targets", &format!("target={target}"), 201);
    }
    write(admin, "POST", "/services", "name=s&host=u", 201);
    write(admin, "POST", "/services/s/routes", "name=r&paths[]=/mock", 201);
}
