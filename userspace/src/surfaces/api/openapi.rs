//! `/v1/openapi.json`

use axum::Json;
use utoipa::OpenApi;

use super::{
    endpoints, events, metrics, namespaces, networks, nodes, peers, policies, problem::ProblemDto,
    status, trace,
};
use crate::control::Event;

/// The description of the API, gathered from its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "vxplane",
        description = "Networks, endpoints, peers, policies and nodes, as one host sees them. HTTP/1.1 on the unix socket \
                       `<run-dir>/vxplane.sock`."
    ),
    paths(
        status::ping,
        status::show,
        networks::list,
        networks::create,
        networks::show,
        networks::remove,
        endpoints::list,
        endpoints::attach,
        endpoints::show,
        endpoints::detach,
        peers::list,
        peers::add,
        peers::remove,
        policies::list,
        policies::apply,
        policies::show,
        policies::remove,
        namespaces::list,
        namespaces::label,
        nodes::list,
        nodes::show,
        nodes::remove,
        events::listen,
        trace::trace,
        metrics::scrape,
        document,
    ),
    components(schemas(ProblemDto, Event))
)]
struct Api;

/// This description.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "daemon", operation_id = "openapi",
    responses((status = 200, description = "this document")),
)]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}
