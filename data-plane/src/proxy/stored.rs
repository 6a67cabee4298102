//! An answer out of memory, as the client gets it.

use super::error::{Circumstances, push, push_number, push_status};
use super::settings::{ProxySettings, SERVER_TOKEN};
use crate::plugin::Stored;

/// A body of so many bytes is copied behind its head: cheaper than a write from two places.
const COPIED_BYTES_MAX: usize = 2 * 1024;

/// Appends the answer. A body that is not short follows: as many clients as there may be read it from where it is.
pub(super) fn push_stored<'s>(
    out: &mut Vec<u8>,
    stored: &'s Stored,
    seen: &Circumstances<'_>,
    settings: &ProxySettings,
) -> &'s [u8] {
    push_status(out, stored.status);
    push(out, "Connection", if seen.persists { b"keep-alive" } else { b"close" });
    let mut has_server = false;
    for (name, value) in &stored.headers {
        if seen.edits.is_none_or(|edits| !edits.drops(name)) {
            has_server |= name.eq_ignore_ascii_case("server");
            push(out, name, value);
        }
    }
    let is_head = seen.head.is_some_and(|head| head.method == "HEAD");
    match &stored.length {
        Some(length) => push(out, "Content-Length", length),
        // Nobody said how long it would be.
        None if is_head || stored.status == 204 => {}
        None => push_number(out, "Content-Length", stored.body.len() as u64),
    }
    let added = settings.response_headers;
    if added.server && !has_server {
        push(out, "Server", SERVER_TOKEN.as_bytes());
    }
    if added.response_latency {
        push_number(out, "X-Kong-Response-Latency", seen.elapsed_ms);
    }
    if added.request_id {
        push(out, "X-Kong-Request-Id", seen.request_id);
    }
    if let Some(edits) = seen.edits {
        edits.push(out);
    }
    out.extend_from_slice(b"\r\n\r\n");
    if is_head {
        return &[];
    }
    if stored.body.len() > COPIED_BYTES_MAX {
        return &stored.body;
    }
    out.extend_from_slice(&stored.body);
    &[]
}
