//! Makes a table of a compiled state: what did not change is shared with the table before.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::compile::{self, CellKey, State};
use super::{Route, Service, Table, Upstream};
use crate::observability::RouteMetrics;
use crate::router::Router;

/// The services and routes of the table in force.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    services: HashMap<Uuid, Arc<Service>>,
    router: Arc<Router>,
    routes: Vec<Arc<Route>>,
    /// Where each route is in `routes`.
    places: HashMap<Uuid, usize>,
}

impl Assembly {
    /// Makes the table in which these services and routes are as `state` has them. The router is built anew
    /// only where the set of routes or their conditions changed.
    pub(super) fn assemble(
        &mut self,
        state: &State,
        services: &BTreeSet<Uuid>,
        routes: &BTreeSet<Uuid>,
        cell: impl Fn(&CellKey) -> Option<Arc<Upstream>>,
    ) -> Table {
        let mut affected: BTreeSet<Uuid> = BTreeSet::new();
        for id in services {
            affected.extend(state.routes_of(id));
            let compiled = state.service(id).filter(|service| service.is_enabled).and_then(|service| {
                let upstream = cell(&state.cell_of(service))?;
                Some(Arc::new(make_service(*id, service, upstream)))
            });
            match compiled {
                Some(service) => self.services.insert(*id, service),
                None => self.services.remove(id),
            };
        }
        let is_rerouted = !routes.is_empty()
            || affected.iter().any(|id| {
                let is_served = state.route(id).is_some_and(|route| self.is_served(route));
                self.places.contains_key(id) != is_served
            });
        if is_rerouted {
            affected.extend(routes);
            self.rebuild(state, &affected);
        } else {
            for id in &affected {
                if let Some(place) = self.places.get(id)
                    && let Some(route) = state.route(id)
                    && let Some(held) = self.routes.get(*place)
                {
                    let made = self.make_route(*id, route, Some(held));
                    self.routes[*place] = Arc::new(made);
                }
            }
        }
        Table { router: Arc::clone(&self.router), routes: self.routes.clone() }
    }

    fn rebuild(&mut self, state: &State, affected: &BTreeSet<Uuid>) {
        let mut served: Vec<_> = state.routes().filter(|(_, route)| self.is_served(route)).collect();
        // Every node orders alike.
        served.sort_unstable_by_key(|(id, route)| (route.created_at, **id));
        let routes = served.iter().map(|(id, route)| {
            let held = self.places.get(*id).and_then(|place| self.routes.get(*place));
            match held {
                Some(held) if !affected.contains(*id) => Arc::clone(held),
                Some(_) | None => Arc::new(self.make_route(**id, route, held)),
            }
        });
        let routes: Vec<_> = routes.collect();
        self.places = served.iter().enumerate().map(|(place, (id, _))| (**id, place)).collect();
        self.router =
            Arc::new(Router::new(served.iter().filter_map(|(_, route)| route.rule.clone()).collect()));
        self.routes = routes;
    }

    /// Whether the router knows a route: it is for some kind of HTTP, and its service is not switched off.
    fn is_served(&self, route: &compile::Route) -> bool {
        route.rule.is_some() && route.service.is_none_or(|service| self.services.contains_key(&service))
    }

    fn make_route(&self, id: Uuid, route: &compile::Route, before: Option<&Arc<Route>>) -> Route {
        let service = route.service.and_then(|service| self.services.get(&service)).cloned();
        let service_label = service.as_ref().map_or("", |service| &*service.label);
        let id_text;
        let label = match &route.name {
            Some(name) => &**name,
            None => {
                id_text = id.to_string();
                &id_text
            }
        };
        let metrics = before.map(|before| &before.metrics);
        let metrics = metrics.filter(|held| held.service() == service_label && held.route() == label);
        let metrics = metrics.cloned().unwrap_or_else(|| Arc::new(RouteMetrics::new(service_label, label)));
        Route {
            id,
            name: route.name.clone(),
            service,
            allows_plain: route.allows_plain,
            https_redirect_status: route.https_redirect_status,
            strip_path: route.strip_path,
            preserve_host: route.preserve_host,
            request_buffering: route.request_buffering,
            response_buffering: route.response_buffering,
            metrics,
        }
    }
}

fn make_service(id: Uuid, service: &compile::Service, upstream: Arc<Upstream>) -> Service {
    Service {
        id,
        label: service.name.clone().unwrap_or_else(|| (&*service.host).into()),
        host: (&*service.host).into(),
        path: service.path.clone(),
        retries: service.retries,
        connect_timeout: service.connect_timeout,
        write_timeout: service.write_timeout,
        read_timeout: service.read_timeout,
        upstream,
    }
}
