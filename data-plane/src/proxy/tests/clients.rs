//! Who the client is: real-IP headers, the PROXY protocol, mapped ports.

use std::time::Duration;

use super::harness::*;
use crate::proxy::{PortMaps, RealIpHeader};
use crate::proxy_protocol::tests::v2;
use crate::router::Flavour;
use crate::table::PathHandling;

fn trusting(blocks: &[&str], header: RealIpHeader, is_recursive: bool) -> Plan {
    let mut plan = Plan::default();
    plan.settings.trusted_ips = blocks.iter().map(|block| block.parse().unwrap()).collect();
    plan.settings.real_ip_header = header;
    plan.settings.real_ip_recursive = is_recursive;
    plan
}

/// A node whose listener wants a PROXY header.
fn announced(mut plan: Plan) -> Plan {
    plan.settings.listen[0].flags.proxy_protocol = true;
    plan
}

/// What the upstream saw of `bytes`.
fn seen(plan: Plan, bytes: impl AsRef<[u8]>) -> Message {
    let origin = Origin::saying("fine");
    let node = plan.start(&[origin.address]);
    assert_eq!(node.connect().ask(bytes).status(), 200);
    let seen = origin.seen().pop().unwrap();
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    Message { head: head.to_owned(), body: body.to_owned() }
}

/// Source: the table of `proxy.md` 4.2; the peer is 127.0.0.1.
#[test]
fn the_client_and_its_headers_are_as_the_table_of_the_reference_says() {
    use RealIpHeader::{Other, ProxyProtocol, XForwardedFor, XRealIp};
    const L: &str = "127.0.0.1, 10.0.0.1, 192.168.0.1, 127.0.0.1, 172.16.0.1";
    let list = format!("X-Forwarded-For: {L}\r\n");
    let appended = format!("{L}, 127.0.0.1");
    let hops = &["127.0.0.1", "172.16.0.1", "192.168.0.1"][..];
    let v1 = "PROXY TCP4 192.168.0.1 10.0.0.9 5000 8000\r\n";
    type Case<'a> = (&'a str, Plan, &'a str, &'a str, &'a str, &'a str, bool);
    let cases: Vec<Case<'_>> = vec![
        (
            "nobody is trusted",
            trusting(&[], XRealIp, false),
            "",
            "X-Forwarded-For: 10.0.0.1\r\n",
            "127.0.0.1",
            "10.0.0.1, 127.0.0.1",
            false,
        ),
        (
            "X-Real-IP",
            trusting(&hops[..1], XRealIp, false),
            "",
            "X-Real-IP: 10.0.0.1\r\n",
            "10.0.0.1",
            "10.0.0.1",
            true,
        ),
        ("recursive", trusting(hops, XForwardedFor, true), "", &list, "10.0.0.1", &appended, true),
        (
            "recursive, peer not trusted",
            trusting(&hops[1..], XForwardedFor, true),
            "",
            &list,
            "127.0.0.1",
            &appended,
            false,
        ),
        ("not recursive", trusting(hops, XForwardedFor, false), "", &list, "172.16.0.1", &appended, true),
        (
            "all trusted",
            trusting(&["0.0.0.0/0"], XForwardedFor, true),
            "",
            &list,
            "127.0.0.1",
            &appended,
            true,
        ),
        ("PROXY", announced(trusting(hops, ProxyProtocol, false)), v1, &list, "192.168.0.1", &appended, true),
        (
            "PROXY, peer not trusted",
            announced(trusting(&[], ProxyProtocol, false)),
            v1,
            &list,
            "127.0.0.1",
            &appended,
            false,
        ),
        (
            "PROXY, another header asked",
            announced(trusting(hops, XRealIp, false)),
            v1,
            "X-Real-IP: 10.0.0.7\r\n",
            "10.0.0.7",
            "10.0.0.7",
            true,
        ),
        (
            "PROXY, no list",
            announced(trusting(hops, ProxyProtocol, false)),
            v1,
            "",
            "192.168.0.1",
            "192.168.0.1",
            true,
        ),
        (
            "PROXY, unknown",
            announced(trusting(hops, ProxyProtocol, false)),
            "PROXY UNKNOWN\r\n",
            "",
            "127.0.0.1",
            "127.0.0.1",
            true,
        ),
        (
            "another header",
            trusting(hops, Other("cf-client".into()), false),
            "",
            "CF-Client: 10.0.0.5\r\n",
            "10.0.0.5",
            "10.0.0.5",
            true,
        ),
        (
            "another header, a list",
            trusting(hops, Other("cf-client".into()), true),
            "",
            "CF-Client: 10.0.0.5, 172.16.0.1\r\n",
            "10.0.0.5",
            "10.0.0.5",
            true,
        ),
        (
            "two lines",
            trusting(hops, XForwardedFor, true),
            "",
            "X-Forwarded-For: 10.0.0.4\r\nX-Forwarded-For: 172.16.0.1\r\n",
            "10.0.0.4",
            "10.0.0.4, 172.16.0.1, 127.0.0.1",
            true,
        ),
        (
            "with a port",
            trusting(hops, XForwardedFor, false),
            "",
            "X-Forwarded-For: 10.0.0.4:99\r\n",
            "10.0.0.4",
            "10.0.0.4:99, 127.0.0.1",
            true,
        ),
        (
            "ipv6 in brackets",
            trusting(hops, XForwardedFor, false),
            "",
            "X-Forwarded-For: [2001:DB8::1]\r\n",
            "2001:db8::1",
            "[2001:DB8::1], 127.0.0.1",
            true,
        ),
        (
            "ipv6 with a port",
            trusting(hops, XForwardedFor, false),
            "",
            "X-Forwarded-For: [::7]:99\r\n",
            "::7",
            "[::7]:99, 127.0.0.1",
            true,
        ),
        (
            "mapped",
            trusting(hops, XForwardedFor, true),
            "",
            "X-Forwarded-For: 10.0.0.4, ::ffff:172.16.0.1\r\n",
            "10.0.0.4",
            "10.0.0.4, ::ffff:172.16.0.1, 127.0.0.1",
            true,
        ),
        (
            "nonsense ends the list",
            trusting(hops, XForwardedFor, true),
            "",
            "X-Forwarded-For: 10.0.0.4, me, 172.16.0.1\r\n",
            "172.16.0.1",
            "10.0.0.4, me, 172.16.0.1, 127.0.0.1",
            true,
        ),
        (
            "nonsense only",
            trusting(hops, XForwardedFor, true),
            "",
            "X-Forwarded-For: me\r\n",
            "127.0.0.1",
            "me, 127.0.0.1",
            true,
        ),
    ];
    for (name, plan, before, sent, real_ip, forwarded_for, keeps_port) in cases {
        let request = format!("{before}GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Port: 14\r\n{sent}\r\n");
        let seen = seen(plan, request);
        assert_eq!(seen.header("x-real-ip").as_deref(), Some(real_ip), "{name}");
        assert_eq!(seen.header("x-forwarded-for").as_deref(), Some(forwarded_for), "{name}");
        assert_eq!(seen.header("x-forwarded-port").as_deref() == Some("14"), keeps_port, "{name}");
    }
}

#[test]
fn an_address_is_passed_on_in_one_form_however_it_was_said() {
    for (said, want) in [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Real-IP: {said}\r\n\r\n");
        let seen = seen(trusting(&["127.0.0.1"], RealIpHeader::XRealIp, false), request);
        assert_eq!(seen.header("x-real-ip").as_deref(), Some(want), "{said}");
    }
}

#[test]
fn a_mapped_port_is_what_upstreams_are_told_and_hosts_are_matched_with() {
    for (public, host, want) in [(80, "a.com:80", 200), (81, "a.com:80", 404)] {
        let origin = Origin::saying("fine");
        // The port is known once it is bound: bind it, and map it then.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut plan = Plan { hosts: vec![host], ..Plan::default() };
        plan.settings.listen = vec![free.into()];
        plan.settings.port_maps = PortMaps::parse(&[format!("{public}:{}", free.port())]).unwrap();
        let node = plan.start(&[origin.address]);
        assert_eq!(node.connect().ask("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").status(), want, "{public}");
        let with_port = node.connect().ask("GET / HTTP/1.1\r\nHost: a.com:80\r\n\r\n");
        assert_eq!(with_port.status(), 200, "what the client says wins");
        assert!(origin.seen()[0].contains(&format!("X-Forwarded-Port: {public}\r\n")), "{:?}", origin.seen());
    }
}

#[test]
fn the_older_flavour_assumes_the_port_of_the_scheme_and_joins_paths_its_own_way() {
    for (flavour, host, want) in [
        (Flavour::Traditional, "a.com:80", 200),
        (Flavour::Traditional, "a.com:443", 404),
        (Flavour::Compatible, "a.com:80", 404),
    ] {
        let origin = Origin::saying("fine");
        let node = Plan { flavour, hosts: vec![host], ..Plan::default() }.start(&[origin.address]);
        assert_eq!(
            node.connect().ask("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").status(),
            want,
            "{flavour:?} {host}"
        );
    }
    let plan = Plan {
        flavour: Flavour::Traditional,
        path_handling: PathHandling::V1,
        path: Some("/r"),
        service_path: Some("/srv"),
        ..Plan::default()
    };
    let seen = seen(plan, "GET /rx HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(seen.head.starts_with("GET /srvx HTTP/1.1\r\n"), "{}", seen.head);
}

#[test]
fn a_header_may_come_in_pieces_and_with_the_request_behind_it() {
    let origin = Origin::saying("fine");
    let plan = announced(trusting(&["127.0.0.1"], RealIpHeader::ProxyProtocol, false));
    let node = plan.start(&[origin.address]);
    let body = [&[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2][..], &[4, 0, 200], &[7; 200]].concat();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for header in [b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), v2(0x21, 0x11, &body)] {
        for piece in [1, 7, 1000] {
            let mut client = node.connect();
            client.stream.set_nodelay(true).unwrap();
            for piece in header.chunks(piece) {
                client.send(piece);
            }
            assert_eq!(client.ask(request).status(), 200);
            assert_eq!(client.get("/").status(), 200, "the connection goes on without another header");
            let whole = [&header[..], request].concat();
            assert_eq!(node.connect().ask(whole).status(), 200);
        }
    }
    let told: Vec<_> = origin.seen().iter().map(|seen| seen.contains("X-Real-IP: 1.2.3.4\r\n")).collect();
    assert_eq!(told, [true; 18]);
    assert_eq!(node.metric("equipoise_proxy_protocol_headers_total{result=\"read\""), 12.0);
}

#[test]
fn what_is_no_header_ends_the_connection_without_a_word() {
    let origin = Origin::saying("fine");
    let mut plan = announced(Plan::default());
    plan.settings.header_timeout = Duration::from_millis(200);
    let node = plan.start(&[origin.address]);
    let cases: [(&str, &[u8]); 6] = [
        ("a request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            "a bad header, then a request",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 x\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("a handshake", b"\x16\x03\x01\x02\x00\x01"),
        ("half a header", b"PROXY TCP4 1.2"),
        ("half a signature", b"\r\n\r\n\0"),
        ("nothing", b""),
    ];
    for (name, bytes) in cases {
        let mut client = node.connect();
        client.send(bytes);
        // A reset, if something was not read, or the end.
        assert_eq!(client.read_to_end().unwrap_or_default(), "", "{name}");
    }
    let refused = || node.metric("equipoise_proxy_protocol_headers_total{result=\"refused\"");
    eventually("each is counted", || refused() >= 6.0);
    assert_eq!(refused(), 6.0);
    assert_eq!(origin.connections(), 0);
    let good = "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(node.connect().ask(good).status(), 200);
}
