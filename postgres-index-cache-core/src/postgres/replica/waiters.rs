//! [`FenceWaiter`] and [`TransactionWaiters`]: the callers who wait for what is committed to be in the
//! caches.

use crate::postgres::driver::Driver;
use crate::sync::{FenceId, State, TableId};
use crate::transaction::TransactionToken;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How a transaction is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// Whether the caller knows that the transaction has ended.
    pub(crate) has_ended: bool,
}

/// A fence that is waited for.
pub(super) struct AwaitedFence {
    pub(super) fence: FenceId,
    /// The table whose cache is waited for; `None` for all.
    pub(super) table: Option<usize>,
}

impl AwaitedFence {
    fn is_reached(&self, driver: &Driver) -> bool {
        match self.table {
            Some(table) => driver.has_reached_for(TableId(table), self.fence),
            None => driver.has_reached(self.fence),
        }
    }

    /// Returns whether the caches that are waited for are live.
    fn is_live(&self, driver: &Driver) -> bool {
        let state = match self.table {
            Some(table) => driver.table_state(TableId(table)),
            None => driver.state(),
        };
        state == State::Live
    }
}

/// A caller who waits for a fence.
pub(super) struct FenceWaiter {
    pub(super) fence: AwaitedFence,
    pub(super) reached: oneshot::Sender<()>,
}

impl FenceWaiter {
    pub(super) fn is_reached(&self, driver: &Driver) -> bool {
        self.fence.is_reached(driver)
    }
}

/// A caller who waits for a transaction.
struct TransactionWaiter {
    transaction: TransactionToken,
    /// The table whose cache is waited for; `None` for all.
    table: Option<usize>,
    /// The fence that was asked for; `None` if another one is to be asked for.
    asked: Option<AskedFence>,
    answer: oneshot::Sender<bool>,
}

/// A fence that was asked for because of a transaction.
struct AskedFence {
    fence: AwaitedFence,
    /// Whether the transaction was known to have ended before that. Then the fence comes behind
    /// everything that the transaction has announced.
    has_ended: bool,
}

/// What is known of a transaction that is waited for.
enum Known {
    /// The caches have the transaction.
    Reached,
    /// The fence that was asked for is not reached, or something that it has brought is to come.
    NotYet,
    /// The fence is reached and does not tell: another one must be asked for.
    Untold,
}

impl TransactionWaiter {
    fn known(&self, driver: &Driver) -> Known {
        if has_transaction(driver, self.table, self.transaction) {
            return Known::Reached;
        }
        let Some(AskedFence { fence, has_ended }) = &self.asked else {
            return Known::Untold;
        };
        if !fence.is_reached(driver) {
            return Known::NotYet;
        }
        if *has_ended {
            return Known::Reached;
        }
        let xid = self.transaction.xid();
        // While a table waits to be reloaded, what is on the way may not be enough.
        if driver.engine().is_proving_transaction(xid) && fence.is_live(driver) {
            Known::NotYet
        } else {
            Known::Untold
        }
    }
}

/// Returns whether everything that a transaction has committed is in the cache of a table, or of
/// all tables if that is `None`.
fn has_transaction(driver: &Driver, table: Option<usize>, transaction: TransactionToken) -> bool {
    match table {
        Some(table) => driver.has_transaction_for(TableId(table), transaction),
        None => driver.has_transaction(transaction),
    }
}

/// The callers who wait for transactions.
///
/// A fence is asked for with each question. If the transaction is in progress then, one fence after
/// another is asked for, for all of them together.
pub(crate) struct TransactionWaiters {
    waiters: Vec<TransactionWaiter>,
    /// When the next fence is asked for; `None` if nobody needs one.
    retry_at: Option<Instant>,
    /// How long to wait before the fence behind that one.
    wait: Duration,
}

impl TransactionWaiters {
    /// The wait before the first fence that is asked for again.
    const SHORTEST: Duration = Duration::from_millis(1);
    /// The longest wait. It bounds what tokens cost that somebody has made up.
    const LONGEST: Duration = Duration::from_millis(250);

    pub(crate) fn new() -> Self {
        Self {
            waiters: Vec::new(),
            retry_at: None,
            wait: Self::SHORTEST,
        }
    }

    /// Takes a question for a transaction. With `waits` the answer comes once it is yes. If the
    /// driver has ended, the answer's channel is dropped.
    ///
    /// Those who asked before are answered first: whoever is told of a transaction may rely on what
    /// was committed before it being known as well.
    pub(crate) fn ask(
        &mut self,
        transaction: TransactionToken,
        table: Option<usize>,
        waits: Option<Wait>,
        answer: oneshot::Sender<bool>,
        driver: &mut Driver,
    ) {
        let has = has_transaction(driver, table, transaction);
        let Some(wait) = waits.filter(|_| !has) else {
            self.answer(driver);
            // Whoever asked may have given up.
            let _ = answer.send(has);
            return;
        };
        let has_ended = wait.has_ended || driver.engine().has_ended_transaction(transaction.xid());
        if let Ok(fence) = driver.ask_for_transaction(false) {
            let fence = AwaitedFence { fence, table };
            self.waiters.push(TransactionWaiter {
                transaction,
                table,
                asked: Some(AskedFence { fence, has_ended }),
                answer,
            });
        }
    }

    /// Answers those whose transactions are reached, and sets when to ask for a fence again.
    pub(crate) fn answer(&mut self, driver: &Driver) {
        for mut waiter in std::mem::take(&mut self.waiters) {
            match waiter.known(driver) {
                Known::Reached => {
                    let _ = waiter.answer.send(true);
                    continue;
                }
                Known::NotYet => {}
                Known::Untold => waiter.asked = None,
            }
            if !waiter.answer.is_closed() {
                self.waiters.push(waiter);
            }
        }
        if self.waiters.iter().all(|waiter| waiter.asked.is_some()) {
            self.retry_at = None;
            self.wait = Self::SHORTEST;
        } else if self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.wait);
            self.wait = (self.wait * 2).min(Self::LONGEST);
        }
    }

    /// Waits until a fence is to be asked for again; for ever if nobody needs one.
    pub(crate) async fn retry(&self) {
        match self.retry_at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Asks for one more fence for all whose fences do not tell.
    pub(crate) fn ask_again(&mut self, driver: &mut Driver) {
        self.retry_at = None;
        let mut untold: Vec<(&mut TransactionWaiter, bool)> = Vec::new();
        for waiter in &mut self.waiters {
            if waiter.asked.is_none() {
                let xid = waiter.transaction.xid();
                let has_ended = driver.engine().has_ended_transaction(xid);
                untold.push((waiter, has_ended));
            }
        }
        // For transactions that may be made up no table is reloaded sooner.
        let has_any_ended = untold.iter().any(|(_, has_ended)| *has_ended);
        let Ok(fence) = driver.ask_for_transaction(!has_any_ended) else {
            return;
        };
        for (waiter, has_ended) in untold {
            let table = waiter.table;
            let fence = AwaitedFence { fence, table };
            waiter.asked = Some(AskedFence { fence, has_ended });
        }
    }
}
