//! [`Connection`]: the half of a session that must be polled for the other half to work.

use crate::guard::Guard;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_postgres::{AsyncMessage, Error};

/// The connection of a session, over TCP, TLS or a socket. As a future it drives the session until
/// that ends, and drops notices and notifications; [`poll_message`](Self::poll_message) returns
/// them.
pub struct Connection(tokio_postgres::Connection<Guard, Guard>);

impl Connection {
    pub(crate) fn new(connection: tokio_postgres::Connection<Guard, Guard>) -> Self {
        Self(connection)
    }

    /// Returns the value of a setting that the server reported, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.0.parameter(name)
    }

    /// Polls for the next notice or notification; `None` at the end of the connection.
    pub fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, Error>>> {
        self.0.poll_message(cx)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Future for Connection {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}
