//! [`Listener`]: the session that LISTENs.
//!
//! ```text
//! server → Messages ─┬─ while a statement runs ─→ early ─┐
//!                    └───────────────────────────────────┴─→ next, poll_next
//! ```

use crate::postgres::connection::session::{Messages, Session, SessionPurpose, while_polled};
use crate::postgres::connection::traced::Traced;
use crate::postgres::quote::quote_identifier;
use futures_util::future::poll_fn;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio_postgres::{AsyncMessage, Client, Error, Notification};

/// The key of the shared advisory lock that every listener of this library holds: "pgic" in ASCII.
pub const ADVISORY_KEY: i64 = 0x7067_6963;

/// The key of the shared advisory lock that a listener holds which answers the fleet's questions:
/// "node" in ASCII. Whoever asks knows by it whose answers to wait for.
pub const NODE_KEY: i64 = 0x6e6f_6465;

/// A session that has LISTENed. It must be polled without pause: see [`Listener::next`].
pub struct Listener {
    client: Arc<Traced<Client>>,
    messages: Box<dyn Messages>,
    /// Notifications that arrived while a statement ran, in the order of their arrival.
    early: VecDeque<Notification>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl Listener {
    /// LISTENs on `channels`, which are exact names, and takes the shared advisory lock
    /// [`ADVISORY_KEY`], by which `pgic status` finds listeners.
    ///
    /// # Errors
    /// Returns the server's error, for example `25006` on a standby.
    pub async fn open(session: Session, channels: &[String]) -> Result<Self, Error> {
        Self::open_as(session, channels, false).await
    }

    /// LISTENs as [`open`](Self::open) does. A session that `answers` the fleet's questions takes
    /// the shared advisory lock [`NODE_KEY`] as well.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(in crate::postgres) async fn open_as(
        session: Session,
        channels: &[String],
        answers: bool,
    ) -> Result<Self, Error> {
        let mut listener = Self {
            client: Arc::new(Traced::new(session.client, SessionPurpose::Listen)),
            messages: session.messages,
            early: VecDeque::new(),
        };
        let listens = listens(channels);
        // `idle_session_timeout` (PostgreSQL 14 and later) would end a session that only listens.
        // Even the operator is qualified: a caller may open a listener on a session whose
        // search_path is not pinned.
        let settle = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
            WHERE name OPERATOR(pg_catalog.=) 'idle_session_timeout';";
        // `try`: any role can hold this key exclusively, and must not keep a listener waiting.
        let mut lock = format!("SELECT pg_catalog.pg_try_advisory_lock_shared({ADVISORY_KEY})");
        if answers {
            lock += &format!("; SELECT pg_catalog.pg_try_advisory_lock_shared({NODE_KEY})");
        }
        listener
            .execute(&format!("{settle}{listens}{lock}"))
            .await?;
        Ok(listener)
    }

    /// LISTENs on more channels. The returned future makes progress only while the session is
    /// polled, for example by [`next`](Self::next).
    ///
    /// # Errors
    /// Returns the server's error, or the error that ended the session.
    pub fn listen_also(
        &self,
        channels: &[String],
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        // The future owns the client: a task can await it while another one polls `self`.
        let client = Arc::clone(&self.client);
        let sql = listens(channels);
        async move { client.batch_execute(&sql).await }
    }

    /// Runs a statement on this session while its messages are polled.
    async fn execute(&mut self, sql: &str) -> Result<(), Error> {
        let Self {
            client,
            messages,
            early,
        } = self;
        while_polled(&mut **messages, client.batch_execute(sql), |notification| {
            early.push_back(notification);
        })
        .await
    }

    /// Returns the next notification; `None` at the end of the connection.
    ///
    /// # Errors
    /// Returns the error that ended the connection, with the server's own code if the server sent
    /// one (`57P01` for a terminated backend).
    pub async fn next(&mut self) -> Option<Result<Notification, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next notification, as [`next`](Self::next) awaits it.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Notification, Error>>> {
        // These arrived before anything that is still in the socket. Notifications must be handed
        // out in commit order, so they go first.
        if let Some(early) = self.early.pop_front() {
            return Poll::Ready(Some(Ok(early)));
        }
        Self::poll_socket(&mut *self.messages, cx)
    }

    /// Polls the connection for the next notification, and skips notices and all other messages.
    fn poll_socket(
        messages: &mut dyn Messages,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Notification, Error>>> {
        loop {
            match ready!(messages.poll_message(cx)) {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    return Poll::Ready(Some(Ok(notification)));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Returns a LISTEN statement for each channel, as one text.
fn listens(channels: &[String]) -> String {
    channels
        .iter()
        .map(|channel| format!("LISTEN {};", quote_identifier(channel)))
        .collect()
}
