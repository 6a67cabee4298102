#![doc = include_str!("../README.md")]

pub mod authority;
pub mod certificate;
pub mod files;
pub mod key;
pub mod pair;
pub mod seal;
pub mod sealed_file;
pub mod spiffe;
pub mod tls;
pub mod token;

pub use authority::{Authorities, Authority};
pub use certificate::{Certificate, CertificateError, Csr, Fingerprint};
pub use key::{KeyError, PrivateKey};
pub use seal::{SealKey, SealKeys};
pub use spiffe::{Role, SpiffeId};
pub use token::{JoinToken, SecretHash, TokenId};
