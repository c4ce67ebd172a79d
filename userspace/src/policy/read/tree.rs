//! Text to trees: YAML 1.2 as far as Kubernetes documents use it, and JSON, which
//! is part of it.
//!
//! Scalars mean what the core schema says. A number is kept only if it is a plain
//! decimal integer: no field takes any other.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use serde::de::IgnoredAny;

use super::{ReadError, escapes::unpaired};

/// Lists and maps within one another, at most.
const DEPTH_MAX: usize = 64;
/// Nodes of all documents, what aliases repeat included: a few lines can ask for
/// billions.
const NODES_MAX: usize = 1_000_000;

/// What a document holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A plain decimal number.
    Integer(i64),
    /// A number of another kind, as it is written.
    Number(String),
    /// Text.
    Text(String),
    /// Several.
    List(Vec<Tree>),
    /// Named.
    Map(BTreeMap<String, Tree>),
}

impl Tree {
    /// What it is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    fn nodes(&self) -> usize {
        1 + match self {
            Self::List(items) => items.iter().map(Self::nodes).sum(),
            Self::Map(entries) => entries.values().map(Self::nodes).sum(),
            _ => 0,
        }
    }
}

/// The documents of a text, empty ones included.
pub(super) fn documents(text: &str) -> Result<Vec<Tree>, ReadError> {
    let text = unpaired(text);
    let parts = json_parts(&text).unwrap_or_else(|| vec![&text]);
    let mut loader = Loader::default();
    for part in parts {
        for event in Parser::new_from_str(part) {
            let (event, span) = event.map_err(|error| syntax(&error))?;
            loader.take(event, span.start)?;
        }
    }
    Ok(loader.documents)
}

/// JSON objects one after the other, which `kubectl` takes and YAML does not.
fn json_parts(text: &str) -> Option<Vec<&str>> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if !text.starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut parts = Vec::new();
    let mut begin = 0;
    while let Some(value) = values.next() {
        value.ok()?;
        parts.push(text.get(begin..values.byte_offset())?);
        begin = values.byte_offset();
    }
    Some(parts)
}

fn syntax(error: &ScanError) -> ReadError {
    at(*error.marker(), error.info())
}

fn at(place: Marker, what: impl Into<String>) -> ReadError {
    ReadError::Syntax {
        line: place.line(),
        column: place.col() + 1,
        what: what.into(),
    }
}

/// Builds trees out of a parser's events.
#[derive(Debug, Default)]
struct Loader {
    documents: Vec<Tree>,
    /// What has begun and not ended, outermost first.
    open: Vec<Open>,
    /// What aliases may refer to.
    anchors: BTreeMap<usize, Tree>,
    nodes: usize,
}

#[derive(Debug)]
struct Open {
    anchor: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    List(Vec<Tree>),
    Map {
        entries: BTreeMap<String, Tree>,
        /// The key whose value comes next.
        key: Option<String>,
    },
}

impl Loader {
    fn take(&mut self, event: Event<'_>, place: Marker) -> Result<(), ReadError> {
        match event {
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    return self.begin_entry(&text, place);
                }
                let tree = scalar(&text, style, tag.as_deref());
                self.complete(tree, anchor, place)
            }
            Event::Alias(anchor) => {
                let Some(tree) = self.anchors.get(&anchor).cloned() else {
                    return Err(at(place, "an alias refers to what it is part of"));
                };
                if self.wants_key() {
                    return match tree {
                        Tree::Text(text) => self.begin_entry(&text, place),
                        _ => Err(at(place, "a key must be text")),
                    };
                }
                self.complete(tree, 0, place)
            }
            Event::SequenceStart(anchor, _) => self.begin(anchor, Content::List(Vec::new()), place),
            Event::MappingStart(anchor, _) => {
                let (entries, key) = (BTreeMap::new(), None);
                self.begin(anchor, Content::Map { entries, key }, place)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                None => Ok(()),
                Some(Open { anchor, content }) => {
                    let tree = match content {
                        Content::List(items) => Tree::List(items),
                        Content::Map { entries, .. } => Tree::Map(merged(entries)),
                    };
                    self.complete(tree, anchor, place)
                }
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        let content = self.open.last().map(|open| &open.content);
        matches!(content, Some(Content::Map { key: None, .. }))
    }

    fn begin(&mut self, anchor: usize, content: Content, place: Marker) -> Result<(), ReadError> {
        if self.wants_key() {
            return Err(at(place, "a key must be text"));
        }
        if self.open.len() == DEPTH_MAX {
            let what = format!("more than {DEPTH_MAX} lists and maps stand within one another");
            return Err(at(place, what));
        }
        self.open.push(Open { anchor, content });
        Ok(())
    }

    fn begin_entry(&mut self, text: &str, place: Marker) -> Result<(), ReadError> {
        if let Some(Content::Map { entries, key }) = self.open.last_mut().map(|o| &mut o.content) {
            if entries.contains_key(text) {
                return Err(at(place, format!("`{text}` stands there twice")));
            }
            *key = Some(text.to_owned());
        }
        Ok(())
    }

    fn complete(&mut self, tree: Tree, anchor: usize, place: Marker) -> Result<(), ReadError> {
        // What is nested was counted when it was complete, except in an alias.
        self.nodes += if anchor == 0 { 1 } else { tree.nodes() };
        if self.nodes > NODES_MAX {
            return Err(at(place, format!("there are more than {NODES_MAX} values")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, tree.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.documents.push(tree),
            Some(Content::List(items)) => items.push(tree),
            Some(Content::Map { entries, key }) => {
                if let Some(key) = key.take() {
                    entries.insert(key, tree);
                }
            }
        }
        Ok(())
    }
}

/// Takes over what `<<` names; what is written out wins.
fn merged(mut entries: BTreeMap<String, Tree>) -> BTreeMap<String, Tree> {
    const MERGE: &str = "<<";
    let sources = match entries.get(MERGE) {
        Some(Tree::Map(_)) => entries.remove(MERGE).into_iter().collect(),
        Some(Tree::List(items)) if items.iter().all(|item| matches!(item, Tree::Map(_))) => {
            match entries.remove(MERGE) {
                Some(Tree::List(items)) => items,
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    };
    for source in sources {
        if let Tree::Map(more) = source {
            for (key, value) in more {
                entries.entry(key).or_insert(value);
            }
        }
    }
    entries
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Tree {
    let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    if style != ScalarStyle::Plain || is_text {
        return Tree::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Tree::Null,
        "true" | "True" | "TRUE" => Tree::Bool(true),
        "false" | "False" | "FALSE" => Tree::Bool(false),
        _ => match integer(text) {
            Some(number) => Tree::Integer(number),
            None if is_number(text) => Tree::Number(text.to_owned()),
            None => Tree::Text(text.to_owned()),
        },
    }
}

/// A decimal number without signs and zeroes that others read differently.
fn integer(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn is_number(text: &str) -> bool {
    if matches!(text, ".inf" | "-.inf" | "+.inf" | ".nan") {
        return true;
    }
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0o"));
    if let Some(digits) = digits {
        return !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    }
    let begins_so = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    begins_so && text.contains(|c: char| c.is_ascii_digit()) && text.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Tree {
        Tree::Text(text.to_owned())
    }

    fn one(text: &str) -> Tree {
        let mut documents = documents(text).unwrap();
        assert_eq!(documents.len(), 1, "{text}");
        documents.remove(0)
    }

    #[test]
    fn scalars_mean_what_the_core_schema_says() {
        let Tree::List(items) = one("[80, -1, '80', 1.5, 0x1F, 007, 1e3, .inf, 1.2.3, yes, ~, \
                                     true, 10.0.0.0/8, 2024-01-01, !!str 5, a]")
        else {
            panic!("a list");
        };
        let number = |text: &str| Tree::Number(text.to_owned());
        let expected = [
            Tree::Integer(80),
            Tree::Integer(-1),
            text("80"),
            number("1.5"),
            number("0x1F"),
            number("007"),
            number("1e3"),
            number(".inf"),
            text("1.2.3"),
            text("yes"),
            Tree::Null,
            Tree::Bool(true),
            text("10.0.0.0/8"),
            text("2024-01-01"),
            text("5"),
            text("a"),
        ];
        assert_eq!(items, expected);
    }

    #[test]
    fn json_is_read_also_with_tabs_escapes_and_one_object_after_the_other() {
        let json = "{\n\t\"a\": \"\\u00fc\\/\",\n\t\"b\": [1, null, {}]\n}\n{\"c\":2}";
        let documents = documents(json).unwrap();
        assert_eq!(documents.len(), 2);
        let Tree::Map(first) = &documents[0] else {
            panic!("a map");
        };
        assert_eq!(first["a"], text("ü/"));
        assert_eq!(
            first["b"],
            Tree::List(vec![
                Tree::Integer(1),
                Tree::Null,
                Tree::Map(BTreeMap::new())
            ])
        );
    }

    #[test]
    fn whatever_a_json_string_may_hold_is_read() {
        for json in [
            r#""\ud83d\ude00""#,
            r#""\ud83d\ude00 \u0000\u007f\ufeff\uffff""#,
            "\"\u{7f}\u{85}\u{2028}\u{feff}\u{ffff}😀\"",
            r#"": # - {[,]}' & * ! | > % @ ` \t\b\f\r\" ""#,
        ] {
            let read: String = serde_json::from_str(json).unwrap();
            let Tree::Map(entries) = one(&format!("{{{json}:{json}}}")) else {
                panic!("{json}");
            };
            assert_eq!(entries[&read], text(&read), "{json}");
        }
        assert!(documents(r#"{"a": "\ud83d"}"#).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, line, fragment) in [
            ("a: 1\nb: 2\na: 3\n", 3, "twice"),
            ("a: [1\nb: 2\n", 2, ""),
            ("? [a]\n: b\n", 1, "key"),
            ("a:\n\tb: c\n", 2, ""),
            ("a: &a [*a]\n", 1, "part of"),
        ] {
            match documents(text) {
                Err(ReadError::Syntax { line: at, what, .. }) => {
                    assert_eq!(at, line, "{text}: {what}");
                    assert!(what.contains(fragment), "{text}: {what}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_few_lines_do_not_become_a_billion_values() {
        let mut lines = vec!["a: &a [x, x, x, x, x, x, x, x, x, x]".to_owned()];
        for (letter, before) in ('b'..='j').zip('a'..='i') {
            let items = vec![format!("*{before}"); 10].join(", ");
            lines.push(format!("{letter}: &{letter} [{items}]"));
        }
        assert!(matches!(
            documents(&lines.join("\n")),
            Err(ReadError::Syntax { .. })
        ));
        assert!(documents(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn aliases_and_merged_maps_are_as_if_written_out() {
        let tree = one("base: &b {x: 1, y: 2}\nit:\n  <<: *b\n  y: 3\nsame: *b\n");
        let written = one("base: {x: 1, y: 2}\nit: {x: 1, y: 3}\nsame: {x: 1, y: 2}\n");
        assert_eq!(tree, written);
    }
}
