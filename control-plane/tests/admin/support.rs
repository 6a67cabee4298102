//! Boots an Admin API on a free port and speaks raw HTTP/1.1 to it.

use std::time::Duration;

use equipoise_control_plane::admin::{AdminSettings, AdminState, serve};
use equipoise_control_plane::model::PluginName;
use equipoise_control_plane::nodes::Nodes;
use equipoise_control_plane::observability::Metrics;
use equipoise_control_plane::store::Store;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest that anything in these tests may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const JSON: &str = "application/json; charset=utf-8";
pub const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

pub struct Admin {
    pub address: std::net::SocketAddr,
    pub nodes: Nodes,
    pub store: Store,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<()>,
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

impl Admin {
    pub async fn start() -> Self {
        Self::start_with(AdminSettings::default()).await
    }

    pub async fn start_with(settings: AdminSettings) -> Self {
        Self::start_on(vec![TcpListener::bind("127.0.0.1:0").await.unwrap()], settings)
    }

    /// As if these were the plugins that nodes enforce.
    pub async fn start_with_plugins(plugins: &'static [PluginName]) -> Self {
        let store = Store::in_memory(|_| None).with_plugins(plugins);
        Self::start_over(
            store,
            vec![TcpListener::bind("127.0.0.1:0").await.unwrap()],
            AdminSettings::default(),
        )
    }

    pub fn start_on(listeners: Vec<TcpListener>, settings: AdminSettings) -> Self {
        Self::start_over(Store::in_memory(|_| None), listeners, settings)
    }

    fn start_over(store: Store, listeners: Vec<TcpListener>, settings: AdminSettings) -> Self {
        let address = listeners[0].local_addr().unwrap();
        let nodes = Nodes::default();
        let state = AdminState::new(store.clone(), nodes.clone(), Metrics::new(), settings);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listeners, state, shutdown.clone()));
        Self { address, nodes, store, shutdown, serving }
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.connect().await.send(method, path, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "").await
    }

    pub async fn json(&self, method: &str, path: &str, body: &Value) -> Response {
        self.send(method, path, &[("Content-Type", "application/json")], &body.to_string()).await
    }

    pub async fn form(&self, method: &str, path: &str, body: &str) -> Response {
        self.send(method, path, &[FORM], body).await
    }

    /// Creates an entity that must be accepted.
    pub async fn create(&self, path: &str, body: Value) -> Value {
        let created = self.json("POST", path, &body).await;
        assert_eq!(created.status, 201, "{}", created.text());
        created.json()
    }
}

pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub async fn connect(address: std::net::SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.send_bytes(method, path, headers, body.as_bytes()).await
    }

    pub async fn send_bytes(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request.push_str("Host: localhost:8001\r\n");
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        self.raw(&[request.as_bytes(), body].concat()).await;
        self.response(method).await
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        // A server that has refused the request may have closed already: its answer is what counts.
        let _refused = self.stream.write_all(bytes).await;
    }

    /// Reads one response; all of them have a length or no body.
    pub async fn response(&mut self, method: &str) -> Response {
        tokio::time::timeout(DEADLINE, async {
            let end = loop {
                if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    break end;
                }
                assert!(self.fill().await, "closed without an answer");
            };
            let head = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
            let mut lines = head.split("\r\n");
            let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
            let length = if method == "HEAD" { 0 } else { length };
            while self.read.len() < length {
                assert!(self.fill().await, "closed inside a body");
            }
            Response { status, headers, body: self.read.drain(..length).collect() }
        })
        .await
        .expect("an answer in time")
    }

    /// Whether the server has closed, with nothing more to read.
    pub async fn is_closed(&mut self) -> bool {
        tokio::time::timeout(DEADLINE, self.fill()).await.map(|filled| !filled).unwrap_or(false)
    }

    async fn fill(&mut self) -> bool {
        let mut buffer = vec![0; 16 * 1024];
        let count = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..count]);
        count > 0
    }
}
