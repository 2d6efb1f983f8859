//! The comparisons of caches with their tables: asked for, cut, and answered. They are made on Q.

use super::Driver;
use super::lanes::Q;
use crate::postgres::apply::finding::ComparisonReport;
use crate::postgres::error::DriverError;
use crate::postgres::schema::fingerprint::{Difference, Fingerprint, compare};
use crate::sync::{Input, Snapshot, TableId};
use std::collections::VecDeque;
use std::time::Instant;

/// The most answers that are kept. Whoever asked may have given up, and will take no answer.
const ANSWERS_KEPT: usize = 256;

/// The number of a comparison that was asked for. A caller that has given up leaves an answer
/// behind, which the number tells from the next caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuestionId(pub(super) u64);

/// The answer to the question whether a cache is equal to its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// The cache was compared with the table at one exact cut, while writers went on.
    Compared(ComparisonReport),
    /// The comparison proves nothing, for this reason: ask again.
    Inconclusive(String),
}

/// The answer to one question.
#[derive(Debug)]
struct Answer {
    question: QuestionId,
    verification: Verification,
}

/// The comparison that is underway, and the answers to earlier ones.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    /// The snapshot of the comparison that is underway.
    cut: Option<Snapshot>,
    /// The answers that nobody has taken yet, oldest first.
    answers: VecDeque<Answer>,
}

impl Comparisons {
    /// Returns the snapshot of the comparison that is underway.
    pub(super) fn cut(&self) -> Option<&Snapshot> {
        self.cut.as_ref()
    }

    /// Forgets the comparison that is underway, since the session is gone.
    pub(super) fn end(&mut self) {
        self.cut = None;
    }
}

impl Driver {
    /// Takes the snapshot of a comparison, and the table's fingerprint under that snapshot.
    ///
    /// The cache can be compared with the snapshot only if the cache was read under the same
    /// definition. If looks are made, the rows must not have been rewritten in silence either.
    /// Otherwise the comparison would blame the cache for a change that nothing has announced, and
    /// that the next look finds.
    pub(super) fn cut_taken(
        &mut self,
        table: TableId,
        comparison: u64,
        snapshot: Snapshot,
        fingerprint: &Fingerprint,
    ) {
        let before = self.tables[table.0].fingerprint.as_ref();
        let truncated_by = self.engine.truncated_by(table);
        let is_rewritten = self.options.limits.watch_ddl
            && before.is_some_and(|before| {
                let seen = std::slice::from_ref(fingerprint);
                let difference = compare(before, seen, &[], truncated_by);
                matches!(difference, Some(Difference::Rewritten(_)))
            });
        let is_same = before.is_some_and(|before| before.is_same_definition(fingerprint));
        let input = if is_rewritten {
            Input::TableAltered {
                table,
                why: "it was rewritten or truncated, and nothing announced it".to_string(),
            }
        } else if is_same {
            self.reads.comparisons.cut = Some(snapshot.clone());
            Input::CutTaken {
                table,
                comparison,
                snapshot,
            }
        } else {
            Input::TableAltered {
                table,
                why: "its definition is another one".to_string(),
            }
        };
        self.engine.handle(input, Instant::now());
    }

    /// Keeps the answer to a comparison that is over. `inconclusive` is the reason why the
    /// comparison proves nothing. `doubt` is the reason why the table waits to be reloaded.
    pub(super) fn comparison_ended(
        &mut self,
        table: TableId,
        question: QuestionId,
        inconclusive: Option<String>,
        doubt: Option<String>,
    ) {
        self.reads.comparisons.end();
        let compared = self.tables[table.0].writer.take_comparison();
        // A cache that waits to be reloaded may differ from its table, so a difference proves
        // nothing new. If there is no difference, the cache is equal all the same.
        let has_differences = compared
            .as_ref()
            .is_some_and(|compared| compared.differing() > 0);
        let doubt = doubt
            .filter(|_| has_differences)
            .map(|why| format!("the table is to be read again: {why}"));
        let verification = match (inconclusive.or(doubt), compared) {
            (None, Some(report)) => Verification::Compared(report),
            (Some(why), _) => Verification::Inconclusive(why),
            (None, None) => Verification::Inconclusive("nothing was compared".to_string()),
        };
        if matches!(verification, Verification::Inconclusive(_)) {
            self.abandon_read(Q);
        }
        let answers = &mut self.reads.comparisons.answers;
        if answers.len() >= ANSWERS_KEPT {
            answers.pop_front();
        }
        answers.push_back(Answer {
            question,
            verification,
        });
    }

    /// Asks for a comparison of the cache of a table with the table.
    /// [`take_verification`](Self::take_verification) returns the answer once there is one.
    ///
    /// # Errors
    /// If the driver has ended.
    pub fn ask_to_verify(&mut self, table: TableId) -> Result<QuestionId, DriverError> {
        self.begin()?;
        self.question_count += 1;
        let question = self.question_count;
        let input = Input::VerifyWanted { table, question };
        self.engine.handle(input, Instant::now());
        self.perform_outputs()?;
        Ok(QuestionId(question))
    }

    /// Takes the answer to a question; `None` while there is no answer.
    pub fn take_verification(&mut self, question: QuestionId) -> Option<Verification> {
        let answers = &mut self.reads.comparisons.answers;
        let at = answers
            .iter()
            .position(|answer| answer.question == question)?;
        let answer = answers.remove(at)?;
        Some(answer.verification)
    }

    /// Compares the cache of a table with the table, row by row, at one exact cut, while writers go
    /// on. The comparison takes a snapshot and a COPY of the table, and holds the table's ACCESS
    /// SHARE lock meanwhile. The cache does not change until the comparison is done.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub async fn verify(&mut self, table: TableId) -> Result<Verification, DriverError> {
        let question = self.ask_to_verify(table)?;
        loop {
            if let Some(verification) = self.take_verification(question) {
                return Ok(verification);
            }
            self.turn(&mut |_| {}).await?;
        }
    }
}
