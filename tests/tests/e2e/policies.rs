//! Policies, as users apply and see them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use serde_json::Value;
use vxplane_tests::harness::{Daemon, Lab};

use crate::site::{lab, sites};

/// One policy that lets nobody reach what has that label.
fn closed(name: &str, app: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {name}\n\
         spec:\n  podSelector:\n    matchLabels:\n      app: {app}\n"
    )
}

fn file(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.directory().join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// What `vxplane policy apply -f` says, or an error if it is refused.
fn apply(daemon: &Daemon, path: &Path) -> Result<String> {
    daemon.cli(&format!("policy apply -f {}", path.display()))
}

#[test]
fn policies_are_applied_shown_and_removed_as_with_kubectl() -> Result<()> {
    let lab = lab()?;
    let [mut a] = sites::<1>(&lab, "")?;
    let web = file(&lab, "web.yaml", &closed("web", "web"))?;
    let prefix = "networkpolicy.networking.k8s.io";
    for done in ["created", "unchanged"] {
        ensure!(apply(&a.daemon, &web)? == format!("{prefix}/web {done}\n"));
    }
    let both = format!("{}---\n{}", closed("web", "other"), closed("db", "db"));
    let both = file(&lab, "both.yaml", &both)?;
    let said = apply(&a.daemon, &both)?;
    ensure!(
        said == format!("{prefix}/web configured\n{prefix}/db created\n"),
        "{said}"
    );

    let answered = a.daemon.api("GET", "/v1/policies", None)?;
    ensure!(a.daemon.cli_json("policy ls")? == answered);
    let one = a.daemon.api("GET", "/v1/policies/default/web", None)?;
    ensure!(a.daemon.cli_json("policy inspect web")? == one);
    ensure!(a.daemon.cli_json("policy inspect default/web")? == one);
    let shown = a.daemon.cli("policy inspect web")?;
    ensure!(
        shown.contains("app=other") && shown.contains("nothing is allowed"),
        "{shown}"
    );
    let listed = a.daemon.cli("policy ls")?;
    ensure!(
        listed.contains("POD-SELECTOR") && listed.contains("app=db"),
        "{listed}"
    );

    a.daemon.stop()?;
    a.daemon.start_again()?;
    ensure!(
        a.daemon.api("GET", "/v1/policies", None)? == answered,
        "kept over a restart"
    );
    let said = a.daemon.cli("policy rm default/db")?;
    ensure!(said == format!("{prefix}/db deleted\n"), "{said}");
    let again = a.daemon.try_cli("policy rm db")?;
    ensure!(
        again.status.code() == Some(1) && again.stderr.contains("default/db"),
        "{again:?}"
    );
    Ok(())
}

#[test]
fn documents_that_are_no_policies_are_refused_with_file_and_field() -> Result<()> {
    let lab = lab()?;
    let [a] = sites::<1>(&lab, "")?;
    let wrong = format!(
        "{}---\n{}",
        closed("web", "web"),
        closed("x", "y").replace("matchLabels", "matchLabel")
    );
    let wrong = file(&lab, "wrong.yaml", &wrong)?;
    let done = a
        .daemon
        .try_cli(&format!("policy apply -f {}", wrong.display()))?;
    ensure!(
        done.status.code() == Some(1) && done.stdout.is_empty(),
        "{done:?}"
    );
    for word in ["wrong.yaml", "document 2", "spec.podSelector.matchLabel"] {
        ensure!(done.stderr.contains(word), "{word}: {}", done.stderr);
    }
    ensure!(
        a.daemon.cli_json("policy ls")? == Value::Array(Vec::new()),
        "none of them"
    );
    Ok(())
}

#[test]
fn namespaces_have_labels_and_endpoints_identities() -> Result<()> {
    let lab = lab()?;
    let [a] = sites::<1>(&lab, "")?;
    let (mut containers, mut identities) = (Vec::new(), Vec::new());
    for (name, app) in [("one", "web"), ("two", "web"), ("three", "db")] {
        let container = lab.container(name)?;
        let endpoint = a.daemon.cli_json(&format!(
            "endpoint attach --network blue --netns {} --name {name} --namespace shop --label app={app}",
            container.netns().path().display()
        ))?;
        identities.push(endpoint["identity"].clone());
        // Without a name of its own it is known by its namespace, whose number
        // another one could have after it.
        containers.push(container);
    }
    ensure!(
        identities[0] == identities[1] && identities[0] != identities[2],
        "{identities:?}"
    );
    ensure!(identities[0].as_u64() >= Some(256));
    a.daemon.cli("namespace label shop team=a stage=test")?;
    a.daemon.cli("namespace label shop stage-")?;
    let namespaces = a.daemon.cli_json("namespace ls")?;
    let shop = &namespaces[0];
    ensure!(
        shop["name"] == "shop" && shop["endpoints"] == 3,
        "{namespaces}"
    );
    let labels = serde_json::json!({ "team": "a", "kubernetes.io/metadata.name": "shop" });
    ensure!(shop["labels"] == labels, "{shop}");
    Ok(())
}
