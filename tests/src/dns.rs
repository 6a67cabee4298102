//! A name server on loopback, over UDP and TCP on one port, whose answers change while it runs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::NetError;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

/// How long a TCP connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers that one TCP connection may have waiting.
const ANSWERS_WAITING: usize = 32;

/// Ports tried until one is free for both transports.
const PORTS_TRIED: usize = 100;

/// Links of a chain of CNAME records that are followed.
const CHAIN_MAX: usize = 8;

/// How long a resolver may keep that there is nothing, in seconds, unless set.
const NOTHING_TTL: u32 = 60;

/// One server. A name is in any case, without the dot at its end; one that was never set does not exist.
pub struct NameServer {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    stopping: CancellationToken,
    running: Option<JoinHandle<()>>,
}

/// What is wrong with the answers for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server says that it failed.
    ServFail,
    /// The server does not want to answer.
    Refused,
    /// There is no answer at all.
    Silence,
    /// Over UDP there is only the first record, and word that it is not all.
    Truncated,
    /// A CNAME record comes without what it points to.
    BareCname,
}

/// A question that was asked. One that was only sent again, since no answer came, is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Lower case, without the dot at its end.
    pub name: String,
    /// `A`, `AAAA`, `SRV`.
    pub kind: String,
    /// Whether it came over TCP.
    pub is_tcp: bool,
}

#[derive(Default)]
struct Script {
    names: BTreeMap<String, (u32, Vec<RData>)>,
    faults: BTreeMap<String, Fault>,
    nothing_ttl: Option<u32>,
    asked: Vec<Question>,
    /// The questions by their numbers.
    heard: HashSet<(u16, String, RecordType, bool)>,
}

/// An IPv4 address.
///
/// # Panics
/// When it is none.
pub fn a(ip: &str) -> RData {
    RData::A(A(ip.parse().expect("an IPv4 address")))
}

/// An IPv6 address.
///
/// # Panics
/// When it is none.
pub fn aaaa(ip: &str) -> RData {
    RData::AAAA(AAAA(ip.parse().expect("an IPv6 address")))
}

/// Another name for a name.
///
/// # Panics
/// When `target` is no name.
pub fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(fqdn(target)))
}

/// Where a service is.
///
/// # Panics
/// When `target` is no name.
pub fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, fqdn(target)))
}

fn fqdn(name: &str) -> Name {
    Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).expect("a name")
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl NameServer {
    /// Starts one on a free port of 127.0.0.1 that knows no name.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn start() -> Self {
        let script = Arc::<Mutex<Script>>::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let (udp, tcp) = runtime.block_on(bind());
        let address = udp.local_addr().expect("a bound socket has an address");
        let mut server = {
            let _inside = runtime.enter();
            let mut server = Server::new(Scripted(Arc::clone(&script)));
            server.register_socket(udp);
            server.register_listener(tcp, IDLE_TIMEOUT, ANSWERS_WAITING);
            server
        };
        let stopping = server.shutdown_token().clone();
        let running = std::thread::spawn(move || {
            // It ends when it is stopped, and then nobody asks how.
            drop(runtime.block_on(server.block_until_done()));
        });
        Self { address, script, stopping, running: Some(running) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `name` has these records, each with this time to live.
    pub fn set(&self, name: &str, ttl_seconds: u32, records: impl IntoIterator<Item = RData>) {
        let records = records.into_iter().collect();
        self.script().names.insert(key(name), (ttl_seconds, records));
    }

    /// From now on `name` does not exist.
    pub fn remove(&self, name: &str) {
        self.script().names.remove(&key(name));
    }

    /// From now on something is wrong with every answer for `name`.
    pub fn fail(&self, name: &str, fault: Fault) {
        self.script().faults.insert(key(name), fault);
    }

    /// From now on nothing is wrong with `name`.
    pub fn mend(&self, name: &str) {
        self.script().faults.remove(&key(name));
    }

    /// From now on resolvers may keep for so long that there is nothing.
    pub fn set_nothing_ttl(&self, seconds: u32) {
        self.script().nothing_ttl = Some(seconds);
    }

    /// How often it was asked for records of type `kind` of `name`.
    pub fn asked(&self, name: &str, kind: &str) -> usize {
        let name = key(name);
        self.script().asked.iter().filter(|question| question.name == name && question.kind == kind).count()
    }

    /// All questions so far, in their order.
    pub fn questions(&self) -> Vec<Question> {
        self.script().asked.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no panic while held")
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stopping.cancel();
        if let Some(running) = self.running.take() {
            running.join().expect("the server does not panic");
        }
    }
}

/// Both transports on one port: the system chooses it for one, and the other may find it taken.
async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..PORTS_TRIED {
        let udp = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = udp.local_addr().expect("a bound socket has an address");
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both transports");
}

/// What is said to one question.
struct Said {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    is_truncated: bool,
}

impl Script {
    /// `None`: nothing is said.
    fn answer(&mut self, number: u16, name: &Name, kind: RecordType, is_tcp: bool) -> Option<Said> {
        let asked = key(&name.to_ascii());
        if self.heard.insert((number, asked.clone(), kind, is_tcp)) {
            self.asked.push(Question { name: asked.clone(), kind: kind.to_string(), is_tcp });
        }
        let of_code = |code| Said { code, answers: Vec::new(), authorities: Vec::new(), is_truncated: false };
        let fault = self.faults.get(&asked).copied();
        match fault {
            Some(Fault::Silence) => return None,
            Some(Fault::ServFail) => return Some(of_code(ResponseCode::ServFail)),
            Some(Fault::Refused) => return Some(of_code(ResponseCode::Refused)),
            Some(Fault::Truncated | Fault::BareCname) | None => {}
        }
        let mut said = of_code(ResponseCode::NoError);
        let mut owner = name.clone();
        let mut seen = BTreeSet::new();
        loop {
            let Some((ttl, records)) = self.names.get(&key(&owner.to_ascii())) else {
                said.code = ResponseCode::NXDomain;
                break;
            };
            let record = |data: &RData| Record::from_rdata(owner.clone(), *ttl, data.clone());
            said.answers.extend(records.iter().filter(|data| data.record_type() == kind).map(record));
            let alias = records.iter().find_map(|data| match data {
                RData::CNAME(CNAME(target)) => Some((record(data), target.clone())),
                _ => None,
            });
            match alias {
                Some((record, target)) if kind != RecordType::CNAME => {
                    said.answers.push(record);
                    if fault == Some(Fault::BareCname)
                        || seen.len() == CHAIN_MAX
                        || !seen.insert(key(&owner.to_ascii()))
                    {
                        break;
                    }
                    owner = target;
                }
                Some(_) | None => break,
            }
        }
        if !said.answers.iter().any(|record| record.record_type() == kind) {
            let ttl = self.nothing_ttl.unwrap_or(NOTHING_TTL);
            let soa = SOA::new(fqdn("ns.test"), fqdn("admin.test"), 1, 3600, 600, 86_400, ttl);
            said.authorities.push(Record::from_rdata(fqdn("test"), ttl, RData::SOA(soa)));
        }
        if fault == Some(Fault::Truncated) && !is_tcp {
            said.answers.truncate(1);
            said.is_truncated = true;
        }
        Some(said)
    }
}

struct Scripted(Arc<Mutex<Script>>);

#[async_trait::async_trait]
impl RequestHandler for Scripted {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let unsaid = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        let Ok(asked) = request.request_info() else { return unsaid };
        let (name, kind) = (asked.query.original().name().clone(), asked.query.query_type());
        let is_tcp = request.protocol() == Protocol::Tcp;
        let said = self.0.lock().expect("no panic while held").answer(metadata.id, &name, kind, is_tcp);
        let Some(said) = said else { return unsaid };
        metadata.response_code = said.code;
        metadata.truncation = said.is_truncated;
        let nothing: &[Record] = &[];
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &said.answers,
            &said.authorities,
            nothing,
            nothing,
        );
        // Whoever asked may be gone.
        let sent: Result<ResponseInfo, NetError> = response.send_response(message).await;
        sent.unwrap_or(unsaid)
    }
}
