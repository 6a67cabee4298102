//! Each algorithm through the real binaries: configured by the Admin API, seen by clients.

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::collections::{BTreeMap, BTreeSet};

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::{Client, Load, Origin, PATIENCE, Response, eventually};

/// Origins behind `/mock`, balanced as `form` says.
fn balanced(standalone: &Standalone, form: &str, origins: &[Origin]) -> Client {
    let mut admin = standalone.process().client("admin");
    write(&mut admin, "POST", "/upstreams", &format!("name=u&{form}"), 201);
    for origin in origins {
        write(&mut admin, "POST", "/upstreams/u/targets", &format!("target={}", origin.address()), 201);
    }
    write(&mut admin, "POST", "/services", "name=s&host=u", 201);
    let routes = "name=r&paths[]=/mock&paths[]=~/items/(%3F<item>[0-9]%2B)&strip_path=false";
    write(&mut admin, "POST", "/services/s/routes?wait=applied", routes, 201);
    admin
}

fn origins(count: usize) -> Vec<Origin> {
    (0..count).map(|number| Origin::start(&format!("origin-{number}"))).collect()
}

fn name(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["name"].as_str().unwrap().to_owned()
}

/// Who answers each of `keys`, asked `times` times; it must always be the same.
fn owners(
    proxy: &mut Client,
    keys: usize,
    ask: impl Fn(usize) -> (String, Vec<(String, String)>),
) -> Vec<String> {
    (0..keys)
        .map(|key| {
            let (path, headers) = ask(key);
            let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            let names: BTreeSet<_> =
                (0..3).map(|_| name(&proxy.send("GET", &path, &headers, b"").unwrap())).collect();
            assert_eq!(names.len(), 1, "key {key}: {names:?}");
            names.into_iter().next().unwrap()
        })
        .collect()
}

#[test]
fn requests_of_one_key_go_to_one_target() {
    type Ask = fn(usize) -> (String, Vec<(String, String)>);
    let cases: [(&str, Ask); 4] = [
        ("hash_on=header&hash_on_header=x-tenant-id", |key| {
            ("/mock".to_owned(), vec![("X-Tenant-Id".to_owned(), format!("tenant-{key}"))])
        }),
        ("hash_on=query_arg&hash_on_query_arg=user", |key| (format!("/mock?user={key}"), Vec::new())),
        ("hash_on=path", |key| (format!("/mock/{key}"), Vec::new())),
        ("hash_on=uri_capture&hash_on_uri_capture=item", |key| (format!("/items/{key}"), Vec::new())),
    ];
    for (form, ask) in cases {
        let standalone = Standalone::start().unwrap();
        let mut origins = origins(4);
        balanced(&standalone, &format!("algorithm=consistent-hashing&{form}"), &origins);
        let mut proxy = standalone.process().client("proxy");
        let before = owners(&mut proxy, 40, ask);
        assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 4, "{form}: all get some");
        // One dies: no client sees an error, and only its keys move.
        origins[1].stop();
        let after = owners(&mut proxy, 40, ask);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || before == "origin-1" && after != "origin-1", "{form}");
        }
        origins[1].restart();
        assert_eq!(owners(&mut proxy, 40, ask), before, "{form}: they come back");
    }
}

#[test]
fn a_client_without_the_cookie_is_given_one_that_leads_it_back() {
    let standalone = Standalone::start().unwrap();
    let origins = origins(4);
    let form = "algorithm=consistent-hashing&hash_on=cookie&hash_on_cookie=stick&hash_on_cookie_path=/mock";
    balanced(&standalone, form, &origins);
    let mut proxy = standalone.process().client("proxy");
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let first = proxy.get("/mock").unwrap();
        let given = first.header("set-cookie").unwrap();
        let (cookie, attributes) = given.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/mock; SameSite=Lax; HttpOnly");
        for _ in 0..3 {
            let again = proxy.send("GET", "/mock", &[("Cookie", cookie)], b"").unwrap();
            assert_eq!(name(&again), name(&first));
            assert_eq!(again.header("set-cookie"), None, "it has one");
        }
        seen.insert(name(&first));
    }
    assert!(seen.len() > 1, "new clients are spread: {seen:?}");
}

#[test]
fn a_busy_target_gets_no_more_than_the_others() {
    let standalone = Standalone::start().unwrap();
    let origins = origins(3);
    balanced(&standalone, "algorithm=least-connections", &origins);
    let address = standalone.process().address("proxy");
    // All hang until every request has arrived somewhere, so that none comes later to the one that goes on hanging.
    origins.iter().for_each(Origin::hold);
    let stuck: Vec<_> = (0..9)
        .map(|_| std::thread::spawn(move || Client::new(address).get("/mock").unwrap().status))
        .collect();
    eventually("all requests to arrive", PATIENCE, || {
        (origins.iter().map(Origin::requests).sum::<u64>() == 9).then_some(())
    });
    let hanging = origins[0].requests();
    assert!(hanging >= 2, "{hanging} of 9 requests, dealt by who is least busy");
    origins[1].release();
    origins[2].release();
    let is_over = || stuck.iter().filter(|one| one.is_finished()).count() as u64 == 9 - hanging;
    eventually("the others to be answered", PATIENCE, || is_over().then_some(()));
    // Everybody else goes round it.
    let mut proxy = standalone.process().client("proxy");
    let mut counts = BTreeMap::new();
    for _ in 0..60 {
        *counts.entry(name(&proxy.get("/mock").unwrap())).or_insert(0) += 1;
    }
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["origin-1", "origin-2"], "{counts:?}");
    assert!(counts.values().all(|count| *count >= 20), "{counts:?}");
    assert_eq!(origins[0].requests(), hanging);
    origins[0].release();
    assert!(stuck.into_iter().all(|one| one.join().unwrap() == 200));
}

#[test]
fn algorithms_can_be_changed_under_load_without_a_failed_request() {
    let standalone = Standalone::start().unwrap();
    let origins = origins(3);
    let mut admin = balanced(&standalone, "", &origins);
    let load = Load::start(standalone.process().address("proxy"), 4, "GET", "/mock");
    let forms = [
        "algorithm=least-connections",
        "algorithm=consistent-hashing&hash_on=ip",
        "algorithm=latency&hash_on=none",
        "algorithm=round-robin&hash_on=none&slots=4000",
    ];
    for round in 0..10 {
        for form in forms {
            write(&mut admin, "PATCH", "/upstreams/u", form, 200);
            let weight = format!("weight={}", 10 + round);
            write(
                &mut admin,
                "PATCH",
                &format!("/upstreams/u/targets/{}", origins[0].address()),
                &weight,
                200,
            );
        }
    }
    load.wait_for(100);
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
}
