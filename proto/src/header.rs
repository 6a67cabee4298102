//! Header conditions of routes.

use std::fmt;

use crate::limits::HEADER_VALUE_BYTES_MAX;
use crate::pattern::{HeaderRegex, InvalidRegex};

/// Name of a header that a route looks at: `[A-Za-z0-9_-]+`, not `host`. Kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderName(Box<str>);

impl HeaderName {
    /// Reads the name of a route's header condition.
    ///
    /// # Errors
    /// With Kong's message.
    pub fn parse(value: &str) -> Result<Self, InvalidHeaderName> {
        let is_name = !value.is_empty()
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if !is_name {
            return Err(InvalidHeaderName::Characters(value.into()));
        }
        if value.eq_ignore_ascii_case("host") {
            return Err(InvalidHeaderName::Host);
        }
        Ok(Self(value.to_ascii_lowercase().into()))
    }

    /// In lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One wanted value of a header. Case does not matter in either form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderPattern {
    /// The whole value.
    Literal(HeaderLiteral),
    /// `~*…`: found anywhere in the value.
    Regex(HeaderRegex),
}

/// A value in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderLiteral(Box<str>);

impl HeaderLiteral {
    /// In lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl HeaderPattern {
    /// Reads a value as it is written. The regular expression is compiled as written and ignores case; the
    /// reference lower-cases its text, which turns `\D` into `\d`.
    ///
    /// # Errors
    /// When it is empty or too long, or its regular expression is not understood.
    pub fn parse(value: &str) -> Result<Self, InvalidHeaderPattern> {
        if value.is_empty() {
            return Err(InvalidHeaderPattern::Empty);
        }
        if value.len() > HEADER_VALUE_BYTES_MAX {
            return Err(InvalidHeaderPattern::TooLong);
        }
        match value.strip_prefix("~*") {
            Some(regex) => Ok(Self::Regex(HeaderRegex::parse(regex)?)),
            None => Ok(Self::Literal(HeaderLiteral(value.to_ascii_lowercase().into()))),
        }
    }

    /// Whether one value of a request's header matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => literal.0.as_bytes().eq_ignore_ascii_case(value),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl fmt::Display for HeaderPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(literal) => f.write_str(&literal.0),
            Self::Regex(regex) => write!(f, "~*{}", regex.as_str()),
        }
    }
}

/// Text that is no name of a header a route can look at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaderName {
    /// A character that no name has, or none at all.
    #[error("bad header name '{0}', allowed characters are A-Z, a-z, 0-9, '_', and '-'")]
    Characters(Box<str>),
    /// Hosts are a route's own attribute.
    #[error("cannot contain 'host' header, which must be specified in the 'hosts' attribute")]
    Host,
}

/// Text that is no wanted value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaderPattern {
    /// Nothing.
    #[error("length must be at least 1")]
    Empty,
    /// Beyond [`HEADER_VALUE_BYTES_MAX`].
    #[error("length must be at most {HEADER_VALUE_BYTES_MAX}")]
    TooLong,
    /// A `~*` whose regular expression is not understood. About the entity, not the field.
    #[error("Router Expression failed validation: {0}")]
    Regex(Box<str>),
}

impl From<InvalidRegex> for InvalidHeaderPattern {
    fn from(error: InvalidRegex) -> Self {
        match error {
            InvalidRegex::Syntax { reason, .. } | InvalidRegex::Dialect(reason) => Self::Regex(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_checked_as_kong_does() {
        for (value, want) in [
            ("X-A_1", Ok("x-a_1")),
            ("a b", Err("bad header name 'a b', allowed characters are A-Z, a-z, 0-9, '_', and '-'")),
            ("", Err("bad header name '', allowed characters are A-Z, a-z, 0-9, '_', and '-'")),
            ("HoST", Err("cannot contain 'host' header, which must be specified in the 'hosts' attribute")),
        ] {
            let got =
                HeaderName::parse(value).map(|name| name.to_string()).map_err(|error| error.to_string());
            assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned), "{value}");
        }
    }

    #[test]
    fn values_match_whatever_their_case() {
        for (pattern, value, want) in [
            ("Blue", "bLUE", true),
            ("blue", "blues", false),
            ("~*^v[0-9]+$", "V12", true),
            ("~*ell", "HELLO", true),
            (r"~*^\D+$", "abc", true),
            (r"~*^\D+$", "123", false),
            ("~*a|^b", "xa", true),
        ] {
            let got = HeaderPattern::parse(pattern).unwrap().matches(value.as_bytes());
            assert_eq!(got, want, "{pattern} {value}");
        }
    }

    #[test]
    fn refusals_say_why() {
        assert_eq!(HeaderPattern::parse("").unwrap_err().to_string(), "length must be at least 1");
        let error = HeaderPattern::parse("~*(").unwrap_err().to_string();
        assert!(error.starts_with("Router Expression failed validation: "), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_back(value in "(~[*])?[a-zA-Z0-9 ()*+.-]{0,12}") {
            if let Ok(pattern) = HeaderPattern::parse(&value) {
                prop_assert_eq!(HeaderPattern::parse(&pattern.to_string()).unwrap(), pattern);
            }
        }
    }
}
