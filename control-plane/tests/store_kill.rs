//! Nothing acknowledged is lost by kill -9: this test program is its own victim.
//!
//! The child (this program with [`CHILD`] set) commits from several tasks and writes the id of each
//! acknowledged entity to its standard output; the parent kills it at a random moment, opens the directory and
//! compares. The directory lives on over all rounds, so that each round also starts from what a kill left.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "store/common.rs"]
mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use equipoise_control_plane::model::{Answer, Key, Kind, Op};
use equipoise_control_plane::store::{Store, StoreSettings};
use rand::RngExt as _;
use uuid::Uuid;

use crate::common::*;

/// Names the directory to the child.
const CHILD: &str = "EQUIPOISE_TEST_KILL_DIRECTORY";

const ROUNDS: usize = 15;
const WRITERS: usize = 6;

/// Small bounds, so that a kill also meets segments that begin and checkpoints that are written.
fn settings(directory: &Path) -> StoreSettings {
    let mut settings = StoreSettings::new(directory);
    settings.log_revisions_max = 200;
    settings
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for round in 0..ROUNDS {
        let new = one_life(directory.path());
        assert!(!new.is_empty(), "round {round}: the child wrote nothing");
        acknowledged.extend(new);
        // Half of the rounds, the next child meets what the kill left instead.
        if round % 2 == 0 && round + 1 != ROUNDS {
            continue;
        }
        let store = Store::open(settings(directory.path()), keys(), encode).unwrap();
        let head = store.head();
        let lost: Vec<_> = acknowledged.iter().filter(|line| !stands(&head, line)).collect();
        assert!(lost.is_empty(), "round {round}: of {} lost {lost:?}", acknowledged.len());
        assert_eq!(hash_of(&head.wires), head.position.content_hash, "round {round}");
        runtime.block_on(store.close());
    }
    assert!(files(directory.path(), "set-aside-").is_empty(), "a kill is no damage");
}

/// `+id` was created and not deleted again, `-id` was deleted.
fn stands(head: &equipoise_control_plane::store::Head, line: &str) -> bool {
    let (sign, id) = line.split_at(1);
    let found = head.config.get(Kind::Service, &Key::Id(Uuid::parse_str(id).unwrap()));
    found.is_some() == (sign == "+")
}

/// Starts a child, kills it after a random while, returns what it had acknowledged.
fn one_life(directory: &Path) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["nothing_acknowledged_is_lost_by_kills", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (first, seen) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut lines = Vec::new();
        // The last line may be cut; the test harness writes some of its own.
        for line in output.split(b'\n') {
            let line = String::from_utf8(line.unwrap()).unwrap();
            if line.len() == 37 && line.starts_with(['+', '-']) {
                lines.push(line);
                let _sent = first.send(());
            }
        }
        lines
    });
    // It lives at least until its first commit, else slow machines would test nothing.
    let alive = seen.recv_timeout(Duration::from_secs(60));
    let extra = Duration::from_millis(rand::rng().random_range(0..120));
    let () = alive.map(|()| std::thread::sleep(extra)).unwrap_or_default();
    child.kill().unwrap();
    child.wait().unwrap();
    alive.expect("the child commits something within a minute");
    reader.join().unwrap()
}

fn write_until_killed(directory: &Path) {
    let store = Store::open(settings(directory), keys(), encode).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(write_on(&store));
            });
        }
    });
}

/// Creates services; deletes every third again, saying so only when it is gone.
async fn write_on(store: &Store) {
    for n in 0_u32.. {
        let name = format!("svc-{}", Uuid::new_v4());
        let committed = commit(store, create_service(&name)).await.unwrap();
        let Answer::Entity(entity) = committed.effect.answer else { panic!("{committed:?}") };
        if n % 3 == 0 {
            commit(store, change(Kind::Service, Op::Delete(Key::Id(entity.id)))).await.unwrap();
            say(&format!("-{}", entity.id));
        } else {
            say(&format!("+{}", entity.id));
        }
    }
}

/// One write a line: lines of several threads do not mix, and a pipe takes it before the kill.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}
