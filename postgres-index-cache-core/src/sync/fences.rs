//! [`Fences`]: the proof that everything which was committed before a moment has arrived.
//!
//! A fence is a token that F notifies on the fence channel. PostgreSQL delivers notifications in
//! the order of the commits. So when the token reaches L, every change that was committed earlier
//! has reached L as well.
//!
//! ```text
//! wanted ─ no other is on its way ─→ sent ─ token reaches L ─→ arrived ─→ reached
//!   many callers,                      │                          │
//!   one fence                          └ not in time: a gap       └ once its look is done, and
//!                                                                   the rows before it are there
//! ```
//!
//! The engine sends fences of its own as well. One follows each read of a table, and proves that
//! all changes which the read's snapshot filters have arrived. One is sent each heartbeat, and
//! shows that L still receives notifications.
//!
//! The rules behind this are [`Rule::Fence`](super::rules::Rule::Fence),
//! [`Rule::Look`](super::rules::Rule::Look) and [`Rule::Open`](super::rules::Rule::Open).

use super::looks::Looks;
use super::table::EngineTable;
use super::{FenceId, Output, State, TableId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The number of fences of callers that may have arrived and wait, for rows or for tables that
/// cannot be followed.
const OPEN: usize = 64;

/// A fence that was sent.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) token: String,
    /// The highest fence of a caller that this one is for; `None` for a fence of the engine's own.
    pub(super) asked_by: Option<FenceId>,
    /// How many answers had come, of Q and of side reads, when the fence was sent.
    pub(super) after_reads: u64,
    /// When the engine asked for the NOTIFY.
    pub(super) sent: Instant,
    /// When the fence is lost, if the token has not reached L by then.
    pub(super) deadline: Instant,
    /// Number of the look that was asked for with the fence; 0 if nobody looks.
    pub(super) look: u64,
    /// Whether the server has committed the NOTIFY.
    is_committed: bool,
    /// How far the tables were when the token reached L; `None` before that.
    arrival: Option<Arrival>,
}

/// How far the tables were when a fence arrived.
#[derive(Debug)]
struct Arrival {
    /// For each table, how many changes had been followed.
    changes: Vec<u64>,
    /// For each table, whether this fence proved the table's read. Such a table is live only once
    /// each row is in the cache that was open when the fence arrived.
    proves: Vec<bool>,
}

impl Fence {
    /// Returns a fence that is to be sent.
    pub(super) fn new(
        token: String,
        asked_by: Option<FenceId>,
        after_reads: u64,
        look: u64,
        sent: Instant,
        deadline: Instant,
    ) -> Self {
        Self {
            token,
            asked_by,
            after_reads,
            sent,
            deadline,
            look,
            is_committed: false,
            arrival: None,
        }
    }

    /// Returns whether the token has reached L.
    fn has_arrived(&self) -> bool {
        self.arrival.is_some()
    }

    /// Returns whether every change of `table` that arrived before this fence is in the cache.
    /// False before the fence has arrived.
    ///
    /// Rows that are to be refetched count ([`Rule::Open`](super::rules::Rule::Open)). Rows that
    /// came after the fence do not: with rows that come without end, no fence would ever be
    /// reached.
    fn is_complete_for(&self, table: usize, tables: &[EngineTable]) -> bool {
        self.arrival.as_ref().is_some_and(|arrival| {
            tables[table]
                .open_since()
                .is_none_or(|open_since| open_since > arrival.changes[table])
        })
    }

    /// Returns whether the fence is complete for every table.
    fn is_complete(&self, tables: &[EngineTable]) -> bool {
        (0..tables.len()).all(|table| self.is_complete_for(table, tables))
    }

    /// Returns whether the fence has arrived, is a caller's, and proved no table's read.
    fn is_for_callers_alone(&self) -> bool {
        self.asked_by.is_some()
            && self
                .arrival
                .as_ref()
                .is_some_and(|arrival| !arrival.proves.contains(&true))
    }
}

/// A fence that a caller asked for.
#[derive(Debug)]
struct Asked {
    id: FenceId,
    /// How many reads of tables had begun when the caller asked. A read that begins later has every
    /// change that was committed before the caller asked.
    started_reads: u64,
}

/// A fence that has arrived, and that becomes a proof when its look is done.
#[derive(Debug)]
struct Proof {
    look: u64,
    sent: Instant,
}

/// The fences that are wanted, on their way, and arrived.
#[derive(Debug)]
pub(super) struct Fences {
    /// The fences that were sent and are not done with, in the order in which they were sent.
    sent: Vec<Fence>,
    /// The highest fence that a caller asked for and that is not sent yet. Lower ones are sent with
    /// this one.
    wanted: Option<FenceId>,
    /// The fences that callers asked for and that are not reached for every table, in order.
    asked: VecDeque<Asked>,
    /// For each table, the highest fence that is reached.
    reached: Vec<Option<FenceId>>,
    /// The fences that have arrived and whose looks are not done, in the order of arrival.
    proofs: VecDeque<Proof>,
    /// The latest moment before which everything that was committed has arrived: when the last
    /// fence was sent whose look is done, or the last token of a probe.
    proven_at: Option<Instant>,
    /// How long the last fence took to come back.
    lag: Option<Duration>,
}

/// Facts about the fence that has just arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    /// How many answers had come, of Q and of side reads, when the fence was sent.
    pub(super) after_reads: u64,
    /// Place of the fence in `Fences::sent`.
    at: usize,
}

impl Fences {
    /// Returns the fences of an engine with so many tables.
    pub(super) fn new(tables: usize) -> Self {
        Self {
            sent: Vec::new(),
            wanted: None,
            asked: VecDeque::new(),
            reached: vec![None; tables],
            proofs: VecDeque::new(),
            proven_at: None,
            lag: None,
        }
    }

    /// Returns how long the last fence took to come back; `None` if there was none since the
    /// connections were opened.
    pub(super) fn lag(&self) -> Option<Duration> {
        self.lag
    }

    /// Returns the latest moment before which everything that was committed has arrived; `None` if
    /// there was none since the engine was made.
    pub(super) fn proven_at(&self) -> Option<Instant> {
        self.proven_at
    }

    /// Notes that everything that was committed before `at` has arrived.
    pub(super) fn proven(&mut self, at: Instant) {
        self.proven_at = self.proven_at.max(Some(at));
    }

    /// Notes that a caller asks for a fence, when so many reads of tables had begun.
    pub(super) fn want(&mut self, id: FenceId, started_reads: u64) {
        self.wanted = self.wanted.max(Some(id));
        match self.asked.back_mut() {
            // One read answers both, so one entry does. The list stays as short as the reads are
            // few, however many callers ask.
            Some(last) if last.started_reads == started_reads => last.id = last.id.max(id),
            _ => self.asked.push_back(Asked { id, started_reads }),
        }
    }

    /// Returns whether a caller waits for a fence that is not reached for `table`.
    pub(super) fn is_awaited_for(&self, table: TableId) -> bool {
        let reached = self.reached[table.0];
        self.asked.iter().any(|asked| Some(asked.id) > reached)
    }

    /// Takes the fence that is to be sent for callers; `None` if no caller waits for one, or if
    /// another one is on its way to the server.
    ///
    /// Fences that are asked for while one is on its way are sent as one. So a thousand callers
    /// cost a few notifications. And if commits are blocked, the callers wait for one NOTIFY, not
    /// for a thousand after one another.
    pub(super) fn take_wanted(&mut self) -> Option<FenceId> {
        let is_sending = self
            .sent
            .iter()
            .any(|fence| fence.asked_by.is_some() && !fence.is_committed && !fence.has_arrived());
        if is_sending { None } else { self.wanted.take() }
    }

    /// Adds a fence that is sent now.
    pub(super) fn push(&mut self, fence: Fence) {
        self.sent.push(fence);
    }

    /// Returns whether a fence with this token was sent and is still wanted.
    pub(super) fn has_token(&self, token: &str) -> bool {
        self.sent.iter().any(|fence| fence.token == token)
    }

    /// Returns the tokens of the fences that have not arrived.
    pub(super) fn pending_tokens(&self) -> Vec<String> {
        self.pending().map(|fence| fence.token.clone()).collect()
    }

    fn pending(&self) -> impl Iterator<Item = &Fence> {
        self.sent.iter().filter(|fence| !fence.has_arrived())
    }

    /// Returns when the first fence that has not arrived is lost.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending().map(|fence| fence.deadline).min()
    }

    /// Returns whether every fence that was sent has arrived.
    pub(super) fn have_all_arrived(&self) -> bool {
        self.pending().next().is_none()
    }

    /// Returns whether a fence is on its way that was sent after so many answers of Q.
    pub(super) fn is_proof_underway(&self, finished_reads: u64) -> bool {
        self.pending()
            .any(|fence| fence.after_reads == finished_reads)
    }

    /// Notes that the server has committed the NOTIFY of `token`, which must arrive by `deadline`.
    pub(super) fn committed(&mut self, token: &str, deadline: Instant) {
        for fence in self.sent.iter_mut().filter(|fence| fence.token == token) {
            fence.deadline = deadline;
            fence.is_committed = true;
        }
    }

    /// Notes that the server has given up the NOTIFY of `token`, which is sent again. The commit
    /// that holds up this NOTIFY holds up the ones behind it as well. So all fences that are not
    /// committed have time until `deadline`.
    pub(super) fn blocked(&mut self, token: &str, deadline: Instant) {
        for fence in &mut self.sent {
            if fence.token == token || !fence.is_committed {
                fence.deadline = deadline;
            }
        }
    }

    /// Finds the fence with this token, which has just reached L; `None` if no such fence is
    /// awaited. Once the caller has proven the tables' reads, [`arrived`](Self::arrived) must
    /// follow.
    pub(super) fn find_arrived(&mut self, token: &str, now: Instant) -> Option<Arrived> {
        // A token may arrive twice: it is sent again if F was lost before the server acknowledged
        // it. And any role can send a token that it has seen. The second one says nothing.
        let at = self
            .sent
            .iter()
            .position(|fence| !fence.has_arrived() && fence.token == token)?;
        let fence = &self.sent[at];
        self.lag = Some(now.saturating_duration_since(fence.sent));
        self.proofs.push_back(Proof {
            look: fence.look,
            sent: fence.sent,
        });
        Some(Arrived {
            after_reads: fence.after_reads,
            at,
        })
    }

    /// Notes that a fence has arrived. `proves` says for each table whether the fence proved the
    /// table's read.
    pub(super) fn arrived(&mut self, arrived: &Arrived, proves: Vec<bool>, tables: &[EngineTable]) {
        let mut at = arrived.at;
        // While a row is open, each heartbeat would add a fence that waits for the row. So a
        // heartbeat that proves no read is not kept if one is kept already. The kept one is older,
        // and so ends live sooner if the row does not come.
        let is_own = self.sent[at].asked_by.is_none();
        let has_own = self
            .sent
            .iter()
            .any(|fence| fence.asked_by.is_none() && fence.has_arrived());
        if is_own && has_own && !proves.contains(&true) {
            self.sent.remove(at);
            return;
        }
        // Of many fences that wait for the same rows the last one will do: it answers the callers
        // of all. Without this bound, fences would pile up while a table cannot be followed.
        let open = self
            .sent
            .iter()
            .filter(|fence| fence.is_for_callers_alone());
        if open.count() >= OPEN {
            let last = self.sent.iter().rposition(Fence::is_for_callers_alone);
            if let Some(last) = last.filter(|last| *last < at) {
                self.sent.remove(last);
                at -= 1;
            }
        }
        self.sent[at].arrival = Some(Arrival {
            changes: tables.iter().map(EngineTable::changes).collect(),
            proves,
        });
    }

    /// Makes the fences that have arrived wait for the changes of `table` that waited for a read or
    /// a comparison. `changes` is the number of changes that have been followed now.
    ///
    /// Nobody knows of such a change whether it came before a fence. Without this:
    /// 1. A comparison holds a change without data. Then a fence arrives.
    /// 2. The comparison ends. The change is followed now, and its row is asked for.
    /// 3. The fence counts the change as a later one, and is reached without the row.
    pub(super) fn count_what_waited(&mut self, table: TableId, changes: u64) {
        for fence in &mut self.sent {
            if let Some(arrival) = &mut fence.arrival {
                arrival.changes[table.0] = changes;
            }
        }
    }

    /// Notes as proofs the fences that have arrived and whose looks are done.
    pub(super) fn note_proofs(&mut self, looks: &Looks) {
        while let Some(proof) = self.proofs.front()
            && looks.is_done(proof.look)
        {
            let sent = proof.sent;
            self.proofs.pop_front();
            self.proven(sent);
        }
    }

    /// Forgets the fences that were to become proofs, since their looks will not be done.
    pub(super) fn forget_proofs(&mut self) {
        self.proofs.clear();
    }

    /// Returns the fence that the last read of `table` answers, and notes it as reached; `None` if
    /// there is none. `read` is the number of that read among all that began.
    ///
    /// The cache has every change that was committed before the read began, and so before any fence
    /// that was asked for by then. Whether the table is live is another question. Without this:
    /// 1. A caller asks for a fence. The table is reloaded.
    /// 2. Somebody asks for the next reload before the fence arrives, and so on.
    /// 3. The table is never live, and the caller is never answered.
    pub(super) fn answer_by_read(&mut self, table: TableId, read: u64) -> Option<FenceId> {
        let asked = self
            .asked
            .iter()
            .rev()
            .find(|asked| asked.started_reads < read)?;
        let id = asked.id;
        if self.reached[table.0] >= Some(id) {
            return None;
        }
        self.reached[table.0] = Some(id);
        Some(id)
    }

    /// Drops the fences of the engine's own that have arrived, have their look and are complete:
    /// nothing waits for them any more.
    pub(super) fn drop_complete(&mut self, tables: &[EngineTable], looks: &Looks) {
        self.sent.retain(|fence| {
            fence.asked_by.is_some()
                || !fence.has_arrived()
                || !looks.is_done(fence.look)
                || !fence.is_complete(tables)
        });
    }

    /// Says for which tables each fence that has arrived is reached, and drops those that are
    /// reached for every table. With `needs_look` a fence counts once its look is done.
    pub(super) fn answer(
        &mut self,
        states: &[State],
        tables: &[EngineTable],
        looks: &Looks,
        needs_look: bool,
        outputs: &mut VecDeque<Output>,
    ) {
        for fence in &self.sent {
            let Some(id) = fence.asked_by else { continue };
            // Rule::Look. Without this:
            // 1. Somebody disables the trigger and updates a row.
            // 2. A caller asks for a fence, which arrives. No look has begun since step 1.
            // 3. The caller is told that the fence is reached, and reads the old row.
            if needs_look && !looks.is_done(fence.look) {
                continue;
            }
            for (table, state) in states.iter().enumerate() {
                let is_reached = *state == State::Live && fence.is_complete_for(table, tables);
                if is_reached && self.reached[table] < Some(id) {
                    self.reached[table] = Some(id);
                    outputs.push_back(Output::FenceReached {
                        table: TableId(table),
                        fence: id,
                    });
                }
            }
        }
        let reached = &self.reached;
        self.sent.retain(|fence| {
            let is_answered = fence
                .asked_by
                .is_some_and(|id| reached.iter().all(|reached| *reached >= Some(id)));
            !fence.has_arrived() || !is_answered
        });
        let everywhere = self.reached.iter().copied().min().flatten();
        while let Some(asked) = self.asked.front()
            && Some(asked.id) <= everywhere
        {
            self.asked.pop_front();
        }
    }

    /// Says that the wanted fence is reached for every table, without sending it, as an engine
    /// without [`Rule::Fence`](super::rules::Rule::Fence) would.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn answer_unsent(&mut self, outputs: &mut VecDeque<Output>) {
        if let Some(fence) = self.wanted.take() {
            for table in 0..self.reached.len() {
                outputs.push_back(Output::FenceReached {
                    table: TableId(table),
                    fence,
                });
            }
        }
    }

    /// Returns whether a caller was answered for every table.
    pub(super) fn has_answered(&self) -> bool {
        !self.reached.is_empty() && self.reached.iter().all(Option::is_some)
    }

    /// Returns whether `table` lacks something that it needs in order to be live:
    /// - rows that were open when the fence that proved the table's read arrived,
    /// - rows that were open when a fence arrived that was sent a heartbeat ago or earlier. A
    ///   reader is not told that a row is missing, so no row may be missing for long.
    /// - the look that belongs to the fence that proved the table's read.
    pub(super) fn is_behind(
        &self,
        table: TableId,
        tables: &[EngineTable],
        looks: &Looks,
        needs: Needs,
        heartbeat: Duration,
        now: Instant,
    ) -> bool {
        self.sent.iter().any(|fence| {
            let Some(arrival) = &fence.arrival else {
                return false;
            };
            let is_proof = arrival.proves[table.0];
            if is_proof && needs.look && !looks.is_done(fence.look) {
                return true;
            }
            // Rule::Open. Without this:
            // 1. A table was read. A change without data arrives, and its row is asked for.
            // 2. The fence that proves the read arrives before Q answers.
            // 3. The table is called live as of that fence, with the old row.
            let is_open = needs.rows && !fence.is_complete_for(table.0, tables);
            is_open && (is_proof || fence.sent + heartbeat <= now)
        })
    }

    /// Returns when the open rows of `table`, which is live, will have been open for so long that
    /// the table is live no more; `None` if no row is open.
    pub(super) fn behind_at(
        &self,
        table: TableId,
        tables: &[EngineTable],
        heartbeat: Duration,
    ) -> Option<Instant> {
        self.sent
            .iter()
            .filter(|fence| fence.has_arrived() && !fence.is_complete_for(table.0, tables))
            .map(|fence| fence.sent + heartbeat)
            .min()
    }

    /// Notes that the connections are lost. Callers wait on, and are answered after the next read
    /// or by the next fence: each has every change that was committed before they asked.
    pub(super) fn disconnect(&mut self) {
        // The tokens that were sent are lost, so the callers' fences are wanted again, as one.
        let asked = self.sent.drain(..).filter_map(|fence| fence.asked_by).max();
        self.wanted = self.wanted.max(asked);
        self.proofs.clear();
        self.lag = None;
    }
}

/// The conditions that count for whether a table is live. Outside of tests both do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Whether the look must be done that belongs to the fence which proved the table's read
    /// ([`Rule::Look`](super::rules::Rule::Look)).
    pub(super) look: bool,
    /// Whether the rows must be there that were open when a fence arrived
    /// ([`Rule::Open`](super::rules::Rule::Open)).
    pub(super) rows: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Payload;
    use crate::sync::TableSpec;
    use crate::sync::change::Change;
    use crate::sync::hashing::SeededState;

    const TABLE: TableId = TableId(0);

    /// Returns a table that was read, and whose read is proven.
    fn live_table(now: Instant) -> EngineTable {
        let spec = TableSpec {
            schema: "app".into(),
            name: "users".into(),
            oid: 7,
            leaves: Vec::new(),
            is_partitioned: false,
            deferrable_key: false,
            sends_plain_form: false,
            sends_whole_rows: true,
            is_for_side_read: false,
            shape: None,
        };
        let mut table = EngineTable::new(spec, SeededState::new(0));
        let generation = table.start_reading(1, now);
        table.cut(generation, "100:100:".parse().expect("a snapshot"));
        table
            .loaded(generation, 1, true, now)
            .expect("the read counts");
        table.prove(1);
        assert!(table.is_proven());
        table
    }

    /// Lets a change arrive whose row must be refetched.
    fn open_row(table: &mut EngineTable, id: u32) {
        let payload = format!(
            concat!(
                r#"{{"table":"users","action":"update","id":{id},"schema":"app","rel":7,"#,
                r#""xid":"150","truncated":true}}"#
            ),
            id = id
        );
        let parsed = Payload::parse(&payload).expect("a payload");
        table.classify(Change::new(&payload, &parsed, 1), 10_000);
        assert!(table.open_since().is_some());
    }

    /// Fences with everything that they are asked about, for one table.
    struct Driven {
        fences: Fences,
        looks: Looks,
        tables: Vec<EngineTable>,
        now: Instant,
    }

    impl Driven {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                fences: Fences::new(1),
                looks: Looks::default(),
                tables: vec![live_table(now)],
                now,
            }
        }

        /// Sends a fence, with the look of this number.
        fn send(&mut self, token: &str, asked_by: Option<u64>, look: u64) {
            self.fences.push(Fence::new(
                token.to_string(),
                asked_by.map(FenceId),
                1,
                look,
                self.now,
                self.now + Duration::from_secs(30),
            ));
        }

        /// Lets a token reach L. Returns whether a fence with this token was awaited.
        fn arrive(&mut self, token: &str, proves: bool) -> bool {
            let Some(arrived) = self.fences.find_arrived(token, self.now) else {
                return false;
            };
            self.fences.arrived(&arrived, vec![proves], &self.tables);
            true
        }

        /// Returns the fences that are reached now, while the table is live.
        fn reached(&mut self) -> Vec<u64> {
            let mut outputs = VecDeque::new();
            self.fences.answer(
                &[State::Live],
                &self.tables,
                &self.looks,
                true,
                &mut outputs,
            );
            outputs
                .into_iter()
                .filter_map(|output| match output {
                    Output::FenceReached { fence, .. } => Some(fence.0),
                    _ => None,
                })
                .collect()
        }

        fn is_behind(&self, now: Instant) -> bool {
            let needs = Needs {
                look: true,
                rows: true,
            };
            let heartbeat = Duration::from_secs(5);
            self.fences
                .is_behind(TABLE, &self.tables, &self.looks, needs, heartbeat, now)
        }
    }

    #[test]
    fn callers_who_ask_while_a_fence_is_on_its_way_share_the_next_one() {
        let mut driven = Driven::new();
        driven.fences.want(FenceId(1), 0);
        assert_eq!(driven.fences.take_wanted(), Some(FenceId(1)));
        driven.send("1", Some(1), 0);
        for id in 2..=1000 {
            driven.fences.want(FenceId(id), 0);
        }
        assert_eq!(driven.fences.take_wanted(), None, "one is on its way");
        driven.fences.committed("1", driven.now);
        assert_eq!(driven.fences.take_wanted(), Some(FenceId(1000)));
        driven.send("2", Some(1000), 0);
        assert!(driven.arrive("1", false) && driven.arrive("2", false));
        assert_eq!(driven.reached(), [1, 1000]);
        assert!(!driven.fences.is_awaited_for(TABLE));
        assert!(driven.fences.has_answered());
    }

    // The fence proves that notifications have arrived, and the look that no DDL came in between.
    #[test]
    fn a_fence_counts_when_its_look_is_done() {
        let mut driven = Driven::new();
        let sent = driven.now;
        let look = driven.looks.want();
        assert_eq!(driven.looks.start(sent), Some(look));
        driven.send("1", Some(1), look);
        driven.now += Duration::from_secs(2);
        assert!(driven.arrive("1", false));
        driven.fences.note_proofs(&driven.looks);
        assert_eq!(driven.reached(), [0; 0]);
        assert_eq!(driven.fences.proven_at(), None);
        assert_eq!(driven.fences.lag(), Some(Duration::from_secs(2)));
        assert!(driven.looks.finish(look));
        driven.fences.note_proofs(&driven.looks);
        assert_eq!(driven.reached(), [1]);
        assert_eq!(driven.fences.proven_at(), Some(sent));
    }

    #[test]
    fn a_look_that_will_not_be_done_proves_nothing() {
        let mut driven = Driven::new();
        let look = driven.looks.want();
        driven.send("1", None, look);
        driven.arrive("1", false);
        driven.fences.forget_proofs();
        driven.looks.start(driven.now);
        driven.looks.finish(look);
        driven.fences.note_proofs(&driven.looks);
        assert_eq!(driven.fences.proven_at(), None);
    }

    // F sends its tokens again when it was lost, and anybody can repeat one.
    #[test]
    fn a_token_that_arrives_twice_or_was_never_sent_says_nothing() {
        let mut driven = Driven::new();
        open_row(&mut driven.tables[0], 1);
        driven.send("1", Some(1), 0);
        assert!(driven.arrive("1", false));
        assert!(!driven.arrive("1", false) && !driven.arrive("forged", false));
    }

    #[test]
    fn a_fence_waits_for_rows_that_came_before_it_and_not_for_later_ones() {
        let mut driven = Driven::new();
        driven.send("1", Some(1), 0);
        driven.arrive("1", false);
        open_row(&mut driven.tables[0], 1);
        driven.send("2", Some(2), 0);
        driven.arrive("2", false);
        assert_eq!(driven.reached(), [1]);
        driven.tables[0].start_refetch(1);
        let snapshot = "200:200:".parse().expect("a snapshot");
        driven.tables[0]
            .refetched(1, snapshot, 2)
            .expect("the answer counts");
        assert_eq!(driven.reached(), [2]);
    }

    // See `count_what_waited`: of a change that waited, nobody knows whether it came before.
    #[test]
    fn a_fence_waits_for_the_rows_of_changes_that_waited_themselves() {
        let mut driven = Driven::new();
        driven.send("1", Some(1), 0);
        driven.arrive("1", false);
        open_row(&mut driven.tables[0], 1);
        let changes = driven.tables[0].changes();
        driven.fences.count_what_waited(TABLE, changes);
        assert_eq!(driven.reached(), [0; 0]);
    }

    #[test]
    fn a_table_is_behind_while_a_row_is_open_that_its_proof_or_an_old_fence_waits_for() {
        let mut driven = Driven::new();
        open_row(&mut driven.tables[0], 1);
        driven.send("1", None, 0);
        driven.arrive("1", false);
        let heartbeat = driven.now + Duration::from_secs(5);
        assert!(
            !driven.is_behind(driven.now),
            "a row may be open for a moment"
        );
        assert!(driven.is_behind(heartbeat), "and not for a heartbeat");
        let at = driven
            .fences
            .behind_at(TABLE, &driven.tables, Duration::from_secs(5));
        assert_eq!(at, Some(heartbeat));
        driven.send("2", None, 0);
        driven.arrive("2", true);
        assert!(driven.is_behind(driven.now), "the proof of a read");
    }

    // A heartbeat a few seconds, and a row that does not come: the fences must not pile up.
    #[test]
    fn a_second_fence_of_the_engine_that_proves_nothing_is_not_kept() {
        let mut driven = Driven::new();
        open_row(&mut driven.tables[0], 1);
        driven.send("1", None, 0);
        driven.send("2", None, 0);
        assert!(driven.arrive("1", false) && driven.arrive("2", false));
        driven.fences.drop_complete(&driven.tables, &driven.looks);
        assert!(driven.fences.has_token("1") && !driven.fences.has_token("2"));
    }

    #[test]
    fn fences_that_wait_for_rows_are_bounded_and_the_last_answers_all() {
        let mut driven = Driven::new();
        open_row(&mut driven.tables[0], 1);
        let last = 2 * OPEN as u64;
        for id in 1..=last {
            let token = id.to_string();
            driven.fences.want(FenceId(id), 0);
            driven.send(&token, Some(id), 0);
            driven.arrive(&token, false);
        }
        assert_eq!(driven.fences.sent.len(), OPEN);
        driven.tables[0].start_refetch(1);
        let snapshot = "200:200:".parse().expect("a snapshot");
        driven.tables[0].refetched(1, snapshot, 2);
        assert_eq!(driven.reached().last(), Some(&last));
        assert!(!driven.fences.is_awaited_for(TABLE));
    }

    // A reload that is asked for over and over would keep callers from ever being answered.
    #[test]
    fn a_read_answers_every_fence_that_was_asked_for_before_it_began() {
        let mut driven = Driven::new();
        driven.fences.want(FenceId(1), 1);
        driven.fences.want(FenceId(2), 1);
        driven.fences.want(FenceId(3), 2);
        assert_eq!(driven.fences.answer_by_read(TABLE, 1), None);
        let by_second = driven.fences.answer_by_read(TABLE, 2);
        assert_eq!(by_second, Some(FenceId(2)), "the third came too late");
        assert!(driven.fences.is_awaited_for(TABLE));
        let again = driven.fences.answer_by_read(TABLE, 2);
        assert_eq!(again, None, "said once");
        let by_third = driven.fences.answer_by_read(TABLE, 3);
        assert_eq!(by_third, Some(FenceId(3)));
        assert!(!driven.fences.is_awaited_for(TABLE));
    }

    #[test]
    fn callers_wait_on_when_the_connections_are_lost() {
        let mut driven = Driven::new();
        driven.fences.want(FenceId(1), 0);
        driven.fences.take_wanted();
        driven.send("1", Some(1), 0);
        driven.fences.disconnect();
        assert!(driven.fences.pending_tokens().is_empty());
        assert_eq!(
            (driven.fences.lag(), driven.fences.deadline()),
            (None, None)
        );
        assert!(!driven.arrive("1", false), "a token of the lost session");
        assert!(driven.fences.is_awaited_for(TABLE));
        assert_eq!(driven.fences.take_wanted(), Some(FenceId(1)), "sent anew");
        driven.send("2", Some(1), 0);
        driven.arrive("2", false);
        assert_eq!(driven.reached(), [1]);
    }

    // The commit that holds up one NOTIFY holds up those behind it. Those that are committed have
    // no such excuse.
    #[test]
    fn a_blocked_notify_gives_time_to_all_that_are_not_committed() {
        let mut driven = Driven::new();
        let deadline = driven.now + Duration::from_secs(30);
        let later = driven.now + Duration::from_secs(60);
        driven.send("1", Some(1), 0);
        driven.send("2", None, 0);
        driven.fences.blocked("1", later);
        assert_eq!(driven.fences.deadline(), Some(later));
        driven.fences.committed("2", deadline);
        driven.fences.blocked("1", later);
        assert_eq!(driven.fences.deadline(), Some(deadline));
        assert!(!driven.fences.have_all_arrived());
        assert_eq!(driven.fences.pending_tokens(), ["1", "2"]);
    }

    // A fence that was sent before the read's answer cannot prove the read.
    #[test]
    fn a_proof_is_underway_only_if_it_was_sent_after_the_last_answer() {
        let mut driven = Driven::new();
        driven.send("1", None, 0);
        assert!(driven.fences.is_proof_underway(1));
        assert!(!driven.fences.is_proof_underway(2));
        driven.arrive("1", true);
        assert!(!driven.fences.is_proof_underway(1));
    }
}
