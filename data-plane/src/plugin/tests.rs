//! Requests that meet plugins, without a socket.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::http1::{HeadStorage, RequestHead, ResponseHead};

/// A moment: 2026-11-27T06:00:50Z.
const NOW: Duration = Duration::from_secs(1_795_759_250);

struct World {
    own: Own,
    global: Scoped,
    callers: Callers,
    stores: Stores,
    client: &'static str,
    /// What targets are told of how they are asked.
    told: &'static str,
}

impl World {
    /// With these plugins for all requests.
    fn with(configs: impl IntoIterator<Item = Config>) -> Self {
        let mut global = Scoped::default();
        for (id, config) in (100..).zip(configs) {
            global.enter(None, &plugin(id, config)).unwrap();
        }
        let stores = Stores::new(1, 1_000, 1 << 20);
        Self { own: Own::default(), global, callers: callers(), stores, client: "10.1.2.3", told: "" }
    }

    fn ask(&self, head: &str) -> (Passed, Option<Answer>) {
        self.ask_at(head, NOW)
    }

    fn ask_at(&self, head: &str, now: Duration) -> (Passed, Option<Answer>) {
        self.ask_then(head, now, |_, _| {})
    }

    /// Puts an answer without a body into memory, if it is fit for it: true if so.
    fn keep(&self, head: &str, answer: &str) -> bool {
        let mut is_kept = false;
        self.ask_then(head, NOW, |asked, passed| {
            let Some(wish) = &passed.wish else { return };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n{answer}\r\n\r\n"
            );
            let mut storage = HeadStorage::new();
            let answer = ResponseHead::parse(answer.as_bytes(), false, &mut storage).unwrap();
            let cache = &self.stores.cache;
            let (_, keeping) = wish.judge(&answer, asked, &passed.request, NOW.as_secs(), cache);
            if let Some((keeping, copying)) = keeping {
                keeping.store(copying, cache);
                is_kept = true;
            }
        });
        is_kept
    }

    fn ask_then(
        &self,
        head: &str,
        now: Duration,
        then: impl FnOnce(&RequestHead<'_, '_>, &Passed),
    ) -> (Passed, Option<Answer>) {
        let head = format!("{head}\r\nHost: a.example\r\n\r\n");
        let mut storage = HeadStorage::new();
        let head = RequestHead::parse(head.as_bytes(), &mut storage).unwrap();
        let asked = Asked {
            head: &head,
            is_https: false,
            client: self.client,
            port: 8000,
            route: Some(Uuid::from_u128(11)),
            route_name: Some("r"),
            service: Some(Uuid::from_u128(12)),
            told: &|found| found(self.told.as_bytes()),
            now,
            random: &|| 42,
        };
        let (passed, answer) = run(Some(&self.own), &self.global, &self.callers, &self.stores, &asked);
        then(&head, &passed);
        (passed, answer)
    }
}

fn plugin(id: u128, config: Config) -> Arc<Plugin> {
    let meets = Meets { requests: true, streams: false };
    Arc::new(Plugin { id: Uuid::from_u128(id), config, meets })
}

/// `joe` has the key `top` and the password `hello`, `nobody` has neither.
fn callers() -> Callers {
    let mut callers = Callers::default();
    let consumer = |id: u128, username: &str| {
        Arc::new(Consumer { id: Uuid::from_u128(id), username: Some(username.into()), custom_id: None })
    };
    callers.enter(&consumer(1, "joe")).unwrap();
    callers.enter(&consumer(2, "nobody")).unwrap();
    let credential = |id: u128| Credential { id: Uuid::from_u128(id), consumer: Uuid::from_u128(1) };
    callers.enter_key(KeyHash::of(b"top"), Key { credential: credential(5), expires_at_s: None }).unwrap();
    // Source: `printf '%s' hello00000000-0000-0000-0000-000000000001 | sha1sum`.
    let sha1 = [
        0x59, 0xe4, 0x41, 0x3f, 0xe0, 0x28, 0x4f, 0xc0, 0x3d, 0xa0, 0x75, 0xd6, 0x6e, 0x47, 0xcb, 0x89, 0xa1,
        0x99, 0xaf, 0x98,
    ];
    callers.enter_password("joe".into(), Password { credential: credential(6), sha1 }).unwrap();
    callers
}

fn key_auth() -> KeyAuth {
    KeyAuth {
        key_names: Box::new(["apikey".into(), "x-key".into()]),
        in_header: true,
        in_query: true,
        on_preflight: true,
        challenge: KeyAuth::challenge(None),
        ..KeyAuth::default()
    }
}

fn text(edits: &Edits) -> String {
    let mut out = Vec::new();
    edits.push(&mut out);
    String::from_utf8(out).unwrap()
}

fn said(answer: Option<Answer>) -> (u16, String) {
    let answer = answer.expect("an answer");
    match answer.content {
        Content::Error(text) | Content::Message(text) => (answer.status, text.into_owned()),
        Content::Bytes(_, bytes) => (answer.status, String::from_utf8(bytes.to_vec()).unwrap()),
        Content::Stored(stored) => (answer.status, String::from_utf8(stored.body.to_vec()).unwrap()),
        Content::Nothing => (answer.status, String::new()),
    }
}

#[test]
fn a_key_is_looked_for_in_headers_then_in_the_query_and_counts_once() {
    let world = World::with([Config::KeyAuth(key_auth())]);
    let refused = |text: &str| Some((401, text.to_owned()));
    for (name, head, want) in [
        ("in a header", "GET / HTTP/1.1\r\nApiKey: top", None),
        ("in the query", "GET /?x=1&apikey=top HTTP/1.1", None),
        ("by another name", "GET / HTTP/1.1\r\nX-Key: top", None),
        ("encoded", "GET /?api%6bey=%74op HTTP/1.1", None),
        ("the header counts first", "GET /?apikey=bad HTTP/1.1\r\napikey: top", None),
        ("and is not helped", "GET /?apikey=top HTTP/1.1\r\napikey: bad", refused("Unauthorized")),
        ("the first name counts", "GET / HTTP/1.1\r\nx-key: top\r\napikey: bad", refused("Unauthorized")),
        ("none", "GET / HTTP/1.1", refused("No API key found in request")),
        ("empty", "GET / HTTP/1.1\r\napikey:", refused("No API key found in request")),
        ("no value", "GET /?apikey HTTP/1.1", refused("No API key found in request")),
        ("twice", "GET / HTTP/1.1\r\napikey: top\r\napikey: top", refused("Duplicate API key found")),
        ("twice in the query", "GET /?apikey=a&apikey=b HTTP/1.1", refused("Duplicate API key found")),
        ("wrong", "GET / HTTP/1.1\r\napikey: tops", refused("Unauthorized")),
        ("wrong case", "GET / HTTP/1.1\r\napikey: TOP", refused("Unauthorized")),
    ] {
        let (passed, answer) = world.ask(head);
        assert_eq!(passed.consumer().is_some(), want.is_none(), "{name}");
        assert_eq!(answer.clone().map(|answer| said(Some(answer))), want, "{name}");
        if let Some(answer) = answer {
            assert_eq!(text(&answer.headers), "\r\nWWW-Authenticate: Key", "{name}");
        }
    }
}

#[test]
fn case_counts_for_names_of_arguments_and_not_for_those_of_headers() {
    let world =
        World::with([Config::KeyAuth(KeyAuth { key_names: Box::new(["ApiKey".into()]), ..key_auth() })]);
    for (head, is_found) in [
        ("GET / HTTP/1.1\r\napikey: top", true),
        ("GET / HTTP/1.1\r\nAPIKEY: top", true),
        ("GET /?ApiKey=top HTTP/1.1", true),
        ("GET /?apikey=top HTTP/1.1", false),
    ] {
        assert_eq!(world.ask(head).1.is_none(), is_found, "{head}");
    }
}

#[test]
fn a_key_is_hidden_from_the_upstream_wherever_it_stood() {
    let world = World::with([Config::KeyAuth(KeyAuth { hides: true, ..key_auth() })]);
    let (passed, answer) = world.ask("GET /?a=%20&apikey=no&b HTTP/1.1\r\napikey: top");
    assert!(answer.is_none() && passed.request.drops("ApiKey"));
    assert_eq!(passed.query, Some(Some(b"a=%20&b".to_vec())));
    assert_eq!(world.ask("GET /?apikey=top HTTP/1.1").0.query, Some(None));
}

#[test]
fn upstreams_are_told_who_calls_whatever_the_client_says() {
    let world = World::with([Config::KeyAuth(KeyAuth { anonymous: Some("nobody".into()), ..key_auth() })]);
    let (passed, _) = world.ask("GET / HTTP/1.1\r\napikey: top\r\nX-Consumer-Username: root");
    let told = text(&passed.request);
    assert_eq!(
        told,
        "\r\nX-Consumer-ID: 00000000-0000-0000-0000-000000000001\r\nX-Consumer-Username: joe\r\n\
         X-Credential-Identifier: 00000000-0000-0000-0000-000000000005"
    );
    for name in ["X-Consumer-Username", "X-Consumer-Custom-ID", "X-Anonymous-Consumer"] {
        assert!(passed.request.drops(name), "{name}");
    }
    let (passed, answer) = world.ask("GET / HTTP/1.1\r\napikey: bad\r\nX-Credential-Identifier: root");
    assert!(answer.is_none() && passed.request.drops("X-Credential-Identifier"));
    let told = text(&passed.request);
    assert!(
        told.contains("X-Consumer-Username: nobody") && told.contains("X-Anonymous-Consumer: true"),
        "{told}"
    );
}

#[test]
fn one_proof_of_several_is_enough_where_everybody_may_pass() {
    let anonymous = || Some("nobody".into());
    let basic = BasicAuth { anonymous: anonymous(), ..BasicAuth::default() };
    let world = World::with([
        Config::KeyAuth(KeyAuth { anonymous: anonymous(), ..key_auth() }),
        Config::BasicAuth(basic),
    ]);
    let who =
        |head| world.ask(head).0.caller.map(|caller| caller.consumer.username.clone().unwrap().into_string());
    assert_eq!(who("GET / HTTP/1.1\r\napikey: top").as_deref(), Some("joe"));
    // joe:hello
    assert_eq!(who("GET / HTTP/1.1\r\nAuthorization: Basic am9lOmhlbGxv").as_deref(), Some("joe"));
    assert_eq!(who("GET / HTTP/1.1").as_deref(), Some("nobody"));
    let lost = KeyAuth { anonymous: Some("gone".into()), ..key_auth() };
    let (_, answer) = World::with([Config::KeyAuth(lost)]).ask("GET / HTTP/1.1");
    assert_eq!(said(answer).0, 500, "whom it names is gone");
}

#[test]
fn a_wrong_password_is_refused_as_an_unknown_name_is() {
    let config =
        BasicAuth { hides: true, challenge: BasicAuth::challenge("a \"b\""), ..BasicAuth::default() };
    let world = World::with([Config::BasicAuth(config)]);
    let (passed, answer) = world.ask("GET / HTTP/1.1\r\nAuthorization: Basic am9lOmhlbGxv");
    assert!(answer.is_none() && passed.request.drops("authorization"));
    assert!(text(&passed.request).contains("X-Credential-Identifier: joe"));
    for head in [
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\nAuthorization: Basic am9lOmhlbGxvIQ==",
        "GET / HTTP/1.1\r\nAuthorization: Basic bm9ib2R5OmhlbGxv",
        "GET / HTTP/1.1\r\nAuthorization: Bearer am9lOmhlbGxv",
    ] {
        let (_, answer) = world.ask(head);
        assert_eq!(
            text(&answer.as_ref().unwrap().headers),
            "\r\nWWW-Authenticate: Basic realm=\"a \\\"b\\\"\""
        );
        assert_eq!(said(answer), (401, "Unauthorized".to_owned()), "{head}");
    }
}

#[test]
fn each_of_the_two_headers_may_have_the_password_and_none_goes_on() {
    const GOOD: &str = "Basic am9lOmhlbGxv";
    const WRONG: &str = "Basic am9lOmhlbGxvIQ==";
    const UNREADABLE: &str = "bAsic !!!";
    let anonymous = || Some("nobody".into());
    let basic =
        || Config::BasicAuth(BasicAuth { hides: true, anonymous: anonymous(), ..BasicAuth::default() });
    let (auth, proxy) = ("Authorization", "Proxy-Authorization");
    for (lines, who, gone) in [
        (&[(auth, GOOD)][..], "joe", &[auth][..]),
        (&[(proxy, GOOD)], "joe", &[proxy]),
        (&[(proxy, WRONG), (auth, GOOD)], "joe", &[proxy, auth]),
        (&[(proxy, GOOD), (auth, WRONG)], "joe", &[proxy, auth]),
        (&[(proxy, UNREADABLE), (auth, GOOD)], "joe", &[proxy, auth]),
        (&[(proxy, "Bearer a"), (auth, GOOD)], "joe", &[auth]),
        (&[(proxy, WRONG), (auth, WRONG)], "nobody", &[proxy, auth]),
        (&[(auth, UNREADABLE)], "nobody", &[auth]),
        (&[(auth, "Basic")], "nobody", &[auth]),
        (&[(auth, "Bearer a"), (auth, WRONG)], "nobody", &[auth]),
        (&[(auth, "Basics a")], "nobody", &[]),
    ] {
        let head = |first: &str| {
            let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            format!("GET / HTTP/1.1\r\n{first}{}", lines.join("\r\n"))
        };
        let world = World::with([basic()]);
        let (passed, answer) = world.ask(&head(""));
        let caller = passed.caller.as_ref().unwrap().consumer.username.as_deref();
        assert_eq!((caller, answer), (Some(who), None), "{lines:?}");
        let dropped = |passed: &Passed| -> Vec<_> {
            [proxy, auth].into_iter().filter(|name| passed.request.drops(name)).collect()
        };
        assert_eq!(dropped(&passed), gone, "{lines:?}");
        // Nor where a key has proved already who calls.
        let key = Config::KeyAuth(KeyAuth { anonymous: anonymous(), ..key_auth() });
        let (passed, _) = World::with([key, basic()]).ask(&head("apikey: top\r\n"));
        assert_eq!(dropped(&passed), gone, "{lines:?}");
    }
}

#[test]
fn addresses_are_let_in_as_the_lists_say() {
    let ranges = |texts: &[&str]| -> Box<[_]> {
        texts.iter().map(|text| equipoise_proto::NetworkRange::parse(text).unwrap()).collect()
    };
    for (allow, deny, client, want) in [
        (&["10.0.0.0/8"][..], &[][..], "10.1.2.3", true),
        (&["10.0.0.0/8"], &[], "11.1.2.3", false),
        (&["10.0.0.0/8"], &["10.1.2.3"], "10.1.2.3", false),
        (&[], &["10.1.2.3"], "10.1.2.4", true),
        (&["10.0.0.0/8"], &[], "::ffff:10.1.2.3", true),
        (&["fe80::/10"], &[], "fe80::1", true),
    ] {
        let config = IpRestriction { allow: ranges(allow), deny: ranges(deny), status: 403, message: None };
        let world = World { client, ..World::with([Config::IpRestriction(config)]) };
        let (_, answer) = world.ask("GET / HTTP/1.1");
        let refusal = answer.map(|answer| said(Some(answer)));
        let want = (!want).then(|| (403, format!("IP address not allowed: {client}")));
        assert_eq!(refusal, want, "{allow:?} {deny:?} {client}");
    }
}

fn limit(by: LimitBy) -> Config {
    let mut limits = [None; 6];
    limits[Window::Minute as usize] = Some(2.0);
    Config::RateLimiting(RateLimiting { limits, by, ..RateLimiting::default() })
}

#[test]
fn requests_are_counted_together_as_the_plugin_says() {
    const PLAIN: &str = "GET /x HTTP/1.1";
    const LONG: &str = concat!(
        "GET / HTTP/1.1\r\nX-T: 0123456789012345678901234567890123456789",
        "0123456789012345678901234567890123456789"
    );
    for (name, by, same, other) in [
        ("header", LimitBy::Header("x-t".into()), "GET / HTTP/1.1\r\nX-T: a", "GET / HTTP/1.1\r\nX-T: b"),
        ("path", LimitBy::Path("/x".into()), "GET /x?q HTTP/1.1", "GET /y HTTP/1.1"),
        ("long header", LimitBy::Header("x-t".into()), LONG, "GET / HTTP/1.1\r\nX-T: b"),
        ("header that is not there", LimitBy::Header("x-t".into()), PLAIN, "GET / HTTP/1.1\r\nX-T: 10.1.2.3"),
        ("consumer", LimitBy::Consumer, "GET / HTTP/1.1\r\napikey: top", PLAIN),
        ("credential", LimitBy::Credential, "GET / HTTP/1.1\r\napikey: top", PLAIN),
    ] {
        let auth = KeyAuth { anonymous: Some("nobody".into()), ..key_auth() };
        let world = World::with([Config::KeyAuth(auth), limit(by)]);
        let status = |head| world.ask(head).1.map(|answer| answer.status);
        assert_eq!([status(same), status(same), status(same)], [None, None, Some(429)], "{name}");
        assert_eq!(status(other), None, "{name}");
    }
    let mut world = World::with([limit(LimitBy::Ip)]);
    let status = |world: &World| world.ask(PLAIN).1.map(|answer| answer.status);
    assert_eq!([status(&world), status(&world), status(&world)], [None, None, Some(429)]);
    world.client = "10.1.2.4";
    assert_eq!(status(&world), None);
}

#[test]
fn clients_are_told_of_their_limits_and_when_to_come_back() {
    let world = World::with([limit(LimitBy::Ip)]);
    let (passed, _) = world.ask("GET / HTTP/1.1");
    assert_eq!(
        text(&passed.response),
        "\r\nX-RateLimit-Limit-Minute: 2\r\nX-RateLimit-Remaining-Minute: 1\r\n\
         RateLimit-Limit: 2\r\nRateLimit-Remaining: 1\r\nRateLimit-Reset: 10"
    );
    world.ask("GET / HTTP/1.1");
    let (passed, answer) = world.ask("GET / HTTP/1.1");
    assert!(text(&passed.response).contains("RateLimit-Remaining: 0"));
    assert_eq!(text(&answer.as_ref().unwrap().headers), "\r\nRetry-After: 10");
    assert_eq!(said(answer), (429, "API rate limit exceeded".to_owned()));
    assert!(world.ask_at("GET / HTTP/1.1", NOW + Duration::from_secs(10)).1.is_none(), "another minute");
}

#[test]
fn the_limit_of_a_consumer_takes_the_place_of_that_for_all() {
    let mut world = World::with([Config::KeyAuth(key_auth()), limit(LimitBy::Consumer)]);
    let mut limits = [None; 6];
    limits[Window::Minute as usize] = Some(5.0);
    let config = RateLimiting { limits, ..RateLimiting::default() };
    world.own.route.enter(Some(Uuid::from_u128(1)), &plugin(50, Config::RateLimiting(config))).unwrap();
    let (passed, _) = world.ask("GET / HTTP/1.1\r\napikey: top");
    assert!(text(&passed.response).contains("X-RateLimit-Limit-Minute: 5"));
}

#[test]
fn an_id_is_made_where_the_client_has_none() {
    let config = |generator| {
        let header_name = "X-Cor".into();
        Config::CorrelationId(CorrelationId { header_name, generator, echoes: true })
    };
    let (passed, _) = World::with([config(Generator::Uuid)]).ask("GET / HTTP/1.1\r\nx-cor: mine");
    assert_eq!(
        (text(&passed.request), text(&passed.response)),
        (String::new(), "\r\nX-Cor: mine".to_owned())
    );
    let (passed, _) = World::with([config(Generator::Uuid)]).ask("GET / HTTP/1.1\r\nx-cor:");
    assert_eq!(text(&passed.request), "\r\nX-Cor: 00000000-0000-4000-8000-00000000002a");
    assert_eq!(text(&passed.request), text(&passed.response));
    let world = World::with([config(Generator::UuidCounter)]);
    for number in 1..3 {
        let (passed, _) = world.ask("GET / HTTP/1.1");
        assert_eq!(
            text(&passed.request),
            format!("\r\nX-Cor: 00000000-0000-4000-8000-000000000001#{number}")
        );
    }
    let (passed, _) = World::with([config(Generator::Tracker)]).ask("GET / HTTP/1.1");
    assert!(text(&passed.request).starts_with("\r\nX-Cor: 10.1.2.3-8000-"), "{}", text(&passed.request));
}

#[test]
fn what_came_before_an_answer_counts_for_it() {
    let echo = CorrelationId { header_name: "X-Cor".into(), generator: Generator::Uuid, echoes: true };
    let world = World::with([Config::CorrelationId(echo), Config::KeyAuth(key_auth())]);
    let (passed, answer) = world.ask("GET / HTTP/1.1");
    assert!(answer.is_some() && text(&passed.response).starts_with("\r\nX-Cor: "));
}

#[test]
fn requests_are_answered_where_the_trigger_is_there() {
    let config =
        RequestTermination { status: 418, trigger: Some("x-stop".into()), ..RequestTermination::default() };
    let world = World::with([Config::RequestTermination(config)]);
    assert!(world.ask("GET / HTTP/1.1").1.is_none());
    for head in ["GET / HTTP/1.1\r\nX-Stop: 0", "GET /?x-stop HTTP/1.1"] {
        assert_eq!(said(world.ask(head).1), (418, String::new()), "{head}");
    }
    let usual = |status| {
        said(
            World::with([Config::RequestTermination(RequestTermination {
                status,
                ..RequestTermination::default()
            })])
            .ask("GET / HTTP/1.1")
            .1,
        )
    };
    assert_eq!(usual(503), (503, "Service unavailable".to_owned()));
    let echo = RequestTermination { status: 200, echoes: true, ..RequestTermination::default() };
    let (_, echoed) = said(World::with([Config::RequestTermination(echo)]).ask("PUT /a?b=c HTTP/1.1").1);
    let echoed: serde_json::Value = serde_json::from_str(&echoed).unwrap();
    assert_eq!(echoed["request"]["method"], "PUT");
    assert_eq!(echoed["request"]["query"]["b"], "c");
    assert_eq!(echoed["matched_route"]["name"], "r");
}

fn cors(origins: &[&str]) -> Cors {
    Cors {
        origins: origins.iter().map(|origin| Origin::parse(origin).unwrap()).collect(),
        methods: "GET,POST".into(),
        max_age: Some("600".into()),
        exposed_headers: Some("X-A".into()),
        on_absent: true,
        ..Cors::default()
    }
}

#[test]
fn browsers_are_told_which_pages_may_call() {
    const PREFLIGHT: &str = "OPTIONS / HTTP/1.1\r\nOrigin: https://a.test\r\nAccess-Control-Request-Method: PUT\r\n\
                             Access-Control-Request-Headers: x-b";
    const CALL: &str = "GET / HTTP/1.1\r\nOrigin: https://a.test";
    let head = "\r\nVary: Origin\r\nAccess-Control-Allow-Origin: ";
    let allowed = "\r\nAccess-Control-Allow-Headers: x-b\r\nAccess-Control-Allow-Methods: GET,POST\r\nAccess-Control-Max-Age: 600";
    let exposed = "\r\nAccess-Control-Expose-Headers: X-A";
    let with_credentials = |origins: &[&str]| Cors { credentials: true, ..cors(origins) };
    for (name, config, head_sent, want) in [
        ("all", cors(&[]), CALL, format!("{head}*{exposed}")),
        ("all, preflight", cors(&["*"]), PREFLIGHT, format!("{head}*{allowed}")),
        (
            "one of two",
            cors(&["https://b.test", "https://a.test"]),
            CALL,
            format!("{head}https://a.test{exposed}"),
        ),
        ("none of two", cors(&["https://b.test", "c.test"]), CALL, format!("\r\nVary: Origin{exposed}")),
        ("the one", cors(&["https://b.test"]), CALL, format!("{head}https://b.test{exposed}")),
        (
            "credentials of all",
            with_credentials(&["*"]),
            CALL,
            format!("{head}https://a.test\r\nAccess-Control-Allow-Credentials: true{exposed}"),
        ),
        (
            "credentials of nobody",
            with_credentials(&["c.test", "d.test"]),
            CALL,
            format!("\r\nVary: Origin{exposed}"),
        ),
        ("absent", cors(&["*"]), "GET / HTTP/1.1", format!("{head}*{exposed}")),
        ("absent, not told", Cors { on_absent: false, ..cors(&["*"]) }, "GET / HTTP/1.1", String::new()),
        ("the upstream answers", Cors { continues: true, ..cors(&["*"]) }, PREFLIGHT, String::new()),
    ] {
        let is_answered = head_sent == PREFLIGHT && !config.continues;
        let (passed, answer) = World::with([Config::Cors(config)]).ask(head_sent);
        assert_eq!(answer.as_ref().map(|answer| answer.status), is_answered.then_some(200), "{name}");
        let told = answer.map_or_else(|| text(&passed.response), |answer| text(&answer.headers));
        assert_eq!(told, want, "{name}");
    }
    let (passed, _) = World::with([Config::Cors(cors(&["https://b.test", "c.test"]))]).ask(CALL);
    assert!(passed.response.drops("Access-Control-Allow-Origin"), "nor what the upstream says");
}

fn proxy_cache(by_cache_control: bool) -> Config {
    Config::ProxyCache(ProxyCache {
        response_codes: Box::new([200]),
        methods: Box::new(["GET".into()]),
        content_types: Box::new([MediaType::parse("text/plain")]),
        ttl_s: 60,
        storage_ttl_s: Some(1_000),
        by_cache_control,
        shows_age: true,
        shows_status: true,
        ..ProxyCache::default()
    })
}

#[test]
fn an_answer_counts_for_as_long_as_it_says_and_no_longer_for_whom_it_must_not() {
    const GET: &str = "GET / HTTP/1.1";
    const STALE: &str = "GET / HTTP/1.1\r\nCache-Control: max-stale";
    const MINUTE: &str = "Cache-Control: max-age=60";
    let aged = |age| format!("{MINUTE}\r\nAge: {age}");
    for (name, answer, asked, after, want) in [
        ("fresh", MINUTE.to_owned(), GET, 60, Some("60")),
        ("stale", MINUTE.to_owned(), GET, 61, None),
        ("stale, taken so", MINUTE.to_owned(), STALE, 61, Some("61")),
        ("must be asked for", format!("{MINUTE}, must-revalidate"), STALE, 61, None),
        ("must be asked for, fresh", format!("{MINUTE}, must-revalidate"), STALE, 60, Some("60")),
        ("by proxies", format!("{MINUTE}, proxy-revalidate"), STALE, 61, None),
        ("by shared caches", "Cache-Control: s-maxage=60".to_owned(), STALE, 61, None),
        ("old already", aged("50"), GET, 0, Some("50")),
        ("old already, then stale", aged("50"), GET, 11, None),
        ("old already, then stale, taken so", aged("50"), STALE, 11, Some("61")),
        ("stale already", aged("60"), STALE, 0, None),
        ("very old", aged("99999999999999999999"), STALE, 0, None),
        ("by a date", "Expires: Fri, 27 Nov 2026 06:01:50 GMT\r\nAge: 50".to_owned(), GET, 60, Some("110")),
        ("after a date", "Expires: Fri, 27 Nov 2026 06:01:50 GMT\r\nAge: 50".to_owned(), GET, 61, None),
    ] {
        let world = World::with([proxy_cache(true)]);
        world.keep(GET, &answer);
        let (passed, answer) = world.ask_at(asked, NOW + Duration::from_secs(after));
        let told = text(&passed.response);
        assert_eq!(answer.is_some(), want.is_some(), "{name}: {told}");
        assert_eq!(told.split_once("Age: ").map(|(_, age)| age), want, "{name}: {told}");
    }
    // Without, all count for as long as the operator says.
    let world = World::with([proxy_cache(false)]);
    assert!(world.keep(GET, "Cache-Control: max-age=1, must-revalidate\r\nAge: 100"));
    let (passed, answer) = world.ask_at(GET, NOW + Duration::from_secs(60));
    assert!(answer.is_some() && text(&passed.response).ends_with("Age: 160"), "{}", text(&passed.response));
    assert!(world.ask_at(GET, NOW + Duration::from_secs(61)).1.is_none());
}

#[test]
fn an_answer_without_a_date_is_given_that_of_its_arrival() {
    const OWN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const ARRIVAL: &str = "Fri, 27 Nov 2026 06:00:50 GMT";
    for (answer, want) in [
        ("X-A: 1".to_owned(), ARRIVAL),
        (format!("date: {OWN}"), OWN),
        (format!("Date: {OWN}\r\nConnection: date"), ARRIVAL),
    ] {
        let world = World::with([proxy_cache(false)]);
        assert!(world.keep("GET / HTTP/1.1", &answer));
        let (_, answer) = world.ask_at("GET / HTTP/1.1", NOW + Duration::from_secs(9));
        let Content::Stored(stored) = answer.unwrap().content else { panic!("a hit") };
        let dates = stored.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("date"));
        let dates: Vec<_> = dates.map(|(_, value)| std::str::from_utf8(value).unwrap()).collect();
        assert_eq!(dates, [want]);
    }
}
