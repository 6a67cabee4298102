//! TLS. Towards targets: whom a node trusts, how it judges what they show ([`Clients`]), and what a service asks of that
//! ([`Terms`]). Towards clients ([`server`]): what it shows, and what they are to show ([`callers`]). Opens no connection.
//!
//! Used by `probe` and by whoever carries traffic, so that both judge alike.

pub mod callers;
mod clients;
pub mod hello;
pub mod server;
mod terms;
mod verify;

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::{Error, RootCertStore};

pub use clients::{Clients, HandshakeError, Reason, Secure, Standing, server_name, shown_to_targets};
pub use terms::{Asked, Interned, Terms};

/// HTTP/2, as ends agree on it in a handshake (RFC 9113 3.3).
pub const ALPN_HTTP2: &[u8] = b"h2";

/// Whose signatures a node believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Whether the authorities that the system trusts are among them.
    pub system: bool,
    /// PEM files with more.
    pub files: Vec<PathBuf>,
    /// Intermediate certificates that may lie between a target's certificate and a trusted one; six are never passed.
    pub depth: usize,
}

impl Default for Trust {
    fn default() -> Self {
        Self { system: true, files: Vec::new(), depth: 1 }
    }
}

/// Why the trusted authorities cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read, or holds something broken.
    #[error("cannot read trusted certificates from {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("no certificate in {}", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// A file holds something that cannot be used as an authority.
    #[error("cannot trust a certificate in {}", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Error,
    },
}

impl Trust {
    /// Reads the files. The system's authorities are taken as far as they can be read: which there are is nothing that
    /// an operator wrote here, and a node may have no use for any.
    ///
    /// # Errors
    /// When a file cannot be used whole.
    pub fn load(&self) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        if self.system {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let error = found.errors.first().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(error, "the system names no certificate authority to trust");
            }
        }
        for path in &self.files {
            let unreadable = |source| TrustError::File { path: path.clone(), source };
            let before = roots.len();
            for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
                let certificate = certificate.map_err(unreadable)?;
                let refused = |source| TrustError::Certificate { path: path.clone(), source };
                roots.add(certificate).map_err(refused)?;
            }
            if roots.len() == before {
                return Err(TrustError::Empty { path: path.clone() });
            }
        }
        Ok(roots)
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
