//! Files that one tool reads each: Prometheus, Grafana, compose, the image's build, systemd.

use std::collections::BTreeSet;
use std::fs;

use equipoise_tests::process::binary;
use equipoise_tests::tools::{first, own_tools, tool};
use regex::Regex;

use crate::{dashboards, deploy, expressions, passes, run, text};

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
