//! Plugins of a document that no request could meet.

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use super::{Declared, Item};
use crate::model::index::reference;
use crate::model::schema::protocols_meet;
use crate::model::{Body, Kind};

/// Which items they are, and what is wrong with their `protocols`. Looks at routes only if there are plugins.
pub(super) fn unmet(items: &[Item], entities: &[Declared]) -> Vec<(usize, &'static str)> {
    let of = |kind| entities.iter().map(|one| &one.entity).filter(move |entity| entity.kind == kind);
    let plugins: Vec<_> = of(Kind::Plugin).map(|plugin| (plugin.id, plugin.body())).collect();
    if plugins.is_empty() {
        return Vec::new();
    }
    let routes = Routes::of(of(Kind::Route).map(|route| (route.id, route.body())));
    let unmet: HashMap<Uuid, &'static str> =
        plugins.iter().filter_map(|(id, plugin)| Some((*id, routes.meet(plugin).err()?))).collect();
    let text = |item: &Item| unmet.get(&item.id).filter(|_| item.kind == Kind::Plugin).copied();
    items.iter().enumerate().filter_map(|(at, item)| Some((at, text(item)?))).collect()
}

/// Protocols of the document's routes.
struct Routes {
    by_id: HashMap<Uuid, Value>,
    by_service: HashMap<Uuid, Vec<Value>>,
}

impl Routes {
    fn of(routes: impl Iterator<Item = (Uuid, Body)>) -> Self {
        let mut all = Self { by_id: HashMap::new(), by_service: HashMap::new() };
        for (id, mut route) in routes {
            let protocols = route.remove("protocols").unwrap_or_default();
            if let Some(service) = reference(&route, "service") {
                all.by_service.entry(service).or_default().push(protocols.clone());
            }
            all.by_id.insert(id, protocols);
        }
        all
    }

    fn meet(&self, plugin: &Body) -> Result<(), &'static str> {
        let route = reference(plugin, "route").and_then(|id| self.by_id.get(&id));
        let service = reference(plugin, "service").and_then(|id| self.by_service.get(&id));
        protocols_meet(plugin, route, service.into_iter().flatten())
    }
}
