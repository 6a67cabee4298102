//! What processes keep is encrypted, over the real binaries: nothing of it is on a disk or in a log in clear, without its key
//! nothing starts, and with it nothing is lost.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use equipoise_tests::cluster::{Standalone, balance, write};
use equipoise_tests::fleet::Fleet;
use equipoise_tests::process::run;
use equipoise_tests::tls::self_signed;
use equipoise_tests::{Client, Origin, PATIENCE, Process, eventually};
use serde_json::json;

/// The key of a consumer, the secret of sticky sessions and a password: only in the config.
const MARKS: [&str; 3] = [
    "kq7MarkedConsumerKey42",
    "5ec4e7a15ec4e7a15ec4e7a15ec4e7a15ec4e7a15ec4e7a15ec4e7a15ec4e7a1",
    "pwMarked77Clear",
];

/// What begins a private key in PEM, those of the processes themselves too.
const PEM: &[u8] = b"PRIVATE KEY";

/// What must be nowhere: the marks, and parts of private keys.
struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// In `bytes`, as they are or packed by zstd.
    fn are_in(&self, bytes: &[u8]) -> bool {
        let all = || self.0.iter().map(Vec::as_slice).chain([PEM]);
        let has =
            |bytes: &[u8]| all().any(|secret| bytes.windows(secret.len()).any(|window| window == secret));
        let starts = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
        has(bytes)
            || starts.into_iter().any(|at| {
                let mut out = Vec::new();
                // What is there before an error counts as well.
                drop(zstd::Decoder::new(&bytes[at..]).map(|mut packed| std::io::copy(&mut packed, &mut out)));
                has(&out)
            })
    }

    fn are_nowhere_below(&self, directory: &Path) {
        let all = contents(directory);
        assert!(!all.is_empty(), "{}", directory.display());
        for (path, bytes) in all {
            assert!(!self.are_in(&bytes), "a secret is in {}", path.display());
        }
    }
}

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if path.is_file() {
            // A process that runs may remove one meanwhile.
            found.extend(fs::read(&path).ok().map(|bytes| (path, bytes)));
        }
    }
    found
}

/// Writes every kind of secret; gives what must be nowhere.
fn write_secrets(admin: &mut Client) -> Secrets {
    let certified = self_signed(&["secret.test"]);
    let body = json!({ "cert": certified.pem(), "key": certified.key_pem(), "snis": ["secret.test"] });
    let made = admin.json("POST", "/certificates?wait=applied", &body).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    write(admin, "POST", "/consumers", "username=c", 201);
    write(admin, "POST", "/consumers/c/key-auth", &format!("key={}", MARKS[0]), 201);
    let password =
        write(admin, "POST", "/consumers/c/basic-auth", &format!("username=b&password={}", MARKS[2]), 201);
    write(admin, "PUT", "/upstreams/u/policy", &format!("sticky.secret={}", MARKS[1]), 200);
    // What was is in the history.
    let key = format!("/certificates/{}", made.json()["id"].as_str().unwrap());
    let other = self_signed(&["secret.test"]);
    let body = json!({ "cert": other.pem(), "key": other.key_pem() });
    assert_eq!(admin.json("PATCH", &format!("{key}?wait=applied"), &body).unwrap().status, 200);
    let mut secrets: Vec<Vec<u8>> = MARKS.iter().map(|mark| mark.as_bytes().to_vec()).collect();
    // As nodes get it.
    secrets.push(
        MARKS[1]
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect(),
    );
    secrets.push(password.json()["password"].as_str().unwrap().as_bytes().to_vec());
    for pair in [&certified, &other] {
        let pem = pair.key_pem();
        let line = pem.lines().filter(|line| !line.starts_with('-')).max_by_key(|line| line.len()).unwrap();
        // The end: keys of one kind begin alike.
        secrets.push(line.as_bytes()[line.len() - 40..].to_vec());
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, der).unwrap();
        secrets.push(der[der.len() - 40..].to_vec());
    }
    Secrets(secrets)
}

fn has_secrets(admin: &mut Client) {
    let key = admin.get("/key-auths").unwrap().json();
    assert_eq!(key["data"][0]["key"], MARKS[0], "{key}");
    assert_eq!(admin.get("/upstreams/u/policy").unwrap().json()["sticky"]["secret"], MARKS[1]);
    assert_eq!(admin.get("/certificates").unwrap().json()["data"].as_array().unwrap().len(), 1);
}

fn warnings(log: &str) -> usize {
    log.lines().filter(|line| line.contains("no encryption key is set")).count()
}

/// Waits until the newest config is in the file of the node's or relay's cache.
fn cached(directory: &Path) {
    eventually("the cache to be written", PATIENCE, || {
        let is_snapshot = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "snapshot");
        contents(directory).keys().any(is_snapshot).then_some(())
    });
}

#[test]
fn no_secret_is_on_any_disk_or_in_any_log_and_a_kill_loses_nothing() {
    let debug = ["--log-level", "debug"];
    let mut fleet = Fleet::start(&debug).unwrap();
    let origin = Origin::start("only");
    let token = fleet.token(&["--role", "relay"]);
    let relay = fleet
        .relay(
            "relay",
            "127.0.0.1:0",
            &[fleet.cluster()],
            &["--cluster-join-token", &token, debug[0], debug[1]],
        )
        .unwrap();
    let node = fleet
        .new_node(
            "node",
            &[relay.address("cluster")],
            &[&debug[..], &["--proxy-listen", "127.0.0.1:0 ssl, 127.0.0.1:0"]].concat(),
        )
        .unwrap();
    // The relay, and the node behind it.
    fleet.connected(2);
    let mut admin = fleet.control().client("admin");
    balance(&mut admin, "", &[origin.address()]);
    let secrets = write_secrets(&mut admin);
    let control_home = fleet.home("control");
    let directories = [
        control_home.join("equipoise-data"),
        fleet.home("relay").join("equipoise-data"),
        fleet.home("node").join("equipoise-node"),
    ];
    cached(&directories[1]);
    cached(&directories[2]);
    for directory in &directories {
        secrets.are_nowhere_below(directory);
        let key = directory.with_extension("key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
    for process in [fleet.control(), &relay, &node] {
        let log = process.log();
        assert!(!secrets.are_in(log.as_bytes()), "a secret is in the log:\n{log}");
        assert_eq!(warnings(&log), 1, "{log}");
    }
    assert!([fleet.control(), &relay, &node].iter().any(|process| process.log().contains("DEBUG")));
    // As a crash leaves it; the next start meets that, and the one after a clean stop.
    let control = fleet.control.take().unwrap();
    control.kill();
    secrets.are_nowhere_below(&directories[0]);
    for _ in 0..2 {
        fleet.start_control().unwrap();
        has_secrets(&mut fleet.control().client("admin"));
        assert_eq!(warnings(&fleet.control().log()), 0, "{}", fleet.control().log());
        assert!(fleet.control.take().unwrap().stop().success());
        secrets.are_nowhere_below(&directories[0]);
    }
    drop((relay, node));
    // Each starts from what it kept, with nobody to follow.
    let node = fleet.node("node", &[]).unwrap();
    let mut proxy = node.client("proxy");
    eventually("the cached config to serve", PATIENCE, || {
        (proxy.get("/mock").ok()?.status == 200).then_some(())
    });
    assert!(node.stop().success());
    directories.iter().for_each(|directory| secrets.are_nowhere_below(directory));
}

const QUIET: [&str; 6] =
    ["--admin-listen", "127.0.0.1:0", "--proxy-listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0"];

/// That standalone does not start with these arguments, says these words in one sentence, and leaves the store as it is.
fn refuses(standalone: &Standalone, arguments: &[&str], words: &[&str]) {
    let ours = |directory: &Path| {
        let mut all = contents(directory);
        all.retain(|path, _| !path.ends_with("lock"));
        all
    };
    let before = ours(&standalone.store_dir());
    let (code, output) = run("equipoise", standalone.home(), &[&QUIET, arguments].concat(), &[]);
    assert_eq!(code, Some(1), "{output}");
    let errors: Vec<_> = output.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one sentence: {output}");
    for word in words {
        assert!(errors[0].contains(word), "{word} in {}", errors[0]);
    }
    assert!(ours(&standalone.store_dir()) == before, "something was changed");
}

fn key_file(path: &Path, keys: &[&str]) -> String {
    let text: Vec<_> = keys.iter().map(|byte| byte.repeat(32)).collect();
    fs::write(path, text.join("\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[test]
fn without_its_key_nothing_starts_and_with_it_all_is_there() {
    let mut standalone = Standalone::start().unwrap();
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &["127.0.0.1:1".parse().unwrap()]);
    write_secrets(&mut admin);
    standalone.kill();
    let key = standalone.home().join("equipoise-data.key");
    let away = standalone.home().join("away.key");
    fs::rename(&key, &away).unwrap();
    refuses(&standalone, &[], &["equipoise-data.key", "is not there", "store.encryption_key_file"]);
    assert!(!key.exists(), "none was made");
    let wrong = key_file(&standalone.home().join("wrong.key"), &["01"]);
    refuses(
        &standalone,
        &["--store-encryption-key-file", &wrong],
        &["is encrypted with the key", "wrong.key", "store.encryption_key_file"],
    );
    refuses(
        &standalone,
        &["--store-encryption-key", &"01".repeat(32)],
        &["is encrypted with the key", "store.encryption_key holds"],
    );
    fs::set_permissions(&away, fs::Permissions::from_mode(0o644)).unwrap();
    refuses(
        &standalone,
        &["--store-encryption-key-file", away.to_str().unwrap()],
        &["away.key", "644", "may be read by anybody"],
    );
    fs::set_permissions(&away, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&away, &key).unwrap();
    standalone.start_again().unwrap();
    has_secrets(&mut standalone.process().client("admin"));
    assert_eq!(warnings(&standalone.process().log()), 0);
}

#[test]
fn a_key_is_changed_by_two_restarts_and_a_backup_opens_with_the_key_of_its_time() {
    let home = tempfile::tempdir().unwrap();
    let keys = home.path().join("keys");
    let path = key_file(&keys, &["01"]);
    let mut standalone = Standalone::start_with(&["--store-encryption-key-file", &path]).unwrap();
    let mut admin = standalone.process().client("admin");
    balance(&mut admin, "", &["127.0.0.1:1".parse().unwrap()]);
    let secrets = write_secrets(&mut admin);
    assert_eq!(warnings(&standalone.process().log()), 0, "a key is set");
    assert!(!standalone.home().join("equipoise-data.key").exists());
    standalone.process.take().unwrap().stop();
    let mut backup = Standalone::start_with(&["--store-encryption-key", &"01".repeat(32)]).unwrap();
    backup.kill();
    fs::remove_dir_all(backup.store_dir()).unwrap();
    copy(&standalone.store_dir(), &backup.store_dir());
    secrets.are_nowhere_below(&backup.store_dir());
    for list in [&["02", "01"][..], &["02"]] {
        key_file(&keys, list);
        standalone.start_again().unwrap();
        has_secrets(&mut standalone.process().client("admin"));
        standalone.process.take().unwrap().stop();
        secrets.are_nowhere_below(&standalone.store_dir());
    }
    key_file(&keys, &["01"]);
    refuses(&standalone, &["--store-encryption-key-file", &path], &["is encrypted with the key"]);
    fs::remove_file(backup.store_dir().join("identity")).unwrap();
    backup.start_again().unwrap();
    has_secrets(&mut backup.process().client("admin"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_node_without_its_key_does_not_start_from_nothing() {
    let fleet = Fleet::start(&[]).unwrap();
    let node = fleet.new_node("node", &[fleet.cluster()], &[]).unwrap();
    fleet.connected(1);
    let origin = Origin::start("only");
    balance(&mut fleet.control().client("admin"), "", &[origin.address()]);
    let home = fleet.home("node");
    cached(&home.join("equipoise-node"));
    node.kill();
    let key = home.join("equipoise-node.key");
    let made = fs::read_to_string(&key).unwrap();
    let start = |more: &[&str]| -> String {
        let cluster = fleet.cluster().to_string();
        let usual = [
            "--proxy-listen",
            "127.0.0.1:0",
            "--status-listen",
            "127.0.0.1:0",
            "--cluster-control-plane",
            &cluster,
        ];
        let (code, output) = run("equipoise-data-plane", &home, &[&usual, more].concat(), &[]);
        assert_eq!(code, Some(1), "{output}");
        output
    };
    fs::remove_file(&key).unwrap();
    let output = start(&[]);
    assert!(
        output.contains("equipoise-node.key is not there") && output.contains("node.encryption_key_file"),
        "{output}"
    );
    let output = start(&["--node-encryption-key", &"01".repeat(32)]);
    assert!(output.contains("node.encryption_key holds") && output.contains(".snapshot"), "{output}");
    assert!(!output.contains(&"01".repeat(32)), "{output}");
    // By the setting, in two lines: the new one, and the one that it was made with.
    let list = format!("{}\n{made}", "01".repeat(32));
    fs::write(&key, list).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let node = fleet.node("node", &["--node-encryption-key-file", key.to_str().unwrap()]).unwrap();
    serves(&node);
    drop(node);
    let node = fleet.node("node", &["--node-encryption-key", &"01".repeat(32)]).unwrap();
    serves(&node);
}

fn serves(node: &Process) {
    let mut proxy = node.client("proxy");
    eventually("the config to be in force", PATIENCE, || {
        (proxy.get("/mock").ok()?.status == 200).then_some(())
    });
}

#[test]
fn settings_say_what_is_wrong_with_keys_and_never_show_them() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdef".repeat(4);
    let check =
        |name: &str, arguments: &[&str]| run(name, dir.path(), &[arguments, &["--check"]].concat(), &[]);
    let missing = dir.path().join("none").display().to_string();
    for (name, of) in
        [("equipoise-control-plane", "store"), ("equipoise-data-plane", "node"), ("equipoise", "store")]
    {
        let (text, file) = (format!("--{of}-encryption-key"), format!("--{of}-encryption-key-file"));
        let (code, output) = check(name, &[]);
        assert_eq!(code, Some(0), "{name}: {output}");
        assert_eq!(check(name, &[&text, &format!("{secret},{secret}")]).0, Some(0), "{name}");
        for (arguments, words) in [
            (&[text.as_str(), &secret[1..]][..], &["encryption_key`", "key 1"][..]),
            (&[&text, &secret, &file, &missing], &["encryption_key_file", "both"]),
            (&[&file, &missing], &["no such file", &missing, "openssl rand"]),
        ] {
            let (code, output) = check(name, arguments);
            assert_eq!(code, Some(78), "{name} {arguments:?}: {output}");
            assert!(words.iter().all(|word| output.contains(word)), "{name}: {output}");
            assert!(!output.contains(&secret[1..]), "{name}: {output}");
        }
        let (code, output) = run(name, dir.path(), &[&text, &secret, "--print-settings"], &[]);
        assert_eq!(code, Some(0), "{output}");
        assert!(output.contains("encryption_key = ") && !output.contains(&secret), "{output}");
        let variable = format!("EQUIPOISE_{}_ENCRYPTION_KEY", of.to_ascii_uppercase());
        let (_, output) = run(name, dir.path(), &["--print-settings"], &[(&variable, &secret)]);
        assert!(output.contains(&format!("environment {variable}")) && !output.contains(&secret), "{output}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a check makes nothing");
}

#[test]
fn what_a_build_kept_that_did_not_encrypt_is_taken_over_and_encrypted() {
    let mut standalone = Standalone::start().unwrap();
    standalone.process.take().unwrap().stop();
    fs::remove_dir_all(standalone.store_dir()).unwrap();
    fs::remove_file(standalone.home().join("equipoise-data.key")).unwrap();
    // Both planes in one process, killed on 27 November 2026; of sled's copy only what it wrote of its log.
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/in-clear");
    copy(&kept, &standalone.store_dir());
    let mark = Secrets(vec![b"Xk4kP9secret7Qz".to_vec()]);
    for name in ["journal-00000000000000000001.log", "rows/db", "node/config-1.tail"] {
        assert!(mark.are_in(&fs::read(kept.join(name)).unwrap()), "{name}");
    }
    standalone.start_again().unwrap();
    let log = standalone.process().log();
    assert_eq!(warnings(&log), 1, "{log}");
    assert!(log.contains("encrypting a data directory in clear"), "{log}");
    let mut admin = standalone.process().client("admin");
    assert_eq!(admin.get("/services").unwrap().json()["data"].as_array().unwrap().len(), 4);
    mark.are_nowhere_below(&standalone.store_dir());
    write(&mut admin, "POST", "/services", "name=after&host=Xk4kP9secret7Qz", 201);
    standalone.kill();
    mark.are_nowhere_below(&standalone.store_dir());
    standalone.start_again().unwrap();
    let services = standalone.process().client("admin").get("/services").unwrap().json();
    assert_eq!(services["data"].as_array().unwrap().len(), 5);
}
