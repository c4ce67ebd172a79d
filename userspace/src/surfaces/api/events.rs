//! `/v1/events`

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Sse,
        sse::{Event as Frame, KeepAlive},
    },
};
use futures_util::stream;
use serde::Deserialize;

use super::{Problem, ProblemDto, query::Asked};
use crate::control::{Control, Event, Interest};

/// How often a line comes while nothing happens.
const PULSE: Duration = Duration::from_secs(15);

/// What to hear of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Only what was dropped.
    #[serde(default)]
    drops: bool,
    /// Only what the endpoint with this ID (or its beginning, or its container's
    /// name) has part in.
    endpoint: Option<String>,
}

/// What happens, as it happens. Each `data` line is an event; `event` has its type.
#[utoipa::path(
    get, path = "/v1/events", tag = "daemon", operation_id = "listen",
    params(
        ("drops" = Option<bool>, Query, description = "only what was dropped"),
        ("endpoint" = Option<String>, Query, description = "only what this endpoint has part in: its ID, an unambiguous beginning of it, or its container's name or ID"),
    ),
    responses(
        (status = 200, description = "server-sent events", body = Event,
         content_type = "text/event-stream"),
        (status = 404, description = "no such endpoint", body = ProblemDto),
        (status = 429, description = "too many listeners", body = ProblemDto),
    ),
)]
pub(super) async fn listen(
    State(control): State<Control>,
    Asked(filter): Asked<Filter>,
) -> Result<impl IntoResponse, Problem> {
    let endpoint = filter.endpoint.map(|text| control.find_endpoint(&text));
    let interest = Interest {
        drops: filter.drops,
        endpoint: endpoint.transpose()?,
    };
    let listener = control.listen(interest).ok_or_else(|| {
        let detail = "too many listen already; close some connections to /v1/events";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_listeners", detail)
    })?;
    let events = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(frame(&event)), listener))
    });
    let pulse = KeepAlive::new().interval(PULSE);
    Ok(Sse::new(events).keep_alive(pulse))
}

fn frame(event: &Event) -> Frame {
    // Neither the word nor the text can be anything but JSON.
    let name = serde_json::to_value(event.kind).unwrap_or_default();
    let data = serde_json::to_string(event).unwrap_or_default();
    let frame = Frame::default().event(name.as_str().unwrap_or_default());
    frame.data(data)
}
