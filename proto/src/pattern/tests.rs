use proptest::prelude::*;

use super::*;

#[test]
fn what_pcre_and_this_engine_read_alike_matches_alike() {
    for (regex, path, want) in [
        ("/foo", "/foobar", Some(4)),
        (r"/users/(?<id>\d+)", "/users/42/profile", Some(9)),
        (r"/users/\d+$", "/users/42/profile", None),
        ("/a|/b", "/b", Some(2)),
        ("/a|/b", "/zzz/b", None),
        ("/a|/ab", "/ab", Some(2)),
        ("/v{x}", "/v{x}", Some(5)),
        ("/v{1", "/v{1", Some(4)),
        ("/v{1,2}$", "/vv", Some(3)),
        ("/v{1,}$", "/vvvv", Some(5)),
        ("/v{2}$", "/v", None),
        (r"/\w+$", "/\u{e9}", None),
        (r"/\d$", "/\u{0663}", None),
        ("/.$", "/\u{e9}", None),
        ("/..$", "/\u{e9}", Some(3)),
        ("/\u{e9}$", "/\u{e9}", Some(3)),
        (r"/[\w-.]+$", "/a-b.c", Some(6)),
        (r"/[a-\d]+$", "/a-5", Some(4)),
        ("/[[]+$", "/[[", Some(3)),
        ("/[a&&b]+$", "/a&b", Some(4)),
        ("/[a--z]+$", "/a", None),
        ("/[ab~~c]+$", "/~", Some(2)),
        ("/[]a]+$", "/]a", Some(3)),
        ("/[^]a]+$", "/b", Some(2)),
        ("/[[:digit:]x]+$", "/1x", Some(3)),
        ("/[a-]+$", "/a-", Some(3)),
        ("/[-a]+$", "/a-", Some(3)),
        (r"/[\x41-\x{43}]+$", "/ABC", Some(4)),
        (r"/\x41\x{42}$", "/AB", Some(3)),
        (r"/\-\_\:\@\/$", "/-_:@/", Some(6)),
        (r"/\<a\>$", "/<a>", Some(4)),
        ("/(?i)FOO$", "/foo", Some(4)),
        ("/(?:a|b)+$", "/abab", Some(5)),
        ("/a++$", "/aaa", Some(4)),
    ] {
        match PathRegex::parse(regex) {
            Ok(regex) => assert_eq!(regex.match_len(path.as_bytes()), want, "{regex:?} on {path}"),
            // `a--` is a range that runs backwards, in PCRE too.
            Err(InvalidRegex::Syntax { .. }) => assert_eq!(want, None, "{regex}"),
            Err(error) => panic!("{regex}: {error}"),
        }
    }
}

#[test]
fn possessive_quantifiers_are_told() {
    for (regex, want) in [
        ("/a++", true),
        ("/a*+b", true),
        ("/a?+", true),
        ("/a{1,2}+", true),
        ("/(ab)++", true),
        ("/a+", false),
        ("/a+?b+", false),
        ("/a+b+", false),
        (r"/a\++", false),
        ("/[a+]+", false),
        ("/[*+]", false),
        ("/v{x}+", false),
        ("/(?:a)+", false),
        ("/(?i)+a", false),
    ] {
        assert_eq!(dialect::is_possessive(regex), want, "{regex}");
    }
}

#[test]
fn what_this_engine_has_not_is_refused_by_name() {
    for (regex, part) in [
        ("/(?=a)", "look-around"),
        ("/(?!a)", "look-around"),
        ("/(?<=a)b", "look-around"),
        ("/(?<!a)b", "look-around"),
        (r"/(a)\1", "backreferences"),
        (r"/(?<n>a)\k<n>", "backreferences"),
        ("/(?>a)", "flag"),
        ("/(?R)", "recursion"),
        ("/(?R:a)", "recursion"),
        ("/(?x) a # b", "flag x"),
        ("/(?u:a)", "flag u"),
        (r"/a\K", r"\K"),
        (r"/\Ga", r"\K and \G"),
        (r"/\h", r"\h"),
        (r"/[\h]", r"\h"),
        (r"/\R", r"\R"),
        (r"/\Qa.b\E", r"\Q"),
        (r"/a\Z", r"\Z"),
        (r"/\e", r"\e"),
        ("/a{,3}", "{0,n}"),
        (r"/\pL", "Unicode"),
        ("/((x{1,1000}){1,100}){1,100}", "limit"),
    ] {
        match PathRegex::parse(regex) {
            Err(InvalidRegex::Dialect(reason)) => assert!(reason.contains(part), "{regex}: {reason}"),
            other => panic!("{regex}: {other:?}"),
        }
    }
    let long = format!("/{}", "a".repeat(REGEX_BYTES_MAX));
    assert!(matches!(PathRegex::parse(&long), Err(InvalidRegex::Dialect(_))));
    let deep = format!("/{}a{}", "(".repeat(500), ")".repeat(500));
    assert!(matches!(PathRegex::parse(&deep), Err(InvalidRegex::Dialect(_))));
}

#[test]
fn the_size_of_a_regex_is_known_by_its_class() {
    for (regex, want) in [
        (r"/users/(?<id>\d+)/\w{1,64}", USUAL_COMPILED_BYTES_MAX),
        (r"/\w{1,300}/\w{1,300}", 2 * USUAL_COMPILED_BYTES_MAX),
        (r"/(?:\w{1,100}/){40}", REGEX_COMPILED_BYTES_MAX),
    ] {
        assert_eq!(PathRegex::parse(regex).unwrap().compiled_bytes_max(), want, "{regex}");
        assert_eq!(HeaderRegex::parse(regex).unwrap().compiled_bytes_max(), want, "{regex}");
    }
}

#[test]
fn what_is_no_regex_anywhere_is_a_syntax_error() {
    for regex in ["/(", "/)", "/a)|(b", "/[a", "/[z-a]", "/a\\", "/(?<>a)", "/**"] {
        match PathRegex::parse(regex) {
            Err(InvalidRegex::Syntax { regex: said, .. }) => assert_eq!(&*said, regex),
            // Nested repetitions are PCRE's possessive ones, and `**` is refused there only.
            Ok(_) => assert_eq!(regex, "/**"),
            other => panic!("{regex}: {other:?}"),
        }
    }
}

#[test]
fn groups_are_read_by_number_and_name() {
    let regex = PathRegex::parse(r"/(?<user>\w+)(/(x))?").unwrap();
    let captures = regex.captures(b"/ann").unwrap();
    assert_eq!(captures.get(1), Some(&b"ann"[..]));
    assert_eq!(captures.name("user"), Some(&b"ann"[..]));
    assert_eq!(captures.get(2), None);
    assert_eq!(captures.name("none"), None);
    assert_eq!(regex.names().collect::<Vec<_>>(), ["user"]);
    assert!(PathRegex::parse("/a").unwrap().captures(b"/a").is_none());
}

#[test]
fn a_literal_beginning_is_found() {
    for (regex, want) in [
        (r"/users/\d+", "/users/"),
        ("/a|/b", "/"),
        ("/(foo|foobar)x", "/foo"),
        ("/?a", ""),
        ("/a(?i)b", "/a"),
        ("/.*", "/"),
        ("/abc$", "/abc"),
    ] {
        assert_eq!(PathRegex::parse(regex).unwrap().literal_prefix(), want.as_bytes(), "{regex}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_a_match_begins_with_the_literal(
        regex in r"/[a-c/.*+?|()\[\]\\{}^$,:<>&~dwsbx0-9-]{0,16}",
        path in "/[a-c/]{0,8}",
    ) {
        if PathRegex::parse(&regex).is_ok() {
            prop_assert_eq!(check(&regex), Ok(()));
        }
        if let Ok(regex) = PathRegex::parse(&regex) && regex.match_len(path.as_bytes()).is_some() {
            prop_assert!(path.as_bytes().starts_with(regex.literal_prefix()));
        }
    }
}
