//! Certificates, the names that they are shown for, and authorities.

use std::time::Duration;

use equipoise_identity::pair::{self, Pair, PairError, TrustedAuthority};
use equipoise_proto::limits::CERTIFICATE_SNIS_MAX;
use rustls::pki_types::UnixTime;
use serde_json::{Map, Value};

use super::format::{id, seconds, tags};
use super::{Body, Check, Completion, Custom, EndpointKey, Fault, Field, Listed, Schema, When};
use crate::model::{Kind, patterns};

pub(super) fn certificates() -> Schema {
    let certificate = || Field::string().custom(certificate).remark("referenceable");
    let key = || Field::string().custom(key).remark("referenceable").remark("encrypted");
    let fields = vec![
        id(),
        seconds("created_at"),
        seconds("updated_at"),
        ("cert", certificate().required()),
        ("key", key().required()),
        ("cert_alt", certificate().optional()),
        ("key_alt", key().optional()),
        tags(),
        ("snis", Field::array(Field::string().custom(patterns::wildcard_sni)).optional().remark("transient")),
    ];
    let check = |sources: &[&'static str], accept| {
        Check::Custom(Custom {
            sources: sources.to_vec(),
            runs_with_missing_fields: false,
            is_shown: true,
            when: When::NoOtherError,
            accept,
        })
    };
    let checks = vec![
        Check::AllOrNone(vec!["cert_alt", "key_alt"]),
        check(&["cert", "key"], |body| belongs(body, ("cert", "key"), "certificate does not match key")),
        check(&["cert_alt", "key_alt"], |body| {
            belongs(body, ("cert_alt", "key_alt"), "alternative certificate does not match key")
        }),
        check(&["cert", "cert_alt"], of_different_types),
    ];
    let snis = Listed { field: "snis", child: Kind::Sni, parent: "certificate", name: "name" };
    Schema { endpoint_key: Some(EndpointKey::Listed(snis)), ..Schema::new(fields, checks) }
}

pub(super) fn snis() -> Schema {
    let fields = vec![
        id(),
        (
            "name",
            Field::string().custom(patterns::wildcard_sni).required().unique().remark("unique_across_ws"),
        ),
        seconds("created_at"),
        seconds("updated_at"),
        tags(),
        ("certificate", Field::belonging(Kind::Certificate).required()),
    ];
    Schema {
        endpoint_key: Some(EndpointKey::Global("name")),
        children_max: Some(("certificate", CERTIFICATE_SNIS_MAX)),
        ..Schema::new(fields, Vec::new())
    }
}

pub(super) fn ca_certificates() -> Schema {
    let fields = vec![
        id(),
        seconds("created_at"),
        seconds("updated_at"),
        ("cert", Field::string().required()),
        ("cert_digest", Field::string().unique()),
        tags(),
    ];
    let check = Check::Custom(Custom {
        sources: vec!["cert"],
        runs_with_missing_fields: false,
        is_shown: true,
        when: When::NoOtherError,
        accept: authority,
    });
    Schema { complete: Some(digest), ..Schema::new(fields, vec![check]) }
}

fn certificate(text: &str) -> Result<(), String> {
    pair::chain(text).map(drop).map_err(|error| error.to_string())
}

fn key(text: &str) -> Result<(), String> {
    pair::private_key(text).map(drop).map_err(|error| error.to_string())
}

fn text<'a>(body: &'a Body, field: &str) -> Option<&'a str> {
    body.get(field).and_then(Value::as_str)
}

fn pair_of(body: &Body, (certificate, key): (&str, &str)) -> Option<Result<Pair, PairError>> {
    Some(Pair::parse(text(body, certificate)?, text(body, key)?))
}

fn belongs(body: &Body, fields: (&str, &str), mismatch: &str) -> Result<(), Fault> {
    match pair_of(body, fields) {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(PairError::Mismatch)) => Err(mismatch.to_owned().into()),
        // The fields were looked at by themselves; what is left is said of both.
        Some(Err(error)) => Err(error.to_string().into()),
    }
}

fn of_different_types(body: &Body) -> Result<(), Fault> {
    let types = |fields| Some(pair_of(body, fields)?.ok()?.key_type());
    match (types(("cert", "key")), types(("cert_alt", "key_alt"))) {
        (Some(one), Some(other)) if one == other => {
            Err("certificate and alternative certificate need to have \
             different type (e.g. RSA and ECDSA), the provided certificates were both of the same type"
                .to_owned()
                .into())
        }
        _ => Ok(()),
    }
}

fn authority(body: &Body) -> Result<(), Fault> {
    let Some(cert) = text(body, "cert") else { return Ok(()) };
    // Set on each write, to its moment.
    let now = Duration::from_secs(body.get("updated_at").and_then(Value::as_u64).unwrap_or_default());
    TrustedAuthority::parse(cert)
        .and_then(|authority| authority.check(UnixTime::since_unix_epoch(now)))
        .map_err(|error| Fault::Entity(error.to_string()))
}

/// The digest follows from the certificate, whatever a request says of it.
fn digest(body: &mut Body, _: &mut Completion<'_>) -> Result<(), Map<String, Value>> {
    body.remove("cert_digest");
    let parsed = text(body, "cert").and_then(|cert| TrustedAuthority::parse(cert).ok());
    if let Some(authority) = parsed {
        body.insert("cert_digest".to_owned(), authority.fingerprint().to_string().into());
    }
    Ok(())
}
