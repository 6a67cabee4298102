//! Manifests: the schemas of Kubernetes, and what every pod of ours must have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use equipoise_tests::tools::tool;
use regex::Regex;

use crate::{all, containers, deploy, has_ending, passes, run, yaml};

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
