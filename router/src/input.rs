//! What a request is hashed by, where its upstream hashes.
//!
//! Source: `balancer.md` 5.3 and 5.4.

use std::borrow::Cow;

use equipoise_proto::path::resolve;
use equipoise_proto::{query, v1};
use percent_encoding::percent_decode;
use uuid::Uuid;

use super::Headers;

/// A part of a request that it can be hashed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashInput {
    /// Nothing.
    None,
    /// The authenticated consumer.
    Consumer,
    /// The client's address.
    Ip,
    /// The path, without query.
    Path,
    /// A header.
    Header(Box<str>),
    /// A cookie; a request that has none is given one.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// Its `Path` attribute, where it is given.
        path: Box<str>,
    },
    /// An argument of the query.
    QueryArg(Box<str>),
    /// A group of the route's regex path, by name or number.
    UriCapture(Box<str>),
}

/// The parts of a request.
pub struct Parts<'a> {
    /// The client's address, as text.
    pub client: &'a str,
    /// As received.
    pub path: &'a [u8],
    /// Behind the `?`.
    pub query: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a dyn Headers,
    /// A group of the route's regex, by name or number.
    pub capture: &'a dyn Fn(&str) -> Option<Vec<u8>>,
    /// Who calls, if a plugin found out.
    pub consumer: Option<Uuid>,
}

impl From<Option<v1::HashInput>> for HashInput {
    fn from(read: Option<v1::HashInput>) -> Self {
        use v1::hash_input::Input;
        match read.and_then(|read| read.input) {
            None | Some(Input::None(_)) => Self::None,
            Some(Input::Consumer(_)) => Self::Consumer,
            Some(Input::Ip(_)) => Self::Ip,
            Some(Input::Path(_)) => Self::Path,
            Some(Input::Header(name)) => Self::Header(name.into()),
            Some(Input::Cookie(cookie)) => {
                Self::Cookie { name: cookie.name.into(), path: cookie.path.into() }
            }
            Some(Input::QueryArg(name)) => Self::QueryArg(name.into()),
            Some(Input::UriCapture(name)) => Self::UriCapture(name.into()),
        }
    }
}

impl HashInput {
    /// What a request has of it; `None` if it has not.
    pub fn value<'p>(&self, parts: &Parts<'p>) -> Option<Cow<'p, [u8]>> {
        match self {
            Self::None => None,
            Self::Consumer => parts.consumer.map(|id| Cow::Owned(id.to_string().into_bytes())),
            Self::Ip => Some(Cow::Borrowed(parts.client.as_bytes())),
            Self::Path => Some(Cow::Owned(resolve(&percent_decode(parts.path).collect::<Vec<_>>()))),
            Self::Header(name) => header(parts.headers, name).map(Cow::Owned),
            Self::Cookie { name, .. } => cookies(parts.headers, name).into_iter().next().map(Cow::Owned),
            Self::QueryArg(name) => argument(parts.query.unwrap_or_default(), name).map(Cow::Owned),
            Self::UriCapture(name) => (parts.capture)(name).map(Cow::Owned),
        }
    }
}

/// All lines of a header, as one.
fn header(headers: &dyn Headers, name: &str) -> Option<Vec<u8>> {
    let mut all: Option<Vec<u8>> = None;
    headers.each(name, &mut |value| match &mut all {
        None => all = Some(value.to_vec()),
        Some(all) => {
            all.extend_from_slice(b", ");
            all.extend_from_slice(value);
        }
    });
    all
}

/// Cookies of one name that are looked at.
pub const COOKIES_MAX: usize = 8;

/// The first cookies of this name, in order.
pub fn cookies(headers: &dyn Headers, name: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    headers.each("cookie", &mut |line| {
        let values = line
            .split(|byte| *byte == b';')
            .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        found.extend(values.map(<[u8]>::to_vec).take(COOKIES_MAX - found.len()));
    });
    found
}

/// All values of an argument, sorted and joined; one without `=` counts as `true`.
fn argument(query: &[u8], name: &str) -> Option<Vec<u8>> {
    let arguments = query::arguments(query).filter(|argument| argument.name == name.as_bytes());
    let values = arguments.map(|argument| argument.value.unwrap_or_else(|| b"true".to_vec()));
    let mut values: Vec<Vec<u8>> = values.collect();
    values.sort_unstable();
    (!values.is_empty()).then(|| values.join(&b','))
}

#[cfg(test)]
mod tests {
    use super::*;
    use equipoise_proto::query::ARGUMENTS_MAX;

    struct Lines(Vec<(&'static str, &'static str)>);

    impl Headers for Lines {
        fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
            for (key, value) in &self.0 {
                if key.eq_ignore_ascii_case(name) {
                    found(value.as_bytes());
                }
            }
        }
    }

    #[test]
    fn every_input_has_its_value_or_none() {
        let headers = Lines(vec![
            ("X-Tenant", "one"),
            ("x-tenant", "two"),
            ("X-Empty", ""),
            ("Cookie", "a=1; session=abc=="),
            ("Cookie", "session=later; b=2"),
        ]);
        let capture = |name: &str| (name == "id" || name == "1").then(|| b"42".to_vec());
        let parts = Parts {
            client: "10.1.2.3",
            path: b"/a%2Fb/./c//d%41/../e",
            query: Some(b"foo=s&foo&foo=1&foo=&bar=x%2Cy+z&%66oo2=2&empty="),
            headers: &headers,
            capture: &capture,
            consumer: None,
        };
        let header = |name: &str| HashInput::Header(name.into());
        let argument = |name: &str| HashInput::QueryArg(name.into());
        let captured = |name: &str| HashInput::UriCapture(name.into());
        let cookie = |name: &str| HashInput::Cookie { name: name.into(), path: "/".into() };
        let rows = [
            ("nothing", HashInput::None, None),
            ("ip", HashInput::Ip, Some("10.1.2.3")),
            ("path, reserved bytes decoded too", HashInput::Path, Some("/a/b/c/e")),
            ("lines of a header are one", header("x-tenant"), Some("one, two")),
            ("an empty header is there", header("x-empty"), Some("")),
            ("a header that is missing", header("x-none"), None),
            ("the first cookie", cookie("session"), Some("abc==")),
            ("a cookie that is missing", cookie("sessio"), None),
            ("values sorted and joined", argument("foo"), Some(",1,s,true")),
            ("decoded", argument("bar"), Some("x,y z")),
            ("name decoded", argument("foo2"), Some("2")),
            ("an empty value is there", argument("empty"), Some("")),
            ("no such argument", argument("none"), None),
            ("a group by name", captured("id"), Some("42")),
            ("a group by number", captured("1"), Some("42")),
            ("no such group", captured("2"), None),
            ("nobody is known to call", HashInput::Consumer, None),
        ];
        for (name, input, want) in rows {
            assert_eq!(input.value(&parts).as_deref(), want.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn only_the_first_arguments_count() {
        let query = format!("{}late=1", "a=1&".repeat(ARGUMENTS_MAX));
        assert_eq!(argument(query.as_bytes(), "late"), None);
        assert_eq!(argument(query.as_bytes(), "a").unwrap().len(), 2 * ARGUMENTS_MAX - 1);
    }
}
