//! Clients that others wrote, against a real control plane: aio-kong, python-kongclient, and schemathesis, which asks for everything
//! that `/openapi.json` describes.
//!
//! They come from `.ci/run` (`deploy/check/requirements-clients.txt` in `target/deploy-tools`). Where they are missing the suite is
//! skipped and says so; with `CI=true` in the environment that is a failure.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use equipoise_tests::tools::{first, own_tools};
use equipoise_tests::{Process, eventually};
use tempfile::TempDir;

struct ControlPlane {
    process: Process,
    dir: TempDir,
}

impl ControlPlane {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0";
        let arguments = ["--admin-listen", any, "--cluster-listen", any, "--cluster-mtls", "off"];
        let process = Process::start("equipoise-control-plane", dir.path(), &arguments).unwrap();
        Self { process, dir }
    }

    fn url(&self) -> String {
        format!("http://{}", self.process.address("admin"))
    }

    /// A pair that clients can store.
    fn pair(&self) -> [PathBuf; 2] {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let paths = ["cert.pem", "key.pem"].map(|name| self.dir.path().join(name));
        fs::write(&paths[0], made.cert.pem()).unwrap();
        fs::write(&paths[1], made.signing_key.serialize_pem()).unwrap();
        paths
    }
}

fn run(command: &mut Command) -> String {
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{said}");
    said.into_owned()
}

/// Runs a script of this directory, if the package that it is about is there.
fn script(package: &str, script: &str) {
    let packages = own_tools().join("../lib");
    let found = fs::read_dir(&packages).into_iter().flatten().flatten();
    let found = found.map(|version| version.path().join("site-packages"));
    let (Some(_), Some(python)) = (first(package, found), first("python", [own_tools()])) else { return };
    let control = ControlPlane::start();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    run(Command::new(python).arg(path).arg(control.url()).args(control.pair()));
}

#[test]
fn aio_kong_finds_what_it_finds_with_kong() {
    script("kong", "aio_kong.py");
}

#[test]
fn python_kongclient_finds_what_it_finds_with_kong() {
    script("kongclient", "python_kongclient.py");
}

/// What the description admits, and what it does not, is never an error of the server, and is answered as described.
#[test]
fn whatever_the_description_leads_to_is_answered_as_described() {
    let Some(schemathesis) = first("schemathesis", [own_tools()]) else { return };
    let control = ControlPlane::start();
    let description = format!("{}/openapi.json", control.url());
    let checks =
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let arguments = ["run", &description, "--checks", checks, "--phases", "coverage,fuzzing"];
    let mut command = Command::new(schemathesis);
    command.args(arguments);
    // Says 501, always.
    command.args(["--exclude-path", "/status/dns"]);
    // Bounded in time, and the same in every run.
    command.args(["--max-examples", "3", "--max-time", "75", "--generation-deterministic", "--no-shrink"]);
    command.args(["--warnings", "off", "--no-color", "--request-timeout", "20"]);
    run(command.current_dir(control.dir.path()));
    // It lived through it, and nothing panicked on the way.
    let mut admin = control.process.client("admin");
    eventually("an answer", equipoise_tests::PATIENCE, || {
        (admin.get("/status").ok()?.status == 200).then_some(())
    });
    assert!(!control.process.log().contains("a defect of this program"), "{}", control.process.log());
}
