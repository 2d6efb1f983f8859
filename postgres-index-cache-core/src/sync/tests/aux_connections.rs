//! F or Q lost alone: everything that the connection carried is asked for again.

use super::*;

impl Driven {
    fn lose(&mut self, via: AuxConnection) {
        self.handle(Input::AuxConnectionLost {
            via,
            why: "closed".into(),
        });
    }

    /// Lets a second pass. Returns whether the connection is to be opened again now.
    fn is_asked_to_reopen(&mut self, via: AuxConnection) -> bool {
        self.pass(1);
        let asked = self.take(|output| match output {
            Output::Reopen { via: asked } if *asked == via => Some(()),
            _ => None,
        });
        asked.len() == 1
    }
}

/// Returns an engine that is live and has just lost this connection.
fn live_without(via: AuxConnection) -> Driven {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.lose(via);
    assert_eq!(
        (driven.engine.state(), driven.engine.counters().gaps),
        (State::Live, 0)
    );
    driven
}

#[test]
fn rows_that_were_asked_for_are_asked_for_anew_once_the_new_session_is_proven() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.long_row(1, 101);
    let (lost, keys) = driven.refetch_asked().expect("a refetch");
    driven.lose(AuxConnection::Reads);
    driven.row("update", 1, 102, "");
    assert!(driven.is_asked_to_reopen(AuxConnection::Reads));
    driven.handle(Input::Reopened {
        via: AuxConnection::Reads,
    });
    // Rule::Probe: the new session may be another server's.
    assert_eq!(driven.refetch_asked(), None, "the token has not come");
    driven.echo();
    let (batch, again) = driven.refetch_asked().expect("the same rows");
    assert_eq!((again, batch != lost), (keys, true));
    // Rule::Generation.
    driven.answer(lost, "103:103:");
    assert_eq!(
        driven.applied(),
        "",
        "the answer of the old session counts for nothing"
    );
    driven.answer(batch, "102:102:");
    assert_eq!(
        driven.applied(),
        "= +1",
        "what the rows do not have comes after them"
    );
}

#[test]
fn fences_wait_for_the_new_session() {
    let mut driven = live_without(AuxConnection::Fences);
    driven.handle(Input::FenceWanted(FenceId(1)));
    assert_eq!(driven.tokens(), Vec::<String>::new(), "F is lost");
    assert!(driven.is_asked_to_reopen(AuxConnection::Fences));
    driven.handle(Input::Reopened {
        via: AuxConnection::Fences,
    });
    driven.echo();
    assert!(!driven.is_reached(1), "that was the probe");
    driven.echo();
    assert!(driven.is_reached(1));
}

// L may be deaf, or the new session may be on another server: nobody can tell which of the two.
#[test]
fn a_new_session_that_is_not_heard_makes_everything_be_opened_anew() {
    let mut driven = live_without(AuxConnection::Reads);
    assert!(driven.is_asked_to_reopen(AuxConnection::Reads));
    driven.handle(Input::Reopened {
        via: AuxConnection::Reads,
    });
    let probe = driven.tokens().pop().expect("a probe");
    driven.handle(Input::Sent {
        token: &probe,
        snapshot: None,
    });
    driven.pass(5);
    assert_eq!(driven.engine.state(), State::Disconnected);
    assert!(!driven.engine.has_ended());
}

// A proxy may accept each connection and end each long statement. A probe that passes must not make
// the next wait short.
#[test]
fn a_session_that_ends_each_read_is_opened_ever_more_rarely() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.ask_for_reload(TableId(0));
    let began = driven.now;
    for _ in 0..30 {
        assert!(driven.read_asked().is_some());
        driven.lose(AuxConnection::Reads);
        assert!((0..12).any(|_| driven.is_asked_to_reopen(AuxConnection::Reads)));
        driven.handle(Input::Reopened {
            via: AuxConnection::Reads,
        });
        driven.echo();
    }
    let waited = driven.now - began;
    assert!(
        waited > Duration::from_secs(60),
        "30 attempts took {waited:?}"
    );
}

/// Waits until F is to be opened again, and lets that fail with this code.
fn fails_to_open(driven: &mut Driven, code: Option<&str>, is_permanent: bool) {
    assert!(driven.is_asked_to_reopen(AuxConnection::Fences));
    let code = code.map(str::to_string);
    driven.handle(Input::ReopenFailed {
        via: AuxConnection::Fences,
        code,
        why: "no".into(),
        is_permanent,
    });
}

#[test]
fn a_session_that_cannot_be_had_is_tried_again_for_ever_once_it_was_live() {
    let mut driven = live_without(AuxConnection::Fences);
    for _ in 0..5 {
        for (code, is_permanent) in [(Some("XX000"), false), (None, false), (Some("28P01"), true)] {
            fails_to_open(&mut driven, code, is_permanent);
            driven.now += Duration::from_secs(10);
            assert_eq!(driven.engine.state(), State::Live, "{code:?}");
        }
    }
    assert!(!driven.engine.has_ended());
}

/// Returns an engine that was never live and has just lost F.
fn never_live() -> Driven {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.connect();
    driven.lose(AuxConnection::Fences);
    driven
}

#[test]
fn a_session_that_cannot_be_had_is_a_refusal_as_long_as_it_was_never_live() {
    let mut driven = never_live();
    for _ in 0..3 {
        assert!(!driven.engine.has_ended());
        fails_to_open(&mut driven, Some("XX000"), false);
    }
    assert!(driven.engine.has_ended(), "three times in a row");
    let mut refused = never_live();
    fails_to_open(&mut refused, Some("28P01"), true);
    assert!(refused.engine.has_ended());
}
