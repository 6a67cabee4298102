//! Authorities, what they issue, and both ends of TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    SignatureAlgorithm, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    ServerConfig, SignatureScheme, StreamOwned,
};

use crate::PATIENCE;

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    /// Longer than any test runs.
    Now,
    /// It has run out.
    Past,
    /// Not yet.
    Future,
}

/// Vouches for others.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// PEM of its own and of those between it and its root.
    between: Vec<String>,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Authority {
    /// One that others trust by itself.
    ///
    /// # Panics
    /// When no key can be made, as all here.
    pub fn root(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(authority(name), key).expect("its parameters are good");
        Self { issuer, between: Vec::new() }
    }

    /// One that this one vouches for.
    ///
    /// # Panics
    /// When no key can be made.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::signed_by(authority(name), key, &self.issuer);
        let issuer = issuer.expect("its parameters are good");
        let between = std::iter::once(issuer.pem()).chain(self.between.iter().cloned()).collect();
        Self { issuer, between }
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes its certificate to a file of this name.
    ///
    /// # Panics
    /// When the directory cannot be written to.
    pub fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, self.pem()).expect("a temporary directory can be written");
        path
    }

    /// It alone, to be trusted.
    ///
    /// # Panics
    /// Never with what was made here.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("it is an authority");
        roots
    }

    /// A certificate for these names, DNS names or addresses.
    ///
    /// # Panics
    /// When one is neither.
    pub fn issue(&self, names: &[&str], valid: Valid) -> Certified {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = named(names);
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (date_time_ymd(2000, 1, 1), date_time_ymd(4000, 1, 1)),
            Valid::Past => (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1)),
            Valid::Future => (date_time_ymd(3999, 1, 1), date_time_ymd(4000, 1, 1)),
        };
        let leaf = params.signed_by(&key, &self.issuer).expect("its parameters are good");
        let chain = std::iter::once(leaf.pem()).chain(self.between.iter().cloned()).collect();
        Certified { chain, key }
    }
}

fn named(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("they are names")
}

/// A certificate that vouches for itself, as no authority does.
///
/// # Panics
/// As [`Authority::issue`].
pub fn self_signed(names: &[&str]) -> Certified {
    self_signed_with(&PKCS_ECDSA_P256_SHA256, names)
}

/// The same with a key for this algorithm.
///
/// # Panics
/// As [`Authority::issue`].
pub fn self_signed_with(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Certified {
    let key = KeyPair::generate_for(algorithm).expect("a key can be made");
    let leaf = named(names).self_signed(&key).expect("its parameters are good");
    Certified { chain: vec![leaf.pem()], key }
}

/// A certificate with its chain, and its key.
pub struct Certified {
    /// PEM, the certificate first.
    chain: Vec<String>,
    key: KeyPair,
}

impl Certified {
    /// The certificate and its chain.
    pub fn pem(&self) -> String {
        self.chain.concat()
    }

    /// Its key.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The certificate and its chain.
    ///
    /// # Panics
    /// Never with what was made here.
    pub fn ders(&self) -> Vec<CertificateDer<'static>> {
        use rustls::pki_types::pem::PemObject as _;
        let der = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).expect("it was made here");
        self.chain.iter().map(der).collect()
    }

    /// The certificate.
    ///
    /// # Panics
    /// Never with what was made here.
    pub fn der(&self) -> CertificateDer<'static> {
        self.ders().swap_remove(0)
    }

    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        let certified = CertifiedKey::from_der(self.ders(), self.key_der(), &provider());
        Arc::new(certified.expect("they belong together"))
    }

    /// A server's side that shows this one, and wants to see a certificate of `asked`, if that is somebody.
    ///
    /// # Panics
    /// Never with what was made here.
    pub fn server(&self, asked: Option<&Authority>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider knows them");
        let builder = match asked {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(authority.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                builder.with_client_cert_verifier(verifier.expect("there is an authority"))
            }
        };
        Arc::new(builder.with_single_cert(self.ders(), self.key_der()).expect("they belong together"))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Takes whatever is shown: the tests look at it themselves.
#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// Signatures that a client can verify where nothing else is said.
pub const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// A client's side that takes whatever is shown with one of these signatures, shows `shown`, and speaks one of `alpn`.
///
/// # Panics
/// Never with what was made here.
pub fn client(shown: Option<&Certified>, alpn: &[&str], schemes: &[SignatureScheme]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider knows them")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes.to_vec())));
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown.certified()))),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The alert that ended a connection, if one did.
pub fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// A client's connection that asks in HTTP/1.1.
pub struct Connection(pub StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    /// Shakes hands for a name, or an address that is no SNI. By TLS 1.3 the other end may have something against it yet.
    ///
    /// # Errors
    /// When the connection or the handshake fails.
    ///
    /// # Panics
    /// When `name` is neither.
    pub fn open(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).expect("it is a name");
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self(stream))
    }

    /// What the other end showed, its own first.
    ///
    /// # Panics
    /// When it showed nothing.
    pub fn shown(&self) -> CertificateDer<'static> {
        let shown = self.0.conn.peer_certificates().and_then(<[_]>::first);
        shown.expect("a server shows one").clone().into_owned()
    }

    /// Asks for `path` with these header lines, each with its line end; gives the head and the body of the answer.
    ///
    /// # Errors
    /// When the connection ends.
    pub fn get(&mut self, path: &str, headers: &str) -> io::Result<(String, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{headers}\r\n");
        // Who was let go is told while it reads: what it could not write says nothing of that.
        let written = self.0.write_all(request.as_bytes()).and_then(|()| self.0.flush());
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if self.0.read(&mut byte)? == 0 {
                return written.and(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
        self.0.read_exact(&mut body)?;
        Ok((head, body))
    }
}
