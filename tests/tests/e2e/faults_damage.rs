//! Somebody damages what the daemon made, behind its back. It is as before within
//! two seconds, and who is not concerned notices nothing.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::Value;
use vxplane::datapath::map_file;
use vxplane_tests::harness::{Lab, Ping, finish_within, vxplane_binary};

use crate::site::{Member, Site, lab, sites};

/// What is promised is two seconds; a loaded machine gets as much again.
const LIMIT: Duration = Duration::from_secs(4);

/// The maps that the daemon writes and nobody else.
const TABLES: [&str; 7] = [
    "ENDPOINTS",
    "FDB",
    "NEIGHBOURS",
    "NETWORKS",
    "FLOOD",
    "PEERS",
    "LEARN_BUDGET",
];

/// Two containers on the damaged host, and one on another.
struct Scene {
    here: Site,
    _there: Site,
    a1: Member,
    a2: Member,
    b1: Member,
}

/// What is there, without the numbers of devices.
#[derive(Debug, PartialEq, Eq)]
struct State {
    devices: BTreeSet<String>,
    /// Programs at devices, in no order.
    attached: Vec<String>,
    /// Pins.
    links: Vec<String>,
    maps: BTreeSet<String>,
    /// How many, by map.
    entries: Vec<(&'static str, usize)>,
}

impl Scene {
    fn new(lab: &Lab, flags: &str) -> Result<Self> {
        let [here, there] = sites(lab, flags)?;
        let scene = Self {
            a1: here.member(lab, "a1", 11)?,
            a2: here.member(lab, "a2", 12)?,
            b1: there.member(lab, "b1", 21)?,
            here,
            _there: there,
        };
        scene.a1.must_reach(scene.b1.ip(), 3)?;
        scene.a2.must_reach(scene.a1.ip(), 3)?;
        Ok(scene)
    }

    fn pin(&self, path: &str) -> PathBuf {
        self.here.host.bpffs().join(path)
    }

    fn map(&self, name: &str) -> PathBuf {
        self.pin("maps").join(map_file(name))
    }

    fn links(&self) -> Result<Vec<String>> {
        let mut links = Vec::new();
        for file in fs::read_dir(self.pin("links"))? {
            links.push(file?.file_name().display().to_string());
        }
        links.sort();
        Ok(links)
    }

    fn state(&self) -> Result<State> {
        let links = self.links()?;
        let program = |link: &String| Some(link.split_once('-')?.0.to_owned());
        let maps = fs::read_dir(self.pin("maps"))?;
        let maps: Result<_, _> = maps
            .map(|file| Ok::<_, std::io::Error>(file?.file_name().display().to_string()))
            .collect();
        let mut entries = Vec::new();
        for table in TABLES {
            entries.push((table, self.entries(table)?.len()));
        }
        let devices = self.here.host.run("ip -br link")?;
        let name = |line: &str| Some(line.split([' ', '@']).next()?.to_owned());
        let devices: BTreeSet<String> = devices.lines().filter_map(name).collect();
        Ok(State {
            attached: self.attached(&devices)?,
            devices,
            links: links.iter().filter_map(program).collect(),
            maps: maps?,
            entries,
        })
    }

    /// Our programs at these devices: what the kernel runs there, not what is pinned.
    fn attached(&self, devices: &BTreeSet<String>) -> Result<Vec<String>> {
        let by_link = || -> Result<Vec<String>> {
            let mut names = Vec::new();
            for device in devices {
                let (_, programs) = SchedClassifier::query_tcx(device, TcAttachType::Ingress)?;
                names.extend(
                    programs
                        .iter()
                        .filter_map(|it| it.name_as_str().map(str::to_owned)),
                );
            }
            Ok(names)
        };
        let mut attached = self.here.host.netns().enter(by_link)??;
        // This one knows filters, but not every version knows TCX.
        let others = self.here.host.run("bpftool net")?;
        let words = others.split_whitespace();
        let filters = words.filter(|word| word.starts_with("from_"));
        attached.extend(filters.map(str::to_owned));
        let links = self.here.host.run("ip -o link")?;
        let guards = links.matches(" xdpgeneric ").count();
        attached.extend(vec!["guard_underlay".to_owned(); guards]);
        attached.sort();
        Ok(attached)
    }

    /// Keys and values of a map, as bpftool takes them.
    fn entries(&self, map: &str) -> Result<Vec<[String; 2]>> {
        let path = self.map(map);
        let dump = bpftool(&format!("-j map dump pinned {}", path.display()))?;
        let dump: Value = serde_json::from_str(&dump).context("what bpftool printed")?;
        let bytes = |value: &Value| {
            let bytes = value.as_array().into_iter().flatten();
            let bytes: Vec<_> = bytes.filter_map(Value::as_str).collect();
            bytes.join(" ")
        };
        let entries = dump.as_array().context("a map without entries")?;
        Ok(entries
            .iter()
            .map(|entry| [bytes(&entry["key"]), bytes(&entry["value"])])
            .collect())
    }

    /// Whether containers reach each other, here and there.
    fn works(&self) -> bool {
        for (from, to) in [
            (&self.a1, &self.b1),
            (&self.b1, &self.a1),
            (&self.a2, &self.a1),
        ] {
            let ping = Ping::new(to.ip()).count(1);
            let report = from.ping(ping.patience(Duration::from_millis(200)));
            // Without its interface a container cannot even send.
            if !report.is_ok_and(|report| report.is_lossless()) {
                return false;
            }
        }
        true
    }

    /// Does the damage, and waits until all is as it was.
    fn mends(&self, what: &str, damage: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.state()?;
        let begun = Instant::now();
        damage().with_context(|| what.to_owned())?;
        while self.state().ok().as_ref() != Some(&before) || !self.works() {
            ensure!(
                begun.elapsed() < LIMIT,
                "{what}: not mended after {LIMIT:?}; it was {before:?} and is {:?}",
                self.state()
            );
        }
        let status = self.here.daemon.status()?;
        ensure!(status["healthy"] == true, "{what}: {status}");
        Ok(())
    }

    /// The same; meanwhile not a ping is lost between these two.
    fn mends_unnoticed(
        &self,
        [from, to]: [&Member; 2],
        what: &str,
        damage: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let pinger = from.pinger(to.ip())?;
        self.mends(what, damage)?;
        let report = pinger.stop()?;
        ensure!(report.is_lossless(), "{what}: {report}");
        Ok(())
    }

    fn on_host(&self, line: &str) -> Result<()> {
        self.here.host.run(line).map(drop)
    }
}

/// The host's end of the wire of `member`.
fn veth(member: &Member) -> String {
    format!("vxp{}", member.endpoint.id)
}

fn bpftool(arguments: &str) -> Result<String> {
    let mut command = Command::new("bpftool");
    command.args(arguments.split_whitespace());
    let done = finish_within(&mut command, Duration::from_secs(10))?;
    Ok(done.success()?.stdout)
}

#[test]
fn devices_that_somebody_deletes() -> Result<()> {
    let lab = lab()?;
    let scene = Scene::new(&lab, "")?;
    let wire = veth(&scene.a1);
    let others = [&scene.a2, &scene.b1];
    scene.mends_unnoticed(others, "the host's end of a wire", || {
        scene.on_host(&format!("ip link del {wire}"))
    })?;
    scene.mends_unnoticed(others, "the container's end of a wire", || {
        scene.a1.run("ip link del eth0").map(drop)
    })?;
    scene.mends_unnoticed(others, "a container's address", || {
        scene.a1.run("ip addr flush dev eth0").map(drop)
    })?;
    // What is carried natively does not need it.
    scene.mends_unnoticed(others, "the device of the slow path", || {
        scene.on_host("ip link del vxplane0")
    })?;
    // Larger than a packet may be: this goes by that device.
    let large = Ping::new(scene.b1.ip()).size(4000).count(3);
    let report = scene.a1.ping(large)?;
    ensure!(report.is_lossless(), "{report}");
    scene.mends("everything at once", || {
        scene.on_host("ip link del vxplane0")?;
        scene.on_host(&format!("ip link del {wire}"))?;
        scene.on_host(&format!("ip link del {}", veth(&scene.a2)))
    })
}

#[test]
fn programs_that_somebody_takes_off() -> Result<()> {
    let lab = lab()?;
    let scene = Scene::new(&lab, "--xdp generic")?;
    let local = [&scene.a2, &scene.a1];
    for link in scene.links()? {
        let path = scene.pin(&format!("links/{link}"));
        // Containers of one host reach each other without the underlay.
        let away = ["from_underlay", "from_fallback", "guard_underlay"];
        let concerned = !away.iter().any(|program| link.starts_with(program));
        let detach = || bpftool(&format!("link detach pinned {}", path.display())).map(drop);
        let remove = || Ok(fs::remove_file(&path)?);
        let (detached, removed) = (format!("{link} detached"), format!("{link} removed"));
        if concerned {
            scene.mends(&detached, detach)?;
            scene.mends(&removed, remove)?;
        } else {
            scene.mends_unnoticed(local, &detached, detach)?;
            scene.mends_unnoticed(local, &removed, remove)?;
        }
    }
    Ok(())
}

#[test]
fn filters_that_somebody_removes() -> Result<()> {
    let lab = lab()?;
    let scene = Scene::new(&lab, "--attach clsact")?;
    let local = [&scene.a2, &scene.a1];
    scene.mends_unnoticed(local, "the qdisc of the underlay", || {
        scene.on_host("tc qdisc del dev eth0 clsact")
    })?;
    scene.mends("a filter", || {
        let veth = veth(&scene.a1);
        scene.on_host(&format!("tc filter del dev {veth} ingress"))
    })
}

/// Pins are for the next daemon: as long as this one lives, the programs and what
/// they know stay where they are.
#[test]
fn pinned_maps_that_somebody_removes() -> Result<()> {
    let lab = lab()?;
    let mut scene = Scene::new(&lab, "")?;
    let flow = [&scene.a1, &scene.b1];
    scene.mends_unnoticed(flow, "one map's pin", || {
        Ok(fs::remove_file(scene.map("FDB"))?)
    })?;
    scene.mends_unnoticed(flow, "all maps' pins", || {
        Ok(fs::remove_dir_all(scene.pin("maps"))?)
    })?;
    scene.mends("all links' pins", || {
        Ok(fs::remove_dir_all(scene.pin("links"))?)
    })?;
    scene.mends("the whole directory", || {
        Ok(fs::remove_dir_all(scene.pin(""))?)
    })?;
    // It is locked again, and good for the next daemon.
    let third = lab.host("third")?;
    let line = format!(
        "{} daemon --state-dir {directory} --run-dir {directory} --bpffs {} --hook off",
        vxplane_binary()?.display(),
        scene.pin("").display(),
        directory = third.directory().display(),
    );
    let Err(said) = third.run(&line) else {
        bail!("two daemons pin in one directory");
    };
    let said = format!("{said:#}");
    ensure!(said.contains("another vxplane daemon uses"), "{said}");
    let pinger = scene.a1.pinger(scene.b1.ip())?;
    scene.here.daemon.kill()?;
    scene.here.daemon.start_again()?;
    let report = pinger.stop()?;
    ensure!(report.is_lossless(), "{report}");
    Ok(())
}

#[test]
fn map_entries_that_somebody_deletes_or_adds() -> Result<()> {
    let lab = lab()?;
    let scene = Scene::new(&lab, "")?;
    for table in TABLES {
        let path = scene.map(table);
        scene.mends(&format!("all of {table}"), || {
            for [key, _] in scene.entries(table)? {
                bpftool(&format!("map delete pinned {} key {key}", path.display()))?;
            }
            Ok(())
        })?;
    }
    // A stranger let in by hand: the same peer, but with an address of TEST-NET-1.
    let [key, value] = scene.entries("PEERS")?.swap_remove(0);
    let vni: Vec<&str> = key.split(' ').take(4).collect();
    let stranger = format!("{} 0xc0 0x00 0x02 0x09", vni.join(" "));
    let path = scene.map("PEERS");
    scene.mends_unnoticed([&scene.a1, &scene.b1], "a stranger in PEERS", || {
        let path = path.display();
        bpftool(&format!(
            "map update pinned {path} key {stranger} value {value}"
        ))
        .map(drop)
    })
}
