//! Why a node does not start.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use equipoise_access_log::OpenError;
use equipoise_follower::{CacheError, MembershipError};

use crate::takeover::TakeoverError;
use crate::tls::TrustError;
use crate::tls::server::ShownError;
use crate::{dns, proxy};

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on, or a thread cannot be started.
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
    /// The Status API's address cannot be listened on.
    #[error("cannot listen on {address} for the Status API")]
    Status {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The node's certificate or key cannot be used.
    #[error("the identity of this node cannot be used")]
    Membership(#[from] MembershipError),
    /// An access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] OpenError),
    /// The system's DNS settings cannot be read.
    #[error(transparent)]
    Dns(#[from] dns::ResolverError),
    /// The cache directory cannot be used.
    #[error("the cache directory {directory} cannot be used")]
    Cache {
        /// Which.
        directory: String,
        /// Why.
        #[source]
        source: CacheError,
    },
    /// The node that runs does not go.
    #[error("cannot take the place of the running node")]
    Takeover(#[from] TakeoverError),
    /// How TLS is to be spoken with targets cannot be used.
    #[error(transparent)]
    Targets(#[from] ReloadError),
    /// There is no certificate to show to clients, or to targets; or clients cannot be judged by theirs.
    #[error(transparent)]
    Shown(#[from] ShownError),
    /// A template of error bodies cannot be used.
    #[error(transparent)]
    Template(#[from] proxy::TemplateError),
    /// The node's id cannot be read or kept.
    #[error("the node's id cannot be kept in {directory}")]
    NodeId {
        /// Which.
        directory: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why settings that were read again are not in force: nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A file of trusted certificates cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There is no certificate to show to clients, or to targets; or clients cannot be judged by theirs.
    #[error(transparent)]
    Shown(#[from] ShownError),
    /// A template of error bodies cannot be used: the next start would fail.
    #[error(transparent)]
    Template(#[from] proxy::TemplateError),
    /// A file system that hangs, or a file that is none.
    #[error(
        "the files of `tls.`, `upstream.client_cert` and `proxy.error_template` cannot be read within {0:?}"
    )]
    Hangs(Duration),
}
