//! [`Fences`]: the proof that everything which was committed before a moment has arrived.
//!
//! A fence is a token that F notifies on a channel of its own. PostgreSQL delivers notifications in
//! the order of the commits, so when the token reaches L, every change that was committed before
//! it has reached L as well.
//!
//! ```text
//! wanted ─ none is on its way to the server ─→ sent ─ token reaches L ─→ arrived ─→ reached
//!   many callers, one fence                      │                          │
//!                                                └ not in time: a gap       └ when its look is done, and the
//!                                                                             rows are there that it waits for
//! ```
//!
//! The engine sends fences of its own as well: one after each read of a table, which proves that
//! the changes that its snapshot filters have all arrived, and one a heartbeat, which shows that L
//! still hears.

use super::looks::Looks;
use super::table::EngineTable;
use super::{FenceId, Output, State, TableId};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many fences that have arrived may wait for rows or for tables that cannot be followed.
const OPEN: usize = 64;

/// A fence that was sent.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) token: String,
    /// The highest number that a caller asked for; `None` for a fence of the engine's own.
    pub(super) asked_by: Option<FenceId>,
    /// How many answers Q had given when the fence was sent.
    pub(super) after_reads: u64,
    pub(super) sent: Instant,
    pub(super) deadline: Instant,
    /// The look at the definitions that was asked for with the fence; 0 if nobody looks.
    pub(super) look: u64,
    /// Whether the server has committed the NOTIFY.
    is_committed: bool,
    arrival: Option<Arrival>,
}

/// How far the tables were when a fence arrived.
#[derive(Debug)]
struct Arrival {
    /// For each table, how many changes had been followed.
    changes: Vec<u64>,
    /// For each table, whether this fence proved its read. Such a table is not live before the rows
    /// are there that were open when the fence arrived.
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

    fn has_arrived(&self) -> bool {
        self.arrival.is_some()
    }

    /// Returns whether every change of `table` that arrived before this fence is in the cache, rows
    /// that were to be refetched included. False before the fence has arrived.
    fn is_complete_for(&self, table: usize, tables: &[EngineTable]) -> bool {
        self.arrival.as_ref().is_some_and(|arrival| {
            tables[table]
                .open_since()
                .is_none_or(|open_since| open_since > arrival.changes[table])
        })
    }

    fn is_complete(&self, tables: &[EngineTable]) -> bool {
        (0..tables.len()).all(|table| self.is_complete_for(table, tables))
    }

    /// Returns whether somebody waits for this fence and no table's read rests on it.
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
    /// How many reads of tables had begun. One that begins later has everything that was committed
    /// before the caller asked.
    started_reads: u64,
}

/// A fence that has arrived, and whose look is not done.
#[derive(Debug)]
struct Proof {
    look: u64,
    sent: Instant,
}

/// The fences that are wanted, on their way, and arrived.
#[derive(Debug)]
pub(super) struct Fences {
    sent: Vec<Fence>,
    /// The highest fence that was asked for and is not sent yet. It stands for all below.
    wanted: Option<FenceId>,
    /// The fences that were asked for and are not reached everywhere, in order.
    asked: VecDeque<Asked>,
    /// The highest fence that is reached for each table.
    reached: Vec<Option<FenceId>>,
    proofs: VecDeque<Proof>,
    /// When the last fence was sent that has arrived and whose look is done.
    proven_at: Option<Instant>,
    /// How long the last fence took.
    lag: Option<Duration>,
}

/// Facts about the fence that has just arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    /// How many answers Q had given when the fence was sent.
    pub(super) after_reads: u64,
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

    pub(super) fn lag(&self) -> Option<Duration> {
        self.lag
    }

    pub(super) fn proven_at(&self) -> Option<Instant> {
        self.proven_at
    }

    /// Notes that everything which was committed before `at` has arrived.
    pub(super) fn proven(&mut self, at: Instant) {
        self.proven_at = self.proven_at.max(Some(at));
    }

    /// Notes that a caller asks for a fence, when so many reads of tables had begun.
    pub(super) fn want(&mut self, id: FenceId, started_reads: u64) {
        self.wanted = self.wanted.max(Some(id));
        match self.asked.back_mut() {
            // Both are answered by the same read.
            Some(last) if last.started_reads == started_reads => last.id = last.id.max(id),
            _ => self.asked.push_back(Asked { id, started_reads }),
        }
    }

    /// Returns whether a caller waits for a fence that is not reached for `table`.
    pub(super) fn is_awaited_for(&self, table: TableId) -> bool {
        let reached = self.reached[table.0];
        self.asked.iter().any(|asked| Some(asked.id) > reached)
    }

    /// Returns the fence that is to be sent for callers, and takes it for sent.
    ///
    /// While one is on its way to the server none is sent: those that are asked for meanwhile are
    /// sent as one. A thousand callers cost a few notifications.
    pub(super) fn take_wanted(&mut self) -> Option<FenceId> {
        let is_sending = self
            .sent
            .iter()
            .any(|fence| fence.asked_by.is_some() && !fence.is_committed && !fence.has_arrived());
        if is_sending { None } else { self.wanted.take() }
    }

    /// Adds a fence that is sent.
    pub(super) fn push(&mut self, fence: Fence) {
        self.sent.push(fence);
    }

    /// Returns whether a fence with this token was sent and is not done with.
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

    /// Returns whether no fence is on its way.
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
    /// that holds it up holds up the ones behind it as well: all have time until `deadline`.
    pub(super) fn blocked(&mut self, token: &str, deadline: Instant) {
        for fence in &mut self.sent {
            if fence.token == token || !fence.is_committed {
                fence.deadline = deadline;
            }
        }
    }

    /// Returns facts about the fence with this token, which has just reached L, if one is awaited.
    /// [`arrived`](Self::arrived) must follow once they have been used.
    pub(super) fn find_arrived(&mut self, token: &str, now: Instant) -> Option<Arrived> {
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

    /// Notes that a fence has arrived; `proves` says for each table whether it proved its read.
    pub(super) fn arrived(&mut self, arrived: &Arrived, proves: Vec<bool>, tables: &[EngineTable]) {
        let mut at = arrived.at;
        // A fence that nobody asked for and that proves nothing new says no more than one that has
        // arrived already.
        let is_own = self.sent[at].asked_by.is_none();
        let has_own = self
            .sent
            .iter()
            .any(|fence| fence.asked_by.is_none() && fence.has_arrived());
        if is_own && has_own && !proves.contains(&true) {
            self.sent.remove(at);
            return;
        }
        // Of many fences that wait for the same rows the last one will do.
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

    /// Counts changes of `table` that waited for a read as if they had arrived before the fences
    /// that have arrived meanwhile: nobody knows of each which came first.
    pub(super) fn count_what_waited(&mut self, table: TableId, changes: u64) {
        for fence in &mut self.sent {
            if let Some(arrival) = &mut fence.arrival {
                arrival.changes[table.0] = changes;
            }
        }
    }

    /// Takes the fences whose looks are done for proofs.
    pub(super) fn note_proofs(&mut self, looks: &Looks) {
        while let Some(proof) = self.proofs.front()
            && looks.is_done(proof.look)
        {
            let sent = proof.sent;
            self.proofs.pop_front();
            self.proven(sent);
        }
    }

    /// Forgets the fences that were to be proofs: their looks will not be done.
    pub(super) fn forget_proofs(&mut self) {
        self.proofs.clear();
    }

    /// Returns the fence that the last read of `table` answers, the `read`th that began: the cache
    /// has everything that was committed before the read, and so before any fence that was asked
    /// for by then. Whether the table is live is another question.
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

    /// Lets go of the fences that nobody asked for and that have nothing to prove any more.
    pub(super) fn drop_complete(&mut self, tables: &[EngineTable], looks: &Looks) {
        self.sent.retain(|fence| {
            fence.asked_by.is_some()
                || !fence.has_arrived()
                || !looks.is_done(fence.look)
                || !fence.is_complete(tables)
        });
    }

    /// Says for which tables each fence that has arrived is reached, and lets go of those that are
    /// reached everywhere. With `needs_look` a fence counts once its look is done.
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

    /// Says that the wanted fence is reached for every table, without sending it: what an engine
    /// without [`Rule::Fence`](super::rules::Rule::Fence) would do.
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

    /// Returns whether `table` lacks rows that it needs in order to be live: rows that were open
    /// when the fence arrived which proved its read, or rows that were open a heartbeat ago, since
    /// nobody who reads is told of a row that takes long. Also while the look that belongs to the
    /// proof is not done.
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
            let is_open = needs.rows && !fence.is_complete_for(table.0, tables);
            is_open && (is_proof || fence.sent + heartbeat <= now)
        })
    }

    /// Returns when open rows of `table`, which is live, become too old for that.
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

    /// Notes that the connections are lost. Callers wait on: the next snapshot has everything that
    /// was committed before they asked.
    pub(super) fn disconnect(&mut self) {
        let asked = self.sent.drain(..).filter_map(|fence| fence.asked_by).max();
        self.wanted = self.wanted.max(asked);
        self.proofs.clear();
        self.lag = None;
    }
}

/// What a table needs in order to be live; all but in a test.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// The look that belongs to the fence which proved its read.
    pub(super) look: bool,
    /// The rows that were open when that fence arrived.
    pub(super) rows: bool,
}
