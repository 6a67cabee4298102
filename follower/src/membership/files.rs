//! The files of a membership.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use equipoise_identity::files::{pem, read, write_private};
use equipoise_identity::sealed_file::{read_sealed, write_sealed};
use equipoise_identity::{Authorities, Certificate, PrivateKey, SealKeys};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::warn;

use super::{MembershipError, StaticFiles};

/// Most certificates of a static chain.
const CHAIN_MAX: usize = 8;

/// The private key.
pub(crate) const KEY_FILE: &str = "key.pem";

/// Where a membership that is managed keeps its key and certificate.
#[derive(Debug)]
pub(super) struct Files {
    key: PathBuf,
    certificate: PathBuf,
    authorities: PathBuf,
}

fn file(path: &Path, why: impl ToString) -> MembershipError {
    MembershipError::File { path: path.to_owned(), why: why.to_string() }
}

impl Files {
    /// In `directory`, which is made if it is not there; only its owner may look into it.
    pub(super) fn open(directory: &Path) -> Result<Self, MembershipError> {
        let unusable = |error| file(directory, error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        Ok(Self {
            key: directory.join(KEY_FILE),
            certificate: directory.join("certificate.pem"),
            authorities: directory.join("authorities.pem"),
        })
    }

    /// The key; a new one if there is none. It is sealed with `keys`.
    pub(super) fn key(&self, keys: &SealKeys) -> Result<PrivateKey, MembershipError> {
        let unusable = |error| file(&self.key, error);
        // Before it is read: where it was in clear, it is then replaced.
        match fs::metadata(&self.key) {
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                warn!(path = %self.key.display(), "others than its owner may read the private key");
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(error)),
        }
        if let Some(pem) = read_sealed(&self.key, keys).map_err(|error| file(&self.key, error))? {
            return PrivateKey::from_pem(&pem).map_err(|error| self.unusable_key(&error));
        }
        let key = PrivateKey::generate().map_err(|error| self.unusable_key(&error))?;
        write_sealed(&self.key, keys, &key.to_pem()).map_err(unusable)?;
        Ok(key)
    }

    pub(super) fn unusable_key(&self, error: &equipoise_identity::KeyError) -> MembershipError {
        let way_out = "; delete it to make a new one, which needs this id to be forgotten by the control plane and a \
                       new join token";
        file(&self.key, format!("{error}{way_out}"))
    }

    /// The certificate and who is trusted, if both are there and can be read.
    pub(super) fn certificate(&self) -> Option<(Certificate, Authorities)> {
        let read = |path: &Path| {
            let text =
                read(path).inspect_err(|error| warn!(path = %path.display(), %error, "cannot be read"));
            text.ok().flatten()
        };
        let certificate = Authorities::from_pem(read(&self.certificate)?.as_bytes());
        let authorities = Authorities::from_pem(read(&self.authorities)?.as_bytes());
        match (certificate, authorities) {
            (Ok(certificate), Ok(authorities)) => Some((certificate.issuer().clone(), authorities)),
            (Err(error), _) | (_, Err(error)) => {
                warn!(directory = ?self.certificate.parent(), %error, "the certificate kept cannot be read");
                None
            }
        }
    }

    /// Keeps both: first whom to trust, without whom the certificate is of no use.
    pub(super) fn keep(
        &self,
        certificate: &Certificate,
        authorities: &Authorities,
    ) -> Result<(), MembershipError> {
        let unwritten = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| file(&path, error)
        };
        write_private(&self.authorities, authorities.to_pem().as_bytes())
            .map_err(unwritten(&self.authorities))?;
        let text = pem("CERTIFICATE", certificate.der());
        write_private(&self.certificate, text.as_bytes()).map_err(unwritten(&self.certificate))
    }
}

/// What static files hold.
pub(super) struct ReadStatic {
    pub(super) certificate: Certificate,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) authorities: Authorities,
}

pub(super) fn read_static(files: &StaticFiles) -> Result<ReadStatic, MembershipError> {
    let text = |path: &Path| {
        let text = read(path).map_err(|error| file(path, error))?;
        text.ok_or_else(|| file(path, "there is no such file"))
    };
    let path = &files.certificate;
    let chain = CertificateDer::pem_slice_iter(text(path)?.as_bytes())
        .take(CHAIN_MAX)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| file(path, error))?;
    let first = chain.first().ok_or_else(|| file(path, "it holds no certificate"))?;
    let certificate = Certificate::parse(first).map_err(|error| file(path, error))?;
    let key = PrivateKeyDer::from_pem_slice(text(&files.key)?.as_bytes());
    let key = key.map_err(|error| file(&files.key, error))?;
    let authorities = Authorities::from_pem(text(&files.authorities)?.as_bytes());
    let authorities = authorities.map_err(|error| file(&files.authorities, error))?;
    Ok(ReadStatic { certificate, chain, key, authorities })
}
