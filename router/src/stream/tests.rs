use proptest::prelude::*;

use super::*;

const TCP: Transports = Transports { tcp: true, tls: false, tls_passthrough: false, udp: false };
const TLS: Transports = Transports { tcp: false, tls: true, tls_passthrough: false, udp: false };
const PASSED: Transports = Transports { tcp: false, tls: false, tls_passthrough: true, udp: false };
const UDP: Transports = Transports { tcp: false, tls: false, tls_passthrough: false, udp: true };
const ALL: Transports = Transports { tcp: true, tls: true, tls_passthrough: false, udp: true };

/// `ip`, `ip/bits`, `:port` or `ip:port`, separated by spaces.
fn ends(text: &str) -> Vec<End> {
    text.split_whitespace()
        .map(|one| {
            let (ip, port) = one.split_once(':').map_or((one, None), |(ip, port)| (ip, Some(port)));
            End {
                network: (!ip.is_empty()).then(|| NetworkRange::parse(ip).unwrap()),
                port: port.map(|port| port.parse().unwrap()),
            }
        })
        .collect()
}

fn rule(id: u128, transports: Transports, sources: &str, destinations: &str, snis: &str) -> StreamRule {
    StreamRule {
        id: Uuid::from_u128(id),
        transports,
        sources: ends(sources),
        destinations: ends(destinations),
        snis: snis.split_whitespace().map(|sni| SniPattern::parse(sni).unwrap()).collect(),
    }
}

fn router(rules: &[StreamRule]) -> StreamRouter {
    let mut router = StreamRouter::default();
    for (route, rule) in rules.iter().enumerate() {
        router.set(route, Some(rule.clone()));
    }
    router
}

fn query<'a>(transport: Transport, source: &str, destination: &str, sni: Option<&'a str>) -> StreamQuery<'a> {
    StreamQuery { transport, source: source.parse().unwrap(), destination: destination.parse().unwrap(), sni }
}

#[test]
fn priorities_are_those_of_the_reference() {
    let narrow = 1 << 61;
    for (name, sources, destinations, snis, want) in [
        ("destination address and port", "", "10.0.0.1:9", "", 12),
        ("destination network and port", "", "10.0.0.0/8:9", "", 5),
        ("destination address", "", "10.0.0.1", "", 8),
        ("source port", ":9", "", "", 4 << 4),
        ("what different elements say is joined", "10.0.0.1 10.0.0.0/8 :9", "", "", 13 << 4),
        ("both ends", "10.0.0.1", "10.0.0.1", "", narrow + (8 << 4) + 8),
        ("a name", "", "", "a.com", narrow),
        ("a name and both ends", "10.0.0.1", "10.0.0.1", "a.com", narrow + (8 << 4) + 8),
    ] {
        assert_eq!(rule(1, ALL, sources, destinations, snis).priority(), want, "{name}");
    }
}

#[test]
fn the_greatest_priority_wins_and_then_the_larger_id() {
    let rules = [
        rule(9, ALL, "", ":9", ""),
        rule(1, ALL, "", "10.0.0.1:9", ""),
        rule(2, ALL, "", "10.0.0.0/8:9", ""),
        rule(3, ALL, "", "10.0.0.0/8:9", ""),
        rule(4, ALL, "127.0.0.1", "10.0.0.0/8", ""),
    ];
    let find = |source, destination| router(&rules).find(&query(Transport::Tcp, source, destination, None));
    assert_eq!(find("1.1.1.1:5", "10.0.0.1:9"), Some(1), "address and port");
    assert_eq!(find("1.1.1.1:5", "10.0.0.2:9"), Some(3), "of two networks, the larger id");
    assert_eq!(find("1.1.1.1:5", "11.0.0.1:9"), Some(0), "a port alone");
    assert_eq!(find("127.0.0.1:5", "10.0.0.1:9"), Some(4), "both ends");
    assert_eq!(find("127.0.0.1:5", "10.0.0.1:10"), Some(4));
    assert_eq!(find("1.1.1.1:5", "10.0.0.1:10"), None);
}

#[test]
fn a_route_takes_what_comes_as_its_protocols_say() {
    let rules = [
        rule(1, TCP, "", ":1", ""),
        rule(2, TLS, "", ":1", "a.com"),
        rule(3, UDP, "", ":1", ""),
        rule(4, PASSED, "", "", "b.com *.c.com d.*"),
    ];
    let router = router(&rules);
    let find = |transport, sni| router.find(&query(transport, "1.1.1.1:1", "2.2.2.2:1", sni));
    for (name, transport, sni, want) in [
        ("tcp", Transport::Tcp, None, Some(0)),
        ("udp", Transport::Udp, None, Some(2)),
        ("tls with its name", Transport::Tls, Some("a.com"), Some(1)),
        ("tls without a name: names are not looked at", Transport::Tls, None, Some(1)),
        ("tls with another name", Transport::Tls, Some("x.com"), None),
        ("passed on", Transport::Tls, Some("b.com"), Some(3)),
        ("by the end of a name", Transport::Tls, Some("x.y.c.com"), Some(3)),
        ("not by a part of a label", Transport::Tls, Some("xb.com"), None),
        ("by the beginning of a name", Transport::Tls, Some("d.org"), Some(3)),
    ] {
        assert_eq!(find(transport, sni), want, "{name}");
    }
}

#[test]
fn a_route_that_went_is_not_found() {
    let mut router = router(&[rule(1, ALL, "", ":1 :1 :2", "")]);
    let before = router.clone();
    let find = |router: &StreamRouter, port: u16| {
        router.find(&query(Transport::Tcp, "1.1.1.1:1", &format!("2.2.2.2:{port}"), None))
    };
    router.set(0, Some(rule(1, ALL, "", ":2", "")));
    assert_eq!((find(&router, 1), find(&router, 2)), (None, Some(0)));
    router.set(0, None);
    router.set(7, None);
    assert_eq!((find(&router, 1), find(&router, 2)), (None, None));
    assert_eq!(find(&before, 1), Some(0), "clones do not change");
    assert!(router.nameless.is_empty() && router.named.is_empty() && router.by_name.is_empty());
}

fn some_end() -> impl Strategy<Value = String> {
    const IPS: [&str; 8] =
        ["", "10.0.0.1", "10.0.0.2", "10.0.0.0/31", "10.0.0.0/8", "0.0.0.0/0", "fd00::1", "fd00::/8"];
    (prop::sample::select(&IPS[..]), prop::sample::select(&["", "/1", "/2"][..]))
        .prop_map(|(ip, port)| (ip.to_owned(), port.replace('/', ":")))
        .prop_filter("one of both", |(ip, port)| !(ip.is_empty() && port.is_empty()))
        .prop_filter("no brackets here", |(ip, port)| !ip.contains(':') || port.is_empty())
        .prop_map(|(ip, port)| format!("{ip}{port}"))
}

fn some_ends() -> impl Strategy<Value = Vec<End>> {
    prop::collection::vec(some_end(), 0..3).prop_map(|list| {
        list.iter()
            .flat_map(|one| match one.matches(':').count() {
                0 | 1 => ends(one),
                _ => vec![End { network: Some(NetworkRange::parse(one).unwrap()), port: None }],
            })
            .collect()
    })
}

fn some_rule() -> impl Strategy<Value = StreamRule> {
    let snis = prop::collection::vec(prop::sample::select(&["a.com", "*.com", "a.*", "b.a.com"][..]), 0..3);
    let transports = prop::sample::select(&[TCP, TLS, PASSED, UDP, ALL][..]);
    (0..6_u128, transports, some_ends(), some_ends(), snis).prop_map(|(id, transports, from, to, snis)| {
        StreamRule { sources: from, destinations: to, ..rule(id, transports, "", "", &snis.join(" ")) }
    })
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_look_at_every_rule(
        rules in prop::collection::vec(some_rule(), 0..8),
        replaced in prop::collection::vec((0..8_usize, prop::option::of(some_rule())), 0..6),
        transport in prop::sample::select(&[Transport::Tcp, Transport::Tls, Transport::Udp][..]),
        source in prop::sample::select(&["10.0.0.1:1", "[::ffff:10.0.0.2]:2", "[fd00::1]:1", "9.9.9.9:9"][..]),
        destination in prop::sample::select(&["10.0.0.1:1", "10.0.0.2:2", "[fd00::2]:1", "9.9.9.9:9"][..]),
        sni in prop::option::of(prop::sample::select(&["a.com", "b.a.com", "a.org", "c"][..])),
    ) {
        let mut router = router(&rules);
        let mut rules: Vec<_> = rules.into_iter().map(Some).collect();
        for (route, rule) in replaced {
            rules.resize(rules.len().max(route + 1), None);
            rules[route].clone_from(&rule);
            router.set(route, rule);
        }
        let sni = sni.filter(|_| transport == Transport::Tls);
        let query = query(transport, source, destination, sni);
        let matching = rules.iter().enumerate().filter_map(|(route, rule)| Some((route, rule.as_ref()?)));
        let matching = matching.filter(|(_, rule)| rule.matches(&query));
        let want = matching.max_by_key(|(route, rule)| rank(rule, *route)).map(|(route, _)| route);
        prop_assert_eq!(router.find(&query), want);
    }
}
