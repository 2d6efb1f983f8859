//! [`Replica::settle`]: the rows that a transaction has written are shown until the cache has them.

use crate::index_cache::Staged;
use crate::model::CacheModel;
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::handle::{Replica, ReplicaTable};
use crate::postgres::replica::task::Command;
use crate::postgres::replica::waiters::Wait;
use crate::transaction::TransactionToken;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

impl Replica {
    /// Takes over what a transaction has written in a table, once the transaction is committed:
    /// [`Staged::over`] shows the transaction's rows until the cache has them, and the cache's from
    /// then on. Does not wait for that.
    ///
    /// You see the transaction's rows until the cache is known to have them: for some milliseconds.
    /// In the last microseconds of that a later commit of others may be hidden by them, but not
    /// after a [`fence`](Self::fence). While the table is stale you go on to see the transaction's
    /// rows.
    ///
    /// Call this when the commit has returned. If the outcome of the commit is not known, because
    /// the connection was lost, call [`settle_unknown`](Self::settle_unknown). A future that is
    /// dropped before it returns may have done nothing: call this again.
    ///
    /// ```no_run
    /// use postgres_index_cache_core::{CacheModel, Replica, ReplicaTable, Staged, TransactionToken};
    /// use postgres_index_cache_core::{tokio_postgres, uuid::Uuid};
    /// # type Error = Box<dyn std::error::Error>;
    /// # #[derive(Clone, serde::Deserialize, CacheModel)]
    /// # struct User { #[cache(key)] id: Uuid, #[cache(index)] team: i64 }
    ///
    /// async fn move_to_team(
    ///     client: &mut tokio_postgres::Client,
    ///     replica: &Replica,
    ///     users: &ReplicaTable<User>,
    ///     user: User,
    /// ) -> Result<usize, Error> {
    ///     let mut written = Staged::new();
    ///     let transaction = client.transaction().await?;
    ///     let sql = "UPDATE users SET team = $2 WHERE id = …";
    ///     transaction.execute(sql, &[&user.team]).await?;
    ///     written.put(user.clone());
    ///     let token: String = transaction.query_one(TransactionToken::QUERY, &[]).await?.get(0);
    ///     // An error up to here rolls back, and what was written is forgotten.
    ///     transaction.commit().await?;
    ///     replica.settle(users, &mut written, token.parse()?).await?;
    ///
    ///     let rows = replica.read(users);
    ///     let team = written.over(&rows).find(|cache| cache.by_team(user.team)).count();
    ///     Ok(team) // the user is counted, wherever the notification is
    /// }
    /// ```
    ///
    /// # Errors
    /// If the replica has ended, or the table is of another one. The rows stay the transaction's
    /// then.
    pub async fn settle<T: CacheModel>(
        &self,
        table: &ReplicaTable<T>,
        written: &mut Staged<T>,
        transaction: TransactionToken,
    ) -> Result<(), Arc<ReplicaError>> {
        self.settle_if(table, written, transaction, true).await
    }

    /// Takes over what a transaction has written, as [`settle`](Self::settle) does, where nobody
    /// knows whether the transaction was committed, because the connection was lost meanwhile. If
    /// the transaction was rolled back, or is rolled back later, the cache alone is shown as soon
    /// as that is known.
    ///
    /// # Errors
    /// As [`settle`](Self::settle).
    pub async fn settle_unknown<T: CacheModel>(
        &self,
        table: &ReplicaTable<T>,
        written: &mut Staged<T>,
        transaction: TransactionToken,
    ) -> Result<(), Arc<ReplicaError>> {
        self.settle_if(table, written, transaction, false).await
    }

    /// Takes over what a transaction has written; `has_ended` says that it is known to have ended.
    async fn settle_if<T: CacheModel>(
        &self,
        table: &ReplicaTable<T>,
        written: &mut Staged<T>,
        transaction: TransactionToken,
        has_ended: bool,
    ) -> Result<(), Arc<ReplicaError>> {
        self.check_own(table)?;
        let (answer, answered) = oneshot::channel();
        let command = Command::Transaction {
            transaction,
            table: Some(table.at),
            waits: Some(Wait { has_ended }),
            answer,
        };
        self.send(command).await?;
        let answered = Mutex::new(answered);
        let is_settled = AtomicBool::new(false);
        written.settle_when(move || {
            // The task answers after it has let go of the cache, and whoever asks here has the
            // cache locked: so the rows are there.
            if is_settled.load(Ordering::Acquire) {
                return true;
            }
            // Only one caller finds the answer, and tells the others before they look for it.
            let mut answered = answered.lock();
            if answered.try_recv().is_ok() {
                is_settled.store(true, Ordering::Release);
            }
            is_settled.load(Ordering::Acquire)
        });
        Ok(())
    }
}
