use std::cell::Cell;

use equipoise_proto::{ContentHash, Epoch, Revision};
use proptest::prelude::*;

use super::*;

/// An entity by number, and its bytes; `None` deletes it.
type Write = (u8, Option<Vec<u8>>);
type Wires = BTreeMap<(EntityKind, Uuid), Bytes>;

/// A history as a store keeps it.
#[derive(Debug, Clone)]
struct History {
    heads: Vec<(Position, Wires)>,
    log: Vec<WireChanges>,
}

fn hash(wires: &Wires) -> ContentHash {
    let mut hash = ContentHash::EMPTY;
    for ((kind, id), wire) in wires {
        hash.add(*kind, *id, wire);
    }
    hash
}

fn history(epoch: u128, revisions: &[Vec<Write>]) -> History {
    let mut wires = Wires::new();
    let position = |revision, wires: &Wires| Position {
        epoch: Epoch::new(Uuid::from_u128(epoch)),
        revision: Revision::new(revision),
        content_hash: hash(wires),
    };
    let mut history = History { heads: vec![(position(0, &wires), wires.clone())], log: Vec::new() };
    for (revision, writes) in (1..).zip(revisions) {
        let mut changes: BTreeMap<(EntityKind, Uuid), Option<Bytes>> = BTreeMap::new();
        for (entity, wire) in writes {
            let kind = EntityKind::ALL[usize::from(entity % 4)];
            changes.insert((kind, Uuid::from_u128(u128::from(entity / 4))), wire.clone().map(Bytes::from));
        }
        for (key, wire) in &changes {
            match wire {
                Some(wire) => wires.insert(*key, wire.clone()),
                None => wires.remove(key),
            };
        }
        let position = position(revision, &wires);
        let changes = changes.into_iter().map(|((kind, id), wire)| (kind, id, wire)).collect();
        history.log.push(WireChanges { position, changes });
        history.heads.push((position, wires.clone()));
    }
    history
}

impl History {
    fn since(&self, position: &Position) -> Option<Vec<WireChanges>> {
        let at = self.heads.iter().position(|(known, _)| known == position)?;
        Some(self.log[at..].to_vec())
    }

    fn resolve(&self, from: &Position, to: usize) -> Decision {
        resolve(Some(from), &self.heads[to].0, |position| self.since(position))
    }
}

fn apply(wires: &Wires, delta: &EncodedDelta) -> Wires {
    let mut wires = wires.clone();
    let delta = v1::Delta::decode(delta.bytes.clone()).unwrap();
    for change in delta.changes {
        let record = change.entity.unwrap();
        let key = (EntityKind::from_wire(record.kind).unwrap(), Uuid::from_slice(&record.id).unwrap());
        if change.deleted {
            wires.remove(&key);
        } else {
            wires.insert(key, record.wire);
        }
    }
    wires
}

fn revisions() -> impl Strategy<Value = Vec<Vec<Write>>> {
    let write = (0..12_u8, prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..3)));
    prop::collection::vec(prop::collection::vec(write, 1..4), 1..12)
}

proptest! {
    #[test]
    fn a_merged_delta_leads_from_any_cursor_to_any_later_head(
        revisions in revisions(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(),
    ) {
        let history = history(1, &revisions);
        let to = to.index(history.heads.len());
        let from = from.index(to + 1);
        let (position, wires) = &history.heads[from];
        let (head, wanted) = &history.heads[to];
        match history.resolve(position, to) {
            Decision::Nothing => prop_assert_eq!(position, head),
            Decision::Reposition => prop_assert_eq!(wires, wanted),
            Decision::Delta(delta) => {
                prop_assert_eq!((&delta.from, &delta.to), (position, head));
                let after = apply(wires, &delta);
                prop_assert_eq!(hash(&after), head.content_hash);
                prop_assert_eq!(&after, wanted);
            }
            Decision::Snapshot => prop_assert!(false, "the log reaches back to every cursor"),
            Decision::Withhold | Decision::Await => prop_assert!(false, "no cursor is ahead of its head"),
        }
    }

    #[test]
    fn a_delta_names_each_entity_once(revisions in revisions()) {
        let history = history(1, &revisions);
        let last = history.heads.len() - 1;
        if let Decision::Delta(delta) = history.resolve(&history.heads[0].0, last) {
            let changes = v1::Delta::decode(delta.bytes).unwrap().changes;
            let mut keys: Vec<_> = changes.into_iter().map(|c| c.entity.unwrap()).map(|e| (e.kind, e.id)).collect();
            let all = keys.len();
            keys.sort();
            keys.dedup();
            prop_assert_eq!(keys.len(), all);
        }
    }
}

#[derive(Debug, PartialEq)]
enum Want {
    Nothing,
    Reposition,
    Delta,
    Snapshot,
    Withhold,
    Await,
}

#[test]
fn what_a_node_has_decides_what_it_gets() {
    let write = |entity, bytes: &[u8]| vec![(entity, Some(bytes.to_vec()))];
    let history = history(1, &[write(0, b"a"), write(0, b"b"), vec![(0, None)], write(1, b"c")]);
    let at = |revision: usize| history.heads[revision].0;
    let other_epoch = |revision: usize| Position { epoch: Epoch::new(Uuid::from_u128(2)), ..at(revision) };
    let cases = [
        ("nothing", None, 4, Want::Snapshot),
        ("nothing, and the config is empty", None, 0, Want::Snapshot),
        ("the head", Some(at(4)), 4, Want::Nothing),
        ("the revision before", Some(at(3)), 4, Want::Delta),
        ("an old revision", Some(at(0)), 4, Want::Delta),
        ("the head's content at an older revision", Some(at(0)), 3, Want::Reposition),
        ("the head's content under another epoch", Some(other_epoch(4)), 4, Want::Reposition),
        ("another history", Some(other_epoch(2)), 4, Want::Snapshot),
        (
            "a revision with another hash",
            Some(Position { content_hash: at(4).content_hash, ..at(2) }),
            3,
            Want::Snapshot,
        ),
        ("a revision past the head", Some(Position { revision: Revision::new(9), ..at(2) }), 4, Want::Await),
        ("a later revision than is published yet", Some(at(2)), 1, Want::Await),
        ("a config that a store without a write does not know", Some(other_epoch(2)), 0, Want::Withhold),
        ("a revision past a store without a write", Some(at(2)), 0, Want::Withhold),
        ("an empty config of another store without a write", Some(other_epoch(0)), 0, Want::Reposition),
        ("a config that a store with one write does not know", Some(other_epoch(2)), 1, Want::Snapshot),
    ];
    for (name, has, head, want) in cases {
        let got = match resolve(has.as_ref(), &history.heads[head].0, |position| history.since(position)) {
            Decision::Nothing => Want::Nothing,
            Decision::Reposition => Want::Reposition,
            Decision::Delta(_) => Want::Delta,
            Decision::Snapshot => Want::Snapshot,
            Decision::Withhold => Want::Withhold,
            Decision::Await => Want::Await,
        };
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn past_one_mebibyte_a_delta_becomes_a_snapshot() {
    for (bytes, is_delta) in
        [(DELTA_BYTES_MAX - 400, true), (DELTA_BYTES_MAX - 20, false), (2 * DELTA_BYTES_MAX, false)]
    {
        let history = history(1, &[vec![(0, Some(vec![7; bytes]))]]);
        let decision = history.resolve(&history.heads[0].0, 1);
        assert_eq!(matches!(decision, Decision::Delta(_)), is_delta, "{bytes}");
    }
}

#[test]
fn only_the_last_write_counts_for_the_size() {
    let large = || vec![(0, Some(vec![7; DELTA_BYTES_MAX]))];
    let history = history(1, &[large(), large(), vec![(0, Some(vec![1]))]]);
    assert!(matches!(history.resolve(&history.heads[0].0, 3), Decision::Delta(_)));
}

#[test]
fn the_log_is_asked_only_when_its_answer_matters() {
    let history = history(1, &[vec![(0, Some(vec![1]))]]);
    let asked = Cell::new(0);
    let ask = |_: &Position| {
        asked.set(asked.get() + 1);
        None
    };
    resolve(None, &history.heads[1].0, ask);
    resolve(Some(&history.heads[1].0), &history.heads[1].0, ask);
    assert_eq!(asked.get(), 0);
}
