//! Questions of one node to another: a key that the other watches, and one for the
//! answer, both gone with a lease of a few seconds.

use std::{
    collections::hash_map::RandomState,
    convert::Infallible,
    future::pending,
    hash::{BuildHasher as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use etcd_client::{EventType, KeyValue, PutOptions, WatchOptions};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    Inner,
    client::{Connection, Fault, within},
};
use crate::store::{AskError, Question};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// After how many seconds question and answer are gone, whoever forgot them.
const TTL: i64 = 5;
/// The longest question and answer, in bytes.
const QUESTION_MAX: usize = 4 * 1024;
const ANSWER_MAX: usize = 64 * 1024;
/// How long after an answer the next question is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks a node and waits for its answer.
pub(super) async fn ask(inner: &Inner, node: &str, text: Vec<u8>) -> Result<Vec<u8>, AskError> {
    let connection = inner.link.borrow().connection().cloned();
    let connection = connection.ok_or_else(|| AskError::Away(inner.unavailable().to_string()))?;
    let answered = timeout(PATIENCE, exchange(inner, &connection, node, text)).await;
    let answered = answered.map_err(|_| AskError::Silent)?;
    answered.map_err(|fault| AskError::Away(fault.to_string()))
}

async fn exchange(
    inner: &Inner,
    connection: &Connection,
    node: &str,
    text: Vec<u8>,
) -> Result<Vec<u8>, Fault> {
    let id = format!("{:016x}", RandomState::new().build_hasher().finish());
    let mut leases = connection.leases();
    let lease = within(PATIENCE, leases.grant(TTL, None)).await?.id();
    // Before the question, so that no answer is missed.
    let mut answers = connection.client().watch_client();
    let watch = answers.watch(inner.keys.answer(&id), None);
    let mut watch = within(PATIENCE, watch).await?;
    let options = PutOptions::new().with_lease(lease);
    let mut kv = connection.client().kv_client();
    let put = kv.put(inner.keys.question(node, &id), text, Some(options));
    within(PATIENCE, put).await?;
    loop {
        let message = within(PATIENCE, watch.message()).await?;
        let message = message.ok_or_else(|| Fault::Lost("the watch ended".to_owned()))?;
        let put = |event: &&etcd_client::Event| event.event_type() == EventType::Put;
        let answer = message.events().iter().find(put);
        if let Some(answer) = answer.and_then(etcd_client::Event::kv) {
            let answer = answer.value().to_vec();
            // If it fails, the lease ends by itself.
            let _ = within(PATIENCE, leases.revoke(lease)).await;
            return Ok(answer);
        }
    }
}

/// Hands on what other nodes ask, as long as the connection is of use.
pub(super) async fn serve(inner: &Arc<Inner>, connection: &Connection) -> Infallible {
    if let Err(fault) = hand_on(inner, connection).await {
        debug!("questions of other nodes do not come: {fault}");
    }
    // Whether the connection is of use is for others to say.
    pending().await
}

async fn hand_on(inner: &Arc<Inner>, connection: &Connection) -> Result<(), Fault> {
    let prefix = inner.keys.questions(&inner.node);
    let options = WatchOptions::new().with_prefix();
    let mut questions = connection.client().watch_client();
    let watch = questions.watch(prefix.as_str(), Some(options));
    let mut watch = within(PATIENCE, watch).await?;
    loop {
        let message = watch.message().await;
        let message = within(PATIENCE, async { message }).await?;
        let message = message.ok_or_else(|| Fault::Lost("the watch ended".to_owned()))?;
        for event in message.events() {
            let Some(kv) = event.kv().filter(|_| event.event_type() == EventType::Put) else {
                continue;
            };
            let id = kv.key_str().ok().and_then(|key| key.strip_prefix(&prefix));
            if let Some(id) = id.filter(|id| is_id(id))
                && kv.value().len() <= QUESTION_MAX
            {
                answer(inner, connection, id, kv).await;
                sleep(PAUSE).await;
            }
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Gets an answer and writes it, unless it takes too long.
async fn answer(inner: &Arc<Inner>, connection: &Connection, id: &str, question: &KeyValue) {
    let (answer, answered) = oneshot::channel();
    let text = question.value().to_vec();
    if inner
        .questions
        .0
        .try_send(Question { text, answer })
        .is_err()
    {
        return;
    }
    let Ok(Ok(answer)) = timeout(PATIENCE, answered).await else {
        return;
    };
    if answer.len() > ANSWER_MAX {
        return;
    }
    // Gone with the question.
    let options = PutOptions::new().with_lease(question.lease());
    let mut kv = connection.client().kv_client();
    let put = kv.put(inner.keys.answer(id), answer, Some(options));
    if let Err(fault) = within(PATIENCE, put).await {
        debug!("an answer was not taken: {fault}");
    }
}

#[cfg(test)]
mod tests {
    use super::is_id;

    #[test]
    fn ids_are_sixteen_hex_digits() {
        assert!(is_id("0123456789abcdef"));
        for wrong in [
            "",
            "0123456789abcde",
            "0123456789abcdeg",
            "../../objects/x12",
        ] {
            assert!(!is_id(wrong), "{wrong}");
        }
    }
}
