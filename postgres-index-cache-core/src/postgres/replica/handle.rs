//! [`Replica`], [`ReplicaTable`] and [`ReadGuard`]: what an application holds in its hands.

use crate::index_cache::IdxModelCache;
use crate::model::CacheModel;
use crate::notification::Key;
use crate::postgres::apply::models::{Model, ModelCache};
use crate::postgres::driver::Verification;
use crate::postgres::replica::changes::Changes;
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::events::{Events, ReplicaEvent};
use crate::postgres::replica::health::Health;
use crate::postgres::replica::objects::Objects;
use crate::postgres::replica::status::{ReplicaStatus, SharedStatus, Stats, TableStatus};
use crate::postgres::replica::task::Command;
use crate::postgres::replica::waiters::Wait;
use crate::transaction::TransactionToken;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{Instrument as _, Span, field};

/// A table of a replica, whose rows are of the model `T`. Clones are handles of the same table.
pub struct ReplicaTable<T: CacheModel> {
    pub(super) cache: Arc<RwLock<ModelCache<T>>>,
    /// The table's place in the replica.
    pub(super) at: usize,
    /// The number of the replica that the table belongs to.
    pub(super) replica: u64,
}

impl<T: CacheModel> fmt::Debug for ReplicaTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaTable").finish_non_exhaustive()
    }
}

impl<T: CacheModel> Clone for ReplicaTable<T> {
    fn clone(&self) -> Self {
        Self {
            cache: Arc::clone(&self.cache),
            at: self.at,
            replica: self.replica,
        }
    }
}

/// The rows of a table and their status. They do not change while the guard is held.
///
/// Hold a guard for a look-up or an iteration, not longer, and not over an `await`: changes are
/// collected by key meanwhile, and the table is not live until the guard is dropped.
#[must_use = "a guard that is dropped at once has locked the cache for nothing"]
pub struct ReadGuard<'a, T: CacheModel> {
    cache: RwLockReadGuard<'a, ModelCache<T>>,
    table: TableStatus,
}

impl<T: CacheModel> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadGuard")
            .field("status", &self.table.status)
            .finish_non_exhaustive()
    }
}

impl<T: CacheModel> Deref for ReadGuard<'_, T> {
    type Target = IdxModelCache<T>;

    fn deref(&self) -> &IdxModelCache<T> {
        &self.cache.rows
    }
}

impl<T: CacheModel> ReadGuard<'_, T> {
    /// Returns the status of the table when it was locked.
    pub fn status(&self) -> &ReplicaStatus {
        &self.table.status
    }

    /// Returns whether every row is the table's as of the last fence or later.
    pub fn is_live(&self) -> bool {
        self.table.status.is_live()
    }

    /// Returns whether the rows are the table's as of the last fence or later, except for rows that
    /// do not fit the model: [`misfits`](Self::misfits) has those.
    pub fn is_current(&self) -> bool {
        self.table.is_current
    }

    /// Returns the keys of the rows that do not fit the model and are kept out, with the reasons.
    /// The reason is empty past the first thousand.
    pub fn misfits(&self) -> impl ExactSizeIterator<Item = (Key, &str)> {
        self.cache.misfits()
    }
}

/// An application's typed caches, kept in step with their tables by a task of their own.
///
/// A replica is `Send` and `Sync`; share it as an `Arc<Replica>`. When the last handle is dropped
/// its task ends.
///
/// ```no_run
/// use postgres_index_cache_core::{Connector, HasPrimaryKey, Indexable, Replica};
/// # use std::collections::HashMap;
/// # use uuid::Uuid;
/// # #[derive(serde::Deserialize)] struct User { id: Uuid, username_hash: i64 }
/// # impl HasPrimaryKey for User { fn primary_key(&self) -> Uuid { self.id } }
/// # impl Indexable for User {
/// #     fn i64_keys(&self) -> HashMap<String, Option<i64>> { HashMap::new() }
/// #     fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> { HashMap::new() }
/// # }
/// # async fn node(connector: impl Connector + 'static) -> Result<(), Box<dyn std::error::Error>> {
/// let mut builder = Replica::builder(connector);
/// let users = builder.table::<User>("users");
/// let replica = builder.open().await?;
/// // … write something to the database, then:
/// replica.fence().await?;
/// let rows = replica.read(&users);
/// println!("{} users, {}", rows.len(), rows.status());
/// # drop(rows);
/// replica.shutdown().await;
/// # Ok(()) }
/// ```
pub struct Replica {
    pub(super) status: Arc<Mutex<SharedStatus>>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) events: broadcast::Sender<ReplicaEvent>,
    /// The task, until somebody waits for its end.
    pub(super) task: Mutex<Option<JoinHandle<()>>>,
    /// The number that the replica's tables have.
    pub(super) number: u64,
    /// Whether the replica follows a log, and not PostgreSQL itself.
    #[cfg(feature = "nats")]
    pub(super) is_over_log: bool,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.get_mut().take().inspect(JoinHandle::abort);
    }
}

impl Replica {
    /// Locks the rows of a table for reading, with their status. Waits for one batch of changes at
    /// most, never for the network.
    ///
    /// A table of another replica is never live: its status is [`ReplicaStatus::Ended`] with
    /// [`ReplicaError::OtherReplica`].
    pub fn read<'a, T: CacheModel>(&self, table: &'a ReplicaTable<T>) -> ReadGuard<'a, T> {
        let cache = table.cache.read();
        // Read the status while holding the cache's lock. The task publishes that a table is not
        // live before it changes a row, so a reader never sees changed rows under an old `Live`.
        let status = if table.replica == self.number {
            let published = self.status.lock().table(table.at);
            // The failure that empties a cache is known first to who has the lock.
            if cache.is_emptied() && published.is_current {
                TableStatus {
                    status: ReplicaStatus::Loading,
                    is_current: false,
                }
            } else {
                published
            }
        } else {
            TableStatus {
                status: ReplicaStatus::Ended {
                    error: Arc::new(ReplicaError::OtherReplica),
                },
                is_current: false,
            }
        };
        ReadGuard {
            cache,
            table: status,
        }
    }

    /// Returns the status of the replica: that of its worst table.
    pub fn status(&self) -> ReplicaStatus {
        self.status.lock().status()
    }

    /// Returns whether every cache is its table as of the last fence or later.
    pub fn is_live(&self) -> bool {
        self.status().is_live()
    }

    /// Returns figures: lag, last transaction id, counts.
    pub fn stats(&self) -> Stats {
        self.status.lock().stats
    }

    /// Returns the status of each table with its size, and the figures: an answer for a health
    /// endpoint. Asks the server nothing, and waits for no cache: all is as the task last published
    /// it, and the sizes are up to a second old.
    pub fn health(&self) -> Health {
        Health::new(&self.status.lock())
    }

    /// Waits until everything that was committed before this call is in the caches, and the
    /// definitions of the tables were looked at since. So an application reads what it wrote.
    ///
    /// A gap is waited out, and so is a table that cannot be followed: put a timeout around the
    /// call if that may take too long.
    ///
    /// # Errors
    /// If the replica has ended.
    pub async fn fence(&self) -> Result<(), Arc<ReplicaError>> {
        self.fence_of(None).await
    }

    /// Waits as [`fence`](Self::fence) does, for the cache of one table. Other tables, which may
    /// not be followed now, are not waited for.
    ///
    /// # Errors
    /// If the replica has ended, or the table is of another one.
    pub async fn fence_for<T: CacheModel>(
        &self,
        table: &ReplicaTable<T>,
    ) -> Result<(), Arc<ReplicaError>> {
        self.check_own(table)?;
        self.fence_of(Some(table.at)).await
    }

    async fn fence_of(&self, table: Option<usize>) -> Result<(), Arc<ReplicaError>> {
        let fence = async {
            let (reached, is_reached) = oneshot::channel();
            self.send(Command::Fence { table, reached }).await?;
            is_reached.await.map_err(|_| self.ended())
        };
        let span = tracing::debug_span!("replica.fence", table = field::Empty);
        fence.instrument(self.span_of(span, table)).await
    }

    /// Returns a span with the name of the table that it is about, if it is about one.
    fn span_of(&self, span: Span, table: Option<usize>) -> Span {
        if let Some(at) = table
            && !span.is_disabled()
        {
            span.record("table", &*self.status.lock().names[at]);
        }
        span
    }

    /// Returns whether everything that a transaction has committed is in the caches. Asks the server
    /// nothing.
    ///
    /// False also means that nobody knows: [`wait_for`](Self::wait_for) then asks. Known are a
    /// transaction that has announced a change of every table of the replica, and one that had ended
    /// when a fence was sent behind which a look at the definitions was made: that of an earlier
    /// wait, or of the last heartbeat but one. [`reached_in`](Self::reached_in) knows more, since
    /// only one table is asked about.
    ///
    /// # Errors
    /// If the replica has ended.
    pub async fn reached(&self, transaction: TransactionToken) -> Result<bool, Arc<ReplicaError>> {
        self.ask_for(transaction, None, false).await
    }

    /// Returns whether everything that a transaction has committed in a table is in the cache. Asks
    /// the server nothing.
    ///
    /// Known are a transaction whose notifications of the table have come, with another
    /// transaction's behind them, and those that [`reached`](Self::reached) knows. The former counts
    /// by what was announced, under the definitions as of the last look: DDL in the transaction, or
    /// by somebody since the look, is found with the next heartbeat.
    ///
    /// # Errors
    /// If the replica has ended, or the table is of another one.
    pub async fn reached_in<T: CacheModel>(
        &self,
        table: &ReplicaTable<T>,
        transaction: TransactionToken,
    ) -> Result<bool, Arc<ReplicaError>> {
        self.check_own(table)?;
        self.ask_for(transaction, Some(table.at), false).await
    }

    /// Waits until everything that a transaction has committed is in the caches: whoever is handed
    /// its token reads what it wrote, on any node.
    ///
    /// Returns at once if [`reached`](Self::reached) says so. Otherwise one fence is sent, as
    /// [`fence`](Self::fence) does, which many callers share. If that does not tell, because the
    /// transaction is still in progress or a connection was lost, further ones follow: in the long
    /// run four a second at most, for all callers together. A transaction that is rolled back has
    /// committed nothing, and is not waited for.
    ///
    /// ```no_run
    /// use postgres_index_cache_core::{Replica, ReplicaError, TransactionToken, tokio_postgres};
    /// # use std::sync::Arc;
    /// # type Error = Box<dyn std::error::Error>;
    ///
    /// // On the node that writes:
    /// async fn write(client: &mut tokio_postgres::Client) -> Result<String, Error> {
    ///     let transaction = client.transaction().await?;
    ///     transaction.execute("UPDATE users SET username = 'bob' WHERE id = …", &[]).await?;
    ///     let token: String = transaction.query_one(TransactionToken::QUERY, &[]).await?.get(0);
    ///     transaction.commit().await?;
    ///     Ok(token) // into a header or a cookie
    /// }
    ///
    /// // On the node that reads:
    /// async fn read(replica: &Replica, token: &str) -> Result<(), Error> {
    ///     let patience = std::time::Duration::from_secs(2);
    ///     tokio::time::timeout(patience, replica.wait_for(token.parse()?)).await??;
    ///     // the caches have the update
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The future may be dropped at any point. Put a timeout around it, since a token that nobody
    /// gave may be waited for without end.
    ///
    /// # Errors
    /// If the replica has ended.
    pub async fn wait_for(&self, transaction: TransactionToken) -> Result<(), Arc<ReplicaError>> {
        let waiting = self.ask_for(transaction, None, true);
        let span = tracing::debug_span!("replica.wait_for", transaction = %transaction);
        waiting.instrument(span).await?;
        Ok(())
    }

    /// Waits as [`wait_for`](Self::wait_for) does, for the cache of one table. Other tables, which
    /// may not be followed now, are not waited for.
    ///
    /// # Errors
    /// If the replica has ended, or the table is of another one.
    pub async fn wait_for_in<T: CacheModel>(
        &self,
        table: &ReplicaTable<T>,
        transaction: TransactionToken,
    ) -> Result<(), Arc<ReplicaError>> {
        self.check_own(table)?;
        let waiting = self.ask_for(transaction, Some(table.at), true);
        let span = tracing::debug_span!(
            "replica.wait_for",
            table = field::Empty,
            transaction = %transaction
        );
        let span = self.span_of(span, Some(table.at));
        waiting.instrument(span).await?;
        Ok(())
    }

    /// Asks the task whether a transaction has been reached; with `waits`, once that is so.
    async fn ask_for(
        &self,
        transaction: TransactionToken,
        table: Option<usize>,
        waits: bool,
    ) -> Result<bool, Arc<ReplicaError>> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Transaction {
            transaction,
            table,
            waits: waits.then_some(Wait { has_ended: false }),
            answer,
        };
        self.send(command).await?;
        answered.await.map_err(|_| self.ended())
    }

    pub(super) fn check_own<T: CacheModel>(
        &self,
        table: &ReplicaTable<T>,
    ) -> Result<(), Arc<ReplicaError>> {
        if table.replica == self.number {
            Ok(())
        } else {
            Err(Arc::new(ReplicaError::OtherReplica))
        }
    }

    pub(super) async fn send(&self, command: Command) -> Result<(), Arc<ReplicaError>> {
        self.commands.send(command).await.map_err(|_| self.ended())
    }

    /// Returns why the replica has ended, once its task is gone.
    fn ended(&self) -> Arc<ReplicaError> {
        match self.status() {
            ReplicaStatus::Ended { error } => error,
            _ => Arc::new(ReplicaError::ShutDown),
        }
    }

    /// Compares the cache of a table with the table, row by row, at one exact cut, while writers go
    /// on. The cache does not change until that is done.
    ///
    /// Rows are compared by 128-bit digests of the columns that the trigger sends, so the answer
    /// names the keys of rows that differ, and no columns.
    ///
    /// # Errors
    /// If the replica has ended, or the table is of another one.
    pub async fn verify<T: CacheModel>(
        &self,
        table: &ReplicaTable<T>,
    ) -> Result<Verification, Arc<ReplicaError>> {
        self.check_own(table)?;
        let table = table.at;
        let verify = async {
            let (done, is_done) = oneshot::channel();
            self.send(Command::Verify { table, done }).await?;
            is_done.await.map_err(|_| self.ended())
        };
        let span = tracing::debug_span!("replica.verify", table = field::Empty);
        verify.instrument(self.span_of(span, Some(table))).await
    }

    /// Returns the events from now on.
    pub fn events(&self) -> Events {
        // Subscribe first: an end that comes in between is then seen twice rather than never.
        let receiver = self.events.subscribe();
        Events::new(receiver, self.status.lock().ended.clone())
    }

    /// Returns the changes of a table's rows from now on, each with the row before and after.
    ///
    /// To begin with the rows as they are, use [`read_with_changes`](Self::read_with_changes).
    ///
    /// # Errors
    /// If the table is of another replica.
    pub fn changes<T: Model + Clone>(
        &self,
        table: &ReplicaTable<T>,
    ) -> Result<Changes<T>, Arc<ReplicaError>> {
        let (_, changes) = self.read_with_changes(table)?;
        Ok(changes)
    }

    /// Locks the rows of a table as [`read`](Self::read) does, and returns with them every change
    /// that is made from then on. No change is in both, and none in neither.
    ///
    /// ```no_run
    /// # use postgres_index_cache_core::{CacheModel, Replica, ReplicaTable, RowChangeKind, uuid::Uuid};
    /// # use std::collections::HashSet;
    /// # #[derive(Clone, serde::Deserialize, CacheModel)]
    /// # #[cache(table = "users")]
    /// # struct User { #[cache(key)] id: Uuid, is_blocked: bool }
    /// # async fn follow(replica: &Replica, users: &ReplicaTable<User>) -> Result<(), Box<dyn std::error::Error>> {
    /// let (rows, mut changes) = replica.read_with_changes(users)?;
    /// let mut blocked: HashSet<Uuid> = rows.iter().filter(|user| user.is_blocked).map(|user| user.id).collect();
    /// drop(rows); // the changes begin to come
    /// while let Some(change) = changes.next().await {
    ///     let change = change?; // an error if so many changes came that some were dropped
    ///     match &change.new {
    ///         Some(user) if user.is_blocked => blocked.insert(change.key),
    ///         _ => blocked.remove(&change.key),
    ///     };
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// If the table is of another replica.
    pub fn read_with_changes<'a, T: Model + Clone>(
        &self,
        table: &'a ReplicaTable<T>,
    ) -> Result<(ReadGuard<'a, T>, Changes<T>), Arc<ReplicaError>> {
        self.check_own(table)?;
        let rows = self.read(table);
        // Nothing is changed while the rows are locked.
        let changes = Changes::new(rows.cache.follow(), self.commands.clone());
        Ok((rows, changes))
    }

    /// Makes a cache of whole objects of up to `max_bytes`, beside a table. `weigh` returns the size
    /// of an object in bytes. An object is loaded from the database when it is asked for, and
    /// forgotten when its row changes: see [`Objects`].
    ///
    /// ```no_run
    /// use postgres_index_cache_core::{CacheModel, Objects, Replica, ReplicaTable};
    /// use postgres_index_cache_core::{tokio_postgres, uuid::Uuid};
    /// # type Error = Box<dyn std::error::Error>;
    /// # #[derive(serde::Deserialize, CacheModel)]
    /// # struct UserIndex { #[cache(key)] id: Uuid, #[cache(index)] username_hash: i64 }
    /// struct User { id: Uuid, username: String, settings: String }
    ///
    /// fn objects(replica: &Replica, users: &ReplicaTable<UserIndex>) -> Result<Objects<UserIndex, User>, Error> {
    ///     let size = |user: &User| size_of::<User>() + user.username.len() + user.settings.len();
    ///     Ok(replica.objects(users, 64 << 20, size)?)
    /// }
    ///
    /// async fn settings(
    ///     users: &Objects<UserIndex, User>,
    ///     client: &tokio_postgres::Client,
    ///     id: Uuid,
    /// ) -> Result<Option<String>, Error> {
    ///     let user = users.get_or_load(&id, async || {
    ///         let sql = "SELECT id::text, username, settings FROM users WHERE id::text = $1";
    ///         let row = client.query_opt(sql, &[&id.to_string()]).await?;
    ///         Ok::<_, Error>(row.map(|row| User { id, username: row.get(1), settings: row.get(2) }))
    ///     });
    ///     Ok(user.await?.map(|user| user.settings.clone()))
    /// }
    /// ```
    ///
    /// # Errors
    /// If the table is of another replica, or its triggers leave out updates of columns that they do
    /// not send (`--on-change` with `--columns`): an object that has those would never be forgotten.
    pub fn objects<T: Model, O: Send + Sync + 'static>(
        &self,
        table: &ReplicaTable<T>,
        max_bytes: u64,
        weigh: impl Fn(&O) -> usize + Send + Sync + 'static,
    ) -> Result<Objects<T, O>, Arc<ReplicaError>> {
        self.check_own(table)?;
        #[cfg(feature = "nats")]
        if self.is_over_log {
            return Err(Arc::new(ReplicaError::NotOverLog(
                "a log does not say that a row was written whose columns are the same as before, \
                and an object may have others",
            )));
        }
        {
            let status = self.status.lock();
            if status.telling[table.at].leaves_out_updates {
                let name = status.names[table.at].to_string();
                return Err(Arc::new(ReplicaError::UpdatesLeftOut(name)));
            }
        }
        Ok(Objects::new(
            &table.cache,
            &self.status,
            table.at,
            max_bytes,
            weigh,
        ))
    }

    /// Ends the replica's task and its connections, and waits until they are gone. The caches can
    /// still be read; they are not live any more.
    ///
    /// Several callers may ask for the end at once, and each waits for it.
    pub async fn shutdown(&self) {
        // A task that has ended does not take the command, and need not.
        let _ = self.commands.send(Command::ShutDown).await;
        let task = self.task.lock().take();
        match task {
            Some(task) => {
                // A panic of the task is in the status.
                let _ = task.await;
            }
            // Somebody else waits for the task, which drops its end of the channel when it ends.
            None => self.commands.closed().await,
        }
    }
}
