//! Documents in files and directories, as `kubectl apply -f` takes them.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    cli::CliError,
    policy::read::{self, ReadError},
};

/// Which files of a directory are meant.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// All documents of all files, in one text. What is no policy is refused with the
/// name of its file.
pub(super) fn read_all(filenames: &[PathBuf]) -> Result<String, CliError> {
    let mut text = String::new();
    for filename in filenames {
        if filename.as_os_str() == "-" {
            let mut input = String::new();
            io::stdin()
                .read_to_string(&mut input)
                .map_err(unreadable(filename))?;
            add(&mut text, filename, &input)?;
            continue;
        }
        for file in files(filename)? {
            let input = fs::read_to_string(&file).map_err(unreadable(&file))?;
            add(&mut text, &file, &input)?;
        }
    }
    Ok(text)
}

/// The file, or those of the directory.
fn files(filename: &Path) -> Result<Vec<PathBuf>, CliError> {
    let found = fs::metadata(filename).map_err(unreadable(filename))?;
    if !found.is_dir() {
        return Ok(vec![filename.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(filename).map_err(unreadable(filename))? {
        let path = entry.map_err(unreadable(filename))?.path();
        let extension = path.extension().and_then(|it| it.to_str());
        if extension.is_some_and(|it| EXTENSIONS.contains(&it)) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn add(text: &mut String, file: &Path, input: &str) -> Result<(), CliError> {
    match read::read(input) {
        Ok(_) => {}
        // That there is none at all is the daemon's to say.
        Err(ReadError::Nothing) => return Ok(()),
        Err(source) => {
            let file = match file.to_str() {
                Some("-") | None => "standard input".to_owned(),
                Some(file) => file.to_owned(),
            };
            return Err(CliError::Policy { file, source });
        }
    }
    if !text.is_empty() {
        text.push_str("\n---\n");
    }
    text.push_str(input);
    Ok(())
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::Path {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: {podSelector: {}}\n";
    const DB: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "db"}, "spec": {"podSelector": {}}}"#;

    #[test]
    fn files_and_directories_are_one_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("b.yaml"), WEB).unwrap();
        fs::write(path("a.json"), DB).unwrap();
        fs::write(path("empty.yml"), "# nothing\n").unwrap();
        fs::write(path("readme.txt"), "{").unwrap();
        let text = read_all(&[directory.path().to_owned()]).unwrap();
        let names: Vec<_> = read::read(&text)
            .unwrap()
            .into_iter()
            .map(|it| it.key().1)
            .collect();
        assert_eq!(names, ["db", "web"]);
        fs::write(path("c.yaml"), WEB.replace("podSelector", "podSelectors")).unwrap();
        let error = read_all(&[path("a.json"), path("c.yaml")]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("c.yaml") && text.contains("spec.podSelectors"),
            "{text}"
        );
        let error = read_all(&[path("missing")]).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
