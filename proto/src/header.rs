//! Headers: conditions of routes, and values that a node sends.

use std::fmt;

use crate::limits::HEADER_VALUE_BYTES_MAX;
use crate::pattern::{self, HeaderRegex, InvalidRegex};

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

/// A value of a header that a node sends: no control character but the tab, so that it cannot end its line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderValue(Box<str>);

impl HeaderValue {
    /// Reads a value as it is to be sent; it may be empty.
    ///
    /// # Errors
    /// When it has a control character or is too long.
    pub fn parse(value: &str) -> Result<Self, InvalidHeaderValue> {
        if value.len() > HEADER_VALUE_BYTES_MAX {
            return Err(InvalidHeaderValue::TooLong);
        }
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(InvalidHeaderValue::Control);
        }
        Ok(Self(value.into()))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HeaderValue {
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
        match Self::regex(value)? {
            Some(regex) => Ok(Self::Regex(HeaderRegex::parse(regex)?)),
            None => Ok(Self::Literal(HeaderLiteral(value.to_ascii_lowercase().into()))),
        }
    }

    /// Judges a value without compiling it: what [`Self::parse`] refuses besides is a regular expression that
    /// is too large.
    ///
    /// # Errors
    /// As of [`Self::parse`].
    pub fn check(value: &str) -> Result<(), InvalidHeaderPattern> {
        match Self::regex(value)? {
            Some(regex) => Ok(pattern::check(regex)?),
            None => Ok(()),
        }
    }

    /// What stands after the `~*`, if that is there.
    fn regex(value: &str) -> Result<Option<&str>, InvalidHeaderPattern> {
        if value.is_empty() {
            return Err(InvalidHeaderPattern::Empty);
        }
        if value.len() > HEADER_VALUE_BYTES_MAX {
            return Err(InvalidHeaderPattern::TooLong);
        }
        Ok(value.strip_prefix("~*"))
    }

    /// Memory of the compiled regular expression at most; 0 for a literal.
    pub fn compiled_bytes_max(&self) -> usize {
        match self {
            Self::Literal(_) => 0,
            Self::Regex(regex) => regex.compiled_bytes_max(),
        }
    }

    /// Whether a value is what is written here, a `~*` being no more than that.
    pub fn is_written(&self, value: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => literal.0.as_bytes().eq_ignore_ascii_case(value),
            Self::Regex(regex) => value
                .strip_prefix(b"~*")
                .is_some_and(|rest| rest.eq_ignore_ascii_case(regex.as_str().as_bytes())),
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

/// Text that cannot be sent as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaderValue {
    /// It would break the request's framing.
    #[error("must not contain control characters")]
    Control,
    /// Beyond [`HEADER_VALUE_BYTES_MAX`].
    #[error("length must be at most {HEADER_VALUE_BYTES_MAX}")]
    TooLong,
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
    fn a_value_that_is_sent_has_no_control_character_but_the_tab() {
        let long = "a".repeat(HEADER_VALUE_BYTES_MAX + 1);
        for (value, want) in [
            ("", Ok(())),
            ("a b\tc \u{e9}~", Ok(())),
            ("a\r\nb: c", Err(InvalidHeaderValue::Control)),
            ("\u{0}", Err(InvalidHeaderValue::Control)),
            ("\u{7f}", Err(InvalidHeaderValue::Control)),
            (&long, Err(InvalidHeaderValue::TooLong)),
        ] {
            assert_eq!(HeaderValue::parse(value).map(drop), want, "{value:?}");
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
