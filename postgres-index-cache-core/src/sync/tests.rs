//! The engine driven by hand: each test is one situation, as a list of inputs and the outputs that
//! must follow. The random model of PostgreSQL, which finds the situations that nobody thought of,
//! stands in `tests/simulation`.
//!
//! The parts of the engine have unit tests in their own files. Here stand the tests of more than
//! one part.

mod aux_connections;
mod comparisons;
mod fences;
mod looks;

use super::*;
use crate::table_cache::{Column, TableShape};
use crate::value::CellType;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The fence channel.
const FENCES: &str = "fences";

/// Returns the specification of a table `app.name` with the oid 7.
fn followed(name: &str) -> TableSpec {
    TableSpec {
        schema: "app".into(),
        name: name.into(),
        oid: 7,
        leaves: Vec::new(),
        is_partitioned: false,
        deferrable_key: false,
        sends_plain_form: false,
        sends_whole_rows: true,
        is_for_side_read: true,
        shape: None,
    }
}

/// An engine, the time, and the outputs that no test has looked at yet.
struct Driven {
    engine: Engine,
    now: Instant,
    outputs: Vec<Output>,
}

impl Driven {
    fn new(tables: Vec<TableSpec>) -> Self {
        let limits = Limits {
            probe_timeout: Duration::from_secs(5),
            fence_timeout: Duration::from_secs(5),
            waiting_bytes: 10_000,
            // So long that no test sees a heartbeat but those that are about heartbeats.
            heartbeat: Duration::from_secs(1000),
            reconnect: true,
            side_reads: 0,
            // Without looks a fence counts when it arrives. `looks::watched` switches them on.
            watch_ddl: false,
        };
        let engine = Engine::new(tables, vec!["c".into()], FENCES.into(), limits);
        Self {
            engine,
            now: Instant::now(),
            outputs: Vec::new(),
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.engine.handle(input, self.now);
        while let Some(output) = self.engine.poll() {
            self.outputs.push(output);
        }
    }

    /// Lets L receive a payload on the channel of the triggers.
    fn notify(&mut self, payload: &str) {
        self.handle(Input::Notification {
            channel: "c",
            payload,
            sender: 1,
        });
    }

    /// Lets a change of a row of `users` arrive, with its data unless it is a delete. `more` are
    /// further JSON fields, with a comma before each.
    fn row(&mut self, action: &str, id: u32, xid: u64, more: &str) {
        let data = if action == "delete" {
            String::new()
        } else {
            format!(r#","data":{{"id":{id}}}"#)
        };
        self.notify(&format!(
            concat!(
                r#"{{"table":"users","action":"{}","id":{}{},"schema":"app","rel":7,"#,
                r#""xid":"{}"{}}}"#
            ),
            action, id, data, xid, more
        ));
    }

    /// Lets an update of a row of `users` arrive whose data was too long to be sent.
    fn long_row(&mut self, id: u32, xid: u64) {
        self.notify(&format!(
            concat!(
                r#"{{"table":"users","action":"update","id":{},"schema":"app","rel":7,"#,
                r#""xid":"{}","truncated":true}}"#
            ),
            id, xid
        ));
    }

    /// Takes out the outputs for which `pick` returns something, and returns that.
    fn take<T>(&mut self, pick: impl Fn(&Output) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::new();
        self.outputs.retain(|output| match pick(output) {
            Some(picked) => {
                taken.push(picked);
                false
            }
            None => true,
        });
        taken
    }

    /// Takes out the tokens that were asked for.
    fn tokens(&mut self) -> Vec<String> {
        self.take(|output| match output {
            Output::Notify { token, .. } => Some(token.clone()),
            _ => None,
        })
    }

    /// Lets L receive this token.
    fn receive(&mut self, token: &str) {
        self.handle(Input::Notification {
            channel: FENCES,
            payload: token,
            sender: 1,
        });
    }

    /// Lets L receive every token that was asked for.
    fn echo(&mut self) {
        for token in self.tokens() {
            self.receive(&token);
        }
    }

    fn connect(&mut self) {
        self.handle(Input::Listening);
        self.echo();
    }

    /// Takes out the reads of tables that were asked for. Returns the last one, with its
    /// generation.
    fn read_asked(&mut self) -> Option<(TableId, u64)> {
        let asked = self.take(|output| match output {
            Output::ReadTable {
                table, generation, ..
            } => Some((*table, *generation)),
            _ => None,
        });
        asked.last().copied()
    }

    /// Answers the read that was asked for.
    fn finish_read(&mut self, snapshot: &str) {
        let (table, generation) = self.read_asked().expect("a read was asked for");
        self.answer_read(table, generation, snapshot);
    }

    fn answer_read(&mut self, table: TableId, generation: u64, snapshot: &str) {
        self.handle(Input::SnapshotTaken {
            table,
            generation,
            snapshot: snapshot.parse().unwrap(),
        });
        self.handle(Input::SnapshotLoaded {
            table,
            generation,
            has_changed: true,
        });
    }

    /// Lets a read fail with this error code.
    fn fail_read(&mut self, table: TableId, work: u64, code: Option<&str>, is_permanent: bool) {
        self.handle(Input::ReadFailed {
            table,
            work,
            code: code.map(str::to_string),
            why: "no".into(),
            is_permanent,
        });
    }

    /// Makes the table be reloaded, as for a change that could not be applied.
    fn ask_for_reload(&mut self, table: TableId) {
        self.handle(Input::ChangeUnfit {
            table,
            why: "x".into(),
            sender: None,
        });
    }

    /// Lets so many seconds pass.
    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.handle(Input::TimePassed);
    }

    /// Takes out the refetches that were asked for. Returns the last one: its batch and its keys.
    fn refetch_asked(&mut self) -> Option<(u64, Vec<String>)> {
        let mut asked = self.take(|output| match output {
            Output::Refetch { batch, keys, .. } => Some((*batch, keys.clone())),
            _ => None,
        });
        asked.pop()
    }

    /// Answers a refetch of the first table.
    fn answer(&mut self, batch: u64, snapshot: &str) {
        self.handle(Input::Refetched {
            table: TableId(0),
            batch,
            snapshot: snapshot.parse().unwrap(),
        });
    }

    fn is_reached(&self, fence: u64) -> bool {
        self.outputs.iter().any(|output| match output {
            Output::FenceReached { fence: reached, .. } => reached.0 == fence,
            _ => false,
        })
    }

    /// Connects, and reads and proves the only table.
    fn live(&mut self) {
        self.connect();
        self.finish_read("100:100:");
        self.echo();
        assert_eq!(self.engine.state(), State::Live);
    }

    /// Takes out the operations on caches, in short: `+1` stores key 1, `-1` removes key 1, `2>1`
    /// replaces key 2 by 1, `=` stores the rows of a refetch, `0` clears, and `0 but 1` spares key
    /// 1.
    fn applied(&mut self) -> String {
        self.take(short).join(" ")
    }
}

/// Returns the short form of an operation on a cache; see [`Driven::applied`].
fn short(output: &Output) -> Option<String> {
    match output {
        Output::Clear { keep, .. } if keep.is_empty() => Some("0".to_string()),
        Output::Clear { keep, .. } => Some(format!("0 but {}", keep.join(","))),
        Output::Store { .. } => Some("=".to_string()),
        Output::Apply { change, .. } => Some(match change.operation() {
            Operation::Upsert => format!("+{}", change.id()),
            Operation::ReplaceKey => {
                format!("{}>{}", change.old_id().unwrap_or("?"), change.id())
            }
            Operation::Remove => format!("-{}", change.id()),
            Operation::Whole => unreachable!("such a change is never handed out"),
        }),
        _ => None,
    }
}

// Anything that is read before L listens, or by a session that L does not hear, may miss changes.
#[test]
fn it_listens_before_it_probes_and_probes_before_it_reads() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::TimePassed);
    let [
        Output::Connect { channels },
        Output::TableStateChanged {
            state: State::Subscribing,
            ..
        },
        Output::StateChanged(State::Subscribing),
    ] = &driven.outputs[..]
    else {
        panic!("{:?}", driven.outputs)
    };
    assert_eq!(channels, &["c", FENCES]);
    assert!(driven.tokens().is_empty() && driven.read_asked().is_none());
    driven.handle(Input::Listening);
    let tokens = driven.tokens();
    assert_eq!(tokens.len(), 2);
    driven.receive(&tokens[1]);
    driven.receive("forged");
    assert!(driven.read_asked().is_none(), "one probe is not enough");
    driven.receive(&tokens[0]);
    assert!(driven.read_asked().is_some());
}

/// Answers the read that is asked for, if one is: a read of the first table fails, and one of any
/// other table succeeds. Returns whether a read has failed.
fn fail_reads_of_the_first_table(driven: &mut Driven) -> bool {
    let Some((table, work)) = driven.read_asked() else {
        return false;
    };
    if table == TableId(0) {
        driven.fail_read(table, work, Some("XX001"), false);
        return true;
    }
    driven.answer_read(table, work, "100:100:");
    false
}

// Failures are counted for each table. Counted for Q, the reads of `orders` in between would end
// the streak of `users`, and `users` would be tried for ever.
#[test]
fn the_same_failure_of_one_table_is_a_refusal_whatever_others_do() {
    let mut driven = Driven::new(vec![
        followed("users"),
        TableSpec {
            oid: 8,
            ..followed("orders")
        },
    ]);
    driven.connect();
    for attempt in 0..3 {
        assert!(!driven.engine.has_ended(), "attempt {attempt}");
        for _ in 0..20 {
            if fail_reads_of_the_first_table(&mut driven) {
                break;
            }
            driven.echo();
            driven.pass(20);
        }
        driven.ask_for_reload(TableId(1));
        driven.echo();
        driven.pass(20);
    }
    assert!(driven.engine.has_ended());
}

// Rule::Cut. The snapshot sees 99 and 101, and neither 103, which was in progress, nor 200.
#[test]
fn changes_wait_for_the_read_and_are_cut_by_its_snapshot() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.connect();
    for (id, xid) in [(1, 99), (2, 103), (3, 101), (4, 200)] {
        driven.row("insert", id, xid, "");
    }
    assert_eq!(driven.applied(), "");
    driven.finish_read("100:110:103");
    assert_eq!(driven.applied(), "+2 +4");
    driven.row("update", 5, 104, "");
    assert_eq!(
        driven.applied(),
        "",
        "the filter holds until a fence has come back"
    );
    driven.echo();
    assert_eq!(driven.engine.counters().skipped, 3);
    driven.row("update", 6, 205, "");
    assert_eq!(driven.applied(), "+6");
}

#[test]
fn a_key_change_is_one_step_for_readers() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.row("delete", 1, 150, r#","new_id":2"#);
    assert_eq!(driven.applied(), "");
    driven.row("update", 2, 150, r#","old_id":1"#);
    assert_eq!(driven.applied(), "1>2");
    driven.row("delete", 3, 151, r#","new_id":4"#);
    driven.row("insert", 9, 152, "");
    assert_eq!(
        driven.applied(),
        "-3 +9",
        "a half without its other half is a delete"
    );
    driven.row("delete", 5, 153, r#","new_id":6"#);
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.echo();
    assert_eq!(driven.applied(), "-5", "a fence releases what is held");
}

#[test]
fn what_nobody_can_make_out_makes_the_table_be_read_again() {
    type Send = fn(&mut Driven);
    let cases: [(&str, Send); 3] = [
        ("reload", |driven| {
            driven.notify(concat!(
                r#"{"table":"users","action":"reload","id":null,"schema":"app","#,
                r#""xid":"150","why":"x"}"#
            ));
        }),
        ("unfit", |driven| driven.ask_for_reload(TableId(0))),
        ("altered", |driven| {
            driven.handle(Input::TableAltered {
                table: TableId(0),
                why: "x".into(),
            });
        }),
    ];
    for (name, send) in cases {
        let mut driven = Driven::new(vec![followed("users")]);
        driven.live();
        send(&mut driven);
        assert_eq!(driven.engine.state(), State::Snapshotting, "{name}");
        driven.applied();
        driven.row("update", 3, 151, "");
        driven.finish_read("150:160:151");
        assert_eq!(driven.applied(), "+3", "{name}");
        driven.echo();
        assert_eq!(
            (driven.engine.state(), driven.engine.counters().reloads),
            (State::Live, 1),
            "{name}"
        );
    }
}

#[test]
fn a_payload_that_cannot_be_trusted_makes_its_row_be_read_again() {
    type Send = fn(&mut Driven);
    let cases: [(&str, Send, &[&str]); 5] = [
        ("too long", |driven| driven.long_row(1, 150), &["1"]),
        (
            "recheck",
            |driven| {
                driven.row("update", 1, 150, "");
                driven.row("insert", 1, 150, r#","recheck":true"#);
            },
            &["1"],
        ),
        (
            "delete after insert",
            |driven| {
                driven.row("insert", 1, 150, "");
                driven.row("delete", 1, 150, "");
            },
            &["1"],
        ),
        (
            "old half after insert",
            |driven| {
                driven.row("insert", 1, 150, "");
                driven.row("delete", 1, 150, r#","new_id":2"#);
                driven.row("update", 2, 150, r#","old_id":1"#);
            },
            &["1", "2"],
        ),
        (
            "a key change too long to send",
            |driven| {
                driven.row("delete", 1, 150, r#","new_id":2"#);
                driven.notify(concat!(
                    r#"{"table":"users","action":"update","id":2,"old_id":1,"schema":"app","#,
                    r#""xid":"150","truncated":true}"#
                ));
            },
            &["1", "2"],
        ),
    ];
    for (name, send, expected) in cases {
        let mut driven = Driven::new(vec![followed("users")]);
        driven.live();
        send(&mut driven);
        driven.applied();
        let (batch, keys) = driven.refetch_asked().expect(name);
        assert_eq!(keys, expected, "{name}");
        assert_eq!(
            driven.engine.state(),
            State::Live,
            "{name}: the other rows are as they were"
        );
        // Changes of this row wait, and those of others do not. A fence waits for the row.
        driven.row("update", 1, 151, "");
        driven.row("update", 1, 152, "");
        driven.row("update", 3, 151, "");
        driven.handle(Input::FenceWanted(FenceId(1)));
        driven.echo();
        assert_eq!(driven.applied(), "+3", "{name}");
        assert!(!driven.is_reached(1), "{name}");
        driven.answer(batch, "152:152:");
        assert_eq!(
            driven.applied(),
            "= +1",
            "{name}: what the read saw is skipped"
        );
        assert!(
            driven.is_reached(1) && driven.engine.counters().reloads == 0,
            "{name}"
        );
        // Rule::Floor: the floor stays until a fence that was sent after the answer has come back.
        // Only then is it sure that no change comes any more that the row has.
        driven.row("update", 1, 151, "");
        assert_eq!(driven.applied(), "", "{name}");
        driven.handle(Input::FenceWanted(FenceId(2)));
        driven.echo();
        driven.row("update", 1, 151, "");
        assert_eq!(driven.applied(), "+1", "{name}");
    }
}

// Rule::Spare: row 1 was read after the TRUNCATE, so it is in the table.
#[test]
fn a_truncate_waits_for_rows_that_are_read_again_and_spares_those_that_saw_it() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    let truncate =
        r#"{"table":"users","action":"truncate","id":null,"schema":"app","rel":7,"xid":"160"}"#;
    driven.long_row(1, 150);
    let (first, _) = driven.refetch_asked().unwrap();
    driven.long_row(2, 151);
    driven.notify(truncate);
    driven.row("insert", 3, 161, "");
    assert_eq!(
        driven.applied(),
        "",
        "all that comes after it waits with it"
    );
    driven.answer(first, "161:161:");
    assert_eq!(
        driven.applied(),
        "= 0 but 1 +3",
        "what was not asked for yet will be read after it"
    );
    let (second, keys) = driven.refetch_asked().unwrap();
    assert_eq!(keys, ["2"]);
    driven.answer(second, "165:165:");
    assert_eq!(driven.applied(), "=");
}

// Any role can announce a row under another spelling of its key. The cache has one row for all
// spellings, so a change under one must wait for the refetch under another.
#[test]
fn two_spellings_of_a_key_are_one_key() {
    for (kind, one, other) in [
        (CellType::Int4, "0", "-0"),
        (
            CellType::Uuid,
            r#""00000000-0000-4000-8000-00000000000a""#,
            r#""00000000-0000-4000-8000-00000000000A""#,
        ),
        (
            CellType::Uuid,
            r#""00000000-0000-4000-8000-00000000000a""#,
            r#""{00000000-0000-4000-8000-00000000000a}""#,
        ),
        (CellType::Text, r#""a""#, r#""\u0061""#),
    ] {
        let column = Column {
            name: "id".to_string(),
            kind,
            nullable: false,
        };
        let shape = TableShape::new(vec![column], &["id".to_string()]).expect("a shape");
        let spec = TableSpec {
            shape: Some(Arc::new(shape)),
            ..followed("users")
        };
        let mut driven = Driven::new(vec![spec]);
        driven.live();
        let announce = |key: &str, more: &str| {
            format!(
                r#"{{"table":"users","action":"update","id":{key},"schema":"app","xid":"150"{more}}}"#
            )
        };
        driven.notify(&announce(other, r#","reread":true"#));
        let (_, keys) = driven.refetch_asked().expect(other);
        assert_eq!(keys, [one], "{other}");
        driven.notify(&announce(one, r#","data":{"id":1}"#));
        assert_eq!(
            driven.applied(),
            "",
            "{other}: the change waits for the row"
        );
    }
}

// Rule::Generation: the rows of the answer are older than those of the read.
#[test]
fn an_answer_from_before_the_table_was_read_again_is_ignored() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.long_row(1, 150);
    let (batch, _) = driven.refetch_asked().unwrap();
    driven.ask_for_reload(TableId(0));
    assert_eq!(driven.read_asked(), None, "Q does one thing at a time");
    driven.answer(batch, "155:155:");
    assert_eq!(driven.applied(), "");
    driven.finish_read("155:155:");
    driven.answer(batch, "155:155:");
    assert_eq!(driven.applied(), "");
    driven.echo();
    assert_eq!(driven.engine.state(), State::Live);
}

#[test]
fn a_read_that_fails_is_done_again_until_it_is_a_refusal() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.connect();
    // A failure without a code passes by itself, however often it comes. Another code in between
    // begins a new streak.
    let passing = [None; 5];
    let others = ["XX000", "58030", "XX000", "XX000"].map(Some);
    for code in passing.into_iter().chain(others) {
        fail_asked_read(&mut driven, code);
    }
    assert!(!driven.engine.has_ended());
    fail_asked_read(&mut driven, Some("XX000"));
    assert!(driven.engine.has_ended() && driven.read_asked().is_none());
}

/// Lets the read that is asked for fail, and the wait after that pass.
fn fail_asked_read(driven: &mut Driven, code: Option<&str>) {
    let (table, work) = driven.read_asked().expect("a read is asked for");
    driven.fail_read(table, work, code, false);
    driven.pass(20);
}

// Any role can send a key that PostgreSQL refuses. Asked for again, it would be refused for ever.
#[test]
fn rows_that_cannot_be_read_by_their_keys_are_read_with_all_others() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.notify(concat!(
        r#"{"table":"users","action":"update","id":{},"schema":"app","#,
        r#""xid":"150","truncated":true}"#
    ));
    let (batch, _) = driven.refetch_asked().unwrap();
    driven.fail_read(TableId(0), batch, Some("22P02"), false);
    driven.finish_read("155:155:");
    driven.echo();
    assert_eq!(driven.engine.state(), State::Live);
}

// A refetch costs a statement, so the cases that need one must not take ordinary ones along: a row
// that is written twice, a key that is used again, a `recheck` that a row lock has set.
#[test]
fn ordinary_transactions_cause_no_read() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.row("insert", 1, 150, "");
    driven.row("update", 1, 150, "");
    driven.row("update", 1, 150, "");
    driven.row("delete", 1, 151, "");
    driven.row("insert", 1, 151, "");
    driven.row("update", 1, 152, r#","recheck":true"#);
    driven.notify(
        r#"{"table":"users","action":"truncate","id":null,"schema":"app","rel":7,"xid":"153"}"#,
    );
    assert_eq!(driven.applied(), "+1 +1 +1 -1 +1 +1 0");
    assert_eq!(
        (driven.engine.counters().reloads, driven.engine.state()),
        (0, State::Live)
    );
}

/// Lets a change of `users` arrive from the trigger of the relation `rel`: of row 1 if it is an
/// insert, else of the whole table.
fn send_from(driven: &mut Driven, action: &str, rel: u32, xid: u32) {
    let row = if action == "insert" {
        r#""id":1,"data":{"id":1}"#
    } else {
        r#""id":null"#
    };
    driven.notify(&format!(
        concat!(
            r#"{{"table":"users","action":"{}",{},"schema":"app","rel":{},"#,
            r#""xid":"{}"}}"#
        ),
        action, row, rel, xid
    ));
}

#[test]
fn leaves_speak_for_their_root() {
    let parts = TableSpec {
        leaves: vec![8, 9],
        is_partitioned: true,
        ..followed("users")
    };
    let mut driven = Driven::new(vec![parts]);
    driven.live();
    send_from(&mut driven, "insert", 8, 150);
    // TRUNCATE of the root fires the triggers of its leaves too. Their requests right behind are
    // passed over: the table is empty, and to read it would tell nothing.
    for (action, rel) in [("truncate", 7), ("reload", 8), ("reload", 9)] {
        send_from(&mut driven, action, rel, 151);
    }
    send_from(&mut driven, "insert", 9, 151);
    assert_eq!(driven.applied(), "+1 0 +1");
    assert_eq!(driven.engine.counters().reloads, 0);
    // TRUNCATE of a leaf in the same transaction, after a row has come.
    send_from(&mut driven, "reload", 9, 151);
    assert_eq!(driven.engine.counters().reloads, 1);
    driven.finish_read("200:200:");
    driven.echo();
    send_from(&mut driven, "insert", 10, 201);
    assert_eq!(
        (driven.applied(), driven.engine.counters().reloads),
        (String::new(), 2),
        "a leaf that is not known"
    );
    driven.handle(Input::LeavesSeen {
        table: TableId(0),
        leaves: vec![8, 10],
        detaching: vec![9],
    });
    driven.pass(60);
    driven.finish_read("300:300:");
    driven.echo();
    send_from(&mut driven, "insert", 10, 301);
    assert_eq!(
        (driven.applied(), driven.engine.counters().reloads),
        ("+1".to_string(), 2),
        "it is known now"
    );
    send_from(&mut driven, "insert", 9, 302);
    assert_eq!(
        (driven.applied(), driven.engine.counters().reloads),
        (String::new(), 2),
        "its rows are not the table's"
    );
}

// Two rows swap their keys. Each key is announced twice, and the second announcement of a key is
// of the other row.
#[test]
fn a_deferrable_key_that_is_touched_twice_is_doubtful() {
    let mut driven = Driven::new(vec![TableSpec {
        deferrable_key: true,
        ..followed("users")
    }]);
    driven.live();
    driven.row("delete", 1, 150, r#","new_id":2"#);
    driven.row("update", 2, 150, r#","old_id":1"#);
    driven.row("delete", 2, 150, r#","new_id":1"#);
    driven.row("update", 1, 150, r#","old_id":2"#);
    let (_, mut keys) = driven.refetch_asked().unwrap();
    keys.sort();
    assert_eq!(
        (driven.applied().as_str(), keys),
        ("1>2", vec!["1".to_string(), "2".to_string()])
    );
}

// Any role can ask for reloads. The distance is twice the duration of the last read.
#[test]
fn reloads_keep_a_distance() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.ask_for_reload(TableId(0));
    driven.now += Duration::from_secs(3);
    driven.finish_read("150:150:");
    driven.echo();
    assert_eq!(
        (driven.engine.state(), driven.engine.cause(TableId(0))),
        (State::Live, None)
    );
    driven.ask_for_reload(TableId(0));
    assert_eq!(driven.read_asked(), None);
    assert_eq!(
        (driven.engine.state(), driven.engine.cause(TableId(0))),
        (State::Degraded, Some("x"))
    );
    assert_eq!(
        driven.engine.poll_timeout(),
        Some(driven.now + Duration::from_secs(6))
    );
    driven.pass(6);
    assert!(driven.read_asked().is_some());
    assert_eq!(
        (driven.engine.state(), driven.engine.cause(TableId(0))),
        (State::Snapshotting, None)
    );
}

#[test]
fn what_waits_is_bounded_and_a_read_that_missed_changes_is_done_again() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.connect();
    for id in 0..200 {
        driven.row("insert", id, 150, "");
    }
    driven.now += Duration::from_secs(3);
    driven.finish_read("1:1:");
    assert_eq!(
        (driven.applied(), driven.engine.state()),
        (String::new(), State::Degraded)
    );
    let why = driven.engine.cause(TableId(0)).expect("it says why");
    assert_eq!(why, "too many changes waited while the table was read");
    assert_eq!(
        driven.read_asked(),
        None,
        "the next read keeps its distance"
    );
    driven.pass(6);
    driven.finish_read("200:200:");
    driven.echo();
    assert_eq!(driven.engine.state(), State::Live);
}

#[test]
fn without_memory_what_waits_most_is_dropped_and_its_table_read_again() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    assert_eq!(driven.engine.waiting_bytes(), 0);
    driven.handle(Input::MemoryShort);
    assert_eq!(
        driven.read_asked(),
        None,
        "nothing waits, nothing is dropped"
    );
    driven.handle(Input::CacheBusy { table: TableId(0) });
    driven.row("insert", 1, 200, "");
    assert!(driven.engine.waiting_bytes() > 0);
    driven.handle(Input::MemoryShort);
    assert_eq!(driven.engine.waiting_bytes(), 0);
    assert_eq!(driven.engine.counters().reloads, 1);
    driven.row("insert", 2, 201, "");
    assert_eq!(driven.engine.waiting_bytes(), 0, "a read will see it");
    assert_ne!(driven.engine.state(), State::Live);
    driven.handle(Input::CacheFree { table: TableId(0) });
    let (table, generation) = driven
        .read_asked()
        .expect("it is read once its cache is free");
    driven.handle(Input::SnapshotTaken {
        table,
        generation,
        snapshot: "202:202:".parse().unwrap(),
    });
    driven.row("insert", 3, 202, "");
    assert!(driven.engine.waiting_bytes() > 0);
    driven.handle(Input::MemoryShort);
    assert_eq!(driven.engine.waiting_bytes(), 0);
    driven.handle(Input::SnapshotLoaded {
        table,
        generation,
        has_changed: true,
    });
    driven.echo();
    assert_ne!(
        driven.engine.state(),
        State::Live,
        "a read that missed changes does not count"
    );
}

// A process that slept past the deadline may find that the tokens have arrived meanwhile.
#[test]
fn a_deadline_counts_only_when_nothing_more_is_there_to_be_handed_in() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::Listening);
    driven.now += Duration::from_secs(60);
    driven.echo();
    assert_eq!(driven.engine.state(), State::Snapshotting);
}

/// Returns the specification of a table `users` in this schema whose trigger sends the plain form.
fn plain(schema: &str) -> TableSpec {
    TableSpec {
        schema: schema.into(),
        sends_plain_form: true,
        ..followed("users")
    }
}

// The plain form names no schema: applied to the wrong table, the change would be lost for good.
#[test]
fn a_plain_payload_of_two_tables_makes_both_be_read_again() {
    let mut driven = Driven::new(vec![plain("app"), plain("old")]);
    driven.connect();
    driven.finish_read("100:100:");
    driven.notify(r#"{"table":"users","action":"delete","id":1}"#);
    let (first, _) = driven
        .read_asked()
        .expect("the second table's read is underway, the first's is next");
    assert_eq!((first, driven.applied()), (TableId(1), String::new()));
}

// A trigger sees null in a virtual generated column.
#[test]
fn rows_whose_payloads_lack_a_column_are_read_again() {
    let mut driven = Driven::new(vec![TableSpec {
        sends_whole_rows: false,
        shape: None,
        ..followed("users")
    }]);
    driven.live();
    driven.row("delete", 1, 150, "");
    assert_eq!(driven.applied(), "-1");
    driven.row("update", 2, 151, "");
    assert_eq!(
        (driven.applied(), driven.refetch_asked().unwrap().1),
        (String::new(), vec!["2".to_string()])
    );
    assert_eq!(driven.engine.counters().reloads, 0);
}

#[test]
fn payloads_of_others_and_forged_ones_are_counted_and_change_nothing() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    for payload in [
        r#"{"table":"users","action":"insert","id":1,"data":{},"schema":"public","xid":"150"}"#,
        concat!(
            r#"{"table":"users","action":"insert","id":1,"data":{},"schema":"app","rel":8,"#,
            r#""xid":"150"}"#
        ),
        r#"{"table":"users","action":"insert","id":1,"data":{}}"#,
        r#"{"table":"orders","action":"insert","id":1,"data":{},"schema":"app","xid":"150"}"#,
        "forged",
    ] {
        driven.notify(payload);
    }
    let counters = driven.engine.counters();
    assert_eq!(
        (driven.applied(), counters.other_tables, counters.invalid),
        (String::new(), 4, 1)
    );
    let mut plain = Driven::new(vec![plain("app")]);
    plain.live();
    plain.notify(r#"{"table":"users","action":"insert","id":1,"data":{"id":1}}"#);
    plain.notify(r#"{"table":"users","action":"delete","id":1}"#);
    assert_eq!(
        (plain.applied(), plain.engine.counters().plain),
        ("+1 -1".to_string(), 2)
    );
}

#[test]
fn a_lost_connection_is_stale_at_once_and_comes_back_with_a_new_snapshot() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.handle(Input::Lost("closed".into()));
    assert_eq!(driven.engine.state(), State::Disconnected);
    let Some(Output::Disconnected {
        retry_in: Some(wait),
        ..
    }) = driven.outputs.last()
    else {
        panic!("{:?}", driven.outputs)
    };
    assert!(*wait <= Duration::from_millis(100));
    driven.outputs.clear();
    driven.row("insert", 1, 150, "");
    assert_eq!(driven.applied(), "", "nothing of the old connection counts");
    driven.now = driven.engine.poll_timeout().expect("an attempt is due");
    driven.handle(Input::TimePassed);
    assert!(
        matches!(driven.outputs[0], Output::Connect { .. }),
        "{:?}",
        driven.outputs
    );
    driven.handle(Input::ConnectFailed {
        code: None,
        why: "the database system is starting up".into(),
        is_permanent: false,
    });
    driven.now = driven
        .engine
        .poll_timeout()
        .expect("another attempt is due");
    driven.handle(Input::TimePassed);
    driven.live();
    driven.echo();
    assert!(
        driven.is_reached(1),
        "who waited for a fence is answered after the gap"
    );
    assert_eq!(driven.engine.counters().gaps, 2);
}

/// Returns whether the engine has said that it ends, and waits for nothing.
fn has_refused(driven: &Driven) -> bool {
    let last = driven
        .outputs
        .iter()
        .rfind(|output| matches!(output, Output::Disconnected { .. }));
    matches!(last, Some(Output::Disconnected { retry_in: None, .. }))
        && driven.engine.has_ended()
        && driven.engine.poll_timeout().is_none()
}

// Before anything was live, whoever started it is there to see the error and to mend the cause.
#[test]
fn what_cannot_heal_is_named_and_not_tried_again() {
    let mut standby = Driven::new(vec![followed("users")]);
    standby.handle(Input::ConnectFailed {
        code: None,
        why: "a standby".into(),
        is_permanent: true,
    });
    assert!(has_refused(&standby));
    let mut broken = Driven::new(vec![followed("users")]);
    for attempt in 1..=3 {
        assert!(!broken.engine.has_ended(), "attempt {attempt}");
        broken.handle(Input::ConnectFailed {
            code: Some("XX000".to_string()),
            why: "something unexpected".to_string(),
            is_permanent: false,
        });
        broken.pass(100);
    }
    assert!(has_refused(&broken), "one unexpected code three times");
    let mut once = Driven::new(vec![followed("users")]);
    once.engine.limits_mut().reconnect = false;
    once.live();
    once.handle(Input::Lost("closed".into()));
    assert!(has_refused(&once));
    let mut hidden = Driven::new(vec![followed("users")]);
    hidden.connect();
    let (table, work) = hidden.read_asked().unwrap();
    hidden.fail_read(table, work, Some("42501"), true);
    assert!(has_refused(&hidden));
}
