//! [`Catalog`]: a transaction in which nothing but PostgreSQL's own functions and operators can be
//! meant.

use crate::postgres::schema::catalog::CatalogError;
use crate::postgres::schema::catalog::name::parse_name;
use std::fmt;
use tokio_postgres::types::Type;
use tokio_postgres::{
    Client, Error, GenericClient, IsolationLevel, SimpleQueryMessage, Transaction,
};

/// A transaction that is safe from what others have put into the database, and leaves no trace on
/// its session.
///
/// Without this: 1. Somebody creates an operator `=` or a function in a schema that stands in the
/// operator's `search_path`.
/// 2. A statement of ours means that one. 3. Its code runs with the rights of whoever runs the
///    statement, a superuser perhaps. So the path is `pg_catalog, pg_temp`; the path that it was is
///    kept as data, for the names of tables that people write.
///
/// Everything is set with SET LOCAL, and nothing is prepared under a name: behind a pooler in
/// transaction mode (PgBouncer) the session belongs to somebody else as soon as the transaction
/// ends.
pub struct Catalog<'a> {
    transaction: Transaction<'a>,
    /// The schemas in which names were looked for before, as the text of a `name[]`.
    path: String,
}

/// Whether a [`Catalog`] may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogAccess {
    /// It only reads.
    ReadOnly,
    /// It may write; nothing stays unless [`Catalog::commit`] is called.
    ReadWrite,
}

/// What is set for the transaction. Policies of others are never evaluated: a table that has some
/// for this role cannot be read. And nothing is compiled: that takes 80 ms for a statement that
/// takes 2.
const SETTINGS: &str =
    "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off; \
    SET LOCAL jit = off;
    SET LOCAL array_nulls = on";

impl<'a> Catalog<'a> {
    /// Begins one. Its modes are named, so that no default of the role or the database counts: a
    /// transaction that is serializable and deferrable may wait without end before its first
    /// statement (manual, SET TRANSACTION).
    ///
    /// # Errors
    /// What the server says.
    pub async fn begin(client: &'a mut Client, access: CatalogAccess) -> Result<Self, Error> {
        let begin = client
            .build_transaction()
            .isolation_level(IsolationLevel::ReadCommitted);
        let begin = begin
            .read_only(access == CatalogAccess::ReadOnly)
            .deferrable(false);
        let transaction = begin.start().await?;
        // Qualified: the path is not safe yet.
        let sql = format!("SELECT pg_catalog.current_schemas(true)::pg_catalog.text; {SETTINGS}");
        let answers = transaction.simple_query(&sql).await?;
        let path = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
            _ => None,
        });
        Ok(Self {
            transaction,
            path: path.unwrap_or_else(|| "{}".to_string()),
        })
    }

    /// The oid of the relation that a person means by a name: `users`, `app.users`, `"Odd Name"`.
    /// As `to_regclass` finds it on the session's own `search_path`, which is not used for anything
    /// else.
    ///
    /// # Errors
    /// When it is no name, or what the server says.
    pub async fn find(&self, name: &str) -> Result<Option<u32>, CatalogError> {
        let parts = parse_name(name).ok_or_else(|| CatalogError::NoName(name.to_string()))?;
        let row = self
            .transaction
            .query_typed_opt(
                include_str!("find.sql"),
                &[(&parts, Type::TEXT_ARRAY), (&self.path, Type::TEXT)],
            )
            .await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Who a process of the server serves, in words: `role alice, application psql`; `None` when it
    /// is gone.
    pub async fn who_is(&self, process: i32) -> Option<String> {
        who_is(&self.transaction, process).await
    }

    /// Begins a part of it that may fail alone: a savepoint. It is undone when it is dropped.
    ///
    /// # Errors
    /// What the server says.
    pub async fn attempt(&mut self) -> Result<Transaction<'_>, Error> {
        self.transaction.transaction().await
    }

    /// Makes what was done last.
    ///
    /// # Errors
    /// What the server says.
    pub async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await
    }

    /// Undoes what was done.
    ///
    /// # Errors
    /// What the server says.
    pub async fn roll_back(self) -> Result<(), Error> {
        self.transaction.rollback().await
    }
}

impl<'a> std::ops::Deref for Catalog<'a> {
    type Target = Transaction<'a>;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

impl fmt::Debug for Catalog<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Who a process of the server serves, in words: its role, and what the session calls itself.
pub(in crate::postgres) async fn who_is(
    client: &impl GenericClient,
    process: i32,
) -> Option<String> {
    const ASK: &str =
        "SELECT coalesce(usename, '')::pg_catalog.text, coalesce(application_name, '')
        FROM pg_catalog.pg_stat_activity WHERE pid = $1";
    let row = client
        .query_typed_opt(ASK, &[(&process, Type::INT4)])
        .await
        .ok()??;
    let role: String = row.get(0);
    let application: String = row.get(1);
    Some(match application.as_str() {
        "" => format!("role {role}"),
        _ => format!("role {role}, application {application}"),
    })
}
