//! Powerstrip protocol v1 on the wire.
//!
//! Upstream's README and code disagree, so a reply satisfies both: every key
//! the README names is there, and it is complete whatever came in, because the
//! code never looks at the HTTP status and hangs its client on a missing key.
//! Values are kept as they came, so that what is not ours to change goes back
//! as it was.

use serde_json::{Map, Value, json};

/// The only version there ever was.
const VERSION: u64 = 1;

/// Which side of the Docker request the adapter was called on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before Docker sees the request.
    Pre,
    /// After Docker has answered it.
    Post,
    /// It cannot be told; the reply then has the keys of both.
    Unknown,
}

/// The client's request to Docker, values as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientRequest {
    /// `"POST"` and the like.
    pub method: Value,
    /// The raw URI with its query string.
    pub request: Value,
    /// The body as a string, or null.
    pub body: Value,
}

/// Docker's answer, values as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerResponse {
    /// The MIME type, or null.
    pub content_type: Value,
    /// The body as a string.
    pub body: Value,
    /// The HTTP status.
    pub code: Value,
}

/// One call of the adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Before or after.
    pub side: Side,
    /// Whether it speaks a version whose meaning we know.
    pub understood: bool,
    /// The client's request.
    pub client: ClientRequest,
    /// Docker's answer; all null in a pre-hook.
    pub server: ServerResponse,
}

impl Call {
    /// Reads a call. Nothing is refused: what is missing is null, and what
    /// cannot be read at all is a call that is not understood.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut root = match serde_json::from_slice(bytes) {
            Ok(Value::Object(root)) => root,
            _ => Map::new(),
        };
        let version = root.get("PowerstripProtocolVersion");
        let side = match root.get("Type").and_then(Value::as_str) {
            Some("pre-hook") => Side::Pre,
            Some("post-hook") => Side::Post,
            _ => Side::Unknown,
        };
        Self {
            side,
            understood: version.is_none_or(|v| v.as_u64() == Some(VERSION)),
            client: ClientRequest::take(&mut root),
            server: ServerResponse::take(&mut root),
        }
    }

    /// The answer that changes nothing.
    pub fn unchanged(&self) -> Value {
        let mut reply = Map::new();
        reply.insert("PowerstripProtocolVersion".into(), VERSION.into());
        if self.side != Side::Post {
            let ClientRequest {
                method,
                request,
                body,
            } = &self.client;
            reply.insert(
                "ModifiedClientRequest".into(),
                json!({ "Method": method, "Request": request, "Body": body }),
            );
        }
        if self.side != Side::Pre {
            let ServerResponse {
                content_type,
                body,
                code,
            } = &self.server;
            reply.insert(
                "ModifiedServerResponse".into(),
                json!({ "ContentType": content_type, "Body": body, "Code": code }),
            );
        }
        Value::Object(reply)
    }

    /// The answer to a pre-hook that gives Docker another body.
    pub fn with_request_body(mut self, body: String) -> Value {
        self.client.body = body.into();
        self.unchanged()
    }

    /// The answer to a post-hook that gives the client another body.
    pub fn with_response_body(mut self, body: String) -> Value {
        self.server.body = body.into();
        self.unchanged()
    }
}

impl ClientRequest {
    fn take(root: &mut Map<String, Value>) -> Self {
        let mut fields = object(root, "ClientRequest");
        Self {
            method: text(&mut fields, "Method"),
            request: text(&mut fields, "Request"),
            body: fields.remove("Body").unwrap_or(Value::Null),
        }
    }
}

impl ServerResponse {
    fn take(root: &mut Map<String, Value>) -> Self {
        let mut fields = object(root, "ServerResponse");
        Self {
            content_type: fields.remove("ContentType").unwrap_or(Value::Null),
            body: text(&mut fields, "Body"),
            // No answer of Docker's is no success.
            code: fields.remove("Code").unwrap_or(500.into()),
        }
    }
}

fn object(root: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match root.remove(key) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// A value that the protocol promises to be a string: `""` when missing.
fn text(fields: &mut Map<String, Value>, key: &str) -> Value {
    fields.remove(key).unwrap_or_else(|| "".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRE: &str = r#"{"PowerstripProtocolVersion":1,"Type":"pre-hook","ClientRequest":
        {"Method":"POST","Request":"/v1.16/containers/create?name=x","Body":"{\"Image\": \"b\"}"}}"#;
    /// As captured from Powerstrip: nothing in the bodies.
    const POST: &str = r#"{"PowerstripProtocolVersion":1,"Type":"post-hook","ClientRequest":
        {"Method":"POST","Request":"/v1.16/containers/x/start","Body":null},
        "ServerResponse":{"Body":"","Code":204,"ContentType":null}}"#;

    #[test]
    fn pre_hook_goes_back_as_it_came() {
        let call = Call::parse(PRE.as_bytes());
        assert!(call.understood);
        assert_eq!(
            call.unchanged().to_string(),
            r#"{"PowerstripProtocolVersion":1,"ModifiedClientRequest":{"Method":"POST","Request":"/v1.16/containers/create?name=x","Body":"{\"Image\": \"b\"}"}}"#
        );
    }

    #[test]
    fn post_hook_goes_back_as_it_came() {
        let call = Call::parse(POST.as_bytes());
        assert_eq!(
            call.unchanged().to_string(),
            r#"{"PowerstripProtocolVersion":1,"ModifiedServerResponse":{"ContentType":null,"Body":"","Code":204}}"#
        );
    }

    #[test]
    fn what_cannot_be_read_gets_every_key() {
        let both = r#"{"PowerstripProtocolVersion":1,"ModifiedClientRequest":{"Method":"","Request":"","Body":null},"ModifiedServerResponse":{"ContentType":null,"Body":"","Code":500}}"#;
        for garbage in [
            "",
            "{",
            "[]",
            "null",
            "\u{0}",
            r#"{"Type":7}"#,
            r#"{"Type":"other"}"#,
        ] {
            assert_eq!(
                Call::parse(garbage.as_bytes()).unchanged().to_string(),
                both
            );
        }
    }

    #[test]
    fn another_version_is_not_understood() {
        for version in ["2", "0", "\"1\"", "null", "1.5"] {
            let call = format!(r#"{{"PowerstripProtocolVersion":{version},"Type":"pre-hook"}}"#);
            assert!(!Call::parse(call.as_bytes()).understood, "{version}");
        }
        assert!(Call::parse(br#"{"Type":"pre-hook"}"#).understood);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let reply = Call::parse(&bytes).unchanged();
            prop_assert!(reply["ModifiedClientRequest"].is_object());
        }

        #[test]
        fn bodies_are_kept_byte_for_byte(body: String, code in 100..600_u64) {
            let call = json!({"Type": "post-hook", "ServerResponse": {"Body": body, "Code": code}});
            let reply = Call::parse(call.to_string().as_bytes()).unchanged();
            prop_assert_eq!(&reply["ModifiedServerResponse"]["Body"], &Value::from(body));
            prop_assert_eq!(&reply["ModifiedServerResponse"]["Code"], &Value::from(code));
        }
    }
}
