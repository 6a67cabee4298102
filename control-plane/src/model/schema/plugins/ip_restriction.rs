//! `ip-restriction`: which addresses may call.

use super::{Own, any_protocols, status};
use crate::model::patterns;
use crate::model::schema::{Check, Field};

pub(super) fn own() -> Own {
    let ranges = || Field::array(Field::string().custom(patterns::ip_or_cidr));
    let config = vec![
        ("allow", ranges()),
        ("deny", ranges()),
        ("status", status().optional()),
        ("message", Field::string().optional()),
    ];
    let protocols = any_protocols(&["http", "https", "tcp", "tls", "grpc", "grpcs"]);
    Own::new(protocols, config).checks(vec![Check::AtLeastOneOf(vec!["config.allow", "config.deny"])])
}
