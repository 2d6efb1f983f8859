//! [`Fleet`]: asks every node a question, and takes the answers. The protocol stands in
//! `docs/fleet.md`.
//!
//! ```text
//! client ─ NOTIFY pgic_control ─→ nodes ─ NOTIFY pgic_reply_… ─→ listener ─→ heard ─→ ask
//! ```
//!
//! Answers can be forged, since any role can send notifications. So each comes with the sessions
//! that it is said to be from, as the server itself has them: see [`Sessions`].

pub mod compare;
pub mod cut;
pub mod node;
pub mod rows;
pub mod sessions;

use crate::connect::Server;
use crate::failure::with_hint;
use crate::tables::explain_failure;
use anyhow::{Context as _, anyhow};
use postgres_index_cache_core::tooling::fleet::{
    Answer, Ask, CONTROL_CHANNEL, Digest, Question, REPLY_PREFIX,
};
use postgres_index_cache_core::tooling::postgres::{
    Listener, Session, SessionPurpose, Traced, claim_session, quote_identifier, quote_literal,
};
use postgres_index_cache_core::uuid::Uuid;
use sessions::{Sessions, Trust};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Notification};

/// The most answers that wait to be taken. Whoever sends more loses them.
const WAITING: usize = 4096;
/// The most answers that one question takes beside those of the nodes: any role can send them
/// without end.
const MOST_OTHERS: usize = 200;
/// How often the sessions are looked at again for answers that are not believed.
const MOST_LOOKS: u32 = 10;
/// How long a token of our own may take to come back, once it is committed.
const DELIVERY: Duration = Duration::from_secs(5);
/// How long the server may hold a question up, behind other commits that notify.
const SENDING: Duration = Duration::from_secs(5);

/// An answer that has come.
#[derive(Debug)]
pub struct Heard {
    /// The answer.
    pub answer: Answer,
    /// The server's process that sent the answer.
    pub sender: i32,
    /// The time from the question to the answer.
    pub after: Duration,
}

/// A session that asks, and one that hears the answers.
pub struct Fleet {
    client: Traced<Client>,
    heard: mpsc::Receiver<Notification>,
    reply: String,
    listening: JoinHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Fleet {
    /// Opens both sessions, and proves that notifications arrive.
    ///
    /// # Errors
    /// If the server cannot be reached, or nothing arrives: commits that notify are blocked, or a
    /// pooler stands in between.
    pub async fn open(server: &Server) -> anyhow::Result<Self> {
        let mut fleet = Self::connect(server).await?;
        fleet.deliver().await?;
        Ok(fleet)
    }

    /// Opens both sessions. Whether notifications arrive is not known then.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn connect(server: &Server) -> anyhow::Result<Self> {
        let session = own_session(server, SessionPurpose::Command).await?;
        let client = Traced::new(session.into_client(), SessionPurpose::Command);
        // A commit that is blocked must not keep us waiting.
        let settings = format!("SET lock_timeout = {}", SENDING.as_millis());
        client
            .batch_execute(&settings)
            .await
            .context("prepare the session for questions")?;
        let reply = format!("{REPLY_PREFIX}{}", Uuid::new_v4().simple());
        let session = own_session(server, SessionPurpose::Listen).await?;
        let mut listener = Listener::open(session, std::slice::from_ref(&reply))
            .await
            .context("listen for answers")?;
        let (heard_tx, heard) = mpsc::channel(WAITING);
        let listening = tokio::spawn(async move {
            while let Some(Ok(notification)) = listener.next().await {
                // A listener that is not read would hold the server's queue.
                let _ = heard_tx.try_send(notification);
            }
        });
        Ok(Self {
            client,
            heard,
            reply,
            listening,
        })
    }

    /// Sends a token to ourselves, and waits for it. Returns how long that took, from when the
    /// server began with it.
    ///
    /// # Errors
    /// If the token cannot be sent, or does not arrive.
    pub async fn deliver(&mut self) -> anyhow::Result<Duration> {
        let took = self.round_trip(DELIVERY).await?;
        took.ok_or_else(|| {
            with_hint(
                anyhow!(
                    "a notification of our own did not arrive within {} s",
                    DELIVERY.as_secs()
                ),
                "a pooler in transaction mode, or a standby, is in between: connect to the primary",
            )
        })
    }

    /// Sends a token to ourselves. Returns how long it took to come back; `None` if it did not
    /// within `timeout`, counted from when the server had committed it.
    ///
    /// # Errors
    /// If the token cannot be sent, or the session that listens has ended.
    pub async fn round_trip(&mut self, timeout: Duration) -> anyhow::Result<Option<Duration>> {
        let token = format!("token {}", Uuid::new_v4().simple());
        let began = Instant::now();
        let reply = self.reply.clone();
        self.notify(&reply, &token).await?;
        let arrived = async {
            while let Some(notification) = self.heard.recv().await {
                if notification.payload() == token {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(timeout, arrived).await {
            Ok(true) => Ok(Some(began.elapsed())),
            Ok(false) => Err(anyhow!("the session that listens has ended")),
            Err(_) => Ok(None),
        }
    }

    /// Returns the session that asks, for other queries.
    pub fn client(&self) -> &Traced<Client> {
        &self.client
    }

    /// Sends a notification in a transaction of its own.
    ///
    /// # Errors
    /// If the server refuses, or other commits that notify hold it up.
    pub async fn notify(&self, channel: &str, payload: &str) -> anyhow::Result<()> {
        let sql = format!(
            "NOTIFY {}, {}",
            quote_identifier(channel),
            quote_literal(payload)
        );
        let sent = self.client.batch_execute(&sql).await;
        sent.with_context(|| format!("send a notification on {channel}"))
    }

    /// Sends a notification as [`notify`](Self::notify) does. `payload` makes the payload of the id
    /// of the transaction that sends it.
    ///
    /// # Errors
    /// As [`notify`](Self::notify), and if the payload is too long.
    pub async fn notify_with_xid(
        &self,
        channel: &str,
        payload: impl FnOnce(&str) -> String,
    ) -> anyhow::Result<()> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE";
        let sending = async {
            self.client.batch_execute(BEGIN).await?;
            let asked = "SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text";
            let row = self.client.query_typed_one(asked, &[]).await?;
            let payload = payload(row.get(0));
            let sql = format!(
                "NOTIFY {}, {}; COMMIT",
                quote_identifier(channel),
                quote_literal(&payload)
            );
            self.client.batch_execute(&sql).await
        };
        let sent = sending.await;
        if sent.is_err() {
            // The session may be gone as well; the error says so.
            let _ = self.client.batch_execute("ROLLBACK").await;
        }
        sent.with_context(|| format!("send a notification on {channel}"))
    }

    /// Returns the sessions of this database, as the server has them.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn sessions(&self) -> anyhow::Result<Sessions> {
        Sessions::read(&self.client, &self.reply).await
    }

    /// Returns those of these claims, each a role and the oid of a table, in which the role may not
    /// read any column of the table.
    ///
    /// # Errors
    /// If the server refuses.
    async fn unreadable(
        &self,
        claims: &BTreeSet<(String, u32)>,
    ) -> anyhow::Result<BTreeSet<(String, u32)>> {
        const CLAIMS: &str = "SELECT r.rolname::text, c.rel
            FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::oid[])) c (role, rel)
            JOIN pg_catalog.pg_roles r ON r.rolname = c.role
            WHERE pg_catalog.has_any_column_privilege(r.oid, c.rel, 'SELECT') IS NOT TRUE";
        let roles: Vec<&str> = claims.iter().map(|(role, _)| role.as_str()).collect();
        let tables: Vec<u32> = claims.iter().map(|(_, rel)| *rel).collect();
        let rows = self
            .client
            .query_typed(
                CLAIMS,
                &[(&roles, Type::TEXT_ARRAY), (&tables, Type::OID_ARRAY)],
            )
            .await
            .context("look at the privileges of the nodes")?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Sends a question. Returns its id.
    ///
    /// # Errors
    /// If the question cannot be sent.
    pub async fn send(&mut self, ask: Ask) -> anyhow::Result<String> {
        // The channel's name is public once it was asked on. An id that could be guessed could be
        // answered before it is asked.
        let id = Uuid::new_v4().simple().to_string();
        let question = Question {
            id: id.clone(),
            reply: self.reply.clone(),
            ask,
        };
        let payload = question.to_payload();
        self.notify(CONTROL_CHANNEL, &payload).await?;
        Ok(id)
    }

    /// Sends a question, and takes the answers until each of the nodes `expected` has answered, or
    /// `patience` has passed. Nodes are named by the server's processes that serve their listening
    /// sessions.
    ///
    /// # Errors
    /// If the question cannot be sent.
    pub async fn ask(
        &mut self,
        ask: Ask,
        expected: &BTreeSet<i32>,
        patience: Duration,
    ) -> anyhow::Result<Vec<Heard>> {
        let began = Instant::now();
        let id = self.send(ask).await?;
        self.take(&id, began, expected, patience).await
    }

    /// Takes the answers to a question that was sent.
    ///
    /// # Errors
    /// If the session that listens has ended.
    pub async fn take(
        &mut self,
        id: &str,
        began: Instant,
        expected: &BTreeSet<i32>,
        patience: Duration,
    ) -> anyhow::Result<Vec<Heard>> {
        let mut heard: Vec<Heard> = Vec::new();
        let mut missing = expected.clone();
        let most = expected.len() * 2 + MOST_OTHERS;
        let deadline = Instant::now() + patience;
        let mut sessions = self.sessions().await?;
        let mut looks = 1;
        while (!missing.is_empty() || expected.is_empty()) && heard.len() < most {
            let next = tokio::time::timeout_at(deadline, self.heard.recv()).await;
            let Ok(next) = next else {
                break;
            };
            let notification = next.context("the session that listens for answers has ended")?;
            let Some(answer) = Answer::parse(notification.payload()) else {
                continue;
            };
            if answer.id != id {
                continue;
            }
            let own = Heard {
                answer,
                sender: notification.process_id(),
                after: began.elapsed(),
            };
            // A node may have opened its session a moment ago. Whoever sends in its name must not
            // make us look without end.
            if sessions.trust(&own) != Trust::Likely && looks < MOST_LOOKS {
                looks += 1;
                sessions = self.sessions().await?;
            }
            // An answer that is not the node's own must not end the wait for the node's.
            if sessions.trust(&own) == Trust::Likely {
                missing.remove(&own.answer.node.listener);
            }
            heard.push(own);
        }
        Ok(heard)
    }
}

/// Opens a session on which settings may be made and channels listened to: it is proven to be ours
/// alone, and not lent by a pooler.
///
/// # Errors
/// If the server cannot be reached, or the session is shared.
pub async fn own_session(server: &Server, role: SessionPurpose) -> anyhow::Result<Session> {
    let session = server.patient_session(role).await?;
    let claimed = claim_session(server.clone(), role, session).await;
    claimed.map_err(explain_failure)
}

/// Returns a salt that was never used.
pub fn new_salt() -> Digest {
    Digest::of_bytes(*Uuid::new_v4().as_bytes())
}
