//! The end of a request, whatever it came to: the one place where it is counted and told of.

use super::connection::Client;
use super::request::Facts;
use super::worker::Worker;
use crate::observability::RequestSample;
use crate::table::Route;

/// A request that is over.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// Of its head.
    pub facts: &'a Facts,
    /// Its route, if one was found.
    pub route: Option<&'a Route>,
    /// What is counted.
    pub sample: RequestSample,
    /// Of the answer's body, what the client was sent.
    pub body_bytes: u64,
    /// Whether the client got all of the answer.
    pub is_complete: bool,
}

/// Counts a request, and tells of it whoever watches.
#[inline]
pub fn finish(client: &Client, worker: &Worker, finished: &Finished<'_>) {
    let route = finished.route.map(|route| &*route.metrics);
    match finished.facts.passed.as_deref() {
        None => worker.metrics.request(route, &finished.sample),
        Some(passed) => {
            let metrics = passed.metrics.unwrap_or_default();
            let consumer = passed.caller.as_ref().filter(|_| metrics.per_consumer);
            let consumer = consumer.and_then(|caller| caller.consumer.label());
            worker.metrics.request_in(route, &finished.sample, metrics.groups, consumer);
        }
    }
    if let Some(account) = &finished.facts.account {
        account.tell(client, worker, finished);
    }
}
