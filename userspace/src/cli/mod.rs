//! The command line: `daemon`, `doctor` and `down` work here, everything else is a
//! request to a daemon's API.

use std::{
    error::Error as _,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{
    ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource,
};
use clap_complete::Shell;

use self::{
    client::{Client, ClientError},
    output::{Format, Printer},
};
use crate::{
    daemon::{self, DaemonError},
    down::DownError,
    policy::read::ReadError,
    settings::{self, Layer, Settings, SettingsError},
    store::etcd::migrate::MigrateError,
};

mod client;
mod doctor;
mod down;
mod endpoint;
mod migrate;
mod monitor;
mod namespace;
mod network;
mod node;
mod output;
mod peer;
mod policy;
mod status;
mod trace;

/// The exit status for what cannot be meant, which clap has too.
const WRONG_USAGE: u8 = 2;

/// The heading of the options that every command has.
const GLOBAL: &str = "Global options";

/// A VXLAN network for containers on many hosts, in eBPF.
#[derive(Parser, Debug)]
#[command(name = "vxplane", version, arg_required_else_help = true)]
struct Cli {
    /// The daemon's socket [default: `vxplane.sock` in the run directory]
    #[arg(long, global = true, env = "VXPLANE_SOCKET", value_name = "PATH", help_heading = GLOBAL)]
    socket: Option<PathBuf>,
    /// Where sockets are [default: /run/vxplane]
    #[arg(long, global = true, env = "VXPLANE_RUN_DIR", value_name = "DIR", help_heading = GLOBAL)]
    run_dir: Option<PathBuf>,
    /// How to print; `json` is exactly what the API returns
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, help_heading = GLOBAL)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the daemon on this host
    Daemon(SettingsArgs),
    /// Publish what this host has by itself in a cluster's store; the daemon must be stopped
    Migrate(migrate::Args),
    /// Find out what this host can and cannot do, and what to do about it
    Doctor(SettingsArgs),
    /// Take away everything that a stopped daemon made on this host
    Down(down::DownArgs),
    #[command(flatten)]
    Request(Request),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
}

/// What is asked of a daemon.
#[derive(Subcommand, Debug)]
enum Request {
    /// Show how the daemon stands and what it dropped
    Status,
    /// Create, list, inspect and remove networks
    #[command(subcommand)]
    Network(network::Command),
    /// Attach, list, inspect and detach containers' interfaces
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Add, list and remove other VTEPs
    #[command(subcommand)]
    Peer(peer::Command),
    /// Apply, list, inspect and remove network policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// List and label the namespaces that policies are about
    #[command(subcommand)]
    Namespace(namespace::Command),
    /// List and inspect the hosts of the cluster, and remove dead ones
    #[command(subcommand)]
    Node(node::Command),
    /// Print what happens, as it happens
    Monitor(monitor::Args),
    /// Show what would become of a packet, step by step; nothing is changed
    Trace(trace::Args),
}

#[derive(Args, Debug)]
struct SettingsArgs {
    /// Configuration file [default: /etc/vxplane/vxplane.toml, if it exists]
    #[arg(long, env = "VXPLANE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    layer: Layer,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The set-up means nothing.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The daemon could not start or stopped.
    #[error(transparent)]
    Daemon(#[from] Box<DaemonError>),
    /// What this host has could not be published.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The daemon did not do as asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A path could not be made absolute.
    #[error("{path} cannot be used: {source}")]
    Path {
        /// As given.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file has something else than policies.
    #[error("{file}: {source}")]
    Policy {
        /// Which.
        file: String,
        /// What is wrong with it.
        #[source]
        source: ReadError,
    },
    /// Nothing was taken down.
    #[error(transparent)]
    Down(#[from] Box<DownError>),
    /// Not everything was taken down.
    #[error("not everything could be taken away: {}", .0.join("; "))]
    Remains(Vec<String>),
    /// Standard output could not be written to.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
    /// What was printed says what is wrong.
    #[error("this host cannot run the daemon as it is; the checks marked `fail` say why")]
    Unfit,
    /// What was printed says why.
    #[error("the packet would be dropped")]
    Dropped,
}

/// Runs the command line this process was started with.
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closed the pipe has seen enough.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error);
            match error {
                CliError::Settings(SettingsError::Value { .. }) => ExitCode::from(WRONG_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The error and its causes, unless a message has its cause in it already.
fn complain(error: &CliError) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let lines = text.lines().map(|line| output::printable(line.to_owned()));
    let text = lines.collect::<Vec<_>>().join("\n");
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "vxplane: {text}");
}

impl Cli {
    fn run(self, matches: &ArgMatches) -> Result<(), CliError> {
        let printer = Printer::new(self.output);
        match self.command {
            Command::Daemon(args) => {
                let given = matches.value_source("socket") == Some(ValueSource::CommandLine);
                if given {
                    let message = "the daemon listens on <run-dir>/vxplane.sock: use --run-dir";
                    let kind = clap::error::ErrorKind::ArgumentConflict;
                    Self::command().error(kind, message).exit();
                }
                Ok(daemon::run(args.load(self.run_dir)?).map_err(Box::new)?)
            }
            Command::Doctor(args) => {
                let settings = args.load(self.run_dir)?;
                block_on(doctor::run(&settings, printer))
            }
            Command::Down(args) => args.run(self.run_dir, printer),
            Command::Migrate(args) => {
                let (to, settings) = (args.to, args.settings);
                block_on(migrate::run(
                    &to,
                    settings
                        .load_for(&to, self.run_dir)
                        .map_err(|error| migrate::about(&to, error))?,
                    printer,
                ))
            }
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "vxplane", &mut script);
                Ok(output::print(&script)?)
            }
            Command::Request(request) => {
                let client = client(self.socket, self.run_dir, matches)?;
                block_on(request.run(&client, printer))
            }
        }
    }
}

impl Request {
    async fn run(self, client: &Client, printer: Printer) -> Result<(), CliError> {
        match self {
            Self::Status => status::run(client, printer).await,
            Self::Network(command) => command.run(client, printer).await,
            Self::Endpoint(command) => command.run(client, printer).await,
            Self::Peer(command) => command.run(client, printer).await,
            Self::Policy(command) => command.run(client, printer).await,
            Self::Namespace(command) => command.run(client, printer).await,
            Self::Node(command) => command.run(client, printer).await,
            Self::Monitor(args) => monitor::run(args, client, printer).await,
            Self::Trace(args) => trace::run(args, client, printer).await,
        }
    }
}

impl SettingsArgs {
    /// With this store instead of the one that is set up.
    fn load_for(self, store: &str, run_dir: Option<PathBuf>) -> Result<Settings, SettingsError> {
        let layer = Layer {
            store: Some(store.to_owned()),
            ..self.layer
        };
        Self { layer, ..self }.load(run_dir)
    }

    fn load(self, run_dir: Option<PathBuf>) -> Result<Settings, SettingsError> {
        let flags = Layer {
            run_dir,
            ..self.layer
        };
        Settings::load(flags, self.config.as_deref())
    }
}

/// The daemon that is meant. A socket names it more closely than a directory,
/// but a flag beats the environment.
fn client(
    socket: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    matches: &ArgMatches,
) -> Result<Client, SettingsError> {
    let by_flag = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
    match socket {
        Some(socket) if by_flag("socket") || !by_flag("run_dir") => Ok(Client::new(socket)),
        _ => settings::client_socket(run_dir).map(Client::new),
    }
}

fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_does_not_exist_yet_is_not_listed() {
        let command = Cli::command();
        let names: Vec<_> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        let expected = [
            "daemon",
            "migrate",
            "doctor",
            "down",
            "status",
            "network",
            "endpoint",
            "peer",
            "policy",
            "namespace",
            "node",
            "monitor",
            "trace",
            "completions",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_flag_for_the_directory_beats_the_environment_for_the_socket() {
        let parse = |args: &[&str]| {
            let matches = Cli::command().try_get_matches_from(args).unwrap();
            let cli = Cli::from_arg_matches(&matches).unwrap();
            client(cli.socket, cli.run_dir, &matches).unwrap().socket
        };
        let by_directory = parse(&["vxplane", "status", "--run-dir", "/r"]);
        assert_eq!(by_directory, PathBuf::from("/r/vxplane.sock"));
        let both = parse(&["vxplane", "--run-dir", "/r", "status", "--socket", "/s"]);
        assert_eq!(both, PathBuf::from("/s"));
    }

    #[test]
    fn usage_errors_have_exit_status_2() {
        for args in [
            &["vxplane", "network", "create"][..],
            &["vxplane", "endpoint", "attach", "--network", "a"],
            &[
                "vxplane",
                "endpoint",
                "attach",
                "--network",
                "a",
                "--pid",
                "1",
                "--netns",
                "/n",
            ],
            &[
                "vxplane",
                "endpoint",
                "attach",
                "--network",
                "a",
                "--pid",
                "1",
                "--label",
                "x",
            ],
            &["vxplane", "-o", "xml", "status"],
            &["vxplane", "policy", "apply"],
            &["vxplane", "namespace", "label", "shop", "team"],
            &["vxplane", "trace", "--to", "10.50.0.1"],
            &["vxplane", "trace", "--from", "web", "--to", "db:80"],
            &["vxplane", "trace", "--from", "web", "--to", ""],
        ] {
            let error = Cli::command().try_get_matches_from(args).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
    }
}
