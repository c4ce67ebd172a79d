//! `vxplane monitor`

use std::mem;

use nix::{
    libc,
    time::{ClockId, clock_gettime},
};

use super::{
    CliError,
    client::{Client, query},
    output::{Printer, printable},
};
use crate::control::{EndpointRef, Event, EventType};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only dropped packets
    #[arg(long)]
    drops: bool,
    /// Only what this endpoint has part in: its ID, the beginning of it, or its container's name
    #[arg(long, value_name = "ID")]
    endpoint: Option<String>,
}

/// Prints what happens, until it is interrupted or the daemon stops.
pub(super) async fn run(args: Args, client: &Client, printer: Printer) -> Result<(), CliError> {
    let drops = args.drops.then(|| "true".to_owned());
    let path = query(
        "/v1/events",
        &[("drops", drops), ("endpoint", args.endpoint)],
    );
    let mut stream = client.stream(&path).await?;
    while let Some(json) = stream.next_data().await? {
        printer.line(&json, line)?;
    }
    Ok(())
}

/// One event in one line. What a later daemon tells is shown as it came.
fn line(json: &[u8]) -> String {
    let Ok(event) = serde_json::from_slice::<Event>(json) else {
        return printable(String::from_utf8_lossy(json).into_owned()) + "\n";
    };
    let endpoint = event.endpoint.as_ref().map_or("-", EndpointRef::label);
    let reason = match (event.kind, event.reason) {
        (EventType::Drop, Some(reason)) => format!("{reason}: "),
        _ => String::new(),
    };
    let text = format!(
        "{}  {:24} {endpoint:16} {reason}{}",
        time_of_day(),
        name(event.kind),
        event.text
    );
    printable(text) + "\n"
}

fn name(kind: EventType) -> String {
    let name = serde_json::to_value(kind).unwrap_or_default();
    name.as_str().unwrap_or_default().replace('_', "-")
}

/// Now, as this terminal's user has it. The daemon tells no time of day, so that
/// nothing depends on a clock that jumps; here it only says when a line was printed.
fn time_of_day() -> String {
    let Ok(now) = clock_gettime(ClockId::CLOCK_REALTIME) else {
        return String::new();
    };
    // SAFETY: numbers and a pointer that is not followed; all zeroes are a value.
    let mut local: libc::tm = unsafe { mem::zeroed() };
    let seconds: libc::time_t = now.tv_sec();
    // SAFETY: both live across the call, which keeps neither.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut local) };
    let millis = now.tv_nsec() / 1_000_000;
    let libc::tm {
        tm_hour,
        tm_min,
        tm_sec,
        ..
    } = local;
    format!("{tm_hour:02}:{tm_min:02}:{tm_sec:02}.{millis:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_cannot_steer_the_terminal() {
        let event =
            br#"{"type":"drop","text":"udp 10.50.0.9 \u2192 10.50.0.2\n","reason":"source_ip",
            "endpoint":{"id":"0123456789ab","name":"w\u001b[2Jeb","ip":"10.50.0.1","node":"a"},
            "later":1}"#;
        let line = line(event);
        let expected = "drop                     w\\u{1b}[2Jeb";
        assert!(line.contains(expected), "{line:?}");
        assert!(
            line.ends_with("source_ip: udp 10.50.0.9 → 10.50.0.2\\n\n"),
            "{line:?}"
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn what_is_not_known_is_shown_as_it_came() {
        assert_eq!(line(br#"{"type":"later"}"#), "{\"type\":\"later\"}\n");
    }
}
