//! What every scenario has: both planes, origins behind `/mock`, and ways to ask and to count.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::{Client, Origin, PATIENCE, Response, eventually};
use serde_json::{Value, json};

/// One failure is enough, and nothing but a word by hand brings back.
pub(crate) const PASSIVE: &str = "&healthchecks.passive.unhealthy.tcp_failures=1";

/// Both planes and the origins of upstream `u`.
pub(crate) struct World {
    pub(crate) admin: Client,
    pub(crate) origins: Vec<Origin>,
    standalone: Standalone,
}

impl World {
    /// Origins `0`, `1` and so on behind `/mock`, each with these tags.
    pub(crate) fn with(arguments: &'static [&'static str], upstream: &str, tags: &[&[&str]]) -> Self {
        let standalone = Standalone::start_with(arguments).unwrap();
        let admin = standalone.process().client("admin");
        let mut world = Self { admin, origins: Vec::new(), standalone };
        write(&mut world.admin, "POST", "/upstreams", &format!("name=u{upstream}"), 201);
        tags.iter().for_each(|tags| world.add(tags));
        write(&mut world.admin, "POST", "/services", "name=s&host=u", 201);
        write(&mut world.admin, "POST", "/services/s/routes", "name=r&paths[]=/mock&strip_path=false", 201);
        world
    }

    /// So many origins, without tags.
    pub(crate) fn of(upstream: &str, count: usize) -> Self {
        Self::with(&[], upstream, &vec![&[][..]; count])
    }

    /// One more origin.
    pub(crate) fn add(&mut self, tags: &[&str]) {
        let origin = Origin::start(&self.origins.len().to_string());
        let target = json!({"target": origin.address().to_string(), "tags": tags});
        self.send("POST", "/upstreams/u/targets", &target, 201);
        self.origins.push(origin);
    }

    /// Asks both planes to stop, and waits until the proxy takes no more connections.
    pub(crate) fn terminate(&self) {
        self.standalone.process().terminate();
        let address = self.address();
        eventually("the listener to close", PATIENCE, || TcpStream::connect(address).err().map(drop));
    }

    /// Starts both planes again on what they had, and waits until they serve.
    pub(crate) fn restart(&mut self) {
        self.standalone.kill();
        self.standalone.start_again().unwrap();
        self.admin = self.standalone.process().client("admin");
        let mut client = self.client();
        eventually("it to serve again", PATIENCE, || (client.get("/mock").ok()?.status == 200).then_some(()));
    }

    /// Writes, and waits until the node has it.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &Value, want: u16) {
        let answer = self.admin.json(method, &format!("{path}?wait=applied"), body).unwrap();
        assert_eq!(answer.status, want, "{method} {path} {body}: {}", answer.text());
    }

    /// Replaces the policy.
    pub(crate) fn policy(&mut self, policy: &Value) {
        self.send("PUT", "/upstreams/u/policy", policy, 200);
    }

    /// Changes part of the policy.
    pub(crate) fn patch(&mut self, part: &Value) {
        self.send("PATCH", "/upstreams/u/policy", part, 200);
    }

    pub(crate) fn tag(&mut self, origin: usize, tags: &[&str]) {
        let path = format!("/upstreams/u/targets/{}", self.origins[origin].address());
        self.send("PATCH", &path, &json!({"tags": tags}), 200);
    }

    /// Sets the health of an origin by hand, and waits until the node has it.
    pub(crate) fn set_health(&mut self, origin: usize, word: &str) {
        let address = self.origins[origin].address().to_string();
        let path = format!("/upstreams/u/targets/{address}/{word}");
        assert_eq!(self.admin.send("PUT", &path, &[], &[]).unwrap().status, 204, "{path}");
        self.wait_for_health(origin, word);
    }

    /// Waits until the node has reported that an origin is `healthy` or `unhealthy`.
    pub(crate) fn wait_for_health(&mut self, origin: usize, word: &str) {
        let address = self.origins[origin].address().to_string();
        let admin = &mut self.admin;
        eventually("the node to report it", PATIENCE, || {
            let list = admin.get("/upstreams/u/health").ok()?.json();
            let rows = list["data"].as_array()?;
            let row = rows.iter().find(|row| row["target"] == address)?;
            (row["health"] == word.to_uppercase()).then_some(())
        });
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.standalone.process().address("proxy")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address())
    }

    /// Requests that run at the same time, each on a connection of its own.
    pub(crate) fn at_once(&self, count: usize, headers: &'static [(&str, &str)]) -> Vec<Pending> {
        let address = self.address();
        let ask = move || Client::new(address).send("GET", "/mock", headers, b"").unwrap();
        (0..count).map(|_| std::thread::spawn(ask)).collect()
    }

    /// Who answers so many requests, one after the other; all are answered well.
    pub(crate) fn shares(&self, requests: usize) -> BTreeMap<String, usize> {
        let mut client = self.client();
        let mut shares = BTreeMap::new();
        for _ in 0..requests {
            *shares.entry(name(&client.get("/mock").unwrap())).or_default() += 1;
        }
        shares
    }

    /// Of the node's metrics, the one whose line begins so.
    pub(crate) fn metric(&self, begin: &str) -> u64 {
        self.standalone.process().metric(begin)
    }

    /// Waits until the metric whose line begins so has this value.
    pub(crate) fn wait_for(&self, begin: &str, want: u64) {
        eventually(begin, PATIENCE, || (self.metric(begin) == want).then_some(()));
    }

    /// Waits until so many requests have arrived at all origins together.
    pub(crate) fn wait_for_requests(&self, want: u64) {
        eventually("requests to arrive", PATIENCE, || {
            let arrived = self.requests();
            assert!(arrived <= want, "{arrived} requests, not {want}");
            (arrived == want).then_some(())
        });
    }

    pub(crate) fn requests(&self) -> u64 {
        self.origins.iter().map(Origin::requests).sum()
    }
}

/// A request under way.
pub(crate) type Pending = JoinHandle<Response>;

/// Who gave a good answer.
pub(crate) fn name(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["name"].as_str().unwrap().to_owned()
}

/// `{name: count}`, of a few names.
pub(crate) fn all_to<const N: usize>(shares: [(&str, usize); N]) -> BTreeMap<String, usize> {
    shares.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

pub(crate) fn join(pending: Vec<Pending>) -> Vec<Response> {
    pending.into_iter().map(|one| one.join().unwrap()).collect()
}
