//! [`check`]: whether a session is what `target_session_attrs` wants (manual, 34.1.2).

use crate::connection::Connection;
use crate::failure::Failure;
use crate::settings::TargetSession;
use std::future::poll_fn;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// Checks a session.
///
/// # Errors
/// If the session is another one, or the server does not answer.
pub(crate) async fn check(
    client: &Client,
    connection: &mut Connection,
    wanted: TargetSession,
) -> Result<(), Failure> {
    let is = match wanted {
        TargetSession::ReadWrite if is_read_only(client, connection).await? => {
            "the session is read-only"
        }
        TargetSession::ReadOnly if !is_read_only(client, connection).await? => {
            "the session may write"
        }
        TargetSession::Primary if is_standby(client, connection).await? => "it is a standby",
        TargetSession::Standby if !is_standby(client, connection).await? => "it is no standby",
        TargetSession::Any
        | TargetSession::PreferStandby
        | TargetSession::ReadWrite
        | TargetSession::ReadOnly
        | TargetSession::Primary
        | TargetSession::Standby => return Ok(()),
    };
    Err(Failure::OtherSession {
        is,
        wanted: wanted.name(),
    })
}

/// Returns whether the session's transactions may not write.
async fn is_read_only(client: &Client, connection: &mut Connection) -> Result<bool, Failure> {
    // PostgreSQL 14 and later report both at the beginning.
    let by_default = reported(connection, "default_transaction_read_only");
    let by_standby = reported(connection, "in_hot_standby");
    if let (Some(by_default), Some(by_standby)) = (by_default, by_standby) {
        return Ok(by_default || by_standby);
    }
    let answer = ask(client, connection, "SHOW transaction_read_only").await?;
    Ok(answer == "on")
}

/// Returns whether the server is a standby.
async fn is_standby(client: &Client, connection: &mut Connection) -> Result<bool, Failure> {
    if let Some(is_standby) = reported(connection, "in_hot_standby") {
        return Ok(is_standby);
    }
    let question = "SELECT pg_catalog.pg_is_in_recovery()";
    let answer = ask(client, connection, question).await?;
    Ok(answer == "t")
}

/// Returns whether a setting that the server reported is on; `None` if it did not report that.
fn reported(connection: &Connection, name: &str) -> Option<bool> {
    connection.parameter(name).map(|value| value == "on")
}

/// Returns the first value that the server answers, while the connection is driven.
async fn ask(
    client: &Client,
    connection: &mut Connection,
    question: &str,
) -> Result<String, Failure> {
    let mut answer = Box::pin(client.simple_query(question));
    let messages: Result<Vec<SimpleQueryMessage>, Error> = loop {
        tokio::select! {
            biased;
            messages = &mut answer => break messages,
            message = poll_fn(|cx| connection.poll_message(cx)) => match message {
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(error),
                None => return Err(Failure::Closed),
            },
        }
    };
    let messages = messages.map_err(|error| Failure::Server {
        error,
        was_let_in: true,
    })?;
    let value = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
        _ => None,
    });
    Ok(value.unwrap_or_default())
}
