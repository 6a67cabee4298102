mod model;

use super::rank::{REGEX_PRIORITY_ZERO, priority};
use super::*;

/// A request's headers.
struct Lines<'a>(&'a [(&'a str, &'a str)]);

impl Headers for Lines<'_> {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        for (_, value) in self.0.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)) {
            found(value.as_bytes());
        }
    }
}

fn query<'a>(host: &'a str, path: &'a str, headers: &'a Lines<'a>) -> Query<'a> {
    Query {
        is_tls: false,
        method: b"GET",
        host: host.as_bytes(),
        port: 8000,
        path: path.as_bytes(),
        sni: None,
        headers,
    }
}

/// A rule from text: words `host=`, `path=`, `method=`, `sni=`, `priority=` and `header:name=`.
fn rule(id: u128, text: &str) -> Rule {
    let mut rule = Rule { id: Uuid::from_u128(id), ..Rule::default() };
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (key, value) = word.split_once('=').unwrap();
        match key {
            "host" => rule.hosts.push(HostPattern::parse(value).unwrap()),
            "path" => rule.paths.push(PathPattern::parse(value).unwrap()),
            "method" => rule.methods.push(value.into()),
            "sni" => rule.snis.push(SniPattern::parse(value).unwrap()),
            "priority" => rule.regex_priority = value.parse().unwrap(),
            header => {
                let name = HeaderName::parse(header.strip_prefix("header:").unwrap()).unwrap();
                let value = HeaderPattern::parse(value).unwrap();
                match rule.headers.iter_mut().find(|header| header.name == name) {
                    Some(header) => header.values.push(value),
                    None => rule.headers.push(HeaderRule { name, values: vec![value] }),
                }
            }
        }
    }
    rule
}

fn router(rules: &[&str]) -> Router {
    Router::new((1..).zip(rules).map(|(id, text)| rule(id, text)).collect())
}

#[test]
fn priorities_are_those_of_the_reference() {
    let zero = u64::from(REGEX_PRIORITY_ZERO) << 19;
    for (text, want) in [
        ("host=a.com path=/ method=GET", 0x7000_0000_0000_0001),
        ("host=a.com path=/", 0x5000_0000_0000_0001),
        ("host=*.a.com path=/foo", 0x4000_0000_0000_0004),
        ("method=GET path=/", 0x4000_0000_0000_0001),
        ("host=a.com", 0x3000_0000_0000_0000),
        ("header:x=1 header:y=1", 0x2020_0000_0000_0000),
        ("header:x=1", 0x2010_0000_0000_0000),
        ("path=~/foo priority=10", 0x2008_0000_0050_0000 + zero),
        (r"path=~/foo/\d+", 0x2008_0000_0000_0000 + zero),
        ("path=/foo/bar", 0x2000_0000_0000_0008),
        ("path=/foo", 0x2000_0000_0000_0004),
        ("host=*.a.com", 0x2000_0000_0000_0000),
        ("method=GET", 0x2000_0000_0000_0000),
    ] {
        let rule = rule(1, text);
        assert_eq!(priority(&rule, rule.paths.first()), want, "{text}");
    }
    let negative = rule(1, "path=~/a priority=-1");
    assert!(priority(&negative, negative.paths.first()) < 0x2008_0000_0000_0000 + zero);
    assert!(priority(&negative, negative.paths.first()) > 0x2000_0000_0000_0008);
}

#[test]
fn the_highest_priority_wins_in_whatever_order_routes_were_added() {
    // Highest first; each takes the request.
    let ordered = [
        "host=x.a.com path=/ method=GET",
        "host=x.a.com path=/",
        "host=*.a.com path=/foo",
        "method=GET path=/",
        "host=x.a.com",
        "header:x=1 header:y=1",
        "header:x=1",
        "path=~/foo priority=10",
        r"path=~/foo/\w+",
        "path=/foo/bar",
        "path=/foo",
        "host=*.a.com",
    ];
    let headers = Lines(&[("X", "1"), ("Y", "1")]);
    for skipped in 0..ordered.len() {
        let rules = &ordered[skipped..];
        for turn in 0..rules.len() {
            let mut turned = rules.to_vec();
            turned.rotate_left(turn);
            let found = router(&turned).find(&query("x.a.com", "/foo/bar", &headers)).unwrap();
            assert_eq!(turned[found.route], rules[0], "turned by {turn}");
        }
    }
}

#[test]
fn one_route_takes_what_its_rule_says() {
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], Option<usize>);
    let cases: &[Case<'_>] = &[
        ("path=/foo", "", "/foo", &[], Some(4)),
        ("path=/foo", "", "/foobar", &[], Some(4)),
        ("path=/foo", "", "/fo", &[], None),
        ("path=/", "any.host", "/x", &[], Some(1)),
        ("path=~/f.o", "", "/fooo", &[], Some(4)),
        ("path=~/f.o$", "", "/fooo", &[], None),
        ("path=~/a|/b", "", "/zzz/b", &[], None),
        ("path=/long path=/l path=~/lo", "", "/long/x", &[], Some(3)),
        ("path=/long path=/l", "", "/long/x", &[], Some(5)),
        ("path=/long path=/l", "", "/lo", &[], Some(2)),
        ("host=a.com", "a.com", "/", &[], Some(0)),
        ("host=A.com", "a.COM", "/", &[], Some(0)),
        ("host=a.com", "a.com.", "/", &[], Some(0)),
        ("host=a.com", "xa.com", "/", &[], None),
        ("host=a.com", "", "/", &[], None),
        ("host=a.com:8000", "a.com", "/", &[], Some(0)),
        ("host=a.com:8001", "a.com", "/", &[], None),
        ("host=*.a.com", "x.y.a.com", "/", &[], Some(0)),
        ("host=*.a.com", "a.com", "/", &[], None),
        ("host=*.a.com", "xa.com", "/", &[], None),
        ("host=a.*", "a.b.c", "/", &[], Some(0)),
        ("host=a.*", "b.a.c", "/", &[], None),
        ("host=::1", "[0:0::1]", "/", &[], Some(0)),
        ("host=::1", "[::2]", "/", &[], None),
        ("method=GET", "", "/", &[], Some(0)),
        ("method=POST", "", "/", &[], None),
        ("method=get", "", "/", &[], None),
        ("header:x=Blue", "", "/", &[("X", "bLUE")], Some(0)),
        ("header:x=blue", "", "/", &[("x", "red"), ("x", "blue")], Some(0)),
        ("header:x=blue", "", "/", &[("x", "red, blue")], None),
        ("header:x=blue header:x=red", "", "/", &[("x", "red")], Some(0)),
        ("header:x=blue header:y=1", "", "/", &[("x", "blue")], None),
        (r"header:x=~*^b\D+$ header:x=red", "", "/", &[("x", "BLUE")], Some(0)),
        (r"header:x=~*^b\D+$", "", "/", &[("x", "b1")], None),
        ("sni=a.com path=/", "", "/", &[], Some(1)),
    ];
    for (text, host, path, headers, want) in cases {
        let got = router(&[text]).find(&query(host, path, &Lines(headers)));
        assert_eq!(got.map(|found| found.prefix_bytes), *want, "{text}: {host}{path} {headers:?}");
    }
}

#[test]
fn sni_is_looked_at_over_tls_only() {
    let router = router(&["sni=*.a.com"]);
    for (is_tls, sni, want) in [
        (false, None, true),
        (false, Some("b.com"), true),
        (true, None, false),
        (true, Some("b.com"), false),
        (true, Some("x.a.com"), true),
    ] {
        let headers = Lines(&[]);
        let query = Query { is_tls, sni, ..query("h", "/", &headers) };
        assert_eq!(router.find(&query).is_some(), want, "{is_tls} {sni:?}");
    }
}

#[test]
fn a_tie_goes_to_the_larger_id() {
    for (first, second) in [("path=~/a.", "path=~/.b"), ("host=*.a.com", "host=x.*")] {
        for (ids, want) in [([1, 2], 1), ([2, 1], 0)] {
            let router = Router::new(vec![rule(ids[0], first), rule(ids[1], second)]);
            let headers = Lines(&[]);
            let found = router.find(&query("x.a.com", "/ab", &headers)).unwrap();
            assert_eq!(found.route, want, "{first} {second} {ids:?}");
        }
    }
}

#[test]
fn a_tie_between_parts_of_routes_falls_as_in_the_reference() {
    // Several paths make parts, with ids of their own: v5 of what is written here, computed by another program.
    let id = Uuid::from_u128(1);
    for (path, want) in
        [("/abcd", "f5714171-d2c1-5250-9eb2-9dbf65efb4d6"), ("~/a", "e82c364f-32ea-5f67-a3db-9feed6885b48")]
    {
        let rule = Rule { id, ..rule(1, &format!("path={path} path=/other")) };
        let shown = format!("{:?}", Rank::new(Flavour::Compatible, &rule, 0, Some(0)));
        assert!(shown.contains(want), "{path}: {shown}");
    }
    // Of one path there are no parts.
    let whole = Rank::new(Flavour::Compatible, &rule(1, "path=/abcd"), 0, Some(0));
    assert!(format!("{whole:?}").contains("00000000-0000-0000-0000-000000000001"), "{whole:?}");
}

#[test]
fn the_older_flavour_has_an_order_of_its_own() {
    // The first of each pair wins in `traditional`, the second by default, if it says so.
    for (winner, loser, is_other_way_round) in [
        ("host=*.a.com", "path=/", true),
        ("host=*.a.com:8000", "host=x.a.com", true),
        ("host=*.a.com path=/", "method=GET path=/foo", true),
        ("header:x=1", "path=/foo", false),
        ("path=/foo", "method=GET", false),
        ("path=~/f", "path=/foo", false),
        ("path=~/f priority=1", "path=~/foo", false),
        ("path=/foo", "path=/fo", false),
        ("header:x=1 header:y=1", "header:x=1", false),
        ("path=/ method=GET", "host=x.a.com", false),
    ] {
        let headers = Lines(&[("X", "1"), ("Y", "1")]);
        let query = query("x.a.com", "/foo/bar", &headers);
        for turn in [[winner, loser], [loser, winner]] {
            let find = |flavour| {
                let rules = (1..).zip(turn).map(|(id, text)| rule(id, text)).collect();
                turn[Router::of(flavour, rules).find(&query).unwrap().route]
            };
            assert_eq!(find(Flavour::Traditional), winner, "{winner} before {loser}");
            let want = if is_other_way_round { loser } else { winner };
            assert_eq!(find(Flavour::Compatible), want, "{winner} and {loser} by default");
        }
    }
}

#[test]
fn the_older_route_wins_a_tie_in_the_older_flavour() {
    // Of the same age the larger id, be it so in its last bits only.
    for (ids, ages, want) in [
        ([1, 2], [5, 6], 0),
        ([1, 2], [6, 5], 1),
        ([1, 2], [-1, 0], 0),
        ([1, 2], [7, 7], 1),
        ([2, 1], [7, 7], 0),
        ([1 << 64, 2 << 64], [7, 7], 1),
        ([2 << 64, 1 << 64], [7, 7], 0),
    ] {
        let rules = ids.into_iter().zip(ages);
        let rules = rules.map(|(id, created_at_s)| Rule { created_at_s, ..rule(id, "host=x.a.com") });
        let router = Router::of(Flavour::Traditional, rules.collect());
        let headers = Lines(&[]);
        assert_eq!(router.find(&query("x.a.com", "/", &headers)).unwrap().route, want, "{ids:?} {ages:?}");
    }
}

#[test]
fn the_flavours_differ_in_what_matches() {
    type Case<'a> = (&'a str, &'a str, u16, &'a [(&'a str, &'a str)], bool, bool);
    let cases: &[Case<'_>] = &[
        ("host=*.a.com", ".a.com", 1, &[], true, false),
        ("host=*.a.com", "x.a.com", 1, &[], true, true),
        ("host=*.a.com:1", "x.a.com", 1, &[], true, true),
        ("host=*.a.com:2", "x.a.com", 1, &[], false, false),
        (r"header:x=~*^b\D+$ header:x=red", "", 1, &[("X", "BLUE")], true, false),
        (r"header:x=~*^b\D+$ header:x=red", "", 1, &[("X", r"~*^B\D+$")], false, true),
        (r"header:x=~*^b\D+$ header:x=red", "", 1, &[("X", "Red")], true, true),
        (r"header:x=~*^b\D+$", "", 1, &[("X", "BLUE")], true, true),
        ("path=~/a|/b", "", 1, &[], false, false),
    ];
    for (text, host, port, headers, by_default, in_traditional) in cases {
        for (flavour, want) in [(Flavour::Compatible, by_default), (Flavour::Traditional, in_traditional)] {
            let headers = Lines(headers);
            let query = Query { port: *port, ..query(host, "/zzz/b", &headers) };
            let found = Router::of(flavour, vec![rule(1, text)]).find(&query);
            assert_eq!(found.is_some(), *want, "{flavour:?}: {text} on {host} {:?}", headers.0);
        }
    }
    for (flavour, want) in [(Flavour::Compatible, true), (Flavour::Traditional, false)] {
        let router = Router::of(flavour, vec![rule(1, "sni=*.a.com")]);
        let headers = Lines(&[]);
        let query = Query { is_tls: true, sni: Some("x.a.com"), ..query("h", "/", &headers) };
        assert_eq!(router.find(&query).is_some(), want, "{flavour:?}");
        let router = Router::of(flavour, vec![rule(1, "sni=x.a.com.")]);
        assert!(router.find(&query).is_some(), "a trailing dot of the entry counts for nothing");
    }
    for (flavour, is_tls, want) in [
        (Flavour::Compatible, false, 9000),
        (Flavour::Compatible, true, 9000),
        (Flavour::Traditional, false, 80),
        (Flavour::Traditional, true, 443),
    ] {
        assert_eq!(Router::of(flavour, Vec::new()).assumed_port(is_tls, 9000), want);
    }
}

#[test]
fn routes_that_only_a_tie_break_tells_apart_are_found() {
    for (first, second, want) in [
        ("host=a.com path=/a", "host=a.com path=/a", true),
        ("path=/a method=GET", "path=/a method=GET method=POST", true),
        ("path=/a method=GET", "path=/a method=POST", false),
        ("path=/a", "path=/a/b", false),
        ("path=/a", "path=/b", false),
        ("path=/a", "path=/a method=GET", false),
        ("host=a.com:1", "host=a.com:2", false),
        ("host=*.a.com", "host=*.a.com", true),
        ("host=a.*", "host=a.*", true),
        ("header:x=1", "header:x=1", true),
        ("header:x=1", "header:x=2", false),
        ("header:x=~*1", "header:x=~*2", false),
        ("path=~/a", "path=~/a", true),
        ("path=~/a", "path=~/b", false),
        ("sni=a.com path=/", "sni=b.com path=/", false),
    ] {
        let router = router(&[first, second]);
        assert_eq!(
            [router.rival(0), router.rival(1)],
            if want { [Some(1), Some(0)] } else { [None; 2] },
            "{first}, {second}"
        );
    }
}

#[test]
fn groups_of_a_regex_are_read_on_demand() {
    let router = router(&[r"path=/plain path=~/users/(?<id>\d+)(/x)?"]);
    let headers = Lines(&[]);
    let path = "/users/42/profile";
    let found = router.find(&query("", path, &headers)).unwrap();
    assert_eq!(found, Match { route: 0, prefix_bytes: 9, path: Some(1) });
    let captures = router.captures(&found, path.as_bytes()).unwrap();
    assert_eq!(captures.name("id"), Some(&b"42"[..]));
    assert_eq!(captures.get(2), None);
    let plain = router.find(&query("", "/plain", &headers)).unwrap();
    assert!(router.captures(&plain, b"/plain").is_none());
}

#[test]
fn setting_one_route_leaves_earlier_clones_alone() {
    let before = router(&["host=a.com path=/a", "path=/a"]);
    let mut after = before.clone();
    after.set(0, None);
    after.set(7, Some(rule(9, "host=a.com path=/a/b")));
    let headers = Lines(&[]);
    let query = query("a.com", "/a/b", &headers);
    assert_eq!(before.find(&query).unwrap().route, 0);
    assert_eq!(after.find(&query).unwrap().route, 7);
    after.set(7, None);
    assert_eq!(after.find(&query).unwrap().route, 1);
    after.set(1, None);
    assert_eq!(after.find(&query), None);
}

#[test]
fn what_a_request_does_not_meet_is_told_by_condition() {
    let rule = rule(1, "host=a.com path=/a method=GET sni=a.com header:x=1 header:y=2");
    let headers = Lines(&[("x", "1")]);
    let query = Query { is_tls: true, ..query("b.com", "/b", &headers) };
    let unmet = rule.unmet(Flavour::Compatible, &query);
    let y = HeaderName::parse("y").unwrap();
    let want = [Condition::Hosts, Condition::Paths, Condition::Snis, Condition::Header(&y)];
    assert_eq!(unmet, want);
}
