//! Who may join: TLS, users and passwords.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use vxplane::store::{Change, Store as _, etcd::EtcdOptions};
use vxplane_tests::harness::{EtcdMember, EtcdTls, Lab};

use crate::site::{Site, network, open, run_on};

/// Makes a CA and a certificate of its, in files `<name>-{ca,cert,key}.pem`.
fn certificates(directory: &Path, name: &str, ip: IpAddr) -> Result<EtcdTls> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::IpAddress(ip)];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &ca)?;
    let file = |what: &str, content: String| {
        let path = directory.join(format!("{name}-{what}.pem"));
        fs::write(&path, content).map(|()| path)
    };
    Ok(EtcdTls {
        ca: file("ca", ca.pem())?,
        cert: file("cert", cert.pem())?,
        key: file("key", key.serialize_pem())?,
    })
}

#[test]
fn only_certificates_of_the_right_authority_get_in() -> Result<()> {
    let lab = Lab::new()?;
    let (server, nodes) = (lab.host("etcd")?, lab.host("nodes")?);
    let right = certificates(nodes.directory(), "right", server.ip().into())?;
    let wrong = certificates(nodes.directory(), "wrong", server.ip().into())?;
    let etcd = EtcdMember::alone_with_tls(&server, &right)?;
    let options = |ca: &EtcdTls, own: Option<&EtcdTls>| EtcdOptions {
        ca: Some(ca.ca.clone()),
        cert: own.map(|own| own.cert.clone()),
        key: own.map(|own| own.key.clone()),
        ..EtcdOptions::new(vec![etcd.address()])
    };
    run_on(&nodes, async {
        let directory = |name: &str| nodes.directory().join(name);
        let a = open(options(&right, Some(&right)), &directory("a"), "a").await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        ensure!(a.store.health().problems.is_empty());
        for (name, options) in [
            ("server", options(&wrong, Some(&right))),
            ("client", options(&right, Some(&wrong))),
            ("nobody", options(&right, None)),
            ("plain", EtcdOptions::new(vec![etcd.address()])),
        ] {
            let b = open(options, &directory(name), name).await?;
            let health = b.store.health();
            ensure!(!health.problems.is_empty(), "{name} got in");
            ensure!(b.picture().contents.desired.networks.is_empty());
            let refused = b.put(vec![Change::PutNetwork(network("red", 1)?)]).await;
            ensure!(refused.is_err(), "{name} got in");
        }
        Ok(())
    })
}

#[test]
fn only_users_with_the_right_password_get_in() -> Result<()> {
    let site = Site::new()?;
    for command in [
        "user add root:top",
        "user grant-role root root",
        "role add nodes",
        "role grant-permission nodes readwrite --prefix=true /vxplane/",
        "user add node:secret",
        "user grant-role node nodes",
        "user add guest:guest",
        "auth enable",
    ] {
        site.etcd.ctl(command)?.success()?;
    }
    let options = |user: &str, password: &str| {
        let path = site.nodes.directory().join(format!("{user}-{password}"));
        fs::write(&path, format!("{password}\n"))?;
        anyhow::Ok(EtcdOptions {
            user: Some(user.to_owned()),
            password_file: Some(path),
            ..site.options()
        })
    };
    site.run(async {
        let a = site.store_with("a", options("node", "secret")?).await?;
        a.announce(1);
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        a.attach("blue", "c1").await?;
        a.until("itself", |it| {
            it.desired
                .cluster
                .as_ref()
                .is_some_and(|it| it.is_alive("a"))
        })
        .await?;
        ensure!(a.store.health().problems.is_empty());
        for (name, options) in [
            ("wrong", options("node", "wrong")?),
            ("guest", options("guest", "guest")?),
            ("nobody", site.options()),
        ] {
            let b = site.store_with(name, options).await?;
            let problems = b.store.health().problems;
            let told = problems.iter().any(|it| it.contains("--etcd-user"));
            ensure!(told, "{name}: {problems:?}");
            let refused = b.put(vec![Change::PutNetwork(network("red", 1)?)]).await;
            let refused = refused.unwrap_err().to_string();
            ensure!(refused.contains("refused"), "{name}: {refused}");
        }
        Ok(())
    })
}
