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
