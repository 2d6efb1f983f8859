//! [`Catalog`]: a transaction in which every name of a function or operator means one of
//! PostgreSQL's own.

use crate::postgres::connection::session::SessionPurpose;
use crate::postgres::connection::traced::{Traced, trace_statement};
use crate::postgres::schema::catalog::CatalogError;
use crate::postgres::schema::catalog::name::parse_name;
use std::fmt;
use tokio_postgres::types::Type;
use tokio_postgres::{
    Client, Error, GenericClient, IsolationLevel, SimpleQueryMessage, Transaction,
};

/// A transaction that is safe from the objects of other roles, and leaves no trace on its session.
///
/// Without the transaction:
///
/// 1. Somebody creates an operator `=`, or a function, in a schema of our role's `search_path`.
/// 2. A statement of ours resolves to that object.
/// 3. The object's code runs with the rights of our role, which may be a superuser.
///
/// So the path is `pg_catalog, pg_temp` during the transaction. The path as it was is kept as data,
/// for the names of tables that people write.
///
/// Everything is set with SET LOCAL, and nothing is prepared under a name. Behind a pooler in
/// transaction mode (PgBouncer) the session belongs to another client as soon as the transaction
/// ends.
pub struct Catalog<'a> {
    transaction: Traced<Transaction<'a>>,
    /// The schemas of the session's own search path, as the text of a `name[]`.
    path: String,
    access: CatalogAccess,
}

/// Whether a [`Catalog`] may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogAccess {
    /// The transaction only reads, under one snapshot.
    ReadOnly,
    /// The transaction only reads, and each statement sees what was committed before it. For whoever
    /// takes a lock and looks behind it: the snapshot of [`ReadOnly`](Self::ReadOnly) is older than
    /// any lock.
    ReadLatest,
    /// The transaction may write. Nothing stays unless [`Catalog::commit`] is called.
    ReadWrite,
}

/// The settings of the transaction.
///
/// - `row_security`: no policy of another role is evaluated. A table that has policies for this
///   role cannot be read.
/// - `jit`: nothing is compiled, which takes 80 ms for a statement that takes 2 ms.
/// - `array_nulls`: `NULL` in the text of an array is a null, whatever the role's default.
const SETTINGS: &str =
    "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off; \
    SET LOCAL jit = off;
    SET LOCAL array_nulls = on";

impl<'a> Catalog<'a> {
    /// Begins a transaction on `client`.
    ///
    /// # Errors
    /// Returns the error of the server.
    pub async fn begin(client: &'a mut Client, access: CatalogAccess) -> Result<Self, Error> {
        // All modes are named, so that no default of the role or the database counts. A transaction
        // that is serializable and deferrable may wait without end before its first statement
        // (manual, SET TRANSACTION).
        // A reader sees the catalogue as of one moment. A writer takes locks, and must see what was
        // committed before it had them.
        let isolation = match access {
            CatalogAccess::ReadOnly => IsolationLevel::RepeatableRead,
            CatalogAccess::ReadLatest | CatalogAccess::ReadWrite => IsolationLevel::ReadCommitted,
        };
        let transaction = client
            .build_transaction()
            .isolation_level(isolation)
            .read_only(access != CatalogAccess::ReadWrite)
            .deferrable(false)
            .start()
            .await?;
        // The names are qualified, since the path is not safe yet. One simple query: nothing is
        // prepared on the session.
        let sql = format!("SELECT pg_catalog.current_schemas(true)::pg_catalog.text; {SETTINGS}");
        trace_statement(SessionPurpose::Command, &format!("BEGIN; {sql}"));
        let answers = transaction.simple_query(&sql).await?;
        let path = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
            _ => None,
        });
        Ok(Self {
            transaction: Traced::new(transaction, SessionPurpose::Command),
            path: path.unwrap_or_else(|| "{}".to_string()),
            access,
        })
    }

    /// Returns whether all statements see the catalogue as of one moment.
    pub fn is_of_one_moment(&self) -> bool {
        self.access == CatalogAccess::ReadOnly
    }

    /// Returns the oid of the relation that a person means by a name such as `users`, `app.users`
    /// or `"Odd Name"`; `None` if there is no such relation.
    ///
    /// A name without a schema is looked for in the session's own `search_path`, as `to_regclass`
    /// does. That path is used for nothing else.
    ///
    /// # Errors
    /// Returns [`CatalogError::NoName`] if the text is no name, and the error of the server.
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

    /// Returns the schemas that the session's own `search_path` leads to, as the text of an array
    /// of names.
    pub fn searched_schemas(&self) -> &str {
        &self.path
    }

    /// Returns the server's version as a number: 150018 for 15.18.
    ///
    /// # Errors
    /// Returns the error of the server.
    pub async fn version_number(&self) -> Result<i32, CatalogError> {
        const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num')::int4";
        Ok(self.transaction.query_typed_one(VERSION, &[]).await?.get(0))
    }

    /// Returns in words whom a process of the server serves: `role alice, application psql`.
    /// Returns `None` if the process is gone, or the server refuses to tell.
    pub async fn who_is(&self, process: i32) -> Option<String> {
        who_is(&self.transaction, process).await
    }

    /// Begins a part of the transaction that may fail alone, as a savepoint. Dropping the part
    /// without a commit undoes it.
    ///
    /// # Errors
    /// Returns the error of the server.
    pub async fn attempt(&mut self) -> Result<Traced<Transaction<'_>>, Error> {
        trace_statement(SessionPurpose::Command, "SAVEPOINT");
        let attempt = self.transaction.transaction().await?;
        Ok(Traced::new(attempt, SessionPurpose::Command))
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// Returns the error of the server.
    pub async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await
    }

    /// Rolls the transaction back.
    ///
    /// # Errors
    /// Returns the error of the server.
    pub async fn roll_back(self) -> Result<(), Error> {
        self.transaction.rollback().await
    }
}

impl<'a> std::ops::Deref for Catalog<'a> {
    type Target = Traced<Transaction<'a>>;

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

/// Returns in words whom a process of the server serves: the role, and the session's
/// `application_name` if it has one. Returns `None` if the process is gone or the server refuses.
pub(in crate::postgres) async fn who_is(
    client: &Traced<impl GenericClient + Sync>,
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
