//! What JSON writes in two escapes and YAML does not know: characters beyond the
//! first plane, as a pair of surrogates.

use std::borrow::Cow;

use serde::de::IgnoredAny;

/// The text, in which the documents that are JSON have such characters as they are.
pub(super) fn unpaired(text: &str) -> Cow<'_, str> {
    if !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut unpaired = String::with_capacity(text.len());
    let mut document = String::new();
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("---") {
            Some(rest) if rest.is_empty() || rest.starts_with(char::is_whitespace) => {
                add(&mut unpaired, &document);
                unpaired.push_str("---");
                rest.clone_into(&mut document);
            }
            _ => document.push_str(line),
        }
    }
    add(&mut unpaired, &document);
    Cow::Owned(unpaired)
}

fn add(unpaired: &mut String, document: &str) {
    if !is_json(document) {
        return unpaired.push_str(document);
    }
    let mut rest = document;
    // In JSON there is a backslash in nothing but strings, and always before
    // something that it escapes.
    while let Some(place) = rest.find('\\') {
        let (before, escape) = rest.split_at(place);
        unpaired.push_str(before);
        let length = if let Some(character) = pair(escape) {
            unpaired.push(character);
            PAIR
        } else {
            let length = 1 + escape.chars().nth(1).map_or(0, char::len_utf8);
            unpaired.push_str(&escape[..length]);
            length
        };
        rest = &escape[length..];
    }
    unpaired.push_str(rest);
}

/// Bytes of a pair: `\ud83d\ude00`.
const PAIR: usize = 12;

/// The character of the pair that `text` begins with.
fn pair(text: &str) -> Option<char> {
    let unit = |text: &str| u16::from_str_radix(text.strip_prefix("\\u")?, 16).ok();
    let units = [unit(text.get(..6)?)?, unit(text.get(6..PAIR)?)?];
    let mut characters = char::decode_utf16(units);
    match (characters.next(), characters.next()) {
        (Some(Ok(character)), None) => Some(character),
        _ => None,
    }
}

fn is_json(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    text.starts_with('{') && values.all(|value| value.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_characters_in_json_alone() {
        for (text, expected) in [
            (r#"{"a": "x\ud83d\ude00y"}"#, r#"{"a": "x😀y"}"#),
            (r#"{"a": "\uD83D\uDE00\n"}"#, r#"{"a": "😀\n"}"#),
            // An escaped backslash begins nothing.
            (r#"{"a": "\\ud83d\\ude00"}"#, r#"{"a": "\\ud83d\\ude00"}"#),
            (r#"{"a": "\\\ud83d\ude00"}"#, r#"{"a": "\\😀"}"#),
            // What is no pair stays, to be refused or taken by whoever reads it.
            (r#"{"a": "\ud83d"}"#, r#"{"a": "\ud83d"}"#),
            (r#"{"a": "\u0041\u0042"}"#, r#"{"a": "\u0041\u0042"}"#),
            (r"a: \ud83d\ude00", r"a: \ud83d\ude00"),
            (
                "a: '\\ud83d\\ude00'\n---\n{\"a\": \"\\ud83d\\ude00\"}\n--- {\"b\": \"\\ud83d\\ude00\"}",
                "a: '\\ud83d\\ude00'\n---\n{\"a\": \"😀\"}\n--- {\"b\": \"😀\"}",
            ),
        ] {
            assert_eq!(unpaired(text), expected);
        }
    }
}
