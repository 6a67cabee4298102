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

/// Asks these servers and none of this machine's suffixes.
fn asking(servers: &[SocketAddr]) -> Resolver {
    asking_for(servers, &Sources::default())
}

fn asking_for(servers: &[SocketAddr], sources: &Sources) -> Resolver {
    let config = ResolverConfig::from_parts(None, Vec::new(), sources::each(servers));
    Resolver::with(config, ResolverOpts::default(), sources).unwrap()
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
        ("both.test." | "round.test.", RecordType::A) => vec![a(3)],
        ("both.test.", RecordType::SRV) => vec![srv(1, 1, 83, "one.test.")],
        ("round.test.", RecordType::SRV) => vec![srv(1, 1, 83, "round.test.")],
        ("both.test." | "six.test.", RecordType::AAAA) => {
            vec![record(RData::AAAA(AAAA("fd00::1".parse().unwrap())))]
        }
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
    let resolver = asking(&[name_server().await]);
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
async fn types_are_asked_for_in_the_order_that_is_set() {
    let (server, asked) = noting_name_server().await;
    let service = |last: u8| Resolved {
        srv: Some(SrvPart { name: "one.test".into(), port: 83, weight: 1 }),
        ..plain(last)
    };
    let six = || Resolved { ip: "fd00::1".parse().unwrap(), srv: None };
    let loopback = |ip: &str| Resolved { ip: ip.parse().unwrap(), srv: None };
    use Kind::{A, Aaaa, Srv};
    for (order, name, want) in [
        (&[A, Aaaa][..], "both.test", ("A", plain(3))),
        (&[Aaaa, A], "both.test", ("AAAA", six())),
        (&[Srv, A], "both.test", ("SRV", service(1))),
        (&[Srv], "both.test", ("SRV", service(1))),
        (&[Srv, A], "one.test", ("A", plain(1))),
        // A record that points to its own name says nothing.
        (&[Srv, A], "round.test", ("A", plain(3))),
        (&[Aaaa], "localhost", ("AAAA", loopback("::1"))),
        (&[Srv], "localhost", ("A", loopback("127.0.0.1"))),
    ] {
        let sources = Sources { hosts_file: None, order: order.to_vec(), ..Sources::default() };
        match asking_for(&[server], &sources).resolve(name).await {
            Found::Records { kind, records, .. } => {
                assert_eq!((kind, &*records), (want.0, &[want.1][..]), "{order:?} {name}");
            }
            other => panic!("{order:?} {name}: {other:?}"),
        }
    }
    let asked = asked.lock().unwrap();
    assert!(asked.iter().all(|(name, _)| !name.contains("localhost")), "{asked:?}");
}

#[tokio::test]
async fn names_of_the_hosts_file_are_known_before_any_other() {
    let (server, asked) = noting_name_server().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hosts");
    std::fs::write(&file, "10.1.0.1 one.test short # not.test\nfd00::9 six.test\n10.1.0.2 localhost\n")
        .unwrap();
    let sources = Sources { hosts_file: Some(file), ..Sources::default() };
    let resolver = asking_for(&[server], &sources);
    for (name, want) in [
        ("one.test", "10.1.0.1"),
        ("short", "10.1.0.1"),
        ("six.test", "fd00::9"),
        ("localhost", "10.1.0.2"),
        ("api.localhost", "127.0.0.1"),
    ] {
        match resolver.resolve(name).await {
            Found::Records { records, ttl, .. } => {
                assert_eq!(records[0].ip.to_string(), want, "{name}");
                assert_eq!((records.len(), ttl), (1, Duration::MAX), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(*asked.lock().unwrap(), [], "nobody was asked");
    assert!(matches!(resolver.resolve("not.test").await, Found::Missing(_)));
}

#[tokio::test]
async fn a_server_that_cannot_answer_does_not_speak_for_the_others() {
    /// Says of every name that it cannot answer.
    async fn refusing() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let mut reply = Message::response(question.id, OpCode::Query);
                reply.add_query(question.queries[0].clone());
                reply.metadata.response_code = ResponseCode::Refused;
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            }
        });
        address
    }
    let (bad, good) = (refusing().await, name_server().await);
    let resolver = asking(&[bad, good]);
    for _ in 0..20 {
        assert!(matches!(resolver.resolve("one.test").await, Found::Records { .. }));
        assert!(matches!(resolver.resolve("nobody.test").await, Found::Missing(_)));
    }
    assert!(matches!(asking(&[bad, refusing().await]).resolve("one.test").await, Found::Failed(_)));
}

#[tokio::test]
async fn a_failure_is_never_taken_for_a_name_that_is_gone() {
    let (server, asked) = noting_name_server().await;
    let resolver = asking(&[server]);
    let failed = || Found::Failed(String::new());
    let cases = [
        ("broken.test", failed()),
        ("half.test", failed()),
        ("quarter.test", failed()),
        ("empty.test", Found::Empty(None)),
        ("nobody.test", Found::Missing(None)),
        ("_none._tcp.test", failed()),
        ("_nobody._tcp.test", Found::Missing(None)),
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
    let config = ResolverConfig::from_parts(None, search.to_vec(), sources::each(&[server]));
    let resolver = Resolver::with(config, ResolverOpts::default(), &Sources::default()).unwrap();
    let cases: [(&str, Result<std::net::IpAddr, Found>); 5] = [
        ("app", Ok("10.0.0.1".parse().unwrap())),
        ("app.", Err(Found::Missing(None))),
        ("one.test", Ok("10.0.0.1".parse().unwrap())),
        ("lost", Err(Found::Failed(String::new()))),
        ("nobody.test", Err(Found::Missing(None))),
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
    let resolver = Resolver::hosts_only(&Sources::default()).unwrap();
    assert!(matches!(resolver.resolve("nobody.test").await, Found::Failed(_)));
    assert!(matches!(resolver.resolve("localhost").await, Found::Records { .. }));
}

#[tokio::test]
async fn wanted_names_are_answered_and_a_name_that_comes_back_is_answered_again() {
    let resolver = asking(&[name_server().await]);
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

#[tokio::test(start_paused = true)]
async fn a_look_up_has_an_end_however_patient_the_resolver_is() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = sources::each(&[silent.local_addr().unwrap()]);
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_secs(3600);
    let resolver = Resolver::with(config, options, &Sources::default()).unwrap();
    let start = Instant::now();
    assert!(matches!(look_up(&resolver, "one.test").await, Found::Failed(_)));
    assert_eq!(start.elapsed().as_secs(), LOOKUP_TIME_MAX.as_secs());
}
