//! Reads policies as users write them: YAML or JSON, one or several documents,
//! and what `kubectl get -o yaml` prints.

mod check;
mod decode;
mod escapes;
mod node;
mod tree;

use std::{collections::BTreeSet, fmt};

pub use self::check::{check, check_labels};
use self::{
    node::{Node, Reader},
    tree::Tree,
};
use super::document::NetworkPolicy;

/// How many flaws a message tells of.
const TOLD: usize = 8;

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is neither YAML nor JSON.
    #[error("line {line}, column {column}: {what}; that is neither YAML nor JSON")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// It has no document.
    #[error("there is no NetworkPolicy in it")]
    Nothing,
    /// Its documents are not what they should be.
    #[error("{}", told(.0))]
    Flaws(Vec<Flaw>),
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Which: `spec.ingress[0].from[1].podSelector`; empty for a whole document.
    pub path: String,
    /// What is wrong with it, and what to do.
    pub what: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, what } = self;
        if path.is_empty() {
            return f.write_str(what);
        }
        write!(f, "{path}: {what}")
    }
}

fn told(flaws: &[Flaw]) -> String {
    let mut told: Vec<String> = flaws.iter().take(TOLD).map(ToString::to_string).collect();
    if flaws.len() > TOLD {
        told.push(format!("and {} more", flaws.len() - TOLD));
    }
    told.join("; ")
}

/// The policies in a text: at least one, each as an API server would take it, and
/// none of them twice.
pub fn read(text: &str) -> Result<Vec<NetworkPolicy>, ReadError> {
    let documents = tree::documents(text)?;
    let documents: Vec<&Tree> = documents
        .iter()
        .filter(|tree| **tree != Tree::Null)
        .collect();
    let are_several = documents.len() > 1;
    let mut policies = Vec::new();
    let mut flaws = Vec::new();
    for (index, tree) in documents.into_iter().enumerate() {
        let mut reader = Reader::default();
        let path = String::new();
        decode::document(&mut reader, &Node { tree, path }, &mut policies);
        let number = are_several.then_some(index + 1);
        flaws.extend(
            reader
                .flaws
                .into_iter()
                .map(|flaw| of_document(number, flaw)),
        );
    }
    flaws.extend(doubles(&policies));
    if !flaws.is_empty() {
        return Err(ReadError::Flaws(flaws));
    }
    if policies.is_empty() {
        return Err(ReadError::Nothing);
    }
    Ok(policies)
}

/// The flaw with the number of its document, if it has one.
fn of_document(number: Option<usize>, flaw: Flaw) -> Flaw {
    let (Some(number), Flaw { path, what }) = (number, &flaw) else {
        return flaw;
    };
    Flaw {
        path: match path.as_str() {
            "" => format!("document {number}"),
            path => format!("document {number}, {path}"),
        },
        what: what.clone(),
    }
}

/// Policies of one name: only one of them could be meant.
fn doubles(policies: &[NetworkPolicy]) -> Vec<Flaw> {
    let mut seen = BTreeSet::new();
    let names = policies.iter().map(|policy| &policy.metadata);
    let doubles = names.filter(|metadata| !seen.insert((&metadata.namespace, &metadata.name)));
    let flaws = doubles.map(|metadata| Flaw {
        path: String::new(),
        what: format!(
            "there are several policies {}/{}; leave one",
            metadata.namespace, metadata.name
        ),
    });
    flaws.collect()
}

#[cfg(test)]
mod tests;
