//! Files that a crash, a disk or somebody else has changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use equipoise_proto::{ContentHash, EntityKind, Epoch, Revision, v1};
use prost::Message;
use uuid::Uuid;

use super::*;

fn keys() -> SealKeys {
    SealKeys::parse(&"5a".repeat(32), "the test").unwrap()
}

fn id() -> Uuid {
    Uuid::from_u128(1)
}

fn position(revision: u64, wire: Option<&[u8]>) -> Position {
    let mut content_hash = ContentHash::EMPTY;
    if let Some(wire) = wire {
        content_hash.add(EntityKind::Service, id(), wire);
    }
    Position { epoch: Epoch::new(Uuid::from_u128(1)), revision: Revision::new(revision), content_hash }
}

/// The config whose one entity has `wire`.
fn replica(revision: u64, wire: &[u8]) -> Replica {
    let record = v1::EntityRecord {
        kind: EntityKind::Service.to_wire().into(),
        id: Bytes::copy_from_slice(id().as_bytes()),
        wire: Bytes::copy_from_slice(wire),
    };
    let raw = record.encode_length_delimited_to_vec();
    let compressed = zstd::encode_all(raw.as_slice(), 1).unwrap();
    Replica::decompress(position(revision, Some(wire)), &compressed, raw.len() as u64).unwrap()
}

fn snapshot(of: &Replica) -> Pending {
    let (compressed, raw_bytes) = of.compress().unwrap();
    Pending::Snapshot { compressed, raw_bytes }
}

fn delta(from: &Replica, to: u64, wire: &[u8]) -> (Pending, Replica) {
    let to = position(to, Some(wire));
    let entity = v1::EntityRecord {
        kind: EntityKind::Service.to_wire().into(),
        id: Bytes::copy_from_slice(id().as_bytes()),
        wire: Bytes::copy_from_slice(wire),
    };
    let change = v1::Change { entity: Some(entity), deleted: false, min_protocol: 1 };
    let delta =
        v1::Delta { from: Some(from.position().to_wire()), to: Some(to.to_wire()), changes: vec![change] };
    let replica = from.after(&delta).unwrap().0;
    (Pending::Delta(delta.encode_to_vec().into()), replica)
}

async fn open(directory: &Path) -> (Cache, Loaded, TaskTracker) {
    let tasks = TaskTracker::new();
    let (cache, loaded) = Cache::open(directory.to_owned(), keys(), &tasks).await.unwrap();
    (cache, loaded, tasks)
}

async fn close(cache: Cache, tasks: TaskTracker) {
    drop(cache);
    tasks.close();
    tasks.wait().await;
}

/// A cache with a snapshot at 1 and deltas up to `last`, all of it good.
async fn filled(directory: &Path, last: u64) {
    let (cache, _, tasks) = open(directory).await;
    let mut now = replica(1, b"wire1");
    cache.pending(*now.position(), snapshot(&now)).await;
    cache.applied(now.clone());
    for revision in 2..=last {
        let (pending, next) = delta(&now, revision, format!("wire{revision}").as_bytes());
        cache.pending(*next.position(), pending).await;
        cache.applied(next.clone());
        now = next;
    }
    cache.stop().await;
    close(cache, tasks).await;
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "config.lock");
    names.sort();
    names
}

async fn put(cache: &Cache, replica: &Replica, pending: Pending) {
    cache.pending(*replica.position(), pending).await;
    cache.applied(replica.clone());
}

/// A start that ends in a death; what it started with.
async fn deadly_start(directory: &Path) -> Option<u64> {
    let (cache, loaded, tasks) = open(directory).await;
    cache.starting().await;
    close(cache, tasks).await;
    loaded.replica.map(|replica| replica.position().revision.get())
}

async fn loaded_revision(directory: &Path) -> Option<u64> {
    let (cache, loaded, tasks) = open(directory).await;
    close(cache, tasks).await;
    loaded.replica.map(|replica| replica.position().revision.get())
}

/// What the tail of a generation says, whose snapshot is at `base`.
fn entries(directory: &Path, generation: u64, base: Position) -> Vec<entry::Entry> {
    let bytes = fs::read(directory.join(format!("config-{generation}.tail"))).unwrap();
    let format::TailHead::Sealed(key) = format::decode_tail_head(&bytes, &keys()).unwrap() else {
        panic!("the tail is sealed");
    };
    entry::decode_all(&bytes, format::TAIL_HEAD, Some(&entry::TailSeal::new(key, base))).0
}

#[tokio::test]
async fn what_was_written_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(loaded_revision(directory.path()).await, None);
    filled(directory.path(), 5).await;
    let (_cache, loaded, _tasks) = open(directory.path()).await;
    let loaded = loaded.replica.unwrap();
    assert_eq!(*loaded.position(), position(5, Some(b"wire5")));
    assert_eq!(loaded.records().next().unwrap().wire, Some(Bytes::from_static(b"wire5")));
}

#[tokio::test]
async fn only_its_owner_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    filled(&cache, 2).await;
    assert_eq!(files(&cache), ["config-1.snapshot", "config-1.tail"]);
    for name in files(&cache) {
        let mode = fs::metadata(cache.join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_change_costs_its_own_size() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 2).await;
    let size = || fs::metadata(directory.path().join("config-1.tail")).unwrap().len();
    let before = size();
    let (cache, loaded, tasks) = open(directory.path()).await;
    let (pending, next) = delta(&loaded.replica.unwrap(), 3, b"wire3");
    cache.pending(*next.position(), pending).await;
    close(cache, tasks).await;
    assert!(size() - before < 400, "{}", size() - before);
}

#[tokio::test]
async fn damage_anywhere_never_panics_and_never_invents_a_config() {
    let whole = tempfile::tempdir().unwrap();
    filled(whole.path(), 4).await;
    for name in ["config-1.snapshot", "config-1.tail"] {
        let bytes = fs::read(whole.path().join(name)).unwrap();
        for at in (0..bytes.len()).step_by(7) {
            for cut in [true, false] {
                let directory = tempfile::tempdir().unwrap();
                for file in files(whole.path()) {
                    fs::copy(whole.path().join(&file), directory.path().join(&file)).unwrap();
                }
                let mut damaged = bytes.clone();
                if cut {
                    damaged.truncate(at);
                } else {
                    damaged[at] ^= 0x10;
                }
                fs::write(directory.path().join(name), damaged).unwrap();
                let (cache, loaded, tasks) = open(directory.path()).await;
                if let Some(replica) = loaded.replica {
                    let revision = replica.position().revision.get();
                    let wire = format!("wire{revision}");
                    assert_eq!(*replica.position(), position(revision, Some(wire.as_bytes())), "{name} {at}");
                } else {
                    assert_eq!(name, "config-1.snapshot", "a damaged tail costs only its end: {at}");
                }
                // And it works on.
                let next = replica(9, b"next");
                cache.pending(*next.position(), snapshot(&next)).await;
                cache.applied(next);
                cache.stop().await;
                close(cache, tasks).await;
                assert_eq!(loaded_revision(directory.path()).await, Some(9), "{name} {at}");
            }
        }
    }
}

#[tokio::test]
async fn what_follows_a_torn_tail_is_readable() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3).await;
    let tail = directory.path().join("config-1.tail");
    let mut bytes = fs::read(&tail).unwrap();
    bytes.extend([1, 2, 3]);
    fs::write(&tail, bytes).unwrap();
    let (cache, loaded, tasks) = open(directory.path()).await;
    let (pending, next) = delta(&loaded.replica.unwrap(), 4, b"wire4");
    cache.pending(*next.position(), pending).await;
    cache.applied(next);
    close(cache, tasks).await;
    assert_eq!(loaded_revision(directory.path()).await, Some(4));
}

#[tokio::test]
async fn a_left_over_unfinished_snapshot_does_not_matter() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 2).await;
    fs::write(directory.path().join("config.new"), b"half").unwrap();
    fs::write(directory.path().join("config-x.snapshot"), b"?").unwrap();
    assert_eq!(loaded_revision(directory.path()).await, Some(2));
}

#[tokio::test]
async fn a_long_tail_is_folded_and_old_generations_go_once_the_new_is_good() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 2).await;
    let (cache, loaded, tasks) = open(directory.path()).await;
    let mut now = loaded.replica.unwrap();
    let mut noise = blake3::Hasher::new().finalize_xof();
    for revision in 3..=6 {
        let mut wire = vec![0; 400 * 1024];
        noise.fill(&mut wire);
        let (pending, next) = delta(&now, revision, &wire);
        cache.pending(*next.position(), pending).await;
        cache.applied(next.clone());
        now = next;
    }
    // A round trip, so that the fold before it is done.
    cache.pending(*now.position(), Pending::Reposition).await;
    let folded = files(directory.path());
    assert!(folded.contains(&"config-2.snapshot".to_owned()), "{folded:?}");
    assert!(folded.contains(&"config-1.snapshot".to_owned()), "the good one stays until then: {folded:?}");
    cache.stop().await;
    close(cache, tasks).await;
    assert_eq!(files(directory.path()), ["config-2.snapshot", "config-2.tail"]);
    assert_eq!(loaded_revision(directory.path()).await, Some(6));
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_an_error_and_a_failing_disk_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(Cache::open(file.join("cache"), keys(), &TaskTracker::new()).await.is_err());

    let cache_directory = directory.path().join("cache");
    let (cache, _, tasks) = open(&cache_directory).await;
    fs::remove_dir_all(&cache_directory).unwrap();
    let first = replica(1, b"a");
    cache.pending(*first.position(), snapshot(&first)).await;
    cache.applied(first.clone());
    cache.dropped();
    cache.stop().await;
    close(cache, tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_is_good_after_30_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _, tasks) = open(directory.path()).await;
    let first = replica(1, b"a");
    cache.pending(*first.position(), snapshot(&first)).await;
    cache.applied(first.clone());
    let tail = || fs::metadata(directory.path().join("config-1.tail")).unwrap().len();
    tokio::time::sleep(GOOD_AFTER - std::time::Duration::from_secs(1)).await;
    assert_eq!(tail(), format::TAIL_HEAD as u64, "there is no entry yet");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    // Behind the write in the queue.
    cache.pending(*first.position(), Pending::Reposition).await;
    close(cache, tasks).await;
    assert_eq!(entries(directory.path(), 1, *first.position())[0], entry::Entry::Good(*first.position()));
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_revision_is_good_in_the_generation_that_holds_it_and_not_in_one_that_began_since() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _, tasks) = open(directory.path()).await;
    let (first, deadly) = (replica(1, b"a"), replica(2, b"!"));
    put(&cache, &first, snapshot(&first)).await;
    tokio::time::sleep(GOOD_AFTER - SECOND).await;
    put(&cache, &deadly, snapshot(&deadly)).await;
    tokio::time::sleep(2 * SECOND).await;
    close(cache, tasks).await;
    assert!(files(directory.path()).contains(&"config-1.snapshot".to_owned()));
    let starts = [2, 1, 1];
    for (start, wanted) in starts.into_iter().enumerate() {
        assert_eq!(deadly_start(directory.path()).await, Some(wanted), "start {start}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_snapshot_is_gone_although_something_became_good_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _, tasks) = open(directory.path()).await;
    let (first, refused) = (replica(1, b"a"), replica(2, b"!"));
    put(&cache, &first, snapshot(&first)).await;
    tokio::time::sleep(GOOD_AFTER - SECOND).await;
    cache.pending(*refused.position(), snapshot(&refused)).await;
    tokio::time::sleep(2 * SECOND).await;
    cache.dropped();
    close(cache, tasks).await;
    assert_eq!(loaded_revision(directory.path()).await, Some(1));
    assert_eq!(files(directory.path()), ["config-1.snapshot", "config-1.tail"]);
}

#[tokio::test]
async fn after_a_refused_snapshot_the_generation_before_goes_on_even_if_it_is_not_good_yet() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 1).await;
    let (cache, _, tasks) = open(directory.path()).await;
    let (second, refused) = (replica(2, b"b"), replica(3, b"!"));
    put(&cache, &second, snapshot(&second)).await;
    cache.pending(*refused.position(), snapshot(&refused)).await;
    cache.dropped();
    let (pending, fourth) = delta(&second, 4, b"d");
    put(&cache, &fourth, pending).await;
    close(cache, tasks).await;
    assert_eq!(deadly_start(directory.path()).await, Some(4));
    assert_eq!(deadly_start(directory.path()).await, Some(1), "what is good is still there");
}

#[tokio::test]
async fn a_directory_has_one_user_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _, tasks) = open(directory.path()).await;
    let second = Cache::open(directory.path().to_owned(), keys(), &TaskTracker::new()).await;
    assert!(matches!(second, Err(CacheError::InUse)));
    close(cache, tasks).await;
    open(directory.path()).await;
}

#[tokio::test]
async fn a_start_that_fails_before_the_config_is_tried_is_no_death() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 1).await;
    let (cache, loaded, tasks) = open(directory.path()).await;
    let (pending, second) = delta(&loaded.replica.unwrap(), 2, b"b");
    put(&cache, &second, pending).await;
    close(cache, tasks).await;
    for _ in 0..3 {
        assert_eq!(loaded_revision(directory.path()).await, Some(2));
    }
    assert_eq!(deadly_start(directory.path()).await, Some(2));
    assert_eq!(deadly_start(directory.path()).await, Some(1));
}

#[tokio::test]
async fn deaths_add_up_although_a_change_or_a_snapshot_comes_between_them() {
    for by_snapshot in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 1).await;
        let mut starts = Vec::new();
        for revision in 2..=4 {
            let (cache, loaded, tasks) = open(directory.path()).await;
            let loaded = loaded.replica.unwrap();
            starts.push(loaded.position().revision.get());
            cache.starting().await;
            cache.applied(loaded.clone());
            let (change, next) = delta(&loaded, revision, format!("wire{revision}").as_bytes());
            let pending = if by_snapshot { snapshot(&next) } else { change };
            put(&cache, &next, pending).await;
            close(cache, tasks).await;
        }
        assert_eq!(starts, [1, 2, 1], "by snapshot: {by_snapshot}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_tried_again_without_another_change() {
    let directory = tempfile::tempdir().unwrap();
    let cache_directory = directory.path().join("cache");
    let (cache, _, tasks) = open(&cache_directory).await;
    fs::remove_dir_all(&cache_directory).unwrap();
    let first = replica(1, b"a");
    put(&cache, &first, snapshot(&first)).await;
    // Behind what follows the failure.
    cache.starting().await;
    fs::create_dir(&cache_directory).unwrap();
    tokio::time::sleep(RETRY_AFTER + SECOND).await;
    close(cache, tasks).await;
    assert_eq!(deadly_start(&cache_directory).await, Some(1));
    assert_eq!(deadly_start(&cache_directory).await, Some(1));
    let (_cache, loaded, _tasks) = open(&cache_directory).await;
    assert_eq!(loaded.condemned, None, "it was good when it was written");
}

#[tokio::test(start_paused = true)]
async fn a_second_try_does_not_come_between_a_snapshot_and_what_becomes_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache_directory = directory.path().join("cache");
    let (cache, _, tasks) = open(&cache_directory).await;
    fs::remove_dir_all(&cache_directory).unwrap();
    let (first, second) = (replica(1, b"a"), replica(2, b"b"));
    put(&cache, &first, snapshot(&first)).await;
    cache.starting().await;
    fs::create_dir(&cache_directory).unwrap();
    tokio::time::sleep(RETRY_AFTER - SECOND).await;
    cache.pending(*second.position(), snapshot(&second)).await;
    tokio::time::sleep(2 * SECOND).await;
    cache.applied(second.clone());
    let (pending, third) = delta(&second, 3, b"c");
    put(&cache, &third, pending).await;
    close(cache, tasks).await;
    assert_eq!(loaded_revision(&cache_directory).await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_costs_the_cache_and_not_the_config() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 2).await;
    let (cache, _, tasks) = open(directory.path()).await;
    // Whoever opens it to write waits for somebody who reads.
    let hanging = directory.path().join("config.new");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &hanging,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let third = replica(3, b"c");
    let waiting = tokio::spawn({
        let (cache, third) = (cache.clone(), third.clone());
        async move { cache.pending(*third.position(), snapshot(&third)).await }
    });
    while !waiting.is_finished() {
        tokio::time::advance(SECOND).await;
    }
    cache.applied(third.clone());
    let (pending, fourth) = delta(&third, 4, b"d");
    let start = tokio::time::Instant::now();
    put(&cache, &fourth, pending).await;
    assert_eq!(start.elapsed(), Duration::ZERO, "nothing waits any more");
    // The disk answers again.
    let reader = tokio::task::spawn_blocking({
        let hanging = hanging.clone();
        move || fs::File::open(hanging).unwrap()
    });
    let reader = reader.await.unwrap();
    cache.starting().await;
    drop(reader);
    fs::remove_file(&hanging).unwrap();
    assert_eq!(files(directory.path()).first().map(String::as_str), Some("config-1.snapshot"));
    tokio::time::sleep(RETRY_AFTER + SECOND).await;
    let (pending, fifth) = delta(&fourth, 5, b"e");
    put(&cache, &fifth, pending).await;
    close(cache, tasks).await;
    assert_eq!(loaded_revision(directory.path()).await, Some(5));
}

#[tokio::test]
async fn a_process_that_takes_over_reads_beside_and_writes_only_with_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3).await;
    let (old, loaded, tasks) = open(directory.path()).await;
    let before = files(directory.path());
    let new_tasks = TaskTracker::new();
    let (new, seen, beside) = Cache::beside(directory.path().to_owned(), keys(), &new_tasks).await;
    assert_eq!(seen.replica.as_ref().map(|replica| replica.position().revision.get()), Some(3));
    // Whatever it is told meanwhile, it writes nothing and nobody waits.
    new.starting().await;
    let seen = seen.replica.unwrap();
    put(&new, &seen, snapshot(&seen)).await;
    new.dropped();
    assert_eq!(files(directory.path()), before);
    // The old one has something newer still.
    let (pending, fourth) = delta(&loaded.replica.unwrap(), 4, b"four");
    put(&old, &fourth, pending).await;
    old.stop().await;
    let (ended, lock) = (old.ended(), old.lock().unwrap().unwrap());
    close(old, tasks).await;
    ended.await;
    let refused = Cache::open(directory.path().to_owned(), keys(), &TaskTracker::new()).await;
    assert!(matches!(refused, Err(CacheError::InUse)), "the lock is held all the time");
    let held = beside.open(lock).await.unwrap().replica.unwrap();
    assert_eq!(held.position().revision.get(), 4);
    new.starting().await;
    new.applied(held.clone());
    let (pending, fifth) = delta(&held, 5, b"five");
    put(&new, &fifth, pending).await;
    close(new, new_tasks).await;
    assert_eq!(loaded_revision(directory.path()).await, Some(5));
}

mod sealing;
