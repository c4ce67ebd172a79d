//! Which Docker request an adapter call is about.

/// A request this adapter has to do with. Names and IDs are as the client
/// wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `POST /containers/create`, with the value of `?name=`.
    Create {
        /// The name asked for.
        name: Option<&'a str>,
    },
    /// `POST /containers/{container}/start`.
    Start {
        /// Name, ID or prefix of an ID.
        container: &'a str,
    },
    /// `POST /containers/{container}/restart`.
    Restart {
        /// Name, ID or prefix of an ID.
        container: &'a str,
    },
}

impl<'a> Target<'a> {
    /// Reads method and URI; `None` for every other request.
    pub fn parse(method: &str, uri: &'a str) -> Option<Self> {
        if method != "POST" {
            return None;
        }
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let path = unversioned(path)?;
        if path == "create" {
            return Some(Self::Create {
                name: name_in(query),
            });
        }
        let (container, verb) = path.split_once('/')?;
        match verb {
            _ if !is_name(container) => None,
            "start" => Some(Self::Start { container }),
            "restart" => Some(Self::Restart { container }),
            _ => None,
        }
    }
}

/// What follows `/containers/` or `/v1.41/containers/`.
fn unversioned(path: &str) -> Option<&str> {
    let path = path.strip_prefix('/')?;
    if let Some(rest) = path.strip_prefix("containers/") {
        return Some(rest);
    }
    let (version, rest) = path.split_once('/')?;
    let digits = version.strip_prefix('v')?;
    let is_version = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_version {
        rest.strip_prefix("containers/")
    } else {
        None
    }
}

fn name_in(query: &str) -> Option<&str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let name = pairs.find(|(key, _)| *key == "name")?.1;
    // Docker ignores one leading slash, and takes no name that needs escaping.
    let name = name.strip_prefix('/').unwrap_or(name);
    is_name(name).then_some(name)
}

/// What Docker allows in names; IDs are a subset of it.
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Target::*, *};

    #[test]
    fn requests_are_recognised() {
        let table = [
            ("/containers/create", Some(Create { name: None })),
            ("/v1.41/containers/create", Some(Create { name: None })),
            (
                "/v1.16/containers/create?name=x",
                Some(Create { name: Some("x") }),
            ),
            (
                "/v1.53/containers/create?platform=&name=/x.y",
                Some(Create { name: Some("x.y") }),
            ),
            ("/containers/create?name=", Some(Create { name: None })),
            ("/containers/create?name=a%20b", Some(Create { name: None })),
            ("/containers/web/start", Some(Start { container: "web" })),
            (
                "/v1.41/containers/4fa6e0f0c678/start?detachKeys=",
                Some(Start {
                    container: "4fa6e0f0c678",
                }),
            ),
            (
                "/v1.41/containers/web/restart?t=5",
                Some(Restart { container: "web" }),
            ),
            ("/v1.41/containers/web/stop", None),
            ("/v1.41/containers/web/start/more", None),
            ("/v1.41/containers/a%2Fb/start", None),
            ("/v1.41/containers//start", None),
            ("/v1.41/images/create", None),
            ("/v/containers/create", None),
            ("/vx/containers/create", None),
            ("/x/containers/create", None),
            ("/v1.41/containers/create/", None),
            ("containers/create", None),
            ("", None),
        ];
        for (uri, expected) in table {
            assert_eq!(Target::parse("POST", uri), expected, "{uri}");
        }
        assert_eq!(Target::parse("GET", "/containers/create"), None);
    }

    proptest! {
        #[test]
        fn no_uri_panics(method: String, uri: String) {
            Target::parse(&method, &uri);
            Target::parse("POST", &uri);
        }
    }
}
