//! The questions of nodes, and their answers.

use super::{Lead, name_of};
use crate::log::{Position, TableName};
use crate::nats::question::{Question, REACHED, RelayReport};
use crate::nats::stream::NatsLog;
use crate::postgres::error_chain::chain;
use crate::postgres::{QuestionId, SupervisedTable, TransactionWaiters, Verification, Wait};
use crate::sync::TableId;
use crate::transaction::TransactionToken;
use async_nats::{Message, Subject};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// The nodes of which one fence answers the questions.
const MOST_ASKED: usize = 100_000;

/// The transactions that are waited for at once, for all nodes together.
const MOST_TRANSACTIONS: usize = 1_000;

/// How long a transaction is waited for, before the node is told to ask again.
const TRANSACTION_PATIENCE: Duration = Duration::from_secs(5);

/// The share of the time in which tables are compared, as one of so many parts: nothing is proven
/// meanwhile.
const COMPARED_SHARE: u32 = 4;

/// The beginning of subjects to which questions are answered.
const INBOX: &str = "_INBOX.";

/// The questions that are not answered yet.
pub(super) struct Questions {
    /// The inboxes of questions for a fence that no fence was asked for yet.
    pub(super) asked: Vec<Subject>,
    pub(super) transactions: TransactionWaiters,
    /// The room for further questions for transactions.
    room: Arc<Semaphore>,
    comparison: Option<Comparison>,
    /// The answer to the last comparison, with the number of its question: it may have been lost.
    reported: Option<(u64, RelayReport)>,
    /// When the next comparison may begin.
    compare_at: Instant,
}

/// A comparison that is underway.
struct Comparison {
    question: QuestionId,
    /// The number of the node's question.
    ask: u64,
    /// Where the node waits for the answer.
    inbox: Subject,
    began: Instant,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self {
            asked: Vec::new(),
            transactions: TransactionWaiters::new(),
            room: Arc::new(Semaphore::new(MOST_TRANSACTIONS)),
            comparison: None,
            reported: None,
            compare_at: Instant::now(),
        }
    }

    /// Returns whether a table is compared with its cache.
    pub(super) fn is_comparing(&self) -> bool {
        self.comparison.is_some()
    }
}

impl<T: SupervisedTable> Lead<T> {
    /// Takes a question. Whoever asks while nothing can be proven is told so at once, and asks again:
    /// questions of days would fill the memory.
    pub(super) fn take_question(&mut self, question: Message) {
        // The relay may publish where a node may not, and answers into inboxes alone.
        let inbox = question.reply.filter(|inbox| inbox.starts_with(INBOX));
        let Some(inbox) = inbox else { return };
        let question = Question::parse(&question.payload);
        match question.filter(|_| self.tables.is_live) {
            Some(Question::Fence) if self.questions.asked.len() < MOST_ASKED => {
                self.questions.asked.push(inbox);
            }
            Some(Question::Transaction(transaction)) => self.wait_for(transaction, inbox),
            Some(Question::Verify { table, ask }) => {
                if let Err(report) = self.compare(&table, ask, &inbox) {
                    self.send_report(inbox, &report);
                }
            }
            Some(Question::Fence) | None => self.answer(vec![inbox], None),
        }
    }

    /// Compares the cache of a table with the table, one after the other: nothing is proven meanwhile.
    ///
    /// # Errors
    /// The answer, if there is no comparison.
    fn compare(&mut self, table: &TableName, ask: u64, inbox: &Subject) -> Result<(), RelayReport> {
        if let Some(underway) = &mut self.questions.comparison
            && underway.ask == ask
        {
            underway.inbox = inbox.clone();
            return Ok(());
        }
        if let Some((of, report)) = &self.questions.reported
            && *of == ask
        {
            return Err(report.clone());
        }
        if self.questions.comparison.is_some() || Instant::now() < self.questions.compare_at {
            return Err(RelayReport::busy());
        }
        let at = self
            .supervisor
            .targets()
            .position(|target| name_of(target.config()) == *table);
        let missing = || format!("the relay has no table {}.{}", table.schema, table.name);
        let at = at.ok_or_else(|| RelayReport::inconclusive(missing()))?;
        let asked = self.supervisor.driver_mut().ask_to_verify(TableId(at));
        let question = asked.map_err(|error| RelayReport::inconclusive(chain(&error)))?;
        self.tables.why = format!("{} was compared with the table", table.name);
        self.questions.comparison = Some(Comparison {
            question,
            ask,
            inbox: inbox.clone(),
            began: Instant::now(),
        });
        Ok(())
    }

    /// Answers once everything that a transaction has committed is in the caches.
    fn wait_for(&mut self, transaction: TransactionToken, inbox: Subject) {
        let Ok(room) = Arc::clone(&self.questions.room).try_acquire_owned() else {
            return self.answer(vec![inbox], None);
        };
        let (answer, answered) = oneshot::channel();
        self.questions.transactions.ask(
            transaction,
            None,
            Some(Wait { has_ended: false }),
            answer,
            self.supervisor.driver_mut(),
        );
        let log = self.log.clone();
        tokio::spawn(async move {
            let reached = tokio::time::timeout(TRANSACTION_PATIENCE, answered).await;
            let answer = match reached {
                Ok(Ok(true)) => Bytes::from_static(REACHED),
                _ => Bytes::new(),
            };
            log.answer(inbox, answer).await;
            drop(room);
        });
    }

    /// Answers the questions whose answers are there.
    pub(super) fn answer_questions(&mut self) {
        let driver = self.supervisor.driver_mut();
        self.questions.transactions.answer(driver);
        let Some(comparison) = self.questions.comparison.take() else {
            return;
        };
        let driver = self.supervisor.driver_mut();
        let report = match driver.take_verification(comparison.question) {
            Some(Verification::Compared(report)) => {
                RelayReport::of(&report, self.writer.position())
            }
            Some(Verification::Inconclusive(why)) => RelayReport::inconclusive(why),
            None => {
                self.questions.comparison = Some(comparison);
                return;
            }
        };
        let took = comparison.began.elapsed();
        self.questions.compare_at = Instant::now() + took * (COMPARED_SHARE - 1);
        self.send_report(comparison.inbox, &report);
        self.questions.reported = Some((comparison.ask, report));
    }

    /// Answers a question for a comparison.
    fn send_report(&self, inbox: Subject, report: &RelayReport) {
        // Texts and numbers: nothing can fail.
        let answer = serde_json::to_vec(report).unwrap_or_default();
        send(self.log.clone(), vec![inbox], answer.into());
    }

    /// Answers questions with the position of a proof; `None` if nothing can be proven now.
    pub(super) fn answer(&self, inboxes: Vec<Subject>, position: Option<Position>) {
        if !inboxes.is_empty() {
            let text = position.map_or_else(String::new, |position| position.to_string());
            send(self.log.clone(), inboxes, text.into());
        }
    }
}

/// Sends an answer in a task: NATS may take no message for a while. The nodes wait for the proof
/// itself in any case.
fn send(log: NatsLog, inboxes: Vec<Subject>, answer: Bytes) {
    tokio::spawn(async move {
        for inbox in inboxes {
            log.answer(inbox, answer.clone()).await;
        }
    });
}
