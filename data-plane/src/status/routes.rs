//! What is odd about the routes in force.

use serde_json::{Value, json};

use crate::table::{Lint, Route, Table};

/// Warnings on one page.
const PAGE: usize = 1_000;

/// `/routes/warnings`, in an order that stays while the config does. `offset` counts warnings. Cost: a look-up for each path and host up
/// to the end of the page.
pub(super) fn warnings(table: &Table, offset: usize) -> Value {
    let routes = table.routes.iter().enumerate().filter_map(|(place, route)| Some((place, route.as_ref()?)));
    let all = routes.flat_map(|(place, route)| table.lints(place).map(move |lint| (route, lint)));
    let mut rows = all.skip(offset);
    let data: Vec<_> = rows.by_ref().take(PAGE).map(|(route, lint)| warning(table, route, lint)).collect();
    let next = rows.next().map(|_| format!("/routes/warnings?offset={}", offset.saturating_add(PAGE)));
    json!({ "data": data, "next": next })
}

fn warning(table: &Table, route: &Route, lint: Lint) -> Value {
    let rival = match lint {
        Lint::Rival(place) => table.routes.get(place).and_then(Option::as_deref).map(named),
        Lint::Possessive => None,
    };
    json!({ "route": named(route), "warning": lint.as_str(), "message": lint.message(), "rival": rival })
}

fn named(route: &Route) -> Value {
    json!({ "id": route.id.to_string(), "name": route.name.as_deref() })
}
