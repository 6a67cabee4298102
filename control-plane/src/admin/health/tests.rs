use super::*;

fn body(value: Value) -> Body {
    value.as_object().unwrap().clone()
}

fn target(weight: u32) -> Body {
    body(json!({ "id": Uuid::nil().to_string(), "target": "a.example:80", "weight": weight }))
}

fn entity(weight: u32) -> Arc<Entity> {
    Arc::new(Entity::new(Kind::Target, Uuid::nil(), &target(weight)))
}

fn health(states: &[Health]) -> TargetHealth {
    let addresses = states.iter().zip(1_u8..).map(|(health, n)| AddressHealth {
        address: SocketAddr::from(([10, 0, 0, n], 80)),
        weight: 100,
        health: *health,
    });
    TargetHealth { dns: "A".to_owned(), addresses: addresses.collect() }
}

#[test]
fn the_verdict_on_a_target_is_in_the_words_of_the_reference() {
    use Checks::{Off, On};
    use Health::{Healthy, Unhealthy};
    let cases: [(&str, u32, Checks, &[Health], &str); 7] = [
        ("one healthy", 1, On, &[Unhealthy, Healthy], "HEALTHY"),
        ("none healthy", 1, On, &[Unhealthy, Unhealthy], "UNHEALTHY"),
        ("no address", 1, On, &[], "DNS_ERROR"),
        ("checks off", 1, Off, &[Healthy], "HEALTHCHECKS_OFF"),
        ("checks off, no address", 1, Off, &[], "DNS_ERROR"),
        ("weight zero", 0, On, &[Unhealthy], "HEALTHCHECKS_OFF"),
        ("weight zero, no address", 0, On, &[], "HEALTHCHECKS_OFF"),
    ];
    for (name, weight, checks, states, want) in cases {
        assert_eq!(verdict(weight, checks, &health(states)), want, "{name}");
    }
}

#[test]
fn checks_are_on_when_one_switch_is() {
    let on = |healthchecks: Value| checks(&body(json!({ "healthchecks": healthchecks })));
    assert_eq!(on(json!({ "passive": { "healthy": { "successes": 5 } } })), Checks::Off);
    assert_eq!(on(json!({ "active": { "healthy": { "interval": 0 } } })), Checks::Off);
    assert_eq!(on(json!({ "active": { "healthy": { "interval": 0.5 } } })), Checks::On);
    assert_eq!(on(json!({ "passive": { "unhealthy": { "timeouts": 1 } } })), Checks::On);
}

#[test]
fn an_unheard_target_has_no_health() {
    let row = row(&target(1), Checks::On, None);
    assert!(row.get("health").is_none() && row.get("data").is_none());
}

#[test]
fn a_row_tells_weights_and_addresses() {
    let row = row(&target(100), Checks::On, Some(&health(&[Health::Healthy, Health::Unhealthy])));
    assert_eq!(row["data"]["weight"], json!({ "total": 200, "available": 100, "unavailable": 100 }));
    assert_eq!(row["data"]["host"], "a.example");
    assert_eq!(row["data"]["port"], 80);
    assert_eq!(
        row["data"]["addresses"][1],
        json!({ "ip": "10.0.0.2", "port": 80, "weight": 100, "health": "UNHEALTHY" })
    );
}

#[test]
fn the_upstream_is_healthy_above_its_threshold() {
    let states = [Some(health(&[Health::Healthy, Health::Unhealthy]))];
    for (name, checks, threshold, want) in [
        ("none", Checks::On, 0.0, ("HEALTHY", "HEALTHY")),
        ("just not above", Checks::On, 50.0, ("UNHEALTHY", "UNHEALTHY")),
        ("just above", Checks::On, 49.9, ("HEALTHY", "HEALTHY")),
        ("off", Checks::Off, 99.0, ("HEALTHCHECKS_OFF", "HEALTHY")),
    ] {
        let interval = if checks == Checks::On { 1 } else { 0 };
        let active = json!({ "healthy": { "interval": interval } });
        let upstream = body(json!({ "healthchecks": { "threshold": threshold, "active": active } }));
        let data = balancer_health(Uuid::nil(), &upstream, &[entity(100)], &states);
        assert_eq!(
            (data["health"].as_str(), data["balancer_health"].as_str()),
            (Some(want.0), Some(want.1)),
            "{name}"
        );
        assert_eq!(data["details"]["hosts"][0]["addresses"][0]["healthy"], true, "{name}");
    }
    let unheard = balancer_health(Uuid::nil(), &Body::new(), &[entity(1)], &[None]);
    assert!(unheard.get("health").is_none());
}

#[test]
fn an_address_in_a_path_is_an_ip_with_a_port_or_without() {
    for (text, want) in [
        ("10.0.0.1:80", Some("10.0.0.1:80")),
        ("10.0.0.1", Some("10.0.0.1:8000")),
        ("[::1]:80", Some("[::1]:80")),
        ("[::1]", Some("[::1]:8000")),
        ("::1", Some("[::1]:8000")),
        ("a.example:80", None),
        ("10.0.0.1:x", None),
        ("", None),
    ] {
        assert_eq!(address(text.as_bytes()), want.map(|want| want.parse().unwrap()), "{text}");
    }
    assert_eq!(address(b"\xff"), None);
}
