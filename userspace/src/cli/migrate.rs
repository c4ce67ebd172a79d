//! `vxplane migrate`: from a host by itself to a cluster.

use super::{CliError, Printer, SettingsArgs};
use crate::{
    settings::{Settings, SettingsError, StoreChoice},
    store::etcd::migrate::{Migrated, migrate},
};

/// Where to.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The cluster's store: etcd://HOST:PORT, more servers behind commas, and perhaps a /PREFIX
    #[arg(long, value_name = "STORE")]
    pub(super) to: String,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// Publishes what this host's state directory has.
pub(super) async fn run(to: &str, settings: Settings, printer: Printer) -> Result<(), CliError> {
    let StoreChoice::Etcd(options) = &settings.store else {
        return Err(CliError::Settings(SettingsError::Value {
            name: "--to",
            value: to.to_owned(),
            expected: "use etcd://HOST:PORT[,HOST:PORT]…",
        }));
    };
    let migrated = Box::pin(migrate(options, &settings.state_dir, &settings.node)).await?;
    printer.value(&migrated, |migrated| describe(migrated, to))?;
    Ok(())
}

fn describe(migrated: &Migrated, to: &str) -> String {
    let Migrated {
        networks,
        endpoints,
        peers,
        policies,
        namespaces,
        existing,
    } = migrated;
    format!(
        "published {networks} networks, {endpoints} endpoints, {peers} peers, {policies} policies \
         and the labels of {namespaces} namespaces; {existing} more were there already\nstart the daemon with --store {to} from now on\n"
    )
}
