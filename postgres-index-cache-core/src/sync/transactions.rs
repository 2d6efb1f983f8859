//! [`Transactions`]: the transactions that have arrived whole, for a caller who waits for one.
//!
//! The order of transaction ids is not the order of commits, so the highest id that was heard says
//! nothing of a lower one. A transaction is known in one of two ways:
//!
//! ```text
//! by its notifications   they came, and behind them came one of another transaction
//! by a snapshot          F took it in front of a token, which came; a look behind it is done
//! ```
//!
//! - PostgreSQL puts the notifications of a transaction into the queue one behind the other, and
//!   holds a lock until the commit is done. So one of another transaction is behind them all.
//! - A transaction leaves the snapshots only after its notifications are in the queue. So the
//!   token's are behind those of every transaction that had ended by the snapshot.
//!
//! That a transaction has arrived does not mean that the caches have it. A table's cache has it
//! while the table is live, and no row of the table is open.

use super::hashing::SeededState;
use super::looks::Looks;
use super::rules::{Rule, Rules};
use super::snapshot::Snapshot;
use crate::transaction::TransactionToken;
use std::collections::{HashMap, VecDeque};

/// The most transactions that are kept: at ten thousand a second those of the last 0.4 seconds. For
/// an older one a fence is sent, whose snapshot then answers for all of its time.
const WHOLE: usize = 4096;

/// The most tokens that may be on their way. If there are more, the snapshots of the oldest do not
/// count.
const TOKENS: usize = 64;

/// A transaction that was heard: its id, and the server's process that sent its notifications.
/// PostgreSQL itself says which process that was, and any role can send a payload with the id of
/// another's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Heard {
    xid: u64,
    sender: i32,
}

/// A set of tables: a bit for each, up to the 64th.
type Tables = u64;

/// Returns the set of one table; an empty one for a table past the 64th.
fn bit_of(table: usize) -> Tables {
    u32::try_from(table)
        .ok()
        .and_then(|table| 1_u64.checked_shl(table))
        .unwrap_or_default()
}

/// A token that F was asked to send.
#[derive(Debug)]
struct SentToken {
    token: String,
    /// Whether somebody waits for a transaction, and so for the look behind the snapshot.
    is_awaited: bool,
    /// The snapshot that F has taken in front of the token. The answer with the snapshot and the
    /// token come over two connections, in either order.
    snapshot: Option<LookedSnapshot>,
    has_arrived: bool,
}

/// A snapshot, with the number of the first look that begins behind it.
///
/// The look that goes with the fence does not do. Otherwise:
/// 1. A fence is asked for, and a look. The look finds every trigger enabled.
/// 2. Somebody disables a trigger. T updates a row and commits.
/// 3. F takes the snapshot, which sees that T has ended, and sends the token.
/// 4. The token comes. T would count as arrived, though nobody has announced its update.
#[derive(Debug)]
struct LookedSnapshot {
    snapshot: Snapshot,
    look: u64,
}

/// The transactions that have arrived.
#[derive(Debug)]
pub(super) struct Transactions {
    /// The transaction whose notification came last, and the tables of which it has announced a
    /// change. More of its notifications may follow.
    arriving: Option<(Heard, Tables)>,
    /// The transactions all of whose notifications have come, each with its tables.
    whole: HashMap<Heard, Tables, SeededState>,
    /// The same transactions, in order.
    order: VecDeque<Heard>,
    /// The tokens whose snapshots do not count yet, in the order in which F was asked for them. They
    /// may come in another order.
    tokens: VecDeque<SentToken>,
    /// Whether the next token that is sent for callers is for one who waits for a transaction.
    is_wanted: bool,
    /// The last snapshot whose token has come.
    ended: Option<Snapshot>,
    /// The last snapshot whose token has come, and behind which a look is done.
    horizon: Option<Snapshot>,
    rules: Rules,
}

impl Transactions {
    /// Returns the transactions of an engine that has heard nothing yet.
    pub(super) fn new(hashing: SeededState) -> Self {
        Self {
            arriving: None,
            whole: HashMap::with_hasher(hashing),
            order: VecDeque::new(),
            tokens: VecDeque::new(),
            is_wanted: false,
            ended: None,
            horizon: None,
            rules: Rules::default(),
        }
    }

    /// Sets which rules are in force.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Notes a notification of the transaction `xid`; `None` if the payload does not say.
    pub(super) fn hear(&mut self, xid: Option<u64>, sender: i32) {
        let is_same = self.arriving.is_some_and(|(arriving, _)| {
            arriving.sender == sender && xid.is_none_or(|xid| xid == arriving.xid)
        });
        if !is_same {
            self.end_arriving();
            self.arriving = xid.map(|xid| (Heard { xid, sender }, 0));
        }
    }

    /// Notes that the notification which came last, and which named its transaction, announces a
    /// change of a table.
    pub(super) fn announces(&mut self, table: usize) {
        if let Some((_, tables)) = &mut self.arriving {
            *tables |= bit_of(table);
        }
    }

    /// Notes that a notification of another transaction has come.
    fn end_arriving(&mut self) {
        let Some((heard, tables)) = self.arriving.take() else {
            return;
        };
        if self.order.len() == WHOLE
            && let Some(oldest) = self.order.pop_front()
        {
            self.whole.remove(&oldest);
        }
        self.order.push_back(heard);
        self.whole.insert(heard, tables);
    }

    /// Notes that somebody waits for a transaction and asks for a fence.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Notes that F is asked to send a token, for callers or for the engine itself.
    pub(super) fn token_sent(&mut self, token: &str, is_for_callers: bool) {
        if self.tokens.len() == TOKENS {
            self.tokens.pop_front();
        }
        self.tokens.push_back(SentToken {
            token: token.to_string(),
            is_awaited: is_for_callers && std::mem::take(&mut self.is_wanted),
            snapshot: None,
            has_arrived: false,
        });
    }

    /// Notes that F is lost. The answers to its tokens will not come, so a token that has come
    /// brings no snapshot any more. F sends those again that have not come, and their snapshots do
    /// not count.
    ///
    /// Otherwise:
    /// 1. F sends a token, and is lost before the server's answer comes.
    /// 2. F, opened again, takes the snapshot S and sends the token again.
    /// 3. The first token comes. S would count, though notifications of transactions that S sees
    ///    as ended are still on their way, in front of the second token.
    pub(super) fn sender_lost(&mut self) {
        self.tokens
            .retain(|sent| sent.has_arrived && sent.snapshot.is_some());
    }

    /// Notes the snapshot that F has taken in front of a token, in the transaction of the token or
    /// earlier. `look` is the first look that begins from now on.
    pub(super) fn snapshot_taken(&mut self, token: &str, snapshot: Snapshot, look: u64) {
        // Rule::Horizon. Without this:
        // 1. T commits. Its notification is on its way.
        // 2. F takes a snapshot, which sees that T has ended.
        // 3. T counts as arrived, and whoever waits for T reads the old row.
        if !self.rules.keeps(Rule::Horizon) {
            self.horizon = Some(snapshot);
            return;
        }
        // The first one: it was taken in front of any NOTIFY of the token.
        let sent = self.tokens.iter_mut().find(|sent| sent.token == token);
        if let Some(sent) = sent.filter(|sent| sent.snapshot.is_none()) {
            sent.snapshot = Some(LookedSnapshot { snapshot, look });
        }
    }

    /// Returns whether the look behind the snapshot of a token must not wait for the next fence.
    pub(super) fn is_look_awaited(&self, token: &str) -> bool {
        self.tokens
            .iter()
            .any(|sent| sent.token == token && sent.is_awaited)
    }

    /// Notes that the server's answer to a token has no snapshot.
    pub(super) fn snapshot_missing(&mut self, token: &str) {
        self.tokens.retain(|sent| sent.token != token);
    }

    /// Returns whether more will soon be known of a transaction. A token has come, and the snapshot in
    /// front of the token is still to come; or that snapshot sees that the transaction has ended, and
    /// the look behind was asked for.
    pub(super) fn is_being_proven(&self, xid: u64, looks: &Looks) -> bool {
        let arrived = self.tokens.iter().filter(|sent| sent.has_arrived);
        let mut snapshots = arrived.map(|sent| sent.snapshot.as_ref());
        snapshots.any(|known| {
            known.is_none_or(|known| known.snapshot.sees(xid) && looks.is_coming(known.look))
        })
    }

    /// Notes that L has received a token of F or Q, which are sessions of their own.
    pub(super) fn token_arrived(&mut self, token: &str) {
        self.end_arriving();
        if let Some(sent) = self.tokens.iter_mut().find(|sent| sent.token == token) {
            sent.has_arrived = true;
        }
    }

    /// Makes the snapshots count whose tokens have come, as far as their looks are done.
    pub(super) fn settle(&mut self, looks: &Looks) {
        let known = self
            .tokens
            .iter()
            .rev()
            .filter(|sent| sent.has_arrived)
            .find_map(|sent| sent.snapshot.as_ref());
        if let Some(known) = known {
            self.ended = Some(known.snapshot.clone());
        }
        // A snapshot stands for those of earlier tokens, which are dropped, come or not.
        let proven = self.tokens.iter().rposition(|sent| {
            let is_looked_at = |known: &LookedSnapshot| looks.is_done(known.look);
            sent.has_arrived && sent.snapshot.as_ref().is_some_and(is_looked_at)
        });
        if let Some(last) = proven {
            let last = self.tokens.drain(..=last).next_back();
            let known = last.and_then(|sent| sent.snapshot);
            self.horizon = known.map(|known| known.snapshot);
        }
    }

    /// Forgets everything, since notifications are lost and the next server may be another one.
    pub(super) fn forget(&mut self) {
        self.arriving = None;
        self.whole.clear();
        self.order.clear();
        self.tokens.clear();
        self.is_wanted = false;
        self.ended = None;
        self.horizon = None;
    }

    /// Returns whether a transaction has committed or was rolled back before the last token that
    /// has come was sent.
    pub(super) fn has_ended(&self, xid: u64) -> bool {
        let sees = |snapshot: &Option<Snapshot>| {
            snapshot.as_ref().is_some_and(|snapshot| snapshot.sees(xid))
        };
        sees(&self.ended) || sees(&self.horizon)
    }

    /// Returns whether everything has arrived that a transaction has committed in a table. True as
    /// well for one that was rolled back.
    pub(super) fn has_arrived(&self, transaction: TransactionToken, table: usize) -> bool {
        let xid = transaction.xid();
        if self
            .horizon
            .as_ref()
            .is_some_and(|horizon| horizon.sees(xid))
        {
            return true;
        }
        let Some(sender) = transaction.process() else {
            return false;
        };
        let heard = Heard { xid, sender };
        let announces = |tables: Tables| tables & bit_of(table) != 0;
        // Rule::Whole. Without this:
        // 1. T updates rows 1 and 2, and commits. The notification of row 1 arrives.
        // 2. T counts as arrived.
        // 3. Whoever waits for T reads the old row 2.
        let is_arriving = !self.rules.keeps(Rule::Whole)
            && self
                .arriving
                .is_some_and(|(arriving, tables)| arriving == heard && announces(tables));
        is_arriving
            || self
                .whole
                .get(&heard)
                .is_some_and(|&tables| announces(tables))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: usize = 0;

    fn transactions() -> Transactions {
        Transactions::new(SeededState::new(1))
    }

    fn token(xid: u64) -> TransactionToken {
        TransactionToken::new(xid, 1)
    }

    /// Hears a change of the table by a transaction.
    fn hear(transactions: &mut Transactions, xid: u64, sender: i32) {
        transactions.hear(Some(xid), sender);
        transactions.announces(TABLE);
    }

    fn snapshot(text: &str) -> Snapshot {
        text.parse().expect("a snapshot")
    }

    #[test]
    fn a_transaction_has_arrived_once_another_one_is_heard() {
        let mut transactions = transactions();
        hear(&mut transactions, 7, 1);
        hear(&mut transactions, 7, 1);
        assert!(
            !transactions.has_arrived(token(7), TABLE),
            "more may follow"
        );
        hear(&mut transactions, 8, 2);
        assert!(transactions.has_arrived(token(7), TABLE));
        assert!(
            !transactions.has_arrived(token(7), 1),
            "it may be silent there"
        );
        assert!(
            !transactions.has_arrived(token(6), TABLE),
            "a lower id is another"
        );
        transactions.token_arrived("1");
        assert!(transactions.has_arrived(TransactionToken::new(8, 2), TABLE));
    }

    // Any role can notify with the id of a transaction that it sees in a row's xmin.
    #[test]
    fn a_transaction_that_another_process_names_has_not_arrived() {
        let mut transactions = transactions();
        hear(&mut transactions, 7, 2);
        hear(&mut transactions, 8, 2);
        assert!(!transactions.has_arrived(token(7), TABLE));
        assert!(!transactions.has_arrived(7.into(), TABLE));
    }

    // The plain form names no transaction: it may be this one's or the next one's.
    #[test]
    fn a_plain_payload_of_the_same_process_ends_nothing() {
        let mut transactions = transactions();
        hear(&mut transactions, 7, 1);
        transactions.hear(None, 1);
        assert!(!transactions.has_arrived(token(7), TABLE));
        transactions.hear(None, 2);
        assert!(transactions.has_arrived(token(7), TABLE));
    }

    #[test]
    fn the_oldest_transactions_are_forgotten() {
        let mut transactions = transactions();
        let last = WHOLE as u64 + 1;
        for xid in 0..=last {
            hear(&mut transactions, xid, 1);
        }
        assert!(!transactions.has_arrived(token(0), TABLE));
        assert!(transactions.has_arrived(token(1), TABLE));
        assert_eq!(transactions.whole.len(), WHOLE);
        assert_eq!(transactions.order.len(), WHOLE);
    }

    #[test]
    fn a_snapshot_counts_once_its_token_has_come_and_a_look_behind_it_is_done() {
        let mut looks = Looks::default();
        let look = looks.want();
        looks.start(std::time::Instant::now());
        let mut transactions = transactions();
        transactions.token_sent("1", true);
        transactions.snapshot_taken("1", snapshot("5:9:5"), look);
        transactions.settle(&looks);
        assert!(!transactions.has_ended(6));
        transactions.token_arrived("1");
        transactions.settle(&looks);
        assert!(transactions.has_ended(6) && !transactions.has_ended(5));
        assert!(
            !transactions.has_arrived(6.into(), TABLE),
            "nobody has looked"
        );
        looks.finish(look);
        transactions.settle(&looks);
        assert!(transactions.has_arrived(6.into(), TABLE));
        assert!(transactions.has_arrived(6.into(), 99), "for every table");
        assert!(
            !transactions.has_arrived(5.into(), TABLE),
            "it was in progress"
        );
        assert!(!transactions.has_arrived(9.into(), TABLE), "it began later");
        transactions.forget();
        assert!(!transactions.has_arrived(6.into(), TABLE) && !transactions.has_ended(6));
    }

    #[test]
    fn a_token_may_come_before_the_answer_with_its_snapshot() {
        let looks = Looks::default();
        let mut transactions = transactions();
        transactions.token_sent("1", true);
        transactions.token_arrived("1");
        transactions.settle(&looks);
        assert!(!transactions.has_ended(6) && transactions.is_being_proven(6, &looks));
        transactions.snapshot_taken("1", snapshot("7:7:"), 0);
        transactions.settle(&looks);
        assert!(transactions.has_arrived(6.into(), TABLE));
        assert!(!transactions.is_being_proven(6, &looks));
    }

    // See `sender_lost`.
    #[test]
    fn the_snapshot_of_a_token_that_is_sent_again_does_not_count() {
        let looks = Looks::default();
        let mut transactions = transactions();
        transactions.token_sent("1", true);
        transactions.sender_lost();
        transactions.snapshot_taken("1", snapshot("7:7:"), 0);
        transactions.token_arrived("1");
        transactions.settle(&looks);
        assert!(!transactions.has_ended(6) && !transactions.is_being_proven(6, &looks));
    }

    // The next heartbeat asks for that look, and until then nobody would be told anything.
    #[test]
    fn a_look_that_nobody_asked_for_is_not_waited_for() {
        let looks = Looks::default();
        let mut transactions = transactions();
        transactions.token_sent("1", false);
        transactions.token_arrived("1");
        transactions.snapshot_taken("1", snapshot("7:7:"), looks.next());
        transactions.settle(&looks);
        assert!(transactions.has_ended(6) && !transactions.is_being_proven(6, &looks));
        transactions.token_sent("2", true);
        transactions.token_arrived("2");
        assert!(transactions.is_being_proven(6, &looks));
        transactions.snapshot_missing("2");
        assert!(!transactions.is_being_proven(6, &looks));
    }

    // A look more a fence would keep the looks of the next fences waiting.
    #[test]
    fn a_look_behind_a_snapshot_is_asked_for_by_who_waits_for_a_transaction() {
        let mut transactions = transactions();
        transactions.want();
        transactions.token_sent("1", false);
        assert!(!transactions.is_look_awaited("1"), "the engine's own");
        transactions.token_sent("2", true);
        transactions.token_sent("3", true);
        assert!(transactions.is_look_awaited("2") && !transactions.is_look_awaited("3"));
    }
}
