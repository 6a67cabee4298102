//! `cors`: which web pages may call from a browser.
//!
//! Source: Kong 3.10's plugin; the Fetch standard.

use equipoise_proto::HeaderPattern;

use super::answer::{Answer, Content};
use super::edits::Edits;
use super::run::At;

/// What browsers are told.
#[derive(Debug, Default)]
pub struct Cors {
    /// Whose pages may call; empty: all.
    pub origins: Box<[Origin]>,
    /// Headers that pages may send, as one value; `None`: what they ask for.
    pub headers: Option<Box<str>>,
    /// Headers that pages may read, as one value.
    pub exposed_headers: Option<Box<str>>,
    /// Methods, as one value.
    pub methods: Box<str>,
    /// Seconds for which a browser may remember, as text.
    pub max_age: Option<Box<str>>,
    /// Whether pages may show who is logged in.
    pub credentials: bool,
    /// Whether pages of public networks may call.
    pub private_network: bool,
    /// Whether the upstream answers preflight requests.
    pub continues: bool,
    /// Whether a request that names no origin has headers in its answer too.
    pub on_absent: bool,
}

/// Whose pages may call.
#[derive(Debug)]
pub enum Origin {
    /// Anybody's.
    Any,
    /// This origin's, in lower case, without the port that its scheme has anyway.
    Exactly(Box<str>),
    /// Those of a host, by whatever scheme.
    Host(Box<str>),
    /// Those that this expression matches from end to end.
    Pattern(HeaderPattern),
}

impl Origin {
    /// As operators write it: `*`, an origin, a host, or a regular expression.
    ///
    /// # Errors
    /// Of the expression.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'/' | b'-');
        if !text.bytes().all(is_plain) {
            let pattern = HeaderPattern::parse(&format!("~*^(?:{text})$"));
            return pattern.map(Self::Pattern).map_err(|error| error.to_string());
        }
        if text.contains("://") {
            return Ok(Self::Exactly(normalise(text).into()));
        }
        Ok(Self::Host(text.to_ascii_lowercase().into()))
    }

    fn is_of(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(own) => **own == *origin,
            Self::Host(own) => {
                let authority = origin.split_once("://").map_or(origin, |(_, rest)| rest);
                let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
                **own == *authority || **own == *host
            }
            Self::Pattern(pattern) => pattern.matches(origin.as_bytes()),
        }
    }
}

/// An origin in the one form in which two are compared.
fn normalise(origin: &str) -> String {
    let lower = origin.trim_end_matches('/').to_ascii_lowercase();
    let plain = match lower.split_once("://") {
        Some(("http", _)) => lower.strip_suffix(":80"),
        Some(("https", _)) => lower.strip_suffix(":443"),
        _ => None,
    };
    plain.map_or_else(|| lower.clone(), str::to_owned)
}

pub(super) fn run(config: &Cors, at: &mut At<'_>) -> Option<Answer> {
    let origin = at.header("origin").next().map(<[u8]>::to_vec);
    let asked_method = at.header("access-control-request-method").next().is_some();
    if at.asked.head.method == "OPTIONS" && origin.is_some() && asked_method {
        return if config.continues { None } else { Some(preflight(config, origin.as_deref(), at)) };
    }
    if origin.is_none() && !config.on_absent {
        return None;
    }
    let mut edits = Edits::default();
    allow_origin(config, origin.as_deref(), &mut edits);
    match &config.exposed_headers {
        Some(names) => edits.set("Access-Control-Expose-Headers", names.as_bytes()),
        None => edits.remove("Access-Control-Expose-Headers"),
    }
    at.passed.response.extend(edits);
    None
}

fn preflight(config: &Cors, origin: Option<&[u8]>, at: &At<'_>) -> Answer {
    let mut headers = Edits::default();
    allow_origin(config, origin, &mut headers);
    let asked = || at.header("access-control-request-headers").next();
    if let Some(names) = config.headers.as_deref().map(str::as_bytes).or_else(asked) {
        headers.set("Access-Control-Allow-Headers", names);
    }
    headers.set("Access-Control-Allow-Methods", config.methods.as_bytes());
    if let Some(seconds) = &config.max_age {
        headers.set("Access-Control-Max-Age", seconds.as_bytes());
    }
    if config.private_network && at.header("access-control-request-private-network").next() == Some(b"true") {
        headers.set("Access-Control-Allow-Private-Network", b"true");
    }
    Answer { status: 200, content: Content::Nothing, headers }
}

fn allow_origin(config: &Cors, origin: Option<&[u8]>, edits: &mut Edits) {
    const ALLOWED: &str = "Access-Control-Allow-Origin";
    const CREDENTIALS: &str = "Access-Control-Allow-Credentials";
    let is_for_all = config.origins.is_empty() || matches!(*config.origins, [Origin::Any]);
    edits.add("Vary", b"Origin");
    if is_for_all {
        match origin {
            // With credentials the Fetch standard wants the origin by name.
            Some(origin) if config.credentials => {
                edits.set(ALLOWED, origin);
                edits.set(CREDENTIALS, b"true");
            }
            _ => edits.set(ALLOWED, b"*"),
        }
        return;
    }
    // One origin that is said whole is said to everybody, as the reference does.
    let own = match &*config.origins {
        [Origin::Exactly(own)] => Some(own.as_bytes()),
        origins => origin.filter(|origin| {
            let origin = std::str::from_utf8(origin).map(normalise);
            origin.is_ok_and(|origin| origins.iter().any(|own| own.is_of(&origin)))
        }),
    };
    match own {
        Some(own) => {
            edits.set(ALLOWED, own);
            if config.credentials {
                edits.set(CREDENTIALS, b"true");
            }
        }
        // Not what the upstream may have said either.
        None => {
            edits.remove(ALLOWED);
            edits.remove(CREDENTIALS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_matched_whole() {
        for (own, origin, want) in [
            ("*", "https://a.example", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.example:443", true),
            ("https://a.example:443/", "https://a.example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example.evil.test", false),
            ("a.example", "https://a.example:8443", true),
            ("a.example", "https://b.a.example", false),
            ("a.example:8443", "https://a.example:8443", true),
            (r"https?://.*\.a\.example", "http://x.a.example", true),
            (r"https?://.*\.a\.example", "http://x.a.example.evil.test", false),
            (r"https?://.*\.a\.example", "evil.test/http://x.a.example", false),
            (r"(a|b)", "a", true),
            (r"a|b", "ab", false),
        ] {
            let found = Origin::parse(own).unwrap().is_of(&normalise(origin));
            assert_eq!(found, want, "{own} {origin}");
        }
        assert!(Origin::parse("(").is_err());
    }
}
