//! Who may be asked for by which name: against pages that make their own name lead to this host (DNS rebinding).
//!
//! A page of `evil.example` whose name comes to stand for 127.0.0.1 is, to the browser, of the same origin as a listener there: it
//! reads and writes as if it were at home, and only the Host header tells. So a listener on loopback answers to addresses, to
//! `localhost` and to names that the settings allow. Pure.

use http::header::HOST;
use http::{HeaderMap, StatusCode, Uri};

use super::cors::without_port;
use super::reply::Reply;

/// From where a listener can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// From this host only.
    Loopback,
    /// From others as well: by names that are not known here.
    Anywhere,
}

/// 421, where the name in the request cannot be one of this listener.
pub(super) fn refuse(reach: Reach, uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> Option<Reply> {
    let host = match (reach, uri.host(), headers.get(HOST)) {
        (Reach::Anywhere, ..) | (Reach::Loopback, None, None) => return None,
        (Reach::Loopback, Some(host), _) => host.to_owned(),
        (Reach::Loopback, None, Some(host)) => {
            without_port(&String::from_utf8_lossy(host.as_bytes())).to_owned()
        }
    };
    if is_own(&host) || allowed.iter().any(|name| name.eq_ignore_ascii_case(&host)) {
        return None;
    }
    let text = format!(
        "this listener is on loopback, and '{host}' is none of its names: an address, localhost, or one of admin.allowed_hosts"
    );
    Some(Reply::message(StatusCode::MISDIRECTED_REQUEST, &text))
}

/// An address, or a name that leads here whoever answers for it (RFC 6761, 6.3).
fn is_own(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    address.parse::<std::net::IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_listener_on_loopback_answers_to_its_own_names() {
        let allowed = ["kong.internal".to_owned()];
        for (host, is_ok) in [
            ("127.0.0.1:8001", true),
            ("10.0.0.1", true),
            ("[::1]:8001", true),
            ("[::1]", true),
            ("localhost:8001", true),
            ("LocalHost.", true),
            ("admin.localhost:8001", true),
            ("Kong.Internal:8001", true),
            ("evil.example:8001", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("xkong.internal", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            let refused = |reach| refuse(reach, &Uri::from_static("/"), &headers, &allowed).is_some();
            assert_eq!(refused(Reach::Loopback), !is_ok, "{host}");
            assert!(!refused(Reach::Anywhere), "{host}");
        }
        // The target's own host counts over the header.
        let (uri, none) = (Uri::from_static("http://evil.example/"), HeaderMap::new());
        assert!(refuse(Reach::Loopback, &uri, &none, &allowed).is_some());
        assert!(refuse(Reach::Loopback, &Uri::from_static("/"), &none, &allowed).is_none());
    }
}
