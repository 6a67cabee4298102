//! A store whose files are whole.

use std::os::unix::fs::PermissionsExt as _;

use equipoise_control_plane::model::{Answer, Kind, Op};
use equipoise_control_plane::store::{Author, CommitError, OpenError, Store, StoreSettings};
use equipoise_proto::Revision;
use serde_json::json;

use crate::common::*;

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    fill(&store, "svc", 5).await;
    commit(&store, change(Kind::Service, Op::Delete(key("svc-3")))).await.unwrap();
    let before = store.head();
    assert_eq!(before.position.revision, Revision::new(6));
    store.close().await;

    let store = open(directory.path()).unwrap();
    let after = store.head();
    assert_eq!(after.position, before.position);
    assert_eq!(after.config, before.config);
    assert_eq!(after.wires, before.wires);
    assert_eq!(hash_of(&after.wires), after.position.content_hash);
    assert_eq!(names(&store), ["svc-0", "svc-1", "svc-2", "svc-4"]);
    store.close().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    fill(&store, "svc", 5).await;
    let killed = copy_directory(directory.path());
    let again = open(killed.path()).unwrap();
    assert_eq!(again.head().position, store.head().position);
    assert_eq!(again.head().config, store.head().config);
    again.close().await;
    store.close().await;
}

#[tokio::test]
async fn deltas_reach_back_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let mut positions = vec![store.head().position];
    for n in 0..5 {
        let committed = commit(&store, create_service(&format!("svc-{n}"))).await.unwrap();
        positions.push(committed.position);
    }
    let before: Vec<_> = positions.iter().map(|position| store.changes_since(position)).collect();
    assert!(before.iter().all(Option::is_some));
    store.close().await;
    let store = open(directory.path()).unwrap();
    let after: Vec<_> = positions.iter().map(|position| store.changes_since(position)).collect();
    assert_eq!(after, before);
    assert_eq!(after[2].as_ref().unwrap().len(), 3);
    store.close().await;
}

#[tokio::test]
async fn history_says_who_what_when_and_what_was_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    fill(&store, "svc", 3).await;
    let who = Author { name: "10.0.0.9".into(), what: "DELETE /services/svc-1".into() };
    store.commit(change(Kind::Service, Op::Delete(key("svc-1"))), who.clone()).await.unwrap();
    for round in ["before a restart", "after it"] {
        let store = if round == "after it" { open(directory.path()).unwrap() } else { store.clone() };
        let all = store.history(Revision::ZERO..=Revision::new(99)).await.unwrap();
        assert_eq!(
            all.iter().map(|r| r.position.revision.get()).collect::<Vec<_>>(),
            [1, 2, 3, 4],
            "{round}"
        );
        assert_eq!(all[3].author, who, "{round}");
        assert!(all[3].time_ms > 1_600_000_000_000, "{round}");
        let mutation = &all[3].mutations[0];
        assert_eq!(mutation.before.as_ref().unwrap().body()["name"], json!("svc-1"), "{round}");
        assert_eq!(mutation.after, None, "{round}");
        assert_eq!(all[1].mutations[0].after, mutation.before, "{round}");
        let some = store.history(Revision::new(2)..=Revision::new(3)).await.unwrap();
        assert_eq!(some, all[1..3], "{round}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_change_that_changes_nothing_makes_no_revision() {
    let directory = tempfile::tempdir().unwrap();
    for store in [open(directory.path()).unwrap(), Store::in_memory(encode)] {
        fill(&store, "svc", 1).await;
        let gone = change(Kind::Service, Op::Delete(key("never-was")));
        let committed = commit(&store, gone).await.unwrap();
        assert_eq!(committed.effect.answer, Answer::Deleted);
        assert_eq!(committed.position, store.head().position);
        assert_eq!(committed.position.revision, Revision::new(1));
        store.close().await;
    }
}

#[tokio::test]
async fn watchers_see_each_new_head() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let mut watch = store.watch();
    let committed = commit(&store, create_service("svc")).await.unwrap();
    assert!(watch.has_changed().unwrap());
    let head = watch.borrow_and_update().clone();
    assert_eq!(head.position, committed.position);
    assert_eq!(hash_of(&head.wires), head.position.content_hash);
    store.close().await;
}

#[tokio::test]
async fn commits_after_the_close_are_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    fill(&store, "svc", 1).await;
    store.close().await;
    store.close().await;
    let late = commit(&store, create_service("late")).await;
    assert!(matches!(late, Err(CommitError::Stopped)), "{late:?}");
    let store = open(directory.path()).unwrap();
    assert_eq!(names(&store), ["svc-0"]);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commits_are_all_made_and_in_one_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move { fill(&store, &format!("svc-{task}"), 20).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let head = store.head();
    assert_eq!(head.position.revision, Revision::new(320));
    let killed = copy_directory(directory.path());
    store.close().await;
    for directory in [killed.path(), directory.path()] {
        let store = open(directory).unwrap();
        assert_eq!(store.head().position, head.position);
        assert_eq!(store.head().config, head.config);
        store.close().await;
    }
}

#[tokio::test]
async fn the_log_is_bounded_and_checkpoints_hold_what_left_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = StoreSettings::new(directory.path());
    settings.log_revisions_max = 80;
    let store = Store::open(settings.clone(), keys(), encode).unwrap();
    let first = store.head().position;
    // A checkpoint is skipped while one is being written, so the log may be longer for a while.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut n = 0;
    loop {
        commit(&store, create_service(&format!("svc-{n}"))).await.unwrap();
        n += 1;
        let oldest = store.history(Revision::ZERO..=Revision::new(u64::MAX)).await.unwrap()[0].position;
        if n > 300 && oldest.revision.get() + 100 > n {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the log only grows");
    }
    assert_eq!(store.changes_since(&first), None);
    let head = store.head();
    let killed = copy_directory(directory.path());
    store.close().await;
    assert_eq!(files(directory.path(), "checkpoint-").len(), 2);
    std::fs::remove_dir_all(rows(killed.path())).unwrap();
    settings.directory = killed.path().to_owned();
    let store = Store::open(settings, keys(), encode).unwrap();
    assert_eq!(store.head().position, head.position);
    assert_eq!(store.head().config, head.config);
    store.close().await;
}

#[tokio::test]
async fn a_log_of_few_bytes_stays_so() {
    const BYTES_MAX: u64 = 64 << 10;
    let directory = tempfile::tempdir().unwrap();
    let mut settings = StoreSettings::new(directory.path());
    settings.log_bytes_max = BYTES_MAX;
    let store = Store::open(settings, keys(), encode).unwrap();
    let size = || -> u64 {
        files(directory.path(), "journal-")
            .iter()
            .filter_map(|path| path.metadata().ok())
            .map(|m| m.len())
            .sum()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut written = 0;
    // Past the bound many times, and below it again.
    for n in 0.. {
        let before = size();
        commit(&store, create_service(&format!("svc-{n}"))).await.unwrap();
        written += size().saturating_sub(before);
        if written > 4 * BYTES_MAX && size() <= BYTES_MAX {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the log has {} bytes", size());
    }
    store.close().await;
}

#[tokio::test]
async fn a_directory_is_used_by_one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let refused = open(directory.path()).unwrap_err();
    assert!(
        matches!(&refused, OpenError::InUse { process: Some(id), .. } if *id == std::process::id()),
        "{refused:?}"
    );
    let text = refused.to_string();
    assert!(text.contains(directory.path().to_str().unwrap()) && text.contains("in use"), "{text}");
    store.close().await;
    open(directory.path()).unwrap().close().await;
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/data");
    let store = open(&path).unwrap();
    fill(&store, "svc", 1).await;
    store.close().await;
    for path in [path.clone(), rows(&path)] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
    }
    for entry in std::fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", entry.path().display());
    }
}
