//! Sending the gateway's own answers.

use std::time::Instant;

use super::body::Remains;
use super::connection::Client;
use super::error::{self, Circumstances, Problem};
use super::exchange::{After, Picked, millis};
use super::request::Facts;
use super::worker::Worker;
use crate::http1::{HeadStorage, RequestHead};
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

/// Answers by ourselves. The connection goes on if the client's body is out of it.
pub async fn answer(
    client: &mut Client,
    worker: &Worker,
    seen: Answering<'_>,
    problem: Problem,
    remains: Remains,
) -> After {
    let Answering { facts, route, picked } = seen;
    let is_read = remains.use_up(client, facts);
    let persists = facts.persists && is_read && !worker.is_draining.get();
    let now = Instant::now();
    let mut out = worker.buffers.take_output();
    push_answer(&mut out, client, worker, seen, &problem, persists, now);
    let is_written = client.write(&out, worker.settings.send_timeout).await;
    let request = Instant::now().saturating_duration_since(facts.started);
    let sample = RequestSample {
        code: problem.status(),
        source: Source::Kong,
        request,
        upstream: picked.map(|picked| now.saturating_duration_since(picked.at)),
        kong: picked.map_or(request, |picked| picked.at.saturating_duration_since(facts.started)),
        ingress_bytes: client.buffer.held().len() as u64,
        egress_bytes: out.len() as u64,
    };
    worker.metrics.request(route.map(|route| &*route.metrics), &sample);
    worker.buffers.give_back_output(out);
    match (is_written, persists) {
        (true, true) => After::Keep,
        (true, false) => After::Linger,
        (false, _) => After::Drop,
    }
}

fn push_answer(
    out: &mut Vec<u8>,
    client: &Client,
    worker: &Worker,
    seen: Answering<'_>,
    problem: &Problem,
    persists: bool,
    now: Instant,
) {
    let Answering { facts, picked, .. } = seen;
    let mut storage = HeadStorage::new();
    let head = RequestHead::parse(client.buffer.held(), &mut storage).ok();
    let circumstances = Circumstances {
        head: head.as_ref(),
        request_id: &facts.request_id,
        persists,
        date: &worker.date(),
        elapsed_ms: millis(now.saturating_duration_since(facts.started)),
        proxied: picked.map(|picked| picked.latencies(facts, now)),
    };
    error::render(out, problem, &circumstances, &worker.settings);
}
