//! Which web pages may read and write config through a browser. Pure.
//!
//! The reference echoes any origin together with credentials, so that every page a person visits could write
//! config. Here an origin is trusted when it is configured, is on a loopback host, or is the host that was
//! asked; see [`Origins::judge`].

use std::net::IpAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_REQUEST_HEADERS, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Uri};

/// The origins of the GUI, `scheme://host[:port]`; empty when none is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<HeaderValue>);

/// Whether a page of this origin may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// No browser, or a trusted page.
    Trusted,
    /// Some other web page.
    Foreign,
}

/// What the CORS headers of a response are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may write.
    pub trust: Trust,
    allow_origin: HeaderValue,
    credentials: bool,
}

impl Origins {
    /// From `admin_gui_url`: the path of each URL is dropped; what is not an `http(s)` URL is left out.
    pub fn from_urls<'a>(urls: impl IntoIterator<Item = &'a str>) -> Self {
        Self(urls.into_iter().filter_map(origin_of_url).collect())
    }

    /// Judges the `Origin` of a request; without one it did not come from a web page of elsewhere.
    pub fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let origin = headers.get(ORIGIN);
        let is_trusted = |origin: &HeaderValue| {
            self.0.contains(origin)
                || origin.to_str().ok().and_then(host_of_origin).is_some_and(|host| {
                    is_loopback(host)
                        || requested_host(uri, headers).is_some_and(|asked| asked.eq_ignore_ascii_case(host))
                })
        };
        let trust = if origin.is_none_or(is_trusted) { Trust::Trusted } else { Trust::Foreign };
        let (allow_origin, credentials) = match (self.0.first(), origin, trust) {
            (Some(first), origin, _) => {
                let known = origin.filter(|origin| self.0.contains(origin));
                (known.unwrap_or(first).clone(), true)
            }
            (None, Some(origin), Trust::Trusted) => (origin.clone(), true),
            (None, None, _) => (HeaderValue::from_static("*"), true),
            (None, Some(_), Trust::Foreign) => (HeaderValue::from_static("*"), false),
        };
        Verdict { trust, allow_origin, credentials }
    }
}

impl Verdict {
    /// The headers of every response.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.allow_origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if self.allow_origin != "*" {
            headers.insert(VARY, HeaderValue::from_static("Origin"));
        }
    }

    /// The further headers of an answer to OPTIONS; a foreign page gets none.
    pub fn write_preflight(&self, allow: &HeaderValue, asked: &HeaderMap, headers: &mut HeaderMap) {
        match self.trust {
            Trust::Trusted => {
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, allow.clone());
                let wanted = asked.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
                let wanted = wanted.unwrap_or(HeaderValue::from_static("Content-Type"));
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted);
            }
            Trust::Foreign => {}
        }
    }
}

fn origin_of_url(url: &str) -> Option<HeaderValue> {
    let uri: Uri = url.trim().parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    HeaderValue::try_from(format!("{scheme}://{}", uri.authority()?)).ok()
}

/// The host of `scheme://host[:port]`; `None` for `null` and for anything else.
fn host_of_origin(origin: &str) -> Option<&str> {
    let (_, authority) = origin.split_once("://")?;
    (!authority.contains(['/', '@'])).then(|| without_port(authority))
}

fn requested_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    match uri.host() {
        Some(host) => Some(host),
        None => headers.get(HOST)?.to_str().ok().map(without_port),
    }
}

/// `[::1]:80` and `a.com:80` without their port.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(urls: &[&str], host: &'static str, origin: Option<&'static str>) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        Origins::from_urls(urls.iter().copied()).judge(&Uri::from_static("/services"), &headers)
    }

    #[test]
    fn origins_are_judged_by_configuration_loopback_and_requested_host() {
        use Trust::{Foreign, Trusted};
        let gui = &["https://gui.example:8445/manager", "http://gui2.example"][..];
        let cases = [
            ("no origin", &[][..], "a.com:8001", None, Trusted, "*", true),
            (
                "localhost",
                &[],
                "a.com",
                Some("http://localhost:8002"),
                Trusted,
                "http://localhost:8002",
                true,
            ),
            ("loopback v4", &[], "a.com", Some("http://127.8.0.1"), Trusted, "http://127.8.0.1", true),
            ("loopback v6", &[], "a.com", Some("http://[::1]:8002"), Trusted, "http://[::1]:8002", true),
            (
                "same host, other port",
                &[],
                "a.com:8001",
                Some("http://A.com:8002"),
                Trusted,
                "http://A.com:8002",
                true,
            ),
            ("foreign", &[], "a.com:8001", Some("https://evil.example"), Foreign, "*", false),
            ("foreign that ends in the host", &[], "a.com", Some("https://xa.com"), Foreign, "*", false),
            (
                "foreign that begins as loopback",
                &[],
                "a.com",
                Some("http://127.0.0.1.evil"),
                Foreign,
                "*",
                false,
            ),
            ("user info", &[], "a.com", Some("http://a.com@evil.example"), Foreign, "*", false),
            ("opaque", &[], "a.com", Some("null"), Foreign, "*", false),
            ("configured, none sent", gui, "a.com", None, Trusted, "https://gui.example:8445", true),
            (
                "configured, second",
                gui,
                "a.com",
                Some("http://gui2.example"),
                Trusted,
                "http://gui2.example",
                true,
            ),
            (
                "configured, foreign",
                gui,
                "a.com",
                Some("http://evil"),
                Foreign,
                "https://gui.example:8445",
                true,
            ),
        ];
        for (name, urls, host, origin, trust, allow, credentials) in cases {
            let verdict = judge(urls, host, origin);
            assert_eq!(verdict.trust, trust, "{name}");
            assert_eq!(verdict.allow_origin, allow, "{name}");
            assert_eq!(verdict.credentials, credentials, "{name}");
        }
    }

    #[test]
    fn foreign_preflight_names_no_methods() {
        let asked = HeaderMap::new();
        for (origin, want) in [("http://localhost", true), ("http://evil.example", false)] {
            let mut headers = HeaderMap::new();
            let allow = HeaderValue::from_static("GET");
            judge(&[], "a.com", Some(origin)).write_preflight(&allow, &asked, &mut headers);
            assert_eq!(headers.contains_key(ACCESS_CONTROL_ALLOW_METHODS), want, "{origin}");
            assert_eq!(headers.contains_key(ACCESS_CONTROL_ALLOW_HEADERS), want, "{origin}");
        }
    }
}
