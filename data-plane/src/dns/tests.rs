use std::net::SocketAddr;
use std::sync::Mutex;

use equipoise_proto::NodeId;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;
use crate::table::{Resolved, SrvPart};

/// What a name server was asked.
type Asked = Arc<Mutex<Vec<(String, RecordType)>>>;

/// A name server on loopback that knows a few names.
async fn name_server() -> SocketAddr {
    noting_name_server().await.0
}

async fn noting_name_server() -> (SocketAddr, Asked) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let query = &question.queries[0];
            noted.lock().unwrap().push((query.name().to_lowercase().to_string(), query.query_type()));
            socket.send_to(&reply(&question).to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, asked)
}

fn reply(question: &Message) -> Message {
    let query = question.queries[0].clone();
    let name = query.name().clone();
    let text = name.to_lowercase().to_string();
    let mut reply = Message::response(question.id, OpCode::Query);
    reply.add_query(query.clone());
    let record = |data| Record::from_rdata(name.clone(), 60, data);
    let a = |last: u8| record(RData::A(A::new(10, 0, 0, last)));
    let srv = |priority, weight, port, target: &str| {
        record(RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap())))
    };
    let answers = match (&*text, query.query_type()) {
        ("two.test.", RecordType::A) => vec![a(2), a(1)],
        ("one.test." | "app.up.test.", RecordType::A) => vec![a(1)],
        ("six.test.", RecordType::AAAA) => vec![record(RData::AAAA(AAAA("fd00::1".parse().unwrap())))],
        ("_http._tcp.test.", RecordType::SRV) => {
            vec![srv(1, 10, 81, "two.test."), srv(9, 1, 82, "one.test.")]
        }
        ("_some._tcp.test.", RecordType::SRV) => {
            vec![srv(1, 10, 81, "broken.test."), srv(1, 10, 81, "two.test."), srv(1, 1, 81, "nobody.test.")]
        }
        ("_none._tcp.test.", RecordType::SRV) => {
            vec![srv(1, 1, 81, "nobody.test."), srv(1, 1, 81, "broken.test."), srv(1, 1, 81, "empty.test.")]
        }
        ("two.test." | "one.test." | "six.test." | "empty.test." | "app.up.test.", _) => vec![],
        ("half.test.", RecordType::AAAA) => vec![],
        ("quarter.test.", RecordType::A) => vec![],
        ("broken.test." | "half.test." | "quarter.test." | "app.down.test." | "lost.down.test.", _) => {
            reply.metadata.response_code = ResponseCode::ServFail;
            vec![]
        }
        _ => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            vec![]
        }
    };
    reply.add_answers(answers);
    reply
}

fn plain(last: u8) -> Resolved {
    Resolved { ip: [10, 0, 0, last].into(), srv: None }
}

#[tokio::test]
async fn names_give_what_their_servers_say() {
    let resolver = Resolver::new(&[name_server().await]).unwrap();
    let service = |last: u8| Resolved {
        srv: Some(SrvPart { name: "two.test".into(), port: 81, weight: 10 }),
        ..plain(last)
    };
    let loopback = Resolved { ip: [127, 0, 0, 1].into(), srv: None };
    let cases = [
        ("two.test", Some(("A", vec![plain(1), plain(2)]))),
        ("_http._tcp.test", Some(("SRV", vec![service(1), service(2)]))),
        ("localhost", Some(("A", vec![loopback.clone()]))),
        ("api.localhost", Some(("A", vec![loopback]))),
        ("one.test.", Some(("A", vec![plain(1)]))),
        ("six.test", Some(("AAAA", vec![Resolved { ip: "fd00::1".parse().unwrap(), srv: None }]))),
        ("_some._tcp.test", Some(("SRV", vec![service(1), service(2)]))),
    ];
    for (name, want) in cases {
        match (resolver.resolve(name).await, want) {
            (Found::Records { kind, records, .. }, Some(want)) => {
                assert_eq!((kind, records.to_vec()), want, "{name}");
            }
            (found, want) => panic!("{name}: {found:?} and not {want:?}"),
        }
    }
}

#[tokio::test]
async fn a_failure_is_never_taken_for_a_name_that_is_gone() {
    let (server, asked) = noting_name_server().await;
    let resolver = Resolver::new(&[server]).unwrap();
    let failed = || Found::Failed(String::new());
    let cases = [
        ("broken.test", failed()),
        ("half.test", failed()),
        ("quarter.test", failed()),
        ("empty.test", Found::Empty),
        ("nobody.test", Found::Missing),
        ("_none._tcp.test", failed()),
        ("_nobody._tcp.test", Found::Missing),
    ];
    for (name, want) in cases {
        let found = resolver.resolve(name).await;
        assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&want), "{name}: {found:?}");
    }
    let asked = asked.lock().unwrap();
    let was_asked = |name: &str, kind| asked.iter().any(|one| *one == (name.to_owned(), kind));
    assert!(was_asked("empty.test.", RecordType::AAAA));
    assert!(!was_asked("nobody.test.", RecordType::AAAA), "it has no record of any type");
    assert!(!was_asked("half.test.", RecordType::AAAA), "A may yet come");
}

#[tokio::test]
async fn suffixes_are_tried_in_their_order_and_not_for_a_name_with_a_trailing_dot() {
    let server = name_server().await;
    let search = ["down.test.", "up.test."].map(|suffix| Name::from_ascii(suffix).unwrap());
    let config = ResolverConfig::from_parts(None, search.to_vec(), lookup::each(&[server]));
    let resolver = Resolver::with(config, ResolverOpts::default()).unwrap();
    let cases: [(&str, Result<std::net::IpAddr, Found>); 5] = [
        ("app", Ok("10.0.0.1".parse().unwrap())),
        ("app.", Err(Found::Missing)),
        ("one.test", Ok("10.0.0.1".parse().unwrap())),
        ("lost", Err(Found::Failed(String::new()))),
        ("nobody.test", Err(Found::Missing)),
    ];
    for (name, want) in cases {
        match (resolver.resolve(name).await, want) {
            (Found::Records { records, .. }, Ok(ip)) => assert_eq!(records[0].ip, ip, "{name}"),
            (found, Err(want)) => {
                assert_eq!(
                    std::mem::discriminant(&found),
                    std::mem::discriminant(&want),
                    "{name}: {found:?}"
                );
            }
            (found, Ok(_)) => panic!("{name}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn without_name_servers_a_look_up_fails_and_localhost_works() {
    let resolver = Resolver::hosts_only().unwrap();
    assert!(matches!(resolver.resolve("nobody.test").await, Found::Failed(_)));
    assert!(matches!(resolver.resolve("localhost").await, Found::Records { .. }));
}

#[tokio::test]
async fn wanted_names_are_answered_and_a_name_that_comes_back_is_answered_again() {
    let resolver = Resolver::new(&[name_server().await]).unwrap();
    let (wish, names) = watch::channel(Names::unit("one.test".into(), 1));
    let (answers_in, mut answers) = mpsc::channel(4);
    let node = Arc::new(NodeState::new(NodeId::new(uuid::Uuid::nil())));
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(names, answers_in, resolver, Settings::default(), node, stop.clone()));
    let wait = Duration::from_secs(10);
    let one: Answer = Answer::Records("A", [plain(1)].into());
    assert_eq!(
        tokio::time::timeout(wait, answers.recv()).await.unwrap(),
        Some(("one.test".into(), one.clone()))
    );
    wish.send_modify(|names| {
        names.insert("nobody.test".into(), 2);
    });
    let nobody = Some(("nobody.test".into(), Answer::NoAddress));
    assert_eq!(tokio::time::timeout(wait, answers.recv()).await.unwrap(), nobody);
    wish.send_modify(|names| {
        names.insert("one.test".into(), 3);
    });
    assert_eq!(tokio::time::timeout(wait, answers.recv()).await.unwrap(), Some(("one.test".into(), one)));
    stop.cancel();
    tokio::time::timeout(wait, running).await.unwrap().unwrap();
}
