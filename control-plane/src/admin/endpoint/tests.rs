use super::*;

fn find(path: &str) -> Option<(Endpoint, Vec<String>)> {
    Endpoints::new().find(path).map(|found| {
        let text = |parameter: Vec<u8>| String::from_utf8_lossy(&parameter).into_owned();
        (found.endpoint, found.parameters.into_iter().map(text).collect())
    })
}

const ROUTES: Reference = Reference { child: Kind::Route, field: "service", parent: Kind::Service };
const TARGETS: Reference = Reference { child: Kind::Target, field: "upstream", parent: Kind::Upstream };
const KEYS: Reference = Reference { child: Kind::KeyAuth, field: "consumer", parent: Kind::Consumer };
const POLICY: Reference = Reference { child: Kind::Policy, field: "upstream", parent: Kind::Upstream };

#[test]
fn paths_stand_for_their_endpoints() {
    let cases: [(&str, Endpoint, &[&str]); 36] = [
        ("/", Endpoint::Root, &[]),
        ("/status", Endpoint::Status, &[]),
        ("/status/", Endpoint::Status, &[]),
        ("/services", Endpoint::Collection(Kind::Service), &[]),
        ("/services/", Endpoint::Collection(Kind::Service), &[]),
        ("/services/s", Endpoint::Entity(Kind::Service), &["s"]),
        ("/services/s/routes", Endpoint::Children(ROUTES), &["s"]),
        ("/services/s/routes/r/", Endpoint::Child(ROUTES), &["s", "r"]),
        ("/routes/r/service", Endpoint::Foreign(ROUTES), &["r"]),
        ("/upstreams/u/targets/all", Endpoint::TargetsAll, &["u"]),
        ("/upstreams/u/targets/al", Endpoint::Child(TARGETS), &["u", "al"]),
        ("/upstreams/u/policy", Endpoint::Only(POLICY), &["u"]),
        ("/upstreams/u/health/", Endpoint::Health, &["u"]),
        ("/upstreams/u/balancer", Endpoint::Balancer, &["u"]),
        ("/upstreams/u/targets/t/healthy", Endpoint::SetHealth(Verdict::Healthy), &["u", "t"]),
        ("/upstreams/u/targets/t/unhealthy/", Endpoint::SetHealth(Verdict::Unhealthy), &["u", "t"]),
        (
            "/upstreams/u/targets/t/10.0.0.1:80/unhealthy",
            Endpoint::SetHealth(Verdict::Unhealthy),
            &["u", "t", "10.0.0.1:80"],
        ),
        ("/consumers/c/key-auth", Endpoint::Children(KEYS), &["c"]),
        ("/consumers/c/key-auth/k", Endpoint::Child(KEYS), &["c", "k"]),
        ("/key-auths", Endpoint::Collection(Kind::KeyAuth), &[]),
        ("/key-auths/k/consumer", Endpoint::Foreign(KEYS), &["k"]),
        ("/basic-auths/b", Endpoint::Entity(Kind::BasicAuth), &["b"]),
        ("/plugins/p", Endpoint::Entity(Kind::Plugin), &["p"]),
        ("/plugins/enabled", Endpoint::EnabledPlugins, &[]),
        ("/plugins/schema/cors", Endpoint::PluginConfigSchema, &["cors"]),
        ("/schemas/plugins", Endpoint::Schema, &["plugins"]),
        ("/schemas/plugins/cors", Endpoint::PluginSchema, &["cors"]),
        ("/schemas/plugins/validate", Endpoint::ValidatePlugin, &[]),
        ("/schemas/consumers/validate", Endpoint::Validate, &["consumers"]),
        ("/filter-chains", Endpoint::FilterChains, &[]),
        ("/routes/r/filters/all", Endpoint::FilterChains, &["r"]),
        ("/services/%C3%A9", Endpoint::Entity(Kind::Service), &["é"]),
        ("/services/é", Endpoint::Entity(Kind::Service), &["é"]),
        ("/services/%2541", Endpoint::Entity(Kind::Service), &["%41"]),
        ("/services/%zz", Endpoint::Entity(Kind::Service), &["%zz"]),
        ("/%73ervices", Endpoint::Collection(Kind::Service), &[]),
    ];
    for (path, endpoint, parameters) in cases {
        let want = parameters.iter().map(ToString::to_string).collect();
        assert_eq!(find(path), Some((endpoint, want)), "{path}");
    }
}

#[test]
fn other_paths_stand_for_nothing() {
    for path in [
        "",
        "*",
        "//",
        "//services",
        "/services//",
        "/SERVICES",
        "/services/a/b",
        "/services/a%2Fb",
        "/services/a/routes/b/c",
        "/services/a//b",
        "/policies",
        "/policies/p",
        "/upstreams/u/policy/p",
        "/targets",
        "/targets/t",
        "/targets/t/upstream",
        "/upstreams/u/targets/t/upstream",
        "/keyauth_credentials",
        "/consumers/c/keyauth_credentials",
        "/consumers/c/key-auths",
        "/nothing",
    ] {
        assert_eq!(find(path), None, "{path:?}");
    }
}

#[test]
fn allow_lists_are_sorted_and_complete() {
    for (endpoint, want) in [
        (Endpoint::Root, "GET, HEAD, OPTIONS"),
        (Endpoint::Collection(Kind::Service), "GET, HEAD, OPTIONS, POST"),
        (Endpoint::Entity(Kind::Route), "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        (Endpoint::Only(POLICY), "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        (Endpoint::Validate, "OPTIONS, POST"),
        (Endpoint::SetHealth(Verdict::Healthy), "OPTIONS, PUT"),
    ] {
        assert_eq!(endpoint.allow(), want);
    }
}

/// Source: the order in which the reference's `/endpoints` lists these.
#[test]
fn endpoints_are_listed_in_the_order_of_the_reference() {
    let want = [
        "/",
        "/acls",
        "/acls/{acls}",
        "/acls/{acls}/consumer",
        "/basic-auths",
        "/basic-auths/{basicauth_credentials}",
        "/basic-auths/{basicauth_credentials}/consumer",
        "/batch",
        "/ca_certificates",
        "/ca_certificates/{ca_certificates}",
        "/cache",
        "/cache/{key}",
        "/certificates",
        "/certificates/{certificates}",
        "/certificates/{certificates}/services",
        "/certificates/{certificates}/services/{services}",
        "/certificates/{certificates}/snis",
        "/certificates/{certificates}/snis/{snis}",
        "/certificates/{certificates}/upstreams",
        "/certificates/{certificates}/upstreams/{upstreams}",
        "/clustering/authorities",
        "/clustering/data-planes",
        "/clustering/data-planes/{id}",
        "/clustering/data-planes/{id}/drain",
        "/clustering/denied",
        "/clustering/denied/{id}",
        "/clustering/enrolments",
        "/clustering/enrolments/{id}",
        "/clustering/status",
        "/clustering/tokens",
        "/clustering/tokens/{id}",
        "/clustering/zones",
        "/config",
        "/consumers",
        "/consumers/{consumers}",
        "/consumers/{consumers}/acls",
        "/consumers/{consumers}/acls/{acls}",
        "/consumers/{consumers}/basic-auth",
        "/consumers/{consumers}/basic-auth/{basicauth_credentials}",
        "/consumers/{consumers}/hmac-auth",
        "/consumers/{consumers}/hmac-auth/{hmacauth_credentials}",
        "/consumers/{consumers}/jwt",
        "/consumers/{consumers}/jwt/{jwt_secrets}",
        "/consumers/{consumers}/key-auth",
        "/consumers/{consumers}/key-auth/{keyauth_credentials}",
        "/consumers/{consumers}/plugins",
        "/consumers/{consumers}/plugins/{plugins}",
        "/debug/cluster/log-level/{log_level}",
        "/debug/node/log-level",
        "/debug/node/log-level/{log_level}",
        "/endpoints",
        "/explain",
        "/filter-chains",
        "/filter-chains/{filter_chains}",
        "/filter-chains/{filter_chains}/route",
        "/filter-chains/{filter_chains}/service",
        "/hmac-auths",
        "/hmac-auths/{hmacauth_credentials}",
        "/hmac-auths/{hmacauth_credentials}/consumer",
        "/jwts",
        "/jwts/{jwt_secrets}",
        "/jwts/{jwt_secrets}/consumer",
        "/key-auths",
        "/key-auths/{keyauth_credentials}",
        "/key-auths/{keyauth_credentials}/consumer",
        "/key-sets",
        "/key-sets/{key_sets}",
        "/key-sets/{key_sets}/keys",
        "/key-sets/{key_sets}/keys/{keys}",
        "/keys",
        "/keys/{keys}",
        "/keys/{keys}/set",
        "/metrics",
        "/openapi.json",
        "/plugins",
        "/plugins/enabled",
        "/plugins/schema/{name}",
        "/plugins/{plugins}",
        "/plugins/{plugins}/consumer",
        "/plugins/{plugins}/route",
        "/plugins/{plugins}/service",
        "/routes",
        "/routes/{routes}",
        "/routes/{routes}/filter-chains",
        "/routes/{routes}/filter-chains/{filter_chains}",
        "/routes/{routes}/filters/all",
        "/routes/{routes}/filters/disabled",
        "/routes/{routes}/filters/enabled",
        "/routes/{routes}/plugins",
        "/routes/{routes}/plugins/{plugins}",
        "/routes/{routes}/service",
        "/schemas/filters/{name}",
        "/schemas/plugins/validate",
        "/schemas/plugins/{name}",
        "/schemas/vaults/validate",
        "/schemas/vaults/{name}",
        "/schemas/{db_entity_name}/validate",
        "/schemas/{name}",
        "/services",
        "/services/{services}",
        "/services/{services}/client_certificate",
        "/services/{services}/filter-chains",
        "/services/{services}/filter-chains/{filter_chains}",
        "/services/{services}/plugins",
        "/services/{services}/plugins/{plugins}",
        "/services/{services}/routes",
        "/services/{services}/routes/{routes}",
        "/snis",
        "/snis/{snis}",
        "/status",
        "/status/dns",
        "/tags",
        "/tags/{tags}",
        "/timers",
        "/upstreams",
        "/upstreams/{upstreams}",
        "/upstreams/{upstreams}/balancer",
        "/upstreams/{upstreams}/client_certificate",
        "/upstreams/{upstreams}/health",
        "/upstreams/{upstreams}/policy",
        "/upstreams/{upstreams}/targets",
        "/upstreams/{upstreams}/targets/all",
        "/upstreams/{upstreams}/targets/{targets}",
        "/upstreams/{upstreams}/targets/{targets}/healthy",
        "/upstreams/{upstreams}/targets/{targets}/unhealthy",
        "/upstreams/{upstreams}/targets/{targets}/{address}/healthy",
        "/upstreams/{upstreams}/targets/{targets}/{address}/unhealthy",
        "/vaults",
        "/vaults/{vaults}",
    ];
    assert_eq!(Endpoints::new().paths(), want);
}
