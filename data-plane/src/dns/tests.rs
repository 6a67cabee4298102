use std::net::SocketAddr;

use equipoise_proto::NodeId;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;
use crate::table::{Resolved, SrvPart};

/// A name server on loopback that knows a few names.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            socket.send_to(&reply(&question).to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

fn reply(question: &Message) -> Message {
    let query = question.queries[0].clone();
    let name = query.name().clone();
    let text = name.to_lowercase().to_string();
    let mut reply = Message::response(question.id, OpCode::Query);
    reply.add_query(query.clone());
    let a = |last: u8| Record::from_rdata(name.clone(), 60, RData::A(A::new(10, 0, 0, last)));
    let srv = |priority, weight, port, target: &str| {
        let target = Name::from_ascii(target).unwrap();
        Record::from_rdata(name.clone(), 60, RData::SRV(SRV::new(priority, weight, port, target)))
    };
    match (&*text, query.query_type()) {
        ("two.test.", RecordType::A) => {
            reply.add_answers([a(2), a(1)]);
        }
        ("one.test.", RecordType::A) => {
            reply.add_answers([a(1)]);
        }
        ("_http._tcp.test.", RecordType::SRV) => {
            reply.add_answers([srv(1, 10, 81, "two.test."), srv(9, 1, 82, "one.test.")]);
        }
        ("two.test." | "one.test." | "empty.test.", _) => {}
        ("broken.test.", _) => reply.metadata.response_code = ResponseCode::ServFail,
        _ => reply.metadata.response_code = ResponseCode::NXDomain,
    }
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
        ("empty.test", None),
        ("nobody.test", None),
    ];
    for (name, want) in cases {
        match (resolver.resolve(name).await, want) {
            (Found::Records { kind, records, .. }, Some(want)) => {
                assert_eq!((kind, records.to_vec()), want, "{name}");
            }
            (Found::NoAddress, None) => {}
            (found, want) => panic!("{name}: {found:?} and not {want:?}"),
        }
    }
    assert!(
        matches!(resolver.resolve("broken.test").await, Found::Failed(_)),
        "a server's failure is no answer"
    );
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
