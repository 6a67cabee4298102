//! The wire types and services, generated from `proto/equipoise/v1/*.proto`, which document them.

#![allow(missing_docs, clippy::all)]

tonic::include_proto!("equipoise.v1");

impl std::fmt::Debug for Certificate {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}
