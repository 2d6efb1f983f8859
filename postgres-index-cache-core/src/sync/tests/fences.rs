//! Probes, fences and what they prove.

use super::*;

#[test]
fn a_fence_sent_before_the_read_does_not_prove_it() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.connect();
    driven.handle(Input::FenceWanted(FenceId(1)));
    let early = driven.tokens();
    driven.finish_read("100:100:");
    driven.handle(Input::Notification {
        channel: FENCES,
        payload: &early[0],
        sender: 1,
    });
    assert_eq!(driven.engine.state(), State::CatchingUp);
    assert!(
        !driven
            .outputs
            .iter()
            .any(|output| matches!(output, Output::FenceReached { .. }))
    );
    driven.echo();
    assert_eq!(driven.engine.state(), State::Live);
    assert!(driven.outputs.iter().any(|output| matches!(
        output,
        Output::FenceReached {
            fence: FenceId(1),
            ..
        }
    )));
}

#[test]
fn it_is_not_live_while_a_row_is_open_that_came_before_the_proof_or_long_ago() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.engine.limits_mut().heartbeat = Duration::from_secs(2);
    driven.connect();
    let (table, generation) = driven.read_asked().expect("a read was asked for");
    driven.handle(Input::SnapshotTaken {
        table,
        generation,
        snapshot: "100:100:".parse().unwrap(),
    });
    // It comes behind the snapshot, and its row must be read again.
    driven.row("update", 1, 150, r#","truncated":true"#);
    driven.notify(r#"{"table":"users","action":"update","id":2,"schema":"app","rel":7,"xid":"151","truncated":true}"#);
    driven.handle(Input::SnapshotLoaded {
        table,
        generation,
        has_changed: true,
    });
    let (batch, _) = driven.refetch_asked().expect("rows are read again");
    driven.echo();
    assert_eq!(
        driven.engine.state(),
        State::CatchingUp,
        "the fence has come, and the row has not"
    );
    driven.answer(batch, "200:200:");
    assert_eq!(driven.engine.state(), State::Live);
    // Later a row may be open for a moment, and no longer.
    driven.notify(r#"{"table":"users","action":"update","id":3,"schema":"app","rel":7,"xid":"201","truncated":true}"#);
    let (batch, _) = driven.refetch_asked().expect("a row is read again");
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.echo();
    assert_eq!(
        (driven.engine.state(), driven.is_reached(1)),
        (State::Live, false)
    );
    driven.now = driven.engine.poll_timeout().expect("it looks at it again");
    driven.handle(Input::TimePassed);
    assert_eq!(
        driven.engine.state(),
        State::CatchingUp,
        "it takes too long"
    );
    driven.answer(batch, "300:300:");
    assert_eq!(
        (driven.engine.state(), driven.is_reached(1)),
        (State::Live, true)
    );
}

#[test]
fn fences_that_are_asked_for_meanwhile_are_sent_as_one() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.handle(Input::Lost("closed".into()));
    for id in 1..=1000 {
        driven.handle(Input::FenceWanted(FenceId(id)));
    }
    driven.now += Duration::from_secs(20);
    driven.handle(Input::TimePassed);
    driven.connect();
    driven.finish_read("200:200:");
    let tokens = driven.tokens();
    assert_eq!(
        tokens.len(),
        2,
        "one that proves the read, and one that was asked for"
    );
    for token in &tokens {
        driven.handle(Input::Notification {
            channel: FENCES,
            payload: token,
            sender: 1,
        });
    }
    assert!(driven.is_reached(1000), "it is one for all before it");
    // The same while one is on its way to the server: blocked commits hold up one, and not one
    // after another.
    driven.handle(Input::FenceWanted(FenceId(1001)));
    let first = driven.tokens();
    for id in 1002..=1010 {
        driven.handle(Input::FenceWanted(FenceId(id)));
    }
    assert_eq!((first.len(), driven.tokens().len()), (1, 0));
    driven.handle(Input::Sent { token: &first[0] });
    assert_eq!(driven.tokens().len(), 1);
}

#[test]
fn a_fence_waits_for_the_rows_before_it_and_not_for_those_that_come_without_end() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.engine.limits_mut().waiting_bytes = 1 << 30;
    driven.live();
    let mut next = 0;
    let mut arrive = |driven: &mut Driven, count: u32| {
        for _ in 0..count {
            next += 1;
            let xid = 1000 + next;
            driven.notify(&format!(
                r#"{{"table":"users","action":"update","id":{next},"schema":"app","rel":7,"xid":"{xid}","truncated":true}}"#
            ));
        }
    };
    arrive(&mut driven, 3500);
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.echo();
    let mut batches = 0;
    while !driven.is_reached(1) {
        batches += 1;
        assert!(batches < 10, "what comes later does not count");
        arrive(&mut driven, 900);
        let (batch, _) = driven.refetch_asked().expect("rows are read again");
        driven.answer(batch, "9000:9000:");
    }
    assert_eq!(batches, 5, "1, and 3499 in batches of 1000");
}

#[test]
fn a_probe_that_does_not_come_back_names_the_connection() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::Listening);
    let probes = driven.tokens();
    driven.handle(Input::Notification {
        channel: FENCES,
        payload: &probes[0],
        sender: 1,
    });
    driven.handle(Input::Sent { token: &probes[1] });
    driven.now = driven.engine.poll_timeout().expect("a deadline");
    driven.handle(Input::TimePassed);
    let failed = driven.outputs.iter().any(|output| {
        matches!(
            output,
            Output::Disconnected {
                failure: Failure::ProbeLost {
                    via: AuxConnection::Reads,
                    ..
                },
                retry_in: None
            }
        )
    });
    assert!(
        failed && driven.engine.state() == State::Disconnected,
        "{:?}",
        driven.outputs
    );
}

#[test]
fn a_probe_that_blocked_commits_hold_up_is_no_sign_of_a_pooler() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.handle(Input::Listening);
    let probes = driven.tokens();
    // The server gives up a NOTIFY after about the time that a probe may take.
    driven.now += Duration::from_secs(6);
    driven.handle(Input::TimePassed);
    driven.handle(Input::SendBlocked { token: &probes[1] });
    assert_eq!(driven.tokens(), [probes[1].clone()]);
    // The other one is never sent: whether it would be heard is not known.
    driven.now += Duration::from_secs(5);
    driven.handle(Input::TimePassed);
    assert_eq!(driven.engine.state(), State::Disconnected);
    assert!(!driven.engine.has_ended(), "{:?}", driven.outputs);
}

#[test]
fn a_heartbeat_that_is_missed_is_a_gap_and_blocked_commits_are_none() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.now += Duration::from_secs(1000);
    driven.handle(Input::TimePassed);
    let token = driven.tokens().pop().expect("a heartbeat");
    for _ in 0..10 {
        driven.now += Duration::from_secs(4);
        driven.handle(Input::SendBlocked { token: &token });
        assert!(
            driven
                .outputs
                .iter()
                .any(|output| matches!(output, Output::CommitsBlocked))
        );
        driven
            .outputs
            .retain(|output| matches!(output, Output::Notify { .. }));
        assert_eq!(
            (driven.tokens(), driven.engine.state()),
            (vec![token.clone()], State::Live)
        );
    }
    driven.now += Duration::from_secs(4);
    driven.handle(Input::Sent { token: &token });
    driven.now += Duration::from_secs(4);
    driven.handle(Input::TimePassed);
    assert_eq!(
        driven.engine.state(),
        State::Live,
        "its clock runs from when the server has it"
    );
    driven.now += Duration::from_secs(1);
    driven.handle(Input::TimePassed);
    assert_eq!(driven.engine.state(), State::Disconnected);
}
