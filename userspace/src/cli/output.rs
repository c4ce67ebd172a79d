//! What goes to standard output: tables for people, JSON for programs.

use std::io::{self, Write};

use clap::ValueEnum;

use super::client::Answer;

/// How to print: for people, or exactly what the API returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// Prints in one format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer {
    format: Format,
}

impl Printer {
    pub(super) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints an answer: its JSON as it came, or as `text` puts it.
    pub(super) fn answer<T>(
        self,
        answer: &Answer<T>,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => print(text(&answer.value).as_bytes()),
            Format::Json => print(&[&answer.raw[..], b"\n"].concat()),
        }
    }

    /// Prints one of many lines of JSON: as it came, or as `text` puts it.
    pub(super) fn line(self, json: &[u8], text: impl FnOnce(&[u8]) -> String) -> io::Result<()> {
        match self.format {
            Format::Table => print(text(json).as_bytes()),
            Format::Json => print(&[json, b"\n"].concat()),
        }
    }

    /// Prints a value made here, as JSON or as `text` puts it.
    pub(super) fn value<T: serde::Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => print(text(value).as_bytes()),
            Format::Json => {
                let json = serde_json::to_vec(value).map_err(io::Error::other)?;
                print(&[&json[..], b"\n"].concat())
            }
        }
    }

    /// Prints a sentence about what was done; JSON has none.
    pub(super) fn done(self, sentence: &str) -> io::Result<()> {
        match self.format {
            Format::Table => print(format!("{sentence}\n").as_bytes()),
            Format::Json => Ok(()),
        }
    }
}

/// Prints bytes as they are.
pub(super) fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Blanks between columns.
const GAP: usize = 3;

/// Columns as wide as their widest cell, the last one open.
pub(super) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let header = header.map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header)
        .chain(rows)
        .map(|row| row.map(printable))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.extend([
                cell.as_str(),
                &" ".repeat(width - cell.chars().count() + GAP),
            ]);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `key: value` lines, the values aligned.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields
        .iter()
        .map(|(key, _)| key.len() + 1)
        .max()
        .unwrap_or(0);
    let line = |(key, value): &(&str, String)| {
        format!(
            "{:width$} {}\n",
            format!("{key}:"),
            printable(value.clone())
        )
    };
    fields.iter().map(line).collect()
}

/// The value, or `-` for none.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// What containers choose freely (labels) cannot steer the terminal.
pub(super) fn printable(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_cannot_steer_the_terminal() {
        let rows = vec![
            ["a".to_owned(), "1".to_owned()],
            ["long\x1b[2J".to_owned(), String::new()],
        ];
        let text = table(["NAME", "VNI"], rows);
        assert_eq!(
            text,
            "NAME            VNI\na               1\nlong\\u{1b}[2J\n"
        );
    }

    #[test]
    fn fields_align_their_values() {
        let text = fields(&[("a", "1".to_owned()), ("long", "2".to_owned())]);
        assert_eq!(text, "a:    1\nlong: 2\n");
    }
}
