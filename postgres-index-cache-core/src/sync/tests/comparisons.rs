//! Comparisons with the table, driven by hand.

use super::*;

#[test]
fn a_comparison_counts_what_its_snapshot_sees_whatever_came_before() {
    let mut driven = Driven::new(vec![followed("users")]);
    driven.live();
    driven.handle(Input::VerifyWanted {
        table: TableId(0),
        question: 1,
    });
    let comparison = driven.outputs.iter().find_map(|output| match output {
        Output::TakeCut { comparison, .. } => Some(*comparison),
        _ => None,
    });
    let comparison = comparison.expect("a snapshot is asked for");
    // Forged: no transaction has got so far. Then one that the snapshot does not see, and two that
    // it does.
    driven.row("insert", 1, 1 << 40, "");
    driven.row("insert", 2, 105, "");
    driven.row("insert", 3, 104, "");
    driven.row("insert", 4, 106, "");
    assert_eq!(driven.applied(), "", "they are held");
    driven.handle(Input::CutTaken {
        table: TableId(0),
        comparison,
        snapshot: "105:107:105".parse().unwrap(),
    });
    driven.echo();
    assert_eq!(driven.applied(), "+3 +4");
    assert!(
        driven
            .outputs
            .iter()
            .any(|output| matches!(output, Output::Compare { .. }))
    );
    driven.handle(Input::Compared {
        table: TableId(0),
        comparison,
    });
    let ended = driven.outputs.iter().find_map(|output| match output {
        Output::ComparisonEnded {
            question: 1,
            inconclusive,
            ..
        } => Some(inconclusive.clone()),
        _ => None,
    });
    assert_eq!(ended, Some(None), "it counts");
    let applied = driven.applied();
    // They were kept by key, in no order.
    assert!(matches!(&*applied, "+1 +2" | "+2 +1"), "{applied}");
}
