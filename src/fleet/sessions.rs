//! [`Sessions`]: the sessions of a database, as the server itself has them. They decide how far an
//! answer is believed.

use super::Heard;
use anyhow::Context as _;
use postgres_index_cache_core::tooling::postgres::{ADVISORY_KEY, NODE_KEY, Traced};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// A session.
#[derive(Debug, Clone)]
pub struct SessionSeen {
    /// The server's process that serves the session.
    pub pid: i32,
    /// The role that has logged in.
    pub user: String,
    /// The address of the client, or `local`; `None` if this role must not see it.
    pub address: Option<String>,
    /// The name that the application gave itself.
    pub application: String,
    /// Whether it holds the lock of a node, which answers questions.
    pub is_node: bool,
    /// Whether it listens, for certain or by its last statement.
    pub listens: bool,
    /// Whether it holds the lock of nodes exclusively.
    pub hides: bool,
}

/// The sessions of a database, by their processes.
#[derive(Debug, Default)]
pub struct Sessions(BTreeMap<i32, SessionSeen>);

/// How far an answer is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The session that sent the answer is of the role and address of the one that listens.
    Likely,
    /// It is not, for this reason.
    Forged(String),
}

impl Sessions {
    /// Reads the sessions, but for those of this process, which listen on `reply`.
    pub(super) async fn read(client: &Traced<Client>, reply: &str) -> anyhow::Result<Self> {
        // Each look at pg_locks stops every session that takes a lock, so there is one for all.
        const SESSIONS: &str = "
            WITH held AS MATERIALIZED (
                SELECT pid, bool_or(mode = 'ShareLock') AS listens,
                    bool_or(objid = $2::int8::oid AND mode = 'ShareLock') AS is_node,
                    bool_or(objid = $2::int8::oid AND mode = 'ExclusiveLock') AS hides
                FROM pg_catalog.pg_locks
                WHERE locktype = 'advisory' AND granted AND classid = 0 AND objsubid = 1
                    AND objid IN ($1::int8::oid, $2::int8::oid)
                    AND database = (SELECT oid FROM pg_catalog.pg_database
                        WHERE datname = pg_catalog.current_database())
                GROUP BY pid
            )
            SELECT a.pid, coalesce(a.usename::text, '') AS usename,
                CASE WHEN a.client_addr IS NOT NULL THEN pg_catalog.host(a.client_addr)
                    WHEN a.client_port IS NOT NULL THEN 'local' END AS address,
                coalesce(a.application_name, '') AS application,
                coalesce(held.is_node, false) AS is_node, coalesce(held.hides, false) AS hides,
                coalesce(held.listens, false) OR coalesce(a.query, '') ~* '^\\s*listen\\s' AS listens
            FROM pg_catalog.pg_stat_activity a
            LEFT JOIN held ON held.pid = a.pid
            WHERE a.datname = pg_catalog.current_database()
                AND a.pid <> pg_catalog.pg_backend_pid()
                AND coalesce(a.query, '') !~ ('LISTEN \"?' || $3)";
        let rows = client
            .query_typed(
                SESSIONS,
                &[
                    (&ADVISORY_KEY, Type::INT8),
                    (&NODE_KEY, Type::INT8),
                    (&reply, Type::TEXT),
                ],
            )
            .await
            .context("look at the sessions of the database")?;
        let sessions = rows.iter().map(|row| {
            let pid: i32 = row.get("pid");
            let session = SessionSeen {
                pid,
                user: row.get("usename"),
                address: row.get("address"),
                application: row.get("application"),
                is_node: row.get("is_node"),
                listens: row.get("listens"),
                hides: row.get("hides"),
            };
            (pid, session)
        });
        Ok(Self(sessions.collect()))
    }

    /// Returns the sessions of nodes, which answer questions.
    pub fn nodes(&self) -> BTreeSet<i32> {
        let nodes = self.0.values().filter(|session| session.is_node);
        nodes.map(|session| session.pid).collect()
    }

    /// Returns the sessions that listen.
    pub fn listeners(&self) -> impl Iterator<Item = &SessionSeen> {
        self.0.values().filter(|session| session.listens)
    }

    /// Returns the sessions that hold the lock of nodes exclusively.
    pub fn hiding(&self) -> impl Iterator<Item = &SessionSeen> {
        self.0.values().filter(|session| session.hides)
    }

    /// Returns the session of a process.
    pub fn get(&self, pid: i32) -> Option<&SessionSeen> {
        self.0.get(&pid)
    }

    /// Returns how far an answer is believed.
    pub fn trust(&self, heard: &Heard) -> Trust {
        let listener = heard.answer.node.listener;
        let Some(claimed) = self.get(listener) else {
            return Trust::Forged(format!("process {listener} is no session of this database"));
        };
        let Some(sender) = self.get(heard.sender) else {
            // A node whose connection was lost since has another session by now.
            return Trust::Forged(format!("process {} is gone", heard.sender));
        };
        if sender.user != claimed.user {
            return Trust::Forged(format!(
                "it was sent by {} (process {}), and process {listener} is of {}",
                sender.user, sender.pid, claimed.user
            ));
        }
        match (&sender.address, &claimed.address) {
            (Some(from), Some(claimed)) if from != claimed => Trust::Forged(format!(
                "it was sent from {from} (process {}), and process {listener} is at {claimed}",
                sender.pid
            )),
            _ => Trust::Likely,
        }
    }
}
