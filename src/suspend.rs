//! [`Suspension`]: what happens when somebody presses Ctrl-Z. The server must not wait for a
//! process that is stopped.
//!
//! Without this: 1. `pgic tail` is stopped. 2. Its socket fills up, and the server's process behind
//! it waits. 3. The notification queue cannot be cleaned past what that process has not read, so
//! every commit that notifies gets slower; and what it was reading stays locked against migrations.
//! So all connections are let go first. After the process goes on, they are opened again, and what
//! came in between is a gap that is said.
//!
//! SIGSTOP and a machine that sleeps cannot be caught: there the server lets go, by
//! `tcp_user_timeout` (20 s), where the connection is one of TCP.

use postgres_index_cache_core::postgres::Messages;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, Error};

/// How long the connections are waited for before the process is stopped all the same.
const PATIENCE: Duration = Duration::from_millis(300);

/// Whether this process is about to be stopped, and how many connections it has.
#[derive(Debug, Clone)]
pub struct Suspension {
    is_suspended: Arc<watch::Sender<bool>>,
    connections: Arc<AtomicUsize>,
}

impl Default for Suspension {
    fn default() -> Self {
        Self {
            is_suspended: Arc::new(watch::Sender::new(false)),
            connections: Arc::default(),
        }
    }
}

impl Suspension {
    /// From now on lets the connections go at SIGTSTP, then stops this process as the signal does.
    /// Call it in a runtime.
    pub fn catch_stop(&self) {
        let suspension = self.clone();
        tokio::spawn(async move {
            // Without a handler the signal stops the process as it always does.
            let Ok(mut stops) =
                signal(SignalKind::from_raw(rustix::process::Signal::TSTP.as_raw()))
            else {
                return;
            };
            while stops.recv().await.is_some() {
                let closing = suspension.clone();
                // It cannot fail, but where the runtime ends.
                let _ = tokio::task::spawn_blocking(move || closing.let_go()).await;
                let stopped = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::STOP,
                );
                if let Err(error) = stopped {
                    tracing::warn!(%error, "this process could not be stopped");
                }
                suspension.go_on();
            }
        });
    }

    /// From now on opens connections again at SIGCONT. For whoever calls [`let_go`](Self::let_go)
    /// itself and leaves SIGTSTP to the system, as a prompt in raw mode must. Call it in a runtime.
    pub fn catch_continue(&self) {
        let suspension = self.clone();
        tokio::spawn(async move {
            let Ok(mut continues) =
                signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))
            else {
                return;
            };
            while continues.recv().await.is_some() {
                suspension.go_on();
            }
        });
    }

    /// Closes every connection, and waits for that a moment. Blocks: call it from a thread of its
    /// own.
    pub fn let_go(&self) {
        self.is_suspended.send_replace(true);
        let give_up = Instant::now() + PATIENCE;
        while self.connections.load(Ordering::SeqCst) > 0 && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn go_on(&self) {
        self.is_suspended.send_replace(false);
    }

    /// Waits until connections may be opened.
    pub async fn is_over(&self) {
        // The sender lives as long as this.
        let _ = self
            .is_suspended
            .subscribe()
            .wait_for(|is_suspended| !is_suspended)
            .await;
    }

    /// The messages of a connection, which ends when this process is about to be stopped.
    pub fn bound<M: Messages>(&self, messages: M) -> Bound<M> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let mut watched = self.is_suspended.subscribe();
        let begins = async move {
            // The sender lives as long as what waits.
            let _ = watched.wait_for(|is_suspended| *is_suspended).await;
        };
        let open = Open {
            messages,
            connections: Arc::clone(&self.connections),
        };
        Bound {
            open: Some(open),
            begins: Box::pin(begins),
            _suspension: self.clone(),
        }
    }
}

/// A connection that is counted while it is open.
struct Open<M> {
    messages: M,
    connections: Arc<AtomicUsize>,
}

impl<M> Drop for Open<M> {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The messages of a connection until it is let go.
pub struct Bound<M> {
    open: Option<Open<M>>,
    begins: Pin<Box<dyn Future<Output = ()> + Send>>,
    _suspension: Suspension,
}

impl<M> fmt::Debug for Bound<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("is_open", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

impl<M: Messages + Unpin> Messages for Bound<M> {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> {
        if self.open.is_some() && self.begins.as_mut().poll(cx).is_ready() {
            // The socket is closed with it.
            self.open = None;
        }
        match &mut self.open {
            Some(open) => open.messages.poll_message(cx),
            None => Poll::Ready(None),
        }
    }
}
