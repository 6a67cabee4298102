//! `/debug/…/log-level`: what the reference has for people who look into a running node.
//!
//! One control plane writes at a time, so that `/debug/cluster/…` means the same as `/debug/node/…`; nodes and relays keep
//! the level of their own settings.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use equipoise_settings::logs;
use http::StatusCode;
use tokio::task::JoinSet;

use super::AdminState;
use super::gate::Asked;
use super::list::text;
use super::reply::Reply;

/// How long another level stays when nothing is said.
///
/// Source: Kong 3.10.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest that can be asked for; 0 is without an end.
const TIMEOUT_MAX_S: u64 = 365 * 86_400;

/// What brings back the level of the settings when its time has come; one at most.
#[derive(Debug, Default)]
pub(super) struct Reverting(Mutex<JoinSet<()>>);

impl Reverting {
    fn after(&self, timeout: Duration, turn: logs::Turn) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that were there would undo what is not theirs any more.
        tasks.abort_all();
        while tasks.try_join_next().is_some() {}
        if !timeout.is_zero() {
            tasks.spawn(async move {
                tokio::time::sleep(timeout).await;
                if logs::undo(turn) {
                    tracing::info!("the level of the log is that of the settings again");
                }
            });
        }
    }
}

/// `/debug/node/log-level`
pub(super) fn level() -> Reply {
    Reply::message(StatusCode::OK, &format!("log level: {}", logs::level()))
}

/// `/debug/node/log-level/{level}[?timeout=s]`, `/debug/cluster/log-level/{level}`
pub(super) fn set_level(state: &AdminState, asked: &Asked) -> Reply {
    let named = String::from_utf8_lossy(asked.parameters.first().map_or(&[][..], Vec::as_slice));
    let timeout = match text(asked, "timeout").map(|seconds| seconds.parse::<f64>()) {
        None => TIMEOUT,
        Some(Ok(seconds)) if seconds >= 0.0 => match Duration::try_from_secs_f64(seconds.ceil()) {
            Ok(timeout) if timeout.as_secs() <= TIMEOUT_MAX_S => timeout,
            Ok(_) | Err(_) => {
                let text = format!("timeout must be less than or equal to {TIMEOUT_MAX_S}");
                return Reply::message(StatusCode::BAD_REQUEST, &text);
            }
        },
        Some(Ok(_)) => {
            return Reply::message(StatusCode::BAD_REQUEST, "timeout must be greater than or equal to 0");
        }
        Some(Err(_)) => {
            return Reply::message(StatusCode::BAD_REQUEST, "timeout must be a number of seconds");
        }
    };
    if named == logs::level() {
        return Reply::message(StatusCode::OK, &format!("log level is already {named}"));
    }
    match logs::set_level(&named) {
        Some(turn) => {
            tracing::warn!(level = %named, timeout_s = timeout.as_secs(), peer = %asked.peer, "another level of the log");
            state.reverting.after(timeout, turn);
            Reply::message(StatusCode::OK, "log level changed")
        }
        None => Reply::message(StatusCode::BAD_REQUEST, &format!("unknown log level: {named}")),
    }
}
