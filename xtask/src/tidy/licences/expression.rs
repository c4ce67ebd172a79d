//! SPDX licence expressions, also in the old spelling with `/` for `OR`.

use std::{collections::BTreeSet, fmt};

use anyhow::{Result, bail, ensure};

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// One licence, with its exception if it has one.
    Licence(String),
    /// All of them apply.
    All(Vec<Expression>),
    /// One may choose.
    Any(Vec<Expression>),
}

impl Expression {
    /// Whether choices can be made so that every licence is in `allowed`.
    pub(super) fn is_met_by(&self, allowed: &BTreeSet<String>) -> bool {
        match self {
            // `+` offers later versions too: this one may be chosen.
            Self::Licence(name) => allowed.contains(name.trim_end_matches('+')),
            Self::All(parts) => parts.iter().all(|part| part.is_met_by(allowed)),
            Self::Any(parts) => parts.iter().any(|part| part.is_met_by(allowed)),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, word) = match self {
            Self::Licence(name) => return f.write_str(name),
            Self::All(parts) => (parts, " AND "),
            Self::Any(parts) => (parts, " OR "),
        };
        let parts: Vec<_> = parts.iter().map(ToString::to_string).collect();
        write!(f, "({})", parts.join(word))
    }
}

/// Reads an expression. `AND` binds closer than `OR`.
pub(super) fn parse(text: &str) -> Result<Expression> {
    let spaced = text
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let expression = any(&mut words)?;
    ensure!(words.next().is_none(), "“{text}” is no licence expression");
    Ok(expression)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>) -> Result<Expression> {
    let mut parts = vec![all(words)?];
    while words.next_if_eq(&"OR").is_some() {
        parts.push(all(words)?);
    }
    Ok(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Expression::Any(parts)
    })
}

fn all(words: &mut Words<'_>) -> Result<Expression> {
    let mut parts = vec![one(words)?];
    while words.next_if_eq(&"AND").is_some() {
        parts.push(one(words)?);
    }
    Ok(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Expression::All(parts)
    })
}

fn one(words: &mut Words<'_>) -> Result<Expression> {
    match words.next() {
        Some("(") => {
            let inner = any(words)?;
            ensure!(words.next() == Some(")"), "a parenthesis is not closed");
            Ok(inner)
        }
        None | Some(")" | "AND" | "OR" | "WITH") => bail!("a licence is missing"),
        Some(name) => {
            let mut name = name.to_owned();
            if words.next_if_eq(&"WITH").is_some() {
                let exception = words.next().unwrap_or_default();
                name = format!("{name} WITH {exception}");
            }
            Ok(Expression::Licence(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::parse;

    fn is_met(expression: &str, allowed: &[&str]) -> bool {
        let allowed: BTreeSet<_> = allowed.iter().map(ToString::to_string).collect();
        parse(expression).unwrap().is_met_by(&allowed)
    }

    #[test]
    fn or_later_offers_this_version_too() {
        assert!(is_met("MPL-2.0+", &["MPL-2.0"]));
        assert!(!is_met("MPL-1.1+", &["MPL-2.0"]));
    }

    #[test]
    fn choices_and_conjunctions() {
        assert!(is_met("MIT OR Apache-2.0", &["MIT"]));
        assert!(is_met("MIT/Apache-2.0", &["Apache-2.0"]));
        assert!(!is_met("MIT AND Zlib", &["MIT"]));
        assert!(is_met(
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            &["MIT", "Unicode-3.0"]
        ));
        assert!(is_met("MIT OR Zlib AND BSD-3-Clause", &["MIT"]));
        assert!(!is_met("Apache-2.0 WITH LLVM-exception", &["Apache-2.0"]));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "MIT OR", "(MIT", "MIT Zlib", "AND MIT"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
