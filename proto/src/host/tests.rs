use proptest::prelude::*;

use super::*;

fn said<T, E: fmt::Display>(result: Result<T, E>) -> String
where
    T: fmt::Display,
{
    match result {
        Ok(value) => format!("ok {value}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn host_port_messages_are_kongs() {
    for (value, want) in [
        ("a.com:80", "ok a.com:80"),
        ("A.com", "ok A.com"),
        ("1.2.3.4", "ok 1.2.3.4"),
        ("[::1]:80", "ok [::1]:80"),
        ("http://a.com", "invalid hostname: http://a.com"),
        ("a.com:99999", "invalid port number"),
        ("a-", "invalid hostname: a-"),
        ("", "invalid hostname: "),
        (".", "invalid ipv4 address: ."),
        (".a", "invalid hostname: .a"),
        (":80", "invalid ipv4 address: :80"),
        ("1.2.3:1", "invalid ipv4 address: 1.2.3:1"),
        ("1.2.3.4:", "invalid ipv4 address: 1.2.3.4:"),
        ("1.2.3.4:70000", "invalid port number"),
        ("1:2:3", "invalid ipv6 address: 1:2:3"),
        ("::ffff:1.2.3.4", "invalid ipv6 address: ::ffff:1.2.3.4"),
        ("[::1]x", "invalid ipv6 address"),
        ("[::1]:x", "invalid ipv6 address"),
        ("[::1]:", "invalid port number"),
        ("[::1", "invalid ipv6 address: [::1"),
    ] {
        assert_eq!(said(HostPort::parse(value)), want, "{value}");
    }
}

#[test]
fn plain_hosts_have_no_port_and_plain_names_are_no_address() {
    for (value, host, name) in [
        ("a.com", "ok a.com", "ok a.com"),
        ("a.com.", "ok a.com.", "ok a.com."),
        ("a.com:80", "must not have a port", "must not have a port"),
        ("a.com:99999", "must not have a port", "must not have a port"),
        ("a b", "invalid value: a b", "invalid value: a b"),
        ("1.2.3.4", "ok 1.2.3.4", "must not be an IP"),
        ("1.2.3.400", "invalid value: 1.2.3.400", "invalid value: 1.2.3.400"),
        ("::1", "ok [::1]", "must not be an IP"),
        ("*.a.com", "invalid value: *.a.com", "invalid value: *.a.com"),
    ] {
        assert_eq!(said(Host::parse(value)), host, "host {value}");
        assert_eq!(said(Host::parse_name(value)), name, "name {value}");
    }
}

#[test]
fn host_patterns_are_checked_as_kong_does() {
    for (value, want) in [
        ("A.com:80", "ok a.com:80"),
        ("a.com.", "ok a.com"),
        ("*.A.com", "ok *.a.com"),
        ("*.a.com:8000", "ok *.a.com:8000"),
        ("a.*", "ok a.*"),
        ("a.*:80", "ok a.*:80"),
        ("1.2.3.4", "ok 1.2.3.4"),
        ("::1", "ok [::1]"),
        ("a_b.com", "ok a_b.com"),
        ("*", "invalid wildcard: must be placed at leftmost or rightmost label"),
        ("a.*.com", "invalid wildcard: must be placed at leftmost or rightmost label"),
        ("*a.com", "invalid wildcard: must be placed at leftmost or rightmost label"),
        ("*.*.com", "invalid wildcard: must have at most one wildcard"),
        ("*.*", "invalid wildcard: must have at most one wildcard"),
        ("a.com:99999", "invalid port number"),
        ("a b", "invalid hostname: a b"),
        ("*.a b", "invalid hostname: *.a b"),
        ("a-.com", "invalid hostname: a-.com"),
    ] {
        assert_eq!(said(HostPattern::parse(value)), want, "{value}");
    }
}

#[test]
fn host_patterns_match_whole_hosts_or_the_open_side() {
    for (pattern, host, port, want) in [
        ("a.com", "a.com", 1, true),
        ("a.com", "b.a.com", 1, false),
        ("a.com:80", "a.com", 80, true),
        ("a.com:80", "a.com", 81, false),
        ("*.a.com", "x.a.com", 1, true),
        ("*.a.com", "y.x.a.com", 1, true),
        ("*.a.com", "a.com", 1, false),
        ("*.a.com", "xa.com", 1, false),
        ("a.*", "a.b.c", 1, true),
        ("a.*", "aa.b", 1, false),
        ("::1", "[::1]", 1, true),
    ] {
        let got = HostPattern::parse(pattern).unwrap().matches(host.as_bytes(), port);
        assert_eq!(got, want, "{pattern} {host}:{port}");
    }
}

proptest! {
    #[test]
    fn what_is_displayed_parses_back(value in "[*]?[a-cA-C0-9.:_\\[\\]-]{0,12}[*]?(:[0-9]{1,6})?") {
        if let Ok(host) = HostPort::parse(&value) {
            prop_assert_eq!(HostPort::parse(&host.to_string()).unwrap(), host);
        }
        if let Ok(pattern) = HostPattern::parse(&value) {
            prop_assert_eq!(HostPattern::parse(&pattern.to_string()).unwrap(), pattern);
        }
    }

    #[test]
    fn no_text_panics(value in ".{0,20}") {
        prop_assert_eq!(HostPort::parse(&value).is_ok(), HostPort::parse(&value).is_ok());
        prop_assert_eq!(HostPattern::parse(&value).is_ok(), HostPattern::parse(&value).is_ok());
    }
}
