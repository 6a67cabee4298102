//! A control plane with certificates, and as many nodes as a test wants, each a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::run;
use crate::{PATIENCE, Process, eventually};

/// Any free port of loopback.
const ANY: &str = "127.0.0.1:0";

/// Starts a binary as it is.
const PLAIN: &str = "exec \"$@\"";

/// A control plane that certifies, and where its nodes live.
pub struct Fleet {
    /// The control plane while it runs.
    pub control: Option<Process>,
    cluster: SocketAddr,
    more: Vec<String>,
    dir: TempDir,
}

impl Fleet {
    /// Starts a control plane with an empty store.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(more: &[&str]) -> Result<Self> {
        Self::start_at(ANY.parse()?, more)
    }

    /// The same, with its cluster port at this address.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_at(cluster: SocketAddr, more: &[&str]) -> Result<Self> {
        let more = more.iter().map(|&word| word.to_owned()).collect();
        let mut fleet = Self { control: None, cluster, more, dir: tempfile::tempdir()? };
        fleet.start_control()?;
        Ok(fleet)
    }

    /// Starts the control plane, again on the same cluster port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_control(&mut self) -> Result<()> {
        self.start_control_by(PLAIN)
    }

    /// The same by a shell; see [`Process::start_by`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_control_by(&mut self, script: &str) -> Result<()> {
        let cluster = self.cluster.to_string();
        let mut arguments = vec!["--admin-listen", ANY, "--cluster-listen", &cluster];
        arguments.extend(self.more.iter().map(String::as_str));
        let home = self.home("control");
        let control = Process::start_by(script, "equipoise-control-plane", &home, &arguments)?;
        self.cluster = control.address("cluster");
        self.control = Some(control);
        Ok(())
    }

    /// The running control plane.
    ///
    /// # Panics
    /// When it was killed.
    pub fn control(&self) -> &Process {
        self.control.as_ref().expect("the control plane runs")
    }

    /// Where nodes connect.
    pub const fn cluster(&self) -> SocketAddr {
        self.cluster
    }

    /// Runs a subcommand against the control plane; its exit code and all it printed.
    pub fn command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let admin = self.control().address("admin").to_string();
        run("equipoise-control-plane", self.dir.path(), &[arguments, &["--admin", &admin]].concat(), &[])
    }

    /// A new join token.
    ///
    /// # Panics
    /// When the control plane gives none out.
    pub fn token(&self, arguments: &[&str]) -> String {
        let (code, text) = self.command(&[&["token", "create"], arguments].concat());
        assert_eq!(code, Some(0), "{text}");
        text.trim().to_owned()
    }

    /// Starts the node of this name, again with what it left behind; `more` goes to its command line.
    ///
    /// # Errors
    /// When it does not start.
    pub fn node(&self, name: &str, more: &[&str]) -> Result<Process> {
        self.node_by(PLAIN, name, more)
    }

    /// The same by a shell; see [`Process::start_by`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn node_by(&self, script: &str, name: &str, more: &[&str]) -> Result<Process> {
        let cluster = self.cluster.to_string();
        let usual = [
            ("--proxy-listen", ANY),
            ("--status-listen", ANY),
            ("--proxy-workers", "1"),
            ("--cluster-control-plane", &cluster),
        ];
        Process::start_by(script, "equipoise-data-plane", &self.home(name), &complete(&usual, more))
    }

    /// Starts the relay of this name, again with what it left behind.
    ///
    /// # Errors
    /// When it does not start.
    pub fn relay(&self, name: &str, listen: &str, upstream: &[SocketAddr], more: &[&str]) -> Result<Process> {
        self.relay_by(PLAIN, name, listen, upstream, more)
    }

    /// The same by a shell; see [`Process::start_by`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn relay_by(
        &self,
        script: &str,
        name: &str,
        listen: &str,
        upstream: &[SocketAddr],
        more: &[&str],
    ) -> Result<Process> {
        let upstream = list(upstream);
        let usual = [
            ("--role", "relay"),
            ("--upstream", &upstream),
            ("--admin-listen", ANY),
            ("--cluster-listen", listen),
        ];
        Process::start_by(script, "equipoise-control-plane", &self.home(name), &complete(&usual, more))
    }

    /// A relay that joins with a new token, and where it serves.
    ///
    /// # Errors
    /// When it does not start.
    pub fn new_relay(&self, name: &str, upstream: SocketAddr) -> Result<(Process, SocketAddr)> {
        let token = self.token(&["--role", "relay"]);
        let process = self.relay(name, ANY, &[upstream], &["--cluster-join-token", &token])?;
        let cluster = process.address("cluster");
        Ok((process, cluster))
    }

    /// A node that joins with a new token at the first of `to`, of which it then has the whole list.
    ///
    /// # Errors
    /// When it does not start.
    pub fn new_node(&self, name: &str, to: &[SocketAddr], more: &[&str]) -> Result<Process> {
        let (token, to) = (self.token(&[]), list(to));
        let joins = ["--cluster-join-token", &token, "--cluster-control-plane", &to];
        self.node(name, &[&joins, more].concat())
    }

    /// Waits until the control plane lists this many nodes as connected, and gives them.
    pub fn connected(&self, count: usize) -> Vec<Value> {
        let mut admin = self.control().client("admin");
        eventually("the nodes to be connected", PATIENCE, || {
            let nodes = admin.get("/clustering/data-planes").ok()?.json();
            let nodes = nodes["data"].as_array()?.iter().filter(|node| node["state"] == "connected");
            let nodes: Vec<_> = nodes.cloned().collect();
            (nodes.len() == count).then_some(nodes)
        })
    }

    /// The directory of a process of this name.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn home(&self, name: &str) -> PathBuf {
        let home = self.dir.path().join(name);
        std::fs::create_dir_all(&home).expect("a temporary directory can be written");
        home
    }
}

/// Flags that are given, and those of the usual ones that are not among them.
fn complete<'a>(usual: &[(&'a str, &'a str)], more: &[&'a str]) -> Vec<&'a str> {
    let usual = usual.iter().filter(|(flag, _)| !more.contains(flag));
    usual.flat_map(|(flag, value)| [*flag, *value]).chain(more.iter().copied()).collect()
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Waits until a process has said something.
pub fn says(process: &Process, what: &str) {
    eventually(&format!("the log to say `{what}`"), PATIENCE, || process.log().contains(what).then_some(()));
}
