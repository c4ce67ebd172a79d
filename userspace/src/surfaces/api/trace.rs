//! `/v1/trace`

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Problem, ProblemDto, body::Strict};
use crate::control::{ArrivalSpec, Control, Protocol, Trace, TraceSpec, parse_ipv4, parse_target};

/// A packet to be traced: `from` an endpoint, or `arriving_from` a VTEP
/// with `network` and `source`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// The endpoint that sends it: its ID, an unambiguous beginning of it, or its
    /// container's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The VTEP that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arriving_from: Option<String>,
    /// The network in which it comes from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The address in that network that sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whom it is for: an address, or one with a port, as in `10.50.0.12:80`.
    #[schema(example = "10.50.0.12")]
    pub to: String,
    /// To which port, if `to` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// TCP if there is a port, ICMP otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// What would become of a packet. It is run through the live programs, and nothing
/// changes by it.
#[utoipa::path(
    post, path = "/v1/trace", tag = "daemon", operation_id = "trace",
    request_body = TraceRequest,
    responses(
        (status = 200, description = "its way, step by step", body = Trace),
        (status = 400, description = "there is no such packet", body = ProblemDto),
        (status = 404, description = "no such endpoint or network", body = ProblemDto),
        (status = 409, description = "the endpoint is on another node, which does not answer", body = ProblemDto),
        (status = 500, description = "the programs could not be run", body = ProblemDto),
    ),
)]
pub(super) async fn trace(
    State(control): State<Control>,
    Strict(request): Strict<TraceRequest>,
) -> Result<Json<Trace>, Problem> {
    let (to, port) = parse_target(&request.to)?;
    if port.is_some() && request.port.is_some() {
        let detail = "give the port in `to` or in `port`, not in both";
        let code = "invalid_port";
        return Err(Problem::new(StatusCode::BAD_REQUEST, code, detail));
    }
    let (port, protocol) = (port.or(request.port), request.protocol);
    let (arriving_from, network, source) = (request.arriving_from, request.network, request.source);
    let trace = match (request.from, arriving_from, network, source) {
        (Some(from), None, None, None) => {
            let spec = TraceSpec {
                from,
                to,
                port,
                protocol,
            };
            control.trace(spec).await?
        }
        (None, Some(vtep), Some(network), Some(source)) => {
            let spec = ArrivalSpec {
                vtep: parse_ipv4(&vtep)?,
                network,
                source: parse_ipv4(&source)?,
                to,
                port,
                protocol,
            };
            control.trace_arrival(spec).await?
        }
        _ => {
            let detail = "give either `from`, or `arriving_from` with `network` and `source`";
            let code = "invalid_body";
            return Err(Problem::new(StatusCode::BAD_REQUEST, code, detail));
        }
    };
    Ok(Json(trace))
}
