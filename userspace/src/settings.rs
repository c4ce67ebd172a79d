//! How the daemon is set up: flags beat the environment, which beats the
//! configuration file, which beats the defaults.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::Args;
use serde::Deserialize;

use crate::{
    reconcile::{AttachMode, Options, UnderlayChoice, XdpMode},
    store::etcd::EtcdOptions,
};

/// Read if it exists and no other is named.
const DEFAULT_CONFIG: &str = "/etc/vxplane/vxplane.toml";
const DEFAULT_STATE_DIR: &str = "/var/lib/vxplane";
const DEFAULT_RUN_DIR: &str = "/run/vxplane";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/vxplane";
const DEFAULT_PORT: u16 = 4789;
const DEFAULT_HOOK: &str = "127.0.0.1:6675";
/// As bridges do by default, in seconds.
const DEFAULT_MAC_AGE: u64 = 300;
/// In seconds. Programs note once a second that an address is in use; and what
/// has not been heard of for a day is gone.
const MAC_AGES: RangeInclusive<u64> = 5..=86_400;
const DEFAULT_DOCKER: &str = "unix:///var/run/docker.sock";
/// The longest device name, in bytes.
const IFNAME_MAX: usize = 15;
/// How long leases can be, in seconds.
const LEASE: RangeInclusive<u64> = 2..=3600;
/// The longest node name, in bytes (as a host's, RFC 1123).
const NODE_MAX: usize = 253;

/// One source of settings: the command line with the environment, or the file.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Layer {
    /// Device or local address that carries VXLAN; the default route's if absent
    #[arg(long, env = "VXPLANE_UNDERLAY", value_name = "DEV|ADDR")]
    pub underlay: Option<String>,
    /// UDP port of VXLAN [default: 4789]
    #[arg(long, env = "VXPLANE_PORT", value_name = "PORT")]
    pub port: Option<u16>,
    /// Where this host's own state is [default: /var/lib/vxplane]
    #[arg(long, env = "VXPLANE_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where programs, links and maps are pinned [default: /sys/fs/bpf/vxplane]
    #[arg(long, env = "VXPLANE_BPFFS", value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// What keeps the state: embedded, or etcd://HOST:PORT, more servers behind commas, and perhaps a /PREFIX [default: embedded]
    #[arg(long, env = "VXPLANE_STORE", value_name = "STORE")]
    pub store: Option<String>,
    /// Who signed the etcd servers' certificates (PEM); without it, no TLS
    #[arg(long, env = "VXPLANE_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// This host's certificate for etcd (PEM)
    #[arg(long, env = "VXPLANE_ETCD_CERT", value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, env = "VXPLANE_ETCD_KEY", value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// The etcd user
    #[arg(long, env = "VXPLANE_ETCD_USER", value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// The file with that user's password
    #[arg(long, env = "VXPLANE_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
    /// For how long a node that says nothing is alive, in seconds [default: 15]
    #[arg(long, env = "VXPLANE_ETCD_LEASE", value_name = "SECONDS")]
    pub etcd_lease: Option<u64>,
    /// Group that may use the API's socket [default: the daemon's own]
    #[arg(long, env = "VXPLANE_SOCKET_GROUP", value_name = "NAME")]
    pub socket_group: Option<String>,
    /// This host's name [default: the hostname]
    #[arg(long, env = "VXPLANE_NODE", value_name = "NAME")]
    pub node: Option<String>,
    /// Where the hook endpoint listens, or `off` [default: 127.0.0.1:6675]
    #[arg(long, env = "VXPLANE_HOOK", value_name = "ADDR:PORT|off")]
    pub hook: Option<String>,
    /// Where strangers' VXLAN is dropped early: auto, native, generic or off [default: auto]
    #[arg(long, env = "VXPLANE_XDP", value_name = "MODE")]
    pub xdp: Option<String>,
    /// How programs are attached: auto, tcx or clsact [default: auto]
    #[arg(long, env = "VXPLANE_ATTACH", value_name = "MODE")]
    pub attach: Option<String>,
    /// Send endpoints' identities as group policy IDs and believe those of unknown addresses (VXLAN Group Policy extension)
    #[arg(
        long,
        env = "VXPLANE_GBP",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub gbp: Option<bool>,
    /// Seconds after which a silent MAC address learned from a peer is forgotten [default: 300]
    #[arg(long, env = "VXPLANE_MAC_AGE", value_name = "SECONDS")]
    pub mac_age: Option<u64>,
    /// The Docker Engine's socket
    #[arg(
        long,
        env = "VXPLANE_DOCKER",
        value_name = "URL",
        help = "The Docker Engine's socket [default: unix:///var/run/docker.sock]"
    )]
    pub docker: Option<String>,
    /// Where sockets are; on the command line a global flag.
    #[arg(skip)]
    pub run_dir: Option<PathBuf>,
}

/// The daemon's set-up, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which underlay.
    pub underlay: UnderlayChoice,
    /// VXLAN UDP port.
    pub port: u16,
    /// Where this host's own state is.
    pub state_dir: PathBuf,
    /// Where sockets are.
    pub run_dir: PathBuf,
    /// Group that may use the API's socket, if not the daemon's own.
    pub socket_group: Option<String>,
    /// Where programs, links and maps are pinned.
    pub bpffs: PathBuf,
    /// What keeps the state.
    pub store: StoreChoice,
    /// This host's name.
    pub node: String,
    /// Where the hook endpoint listens, if it does.
    pub hook: Option<SocketAddr>,
    /// Where the XDP guard runs.
    pub xdp: XdpMode,
    /// How programs are attached.
    pub attach: AttachMode,
    /// Whether packets bear and are believed group policy IDs.
    pub gbp: bool,
    /// How long a silent MAC address learned from a peer is remembered.
    pub mac_age: Duration,
    /// The Docker Engine's socket.
    pub docker: PathBuf,
}

/// What keeps the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChoice {
    /// A file on this host, which is by itself.
    Embedded,
    /// Servers that hosts share.
    Etcd(EtcdOptions),
}

/// Why the daemon cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration file cannot be read.
    #[error("the configuration file {path} cannot be read: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("the configuration file {path} is not valid: {source}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong in which line.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A setting that means nothing.
    #[error("{name} cannot be `{value}`: {expected}")]
    Value {
        /// The setting, as its flag.
        name: &'static str,
        /// As given.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// The node's name was not given and the host has none.
    #[error("the hostname cannot be read ({0}); name this host with --node")]
    Hostname(#[source] io::Error),
}

impl Settings {
    /// Completes the command line and environment with the configuration file
    /// (`config`, or the default one if it exists) and the defaults.
    pub fn load(flags: Layer, config: Option<&Path>) -> Result<Self, SettingsError> {
        let file = read_file(config)?;
        Self::merge(flags, file)
    }

    fn merge(flags: Layer, file: Layer) -> Result<Self, SettingsError> {
        let path = |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.or(file).unwrap_or_else(|| PathBuf::from(default))
        };
        let text = |flag: Option<String>, file: Option<String>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.to_owned())
        };
        let etcd = EtcdLayer {
            ca: flags.etcd_ca.or(file.etcd_ca),
            cert: flags.etcd_cert.or(file.etcd_cert),
            key: flags.etcd_key.or(file.etcd_key),
            user: flags.etcd_user.or(file.etcd_user),
            password_file: flags.etcd_password_file.or(file.etcd_password_file),
            lease: flags.etcd_lease.or(file.etcd_lease),
        };
        Ok(Self {
            store: parse_store(&text(flags.store, file.store, "embedded"), etcd)?,
            underlay: match flags.underlay.or(file.underlay) {
                None => UnderlayChoice::DefaultRoute,
                Some(given) => parse_underlay(given)?,
            },
            port: match flags.port.or(file.port).unwrap_or(DEFAULT_PORT) {
                0 => return Err(value("--port", "0", "use 1 to 65535")),
                port => port,
            },
            state_dir: path(flags.state_dir, file.state_dir, DEFAULT_STATE_DIR),
            run_dir: path(flags.run_dir, file.run_dir, DEFAULT_RUN_DIR),
            socket_group: flags.socket_group.or(file.socket_group),
            bpffs: path(flags.bpffs, file.bpffs, DEFAULT_BPFFS),
            node: match flags.node.or(file.node) {
                Some(node) => check_node(node)?,
                None => hostname()?,
            },
            hook: parse_hook(&text(flags.hook, file.hook, DEFAULT_HOOK))?,
            xdp: parse_xdp(&text(flags.xdp, file.xdp, "auto"))?,
            attach: parse_attach(&text(flags.attach, file.attach, "auto"))?,
            gbp: flags.gbp.or(file.gbp).unwrap_or(false),
            mac_age: check_mac_age(flags.mac_age.or(file.mac_age).unwrap_or(DEFAULT_MAC_AGE))?,
            docker: parse_docker(&text(flags.docker, file.docker, DEFAULT_DOCKER))?,
        })
    }

    /// Where the API listens.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.run_dir)
    }

    /// What the reconciler needs to know.
    pub fn options(&self) -> Options {
        Options {
            underlay: self.underlay.clone(),
            port: self.port,
            bpffs: self.bpffs.clone(),
            attach: self.attach,
            xdp: self.xdp,
            gbp: self.gbp,
            mac_age: self.mac_age,
        }
    }
}

/// The API's socket in a run directory.
fn socket_in(run_dir: &Path) -> PathBuf {
    run_dir.join("vxplane.sock")
}

/// Where a daemon with this run directory, or with that of the default
/// configuration file, listens.
pub fn client_socket(run_dir: Option<PathBuf>) -> Result<PathBuf, SettingsError> {
    let run_dir = match run_dir {
        Some(run_dir) => Some(run_dir),
        None => match read_file(None) {
            // Whoever may not read it can still name the socket.
            Err(SettingsError::Read { .. }) => None,
            file => file?.run_dir,
        },
    };
    Ok(socket_in(
        &run_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_RUN_DIR)),
    ))
}

fn read_file(config: Option<&Path>) -> Result<Layer, SettingsError> {
    let path = config.unwrap_or(Path::new(DEFAULT_CONFIG));
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|source| SettingsError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        }),
        Err(error) if config.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok(Layer::default())
        }
        Err(source) => Err(SettingsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn value(name: &'static str, value: &str, expected: &'static str) -> SettingsError {
    let value = value.to_owned();
    SettingsError::Value {
        name,
        value,
        expected,
    }
}

/// What was said of how to get on with etcd.
#[derive(Debug)]
struct EtcdLayer {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    lease: Option<u64>,
}

fn parse_store(text: &str, etcd: EtcdLayer) -> Result<StoreChoice, SettingsError> {
    if text == "embedded" {
        return Ok(StoreChoice::Embedded);
    }
    let wrong = || {
        let expected = "use `embedded`, or etcd://HOST:PORT[,HOST:PORT]… with /PREFIX behind it \
                        if several clusters share one etcd";
        value("--store", text, expected)
    };
    let rest = text.strip_prefix("etcd://").ok_or_else(wrong)?;
    let (servers, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    if !servers.iter().all(|server| is_host_and_port(server)) || prefix.contains(odd) {
        return Err(wrong());
    }
    let mut options = EtcdOptions::new(servers);
    let prefix = prefix.trim_matches('/');
    if !prefix.is_empty() {
        options.prefix = format!("/{prefix}");
    }
    if etcd.cert.is_some() != etcd.key.is_some() || etcd.cert.is_some() && etcd.ca.is_none() {
        let expected = "--etcd-cert, --etcd-key and --etcd-ca go together";
        return Err(value("--etcd-cert", "without the others", expected));
    }
    if etcd.user.is_some() != etcd.password_file.is_some() {
        let expected = "--etcd-user and --etcd-password-file go together";
        return Err(value("--etcd-user", "without the other", expected));
    }
    if let Some(seconds) = etcd.lease {
        if !LEASE.contains(&seconds) {
            return Err(value(
                "--etcd-lease",
                &seconds.to_string(),
                "use 2 to 3600 (seconds)",
            ));
        }
        options.lease = Duration::from_secs(seconds);
    }
    Ok(StoreChoice::Etcd(EtcdOptions {
        ca: etcd.ca,
        cert: etcd.cert,
        key: etcd.key,
        user: etcd.user,
        password_file: etcd.password_file,
        ..options
    }))
}

fn is_host_and_port(text: &str) -> bool {
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']'));
    match text.rsplit_once(':') {
        Some((host, port)) => {
            !host.is_empty() && !host.contains(odd) && port.parse().is_ok_and(|port: u16| port > 0)
        }
        None => false,
    }
}

fn parse_underlay(text: String) -> Result<UnderlayChoice, SettingsError> {
    if let Ok(address) = Ipv4Addr::from_str(&text) {
        return Ok(UnderlayChoice::Address(address));
    }
    let odd = |c: char| matches!(c, '/' | ':') || c.is_whitespace();
    if text.is_empty() || text.len() > IFNAME_MAX || text.contains(odd) {
        let expected = "give a device's name or one of this host's IPv4 addresses";
        return Err(value("--underlay", &text, expected));
    }
    Ok(UnderlayChoice::Device(text))
}

fn parse_hook(text: &str) -> Result<Option<SocketAddr>, SettingsError> {
    if text == "off" {
        return Ok(None);
    }
    let expected = "give an address and port like 127.0.0.1:6675, or `off`";
    text.parse()
        .map(Some)
        .map_err(|_| value("--hook", text, expected))
}

fn parse_xdp(text: &str) -> Result<XdpMode, SettingsError> {
    match text {
        "auto" => Ok(XdpMode::Auto),
        "native" => Ok(XdpMode::Native),
        "generic" => Ok(XdpMode::Generic),
        "off" => Ok(XdpMode::Off),
        _ => Err(value("--xdp", text, "use auto, native, generic or off")),
    }
}

fn parse_attach(text: &str) -> Result<AttachMode, SettingsError> {
    match text {
        "auto" => Ok(AttachMode::Auto),
        "tcx" => Ok(AttachMode::Tcx),
        "clsact" => Ok(AttachMode::Clsact),
        _ => Err(value("--attach", text, "use auto, tcx or clsact")),
    }
}

fn check_mac_age(seconds: u64) -> Result<Duration, SettingsError> {
    if MAC_AGES.contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    let expected = "use 5 to 86400 seconds";
    Err(value("--mac-age", &seconds.to_string(), expected))
}

fn parse_docker(text: &str) -> Result<PathBuf, SettingsError> {
    let path = text.strip_prefix("unix://").map(PathBuf::from);
    let expected = "give a unix socket like unix:///var/run/docker.sock";
    path.filter(|path| path.is_absolute())
        .ok_or_else(|| value("--docker", text, expected))
}

fn check_node(node: String) -> Result<String, SettingsError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if node.is_empty() || node.len() > NODE_MAX || !node.chars().all(fits) {
        let expected = "use 1 to 253 of a-z A-Z 0-9 _ . -";
        return Err(value("--node", &node, expected));
    }
    Ok(node)
}

fn hostname() -> Result<String, SettingsError> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").map_err(SettingsError::Hostname)?;
    check_node(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(text: &str) -> Result<Layer, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_the_defaults() {
        let file = file("port = 8472\nnode = 'from-file'\nxdp = 'off'\ngbp = true").unwrap();
        let flags = Layer {
            port: Some(4790),
            ..Layer::default()
        };
        let settings = Settings::merge(flags, file).unwrap();
        assert_eq!(settings.port, 4790);
        assert_eq!(settings.node, "from-file");
        assert_eq!(settings.xdp, XdpMode::Off);
        assert!(settings.gbp);
        assert_eq!(settings.state_dir, Path::new("/var/lib/vxplane"));
        assert_eq!(settings.socket(), Path::new("/run/vxplane/vxplane.sock"));
        assert_eq!(settings.hook, Some("127.0.0.1:6675".parse().unwrap()));
        assert_eq!(settings.docker, Path::new("/var/run/docker.sock"));
    }

    #[test]
    fn the_file_is_strict_and_errors_name_the_line() {
        let error = file("port = 4789\ncolour = 'blue'")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && error.contains("unknown field `colour`"),
            "{error}"
        );
        let error = file("port = 'x'").unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn a_named_file_must_exist_and_the_default_one_need_not() {
        let missing = Path::new("/nonexistent/vxplane.toml");
        let error = Settings::load(Layer::default(), Some(missing)).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/vxplane.toml"),
            "{error}"
        );
    }

    #[test]
    fn etcd_is_named_by_its_servers() {
        let layer = |store: &str| Layer {
            store: Some(store.to_owned()),
            etcd_lease: Some(5),
            ..Layer::default()
        };
        let store = |text| Settings::merge(layer(text), Layer::default()).map(|it| it.store);
        let StoreChoice::Etcd(options) =
            store("etcd://a.example:2379,[2001:db8::1]:22379").unwrap()
        else {
            panic!("not etcd");
        };
        assert_eq!(options.servers, ["a.example:2379", "[2001:db8::1]:22379"]);
        assert_eq!(options.prefix, "/vxplane");
        assert_eq!(options.lease, Duration::from_secs(5));
        let StoreChoice::Etcd(options) = store("etcd://a:2379/site/blue/").unwrap() else {
            panic!("not etcd");
        };
        assert_eq!(options.prefix, "/site/blue");
    }

    #[test]
    fn etcd_that_cannot_be_meant_is_refused() {
        let text = |text: &str| Some(text.to_owned());
        for layer in [
            Layer {
                store: text("etcd://127.0.0.1"),
                ..Layer::default()
            },
            Layer {
                store: text("etcd://a:2379,"),
                ..Layer::default()
            },
            Layer {
                store: text("etcd://a:2379"),
                etcd_user: text("somebody"),
                ..Layer::default()
            },
            Layer {
                store: text("etcd://a:2379"),
                etcd_cert: Some("cert.pem".into()),
                etcd_key: Some("key.pem".into()),
                ..Layer::default()
            },
            Layer {
                store: text("etcd://a:2379"),
                etcd_lease: Some(1),
                ..Layer::default()
            },
        ] {
            let merged = Settings::merge(layer.clone(), Layer::default());
            assert!(merged.is_err(), "{layer:?}");
        }
    }

    #[test]
    fn values_are_understood_or_refused() {
        let with = |layer: Layer| Settings::merge(layer, Layer::default());
        let text = |text: &str| Some(text.to_owned());
        let settings = with(Layer {
            underlay: text("192.0.2.1"),
            hook: text("off"),
            ..Layer::default()
        });
        let settings = settings.unwrap();
        assert_eq!(
            settings.underlay,
            UnderlayChoice::Address(Ipv4Addr::new(192, 0, 2, 1))
        );
        assert_eq!(settings.hook, None);
        for layer in [
            Layer {
                underlay: text("a-name-that-is-too-long"),
                ..Layer::default()
            },
            Layer {
                underlay: text(""),
                ..Layer::default()
            },
            Layer {
                port: Some(0),
                ..Layer::default()
            },
            Layer {
                store: text("sqlite"),
                ..Layer::default()
            },
            Layer {
                hook: text("6675"),
                ..Layer::default()
            },
            Layer {
                xdp: text("on"),
                ..Layer::default()
            },
            Layer {
                attach: text("netkit"),
                ..Layer::default()
            },
            Layer {
                mac_age: Some(4),
                ..Layer::default()
            },
            Layer {
                mac_age: Some(86_401),
                ..Layer::default()
            },
            Layer {
                docker: text("tcp://127.0.0.1:2375"),
                ..Layer::default()
            },
            Layer {
                node: text("a b"),
                ..Layer::default()
            },
        ] {
            assert!(with(layer.clone()).is_err(), "{layer:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_configuration_or_refused(text in "\\PC{0,80}|([a-z-]{1,10} = ['0-9a-z:/.]{1,20}\n){0,5}") {
            if let Ok(layer) = file(&text) {
                let _ = Settings::merge(layer, Layer::default());
            }
        }
    }
}
