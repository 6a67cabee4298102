//! Names through the real binary, asked of a real name server whose answers change, fail, stay away and are cut off.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::dns::{Fault, a, aaaa, cname, srv};
use equipoise_tests::{Client, Load, NameServer, Origin, PATIENCE, Response, eventually};
use serde_json::Value;

/// Requests between two steps of a scenario.
const SOME: u64 = 50;

/// Both planes, with a name server of their own.
struct Setup {
    dns: NameServer,
    standalone: Standalone,
}

impl Setup {
    /// Asks quickly and gives up quickly, but for what `more` says.
    fn start(more: &[(&str, &str)]) -> Self {
        let dns = NameServer::start();
        let server = dns.address().to_string();
        let mut variables = BTreeMap::from([
            ("KONG_DNS_RESOLVER", &*server),
            ("LOCALDOMAIN", "suffix.test"),
            ("RES_OPTIONS", "timeout:1 attempts:1"),
            ("EQUIPOISE_DNS_TTL_MIN", "100ms"),
            ("KONG_DNS_ERROR_TTL", "100ms"),
        ]);
        variables.extend(more.iter().copied());
        let exports: String =
            variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        let standalone = Standalone::start_by(&format!("{exports}exec \"$@\"")).unwrap();
        Self { dns, standalone }
    }

    fn admin(&self) -> Client {
        self.standalone.process().client("admin")
    }

    fn proxy(&self) -> Client {
        self.standalone.process().client("proxy")
    }

    fn load(&self, path: &str) -> Load {
        Load::start(self.standalone.process().address("proxy"), 2, "GET", path)
    }

    /// An upstream with these targets, behind the path of its name.
    fn publish(&self, upstream: &str, targets: &[&str]) {
        let mut admin = self.admin();
        write(&mut admin, "POST", "/upstreams", &format!("name={upstream}"), 201);
        for target in targets {
            write(
                &mut admin,
                "POST",
                &format!("/upstreams/{upstream}/targets"),
                &format!("target={target}"),
                201,
            );
        }
        self.route(upstream, upstream, 80);
    }

    /// A service of this host, behind the path `/{name}`.
    fn route(&self, name: &str, host: &str, port: u16) {
        let mut admin = self.admin();
        write(&mut admin, "POST", "/services", &format!("name={name}&host={host}&port={port}"), 201);
        write(&mut admin, "POST", &format!("/services/{name}/routes"), &format!("paths[]=/{name}"), 201);
    }

    /// The first target of an upstream, as the Admin API shows its health.
    fn health(&self, upstream: &str) -> Value {
        let answer = self.admin().get(&format!("/upstreams/{upstream}/health")).unwrap();
        answer.json()["data"][0].clone()
    }

    fn wait_for_health(&self, upstream: &str, want: &str) {
        eventually(&format!("{upstream} to be {want}"), PATIENCE, || {
            (self.health(upstream)["health"] == want).then_some(())
        });
    }

    /// Waits until the name server was asked `more` further questions of this kind.
    fn wait_for_questions(&self, name: &str, kind: &str, more: usize) {
        let goal = self.dns.asked(name, kind) + more;
        eventually(&format!("{name} {kind} to be asked for"), PATIENCE, || {
            (self.dns.asked(name, kind) >= goal).then_some(())
        });
    }
}

/// Origins of the same port on 127.0.0.2 and the addresses after it, each called by its address.
fn alike(count: u8) -> Vec<Origin> {
    let mut origins = Vec::new();
    let mut port = 0;
    for last in 2..2 + count {
        let origin =
            Origin::start_at(&format!("127.0.0.{last}"), SocketAddr::from(([127, 0, 0, last], port)));
        port = origin.address().port();
        origins.push(origin);
    }
    origins
}

fn name_at(proxy: &mut Client, path: &str) -> String {
    let answer = proxy.get(path).unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()["name"].as_str().unwrap().to_owned()
}

/// Who answered of `requests` requests.
fn shares(proxy: &mut Client, path: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        *shares.entry(name_at(proxy, path)).or_default() += 1;
    }
    shares
}

/// Waits until all requests end at `want`.
fn wait_for_name(proxy: &mut Client, path: &str, want: &str) {
    eventually(&format!("{path} to lead to {want}"), PATIENCE, || {
        shares(proxy, path, 4).keys().eq([want]).then_some(())
    });
}

#[test]
fn every_kind_of_name_leads_to_its_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 hosted.test\n").unwrap();
    let setup = Setup::start(&[("KONG_DNS_HOSTSFILE", hosts.to_str().unwrap())]);
    let four = alike(1).remove(0);
    let six = Origin::start_at("six", "[::1]:0".parse().unwrap());
    let loopback = Origin::start("loopback");
    let dns = &setup.dns;
    dns.set("a.test", 60, [a("127.0.0.2")]);
    dns.set("aaaa.test", 60, [aaaa("::1")]);
    dns.set("Both.Test", 60, [a("127.0.0.2"), aaaa("::1")]);
    dns.set("chain.test", 60, [cname("link.test")]);
    dns.set("link.test", 60, [cname("a.test")]);
    dns.set("bare.test", 60, [cname("aaaa.test")]);
    dns.fail("bare.test", Fault::BareCname);
    dns.set("hosted.test", 60, [a("127.0.0.9")]);
    let (p4, p6, pl) = (four.address().port(), six.address().port(), loopback.address().port());
    for (upstream, host, port, kind, want) in [
        ("a", "a.test", p4, "A", "127.0.0.2"),
        ("aaaa", "aaaa.test", p6, "AAAA", "six"),
        ("both", "bOTH.tEST", p4, "A", "127.0.0.2"),
        ("chain", "chain.test", p4, "A", "127.0.0.2"),
        ("bare", "bare.test", p6, "AAAA", "six"),
        ("hosted", "hosted.test", p4, "A", "127.0.0.2"),
        ("localhost", "localhost", pl, "A", "loopback"),
        ("below", "api.localhost", pl, "A", "loopback"),
        ("six", "[::1]", p6, "", "six"),
    ] {
        setup.publish(upstream, &[&format!("{host}:{port}")]);
        assert_eq!(name_at(&mut setup.proxy(), &format!("/{upstream}")), want, "{upstream}");
        if !kind.is_empty() {
            // The node reports it a moment after it has it.
            eventually(&format!("{upstream} to be known by {kind}"), PATIENCE, || {
                (setup.health(upstream)["data"]["dns"] == kind).then_some(())
            });
        }
    }
    // Without an upstream it is the same.
    setup.route("plain", "a.test", p4);
    assert_eq!(name_at(&mut setup.proxy(), "/plain"), "127.0.0.2");
    assert_eq!(dns.asked("a.test", "A"), 1, "once for all who use it");
    assert_eq!(dns.asked("a.test", "AAAA"), 0, "there is an address");
    let of_own = dns.questions().into_iter().find(|asked| {
        asked.name.contains("localhost") || asked.name.contains("hosted") || asked.kind == "SRV"
    });
    assert_eq!(of_own, None, "nobody needs to be asked for these");
}

#[test]
fn of_srv_records_the_best_priority_serves_by_weight_on_the_ports_of_the_records() {
    let setup = Setup::start(&[]);
    let origins = ["light", "heavy", "second"].map(Origin::start);
    let [light, heavy, second] = origins.each_ref().map(|origin| origin.address().port());
    let dns = &setup.dns;
    dns.set("host.test", 0, [a("127.0.0.1")]);
    let best = [srv(1, 10, light, "host.test"), srv(1, 30, heavy, "host.test")];
    let worse = srv(2, 1000, second, "host.test");
    dns.set("_web._tcp.test", 0, best.iter().cloned().chain([worse.clone()]));
    setup.publish("web", &["_web._tcp.test:1"]);
    let mut proxy = setup.proxy();
    let got = shares(&mut proxy, "/web", 80);
    assert_eq!(got, BTreeMap::from([("light".to_owned(), 20), ("heavy".to_owned(), 60)]));
    // A port of 0 is the target's own, a weight of 0 counts as 1.
    dns.set("_own._tcp.test", 0, [srv(1, 0, 0, "host.test"), srv(1, 3, second, "host.test")]);
    setup.publish("own", &[&format!("_own._tcp.test:{light}")]);
    let got = shares(&mut proxy, "/own", 80);
    assert_eq!(got, BTreeMap::from([("light".to_owned(), 20), ("second".to_owned(), 60)]));
    // The best is gone: the next best serves. And back.
    let load = setup.load("/web");
    load.wait_for(SOME);
    dns.set("_web._tcp.test", 0, [worse.clone()]);
    wait_for_name(&mut proxy, "/web", "second");
    dns.set("_web._tcp.test", 0, [best[0].clone(), worse]);
    wait_for_name(&mut proxy, "/web", "light");
    load.wait_for(SOME);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    // Names that are no service's are asked for addresses only, unless the order says otherwise.
    assert_eq!(dns.asked("host.test", "SRV"), 0);
}

#[test]
fn with_srv_in_the_order_any_name_may_be_a_service() {
    let setup = Setup::start(&[("KONG_DNS_ORDER", "LAST,SRV,A,CNAME")]);
    let only = alike(1).remove(0);
    let port = only.address().port();
    setup.dns.set("host.test", 0, [a("127.0.0.2")]);
    setup.dns.set("web.service.test", 0, [srv(1, 1, port, "host.test")]);
    setup.publish("web", &["web.service.test:1"]);
    setup.publish("host", &[&format!("host.test:{port}")]);
    for path in ["/web", "/host"] {
        assert_eq!(name_at(&mut setup.proxy(), path), "127.0.0.2");
    }
    assert!(setup.dns.questions().iter().all(|asked| asked.kind != "AAAA"), "it is not in the order");
}

#[test]
fn suffixes_are_tried_in_the_order_of_the_resolver() {
    let setup = Setup::start(&[
        ("LOCALDOMAIN", "one.test two.test"),
        ("RES_OPTIONS", "ndots:2 timeout:1 attempts:1"),
        ("EQUIPOISE_DNS_TTL_MIN", "1h"),
    ]);
    let only = alike(1).remove(0);
    let port = only.address().port();
    for name in ["api.two.test", "a.b.test", "c.d.e.two.test", "dot.test"] {
        setup.dns.set(name, 3600, [a("127.0.0.2")]);
    }
    for (upstream, name, want) in [
        ("short", "api", &["api.one.test", "api.two.test"][..]),
        ("bare", "a.b.test", &["a.b.test"]),
        ("long", "c.d.e", &["c.d.e", "c.d.e.one.test", "c.d.e.two.test"]),
        ("few", "dot.test", &["dot.test.one.test", "dot.test.two.test", "dot.test"]),
        ("dotted", "dot.test.", &["dot.test"]),
    ] {
        let before = setup.dns.questions().len();
        setup.publish(upstream, &[&format!("{name}:{port}")]);
        assert_eq!(name_at(&mut setup.proxy(), &format!("/{upstream}")), "127.0.0.2", "{name}");
        let asked = setup.dns.questions().split_off(before);
        let names: Vec<_> = asked.iter().map(|question| &*question.name).collect();
        assert_eq!(names, want, "{name}");
    }
}

#[test]
fn a_changing_answer_moves_traffic_and_fails_no_request() {
    let setup = Setup::start(&[]);
    let origins = alike(3);
    let port = origins[0].address().port();
    setup.dns.set("app.test", 0, [a("127.0.0.2")]);
    setup.publish("app", &[&format!("app.test:{port}")]);
    let load = setup.load("/app");
    load.wait_for(SOME);
    let mut proxy = setup.proxy();
    for want in ["127.0.0.3", "127.0.0.4", "127.0.0.2", "127.0.0.3"] {
        setup.dns.set("app.test", 0, [a(want)]);
        wait_for_name(&mut proxy, "/app", want);
    }
    setup.dns.set("app.test", 0, ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(a));
    eventually("all addresses to be taken", PATIENCE, || {
        (shares(&mut proxy, "/app", 6).len() == 3).then_some(())
    });
    load.wait_for(SOME);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}

#[test]
fn the_last_good_answer_serves_while_there_is_no_better_one() {
    let setup = Setup::start(&[("KONG_DNS_NOT_FOUND_TTL", "200ms")]);
    let origins = alike(2);
    let port = origins[0].address().port();
    let faults = [
        ("servfail", Some(Fault::ServFail)),
        ("refused", Some(Fault::Refused)),
        ("silence", Some(Fault::Silence)),
        ("empty", None),
    ];
    let name = |upstream: &str| format!("{upstream}.test");
    let mut loads = Vec::new();
    for (upstream, _) in faults {
        setup.dns.set(&name(upstream), 0, [a("127.0.0.2")]);
        setup.publish(upstream, &[&format!("{}:{port}", name(upstream))]);
        loads.push(setup.load(&format!("/{upstream}")));
    }
    loads.iter().for_each(|load| load.wait_for(SOME));
    for (upstream, fault) in faults {
        match fault {
            Some(fault) => setup.dns.fail(&name(upstream), fault),
            None => setup.dns.set(&name(upstream), 0, []),
        }
    }
    for (upstream, _) in faults {
        setup.wait_for_questions(&name(upstream), "A", 3);
        assert_eq!(name_at(&mut setup.proxy(), &format!("/{upstream}")), "127.0.0.2", "{upstream}");
        assert_eq!(setup.health(upstream)["data"]["dns"], "A", "{upstream}");
    }
    // It takes the next good one as soon as there is one.
    for (upstream, _) in faults {
        setup.dns.set(&name(upstream), 0, [a("127.0.0.3")]);
        setup.dns.mend(&name(upstream));
        wait_for_name(&mut setup.proxy(), &format!("/{upstream}"), "127.0.0.3");
    }
    for load in loads {
        let tally = load.stop();
        assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    }
}

#[test]
fn a_request_waits_for_the_first_answer_of_its_name() {
    let setup = Setup::start(&[]);
    let only = alike(1).remove(0);
    setup.dns.set("first.test", 60, [a("127.0.0.2")]);
    setup.dns.fail("first.test", Fault::Silence);
    setup.publish("first", &[&format!("first.test:{}", only.address().port())]);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let mut proxy = setup.proxy();
            std::thread::spawn(move || name_at(&mut proxy, "/first"))
        })
        .collect();
    eventually("the name to be asked for", PATIENCE, || {
        (setup.dns.asked("first.test", "A") > 0).then_some(())
    });
    setup.dns.mend("first.test");
    for one in waiting {
        assert_eq!(one.join().unwrap(), "127.0.0.2");
    }
}

#[test]
fn one_name_server_of_several_is_enough() {
    // A port that nobody listens on, since the server that had it is gone.
    let dead = NameServer::start().address();
    let other = NameServer::start();
    for (name, first) in [("dead", dead), ("refusing", other.address())] {
        let server = NameServer::start();
        let both = format!("{first}, {}", server.address());
        let setup = Setup::start(&[("KONG_DNS_RESOLVER", &both)]);
        let only = alike(1).remove(0);
        server.set("app.test", 0, [a("127.0.0.2")]);
        other.fail("app.test", Fault::Refused);
        setup.publish("app", &[&format!("app.test:{}", only.address().port())]);
        assert_eq!(name_at(&mut setup.proxy(), "/app"), "127.0.0.2", "{name}");
    }
}

#[test]
fn an_answer_that_is_too_old_serves_no_longer() {
    let setup = Setup::start(&[("KONG_DNS_STALE_TTL", "0"), ("KONG_DNS_NOT_FOUND_TTL", "200ms")]);
    let only = alike(1).remove(0);
    let port = only.address().port();
    setup.dns.set("old.test", 0, [a("127.0.0.2")]);
    setup.publish("old", &[&format!("old.test:{port}")]);
    setup.route("plain", "old.test", port);
    let mut proxy = setup.proxy();
    assert_eq!(name_at(&mut proxy, "/old"), "127.0.0.2");
    setup.dns.fail("old.test", Fault::ServFail);
    setup.wait_for_health("old", "DNS_ERROR");
    wait_for_status(&mut proxy, "/old", 503);
    wait_for_status(&mut proxy, "/plain", 500);
    setup.dns.mend("old.test");
    wait_for_status(&mut proxy, "/old", 200);
    wait_for_status(&mut proxy, "/plain", 200);
}

/// Waits for an answer of this status: an answer for a name reaches one cell after the other.
fn wait_for_status(proxy: &mut Client, path: &str, want: u16) -> Response {
    eventually(&format!("{path} to be answered {want}"), PATIENCE, || {
        proxy.get(path).ok().filter(|answer| answer.status == want)
    })
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let setup = Setup::start(&[]);
    let addresses = |count: u8| (1..=count).map(|last| a(&format!("10.0.0.{last}")));
    // One is cut off although it would fit, the other because it does not fit.
    setup.dns.set("cut.test", 60, addresses(3));
    setup.dns.fail("cut.test", Fault::Truncated);
    setup.dns.set("long.test", 60, addresses(100));
    for (upstream, count) in [("cut", 3), ("long", 100)] {
        let name = format!("{upstream}.test");
        setup.publish(upstream, &[&format!("{name}:80")]);
        eventually("all addresses to be listed", PATIENCE, || {
            let health = setup.health(upstream);
            (health["data"]["addresses"].as_array()?.len() == count).then_some(())
        });
        let transports: Vec<_> = setup
            .dns
            .questions()
            .iter()
            .filter(|asked| asked.name == name)
            .map(|asked| asked.is_tcp)
            .collect();
        assert_eq!(transports, [false, true], "{upstream}");
    }
}

#[test]
fn a_name_comes_alive_when_it_appears_and_is_gone_when_it_is_gone() {
    let setup = Setup::start(&[]);
    let only = alike(1).remove(0);
    let port = only.address().port();
    // The zone says how long its word holds, and that is less than `dns.not_found_ttl`.
    setup.dns.set_nothing_ttl(0);
    setup.publish("late", &[&format!("late.test:{port}")]);
    setup.route("plain", "late.test", port);
    let mut proxy = setup.proxy();
    for _ in 0..2 {
        setup.wait_for_health("late", "DNS_ERROR");
        wait_for_status(&mut proxy, "/late", 503);
        let answer = wait_for_status(&mut proxy, "/plain", 503);
        assert!(answer.text().contains("name resolution failed"), "{}", answer.text());
        setup.dns.set("late.test", 0, [a("127.0.0.2")]);
        wait_for_status(&mut proxy, "/late", 200);
        wait_for_status(&mut proxy, "/plain", 200);
        setup.wait_for_health("late", "HEALTHCHECKS_OFF");
        // No stale answer stands against the word of a server that there is no such name.
        setup.dns.remove("late.test");
    }
    assert_eq!(setup.dns.asked("late.test", "AAAA"), 0, "it has no record of any type");
}

#[test]
fn a_changed_name_rebuilds_only_the_upstreams_that_use_it() {
    let setup = Setup::start(&[("EQUIPOISE_LOG_LEVEL", "debug")]);
    let origins = alike(2);
    let port = origins[0].address().port();
    for name in ["one.test", "two.test"] {
        setup.dns.set(name, 0, [a("127.0.0.2")]);
    }
    for (upstream, host) in [("first", "one.test"), ("second", "one.test"), ("other", "two.test")] {
        setup.publish(upstream, &[&format!("{host}:{port}")]);
        assert_eq!(name_at(&mut setup.proxy(), &format!("/{upstream}")), "127.0.0.2");
    }
    let id = |upstream: &str| {
        let answer = setup.admin().get(&format!("/upstreams/{upstream}")).unwrap().json();
        answer["id"].as_str().unwrap().to_owned()
    };
    let rebuilds = |upstream: &str| {
        let (log, id) = (setup.standalone.process().log(), id(upstream));
        log.lines().filter(|line| line.contains("rebuilt for an answer") && line.contains(&id)).count()
    };
    setup.dns.set("one.test", 0, [a("127.0.0.3")]);
    for path in ["/first", "/second"] {
        wait_for_name(&mut setup.proxy(), path, "127.0.0.3");
    }
    // The same answers again rebuild nothing. The log comes a while after what it tells of.
    let looked_up = |name: &str| {
        let log = setup.standalone.process().log();
        log.lines().filter(|line| line.contains("looked up") && line.contains(name)).count()
    };
    for name in ["one.test", "two.test"] {
        let goal = setup.dns.asked(name, "A") + 3;
        eventually("the log to tell of further look-ups", PATIENCE, || {
            (looked_up(name) >= goal).then_some(())
        });
    }
    // Of the first, its first answer and the change; the second found an answer.
    assert_eq!(["first", "second", "other"].map(rebuilds), [2, 1, 1]);
}

#[test]
fn times_to_live_are_bounded_whatever_traffic_there_is() {
    /// A least pause that a loaded machine can tell apart.
    const LEAST: Duration = Duration::from_millis(400);
    let setup = Setup::start(&[("EQUIPOISE_DNS_TTL_MIN", "400ms"), ("EQUIPOISE_DNS_TTL_MAX", "400ms")]);
    let only = alike(1).remove(0);
    let port = only.address().port();
    let names = [("none", "none.test", 0), ("week", "week.test", 604_800)];
    let mut loads = Vec::new();
    let start = Instant::now();
    for (upstream, name, ttl) in names {
        setup.dns.set(name, ttl, [a("127.0.0.2")]);
        setup.publish(upstream, &[&format!("{name}:{port}")]);
        loads.push(setup.load(&format!("/{upstream}")));
    }
    for (_, name, _) in names {
        setup.wait_for_questions(name, "A", 3);
        let asked = setup.dns.asked(name, "A");
        let most = start.elapsed().as_millis() / LEAST.as_millis() + 1;
        assert!(asked as u128 <= most, "{name}: {asked} and not {most} at most");
    }
    for load in loads {
        let tally = load.stop();
        assert_eq!(tally.failed, 0, "{:?}", tally.failures);
        assert!(tally.succeeded() > SOME);
    }
}
