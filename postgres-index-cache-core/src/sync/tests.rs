//! The engine driven by hand, and by a small random model of a table.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const FENCES: &str = "fences";

fn followed(name: &str) -> Followed {
    Followed {
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
    replica: Replica,
    now: Instant,
    outputs: Vec<Output>,
}

impl Driven {
    fn new(tables: Vec<Followed>) -> Self {
        let limits = Limits {
            probe_timeout: Duration::from_secs(5),
            fence_timeout: Duration::from_secs(5),
            waiting_bytes: 10_000,
        };
        let replica = Replica::new(tables, vec!["c".into()], FENCES.into(), limits);
        Self { replica, now: Instant::now(), outputs: Vec::new() }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.replica.handle(input, self.now);
        while let Some(output) = self.replica.poll() {
            self.outputs.push(output);
        }
    }

    fn notify(&mut self, payload: &str) {
        self.handle(Input::Notification { channel: "c", payload });
    }

    fn row(&mut self, action: &str, id: u32, xid: u64, more: &str) {
        let data = if action == "delete" { String::new() } else { format!(r#","data":{{"id":{id}}}"#) };
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
            self.handle(Input::Notification { channel: FENCES, payload: &token });
        }
    }

    fn connect(&mut self) {
        self.handle(Input::Connected);
        self.handle(Input::Listening);
        self.echo();
    }

    fn read_asked(&mut self) -> Option<(TableId, u64)> {
        let is_read = |output: &mut Output| matches!(output, Output::ReadTable { .. });
        self.outputs.extract_if(.., is_read).last().map(|output| match output {
            Output::ReadTable { table, generation } => (table, generation),
            other => unreachable!("{other:?} was filtered out"),
        })
    }

    fn finish_read(&mut self, snapshot: &str) {
        let (table, generation) = self.read_asked().expect("a read was asked for");
        self.handle(Input::SnapshotTaken { table, generation, snapshot: snapshot.parse().unwrap() });
        self.handle(Input::SnapshotLoaded { table, generation });
    }

    fn live(&mut self) {
        self.connect();
        self.finish_read("100:100:");
        self.echo();
        assert_eq!(self.replica.state(), State::Live);
    }

    /// What was applied, in short: `+1` stores key 1, `-1` removes it, `2>1` replaces key 2 by 1, `0` clears.
    fn applied(&mut self) -> String {
        let is_apply = |output: &mut Output| matches!(output, Output::Apply { .. });
        let short = |output| match output {
            Output::Apply { change, .. } => match change.operation() {
                Operation::Upsert => format!("+{}", change.id()),
                Operation::ReplaceKey => format!("{}>{}", change.old_id().unwrap_or("?"), change.id()),
                Operation::Remove => format!("-{}", change.id()),
                Operation::Clear => "0".to_string(),
            },
            other => unreachable!("{other:?} was filtered out"),
        };
        self.outputs.extract_if(.., is_apply).map(short).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn it_listens_before_it_probes_and_probes_before_it_reads() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::Connected);
    assert!(
        matches!(&driven.outputs[..], [Output::Listen(channels), Output::StateChanged(State::Subscribing)] if channels == &["c", FENCES])
    );
    driven.handle(Input::Listening);
    let probes = driven.tokens();
    assert_eq!(probes.len(), 2);
    driven.handle(Input::Notification { channel: FENCES, payload: &probes[0] });
    driven.handle(Input::Notification { channel: FENCES, payload: "forged" });
    assert_eq!((driven.replica.state(), driven.read_asked()), (State::Probing, None));
    driven.handle(Input::Notification { channel: FENCES, payload: &probes[1] });
    assert_eq!(driven.replica.state(), State::Snapshotting);
    driven.finish_read("100:100:");
    assert_eq!(driven.replica.state(), State::CatchingUp);
    driven.echo();
    assert_eq!(driven.replica.state(), State::Live);
}

#[test]
fn a_probe_that_does_not_come_back_names_the_connection() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::Connected);
    driven.handle(Input::Listening);
    let probes = driven.tokens();
    driven.handle(Input::Notification { channel: FENCES, payload: &probes[0] });
    driven.now = driven.replica.poll_timeout().expect("a deadline");
    driven.handle(Input::TimePassed);
    let failed = driven
        .outputs
        .iter()
        .any(|output| matches!(output, Output::Failed(Failure::ProbeLost { via: Via::Reads, .. })));
    assert!(failed && driven.replica.state() == State::Disconnected, "{:?}", driven.outputs);
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
    assert_eq!(driven.applied(), "", "the filter holds until a fence has come back");
    driven.echo();
    assert_eq!(driven.replica.counters().skipped, 3);
    driven.row("update", 6, 205, "");
    assert_eq!(driven.applied(), "+6");
}

#[test]
fn a_fence_sent_before_the_read_does_not_prove_it() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.connect();
    driven.handle(Input::FenceWanted(FenceId(1)));
    let early = driven.tokens();
    driven.finish_read("100:100:");
    driven.handle(Input::Notification { channel: FENCES, payload: &early[0] });
    assert_eq!(driven.replica.state(), State::CatchingUp);
    assert!(!driven.outputs.iter().any(|output| matches!(output, Output::FenceReached(_))));
    driven.echo();
    assert_eq!(driven.replica.state(), State::Live);
    assert!(driven.outputs.iter().any(|output| matches!(output, Output::FenceReached(FenceId(1)))));
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
    assert_eq!(driven.applied(), "-3 +9", "a half without its other half is a delete");
    driven.row("delete", 5, 153, r#","new_id":6"#);
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.echo();
    assert_eq!(driven.applied(), "-5", "a fence releases what is held");
}

#[test]
fn what_cannot_be_applied_as_it_is_makes_the_table_be_read_again() {
    type Send = fn(&mut Driven);
    let cases: [(&str, Send); 6] = [
        ("too long", |driven| {
            driven.notify(r#"{"table":"users","action":"update","id":1,"schema":"app","xid":"150","truncated":true}"#);
        }),
        ("reload", |driven| {
            driven.notify(r#"{"table":"users","action":"reload","id":null,"schema":"app","xid":"150","why":"x"}"#);
        }),
        ("recheck", |driven| {
            driven.row("update", 1, 150, "");
            driven.row("insert", 1, 150, r#","recheck":true"#);
        }),
        ("delete after insert", |driven| {
            driven.row("insert", 1, 150, "");
            driven.row("delete", 1, 150, "");
        }),
        ("old half after insert", |driven| {
            driven.row("insert", 1, 150, "");
            driven.row("delete", 1, 150, r#","new_id":2"#);
        }),
        ("unfit", |driven| driven.handle(Input::ChangeUnfit { table: TableId(0), why: "x".into() })),
    ];
    for (name, send) in cases {
        let mut driven = Driven::new(vec![followed("users")]);
        driven.live();
        send(&mut driven);
        assert_eq!(driven.replica.state(), State::Snapshotting, "{name}");
        driven.applied();
        driven.row("update", 3, 151, "");
        driven.finish_read("150:160:151");
        assert_eq!(driven.applied(), "+3", "{name}");
        driven.echo();
        assert_eq!((driven.replica.state(), driven.replica.counters().reloads), (State::Live, 1), "{name}");
    }
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
    driven.notify(r#"{"table":"users","action":"truncate","id":null,"schema":"app","rel":7,"xid":"153"}"#);
    assert_eq!(driven.applied(), "+1 +1 +1 -1 +1 +1 0");
    assert_eq!((driven.replica.counters().reloads, driven.replica.state()), (0, State::Live));
}

#[test]
fn leaves_speak_for_their_root() {
    let parts = Followed { leaves: vec![8, 9], is_partitioned: true, ..followed("users") };
    let mut driven = Driven::new(vec![parts]);
    driven.live();
    let send = |driven: &mut Driven, action: &str, rel: u32, xid: u32| {
        let row = if action == "insert" { r#""id":1,"data":{"id":1}"# } else { r#""id":null"# };
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
    assert_eq!((driven.applied(), driven.replica.counters().reloads), ("+1 0 +1".to_string(), 0));
    // TRUNCATE of a leaf in the same transaction, after a row has come.
    send(&mut driven, "reload", 9, 151);
    assert_eq!(driven.replica.counters().reloads, 1);
    driven.finish_read("200:200:");
    driven.echo();
    send(&mut driven, "insert", 10, 201);
    assert_eq!((driven.applied(), driven.replica.counters().reloads), (String::new(), 2), "a leaf that is not known");
}

#[test]
fn a_deferrable_key_that_is_touched_twice_is_doubtful() {
    let mut driven = Driven::new(vec![Followed { deferrable_key: true, ..followed("users") }]);
    driven.live();
    driven.row("delete", 1, 150, r#","new_id":2"#);
    driven.row("update", 2, 150, r#","old_id":1"#);
    driven.row("delete", 2, 150, r#","new_id":1"#);
    assert_eq!(driven.replica.counters().reloads, 1);
}

#[test]
fn reloads_keep_a_distance() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    let reload = |driven: &mut Driven| driven.handle(Input::ChangeUnfit { table: TableId(0), why: "x".into() });
    reload(&mut driven);
    driven.now += Duration::from_secs(3);
    driven.finish_read("150:150:");
    driven.echo();
    reload(&mut driven);
    assert_eq!(driven.read_asked(), None);
    assert_eq!(driven.replica.poll_timeout(), Some(driven.now + Duration::from_secs(6)));
    driven.now += Duration::from_secs(6);
    driven.handle(Input::TimePassed);
    assert!(driven.read_asked().is_some());
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
    assert_eq!((driven.applied(), driven.replica.state()), (String::new(), State::Snapshotting));
    assert_eq!(driven.read_asked(), None, "the next read keeps its distance");
    driven.now += Duration::from_secs(6);
    driven.handle(Input::TimePassed);
    driven.finish_read("200:200:");
    driven.echo();
    assert_eq!(driven.replica.state(), State::Live);
}

#[test]
fn a_deadline_counts_only_when_nothing_more_is_there_to_be_handed_in() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::Connected);
    driven.handle(Input::Listening);
    driven.now += Duration::from_secs(60);
    driven.echo();
    assert_eq!(driven.replica.state(), State::Snapshotting);
}

#[test]
fn a_plain_payload_of_two_tables_makes_both_be_read_again() {
    let plain = |schema: &str| Followed { schema: schema.into(), sends_plain_form: true, ..followed("users") };
    let mut driven = Driven::new(vec![plain("app"), plain("old")]);
    driven.connect();
    driven.finish_read("100:100:");
    driven.notify(r#"{"table":"users","action":"delete","id":1}"#);
    let (first, _) = driven.read_asked().expect("the second table's read is underway, the first's is next");
    assert_eq!((first, driven.applied()), (TableId(1), String::new()));
}

#[test]
fn a_table_whose_payloads_lack_a_column_is_read_again() {
    let mut driven = Driven::new(vec![Followed { sends_whole_rows: false, ..followed("users") }]);
    driven.live();
    driven.row("delete", 1, 150, "");
    assert_eq!((driven.applied(), driven.replica.counters().reloads), ("-1".to_string(), 0));
    driven.row("update", 2, 151, "");
    assert_eq!((driven.applied(), driven.replica.counters().reloads), (String::new(), 1));
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
    let counters = driven.replica.counters();
    assert_eq!((driven.applied(), counters.other_tables, counters.invalid), (String::new(), 4, 1));
    let mut plain = Driven::new(vec![Followed { sends_plain_form: true, ..followed("users") }]);
    plain.live();
    plain.notify(r#"{"table":"users","action":"insert","id":1,"data":{"id":1}}"#);
    plain.notify(r#"{"table":"users","action":"delete","id":1}"#);
    assert_eq!((plain.applied(), plain.replica.counters().plain), ("+1 -1".to_string(), 2));
}

#[test]
fn a_lost_connection_ends_what_is_underway() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.handle(Input::Lost("closed".into()));
    assert_eq!((driven.replica.state(), driven.replica.poll_timeout()), (State::Disconnected, None));
    driven.row("insert", 1, 150, "");
    assert_eq!(driven.applied(), "");
}

#[derive(Debug, Clone)]
enum Event {
    /// A transaction of changes: key, and what becomes of it.
    Commit(Vec<(u8, Option<u8>)>),
    /// The notification queue delivers this many transactions.
    Deliver(usize),
    /// Q takes its snapshot, or finishes its read.
    Read,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let change = (0_u8..5, prop::option::of(0_u8..9));
    let event = prop_oneof![
        3 => prop::collection::vec(change, 1..4).prop_map(Event::Commit),
        2 => (1_usize..4).prop_map(Event::Deliver),
        1 => Just(Event::Read),
    ];
    prop::collection::vec(event, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    /// A table, a queue in commit order, and a read that sees the table as of some moment: whenever a fence comes back,
    /// the cache is the table.
    #[test]
    fn at_a_fence_the_cache_is_the_table(events in events()) {
        let mut driven = Driven::new(vec![followed("users")]);
        let mut table: BTreeMap<u8, u8> = BTreeMap::new();
        let mut cache: BTreeMap<u8, u8> = BTreeMap::new();
        let mut queue: VecDeque<Vec<String>> = VecDeque::new();
        let mut reading: Option<(TableId, u64, BTreeMap<u8, u8>)> = None;
        let mut xid = 100;
        driven.connect();
        let all_delivered = events.iter().cloned().chain([Event::Read, Event::Read, Event::Deliver(usize::MAX)]);
        let rest: Vec<Event> = all_delivered.chain((0..8).map(|_| Event::Read)).collect();
        for event in rest {
            match event {
                Event::Commit(changes) => {
                    xid += 1;
                    let mut payloads = Vec::new();
                    for (key, value) in changes {
                        let before = table.get(&key).copied();
                        let action = match (before, value) {
                            (None, None) => continue,
                            (None, Some(_)) => "insert",
                            (Some(_), Some(_)) => "update",
                            (Some(_), None) => "delete",
                        };
                        match value {
                            Some(value) => table.insert(key, value),
                            None => table.remove(&key),
                        };
                        let data = value.map(|value| format!(r#","data":{value}"#)).unwrap_or_default();
                        payloads.push(format!(
                            r#"{{"table":"users","action":"{action}","id":{key}{data},"schema":"app","xid":"{xid}"}}"#
                        ));
                    }
                    queue.push_back(payloads);
                }
                Event::Deliver(count) => {
                    for _ in 0..count.min(queue.len()) {
                        for payload in queue.pop_front().into_iter().flatten() {
                            driven.notify(&payload);
                        }
                    }
                }
                Event::Read => match reading.take() {
                    Some((id, generation, rows)) => {
                        cache = rows;
                        driven.outputs.retain(|output| !matches!(output, Output::Apply { .. }));
                        driven.handle(Input::SnapshotLoaded { table: id, generation });
                    }
                    None => {
                        if let Some((id, generation)) = driven.read_asked() {
                            let snapshot = format!("{}:{}:", xid + 1, xid + 1).parse().unwrap();
                            driven.handle(Input::SnapshotTaken { table: id, generation, snapshot });
                            reading = Some((id, generation, table.clone()));
                        } else if queue.is_empty() {
                            driven.echo();
                        } else {
                            // A fence comes after everything that is queued.
                            for payload in queue.drain(..).flatten() {
                                driven.notify(&payload);
                            }
                        }
                    }
                },
            }
            driven.now += Duration::from_millis(1);
            driven.handle(Input::TimePassed);
            for output in driven.outputs.extract_if(.., |output| matches!(output, Output::Apply { .. })) {
                let Output::Apply { change, .. } = output else { unreachable!("filtered") };
                let key: u8 = change.id().parse().unwrap();
                match change.data() {
                    Some(value) => cache.insert(key, value.parse().unwrap()),
                    None => cache.remove(&key),
                };
            }
            if driven.replica.state() == State::Live && queue.is_empty() {
                prop_assert_eq!(&cache, &table);
            }
        }
    }
}
