//! Traces that go on at another host, by way of the store that both share.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::debug;

use super::{Here, Onward, Packet, Trace, TraceSpec};
use crate::{
    control::{Conflict, Control, Error},
    store::{AskError, Question},
};

/// The most steps that are taken over from another host, and the longest.
const STEPS: usize = 64;
const TEXT: usize = 1000;

/// What one host asks another. The one has `vtep`, the other `from`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Asked {
    Arrival(Arrival),
    Departure(TraceSpec),
}

/// A packet that comes from the host that asks, or from a third.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arrival {
    packet: Packet,
    vtep: Ipv4Addr,
}

/// What a host says of a packet that leaves it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Departed {
    trace: Trace,
    onward: Option<Onward>,
}

impl Trace {
    /// Takes over what becomes of it on another host.
    pub(super) fn go_on(&mut self, there: Self) {
        self.verdict = there.verdict;
        self.reason = there.reason;
        self.advice = there.advice;
        self.steps.extend(there.steps);
    }

    /// As it is taken from a node, which speaks for itself alone.
    fn told_by(self, node: &str) -> Self {
        let advice = self
            .advice
            .map(|advice| format!("on node {node}: {advice}"));
        let mut steps = self.steps;
        steps.truncate(STEPS);
        for step in &mut steps {
            node.clone_into(&mut step.node);
            step.stage = step.stage.chars().take(16).collect();
            step.text = step.text.chars().take(TEXT).collect();
        }
        Self {
            packet: self.packet.chars().take(TEXT).collect(),
            steps,
            advice,
            ..self
        }
    }
}

impl Control {
    /// Asks a node, and says why not if it does not answer.
    async fn ask<A: DeserializeOwned>(&self, node: &str, asked: &Asked) -> Result<A, String> {
        // It is numbers, addresses and an ID.
        let question = serde_json::to_vec(asked).unwrap_or_default();
        let answer = match self.inner.store.ask(node, question).await {
            Ok(answer) => answer,
            Err(AskError::Silent) => {
                return Err(format!(
                    "node {node} did not say within 2 s what becomes of it there"
                ));
            }
            Err(error) => return Err(format!("node {node} could not be asked: {error}")),
        };
        match serde_json::from_slice::<Result<A, String>>(&answer) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(reason)) => {
                let reason: String = reason.chars().take(TEXT).collect();
                Err(format!("node {node}: {reason}"))
            }
            Err(_) => Err(format!(
                "node {node} runs a version that answers in another way"
            )),
        }
    }

    /// Asks the node that a packet goes to what becomes of it there.
    pub(super) async fn ask_arrival(
        &self,
        here: &Here,
        node: &str,
        onward: Onward,
        trace: &mut Trace,
    ) {
        let arrival = Asked::Arrival(Arrival {
            packet: onward.packet,
            vtep: onward.from,
        });
        match self.ask::<Trace>(node, &arrival).await {
            Ok(there) => trace.go_on(there.told_by(node)),
            Err(why) => trace.steps.push(here.step(("note", why))),
        }
    }

    /// Asks the node that has an endpoint what becomes of a packet that this one
    /// sends, as far as that node.
    pub(super) async fn ask_departure(
        &self,
        node: &str,
        spec: TraceSpec,
    ) -> Result<(Trace, Option<Onward>), Error> {
        let command = spec.command();
        let id = spec.from.clone();
        match self.ask::<Departed>(node, &Asked::Departure(spec)).await {
            Ok(Departed { trace, onward }) => Ok((trace.told_by(node), onward)),
            Err(why) => Err(Conflict::TraceElsewhere {
                id,
                node: node.to_owned(),
                why,
                command,
            }
            .into()),
        }
    }

    /// Answers what other hosts ask, for as long as the daemon runs.
    pub async fn answer_questions(self) {
        let Some(mut questions) = self.inner.store.questions() else {
            return;
        };
        while let Some(Question { text, answer }) = questions.recv().await {
            let told = match serde_json::from_slice::<Asked>(&text) {
                Ok(Asked::Arrival(arrival)) => encoded(self.answer_arrival(arrival).await),
                Ok(Asked::Departure(spec)) => encoded(self.answer_departure(spec).await),
                Err(error) => {
                    debug!("another host asked something else: {error}");
                    continue;
                }
            };
            // Whoever asked may have given up.
            let _ = answer.send(told);
        }
    }

    async fn answer_arrival(&self, arrival: Arrival) -> Result<Trace, Error> {
        let Arrival { packet, vtep } = arrival;
        let trace = self.arrive(&self.here(), &packet, vtep).await?;
        Ok(trace.bounded())
    }

    async fn answer_departure(&self, spec: TraceSpec) -> Result<Departed, Error> {
        let id = spec.from.clone();
        let (trace, onward) = self.depart(&self.here(), &id, spec).await?;
        let trace = trace.bounded();
        Ok(Departed { trace, onward })
    }
}

impl Trace {
    fn bounded(mut self) -> Self {
        self.steps.truncate(STEPS);
        self
    }
}

fn encoded<A: Serialize>(answer: Result<A, Error>) -> Vec<u8> {
    let answer = answer.map_err(|error| error.to_string());
    serde_json::to_vec(&answer).unwrap_or_default()
}
