//! What holds for any sequence of changes.

use equipoise_control_plane::model::{Change, Key, Kind, Op, Parent};
use equipoise_proto::{ContentHash, Position};
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use crate::common::*;

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Rename(u8, u8),
    Tag(u8, u8),
    Delete(u8),
    Upstream(u8),
    Policy(u8, u8),
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8_u8).prop_map(Step::Create),
        2 => (0..8_u8, 0..8_u8).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (0..8_u8, any::<u8>()).prop_map(|(which, tag)| Step::Tag(which, tag)),
        2 => (0..8_u8).prop_map(Step::Delete),
        2 => (0..8_u8).prop_map(Step::Upstream),
        2 => (0..8_u8, 0..4_u8).prop_map(|(which, size)| Step::Policy(which, size)),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

fn name(n: u8) -> String {
    format!("svc-{n}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Config, wires, position and hash survive; and what a follower at any earlier position is told leads to
    /// the head.
    #[test]
    fn any_sequence_of_changes_survives_restarts_and_kills(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    let mut followers = vec![(store.head().position, store.head().wires)];
    for step in steps {
        let id = |n: u8| {
            let head = store.head();
            let found = head.config.get(Kind::Service, &key(&name(n))).map(|entity| entity.id);
            Key::Id(found.unwrap_or(Uuid::from_u128(u128::from(n))))
        };
        let change = match &step {
            Step::Create(n) => create_service(&name(*n)),
            Step::Rename(from, to) => change(
                Kind::Service,
                Op::Patch(id(*from), body(json!({"name": name(*to), "host": "example.com"}))),
            ),
            Step::Tag(n, tag) => change(
                Kind::Service,
                Op::Patch(id(*n), body(json!({"name": name(*n), "host": "h", "tags": [tag.to_string()]}))),
            ),
            Step::Delete(n) => change(Kind::Service, Op::Delete(id(*n))),
            Step::Upstream(n) => {
                change(Kind::Upstream, Op::Create(body(json!({"name": format!("up-{n}"), "slots": 100}))))
            }
            Step::Policy(n, size) => {
                let field = "upstream";
                let parent = Parent { kind: Kind::Upstream, key: key(&format!("up-{n}")), field };
                let op = match size {
                    0 => Op::Delete(Key::Only),
                    size => Op::Put(Key::Only, body(json!({"subset_size": size}))),
                };
                Change { kind: Kind::Policy, op, parent: Some(parent) }
            }
            Step::Restart | Step::Kill => {
                let before = store.head();
                if matches!(step, Step::Kill) {
                    let killed = copy_directory(directory.path());
                    store.close().await;
                    directory = killed;
                } else {
                    store.close().await;
                }
                store = open(directory.path()).unwrap();
                let after = store.head();
                prop_assert_eq!(after.position, before.position);
                prop_assert_eq!(after.config, before.config);
                prop_assert_eq!(after.wires, before.wires);
                continue;
            }
        };
        let before = store.head();
        // A refusal is as good an answer as any, as long as it leaves no trace.
        if commit(&store, change).await.is_err() {
            prop_assert_eq!(store.head().position, before.position);
        }
        let head = store.head();
        prop_assert_eq!(hash_of(&head.wires), head.position.content_hash);
        followers.push((head.position, head.wires));
    }
    let head = store.head();
    for (position, mut wires) in followers {
        let mut at: Position = position;
        for step in store.changes_since(&position).unwrap() {
            for (kind, id, wire) in step.changes {
                match wire {
                    Some(wire) => drop(wires.insert((kind, id), wire)),
                    None => drop(wires.remove(&(kind, id))),
                }
            }
            at = step.position;
            prop_assert_eq!(hash_of(&wires), at.content_hash);
        }
        prop_assert_eq!(at, head.position);
        prop_assert_eq!(wires, head.wires.clone());
    }
    prop_assert!(head.position.content_hash != ContentHash::EMPTY || head.config.is_empty());
    store.close().await;
    Ok(())
}
