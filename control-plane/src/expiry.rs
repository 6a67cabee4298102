//! Lets go of what has run out: one task, which sleeps until the next entity's time is up.
//!
//! What is to go is the model's to say, at the writer's moment: a `ttl` that was made longer meanwhile counts. Started by `run`.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::now;
use crate::model::Write;
use crate::store::{Author, Store};

/// Longest sleep: the clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Pause after a removal that failed: the next may find room in the queue, or a store that takes no writes any more.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Runs until `stopping`.
pub(crate) async fn keep(store: Store, stopping: CancellationToken) {
    let mut heads = store.watch();
    loop {
        let next_ms = heads.borrow_and_update().config.next_expiry_ms();
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = heads.changed() => if changed.is_err() { return },
            () = until(next_ms) => {
                let author = Author { name: "ttl".to_owned(), what: "what has run out goes".to_owned() };
                if let Err(error) = store.commit(Write::Expired, author).await {
                    warn!(%error, "what has run out cannot be removed yet");
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = tokio::time::sleep(RETRY_PAUSE) => {}
                    }
                }
            }
        }
    }
}

/// Until a moment in milliseconds since 1970, or for the longest sleep if that is shorter; without one, for ever.
async fn until(next_ms: Option<u64>) {
    let Some(next_ms) = next_ms else { return std::future::pending().await };
    let left = Duration::from_millis(next_ms).saturating_sub(now());
    tokio::time::sleep(left.min(SLEEP_MAX)).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Change, Kind, Op};

    #[tokio::test]
    async fn what_has_run_out_goes_and_the_rest_stays() {
        let store = Store::in_memory(|_| None);
        let create = async |kind, body: serde_json::Value| {
            let body = body.as_object().cloned().unwrap();
            let change = Change { kind, op: Op::Create(body), parent: None };
            store.commit(change, Author::default()).await.unwrap();
        };
        create(Kind::Consumer, json!({"username": "u"})).await;
        let consumer = json!({"username": "u"});
        create(Kind::KeyAuth, json!({"consumer": consumer, "key": "for ever"})).await;
        create(Kind::KeyAuth, json!({"consumer": consumer, "key": "long", "ttl": 1_000})).await;
        let stopping = CancellationToken::new();
        let task = tokio::spawn(keep(store.clone(), stopping.clone()));
        // The task is asleep for the other one by now, or is yet to begin.
        create(Kind::KeyAuth, json!({"consumer": consumer, "key": "short", "ttl": 1})).await;
        let mut heads = store.watch();
        let gone =
            heads.wait_for(|head| head.config.by_unique_field(Kind::KeyAuth, "key", "short").is_none());
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("in time").unwrap();
        assert_eq!(store.head().config.iter(Kind::KeyAuth).count(), 2);
        assert!(store.head().config.next_expiry_ms().is_some());
        stopping.cancel();
        task.await.unwrap();
    }
}
