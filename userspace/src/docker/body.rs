//! A create body as generic JSON, read and edited the way Docker reads it.
//!
//! It is never decoded into a struct of ours: fields that are newer than we
//! are, their order and the form of their numbers survive. Go's decoder, which
//! Docker uses, matches keys without regard to case; so does this.

use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// The body as an object, or `None` where Docker would not read it either.
pub fn parse(body: &str) -> Option<Object> {
    match serde_json::from_str(body) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// The value Docker would take for `key`: the last that matches.
pub fn get<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
    let mut matching = object
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(key));
    matching.next_back().map(|(_, value)| value)
}

/// The object at `key`; none if it is absent or of another type.
pub fn object<'a>(parent: &'a Object, key: &str) -> Option<&'a Object> {
    get(parent, key)?.as_object()
}

/// The string at `key`, unless it is absent, empty or of another type.
pub fn text<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    get(object, key)?.as_str().filter(|text| !text.is_empty())
}

/// Takes `key` out, in every spelling; gives the value Docker would have taken.
pub fn take(object: &mut Object, key: &str) -> Option<Value> {
    let spellings = spellings(object, key);
    // `remove` would move the last field into the hole.
    spellings
        .iter()
        .fold(None, |_, name| object.shift_remove(name))
}

/// Sets `key`, in the place and spelling it stands in, else at the end.
pub fn set(object: &mut Object, key: &str, value: Value) {
    let spellings = spellings(object, key);
    let Some((last, others)) = spellings.split_last() else {
        object.insert(key.to_owned(), value);
        return;
    };
    for name in others {
        object.shift_remove(name);
    }
    object.insert(last.clone(), value);
}

/// Edits the object at `key`, made if it is absent, null or of another type.
pub fn edit<T>(parent: &mut Object, key: &str, edit: impl FnOnce(&mut Object) -> T) -> T {
    let name = spellings(parent, key)
        .pop()
        .unwrap_or_else(|| key.to_owned());
    let slot = parent.entry(name).or_insert(Value::Null);
    let mut object = match slot.take() {
        Value::Object(object) => object,
        _ => Object::new(),
    };
    let result = edit(&mut object);
    *slot = Value::Object(object);
    result
}

fn spellings(object: &Object, key: &str) -> Vec<String> {
    object
        .keys()
        .filter(|name| name.eq_ignore_ascii_case(key))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object_of(text: &str) -> Object {
        parse(text).expect("an object")
    }

    #[test]
    fn keys_match_in_any_case_and_the_last_counts() {
        let object = object_of(r#"{"Env":["a"],"env":["b"],"Image":"x"}"#);
        assert_eq!(get(&object, "ENV"), object.get("env"));
        assert_eq!(get(&object, "Labels"), None);
    }

    #[test]
    fn order_spelling_and_numbers_survive_an_edit() {
        let mut object = object_of(
            r#"{"z":1.50,"hostconfig":{"NanoCpus":12345678901234567890123,"networkmode":"a","NetworkMode":"b"},"a":1e+3}"#,
        );
        edit(&mut object, "HostConfig", |host| {
            set(host, "NetworkMode", "c".into());
        });
        assert_eq!(
            Value::Object(object).to_string(),
            r#"{"z":1.50,"hostconfig":{"NanoCpus":12345678901234567890123,"NetworkMode":"c"},"a":1e+3}"#
        );
    }

    #[test]
    fn take_removes_every_spelling_and_keeps_the_order() {
        let mut object = object_of(r#"{"Dns":["1.1.1.1"],"a":1,"DNS":["2.2.2.2"],"b":2,"c":3}"#);
        assert_eq!(
            take(&mut object, "Dns"),
            Some(serde_json::json!(["2.2.2.2"]))
        );
        assert_eq!(Value::Object(object).to_string(), r#"{"a":1,"b":2,"c":3}"#);
    }

    #[test]
    fn null_becomes_an_object() {
        let mut object = object_of(r#"{"HostConfig":null}"#);
        edit(&mut object, "HostConfig", |host| {
            host.insert("a".into(), 1.into())
        });
        assert_eq!(
            Value::Object(object).to_string(),
            r#"{"HostConfig":{"a":1}}"#
        );
    }
}
