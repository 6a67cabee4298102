//! The architecture rules of the sources: which module may know what. Each failure names file and line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules that compute: they open no socket or file, read no clock, draw no randomness, know no runtime.
const PURE: &[&str] = &[
    "control-plane/src/model",
    "control-plane/src/nodes/barrier",
    "control-plane/src/nodes/health",
    "control-plane/src/nodes/registry",
    "control-plane/src/nodes/record",
    "control-plane/src/nodes/verdicts",
    "control-plane/src/distribution/balancer",
    "control-plane/src/distribution/encode",
    "control-plane/src/distribution/resolve",
    "control-plane/src/admin/endpoint",
    "control-plane/src/relay/status",
    "control-plane/src/identity/ledger",
    "control-plane/src/identity/record",
    "control-plane/src/distribution/attempts",
    "control-plane/src/observability/text",
    "data-plane/src/dns/schedule",
    "data-plane/src/router",
    "data-plane/src/balancer",
    "data-plane/src/health",
    "data-plane/src/http1",
    "data-plane/src/table/compile",
    "data-plane/src/spans/context",
    "data-plane/src/spans/otlp",
    "data-plane/src/proxy_protocol",
    "data-plane/src/proxy/retry",
    "data-plane/src/proxy/http2/head",
    "data-plane/src/proxy/http2/frames",
    "data-plane/src/proxy/http2/hpack",
    "data-plane/src/proxy/rewrite",
    "access-log/src/escape",
    "access-log/src/format",
    "access-log/src/time",
    "data-plane/src/tls/hello",
    "identity/src/spiffe",
    "identity/src/token",
    "identity/src/certificate",
    "identity/src/authority",
    "identity/src/seal",
    "follower/src/backoff",
    "follower/src/fallback/format",
    "follower/src/partial",
    "follower/src/membership/plan",
    "proto/src/placement",
];

/// What gives a module away as impure.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::io::Read",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant::now",
    "SystemTime::now",
    "rand::rng",
    "Uuid::new_v4",
    "std::env",
    "std::thread",
];

/// Shells that may not import each other; they meet in `store`, `nodes` and `table`.
const SHELLS: &[(&str, &[&str])] = &[
    ("control-plane/src", &["admin", "distribution", "relay"]),
    ("data-plane/src", &["proxy", "sync", "probe", "dns", "status"]),
    ("data-plane/src", &["stream_proxy", "sync", "probe", "dns", "status"]),
];

/// Where wire types may appear.
const WIRE: &[&str] = &[
    "control-plane/src/distribution",
    "control-plane/src/relay",
    "data-plane/src/sync",
    "data-plane/src/table/compile",
];

/// Where `anyhow` and process exit may appear.
const MAINS: &[&str] =
    &["control-plane/src/main.rs", "data-plane/src/main.rs", "deploy/standalone/src/main.rs"];

/// Files that are compiled for tests only.
const TEST_FILES: &[&str] = &["tests.rs", "fixture.rs"];

struct Line {
    path: String,
    number: usize,
    text: String,
}

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Code lines of all sources below `dir`, without comments and test modules.
fn code(dir: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    visit(&root().join(dir), &mut lines);
    lines
}

fn visit(dir: &Path, lines: &mut Vec<Line>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target" && name != "tests") {
                visit(&path, lines);
            }
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && !TEST_FILES.iter().any(|name| path.ends_with(name))
        {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            let text = fs::read_to_string(&path).expect("sources can be read");
            lines.extend(without_tests(&text).map(|(number, text)| Line {
                path: name.clone(),
                number,
                text: text.to_owned(),
            }));
        }
    }
}

/// The numbered lines of code, without comments and without the items that are for tests only.
fn without_tests(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // The indentation of a test item that we are in.
    let mut skipped: Option<usize> = None;
    let code =
        (1..).zip(text.lines()).map(|(number, line)| (number, line.split("//").next().unwrap_or_default()));
    code.filter(move |(_, line)| {
        let trimmed = line.trim();
        let indentation = line.len() - line.trim_start().len();
        match skipped {
            Some(_) if trimmed.is_empty() || trimmed.starts_with("#[") => false,
            Some(of) => {
                // As rustfmt writes it, an item ends with a brace (or a semicolon) at its own indentation.
                if indentation == of && (trimmed.starts_with('}') || trimmed.ends_with([';', '}'])) {
                    skipped = None;
                }
                false
            }
            None if trimmed == "#[cfg(test)]" => {
                skipped = Some(indentation);
                false
            }
            None => !trimmed.is_empty(),
        }
    })
}

#[test]
fn only_the_items_for_tests_are_left_out() {
    let text = "mod a;\n#[cfg(test)]\nmod tests;\nuse b;\n\n#[cfg(test)]\n#[path = \"x\"]\nmod more {\n    fn c() {\n    }\n}\n\
                impl D {\n    #[cfg(test)]\n    fn e() {\n        f();\n    }\n    fn g() {} // h\n}";
    let kept: Vec<_> = without_tests(text).map(|(number, line)| (number, line.trim())).collect();
    assert_eq!(kept, [(1, "mod a;"), (4, "use b;"), (12, "impl D {"), (17, "fn g() {}"), (18, "}")]);
}

/// Whether `path` is module `module` (a file `module.rs` or anything in `module/`).
fn is_in(path: &str, module: &str) -> bool {
    path == module || path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// Whether `text` has `word` as a whole.
fn mentions(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !is_part(before) && (word.ends_with(':') || !is_part(after))
    })
}

fn hold(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

fn place(line: &Line) -> String {
    format!("{}:{}: {}", line.path, line.number, line.text.trim())
}

#[test]
fn pure_modules_touch_nothing() {
    let broken = code(".").into_iter().filter(|line| PURE.iter().any(|module| is_in(&line.path, module)));
    let broken = broken.filter(|line| IMPURE.iter().any(|sign| mentions(&line.text, sign)));
    hold(
        "pure modules open nothing, read no clock and draw no randomness",
        broken.map(|l| place(&l)).collect(),
    );
}

#[test]
fn every_pure_module_exists() {
    let lines = code(".");
    let missing = PURE.iter().filter(|module| !lines.iter().any(|line| is_in(&line.path, module)));
    hold("a module listed as pure is gone: mend the list", missing.map(|m| (*m).to_owned()).collect());
}

#[test]
fn shells_do_not_import_shells() {
    let mut broken = Vec::new();
    for (source, shells) in SHELLS {
        for line in code(source) {
            let Some(own) = shells.iter().find(|shell| is_in(&line.path, &format!("{source}/{shell}")))
            else {
                continue;
            };
            let others = shells.iter().filter(|shell| *shell != own);
            if others.into_iter().any(|shell| mentions(&line.text, &format!("crate::{shell}"))) {
                broken.push(place(&line));
            }
        }
    }
    hold("shells meet in `store`, `nodes` and `table`", broken);
}

#[test]
fn wire_types_stop_at_the_door() {
    let planes = code("control-plane/src").into_iter().chain(code("data-plane/src"));
    let broken = planes.filter(|line| !WIRE.iter().any(|module| is_in(&line.path, module)));
    let broken = broken.filter(|line| mentions(&line.text, "v1::") || mentions(&line.text, "proto::v1"));
    hold("`proto::v1` stays in the modules at the wire", broken.map(|l| place(&l)).collect());
}

#[test]
fn planes_do_not_import_each_other() {
    let pairs = [("control-plane", "equipoise-data-plane"), ("data-plane", "equipoise-control-plane")];
    for (plane, other) in pairs {
        let manifest = fs::read_to_string(root().join(plane).join("Cargo.toml")).expect("a manifest");
        assert!(!manifest.contains(other), "{plane}/Cargo.toml depends on {other}");
    }
}

#[test]
fn every_dependency_is_used() {
    /// What only the code generated from the `.proto` files names.
    const GENERATED: [&str; 3] = ["prost", "tonic", "tonic_prost"];
    let packages = [
        "proto",
        "settings",
        "access-log",
        "identity",
        "follower",
        "control-plane",
        "data-plane",
        "deploy/standalone",
        "tests",
    ];
    let mut unused = Vec::new();
    for package in packages {
        let path = format!("{package}/Cargo.toml");
        let manifest = fs::read_to_string(root().join(&path)).expect("a manifest");
        let mut all = String::new();
        whole(&root().join(package), &mut all);
        let mut is_in_list = false;
        for (number, line) in (1..).zip(manifest.lines()) {
            if line.starts_with('[') {
                is_in_list = line.ends_with("dependencies]");
            } else if is_in_list && let Some((name, _)) = line.split_once(['.', ' ', '=']) {
                let name = name.replace('-', "_");
                let is_named = mentions(&all, &format!("{name}::")) || mentions(&all, &format!("use {name}"));
                let is_generated = package == "proto" && GENERATED.contains(&name.as_str());
                if !(is_named || is_generated || name.starts_with('#')) {
                    unused.push(format!("{path}:{number}: {name}"));
                }
            }
        }
    }
    hold("a dependency that no source names", unused);
}

/// All sources below `dir`, tests included.
fn whole(dir: &Path, all: &mut String) {
    for entry in fs::read_dir(dir).expect("a package's directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            whole(&path, all);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            all.push_str(&fs::read_to_string(&path).expect("sources can be read"));
        }
    }
}

#[test]
fn anyhow_and_process_exit_are_for_main() {
    let broken = [
        "control-plane/src",
        "data-plane/src",
        "proto/src",
        "settings/src",
        "access-log/src",
        "identity/src",
        "follower/src",
        "deploy/standalone/src",
    ]
    .into_iter()
    .flat_map(code)
    .filter(|line| !MAINS.contains(&line.path.as_str()))
    .filter(|line| mentions(&line.text, "anyhow") || mentions(&line.text, "process::exit"));
    hold("only `main.rs` ends the process", broken.map(|l| place(&l)).collect());
}

#[test]
fn every_metric_of_a_node_is_explained() {
    let names = fs::read_to_string(root().join("data-plane/src/observability/names.rs")).expect("the names");
    let explained = fs::read_to_string(root().join("data-plane/README.md")).expect("the README");
    let metrics: Vec<_> =
        names.split('"').filter(|text| text.starts_with("kong_") || text.starts_with("equipoise_")).collect();
    assert!(metrics.len() > 40, "names are written in another way now");
    let silent = metrics.into_iter().filter(|name| !explained.contains(&format!("`{name}`")));
    hold("data-plane/README.md says what each metric is", silent.map(str::to_owned).collect());
}

#[test]
fn nothing_is_left_to_do_in_code() {
    let broken = code(".").into_iter().filter(|line| {
        ["todo!", "unimplemented!", "dbg!"].iter().any(|sign| line.text.contains(&format!("{sign}(")))
            && !line.path.ends_with("tidy.rs")
    });
    hold("no stubs", broken.map(|l| place(&l)).collect());
}

#[test]
fn there_is_one_crypto_provider() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["tree", "--workspace", "--locked", "--offline", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo runs the tests, so it is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("tokio v"), "the tree must not be empty");
    assert!(!text.lines().any(|line| line.starts_with("ring v")), "`ring` is in the tree: aws-lc-rs only");
}
