//! Where control planes are, and how a connection to one is made.

use std::io;
use std::sync::Arc;

use equipoise_identity::tls;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::Settings;
use crate::address::Address;
use crate::membership::{Membership, MembershipError};

/// Buffer of an in-memory pipe, each way: two chunks of a snapshot.
const PIPE_BYTES: usize = 64 * 1024;

/// A control plane that may be followed.
#[derive(Debug, Clone)]
pub enum ControlPlane {
    /// Over TCP, plaintext: loopback only.
    Plain(Address),
    /// Over mTLS. Who has no certificate, or needs the next one, gets it there before anything else.
    Tls(Address, Arc<Membership>),
    /// In the same process: the far end of each new pipe is sent here.
    Pipe(mpsc::Sender<DuplexStream>),
}

impl std::fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(address) | Self::Tls(address, _) => address.fmt(f),
            Self::Pipe(_) => f.write_str("this process"),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody there, or nobody with that name.
    #[error("no connection: {0}")]
    Tcp(io::Error),
    /// One end does not take the other; the other end logs its own reason.
    #[error("no TLS: {0}")]
    Tls(String),
    /// It does not speak HTTP/2.
    #[error("no HTTP/2")]
    Http(#[from] tonic::transport::Error),
    /// Not in time.
    #[error("no answer in time")]
    Late,
    /// No certificate to show.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl ControlPlane {
    /// Takes note of the status with which it has ended a stream.
    pub fn refused(&self, status: &Status) {
        if let Self::Tls(_, membership) = self {
            membership.refused(status);
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody answers in time, or one end does not take the other.
    pub async fn connect(&self, settings: &Settings) -> Result<Channel, ConnectError> {
        match self {
            Self::Plain(address) => over(tcp(address, settings).await?, settings).await,
            Self::Tls(address, membership) => {
                let config = membership.admit(address, settings).await?;
                let connected = encrypted(address, config, settings).await;
                if matches!(connected, Err(ConnectError::Tls(_))) {
                    membership.distrusts();
                }
                connected
            }
            Self::Pipe(far_ends) => {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                let gone = |_| ConnectError::Tcp(io::ErrorKind::ConnectionRefused.into());
                far_ends.send(far).await.map_err(gone)?;
                over(near, settings).await
            }
        }
    }
}

/// A connection over TLS.
pub(crate) async fn encrypted(
    address: &Address,
    config: Arc<ClientConfig>,
    settings: &Settings,
) -> Result<Channel, ConnectError> {
    let tcp = tcp(address, settings).await?;
    let name = ServerName::try_from(address.host()).map_err(|error| ConnectError::Tls(error.to_string()))?;
    let handshake = TlsConnector::from(config).connect(name, tcp);
    let stream = timeout(settings.connect_timeout, handshake).await.map_err(|_| ConnectError::Late)?;
    over(stream.map_err(|error| ConnectError::Tls(tls::explain(&error)))?, settings).await
}

async fn tcp(address: &Address, settings: &Settings) -> Result<TcpStream, ConnectError> {
    let connecting = TcpStream::connect((address.host(), address.port()));
    let stream = timeout(settings.connect_timeout, connecting).await.map_err(|_| ConnectError::Late)?;
    let stream = stream.map_err(ConnectError::Tcp)?;
    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
    Ok(stream)
}

/// HTTP/2 over a stream that is open. tonic would open a new one when that ends; here whoever follows decides where to.
async fn over<S>(stream: S, settings: &Settings) -> Result<Channel, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = Some(stream);
    let connector = service_fn(move |_: Uri| {
        let stream = stream.take();
        async move { stream.map(TokioIo::new).ok_or(io::Error::from(io::ErrorKind::NotConnected)) }
    });
    // tonic's keepalive is off by default: without it a peer that vanished is noticed only by silence.
    let endpoint = Endpoint::from_static("http://control-plane")
        .connect_timeout(settings.connect_timeout)
        .http2_keep_alive_interval(settings.keepalive)
        .keep_alive_timeout(settings.keepalive)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector(connector).await?)
}
