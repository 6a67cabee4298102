//! One probe of one address.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::health::{ProbeKind, Report, is_own};
use crate::table::{ProbePlan, Target};

/// Longest status line that is read; a longer one is none.
const STATUS_LINE_BYTES_MAX: usize = 1024;

/// Connecting, sending and reading: all of them together have as many time-outs as there are steps, however many
/// reads a target makes of its answer.
const STEPS: u32 = 3;

/// Probes once; what it tells, if anything. Each step has the plan's time-out.
///
/// Source: Kong 3.10, `spec/health.md` section 5; HTTP/1.1 in place of 1.0.
pub(super) async fn check(target: &Target, plan: &ProbePlan) -> Option<Report> {
    let whole = plan.active.timeout.saturating_mul(STEPS);
    match timeout(whole, attempt(target, plan)).await.unwrap_or(Err(Failure::Timeout)) {
        Ok(report) => report,
        Err(Failure::Timeout) => Some(Report::Timeout),
        Err(Failure::Own) => None,
        Err(Failure::Broken) => Some(Report::Tcp),
        Err(Failure::NoHttp) => Some(Report::Http),
    }
}

/// Why there is no status.
enum Failure {
    /// Of this machine, not of the target.
    Own,
    Timeout,
    Broken,
    NoHttp,
}

async fn attempt(target: &Target, plan: &ProbePlan) -> Result<Option<Report>, Failure> {
    let limit = plan.active.timeout;
    let mut stream = match timeout(limit, TcpStream::connect(target.address())).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_own(&error, target.address()) => return Err(Failure::Own),
        Ok(Err(_)) => return Err(Failure::Broken),
        Err(_) => return Err(Failure::Timeout),
    };
    match plan.active.kind {
        ProbeKind::Tcp => Ok(Some(Report::Success)),
        ProbeKind::Http => {
            within(limit, stream.write_all(request(target, plan).as_bytes())).await?;
            let status = read_status(&mut stream, limit).await?;
            Ok(plan.active.judge(status))
        }
        ProbeKind::Unsupported(_) => Ok(None),
    }
}

async fn within<T>(limit: Duration, step: impl Future<Output = std::io::Result<T>>) -> Result<T, Failure> {
    match timeout(limit, step).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(Failure::Broken),
        Err(_) => Err(Failure::Timeout),
    }
}

fn request(target: &Target, plan: &ProbePlan) -> String {
    let host = plan.host_header.as_deref().unwrap_or_else(|| target.host());
    let path = &plan.active.path;
    let lines = &plan.active.header_lines;
    let names_host =
        lines.lines().any(|line| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("host:")));
    let host_line = if names_host { String::new() } else { format!("Host: {host}\r\n") };
    format!("GET {path} HTTP/1.1\r\n{host_line}{lines}Connection: close\r\n\r\n")
}

/// Reads no more than the status line.
async fn read_status(stream: &mut TcpStream, limit: Duration) -> Result<u16, Failure> {
    let mut line = [0; STATUS_LINE_BYTES_MAX];
    let mut filled = 0;
    loop {
        let Some(free) = line.get_mut(filled..).filter(|free| !free.is_empty()) else {
            return Err(Failure::NoHttp);
        };
        match within(limit, stream.read(free)).await? {
            0 => return Err(Failure::Broken),
            read => filled += read,
        }
        let held = line.get(..filled).unwrap_or_default();
        if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            return parse_status(held.get(..end).unwrap_or_default()).ok_or(Failure::NoHttp);
        }
    }
}

/// The status of `HTTP/1.x NNN ...`.
fn parse_status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', hundreds @ b'1'..=b'9', tens, ones, rest @ ..] = rest else { return None };
    let ends = matches!(rest, [] | [b' ' | b'\r', ..]);
    let digits = [hundreds, tens, ones];
    (ends && digits.iter().all(|digit| digit.is_ascii_digit()))
        .then(|| digits.iter().fold(0, |status, digit| status * 10 + u16::from(**digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        let cases: [(&[u8], Option<u16>); 9] = [
            (b"HTTP/1.1 200 OK\r", Some(200)),
            (b"HTTP/1.0 503 \r", Some(503)),
            (b"HTTP/1.1 204\r", Some(204)),
            (b"HTTP/1.1 200", Some(200)),
            (b"HTTP/1.1 2000 OK", None),
            (b"HTTP/1.1 099 no", None),
            (b"HTTP/2 200", None),
            (b"SSH-2.0-x", None),
            (b"", None),
        ];
        for (line, want) in cases {
            assert_eq!(parse_status(line), want, "{}", String::from_utf8_lossy(line));
        }
    }
}
