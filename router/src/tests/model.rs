//! The index against the definition: all routes in order of priority, the first that matches.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

/// Fit to collide: wildcards over the same names, with and without ports.
const HOSTS: &[&str] = &[
    "a.com",
    "A.com:80",
    "a.com:8000",
    "b.a.com",
    "*.a.com",
    "*.com",
    "*.a.com:80",
    "a.*",
    "b.*",
    "a.b.*",
    "::1",
];
const PATHS: &[&str] = &[
    "/",
    "/a",
    "/ab",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/b",
    "~/a",
    "~/a/b",
    "~/a/.*c",
    "~/[ab]$",
    "~/(a|b)/b",
    "~/?a",
    "~/",
    "~/abc|/b",
];
const METHODS: &[&str] = &["GET", "POST", "PUT"];
const HEADERS: &[&str] = &["x=1", "x=2", "x=~*^[12]$", "y=1", "y=A", "z=~*a"];
const SNIS: &[&str] = &["a.com", "*.com", "b.*"];

#[derive(Debug, Clone)]
struct Request {
    is_tls: bool,
    method: &'static str,
    host: &'static str,
    port: u16,
    path: String,
    sni: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![2 => Just(Vec::new()), 3 => subsequence(of, 1..3)]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let one =
        (some(HOSTS), some(PATHS), some(METHODS), some(HEADERS), some(SNIS), -1..2_i64, 0..4_u128, 0..3_i64);
    let one = one.prop_map(|(hosts, paths, methods, headers, snis, regex_priority, id, created_at_s)| {
        let words =
            [("host=", hosts), ("path=", paths), ("method=", methods), ("header:", headers), ("sni=", snis)];
        let words =
            words.iter().flat_map(|(key, values)| values.iter().map(move |value| format!("{key}{value}")));
        let text = words.collect::<Vec<_>>().join(" ");
        Rule { regex_priority, created_at_s, ..rule(id, &text) }
    });
    prop::collection::vec(one, 0..12)
}

fn request() -> impl Strategy<Value = Request> {
    (
        any::<bool>(),
        select(METHODS),
        select(
            &["a.com", "A.COM.", "b.a.com", "c.b.a.com", "a.b.c", "com", "", "[::1]", ".a.com", "b.x"][..],
        ),
        select(&[80, 8000, 1][..]),
        "(/[abc]{0,2}){1,3}",
        select(&[None, Some("a.com"), Some("b.com"), Some("c.org")][..]),
        subsequence(
            &[("x", "1"), ("x", "2"), ("X", "3"), ("y", "a"), ("z", "bab"), ("x", "~*^[12]$")][..],
            0..4,
        ),
    )
        .prop_map(|(is_tls, method, host, port, path, sni, headers)| Request {
            is_tls,
            method,
            host,
            port,
            path,
            sni,
            headers,
        })
}

/// The order of `proxy.md` 1.5, one criterion after the other.
type Order = (usize, u32, bool, bool, bool, usize, i64, usize, std::cmp::Reverse<i64>, Uuid);

fn traditional_order(rule: &Rule, path: Option<&PathPattern>) -> Order {
    let used = [
        (64, !rule.hosts.is_empty()),
        (32, !rule.headers.is_empty()),
        (16, path.is_some()),
        (8, !rule.methods.is_empty()),
        (4, !rule.snis.is_empty()),
    ];
    let used: Vec<_> = used.into_iter().filter(|(_, is_used)| *is_used).map(|(bit, _)| bit).collect();
    let is_wildcard = rule.hosts.iter().any(HostPattern::is_wildcard);
    let (is_regex, regex_priority, length) = match path {
        Some(PathPattern::Regex(_)) => (true, rule.regex_priority, 0),
        Some(PathPattern::Prefix(prefix)) => (false, 0, prefix.as_str().len()),
        None => (false, 0, 0),
    };
    (
        used.len(),
        used.iter().sum(),
        rule.hosts.iter().any(|host| host.is_wildcard() && host.port().is_some()),
        !rule.hosts.is_empty() && !is_wildcard,
        is_regex,
        rule.headers.len(),
        regex_priority,
        length,
        std::cmp::Reverse(rule.created_at_s),
        rule.id,
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ModelRank {
    Compatible(Rank),
    Traditional(Order, std::cmp::Reverse<usize>, std::cmp::Reverse<Option<usize>>),
}

fn is_host(flavour: Flavour, pattern: &HostPattern, host: &str, port: u16) -> bool {
    let shown = pattern.to_string();
    let name = shown.strip_suffix(&format!(":{port}")).unwrap_or(&shown);
    // `*` alone for nothing.
    let is_empty_wildcard = pattern.is_wildcard() && name.trim_matches('*') == host;
    pattern.matches(host.as_bytes(), port) && (flavour == Flavour::Compatible || !is_empty_wildcard)
}

/// Every attribute, one after the other; for each path that matches, its rank.
fn matches(flavour: Flavour, rule: &Rule, route: usize, request: &Request) -> Vec<(ModelRank, Match)> {
    let host = request.host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let values = |name: &HeaderName| {
        let of_name = |(known, _): &&(&str, &str)| known.eq_ignore_ascii_case(name.as_str());
        request.headers.iter().filter(of_name).map(|(_, value)| value.as_bytes()).collect::<Vec<_>>()
    };
    let is_host = rule.hosts.is_empty()
        || rule.hosts.iter().any(|pattern| is_host(flavour, pattern, host, request.port));
    let is_method = rule.methods.is_empty() || rule.methods.iter().any(|method| **method == *request.method);
    let is_sni = !request.is_tls
        || rule.snis.is_empty()
        || request.sni.is_some_and(|sni| {
            let mut snis = rule.snis.iter();
            snis.any(|wanted| match flavour {
                Flavour::Compatible => wanted.matches(sni),
                Flavour::Traditional => wanted.to_string() == sni,
            })
        });
    let is_header = rule.headers.iter().all(|header| {
        values(&header.name).iter().any(|value| {
            header.values.iter().any(|wanted| match (flavour, header.values.len()) {
                (Flavour::Traditional, 2..) => {
                    wanted.to_string().eq_ignore_ascii_case(std::str::from_utf8(value).unwrap())
                }
                _ => wanted.matches(value),
            })
        })
    });
    if !(is_host && is_method && is_sni && is_header) {
        return Vec::new();
    }
    let of = |path: Option<usize>, prefix_bytes| {
        let pattern = path.map(|path| &rule.paths[path]);
        let rank = match flavour {
            Flavour::Compatible => ModelRank::Compatible(Rank::new(flavour, rule, route, path)),
            Flavour::Traditional => ModelRank::Traditional(
                traditional_order(rule, pattern),
                std::cmp::Reverse(route),
                std::cmp::Reverse(path),
            ),
        };
        (rank, Match { route, prefix_bytes, path })
    };
    if rule.paths.is_empty() {
        return vec![of(None, 0)];
    }
    let matching = rule.paths.iter().enumerate().filter_map(|(at, path)| match path {
        PathPattern::Prefix(prefix) => {
            request.path.starts_with(prefix.as_str()).then(|| of(Some(at), prefix.as_str().len()))
        }
        PathPattern::Regex(regex) => regex.match_len(request.path.as_bytes()).map(|len| of(Some(at), len)),
    });
    matching.collect()
}

fn expected(flavour: Flavour, rules: &[Option<Rule>], request: &Request) -> Option<Match> {
    let all = rules.iter().enumerate().flat_map(|(route, rule)| {
        rule.as_ref().map(|rule| matches(flavour, rule, route, request)).unwrap_or_default()
    });
    all.max_by_key(|(rank, _)| *rank).map(|(_, found)| found)
}

fn query_of<'a>(request: &'a Request, headers: &'a Lines<'a>) -> Query<'a> {
    Query {
        is_tls: request.is_tls,
        method: request.method.as_bytes(),
        host: request.host.as_bytes(),
        port: request.port,
        path: request.path.as_bytes(),
        sni: request.sni,
        headers,
    }
}

fn found(router: &Router, request: &Request) -> Option<Match> {
    router.find(&query_of(request, &Lines(&request.headers)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_index_finds_what_a_linear_search_finds(
        flavour in select(&[Flavour::Compatible, Flavour::Traditional][..]),
        rules in rules(),
        requests in prop::collection::vec(request(), 1..8),
    ) {
        let router = Router::of(flavour, rules.clone());
        let rules: Vec<_> = rules.into_iter().map(Some).collect();
        for request in requests {
            prop_assert_eq!(found(&router, &request), expected(flavour, &rules, &request), "{:?}", request);
        }
    }

    #[test]
    fn a_rule_matches_alone_if_nothing_of_it_is_unmet(
        flavour in select(&[Flavour::Compatible, Flavour::Traditional][..]),
        rules in rules(),
        requests in prop::collection::vec(request(), 1..8),
    ) {
        for rule in rules {
            let router = Router::of(flavour, vec![rule.clone()]);
            for request in &requests {
                let is_found = found(&router, request).is_some();
                let headers = Lines(&request.headers);
                let unmet = rule.unmet(flavour, &query_of(request, &headers));
                prop_assert_eq!(is_found, unmet.is_empty(), "{:?} {:?} {:?}", rule, request, unmet);
            }
        }
    }

    #[test]
    fn routes_set_one_by_one_are_as_good_as_a_new_router(
        flavour in select(&[Flavour::Compatible, Flavour::Traditional][..]),
        rules in rules(),
        steps in prop::collection::vec((0..12_usize, any::<prop::sample::Index>(), any::<bool>()), 0..24),
        requests in prop::collection::vec(request(), 1..6),
    ) {
        let mut router = Router::of(flavour, rules.clone());
        let spare = rules.clone();
        let mut rules: Vec<_> = rules.into_iter().map(Some).collect();
        for (route, of, is_removal) in steps {
            let rule = (!is_removal && !spare.is_empty()).then(|| of.get(&spare).clone());
            router.set(route, rule.clone());
            if rules.len() <= route {
                rules.resize(route + 1, None);
            }
            rules[route] = rule;
        }
        for request in requests {
            prop_assert_eq!(found(&router, &request), expected(flavour, &rules, &request), "{:?}", request);
        }
    }
}
