//! [`Target`] as a [`Connector`]: sessions by libpq's rules, with TLS, several hosts and password
//! files.

use crate::postgres::connection::session::{
    ConnectError, Connector, Messages, Session, SessionPurpose,
};
use pg_connect::{Connected, Connection, SessionOptions, Target};
use std::task::{Context, Poll};
use tokio_postgres::{AsyncMessage, Error};

/// Connects by libpq's rules. All but the connection string is read anew for each session, so a
/// session that is opened again sees a password that was changed and a certificate that was
/// renewed.
///
/// Of several hosts, one that is no standby is taken unless `target_session_attrs` says otherwise:
/// LISTEN works on no standby, and after a failover the old primary may be one.
impl Connector for Target {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        let options = SessionOptions {
            name_suffix: role.session_name(""),
            prefers_primary: true,
            reads_in_gulps: role == SessionPurpose::Read,
        };
        let Connected {
            client, connection, ..
        } = Self::connect(self, &options).await?;
        Ok(Session::new(client, connection))
    }
}

impl Messages for Connection {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> {
        Self::poll_message(self, cx)
    }
}
