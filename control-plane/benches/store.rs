//! Durable commits a second with 32 concurrent committers, on the disk under the system's temporary directory
//! (`TMPDIR` chooses another). Prints the figure beside that of bare append + fdatasync on the same disk.

#![allow(missing_docs, reason = "a bench")]
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::io::Write as _;
use std::time::{Duration, Instant};

use equipoise_control_plane::model::{Change, Entity, Kind, Op};
use equipoise_control_plane::store::{Author, Store, StoreSettings, Wire};
use equipoise_identity::SealKeys;
use equipoise_proto::EntityKind;
use serde_json::json;

const COMMITTERS: usize = 32;
const COMMITS_EACH: usize = 3_125;
const BOOTS: usize = 9;

fn encode(entity: &Entity) -> Option<Wire> {
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

fn keys() -> SealKeys {
    SealKeys::parse(&"5a".repeat(32), "the bench").expect("a key")
}

fn service(name: String) -> Change {
    let fields = [("name", json!(name)), ("host", json!("example.com"))];
    let body = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Change { kind: Kind::Service, op: Op::Create(body), parent: None }
}

fn bare_syncs() -> f64 {
    let mut file = tempfile::tempfile().expect("a temporary file");
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < Duration::from_secs(2) {
        file.write_all(&[7; 512]).and_then(|()| file.sync_data()).expect("the disk works");
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

fn main() {
    println!("bare append of 512 bytes + fdatasync, one at a time: {:.0}/s", bare_syncs());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(StoreSettings::new(directory.path()), keys(), encode).expect("the store opens");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let began = Instant::now();
    let mut waits = runtime.block_on(async {
        let tasks: Vec<_> = (0..COMMITTERS)
            .map(|committer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut waits = Vec::with_capacity(COMMITS_EACH);
                    for n in 0..COMMITS_EACH {
                        let began = Instant::now();
                        let change = service(format!("svc-{committer}-{n}"));
                        store.commit(change, Author::default()).await.expect("it commits");
                        waits.push(began.elapsed());
                    }
                    waits
                })
            })
            .collect();
        let mut waits = Vec::new();
        for task in tasks {
            waits.extend(task.await.expect("no committer panics"));
        }
        waits
    });
    let took = began.elapsed();
    waits.sort();
    let rate = f64::from(u32::try_from(waits.len()).expect("few")) / took.as_secs_f64();
    let (p50, p99) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    println!("{COMMITTERS} committers: {rate:.0} durable commits/s, p50 {p50:?}, p99 {p99:?}");
    runtime.block_on(store.close());
    let mut boots: Vec<_> = (0..BOOTS)
        .map(|_| {
            let began = Instant::now();
            let store =
                Store::open(StoreSettings::new(directory.path()), keys(), encode).expect("the store opens");
            let took = began.elapsed();
            assert_eq!(store.head().config.len(), COMMITTERS * COMMITS_EACH, "nothing is lost");
            runtime.block_on(store.close());
            took
        })
        .collect();
    boots.sort();
    println!("{BOOTS} boots with {} entities: p50 {:?}", COMMITTERS * COMMITS_EACH, boots[BOOTS / 2]);
}
