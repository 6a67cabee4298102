//! Where fallback snapshots lie, and how the bytes of one are had.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::format::Refusal;
use super::{FILE_NAME, Judge, Judged};

/// Longest time for one place: a large config over a slow line is read within it, and the next place has its turn.
const PLACE_MAX: Duration = Duration::from_secs(60);

/// How much of a file is read at once.
const READ_BYTES: usize = 64 * 1024;

/// A directory or a URL with the file, or the file itself (a name that ends with `.eqs`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Of this machine.
    File(PathBuf),
    /// Of a static server.
    Http {
        /// `host:port`, for the connection.
        address: String,
        /// As the header has it.
        host: String,
        /// Path and query.
        path: String,
    },
}

/// Not a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlace {
    /// Empty.
    #[error("is empty")]
    Empty,
    /// `https` is not spoken.
    #[error(
        "is https, which is not spoken here: the file is signed and encrypted by itself, so http will do"
    )]
    Https,
    /// Another scheme, or no host.
    #[error("is neither a directory nor an URL `http://host[:port]/path`")]
    Url,
    /// Secrets have no place in it.
    #[error("has a user name or password in it, which is not taken")]
    User,
}

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidPlace::Empty);
        }
        let Some((scheme, _)) = text.split_once("://") else {
            let path = PathBuf::from(text);
            let is_file = path.extension().is_some_and(|ending| ending == "eqs");
            return Ok(Self::File(if is_file { path } else { path.join(FILE_NAME) }));
        };
        if scheme.eq_ignore_ascii_case("https") {
            return Err(InvalidPlace::Https);
        }
        let uri: hyper::Uri = text.parse().map_err(|_| InvalidPlace::Url)?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(InvalidPlace::Url);
        };
        if authority.as_str().contains('@') {
            return Err(InvalidPlace::User);
        }
        let mut path = uri.path().to_owned();
        if !path.ends_with(".eqs") {
            path = format!("{}/{FILE_NAME}", path.trim_end_matches('/'));
        }
        if let Some(query) = uri.query() {
            path = format!("{path}?{query}");
        }
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        Ok(Self::Http { address, host: authority.as_str().to_owned(), path })
    }
}

impl fmt::Display for Place {
    /// Without a query, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Http { host, path, .. } => {
                write!(f, "http://{host}{}", path.split('?').next().unwrap_or_default())
            }
        }
    }
}

/// Why there is no snapshot at a place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The server does not speak HTTP.
    #[error("no answer that is HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The server has not got it. Redirects are not followed: where they lead was written by nobody here.
    #[error("the server answers {0}")]
    Status(u16),
    /// Not in time.
    #[error("it is not there in time")]
    Late,
    /// Nobody is known who could have signed it.
    #[error("there is neither a certificate nor a join token to know the cluster by (cluster.join_token)")]
    NobodyKnown,
    /// It is there, and is of no use.
    #[error("it is refused: {0}")]
    Refused(#[from] Refusal),
}

impl Place {
    /// The snapshot there. No more of it is taken than what the head says, once its signature counts.
    pub(super) async fn read(&self, judge: &Judge) -> Result<Judged, PlaceError> {
        let reading = async {
            match self {
                Self::File(path) => {
                    let mut file = File::open(path).await?;
                    let mut pile = Pile::new(judge);
                    loop {
                        let mut chunk = vec![0; READ_BYTES];
                        let read = file.read(&mut chunk).await?;
                        if read == 0 {
                            return Ok(pile.finish()?);
                        }
                        pile.add(&chunk[..read])?;
                    }
                }
                Self::Http { address, host, path } => fetch(address, host, path, judge).await,
            }
        };
        timeout(PLACE_MAX, reading).await.map_err(|_| PlaceError::Late)?
    }
}

async fn fetch(address: &str, host: &str, path: &str, judge: &Judge) -> Result<Judged, PlaceError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this function.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| PlaceError::Io(std::io::Error::other(error)))?;
    let answer = sender.send_request(request).await?;
    if answer.status() != 200 {
        return Err(PlaceError::Status(answer.status().as_u16()));
    }
    let mut body = answer.into_body();
    let mut pile = Pile::new(judge);
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            pile.add(data)?;
        }
    }
    Ok(pile.finish()?)
}

/// The bytes so far.
struct Pile<'a> {
    judge: &'a Judge,
    bytes: Vec<u8>,
    verified: Option<super::format::Verified>,
}

impl<'a> Pile<'a> {
    const fn new(judge: &'a Judge) -> Self {
        Self { judge, bytes: Vec::new(), verified: None }
    }

    fn add(&mut self, more: &[u8]) -> Result<(), Refusal> {
        self.bytes.extend_from_slice(more);
        if self.verified.is_none() {
            self.verified = self.judge.read(&self.bytes)?;
        }
        match &self.verified {
            Some(verified) if self.bytes.len() > verified.length() => Err(Refusal::Longer),
            Some(_) | None => Ok(()),
        }
    }

    fn finish(self) -> Result<Judged, Refusal> {
        let verified = self.verified.ok_or(Refusal::Truncated)?;
        if self.bytes.len() < verified.length() {
            return Err(Refusal::Truncated);
        }
        Ok(Judged { verified, bytes: self.bytes })
    }
}
