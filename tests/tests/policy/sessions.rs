//! Sticky sessions: the cookie, and where its client goes.

use equipoise_tests::origin::Manner;
use equipoise_tests::{Client, Response};
use serde_json::json;

use crate::world::{World, name};

fn sticky(more: &serde_json::Value) -> serde_json::Value {
    let mut policy =
        json!({"algorithm": "sticky-sessions", "sticky": {"cookie": {"name": "sid", "path": "/mock"}}});
    for (key, value) in more.as_object().unwrap() {
        policy["sticky"][key] = value.clone();
    }
    policy
}

/// `sid=…`, and the attributes behind it.
fn given(answer: &Response) -> (String, String) {
    let (pair, attributes) = answer.header("set-cookie").expect("a cookie is given").split_once(';').unwrap();
    (pair.to_owned(), attributes.to_owned())
}

fn with(client: &mut Client, cookie: &str) -> Response {
    client.send("GET", "/mock", &[("Cookie", cookie)], b"").unwrap()
}

#[test]
fn a_session_leads_back_and_cannot_be_made_up() {
    let mut world = World::of("", 4);
    world.policy(&sticky(&json!({})));
    let mut client = world.client();
    let first = client.get("/mock").unwrap();
    let (cookie, attributes) = given(&first);
    assert_eq!(attributes, " Path=/mock; HttpOnly; SameSite=Lax");
    for _ in 0..8 {
        let again = with(&mut client, &format!("a=b; {cookie}; c=d"));
        assert_eq!((name(&again), again.header("set-cookie")), (name(&first), None));
    }
    // Whoever changes a letter, or brings another's words, has no session.
    let last = if cookie.ends_with('A') { "B" } else { "A" };
    let changed = format!("{}{last}", &cookie[..cookie.len() - 2]);
    let long = format!("sid={}", "A".repeat(4000));
    for forged in [&*changed, "sid=", "sid=\"x\"", "sid=%00%ff", "SID=x", &long, &format!("{cookie}x")] {
        let answer = with(&mut client, forged);
        assert_eq!(answer.status, 200, "{forged}");
        assert!(answer.header("set-cookie").is_some(), "{forged}");
    }
    world.restart();
    let mut client = world.client();
    let again = with(&mut client, &cookie);
    assert_eq!((name(&again), again.header("set-cookie")), (name(&first), None), "it outlives the process");
    // A new secret ends all sessions.
    world.patch(&json!({"sticky": {"secret": null}}));
    assert!(with(&mut client, &cookie).header("set-cookie").is_some());
}

#[test]
fn a_cookie_has_the_attributes_that_its_policy_says() {
    let mut world = World::of("", 1);
    let answers = |world: &mut World, cookie: serde_json::Value| {
        world.policy(&json!({"algorithm": "sticky-sessions", "sticky": {"cookie": cookie}}));
        given(&world.client().get("/mock").unwrap())
    };
    let (pair, attributes) = answers(&mut world, json!({"name": "x", "ttl": 60, "secure": "always"}));
    assert!(pair.starts_with("x="), "{pair}");
    assert_eq!(attributes, " Path=/; HttpOnly; SameSite=Lax; Max-Age=60; Secure");
    let open = json!({"name": "x", "http_only": false, "same_site": "None", "ttl": 0.5});
    assert_eq!(answers(&mut world, open).1, " Path=/; SameSite=None; Max-Age=1");
    // A target's own cookie of that name gives way, others stay.
    world.origins[0]
        .behave(Manner { headers: "Set-Cookie: x=1\r\nSet-Cookie: y=2\r\n", ..Manner::default() });
    let answer = world.client().get("/mock").unwrap();
    let cookies: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "set-cookie").collect();
    assert_eq!(cookies.len(), 2, "{cookies:?}");
    assert!(!cookies.iter().any(|(_, value)| value == "x=1") && cookies.iter().any(|(_, v)| v == "y=2"));
}

#[test]
fn a_session_moves_when_its_target_dies_unless_it_is_strict() {
    let mut world = World::of("", 2);
    world.policy(&sticky(&json!({"hide": true})));
    let mut client = world.client();
    let first = client.get("/mock").unwrap();
    let (cookie, _) = given(&first);
    let theirs: usize = name(&first).parse().unwrap();
    let sent = with(&mut client, &format!("a=b; {cookie}; c=d")).json()["headers"].to_string();
    assert!(sent.contains("a=b; c=d") && !sent.contains("sid"), "{sent}");

    world.origins[theirs].stop();
    let moved = with(&mut client, &cookie);
    assert_eq!(name(&moved), (1 - theirs).to_string(), "without an error");
    let (new, _) = given(&moved);
    let stays = with(&mut client, &new);
    assert_eq!((name(&stays), stays.header("set-cookie")), (name(&moved), None));

    world.patch(&json!({"sticky": {"strict": true}}));
    let refused = with(&mut client, &cookie);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(name(&with(&mut client, &new)), name(&moved));
    assert_eq!(client.get("/mock").unwrap().status, 200, "whoever is new goes where it can");
    world.origins[theirs].restart();
    assert_eq!(name(&with(&mut client, &cookie)), theirs.to_string());
}
