//! The one place where errors become answers.

use std::io::ErrorKind;

use http::{HeaderValue, StatusCode};

use super::body::BodyError;
use super::reply::Reply;
use crate::model::{Refusal, form};
use crate::store::CommitError;

/// A body that the gate refuses.
pub fn body(error: BodyError) -> Reply {
    let plain = |text| Reply::message(StatusCode::BAD_REQUEST, text);
    match error {
        BodyError::UnsupportedMediaType => Reply::page(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        BodyError::TooLarge => Reply::page(StatusCode::PAYLOAD_TOO_LARGE),
        BodyError::MultipleContentTypes => plain("Multiple Content-Type headers not allowed"),
        BodyError::NotJson => plain("Cannot parse JSON body"),
        BodyError::NotMultipart => plain("Cannot parse multipart body"),
        BodyError::NoBoundary => plain("Cannot parse multipart body: its Content-Type has no boundary"),
        BodyError::NotUtf8 { key, at } => refusal(&form::refuse(&key, not_utf8(at))),
        BodyError::TooManyValues => plain("Too many values in JSON body"),
        BodyError::TooManyArguments => plain("Too many arguments"),
        BodyError::Incomplete => plain("Cannot read body"),
        BodyError::TimedOut => Reply::message(StatusCode::REQUEST_TIMEOUT, "Timed out reading body")
            .header(http::header::CONNECTION, HeaderValue::from_static("close")),
    }
}

/// The text of the reference for what is not UTF-8 from byte `at` on, counted from 1.
pub fn not_utf8(at: usize) -> String {
    format!("invalid utf-8 character sequence detected at position {at}")
}

/// A change or question that the model refuses.
pub fn refusal(refusal: &Refusal) -> Reply {
    match StatusCode::from_u16(refusal.status()) {
        Ok(status) => Reply::json(status, &refusal.to_json()),
        Err(_) => Reply::unexpected(),
    }
}

/// A change that was not committed.
pub fn commit(error: &CommitError) -> Reply {
    match error {
        CommitError::Refused(refused) => refusal(refused),
        // Not 503: decK repeats a request after 429 and `Retry-After`, but gives up on a 503.
        CommitError::Busy => Reply::message(StatusCode::TOO_MANY_REQUESTS, "too many writes are waiting")
            .header(http::header::RETRY_AFTER, 1),
        CommitError::ReadOnly => {
            let text =
                "the store is read-only since its writer failed; see the log, then restart the control plane";
            Reply::message(StatusCode::SERVICE_UNAVAILABLE, text)
        }
        CommitError::Io(source) => {
            tracing::error!(error = %source, "a change could not be made durable");
            match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                    let text = "the disk of the control plane is full, and this change may be lost; \
                                make room, then restart the control plane";
                    Reply::message(StatusCode::INSUFFICIENT_STORAGE, text)
                }
                _ => Reply::unexpected(),
            }
        }
        // The store has logged it.
        CommitError::Panicked => Reply::unexpected(),
        CommitError::Stopped => {
            Reply::message(StatusCode::SERVICE_UNAVAILABLE, "the control plane is shutting down")
        }
    }
}
