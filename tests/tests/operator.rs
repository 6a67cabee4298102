//! What a careless operator meets: each ends in one clear sentence and an exit code that is not zero.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::net::TcpListener;

use equipoise_tests::cluster::{Standalone, balance};
use equipoise_tests::process::run;
use equipoise_tests::tls::self_signed;
use equipoise_tests::{Client, Origin, PATIENCE, Process, eventually};

const QUIET: [&str; 6] =
    ["--admin-listen", "127.0.0.1:0", "--proxy-listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"];

/// Runs the standalone binary with `arguments` after [`QUIET`] and checks that it refuses with these words.
fn refuses(arguments: &[&str], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<&str> = QUIET.iter().chain(arguments).copied().collect();
    let (code, output) = run("equipoise", dir.path(), &all, &[]);
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {output}");
    let errors: Vec<_> = output.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one sentence: {output}");
    for word in words {
        assert!(errors[0].contains(word), "{word} in {}", errors[0]);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, what) in
        [("--admin-listen", "Admin API"), ("--proxy-listen", "proxy"), ("--status-listen", "Status API")]
    {
        // The last of a repeated flag would be an error, so the others are named here.
        let dir = tempfile::tempdir().unwrap();
        let mut arguments = QUIET.to_vec();
        let at = arguments.iter().position(|argument| *argument == flag).unwrap();
        arguments[at + 1] = &address;
        let (code, output) = run("equipoise", dir.path(), &arguments, &[]);
        assert!(code.is_some_and(|code| code != 0), "{output}");
        let error = output.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(error.contains(&address) && error.contains("in use"), "{what}: {output}");
    }
}

#[test]
fn a_log_that_cannot_be_written_costs_nothing_but_itself() {
    let standalone = Standalone::start_by("exec \"$@\" 2>/dev/full").unwrap();
    let origin = Origin::start("only");
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[origin.address()]);
    assert_eq!(standalone.process().client("proxy").get("/mock").unwrap().status, 200);
    let (mut standalone, deadline) = (standalone, PATIENCE);
    let mut process = standalone.process.take().unwrap();
    process.terminate();
    assert!(process.wait(deadline).success());
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    // The reader is there, in the process itself, and never reads. At this level each call of the Admin API has some lines.
    let script = "mkfifo unread; exec 3<>unread; exec \"$@\" --log-level debug 2>unread";
    let mut standalone = Standalone::start_by(script).unwrap();
    let origin = Origin::start("only");
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[origin.address()]);
    for _ in 0..1_000 {
        assert_eq!(admin.get("/status").unwrap().status, 200);
    }
    assert_eq!(standalone.process().client("proxy").get("/mock").unwrap().status, 200);
    let mut process = standalone.process.take().unwrap();
    process.terminate();
    assert!(process.wait(PATIENCE).success());
}

#[test]
fn signals_that_do_not_stop_leave_it_running_and_sigquit_drains() {
    let mut standalone = Standalone::start().unwrap();
    let origin = Origin::start("only");
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &[origin.address()]);
    for name in ["HUP", "USR1", "USR2"] {
        standalone.process().signal(name);
    }
    let mut process = standalone.process.take().unwrap();
    let address = process.address("proxy");
    origin.hold();
    let client = std::thread::spawn(move || Client::new(address).get("/mock").unwrap().status);
    eventually("the request to be with the target", PATIENCE, || (origin.requests() > 0).then_some(()));
    process.signal("QUIT");
    eventually("the port to be closed", PATIENCE, || std::net::TcpStream::connect(address).err());
    origin.release();
    assert_eq!(client.join().unwrap(), 200);
    assert!(process.wait(PATIENCE).success());
}

#[test]
fn the_demo_keeps_its_hands_off_the_operators_config() {
    let dir = tempfile::tempdir().unwrap();
    let mut arguments = vec!["demo"];
    arguments.extend(QUIET);
    let mut demo = Process::start("equipoise", dir.path(), &arguments).unwrap();
    let mut proxy = demo.client("proxy");
    eventually("the demo to be balanced", PATIENCE, || {
        (proxy.get("/mock/headers").ok()?.status == 200).then_some(())
    });
    demo.terminate();
    assert!(demo.wait(PATIENCE).success());
    let made: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(made, ["equipoise-demo"]);
}

#[test]
fn a_data_directory_in_use_is_named() {
    let standalone = Standalone::start().unwrap();
    let directory = standalone.store_dir();
    refuses(&["--store-dir", directory.to_str().unwrap()], &["in use", directory.to_str().unwrap()]);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    refuses(&["--store-dir", "/proc/no/such"], &["/proc/no/such"]);
}

#[test]
fn an_open_cluster_port_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let arguments =
        ["--admin-listen", "127.0.0.1:0", "--cluster-listen", "0.0.0.0:0", "--cluster-mtls", "off"];
    let (code, output) = run("equipoise-control-plane", dir.path(), &arguments, &[]);
    assert!(code.is_some_and(|code| code != 0), "{output}");
    assert!(output.contains("plaintext") && output.contains("cluster.listen"), "{output}");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_one() {
    let dir = tempfile::tempdir().unwrap();
    let (code, output) = run("equipoise", dir.path(), &QUIET, &[("EQUIPOISE_PROXY_LISTN", "x")]);
    assert_eq!(code, Some(78), "{output}");
    assert!(output.contains("EQUIPOISE_PROXY_LISTEN"), "{output}");
    std::fs::write(dir.path().join("equipoise.toml"), "[proxy]\nlistn = \"x\"").unwrap();
    let (code, output) = run("equipoise", dir.path(), &QUIET, &[]);
    assert_eq!(code, Some(78), "{output}");
    assert!(output.contains("did you mean `proxy.listen`"), "{output}");
}

#[test]
fn the_check_looks_into_the_files_that_settings_name() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (self_signed(&["a.test"]), self_signed(&["a.test"]));
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.pem", one.pem());
    write("a.key", one.key_pem());
    write("b.key", other.key_pem());
    let verify = ["--tls-client-verify", "required"];
    for (arguments, named) in [
        (vec!["--tls-cert", "a.pem", "--tls-cert-key", "b.key"], Some("b.key")),
        (vec!["--tls-cert", "none.pem", "--tls-cert-key", "a.key"], Some("none.pem")),
        ([&verify[..], &["--tls-client-ca", "none.pem"]].concat(), Some("none.pem")),
        (vec!["--tls-trusted-certificates", "none.pem"], Some("none.pem")),
        (vec!["--proxy-error-template-json", "none.json"], Some("none.json")),
        (vec!["--proxy-access-log", "none/access.log"], Some("none/access.log")),
        (vec!["--status-access-log", "none/status.log"], Some("none/status.log")),
        (vec!["--proxy-access-log", "access.log"], None),
        (
            [&verify[..], &["--tls-client-ca", "a.pem", "--tls-cert", "a.pem", "--tls-cert-key", "a.key"]]
                .concat(),
            None,
        ),
    ] {
        for program in ["equipoise", "equipoise-data-plane"] {
            let (code, output) = run(program, dir.path(), &[&arguments[..], &["--check"]].concat(), &[]);
            match named {
                Some(file) => {
                    assert!(code == Some(78) && output.contains(file), "{arguments:?}: {code:?}: {output}");
                }
                None => assert_eq!(code, Some(0), "{arguments:?}: {output}"),
            }
        }
    }
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "nothing is made: {left:?}");
}

#[test]
fn health_asks_the_process_that_has_the_same_settings() {
    let mut standalone = Standalone::start().unwrap();
    let addresses = ["admin", "status"].map(|name| standalone.process().address(name).to_string());
    let dir = tempfile::tempdir().unwrap();
    let health = |environment: &[(&str, &str)]| run("equipoise", dir.path(), &["health"], environment);
    let [admin, status] = &addresses;
    let same: [(&str, &str); 2] = [("EQUIPOISE_ADMIN_LISTEN", admin), ("EQUIPOISE_STATUS_LISTEN", status)];
    // It serves at once, and is ready a moment later.
    eventually("to be ready", PATIENCE, || (health(&same) == (Some(0), String::new())).then_some(()));
    let (code, output) = health(&[("EQUIPOISE_STATUS_LISTEN", "off"), same[0]]);
    assert!(code == Some(1) && output.contains("status.listen"), "{code:?}: {output}");
    standalone.kill();
    let (code, output) = health(&same);
    assert!(code == Some(1) && output.contains(admin), "{code:?}: {output}");
}
