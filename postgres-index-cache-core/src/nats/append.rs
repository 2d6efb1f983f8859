//! [`Appender`]: appends entries in order, without waiting for each answer.
//!
//! A task of its own sends them: NATS may take none for a while, and the relay's connections to
//! PostgreSQL must be served all the same.

use super::stream::{AppendError, Expected, NatsLog};
use crate::log::{Body, Entry, Place, Sequence};
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use std::collections::VecDeque;
use std::error::Error as _;
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The answer to an append.
#[derive(Debug)]
pub(super) enum Answer {
    /// The entry is stored.
    Stored { round: u64, place: Place },
    /// The entry is not stored, or nobody knows.
    Refused {
        round: u64,
        /// Whether the server has forgotten the name of its last entry.
        has_forgotten: bool,
    },
    /// The entry can never be stored.
    TooLarge { table: String, bytes: usize },
}

/// Sends entries to NATS in order.
pub(super) struct Appender {
    entries: mpsc::UnboundedSender<(u64, Entry)>,
    answers: mpsc::UnboundedReceiver<Answer>,
    task: JoinHandle<()>,
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Appender {
    /// Begins to append. With `first`, the first entry is appended behind the message with that
    /// number, and alone: an empty log, and a server that has forgotten its last entry's name,
    /// cannot compare names.
    pub(super) fn start(log: NatsLog, first: Option<Sequence>) -> Self {
        // The writer bounds what waits for answers.
        let (entries, waiting) = mpsc::unbounded_channel();
        let (answers_tx, answers) = mpsc::unbounded_channel();
        let task = tokio::spawn(run(log, first, waiting, answers_tx));
        Self {
            entries,
            answers,
            task,
        }
    }

    /// Appends an entry behind those before.
    pub(super) fn send(&self, round: u64, entry: Entry) {
        // Without the task there is no answer either, and the writer recovers.
        let _ = self.entries.send((round, entry));
    }

    /// Waits for the next answer.
    pub(super) async fn answer(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

/// The entries that may wait for an answer in NATS.
const MOST_IN_FLIGHT: usize = 4096;

/// The bytes of parts of long changes that may wait for an answer: the time in which an answer must
/// come begins when an entry is handed to the client, and not when it is on the wire.
const MOST_BYTES_IN_FLIGHT: usize = 4 << 20;

type PendingAnswer = Pin<Box<dyn Future<Output = Answer> + Send>>;

async fn run(
    log: NatsLog,
    mut first: Option<Sequence>,
    mut entries: mpsc::UnboundedReceiver<(u64, Entry)>,
    answers: mpsc::UnboundedSender<Answer>,
) {
    let mut acks: FuturesOrdered<PendingAnswer> = FuturesOrdered::new();
    let mut is_alone = first.is_some();
    // The bytes of each entry that waits for an answer, as far as they count, and their sum.
    let mut bytes = VecDeque::new();
    let mut bytes_in_flight = 0;
    loop {
        // NATS' client waits itself at 5000, and the answers could not be taken meanwhile.
        let takes_entries = (!is_alone || acks.is_empty())
            && acks.len() < MOST_IN_FLIGHT
            && bytes_in_flight < MOST_BYTES_IN_FLIGHT;
        tokio::select! {
            entry = entries.recv(), if takes_entries => {
                let Some((round, entry)) = entry else { return };
                is_alone = first.is_some();
                let expected = match (first.take(), entry.behind) {
                    (Some(last), _) => Expected::Sequence(last),
                    (None, Some(behind)) => Expected::Entry(behind),
                    // Nobody knows the end: the recovery that follows finds out.
                    (None, None) => Expected::Sequence(Sequence::default()),
                };
                let counted = match &entry.body {
                    Body::Part(part) => part.text.len(),
                    Body::Begin { .. } | Body::Rows(_) | Body::Proof(_) | Body::Stale { .. } => 0,
                };
                bytes.push_back(counted);
                bytes_in_flight += counted;
                let sent = log.append(&entry, expected).await;
                acks.push_back(pending(round, entry, sent));
            }
            Some(answer) = acks.next() => {
                is_alone = false;
                // The answers come in the order of the entries.
                bytes_in_flight -= bytes.pop_front().unwrap_or(0);
                // The relay may have begun anew.
                if answers.send(answer).is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns the answer to an entry that was sent.
fn pending(round: u64, entry: Entry, sent: Result<PublishAckFuture, AppendError>) -> PendingAnswer {
    Box::pin(async move {
        let refused = |has_forgotten| Answer::Refused {
            round,
            has_forgotten,
        };
        let answered = match sent {
            Ok(sent) => sent.await,
            Err(AppendError::Nats(error)) => Err(error),
            Err(AppendError::Entry(error)) => {
                tracing::error!(%error, "an entry cannot be written");
                return refused(false);
            }
        };
        match answered {
            // One that was stored before is not known to stand there.
            Ok(ack) if ack.duplicate => refused(false),
            Ok(ack) => Answer::Stored {
                round,
                place: Place {
                    sequence: Sequence(ack.sequence),
                    position: entry.position,
                },
            },
            Err(error) => match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => too_large(&entry),
                PublishErrorKind::WrongLastMessageId => {
                    // "wrong last msg ID: " with the name behind.
                    let text = error.source().map(ToString::to_string).unwrap_or_default();
                    refused(names_no_entry(&text))
                }
                _ => {
                    tracing::info!(%error, "an append was not answered");
                    refused(false)
                }
            },
        }
    })
}

/// Returns whether the text of a refusal names no entry as the last one.
fn names_no_entry(text: &str) -> bool {
    let named = text.split_once("last msg ID:").map(|(_, named)| named);
    // The library writes the codes of the error behind the server's words.
    let named = named.and_then(|named| named.split("(code").next());
    named.is_some_and(|named| named.trim().is_empty())
}

fn too_large(entry: &Entry) -> Answer {
    let table = match &entry.body {
        Body::Rows(changes) => changes.table.name.clone(),
        Body::Part(part) => part.table.name.clone(),
        Body::Begin { .. } | Body::Proof(_) | Body::Stale { .. } => String::new(),
    };
    Answer::TooLarge {
        table,
        bytes: entry.to_json().map_or(0, |json| json.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_without_a_name_says_that_the_server_has_forgotten() {
        // As `async_nats::jetstream::Error` writes them.
        let text = |description: &str| format!("{description} (code 400, error code 10070)");
        assert!(names_no_entry(&text("wrong last msg ID: ")));
        assert!(!names_no_entry(&text(
            "wrong last msg ID: 3.00c0ffee00c0ffee.2"
        )));
        assert!(!names_no_entry(&text("wrong last sequence: 7")));
    }
}
