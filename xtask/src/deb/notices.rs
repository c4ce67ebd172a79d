//! Whose work is linked into what is shipped, and under which licences: what
//! these ask to be told.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::crates::{Crate, Crates};

/// What is shipped: the daemon, and the programs that it embeds.
const SHIPPED: [&str; 2] = ["vxplane", "vxplane-ebpf"];

/// What files with a licence's text, or a notice to be passed on, start with.
const TEXTS: [&str; 6] = [
    "COPYING",
    "COPYRIGHT",
    "LICENCE",
    "LICENSE",
    "NOTICE",
    "UNLICENSE",
];

/// The licence, as crates name it, under which it must be said where the source
/// is.
const SOURCE_TO_BE_NAMED: &str = "MPL-2.0";

/// What stands in front of everything.
const HEAD: &str = "\
vxplane contains the work of others: the crates listed here, each with its licence
and where it is published, and below, the texts that came with them. Who may choose
among several licences finds the text of each. The Rust standard library is linked
too, under Apache-2.0 (https://github.com/rust-lang/rust).
";

/// The crates of others that are shipped.
#[derive(Debug)]
pub(super) struct Notices<'a> {
    linked: Vec<&'a Crate>,
}

impl<'a> Notices<'a> {
    pub(super) fn of(crates: &'a Crates) -> Self {
        let linked = crates.linked_into(&SHIPPED).into_iter();
        Self {
            linked: linked.filter(|it| it.source.is_some()).collect(),
        }
    }

    /// The whole text.
    pub(super) fn text(&self) -> Result<String> {
        ensure!(!self.linked.is_empty(), "nothing is linked?");
        let mut list = String::new();
        let mut texts = Texts::default();
        for it in &self.linked {
            let licence = it.license.as_deref().unwrap_or("no licence named");
            writeln!(list, "  {}: {licence}, {}", title(it), home(it))?;
            for file in self.texts_for(it)? {
                texts.add(it, &file)?;
            }
        }
        Ok(format!("{HEAD}\n{list}{}", texts.print()))
    }

    /// Files with texts for a crate: its own, or else those of another crate of
    /// the same repository under the same licence.
    fn texts_for(&self, it: &Crate) -> Result<Vec<PathBuf>> {
        let own = texts_in(it.directory())?;
        if !own.is_empty() {
            return Ok(own);
        }
        let is_kin = |other: &&&Crate| {
            other.license == it.license
                && other.repository.is_some()
                && other.repository == it.repository
        };
        for kin in self.linked.iter().filter(is_kin) {
            let texts = texts_in(kin.directory())?;
            if !texts.is_empty() {
                return Ok(texts);
            }
        }
        // Whose text Debian has in /usr/share/common-licenses.
        let licence = it.license.as_deref().unwrap_or_default();
        ensure!(
            licence.contains("Apache-2.0") && !licence.contains("AND"),
            "{} ({licence}) has no licence text, and no crate beside it has",
            title(it)
        );
        Ok(Vec::new())
    }

    /// For Debian's `copyright`: what is linked whose source must be named.
    pub(super) fn sources(&self) -> Result<String> {
        let mut stanzas = String::new();
        for it in &self.linked {
            let licence = it.license.as_deref().unwrap_or_default();
            if licence.trim_end_matches('+') != SOURCE_TO_BE_NAMED {
                continue;
            }
            let (name, version) = (&it.name, &it.version);
            let authors = it.authors.join(", ");
            let home = home(it);
            write!(
                stanzas,
                "\nFiles: {name}/*\n\
                 Copyright: {authors}\n\
                 License: {SOURCE_TO_BE_NAMED}\n \
                 Linked into /usr/bin/vxplane as published. Its source is version {version} of the\n \
                 crate {name} on crates.io: {home}\n \
                 On Debian systems, the full text of the licence is in\n \
                 /usr/share/common-licenses/{SOURCE_TO_BE_NAMED}.\n"
            )?;
        }
        Ok(stanzas)
    }
}

/// Texts, those that differ only in line breaks once.
#[derive(Debug, Default)]
struct Texts {
    /// By their words: whose, and as one of them has it.
    all: BTreeMap<String, (Vec<String>, String)>,
}

impl Texts {
    fn add(&mut self, it: &Crate, file: &Path) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let words: Vec<_> = text.split_whitespace().collect();
        let entry = self.all.entry(words.join(" "));
        let (whose, _) = entry.or_insert_with(|| (Vec::new(), text.replace("\r\n", "\n")));
        whose.push(title(it));
        Ok(())
    }

    fn print(self) -> String {
        let mut all: Vec<_> = self.all.into_values().collect();
        all.sort();
        let rule = "-".repeat(78);
        let print = |(whose, text): (Vec<String>, String)| {
            let whose = whose.join(", ");
            format!("\n{rule}\nOf {whose}:\n\n{}\n", text.trim_end())
        };
        all.into_iter().map(print).collect()
    }
}

fn title(it: &Crate) -> String {
    format!("{} {}", it.name, it.version)
}

/// Where this version's source is.
fn home(it: &Crate) -> String {
    format!("https://crates.io/crates/{}/{}", it.name, it.version)
}

fn texts_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("looking into {}", directory.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let is_text = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default().to_uppercase();
        path.is_file() && TEXTS.iter().any(|start| name.starts_with(start))
    };
    let mut texts: Vec<_> = paths.filter(is_text).collect();
    texts.sort();
    Ok(texts)
}
