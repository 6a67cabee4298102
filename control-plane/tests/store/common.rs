//! What the store's suites share: changes, a stand-in for the wire encoding, copies of directories.

#![allow(dead_code, reason = "each suite uses its part")]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use equipoise_control_plane::model::{Body, Change, Entity, Key, Kind, Op};
use equipoise_control_plane::store::{Author, CommitError, Committed, OpenError, Store, StoreSettings, Wire};
use equipoise_identity::SealKeys;
use equipoise_proto::EntityKind;
use serde_json::json;
use uuid::Uuid;

/// JSON in place of protobuf: to the store, bytes are bytes.
pub fn encode(entity: &Entity) -> Option<Wire> {
    let kind = match entity.kind {
        Kind::Certificate => EntityKind::Certificate,
        Kind::Sni => EntityKind::Sni,
        Kind::CaCertificate => EntityKind::CaCertificate,
        Kind::Service => EntityKind::Service,
        Kind::Route => EntityKind::Route,
        Kind::Upstream => EntityKind::Upstream,
        Kind::Target => EntityKind::Target,
        Kind::Policy => EntityKind::Policy,
        Kind::Consumer => EntityKind::Consumer,
        Kind::KeyAuth => EntityKind::KeyAuth,
        Kind::BasicAuth => EntityKind::BasicAuth,
        Kind::Plugin => EntityKind::Plugin,
    };
    Some(Wire { kind, bytes: entity.json().get().as_bytes().to_vec().into() })
}

pub fn body(value: serde_json::Value) -> Body {
    serde_json::from_value(value).unwrap()
}

pub fn create_service(name: &str) -> Change {
    let body = body(json!({"name": name, "host": "example.com"}));
    Change { kind: Kind::Service, op: Op::Create(body), parent: None }
}

pub fn change(kind: Kind, op: Op) -> Change {
    Change { kind, op, parent: None }
}

pub fn key(name: &str) -> Key {
    Key::Name(name.to_owned())
}

pub fn author() -> Author {
    Author { name: "127.0.0.1".into(), what: "POST /services".into() }
}

/// What all stores are encrypted with.
pub fn keys() -> SealKeys {
    keys_of(&["5a"])
}

/// Keys of one byte each, in hexadecimal digits.
pub fn keys_of(bytes: &[&str]) -> SealKeys {
    let text: Vec<_> = bytes.iter().map(|byte| byte.repeat(32)).collect();
    SealKeys::parse(&text.join("\n"), "the test's file").unwrap()
}

/// sled's copy.
pub fn rows(directory: &Path) -> PathBuf {
    directory.join(format!("rows-{}", keys().first()))
}

pub fn open(directory: &Path) -> Result<Store, OpenError> {
    Store::open(StoreSettings::new(directory), keys(), encode)
}

pub async fn commit(store: &Store, change: Change) -> Result<Committed, CommitError> {
    store.commit(change, author()).await
}

/// Commits services `<prefix>-<n>` one after the other.
pub async fn fill(store: &Store, prefix: &str, count: usize) {
    for n in 0..count {
        commit(store, create_service(&format!("{prefix}-{n}"))).await.unwrap();
    }
}

/// Names of all services, sorted.
pub fn names(store: &Store) -> Vec<String> {
    let head = store.head();
    let mut names: Vec<_> =
        head.config.iter(Kind::Service).map(|e| e.body()["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The sum over the wires that readers see.
pub fn hash_of(wires: &imbl::OrdMap<(EntityKind, Uuid), Bytes>) -> equipoise_proto::ContentHash {
    let mut hash = equipoise_proto::ContentHash::EMPTY;
    wires.iter().for_each(|((kind, id), bytes)| hash.add(*kind, *id, bytes));
    hash
}

/// What a killed process would leave behind: the files as they are now, without the lock.
pub fn copy_directory(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), &target) {
            // sled replaces its snapshot files in the background.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", entry.path().display());
        }
    }
}

/// Files in `directory` whose name begins so, sorted.
pub fn files(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let matches = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    let mut found: Vec<_> = entries.filter(matches).collect();
    found.sort();
    found
}

pub fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

pub fn truncate(path: &Path, length: usize) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..length]).unwrap();
}
