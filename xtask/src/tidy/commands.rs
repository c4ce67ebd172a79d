//! Commands that the README shows exist, flags included.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    build::{self, Profile},
    process,
    workspace::Workspace,
};

/// Commands and flags in the README's code blocks that the binaries do not know.
pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let readme =
        fs::read_to_string(workspace.root().join("README.md")).context("reading README.md")?;
    let mut helps = BTreeMap::new();
    let mut binaries = BTreeMap::new();
    binaries.insert("vxplane", build::daemon(workspace, Profile::Debug)?);
    binaries.insert(
        "cargo xtask",
        env::current_exe().context("finding the running xtask")?,
    );
    let mut found = Vec::new();
    for line in shown_commands(&readme) {
        let Some((name, binary, arguments)) = known(&binaries, line) else {
            continue;
        };
        if let Some(problem) = problem_of(binary, &arguments, &mut helps)? {
            found.push(format!("README.md: `{name} …` in `{line}`: {problem}"));
        }
    }
    Ok(found)
}

/// Lines of code blocks, without a prompt, `sudo`, and what follows a pipe or a
/// comment sign.
fn shown_commands(readme: &str) -> Vec<&str> {
    let blocks = readme.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| block.lines().skip(1));
    lines
        .map(|line| {
            line.trim()
                .trim_start_matches("$ ")
                .trim_start_matches("sudo ")
        })
        .map(|line| {
            line.split(['#', '|', '&', ';', '>'])
                .next()
                .unwrap_or_default()
                .trim()
        })
        .filter(|line| !line.is_empty())
        .collect()
}

type Known<'a> = (&'a str, &'a PathBuf, Vec<&'a str>);

fn known<'a>(binaries: &'a BTreeMap<&str, PathBuf>, line: &'a str) -> Option<Known<'a>> {
    let mut all = binaries.iter();
    all.find_map(|(name, binary)| {
        let rest = line.strip_prefix(name)?;
        let separate = rest.is_empty() || rest.starts_with(' ');
        separate.then(|| (*name, binary, rest.split_whitespace().collect()))
    })
}

/// Descends through subcommands as long as there are some, then looks for the
/// flags in the last one's help.
fn problem_of(
    binary: &Path,
    arguments: &[&str],
    helps: &mut BTreeMap<Vec<String>, String>,
) -> Result<Option<String>> {
    let mut path = vec![binary.display().to_string()];
    let mut rest = arguments;
    loop {
        if !helps.contains_key(&path) {
            let mut command = Command::new(&path[0]);
            helps.insert(
                path.clone(),
                process::stdout_of(command.args(&path[1..]).arg("--help"))?,
            );
        }
        let help = &helps[&path];
        let subcommands = subcommands_of(help);
        let Some((word, after)) = rest.split_first().filter(|_| !subcommands.is_empty()) else {
            return Ok(unknown_flag(rest, help));
        };
        if !subcommands.contains(word) {
            return Ok(Some(format!("there is no subcommand {word}")));
        }
        path.push((*word).to_owned());
        rest = after;
    }
}

fn subcommands_of(help: &str) -> Vec<&str> {
    let after = help
        .lines()
        .skip_while(|line| line.trim_end() != "Commands:")
        .skip(1);
    let block = after.take_while(|line| !line.trim().is_empty());
    // Names stand two spaces in; continued descriptions further.
    let names = block.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

fn unknown_flag(arguments: &[&str], help: &str) -> Option<String> {
    let own = arguments.iter().take_while(|argument| **argument != "--");
    let mut flags = own.filter(|argument| argument.starts_with('-'));
    let is_known = |flag: &str| {
        let name = flag.split('=').next().unwrap_or(flag);
        help.split(|it: char| !(it.is_alphanumeric() || it == '-'))
            .any(|word| word == name)
    };
    flags
        .find(|flag| !is_known(flag.trim_start_matches('[')))
        .map(|flag| format!("there is no flag {flag}"))
}

#[cfg(test)]
mod tests {
    use super::{shown_commands, subcommands_of, unknown_flag};

    const HELP: &str = "Usage: x <COMMAND>\n\nCommands:\n  network  Networks\n           of this host\n  help     Print this\n\nOptions:\n  -o, --output <OUTPUT>  How\n";

    #[test]
    fn reads_help() {
        assert_eq!(subcommands_of(HELP), ["network", "help"]);
        assert_eq!(
            unknown_flag(&["-o", "json", "--output=x", "--", "--any"], HELP),
            None
        );
        assert!(unknown_flag(&["--out"], HELP).is_some());
    }

    #[test]
    fn reads_code_blocks_only() {
        let readme =
            "vxplane no\n```console\n$ sudo vxplane status # how it is\ncargo xtask run\n```\nno\n";
        assert_eq!(
            shown_commands(readme),
            ["vxplane status", "cargo xtask run"]
        );
    }
}
