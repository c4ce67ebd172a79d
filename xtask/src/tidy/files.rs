//! The text files of the repository.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// What people write; a lock file is not.
const EXTENSIONS: [&str; 7] = ["md", "rs", "service", "sh", "toml", "txt", "yml"];

/// One text file.
#[derive(Debug)]
pub(super) struct File {
    /// Relative to the repository, with `/`.
    pub(super) path: String,
    /// Its text.
    pub(super) text: String,
}

impl File {
    pub(super) fn is_rust(&self) -> bool {
        Path::new(&self.path)
            .extension()
            .is_some_and(|extension| extension == "rs")
    }
}

/// All of them, sorted by path; not what is built, nor what is hidden except
/// `.ci` and `.cargo`.
pub(super) fn all(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<File>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if !is_skipped(&path, &name) {
                collect(root, &path, files)?;
            }
        } else if is_text(&path, root) {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("reading {} as UTF-8", path.display()))?;
            let path = path.strip_prefix(root)?.display().to_string();
            files.push(File { path, text });
        }
    }
    Ok(())
}

fn is_skipped(path: &Path, name: &str) -> bool {
    let hidden = name.starts_with('.') && ![".ci", ".cargo"].contains(&name);
    // Also a target directory of another name, which cargo marks.
    hidden || name == "target" || path.join("CACHEDIR.TAG").exists()
}

fn is_text(path: &Path, root: &Path) -> bool {
    let known = path
        .extension()
        .and_then(|it| it.to_str())
        .is_some_and(|it| EXTENSIONS.contains(&it));
    known || path.parent() == Some(&root.join(".ci"))
}

/// The path of a directory's files starts with it.
pub(super) fn is_below(path: &str, directory: &str) -> bool {
    let directory = PathBuf::from(directory);
    Path::new(path).starts_with(directory)
}
