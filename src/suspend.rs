//! [`Suspension`]: closes all connections before Ctrl-Z stops the process, so that the server does
//! not wait for a process that is stopped.
//!
//! Without that: 1. `pgic tail` is stopped. 2. Its socket fills up, and the server's process behind
//! it waits. 3. The notification queue cannot be cleaned past the first notification which that
//! process has not read, so every commit that notifies gets slower; and a table that was being read
//! stays locked against migrations.
//!
//! After the process goes on, connections are opened again, and the output tells of the gap.
//!
//! SIGSTOP cannot be caught, nor a machine that sleeps. There the server closes the connection
//! itself (`tcp_user_timeout`, 20 s), if that is one of TCP.

use postgres_index_cache_core::tooling::postgres::Messages;
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

/// The time that the connections have to be closed before the process is stopped all the same.
const PATIENCE: Duration = Duration::from_millis(300);

/// The state of this process: whether it is about to be stopped, and how many connections it has.
/// Clones share it.
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
    /// Handles SIGTSTP from now on: closes the connections, then stops this process as the signal
    /// would. Must be called in a tokio runtime.
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
                // `let_go` blocks, and the connections need this thread to be closed. It fails only
                // if the runtime ends, and then there is nothing to close.
                let _ = tokio::task::spawn_blocking(move || closing.let_go()).await;
                // SIGTSTP cannot stop a process that handles it. This call returns after SIGCONT.
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

    /// Handles SIGCONT from now on: lets connections be opened again. This is for a prompt in raw
    /// mode, which calls [`let_go`](Self::let_go) itself and leaves the stopping to the system.
    /// Must be called in a tokio runtime.
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

    /// Closes every connection, and waits a moment for that. Blocks, so call it from a thread that
    /// no connection needs.
    pub fn let_go(&self) {
        self.is_suspended.send_replace(true);
        let give_up = Instant::now() + PATIENCE;
        // Each task that drives a connection sees the change and drops it; there is no event for
        // the last one, and a thread that is about to stop may as well look now and then.
        while self.connections.load(Ordering::SeqCst) > 0 && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets connections be opened again.
    fn go_on(&self) {
        self.is_suspended.send_replace(false);
    }

    /// Waits until connections may be opened.
    pub async fn is_over(&self) {
        // It fails only if the sender is dropped, and `self` holds that.
        let _ = self
            .is_suspended
            .subscribe()
            .wait_for(|is_suspended| !is_suspended)
            .await;
    }

    /// Wraps the messages of a connection, which is counted from now on and ends when this process
    /// is about to be stopped.
    pub fn bound<M: Messages>(&self, messages: M) -> Bound<M> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let mut watched = self.is_suspended.subscribe();
        let begins = async move {
            // It fails only if the sender is dropped, and `Bound` holds that.
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

/// A connection that is open, and counted until it is dropped.
struct Open<M> {
    messages: M,
    connections: Arc<AtomicUsize>,
}

impl<M> Drop for Open<M> {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The messages of a connection, up to the moment at which the process is about to be stopped.
pub struct Bound<M> {
    /// `None` once the connection was closed.
    open: Option<Open<M>>,
    /// Is ready when the process is about to be stopped.
    begins: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Holds the sender for which `begins` waits.
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
            // This drops the messages, and with them the socket.
            self.open = None;
        }
        match &mut self.open {
            Some(open) => open.messages.poll_message(cx),
            None => Poll::Ready(None),
        }
    }
}
