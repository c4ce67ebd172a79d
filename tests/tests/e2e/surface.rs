//! The command line, and how it and the API are one.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vxplane_tests::harness::Daemon;

use crate::site::{lab, sites};

fn exit_code(daemon: &Daemon, arguments: &str) -> Result<i32> {
    let done = daemon.try_cli(arguments)?;
    done.status
        .code()
        .with_context(|| format!("`vxplane {arguments}` was killed"))
}

/// An error unless the command is refused with this status, and says why in
/// these words on its standard error.
fn refused(daemon: &Daemon, arguments: &str, code: i32, words: &str) -> Result<()> {
    let done = daemon.try_cli(arguments)?;
    ensure!(
        done.status.code() == Some(code) && done.stderr.contains(words),
        "`vxplane {arguments}`: {}\n{}{}",
        done.status,
        done.stdout,
        done.stderr
    );
    ensure!(
        done.stdout.is_empty(),
        "an error on standard output: {}",
        done.stdout
    );
    Ok(())
}

#[test]
fn networks_endpoints_and_peers_by_command_line() -> Result<()> {
    let lab = lab()?;
    let [a, b] = sites(&lab, "")?;
    for site in [&a, &b] {
        site.daemon
            .cli("network create green --subnet 10.60.0.0/24 --vni 60")?;
    }
    let mut ids = Vec::new();
    for (site, name, ip) in [(&a, "ca", "10.60.0.5"), (&b, "cb", "10.60.0.6")] {
        let container = lab.container(name)?;
        let path = container.netns().path();
        let printed = site.daemon.cli_json(&format!(
            "endpoint attach --network green --netns {} --name {name} --ip {ip} --label tier=web",
            path.display()
        ))?;
        ensure!(printed["labels"]["tier"] == "web", "{printed}");
        let id = printed["id"].as_str().context("no id")?.to_owned();
        ids.push((site, container, id));
    }
    ids[0].1.must_reach("10.60.0.6".parse()?, 5)?;
    for (site, container, id) in &ids {
        site.daemon.cli(&format!("endpoint detach {id}"))?;
        let links = container.run("ip -o link show")?;
        ensure!(!links.contains("eth0"), "{links}");
        site.daemon.cli("network rm green")?;
    }
    let peer = b.ip();
    a.daemon.cli(&format!("peer rm {peer}"))?;
    ensure!(a.daemon.cli_json("peer ls")? == Value::Array(Vec::new()));
    a.daemon.cli(&format!("peer add {peer} --network blue"))?;
    ensure!(a.daemon.cli_json("peer ls")?[0]["networks"][0] == "blue");
    Ok(())
}

#[test]
fn a_process_names_its_network_namespace() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let container = lab.container("c")?;
    let sleep = container.start("sleep", &["60"])?;
    let pid = sleep.id();
    a.daemon
        .cli(&format!("endpoint attach --network blue --pid {pid}"))?;
    let other = a.member(&lab, "other", 50)?;
    container.must_reach(other.ip(), 3)
}

#[test]
fn json_is_what_the_api_returns() -> Result<()> {
    let lab = lab()?;
    let [a, _b] = sites(&lab, "")?;
    let member = a.member(&lab, "m", 11)?;
    let id = &member.endpoint.id;
    for (arguments, path) in [
        ("network ls", "/v1/networks"),
        ("network inspect blue", "/v1/networks/blue"),
        ("endpoint ls", "/v1/endpoints"),
        (
            &format!("endpoint inspect {id}"),
            &format!("/v1/endpoints/{id}"),
        ),
        ("peer ls", "/v1/peers"),
    ] {
        let (printed, answered) = (
            a.daemon.cli_json(arguments)?,
            a.daemon.api("GET", path, None)?,
        );
        ensure!(
            printed == answered,
            "{arguments}: {printed}\n{path}: {answered}"
        );
    }
    let status = a.daemon.cli_json("status")?;
    ensure!(
        status["healthy"] == true && status["counts"]["endpoints_ready"] == 1,
        "{status}"
    );
    for arguments in ["network ls", "endpoint ls", "peer ls", "status"] {
        let table = a.daemon.cli(arguments)?;
        ensure!(
            !table.trim().is_empty(),
            "`vxplane {arguments}` prints nothing"
        );
    }
    Ok(())
}

#[test]
fn the_exit_status_tells_refused_from_wrong_usage() -> Result<()> {
    let lab = lab()?;
    let [mut a] = sites::<1>(&lab, "")?;
    let daemon = &a.daemon;
    ensure!(exit_code(daemon, "network ls")? == 0);
    // What exists already as asked for is no error.
    ensure!(exit_code(daemon, "network create blue --subnet 10.50.0.0/24 --vni 7")? == 0);
    refused(
        daemon,
        "network create blue --subnet 10.99.9.0/24",
        1,
        "blue",
    )?;
    refused(
        daemon,
        "network create other --subnet 10.50.0.0/25",
        1,
        "blue",
    )?;
    refused(daemon, "network inspect nobody", 1, "nobody")?;
    refused(daemon, "endpoint detach nobody", 1, "nobody")?;
    refused(
        daemon,
        "endpoint attach --network blue --netns /nowhere",
        1,
        "/nowhere",
    )?;
    refused(daemon, "network create", 2, "Usage")?;
    refused(daemon, "network create x --vni 0", 1, "VNI")?;
    refused(daemon, "network create x --vni blue", 2, "--vni")?;
    refused(daemon, "endpoint attach --network blue", 2, "--netns")?;
    refused(daemon, "no-such-command", 2, "no-such-command")?;
    refused(daemon, "doctor --xdp fast", 2, "--xdp")?;
    refused(daemon, "doctor --port 0", 2, "--port")?;
    refused(daemon, "doctor --store disk", 2, "--store")?;
    a.daemon.stop()?;
    let socket = a.daemon.socket().display().to_string();
    refused(&a.daemon, "network ls", 1, &socket)
}

#[test]
fn help_lists_what_there_is() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let help = a.daemon.cli("--help")?;
    for command in [
        "daemon",
        "status",
        "doctor",
        "network",
        "endpoint",
        "peer",
        "policy",
        "namespace",
        "monitor",
        "trace",
        "completions",
    ] {
        ensure!(help.contains(command), "{command} is missing:\n{help}");
    }
    for later in ["proxy", "cni"] {
        ensure!(!help.contains(later), "{later} does not exist yet:\n{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = a.daemon.cli(&format!("completions {shell}"))?;
        ensure!(script.contains("vxplane"), "{shell}: {script}");
    }
    let openapi = a.daemon.api("GET", "/v1/openapi.json", None)?;
    ensure!(
        openapi["paths"]["/v1/networks"]["post"].is_object(),
        "{openapi}"
    );
    Ok(())
}

#[test]
fn errors_of_the_api_are_problems() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    for (method, path, body, status, code) in [
        ("GET", "/v1/networks/nobody", None, 404, "network_not_found"),
        ("GET", "/v1/nothing", None, 404, "no_such_route"),
        ("PUT", "/v1/networks", None, 405, "method_not_allowed"),
        (
            "POST",
            "/v1/networks",
            Some(r#"{"name":"x","subnet":"10.50.0.0/16"}"#),
            409,
            "subnet_overlaps",
        ),
        (
            "POST",
            "/v1/networks",
            Some(r#"{"name":"-"}"#),
            400,
            "invalid_name",
        ),
        (
            "POST",
            "/v1/networks",
            Some(r#"{"name":"x","vni":16777216}"#),
            400,
            "invalid_vni",
        ),
    ] {
        let body = body.map(serde_json::from_str).transpose()?;
        let answer = a.daemon.try_api(method, path, body.as_ref())?;
        ensure!(
            answer.status == status && answer.json["code"] == code,
            "{method} {path} {body:?}: {} {}",
            answer.status,
            answer.text
        );
        ensure!(
            answer.json["detail"]
                .as_str()
                .is_some_and(|text| text.len() > 10)
        );
    }
    Ok(())
}

#[test]
fn doctor_examines_this_host() -> Result<()> {
    let lab = lab()?;
    let [a] = sites(&lab, "")?;
    let done = a.daemon.try_cli("doctor")?;
    ensure!(
        matches!(done.status.code(), Some(0 | 1)),
        "{}\n{}",
        done.status,
        done.stderr
    );
    for topic in ["tcx", "MTU", "4789"] {
        let report = done.stdout.to_lowercase();
        ensure!(
            report.contains(&topic.to_lowercase()),
            "nothing on {topic}:\n{}",
            done.stdout
        );
    }
    Ok(())
}
