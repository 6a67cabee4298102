//! Every path of the reference's `/endpoints` has its documented answer, for every verb.

use serde_json::{Value, json};

use crate::support::Admin;

/// The paths, in the order of the reference (Kong 3.10, the core with the plugins for credentials).
const LISTED: &str = include_str!("endpoints.txt");

/// The answers to GET, POST, PUT, PATCH and DELETE with an empty form, and what OPTIONS allows. Nothing is stored, so that a
/// read of one entity finds none, and a write goes as far as its body: 400.
///
/// Source: section 8 of the reference's Admin API, and 5.5 and 5.6 for what tells of the gateway itself.
type Answers = ([u16; 5], &'static str);

const LIST: Answers = ([200, 400, 405, 405, 405], "GET, HEAD, OPTIONS, POST");
/// Of a parent that is not there.
const CHILDREN: Answers = ([404, 404, 405, 405, 405], "GET, HEAD, OPTIONS, POST");
const ENTITY: Answers = ([404, 405, 400, 404, 204], "DELETE, GET, HEAD, OPTIONS, PATCH, PUT");
const CHILD: Answers = ([404, 405, 404, 404, 404], "DELETE, GET, HEAD, OPTIONS, PATCH, PUT");
const READ: Answers = ([200, 405, 405, 405, 405], "GET, HEAD, OPTIONS");
const READ_OF_NONE: Answers = ([404, 405, 405, 405, 405], "GET, HEAD, OPTIONS");
const VALIDATE: Answers = ([405, 400, 405, 405, 405], "OPTIONS, POST");
/// Kinds that are not kept: there are none, and none can be made.
const UNHELD_LIST: Answers = ([200, 405, 405, 405, 405], "GET, HEAD, OPTIONS, POST");
const UNHELD: Answers = ([404, 405, 405, 404, 204], "DELETE, GET, HEAD, OPTIONS, PATCH, PUT");
const SWITCHED_OFF: Answers = ([404; 5], "");
const WITHOUT_WASM: Answers = ([400; 5], "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");
const HEALTH: Answers = ([405, 405, 404, 405, 405], "OPTIONS, PUT");

const ROWS: &[(&[&str], Answers)] = &[
    (
        &[
            "/services",
            "/routes",
            "/upstreams",
            "/certificates",
            "/snis",
            "/ca_certificates",
            "/consumers",
            "/plugins",
            "/key-auths",
            "/basic-auths",
        ],
        LIST,
    ),
    (
        &[
            "/services/{services}",
            "/routes/{routes}",
            "/plugins/{plugins}",
            "/key-auths/{keyauth_credentials}",
            "/basic-auths/{basicauth_credentials}",
            "/snis/{snis}",
        ],
        ENTITY,
    ),
    // These need no more than a name, which the path has: PATCH finds what PUT made.
    (&["/consumers/{consumers}", "/upstreams/{upstreams}"], ([404, 405, 200, 200, 204], ENTITY.1)),
    // By a name that no SNI has.
    (&["/certificates/{certificates}"], ([404, 405, 400, 404, 404], ENTITY.1)),
    // A name is none of a CA certificate.
    (&["/ca_certificates/{ca_certificates}"], ([400, 405, 400, 400, 400], ENTITY.1)),
    (
        &[
            "/services/{services}/routes",
            "/services/{services}/plugins",
            "/routes/{routes}/plugins",
            "/consumers/{consumers}/plugins",
            "/consumers/{consumers}/key-auth",
            "/consumers/{consumers}/basic-auth",
            "/certificates/{certificates}/snis",
            "/certificates/{certificates}/services",
            "/certificates/{certificates}/upstreams",
            "/upstreams/{upstreams}/targets",
            "/consumers/{consumers}/acls",
            "/consumers/{consumers}/jwt",
            "/consumers/{consumers}/hmac-auth",
            "/key-sets/{key_sets}/keys",
        ],
        CHILDREN,
    ),
    (
        &[
            "/services/{services}/routes/{routes}",
            "/services/{services}/plugins/{plugins}",
            "/routes/{routes}/plugins/{plugins}",
            "/consumers/{consumers}/plugins/{plugins}",
            "/consumers/{consumers}/key-auth/{keyauth_credentials}",
            "/consumers/{consumers}/basic-auth/{basicauth_credentials}",
            "/certificates/{certificates}/snis/{snis}",
            "/certificates/{certificates}/services/{services}",
            "/certificates/{certificates}/upstreams/{upstreams}",
            "/upstreams/{upstreams}/targets/{targets}",
            "/consumers/{consumers}/acls/{acls}",
            "/consumers/{consumers}/jwt/{jwt_secrets}",
            "/consumers/{consumers}/hmac-auth/{hmacauth_credentials}",
            "/key-sets/{key_sets}/keys/{keys}",
            // Of an entity that is not there: whatever it refers to is not there either.
            "/routes/{routes}/service",
            "/services/{services}/client_certificate",
            "/upstreams/{upstreams}/client_certificate",
            "/plugins/{plugins}/route",
            "/plugins/{plugins}/service",
            "/plugins/{plugins}/consumer",
            "/keys/{keys}/set",
            "/key-auths/{keyauth_credentials}/consumer",
            "/basic-auths/{basicauth_credentials}/consumer",
            "/acls/{acls}/consumer",
            "/jwts/{jwt_secrets}/consumer",
            "/hmac-auths/{hmacauth_credentials}/consumer",
        ],
        CHILD,
    ),
    (&["/vaults", "/keys", "/key-sets", "/acls", "/jwts", "/hmac-auths"], UNHELD_LIST),
    (
        &[
            "/vaults/{vaults}",
            "/keys/{keys}",
            "/key-sets/{key_sets}",
            "/acls/{acls}",
            "/jwts/{jwt_secrets}",
            "/hmac-auths/{hmacauth_credentials}",
        ],
        UNHELD,
    ),
    (
        &[
            "/",
            "/status",
            "/endpoints",
            "/timers",
            "/metrics",
            "/plugins/enabled",
            "/clustering/data-planes",
            "/clustering/status",
            "/debug/node/log-level",
        ],
        READ,
    ),
    (
        &[
            "/upstreams/{upstreams}/health",
            "/upstreams/{upstreams}/targets/all",
            "/schemas/{name}",
            "/schemas/plugins/{name}",
            "/schemas/vaults/{name}",
            "/schemas/filters/{name}",
            "/plugins/schema/{name}",
        ],
        READ_OF_NONE,
    ),
    (&["/status/dns"], ([501, 405, 405, 405, 405], READ.1)),
    (&["/schemas/{db_entity_name}/validate"], ([405, 404, 405, 405, 405], VALIDATE.1)),
    (&["/schemas/plugins/validate", "/schemas/vaults/validate"], VALIDATE),
    (&["/config"], ([200, 400, 405, 405, 405], "GET, HEAD, OPTIONS, POST")),
    (&["/cache"], ([405, 405, 405, 405, 204], "DELETE, OPTIONS")),
    (&["/cache/{key}"], ([404, 405, 405, 405, 204], "DELETE, GET, HEAD, OPTIONS")),
    (
        &["/debug/node/log-level/{log_level}", "/debug/cluster/log-level/{log_level}"],
        ([405, 405, 400, 405, 405], "OPTIONS, PUT"),
    ),
    (&["/tags"], ([200, 400, 405, 405, 405], "GET, HEAD, OPTIONS, POST")),
    (&["/tags/{tags}"], ([200, 405, 400, 400, 400], ENTITY.1)),
    (
        &["/targets", "/targets/{targets}", "/targets/{targets}/upstream", "/snis/{snis}/certificate"],
        SWITCHED_OFF,
    ),
    (
        &[
            "/filter-chains",
            "/filter-chains/{filter_chains}",
            "/filter-chains/{filter_chains}/route",
            "/filter-chains/{filter_chains}/service",
            "/routes/{routes}/filter-chains",
            "/routes/{routes}/filter-chains/{filter_chains}",
            "/routes/{routes}/filters/all",
            "/routes/{routes}/filters/disabled",
            "/routes/{routes}/filters/enabled",
            "/services/{services}/filter-chains",
            "/services/{services}/filter-chains/{filter_chains}",
        ],
        WITHOUT_WASM,
    ),
    (
        &[
            "/upstreams/{upstreams}/targets/{targets}/healthy",
            "/upstreams/{upstreams}/targets/{targets}/unhealthy",
            "/upstreams/{upstreams}/targets/{targets}/{address}/healthy",
            "/upstreams/{upstreams}/targets/{targets}/{address}/unhealthy",
        ],
        HEALTH,
    ),
];

fn answers(path: &str) -> Answers {
    let mut rows = ROWS.iter().filter(|(paths, _)| paths.contains(&path));
    let (Some((_, answers)), None) = (rows.next(), rows.next()) else { panic!("one row for {path}") };
    *answers
}

#[tokio::test]
async fn every_endpoint_of_the_reference_has_its_documented_answer() {
    assert_eq!(LISTED.lines().count(), ROWS.iter().map(|(paths, _)| paths.len()).sum::<usize>());
    for listed in LISTED.lines() {
        // One that changes something must not change what the next one finds.
        let admin = Admin::start().await;
        let mut client = admin.connect().await;
        let (wanted, allow) = answers(listed);
        let path = listed.replace(['{', '}'], "");
        for (method, want) in ["GET", "POST", "PUT", "PATCH", "DELETE"].into_iter().zip(wanted) {
            let got = client.send(method, &path, &[], "").await;
            assert_eq!(got.status, want, "{method} {path}: {}", got.text());
            if want >= 400 {
                let body = got.json();
                assert!(
                    body["message"].as_str().is_some_and(|text| !text.is_empty()),
                    "{method} {path}: {body}"
                );
                let plain = match want {
                    404 => body.get("code").is_none().then_some(json!("Not found")),
                    405 => body.get("code").is_none().then_some(json!("Method not allowed")),
                    _ => None,
                };
                let is_told_otherwise = path.starts_with("/schemas/")
                    || path.starts_with("/plugins/schema/")
                    || path.starts_with("/certificates/");
                if let Some(plain) = plain.filter(|_| !is_told_otherwise) {
                    assert_eq!(body["message"], plain, "{method} {path}");
                }
            }
            assert!(got.header("access-control-allow-origin").is_some(), "{method} {path}");
            assert_eq!(got.header("allow"), None, "{method} {path}");
            let length: usize = got.header("content-length").map_or(0, |length| length.parse().unwrap());
            assert_eq!(length, got.body.len(), "{method} {path}");
        }
        let head = client.send("HEAD", &path, &[], "").await;
        assert_eq!((head.status, head.body.len()), (wanted[0], 0), "HEAD {path}");
        let options = client.send("OPTIONS", &path, &[], "").await;
        if allow.is_empty() {
            assert_eq!(options.status, 404, "OPTIONS {path}");
        } else {
            assert_eq!((options.status, options.header("allow")), (204, Some(allow)), "OPTIONS {path}");
            assert_eq!(options.header("access-control-allow-methods"), Some(allow), "OPTIONS {path}");
        }
    }
}

/// The reference names what it has switched off, and so do we; but for `/targets`, which is nowhere here.
#[tokio::test]
async fn the_list_of_endpoints_has_those_of_the_reference() {
    let admin = Admin::start().await;
    let listed = admin.get("/endpoints").await.json();
    let listed: Vec<_> =
        listed["data"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    let missing: Vec<_> =
        LISTED.lines().filter(|path| !listed.contains(path) && !path.starts_with("/targets")).collect();
    assert_eq!(missing, ["/snis/{snis}/certificate"]);
}

#[tokio::test]
async fn kinds_that_are_not_kept_are_empty_lists_that_nothing_is_added_to() {
    let admin = Admin::start().await;
    let consumer = admin.create("/consumers", json!({ "username": "c" })).await;
    let id = consumer["id"].as_str().unwrap();
    for path in ["/vaults", "/consumers/c/acls", "/consumers/c/jwt", &format!("/consumers/{id}/hmac-auth")] {
        let got = admin.get(&format!("{path}?size=1000")).await;
        assert_eq!(got.json(), json!({ "data": [], "next": null }), "{path}");
        assert_eq!(admin.get(&format!("{path}?size=0")).await.json()["code"], 9, "{path}");
        let refused = admin.json("POST", path, &json!({ "name": "n" })).await;
        assert_eq!((refused.status, &refused.json()["code"]), (405, &json!(12)), "{path}");
    }
    let refused = admin.json("PUT", &format!("/vaults/{id}"), &json!({ "name": "env", "prefix": "p" })).await;
    let want = json!({ "code": 12, "name": "operation unsupported",
        "message": "cannot create or update 'vaults' entities: Equipoise has none" });
    assert_eq!((refused.status, refused.json()), (405, want));
    let vault = json!({ "name": "env", "prefix": "p" });
    let refused = admin.json("POST", "/schemas/vaults/validate", &vault).await;
    let want = json!({ "name": "vault 'env' is not installed" });
    assert_eq!((refused.status, &refused.json()["fields"]), (400, &want));
    let message = |path: &'static str| async { admin.get(path).await.json()["message"].clone() };
    assert_eq!(message("/schemas/vaults/env").await, "No vault named 'env'");
    assert_eq!(message("/schemas/filters/f").await, "Filter 'f' not found");
    assert_eq!(message("/status/dns").await, "not implemented with the legacy DNS client");
}

#[tokio::test]
async fn the_level_of_the_log_is_another_one_for_a_while() {
    let admin = Admin::start().await;
    let level = || async { admin.get("/debug/node/log-level").await.json()["message"].clone() };
    let put = |path: &'static str| async {
        let got = admin.send("PUT", path, &[], "").await;
        (got.status, got.json()["message"].clone())
    };
    assert_eq!(level().await, "log level: notice");
    for (path, status, text) in [
        ("/debug/node/log-level/loud", 400, "unknown log level: loud"),
        ("/debug/node/log-level/debug?timeout=-1", 400, "timeout must be greater than or equal to 0"),
        ("/debug/node/log-level/debug?timeout=nan", 400, "timeout must be greater than or equal to 0"),
        ("/debug/node/log-level/debug?timeout=1e300", 400, "timeout must be less than or equal to 31536000"),
        ("/debug/node/log-level/debug?timeout=x", 400, "timeout must be a number of seconds"),
        ("/debug/node/log-level/debug", 200, "log level changed"),
        ("/debug/cluster/log-level/debug", 200, "log level is already debug"),
        ("/debug/cluster/log-level/warn?timeout=0.2", 200, "log level changed"),
    ] {
        assert_eq!(put(path).await, (status, Value::from(text)), "{path}");
    }
    assert_eq!(level().await, "log level: warn");
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    while level().await != "log level: notice" {
        assert!(tokio::time::Instant::now() < deadline, "it stays for ever");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
