//! Two network namespaces with two wires between them: one for the cluster, which rows break, and one for those who watch.
//!
//! A test that needs them runs once more within new namespaces of its own, so that no interface of the host is ever touched. Where
//! these are not permitted it is skipped, and says so, in CI as well: each of these rows has a variant over the relay of the
//! harness, which needs no permission.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command};

use equipoise_tests::{PATIENCE, Way, eventually};

/// Set within the namespaces.
const INSIDE: &str = "EQUIPOISE_TEST_NAMESPACE";

/// Here, on the wire of the cluster.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// Over there, on the same wire.
const THERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// Here, on the wire of those who watch.
const WATCHED_HERE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// Over there, on the same wire.
const WATCHED_THERE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

/// Where [`HERE`] and [`THERE`] are found, and where nobody is.
const MACS: [&str; 3] = ["02:00:00:00:01:01", "02:00:00:00:01:02", "02:00:00:00:01:99"];

/// The namespace that we are in, another one, and what is between them.
pub(crate) struct Network {
    /// Keeps the other namespace.
    holder: Child,
}

/// Runs a row of this name within namespaces, unless they are not permitted.
pub(crate) fn within(name: &str, row: impl FnOnce(&Network)) {
    if std::env::var_os(INSIDE).is_some() {
        return row(&Network::new());
    }
    let inside = ["--user", "--map-root-user", "--net", "--"];
    let tried =
        Command::new("unshare").args(inside).args(["ip", "link", "add", "c0", "type", "veth"]).output();
    match tried {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return eprintln!(
                "skipped {name}: no network namespaces: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Err(error) => return eprintln!("skipped {name}: no network namespaces: {error}"),
    }
    let again = Command::new("unshare")
        .args(inside)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout).into_owned() + &String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
}

impl Network {
    fn new() -> Self {
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let holder = Command::new("unshare").args(["--net", "--", "sleep", "600"]).spawn().unwrap();
        let other = Path::new("/proc").join(holder.id().to_string()).join("ns/net");
        eventually("the other namespace", PATIENCE, || {
            (std::fs::read_link(&other).ok()? != own).then_some(())
        });
        let network = Self { holder };
        network.here("ip link set lo up");
        network.there("ip link set lo up");
        network.lay(["c0", "c1"], [HERE, THERE], [MACS[0], MACS[1]]);
        network.lay(["w0", "w1"], [WATCHED_HERE, WATCHED_THERE], ["02:00:00:00:02:01", "02:00:00:00:02:02"]);
        network
    }

    fn lay(&self, [near, far]: [&str; 2], [here, there]: [Ipv4Addr; 2], [near_mac, far_mac]: [&str; 2]) {
        let pid = self.holder.id();
        self.here(&format!(
            "ip link add {near} address {near_mac} type veth peer name {far} address {far_mac}"
        ));
        self.here(&format!("ip link set {far} netns {pid}"));
        self.here(&format!("ip address add {here}/24 dev {near}"));
        self.there(&format!("ip address add {there}/24 dev {far}"));
        self.here(&format!("ip link set {near} up"));
        self.there(&format!("ip link set {far} up"));
    }

    /// An address here that processes over there reach over the wire of the cluster.
    pub(crate) fn cluster(&self) -> SocketAddr {
        SocketAddr::from((HERE, 0))
    }

    /// An address here that they reach whatever happens to it.
    pub(crate) fn here_for_all(&self) -> SocketAddr {
        SocketAddr::from((WATCHED_HERE, 0))
    }

    /// Where processes over there listen, so that they can be watched.
    pub(crate) fn listen_there(&self) -> String {
        SocketAddr::from((WATCHED_THERE, 0)).to_string()
    }

    /// A script that starts a process over there.
    pub(crate) fn script(&self) -> String {
        format!("exec nsenter --net=/proc/{}/ns/net -- \"$@\"", self.holder.id())
    }

    /// Takes the interface of the cluster down, or up again.
    pub(crate) fn link(&self, state: &str) {
        self.here(&format!("ip link set c0 {state}"));
    }

    /// What is sent one way gets lost: it goes to an address that nobody has.
    pub(crate) fn lose(&self, way: Way) {
        self.send(way, MACS[2], MACS[2]);
    }

    /// It arrives again.
    pub(crate) fn deliver(&self, way: Way) {
        self.send(way, MACS[0], MACS[1]);
    }

    fn send(&self, way: Way, to_here: &str, to_there: &str) {
        let neighbour = |address, mac: &str, interface| {
            format!("ip neighbour replace {address} lladdr {mac} nud permanent dev {interface}")
        };
        match way {
            Way::There => self.there(&neighbour(HERE, to_here, "c1")),
            Way::Back => self.here(&neighbour(THERE, to_there, "c0")),
        }
    }

    fn here(&self, command: &str) {
        let words: Vec<_> = command.split(' ').collect();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn there(&self, command: &str) {
        self.here(&format!("nsenter --net=/proc/{}/ns/net -- {command}", self.holder.id()));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
