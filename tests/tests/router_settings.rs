//! Settings that say how a node routes and what it takes its clients for, through the real binary. Expected values are those of the
//! reference (`proxy.md`).

#![allow(clippy::unwrap_used, reason = "a failed step of a scenario is a failed test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use equipoise_tests::cluster::{Standalone, write};
use equipoise_tests::process::run;
use equipoise_tests::{Client, Origin, PATIENCE, Response};
use serde_json::Value;

/// A node with these settings besides the usual ones, and a target that says what it was asked.
struct Rig {
    standalone: Standalone,
    admin: Client,
    origin: Origin,
}

impl Rig {
    fn start(settings: &[&str]) -> Self {
        let settings: Vec<&str> = settings.iter().map(|text| &*String::from(*text).leak()).collect();
        let standalone = Standalone::start_with(settings.leak()).unwrap();
        let admin = standalone.process().client("admin");
        Self { standalone, admin, origin: Origin::start("only") }
    }

    /// A service that the target knows by this path, with a route.
    fn route(&mut self, name: &str, service_path: &str, route: &str) {
        let service = format!("name={name}&url=http://{}{service_path}", self.origin.address());
        write(&mut self.admin, "POST", "/services", &service, 201);
        write(&mut self.admin, "POST", &format!("/services/{name}/routes"), route, 201);
    }

    fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.standalone.process().client("proxy").send("GET", path, headers, b"").unwrap()
    }

    /// The path by which the target was asked; the status where it was not.
    fn path(&self, path: &str, host: &str) -> String {
        let answer = self.ask(path, &[("Host", host)]);
        match answer.status {
            200 => answer.json()["path"].as_str().unwrap().to_owned(),
            status => status.to_string(),
        }
    }
}

/// Values of a header that the target got, joined by `|`.
fn got(answer: &Value, name: &str) -> String {
    let headers = answer["headers"].as_array().unwrap().iter();
    let values: Vec<_> =
        headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect();
    values.join("|")
}

/// Source: `proxy.md` 1.4 to 1.6.
#[test]
fn the_flavour_says_who_wins() {
    for (flavour, tie, port, root) in
        [("traditional_compatible", "/young", "/plain", "/root"), ("traditional", "/old", "/wild", "/any")]
    {
        let mut rig = Rig::start(&["--router-flavor", flavour]);
        // Of two that match alike: the larger id, or the older one.
        for (name, id) in [("old", 1), ("young", 2)] {
            let service = format!("name={name}&url=http://{}/{name}", rig.origin.address());
            write(&mut rig.admin, "POST", "/services", &service, 201);
            let route = format!("paths[]=/tie&service.name={name}&created_at={id}");
            write(
                &mut rig.admin,
                "PUT",
                &format!("/routes/00000000-0000-4000-8000-00000000000{id}"),
                &route,
                200,
            );
        }
        assert_eq!(rig.path("/tie", "a.test"), tie, "{flavour}: a tie");
        rig.route("wild", "/wild", "hosts[]=*.x.test:8080");
        rig.route("plain", "/plain", "hosts[]=a.x.test");
        assert_eq!(rig.path("/", "a.x.test:8080"), port, "{flavour}: a wildcard with a port");
        assert_eq!(rig.path("/", "a.x.test"), "/plain", "{flavour}: the port does not match");
        rig.route("any", "/any", "hosts[]=*.y.test");
        rig.route("root", "/root", "paths[]=/");
        assert_eq!(rig.path("/", "b.y.test"), root, "{flavour}: a host or a path");
    }
}

/// Service path, route path, request, and the upstream's path with strip by `v0` and `v1`, and without. Source: `proxy.md` 2.2.
const PATHS: [(&str, &str, &str, [&str; 4]); 8] = [
    ("/srv", "/r", "/rx", ["/srv/x", "/srvx", "/srv/rx", "/srvrx"]),
    ("/srv", "/r", "/r/", ["/srv/", "/srv/", "/srv/r/", "/srvr/"]),
    ("/srv", "/r", "/r./x", ["/srv/x", "/srvx", "/srv/r./x", "/srvr./x"]),
    ("/srv", "/r/", "/r/", ["/srv/", "/srv", "/srv/r/", "/srvr/"]),
    ("/srv", "/", "/r", ["/srv/r", "/srvr", "/srv/r", "/srvr"]),
    ("/srv/", "/r", "/r", ["/srv", "/srv/", "/srv/r", "/srv/r"]),
    ("/srv/", "/r/", "/r/x", ["/srv/x", "/srv/x", "/srv/r/x", "/srv/r/x"]),
    ("/", "/r", "/r/x", ["/x", "/x", "/r/x", "/r/x"]),
];

#[test]
fn paths_are_joined_as_the_route_says_where_the_flavour_lets_it() {
    for flavour in ["traditional_compatible", "traditional"] {
        let mut rig = Rig::start(&["--router-flavor", flavour]);
        let mut wants = Vec::new();
        for (row, (service, route, request, want)) in PATHS.into_iter().enumerate() {
            for (column, handling) in ["v0", "v1"].into_iter().enumerate() {
                for (strip, want) in [(true, &want[..2]), (false, &want[2..])] {
                    let host = format!("{handling}-{strip}-{row}.test");
                    let form =
                        format!("hosts[]={host}&paths[]={route}&path_handling={handling}&strip_path={strip}");
                    rig.route(&format!("{handling}-{strip}-{row}"), service, &form);
                    // Source: 1.6. The default flavour does not know `v1`.
                    let column = if flavour == "traditional" { column } else { 0 };
                    wants.push((request, host, want[column]));
                }
            }
        }
        for (request, host, want) in wants {
            assert_eq!(rig.path(request, &host), want, "{flavour}: {request} of {host}");
        }
    }
}

/// Source: `proxy.md` 3.1.
#[test]
fn routes_that_want_https_say_so_as_they_are_told() {
    let mut rig = Rig::start(&["--proxy-trusted-ips", "127.0.0.1"]);
    for status in [426, 301, 302, 307, 308] {
        let form = format!("protocols[]=https&hosts[]=s{status}.test&https_redirect_status_code={status}");
        rig.route(&format!("s{status}"), "", &form);
        let host = format!("s{status}.test:8000");
        let answer = rig.ask("/x%20y?y=1", &[("Host", &host)]);
        assert_eq!(answer.status, status);
        if status == 426 {
            assert_eq!(answer.json()["message"], "Please use HTTPS protocol");
            assert_eq!(answer.header("upgrade"), Some("TLS/1.2, HTTP/1.1"));
            assert!(answer.header("connection").is_some_and(|value| value.contains("Upgrade")));
            assert_eq!(answer.header("location"), None);
        } else {
            let location = format!("https://s{status}.test/x%20y?y=1");
            assert_eq!(answer.header("location"), Some(&*location));
        }
        let answer = rig.ask("/x", &[("Host", &host), ("X-Forwarded-Proto", "https")]);
        assert_eq!(answer.status, 200, "a trusted peer says that it came by TLS");
    }
    assert_eq!(rig.origin.requests(), 5);
    // The default, and whom nobody trusts.
    let mut rig = Rig::start(&[]);
    rig.route("s", "", "protocols[]=https&hosts[]=s.test");
    assert_eq!(rig.ask("/", &[("Host", "s.test"), ("X-Forwarded-Proto", "https")]).status, 426);
    let service = format!("url=http://{}", rig.origin.address());
    write(&mut rig.admin, "PATCH", "/services/s", &service, 200);
    let bad = rig
        .admin
        .form("POST", "/services/s/routes", "hosts[]=b.test&https_redirect_status_code=303")
        .unwrap();
    assert_eq!(bad.status, 400);
    assert!(bad.json()["fields"]["https_redirect_status_code"].is_string(), "{}", bad.text());
}

/// An address of loopback that no other process of these tests takes, so that its port can be known before it is listened on.
fn own_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 77, high, low), 18_000))
}

/// Source: `proxy.md` 1.2, 1.6, 4.1.
#[test]
fn ports_are_those_that_clients_see() {
    let address = own_address();
    let (listen, maps) = (format!("{address}, 127.0.0.1:0"), format!("80:{}", address.port()));
    for (flavour, mapped) in [("traditional_compatible", "/mapped"), ("traditional", "/mapped")] {
        let mut rig =
            Rig::start(&["--proxy-listen", &listen, "--proxy-port-maps", &maps, "--router-flavor", flavour]);
        rig.route("mapped", "/mapped", "hosts[]=mapped.test:80");
        rig.route("free", "/free", "hosts[]=free.test");
        let ask = |host: &str| Client::new(address).send("GET", "/", &[("Host", host)], b"").unwrap();
        let answer = ask("mapped.test");
        assert_eq!((answer.status, answer.json()["path"].as_str()), (200, Some(mapped)), "{flavour}");
        let answer = ask("free.test").json();
        assert_eq!(got(&answer, "x-forwarded-port"), "80", "{flavour}");
    }
    let mut rig = Rig::start(&[]);
    rig.route("mapped", "/mapped", "hosts[]=mapped.test:80");
    rig.route("free", "/free", "hosts[]=free.test");
    assert_eq!(rig.path("/", "mapped.test"), "404", "without a map the port is the listener's");
    let port = rig.standalone.process().address("proxy").port();
    assert_eq!(got(&rig.ask("/", &[("Host", "free.test")]).json(), "x-forwarded-port"), port.to_string());
}

/// What the target gets of a client that says this first.
fn announced(rig: &Rig, header: &str, list: &str) -> Value {
    let mut stream = TcpStream::connect(rig.standalone.process().address("proxy")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let list = if list.is_empty() { String::new() } else { format!("X-Forwarded-For: {list}\r\n") };
    let request = format!(
        "{header}GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Port: 14\r\n{list}Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(body).unwrap()
}

/// Source: the table of `proxy.md` 4.2.
#[test]
fn clients_are_those_whom_a_trusted_peer_names() {
    const LIST: &str = "127.0.0.1, 10.0.0.1, 192.168.0.1, 127.0.0.1, 172.16.0.1";
    const HOPS: &str = "127.0.0.1,172.16.0.1,192.168.0.0/24";
    const V1: &str = "PROXY TCP4 192.168.0.1 127.0.0.1 4000 80\r\n";
    let appended = format!("{LIST}, 127.0.0.1");
    let listen = ["--proxy-listen", "127.0.0.1:0 proxy_protocol"];
    let by_list = ["--proxy-real-ip-header", "X-Forwarded-For"];
    let by_proxy = ["--proxy-real-ip-header", "proxy_protocol"];
    let trust = ["--proxy-trusted-ips", HOPS];
    let recursive = ["--proxy-real-ip-recursive", "on"];
    for (name, settings, header, list, real, forwarded, is_trusted) in [
        ("nobody is trusted", vec![], "", "10.0.0.1", "127.0.0.1", "10.0.0.1, 127.0.0.1", false),
        ("recursive", [trust, by_list, recursive].concat(), "", LIST, "10.0.0.1", &*appended, true),
        ("not recursive", [trust, by_list].concat(), "", LIST, "172.16.0.1", &*appended, true),
        (
            "the peer is not trusted",
            [["--proxy-trusted-ips", "172.16.0.1"], by_list, recursive].concat(),
            "",
            LIST,
            "127.0.0.1",
            &*appended,
            false,
        ),
        ("PROXY", [listen, trust, by_proxy].concat(), V1, LIST, "192.168.0.1", &*appended, true),
        ("PROXY, not trusted", [listen, by_proxy].concat(), V1, LIST, "127.0.0.1", &*appended, false),
        (
            "PROXY, not asked",
            [listen, trust, by_list, recursive].concat(),
            V1,
            LIST,
            "10.0.0.1",
            &*appended,
            true,
        ),
    ] {
        let mut rig = Rig::start(&settings);
        rig.route("all", "", "paths[]=/");
        let seen = announced(&rig, header, list);
        assert_eq!(got(&seen, "x-real-ip"), real, "{name}");
        assert_eq!(got(&seen, "x-forwarded-for"), forwarded, "{name}");
        assert_eq!(got(&seen, "x-forwarded-port") == "14", is_trusted, "{name}: {seen}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_in_one_sentence() {
    const ANY: &str = "127.0.0.1:0";
    for (flag, value, says) in [
        ("--proxy-listen", "localhost:8000", "must be an IP address and a port"),
        ("--proxy-listen", "127.0.0.1", "must be an IP address and a port"),
        ("--proxy-listen", "127.0.0.1:99999", "must be an IP address and a port"),
        ("--proxy-listen", "", "must be `off` or addresses"),
        ("--proxy-listen", "127.0.0.1:18999, 127.0.0.1:18999 ssl", "names 127.0.0.1:18999 twice"),
        ("--proxy-listen", "127.0.0.1:0 sll", "unknown flag `sll`"),
        ("--proxy-listen", "127.0.0.1:0 ssl=on", "flag `ssl=on` takes no value"),
        ("--proxy-listen", "127.0.0.1:0 backlog", "flag `backlog` must be backlog=N"),
        ("--proxy-listen", "127.0.0.1:0 backlog=0", "flag `backlog`"),
        ("--proxy-listen", "127.0.0.1:0 ipv6only=on", "flag `ipv6only` is for IPv6 addresses"),
        ("--proxy-listen", "127.0.0.1:0 quic", "HTTP/3 is not supported"),
        ("--proxy-listen", "unix:/tmp/x", "unix sockets are not listened on"),
        ("--router-flavor", "expressions", "router.flavor"),
        ("--proxy-port-maps", "80", "must be two ports"),
        ("--proxy-port-maps", "80:0", "must be two ports"),
        ("--proxy-port-maps", "80:8000,81:8000", "maps port 8000 twice"),
        ("--proxy-trusted-ips", "10.0.0.0/33", "proxy.trusted_ips"),
        ("--proxy-trusted-ips", "balancer.test", "proxy.trusted_ips"),
        ("--proxy-real-ip-header", "X Real", "must be the name of a header"),
        ("--proxy-real-ip-header", "proxy_protocol", "flag `proxy_protocol`"),
        ("--proxy-real-ip-recursive", "perhaps", "proxy.real_ip_recursive"),
    ] {
        let usual = [("--admin-listen", ANY), ("--proxy-listen", ANY), ("--status-listen", ANY)];
        let usual = usual.into_iter().filter(|(name, _)| *name != flag);
        let arguments: Vec<_> =
            usual.chain([(flag, value)]).flat_map(|(name, value)| [name, value]).collect();
        let dir = tempfile::tempdir().unwrap();
        let (code, output) = run("equipoise", dir.path(), &arguments, &[]);
        assert!(code.is_some_and(|code| code != 0), "{flag} {value}: {code:?} {output}");
        let errors: Vec<_> = output.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{flag} {value}: {output}");
        assert!(errors[0].contains(says), "{flag} {value}: {}", errors[0]);
    }
}
