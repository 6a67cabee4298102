use proptest::prelude::*;

use super::*;

/// Service path, route path, request, upstream path with strip by `v0` and `v1`, and without: `proxy.md` 2.2, outputs of
/// the reference.
const COMPOSED: &[(&str, Option<&str>, &str, [&str; 4])] = &[
    ("/", None, "/", ["/", "/", "/", "/"]),
    ("/", None, "/r", ["/r", "/r", "/r", "/r"]),
    ("/", None, "/r/", ["/r/", "/r/", "/r/", "/r/"]),
    ("/", None, "/rx", ["/rx", "/rx", "/rx", "/rx"]),
    ("/", None, "/r/x", ["/r/x", "/r/x", "/r/x", "/r/x"]),
    ("/", None, "/r./x", ["/r./x", "/r./x", "/r./x", "/r./x"]),
    ("/", Some("/"), "/", ["/", "/", "/", "/"]),
    ("/", Some("/"), "/r", ["/r", "/r", "/r", "/r"]),
    ("/", Some("/"), "/r/", ["/r/", "/r/", "/r/", "/r/"]),
    ("/", Some("/"), "/rx", ["/rx", "/rx", "/rx", "/rx"]),
    ("/", Some("/"), "/r/x", ["/r/x", "/r/x", "/r/x", "/r/x"]),
    ("/", Some("/"), "/r./x", ["/r./x", "/r./x", "/r./x", "/r./x"]),
    ("/", Some("/r"), "/r", ["/", "/", "/r", "/r"]),
    ("/", Some("/r"), "/r/", ["/", "/", "/r/", "/r/"]),
    ("/", Some("/r"), "/rx", ["/x", "/x", "/rx", "/rx"]),
    ("/", Some("/r"), "/r/x", ["/x", "/x", "/r/x", "/r/x"]),
    ("/", Some("/r"), "/r./x", ["/x", "/x", "/r./x", "/r./x"]),
    ("/", Some("/r/"), "/r/", ["/", "/", "/r/", "/r/"]),
    ("/", Some("/r/"), "/r/x", ["/x", "/x", "/r/x", "/r/x"]),
    ("/srv", None, "/", ["/srv", "/srv", "/srv", "/srv"]),
    ("/srv", None, "/r", ["/srv/r", "/srvr", "/srv/r", "/srvr"]),
    ("/srv", None, "/r/", ["/srv/r/", "/srvr/", "/srv/r/", "/srvr/"]),
    ("/srv", None, "/rx", ["/srv/rx", "/srvrx", "/srv/rx", "/srvrx"]),
    ("/srv", None, "/r/x", ["/srv/r/x", "/srvr/x", "/srv/r/x", "/srvr/x"]),
    ("/srv", None, "/r./x", ["/srv/r./x", "/srvr./x", "/srv/r./x", "/srvr./x"]),
    ("/srv", Some("/"), "/", ["/srv", "/srv", "/srv", "/srv"]),
    ("/srv", Some("/"), "/r", ["/srv/r", "/srvr", "/srv/r", "/srvr"]),
    ("/srv", Some("/"), "/r/", ["/srv/r/", "/srvr/", "/srv/r/", "/srvr/"]),
    ("/srv", Some("/"), "/rx", ["/srv/rx", "/srvrx", "/srv/rx", "/srvrx"]),
    ("/srv", Some("/"), "/r/x", ["/srv/r/x", "/srvr/x", "/srv/r/x", "/srvr/x"]),
    ("/srv", Some("/"), "/r./x", ["/srv/r./x", "/srvr./x", "/srv/r./x", "/srvr./x"]),
    ("/srv", Some("/r"), "/r", ["/srv", "/srv", "/srv/r", "/srvr"]),
    ("/srv", Some("/r"), "/r/", ["/srv/", "/srv/", "/srv/r/", "/srvr/"]),
    ("/srv", Some("/r"), "/rx", ["/srv/x", "/srvx", "/srv/rx", "/srvrx"]),
    ("/srv", Some("/r"), "/r/x", ["/srv/x", "/srv/x", "/srv/r/x", "/srvr/x"]),
    ("/srv", Some("/r"), "/r./x", ["/srv/x", "/srvx", "/srv/r./x", "/srvr./x"]),
    ("/srv", Some("/r/"), "/r/", ["/srv/", "/srv", "/srv/r/", "/srvr/"]),
    ("/srv", Some("/r/"), "/r/x", ["/srv/x", "/srvx", "/srv/r/x", "/srvr/x"]),
    ("/srv/", None, "/", ["/srv/", "/srv/", "/srv/", "/srv/"]),
    ("/srv/", None, "/r", ["/srv/r", "/srv/r", "/srv/r", "/srv/r"]),
    ("/srv/", None, "/r/", ["/srv/r/", "/srv/r/", "/srv/r/", "/srv/r/"]),
    ("/srv/", None, "/rx", ["/srv/rx", "/srv/rx", "/srv/rx", "/srv/rx"]),
    ("/srv/", None, "/r/x", ["/srv/r/x", "/srv/r/x", "/srv/r/x", "/srv/r/x"]),
    ("/srv/", None, "/r./x", ["/srv/r./x", "/srv/r./x", "/srv/r./x", "/srv/r./x"]),
    ("/srv/", Some("/"), "/", ["/srv/", "/srv/", "/srv/", "/srv/"]),
    ("/srv/", Some("/"), "/r", ["/srv/r", "/srv/r", "/srv/r", "/srv/r"]),
    ("/srv/", Some("/"), "/r/", ["/srv/r/", "/srv/r/", "/srv/r/", "/srv/r/"]),
    ("/srv/", Some("/"), "/rx", ["/srv/rx", "/srv/rx", "/srv/rx", "/srv/rx"]),
    ("/srv/", Some("/"), "/r/x", ["/srv/r/x", "/srv/r/x", "/srv/r/x", "/srv/r/x"]),
    ("/srv/", Some("/"), "/r./x", ["/srv/r./x", "/srv/r./x", "/srv/r./x", "/srv/r./x"]),
    ("/srv/", Some("/r"), "/r", ["/srv", "/srv/", "/srv/r", "/srv/r"]),
    ("/srv/", Some("/r"), "/r/", ["/srv/", "/srv/", "/srv/r/", "/srv/r/"]),
    ("/srv/", Some("/r"), "/rx", ["/srv/x", "/srv/x", "/srv/rx", "/srv/rx"]),
    ("/srv/", Some("/r"), "/r/x", ["/srv/x", "/srv/x", "/srv/r/x", "/srv/r/x"]),
    ("/srv/", Some("/r"), "/r./x", ["/srv/x", "/srv/x", "/srv/r./x", "/srv/r./x"]),
    ("/srv/", Some("/r/"), "/r/", ["/srv/", "/srv/", "/srv/r/", "/srv/r/"]),
    ("/srv/", Some("/r/"), "/r/x", ["/srv/x", "/srv/x", "/srv/r/x", "/srv/r/x"]),
];

fn composed(handling: PathHandling, service_path: Option<&str>, path: &str, strip: Strip) -> String {
    let mut out = Vec::new();
    push_target(&mut out, handling, service_path, path.as_bytes(), strip, None);
    String::from_utf8(out).unwrap()
}

fn target(service_path: Option<&str>, path: &str, strip: Strip, query: Option<&str>) -> String {
    let mut out = b"GET ".to_vec();
    let query = query.map(str::as_bytes);
    push_target(&mut out, PathHandling::V0, service_path, path.as_bytes(), strip, query);
    String::from_utf8(out.split_off(4)).unwrap()
}

fn prefix(path: &str, strip: Strip) -> Option<String> {
    forwarded_prefix(path.as_bytes(), strip).map(|prefix| String::from_utf8(prefix.into_owned()).unwrap())
}

fn host(name: &str, port: u16, scheme: Scheme) -> String {
    let mut out = Vec::new();
    push_host(&mut out, name, port, scheme);
    String::from_utf8(out).unwrap()
}

#[test]
fn paths_are_put_together_as_the_reference_does() {
    use PathHandling::{V0, V1};
    for (service_path, route_path, request, wanted) in COMPOSED {
        let stripped = route_path.map_or(Strip::Nothing, |path| Strip::Prefix(path.len()));
        let ways = [(V0, stripped), (V1, stripped), (V0, Strip::Nothing), (V1, Strip::Nothing)];
        for ((handling, strip), want) in ways.into_iter().zip(wanted) {
            let name = format!("{service_path} {route_path:?} {request}, {handling:?} {strip:?}");
            assert_eq!(composed(handling, Some(service_path), request, strip), *want, "{name}");
            if *service_path == "/" {
                assert_eq!(composed(handling, None, request, strip), *want, "{name}, no service path");
            }
        }
    }
}

#[test]
fn what_is_left_of_a_path_does_not_climb() {
    for (request, want) in [
        ("/r.", "/srv"),
        ("/r..", "/srv"),
        ("/r../x", "/srv/x"),
        ("/r.x", "/srv/.x"),
        ("/r..%2Fx", "/srv/%2Fx"),
        ("/r..\\x", "/srv/%5Cx"),
        ("/r..;/x", "/srv/;/x"),
        ("/r..%3Bx", "/srv/%3Bx"),
        ("/r..x", "/srv/..x"),
    ] {
        assert_eq!(target(Some("/srv"), request, Strip::Prefix(2), None), want, "{request}");
    }
}

#[test]
fn what_a_regex_matched_is_stripped() {
    let strip = Strip::Prefix("/users/42".len());
    assert_eq!(target(Some("/api"), "/users/42/profile", strip, None), "/api/profile");
    assert_eq!(target(Some("/api"), "/users/42/profile", Strip::Nothing, None), "/api/users/42/profile");
    assert_eq!(prefix("/users/42/profile", strip).as_deref(), Some("/users/42"));
}

#[test]
fn the_path_is_encoded_and_the_query_is_not() {
    for (path, query, want) in [
        ("/a b", Some("c d|%zz"), "/a%20b?c d|%zz"),
        ("/a", Some(""), "/a?"),
        ("/a", None, "/a"),
        ("/a%2Fb", Some("x?y"), "/a%2Fb?x?y"),
        ("/\u{e9}", None, "/%C3%A9"),
    ] {
        assert_eq!(target(None, path, Strip::Nothing, query), want, "{path} {query:?}");
    }
}

#[test]
fn a_stripped_prefix_is_named_unless_it_is_the_root() {
    for (path, strip, want) in [
        ("/foo/a", Strip::Prefix(4), Some("/foo")),
        ("/foo/a", Strip::Prefix(1), None),
        ("/foo/a", Strip::Prefix(0), None),
        ("/foo/a", Strip::Nothing, None),
        ("/a\r\nX: 1/b", Strip::Prefix(8), Some("/a%0D%0AX:%201")),
    ] {
        assert_eq!(prefix(path, strip).as_deref(), want, "{path} {strip:?}");
    }
    assert!(matches!(forwarded_prefix(b"/foo/a", Strip::Prefix(4)), Some(Cow::Borrowed(b"/foo"))));
}

#[test]
fn the_port_is_named_unless_it_goes_without_saying() {
    for (name, port, scheme, want) in [
        ("h", 80, Scheme::Http, "h"),
        ("h", 443, Scheme::Http, "h:443"),
        ("h", 80, Scheme::Https, "h:80"),
        ("h", 443, Scheme::Https, "h"),
        ("api.x", 8443, Scheme::Https, "api.x:8443"),
        ("api.x:99", 8443, Scheme::Https, "api.x:99"),
        ("h", 0, Scheme::Http, "h:0"),
        ("h", 65_535, Scheme::Http, "h:65535"),
        ("[::1]", 8000, Scheme::Http, "[::1]:8000"),
        ("[::1]:99", 8000, Scheme::Http, "[::1]:99"),
        ("::1", 8000, Scheme::Http, "[::1]:8000"),
        ("::1", 80, Scheme::Http, "[::1]"),
    ] {
        assert_eq!(host(name, port, scheme), want, "{name} {port} {scheme:?}");
    }
}

proptest! {
    #[test]
    fn a_target_holds_no_byte_that_ends_a_request_line(
        path in prop::collection::vec(any::<u8>(), 0..20),
        prefix_bytes in 0..24_usize,
        service_path in prop::option::of("/[a-z/]{0,6}"),
    ) {
        for handling in [PathHandling::V0, PathHandling::V1] {
            let mut out = Vec::new();
            push_target(&mut out, handling, service_path.as_deref(), &path, Strip::Prefix(prefix_bytes), None);
            prop_assert!(out.iter().all(u8::is_ascii_graphic));
            prop_assert!(out.starts_with(b"/"));
        }
    }
}
