//! What must not be left behind in a text.

use super::files::File;

/// Spelled apart, so that this file does not hold them.
const FORBIDDEN: [(&str, &str); 7] = [
    (concat!("TO", "DO"), "unfinished: do it, or open an issue"),
    (concat!("FIX", "ME"), "unfinished: fix it, or open an issue"),
    (concat!("dbg", "!("), "left over from debugging"),
    (concat!("to", "do!("), "unfinished"),
    (concat!("unimple", "mented!("), "unfinished"),
    (
        concat!("#[al", "low("),
        "use #[expect(…, reason = \"…\")], which says when it is not needed any more",
    ),
    (concat!("<<<<", "<<< "), "an unresolved merge"),
];

/// Top directories of one person's machine.
const MACHINE_DIRECTORIES: [&str; 4] = ["home", "root", "Users", "work"];

/// Forbidden words, machine paths and stray white space.
pub(super) fn check(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            let problems = problems_of(line).into_iter();
            found.extend(problems.map(|it| format!("{}:{}: {it}", file.path, number + 1)));
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            found.push(format!("{}: the last line does not end", file.path));
        }
    }
    found
}

fn problems_of(line: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (word, why) in FORBIDDEN {
        if line.contains(word) {
            problems.push(format!("“{word}”: {why}"));
        }
    }
    let paths = MACHINE_DIRECTORIES.map(|name| format!("/{name}/"));
    for path in paths.iter().filter(|path| starts_a_path(line, path)) {
        problems.push(format!("“{path}…” is a path of one machine"));
    }
    if line.ends_with([' ', '\t']) {
        problems.push("white space at the end of the line".to_owned());
    }
    problems
}

/// Whether `start` stands in the line where a path begins, not inside one.
fn starts_a_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|it| it.is_alphanumeric() || "._-/)}>*~".contains(it))
    })
}

#[cfg(test)]
mod tests {
    use super::problems_of;

    #[test]
    fn finds_what_must_not_stay() {
        assert_eq!(problems_of("let a = b; ").len(), 1);
        assert_eq!(problems_of(concat!("// TO", "DO: later")).len(), 1);
        assert_eq!(problems_of(concat!("cd /ho", "me/me/vxplane")).len(), 1);
    }

    #[test]
    fn leaves_the_rest_alone() {
        for line in [
            "/proc/1/root/etc",
            "https://host.example/work/x",
            "let to = do_it();",
        ] {
            assert!(problems_of(line).is_empty(), "{line}");
        }
    }
}
