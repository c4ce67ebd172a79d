//! Turns a create body into one that joins a network-only container, or into
//! one that Docker refuses with our words.

use serde_json::{Value, json};

use super::{
    body::{self, Object},
    labels,
    optin::is_replaceable,
};

/// What every refusal of ours begins with.
const REFUSAL_PREFIX: &str = "vxplane: ";

/// What containers that share a network namespace share besides: the host name
/// and the files Docker writes into `/etc`. Docker takes these settings from
/// the container that owns the namespace and refuses them on one that joins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shared {
    /// Fields of the container's configuration: `Hostname` and the like.
    pub config: Object,
    /// Fields of its `HostConfig`: `Dns` and the like.
    pub host_config: Object,
}

const SHARED_CONFIG: [&str; 3] = ["Hostname", "Domainname", "ExposedPorts"];
const SHARED_HOST_CONFIG: [&str; 4] = ["Dns", "DnsOptions", "DnsSearch", "ExtraHosts"];
/// Needed by both: to share a network namespace is to share its user namespace.
const COMMON_HOST_CONFIG: [&str; 1] = ["UsernsMode"];

impl Shared {
    /// Moves the shared settings out of a create body. The MAC address goes
    /// too: it belongs to the endpoint.
    pub fn take(create: &mut Object) -> Self {
        let mut shared = Self::default();
        move_set(&SHARED_CONFIG, create, &mut shared.config);
        body::take(create, "MacAddress");
        body::edit(create, "HostConfig", |host| {
            move_set(&SHARED_HOST_CONFIG, host, &mut shared.host_config);
            for key in COMMON_HOST_CONFIG {
                if let Some(value) = body::get(host, key) {
                    shared.host_config.insert(key.to_owned(), value.clone());
                }
            }
        });
        shared
    }
}

/// Moves those of `keys` that are set to something.
fn move_set(keys: &[&str], from: &mut Object, to: &mut Object) {
    for key in keys {
        match body::take(from, key) {
            Some(value) if !is_empty(&value) => {
                to.insert((*key).to_owned(), value);
            }
            _ => {}
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Makes the container join the network namespace of the container `network_id`
/// and marks it as that one's pair.
pub fn join(create: &mut Object, network_id: &str, pair: &str) {
    body::edit(create, "Labels", |labels| {
        labels.insert(labels::PAIR.to_owned(), pair.into());
    });
    body::edit(create, "HostConfig", |host| {
        body::set(
            host,
            "NetworkMode",
            format!("container:{network_id}").into(),
        );
    });
    // Clients name the default network here as well, which would contradict.
    if body::object(create, "NetworkingConfig").is_some() {
        body::edit(create, "NetworkingConfig", |config| {
            if body::object(config, "EndpointsConfig").is_some() {
                body::edit(config, "EndpointsConfig", |endpoints| {
                    endpoints.retain(|name, _| !is_replaceable(name));
                });
            }
        });
    }
}

/// A create body that every Docker refuses, quoting `reason`: the protocol has
/// no other way to stop a request and tell its user why.
///
/// The stop signal is checked before anything is made or looked for, and what
/// follows it in the message is nothing but our text.
pub fn refusal(reason: &str) -> String {
    json!({ "Image": "vxplane", "StopSignal": format!("{REFUSAL_PREFIX}{reason}") }).to_string()
}

/// The reason in an error body of Docker's that quotes a refusal, if it does.
pub fn quoted_refusal(error_body: &str) -> Option<String> {
    let error = body::parse(error_body)?;
    let message = body::text(&error, "message")?;
    let (_, reason) = message.split_once(REFUSAL_PREFIX)?;
    Some(reason.to_owned())
}

/// An error body as Docker's API gives it.
pub fn error_body(reason: &str) -> String {
    json!({ "message": format!("{REFUSAL_PREFIX}{reason}") }).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(create: &str) -> (String, Shared) {
        let mut create = body::parse(create).expect("an object");
        let shared = Shared::take(&mut create);
        join(&mut create, "4fa6", "ab12");
        (Value::Object(create).to_string(), shared)
    }

    #[test]
    fn a_bare_body_gets_what_it_needs() {
        let (create, shared) = joined(r#"{"Image":"b"}"#);
        assert_eq!(
            create,
            r#"{"Image":"b","HostConfig":{"NetworkMode":"container:4fa6"},"Labels":{"vxplane.pair":"ab12"}}"#
        );
        assert_eq!(shared, Shared::default());
    }

    #[test]
    fn a_body_of_the_command_line_is_edited_in_place() {
        let (create, shared) = joined(
            r#"{"Hostname":"web","Domainname":"","MacAddress":"02:42:0a:00:06:63","ExposedPorts":{"80/tcp":{}},"Image":"b","Labels":{"tier":"web"},"New":{"Field":1.0},"HostConfig":{"Binds":null,"NetworkMode":"default","Dns":["10.0.6.1"],"DnsOptions":[],"ExtraHosts":["a:1.2.3.4"],"UsernsMode":"host","NanoCpus":0},"NetworkingConfig":{"EndpointsConfig":{"default":{"MacAddress":"02:42:0a:00:06:63"}},"x":2}}"#,
        );
        assert_eq!(
            create,
            r#"{"Image":"b","Labels":{"tier":"web","vxplane.pair":"ab12"},"New":{"Field":1.0},"HostConfig":{"Binds":null,"NetworkMode":"container:4fa6","UsernsMode":"host","NanoCpus":0},"NetworkingConfig":{"EndpointsConfig":{},"x":2}}"#
        );
        assert_eq!(
            Value::Object(shared.config).to_string(),
            r#"{"Hostname":"web","ExposedPorts":{"80/tcp":{}}}"#
        );
        assert_eq!(
            Value::Object(shared.host_config).to_string(),
            r#"{"Dns":["10.0.6.1"],"ExtraHosts":["a:1.2.3.4"],"UsernsMode":"host"}"#
        );
    }

    #[test]
    fn a_null_networking_config_stays() {
        let (create, _) = joined(r#"{"NetworkingConfig":null}"#);
        assert!(create.contains(r#""NetworkingConfig":null"#), "{create}");
    }

    #[test]
    fn our_words_are_found_in_dockers() {
        let old = r#"{"message":"Invalid signal: vxplane: no network `db`"}"#;
        let new = r#"{"message":"invalid signal: vxplane: no network `db`"}"#;
        for body in [old, new] {
            assert_eq!(quoted_refusal(body).as_deref(), Some("no network `db`"));
        }
        assert_eq!(quoted_refusal(r#"{"message":"No such image: b"}"#), None);
        assert_eq!(quoted_refusal(""), None);
    }

    proptest! {
        #[test]
        fn joining_changes_nothing_else(keys in proptest::collection::btree_map("[a-d]{1,3}", any::<f64>(), 0..8)) {
            let mut before = Object::new();
            for (key, number) in keys {
                before.insert(key, json!({ "number": number }));
            }
            let mut after = before.clone();
            join(&mut after, "4fa6", "ab12");
            after.shift_remove("HostConfig");
            after.shift_remove("Labels");
            prop_assert_eq!(Value::Object(after).to_string(), Value::Object(before).to_string());
        }
    }
}
