//! The conditions of one rule that a request does not meet: for explanations.
//!
//! The index answers for all rules at once and only says who wins; this says why one rule did not match. A law in the tests
//! holds the two together.

use equipoise_proto::host::HostShape;
use equipoise_proto::{HeaderName, HostPattern, PathPattern};

use super::authority::HostKey;
use super::{Flavour, Query, Rule};

/// A condition of a [`Rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'r> {
    /// One of its hosts.
    Hosts,
    /// One of its paths.
    Paths,
    /// One of its methods.
    Methods,
    /// One of its server names.
    Snis,
    /// One of its values for the header of this name.
    Header(&'r HeaderName),
}

impl Rule {
    /// What the request does not meet; nothing if the rule matches. Cost: that of looking at each of the rule's values.
    pub fn unmet<'r>(&'r self, flavour: Flavour, query: &Query<'_>) -> Vec<Condition<'r>> {
        let parts = [
            (Condition::Hosts, self.has_host(flavour, query)),
            (Condition::Paths, self.has_path(query)),
            (Condition::Methods, self.has_method(query)),
            (Condition::Snis, self.has_sni(flavour, query)),
        ];
        let headers = self.headers.iter();
        let headers = headers.map(|header| (Condition::Header(&header.name), header.matches(flavour, query)));
        parts.into_iter().chain(headers).filter(|(_, is_met)| !is_met).map(|(part, _)| part).collect()
    }

    fn has_host(&self, flavour: Flavour, query: &Query<'_>) -> bool {
        let is_of = |host: &HostKey, wanted: &HostPattern| {
            let may_be = match wanted.shape() {
                HostShape::Exact(_) => true,
                HostShape::Suffix(rest) | HostShape::Prefix(rest) => {
                    flavour == Flavour::Compatible || rest.len() < host.len()
                }
            };
            may_be && wanted.matches(host.forwards(), query.port)
        };
        self.hosts.is_empty()
            || HostKey::new(query.host)
                .is_some_and(|host| self.hosts.iter().any(|wanted| is_of(&host, wanted)))
    }

    fn has_path(&self, query: &Query<'_>) -> bool {
        let is_of = |wanted: &PathPattern| match wanted {
            PathPattern::Prefix(prefix) => query.path.starts_with(prefix.as_str().as_bytes()),
            PathPattern::Regex(regex) => regex.match_len(query.path).is_some(),
        };
        self.paths.is_empty() || self.paths.iter().any(is_of)
    }
}
