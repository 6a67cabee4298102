//! Where control planes are, and how a connection to one is made.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::Settings;

/// Buffer of an in-memory pipe, each way: two chunks of a snapshot.
const PIPE_BYTES: usize = 64 * 1024;

/// A control plane that a node may follow.
#[derive(Debug, Clone)]
pub enum ControlPlane {
    /// Over TCP, plaintext: loopback only.
    Tcp(SocketAddr),
    /// In the same process: the far end of each new pipe is sent here.
    Pipe(mpsc::Sender<DuplexStream>),
}

impl std::fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Pipe(_) => f.write_str("this process"),
        }
    }
}

impl ControlPlane {
    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub async fn connect(&self, settings: &Settings) -> Result<Channel, tonic::transport::Error> {
        match self {
            Self::Tcp(address) => {
                let uri = format!("http://{address}");
                endpoint(Endpoint::from_shared(uri)?, settings).connect().await
            }
            Self::Pipe(far_ends) => {
                let far_ends = far_ends.clone();
                let connector = service_fn(move |_: Uri| {
                    let far_ends = far_ends.clone();
                    async move {
                        let (near, far) = tokio::io::duplex(PIPE_BYTES);
                        let gone = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                        far_ends.send(far).await.map_err(gone)?;
                        Ok::<_, std::io::Error>(TokioIo::new(near))
                    }
                });
                let endpoint = endpoint(Endpoint::from_static("http://control-plane"), settings);
                endpoint.connect_with_connector(connector).await
            }
        }
    }
}

/// tonic's keepalive is off by default: without it a peer that vanished is noticed only by silence.
fn endpoint(endpoint: Endpoint, settings: &Settings) -> Endpoint {
    endpoint
        .connect_timeout(settings.connect_timeout)
        .http2_keep_alive_interval(settings.keepalive)
        .keep_alive_timeout(settings.keepalive)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}
