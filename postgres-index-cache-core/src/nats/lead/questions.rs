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
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// The nodes of which one fence answers the questions.
const MOST_ASKED: usize = 100_000;

/// The transactions that are waited for at once, for all nodes together.
const MOST_TRANSACTIONS: usize = 10_000;

/// How long a transaction is waited for, before the node is told to ask again.
const TRANSACTION_PATIENCE: Duration = Duration::from_secs(5);

/// The comparisons that are asked for at once.
const MOST_COMPARISONS: usize = 100;

/// The questions that are not answered yet.
pub(super) struct Questions {
    /// The inboxes of questions for a fence that no fence was asked for yet.
    pub(super) asked: Vec<Subject>,
    pub(super) transactions: TransactionWaiters,
    /// The room for further questions for transactions.
    room: Arc<Semaphore>,
    /// The comparisons that are underway, and who asked for them.
    comparisons: Vec<(QuestionId, Subject)>,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self {
            asked: Vec::new(),
            transactions: TransactionWaiters::new(),
            room: Arc::new(Semaphore::new(MOST_TRANSACTIONS)),
            comparisons: Vec::new(),
        }
    }
}

impl<T: SupervisedTable> Lead<T> {
    /// Takes a question. Whoever asks while nothing can be proven is told so at once, and asks again:
    /// questions of days would fill the memory.
    pub(super) fn take_question(&mut self, question: Message) {
        let Some(inbox) = question.reply else { return };
        let question = Question::parse(&question.payload);
        match question.filter(|_| self.tables.is_live) {
            Some(Question::Fence) if self.questions.asked.len() < MOST_ASKED => {
                self.questions.asked.push(inbox);
            }
            Some(Question::Transaction(transaction)) => self.wait_for(transaction, inbox),
            Some(Question::Verify(table)) => {
                if let Err(why) = self.compare(&table, &inbox) {
                    self.send_report(inbox, Err(why));
                }
            }
            Some(Question::Fence) | None => self.answer(vec![inbox], None),
        }
    }

    /// Compares the cache of a table with the table.
    ///
    /// # Errors
    /// If that cannot be, with the reason.
    fn compare(&mut self, table: &TableName, inbox: &Subject) -> Result<(), String> {
        if self.questions.comparisons.len() >= MOST_COMPARISONS {
            return Err("too many nodes compare at once".to_string());
        }
        let at = self
            .supervisor
            .targets()
            .position(|target| name_of(target.config()) == *table)
            .ok_or_else(|| format!("the relay has no table {}.{}", table.schema, table.name))?;
        let asked = self.supervisor.driver_mut().ask_to_verify(TableId(at));
        let question = asked.map_err(|error| chain(&error))?;
        self.questions.comparisons.push((question, inbox.clone()));
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
        for (question, inbox) in std::mem::take(&mut self.questions.comparisons) {
            match self.supervisor.driver_mut().take_verification(question) {
                Some(Verification::Compared(report)) => {
                    self.send_report(inbox, Ok(RelayReport::of(&report)));
                }
                Some(Verification::Inconclusive(why)) => self.send_report(inbox, Err(why)),
                None => self.questions.comparisons.push((question, inbox)),
            }
        }
    }

    /// Answers a question for a comparison.
    fn send_report(&self, inbox: Subject, report: Result<RelayReport, String>) {
        let report = report.unwrap_or_else(RelayReport::inconclusive);
        // Texts and numbers: nothing can fail.
        let answer = serde_json::to_vec(&report).unwrap_or_default();
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
