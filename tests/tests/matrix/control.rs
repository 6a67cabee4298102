//! What happens to the control plane.

use std::sync::Mutex;
use std::time::Duration;

use equipoise_tests::cluster::write;
use equipoise_tests::{PATIENCE, eventually};
use serde_json::json;

use crate::world::{World, arrives, change, connection, load, unharmed};

/// Writers at once.
const WRITERS: usize = 4;

/// Writes acknowledged before the control plane is killed, each time.
const WRITES: usize = 60;

#[test]
fn what_a_control_plane_killed_under_writes_has_acknowledged_is_there_and_arrives() {
    let mut world = World::new();
    let node = world.node("one", &[world.fleet.cluster()], &[]);
    let load = load(&node);
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..3 {
        let admin = world.fleet.control().address("admin");
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let acknowledged = &acknowledged;
                scope.spawn(move || {
                    let mut admin = equipoise_tests::Client::new(admin);
                    for number in 0_u32.. {
                        let name = format!("w-{round}-{writer}-{number}");
                        let form = format!("name={name}&paths[]=/{name}");
                        // Whoever is cut off knows nothing of his last write.
                        let Ok(answer) = admin.form("POST", "/services/s/routes", &form) else { break };
                        assert_eq!(answer.status, 201, "{}", answer.text());
                        acknowledged.lock().unwrap().push(name);
                    }
                });
            }
            let before = acknowledged.lock().unwrap().len();
            eventually("some writes", PATIENCE, || {
                (acknowledged.lock().unwrap().len() >= before + WRITES).then_some(())
            });
            world.fleet.control.take().unwrap().kill();
        });
        world.fleet.start_control().unwrap();
        let mut admin = world.admin();
        for name in &*acknowledged.lock().unwrap() {
            assert_eq!(admin.get(&format!("/routes/{name}")).unwrap().status, 200, "{name} is lost");
        }
        connection(&node, true);
    }
    write(&mut world.admin(), "PATCH", "/services/s", "retries=1", 200);
    let mut client = node.client("proxy");
    for name in &*acknowledged.lock().unwrap() {
        assert_eq!(client.get(&format!("/{name}")).unwrap().status, 200, "{name} did not arrive");
    }
    unharmed(load);
}

#[test]
fn a_control_plane_that_is_paused_is_left_and_followed_again() {
    let world = World::new();
    let node = world.node("one", &[world.fleet.cluster()], &[]);
    let load = load(&node);
    world.fleet.control().signal("STOP");
    connection(&node, false);
    world.fleet.control().signal("CONT");
    let revision = change(&mut world.admin(), "after");
    arrives(&node, revision);
    unharmed(load);
}

/// Services of a file.
const SERVICES: usize = 500;

#[test]
fn a_control_plane_killed_while_it_takes_a_file_has_all_of_it_or_nothing() {
    let mut world = World::new();
    let node = world.node("one", &[world.fleet.cluster()], &[]);
    let load = load(&node);
    let target = world.origin.address().to_string();
    let file = |round: u32| {
        let own = json!({"name": "s", "host": "u", "routes": [{"name": "r", "paths": ["/mock"]}]});
        let more = (0..SERVICES).map(|number| json!({"name": format!("of-{round}-{number}"), "host": "h"}));
        json!({
            "_format_version": "3.0",
            "services": std::iter::once(own).chain(more).collect::<Vec<_>>(),
            "upstreams": [{"name": "u", "targets": [{"target": target}]}],
        })
    };
    let services = |world: &World, round: u32| {
        let config = world.admin().get("/config").unwrap().json();
        config["config"].as_str().unwrap().matches(&format!("of-{round}-")).count()
    };
    assert_eq!(world.admin().json("POST", "/config", &file(0)).unwrap().status, 201);
    let mut there = 0;
    for round in 1..=8 {
        let (mut admin, file) = (world.admin(), file(round));
        let taking =
            std::thread::spawn(move || admin.json("POST", "/config", &file).map(|answer| answer.status));
        // No two of them are hit at the same point.
        std::thread::sleep(Duration::from_millis(12) * round);
        world.fleet.control.take().unwrap().kill();
        let is_acknowledged = taking.join().unwrap().is_ok_and(|status| status == 201);
        world.fleet.start_control().unwrap();
        let (old, new) = (services(&world, there), services(&world, round));
        assert!([(SERVICES, 0), (0, SERVICES)].contains(&(old, new)), "round {round}: {old} and {new}");
        assert!(new == SERVICES || !is_acknowledged, "round {round}: acknowledged and lost");
        if new == SERVICES {
            there = round;
        }
    }
    connection(&node, true);
    let revision = change(&mut world.admin(), "after");
    arrives(&node, revision);
    unharmed(load);
}
