//! Makes a table of a compiled state: what did not change is shared with the table before.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use equipoise_proto::SniPattern;
use uuid::Uuid;

use super::compile::{self, CellKey, RootStores, State};
use super::{Lint, OfStreams, PathHandling, Route, Service, Table, Upstream};
use crate::observability::RouteMetrics;
use crate::plugin::{self, Scope, Scoped};
use crate::router::Flavour;
use crate::tls::{Interned, Terms};

/// The services and routes of the table in force.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    flavour: Flavour,
    services: HashMap<Uuid, Arc<Service>>,
    table: Table,
    /// Where each route is in the table.
    places: HashMap<Uuid, usize>,
    /// Places in the table that no route has.
    free: Vec<usize>,
    /// By what name the table has each SNI.
    snis: HashMap<Uuid, SniPattern>,
    /// What services ask of TLS.
    terms: Interned,
    stores: RootStores,
}

/// How many routes are warned of at one update, for each reason.
const WARNED: usize = 10;

impl Assembly {
    /// Of nothing yet, whose router is of this flavour.
    pub(super) fn of(flavour: Flavour) -> Self {
        Self { flavour, ..Self::default() }
    }

    /// Makes the table in which these services, routes and SNIs are as `state` has them. The router changes only
    /// where the set of routes or their conditions did. Cost: O(the services, their routes, the routes).
    pub(super) fn assemble(
        &mut self,
        state: &State,
        services: &BTreeSet<Uuid>,
        routes: &BTreeSet<Uuid>,
        snis: &BTreeSet<Uuid>,
        scopes: &BTreeSet<Scope>,
        cell: impl Fn(&CellKey) -> Option<Arc<Upstream>>,
    ) -> Table {
        let mut affected = routes.clone();
        for scope in scopes {
            match scope {
                Scope { route: Some(route), .. } => affected.extend([*route]),
                Scope { route: None, service: Some(service) } => affected.extend(state.routes_of(service)),
                Scope { route: None, service: None } => self.table.plugins = state.plugins_of(scope),
            }
        }
        self.table.callers = state.callers().clone();
        self.table.hides_health = !state.shows_health();
        for id in services {
            affected.extend(state.routes_of(id));
            let compiled = state.service(id).filter(|service| service.is_enabled).and_then(|service| {
                let upstream = cell(&state.cell_of(service))?;
                let tls =
                    service.is_tls().then(|| self.terms.get(&state.asked_of(service, &mut self.stores)));
                Some(Arc::new(make_service(*id, service, upstream, tls)))
            });
            match compiled {
                Some(service) => self.services.insert(*id, service),
                None => self.services.remove(id),
            };
        }
        if self.places.is_empty() {
            self.fill(state);
        } else {
            for id in &affected {
                match state.route(id).filter(|route| self.is_served(route)) {
                    Some(route) => self.put(*id, route, state, routes.contains(id)),
                    None => self.take_out(id),
                }
            }
        }
        self.warn(routes);
        self.show(state, snis);
        self.table.clone()
    }

    /// All names are given up before any is taken, so that they can be exchanged.
    fn show(&mut self, state: &State, snis: &BTreeSet<Uuid>) {
        for id in snis {
            if let Some(name) = self.snis.remove(id) {
                self.table.snis.set(&name, None);
            }
        }
        for id in snis {
            if let Some((name, shown)) = state.shown(id) {
                self.table.snis.set(name, Some(Arc::clone(shown)));
                self.snis.insert(*id, name.clone());
            }
        }
    }

    /// Names what is odd about routes among those that changed.
    fn warn(&self, changed: &BTreeSet<Uuid>) {
        let (mut rivals, mut possessive) = (0, 0);
        let placed = changed.iter().filter_map(|id| Some((id, *self.places.get(id)?)));
        for (route, lint) in
            placed.flat_map(|(id, place)| self.table.lints(place).map(move |lint| (id, lint)))
        {
            let (count, rival) = match lint {
                Lint::Rival(place) => (&mut rivals, self.table.routes.get(place).and_then(Option::as_ref)),
                Lint::Possessive => (&mut possessive, None),
            };
            *count += 1;
            if *count <= WARNED {
                let rival = rival.map(|rival| tracing::field::display(rival.id));
                tracing::warn!(%route, rival, "{}", lint.message());
            }
        }
    }

    /// Builds everything: a router is made at once faster than a route at a time.
    fn fill(&mut self, state: &State) {
        let mut served: Vec<_> = state.routes().filter(|(_, route)| self.is_served(route)).collect();
        // The router is made of the first ones.
        served.sort_by_key(|(_, route)| route.rule.is_none());
        self.places = served.iter().enumerate().map(|(place, (id, _))| (**id, place)).collect();
        self.free.clear();
        let routes = served.iter().map_while(|(id, route)| {
            Some((route.rule.clone()?, Arc::new(self.make_route(**id, route, state, None))))
        });
        let Table { snis, plugins, callers, hides_health, .. } = self.table.clone();
        let mut table = Table { snis, plugins, callers, hides_health, ..Table::of(self.flavour, routes) };
        for (place, (id, route)) in served.iter().enumerate() {
            if place == table.routes.len() {
                table.routes.push_back(Some(Arc::new(self.make_route(**id, route, state, None))));
            }
            table.streams.set(place, route.stream.clone());
        }
        self.table = table;
    }

    fn put(&mut self, id: Uuid, route: &compile::Route, state: &State, is_changed: bool) {
        let held = self.places.get(&id).copied();
        let place = held.or_else(|| self.free.pop()).unwrap_or(self.table.routes.len());
        let before = held.and_then(|place| self.table.routes.get(place)).and_then(Option::as_ref);
        let made = Some(Arc::new(self.make_route(id, route, state, before)));
        if place == self.table.routes.len() {
            self.table.routes.push_back(made);
        } else {
            self.table.routes.set(place, made);
        }
        if is_changed || held.is_none() {
            self.table.router.set(place, route.rule.clone());
            self.table.streams.set(place, route.stream.clone());
        }
        self.places.insert(id, place);
    }

    fn take_out(&mut self, id: &Uuid) {
        if let Some(place) = self.places.remove(id) {
            self.table.router.set(place, None);
            self.table.streams.set(place, None);
            self.table.routes.set(place, None);
            self.free.push(place);
        }
    }

    /// Whether a router knows a route: it is for something that is spoken here, and its service is not switched off.
    fn is_served(&self, route: &compile::Route) -> bool {
        (route.rule.is_some() || route.stream.is_some())
            && route.service.is_none_or(|service| self.services.contains_key(&service))
    }

    fn make_route(
        &self,
        id: Uuid,
        route: &compile::Route,
        state: &State,
        before: Option<&Arc<Route>>,
    ) -> Route {
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
        // A call of gRPC may ask and answer in turns: what is held back until it is whole would wait for ever.
        let request_buffering =
            route.request_buffering && !service.as_ref().is_some_and(|service| service.http2);
        let of = |route, service| state.plugins_of(&Scope { route, service });
        let plugins = plugin::Own {
            both: route.service.map_or_else(Scoped::default, |service| of(Some(id), Some(service))),
            route: of(Some(id), None),
            service: route.service.map_or_else(Scoped::default, |service| of(None, Some(service))),
        };
        Route {
            id,
            name: route.name.clone(),
            plugins: plugins.or_none(),
            service,
            allows_plain: route.allows_plain,
            grpc: route.grpc,
            https_redirect_status: route.https_redirect_status,
            strip_path: route.strip_path,
            path_handling: match self.flavour {
                Flavour::Traditional => route.path_handling,
                Flavour::Compatible => PathHandling::V0,
            },
            preserve_host: route.preserve_host,
            request_buffering,
            response_buffering: route.response_buffering,
            stream: route.stream.as_ref().map(|rule| match rule.transports.tls_passthrough {
                true => OfStreams::Passthrough,
                false => OfStreams::Plain,
            }),
            metrics,
        }
    }
}

fn make_service(
    id: Uuid,
    service: &compile::Service,
    upstream: Arc<Upstream>,
    tls: Option<Arc<Terms>>,
) -> Service {
    Service {
        id,
        label: service.name.clone().unwrap_or_else(|| (&*service.host).into()),
        path: service.path.clone(),
        retries: service.retries,
        connect_timeout: service.connect_timeout,
        write_timeout: service.write_timeout,
        read_timeout: service.read_timeout,
        speaks_http: service.speaks_http(),
        upstream,
        tls,
        http2: service.is_grpc(),
    }
}
