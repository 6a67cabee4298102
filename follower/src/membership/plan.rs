//! When a certificate is asked for: pure.

use std::time::SystemTime;

use equipoise_identity::Certificate;
use equipoise_identity::certificate::LATE_MAX;

/// What is to be done before a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Go,
    /// More than half of its life is over: a new one is asked for, and the old one serves if there is none.
    Renew,
    /// It ran out: without a new one there is no connection.
    RenewLate,
    /// There is none, or it ran out long ago: only a join token helps.
    Enrol,
}

/// What is to be done with this certificate now.
pub fn plan(certificate: Option<&Certificate>, now: SystemTime) -> Plan {
    let Some(certificate) = certificate else { return Plan::Enrol };
    match now.duration_since(certificate.not_after()) {
        Ok(late) if late > LATE_MAX => Plan::Enrol,
        Ok(_) => Plan::RenewLate,
        Err(_) if now >= certificate.half_life() => Plan::Renew,
        // Of a clock that is behind the server will tell.
        Err(_) => Plan::Go,
    }
}

/// When a certificate is renewed while connected: after half of its life, and up to a tenth of it more, so that nodes that
/// enrolled together do not renew together. `random` is drawn evenly from `0.0..1.0`.
pub fn renewal(certificate: &Certificate, random: f64) -> SystemTime {
    let life = certificate.not_after().duration_since(certificate.not_before()).unwrap_or_default();
    certificate.half_life() + life.mul_f64(random.clamp(0.0, 1.0) / 10.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use equipoise_identity::authority::Order;
    use equipoise_identity::{Authority, PrivateKey, Role, SpiffeId};
    use equipoise_proto::NodeId;
    use uuid::Uuid;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_certificate_is_renewed_in_time_and_late_and_then_no_more() {
        // Whole seconds: a certificate has no finer ones.
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::generate([1; 16], begin).unwrap();
        let key = PrivateKey::generate().unwrap();
        let name = SpiffeId { role: Role::Node, id: NodeId::new(Uuid::from_u128(1)) };
        let order = Order { name, key: &key.public(), serial: [2; 16], now: begin, lifetime: 24 * HOUR };
        let certificate = authority.issue(order).unwrap();
        assert_eq!(plan(None, begin), Plan::Enrol);
        for (after, want) in [
            (Duration::ZERO, Plan::Go),
            (11 * HOUR, Plan::Go),
            (13 * HOUR, Plan::Renew),
            (24 * HOUR - Duration::from_secs(1), Plan::Renew),
            (24 * HOUR, Plan::RenewLate),
            (24 * HOUR + LATE_MAX, Plan::RenewLate),
            (25 * HOUR + LATE_MAX, Plan::Enrol),
        ] {
            assert_eq!(plan(Some(&certificate), begin + after), want, "{after:?}");
        }
        assert_eq!(plan(Some(&certificate), begin - 48 * HOUR), Plan::Go, "a clock that is behind");
        assert_eq!(renewal(&certificate, 0.0), certificate.half_life());
        assert!(renewal(&certificate, 1.0) < certificate.not_after());
    }
}
