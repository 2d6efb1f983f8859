//! The answers of a [`Driver`] to the fleet's questions; see [`fleet`](crate::fleet).
//!
//! ```text
//! L ─ Question ─→ take_question ─┬─ who: answered at once
//!                                ├─ row: once every change before the question is in the cache
//!                                └─ freeze, digest ─→ Engine ─ Frozen ─→ digests, on a thread
//! answer ─ F: NOTIFY on the channel that the question names
//! ```
//!
//! Questions come from L in the order of the commits, among the changes. So an answer has every
//! change that was committed before the question was.

use super::turn::{TaskEvent, say};
use super::{Driver, TableProgress};
use crate::digest::{Digest, RangeSum, key_digest, salted};
use crate::fleet::{Ask, DigestQuestion, NodeId, Question, TableRef, answer};
use crate::postgres::apply::digests::{DigestSource, FoundRow};
use crate::postgres::connection::sessions::AuxClient;
use crate::postgres::options::AnswerOptions;
use crate::postgres::quote::{quote_identifier, quote_literal};
use crate::sync::{AuxConnection, Input, State, TableId};
use crate::table_cache::KeyBuf;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the answer about a row waits for the row's changes to be in the cache.
const ROW_PATIENCE: Duration = Duration::from_secs(2);
/// The most questions about rows that wait at once.
const ROWS_WAITING: usize = 64;
/// The most freezes that are remembered at once. Any role can ask for them.
const FREEZES: usize = 64;
/// The most askers whose budgets are remembered.
const ASKERS: usize = 64;
/// The most rows that one answer lists.
const LISTED: usize = 90;
/// The most rows that one answer leaves out, because they are open or kept out.
const LEFT_OUT: usize = 100;
/// The most tables that one answer describes.
const TABLES: usize = 40;
/// The most characters of a cause.
const LONGEST_WHY: usize = 200;

/// The answers that are on their way, and how many may be given.
#[derive(Debug)]
pub(super) struct Answers {
    options: AnswerOptions,
    /// When the driver was opened.
    since: SystemTime,
    budget: Budget,
    /// The budgets of those who asked last, by the server's processes. One who asks without end
    /// must not use up what the others are given.
    askers: VecDeque<(i32, Budget)>,
    /// The number of the last freeze.
    last_freeze: u64,
    /// The freezes that were asked for, by their numbers.
    freezes: BTreeMap<u64, AskedFreeze>,
    rows: Vec<AskedRow>,
    /// The questions that were not answered, since there were too many.
    unanswered: u64,
}

/// The number of answers that may be given now. It grows with time up to the number of a second.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    left: f64,
    counted: Instant,
}

impl Budget {
    fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: per_second,
            counted: now,
        }
    }

    /// Returns whether one more answer may be given, and counts it.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        self.counted = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// A freeze that somebody has asked for.
#[derive(Debug)]
struct AskedFreeze {
    table: TableId,
    id: String,
    /// The server's process that sent the question.
    sender: i32,
    /// Why there is no freeze; `None` while there is one, or may be.
    failure: Option<String>,
    /// The second question, once it has come.
    question: Option<AskedDigest>,
    /// The keys of the open rows, once the cache is frozen.
    open: Option<Vec<String>>,
    is_computing: bool,
}

/// The second question of a freeze.
#[derive(Debug, Clone)]
struct AskedDigest {
    id: String,
    reply: String,
    question: DigestQuestion,
}

/// A question about a row, whose answer waits for the changes before it.
#[derive(Debug)]
struct AskedRow {
    table: TableId,
    id: String,
    reply: String,
    key: KeyBuf,
    salt: Digest,
    /// How many changes of the table had been followed when the question came.
    changes: u64,
    deadline: Instant,
}

/// The digests of a frozen cache.
#[derive(Debug)]
pub(super) struct FrozenRows {
    sums: Vec<RangeSum>,
    /// The rows themselves, if they were asked for: key digest and salted digest.
    listed: Vec<(Digest, Digest)>,
    /// The key digests of the rows that are left out, since they are open.
    open: Vec<Digest>,
    /// The key digests of the rows that do not fit the model.
    kept_out: Vec<Digest>,
}

impl Answers {
    pub(super) fn new(options: AnswerOptions, now: Instant) -> Self {
        Self {
            budget: Budget::new(options.per_second, now),
            askers: VecDeque::new(),
            options,
            since: SystemTime::now(),
            last_freeze: 0,
            freezes: BTreeMap::new(),
            rows: Vec::new(),
            unanswered: 0,
        }
    }

    /// Returns whether `sender` may be answered once more, and counts it.
    fn may_answer(&mut self, sender: i32, now: Instant) -> bool {
        let at = self.askers.iter().position(|(asker, _)| *asker == sender);
        let known = at.and_then(|at| self.askers.remove(at));
        let (_, mut own) =
            known.unwrap_or_else(|| (sender, Budget::new(self.options.per_second / 4, now)));
        let may = own.take(now);
        self.askers.push_back((sender, own));
        if self.askers.len() > ASKERS {
            self.askers.pop_front();
        }
        may && self.budget.take(now)
    }

    /// Returns when the first answer about a row will wait no longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.rows.iter().map(|row| row.deadline).min()
    }
}

impl Driver {
    /// Takes a notification of the control channel. Everything that is no question, or not about a
    /// table of this driver, is ignored.
    pub(super) fn take_question(&mut self, sender: i32, payload: &str) {
        let Some(Question { id, reply, ask }) = Question::parse(payload) else {
            tracing::debug!(sender, "what came on the control channel is no question");
            return;
        };
        tracing::debug!(sender, id, "question");
        // What is not answered at once is answered later, and counts now.
        let may = matches!(ask, Ask::Freeze { .. })
            || self
                .answers
                .as_mut()
                .is_some_and(|answers| answers.may_answer(sender, Instant::now()));
        if !may {
            if let Some(answers) = &mut self.answers {
                answers.unanswered += 1;
            }
            tracing::debug!(sender, "too many questions: this one is not answered");
            return;
        }
        match ask {
            Ask::Who => {
                let fields = self.who();
                self.send_answer("who", &id, &reply, fields);
            }
            Ask::Row { table, key, salt } => self.asked_for_row(&table, &key, salt, id, reply),
            Ask::Freeze { table } => {
                if let Some(table) = self.followed(&table) {
                    self.asked_to_freeze(table, id, sender);
                }
            }
            Ask::Digest(question) => {
                if let Some(table) = self.followed(&question.table) {
                    let asked = AskedDigest {
                        id,
                        reply,
                        question: *question,
                    };
                    self.asked_for_digests(table, sender, &asked);
                }
            }
        }
    }

    /// Returns the table of this driver that a question means; `None` if there is none.
    fn followed(&self, table: &TableRef) -> Option<TableId> {
        let at = self.tables.iter().position(|own| {
            let spec = &own.config.followed;
            spec.oid == table.rel && spec.schema == table.schema && spec.name == table.name
        });
        at.map(TableId)
    }

    /// Returns the answer to "who are you": the state of the driver and of its tables.
    fn who(&mut self) -> Map<String, Value> {
        let memory: usize = self
            .tables
            .iter_mut()
            .map(|table| table.writer.memory_bytes())
            .sum();
        let tables: Vec<Value> = (0..self.tables.len().min(TABLES))
            .map(|table| self.table_json(TableId(table)))
            .collect();
        let counters = self.engine.counters();
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| {
            fields.insert(name.to_string(), value);
        };
        let version = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
        put("version", version.into());
        put("state", self.state.word().into());
        put("lag_us", micros(self.engine.lag()).into());
        put("last_xid", self.engine.last_xid().into());
        put("gaps", counters.gaps.into());
        put("reloads", counters.reloads.into());
        put("memory", memory.into());
        if let Some(answers) = &self.answers {
            put("since_ms", millis(answers.since).into());
            put("unanswered", answers.unanswered.into());
        }
        put(
            "more_tables",
            self.tables.len().saturating_sub(TABLES).into(),
        );
        put("tables", tables.into());
        fields
    }

    /// Returns a table of the answer to "who are you".
    fn table_json(&self, table: TableId) -> Value {
        let own = &self.tables[table.0];
        let spec = &own.config.followed;
        let TableProgress {
            state, state_since, ..
        } = self.progress[table.0];
        let kept_out = own.writer.kept_out().map_or(0, |(count, _)| *count);
        let mut json = json!({
            "schema": spec.schema,
            "table": spec.name,
            "rel": spec.oid,
            "rows": own.writer.rows(),
            "state": state.word(),
            "since_ms": millis(state_since),
            "changes": self.engine.changes(table),
            "reads": self.progress[table.0].reads,
        });
        if kept_out > 0 {
            json["quarantined"] = kept_out.into();
        }
        if let Some(why) = self.engine.cause(table).filter(|_| state != State::Live) {
            json["why"] = why.chars().take(LONGEST_WHY).collect::<String>().into();
        }
        json
    }

    /// Makes a question about a row wait until every change before the question is in the cache.
    fn asked_for_row(
        &mut self,
        table: &TableRef,
        key: &str,
        salt: Digest,
        id: String,
        reply: String,
    ) {
        let Some(table) = self.followed(table) else {
            return;
        };
        let mut cells = KeyBuf::default();
        if cells
            .read_json(&self.tables[table.0].config.shape, key)
            .is_err()
        {
            return;
        }
        let changes = self.engine.changes(table);
        let Some(answers) = &mut self.answers else {
            return;
        };
        if answers.rows.len() >= ROWS_WAITING {
            answers.unanswered += 1;
            return;
        }
        answers.rows.push(AskedRow {
            table,
            id,
            reply,
            key: cells,
            salt,
            changes,
            deadline: Instant::now() + ROW_PATIENCE,
        });
    }

    /// Asks the engine to freeze a table. The answer waits for the second question.
    fn asked_to_freeze(&mut self, table: TableId, id: String, sender: i32) {
        let Some(answers) = &mut self.answers else {
            return;
        };
        // Whoever asked for the oldest one is long gone.
        if answers.freezes.len() >= FREEZES
            && let Some((oldest, _)) = answers.freezes.first_key_value()
        {
            let oldest = *oldest;
            let asked = answers.freezes.remove(&oldest);
            if let Some(asked) = asked {
                self.end_freeze(asked.table, oldest);
            }
        }
        let Some(answers) = &mut self.answers else {
            return;
        };
        answers.last_freeze += 1;
        let freeze = answers.last_freeze;
        answers.freezes.insert(
            freeze,
            AskedFreeze {
                table,
                id,
                sender,
                failure: None,
                question: None,
                open: None,
                is_computing: false,
            },
        );
        let input = Input::FreezeWanted { table, freeze };
        self.engine.handle(input, Instant::now());
    }

    /// Hands the snapshot of the second question to the engine.
    fn asked_for_digests(&mut self, table: TableId, sender: i32, asked: &AskedDigest) {
        let Some(answers) = &mut self.answers else {
            return;
        };
        // The session that froze the table asks, and nobody else: another one might bring a
        // snapshot from before the freeze.
        let found = answers.freezes.iter_mut().find(|(_, freeze)| {
            freeze.id == asked.question.freeze
                && freeze.sender == sender
                && freeze.table == table
                && freeze.question.is_none()
        });
        let Some((&freeze, own)) = found else {
            return self.inconclusive(asked, "the table was not frozen before");
        };
        own.question = Some(asked.clone());
        if let Some(why) = own.failure.clone() {
            answers.freezes.remove(&freeze);
            return self.inconclusive(asked, &why);
        }
        let columns = self.tables[table.0].writer.digests().columns();
        let problem = match asked.question.snapshot.parse() {
            Ok(snapshot) if columns == asked.question.columns => {
                let input = Input::FreezeCut {
                    table,
                    freeze,
                    snapshot,
                };
                return self.engine.handle(input, Instant::now());
            }
            Ok(_) => "the cache has other columns".to_string(),
            Err(error) => format!("{error}"),
        };
        self.freeze_failed(freeze, &problem);
        self.end_freeze(table, freeze);
    }

    /// Tells the engine that a freeze is over.
    fn end_freeze(&mut self, table: TableId, freeze: u64) {
        let input = Input::FreezeOver { table, freeze };
        self.engine.handle(input, Instant::now());
    }

    /// Notes that there is no freeze, and answers the second question if it has come.
    pub(super) fn freeze_failed(&mut self, freeze: u64, why: &str) {
        let Some(answers) = &mut self.answers else {
            return;
        };
        let Some(own) = answers.freezes.get_mut(&freeze) else {
            return;
        };
        own.failure = Some(why.to_string());
        if let Some(asked) = own.question.clone() {
            answers.freezes.remove(&freeze);
            self.inconclusive(&asked, why);
        }
    }

    /// Notes that a cache is frozen, as soon as what waits for its lock is applied.
    pub(super) fn frozen(&mut self, freeze: u64, open: Vec<String>) {
        if let Some(answers) = &mut self.answers
            && let Some(own) = answers.freezes.get_mut(&freeze)
        {
            own.open = Some(open);
        }
    }

    /// Starts the computation of digests whose cache is ready, and answers about rows whose changes
    /// are in the cache.
    pub(super) fn answer_what_is_ready(&mut self) {
        let Some(answers) = &mut self.answers else {
            return;
        };
        let mut ready = Vec::new();
        for (freeze, own) in &mut answers.freezes {
            let is_waiting = self.tables[own.table.0].writer.is_waiting();
            if own.open.is_some() && !own.is_computing && !is_waiting {
                own.is_computing = true;
                ready.push(*freeze);
            }
        }
        for freeze in ready {
            self.compute_digests(freeze);
        }
        let Some(answers) = &mut self.answers else {
            return;
        };
        for row in std::mem::take(&mut answers.rows) {
            self.answer_row(row);
        }
    }

    /// Answers about a row, or makes the question wait on.
    fn answer_row(&mut self, row: AskedRow) {
        let own = &self.tables[row.table.0];
        let is_settled = self.engine.is_settled(row.table, row.changes) && !own.writer.is_waiting();
        if !is_settled && row.deadline > Instant::now() {
            if let Some(answers) = &mut self.answers {
                answers.rows.push(row);
            }
            return;
        }
        let FoundRow {
            digest,
            is_kept_out,
        } = own.writer.digests().row(&row.key);
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| {
            fields.insert(name.to_string(), value);
        };
        put("state", self.progress[row.table.0].state.word().into());
        put("has", digest.is_some().into());
        let key = key_digest(&row.key);
        let digest = digest.map(|digest| salted(row.salt, key, digest).to_string());
        put("digest", digest.into());
        put("columns", own.writer.digests().columns().to_string().into());
        put("open", (!is_settled).into());
        put("quarantined", is_kept_out.into());
        if let Some(came) = own.writer.last_of(&row.key) {
            put("by", came.source.word().into());
            put("xid", came.xid.into());
            put("at_ms", came.at.map(millis).into());
        }
        self.send_answer("row", &row.id, &row.reply, fields);
    }

    /// Computes the digests of a frozen cache on a thread of its own.
    fn compute_digests(&mut self, freeze: u64) {
        let Some(answers) = &self.answers else {
            return;
        };
        let Some(own) = answers.freezes.get(&freeze) else {
            return;
        };
        let (Some(asked), Some(open)) = (&own.question, &own.open) else {
            return;
        };
        let table = own.table;
        let shape = &self.tables[table.0].config.shape;
        let open = open.iter().filter_map(|key| {
            let mut cells = KeyBuf::default();
            cells.read_json(shape, key).ok()?;
            Some(key_digest(&cells))
        });
        let open: BTreeSet<Digest> = open.collect();
        let source = self.tables[table.0].writer.digests();
        let question = asked.question.clone();
        let driver = self.channels.tasks_tx.clone();
        let computing = tokio::task::spawn_blocking(move || frozen_rows(source, &question, open));
        tokio::spawn(async move {
            // A computation that panics is no answer; the freeze ends by its time.
            if let Ok(rows) = computing.await {
                let rows = Box::new(rows);
                say(driver, TaskEvent::Digested { freeze, rows }).await;
            }
        });
    }

    /// Answers with the digests of a frozen cache, and lets the cache go on.
    pub(super) fn digested(&mut self, freeze: u64, rows: FrozenRows) {
        let Some(answers) = &mut self.answers else {
            return;
        };
        let Some(own) = answers.freezes.remove(&freeze) else {
            return;
        };
        let Some(asked) = own.question else {
            return;
        };
        if self.engine.is_frozen(own.table, freeze) {
            self.answer_digests(&asked, rows);
        } else {
            self.inconclusive(&asked, "the table was reloaded meanwhile");
        }
        self.end_freeze(own.table, freeze);
    }

    fn answer_digests(&mut self, asked: &AskedDigest, rows: FrozenRows) {
        let FrozenRows {
            sums,
            listed,
            open,
            kept_out,
        } = rows;
        if open.len() + kept_out.len() > LEFT_OUT {
            return self.inconclusive(asked, "too many rows are being read or do not fit");
        }
        if listed.len() > LISTED {
            return self.inconclusive(asked, "too many rows are in these ranges");
        }
        let mut fields = Map::new();
        let hex = |digests: Vec<Digest>| -> Value {
            let digests: Vec<String> = digests.iter().map(Digest::to_string).collect();
            digests.into()
        };
        fields.insert("open".to_string(), hex(open));
        fields.insert("quarantined".to_string(), hex(kept_out));
        if asked.question.lists {
            let rows: Vec<Value> = listed
                .iter()
                .map(|(key, row)| json!([key.to_string(), row.to_string()]))
                .collect();
            fields.insert("rows".to_string(), rows.into());
        } else {
            let ranges: Vec<Value> = sums
                .iter()
                .map(|range| json!([range.rows, Digest::of_number(range.sum).to_string()]))
                .collect();
            fields.insert("ranges".to_string(), ranges.into());
        }
        self.send_answer("digest", &asked.id, &asked.reply, fields);
    }

    /// Answers that a comparison proves nothing.
    fn inconclusive(&mut self, asked: &AskedDigest, why: &str) {
        let mut fields = Map::new();
        let why: String = why.chars().take(LONGEST_WHY).collect();
        fields.insert("inconclusive".to_string(), why.into());
        self.send_answer("digest", &asked.id, &asked.reply, fields);
    }

    /// Sends an answer through F.
    fn send_answer(&mut self, kind: &str, id: &str, reply: &str, fields: Map<String, Value>) {
        let Some(listener) = self.sessions.as_ref().map(|sessions| sessions.listening) else {
            return;
        };
        let Some(answers) = &mut self.answers else {
            return;
        };
        let AnswerOptions { name, host, .. } = &answers.options;
        let node = NodeId {
            name: name.clone(),
            host: host.clone(),
            pid: std::process::id(),
            listener,
        };
        let Some(payload) = answer(kind, id, &node, fields) else {
            answers.unanswered += 1;
            tracing::warn!(id, "an answer is too long for a notification");
            return;
        };
        let Some(AuxClient { client, .. }) = self.aux_client(AuxConnection::Fences) else {
            return;
        };
        let sql = format!(
            "NOTIFY {}, {}",
            quote_identifier(reply),
            quote_literal(&payload)
        );
        tokio::spawn(async move {
            // A connection that is lost is opened again by others; whoever asked asks again.
            if let Err(error) = client.batch_execute(&sql).await {
                tracing::debug!(%error, "an answer was not sent");
            }
        });
    }
}

/// Adds up the digests of a frozen cache, or lists them.
fn frozen_rows(
    mut source: Box<dyn DigestSource>,
    question: &DigestQuestion,
    open: BTreeSet<Digest>,
) -> FrozenRows {
    let DigestQuestion {
        salt,
        ranges,
        lists,
        ..
    } = question;
    let mut sums = vec![RangeSum::default(); ranges.count()];
    let mut listed = Vec::new();
    let mut from = Some(0);
    while let Some(start) = from {
        from = source.visit(start, &mut |key, row| {
            let Some(range) = ranges.place(key).filter(|_| !open.contains(&key)) else {
                return;
            };
            let digest = salted(*salt, key, row);
            sums[range].add(digest);
            // One more than an answer takes shows that there are too many.
            if *lists && listed.len() <= LISTED {
                listed.push((key, digest));
            }
        });
    }
    FrozenRows {
        sums,
        listed,
        open: open.into_iter().collect(),
        kept_out: source.kept_out(LEFT_OUT + 1),
    }
}

/// Returns a time in milliseconds since 1970.
fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

/// Returns a duration in microseconds.
fn micros(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| duration.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Any role can ask: each answer is a commit.
    #[test]
    fn one_asker_does_not_use_up_what_the_others_are_given() {
        let start = Instant::now();
        let options = AnswerOptions {
            name: "n".to_string(),
            host: String::new(),
            per_second: 100,
        };
        let mut answers = Answers::new(options, start);
        let given = (0..1000).filter(|_| answers.may_answer(1, start)).count();
        assert_eq!(given, 25);
        assert!(answers.may_answer(2, start));
        for asker in 3..1000 {
            answers.may_answer(asker, start);
        }
        assert_eq!(answers.askers.len(), ASKERS);
    }

    #[test]
    fn answers_are_bounded_by_the_second() {
        let start = Instant::now();
        let mut budget = Budget::new(3, start);
        let given = (0..10).filter(|_| budget.take(start)).count();
        assert_eq!(given, 3);
        let later = start + Duration::from_secs(1);
        let given = (0..10).filter(|_| budget.take(later)).count();
        assert_eq!(given, 3);
        let much_later = start + Duration::from_secs(100);
        let given = (0..10).filter(|_| budget.take(much_later)).count();
        assert_eq!(given, 3, "what was not used is not saved");
    }
}
