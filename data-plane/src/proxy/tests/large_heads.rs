//! Heads as large as may be. What of requests is refused, and what of odd ones passes, is data of `tests/tests/hostile`.

use super::harness::*;

/// A node whose limits are as high as settings go.
fn roomy(targets: &[std::net::SocketAddr]) -> Node {
    let mut plan = Plan::default();
    let limits = &mut plan.settings.head_limits;
    (limits.line_bytes_max, limits.head_bytes_max, limits.headers_max) = (1 << 20, 1 << 20, 1000);
    plan.start(targets)
}

#[test]
fn heads_as_large_as_the_settings_allow_pass_both_ways() {
    let long = format!("X: {}\r\n", "a".repeat(150_000));
    let many: String = (0..990).map(|number| format!("X-{number}: a\r\n")).collect();
    for (name, headers, last) in [("long", &long, "aaaa\r\n"), ("many", &many, "X-989: a\r\n")] {
        let origin = Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n{headers}\r\nfine"));
        let node = roomy(&[origin.address]);
        let mut client = node.connect();
        for body in ["", &"b".repeat(5_000), &"b".repeat(20_000)] {
            client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{headers}", body.len()));
            // In pieces, so that it waits with part of the head, and of the body.
            client.send("\r\n");
            client.send(&body[..body.len() / 2]);
            client.send(&body[body.len() / 2..]);
            let answer = client.read_message().expect(name);
            assert_eq!((answer.status(), answer.body.as_str()), (200, "fine"), "{name}");
            assert!(answer.head.contains(last), "{name}");
            let seen = origin.seen().pop().unwrap();
            assert!(seen.contains(last) && seen.ends_with(&format!("\r\n\r\n{body}")), "{name}");
        }
        assert_eq!(origin.connections(), 1, "{name}");
    }
}
