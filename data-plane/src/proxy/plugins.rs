//! Where a request meets its plugins: between its route and its target, while its head is parsed.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use super::connection::Client;
use super::forward;
use super::request::{Asked, Facts, is_https};
use super::worker::Worker;
use crate::http1::{HeadStorage, ResponseHead};
use crate::plugin::{self, Answer, Copying, Edits, Keeping, Passed};
use crate::table::{Route, Table};

/// What came of it.
pub(super) enum Met {
    /// It met none.
    Nothing,
    /// It goes on.
    Passed(Box<Passed>),
    /// This is its answer.
    Answered(Box<Passed>, Box<Answer>),
}

/// Runs a request through the plugins that are there for it. Costs a look at two places where there are none, or only some for streams.
#[inline]
pub(super) fn meet(table: &Table, route: &Route, asked: Asked<'_>, worker: &Worker) -> Met {
    let has_own = route.plugins.as_ref().is_some_and(|own| own.has_for_requests());
    if !has_own && !table.plugins.has_for_requests() {
        return Met::Nothing;
    }
    run(table, route, asked, worker)
}

fn run(table: &Table, route: &Route, asked: Asked<'_>, worker: &Worker) -> Met {
    let Asked { head, peer, .. } = asked;
    let client = peer.client(head, &worker.settings);
    let asked = plugin::Asked {
        head,
        is_https: is_https(head, peer, &worker.settings),
        client: &client,
        port: peer.port(),
        route: Some(route.id),
        route_name: route.name.as_deref(),
        service: route.service.as_ref().map(|service| service.id),
        told: &|found| forward::each_told(head, peer, &worker.settings, found),
        now: now(),
        random: &|| worker.random_wide(),
    };
    let (passed, answer) =
        plugin::run(route.plugins.as_deref(), &table.plugins, &table.callers, &worker.plugins, &asked);
    match answer {
        None => Met::Passed(Box::new(passed)),
        Some(answer) => Met::Answered(Box::new(passed), Box::new(answer)),
    }
}

/// What plugins change of a response, and whether it is wanted for memory.
#[inline]
pub(super) fn judge<'f>(
    client: &Client,
    worker: &Worker,
    facts: &'f Facts,
    head: &ResponseHead<'_, '_>,
) -> (Option<Cow<'f, Edits>>, Option<(Keeping, Copying)>) {
    let Some(passed) = &facts.passed else { return (None, None) };
    let response = &passed.response;
    let mut storage = HeadStorage::new();
    let wish = passed.wish.as_ref().and_then(|wish| Some((wish, client.head(&mut storage).ok()?)));
    let Some((wish, asked)) = wish else { return (Some(Cow::Borrowed(response)), None) };
    let (more, keeping) = wish.judge(head, &asked, &passed.request, now().as_secs(), &worker.plugins.cache);
    let mut edits = response.clone();
    edits.extend(more);
    (Some(Cow::Owned(edits)), keeping)
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
