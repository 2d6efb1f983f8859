//! Looks at the definitions of the tables, tables that cannot be followed, and the failures that
//! end a replica or do not.

use super::*;

/// Returns an engine that asks for looks.
fn watched(tables: Vec<TableSpec>) -> Driven {
    let mut driven = Driven::new(tables);
    driven.engine.limits_mut().watch_ddl = true;
    driven
}

impl Driven {
    /// Takes out the tables for which a fence was reached.
    fn reached(&mut self) -> Vec<TableId> {
        self.take(|output| match output {
            Output::FenceReached { table, .. } => Some(*table),
            _ => None,
        })
    }

    fn has_given_up_a_read(&self) -> bool {
        self.outputs
            .iter()
            .any(|output| matches!(output, Output::GiveUpRead { .. }))
    }

    /// Takes out the looks that were asked for.
    fn looks(&mut self) -> Vec<u64> {
        self.take(|output| match output {
            Output::Look { look } => Some(*look),
            _ => None,
        })
    }

    /// Does every look that is asked for, and finds everything as it was.
    fn look(&mut self) {
        loop {
            let looks = self.looks();
            if looks.is_empty() {
                break;
            }
            for look in looks {
                self.handle(Input::Looked { look });
            }
        }
    }

    /// Connects, and reads and proves every table.
    fn live_and_looked(&mut self) {
        self.connect();
        while self
            .outputs
            .iter()
            .any(|output| matches!(output, Output::ReadTable { .. }))
        {
            self.finish_read("100:100:");
        }
        self.echo();
        self.look();
        assert_eq!(self.engine.state(), State::Live);
    }
}

// Rule::Look: the trigger may have been disabled after the look began.
#[test]
fn a_look_that_began_before_a_fence_was_asked_for_does_not_answer_it() {
    let mut driven = watched(vec![followed("users")]);
    driven.live_and_looked();
    driven.handle(Input::FenceWanted(FenceId(1)));
    let first = driven.looks();
    assert_eq!(first.len(), 1);
    driven.echo();
    // Another caller asks while the first look is on its way.
    driven.handle(Input::FenceWanted(FenceId(2)));
    driven.echo();
    assert!(driven.looks().is_empty(), "one at a time");
    assert!(!driven.is_reached(1));
    driven.handle(Input::Looked { look: first[0] });
    assert!(driven.is_reached(1) && !driven.is_reached(2));
    let second = driven.looks();
    driven.handle(Input::Looked { look: first[0] });
    assert!(
        !driven.is_reached(2),
        "an answer that comes twice answers nothing"
    );
    driven.handle(Input::Looked { look: second[0] });
    assert!(driven.is_reached(2));
}

#[test]
fn a_read_is_proven_by_a_fence_and_a_look() {
    let mut driven = watched(vec![followed("users")]);
    driven.connect();
    driven.finish_read("100:100:");
    driven.echo();
    assert_eq!(driven.engine.state(), State::CatchingUp);
    driven.look();
    assert_eq!(driven.engine.state(), State::Live);
}

// A look may fail for a while, for example because an operator is missing. Then nobody knows of
// DDL any more.
#[test]
fn three_looks_that_fail_end_live_until_one_is_done() {
    let mut driven = watched(vec![followed("users")]);
    driven.live_and_looked();
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.echo();
    for attempt in 1..=3 {
        assert_eq!(driven.engine.state(), State::Live, "attempt {attempt}");
        let look = driven.looks()[0];
        driven.handle(Input::LookFailed {
            look,
            why: "an operator is missing".into(),
        });
    }
    assert_eq!(driven.engine.state(), State::Stale);
    let cause = driven.engine.cause(TableId(0)).unwrap_or_default();
    assert!(
        cause.ends_with("cannot be looked at: an operator is missing"),
        "{cause}"
    );
    assert!(driven.looks().is_empty(), "the next heartbeat asks again");
    driven.pass(1000);
    driven.echo();
    driven.look();
    assert!(driven.engine.state() == State::Live && driven.is_reached(1));
}

#[test]
fn a_look_is_asked_for_anew_when_its_connection_is_lost() {
    let mut driven = watched(vec![followed("users")]);
    driven.live_and_looked();
    driven.handle(Input::FenceWanted(FenceId(1)));
    let lost = driven.looks()[0];
    driven.echo();
    driven.handle(Input::AuxConnectionLost {
        via: AuxConnection::Fences,
        why: "closed".into(),
    });
    driven.handle(Input::Looked { look: lost });
    driven.pass(1);
    driven.handle(Input::Reopened {
        via: AuxConnection::Fences,
    });
    driven.echo();
    assert!(
        !driven.is_reached(1),
        "the answer was of a connection that is gone"
    );
    driven.look();
    assert!(driven.is_reached(1));
}

fn orders() -> TableSpec {
    TableSpec {
        oid: 8,
        ..followed("orders")
    }
}

// Rule::Held.
#[test]
fn a_table_that_cannot_be_followed_leaves_the_others_live_and_is_read_anew() {
    let mut driven = watched(vec![followed("users"), orders()]);
    driven.live_and_looked();
    let users = TableId(0);
    let table = TableId(1);
    driven.handle(Input::TableHeld {
        table,
        why: "its trigger is disabled".into(),
    });
    assert_eq!(driven.engine.table_state(users), State::Live);
    assert_eq!(
        (driven.engine.state(), driven.engine.cause(table)),
        (State::Stale, Some("its trigger is disabled"))
    );
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.echo();
    driven.look();
    assert_eq!(driven.reached(), [users]);
    driven.notify(concat!(
        r#"{"table":"orders","action":"insert","id":1,"data":{"id":1},"schema":"app","rel":8,"#,
        r#""xid":"200"}"#
    ));
    assert_eq!(driven.applied(), "", "it is passed over");
    // New connections do not make a table that can be followed.
    driven.handle(Input::Lost("closed".into()));
    driven.pass(10);
    driven.connect();
    driven.finish_read("300:300:");
    driven.echo();
    driven.look();
    assert_eq!(
        (
            driven.engine.table_state(users),
            driven.engine.table_state(table)
        ),
        (State::Live, State::Stale)
    );
    driven.handle(Input::TableFollowed {
        table,
        followed: Box::new(orders()),
    });
    driven.finish_read("400:400:");
    driven.echo();
    driven.look();
    assert_eq!(driven.engine.state(), State::Live);
    assert!(driven.reached().contains(&table));
}

#[test]
fn what_is_underway_for_a_table_that_is_held_is_given_up() {
    let mut driven = watched(vec![followed("users")]);
    driven.connect();
    let (table, generation) = driven.read_asked().expect("a read");
    driven.handle(Input::TableHeld {
        table,
        why: "its definition is being read".into(),
    });
    assert!(driven.has_given_up_a_read());
    driven.handle(Input::SnapshotLoaded {
        table,
        generation,
        has_changed: true,
    });
    assert_eq!(driven.engine.table_state(table), State::Stale);
    driven.handle(Input::TableFollowed {
        table,
        followed: Box::new(followed("users")),
    });
    driven.handle(Input::SnapshotLoaded {
        table,
        generation,
        has_changed: true,
    });
    driven.echo();
    assert!(
        driven.engine.state() < State::CatchingUp,
        "the old read counts for nothing"
    );
    driven.finish_read("100:100:");
    driven.echo();
    driven.look();
    assert_eq!(driven.engine.state(), State::Live);
}

// A replica that an application relies on must be there when the cause is gone, whatever the cause.
#[test]
fn once_live_nothing_but_its_owner_ends_it() {
    let mut driven = watched(vec![followed("users")]);
    driven.live_and_looked();
    for _ in 0..10 {
        for (code, is_permanent) in [
            ("28P01", true),
            ("3D000", true),
            ("25006", true),
            ("XX000", false),
        ] {
            driven.handle(Input::Lost("closed".into()));
            driven.pass(10);
            driven.handle(Input::ConnectFailed {
                code: Some(code.to_string()),
                why: "no".into(),
                is_permanent,
            });
            driven.pass(10);
            assert!(!driven.engine.has_ended());
            driven.outputs.clear();
        }
    }
    driven.connect();
    for _ in 0..10 {
        let (table, work) = driven.read_asked().expect("it is tried again");
        driven.fail_read(table, work, Some("42501"), true);
        assert_eq!(
            (driven.engine.state(), driven.engine.cause(table)),
            (State::Stale, Some("no"))
        );
        driven.pass(10);
        driven.echo();
        driven.look();
        assert_eq!(
            driven.engine.state(),
            State::Stale,
            "while it is tried again"
        );
    }
    driven.finish_read("100:100:");
    driven.echo();
    driven.look();
    assert_eq!(
        (driven.engine.state(), driven.engine.cause(TableId(0))),
        (State::Live, None)
    );
}

// Whoever waits for the first answer must be told why there is none.
#[test]
fn a_read_that_is_cut_again_and_again_ends_what_was_never_live_with_the_count() {
    let mut driven = watched(vec![followed("users")]);
    driven.connect();
    for _ in 0..4 {
        assert!(driven.read_asked().is_some());
        driven.handle(Input::AuxConnectionLost {
            via: AuxConnection::Reads,
            why: "cut".into(),
        });
        driven.pass(10);
        driven.handle(Input::Reopened {
            via: AuxConnection::Reads,
        });
        driven.echo();
        driven.look();
        driven.pass(10);
        driven.echo();
    }
    driven.handle(Input::AuxConnectionLost {
        via: AuxConnection::Reads,
        why: "cut".into(),
    });
    let last = driven.outputs.iter().find_map(|output| match output {
        Output::Disconnected {
            failure,
            retry_in: None,
        } => Some(failure.to_string()),
        _ => None,
    });
    assert_eq!(
        last.as_deref(),
        Some("the connection was lost 5 times in a row while app.users was read: cut")
    );
}

/// Lets an insert arrive from the trigger of the relation `rel`, under the name `table`.
fn insert_as(driven: &mut Driven, table: &str, rel: u32, id: u32) {
    driven.notify(&format!(
        concat!(
            r#"{{"table":"{}","action":"insert","id":{},"data":{{"id":{}}},"schema":"app","#,
            r#""rel":{},"xid":"200"}}"#
        ),
        table, id, id, rel
    ));
}

// The functions of tables that were renamed or swapped go on with the old names.
#[test]
fn a_payload_is_of_the_table_that_sends_it_whatever_name_it_gives() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    insert_as(&mut driven, "users", 9, 1);
    insert_as(&mut driven, "people", 7, 2);
    assert_eq!(driven.applied(), "+2");
    assert_eq!(driven.engine.counters().other_tables, 1);
}

#[test]
fn the_lag_of_a_connection_that_is_gone_is_not_told_and_what_was_proven_is() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    let proven = driven.engine.proven_at();
    assert!(driven.engine.lag().is_some() && proven.is_some());
    driven.now += Duration::from_secs(1);
    driven.handle(Input::Lost("closed".into()));
    assert_eq!(
        (driven.engine.lag(), driven.engine.proven_at()),
        (None, proven)
    );
}

#[test]
fn a_table_that_is_followed_anew_gives_up_what_is_read_of_it() {
    let mut driven = watched(vec![followed("users")]);
    driven.live_and_looked();
    driven.handle(Input::VerifyWanted {
        table: TableId(0),
        question: 1,
    });
    assert!(
        driven
            .outputs
            .iter()
            .any(|output| matches!(output, Output::TakeCut { .. }))
    );
    driven.handle(Input::TableFollowed {
        table: TableId(0),
        followed: Box::new(followed("users")),
    });
    let ended = driven.outputs.iter().find_map(|output| match output {
        Output::ComparisonEnded {
            question: 1,
            inconclusive,
            ..
        } => inconclusive.clone(),
        _ => None,
    });
    assert_eq!(
        ended.as_deref(),
        Some("the table is followed anew"),
        "the question is answered"
    );
    let (_, first) = driven.read_asked().expect("it is read anew");
    // Once more, this time while the table is being read.
    driven.handle(Input::TableFollowed {
        table: TableId(0),
        followed: Box::new(followed("users")),
    });
    assert!(driven.has_given_up_a_read());
    let (_, second) = driven.read_asked().expect("it is read anew once more");
    assert!(second > first);
}

#[test]
fn a_table_on_another_channel_is_read_once_that_is_listened_to_and_the_others_stay_live() {
    let mut driven = watched(vec![followed("users"), followed("posts")]);
    driven.live_and_looked();
    driven.handle(Input::ChannelsChanged(vec!["c".into(), "d".into()]));
    driven.handle(Input::TableFollowed {
        table: TableId(1),
        followed: Box::new(followed("posts")),
    });
    assert!(
        driven
            .outputs
            .iter()
            .any(|output| matches!(output, Output::ListenAlso { channels } if channels == &["d"]))
    );
    assert!(
        driven.read_asked().is_none(),
        "what is announced there meanwhile would be missed"
    );
    assert_eq!(driven.engine.table_state(TableId(0)), State::Live);
    driven.handle(Input::ListensAlso);
    let (table, _) = driven.read_asked().expect("it is read");
    assert_eq!(table, TableId(1));
    // Nothing is to be done for a channel on which L listens already. A new channel that comes
    // while another LISTEN is on its way makes all connections be opened anew.
    driven.handle(Input::ChannelsChanged(vec!["c".into()]));
    driven.handle(Input::ChannelsChanged(vec![
        "c".into(),
        "d".into(),
        "e".into(),
    ]));
    driven.handle(Input::ChannelsChanged(vec!["c".into(), "f".into()]));
    assert_eq!(driven.engine.state(), State::Disconnected);
    driven.pass(60);
    let asked = driven.outputs.iter().rev().find_map(|output| match output {
        Output::Connect { channels } => Some(channels.clone()),
        _ => None,
    });
    assert_eq!(asked.expect("it connects again"), ["c", "f", FENCES]);
}
