//! [`EarlySessions`]: the sessions of a replica, opened while its tables are still described.
//!
//! ```text
//! describe tables   ├──────────────┤
//! L, F, Q open      ├───────┤      │
//!                                  └─ the driver asks for them, and need not wait
//! ```

use super::Server;
use postgres_index_cache_core::tooling::postgres::{
    ConnectError, Connector, Session, SessionPurpose,
};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::task::JoinHandle;

/// A connector that opens the first session for each purpose before it is asked for.
#[derive(Debug)]
pub struct EarlySessions {
    server: Server,
    opening: Mutex<HashMap<SessionPurpose, Opening>>,
}

/// The opening of a session, which is given up when this is dropped.
#[derive(Debug)]
struct Opening(JoinHandle<Result<Session, ConnectError>>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl EarlySessions {
    /// Begins to open the sessions of a replica. The server has been reached before: a person is
    /// not asked for the password several times, nor told the same error.
    pub fn begin(server: &Server) -> Self {
        let purposes = [
            SessionPurpose::Listen,
            SessionPurpose::Fence,
            SessionPurpose::Read,
        ];
        let opening = purposes.map(|purpose| {
            let server = server.clone();
            let opening = tokio::spawn(async move { server.connect(purpose).await });
            (purpose, Opening(opening))
        });
        Self {
            server: server.clone(),
            opening: Mutex::new(opening.into()),
        }
    }
}

impl Connector for EarlySessions {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        let opening = {
            let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            opening.remove(&role)
        };
        match opening {
            Some(mut opening) => (&mut opening.0)
                .await
                .unwrap_or_else(|error| Err(error.into())),
            None => self.server.connect(role).await,
        }
    }
}
