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

/// What is wrong with the settings, in terms of what was given.
pub(super) fn about(to: &str, error: SettingsError) -> SettingsError {
    match error {
        SettingsError::Value {
            name: "--store", ..
        } => no_cluster(to),
        error => error,
    }
}

fn no_cluster(to: &str) -> SettingsError {
    SettingsError::Value {
        name: "--to",
        value: to.to_owned(),
        expected: "use etcd://HOST:PORT[,HOST:PORT]…",
    }
}

/// Publishes what this host's state directory has.
pub(super) async fn run(to: &str, settings: Settings, printer: Printer) -> Result<(), CliError> {
    let StoreChoice::Etcd(options) = &settings.store else {
        return Err(CliError::Settings(no_cluster(to)));
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
        already,
    } = migrated;
    if *already {
        return "nothing was published: the state directory belongs to a cluster already, and its \
                daemon publishes what it has by itself\n"
            .to_owned();
    }
    format!(
        "published {networks} networks, {endpoints} endpoints, {peers} peers, {policies} policies \
         and the labels of {namespaces} namespaces; {existing} more were there already\nstart the daemon with --store {to} from now on\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_no_cluster_is_named_as_it_was_given() {
        let error = SettingsError::Value {
            name: "--store",
            value: "http://x".to_owned(),
            expected: "",
        };
        let told = about("http://x", error).to_string();
        assert!(told.contains("--to") && !told.contains("--store"), "{told}");
    }
}
