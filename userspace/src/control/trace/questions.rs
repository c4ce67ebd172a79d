//! Traces that go on at another host, by way of the store that both share.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::{Here, Packet, Trace};
use crate::{
    control::{Control, Error},
    store::{AskError, Question},
};

/// The most steps that are taken over from another host, and the longest.
const STEPS: usize = 64;
const TEXT: usize = 1000;

/// What one host asks another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arrival {
    packet: Packet,
    vtep: Ipv4Addr,
}

impl Control {
    /// Asks the node that a packet goes to what becomes of it there.
    pub(super) async fn ask(&self, here: &Here, node: &str, packet: &Packet, trace: &mut Trace) {
        let unknown = |why: String| here.step(("note", why));
        let Some(underlay) = &here.underlay else {
            return;
        };
        let arrival = Arrival {
            packet: packet.clone(),
            vtep: underlay.vtep,
        };
        // It is numbers and addresses.
        let question = serde_json::to_vec(&arrival).unwrap_or_default();
        let answer = match self.inner.store.ask(node, question).await {
            Ok(answer) => answer,
            Err(AskError::Silent) => {
                let why = format!("node {node} did not say within 2 s what becomes of it there");
                return trace.steps.push(unknown(why));
            }
            Err(error) => {
                let why = format!("node {node} could not be asked: {error}");
                return trace.steps.push(unknown(why));
            }
        };
        match serde_json::from_slice::<Result<Trace, String>>(&answer) {
            Ok(Ok(there)) => {
                trace.verdict = there.verdict;
                trace.reason = there.reason;
                trace.advice = there
                    .advice
                    .map(|advice| format!("on node {node}: {advice}"));
                let mut steps = there.steps;
                steps.truncate(STEPS);
                for step in &mut steps {
                    // It speaks for itself alone.
                    node.clone_into(&mut step.node);
                    step.stage = step.stage.chars().take(16).collect();
                    step.text = step.text.chars().take(TEXT).collect();
                }
                trace.steps.extend(steps);
            }
            Ok(Err(reason)) => {
                let reason: String = reason.chars().take(TEXT).collect();
                trace.steps.push(unknown(format!("node {node}: {reason}")));
            }
            Err(_) => {
                let why = format!("node {node} runs a version that answers in another way");
                trace.steps.push(unknown(why));
            }
        }
    }

    /// Answers what other hosts ask, for as long as the daemon runs.
    pub async fn answer_questions(self) {
        let Some(mut questions) = self.inner.store.questions() else {
            return;
        };
        while let Some(Question { text, answer }) = questions.recv().await {
            let trace = match serde_json::from_slice::<Arrival>(&text) {
                Ok(arrival) => self
                    .answer(arrival)
                    .await
                    .map_err(|error| error.to_string()),
                Err(error) => {
                    debug!("another host asked something else: {error}");
                    continue;
                }
            };
            // Whoever asked may have given up.
            let _ = answer.send(serde_json::to_vec(&trace).unwrap_or_default());
        }
    }

    async fn answer(&self, arrival: Arrival) -> Result<Trace, Error> {
        let Arrival { packet, vtep } = arrival;
        let trace = self.arrive(&self.here(), &packet, vtep).await?;
        let steps = trace.steps.into_iter().take(STEPS).collect();
        Ok(Trace { steps, ..trace })
    }
}
