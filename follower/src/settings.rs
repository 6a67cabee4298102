//! The settings of a follower: whom it follows, and how it proves who it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use equipoise_identity::files::read;
use equipoise_identity::{JoinToken, Role};
use equipoise_proto::NodeId;
use equipoise_proto::limits::{NODE_LABELS_MAX, NODE_TEXT_BYTES_MAX, is_node_text};
use equipoise_settings::keys::{self, Key};
use equipoise_settings::{Problem, Settings};

use crate::{Address, Applicant, Membership, MembershipError, StaticFiles};

/// Where a membership is kept, in the directory of the cache.
const DIRECTORY: &str = "identity";

/// How both ends of the cluster port prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mtls {
    /// Our own authority, and join tokens.
    Managed {
        /// For the first certificate.
        token: Option<JoinToken>,
    },
    /// Files of a static PKI.
    Pki(StaticFiles),
    /// Not at all: plaintext, on loopback only.
    Off,
}

impl Mtls {
    /// Reads `cluster.mtls` and what belongs to it, token file included.
    ///
    /// # Errors
    /// When something is missing or is not what it should be.
    pub fn read(settings: &Settings) -> Result<Self, Problem> {
        match settings.text(&keys::CLUSTER_MTLS) {
            Some("off") => Ok(Self::Off),
            Some("pki") => {
                let file = |key: &Key| {
                    let missing = || settings.problem(key, "must name a file, since cluster.mtls is `pki`");
                    settings.path(key).map(Path::to_path_buf).ok_or_else(missing)
                };
                Ok(Self::Pki(StaticFiles {
                    certificate: file(&keys::CLUSTER_CERT)?,
                    key: file(&keys::CLUSTER_CERT_KEY)?,
                    authorities: file(&keys::CLUSTER_CA_CERT)?,
                }))
            }
            Some(_) | None => Ok(Self::Managed { token: token(settings)? }),
        }
    }
}

impl Mtls {
    /// The membership of a process whose cache is in `cache_directory`; `None` without mTLS. Reads and writes files.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn membership(
        &self,
        cache_directory: &Path,
        role: Role,
        id: NodeId,
        hostname: &str,
    ) -> Result<Option<Arc<Membership>>, MembershipError> {
        let membership = match self {
            Self::Managed { token } => {
                let applicant = Applicant { role, id, hostname: hostname.to_owned(), token: token.clone() };
                Membership::open(&cache_directory.join(DIRECTORY), applicant)?
            }
            Self::Pki(files) => Membership::from_files(files.clone())?,
            Self::Off => return Ok(None),
        };
        Ok(Some(Arc::new(membership)))
    }
}

/// Where a process says it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Region; "" if none is set.
    pub region: String,
    /// Zone; "" if none is set.
    pub zone: String,
    /// Labels, at most [`NODE_LABELS_MAX`].
    pub labels: BTreeMap<String, String>,
}

impl Place {
    /// Reads `node.region`, `node.zone` and `node.labels`.
    ///
    /// # Errors
    /// When a control plane would not take one of them.
    pub fn read(settings: &Settings) -> Result<Self, Problem> {
        let text = |key: &Key| node_text(settings, key, settings.text(key));
        let (region, zone) = (text(&keys::NODE_REGION)?, text(&keys::NODE_ZONE)?);
        Ok(Self { region, zone, labels: labels(settings)? })
    }
}

/// A text that a control plane would refuse is better found at the start.
fn node_text(settings: &Settings, key: &Key, text: Option<&str>) -> Result<String, Problem> {
    let text = text.unwrap_or_default();
    if is_node_text(text) {
        return Ok(text.to_owned());
    }
    let rule = format!("a text may have {NODE_TEXT_BYTES_MAX} bytes and no control characters");
    Err(settings.problem(key, rule))
}

fn labels(settings: &Settings) -> Result<BTreeMap<String, String>, Problem> {
    let key = &keys::NODE_LABELS;
    let mut labels = BTreeMap::new();
    for label in settings.list(key) {
        let pair = label.split_once(':').filter(|(name, _)| !name.trim().is_empty());
        let (name, value) =
            pair.ok_or_else(|| settings.problem(key, format!("`{label}` is not `key:value`")))?;
        let text = |text: &str| node_text(settings, key, Some(text.trim()));
        labels.insert(text(name)?, text(value)?);
    }
    if labels.len() > NODE_LABELS_MAX {
        return Err(settings.problem(key, format!("at most {NODE_LABELS_MAX} labels")));
    }
    Ok(labels)
}

fn token(settings: &Settings) -> Result<Option<JoinToken>, Problem> {
    let parse = |key: &Key, text: &str| {
        text.trim().parse::<JoinToken>().map(Some).map_err(|error| settings.problem(key, error))
    };
    if let Some(text) = settings.secret(&keys::CLUSTER_JOIN_TOKEN) {
        return parse(&keys::CLUSTER_JOIN_TOKEN, text);
    }
    let Some(path) = settings.path(&keys::CLUSTER_JOIN_TOKEN_FILE) else { return Ok(None) };
    let key = &keys::CLUSTER_JOIN_TOKEN_FILE;
    match read(path) {
        Ok(Some(text)) => parse(key, &text),
        // Whoever has its certificate needs no token any more, and tokens do not lie around.
        Ok(None) => Ok(None),
        Err(error) => Err(settings.problem(key, format!("cannot be read: {error}"))),
    }
}

/// Reads an ordered list of control planes.
///
/// # Errors
/// When one is no address, or not on loopback while there is no mTLS.
pub fn control_planes(settings: &Settings, key: &Key, mtls: &Mtls) -> Result<Vec<Address>, Problem> {
    let read = |text: &String| {
        let address: Address =
            text.parse().map_err(|error| settings.problem(key, format!("`{text}`: {error}")))?;
        if *mtls == Mtls::Off && !address.is_loopback() {
            let rule = format!(
                "{address} is not on loopback, and without mTLS (cluster.mtls = off) nothing else is used"
            );
            return Err(settings.problem(key, rule));
        }
        Ok(address)
    };
    let addresses: Vec<_> = settings.list(key).iter().map(read).collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(settings.problem(key, "must name at least one control plane"));
    }
    Ok(addresses)
}
