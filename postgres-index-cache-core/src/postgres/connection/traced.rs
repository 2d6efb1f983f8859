//! [`Traced`]: a client, or a transaction, whose statements are traced at debug level.
//!
//! Nearly all statements of this crate go through [`Traced`]. Those on a session that is not a
//! `Traced` yet are traced by [`trace_statement`].

use crate::postgres::connection::session::SessionPurpose;
use std::fmt;
use std::ops::{Deref, DerefMut};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{
    Client, CopyOutStream, Error, GenericClient, Row, SimpleQueryMessage, Transaction,
};

/// The most characters of a statement, or of its parameters, in a trace. The keys of a refetch may
/// be many.
const LONGEST: usize = 4000;

/// A client or a transaction that traces each statement before sending it.
pub struct Traced<C> {
    client: C,
    purpose: SessionPurpose,
}

impl<C> Traced<C> {
    /// Creates a traced client. `purpose` is the purpose of its session, which each trace names.
    pub fn new(client: C, purpose: SessionPurpose) -> Self {
        Self { client, purpose }
    }
}

impl<C: GenericClient + Sync> Traced<C> {
    /// Runs statements without parameters, and drops their rows.
    ///
    /// # Errors
    /// Returns the error of the server, or of the connection.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        trace_statement(self.purpose, sql);
        self.client.batch_execute(sql).await
    }

    /// Runs a statement, and returns its rows. Nothing is prepared under a name.
    ///
    /// # Errors
    /// Returns the error of the server, or of the connection.
    pub async fn query_typed(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        self.trace_query(sql, parameters);
        self.client.query_typed(sql, parameters).await
    }

    /// Runs a statement, and returns its only row. Nothing is prepared under a name.
    ///
    /// # Errors
    /// Returns the error of the server or of the connection, and an error if there is not exactly
    /// one row.
    pub async fn query_typed_one(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Row, Error> {
        self.trace_query(sql, parameters);
        self.client.query_typed_one(sql, parameters).await
    }

    /// Runs a statement, and returns its row, if there is one. Nothing is prepared under a name.
    ///
    /// # Errors
    /// Returns the error of the server or of the connection, and an error if there are several
    /// rows.
    pub async fn query_typed_opt(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Option<Row>, Error> {
        self.trace_query(sql, parameters);
        self.client.query_typed_opt(sql, parameters).await
    }

    fn trace_query(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) {
        // The macro evaluates the fields only if somebody takes the trace.
        tracing::debug!(
            connection = self.purpose.purpose(),
            sql = one_line(sql),
            parameters = parameters_text(parameters),
            "statement"
        );
    }
}

impl Traced<Client> {
    /// Starts a COPY … TO STDOUT, and returns the stream of its data.
    ///
    /// # Errors
    /// Returns the error of the server, or of the connection.
    pub async fn copy_out(&self, sql: &str) -> Result<CopyOutStream, Error> {
        trace_statement(self.purpose, sql);
        self.client.copy_out(sql).await
    }
}

impl Traced<Transaction<'_>> {
    /// Commits the transaction, or releases the savepoint.
    ///
    /// # Errors
    /// Returns the error of the server, or of the connection.
    pub async fn commit(self) -> Result<(), Error> {
        trace_statement(self.purpose, "COMMIT");
        self.client.commit().await
    }

    /// Rolls the transaction back, or what was done since the savepoint.
    ///
    /// # Errors
    /// Returns the error of the server, or of the connection.
    pub async fn rollback(self) -> Result<(), Error> {
        trace_statement(self.purpose, "ROLLBACK");
        self.client.rollback().await
    }
}

impl Traced<Client> {
    /// Runs statements without parameters, and returns their rows as texts.
    ///
    /// # Errors
    /// Returns the error of the server, or of the connection.
    pub async fn simple_query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        trace_statement(self.purpose, sql);
        self.client.simple_query(sql).await
    }
}

impl<C> Deref for Traced<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.client
    }
}

impl<C> DerefMut for Traced<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.client
    }
}

impl<C> fmt::Debug for Traced<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traced")
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// Traces a statement that is about to be sent on a session with this purpose.
pub(in crate::postgres) fn trace_statement(purpose: SessionPurpose, sql: &str) {
    tracing::debug!(
        connection = purpose.purpose(),
        sql = one_line(sql),
        "statement"
    );
}

/// Returns a statement on one line, without the lines that are comments, cut after [`LONGEST`]
/// characters.
fn one_line(sql: &str) -> String {
    let words: Vec<&str> = sql
        .lines()
        // Our longer statements are files that begin with their explanation.
        .filter(|line| !line.trim_start().starts_with("--"))
        .flat_map(str::split_whitespace)
        .collect();
    cut(words.join(" "))
}

/// Returns the values of parameters: `[[16384, 16390], "public"]`.
fn parameters_text(parameters: &[(&(dyn ToSql + Sync), Type)]) -> String {
    let values: Vec<_> = parameters.iter().map(|(value, _)| value).collect();
    cut(format!("{values:?}"))
}

/// Returns the text, cut after [`LONGEST`] characters with an ellipsis.
fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_one_line_without_comments_and_of_bounded_length() {
        assert_eq!(
            one_line("-- The tables.\nSELECT oid,\n       relname\n  FROM pg_class"),
            "SELECT oid, relname FROM pg_class"
        );
        let long = one_line(&"é".repeat(2 * LONGEST));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn parameters_are_shown_by_their_values() {
        let oids = [1_u32, 2];
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&&oids[..], Type::OID_ARRAY), (&"a'b", Type::TEXT)];
        assert_eq!(parameters_text(&parameters), "[[1, 2], \"a'b\"]");
    }
}
