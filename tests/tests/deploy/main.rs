//! What `deploy/` holds is true: its files are what their tools take, and name settings, metrics and flags that exist.
//!
//! The tools come from `.ci/run` (Debian's packages, and `deploy/check/requirements*.txt` in `target/deploy-tools`). Where one is
//! missing its check is skipped and says so; with `CI=true` in the environment that is a failure.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read is a failed test")]

mod kubernetes;
mod names;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

fn text(path: &str) -> String {
    fs::read_to_string(deploy().join(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// All files of `deploy/` below `dir`, but those of the standalone binary and the sample of all settings.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if !["standalone", "settings", "check"]
                .iter()
                .any(|name| path.ends_with(format!("deploy/{name}")))
            {
                files(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn all() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&deploy(), &mut found);
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted))
}

/// The documents of a YAML file.
fn yaml(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a tool in `dir`; its exit code and all it said.
fn run(tool: &Path, dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(tool).args(arguments).current_dir(dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said.into_owned())
}

/// Runs a tool that must be content.
fn passes(tool: &Path, dir: &Path, arguments: &[&str]) {
    let (code, said) = run(tool, dir, arguments);
    assert_eq!(code, Some(0), "{} {arguments:?}:\n{said}", tool.display());
}

/// Calls `each` with every object that has an image.
fn containers(value: &Value, each: &mut impl FnMut(&Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("image") {
                let mut fields = fields.clone();
                for name in ["command", "args"] {
                    fields.entry(name).or_insert(Value::Null);
                }
                each(&fields);
            }
            fields.values().for_each(|field| containers(field, each));
        }
        Value::Array(items) => items.iter().for_each(|item| containers(item, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What rules and dashboards compute, with where it stands.
fn expressions() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for group in yaml(&deploy().join("prometheus/rules.yml"))[0]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
            found.push((name.to_owned(), rule["expr"].as_str().unwrap().to_owned()));
        }
    }
    for (name, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let place = format!("{name}, panel {}", panel["title"]);
                found.push((place, target["expr"].as_str().unwrap().to_owned()));
            }
        }
    }
    found
}

fn dashboards() -> Vec<(String, Value)> {
    let named = |name: &str| {
        (name.to_owned(), serde_json::from_str(&text(&format!("grafana/dashboards/{name}"))).unwrap())
    };
    ["cluster.json", "balancer.json"].map(named).into()
}
