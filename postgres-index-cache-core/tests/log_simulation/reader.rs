//! [`Reader`]: a driver of [`Node`] on the model of the broker, with the reader's image.

use crate::broker::Broker;
use crate::rows::Rows;
use postgres_index_cache_core::tooling::log::{
    Entry, Node, NodeInput, NodeLimits, NodeOutput, Rule, Sequence,
};
use postgres_index_cache_core::tooling::sync::FenceId;
use std::time::{Duration, Instant};

/// How long a proof counts.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// Waits of a node, in steps of a run's clock.
const LIMITS: NodeLimits = NodeLimits {
    patience: PATIENCE,
    ask_timeout: Duration::from_millis(900),
};

/// The result of a reader's step.
#[derive(Debug, Default)]
pub struct Stepped {
    /// The questions that the node asks.
    pub asks: Vec<u64>,
    /// The fences that are reached.
    pub reached: Vec<FenceId>,
    /// The message that was handed in.
    pub message: Option<Entry>,
    /// Whether a read began.
    pub has_begun: bool,
    /// Whether a message was dropped.
    pub is_dropped: bool,
}

/// A node, or a relay that stands by.
#[derive(Debug)]
pub struct Reader {
    pub node: Node,
    pub rows: Rows,
    is_connected: bool,
    /// The read that the broker serves, and the next message of that read.
    read: u64,
    cursor: Option<Sequence>,
    /// A load that was asked for.
    load: Option<u64>,
    /// Whether a snapshot's end is looked at: see `Rule::SnapshotEnd`.
    looks_at_ends: bool,
}

impl Reader {
    pub fn new(is_standby: bool, without: &[Rule], seed: u64) -> Self {
        let mut node = if is_standby {
            Node::standing_by(LIMITS, seed)
        } else {
            Node::new(LIMITS, seed)
        };
        node.disable(without);
        Self {
            node,
            rows: Rows::default(),
            is_connected: false,
            read: 0,
            cursor: None,
            load: None,
            looks_at_ends: !without.contains(&Rule::SnapshotEnd),
        }
    }

    /// Loses the connection to the broker.
    pub fn disconnect(&mut self, now: Instant) {
        self.is_connected = false;
        self.cursor = None;
        self.load = None;
        self.node.handle(NodeInput::Disconnected, now);
    }

    /// Does one thing: connects, loads a snapshot, or takes a message or word of the log's end.
    pub fn step(&mut self, broker: &Broker, random: &mut fastrand::Rng, now: Instant) -> Stepped {
        let mut stepped = Stepped::default();
        if self.node.poll_timeout().is_some_and(|at| at <= now) {
            self.node.handle(NodeInput::TimePassed, now);
        }
        if !broker.is_up {
            if self.is_connected {
                self.disconnect(now);
            }
        } else if !self.is_connected {
            self.is_connected = true;
            self.node.handle(NodeInput::Connected, now);
        } else if let Some(load) = self.load.take() {
            self.load_snapshot(load, broker, random, now);
        } else if let Some(from) = self.cursor {
            self.read_on(from, broker, random, now, &mut stepped);
        }
        self.take_outputs(&mut stepped);
        stepped
    }

    fn load_snapshot(
        &mut self,
        load: u64,
        broker: &Broker,
        random: &mut fastrand::Rng,
        now: Instant,
    ) {
        let usable: Vec<_> = if self.looks_at_ends {
            broker.usable().collect()
        } else {
            let snapshots = broker.snapshots.iter();
            let begin_in_log = snapshots.filter(|snapshot| broker.stands(snapshot.place.start));
            begin_in_log.collect()
        };
        let snapshot = random.choice(usable).cloned();
        let place = snapshot.as_ref().map(|snapshot| snapshot.place);
        if let Some(snapshot) = snapshot {
            self.rows = snapshot.rows;
        }
        let input = NodeInput::Loaded {
            load,
            snapshot: place,
        };
        self.node.handle(input, now);
    }

    fn read_on(
        &mut self,
        from: Sequence,
        broker: &Broker,
        random: &mut fastrand::Rng,
        now: Instant,
        stepped: &mut Stepped,
    ) {
        let Some(message) = broker.message_from(from) else {
            let end = Some(broker.last).filter(|_| !broker.log.is_empty());
            let read = self.read;
            return self.node.handle(NodeInput::End { read, end }, now);
        };
        self.cursor = Some(message.sequence.next());
        // A message that is sent on may not arrive.
        if random.u8(0..30) == 0 {
            stepped.is_dropped = true;
            return;
        }
        stepped.message = Some(message.entry.clone());
        self.node.message(
            self.read,
            message.sequence,
            &message.entry,
            &mut self.rows,
            now,
        );
    }

    /// Hands in an answer to a question.
    pub fn answer(&mut self, input: NodeInput, now: Instant) -> Stepped {
        let mut stepped = Stepped::default();
        self.node.handle(input, now);
        self.take_outputs(&mut stepped);
        stepped
    }

    fn take_outputs(&mut self, stepped: &mut Stepped) {
        while let Some(output) = self.node.poll() {
            match output {
                NodeOutput::Load { load } => {
                    self.cursor = None;
                    self.load = Some(load);
                }
                NodeOutput::Read { read, from } => {
                    self.read = read;
                    self.cursor = Some(from);
                    stepped.has_begun = true;
                }
                NodeOutput::Ask { ask } => stepped.asks.push(ask),
                NodeOutput::FenceReached(fence) => stepped.reached.push(fence),
            }
        }
    }
}
