//! What `deploy/` holds is true: its files are what their tools take, and name settings, metrics and flags that exist.
//!
//! The tools come from `.ci/run` (Debian's packages, and `deploy/check/requirements*.txt` in `target/deploy-tools`). Where one is
//! missing its check is skipped and says so; with `CI=true` in the environment that is a failure.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use equipoise_settings::keys;
use equipoise_tests::cluster::balance;
use equipoise_tests::fleet::Fleet;
use equipoise_tests::process::binary;
use equipoise_tests::{Origin, PATIENCE, eventually};
use regex::Regex;
use serde_json::{Map, Value};

/// Settings that the deployments use before this tree has them: those of relays. Empty once they are here.
const SETTINGS_TO_COME: &[&str] = &["role", "upstream"];

/// Metrics that only a relay has; there is none in this suite.
const METRICS_OF_RELAYS: &[&str] = &["equipoise_upstream_connected"];

/// Flags of the binaries that are no settings.
const FLAGS: &[&str] = &[
    "admin",
    "check",
    "force",
    "help",
    "kong-conf",
    "label",
    "out",
    "print-settings",
    "region",
    "role",
    "settings",
    "ttl",
    "uses",
    "version",
    "zone",
];

/// Has a heading for every alert.
const RUNBOOK: &str = "README.md";

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

/// A tool that a test checks with; `None`, with a line that says so, where it is missing and need not be there.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    first(name, std::iter::once(own_tools()).chain(std::env::split_paths(&path)))
}

/// Where `.ci/run` puts tools that no distribution has.
fn own_tools() -> PathBuf {
    deploy().parent().unwrap().join("target/deploy-tools/bin")
}

fn first(name: &str, dirs: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let found = dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is missing, and in CI nothing is skipped: see .ci/run"
        );
        eprintln!("skipped: {name} is not installed (.ci/run installs it)");
    }
    found
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

#[test]
fn every_variable_is_a_setting() {
    let word = Regex::new(r"EQUIPOISE_[A-Z_]+").unwrap();
    let known: BTreeSet<_> = keys::ALL.iter().map(|key| key.environment()).collect();
    let mut seen = 0;
    for (path, text) in all() {
        for found in word.find_iter(&text) {
            seen += 1;
            assert!(known.contains(found.as_str()), "{}: {}", path.display(), found.as_str());
        }
    }
    assert!(seen > 20, "{seen}");
}

/// Flags for our binaries: in systemd's and the runbook's lines that name one, and in arguments of containers of our images.
fn flags(path: &Path, text: &str) -> Vec<String> {
    let flag = Regex::new(r"(?:^|\s)--([a-z][a-z-]*)").unwrap();
    let ours =
        Regex::new(r"(?:/usr/bin/|^|\s|exec \S+ )equipoise(?:-control-plane|-data-plane)(?: |$)").unwrap();
    let mut lines: Vec<String> = Vec::new();
    if has_ending(path, &["service", "md"]) {
        for line in text.lines() {
            // What stands before the binary is another program's.
            lines.extend(ours.find(line).map(|found| line[found.start()..].replace(['`', ')'], " ")));
        }
    } else if has_ending(path, &["yaml"]) {
        for document in yaml(path) {
            containers(&document, &mut |container| {
                if container["image"].as_str().is_some_and(|image| image.starts_with("equipoise")) {
                    let lists = ["command", "args"]
                        .map(|name| container[name].as_array().cloned().unwrap_or_default());
                    lines.extend(lists.concat().iter().map(|word| word.as_str().unwrap().to_owned()));
                }
            });
        }
    }
    let found = lines.iter().flat_map(|line| flag.captures_iter(line));
    found.map(|captures| captures[1].to_owned()).collect()
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

#[test]
fn every_flag_is_one_of_the_binaries() {
    let settings: BTreeSet<_> = keys::ALL.iter().map(|key| key.flag()).collect();
    let mut seen = 0;
    for (path, text) in all() {
        for flag in flags(&path, &text) {
            seen += 1;
            let is_known =
                settings.contains(&flag) || FLAGS.contains(&&*flag) || SETTINGS_TO_COME.contains(&&*flag);
            assert!(is_known, "{}: --{flag}", path.display());
        }
    }
    assert!(seen > 20, "{seen}");
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

/// Names of the series in a scrape.
fn series(scraped: &str) -> BTreeSet<String> {
    let lines = scraped.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboards_name_metrics_that_exist() {
    let fleet = Fleet::start(&[]).unwrap();
    let token = fleet.token(&["--region", "north", "--zone", "a"]);
    let node = fleet.node("one", &["--cluster-join-token", &token]).unwrap();
    fleet.connected(1);
    let origin = Origin::start("only");
    balance(&mut fleet.control().client("admin"), "", &[origin.address()]);
    assert_eq!(node.client("proxy").get("/mock").unwrap().status, 200);
    let scrape = |process: &equipoise_tests::Process, listener: &str| {
        process.client(listener).get("/metrics").unwrap().text()
    };
    // A request is counted when its answer is out.
    eventually("the request to be counted", PATIENCE, || {
        scrape(&node, "status").contains("kong_http_requests_total{").then_some(())
    });
    let (control, data) = (scrape(fleet.control(), "admin"), scrape(&node, "status"));
    if let Some(promtool) = tool("promtool") {
        for (name, text) in [("control plane", &control), ("node", &data)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            let check = Command::new(&promtool)
                .args(["check", "metrics"])
                .stdin(file.reopen().unwrap())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&check.stderr);
            // 3: it reads it, and would name some of it otherwise (Kong's names are as they are).
            assert!(matches!(check.status.code(), Some(0 | 3)), "metrics of the {name}: {said}");
        }
    }
    let (control, data) = (series(&control), series(&data));
    let recorded: BTreeSet<_> = expressions().into_iter().map(|(name, _)| name).collect();
    let selector = Regex::new(r"([A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{([^}]*)\})?").unwrap();
    let string = Regex::new(r#""[^"]*""#).unwrap();
    let mut seen = 0;
    for (place, expression) in expressions() {
        for found in selector.captures_iter(&expression) {
            let name = &found[1];
            let labels = found.get(2).map_or("", |labels| labels.as_str());
            if name.contains(':') {
                assert!(recorded.contains(name), "{place}: no rule records {name}");
                continue;
            }
            if !name.starts_with("kong_") && !name.starts_with("equipoise_")
                || METRICS_OF_RELAYS.contains(&name)
            {
                continue;
            }
            seen += 1;
            let has = if labels.contains("equipoise-control-plane") {
                control.contains(name)
            } else {
                assert!(labels.contains(r#"job="equipoise-node""#), "{place}: {name} without a job");
                data.contains(name)
            };
            assert!(has, "{place}: no process has {name}{{{}}}", string.replace_all(labels, "…"));
        }
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn prometheus_takes_its_files() {
    let Some(promtool) = tool("promtool") else { return };
    let dir = deploy().join("prometheus");
    passes(&promtool, &dir, &["check", "config", "prometheus.yml"]);
    passes(&promtool, &dir, &["test", "rules", "rules.test.yml"]);
    // What dashboards compute, as rules: their variables stand inside of strings.
    let rules: Vec<_> = expressions()
        .into_iter()
        .enumerate()
        .map(|(number, (_, expr))| serde_json::json!({"record": format!("panel:{number}"), "expr": expr}))
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let groups = serde_json::json!({"groups": [{"name": "all", "rules": rules}]});
    fs::write(file.path(), groups.to_string()).unwrap();
    passes(&promtool, &dir, &["check", "rules", file.path().to_str().unwrap()]);
}

#[test]
fn dashboards_hang_together() {
    let used = Regex::new(r"\$([a-z]+)").unwrap();
    for (name, dashboard) in dashboards() {
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let variables: BTreeSet<_> =
            variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        assert!(variables.contains("datasource"), "{name}");
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{name}: panel {} has another's id",
                panel["title"]
            );
            let place = &panel["gridPos"];
            assert!(
                place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24,
                "{name}: {}",
                panel["title"]
            );
            for target in panel["targets"].as_array().into_iter().flatten() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}: {}", panel["title"]);
                for variable in used.captures_iter(target["expr"].as_str().unwrap()) {
                    assert!(
                        variables.contains(&variable[1]),
                        "{name}: {}: ${}",
                        panel["title"],
                        &variable[1]
                    );
                }
            }
        }
    }
}

#[test]
fn every_alert_has_its_entry_in_the_runbook_and_the_other_way_round() {
    let runbook = text(RUNBOOK);
    let name = Regex::new(r"\bEquipoise[A-Z][A-Za-z]+\b").unwrap();
    let entries: BTreeSet<&str> = runbook
        .lines()
        .filter(|line| line.starts_with("### "))
        .flat_map(|line| name.find_iter(line).map(|found| found.as_str()))
        .collect();
    let rules = yaml(&deploy().join("prometheus/rules.yml"));
    let groups = rules[0]["groups"].as_array().unwrap();
    let alerts: BTreeSet<&str> = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .filter_map(|rule| rule["alert"].as_str())
        .collect();
    assert_eq!(alerts, entries);
}

#[test]
fn yaml_is_yaml_and_manifests_fit_the_schemas_of_kubernetes() {
    let mut manifests = Vec::new();
    for (path, _) in all() {
        if has_ending(&path, &["yaml", "yml"]) {
            assert!(!yaml(&path).is_empty(), "{}", path.display());
            if path.starts_with(deploy().join("kubernetes")) && !path.ends_with("kustomization.yaml") {
                manifests.push(path);
            }
        }
    }
    assert!(manifests.len() > 5);
    let Some(validate) = tool("kubernetes-validate") else { return };
    let check = |path: &Path| {
        run(&validate, &deploy(), &["--strict", "--quiet", "-k", "1.33.0", path.to_str().unwrap()])
    };
    for path in &manifests {
        let (code, said) = check(path);
        assert_eq!(code, Some(0), "{}:\n{said}", path.display());
    }
    // It does look: a field that is not there is refused.
    let broken = tempfile::NamedTempFile::new().unwrap();
    let text = fs::read_to_string(deploy().join("kubernetes/node/node.yaml")).unwrap();
    fs::write(broken.path(), text.replace("minReadySeconds", "minReadySecond")).unwrap();
    assert_ne!(check(broken.path()).0, Some(0));
}

#[test]
fn overlays_of_kubernetes_can_be_made() {
    let dir = deploy().join("kubernetes");
    // kubectl is in no package of Debian 12: whoever has it checks more.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let kubectl = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|path| path.exists());
    let reference = Regex::new(r#""configMap(?:KeyRef)?":\{[^}]*"name":"([^"]+)""#).unwrap();
    for overlay in ["single-region", "multi-region/north", "multi-region/south"] {
        for resource in
            yaml(&dir.join(overlay).join("kustomization.yaml"))[0]["resources"].as_array().unwrap()
        {
            assert!(dir.join(overlay).join(resource.as_str().unwrap()).exists(), "{overlay}: {resource}");
        }
        let Some(kubectl) = &kubectl else {
            eprintln!("skipped: kubectl is not installed, {overlay} is not rendered");
            continue;
        };
        let (code, said) = run(kubectl, &dir, &["kustomize", overlay]);
        assert_eq!(code, Some(0), "{overlay}: {said}");
        let Some(validate) = tool("kubernetes-validate") else { continue };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &said).unwrap();
        passes(&validate, &dir, &["--strict", "--quiet", "-k", "1.33.0", file.path().to_str().unwrap()]);
        let documents = yaml(file.path());
        let maps: BTreeSet<_> = documents
            .iter()
            .filter(|document| document["kind"] == "ConfigMap")
            .map(|document| document["metadata"]["name"].as_str().unwrap())
            .collect();
        for document in &documents {
            for found in reference.captures_iter(&document.to_string()) {
                assert!(maps.contains(&found[1]), "{overlay}: no config map {}", &found[1]);
            }
        }
    }
}

#[test]
fn every_pod_is_confined_and_has_a_budget() {
    let mut pods = 0;
    let mut budgets = BTreeSet::new();
    let mut sets = BTreeSet::new();
    for (path, _) in all() {
        if !path.starts_with(deploy().join("kubernetes")) {
            continue;
        }
        for document in yaml(&path) {
            let kind = document["kind"].as_str().unwrap();
            let labels = &document["spec"]["selector"]["matchLabels"];
            match kind {
                "PodDisruptionBudget" => drop(budgets.insert(labels.to_string())),
                "Deployment" | "StatefulSet" => {
                    sets.insert(labels.to_string());
                    assert_eq!(
                        labels,
                        &document["spec"]["template"]["metadata"]["labels"],
                        "{}",
                        path.display()
                    );
                }
                _ => {}
            }
            let template = match kind {
                "CronJob" => &document["spec"]["jobTemplate"]["spec"]["template"],
                _ => &document["spec"]["template"],
            };
            if template.is_null() {
                continue;
            }
            // Else the variables of a service `equipoise-admin` look like settings, and each costs a warning.
            assert_eq!(template["spec"]["enableServiceLinks"], false, "{}: {kind}", path.display());
            let pod = &template["spec"]["securityContext"];
            assert_eq!(
                (&pod["runAsNonRoot"], &pod["seccompProfile"]["type"]),
                (&true.into(), &"RuntimeDefault".into())
            );
            containers(&template["spec"], &mut |container| {
                pods += 1;
                let security = &container["securityContext"];
                let is_confined = security["allowPrivilegeEscalation"] == false
                    && security["readOnlyRootFilesystem"] == true
                    && security["capabilities"]["drop"] == serde_json::json!(["ALL"]);
                assert!(is_confined, "{}: {}", path.display(), container["name"]);
            });
        }
    }
    assert!(pods >= 7, "{pods}");
    assert_eq!(budgets, sets);
}

#[test]
fn the_compose_file_fits_its_schema() {
    // With the packages that read the schema: any other python has not got them.
    let Some(python) = first("python", [own_tools()]) else { return };
    passes(&python, &deploy(), &["check/compose_file.py", "compose.yaml"]);
}

#[test]
fn the_dockerfile_has_no_lint() {
    let Some(hadolint) = tool("hadolint") else { return };
    passes(&hadolint, &deploy(), &["Dockerfile"]);
}

#[test]
fn units_are_what_systemd_takes_and_confined() {
    /// Of 100, where 0 is best.
    const EXPOSURE_MAX: &str = "20";
    let Some(analyze) = tool("systemd-analyze") else { return };
    let dir = tempfile::tempdir().unwrap();
    let programs = binary("equipoise");
    let programs = programs.parent().unwrap().to_str().unwrap();
    for name in ["control-plane", "relay", "node"] {
        let name = format!("equipoise-{name}.service");
        // It wants the programs to be there.
        let unit = text(&format!("systemd/{name}")).replace("/usr/bin/", &format!("{programs}/"));
        fs::write(dir.path().join(&name), unit).unwrap();
        let (code, said) = run(&analyze, dir.path(), &["verify", "--man=no", &format!("./{name}")]);
        // A warning does not change its exit code.
        assert!(code == Some(0) && !said.contains(&name), "{said}");
        let threshold = format!("--threshold={EXPOSURE_MAX}");
        passes(
            &analyze,
            dir.path(),
            &["security", "--offline=yes", "--no-pager", &threshold, &format!("./{name}")],
        );
    }
}
