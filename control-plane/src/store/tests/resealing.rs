//! A change of keys on a disk that fails, at every step in turn.

use std::path::Path;

use super::*;

/// Does so many syncs, and then nothing any more.
#[derive(Debug)]
struct Dying(AtomicUsize);

impl Medium for Dying {
    fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        RealMedium.append(file, bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_err(|_| io::Error::other("the disk is gone"))?;
        RealMedium.sync(file)
    }
}

fn keys_of(bytes: &[&str]) -> SealKeys {
    let text: Vec<_> = bytes.iter().map(|byte| byte.repeat(32)).collect();
    SealKeys::parse(&text.join(","), "the test").unwrap()
}

fn copy_into(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_into(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_change_of_keys_that_fails_at_any_step_loses_nothing_and_goes_on() {
    let live = tempfile::tempdir().unwrap();
    let settings = |directory: &Path| {
        let mut settings = StoreSettings::new(directory);
        settings.log_revisions_max = 40;
        settings
    };
    let whole = settings(live.path());
    let store = Store::open_on(whole.clone(), keys(), encode, Arc::new(RealMedium)).unwrap();
    for n in 0..12 {
        create(&store, &format!("svc-{n}")).await.unwrap();
    }
    store.close().await;
    let store = Store::open_on(whole, keys(), encode, Arc::new(RealMedium)).unwrap();
    create(&store, "last").await.unwrap();
    let head = store.head();
    store.close().await;
    let open = |directory: &Path, keys: &SealKeys, medium: Arc<dyn Medium>| {
        Store::open_on(settings(directory), keys.clone(), encode, medium)
    };
    let (both, new) = (keys_of(&["01", "5a"]), keys_of(&["01"]));
    let mut failed = 0;
    loop {
        let directory = tempfile::tempdir().unwrap();
        copy_into(live.path(), directory.path());
        let opened = open(directory.path(), &both, Arc::new(Dying(AtomicUsize::new(failed))));
        let is_done = opened.is_ok();
        if let Ok(store) = opened {
            store.close().await;
        }
        for keys in [&both, &new] {
            let store = open(directory.path(), keys, Arc::new(RealMedium));
            let store = store.unwrap_or_else(|error| panic!("after {failed} syncs: {error}"));
            assert_eq!(store.head().position, head.position, "after {failed} syncs");
            assert_eq!(store.head().config, head.config, "after {failed} syncs");
            let history = store.history(Revision::ZERO..=Revision::new(99)).await.unwrap();
            assert_eq!(history.len(), 13, "after {failed} syncs");
            store.close().await;
        }
        if is_done {
            break;
        }
        failed += 1;
    }
    assert!(failed > 4, "segments and checkpoints are synced one by one, not {failed}");
}
