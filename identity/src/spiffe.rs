//! Roles, and the name in a certificate: pure.

use std::fmt;
use std::str::FromStr;

use equipoise_proto::NodeId;
use uuid::Uuid;

/// The trust domain and scheme of every name.
const PREFIX: &str = "spiffe://equipoise/";

/// What a process is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Follows; serves nobody.
    Node,
    /// Follows, and serves nodes and further relays.
    Relay,
    /// Serves.
    ControlPlane,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Node, Self::Relay, Self::ControlPlane];

    /// As in a name, and in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Relay => "relay",
            Self::ControlPlane => "control-plane",
        }
    }

    /// Whether nodes may follow it.
    pub const fn serves(self) -> bool {
        match self {
            Self::Node => false,
            Self::Relay | Self::ControlPlane => true,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(InvalidSpiffeId)
    }
}

/// The name of a process: `spiffe://equipoise/<role>/<uuid>`.
///
/// Source: SPIFFE-ID 2, with a path of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// What it is.
    pub role: Role,
    /// Which.
    pub id: NodeId,
}

/// Not a name of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a name spiffe://equipoise/<node, relay or control-plane>/<UUID>")]
pub struct InvalidSpiffeId;

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}", self.role, self.id)
    }
}

impl SpiffeId {
    /// Whether a URI is of this trust domain; those of others name nobody here.
    pub fn is_ours(uri: &str) -> bool {
        uri.starts_with(PREFIX)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (role, id) =
            text.strip_prefix(PREFIX).and_then(|path| path.split_once('/')).ok_or(InvalidSpiffeId)?;
        let uuid = Uuid::try_parse(id).map_err(|_| InvalidSpiffeId)?;
        let name = Self { role: role.parse()?, id: NodeId::new(uuid) };
        // One spelling: names are compared as text elsewhere.
        if name.to_string() == text { Ok(name) } else { Err(InvalidSpiffeId) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_reads_back(role in 0..3_usize, id in any::<u128>()) {
            let name = SpiffeId { role: Role::ALL[role], id: NodeId::new(Uuid::from_u128(id)) };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn anything_else_is_refused(text in "\\PC{0,80}") {
            prop_assert_eq!(text.parse::<SpiffeId>(), Err(InvalidSpiffeId));
        }
    }

    #[test]
    fn there_is_one_spelling() {
        let id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        assert!(format!("spiffe://equipoise/node/{id}").parse::<SpiffeId>().is_ok());
        for (name, text) in [
            ("upper case", format!("spiffe://equipoise/node/{}", id.to_uppercase())),
            ("no dashes", format!("spiffe://equipoise/node/{}", id.replace('-', ""))),
            ("another domain", format!("spiffe://other/node/{id}")),
            ("another role", format!("spiffe://equipoise/admin/{id}")),
            ("more path", format!("spiffe://equipoise/node/{id}/x")),
            ("a query", format!("spiffe://equipoise/node/{id}?x")),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(InvalidSpiffeId), "{name}");
        }
    }
}
