//! `prometheus`: which metrics there are.

use super::{HTTP, Own, any_protocols};
use crate::model::schema::{Field, Named, Rule};

pub(super) fn own() -> Own {
    let metrics = |name: &'static str| -> Named { (name, Field::boolean().default(false)) };
    // There is nothing of which these could tell.
    let never = |name: &'static str, what: &str| -> Named {
        let (name, field) = metrics(name);
        (
            name,
            field.rule(Rule::Not(
                true.into(),
                format!("not supported: no request goes through {what}").into(),
            )),
        )
    };
    let config = vec![
        metrics("per_consumer"),
        metrics("status_code_metrics"),
        never("ai_metrics", "AI plugins"),
        metrics("latency_metrics"),
        metrics("bandwidth_metrics"),
        metrics("upstream_health_metrics"),
        never("wasm_metrics", "Wasm filters"),
    ];
    Own::new(any_protocols(&HTTP), config).of_requests()
}
