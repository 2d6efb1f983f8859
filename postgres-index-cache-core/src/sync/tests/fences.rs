//! Probes and fences, and the proofs that follow when they come back. The bookkeeping of fences has
//! tests of its own, in `sync/fences.rs`.

use super::*;
use std::ops::RangeFrom;

// Changes that the read's snapshot filters may still come behind such a fence.
#[test]
fn a_fence_sent_before_the_read_does_not_prove_it() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.connect();
    driven.handle(Input::FenceWanted(FenceId(1)));
    let early = driven.tokens();
    driven.finish_read("100:100:");
    driven.receive(&early[0]);
    assert_eq!(driven.engine.state(), State::CatchingUp);
    assert!(!driven.is_reached(1));
    driven.echo();
    assert_eq!(driven.engine.state(), State::Live);
    assert!(driven.is_reached(1));
}

// Rule::Open.
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
    // Both come behind the snapshot. The row of the second one must be read again.
    driven.row("update", 1, 150, r#","truncated":true"#);
    driven.long_row(2, 151);
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
    // Later a row may be open for a moment, and not for a heartbeat.
    driven.long_row(3, 201);
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
    driven.pass(20);
    driven.connect();
    driven.finish_read("200:200:");
    let tokens = driven.tokens();
    assert_eq!(
        tokens.len(),
        2,
        "one that proves the read, and one that was asked for"
    );
    for token in &tokens {
        driven.receive(token);
    }
    assert!(driven.is_reached(1000), "one fence for all callers");
    // The same while one is on its way to the server: blocked commits hold up one, and not one
    // after another.
    driven.handle(Input::FenceWanted(FenceId(1001)));
    let first = driven.tokens();
    for id in 1002..=1010 {
        driven.handle(Input::FenceWanted(FenceId(id)));
    }
    assert_eq!((first.len(), driven.tokens().len()), (1, 0));
    driven.handle(Input::Sent {
        token: &first[0],
        snapshot: None,
    });
    assert_eq!(driven.tokens().len(), 1);
}

/// Lets `count` rows arrive that must be read again, each with the next id.
fn long_rows(driven: &mut Driven, ids: &mut RangeFrom<u32>, count: usize) {
    for id in ids.take(count) {
        driven.long_row(id, 1000 + u64::from(id));
    }
}

// With as many rows as come, a fence that waited for all of them would never be reached.
#[test]
fn a_fence_waits_for_the_rows_before_it_and_not_for_those_that_come_without_end() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.engine.limits_mut().waiting_bytes = 1 << 30;
    driven.live();
    let mut ids = 1..;
    long_rows(&mut driven, &mut ids, 3500);
    driven.handle(Input::FenceWanted(FenceId(1)));
    driven.echo();
    let mut batches = 0;
    while !driven.is_reached(1) {
        batches += 1;
        assert!(batches < 10, "rows that come later do not count");
        long_rows(&mut driven, &mut ids, 900);
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
    driven.receive(&probes[0]);
    driven.handle(Input::Sent {
        token: &probes[1],
        snapshot: None,
    });
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
    driven.pass(6);
    driven.handle(Input::SendBlocked { token: &probes[1] });
    assert_eq!(driven.tokens(), [probes[1].clone()]);
    // The other probe is never sent, so nobody knows whether L would hear it.
    driven.pass(5);
    assert_eq!(driven.engine.state(), State::Disconnected);
    assert!(!driven.engine.has_ended(), "{:?}", driven.outputs);
}

#[test]
fn a_heartbeat_that_is_missed_is_a_gap_and_blocked_commits_are_none() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.pass(1000);
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
    driven.handle(Input::Sent {
        token: &token,
        snapshot: None,
    });
    driven.pass(4);
    assert_eq!(
        driven.engine.state(),
        State::Live,
        "the time runs from the commit of the NOTIFY"
    );
    driven.pass(1);
    assert_eq!(driven.engine.state(), State::Disconnected);
}
