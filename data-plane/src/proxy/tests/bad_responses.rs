//! Responses that break a rule: what becomes of the attempt. What is refused is data of `tests/tests/hostile`.

use std::sync::Mutex;
use std::sync::mpsc;

use super::harness::*;

#[test]
fn a_response_that_breaks_a_rule_is_the_last_on_its_connection_and_not_asked_for_elsewhere() {
    for (name, response) in [
        ("not HTTP", "hello\r\n\r\n".to_owned()),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned()),
        ("101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned()),
        ("interim without end", "HTTP/1.1 102 Processing\r\n\r\n".repeat(100)),
        ("large head", format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: aaaaaaaaaa\r\n".repeat(5000))),
    ] {
        let (a, b) = (Origin::answering(response.clone()), Origin::answering(response));
        let node = Node::with(&[a.address, b.address]);
        let mut client = node.connect();
        for asked in 1..3 {
            assert_eq!(client.get("/").status(), 502, "{name}");
            assert_eq!(a.connections() + b.connections(), asked, "{name}");
        }
        node.assert_no_lease();
    }
}

#[test]
fn a_connection_on_which_something_came_after_its_answer_is_not_used_again() {
    let (answered, was_answered) = mpsc::channel();
    let (spoilt, is_spoilt) = mpsc::channel();
    let (was_answered, spoilt) = (Mutex::new(was_answered), Mutex::new(spoilt));
    let origin = Origin::script(move |line, number| {
        while line.read_message().is_some() {
            line.send(ok("hello"));
            if number == 0 {
                was_answered.lock().unwrap().recv().unwrap();
                line.send(ok("secret"));
                spoilt.lock().unwrap().send(()).unwrap();
            }
        }
    });
    let node = Node::with(&[origin.address]);
    let mut client = node.connect();
    assert_eq!(client.get("/").body, "hello");
    answered.send(()).unwrap();
    is_spoilt.recv_timeout(PATIENCE).unwrap();
    assert_eq!(client.get("/").body, "hello");
    assert_eq!(origin.connections(), 2);
}
