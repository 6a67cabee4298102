//! Server names of TLS, with wildcards.

use std::fmt;

use crate::host::{Host, InvalidHostName};

/// One entry of `routes.snis` (or the name of an SNI): lower case, without trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SniPattern(Shape);

/// What a pattern says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SniShape<'a> {
    /// It is this one.
    Exact(&'a str),
    /// It ends so.
    Suffix(&'a str),
    /// It begins so.
    Prefix(&'a str),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Shape {
    Exact(Box<str>),
    Suffix(Box<str>),
    Prefix(Box<str>),
}

impl SniPattern {
    /// Reads a name whose first or last *character* may be `*` (unlike hosts: `*a.com` and `*` are accepted).
    ///
    /// # Errors
    /// With Kong's message.
    pub fn parse(value: &str) -> Result<Self, InvalidSni> {
        let Some(at) = value.find('*') else {
            let name = Host::parse_name(value)?;
            return Ok(Self(Shape::Exact(matching_form(name.as_str()))));
        };
        if at != 0 && at + 1 != value.len() {
            return Err(InvalidSni::WildcardPlace);
        }
        if value.matches('*').count() > 1 {
            return Err(InvalidSni::Wildcards);
        }
        // A letter in the wildcard's place, so that the rest is judged as a name.
        Host::parse_name(&value.replacen('*', "a", 1)).map_err(|error| match error {
            InvalidHostName::Value(_) => InvalidHostName::Value(value.into()),
            other @ (InvalidHostName::IsAddress | InvalidHostName::HasPort) => other,
        })?;
        Ok(Self(match value.strip_prefix('*') {
            Some(rest) => Shape::Suffix(matching_form(rest)),
            None => Shape::Prefix(value.trim_end_matches('*').to_ascii_lowercase().into()),
        }))
    }

    /// Whether it has a wildcard.
    pub fn is_wildcard(&self) -> bool {
        self.whole().is_none()
    }

    /// The one name that it is for; `None` if it has a wildcard.
    pub fn whole(&self) -> Option<&str> {
        match &self.0 {
            Shape::Exact(name) => Some(&**name),
            Shape::Suffix(_) | Shape::Prefix(_) => None,
        }
    }

    /// What names it matches, for an index.
    pub fn shape(&self) -> SniShape<'_> {
        match &self.0 {
            Shape::Exact(name) => SniShape::Exact(name),
            Shape::Suffix(suffix) => SniShape::Suffix(suffix),
            Shape::Prefix(prefix) => SniShape::Prefix(prefix),
        }
    }

    /// Whether a handshake for `sni` (lower case, without trailing dot) matches.
    pub fn matches(&self, sni: &str) -> bool {
        match &self.0 {
            Shape::Exact(name) => sni == &**name,
            Shape::Suffix(suffix) => sni.ends_with(&**suffix),
            Shape::Prefix(prefix) => sni.starts_with(&**prefix),
        }
    }
}

fn matching_form(name: &str) -> Box<str> {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

impl fmt::Display for SniPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Shape::Exact(name) => f.write_str(name),
            Shape::Suffix(suffix) => write!(f, "*{suffix}"),
            Shape::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// Text that is no server name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSni {
    /// `*` in the middle.
    #[error("wildcard must be leftmost or rightmost character")]
    WildcardPlace,
    /// Several `*`.
    #[error("only one wildcard must be specified")]
    Wildcards,
    /// Apart from the wildcard it is no name.
    #[error(transparent)]
    Name(#[from] InvalidHostName),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_checked_as_kong_does() {
        for (value, want) in [
            ("a.com", "ok a.com"),
            ("A.com.", "ok a.com"),
            ("*.a.com", "ok *.a.com"),
            ("*a.com", "ok *a.com"),
            ("a.*", "ok a.*"),
            ("*", "ok *"),
            ("a.*.com", "wildcard must be leftmost or rightmost character"),
            ("*.*", "only one wildcard must be specified"),
            ("1.2.3.4", "must not be an IP"),
            ("::1", "must not be an IP"),
            ("a.com:443", "must not have a port"),
            ("a b", "invalid value: a b"),
            ("*.a b", "invalid value: *.a b"),
        ] {
            let got = match SniPattern::parse(value) {
                Ok(pattern) => format!("ok {pattern}"),
                Err(error) => error.to_string(),
            };
            assert_eq!(got, want, "{value}");
        }
    }

    #[test]
    fn wildcards_match_the_open_side() {
        for (pattern, sni, want) in [
            ("a.com", "a.com", true),
            ("a.com.", "a.com", true),
            ("a.com", "b.com", false),
            ("*.a.com", "x.a.com", true),
            ("*.a.com", "a.com", false),
            ("a.*", "a.com", true),
            ("a.*", "b.com", false),
            ("*", "any.thing", true),
        ] {
            assert_eq!(SniPattern::parse(pattern).unwrap().matches(sni), want, "{pattern} {sni}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_back(value in "[*]?[a-cA-C0-9._-]{0,12}[*]?") {
            if let Ok(pattern) = SniPattern::parse(&value) {
                prop_assert_eq!(SniPattern::parse(&pattern.to_string()).unwrap(), pattern);
            }
        }
    }
}
