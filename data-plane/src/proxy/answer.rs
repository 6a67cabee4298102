//! Sending the gateway's own answers.

use std::time::Instant;

use super::body::Remains;
use super::connection::Client;
use super::error::{self, Circumstances, Problem};
use super::exchange::{After, Picked, millis};
use super::finish::{Finished, finish};
use super::request::Facts;
use super::worker::Worker;
use crate::http1::HeadStorage;
use crate::observability::{RequestSample, Source};
use crate::table::Route;

/// What is known of the request that is answered.
#[derive(Debug, Clone, Copy)]
pub struct Answering<'a> {
    /// Of its head.
    pub facts: &'a Facts,
    /// Its route, if one was found.
    pub route: Option<&'a Route>,
    /// Its last pick: proxying was attempted.
    pub picked: Option<Picked>,
}

/// What a request, or a session of a stream, counts as whose client left before any of an answer: the reference's.
pub(crate) const CLIENT_GONE: u16 = 499;

impl Answering<'_> {
    /// What is counted when there is no response of an upstream; `waited_until`: when an upstream was given up.
    fn sample(&self, code: u16, waited_until: Instant) -> RequestSample {
        RequestSample {
            code,
            source: Source::Kong,
            request: Instant::now().saturating_duration_since(self.facts.started),
            upstream: self.picked.map(|picked| waited_until.saturating_duration_since(picked.at)),
            ingress_bytes: 0,
            egress_bytes: 0,
        }
    }
}

/// Counts a request whose client left before any of an answer.
pub fn abandon(client: &Client, worker: &Worker, seen: Answering<'_>) -> After {
    let ingress_bytes = client.head_bytes() as u64;
    let sample = RequestSample { ingress_bytes, ..seen.sample(CLIENT_GONE, Instant::now()) };
    let Answering { facts, route, .. } = seen;
    finish(client, worker, &Finished { facts, route, sample, body_bytes: 0, is_complete: false });
    After::Gone
}

/// What a request counts as that the end of a stop cuts off before any of an answer: to its client the node is gone.
const CUT_OFF: u16 = 503;

/// Counts a request that the end of a stop cuts off before any of an answer.
pub fn cut_off(client: &Client, worker: &Worker, seen: Answering<'_>) -> After {
    let ingress_bytes = client.head_bytes() as u64;
    let sample = RequestSample { ingress_bytes, ..seen.sample(CUT_OFF, Instant::now()) };
    let Answering { facts, route, .. } = seen;
    finish(client, worker, &Finished { facts, route, sample, body_bytes: 0, is_complete: false });
    After::Abort
}

/// Answers by ourselves. The connection goes on if the client's body is out of it.
pub async fn answer(
    client: &mut Client,
    worker: &Worker,
    seen: Answering<'_>,
    problem: Problem,
    remains: Remains,
) -> After {
    let Answering { facts, route, .. } = seen;
    let is_read = remains.use_up(client, facts);
    let persists = facts.persists && is_read && !worker.is_draining.get();
    let now = Instant::now();
    let mut out = worker.buffers.take_output();
    let body = push_answer(&mut out, client, worker, seen, &problem, persists, now);
    let written = client.write(&out, body, worker.settings.send_timeout).await;
    let is_written = written.is_ok();
    let sent = written.err().unwrap_or(out.len() + body.len());
    let sample = RequestSample {
        ingress_bytes: client.head_bytes() as u64,
        egress_bytes: sent as u64,
        ..seen.sample(problem.status(), now)
    };
    let body_bytes = facts.account.as_ref().map_or(0, |_| sent.saturating_sub(head_bytes(&out)) as u64);
    finish(client, worker, &Finished { facts, route, sample, body_bytes, is_complete: is_written });
    worker.buffers.give_back_output(out);
    match (is_written, persists) {
        (true, true) => After::Keep,
        (true, false) => After::Linger,
        (false, _) => After::Gone,
    }
}

/// Of an answer of ours, which may be no more than its head.
fn head_bytes(answer: &[u8]) -> usize {
    memchr::memmem::find(answer, b"\r\n\r\n").map_or(answer.len(), |end| end + 4)
}

/// Appends an answer; what is returned of its body follows it.
fn push_answer<'p>(
    out: &mut Vec<u8>,
    client: &Client,
    worker: &Worker,
    seen: Answering<'_>,
    problem: &'p Problem,
    persists: bool,
    now: Instant,
) -> &'p [u8] {
    let Answering { facts, picked, route } = seen;
    let service = route.and_then(|route| route.service.as_ref());
    let mut storage = HeadStorage::new();
    let head = client.head(&mut storage).ok();
    let circumstances = Circumstances {
        head: head.as_ref(),
        request_id: &facts.request_id,
        is_http2: client.peer.is_http2(),
        persists,
        is_http2_upstream: service.is_some_and(|service| service.http2),
        date: &worker.date(),
        elapsed_ms: millis(now.saturating_duration_since(facts.started)),
        proxied: picked.map(|picked| picked.latencies(facts, now)),
        edits: facts.passed.as_ref().map(|passed| &passed.response),
    };
    error::render(out, problem, &circumstances, &worker.settings)
}
