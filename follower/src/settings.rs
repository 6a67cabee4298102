//! The settings of a follower: whom it follows, and how it proves who it is.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use equipoise_identity::files::read;
use equipoise_identity::{JoinToken, Role, SealKey, SealKeys};
use equipoise_proto::NodeId;
use equipoise_proto::limits::{NODE_LABELS_MAX, NODE_TEXT_BYTES_MAX, is_node_text};
use equipoise_settings::keys::{self, Key};
use equipoise_settings::{Problem, Settings};

use crate::fallback::{self, InvalidPlace, Places};
use crate::key_source::KeySource;
use crate::membership::KEY_FILE;
use crate::{Address, Applicant, Membership, MembershipError, StaticFiles};

/// What of a file's mode is for anybody.
const OTHERS: u32 = 0o007;

/// Where a membership is kept, in the directory of the cache.
const DIRECTORY: &str = "identity";

/// Where the private key of a membership is, whose cache is in this directory.
pub(crate) fn key_file(cache_directory: &Path) -> PathBuf {
    cache_directory.join(DIRECTORY).join(KEY_FILE)
}

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
    /// The membership of a process whose cache is in `cache_directory`, encrypted with `keys`; `None` without mTLS. Reads and writes
    /// files.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn membership(
        &self,
        cache_directory: &Path,
        keys: &SealKeys,
        role: Role,
        id: NodeId,
        hostname: &str,
    ) -> Result<Option<Arc<Membership>>, MembershipError> {
        let membership = match self {
            Self::Managed { token } => {
                let applicant = Applicant { role, id, hostname: hostname.to_owned(), token: token.clone() };
                Membership::open(&cache_directory.join(DIRECTORY), keys, applicant)?
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

/// The key of fallback snapshots, for who is to use `key`, the setting that asks for it.
///
/// # Errors
/// When there is none or it cannot be read, and without mTLS: then nobody could sign a file or know who did.
pub fn snapshot_key(settings: &Settings, key: &Key, mtls: &Mtls) -> Result<SealKey, Problem> {
    if *mtls == Mtls::Off {
        let rule = "cannot be used without mTLS (cluster.mtls = off): a fallback snapshot holds private keys, and there is no \
                    certificate to sign it with";
        return Err(settings.problem(key, rule));
    }
    let file = &keys::CLUSTER_SNAPSHOT_KEY_FILE;
    let path = settings.path(file).ok_or_else(|| {
        settings.problem(key, "needs cluster.snapshot_key_file: a fallback snapshot holds private keys")
    })?;
    let unreadable = |error| settings.problem(file, format!("cannot be read: {error}"));
    let text = read(path).map_err(unreadable)?;
    let text = text.ok_or_else(|| settings.problem(file, "there is no such file"))?;
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        let rule =
            format!("may be read by anybody (its mode is {mode:o}): its owner and its group are enough");
        return Err(settings.problem(file, rule));
    }
    text.parse().map_err(|error| settings.problem(file, error))
}

/// Where the keys are from that `directory` is encrypted with: `given` holds them, or `file` names their file. Reads no file.
///
/// # Errors
/// When both are set, or what is given is no list of keys.
pub fn key_source(
    settings: &Settings,
    given: &Key,
    file: &'static Key,
    directory: &Path,
) -> Result<KeySource, Problem> {
    let setting = file.name;
    match (settings.secret(given), settings.path(file)) {
        (Some(_), Some(_)) => {
            Err(settings.problem(given, format!("and {setting} are set both: one of them is enough")))
        }
        (Some(text), None) => {
            let keys = SealKeys::parse(text, given.name);
            keys.map(KeySource::Given).map_err(|error| settings.problem(given, error))
        }
        (None, Some(path)) => Ok(KeySource::File { path: path.to_owned(), setting }),
        (None, None) => Ok(KeySource::Beside { directory: directory.to_owned(), setting }),
    }
}

/// Where fallback snapshots are looked for; `None`: nowhere.
///
/// # Errors
/// When a place is none, and as [`snapshot_key`].
pub fn fallback(settings: &Settings, mtls: &Mtls) -> Result<Option<Places>, Problem> {
    let key = &keys::CLUSTER_FALLBACK;
    let texts = settings.list(key);
    if texts.is_empty() {
        return Ok(None);
    }
    let place = |text: &String| {
        text.parse::<fallback::Place>().map_err(|error| {
            // A query may be a secret.
            let shown = text.split('?').next().unwrap_or_default();
            let shown = if error == InvalidPlace::User { "an URL" } else { shown };
            settings.problem(key, format!("`{shown}` {error}"))
        })
    };
    let places = texts.iter().map(place).collect::<Result<_, _>>()?;
    Ok(Some(Places { places, key: snapshot_key(settings, key, mtls)? }))
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
