//! The peer of the benchmark that is built with pingora: two targets in turn, the header edits that all peers make.
//!
//! `peer-pingora WORKERS PLAIN TLS CERTIFICATE KEY ECHO FIRST SECOND`: addresses, but for two paths of PEM files.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{HttpPeer, Result};
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;

struct Balancer {
    echo: String,
    targets: [String; 2],
    next: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for Balancer {
    /// The id of the request.
    type CTX = String;

    fn new_ctx(&self) -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }

    async fn upstream_peer(&self, session: &mut Session, _: &mut String) -> Result<Box<HttpPeer>> {
        let target = if session.req_header().uri.path() == "/echo" {
            &self.echo
        } else {
            &self.targets[self.next.fetch_add(1, Ordering::Relaxed) % 2]
        };
        Ok(Box::new(HttpPeer::new(target, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        id: &mut String,
    ) -> Result<()> {
        let client = session.client_addr().and_then(|address| address.as_inet());
        let client = client.map(|address| address.ip().to_string()).unwrap_or_default();
        let host = request.headers.get("host").cloned();
        let server = session.server_addr().and_then(|address| address.as_inet());
        request.insert_header("X-Real-IP", &client)?;
        request.insert_header("X-Forwarded-For", &client)?;
        let is_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        request.insert_header("X-Forwarded-Proto", if is_tls { "https" } else { "http" })?;
        if let Some(host) = host {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        request.insert_header("X-Forwarded-Port", server.map_or(0, |address| address.port()).to_string())?;
        request.insert_header("X-Request-Id", id.as_str())?;
        request.insert_header("Via", "1.1 pingora")
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        id: &mut String,
    ) -> Result<()> {
        response.insert_header("Via", "1.1 pingora")?;
        response.insert_header("X-Request-Id", id.as_str())
    }
}

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [workers, plain, tls, certificate, key, echo, first, second] = &words[..] else {
        panic!("usage: WORKERS PLAIN TLS CERTIFICATE KEY ECHO FIRST SECOND");
    };
    let settings = ServerConf {
        threads: workers.parse().expect("a number of workers"),
        upstream_keepalive_pool_size: 512,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let balancer =
        Balancer { echo: echo.clone(), targets: [first.clone(), second.clone()], next: AtomicUsize::new(0) };
    let mut service = http_proxy_service(&server.configuration, balancer);
    service.add_tcp(plain);
    let mut shown = TlsSettings::intermediate(certificate, key).expect("a certificate and its key");
    shown.enable_h2();
    service.add_tls_with_settings(tls, None, shown);
    server.add_service(service);
    server.run_forever();
}
