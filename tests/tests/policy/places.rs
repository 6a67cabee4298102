//! Priorities, zones, and targets that drain.

use equipoise_tests::Client;
use serde_json::json;

use crate::world::{PASSIVE, World, all_to, join, name};

const NODE: &[&str] = &["--node-region", "here", "--node-zone", "a"];

#[test]
fn traffic_goes_to_the_nearest_that_is_left_and_comes_back() {
    let tags: [&[&str]; 4] = [
        &["region=far", "zone=a"],
        &["region=here", "zone=a", "priority=1"],
        &["region=here", "zone=b"],
        &["region=here", "zone=a", "team=blue"],
    ];
    let mut world = World::with(NODE, PASSIVE, &tags);
    world.policy(&json!({"locality": {"mode": "failover"}}));
    // Own zone, own region, elsewhere, and only then what is of a worse priority. No client sees an error on the way.
    for next in [3, 2, 0] {
        assert_eq!(world.shares(20), all_to([(&*next.to_string(), 20)]));
        world.origins[next].stop();
    }
    assert_eq!(world.shares(20), all_to([("1", 20)]));
    [0, 2, 3].into_iter().for_each(|dead| world.wait_for_health(dead, "unhealthy"));
    for back in [0, 2, 3] {
        world.origins[back].restart();
        world.set_health(back, "healthy");
        assert_eq!(world.shares(20), all_to([(&*back.to_string(), 20)]));
    }
    // Without the mode, places mean nothing and priorities do.
    world.patch(&json!({"locality": {"mode": "off"}}));
    assert_eq!(world.shares(30), all_to([("0", 10), ("2", 10), ("3", 10)]));
}

#[test]
fn a_worse_priority_helps_out_by_as_much_as_is_missing() {
    let mut world = World::with(&[], PASSIVE, &[&[], &["priority=0"], &["priority=1"]]);
    assert_eq!(world.shares(20), all_to([("0", 10), ("1", 10)]));
    world.set_health(0, "unhealthy");
    // Half of the level is there: floor(1.4 x 50) = 70.
    let shares = world.shares(100);
    assert!(shares.len() == 2 && shares["1"].abs_diff(70) <= 2, "{shares:?}");
}

#[test]
fn zones_get_their_weight_or_keep_what_is_theirs() {
    let mut world = World::with(NODE, "", &[&["zone=a"], &["zone=b"], &["zone=b"]]);
    world.policy(&json!({"locality": {"mode": "weighted", "zone_weights": {"a": 3}}}));
    let shares = world.shares(80);
    assert!(shares["0"].abs_diff(60) <= 2 && shares["1"].abs_diff(shares["2"]) <= 2, "{shares:?}");
    // Half of the nodes and a third of the targets are in this zone: two thirds of its requests stay.
    world.policy(&json!({"locality": {"mode": "zone_aware", "min_cluster_size": 3}}));
    let shares = world.shares(90);
    assert!(shares["0"].abs_diff(60) <= 2 && shares.len() == 3, "{shares:?}");
    world.patch(&json!({"locality": {"min_cluster_size": 4}}));
    assert_eq!(world.shares(9), all_to([("0", 3), ("1", 3), ("2", 3)]), "too few to tell zones apart");
}

#[test]
fn whoever_drains_keeps_what_it_has_and_gets_nothing_new() {
    let mut world = World::of(PASSIVE, 2);
    world.policy(&json!({"algorithm": "sticky-sessions", "sticky": {"cookie": {"name": "sid"}}}));
    let mut client = world.client();
    let given = client.get("/mock").unwrap();
    let theirs: usize = name(&given).parse().unwrap();
    let other = 1 - theirs;
    let cookie = cookie(&given);
    world.origins[theirs].hold();
    let address = world.address();
    let under_way = std::thread::spawn({
        let cookie = cookie.clone();
        move || Client::new(address).send("GET", "/mock", &[("Cookie", &cookie)], b"").unwrap()
    });
    world.wait_for_requests(2);

    world.tag(theirs, &["state=drain"]);
    assert_eq!(world.shares(20), all_to([(&*other.to_string(), 20)]), "nothing new");
    world.origins[theirs].release();
    assert_eq!(name(&under_way.join().unwrap()), theirs.to_string(), "it ends where it began");
    for _ in 0..3 {
        let again = client.send("GET", "/mock", &[("Cookie", &cookie)], b"").unwrap();
        assert_eq!(name(&again), theirs.to_string(), "the session stays");
        assert_eq!(again.header("set-cookie"), None);
    }

    world.tag(theirs, &["state=maint"]);
    let moved = client.send("GET", "/mock", &[("Cookie", &cookie)], b"").unwrap();
    assert_eq!(name(&moved), other.to_string(), "the session moves");
    assert!(moved.header("set-cookie").is_some());
    world.tag(other, &["state=drain"]);
    let refused = client.get("/mock").unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("failure to get a peer from the ring-balancer"), "{}", refused.text());
    // Where all drain, or nobody else is well, sessions go on all the same.
    let (moved, _) = moved.header("set-cookie").unwrap().split_once(';').unwrap();
    let stays = |world: &World| {
        let answer = world.client().send("GET", "/mock", &[("Cookie", moved)], b"").unwrap();
        assert_eq!((name(&answer), answer.header("set-cookie")), (other.to_string(), None));
    };
    stays(&world);
    world.tag(theirs, &[]);
    world.set_health(theirs, "unhealthy");
    stays(&world);
    let weightless = format!("/upstreams/u/targets/{}", world.origins[other].address());
    world.send("PATCH", &weightless, &json!({"tags": [], "weight": 0}), 200);
    stays(&world);
    world.send("PATCH", &weightless, &json!({"weight": 100}), 200);
    world.set_health(theirs, "healthy");
    assert_eq!(world.shares(20).len(), 2, "as before");
}

#[test]
fn whoever_drains_has_so_much_time_and_is_not_blamed() {
    let mut world = World::of(PASSIVE, 2);
    world.policy(&json!({"drain_timeout": 0.2}));
    // Connections that were used before, and new ones.
    for warm in [0, 4] {
        world.shares(warm);
        let before = world.requests();
        world.origins[0].hold();
        world.origins[1].hold();
        let under_way = world.at_once(4, &[]);
        world.wait_for_requests(before + 4);
        world.origins[1].release();
        let at_first = world.origins[0].requests();
        world.tag(0, &["state=drain"]);
        // What may be done twice goes elsewhere when the time is over.
        assert!(join(under_way).iter().all(|answer| name(answer) == "1"));
        assert_eq!(world.origins[0].requests(), at_first, "and not there once more");
        world.tag(0, &[]);
        world.origins[0].release();
        assert_eq!(world.shares(10).len(), 2, "it is back, and no worse for it");
    }
}

#[test]
fn a_target_in_maintenance_finishes_what_it_has() {
    let mut world = World::of("", 2);
    world.origins.iter().for_each(equipoise_tests::Origin::hold);
    let under_way = world.at_once(2, &[]);
    world.wait_for_requests(2);
    world.tag(0, &["state=maint"]);
    world.tag(1, &["state=maint"]);
    world.origins.iter().for_each(equipoise_tests::Origin::release);
    assert!(join(under_way).iter().all(|answer| answer.status == 200));
    assert_eq!(world.client().get("/mock").unwrap().status, 503);
}

fn cookie(answer: &equipoise_tests::Response) -> String {
    answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
}
