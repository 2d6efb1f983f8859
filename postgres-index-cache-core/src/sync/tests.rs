//! The engine driven by hand. The random model of PostgreSQL that drives it stands in
//! `tests/simulation`.

mod aux_connections;
mod comparisons;
mod fences;
mod looks;

use super::*;
use std::time::{Duration, Instant};

const FENCES: &str = "fences";

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
    }
}

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
            heartbeat: Duration::from_secs(1000),
            reconnect: true,
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

    fn notify(&mut self, payload: &str) {
        self.handle(Input::Notification {
            channel: "c",
            payload,
            sender: 1,
        });
    }

    fn row(&mut self, action: &str, id: u32, xid: u64, more: &str) {
        let data = if action == "delete" {
            String::new()
        } else {
            format!(r#","data":{{"id":{id}}}"#)
        };
        self.notify(&format!(
            r#"{{"table":"users","action":"{action}","id":{id}{data},"schema":"app","rel":7,"xid":"{xid}"{more}}}"#
        ));
    }

    fn tokens(&mut self) -> Vec<String> {
        let is_token = |output: &mut Output| matches!(output, Output::Notify { .. });
        let token = |output| match output {
            Output::Notify { token, .. } => token,
            other => unreachable!("{other:?} was filtered out"),
        };
        self.outputs.extract_if(.., is_token).map(token).collect()
    }

    /// Sends back every token that was asked for.
    fn echo(&mut self) {
        for token in self.tokens() {
            self.handle(Input::Notification {
                channel: FENCES,
                payload: &token,
                sender: 1,
            });
        }
    }

    fn connect(&mut self) {
        self.handle(Input::Listening);
        self.echo();
    }

    fn read_asked(&mut self) -> Option<(TableId, u64)> {
        let is_read = |output: &mut Output| matches!(output, Output::ReadTable { .. });
        self.outputs
            .extract_if(.., is_read)
            .last()
            .map(|output| match output {
                Output::ReadTable { table, generation } => (table, generation),
                other => unreachable!("{other:?} was filtered out"),
            })
    }

    fn finish_read(&mut self, snapshot: &str) {
        let (table, generation) = self.read_asked().expect("a read was asked for");
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

    fn refetch_asked(&mut self) -> Option<(u64, Vec<String>)> {
        let is_refetch = |output: &mut Output| matches!(output, Output::Refetch { .. });
        self.outputs
            .extract_if(.., is_refetch)
            .last()
            .map(|output| match output {
                Output::Refetch { batch, keys, .. } => (batch, keys),
                other => unreachable!("{other:?} was filtered out"),
            })
    }

    fn answer(&mut self, batch: u64, snapshot: &str) {
        self.handle(Input::Refetched {
            table: TableId(0),
            batch,
            snapshot: snapshot.parse().unwrap(),
        });
    }

    fn is_reached(&self, fence: u64) -> bool {
        self.outputs
            .iter()
            .any(|output| matches!(output, Output::FenceReached { fence: FenceId(id), .. } if *id == fence))
    }

    fn live(&mut self) {
        self.connect();
        self.finish_read("100:100:");
        self.echo();
        assert_eq!(self.engine.state(), State::Live);
    }

    /// What was applied, in short: `+1` stores key 1, `-1` removes it, `2>1` replaces key 2 by 1,
    /// `0` clears.
    fn applied(&mut self) -> String {
        let is_apply = |output: &mut Output| {
            matches!(
                output,
                Output::Apply { .. } | Output::Clear { .. } | Output::Store { .. }
            )
        };
        let short = |output| match output {
            Output::Clear { keep, .. } if keep.is_empty() => "0".to_string(),
            Output::Clear { keep, .. } => format!("0 but {}", keep.join(",")),
            Output::Store { .. } => "=".to_string(),
            Output::Apply { change, .. } => match change.operation() {
                Operation::Upsert => format!("+{}", change.id()),
                Operation::ReplaceKey => {
                    format!("{}>{}", change.old_id().unwrap_or("?"), change.id())
                }
                Operation::Remove => format!("-{}", change.id()),
                Operation::Whole => unreachable!("it is never handed out"),
            },
            other => unreachable!("{other:?} was filtered out"),
        };
        self.outputs
            .extract_if(.., is_apply)
            .map(short)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

#[test]
fn it_listens_before_it_probes_and_probes_before_it_reads() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::TimePassed);
    assert!(matches!(&driven.outputs[..],
        [Output::Connect { channels }, Output::TableStateChanged { state: State::Subscribing, .. },
            Output::StateChanged(State::Subscribing)] if channels == &["c", FENCES]));
    assert!(driven.tokens().is_empty() && driven.read_asked().is_none());
    driven.handle(Input::Listening);
    let tokens = driven.tokens();
    assert_eq!(tokens.len(), 2);
    driven.handle(Input::Notification {
        channel: FENCES,
        payload: &tokens[1],
        sender: 1,
    });
    driven.handle(Input::Notification {
        channel: FENCES,
        payload: "forged",
        sender: 1,
    });
    assert!(driven.read_asked().is_none(), "one probe is not enough");
    driven.handle(Input::Notification {
        channel: FENCES,
        payload: &tokens[0],
        sender: 1,
    });
    assert!(driven.read_asked().is_some());
}

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
        let fails = |driven: &mut Driven| {
            let (table, work) = driven.read_asked()?;
            if table == TableId(0) {
                let code = Some("XX001".to_string());
                let why = "a broken page".to_string();
                driven.handle(Input::ReadFailed {
                    table,
                    work,
                    code,
                    why,
                    is_permanent: false,
                });
                return Some(());
            }
            driven.handle(Input::SnapshotTaken {
                table,
                generation: work,
                snapshot: "100:100:".parse().unwrap(),
            });
            driven.handle(Input::SnapshotLoaded {
                table,
                generation: work,
                has_changed: true,
            });
            None
        };
        for _ in 0..20 {
            if fails(&mut driven).is_some() {
                break;
            }
            driven.echo();
            driven.now += Duration::from_secs(20);
            driven.handle(Input::TimePassed);
        }
        driven.handle(Input::ChangeUnfit {
            table: TableId(1),
            why: "x".into(),
            sender: None,
        });
        driven.echo();
        driven.now += Duration::from_secs(20);
        driven.handle(Input::TimePassed);
    }
    assert!(driven.engine.has_ended());
}

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
            driven.notify(r#"{"table":"users","action":"reload","id":null,"schema":"app","xid":"150","why":"x"}"#);
        }),
        ("unfit", |driven| {
            driven.handle(Input::ChangeUnfit {
                table: TableId(0),
                why: "x".into(),
                sender: None,
            });
        }),
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
        (
            "too long",
            |driven| {
                driven.notify(
                    r#"{"table":"users","action":"update","id":1,"schema":"app","xid":"150","truncated":true}"#,
                );
            },
            &["1"],
        ),
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
                driven.notify(
                    r#"{"table":"users","action":"update","id":2,"old_id":1,"schema":"app","xid":"150","truncated":true}"#,
                );
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
        // Its own changes wait, those of others do not; a fence waits for the row.
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
        // The floor is there until a fence that was sent after it has come back.
        driven.row("update", 1, 151, "");
        assert_eq!(driven.applied(), "", "{name}");
        driven.handle(Input::FenceWanted(FenceId(2)));
        driven.echo();
        driven.row("update", 1, 151, "");
        assert_eq!(driven.applied(), "+1", "{name}");
    }
}

#[test]
fn a_truncate_waits_for_rows_that_are_read_again_and_spares_those_that_saw_it() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    let cut = |driven: &mut Driven, id: u32, xid: u32| {
        driven.notify(&format!(
            r#"{{"table":"users","action":"update","id":{id},"schema":"app","xid":"{xid}","truncated":true}}"#
        ));
    };
    let truncate =
        r#"{"table":"users","action":"truncate","id":null,"schema":"app","rel":7,"xid":"160"}"#;
    cut(&mut driven, 1, 150);
    let (first, _) = driven.refetch_asked().unwrap();
    cut(&mut driven, 2, 151);
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

#[test]
fn an_answer_from_before_the_table_was_read_again_is_ignored() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.notify(
        r#"{"table":"users","action":"update","id":1,"schema":"app","xid":"150","truncated":true}"#,
    );
    let (batch, _) = driven.refetch_asked().unwrap();
    driven.handle(Input::ChangeUnfit {
        table: TableId(0),
        why: "x".into(),
        sender: None,
    });
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
    let fail = |driven: &mut Driven, code: Option<&str>| {
        let (table, work) = driven.read_asked().expect("a read is asked for");
        let code = code.map(str::to_string);
        driven.handle(Input::ReadFailed {
            table,
            work,
            code,
            why: "no".into(),
            is_permanent: false,
        });
        driven.now += Duration::from_secs(20);
        driven.handle(Input::TimePassed);
    };
    for _ in 0..5 {
        fail(&mut driven, None);
    }
    fail(&mut driven, Some("XX000"));
    fail(&mut driven, Some("58030"));
    fail(&mut driven, Some("XX000"));
    fail(&mut driven, Some("XX000"));
    assert!(!driven.engine.has_ended());
    fail(&mut driven, Some("XX000"));
    assert!(driven.engine.has_ended() && driven.read_asked().is_none());
}

#[test]
fn rows_that_cannot_be_read_by_their_keys_are_read_with_all_others() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.notify(r#"{"table":"users","action":"update","id":{},"schema":"app","xid":"150","truncated":true}"#);
    let (batch, _) = driven.refetch_asked().unwrap();
    let code = Some("22P02".to_string());
    driven.handle(Input::ReadFailed {
        table: TableId(0),
        work: batch,
        code,
        why: "x".into(),
        is_permanent: false,
    });
    driven.finish_read("155:155:");
    driven.echo();
    assert_eq!(driven.engine.state(), State::Live);
}

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

#[test]
fn leaves_speak_for_their_root() {
    let parts = TableSpec {
        leaves: vec![8, 9],
        is_partitioned: true,
        ..followed("users")
    };
    let mut driven = Driven::new(vec![parts]);
    driven.live();
    let send = |driven: &mut Driven, action: &str, rel: u32, xid: u32| {
        let row = if action == "insert" {
            r#""id":1,"data":{"id":1}"#
        } else {
            r#""id":null"#
        };
        driven.notify(&format!(
            r#"{{"table":"users","action":"{action}",{row},"schema":"app","rel":{rel},"xid":"{xid}"}}"#
        ));
    };
    send(&mut driven, "insert", 8, 150);
    // TRUNCATE of the root fires the triggers of its leaves too.
    for (action, rel) in [("truncate", 7), ("reload", 8), ("reload", 9)] {
        send(&mut driven, action, rel, 151);
    }
    send(&mut driven, "insert", 9, 151);
    assert_eq!(
        (driven.applied(), driven.engine.counters().reloads),
        ("+1 0 +1".to_string(), 0)
    );
    // TRUNCATE of a leaf in the same transaction, after a row has come.
    send(&mut driven, "reload", 9, 151);
    assert_eq!(driven.engine.counters().reloads, 1);
    driven.finish_read("200:200:");
    driven.echo();
    send(&mut driven, "insert", 10, 201);
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
    driven.now += Duration::from_secs(60);
    driven.handle(Input::TimePassed);
    driven.finish_read("300:300:");
    driven.echo();
    send(&mut driven, "insert", 10, 301);
    assert_eq!(
        (driven.applied(), driven.engine.counters().reloads),
        ("+1".to_string(), 2),
        "it is known now"
    );
    send(&mut driven, "insert", 9, 302);
    assert_eq!(
        (driven.applied(), driven.engine.counters().reloads),
        (String::new(), 2),
        "its rows are not the table's"
    );
}

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

#[test]
fn reloads_keep_a_distance() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    let reload = |driven: &mut Driven| {
        driven.handle(Input::ChangeUnfit {
            table: TableId(0),
            why: "x".into(),
            sender: None,
        });
    };
    reload(&mut driven);
    driven.now += Duration::from_secs(3);
    driven.finish_read("150:150:");
    driven.echo();
    assert_eq!(
        (driven.engine.state(), driven.engine.cause(TableId(0))),
        (State::Live, None)
    );
    reload(&mut driven);
    assert_eq!(driven.read_asked(), None);
    assert_eq!(
        (driven.engine.state(), driven.engine.cause(TableId(0))),
        (State::Degraded, Some("x"))
    );
    assert_eq!(
        driven.engine.poll_timeout(),
        Some(driven.now + Duration::from_secs(6))
    );
    driven.now += Duration::from_secs(6);
    driven.handle(Input::TimePassed);
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
    assert_eq!(why, "too many changes waited while it was read");
    assert_eq!(
        driven.read_asked(),
        None,
        "the next read keeps its distance"
    );
    driven.now += Duration::from_secs(6);
    driven.handle(Input::TimePassed);
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

#[test]
fn a_deadline_counts_only_when_nothing_more_is_there_to_be_handed_in() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::Listening);
    driven.now += Duration::from_secs(60);
    driven.echo();
    assert_eq!(driven.engine.state(), State::Snapshotting);
}

#[test]
fn a_plain_payload_of_two_tables_makes_both_be_read_again() {
    let plain = |schema: &str| TableSpec {
        schema: schema.into(),
        sends_plain_form: true,
        ..followed("users")
    };
    let mut driven = Driven::new(vec![plain("app"), plain("old")]);
    driven.connect();
    driven.finish_read("100:100:");
    driven.notify(r#"{"table":"users","action":"delete","id":1}"#);
    let (first, _) = driven
        .read_asked()
        .expect("the second table's read is underway, the first's is next");
    assert_eq!((first, driven.applied()), (TableId(1), String::new()));
}

#[test]
fn rows_whose_payloads_lack_a_column_are_read_again() {
    let mut driven = Driven::new(vec![TableSpec {
        sends_whole_rows: false,
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
        r#"{"table":"users","action":"insert","id":1,"data":{},"schema":"app","rel":8,"xid":"150"}"#,
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
    let mut plain = Driven::new(vec![TableSpec {
        sends_plain_form: true,
        ..followed("users")
    }]);
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

#[test]
fn what_cannot_heal_is_named_and_not_tried_again() {
    let refused = |driven: &Driven| {
        let last = driven
            .outputs
            .iter()
            .rfind(|output| matches!(output, Output::Disconnected { .. }));
        matches!(last, Some(Output::Disconnected { retry_in: None, .. }))
            && driven.engine.has_ended()
            && driven.engine.poll_timeout().is_none()
    };
    let mut standby = Driven::new(vec![followed("users")]);
    standby.handle(Input::ConnectFailed {
        code: None,
        why: "a standby".into(),
        is_permanent: true,
    });
    assert!(refused(&standby));
    let mut broken = Driven::new(vec![followed("users")]);
    for attempt in 1..=3 {
        assert!(!broken.engine.has_ended(), "attempt {attempt}");
        let code = Some("XX000".to_string());
        let why = "something unexpected".to_string();
        broken.handle(Input::ConnectFailed {
            code,
            why,
            is_permanent: false,
        });
        broken.now += Duration::from_secs(100);
        broken.handle(Input::TimePassed);
    }
    assert!(refused(&broken), "the same unexpected code three times");
    let mut once = Driven::new(vec![followed("users")]);
    once.engine.limits_mut().reconnect = false;
    once.live();
    once.handle(Input::Lost("closed".into()));
    assert!(refused(&once));
    let mut hidden = Driven::new(vec![followed("users")]);
    hidden.connect();
    let (table, work) = hidden.read_asked().unwrap();
    let code = Some("42501".to_string());
    hidden.handle(Input::ReadFailed {
        table,
        work,
        code,
        why: "row security".into(),
        is_permanent: true,
    });
    assert!(refused(&hidden));
}
