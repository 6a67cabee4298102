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
    worker.metrics.request(finished.route.map(|route| &*route.metrics), &finished.sample);
    if let Some(account) = &finished.facts.account {
        account.tell(client, worker, finished);
    }
}
