//! The steps of a node: what NATS has sent is waited for, and handed to the node once the caches are
//! flushed.

use super::tasks::{LoadEvent, StoredEvent, load, read_stored};
use super::{ASK_TIMEOUT, End, Follow, FollowEvent, Loading, PATIENCE, Reading, WAITING};
use crate::log::{Body, NodeInput, NodeOutput, Position, Proof, Sequence};
use crate::nats::error::LogError;
use crate::nats::stream::{NatsLog, StoredMessage};
use futures_util::StreamExt as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// The silence behind which the log's end is looked at.
const QUIET: Duration = Duration::from_secs(2);

/// The time between two looks whether the connection is another one.
const CONNECTION_LOOK: Duration = Duration::from_millis(250);

/// The wait after NATS did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The wait after the rows could not be kept. Each attempt reads a snapshot.
const NOT_KEPT_RETRY: Duration = Duration::from_secs(30);

/// The rows for which room is made before they come.
const MOST_ROOM: u64 = 1 << 22;

/// Something that has happened, to be handed to the node once the caches are flushed.
pub(super) enum Happened {
    Load(u64, LoadEvent),
    Message(u64, StoredMessage),
    /// All stored messages of a read have come. The log's last one was this.
    Stored(u64, Option<Sequence>),
    ReadFailed(LogError),
    Answered(u64, Option<Position>),
    End(End),
    SubscriptionEnded,
    TimePassed,
}

impl Follow {
    /// Waits for something to happen, and does what follows. The future may be dropped at any
    /// point.
    pub async fn step(&mut self) {
        self.check_connection(Instant::now());
        self.settle().await;
        if self.happened.is_none() {
            self.happened = Some(self.wait().await);
        }
        // The node is shown no message before the rows of the one before are in the caches.
        self.image.flush().await;
        if let Some(happened) = self.happened.take() {
            self.take(happened);
            self.take_outputs();
        }
        self.settle().await;
    }

    /// Flushes the caches, and tells what counts from then on.
    async fn settle(&mut self) {
        self.take_outputs();
        self.image.flush().await;
        self.reached = self.reached.max(self.reached_next.drain(..).max());
        let is_live = self.node.is_live(Instant::now()) && self.image.broken().is_none();
        if std::mem::replace(&mut self.is_live, is_live) != is_live {
            if !is_live && self.why.is_empty() {
                self.why = format!("no relay has proven the rows for {PATIENCE:?}");
            }
            if is_live {
                self.why.clear();
            }
            self.events.push_back(FollowEvent::Live(is_live));
        }
    }

    /// Waits for the next thing to happen.
    async fn wait(&mut self) -> Happened {
        let look = Some(Instant::now() + CONNECTION_LOOK);
        let until = [
            self.node.poll_timeout(),
            self.look_at,
            self.connect_at,
            look,
        ];
        let until = until.into_iter().flatten().min();
        let due = tokio::time::sleep_until(until.unwrap_or_else(Instant::now).into());
        let loading = &mut self.loading;
        let load = async {
            match loading {
                Some(loading) => (loading.number, loading.events.recv().await),
                None => std::future::pending().await,
            }
        };
        let reading = &mut self.reading;
        let live = &mut self.live;
        let message = async {
            loop {
                match reading {
                    Reading::Nothing => std::future::pending().await,
                    Reading::Stored { read, events } => match events.recv().await {
                        Some(StoredEvent::Message(message)) => {
                            return Happened::Message(*read, message);
                        }
                        Some(StoredEvent::End(end)) => {
                            let read = *read;
                            *reading = Reading::Live { read };
                            return Happened::Stored(read, end);
                        }
                        Some(StoredEvent::Failed(error)) => return Happened::ReadFailed(error),
                        // The task was ended with the runtime.
                        None => std::future::pending().await,
                    },
                    Reading::Live { read } => match live.next().await {
                        Some(message) => {
                            if let Some(message) = NatsLog::republished(message) {
                                return Happened::Message(*read, message);
                            }
                        }
                        None => return Happened::SubscriptionEnded,
                    },
                }
            }
        };
        tokio::select! {
            // The time comes first: messages may come without a pause.
            biased;
            () = due => Happened::TimePassed,
            (number, event) = load => match event {
                Some(event) => Happened::Load(number, event),
                None => Happened::Load(number, LoadEvent::None { is_log_empty: false }),
            },
            Some((ask, position)) = self.answers.recv() => Happened::Answered(ask, position),
            Some(end) = self.ends.recv() => Happened::End(end),
            message = message => message,
        }
    }

    fn take(&mut self, happened: Happened) {
        let now = Instant::now();
        self.check_connection(now);
        match happened {
            Happened::Load(number, event) => self.take_load(number, event, now),
            Happened::Message(read, message) => self.take_message(read, &message, now),
            // All that was stored has come, so nothing is awaited that the end could overtake.
            Happened::Stored(read, end) => self.node.handle(NodeInput::End { read, end }, now),
            Happened::ReadFailed(error) => self.failed(&error, now),
            Happened::SubscriptionEnded => {
                // Nobody ends the subscription: the connection is closed for good.
                self.reading = Reading::Nothing;
                self.why = "the connection to NATS was closed".to_string();
                self.events.push_back(FollowEvent::Failed(self.why.clone()));
                self.node.handle(NodeInput::Disconnected, now);
                self.is_closed = true;
            }
            Happened::Answered(ask, position) => {
                self.node.handle(NodeInput::Answered { ask, position }, now);
            }
            Happened::End(End {
                read,
                messages,
                last,
            }) => {
                self.look_at = Some(now + QUIET);
                match last {
                    // A message that came meanwhile may be behind the end as it was seen.
                    Ok(_) if messages != self.messages => {}
                    Ok(end) => self.node.handle(NodeInput::End { read, end }, now),
                    Err(error) => self.failed(&error, now),
                }
            }
            Happened::TimePassed => self.time_passed(now),
        }
    }

    fn take_load(&mut self, number: u64, event: LoadEvent, now: Instant) {
        match event {
            LoadEvent::None { is_log_empty } => {
                self.loading = None;
                self.is_log_empty = is_log_empty;
                let input = NodeInput::Loaded {
                    load: number,
                    snapshot: None,
                };
                self.node.handle(input, now);
            }
            LoadEvent::Begin(info) => {
                self.is_log_empty = false;
                let tables = info.tables.into_iter();
                let tables = tables.map(|table| {
                    // The number comes from outside, and room is made for so many.
                    let rows = table.rows.min(MOST_ROOM);
                    (table.description, rows as usize)
                });
                if let Err(error) = self.image.begin_load(tables.collect()) {
                    self.failed(&error, now);
                }
            }
            LoadEvent::Rows(rows) => {
                for (table, id, row) in &rows {
                    self.image.load(*table, id, row);
                }
                if let Some(why) = self.image.broken() {
                    // The rest of the snapshot is of no use.
                    let why = why.to_string();
                    tracing::warn!(why, "the rows of the log cannot be kept");
                    self.why.clone_from(&why);
                    if self.image.is_too_large() {
                        self.events.push_back(FollowEvent::Failed(why));
                        self.disconnect(now);
                        self.connect_at = Some(now + NOT_KEPT_RETRY);
                    } else {
                        self.is_of_no_use(number, why, now);
                    }
                }
            }
            LoadEvent::End(place) => {
                self.loading = None;
                self.image.end_load();
                let rows = self.image.rows() as u64;
                self.events.push_back(FollowEvent::Loaded { rows });
                let input = NodeInput::Loaded {
                    load: number,
                    snapshot: Some(place),
                };
                self.node.handle(input, now);
            }
            LoadEvent::Failed(error @ LogError::Snapshot { .. }) => {
                self.is_of_no_use(number, error.to_string(), now);
            }
            LoadEvent::Failed(error) => self.failed(&error, now),
        }
    }

    fn take_message(&mut self, read: u64, message: &StoredMessage, now: Instant) {
        let sequence = message.sequence;
        match self.reading {
            Reading::Stored { .. } => self.stored_to = sequence,
            // These do not count: if they are those of a log that was made anew, the look at the
            // log's end must find out.
            Reading::Live { .. } if sequence <= self.stored_to => return,
            Reading::Live { .. } | Reading::Nothing => {}
        }
        self.messages += 1;
        self.look_at = Some(now + QUIET);
        match message.entry() {
            Some(entry) => {
                match &entry.body {
                    Body::Begin { writer, .. } => {
                        self.why = format!("the relay {writer} has begun to write");
                    }
                    Body::Stale { why } => self.why = format!("the relay says: {why}"),
                    // Those that are stored were proven long ago.
                    Body::Proof(proof) if matches!(self.reading, Reading::Live { .. }) => {
                        let before = self.last_proof_at.replace(now).unwrap_or(now);
                        self.proven_at = Some(before.min(asked_at(proof, now)));
                    }
                    Body::Proof(_) | Body::Rows(_) | Body::Part(_) => {}
                }
                let differing = self.node.counters().differing;
                self.node
                    .message(read, sequence, &entry, &mut self.image, now);
                if self.node.counters().differing > differing {
                    let own = &entry.position;
                    self.why = format!(
                        "the rows here are not those of the proof {own}, by its digest: a snapshot \
                        is loaded"
                    );
                }
            }
            None => self.node.handle(NodeInput::Unreadable { read }, now),
        }
    }

    fn time_passed(&mut self, now: Instant) {
        if self.connect_at.is_some_and(|at| at <= now) {
            self.connect_at = None;
            self.look_at = Some(now + QUIET);
            self.node.handle(NodeInput::Connected, now);
        }
        if self.node.poll_timeout().is_some_and(|at| at <= now) {
            self.node.handle(NodeInput::TimePassed, now);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.look_at_end();
        }
    }

    /// Looks at the log's end in a task.
    fn look_at_end(&mut self) {
        let read = match self.reading {
            Reading::Live { read } => read,
            // Messages are on their way, or none are wanted.
            Reading::Stored { .. } | Reading::Nothing => {
                self.look_at = Some(Instant::now() + QUIET);
                return;
            }
        };
        let (log, ends, messages) = (self.log.clone(), self.ends_tx.clone(), self.messages);
        tokio::spawn(async move {
            let last = log.last().await;
            let last = last.map(|last| last.map(|message| message.sequence));
            // Whoever has asked may be gone.
            let _ = ends
                .send(End {
                    read,
                    messages,
                    last,
                })
                .await;
        });
    }

    /// Notes that a snapshot is of no use. The node loads again after a while, and a relay that
    /// stands by begins anew if that goes on.
    fn is_of_no_use(&mut self, load: u64, why: String, now: Instant) {
        self.loading = None;
        self.why.clone_from(&why);
        self.events.push_back(FollowEvent::Failed(why));
        let snapshot = None;
        self.node.handle(NodeInput::Loaded { load, snapshot }, now);
    }

    /// Notes that NATS did not do what was asked for. The node begins again after a while.
    fn failed(&mut self, error: &LogError, now: Instant) {
        let why = crate::postgres::error_chain::chain(error);
        tracing::info!(why, "the log could not be read");
        self.why.clone_from(&why);
        self.events.push_back(FollowEvent::Failed(why));
        self.disconnect(now);
        self.connect_at = Some(now + RETRY);
    }

    fn disconnect(&mut self, now: Instant) {
        self.reading = Reading::Nothing;
        self.loading = None;
        self.last_proof_at = None;
        self.node.handle(NodeInput::Disconnected, now);
    }

    /// Begins again if the connection is another one: messages may be lost (R1, R5).
    fn check_connection(&mut self, now: Instant) {
        let connects = self.log.connects();
        if std::mem::replace(&mut self.connects, connects) != connects {
            tracing::info!("connected to NATS again");
            self.why = "the connection to NATS was lost".to_string();
            self.disconnect(now);
            self.connect_at = Some(now);
        }
    }

    /// Carries out the requests of the node.
    fn take_outputs(&mut self) {
        while let Some(output) = self.node.poll() {
            match output {
                NodeOutput::Load { load } => self.start_load(load),
                NodeOutput::Read { read, from } => self.start_read(read, from),
                NodeOutput::Ask { ask } => {
                    let (log, answers) = (self.log.clone(), self.answers_tx.clone());
                    tokio::spawn(async move {
                        let position = log.ask(ASK_TIMEOUT).await;
                        // Whoever has asked may be gone.
                        let _ = answers.send((ask, position)).await;
                    });
                }
                NodeOutput::FenceReached(fence) => self.reached_next.push(fence),
            }
        }
    }

    fn start_load(&mut self, number: u64) {
        self.reading = Reading::Nothing;
        let (events_tx, events) = mpsc::channel(WAITING);
        self.loading = Some(Loading { number, events });
        let log = self.log.clone();
        tokio::spawn(async move {
            if let Err(error) = load(&log, &events_tx).await {
                // Whoever has asked may be gone.
                let _ = events_tx.send(LoadEvent::Failed(error)).await;
            }
        });
    }

    fn start_read(&mut self, read: u64, from: Sequence) {
        let (events_tx, events) = mpsc::channel(WAITING);
        self.reading = Reading::Stored { read, events };
        self.stored_to = Sequence::default();
        let log = self.log.clone();
        tokio::spawn(async move {
            if let Err(error) = read_stored(&log, from, &events_tx).await {
                // Whoever has asked may be gone.
                let _ = events_tx.send(StoredEvent::Failed(error)).await;
            }
        });
    }
}

/// Returns when the fence of a proof that comes `now` was asked for, by the relay's clock; `now` if
/// that is not known, or later than now.
fn asked_at(proof: &Proof, now: Instant) -> Instant {
    let asked = proof.asked_at.map(Duration::from_micros);
    let asked = asked.and_then(|since_1970| UNIX_EPOCH.checked_add(since_1970));
    let ago = asked.and_then(|asked| SystemTime::now().duration_since(asked).ok());
    now.checked_sub(ago.unwrap_or_default()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_counts_from_when_its_fence_was_asked_for() {
        let now = Instant::now();
        let micros = |at: SystemTime| {
            let since_1970 = at.duration_since(UNIX_EPOCH).expect("after 1970");
            since_1970.as_micros() as u64
        };
        let asked = |at: Option<u64>| {
            let proof = Proof {
                asked_at: at,
                ..Proof::default()
            };
            now - asked_at(&proof, now)
        };
        let second = Duration::from_secs(1);
        let held_up = asked(Some(micros(SystemTime::now() - 5 * second)));
        assert!(
            held_up >= 5 * second && held_up < 60 * second,
            "{held_up:?}"
        );
        // A clock that is fast, a relay that does not say, and what is no time.
        assert_eq!(
            asked(Some(micros(SystemTime::now() + 60 * second))),
            Duration::ZERO
        );
        assert_eq!(asked(None), Duration::ZERO);
        assert_eq!(asked(Some(u64::MAX)), Duration::ZERO);
    }
}
