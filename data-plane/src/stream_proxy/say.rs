//! What is logged of those who cannot be served. Nobody else is told, so it is a warning; but one a second at most, since
//! all of a kind meet with the same.

use std::net::SocketAddr;

use tracing::{debug, warn};

use super::attempt::NoTarget;
use crate::proxy::worker::Worker;
use crate::router::stream::StreamQuery;
use crate::table::Route;

/// There is no route, or no service.
pub(super) fn unserved(worker: &Worker, query: &StreamQuery<'_>, what: &'static str) {
    let StreamQuery { transport, source, destination, sni } = query;
    if worker.may_warn_of_sessions() {
        warn!(client = %source, %destination, ?transport, sni, "{what}");
    } else {
        debug!(client = %source, %destination, ?transport, sni, "{what}");
    }
}

/// There is no target.
pub(super) fn unreached(worker: &Worker, client: SocketAddr, route: &Route, error: &NoTarget) {
    let route = route.name.as_deref().unwrap_or_default();
    if worker.may_warn_of_sessions() {
        warn!(%client, route, %error, "a stream session has no target");
    } else {
        debug!(%client, route, %error, "a stream session has no target");
    }
}
