//! [`Comparer`]: the caches of all nodes, compared with the table at one exact cut.
//!
//! ```text
//! freeze ─→ snapshot S ─→ question ─→ answers ─→ the table's rows under S, as digests
//!                                          └────────── compared, range by range
//! ranges that differ ─→ once more, divided ─→ … ─→ the rows themselves
//! ```
//!
//! Each division is a cut of its own, so each is exact. A row that differs at one cut may have been
//! written again before the next.

use super::sessions::Trust;
use super::{Fleet, Heard, new_salt};
use crate::tables::target::Target;
use anyhow::Context as _;
use postgres_index_cache_core::tooling::fleet::{
    Ask, Digest, DigestQuestion, RangeSum, Ranges, RowDigester, TableRef, key_digest, salted,
};
use postgres_index_cache_core::tooling::postgres::{FindingKind, SnapshotReader};
use postgres_index_cache_core::tooling::{CellType, KeyBuf, TableShape};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// The bits by which all keys are divided at first: 64 ranges.
const SPLIT: u32 = 6;
/// The most ranges that differ and are divided further.
const FOLLOWED: usize = 8;
/// The most rows of ranges that are listed one by one.
const LISTED: u64 = 64;
/// The most divisions. Sixty bits of a digest are more than any table has rows.
const MOST_CUTS: u32 = 10;
/// How often a further cut is tried, and the time before the first try.
const FURTHER_TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(30);
/// The longest time for the tries of one further cut, and for all further cuts.
const FURTHER_TIME: Duration = Duration::from_secs(5);
const ALL_FURTHER_TIME: Duration = Duration::from_secs(30);
/// The longest time for guessing keys.
const GUESSING: Duration = Duration::from_secs(1);
/// The most keys of integers that are tried for a row that a node has and the table has not.
const GUESSES: i64 = 5_000_000;

/// The outcome of a comparison.
#[derive(Debug)]
pub struct Outcome {
    /// The number of rows of the table at the first cut.
    pub rows: u64,
    /// The nodes, by the server's processes of their listening sessions.
    pub nodes: BTreeMap<i32, Verdict>,
}

/// The verdict on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The node's cache was the table.
    Equal {
        /// How many rows were left out, since the node was reading them again.
        open: usize,
        /// How many rows do not fit the node's type and are kept out.
        quarantined: usize,
    },
    /// Rows differ.
    Differs {
        /// The rows that are known by now.
        rows: Vec<DifferingRow>,
        /// Whether there are more.
        more: bool,
    },
    /// The comparison proves nothing, for this reason.
    Inconclusive(String),
    /// The node did not answer.
    Silent,
}

/// A row that differs at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferingRow {
    /// How it differs.
    pub kind: FindingKind,
    /// The key as JSON; `None` if the table does not have it and it could not be guessed.
    pub key: Option<String>,
    /// The digest of the key.
    pub digest: Digest,
}

/// A node's answer about a cut.
#[derive(Debug, Clone)]
struct CutAnswer {
    /// For each range the number of rows, and their sum.
    ranges: Vec<RangeSum>,
    /// The rows, if they were asked for.
    rows: Vec<(Digest, Digest)>,
    open: BTreeSet<Digest>,
    quarantined: BTreeSet<Digest>,
}

/// The fields of an answer as serde reads them.
#[derive(Deserialize)]
struct Fields {
    inconclusive: Option<String>,
    #[serde(default)]
    ranges: Vec<(u64, String)>,
    #[serde(default)]
    rows: Vec<(String, String)>,
    #[serde(default)]
    open: Vec<String>,
    #[serde(default)]
    quarantined: Vec<String>,
}

impl CutAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// The node's reason why it has none, or that the answer is not understood.
    fn read(heard: &Heard, question: &DigestQuestion) -> Result<Self, String> {
        let misread = || "its answer is not understood".to_string();
        let fields = serde_json::Value::Object(heard.answer.fields.clone());
        let fields = Fields::deserialize(fields).map_err(|_| misread())?;
        if let Some(why) = fields.inconclusive {
            return Err(why);
        }
        let digests = |texts: &[String]| -> Option<BTreeSet<Digest>> {
            texts.iter().map(|text| Digest::from_hex(text)).collect()
        };
        let ranges = fields.ranges.iter().map(|(rows, sum)| {
            let sum = Digest::from_hex(sum)?.number();
            Some(RangeSum { rows: *rows, sum })
        });
        let rows = fields.rows.iter().map(|(key, row)| {
            let key = Digest::from_hex(key)?;
            Some((key, Digest::from_hex(row)?))
        });
        let answer = Self {
            ranges: ranges.collect::<Option<_>>().ok_or_else(misread)?,
            rows: rows.collect::<Option<_>>().ok_or_else(misread)?,
            open: digests(&fields.open).ok_or_else(misread)?,
            quarantined: digests(&fields.quarantined).ok_or_else(misread)?,
        };
        let is_whole = question.lists || answer.ranges.len() == question.ranges.count();
        if is_whole { Ok(answer) } else { Err(misread()) }
    }

    /// Returns whether a row is left out of the comparison.
    fn leaves_out(&self, key: Digest) -> bool {
        self.open.contains(&key) || self.quarantined.contains(&key)
    }
}

/// The table at a cut.
#[derive(Debug, Default)]
struct TableAtCut {
    /// For each range the number of rows, and their sum.
    ranges: Vec<RangeSum>,
    /// The rows that some node leaves out, by the digests of their keys: the range, and the salted
    /// digest.
    left_out: HashMap<Digest, (usize, Digest)>,
    /// The rows of the ranges, if they are listed: the salted digest, and the key as JSON.
    rows: HashMap<Digest, (Digest, String)>,
    count: u64,
    /// The lowest and the highest key, if the key is one integer.
    span: Option<(i64, i64)>,
}

/// What was heard of each node at a cut, and the table at that cut.
struct Cut {
    answers: BTreeMap<i32, Result<CutAnswer, String>>,
    table: TableAtCut,
}

/// Asks for comparisons of one table.
pub struct Comparer<'a> {
    /// The session that asks.
    pub fleet: &'a mut Fleet,
    /// The session that reads the table.
    pub reader: &'a mut SnapshotReader,
    /// The table, with the columns that are announced.
    pub target: &'a Target,
    /// How long answers are waited for.
    pub patience: Duration,
}

/// Returns the table as questions name it.
pub fn table_ref(target: &Target) -> TableRef {
    TableRef {
        schema: target.table.schema.clone(),
        name: target.table.name.clone(),
        rel: target.table.oid,
    }
}

impl Comparer<'_> {
    /// Compares the caches of these nodes with the table.
    ///
    /// # Errors
    /// If the table cannot be read, or the questions cannot be sent.
    pub async fn compare(&mut self, nodes: &BTreeSet<i32>) -> anyhow::Result<Outcome> {
        let mut ranges = Ranges {
            bits: 0,
            prefixes: vec![0],
            split: SPLIT,
        };
        let mut outcome = Outcome {
            rows: 0,
            nodes: BTreeMap::new(),
        };
        let mut wanted = nodes.clone();
        let mut lists = false;
        let began = Instant::now();
        for at in 0..MOST_CUTS {
            if at > 0 && began.elapsed() > ALL_FURTHER_TIME {
                break;
            }
            let cut = if at == 0 {
                self.cut(&wanted, ranges.clone(), lists).await?
            } else {
                self.cut_again(&wanted, ranges.clone(), lists).await?
            };
            if at == 0 {
                outcome.rows = cut.table.count;
            }
            let mut differing: BTreeSet<usize> = BTreeSet::new();
            let mut most_rows = vec![0; ranges.count()];
            for listener in &wanted {
                let verdict = match cut.answers.get(listener) {
                    None => Verdict::Silent,
                    Some(Err(why)) => Verdict::Inconclusive(why.clone()),
                    Some(Ok(answer)) if lists => self.listed(answer, &cut.table),
                    Some(Ok(answer)) => {
                        let own = differing_ranges(answer, &cut.table);
                        for &range in &own {
                            most_rows[range] = most_rows[range]
                                .max(answer.ranges[range].rows)
                                .max(cut.table.ranges[range].rows);
                        }
                        differing.extend(own.iter().copied());
                        if own.is_empty() {
                            Verdict::Equal {
                                open: answer.open.len(),
                                quarantined: answer.quarantined.len(),
                            }
                        } else {
                            Verdict::Differs {
                                rows: Vec::new(),
                                more: true,
                            }
                        }
                    }
                };
                keep(&mut outcome.nodes, *listener, verdict);
            }
            // Only nodes that differ are asked further, as long as they answer.
            wanted.retain(|listener| {
                matches!(cut.answers.get(listener), Some(Ok(_)))
                    && matches!(outcome.nodes.get(listener), Some(Verdict::Differs { .. }))
            });
            if lists || wanted.is_empty() || differing.is_empty() {
                break;
            }
            let followed: Vec<usize> = differing.iter().copied().take(FOLLOWED).collect();
            let bits = ranges.bits + ranges.split;
            let chosen: Vec<usize> = listable(&followed, &most_rows);
            lists = !chosen.is_empty();
            let prefixes = if lists { &chosen } else { &followed };
            let prefixes: Vec<u64> = prefixes.iter().map(|at| ranges.prefix_of(*at)).collect();
            ranges = Ranges {
                split: if lists {
                    0
                } else {
                    (Ranges::MOST / prefixes.len()).ilog2()
                },
                bits,
                prefixes,
            };
        }
        Ok(outcome)
    }

    /// Makes a further cut, until each node is conclusive. A node that was frozen a moment ago
    /// refuses to be at once.
    async fn cut_again(
        &mut self,
        nodes: &BTreeSet<i32>,
        ranges: Ranges,
        lists: bool,
    ) -> anyhow::Result<Cut> {
        let began = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            tokio::time::sleep(PAUSE * attempt).await;
            let cut = self.cut(nodes, ranges.clone(), lists).await?;
            let is_conclusive = cut.answers.values().all(Result::is_ok);
            // Somebody who answers late each time must not hold up what is known of the others.
            if is_conclusive || attempt == FURTHER_TRIES || began.elapsed() > FURTHER_TIME {
                return Ok(cut);
            }
        }
    }

    /// Makes one cut: asks the nodes, and reads the table at the same snapshot.
    async fn cut(
        &mut self,
        nodes: &BTreeSet<i32>,
        ranges: Ranges,
        lists: bool,
    ) -> anyhow::Result<Cut> {
        let table = table_ref(self.target);
        let salt = new_salt();
        let mut digester = RowDigester::new(&self.target.shape);
        let freeze = self
            .fleet
            .send(Ask::Freeze {
                table: table.clone(),
            })
            .await?;
        // The snapshot comes after the freeze has committed: that is what makes the cut exact.
        let read = self
            .reader
            .read(&self.target.follow)
            .await
            .context("read the table at a cut")?;
        let question = DigestQuestion {
            table,
            freeze,
            snapshot: read.snapshot.to_string(),
            salt,
            columns: digester.columns(),
            ranges,
            lists,
        };
        let began = Instant::now();
        let id = self
            .fleet
            .send(Ask::Digest(Box::new(question.clone())))
            .await?;
        let heard = self.fleet.take(&id, began, nodes, self.patience).await?;
        let sessions = self.fleet.sessions().await?;
        let mut answers = BTreeMap::new();
        for heard in &heard {
            if sessions.trust(heard) == Trust::Likely {
                let listener = heard.answer.node.listener;
                answers
                    .entry(listener)
                    .or_insert_with(|| CutAnswer::read(heard, &question));
            }
        }
        let left_out: BTreeSet<Digest> = answers
            .values()
            .flatten()
            .flat_map(|answer| answer.open.union(&answer.quarantined).copied())
            .collect();
        let mut at_cut = TableAtCut {
            ranges: vec![RangeSum::default(); question.ranges.count()],
            ..TableAtCut::default()
        };
        let shape = &self.target.shape;
        let integer = integer_key(shape);
        read.rows(|row| {
            at_cut.count += 1;
            let key = KeyBuf::of_row(shape, row);
            if let Some(kind) = integer
                && let Some(number) = key.cells().next().and_then(|cell| number(kind, cell))
            {
                let (low, high) = at_cut.span.unwrap_or((number, number));
                at_cut.span = Some((low.min(number), high.max(number)));
            }
            let digest = key_digest(&key);
            let Some(range) = question.ranges.place(digest) else {
                return;
            };
            let salted = salted(salt, digest, digester.row(|at| row.cell(at)));
            at_cut.ranges[range].add(salted);
            if left_out.contains(&digest) {
                at_cut.left_out.insert(digest, (range, salted));
            }
            if lists {
                at_cut.rows.insert(digest, (salted, key.to_json(shape)));
            }
        })
        .await
        .context("read the table at a cut")?;
        Ok(Cut {
            answers,
            table: at_cut,
        })
    }

    /// Compares the rows that a node lists with those of the table.
    fn listed(&self, answer: &CutAnswer, table: &TableAtCut) -> Verdict {
        let node: HashMap<Digest, Digest> = answer.rows.iter().copied().collect();
        let mut rows = Vec::new();
        for (digest, (row, key)) in &table.rows {
            if answer.leaves_out(*digest) {
                continue;
            }
            let kind = match node.get(digest) {
                None => FindingKind::Missing,
                Some(own) if own != row => FindingKind::Stale,
                Some(_) => continue,
            };
            rows.push(DifferingRow {
                kind,
                key: Some(key.clone()),
                digest: *digest,
            });
        }
        let ghosts = node
            .keys()
            .filter(|digest| !table.rows.contains_key(*digest) && !answer.leaves_out(**digest));
        let ghosts: Vec<Digest> = ghosts.copied().collect();
        let mut names = guess(&self.target.shape, table.span, &ghosts);
        for digest in ghosts {
            rows.push(DifferingRow {
                kind: FindingKind::Ghost,
                key: names.remove(&digest),
                digest,
            });
        }
        rows.sort_by(|left, right| (&left.key, left.digest).cmp(&(&right.key, right.digest)));
        Verdict::Differs { rows, more: false }
    }
}

/// Notes a verdict, unless a later cut says less: the rows may have been written again since.
fn keep(nodes: &mut BTreeMap<i32, Verdict>, listener: i32, verdict: Verdict) {
    let differed = matches!(nodes.get(&listener), Some(Verdict::Differs { .. }));
    match verdict {
        Verdict::Differs { rows, more } if differed => {
            let more = more || rows.is_empty();
            nodes.insert(listener, Verdict::Differs { rows, more });
        }
        _ if differed => {}
        verdict => {
            nodes.insert(listener, verdict);
        }
    }
}

/// Returns the ranges in which a node's rows are not the table's.
fn differing_ranges(answer: &CutAnswer, table: &TableAtCut) -> Vec<usize> {
    let mut expected = table.ranges.clone();
    for (digest, (range, salted)) in &table.left_out {
        if answer.leaves_out(*digest) {
            expected[*range].remove(*salted);
        }
    }
    let pairs = std::iter::zip(&expected, &answer.ranges).enumerate();
    pairs
        .filter(|(_, (table, node))| table != node)
        .map(|(range, _)| range)
        .collect()
}

/// Returns as many of these ranges as have few enough rows to be listed in one answer.
fn listable(ranges: &[usize], most_rows: &[u64]) -> Vec<usize> {
    let mut sum = 0;
    let mut chosen = Vec::new();
    for &range in ranges {
        sum = u64::saturating_add(sum, most_rows[range]);
        if sum > LISTED {
            break;
        }
        chosen.push(range);
    }
    chosen
}

/// Returns the type of the key, if it is one column of integers.
fn integer_key(shape: &TableShape) -> Option<CellType> {
    let [column] = shape.key() else {
        return None;
    };
    let kind = shape.columns()[*column].kind;
    matches!(kind, CellType::Int2 | CellType::Int4 | CellType::Int8).then_some(kind)
}

/// Returns the number in a cell.
fn number(kind: CellType, cell: &[u8]) -> Option<i64> {
    let mut text = String::new();
    kind.write_text(cell, &mut text);
    text.parse().ok()
}

/// Finds the keys of rows that the table does not have, by trying integers. A digest cannot be
/// turned back.
fn guess(
    shape: &TableShape,
    span: Option<(i64, i64)>,
    wanted: &[Digest],
) -> HashMap<Digest, String> {
    let mut names = HashMap::new();
    let (Some(kind), false) = (integer_key(shape), wanted.is_empty()) else {
        return names;
    };
    let (low, high) = span.unwrap_or((0, 0));
    // The row may have been the last one, or one of the first.
    let low = low.min(0).saturating_sub(1000);
    let high = high
        .saturating_add(100_000)
        .min(low.saturating_add(GUESSES));
    let wanted: BTreeSet<Digest> = wanted.iter().copied().collect();
    let began = Instant::now();
    let mut cell = Vec::new();
    for number in low..=high {
        if number % 10_000 == 0 && began.elapsed() > GUESSING {
            break;
        }
        cell.clear();
        let text = number.to_string();
        if kind.from_json(&text, &mut cell).is_err() {
            continue;
        }
        let mut key = KeyBuf::default();
        if key.read_json(shape, &text).is_err() {
            continue;
        }
        let digest = key_digest(&key);
        if wanted.contains(&digest) {
            names.insert(digest, text);
            if names.len() == wanted.len() {
                break;
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[u128]) -> RangeSum {
        let mut sum = RangeSum::default();
        for row in rows {
            sum.add(Digest::of_number(*row));
        }
        sum
    }

    fn answer(ranges: Vec<RangeSum>, open: &[u128]) -> CutAnswer {
        CutAnswer {
            ranges,
            rows: Vec::new(),
            open: open.iter().map(|key| Digest::of_number(*key)).collect(),
            quarantined: BTreeSet::new(),
        }
    }

    // A node that reads a row again leaves it out, and is no liar for that.
    #[test]
    fn rows_that_a_node_leaves_out_are_taken_off_the_table_s_sums() {
        let mut table = TableAtCut {
            ranges: vec![sum(&[1, 2]), sum(&[3])],
            ..TableAtCut::default()
        };
        table
            .left_out
            .insert(Digest::of_number(20), (0, Digest::of_number(2)));
        let whole = answer(vec![sum(&[1, 2]), sum(&[3])], &[]);
        assert!(differing_ranges(&whole, &table).is_empty());
        let without = answer(vec![sum(&[1]), sum(&[3])], &[20]);
        assert!(differing_ranges(&without, &table).is_empty());
        let silent = answer(vec![sum(&[1]), sum(&[3])], &[]);
        assert_eq!(differing_ranges(&silent, &table), [0]);
        // A row that the node leaves out and the table does not have.
        let deleted = answer(vec![sum(&[1, 2]), sum(&[3])], &[30]);
        assert!(differing_ranges(&deleted, &table).is_empty());
    }

    #[test]
    fn a_later_cut_does_not_take_a_difference_back() {
        let mut nodes = BTreeMap::new();
        let differs = |rows| Verdict::Differs { rows, more: false };
        keep(&mut nodes, 1, differs(Vec::new()));
        keep(
            &mut nodes,
            1,
            Verdict::Equal {
                open: 0,
                quarantined: 0,
            },
        );
        assert_eq!(nodes[&1], differs(Vec::new()));
        let row = DifferingRow {
            kind: FindingKind::Stale,
            key: Some("1".to_string()),
            digest: Digest::of_number(1),
        };
        keep(&mut nodes, 1, differs(vec![row.clone()]));
        assert_eq!(nodes[&1], differs(vec![row]));
    }

    #[test]
    fn as_many_ranges_are_listed_as_fit_into_an_answer() {
        assert_eq!(listable(&[0, 1, 2], &[30, 30, 30]), [0, 1]);
        assert_eq!(listable(&[1], &[0, 65]), [0; 0]);
    }
}
