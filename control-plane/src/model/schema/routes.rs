//! Routes.

use equipoise_proto::limits::{ROUTE_LIST_MAX, ROUTE_REGEX_COMPILED_BYTES_MAX, ROUTE_REGEXES_MAX};
use serde_json::{Value, json};

use super::engine::is_empty;
use super::format::{EMPTY_SEGMENTS, header_name, id, name, port, protocol, seconds, tags};
use super::{Body, Check, Custom, EndpointKey, Fault, Field, If, Named, Pattern, Rule, Schema, Then, When};
use crate::model::{Kind, patterns};

const GROUPS: [&[&str]; 4] =
    [&["http", "https"], &["tcp", "tls", "udp"], &["tls_passthrough"], &["grpc", "grpcs"]];

pub(super) fn schema() -> Schema {
    let list = |field: Field| field.rule(Rule::LenMax(ROUTE_LIST_MAX));
    let flag = |default: bool| Field::boolean().default(default).required();
    let protocols = Field::set(protocol())
        .rule(Rule::LenMin(1))
        .rule(Rule::Exclusive(GROUPS.iter().map(|group| group.to_vec()).collect()))
        .default(json!(["http", "https"]))
        .required();
    let redirect = Rule::OneOf([426, 301, 302, 307, 308].map(Into::into).to_vec());
    let fields = vec![
        id(),
        seconds("created_at"),
        seconds("updated_at"),
        name(),
        ("protocols", protocols),
        ("https_redirect_status_code", Field::integer().rule(redirect).default(426).required()),
        ("strip_path", flag(true)),
        ("preserve_host", flag(false)),
        ("request_buffering", flag(true)),
        ("response_buffering", flag(true)),
        tags(),
        ("service", Field::foreign(Kind::Service)),
        ("snis", list(Field::set(Field::string().custom(patterns::wildcard_sni)))),
        ("sources", list(peers())),
        ("destinations", list(peers())),
        ("methods", list(Field::set(Field::string().rule(Rule::Match(METHOD))))),
        ("hosts", list(Field::array(host()))),
        ("paths", list(Field::array(path()))),
        ("headers", list(headers())),
        ("regex_priority", Field::integer().default(0)),
        ("path_handling", Field::string().one_of(&["v0", "v1"]).default("v0")),
    ];
    let schema = Schema { endpoint_key: Some(EndpointKey::Global("name")), ..Schema::new(fields, checks()) };
    with_variants(schema)
}

fn with_variants(schema: Schema) -> Schema {
    const HTTP: &str = "'http' or 'https'";
    const STREAM: &str = "'tcp', 'tls', 'tls_passthrough' or 'udp'";
    const GRPC: &str = "'grpc' or 'grpcs'";
    let strip_path = Field::boolean()
        .default(false)
        .required()
        .rule(Rule::Not(true.into(), "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'".into()));
    let mut grpc = null(&["methods", "sources", "destinations"], GRPC);
    grpc.push(("strip_path", strip_path));
    let stream = || null(&["methods", "hosts", "paths", "headers"], STREAM);
    schema
        .variant("protocols", GROUPS[0], null(&["sources", "destinations"], HTTP), vec![needs(http_needs)])
        .variant("protocols", GROUPS[1], stream(), vec![needs(stream_needs)])
        .variant("protocols", GROUPS[2], stream(), vec![needs(passthrough_needs)])
        .variant("protocols", GROUPS[3], grpc, vec![needs(grpc_needs)])
}

fn null(fields: &[&'static str], protocols: &str) -> Vec<Named> {
    let refused = |field: &'static str| {
        let error = format!("cannot set '{field}' when 'protocols' is {protocols}");
        (field, Field::string().rule(Rule::Null(error.into())))
    };
    fields.iter().copied().map(refused).collect()
}

fn needs(accept: fn(&Body) -> Result<(), Fault>) -> Check {
    let sources = vec!["methods", "hosts", "headers", "paths", "snis", "sources", "destinations"];
    Check::Custom(Custom {
        sources,
        runs_with_missing_fields: true,
        is_shown: true,
        when: When::Always,
        accept,
    })
}

fn http_needs(body: &Body) -> Result<(), Fault> {
    if has(body, "https") {
        return must_set(body, &["methods", "hosts", "headers", "paths", "snis"], "'https'");
    }
    must_set(body, &["methods", "hosts", "headers", "paths"], "'http'")
}

fn stream_needs(body: &Body) -> Result<(), Fault> {
    must_set(body, &["sources", "destinations", "snis"], "'tcp', 'tls' or 'udp'")
}

fn passthrough_needs(body: &Body) -> Result<(), Fault> {
    if body.get("snis").is_some_and(|value| !is_empty(value)) {
        return Ok(());
    }
    Err("must set snis when 'protocols' is 'tls_passthrough'".to_owned().into())
}

fn grpc_needs(body: &Body) -> Result<(), Fault> {
    if has(body, "grpcs") {
        return must_set(body, &["hosts", "headers", "paths", "snis"], "'grpcs'");
    }
    must_set(body, &["hosts", "headers", "paths"], "'grpc'")
}

fn must_set(body: &Body, fields: &[&str], protocols: &str) -> Result<(), Fault> {
    if fields.iter().any(|field| body.get(*field).is_some_and(|value| !is_empty(value))) {
        return Ok(());
    }
    Err(format!("must set one of '{}' when 'protocols' is {protocols}", fields.join("', '")).into())
}

fn has(body: &Body, protocol: &str) -> bool {
    body.get("protocols").and_then(Value::as_array).is_some_and(|list| list.iter().any(|p| p == protocol))
}

fn checks() -> Vec<Check> {
    let without_tls = If::NoElementOneOf(vec!["grpcs", "https", "tls", "tls_passthrough"]);
    let error = "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'";
    let compiled = [
        "id",
        "protocols",
        "snis",
        "sources",
        "destinations",
        "methods",
        "hosts",
        "paths",
        "headers",
        "expression",
        "regex_priority",
        "priority",
    ];
    vec![
        Check::when("protocols", without_tls, "snis", Then::Empty).saying(error),
        // Only the router flavour of expressions has something to say here.
        Check::Custom(Custom {
            sources: vec!["path_handling"],
            runs_with_missing_fields: false,
            is_shown: true,
            when: When::NoOtherError,
            accept: |_| Ok(()),
        }),
        Check::Custom(Custom {
            sources: compiled.to_vec(),
            runs_with_missing_fields: true,
            is_shown: true,
            when: When::NoOtherError,
            accept: compiles,
        }),
    ]
}

/// What the router's dialect of regular expressions refuses is an error of the route, not of a field. The only
/// place where they are compiled: what they come to is bounded for the route as a whole.
fn compiles(body: &Body) -> Result<(), Fault> {
    let mut regexes = Regexes::default();
    let items = |field: &str| body.get(field).and_then(Value::as_array).into_iter().flatten();
    for path in items("paths").filter_map(Value::as_str) {
        regexes.add(&["paths"], patterns::path_in_router(path)?.compiled_bytes_max())?;
    }
    for (name, values) in body.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
        if values.is_empty() {
            return Err(format!("Router Expression failed validation: no value for header '{name}'").into());
        }
        for value in values.iter().filter_map(Value::as_str) {
            regexes.add(&["headers"], patterns::header_in_router(value)?.compiled_bytes_max())?;
        }
    }
    Ok(())
}

/// The regular expressions of a route so far.
#[derive(Debug, Default)]
struct Regexes {
    count: usize,
    compiled_bytes: usize,
}

impl Regexes {
    /// Counts one more; what is none takes no bytes.
    fn add(&mut self, field: &'static [&'static str], compiled_bytes: usize) -> Result<(), Fault> {
        self.count += usize::from(compiled_bytes > 0);
        self.compiled_bytes += compiled_bytes;
        let text = if self.count > ROUTE_REGEXES_MAX {
            format!("no more than {ROUTE_REGEXES_MAX} regular expressions in one route")
        } else if self.compiled_bytes > ROUTE_REGEX_COMPILED_BYTES_MAX {
            format!("regular expressions take more than {ROUTE_REGEX_COMPILED_BYTES_MAX} bytes in one route")
        } else {
            return Ok(());
        };
        Err(Fault::Field(field, text))
    }
}

fn peers() -> Field {
    let ip = Field::string().custom(patterns::ip_or_cidr);
    Field::set(
        Field::record(vec![("ip", ip), ("port", port())])
            .checks(vec![Check::AtLeastOneOf(vec!["ip", "port"])]),
    )
}

const METHOD: Pattern = Pattern {
    shown: "^%u+$",
    found: |text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase()),
    error: "invalid value: ",
};

fn host() -> Field {
    const MISPLACED: &str = "invalid wildcard: must be placed at leftmost or rightmost label";
    let any = |shown, found| Pattern { shown, found, error: MISPLACED };
    Field::string()
        .rule(Rule::MatchAll(vec![Pattern {
            shown: "^[^*]*%*?[^*]*$",
            found: |text| text.matches('*').count() <= 1,
            error: "invalid wildcard: must have at most one wildcard",
        }]))
        .rule(Rule::MatchAny(vec![
            any("^%*%.", |text| text.starts_with("*.")),
            any("%.%*$", |text| text.ends_with(".*")),
            any("^[^*]*$", |text| !text.contains('*')),
        ]))
        .custom(patterns::host_pattern)
}

fn path() -> Field {
    let any = |shown, found| Pattern {
        shown,
        found,
        error: "should start with: / (fixed path) or ~/ (regex path)",
    };
    Field::string()
        .rule(Rule::MatchNone(vec![EMPTY_SEGMENTS]))
        .rule(Rule::MatchAny(vec![
            any("^/", |text| text.starts_with('/')),
            any("^~/", |text| text.starts_with("~/")),
        ]))
        .custom(patterns::route_path)
}

fn headers() -> Field {
    let host = Pattern {
        shown: "^[Hh][Oo][Ss][Tt]$",
        found: |text| text.eq_ignore_ascii_case("host"),
        error: "cannot contain 'host' header, which must be specified in the 'hosts' attribute",
    };
    let values =
        Field::array(Field::string().custom(patterns::header_pattern)).rule(Rule::LenMax(ROUTE_LIST_MAX));
    Field::map(header_name().rule(Rule::MatchNone(vec![host])), values)
}
