//! Which of several plugins of one name meets a request: the one that belongs to most of it.

use std::sync::Arc;

use imbl::OrdMap;
use uuid::Uuid;

use super::{Name, Plugin};

/// What plugins belong to, besides a consumer; to neither: all requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Scope {
    /// A route.
    pub route: Option<Uuid>,
    /// A service.
    pub service: Option<Uuid>,
}

/// The plugins of one scope, by name and consumer. A clone shares everything.
#[derive(Debug, Clone, Default)]
pub struct Scoped {
    plugins: OrdMap<(Name, Option<Uuid>), Arc<Plugin>>,
    /// The names that it has.
    names: u16,
}

impl Scoped {
    /// Enters a plugin.
    ///
    /// # Errors
    /// The id of another one of this name and consumer.
    pub fn enter(&mut self, consumer: Option<Uuid>, plugin: &Arc<Plugin>) -> Result<(), Uuid> {
        for name in plugin.names() {
            self.names |= name.bit();
            if let Some(other) = self.plugins.insert((name, consumer), Arc::clone(plugin)) {
                return Err(other.id);
            }
        }
        Ok(())
    }

    /// Takes a plugin out.
    pub fn leave(&mut self, consumer: Option<Uuid>, plugin: &Plugin) {
        for name in plugin.names() {
            self.plugins.remove(&(name, consumer));
            let all = (name, None)..=(name, Some(Uuid::max()));
            if self.plugins.range(all).next().is_none() {
                self.names &= !name.bit();
            }
        }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.names == 0
    }

    /// Whether requests meet any of them.
    pub const fn has_for_requests(&self) -> bool {
        self.names & !Name::StreamIpRestriction.bit() != 0
    }

    fn get(&self, name: Name, consumer: Option<Uuid>) -> Option<&Arc<Plugin>> {
        if self.names & name.bit() == 0 { None } else { self.plugins.get(&(name, consumer)) }
    }
}

/// What a route has of its own.
#[derive(Debug, Default)]
pub struct Own {
    /// Plugins of this route with its service.
    pub both: Scoped,
    /// Of this route.
    pub route: Scoped,
    /// Of its service.
    pub service: Scoped,
}

impl Own {
    /// `None` where there is none.
    pub fn or_none(self) -> Option<Arc<Self>> {
        let is_empty = self.both.is_empty() && self.route.is_empty() && self.service.is_empty();
        (!is_empty).then(|| Arc::new(self))
    }

    /// Whether requests meet any of them.
    pub const fn has_for_requests(&self) -> bool {
        self.both.has_for_requests() || self.route.has_for_requests() || self.service.has_for_requests()
    }
}

/// Names that a request may meet.
pub(super) fn names(own: Option<&Own>, global: &Scoped) -> impl Iterator<Item = Name> {
    let of_own = own.map_or(0, |own| own.both.names | own.route.names | own.service.names);
    let names = of_own | global.names;
    Name::OF_REQUESTS.into_iter().filter(move |name| names & name.bit() != 0)
}

/// The plugin of this name that a request meets.
///
/// Source: Kong 3.10's plugin precedence.
pub(super) fn chosen<'a>(
    own: Option<&'a Own>,
    global: &'a Scoped,
    name: Name,
    consumer: Option<Uuid>,
) -> Option<&'a Arc<Plugin>> {
    let of = |scoped: Option<&'a Scoped>, consumer| scoped?.get(name, consumer);
    let (both, route, service) =
        (own.map(|own| &own.both), own.map(|own| &own.route), own.map(|own| &own.service));
    let with = |scoped| consumer.and_then(|_| of(scoped, consumer));
    with(both)
        .or_else(|| with(route))
        .or_else(|| with(service))
        .or_else(|| of(both, None))
        .or_else(|| with(Some(global)))
        .or_else(|| of(route, None))
        .or_else(|| of(service, None))
        .or_else(|| of(Some(global), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Config, IpRestriction, Meets};

    const CALLER: Uuid = Uuid::from_u128(7);

    fn plugin(id: u128) -> Arc<Plugin> {
        let config = Config::IpRestriction(IpRestriction::default());
        let meets = Meets { requests: true, streams: false };
        Arc::new(Plugin { id: Uuid::from_u128(id), config, meets })
    }

    /// The eight places, in the order of precedence.
    fn place<'a>(own: &'a mut Own, global: &'a mut Scoped, number: u128) -> (&'a mut Scoped, Option<Uuid>) {
        match number {
            1 => (&mut own.both, Some(CALLER)),
            2 => (&mut own.route, Some(CALLER)),
            3 => (&mut own.service, Some(CALLER)),
            4 => (&mut own.both, None),
            5 => (global, Some(CALLER)),
            6 => (&mut own.route, None),
            7 => (&mut own.service, None),
            _ => (global, None),
        }
    }

    #[test]
    fn the_plugin_that_belongs_to_most_of_a_request_wins() {
        let (mut own, mut global) = (Own::default(), Scoped::default());
        for number in 1..=8 {
            let (scoped, consumer) = place(&mut own, &mut global, number);
            scoped.enter(consumer, &plugin(number)).unwrap();
        }
        let id = |own: &Own, global: &Scoped, consumer| {
            chosen(Some(own), global, Name::IpRestriction, consumer).map(|plugin| plugin.id.as_u128())
        };
        let somebody_else = Some(Uuid::from_u128(9));
        // Each round takes the winner out and looks who is next.
        for want in 1..=8 {
            assert_eq!(id(&own, &global, Some(CALLER)), Some(want));
            let of_nobody = if want <= 4 { 4 } else { want.max(6) };
            assert_eq!(id(&own, &global, None), Some(of_nobody), "{want}");
            assert_eq!(id(&own, &global, somebody_else), Some(of_nobody), "{want}");
            let (scoped, consumer) = place(&mut own, &mut global, want);
            scoped.leave(consumer, &plugin(want));
        }
        assert_eq!(names(Some(&own), &global).count(), 0);
        assert!(own.or_none().is_none());
    }

    #[test]
    fn what_is_for_streams_only_is_nothing_to_requests() {
        let restriction = |requests, streams| {
            let config = Config::IpRestriction(IpRestriction::default());
            let meets = Meets { requests, streams };
            Arc::new(Plugin { id: Uuid::from_u128(1), config, meets })
        };
        for (requests, streams) in [(false, false), (false, true), (true, false), (true, true)] {
            for place in 0..3 {
                let mut own = Own::default();
                let scoped = match place {
                    0 => &mut own.both,
                    1 => &mut own.route,
                    _ => &mut own.service,
                };
                scoped.enter(None, &restriction(requests, streams)).unwrap();
                assert_eq!(scoped.has_for_requests(), requests);
                assert_eq!(scoped.is_empty(), !requests && !streams);
                assert_eq!(own.has_for_requests(), requests);
                assert_eq!(own.or_none().is_some(), requests || streams);
            }
        }
        let prometheus = Config::Prometheus(crate::plugin::Prometheus::default());
        let meets = Meets { requests: true, streams: true };
        let mut scoped = Scoped::default();
        scoped.enter(None, &Arc::new(Plugin { id: Uuid::from_u128(1), config: prometheus, meets })).unwrap();
        assert!(scoped.has_for_requests(), "they are counted as it says");
    }

    #[test]
    fn two_of_one_name_in_one_scope_are_told_of() {
        let mut scoped = Scoped::default();
        scoped.enter(None, &plugin(1)).unwrap();
        scoped.enter(Some(CALLER), &plugin(2)).unwrap();
        assert_eq!(scoped.enter(None, &plugin(3)), Err(Uuid::from_u128(1)));
    }
}
