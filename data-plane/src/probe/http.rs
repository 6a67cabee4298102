//! The GET of a probe: one request, one status line.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::check::{Answer, Failure, within};
use crate::table::{ProbePlan, Target};

/// Longest status line that is read; a longer one is none.
const STATUS_LINE_BYTES_MAX: usize = 1024;

/// Most bytes of interim responses that are read through.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The version that a target is spoken to in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/1.0.
    Http10,
}

impl Version {
    /// The one to try when this one is refused.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Http11 => Self::Http10,
            Self::Http10 => Self::Http11,
        }
    }

    /// Whether a status says that another version is wanted: 505 HTTP Version Not Supported, 426 Upgrade Required.
    pub(super) const fn is_refused_by(status: u16) -> bool {
        matches!(status, 505 | 426)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Http11 => "HTTP/1.1",
            Self::Http10 => "HTTP/1.0",
        }
    }
}

/// The request, whole. Host has no port unless the upstream's own `host_header` has one.
pub(super) fn request(target: &Target, plan: &ProbePlan, version: Version) -> String {
    let active = &plan.active;
    let mut text = format!("GET {} {}\r\n", active.path, version.as_str());
    let mut line = |name: &str, value: &str| {
        write!(text, "{name}: {value}\r\n").expect("a string takes whatever is written");
    };
    if !active.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        line("Host", plan.host_header.as_deref().unwrap_or_else(|| target.host()));
    }
    for (name, value) in &active.headers {
        line(name, value);
    }
    line("Connection", "close");
    text.push_str("\r\n");
    text
}

/// Sends `request` and reads no more than the status line, behind those of interim responses; each write and each read may take `limit`.
pub(super) async fn get<S>(stream: &mut S, request: &str, limit: Duration) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    within(limit, async {
        stream.write_all(request.as_bytes()).await?;
        // TLS keeps what was written until it is told.
        stream.flush().await
    })
    .await?;
    let mut held = Vec::new();
    let mut space = [0; STATUS_LINE_BYTES_MAX];
    loop {
        match first_status(&held) {
            Some(status) => return Ok(status.map_or(Answer::Bad, Answer::Status)),
            None if held.len() >= HEAD_BYTES_MAX => return Ok(Answer::Bad),
            None => {}
        }
        match within(limit, stream.read(&mut space)).await? {
            0 => return Err(Failure::Broken(std::io::ErrorKind::UnexpectedEof.into())),
            read => held.extend_from_slice(space.get(..read).unwrap_or_default()),
        }
    }
}

/// The status of the first response that is not an interim one (1xx), as soon as its line is there; `Some(None)`: what is
/// there is no HTTP.
fn first_status(mut held: &[u8]) -> Option<Option<u16>> {
    loop {
        let Some(end) = held.iter().position(|byte| *byte == b'\n') else {
            return (held.len() >= STATUS_LINE_BYTES_MAX).then_some(None);
        };
        match parse_status(held.get(..end).unwrap_or_default()) {
            // Nobody asked for another protocol.
            Some(status @ 100..=199) if status != 101 => {
                let head_end = held.windows(4).position(|four| four == b"\r\n\r\n")?;
                held = held.get(head_end + 4..).unwrap_or_default();
            }
            status => return Some(status),
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
    use crate::health::Active;
    use crate::table::fixture::tcp_checks;

    #[test]
    fn interim_responses_are_read_through() {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let cases = [
            (format!("{hints}HTTP/1.1 200 OK\r\n"), Some(Some(200))),
            (format!("HTTP/1.1 100 Continue\r\n\r\n{hints}HTTP/1.1 503 No\r\n"), Some(Some(503))),
            (hints.to_owned(), None),
            ("HTTP/1.1 103 Early Hints\r\nLink".to_owned(), None),
            (format!("{hints}no HTTP\r\n"), Some(None)),
            ("HTTP/1.1 101 Switching Protocols\r\n".to_owned(), Some(Some(101))),
            ("x".repeat(STATUS_LINE_BYTES_MAX), Some(None)),
        ];
        for (held, want) in cases {
            assert_eq!(first_status(held.as_bytes()), want, "{held:?}");
        }
    }

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

    #[test]
    fn requests() {
        let own: &[(&str, &str)] = &[("X-A", "1"), ("X-A", "2")];
        let host: &[(&str, &str)] = &[("hOSt", "own.test")];
        let cases = [
            (
                "the target's name, without port",
                None,
                Version::Http11,
                own,
                "GET /c?d HTTP/1.1\r\nHost: name.test\r\nX-A: 1\r\nX-A: 2\r\nConnection: close\r\n\r\n",
            ),
            (
                "the upstream's name, as it is written",
                Some("up.test:81"),
                Version::Http10,
                &[],
                "GET /c?d HTTP/1.0\r\nHost: up.test:81\r\nConnection: close\r\n\r\n",
            ),
            (
                "a Host of its own is the only one",
                Some("up.test"),
                Version::Http11,
                host,
                "GET /c?d HTTP/1.1\r\nhOSt: own.test\r\nConnection: close\r\n\r\n",
            ),
        ];
        let target = Target::new("127.0.0.1:80".parse().unwrap(), "name.test");
        for (name, host_header, version, headers, want) in cases {
            let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let active = Active { path: "/c?d".into(), headers, ..tcp_checks() };
            let host_header = host_header.map(Into::into);
            let plan = ProbePlan {
                upstream: "u".into(),
                active,
                host_header,
                client: None,
                targets: Vec::new(),
                shared: None,
            };
            assert_eq!(request(&target, &plan, version), want, "{name}");
        }
    }
}
