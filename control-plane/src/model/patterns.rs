//! Formats of texts. What nodes parse too is parsed by `equipoise_proto`, so that nothing is accepted here that
//! a node refuses; the messages are Kong's.

use equipoise_proto::header::InvalidHeaderPattern;
use equipoise_proto::host::InvalidHostName;
use equipoise_proto::limits::{
    HOST_BYTES_MAX, NAME_BYTES_MAX, NODE_TEXT_BYTES_MAX, PATH_BYTES_MAX, is_node_text,
};
use equipoise_proto::path::InvalidPath;
use equipoise_proto::{
    HeaderPattern, HeaderValue, Host, HostPattern, HostPort, NetworkRange, PathPattern, Placement,
    SniPattern, TargetAddress,
};

/// The outcome of a check, with the message for the field.
type Verdict = Result<(), String>;

fn verdict<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Verdict {
    parsed.map(drop).map_err(|error| error.to_string())
}

fn bounded(text: &str, most: usize) -> Verdict {
    if text.len() > most { Err(format!("length must be at most {most}")) } else { Ok(()) }
}

/// Names of services and routes.
pub(super) fn utf8_name(text: &str) -> Verdict {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '~') || !c.is_ascii();
    if !text.chars().all(is_fine) {
        return Err(format!(
            "invalid value '{text}': the only accepted ascii characters are alphanumerics or ., -, _, and ~"
        ));
    }
    bounded(text, NAME_BYTES_MAX)
}

/// One tag.
pub(super) fn tag(text: &str) -> Verdict {
    let is_fine = |c: char| !c.is_ascii() || ((' '..='~').contains(&c) && c != ',' && c != '/');
    if text.is_empty() || !text.chars().all(is_fine) {
        return Err(format!(
            "invalid tag '{text}': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"
        ));
    }
    bounded(text, NAME_BYTES_MAX)
}

/// A host without port.
pub(super) fn host(text: &str) -> Verdict {
    verdict(Host::parse(text))
}

/// A host, perhaps with port.
pub(super) fn host_port(text: &str) -> Verdict {
    verdict(HostPort::parse(text))
}

/// An entry of `routes.hosts`.
pub(super) fn host_pattern(text: &str) -> Verdict {
    verdict(HostPattern::parse(text))
}

/// A server name without wildcard.
pub(super) fn sni(text: &str) -> Verdict {
    verdict(Host::parse_name(text))
}

/// A server name, perhaps with a wildcard.
pub(super) fn wildcard_sni(text: &str) -> Verdict {
    verdict(SniPattern::parse(text))
}

/// A host name: upstreams are found by the host of a service.
pub(super) fn upstream_name(text: &str) -> Verdict {
    let problem = match Host::parse_name(text) {
        Ok(_) => return Ok(()),
        Err(_) if text.len() > HOST_BYTES_MAX => return bounded(text, HOST_BYTES_MAX),
        Err(InvalidHostName::IsAddress) => "no ip addresses allowed",
        // A port out of range is no port, and what has one no hostname.
        Err(InvalidHostName::HasPort) if HostPort::parse(text).is_ok() => "no port allowed",
        Err(InvalidHostName::HasPort | InvalidHostName::Value(_)) => "must be a valid hostname",
    };
    Err(format!("Invalid name ('{text}'); {problem}"))
}

/// A target, as PATCH and PUT judge it.
pub(super) fn target(text: &str) -> Verdict {
    TargetAddress::parse(text)
        .map(drop)
        .map_err(|_| format!("Invalid target ('{text}'); not a valid hostname or ip address"))
}

/// The form in which a target is stored and looked up.
pub(super) fn stored_target(text: &str) -> Option<String> {
    TargetAddress::parse(text).ok().map(|address| address.to_string())
}

/// A path without query that starts with `/`.
pub(super) fn path(text: &str) -> Verdict {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "/.-_~%:@!$&'()*+,;=".contains(c);
    if !text.chars().all(is_fine) {
        return Err(format!(
            "invalid path: '{text}' (characters outside of the reserved list of RFC 3986 found)"
        ));
    }
    let is_triplet = |at: usize| {
        let digits = text.as_bytes().get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if let Some((at, _)) = text.match_indices('%').find(|(at, _)| !is_triplet(*at)) {
        let found: String = text.chars().skip(at).take(3).collect();
        return Err(format!("invalid url-encoded value: '{found}'"));
    }
    bounded(text, PATH_BYTES_MAX)
}

/// An entry of `routes.paths`, as far as it is an error of that entry, and not compiled yet; see
/// [`path_in_router`].
pub(super) fn route_path(text: &str) -> Verdict {
    match PathPattern::check(text) {
        Ok(()) | Err(InvalidPath::Dialect(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// An entry of `routes.paths` as the router compiles it; what is wrong with it then is an error of the route.
pub(super) fn path_in_router(text: &str) -> Result<PathPattern, String> {
    PathPattern::parse(text).map_err(|error| error.to_string())
}

/// A wanted value of a header, as far as it is an error of that value, and not compiled yet; see
/// [`header_in_router`].
pub(super) fn header_pattern(text: &str) -> Verdict {
    match HeaderPattern::check(text) {
        Ok(()) | Err(InvalidHeaderPattern::Regex(_)) => Ok(()),
        Err(error @ (InvalidHeaderPattern::Empty | InvalidHeaderPattern::TooLong)) => Err(error.to_string()),
    }
}

/// A wanted value of a header as the router compiles it; what is wrong with it then is an error of the route.
pub(super) fn header_in_router(text: &str) -> Result<HeaderPattern, String> {
    HeaderPattern::parse(text).map_err(|error| error.to_string())
}

/// A value of a header that nodes send.
pub(super) fn header_value(text: &str) -> Verdict {
    verdict(HeaderValue::parse(text))
}

/// Name of a header.
pub(super) fn header_name(text: &str) -> Verdict {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        return bounded(text, NAME_BYTES_MAX);
    }
    Err(format!("bad header name '{text}', allowed characters are A-Z, a-z, 0-9, '_', and '-'"))
}

/// Name of a cookie: an HTTP token.
pub(super) fn cookie_name(text: &str) -> Verdict {
    if text.chars().all(|c| !c.is_ascii_control() && !" \t()<>@,;:\\\"/?={}[]".contains(c)) {
        return bounded(text, NAME_BYTES_MAX);
    }
    Err("contains one or more invalid characters. ASCII control characters (0-31;127), space, tab and the \
         characters ()<>@,;:\\\"/?={}[] are not allowed."
        .to_owned())
}

/// Name of a cookie that nodes set: a token of RFC 9110, without the letters that [`cookie_name`] lets pass.
pub(super) fn sent_cookie_name(text: &str) -> Verdict {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
        return bounded(text, NAME_BYTES_MAX);
    }
    Err("contains one or more invalid characters: not a token of RFC 9110".to_owned())
}

/// 32 bytes, in hexadecimal digits.
pub(super) fn secret(text: &str) -> Verdict {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err("expected 64 hexadecimal digits".to_owned())
}

/// A region or zone, as nodes and targets name theirs.
pub(super) fn place(text: &str) -> Verdict {
    if is_node_text(text) {
        return Ok(());
    }
    Err(format!("expected 1 to {NODE_TEXT_BYTES_MAX} bytes without control characters"))
}

/// The tags of a target that mean something to nodes.
pub(super) fn placement<'a>(tags: impl Iterator<Item = &'a str>) -> Verdict {
    verdict(Placement::from_tags(tags))
}

/// An address, perhaps with the length of a network prefix.
pub(super) fn ip_or_cidr(text: &str) -> Verdict {
    verdict(NetworkRange::parse(text))
}

/// The parts of a service's `url`; none of them is judged here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) scheme: Option<&'a str>,
    /// Without brackets.
    pub(super) host: Option<&'a str>,
    pub(super) port: Option<&'a str>,
    pub(super) path: Option<&'a str>,
}

impl<'a> Url<'a> {
    /// Splits a generic URI; user info, query and fragment are dropped.
    pub(super) fn parse(url: &'a str) -> Self {
        let url = url.split_once('#').map_or(url, |(url, _)| url);
        let (scheme, rest) = match url.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), rest),
            Some(_) | None => (None, url),
        };
        let Some(rest) = rest.strip_prefix("//") else {
            return Self { scheme, host: None, port: None, path: part(without_query(rest)) };
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, part(port)),
            Some(_) | None => (authority, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Self { scheme, host: part(host), port, path: part(without_query(path)) }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn without_query(text: &str) -> &str {
    text.split_once('?').map_or(text, |(path, _)| path)
}

fn part(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
