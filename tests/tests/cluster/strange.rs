//! What no vxplane of this version wrote.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vxplane::store::{Change, Store as _};

use crate::site::{Site, network};

#[test]
fn what_is_not_valid_is_told_and_never_acted_on() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let a = site.store("a").await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        let objects = "/vxplane/v1/objects";
        let endpoint = |ip: &str, mac: &str| {
            format!(
                r#"{{"id":"0123456789ab","container_id":"c","name":null,"ifname":"eth0","network":"blue","node":"b","ip":"{ip}","mac":"{mac}","namespace":"default","labels":{{}}}}"#
            )
        };
        let wrong = [
            ("networks/red", "{".to_owned()),
            ("networks/a/b", "x".to_owned()),
            ("endpoints/0123456789ab", endpoint("10.60.0.2", "02:42:00:00:00:01")),
            ("endpoints/0123456789ab", endpoint("10.50.0.1", "02:42:00:00:00:01")),
            ("endpoints/0123456789ab", endpoint("10.50.0.2", "01:00:00:00:00:01")),
            ("endpoints/ffffffffffff", endpoint("10.50.0.2", "02:42:00:00:00:01")),
            ("routes/x", String::new()),
        ];
        for (key, value) in wrong {
            let key = format!("{objects}/{key}");
            site.etcd.ctl_with(&["put", &key, &value])?.success()?;
            let name = key.trim_start_matches(objects).trim_start_matches('/');
            let told = |it: &[String]| it.iter().any(|it| it.contains(name));
            a.until_problems(name, told).await?;
            let picture = a.picture();
            let desired = &picture.contents.desired;
            ensure!(desired.networks.len() == 1, "{desired:#?}");
            let cluster = desired.cluster.clone().unwrap_or_default();
            ensure!(cluster.endpoints.is_empty(), "{desired:#?}");
            site.etcd.ctl_with(&["del", &key])?.success()?;
            a.until_problems("none", <[String]>::is_empty).await?;
        }
        let key = format!("{objects}/networks/red");
        site.etcd.ctl_with(&["put", &key, "{"])?.success()?;
        a.until_problems("red", |it| !it.is_empty()).await?;
        let refused = a.put(vec![Change::PutNetwork(network("red", 1)?)]).await;
        let refused = refused.unwrap_err().to_string();
        ensure!(refused.contains(&key), "{refused}");
        // Bounded, however many there are.
        for number in 0..30 {
            let key = format!("{objects}/networks/bad{number}");
            site.etcd.ctl_with(&["put", &key, "{"])?.success()?;
        }
        let many = |it: &[String]| it.iter().any(|it| it.contains("21 more"));
        let problems = a.until_problems("bounded", many).await?;
        ensure!(problems.len() < 15, "{problems:#?}");
        Ok(())
    })
}

/// Claims come and go with their endpoints. One without was written by somebody
/// else, and would keep its address, or its network, for ever.
#[test]
fn claims_that_no_endpoint_has_are_in_nobodys_way() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let (a, b) = (site.store("a").await?, site.store("b").await?);
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        let first = a.attach("blue", "first").await?;
        ensure!(first.ip.octets()[3] == 2, "{first:?}");
        let claim = |name: &str, holder: &str| -> Result<()> {
            let key = format!("/vxplane/v1/claims/blue/{name}");
            site.etcd.ctl_with(&["put", &key, holder])?.success()?;
            Ok(())
        };
        // Of nobody; of no endpoint at all; of one that has another address.
        claim("ip/10.50.0.3", "0123456789ab")?;
        claim("mac/02:42:0a:32:00:03", "odd/one")?;
        claim("ip/10.50.0.4", &first.id)?;
        let begun = Instant::now();
        for expected in [3, 4] {
            let container = format!("c{expected}");
            let endpoint = b.attach("blue", &container).await?;
            ensure!(endpoint.ip.octets()[3] == expected, "{endpoint:?}");
            b.detach(&container).await?;
            b.attach("blue", &container).await?;
        }
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(5), "it took {took:?}");
        // What is somebody's is nobody else's: its own claim is still there.
        let kept = site.etcd.ctl("get /vxplane/v1/claims/blue/ip/10.50.0.2")?;
        ensure!(kept.stdout.contains(&first.id), "{kept:?}");

        for (node, container) in [(&a, "first"), (&b, "c3"), (&b, "c4")] {
            node.detach(container).await?;
        }
        // More than one transaction can do something about.
        for number in 0..70 {
            claim(&format!("odd/{number}"), "0123456789ab")?;
        }
        a.put(vec![Change::RemoveNetwork("blue".to_owned())])
            .await?;
        let left = site
            .etcd
            .ctl("get /vxplane/v1/claims --prefix --keys-only")?;
        ensure!(left.stdout.trim().is_empty(), "{left:?}");
        Ok(())
    })
}

#[test]
fn a_later_schema_is_left_alone() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        site.etcd.ctl("put /vxplane/v1/meta 2")?.success()?;
        let refused = site.store("a").await.map(drop).unwrap_err().to_string();
        ensure!(refused.contains("schema version 2"), "{refused}");
        let keys = site.etcd.ctl("get /vxplane --prefix --keys-only")?.stdout;
        ensure!(keys.trim() == "/vxplane/v1/meta", "{keys}");
        Ok(())
    })
}

#[test]
fn several_clusters_can_share_one_etcd() -> Result<()> {
    let site = Site::new()?;
    site.run(async {
        let a = site.store("a").await?;
        let mut options = site.options();
        options.prefix = "/elsewhere".to_owned();
        let b = site.store_with("b", options).await?;
        a.put(vec![Change::PutNetwork(network("blue", 0)?)]).await?;
        b.put(vec![Change::PutNetwork(network("green", 0)?)])
            .await?;
        ensure!(!a.picture().contents.desired.networks.contains_key("green"));
        ensure!(b.store.health().problems.is_empty());
        Ok(())
    })
}
