//! What names, labels and their values may be, as the Kubernetes API server has
//! it. Each function says what is wrong with a text, if anything is.

/// The longest DNS label (RFC 1123), which is also the longest label value and
/// the longest name of a label without its prefix.
const LABEL_MAX: usize = 63;
/// The longest DNS name.
const SUBDOMAIN_MAX: usize = 253;
/// The longest name of a service (RFC 6335).
const PORT_NAME_MAX: usize = 15;

/// What is wrong with the name of a policy: it must be a DNS-1123 subdomain.
pub fn subdomain(text: &str) -> Option<&'static str> {
    const RULE: &str = "must be lower-case letters, digits, `-` and `.`, 253 characters at most, \
                        and each part between dots must start and end with a letter or digit";
    let is_good = text.len() <= SUBDOMAIN_MAX && text.split('.').all(is_dns_word);
    (!is_good).then_some(RULE)
}

/// What is wrong with the name of a namespace.
///
/// Kubernetes would have it a DNS-1123 label. Here namespaces also come from
/// Compose projects and Docker labels, and none of them may be out of a policy's
/// reach; so it is what the namespace of an endpoint may be.
pub fn namespace(text: &str) -> Option<&'static str> {
    const RULE: &str = "must be letters, digits, `-`, `_` and `.`, 253 characters at most, and \
                        start with a letter or digit";
    let is_good = text.len() <= SUBDOMAIN_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(is_label_byte);
    (!is_good).then_some(RULE)
}

/// What is wrong with the key of a label: a name, with a DNS-1123 subdomain and
/// `/` before it if need be.
pub fn label_key(text: &str) -> Option<&'static str> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if !is_label_word(name) {
        return Some(
            "the name in a label's key must be letters, digits, `-`, `_` and `.`, 63 characters \
             at most, and start and end with a letter or digit",
        );
    }
    if prefix.is_some_and(|prefix| subdomain(prefix).is_some()) {
        return Some("what stands before the `/` in a label's key must be a DNS name");
    }
    None
}

/// What is wrong with the value of a label; it may be empty.
pub fn label_value(text: &str) -> Option<&'static str> {
    const RULE: &str = "a label's value must be letters, digits, `-`, `_` and `.`, 63 characters \
                        at most, and start and end with a letter or digit";
    (!text.is_empty() && !is_label_word(text)).then_some(RULE)
}

/// What is wrong with the name of a port: it must be one of a service (RFC 6335).
pub fn port_name(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > PORT_NAME_MAX {
        return Some("a port's name must have 1 to 15 characters");
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Some("a port's name must have a letter; a number is to be written without quotes");
    }
    let is_known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !text.bytes().all(is_known) {
        return Some("a port's name must be lower-case letters, digits and `-`");
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Some("a port's name must have a letter");
    }
    if text.starts_with('-') || text.ends_with('-') || text.contains("--") {
        return Some("a port's name must have each `-` between letters or digits");
    }
    None
}

/// One part of a DNS name, lower case.
fn is_dns_word(text: &str) -> bool {
    let is_end = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    is_word(text, SUBDOMAIN_MAX, is_end, |b| is_end(&b) || b == b'-')
}

fn is_label_word(text: &str) -> bool {
    is_word(text, LABEL_MAX, u8::is_ascii_alphanumeric, is_label_byte)
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn is_word(
    text: &str,
    max: usize,
    is_end: impl Fn(&u8) -> bool,
    is_inner: impl Fn(u8) -> bool,
) -> bool {
    let bytes = text.as_bytes();
    text.len() <= max
        && bytes.first().is_some_and(&is_end)
        && bytes.last().is_some_and(&is_end)
        && text.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_an_api_server_takes() {
        let long = "a".repeat(64);
        for (rule, good, bad) in [
            (
                subdomain as fn(&str) -> Option<&'static str>,
                vec!["a", "web-1.v2", "0", long.as_str()],
                vec!["", "-a", "a-", "a..b", "A", "a_b", ".a", "a.-b", "ä"],
            ),
            (
                namespace,
                vec!["default", "my_project", "A.b"],
                vec!["", "-a", "a/b", "_a", "a b"],
            ),
            (
                label_key,
                vec!["app", "app.kubernetes.io/name", "A_b.c-d", "x/y"],
                vec!["", "/a", "a/", "a/b/c", "A/b", "-a", "a b", long.as_str()],
            ),
            (
                label_value,
                vec!["", "web", "A_b.c-1"],
                vec!["-", "a-", "a/b", "a b", long.as_str()],
            ),
            (
                port_name,
                vec!["http", "a", "web-8080", "123a"],
                vec![
                    "",
                    "HTTP",
                    "80",
                    "a--b",
                    "-a",
                    "a-",
                    "a_b",
                    "1-2",
                    "sixteencharacter",
                ],
            ),
        ] {
            for text in good {
                assert_eq!(rule(text), None, "{text}");
            }
            for text in bad {
                assert!(rule(text).is_some(), "{text}");
            }
        }
    }
}
