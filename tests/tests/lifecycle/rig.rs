//! A node that gives way to new processes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use equipoise_tests::process::binary;
use equipoise_tests::{PATIENCE, Process, eventually};

/// Any free port of loopback.
pub const ANY: &str = "127.0.0.1:0";

/// A control plane, and a node whose program can be replaced.
pub struct Rig {
    pub control: Process,
    pub node: Process,
    pub program: PathBuf,
    home: PathBuf,
    /// Processes that ran the node, the newest last.
    pids: Vec<u32>,
    _dir: tempfile::TempDir,
}

impl Rig {
    pub fn start(listen: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (home, program) = (dir.path().join("node"), dir.path().join("equipoise-data-plane"));
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::symlink(binary("equipoise-data-plane"), &program).unwrap();
        fs::write(home.join("equipoise.toml"), settings).unwrap();
        let arguments = ["--admin-listen", ANY, "--cluster-listen", ANY, "--cluster-mtls", "off"];
        let control = Process::start("equipoise-control-plane", dir.path(), &arguments).unwrap();
        let cluster = control.address("cluster").to_string();
        let arguments = [
            "--proxy-listen",
            listen,
            "--status-listen",
            ANY,
            "--cluster-mtls",
            "off",
            "--cluster-control-plane",
            &cluster,
        ];
        let node = Process::start_at(&program, &home, &arguments).unwrap();
        let mut admin = control.client("admin");
        eventually("the node to connect", PATIENCE, || {
            let nodes = admin.get("/clustering/data-planes").ok()?.json();
            nodes["data"].as_array()?.iter().any(|node| node["state"] == "connected").then_some(())
        });
        let pids = vec![node.pid()];
        Self { control, node, program, home, pids, _dir: dir }
    }

    pub fn write_settings(&self, settings: &str) {
        fs::write(self.home.join("equipoise.toml"), settings).unwrap();
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pids.last().unwrap().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits until the node's log has so many lines with these words; gives the newest.
    pub fn wait_for_log(&self, words: &str, count: usize) -> String {
        eventually(&format!("{count} lines with `{words}`"), PATIENCE, || {
            let log = self.node.log();
            let lines: Vec<_> = log.lines().filter(|line| line.contains(words)).collect();
            (lines.len() >= count).then(|| lines[lines.len() - 1].to_owned())
        })
    }

    /// Lets a new process take over, and waits until it has.
    pub fn hand_over(&mut self) {
        self.signal("USR2");
        let line = self.wait_for_log("handed over;", self.pids.len());
        let pid = line.rsplit_once("pid=").unwrap().1.trim().parse().unwrap();
        self.pids.push(pid);
        self.wait_for_log("  status ", self.pids.len());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for pid in &self.pids {
            // Most have ended.
            drop(
                Command::new("kill")
                    .args(["-KILL", &pid.to_string()])
                    .stderr(std::process::Stdio::null())
                    .status(),
            );
        }
    }
}

/// Settings of a node with so many workers.
pub fn workers(count: usize) -> String {
    format!("[proxy]\nworkers = {count}\ndrain_timeout = \"10s\"\n")
}
