//! What every row begins with, and how it ends.

use equipoise_tests::cluster::balance;
use equipoise_tests::fleet::Fleet;
use equipoise_tests::{Client, Load, Origin, PATIENCE, Process, eventually};

/// Requests between two steps of a row.
pub(crate) const SOME: u64 = 100;

/// A control plane whose config leads to one target.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) origin: Origin,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// `more` goes to the control plane's command line.
    pub(crate) fn with(more: &[&str]) -> Self {
        Self::of(Fleet::start(more).unwrap(), Origin::start("only"))
    }

    pub(crate) fn of(fleet: Fleet, origin: Origin) -> Self {
        let world = Self { fleet, origin };
        balance(&mut world.admin(), "", &[world.origin.address()]);
        world
    }

    /// A client of the control plane's Admin API.
    pub(crate) fn admin(&self) -> Client {
        self.fleet.control().client("admin")
    }

    /// A new node that follows these, and serves.
    pub(crate) fn node(&self, name: &str, to: &[std::net::SocketAddr], more: &[&str]) -> Process {
        let node = self.fleet.new_node(name, to, more).unwrap();
        serves(&node);
        node
    }
}

/// Waits until a node answers.
pub(crate) fn serves(node: &Process) {
    let mut client = node.client("proxy");
    eventually("the node to serve", PATIENCE, || {
        client.get("/mock").is_ok_and(|answer| answer.status == 200).then_some(())
    });
}

/// Some clients of a node, under way.
pub(crate) fn load(node: &Process) -> Load {
    let load = Load::start(node.address("proxy"), 2, "GET", "/mock");
    load.wait_for(SOME);
    load
}

/// Ends a load, of which nothing may have failed until now.
pub(crate) fn unharmed(load: Load) {
    load.wait_for(SOME);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

/// Paths of about so many bytes, others for each number: they reach nodes, and do not shrink much when they are compressed.
pub(crate) fn paths(number: usize, bytes: usize) -> String {
    let path = |at: usize| {
        let hashes = (0..8).map(|part| blake3::hash(format!("{number} {at} {part}").as_bytes()).to_hex());
        hashes.fold(String::from("&paths[]=/"), |path, hash| path + &hash)
    };
    (0..bytes / 512).map(path).collect()
}

/// Changes something; gives its revision.
pub(crate) fn change(admin: &mut Client, tag: &str) -> u64 {
    change_to(admin, "/services/s", &format!("tags[]={tag}"))
}

/// Changes what is at a path of the Admin API; gives the revision.
pub(crate) fn change_to(admin: &mut Client, at: &str, form: &str) -> u64 {
    let answer = admin.form("PATCH", at, form).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("equipoise-revision").unwrap().parse().unwrap()
}

/// Waits until a node has a revision.
pub(crate) fn arrives(node: &Process, revision: u64) {
    eventually(&format!("revision {revision} to arrive"), PATIENCE, || {
        (node.metric("equipoise_config_revision") >= revision).then_some(())
    });
}

/// Whether a node says that it is connected.
pub(crate) fn is_connected(node: &Process) -> bool {
    let answer = node.client("status").get("/status").unwrap().json();
    answer["node"]["control_plane_connected"].as_bool().unwrap()
}

/// Waits until a node says that it is connected, or is not.
pub(crate) fn connection(node: &Process, is_there: bool) {
    eventually(&format!("connected to be {is_there}"), PATIENCE, || {
        (is_connected(node) == is_there).then_some(())
    });
}
