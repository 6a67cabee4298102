//! The tutorial, set up by itself: two small targets, balanced through the Admin API.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// What can go wrong while the tutorial is set up.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No port for a target.
    #[error("no port for a demo target")]
    Listen(#[source] std::io::Error),
    /// The Admin API cannot be reached.
    #[error("the Admin API at {0} cannot be reached")]
    Connect(SocketAddr, #[source] std::io::Error),
    /// The exchange broke.
    #[error("{0} {1} failed")]
    Exchange(Method, String, #[source] hyper::Error),
    /// It answered with something else than was expected.
    #[error("{0} {1} answered {2}: {3}")]
    Refused(Method, String, StatusCode, String),
}

/// Ports of the tutorial; others are taken where these are in use.
const PORTS: [u16; 2] = [9001, 9002];

/// Pause between two requests of the live line.
const PACE: Duration = Duration::from_millis(400);

/// Starts the targets and writes the tutorial's config; gives the targets' addresses.
pub async fn set_up(admin: SocketAddr) -> Result<[SocketAddr; 2], DemoError> {
    let first = start_target("first", PORTS[0]).await?;
    let second = start_target("second", PORTS[1]).await?;
    // PUT, and targets of an earlier demo taken away, so that a second one on the same store ends in the same config.
    put(admin, "/upstreams/example_upstream", "").await?;
    for target in [first, second] {
        post(admin, "/upstreams/example_upstream/targets", &format!("target={target}")).await?;
    }
    take_others_away(admin, [first, second]).await?;
    put(admin, "/services/example_service", "host=example_upstream").await?;
    put(admin, "/services/example_service/routes/example_route", "paths[]=/mock").await?;
    Ok([first, second])
}

/// Prints what to try, and on a terminal a line that follows which target answers.
#[allow(clippy::print_stdout, reason = "showing is what a demo is for")]
pub async fn show(admin: SocketAddr, proxy: SocketAddr, targets: [SocketAddr; 2]) {
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), proxy.port());
    println!(
        "\nTwo targets, first ({}) and second ({}), are balanced under /mock. Try:",
        targets[0], targets[1]
    );
    println!("  curl -s http://localhost:{}/mock/headers", local.port());
    println!("  curl -s http://localhost:{}/upstreams/example_upstream/health", admin.port());
    println!(
        "  curl -X PATCH http://localhost:{}/upstreams/example_upstream/targets/{} --data weight=300",
        admin.port(),
        targets[1]
    );
    if !std::io::stdout().is_terminal() {
        return;
    }
    println!("\nWho answers (Ctrl-C ends):");
    let mut counts = BTreeMap::<String, u64>::new();
    loop {
        let name = match call(local, Method::GET, "/mock/headers", String::new()).await {
            Ok((StatusCode::OK, body)) => serde_json::from_str::<Value>(&body)
                .ok()
                .and_then(|body| body["name"].as_str().map(str::to_owned))
                .unwrap_or_else(|| "?".to_owned()),
            Ok((status, _)) => status.as_u16().to_string(),
            Err(_) => "no answer".to_owned(),
        };
        *counts.entry(name.clone()).or_default() += 1;
        let tally: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        print!("\r\x1b[2K  {}   now: {name}", tally.join(", "));
        // A closed terminal ends the process by a signal, not here.
        drop(std::io::stdout().flush());
        tokio::time::sleep(PACE).await;
    }
}

async fn start_target(name: &'static str, port: u16) -> Result<SocketAddr, DemoError> {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(DemoError::Listen)?,
    };
    let address = listener.local_addr().map_err(DemoError::Listen)?;
    // Ends with the process: a demo target has nothing to finish.
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(echo(name, &request)) });
            tokio::spawn(async move {
                // Whatever breaks such a connection ends only it.
                drop(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    Ok(address)
}

fn echo(name: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let headers: BTreeMap<_, _> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let body = json!({"name": name, "method": request.method().as_str(), "path": request.uri().path(), "headers": headers});
    let mut response = Response::new(Full::new(Bytes::from(format!("{body:#}\n"))));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    response
}

async fn put(admin: SocketAddr, path: &str, form: &str) -> Result<(), DemoError> {
    expect(admin, Method::PUT, path, form, &[StatusCode::OK]).await
}

async fn post(admin: SocketAddr, path: &str, form: &str) -> Result<(), DemoError> {
    // 409: an earlier demo on this store left it there.
    expect(admin, Method::POST, path, form, &[StatusCode::CREATED, StatusCode::CONFLICT]).await
}

/// Deletes the upstream's targets but for `kept`: those of an earlier demo that had other ports.
async fn take_others_away(admin: SocketAddr, kept: [SocketAddr; 2]) -> Result<(), DemoError> {
    let path = "/upstreams/example_upstream/targets";
    let (status, body) = call(admin, Method::GET, &format!("{path}?size=1000"), String::new()).await?;
    let refused = || DemoError::Refused(Method::GET, path.to_owned(), status, body.clone());
    let list: Value = serde_json::from_str(&body).map_err(|_| refused())?;
    let targets = list["data"].as_array().ok_or_else(refused)?;
    let names = targets.iter().filter_map(|target| target["target"].as_str());
    for name in names.filter(|name| kept.iter().all(|kept| kept.to_string() != **name)) {
        expect(admin, Method::DELETE, &format!("{path}/{name}"), "", &[StatusCode::NO_CONTENT]).await?;
    }
    Ok(())
}

async fn expect(
    admin: SocketAddr,
    method: Method,
    path: &str,
    form: &str,
    allowed: &[StatusCode],
) -> Result<(), DemoError> {
    let path = format!("{path}?wait=applied");
    let (status, body) = call(admin, method.clone(), &path, form.to_owned()).await?;
    if allowed.contains(&status) { Ok(()) } else { Err(DemoError::Refused(method, path, status, body)) }
}

async fn call(
    address: SocketAddr,
    method: Method,
    path: &str,
    form: String,
) -> Result<(StatusCode, String), DemoError> {
    let stream = TcpStream::connect(address).await.map_err(|error| DemoError::Connect(address, error))?;
    let broken = |error| DemoError::Exchange(method.clone(), path.to_owned(), error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends when `sender` is dropped; what breaks it shows in the exchange.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(&method)
        .uri(path)
        .header("host", address.to_string())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(form)))
        .expect("method, path and headers are valid");
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
