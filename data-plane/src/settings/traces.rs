//! Whether requests are traced, and where their spans go.

use equipoise_settings::{Problem, Settings, keys};

use crate::spans;
use crate::spans::context::Sampling;

/// Kong's instrumentations that have no spans here.
const WITHOUT_SPANS: [&str; 7] = [
    "db_query",
    "dns_query",
    "router",
    "http_client",
    "plugin_rewrite",
    "plugin_access",
    "plugin_header_filter",
];

pub(super) fn traced(settings: &Settings) -> Result<Option<spans::Plan>, Problem> {
    let key = &keys::TRACING_INSTRUMENTATIONS;
    let (mut is_on, mut requests, mut tries) = (false, false, false);
    for word in settings.list(key) {
        match word.as_str() {
            "off" if settings.list(key).len() == 1 => {}
            "request" => requests = true,
            "balancer" => tries = true,
            "all" => (requests, tries) = (true, true),
            _ if WITHOUT_SPANS.contains(&word.as_str()) => {
                tracing::warn!(instrumentation = word, "has no spans here");
            }
            _ => {
                let rule = format!("`{word}` is none of request, balancer, all; or `off` alone");
                return Err(settings.problem(key, rule));
            }
        }
        is_on |= word != "off";
    }
    let key = &keys::TRACING_SAMPLING_RATE;
    let rate = settings.text(key).and_then(|text| text.parse().ok()).and_then(Sampling::new);
    let sampling = rate.ok_or_else(|| settings.problem(key, "must be a number from 0 to 1"))?;
    let key = &keys::TRACING_ENDPOINT;
    let endpoint = settings.text(key).map(str::parse).transpose();
    let endpoint: Option<spans::export::Endpoint> = endpoint.map_err(|error| settings.problem(key, error))?;
    if !is_on {
        return Ok(None);
    }
    Ok(Some(spans::Plan {
        sampling,
        requests,
        tries,
        endpoint,
        protocol: match settings.text(&keys::TRACING_PROTOCOL) {
            Some("http") => spans::Protocol::Http,
            _ => spans::Protocol::Grpc,
        },
        timeout: settings.duration(&keys::TRACING_TIMEOUT),
        queue_max: settings.number(&keys::TRACING_QUEUE_MAX),
        service_name: settings.text(&keys::TRACING_SERVICE_NAME).unwrap_or("equipoise").to_owned(),
    }))
}
