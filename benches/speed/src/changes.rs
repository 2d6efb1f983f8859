//! Changes in this process: a payload is parsed, decided about by the engine, decoded and applied
//! to a cache of a million rows, without a server.

use crate::data;
use crate::report::{Report, Target};
use postgres_index_cache_core::tooling::sync::{
    Engine, Input, Limits, Operation, Output, TableSpec,
};
use postgres_index_cache_core::tooling::{KeyBuf, RowBuf, TableCache, Touched};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROWS: u64 = 1_000_000;
const CHANGES: u64 = 200_000;
/// As many notifications as the driver takes from the socket at once, and as it applies together.
const BATCH: usize = 256;
const TOGETHER: usize = 64;

/// Measures inserts, updates and deletes.
pub fn run(report: &mut Report, rounds: usize) {
    let targets = [("insert", 1.0), ("update", 0.9), ("delete", 1.2)];
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds {
        let mut applied = Applied::new();
        for ((action, _), rates) in targets.iter().zip(&mut rates) {
            let mut random = fastrand::Rng::with_seed(7);
            let payloads: Vec<String> = (0..CHANGES)
                .map(|at| {
                    // Rows that were inserted first, so that their lines are as far as others.
                    let number = if *action == "update" {
                        random.u64(0..ROWS)
                    } else {
                        ROWS + at
                    };
                    data::payload(action, number, number + 1, 1000 + at / 10)
                })
                .collect();
            let began = Instant::now();
            for batch in payloads.chunks(BATCH) {
                applied.take(batch);
            }
            rates.push(CHANGES as f64 / began.elapsed().as_secs_f64() / 1e6);
        }
        assert_eq!(applied.cache.len() as u64, ROWS);
        applied.cache.validate().expect("a valid cache");
    }
    for ((action, target), rates) in targets.iter().zip(&rates) {
        report.alone(
            &format!("parse and apply, {action}, 1M rows"),
            "M/s",
            rates,
            Target::AtLeast(*target),
        );
    }
}

/// An engine that follows one table, and the table's cache.
struct Applied {
    engine: Engine,
    cache: TableCache,
    rows: Vec<RowBuf>,
    key: KeyBuf,
}

/// A change that was decoded.
enum Decoded {
    Stored(RowBuf),
    Removed(KeyBuf),
}

impl Applied {
    fn new() -> Self {
        let cache = data::table_cache(ROWS, ROWS as usize);
        let spec = TableSpec {
            schema: "public".to_string(),
            name: "users".to_string(),
            oid: 16385,
            leaves: Vec::new(),
            is_partitioned: false,
            deferrable_key: false,
            sends_plain_form: false,
            sends_whole_rows: true,
            is_for_side_read: false,
            shape: Some(Arc::clone(cache.shape())),
        };
        let channels = vec!["cache_invalidation".to_string()];
        let engine = Engine::new(
            vec![spec],
            channels,
            "fences".to_string(),
            Limits::default(),
        );
        let mut applied = Self {
            engine,
            cache,
            rows: Vec::new(),
            key: KeyBuf::default(),
        };
        applied.go_live();
        applied
    }

    /// Answers the engine until the table is followed.
    fn go_live(&mut self) {
        let now = Instant::now();
        let mut generation = None;
        let mut listening = false;
        for _ in 0..20 {
            let outputs: Vec<Output> = std::iter::from_fn(|| self.engine.poll()).collect();
            for output in outputs {
                match output {
                    Output::Connect { .. } if !listening => {
                        listening = true;
                        self.engine.handle(Input::Listening, now);
                    }
                    Output::Notify { channel, token, .. } => {
                        self.engine.handle(
                            Input::Sent {
                                token: &token,
                                snapshot: None,
                            },
                            now,
                        );
                        let input = Input::Notification {
                            channel: &channel,
                            payload: &token,
                            sender: 1,
                        };
                        self.engine.handle(input, now + Duration::from_millis(1));
                    }
                    Output::ReadTable {
                        table,
                        generation: number,
                        ..
                    } if generation != Some(number) => {
                        generation = Some(number);
                        let snapshot = "100:100:".parse().expect("a snapshot");
                        self.engine.handle(
                            Input::SnapshotTaken {
                                table,
                                generation: number,
                                snapshot,
                            },
                            now,
                        );
                        self.engine.handle(
                            Input::SnapshotLoaded {
                                table,
                                generation: number,
                                has_changed: true,
                            },
                            now,
                        );
                    }
                    Output::Look { look } => self.engine.handle(Input::Looked { look }, now),
                    _ => {}
                }
            }
        }
        assert!(generation.is_some(), "the table was read");
    }

    /// Follows a batch of notifications.
    fn take(&mut self, batch: &[String]) {
        let now = Instant::now();
        let mut decoded = Vec::with_capacity(batch.len());
        for payload in batch {
            let input = Input::Notification {
                channel: "cache_invalidation",
                payload,
                sender: 1,
            };
            self.engine.handle(input, now);
            while let Some(output) = self.engine.poll() {
                let Output::Apply { change, .. } = output else {
                    continue;
                };
                self.key
                    .read_json(self.cache.shape(), change.id())
                    .expect("a key");
                if change.operation() == Operation::Remove {
                    decoded.push(Decoded::Removed(self.key.clone()));
                    continue;
                }
                let mut row = self.rows.pop().unwrap_or_default();
                data::read(self.cache.shape(), &mut row, change.data().expect("a row"));
                assert!(row.has_key(self.cache.shape(), &self.key));
                decoded.push(Decoded::Stored(row));
            }
        }
        assert_eq!(decoded.len(), batch.len(), "every change is applied");
        let mut together: Vec<Decoded> = Vec::with_capacity(TOGETHER);
        for change in decoded {
            together.push(change);
            if together.len() == TOGETHER {
                self.apply(&mut together);
            }
        }
        self.apply(&mut together);
    }

    fn apply(&mut self, changes: &mut Vec<Decoded>) {
        let touched: Vec<Touched<'_, RowBuf>> = changes
            .iter()
            .map(|change| match change {
                Decoded::Stored(row) => Touched::Row(row),
                Decoded::Removed(key) => Touched::Key(key),
            })
            .collect();
        std::hint::black_box(self.cache.touch(&touched));
        for change in changes.drain(..) {
            match change {
                Decoded::Stored(row) => {
                    self.cache.upsert(&row).expect("room");
                    self.rows.push(row);
                }
                Decoded::Removed(key) => {
                    assert!(self.cache.remove(&key));
                }
            }
        }
    }
}
