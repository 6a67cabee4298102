//! What an upstream's policy changes of exchanges: hedging, conditions and bounds of retries, the queue.

use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::harness::*;
use crate::balancer::RetryBudget;
use crate::table::{Hedging, Limits, Policy, RetryOn, RetryPolicy};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";

/// An origin that answers a request once it is let to.
fn held(response: impl Into<Vec<u8>>) -> (Origin, Sender<()>) {
    let (let_go, wait): (Sender<()>, Receiver<()>) = channel();
    let (wait, response) = (Arc::new(Mutex::new(wait)), response.into());
    let origin = Origin::script(move |line, _| {
        while line.read_message().is_some() {
            // Whoever waits no longer has let it go.
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap_or_default();
            line.send(&response);
        }
    });
    (origin, let_go)
}

fn hedging(delay: Option<u64>) -> Policy {
    Policy { hedging: Some(Hedging { delay: delay.map(Duration::from_millis) }), ..Policy::default() }
}

fn start(policy: Policy, targets: &[&Origin]) -> Node {
    let addresses: Vec<_> = targets.iter().map(|origin| origin.address).collect();
    Plan { policy: Some(policy), ..Plan::default() }.start(&addresses)
}

/// Answers of two requests: of two targets each is first once.
fn two_answers(node: &Node, request: &str) -> Vec<(u16, String)> {
    let ask = || {
        let answer = node.connect().ask(request);
        (answer.status(), answer.body)
    };
    let mut answers = vec![ask(), ask()];
    answers.sort();
    answers
}

#[test]
fn a_second_attempt_answers_where_the_first_does_not() {
    let (slow, _let_go) = held(ok("slow"));
    let fast = Origin::saying("fast");
    let node = start(hedging(Some(5)), &[&slow, &fast]);
    for _ in 0..4 {
        assert_eq!(node.connect().ask(GET).body, "fast");
    }
    assert!(node.metric("equipoise_upstream_hedges_total{result=\"won\"}") >= 1.0, "one is first in turn");
    assert_eq!(node.metric("equipoise_upstream_retries_total"), 0.0, "it is no retry");
    node.assert_no_lease();
}

#[test]
fn the_first_attempt_counts_where_it_is_faster_after_all() {
    let (first, let_first) = held(ok("one"));
    let (second, let_second) = held(ok("two"));
    let node = start(hedging(Some(5)), &[&first, &second]);
    let mut line = node.connect();
    line.send(GET);
    eventually("both are asked", || first.seen().len() + second.seen().len() == 2);
    let_first.send(()).unwrap();
    assert_eq!(line.read_message().unwrap().body, "one");
    node.assert_no_lease();
    drop(let_second);
    // A connection on which an answer was given up is of no use.
    assert_eq!(line.ask(GET).status(), 200);
}

#[test]
fn only_requests_that_do_nothing_are_hedged() {
    let (slow, let_go) = held(ok("slow"));
    let other = Origin::saying("other");
    let node = start(hedging(Some(1)), &[&slow, &other]);
    for request in [POST, "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut lines = [node.connect(), node.connect()];
        lines.iter_mut().for_each(|line| line.send(request));
        eventually("one was asked", || node.targets.iter().any(|target| target.in_flight() > 0));
        let_go.send(()).unwrap();
        let mut bodies: Vec<_> = lines.iter_mut().map(|line| line.read_message().unwrap().body).collect();
        bodies.sort();
        assert_eq!(bodies, ["other", "slow"]);
    }
    assert_eq!(node.metric("equipoise_upstream_hedges_total{result=\"made\"}"), 0.0);
}

#[test]
fn an_error_waits_for_the_other_attempt_and_counts_if_that_is_no_better() {
    for (name, other, want) in [("better", 200, 200), ("no better", 500, 500), ("no answer", 0, 503)] {
        let error = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n";
        let (first, let_first) = held(error);
        let response = match other {
            0 => String::new(),
            status => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
        };
        let closes = other == 0;
        let (go, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let second = Origin::script(move |line, _| {
            line.read_message();
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap_or_default();
            if !closes {
                line.send(&response);
            }
        });
        let plan = Plan { policy: Some(hedging(Some(5))), retries: 0, ..Plan::default() };
        let node = plan.start(&[first.address, second.address]);
        let mut line = node.connect();
        line.send(GET);
        eventually("both are asked", || first.seen().len() == 1 && second.connections() == 1);
        let_first.send(()).unwrap();
        // The error is there, and its target has nothing to do any more; the client has nothing yet.
        drop(go);
        let status = line.read_message().unwrap().status();
        assert!(status == want || (other == 500 && status == 503), "{name}: {status}");
        node.assert_no_lease();
    }
}

#[test]
fn a_hedge_is_within_the_budget() {
    let (slow, let_go) = held(ok("slow"));
    let (other, let_other) = held(ok("other"));
    let budget = Some(RetryBudget { min_concurrency: 0, percent: 0.0 });
    let policy = Policy { retry: RetryPolicy { budget, ..RetryPolicy::default() }, ..hedging(Some(1)) };
    let node = start(policy, &[&slow, &other]);
    let mut line = node.connect();
    line.send(GET);
    eventually("it was refused", || node.metric("equipoise_upstream_retries_over_budget_total") == 1.0);
    drop((let_go, let_other));
    assert_eq!(line.read_message().unwrap().status(), 200);
    assert_eq!(node.metric("equipoise_upstream_hedges_total{result=\"made\"}"), 0.0);
}

#[test]
fn a_client_that_leaves_ends_both_attempts() {
    let (first, _let_first) = held(ok("one"));
    let (second, _let_second) = held(ok("two"));
    let node = start(hedging(Some(5)), &[&first, &second]);
    let mut line = node.connect();
    line.send(GET);
    eventually("both are asked", || node.targets.iter().all(|target| target.in_flight() == 1));
    drop(line);
    node.assert_no_lease();
}

fn retry_on(conditions: RetryOn) -> Policy {
    Policy {
        retry: RetryPolicy { conditions: Some(conditions), ..RetryPolicy::default() },
        ..Policy::default()
    }
}

fn unavailable() -> Origin {
    Origin::answering("HTTP/1.1 503 No\r\nContent-Length: 2\r\nRetry-After: 0\r\n\r\nno")
}

#[test]
fn a_status_that_is_named_is_retried_where_the_method_allows() {
    let named = RetryOn { unavailable: true, ..RetryOn::default() };
    let (bad, good) = (unavailable(), Origin::saying("fine"));
    let node = start(retry_on(named), &[&bad, &good]);
    assert_eq!(two_answers(&node, GET), [(200, "fine".to_owned()), (200, "fine".to_owned())]);
    assert_eq!(two_answers(&node, POST), [(200, "fine".to_owned()), (503, "no".to_owned())]);
    assert_eq!(node.metric("equipoise_upstream_retries_total"), 1.0);
    node.assert_no_lease();
    let other = start(retry_on(RetryOn { bad_gateway: true, ..RetryOn::default() }), &[&bad, &good]);
    assert_eq!(two_answers(&other, GET)[1].0, 503, "not named");
}

#[test]
fn the_last_answer_counts_when_all_are_bad() {
    let (one, two) = (unavailable(), unavailable());
    let policy = retry_on(RetryOn { unavailable: true, ..RetryOn::default() });
    let node =
        Plan { policy: Some(policy), retries: 2, ..Plan::default() }.start(&[one.address, two.address]);
    assert_eq!(node.connect().ask(GET).status(), 503);
    assert_eq!(one.seen().len() + two.seen().len(), 3);
    node.assert_no_lease();
}

#[test]
fn what_is_not_named_is_not_retried() {
    let good = Origin::saying("fine");
    let node = Plan { policy: Some(retry_on(RetryOn::default())), ..Plan::default() }
        .start(&[Origin::refusing(), good.address]);
    let mut statuses = [(); 2].map(|()| node.connect().ask(GET).status());
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
}

#[test]
fn an_attempt_has_its_own_time() {
    let (slow, _let_go) = held(ok("slow"));
    let good = Origin::saying("fine");
    let per_try_timeout = Some(Duration::from_millis(20));
    let policy =
        Policy { retry: RetryPolicy { per_try_timeout, ..RetryPolicy::default() }, ..Policy::default() };
    let node = start(policy, &[&slow, &good]);
    assert_eq!(two_answers(&node, GET), [(200, "fine".to_owned()), (200, "fine".to_owned())]);
    assert_eq!(node.metric("equipoise_upstream_retries_total"), 1.0);
    node.assert_no_lease();
}

#[test]
fn over_budget_the_last_failure_is_the_answer() {
    let budget = Some(RetryBudget { min_concurrency: 0, percent: 0.0 });
    let policy = Policy { retry: RetryPolicy { budget, ..RetryPolicy::default() }, ..Policy::default() };
    let node =
        Plan { policy: Some(policy), ..Plan::default() }.start(&[Origin::refusing(), Origin::refusing()]);
    assert_eq!(node.connect().ask(GET).status(), 502);
    assert_eq!(node.metric("equipoise_upstream_retries_over_budget_total"), 1.0);
    assert_eq!(node.metric("equipoise_upstream_retries_total"), 0.0);
}

fn limited(pending_max: u32, queue_timeout: Duration) -> Policy {
    let limits =
        Limits { target_requests: NonZeroU32::new(1), upstream_requests: None, pending_max, queue_timeout };
    Policy { limits, ..Policy::default() }
}

#[test]
fn a_request_at_a_target_that_had_its_time_is_cut_off() {
    let (silent, _let_go) = held(ok("late"));
    let good = Origin::saying("fine");
    let streaming = Origin::script(|line, _| {
        line.read_message();
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        line.read_to_end();
    });
    let node = Node::with(&[silent.address, good.address]);
    let mut line = node.connect();
    line.send(GET);
    if silent.seen().is_empty() && line.read_message().is_some() {
        line.send(GET);
    }
    eventually("it is asked", || silent.seen().len() == 1);
    node.cut(0);
    assert_eq!(line.read_message().unwrap().body, "fine", "another target answers");
    node.assert_no_lease();
    let node = Node::with(&[streaming.address]);
    let mut line = node.connect();
    line.send(GET);
    assert_eq!(line.read_head().unwrap().split(' ').nth(1), Some("200"));
    node.cut(0);
    assert_eq!(line.read_to_end(), None, "what is not whole does not look whole");
    node.assert_no_lease();
}

#[test]
fn requests_wait_their_turn_and_are_refused_when_too_many_do() {
    let (origin, let_go) = held(ok("fine"));
    let node = start(limited(2, PATIENCE), &[&origin]);
    let queued = |count: f64| {
        eventually("it waits", || node.metric("equipoise_upstream_queue_total{result=\"queued\"}") == count);
    };
    let mut running = node.connect();
    running.send(GET.replace("GET /", "GET /0"));
    eventually("it is asked", || origin.seen().len() == 1);
    let mut first = node.connect();
    first.send(GET.replace("GET /", "GET /1"));
    queued(1.0);
    let mut second = node.connect();
    second.send(GET.replace("GET /", "GET /2"));
    queued(2.0);
    let refused = node.connect().ask(GET);
    assert_eq!((refused.status(), refused.header("retry-after").as_deref()), (503, Some("1")));
    assert!(refused.body.contains("upstream queue is full"), "{}", refused.body);
    // One that leaves makes room in the queue.
    drop(first);
    eventually("there is room", || node.upstream.gate().pending() == 1);
    let mut third = node.connect();
    third.send(GET.replace("GET /", "GET /3"));
    queued(3.0);
    for line in [&mut running, &mut second, &mut third] {
        let_go.send(()).unwrap();
        assert_eq!(line.read_message().unwrap().body, "fine");
    }
    let paths: Vec<_> = origin.seen().iter().map(|seen| seen.split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(paths, ["/0", "/2", "/3"], "first come, first served");
    node.assert_no_lease();
}

#[test]
fn a_wait_has_an_end() {
    let (origin, let_go) = held(ok("fine"));
    let node = start(limited(2, Duration::from_millis(20)), &[&origin]);
    let mut running = node.connect();
    running.send(GET);
    eventually("it is asked", || origin.seen().len() == 1);
    let refused = node.connect().ask(GET);
    assert_eq!((refused.status(), refused.header("retry-after").as_deref()), (503, Some("1")));
    assert!(refused.body.contains("upstream queue timed out"), "{}", refused.body);
    let_go.send(()).unwrap();
    assert_eq!(running.read_message().unwrap().body, "fine");
    node.assert_no_lease();
}
