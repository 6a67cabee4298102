//! Laws of `Config::apply`, hunted with random sequences of changes.

use proptest::prelude::*;

use super::*;

/// Few names and ids, so that changes meet each other.
fn calls() -> impl Strategy<Value = Vec<(String, Value)>> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let service = (name.clone(), any::<bool>()).prop_map(|(name, named)| {
        if named { json!({"name": name, "host": "h", "tags": [name]}) } else { json!({"host": "h"}) }
    });
    let route = (name.clone(), name.clone(), any::<bool>()).prop_map(|(name, service, linked)| {
        let service = if linked { json!({"name": service}) } else { Value::Null };
        json!({"name": name, "paths": ["/"], "service": service})
    });
    let upstream = name.clone().prop_map(|name| json!({"name": name, "hash_on": "ip"}));
    let target = (name.clone(), 0..3_u8).prop_map(|(name, weight)| json!({"target": name, "weight": weight}));
    let policy = (name.clone(), any::<bool>()).prop_map(|(tag, is_sticky)| {
        if is_sticky {
            json!({"algorithm": "sticky-sessions", "sticky": {"cookie": {"name": tag}}, "tags": [tag]})
        } else {
            json!({"hedging": {"enabled": true}})
        }
    });
    let names = prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c", "*.a"]), 0..3);
    let certificate = names.clone().prop_map(|snis| {
        let (cert, key) = pem_pair();
        json!({"cert": cert, "key": key, "snis": snis})
    });
    let listing =
        prop_oneof![names.prop_map(|snis| json!({"snis": snis})), Just(json!({"snis": null, "tags": ["a"]}))];
    let sni = name.clone().prop_map(|name| json!({"name": name}));
    let consumer = name.clone().prop_map(|name| json!({"username": name, "tags": [name]}));
    let key = (name.clone(), any::<bool>())
        .prop_map(|(name, named)| if named { json!({"key": name, "tags": [name]}) } else { json!({}) });
    let password = name.clone().prop_map(|name| json!({"username": name, "password": name}));
    let plugins = vec![
        json!({"name": "cors"}),
        json!({"name": "rate-limiting", "config": {"minute": 5}}),
        json!({"name": "prometheus", "protocols": ["http", "tcp"]}),
    ];
    let plugin = (name.clone(), prop::sample::select(plugins)).prop_map(|(name, mut plugin)| {
        plugin["instance_name"] = name.into();
        plugin["tags"] = json!([name]);
        plugin
    });
    let call = |pattern: &'static str, body: BoxedStrategy<Value>| {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        (name.clone(), name, body)
            .prop_map(move |(x, y, body)| (pattern.replace("{x}", x).replace("{y}", y), body))
    };
    let empty = Just(json!({})).boxed();
    let one = prop_oneof![
        call("POST /services", service.clone().boxed()),
        call("PUT /services/{x}", service.clone().boxed()),
        call("PATCH /services/{x}", service.boxed()),
        call("DELETE /services/{x}", empty.clone()),
        call("POST /routes", route.clone().boxed()),
        call("POST /services/{x}/routes", route.clone().boxed()),
        call("PUT /services/{x}/routes/{y}", route.clone().boxed()),
        call("PATCH /routes/{x}", route.clone().boxed()),
        call("PUT /routes/{x}/service", Just(json!({"host": "h"})).boxed()),
        call("DELETE /routes/{x}", empty.clone()),
        call("POST /upstreams", upstream.clone().boxed()),
        call("PUT /upstreams/{x}", upstream.boxed()),
        call("DELETE /upstreams/{x}", empty.clone()),
        call("POST /upstreams/{x}/targets", target.clone().boxed()),
        call("PATCH /upstreams/{x}/targets/{y}:8000", target.boxed()),
        call("DELETE /upstreams/{x}/targets/{y}:8000", empty.clone()),
        call("PUT /upstreams/{x}/policy", policy.clone().boxed()),
        call("PATCH /upstreams/{x}/policy", policy.boxed()),
        call("DELETE /upstreams/{x}/policy", empty.clone()),
        call("POST /certificates", certificate.clone().boxed()),
        call("PUT /certificates/{x}", certificate.boxed()),
        call("PATCH /certificates/{x}", listing.boxed()),
        call("DELETE /certificates/{x}", empty.clone()),
        call("POST /certificates/{x}/snis", sni.clone().boxed()),
        call("PATCH /snis/{x}", sni.boxed()),
        call("DELETE /snis/{x}", empty.clone()),
        call("POST /consumers", consumer.clone().boxed()),
        call("PUT /consumers/{x}", consumer.boxed()),
        call("DELETE /consumers/{x}", empty.clone()),
        call("POST /consumers/{x}/keyauth_credentials", key.clone().boxed()),
        call("PUT /consumers/{x}/keyauth_credentials/{y}", key.boxed()),
        call("DELETE /keyauth_credentials/{x}", empty.clone()),
        call("POST /consumers/{x}/basicauth_credentials", password.clone().boxed()),
        call("PUT /consumers/{x}/basicauth_credentials/{y}", password.boxed()),
        call("POST /plugins", plugin.clone().boxed()),
        call("POST /services/{x}/plugins", plugin.clone().boxed()),
        call("POST /routes/{x}/plugins", plugin.clone().boxed()),
        call("POST /consumers/{x}/plugins", plugin.clone().boxed()),
        call("PATCH /plugins/{x}", plugin.boxed()),
        call("DELETE /plugins/{x}", empty),
    ];
    prop::collection::vec(one, 1..40)
}

fn all(config: &Config) -> Vec<Arc<Entity>> {
    Kind::ALL.into_iter().flat_map(|kind| config.iter(kind).cloned().collect::<Vec<_>>()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn indexes_and_replay_never_differ_from_what_is_stored(calls in calls()) {
        let mut world = World::new();
        let mut replayed = Config::default();
        for (call, body) in calls {
            if world.call(&call, body).is_err() {
                continue;
            }
            for mutation in &world.effect.mutations {
                replayed.restore(mutation);
            }
            prop_assert_eq!(&replayed, &world.config, "{}", call);
            for certificate in world.config.iter(Kind::Certificate) {
                let snis = world.config.children(Kind::Sni, "certificate", certificate.id);
                let mut names: Vec<_> = snis.iter().map(|sni| sni.body()["name"].clone()).collect();
                names.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
                prop_assert_eq!(&certificate.body()["snis"], &Value::from(names), "{}", call);
            }
            let mut rebuilt = Config::default();
            for entity in all(&world.config) {
                rebuilt.restore(&Mutation { before: None, after: Some(entity) });
            }
            prop_assert_eq!(&rebuilt, &world.config, "{}", call);
        }
    }

    #[test]
    fn what_is_stored_is_accepted_again_as_it_is(calls in calls()) {
        let mut world = World::new();
        for (call, body) in calls {
            let _refused = world.call(&call, body);
        }
        for entity in all(&world.config) {
            prop_assert_eq!(validate(entity.kind, entity.body()), Ok(()));
            for (field, kind, _) in schema::Schema::of(entity.kind).foreign() {
                let referenced = world.config.referenced(entity.kind, &Key::Id(entity.id), field);
                prop_assert_eq!(referenced.map(|e| e.kind), entity.body()[field].is_object().then_some(kind));
            }
            // Nothing but the time of the change differs after an empty PATCH, or one with all that is stored.
            // A password that is sent is hashed, whatever it is.
            let mut as_stored = entity.body();
            as_stored.remove("password");
            for body in [Body::new(), as_stored] {
                let op = Op::Patch(Key::Id(entity.id), body);
                let got = world.apply(Change { kind: entity.kind, op, parent: None }).unwrap();
                let (mut got, stored) = (got.as_object().unwrap().clone(), entity.body());
                if let Some(time) = stored.get("updated_at") {
                    let told = got.insert("updated_at".to_owned(), time.clone());
                    prop_assert_ne!(told.as_ref(), Some(time));
                }
                prop_assert_eq!(&got, &stored);
            }
        }
    }

    #[test]
    fn an_exported_config_is_the_same_when_it_is_imported(calls in calls(), others in self::calls()) {
        let mut world = World::new();
        for (call, body) in calls {
            let _refused = world.call(&call, body);
        }
        let document = declarative::export(&world.config);
        let read = |base: &Config| {
            let new_id = &mut || panic!("every id is in the document");
            let mut context = Context { now_ms: 1_000, new_id, plugins: PluginName::ALL };
            Declarative::read(document.clone(), base, &mut context).unwrap()
        };
        let (_, effect) = world.config.replace(read(&world.config)).unwrap();
        prop_assert_eq!(effect.mutations, vec![]);
        // Whatever was stored before.
        let mut other = World::new();
        other.ids = 1_000;
        for (call, body) in others {
            let _refused = other.call(&call, body);
        }
        for base in [Config::default(), other.config] {
            let (config, effect) = base.replace(read(&base)).unwrap();
            prop_assert_eq!(&config, &world.config);
            let mut replayed = base;
            for mutation in &effect.mutations {
                replayed.restore(mutation);
            }
            prop_assert_eq!(&replayed, &config);
        }
    }
}
