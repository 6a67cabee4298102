//! What is shown to clients and to targets, and whom targets are vouched for by.

use std::path::PathBuf;

use equipoise_settings::{Key, Problem, Settings, keys};

use crate::tls::Trust;
use crate::tls::callers::{Callers, Need, Told};
use crate::tls::server::{PAIRS_MAX, Shown};

/// The word for the authorities that the system trusts.
const SYSTEM: &str = "system";

pub(super) fn trust(settings: &Settings) -> Trust {
    let (system, files): (Vec<_>, Vec<_>) =
        settings.list(&keys::TLS_TRUSTED_CERTIFICATES).iter().partition(|item| *item == SYSTEM);
    Trust {
        system: !system.is_empty(),
        files: files.into_iter().map(PathBuf::from).collect(),
        depth: settings.number(&keys::TLS_VERIFY_DEPTH),
    }
}

pub(super) fn shown(settings: &Settings) -> Result<Shown, Problem> {
    let (certificates, names) = (settings.list(&keys::TLS_CERT), settings.list(&keys::TLS_CERT_KEY));
    if certificates.len() != names.len() {
        let rule = format!("must name as many files as `{}`", keys::TLS_CERT.name);
        return Err(settings.problem(&keys::TLS_CERT_KEY, rule));
    }
    if certificates.len() > PAIRS_MAX {
        return Err(settings.problem(&keys::TLS_CERT, format!("at most {PAIRS_MAX} files")));
    }
    let key = &keys::TLS_PROTOCOLS;
    let mut shown = Shown {
        pairs: Vec::new(),
        tls12: false,
        tls13: false,
        tickets: settings.bool(&keys::TLS_SESSION_TICKETS),
        session_timeout: settings.duration(&keys::TLS_SESSION_TIMEOUT),
        callers: callers(settings)?,
    };
    for version in settings.text(key).unwrap_or_default().split_whitespace() {
        match version {
            "TLSv1.2" => shown.tls12 = true,
            "TLSv1.3" => shown.tls13 = true,
            "TLSv1" | "TLSv1.1" => {
                tracing::warn!(version, "is not spoken: it can be broken (RFC 8996)");
            }
            _ => return Err(settings.problem(key, format!("`{version}` is neither TLSv1.2 nor TLSv1.3"))),
        }
    }
    if !(shown.tls12 || shown.tls13) {
        return Err(settings.problem(key, "must name TLSv1.2, TLSv1.3 or both"));
    }
    let pairs = certificates.iter().zip(names);
    shown.pairs = pairs.map(|(certificate, key)| (PathBuf::from(certificate), PathBuf::from(key))).collect();
    Ok(shown)
}

/// What clients are to show, if anything.
pub(super) fn callers(settings: &Settings) -> Result<Option<Callers>, Problem> {
    let need = match settings.text(&keys::TLS_CLIENT_VERIFY) {
        Some("optional") => Need::Optional,
        Some("required" | "on") => Need::Required,
        _ => return Ok(None),
    };
    let key = &keys::TLS_CLIENT_CA;
    let files: Vec<_> = settings.list(key).iter().map(PathBuf::from).collect();
    if files.is_empty() {
        let rule = format!("must name a file where `{}` is not off", keys::TLS_CLIENT_VERIFY.name);
        return Err(settings.problem(key, rule));
    }
    let told = match settings.text(&keys::TLS_CLIENT_CERT_HEADERS) {
        Some("cert") => Told::Certificate,
        Some("chain") => Told::Chain,
        _ => Told::Nothing,
    };
    Ok(Some(Callers { need, files, depth: settings.number(&keys::TLS_CLIENT_VERIFY_DEPTH), told }))
}

pub(super) fn shown_to_targets(settings: &Settings) -> Result<Option<(PathBuf, PathBuf)>, Problem> {
    if !settings.bool(&keys::UPSTREAM_CLIENT_TLS) {
        return Ok(None);
    }
    let path = |key: &'static Key| {
        let rule = || format!("must be set where `{}` is on", keys::UPSTREAM_CLIENT_TLS.name);
        settings.path(key).map(PathBuf::from).ok_or_else(|| settings.problem(key, rule()))
    };
    Ok(Some((path(&keys::UPSTREAM_CLIENT_CERT)?, path(&keys::UPSTREAM_CLIENT_CERT_KEY)?)))
}
