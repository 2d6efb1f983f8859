//! Comparisons of a cache with its table: they count, or say why they do not.

use super::*;

impl Driven {
    /// Asks the question 1. Returns the number of the comparison that begins.
    fn begin_comparison(&mut self) -> u64 {
        self.handle(Input::VerifyWanted {
            table: TableId(0),
            question: 1,
        });
        let begun = self.take(|output| match output {
            Output::TakeCut { comparison, .. } => Some(*comparison),
            _ => None,
        });
        begun.first().copied().expect("a snapshot is asked for")
    }

    fn take_cut(&mut self, comparison: u64, snapshot: &str) {
        self.handle(Input::CutTaken {
            table: TableId(0),
            comparison,
            snapshot: snapshot.parse().unwrap(),
        });
    }

    /// Takes out the answers to question 1: each is why the comparison does not count.
    fn answers(&mut self) -> Vec<Option<String>> {
        self.take(|output| match output {
            Output::ComparisonEnded {
                question: 1,
                inconclusive,
                ..
            } => Some(inconclusive.clone()),
            _ => None,
        })
    }

    fn compares(&self) -> bool {
        self.outputs
            .iter()
            .any(|output| matches!(output, Output::Compare { .. }))
    }
}

// A forged xid of the future once hid every change behind it from the comparison.
#[test]
fn a_comparison_counts_what_its_snapshot_sees_whatever_came_before() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    let comparison = driven.begin_comparison();
    // Forged: no transaction has got so far. Then one that the snapshot does not see, and two that
    // it does.
    driven.row("insert", 1, 1 << 40, "");
    driven.row("insert", 2, 105, "");
    driven.row("insert", 3, 104, "");
    driven.row("insert", 4, 106, "");
    assert_eq!(driven.applied(), "", "they are held");
    driven.take_cut(comparison, "105:107:105");
    assert!(!driven.compares(), "the fence has not come back");
    driven.echo();
    assert_eq!(driven.applied(), "+3 +4");
    assert!(driven.compares());
    driven.handle(Input::Compared {
        table: TableId(0),
        comparison,
    });
    assert_eq!(driven.answers(), [None], "it counts");
    let applied = driven.applied();
    // They were kept by key, in no order.
    assert!(matches!(&*applied, "+1 +2" | "+2 +1"), "{applied}");
}

// Rows of a later moment would be called differences.
#[test]
fn rows_that_the_snapshot_needs_are_read_inside_its_transaction() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    let comparison = driven.begin_comparison();
    driven.long_row(1, 104);
    driven.take_cut(comparison, "105:105:");
    driven.echo();
    let refetches = driven.take(|output| match output {
        Output::Refetch {
            batch,
            is_within_comparison,
            ..
        } => Some((*batch, *is_within_comparison)),
        _ => None,
    });
    let [(batch, true)] = refetches[..] else {
        panic!("{refetches:?}")
    };
    assert!(!driven.compares());
    driven.answer(batch, "105:105:");
    assert_eq!(driven.applied(), "=");
    assert!(driven.compares());
}

#[test]
fn changes_in_the_plain_form_and_a_locked_cache_make_a_comparison_inconclusive() {
    let mut driven = Driven::new(vec![plain("app")]);
    driven.live();
    let comparison = driven.begin_comparison();
    driven.notify(r#"{"table":"users","action":"delete","id":1}"#);
    driven.take_cut(comparison, "105:105:");
    driven.echo();
    let why = "changes in the plain form came, which no snapshot can place";
    assert_eq!(driven.answers(), [Some(why.to_string())]);
    assert_eq!(driven.applied(), "-1", "the change is applied all the same");
    driven.begin_comparison();
    driven.handle(Input::CacheBusy { table: TableId(0) });
    let why = "the cache was locked by a reader";
    assert_eq!(driven.answers(), [Some(why.to_string())]);
}
