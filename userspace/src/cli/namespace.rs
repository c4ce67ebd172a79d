//! `vxplane namespace`

use clap::Subcommand;

use super::{
    CliError,
    client::{Client, segment},
    output::{Printer, table},
};
use crate::{
    model::NAMESPACE_NAME_LABEL,
    surfaces::api::{NamespaceDto, NamespaceRequest},
};

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// List namespaces, and what is in them
    Ls,
    /// Give a namespace labels, or take some away
    Label {
        /// Its name
        name: String,
        /// key=value gives a label, key- takes one away
        #[arg(value_name = "K=V|K-", required = true, value_parser = parse_change)]
        changes: Vec<(String, Option<String>)>,
    },
}

impl Command {
    pub(super) async fn run(self, client: &Client, printer: Printer) -> Result<(), CliError> {
        match self {
            Self::Ls => {
                let answer = client.get::<Vec<_>>("/v1/namespaces").await?;
                printer.answer(&answer, |namespaces| list(namespaces))?;
            }
            Self::Label { name, changes } => {
                let all = client.get::<Vec<NamespaceDto>>("/v1/namespaces").await?;
                let mut all = all.value.into_iter();
                let found = all.find(|namespace| namespace.name == name);
                let mut labels = found.map(|found| found.labels).unwrap_or_default();
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(labels.insert(key, value)),
                        None => drop(labels.remove(&key)),
                    }
                }
                let path = format!("/v1/namespaces/{}", segment(&name));
                let request = NamespaceRequest { labels };
                let answer = client.put::<NamespaceDto>(&path, &request).await?;
                printer.answer(&answer, |_| format!("namespace/{name} labeled\n"))?;
            }
        }
        Ok(())
    }
}

fn parse_change(text: &str) -> Result<(String, Option<String>), &'static str> {
    if let Some((key, value)) = text.split_once('=') {
        return Ok((key.to_owned(), Some(value.to_owned())));
    }
    let key = text
        .strip_suffix('-')
        .ok_or("write it like key=value or key-")?;
    Ok((key.to_owned(), None))
}

fn list(namespaces: &[NamespaceDto]) -> String {
    let row = |namespace: &NamespaceDto| {
        let labels = namespace.labels.iter();
        let labels = labels.filter(|(key, _)| *key != NAMESPACE_NAME_LABEL);
        let labels: Vec<_> = labels
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        [
            namespace.name.clone(),
            namespace.endpoints.to_string(),
            namespace.policies.to_string(),
            labels.join(","),
        ]
    };
    let header = ["NAME", "ENDPOINTS", "POLICIES", "LABELS"];
    table(header, namespaces.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_given_and_taken_as_kubectl_does() {
        let given = |key: &str, value: Option<&str>| Ok((key.to_owned(), value.map(str::to_owned)));
        assert_eq!(parse_change("team=a"), given("team", Some("a")));
        assert_eq!(parse_change("team="), given("team", Some("")));
        assert_eq!(parse_change("team-"), given("team", None));
        assert!(parse_change("team").is_err());
    }
}
