use proptest::prelude::*;

use super::*;

/// Request path, path used for matching, after escaping for the upstream: `proxy.md` 2.1, outputs of the
/// reference.
const NORMALISED: &[(&[u8], &[u8], &[u8])] = &[
    (b"/a//b", b"/a/b", b"/a/b"),
    (b"/a/./b", b"/a/b", b"/a/b"),
    (b"/a/../b", b"/b", b"/b"),
    (b"/../a", b"/a", b"/a"),
    (b"/a/..", b"/", b"/"),
    (b"/a/.", b"/a/", b"/a/"),
    (b"/%61", b"/a", b"/a"),
    (b"/%2fa", b"/%2Fa", b"/%2Fa"),
    (b"/a%2Fb", b"/a%2Fb", b"/a%2Fb"),
    (b"/a%2e%2e/b", b"/a../b", b"/a../b"),
    (b"/a/%2e%2e/b", b"/b", b"/b"),
    (b"/a%20b", b"/a b", b"/a%20b"),
    (b"/a b", b"/a b", b"/a%20b"),
    (b"/caf%C3%A9", b"/caf\xC3\xA9", b"/caf%C3%A9"),
    (b"/%7Euser", b"/~user", b"/~user"),
    (b"/a%25b", b"/a%25b", b"/a%25b"),
    (b"/a%3Fb", b"/a%3Fb", b"/a%3Fb"),
    (b"/a;x=1", b"/a;x=1", b"/a;x=1"),
    (b"//", b"/", b"/"),
    (b"///", b"/", b"/"),
    (b"/a///", b"/a/", b"/a/"),
    (b"/a%5Cb", b"/a\\b", b"/a%5Cb"),
    (b"/a%22b", b"/a\"b", b"/a%22b"),
    (b"/a%7Cb", b"/a|b", b"/a%7Cb"),
    (b"/a%00b", b"/a\x00b", b"/a%00b"),
    (b"/a%zz", b"/a%zz", b"/a%zz"),
    (b"/%e4", b"/\xE4", b"/%E4"),
    (b"/a|b", b"/a|b", b"/a%7Cb"),
    (b"/a\"b", b"/a\"b", b"/a%22b"),
    (b"/a{b}", b"/a{b}", b"/a%7Bb%7D"),
    (b"/a^b", b"/a^b", b"/a%5Eb"),
    (b"/a`b", b"/a`b", b"/a%60b"),
    (b"/a<b>", b"/a<b>", b"/a%3Cb%3E"),
    (b"a/b", b"a/b", b"a/b"),
    (b"/a/b/../../../c", b"/c", b"/c"),
    (b"/...", b"/...", b"/..."),
    (b"/.a", b"/.a", b"/.a"),
    (b"/a./b", b"/a./b", b"/a./b"),
    (b"/a%2523", b"/a%2523", b"/a%2523"),
    // Order of the steps, and input that needs more than one of them.
    (b"/a//../b", b"/a/b", b"/a/b"),
    (b"/%2e%2e//%2E/a", b"/a", b"/a"),
    (b"", b"", b""),
];

fn escaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    escape(path, &mut out);
    out
}

#[test]
fn paths_are_normalised_and_escaped_as_the_reference_does() {
    for (path, matched, upstream) in NORMALISED {
        let name = String::from_utf8_lossy(path);
        assert_eq!(normalise(path), *matched, "{name}");
        assert_eq!(escaped(matched), *upstream, "{name}");
    }
}

#[test]
fn a_normal_path_is_borrowed() {
    for path in ["/", "/a/b.c/..d/%2F", "/a/.b/", "/a%zz", "/a/...", "/a.", "/%", "/%2"] {
        assert!(matches!(normalise(path.as_bytes()), Cow::Borrowed(_)), "{path}");
    }
}

#[test]
fn the_query_begins_at_the_first_question_mark_that_is_not_the_first_byte() {
    for (target, path, query) in [
        ("/a?b=c?d", "/a", Some("b=c?d")),
        ("/a?", "/a", Some("")),
        ("/a#x?y", "/a#x", Some("y")),
        ("/a", "/a", None),
        ("?a", "?a", None),
        ("", "", None),
    ] {
        let want = (path.as_bytes(), query.map(str::as_bytes));
        assert_eq!(split_target(target.as_bytes()), want, "{target}");
    }
}

#[test]
fn patterns_are_checked_as_kong_does() {
    for (value, want) in [
        ("/", "ok /"),
        ("/a b", "ok /a b"),
        ("/a/%2F", "ok /a/%2F"),
        ("/\u{fc}", "ok /\u{fc}"),
        (r"~/a/\d+$", r"ok ~/a/\d+$"),
        ("foo", "should start with: / (fixed path) or ~/ (regex path)"),
        ("", "should start with: / (fixed path) or ~/ (regex path)"),
        ("~a", "should start with: / (fixed path) or ~/ (regex path)"),
        ("/a//b", "must not have empty segments"),
        ("~/a//b", "must not have empty segments"),
        ("/a%zz", "invalid url-encoded value: '%zz'"),
        ("/a%2", "invalid url-encoded value: '%2'"),
        ("~/a%zz", "invalid url-encoded value: '%zz'"),
        ("/a/../b", "non-normalized path, consider use '/b' instead"),
        ("/a/./b", "non-normalized path, consider use '/a/b' instead"),
        ("/a/%41", "non-normalized path, consider use '/a/A' instead"),
        ("/a/%2f", "non-normalized path, consider use '/a/%2F' instead"),
        ("~/(", "invalid regex: '/(' (PCRE returned: unclosed group)"),
        (
            "~/(?!a)",
            "Router Expression failed validation: look-around, including look-ahead and \
          look-behind, is not supported",
        ),
    ] {
        let got = match PathPattern::parse(value) {
            Ok(pattern) => format!("ok {pattern}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, want, "{value}");
    }
    assert_eq!(PathPattern::parse(&format!("/{}", "a".repeat(9000))), Err(InvalidPath::TooLong));
}

proptest! {
    #[test]
    fn normalising_twice_changes_nothing_more_unless_a_percent_was_decoded(
        path in "(/|[a-c.]|%2[eEfF]|%41|%20|//|/\\./|/\\.\\./){0,12}",
    ) {
        let once = normalise(path.as_bytes()).into_owned();
        prop_assert_eq!(normalise(&once).into_owned(), once);
    }

    #[test]
    fn a_borrowed_path_is_what_the_long_way_gives(path in "/[a./%2eEfF]{0,12}") {
        if let Cow::Borrowed(borrowed) = normalise(path.as_bytes()) {
            let mut long = resolve_dots(&decode(path.as_bytes()));
            long.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
            prop_assert_eq!(borrowed, long);
        }
    }

    #[test]
    fn what_is_displayed_parses_back(value in "~?/[a-c/.%0-9A-F]{0,12}") {
        if let Ok(pattern) = PathPattern::parse(&value) {
            prop_assert_eq!(PathPattern::parse(&pattern.to_string()).unwrap(), pattern);
        }
    }
}
