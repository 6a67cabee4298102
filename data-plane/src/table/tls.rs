//! How TLS is spoken to targets, as config asks for it.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

/// What a service asks for, with what its upstream adds.
#[derive(Debug, Clone)]
pub struct ServiceTls {
    /// Whether targets are verified; `None`: as the settings say.
    pub verify: Option<bool>,
    /// Most intermediate certificates; `None`: as the settings say.
    pub depth: Option<usize>,
    /// Whom it trusts in place of whom the node trusts; perhaps nobody.
    pub roots: Option<Arc<RootCertStore>>,
    /// What targets are shown: the service's certificate, else its upstream's.
    pub client: Option<Arc<CertifiedKey>>,
    /// Of all that: equal where all is equal, and another one as soon as a certificate is.
    pub digest: [u8; 32],
}
