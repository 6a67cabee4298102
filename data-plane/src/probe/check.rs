//! One probe of one address.

use std::io;
use std::time::Duration;

use ::http::uri::Scheme;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use super::grpc;
use super::http::{self, Version};
use crate::health::{Active, ProbeKind, Report, TlsTerms, Transport, is_own};
use crate::table::{ProbePlan, Target};
use crate::tls::{ALPN_HTTP2, Clients, server_name};

/// Connecting, a handshake of TLS, sending and reading: all of them together have no more time-outs than that, however
/// many reads a target makes of its answer, and whether one version of HTTP is asked for or two.
const STEPS: u32 = 4;

/// What one probe tells of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// What counts, if anything does.
    pub(super) report: Option<Report>,
    /// The version to speak to it from now on.
    pub(super) version: Version,
    /// It is this machine that could not probe.
    pub(super) is_own: bool,
}

/// What a target answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// All is well.
    Good,
    /// An HTTP status, for the plan's lists to judge.
    Status(u16),
    /// It says that it is not well, or nothing that can be understood.
    Bad,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// This machine's fault, not the target's.
    #[error("this machine cannot connect")]
    Own(#[source] io::Error),
    /// A step took too long.
    #[error("too slow")]
    Timeout,
    /// No connection, no trust, or it broke.
    #[error("no connection, or it broke")]
    Broken(#[from] io::Error),
    /// No certificate can be for the name that is asked for.
    #[error("not a name for TLS")]
    Name,
}

/// Probes once. Each step has the plan's time-out.
///
/// Where a status asks for another version of HTTP and is none that the plan calls healthy, the other version is tried at
/// once, and kept to if the target takes it.
///
/// Source: Kong 3.10 and its health-check library 3.1.2 (`spec/health.md` section 5), but HTTP/1.1 comes first. gRPC is
/// ours.
pub(super) async fn check(target: &Target, plan: &ProbePlan, tls: &Clients, version: Version) -> Found {
    let (answer, kept) =
        in_either_version(&plan.active, version, |version| ask(target, plan, tls, version)).await;
    let report = match &answer {
        Ok(Answer::Good) => Some(Report::Success),
        Ok(Answer::Status(status)) => plan.active.judge(*status),
        Ok(Answer::Bad) => Some(Report::Http),
        Err(Failure::Own(_)) => None,
        Err(Failure::Timeout) => Some(Report::Timeout),
        Err(Failure::Broken(_) | Failure::Name) => Some(Report::Tcp),
    };
    if report != Some(Report::Success) {
        debug!(upstream = %plan.upstream, address = %target.address(), ?answer, ?report, "probed");
    }
    Found { report, version: kept, is_own: matches!(answer, Err(Failure::Own(_))) }
}

/// Asks in `version` and, where that is refused, in the other; within the time of one probe. Says which to keep to.
async fn in_either_version<F>(
    active: &Active,
    version: Version,
    mut ask: impl FnMut(Version) -> F,
) -> (Result<Answer, Failure>, Version)
where
    F: Future<Output = Result<Answer, Failure>>,
{
    let both = async {
        let answer = ask(version).await;
        let Ok(Answer::Status(status)) = answer else { return (answer, version) };
        if !Version::is_refused_by(status) || active.healthy.contains(status) {
            return (answer, version);
        }
        let answer = ask(version.other()).await;
        match answer {
            Ok(Answer::Status(status)) if !Version::is_refused_by(status) => (answer, version.other()),
            Ok(_) | Err(_) => (answer, version),
        }
    };
    let whole = active.timeout.saturating_mul(STEPS);
    timeout(whole, both).await.unwrap_or((Err(Failure::Timeout), version))
}

async fn ask(target: &Target, plan: &ProbePlan, tls: &Clients, version: Version) -> Result<Answer, Failure> {
    let limit = plan.active.timeout;
    let mut stream = connect(target, limit).await?;
    match &plan.active.kind {
        ProbeKind::Tcp => Ok(Answer::Good),
        ProbeKind::Http(Transport::Plain) => {
            http::get(&mut stream, &http::request(target, plan, version), limit).await
        }
        ProbeKind::Http(Transport::Tls(terms)) => {
            let mut stream = shake_hands(stream, target, plan, tls, terms, None).await?;
            http::get(&mut stream, &http::request(target, plan, version), limit).await
        }
        // On the heap: much larger than the other kinds, and rarer.
        ProbeKind::Grpc(Transport::Plain) => {
            let request = grpc::request(target, plan, Scheme::HTTP);
            Box::pin(grpc::ask(stream, request, grpc::message(plan), limit)).await
        }
        ProbeKind::Grpc(Transport::Tls(terms)) => {
            let stream = shake_hands(stream, target, plan, tls, terms, Some(ALPN_HTTP2)).await?;
            let request = grpc::request(target, plan, Scheme::HTTPS);
            Box::pin(grpc::ask(stream, request, grpc::message(plan), limit)).await
        }
    }
}

async fn connect(target: &Target, limit: Duration) -> Result<TcpStream, Failure> {
    match timeout(limit, TcpStream::connect(target.address())).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_own(&error, target.address()) => Err(Failure::Own(error)),
        Ok(Err(error)) => Err(Failure::Broken(error)),
        Err(_) => Err(Failure::Timeout),
    }
}

/// For the name of the terms, or that of the Host header, or the target's own.
async fn shake_hands(
    stream: TcpStream,
    target: &Target,
    plan: &ProbePlan,
    tls: &Clients,
    terms: &TlsTerms,
    alpn: Option<&[u8]>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = terms.sni.as_deref().or(plan.host_header.as_deref()).unwrap_or_else(|| target.host());
    let name = server_name(name).ok_or(Failure::Name)?;
    let config = match (terms.is_verified, plan.client.as_ref()) {
        (true, shown) => tls.verifying(shown),
        (false, shown) => tls.unverifying(shown),
    };
    let alpn = alpn.into_iter().map(Into::into).collect();
    within(plan.active.timeout, TlsConnector::from(config).with_alpn(alpn).connect(name, stream)).await
}

/// One step that may take this long.
pub(super) async fn within<T>(
    limit: Duration,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    match timeout(limit, step).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::table::fixture::tcp_checks;

    #[tokio::test(start_paused = true)]
    async fn both_versions_together_have_the_time_of_one_probe() {
        let active = Active { timeout: seconds(1), ..tcp_checks() };
        for (steps, is_in_time) in [(1, true), (3, false), (9, false)] {
            let start = Instant::now();
            let (answer, kept) = in_either_version(&active, Version::Http11, |version| async move {
                sleep(seconds(steps)).await;
                Ok(Answer::Status(if version == Version::Http11 { 505 } else { 200 }))
            })
            .await;
            if is_in_time {
                assert!(matches!(answer, Ok(Answer::Status(200))), "{answer:?}");
                assert_eq!((kept, start.elapsed()), (Version::Http10, seconds(2 * steps)));
            } else {
                assert!(matches!(answer, Err(Failure::Timeout)), "{steps}: {answer:?}");
                assert_eq!((kept, start.elapsed()), (Version::Http11, seconds(4)), "{steps}");
            }
        }
    }

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }
}
