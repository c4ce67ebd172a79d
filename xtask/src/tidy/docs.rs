//! Docs that name what is there.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};

use super::files::{File, is_below};
use crate::workspace::Workspace;

/// The page with the code map.
const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

/// Its heading; the map reaches to the next heading of that level.
const CODE_MAP: &str = "## Code map";

/// Whose modules the map must name.
const MAPPED: [&str; 4] = ["ebpf", "userspace", "xtask", "tests"];

/// Code map and change log.
pub(super) fn check(workspace: &Workspace, files: &[File]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    match files.iter().find(|file| file.path == ARCHITECTURE) {
        Some(page) => found.extend(check_map(workspace, &page.text, files)),
        None => found.push(format!("{ARCHITECTURE} is missing")),
    }
    found.extend(check_change_log(workspace)?);
    Ok(found)
}

/// What the map names exists, and each module is in it: by its own path, or
/// by a directory's, which ends with `/`.
fn check_map(workspace: &Workspace, page: &str, files: &[File]) -> Vec<String> {
    let named = named_paths(page);
    if named.is_empty() {
        return vec![format!(
            "{ARCHITECTURE} has no “{CODE_MAP}” with paths in backquotes"
        )];
    }
    let missing = named
        .iter()
        .filter(|path| !workspace.root().join(path).exists());
    let mut found: Vec<_> = missing
        .map(|path| format!("{ARCHITECTURE}: there is no {path}"))
        .collect();
    let modules = files.iter().filter(|file| {
        file.is_rust()
            && MAPPED
                .iter()
                .any(|directory| is_below(&file.path, directory))
    });
    for module in modules {
        let covered = named.iter().any(|path| {
            *path == module.path || path.ends_with('/') && is_below(&module.path, path)
        });
        if !covered {
            found.push(format!(
                "{ARCHITECTURE}: {} is not in the code map",
                module.path
            ));
        }
    }
    found
}

/// The paths in backquotes below the heading, relative to the repository.
fn named_paths(page: &str) -> BTreeSet<String> {
    let mut lines = page.lines().skip_while(|line| line.trim_end() != CODE_MAP);
    lines.next();
    let map: Vec<_> = lines.take_while(|line| !line.starts_with("## ")).collect();
    let quoted = map
        .iter()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_path = |it: &&str| {
        MAPPED.iter().any(|directory| is_below(it, directory)) && !it.contains(char::is_whitespace)
    };
    quoted.filter(is_path).map(str::to_owned).collect()
}

fn check_change_log(workspace: &Workspace) -> Result<Option<String>> {
    let text = fs::read_to_string(workspace.root().join("CHANGELOG.md"))
        .context("reading CHANGELOG.md")?;
    let version = workspace.version()?;
    let headings = ["## [Unreleased]".to_owned(), format!("## [{version}]")];
    let has_one = text
        .lines()
        .any(|line| headings.iter().any(|it| line.starts_with(it)));
    Ok((!has_one).then(|| {
        format!(
            "CHANGELOG.md has neither “{}” nor “{}”",
            headings[0], headings[1]
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::named_paths;

    #[test]
    fn the_map_ends_at_the_next_heading() {
        let page = "`ebpf/not.rs`\n## Code map\n- `ebpf/src/main.rs`: hooks, `Packet`\n\
                    ### More\n- `tests/` too\n## Invariants\n`userspace/src/not.rs`\n";
        let named: Vec<_> = named_paths(page).into_iter().collect();
        assert_eq!(named, ["ebpf/src/main.rs", "tests/"]);
    }
}
