//! `?wait=applied` and `Prefer: wait=<s>`: an answer once the nodes have the write, not only the disk.

use std::time::Duration;

use equipoise_proto::Position;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::AdminState;
use super::gate::Asked;
use crate::nodes::{self, Outcome};

/// How long when the client does not say.
const DEFAULT: Duration = Duration::from_secs(10);
/// The longest that a client may ask for.
const MAX: Duration = Duration::from_secs(60);

const PREFER: HeaderName = HeaderName::from_static("prefer");
const APPLIED: HeaderName = HeaderName::from_static("equipoise-applied");
const LAGGARDS: HeaderName = HeaderName::from_static("equipoise-laggards");

/// A wait that has begun: which nodes it is for is settled.
#[derive(Debug)]
pub(super) struct Wait {
    nodes: nodes::Wait,
    timeout: Duration,
}

impl Wait {
    /// Begins to wait for `position` on the nodes connected now; `None` when the request asks for no wait.
    pub(super) fn begin(state: &AdminState, asked: &Asked, position: &Position) -> Option<Self> {
        let timeout = timeout(asked.argument("wait").flatten(), &asked.headers)?;
        Some(Self { nodes: state.nodes.wait(position), timeout })
    }

    /// Ends when every node has answered or left, the time is up, or the server stops.
    pub(super) async fn end(self, state: &AdminState) -> Outcome {
        let end = async {
            tokio::select! {
                () = tokio::time::sleep(self.timeout) => {}
                () = state.stopping.cancelled() => {}
            }
        };
        self.nodes.until(end).await
    }
}

/// Tells the outcome in headers: status and body stay those of the write, since it is stored either way.
pub(super) fn write(outcome: &Outcome, headers: &mut HeaderMap) {
    let Outcome { applied, refused, pending, laggards } = outcome;
    let counts = format!("applied={applied}, refused={refused}, pending={pending}");
    let names = laggards.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    for (name, text) in [(APPLIED, counts), (LAGGARDS, names)] {
        if !text.is_empty() {
            headers.insert(
                name,
                HeaderValue::try_from(text).expect("numbers, ids and commas are visible ASCII"),
            );
        }
    }
}

/// How long a request wants to wait; `argument` is that of `?wait=`.
fn timeout(argument: Option<&str>, headers: &HeaderMap) -> Option<Duration> {
    let preferred = headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(MAX));
    preferred.or_else(|| (argument == Some("applied")).then_some(DEFAULT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_what_the_client_prefers_within_its_bound() {
        type Case = (&'static str, Option<&'static str>, &'static [&'static str], Option<u64>);
        let cases: [Case; 10] = [
            ("nothing said", None, &[], None),
            ("argument", Some("applied"), &[], Some(10)),
            ("another argument", Some("durable"), &[], None),
            ("preference", None, &["wait=3"], Some(3)),
            ("both", Some("applied"), &["wait=3"], Some(3)),
            ("among others", None, &["return=minimal, Wait=\"4\""], Some(4)),
            ("in a second header", None, &["respond-async", "wait=5"], Some(5)),
            ("zero", None, &["wait=0"], Some(0)),
            ("too long", None, &["wait=600"], Some(60)),
            ("no number", Some("applied"), &["wait=x"], Some(10)),
        ];
        for (name, argument, prefer, want) in cases {
            let mut headers = HeaderMap::new();
            for value in prefer {
                headers.append(PREFER, HeaderValue::from_static(value));
            }
            assert_eq!(timeout(argument, &headers), want.map(Duration::from_secs), "{name}");
        }
    }

    #[test]
    fn laggards_are_named_only_when_there_are_any() {
        let mut headers = HeaderMap::new();
        write(&Outcome { applied: 3, refused: 1, pending: 0, laggards: Vec::new() }, &mut headers);
        assert_eq!(headers[APPLIED], "applied=3, refused=1, pending=0");
        assert!(!headers.contains_key(LAGGARDS));
    }
}
