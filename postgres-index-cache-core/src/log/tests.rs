//! Cases of the log that a reader wants to see one by one. `tests/log_simulation` has the rest.

use super::*;
use crate::digest::RangeSum;
use crate::sync::FenceId;
use std::time::{Duration, Instant};

const NODE: NodeLimits = NodeLimits {
    patience: Duration::from_secs(5),
    ask_timeout: Duration::from_secs(2),
};

const WRITER: WriterLimits = WriterLimits {
    answer_timeout: Duration::from_secs(5),
    most_unanswered: 400,
    kept: 1000,
    most_deferred: 200,
    longest_entry: 1 << 20,
};

fn users() -> TableName {
    TableName {
        schema: "app".to_string(),
        name: "users".to_string(),
    }
}

fn upsert(id: u32) -> RowChanges {
    let id = id.to_string();
    let row = JsonRow {
        data: format!(r#"{{"id":{id}}}"#),
        nulls: Vec::new(),
    };
    RowChanges {
        table: users(),
        ops: vec![RowOp::Upsert { id, row }],
    }
}

/// A proof that says nothing of any table.
fn proof() -> Proof {
    Proof::default()
}

/// Answers each append as an engine does that stores everything, up to the first output that is no
/// append. Adds the messages to the log, and returns that output.
fn store(writer: &mut Writer, log: &mut Vec<Message>, now: Instant) -> Option<WriterOutput> {
    loop {
        let output = writer.poll()?;
        let WriterOutput::Append { round, entry } = output else {
            return Some(output);
        };
        let last = log.last().map_or(Sequence(0), |message| message.sequence);
        let sequence = last.next();
        let place = Place {
            sequence,
            position: entry.position,
        };
        writer.handle(WriterInput::Stored { round, place }, now);
        log.push(Message { sequence, entry });
    }
}

/// A writer, the log that it writes, and the place of a snapshot that all can load.
struct Written {
    writer: Writer,
    log: Vec<Message>,
    snapshot: SnapshotPlace,
}

/// Returns a writer whose term has a snapshot.
fn followed_writer(now: Instant) -> Written {
    writer_within(WRITER, now)
}

/// Returns a writer with these bounds whose term has a snapshot.
fn writer_within(limits: WriterLimits, now: Instant) -> Written {
    let mut writer = Writer::start_anew("relay", None, limits, 7, now);
    let mut log = Vec::new();
    assert_eq!(store(&mut writer, &mut log, now), None);
    assert!(writer.start_snapshot());
    writer.end_snapshot();
    let Some(WriterOutput::PutSnapshot(snapshot)) = writer.poll() else {
        panic!("nothing was published meanwhile, so the snapshot has its place");
    };
    writer.handle(WriterInput::SnapshotPut(snapshot), now);
    Written {
        writer,
        log,
        snapshot,
    }
}

/// Returns what a log says if the first of the places is the log's first message.
fn whole(log: &[Message]) -> Recovered {
    Recovered {
        messages: log.to_vec(),
        end: log.last().map(|message| message.entry.position),
    }
}

/// A node that reads, and the numbers of its read and its question.
struct ReadingNode {
    node: Node,
    read: u64,
    ask: u64,
}

/// Returns a node that has loaded this snapshot and reads.
fn reading_node(snapshot: SnapshotPlace, now: Instant) -> ReadingNode {
    let mut node = Node::new(NODE, 7);
    node.handle(NodeInput::Connected, now);
    let Some(NodeOutput::Load { load }) = node.poll() else {
        panic!("a node without rows loads a snapshot");
    };
    let input = NodeInput::Loaded {
        load,
        snapshot: Some(snapshot),
    };
    node.handle(input, now);
    let Some(NodeOutput::Read { read, from }) = node.poll() else {
        panic!("a node reads from its snapshot on");
    };
    assert_eq!(from, snapshot.start.sequence);
    let Some(NodeOutput::Ask { ask }) = node.poll() else {
        panic!("a node asks for a fence of its own");
    };
    ReadingNode { node, read, ask }
}

fn hand_in(node: &mut Node, read: u64, messages: &[Message], now: Instant) {
    for Message { sequence, entry } in messages {
        node.message(read, *sequence, entry, &mut NoImage, now);
    }
}

#[test]
fn a_node_is_live_behind_a_fence_of_its_own_and_as_long_as_proofs_come() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    let ReadingNode {
        mut node,
        read,
        ask,
    } = reading_node(snapshot, now);
    writer.publish(upsert(1), now);
    let position = writer.prove(proof(), now);
    store(&mut writer, &mut log, now);
    hand_in(&mut node, read, &log, now);
    assert!(!node.is_live(now), "a proof that was found proves nothing");
    node.handle(NodeInput::FenceWanted(FenceId(1)), now);
    node.handle(NodeInput::Answered { ask, position }, now);
    assert!(node.is_live(now));
    // The fence was wanted after the question: it has one of its own.
    let Some(NodeOutput::Ask { ask }) = node.poll() else {
        panic!("the fence is asked for");
    };
    let position = writer.prove(proof(), now);
    let seen = log.len();
    store(&mut writer, &mut log, now);
    hand_in(&mut node, read, &log[seen..], now);
    node.handle(NodeInput::Answered { ask, position }, now);
    assert_eq!(node.poll(), Some(NodeOutput::FenceReached(FenceId(1))));
    let late = now + NODE.patience;
    assert!(!node.is_live(late), "no proof has come for too long");
}

// A process that was stopped finds old messages in its buffers before it looks at the clock.
#[test]
fn a_proof_that_waited_in_a_buffer_makes_nothing_live() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    let ReadingNode {
        mut node,
        read,
        ask,
    } = reading_node(snapshot, now);
    let position = writer.prove(proof(), now);
    store(&mut writer, &mut log, now);
    hand_in(&mut node, read, &log, now);
    node.handle(NodeInput::Answered { ask, position }, now);
    assert!(node.is_live(now));
    writer.prove(proof(), now);
    let seen = log.len();
    store(&mut writer, &mut log, now);
    let an_hour_later = now + Duration::from_secs(3600);
    hand_in(&mut node, read, &log[seen..], an_hour_later);
    assert!(!node.is_live(an_hour_later));
    assert!(matches!(node.poll(), Some(NodeOutput::Ask { .. })));
}

#[test]
fn rows_that_change_while_the_engine_is_away_are_published_behind_stale() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        ..
    } = followed_writer(now);
    writer.handle(WriterInput::Disconnected, now);
    for id in 1..=6 {
        writer.publish(upsert(id), now);
    }
    assert_eq!(writer.counters().deferred, 1);
    assert_eq!(writer.prove(proof(), now), None, "the log lacks the rows");
    let Some(WriterOutput::Recover { round, .. }) = writer.poll() else {
        panic!("the log is read first");
    };
    let found = whole(&log);
    writer.handle(WriterInput::Recovered { round, found }, now);
    // What was kept is published first. Then there is room for `stale`, and for the deferred rows.
    let Some(WriterOutput::PublishDeferred(keys)) = store(&mut writer, &mut log, now) else {
        panic!("the deferred rows are asked for");
    };
    let last = log.last().map(|message| &message.entry.body);
    assert!(matches!(last, Some(Body::Stale { .. })), "{last:?}");
    assert_eq!(writer.counters().resets, 0);
    let keys: Vec<&String> = keys.tables().flat_map(|(_, keys)| keys).collect();
    assert!(keys.contains(&&"6".to_string()), "{keys:?}");
    assert_eq!(writer.prove(proof(), now), None, "nothing is published yet");
    writer.deferred_are_published();
    assert!(writer.prove(proof(), now).is_some());
}

#[test]
fn more_changes_than_keys_can_say_begin_the_log_anew() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        ..
    } = followed_writer(now);
    let term = writer.position().epoch;
    writer.handle(WriterInput::Disconnected, now);
    for id in 1..=100 {
        writer.publish(upsert(id), now);
    }
    let Some(WriterOutput::Recover { round, .. }) = writer.poll() else {
        panic!("the log is read first");
    };
    let found = whole(&log);
    writer.handle(WriterInput::Recovered { round, found }, now);
    assert_eq!(store(&mut writer, &mut log, now), None);
    let begin = log.last().map(|message| &message.entry.body);
    assert!(
        matches!(begin, Some(Body::Begin { after: None, .. })),
        "{begin:?}"
    );
    assert!(writer.position().epoch.number > term.number);
    assert!(writer.wants_snapshot(), "nobody can follow without one");
    writer.publish(upsert(1), now);
    assert_eq!(writer.poll(), None, "the snapshot will have the row");
}

#[test]
fn a_writer_that_finds_another_s_term_steps_down() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    let base = Base {
        position: writer.position(),
        seen: snapshot.end,
    };
    let mut other = Writer::lead("another", base, WRITER, 8, now);
    assert_eq!(store(&mut other, &mut log, now), None);
    writer.publish(upsert(1), now);
    let Some(WriterOutput::Append { round, .. }) = writer.poll() else {
        panic!("the row is appended");
    };
    writer.handle(WriterInput::Refused { round }, now);
    let Some(WriterOutput::Recover { round, .. }) = writer.poll() else {
        panic!("the log tells why");
    };
    let found = whole(&log);
    writer.handle(WriterInput::Recovered { round, found }, now);
    assert_eq!(writer.poll(), Some(WriterOutput::StepDown));
    assert!(writer.is_over());
}

#[test]
fn a_proof_of_other_rows_makes_a_reader_load_a_snapshot() {
    /// An image without a row.
    struct Empty;
    impl Image for Empty {
        fn apply(&mut self, _: &RowChanges) {}
        fn is_as(&mut self, proof: &Proof) -> bool {
            proof.tables.iter().all(|proof| proof.rows.rows == 0)
        }
    }
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    let ReadingNode { mut node, read, .. } = reading_node(snapshot, now);
    let rows = RangeSum { rows: 1, sum: 1 };
    let tables = vec![TableProof {
        table: users(),
        rows,
    }];
    let proof = Proof {
        tables,
        asked_at: None,
    };
    writer.prove(proof, now);
    store(&mut writer, &mut log, now);
    for Message { sequence, entry } in &log {
        node.message(read, *sequence, entry, &mut Empty, now);
    }
    assert_eq!(node.counters().differing, 1);
    assert!(matches!(node.poll(), Some(NodeOutput::Load { .. })));
}

// 1. An engine has lost a message in the middle of its log.
// 2. The next one does not follow, however often the log is read again.
#[test]
fn a_message_that_never_comes_makes_a_reader_load_a_snapshot() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    for _ in 0..3 {
        writer.prove(proof(), now);
    }
    store(&mut writer, &mut log, now);
    log.remove(2);
    let ReadingNode { mut node, read, .. } = reading_node(snapshot, now);
    hand_in(&mut node, read, &log, now);
    let mut reads = 1;
    loop {
        match node.poll() {
            Some(NodeOutput::Read { read, .. }) => {
                reads += 1;
                hand_in(&mut node, read, &log[1..], now);
            }
            Some(NodeOutput::Ask { .. }) => {}
            Some(NodeOutput::Load { .. }) => break,
            output => panic!("{output:?} after {reads} reads"),
        }
    }
    assert_eq!((reads, node.counters().holes), (5, 5));
}

// To ask anew would put the answer further behind.
#[test]
fn a_reader_that_is_behind_waits_for_the_answer_as_long_as_it_gets_nearer() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    for id in 1..=4 {
        writer.publish(upsert(id), now);
        store(&mut writer, &mut log, now);
    }
    let position = writer.prove(proof(), now);
    store(&mut writer, &mut log, now);
    let ReadingNode {
        mut node,
        read,
        ask,
    } = reading_node(snapshot, now);
    node.handle(NodeInput::Answered { ask, position }, now);
    let mut at = now;
    for message in &log {
        at += NODE.ask_timeout / 2;
        hand_in(&mut node, read, std::slice::from_ref(message), at);
        node.handle(NodeInput::TimePassed, at);
        assert_eq!(node.poll(), None, "nothing is asked anew");
    }
    assert!(node.is_live(at));
}

#[test]
fn a_snapshot_of_an_earlier_term_that_is_put_late_does_not_count() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    writer.handle(WriterInput::Disconnected, now);
    let Some(WriterOutput::Recover { round, .. }) = writer.poll() else {
        panic!("the log is read first");
    };
    log.clear();
    let found = whole(&log);
    writer.handle(WriterInput::Recovered { round, found }, now);
    assert_eq!(store(&mut writer, &mut log, now), None);
    writer.handle(WriterInput::SnapshotPut(snapshot), now);
    assert!(writer.wants_snapshot(), "the new term has none");
}

// Nodes ask again and again while the engine is away.
#[test]
fn proofs_are_not_kept_while_the_engine_is_away() {
    let now = Instant::now();
    let Written { mut writer, .. } = followed_writer(now);
    let before = writer.position();
    writer.handle(WriterInput::Disconnected, now);
    assert_eq!(writer.prove(proof(), now), None);
    for _ in 0..3 {
        writer.stale("the session was lost", now);
    }
    assert_eq!(writer.position().number, before.number + 1);
}

// 1. A relay answers with the position of a proof before its term is stored, and dies.
// 2. Another begins a term of the same number. That proof never comes.
#[test]
fn an_answer_of_a_term_that_was_never_stored_is_not_waited_for() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    let base = Base {
        position: writer.position(),
        seen: snapshot.end,
    };
    let mut dead = Writer::lead("dead", base, WRITER, 8, now);
    let position = dead.prove(proof(), now);
    let mut other = Writer::lead("another", base, WRITER, 9, now);
    for id in 1..=4 {
        other.publish(upsert(id), now);
        store(&mut other, &mut log, now);
    }
    assert_eq!(writer.poll(), None);
    let ReadingNode {
        mut node,
        read,
        ask,
    } = reading_node(snapshot, now);
    node.handle(NodeInput::Answered { ask, position }, now);
    let mut at = now;
    for message in &log {
        at += NODE.ask_timeout / 2;
        hand_in(&mut node, read, std::slice::from_ref(message), at);
        node.handle(NodeInput::TimePassed, at);
    }
    assert!(matches!(node.poll(), Some(NodeOutput::Ask { .. })));
}

// 1. A reader has loaded a snapshot, and has not reached its end.
// 2. The engine loses that end, and nobody writes.
#[test]
fn a_reader_whose_snapshot_has_lost_its_end_loads_another() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    for _ in 0..2 {
        writer.prove(proof(), now);
        store(&mut writer, &mut log, now);
    }
    let place = |message: &Message| Place {
        sequence: message.sequence,
        position: message.entry.position,
    };
    let snapshot = SnapshotPlace {
        start: snapshot.start,
        end: place(&log[2]),
    };
    let ReadingNode { mut node, read, .. } = reading_node(snapshot, now);
    hand_in(&mut node, read, &log[..2], now);
    let end = Some(log[1].sequence);
    node.handle(NodeInput::End { read, end }, now);
    assert!(matches!(node.poll(), Some(NodeOutput::Load { .. })));
}

// 1. A driver asks for the log's end, and a message comes before the answer.
// 2. The answer says that the log ends before a message that was seen.
#[test]
fn word_of_an_end_that_a_message_has_overtaken_costs_nothing() {
    let now = Instant::now();
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = followed_writer(now);
    let ReadingNode {
        mut node,
        read,
        ask,
    } = reading_node(snapshot, now);
    let position = writer.prove(proof(), now);
    store(&mut writer, &mut log, now);
    hand_in(&mut node, read, &log, now);
    node.handle(NodeInput::Answered { ask, position }, now);
    let end = Some(log[0].sequence);
    node.handle(NodeInput::End { read, end }, now);
    assert!(node.is_live(now));
    // Said again with nothing in between, the log has lost the message.
    node.handle(NodeInput::End { read, end }, now);
    assert!(!node.is_live(now));
}

/// An image that keeps what was applied.
#[derive(Debug, Default)]
struct Applied(Vec<RowChanges>);

impl Image for Applied {
    fn apply(&mut self, changes: &RowChanges) {
        self.0.push(changes.clone());
    }

    fn is_as(&mut self, _: &Proof) -> bool {
        true
    }
}

/// Changes with quotes, which take twice their bytes in a text, and characters of several bytes.
fn long_changes() -> RowChanges {
    let data = format!(r#"{{"id":1,"t":"{}"}}"#, "é\\\"€𝄞".repeat(40));
    let row = JsonRow {
        data,
        nulls: vec!["größe \"x\"".to_string()],
    };
    RowChanges {
        table: users(),
        ops: vec![RowOp::Upsert {
            id: "1".to_string(),
            row,
        }],
    }
}

/// Returns a log with a snapshot at its start, and changes in parts of at most `longest` bytes
/// between two short ones.
fn log_with_parts(longest: usize) -> (Vec<Message>, SnapshotPlace) {
    let now = Instant::now();
    let limits = WriterLimits {
        most_unanswered: 1 << 20,
        longest_entry: longest,
        ..WRITER
    };
    let Written {
        mut writer,
        mut log,
        snapshot,
    } = writer_within(limits, now);
    for changes in [upsert(7), long_changes(), upsert(8)] {
        writer.publish(changes, now);
    }
    assert_eq!(store(&mut writer, &mut log, now), None);
    (log, snapshot)
}

fn is_part(message: &Message) -> bool {
    matches!(message.entry.body, Body::Part(_))
}

#[test]
fn changes_that_are_too_long_for_one_entry_are_taken_when_their_last_part_is_there() {
    for longest in [1, 30, 200, 500] {
        let (log, snapshot) = log_with_parts(longest);
        let mut follower = Follower::of_snapshot(&snapshot);
        let mut image = Applied::default();
        for message in &log {
            // Each reader has the entry as it was sent.
            let json = message.entry.to_json().expect("JSON");
            if let Body::Part(part) = &message.entry.body {
                assert!(json.len() <= longest.max(8) + 300, "{json}");
                // The short changes are in one entry each where that is allowed.
                assert!(longest < 200 || image.0.len() == 1);
                assert!(part.number < part.count);
            }
            let entry = Entry::from_json(&json).expect("an entry");
            assert_ne!(
                follower.take(message.sequence, &entry, &mut image),
                Took::Lost
            );
        }
        let parts = log.iter().filter(|message| is_part(message)).count();
        assert!(parts > 2, "{parts}");
        assert_eq!(image.0, [upsert(7), long_changes(), upsert(8)]);
    }
}

#[test]
fn a_snapshot_that_was_begun_between_two_parts_has_the_changes() {
    let (log, _) = log_with_parts(500);
    let first = log.iter().position(is_part).expect("a part");
    let start = Place {
        sequence: log[first].sequence,
        position: log[first].entry.position,
    };
    let end = log.last().map(|last| Place {
        sequence: last.sequence,
        position: last.entry.position,
    });
    let place = SnapshotPlace {
        start,
        end: end.expect("an entry"),
    };
    let mut follower = Follower::of_snapshot(&place);
    let mut image = Applied::default();
    for message in &log[first..] {
        let took = follower.take(message.sequence, &message.entry, &mut image);
        assert!(matches!(took, Took::Applied | Took::Ignored), "{took:?}");
    }
    assert!(follower.is_exact());
    assert_eq!(image.0, [upsert(8)]);
}

#[test]
fn changes_whose_last_part_never_came_are_nobodys() {
    let now = Instant::now();
    let (mut log, snapshot) = log_with_parts(500);
    let last = log.iter().rposition(is_part).expect("a part");
    log.truncate(last);
    let end = log.last().expect("an entry");
    let base = Base {
        position: end.entry.position,
        seen: Place {
            sequence: end.sequence,
            position: end.entry.position,
        },
    };
    let mut next = Writer::lead("other", base, WRITER, 8, now);
    next.publish(upsert(9), now);
    assert_eq!(store(&mut next, &mut log, now), None);
    let mut follower = Follower::of_snapshot(&snapshot);
    let mut image = Applied::default();
    for message in &log {
        let took = follower.take(message.sequence, &message.entry, &mut image);
        assert!(matches!(took, Took::Applied | Took::Ignored), "{took:?}");
    }
    assert_eq!(image.0, [upsert(7), upsert(9)]);
}

#[test]
fn parts_that_are_no_changes_make_a_reader_load_a_snapshot() {
    let (mut log, snapshot) = log_with_parts(500);
    let last = log.iter().rposition(is_part).expect("a part");
    if let Body::Part(part) = &mut log[last].entry.body {
        part.text.push(']');
    }
    let mut follower = Follower::of_snapshot(&snapshot);
    let taken: Vec<Took> = log
        .iter()
        .map(|message| follower.take(message.sequence, &message.entry, &mut NoImage))
        .collect();
    assert_eq!(taken[last], Took::Lost);
    assert_eq!(follower.position(), None);
}
