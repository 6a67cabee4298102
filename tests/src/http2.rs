//! A client that speaks HTTP/2 in clear, as it is agreed on beforehand.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Longer than any answer takes when all is well.
const TIMEOUT: Duration = Duration::from_secs(20);

/// One connection; gone when dropped.
pub struct Http2Client {
    runtime: Runtime,
    address: SocketAddr,
    sender: SendRequest<tokio_util::bytes::Bytes>,
    driver: JoinHandle<()>,
}

impl Http2Client {
    /// Connects.
    ///
    /// # Errors
    /// Whatever goes wrong on the wire.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (sender, driver) = runtime.block_on(async {
            let stream = TcpStream::connect(address).await?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            // How it ends is told to who sends.
            anyhow::Ok((sender, tokio::spawn(async move { drop(connection.await) })))
        })?;
        Ok(Self { runtime, address, sender, driver })
    }

    /// A GET, and the status and the body of its answer.
    ///
    /// # Errors
    /// Whatever goes wrong on the wire, or takes too long.
    pub fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Result<(u16, Vec<u8>)> {
        let request = self.request(path, headers)?;
        let sender = self.sender.clone();
        let asking = async {
            let (answer, _) = sender.ready().await?.send_request(request, true)?;
            let mut answer = answer.await?;
            let mut body = Vec::new();
            while let Some(data) = answer.body_mut().data().await {
                let data = data?;
                body.extend_from_slice(&data);
                answer.body_mut().flow_control().release_capacity(data.len())?;
            }
            anyhow::Ok((answer.status().as_u16(), body))
        };
        self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, asking).await.context("no answer")? })
    }

    /// Sends a GET, and takes it back once `until` holds.
    ///
    /// # Errors
    /// Whatever goes wrong on the wire.
    pub fn take_back(&mut self, path: &str, until: impl FnOnce()) -> Result<()> {
        let request = self.request(path, &[])?;
        let sender = self.sender.clone();
        let mut sent = self
            .runtime
            .block_on(async { anyhow::Ok(sender.ready().await?.send_request(request, true)?) })?;
        until();
        sent.1.send_reset(h2::Reason::CANCEL);
        Ok(())
    }

    fn request(&self, path: &str, headers: &[(&str, &str)]) -> Result<Request<()>> {
        let request = Request::builder().uri(format!("http://{}{path}", self.address));
        let with =
            |request: http::request::Builder, (name, value): &(&str, &str)| request.header(*name, *value);
        Ok(headers.iter().fold(request, with).body(())?)
    }
}

impl Drop for Http2Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
