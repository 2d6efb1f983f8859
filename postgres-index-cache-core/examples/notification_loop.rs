//! A notification loop of the application's own: LISTEN, read the table, hand each payload to a
//! [`CacheNotificationListener`], read the cache.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example notification_loop -- \
//!     "host=localhost user=postgres dbname=mydb"
//! ```
//!
//! The program prints the outcome of each notification of the table `users` until the connection
//! ends.
//!
//! The order of the three steps is what makes the cache right:
//!
//! 1. LISTEN, before anything is read. A change that is committed behind it is announced.
//! 2. Read the rows. The notifications that arrive meanwhile wait.
//! 3. Apply the notifications, from the first one on. One that is older than the read puts an older
//!    row back for a moment, and those behind it bring the row to where it was.
//!
//! To apply a notification before the rows are in the cache would lose it: the row that was read
//! earlier would be put over it. A [`Replica`](postgres_index_cache_core::Replica)
//! does all of this, and goes on when the connection is lost.

use futures_util::future::poll_fn;
use parking_lot::RwLock;
use postgres_index_cache_core::{
    CacheNotificationListener, HasPrimaryKey, IdxModelCache, IndexCacheHandler, Indexable,
    parking_lot,
};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};
use uuid::Uuid;

/// A row of the table `users`. The fields have the names of the columns.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct User {
    pub id: Uuid,
    pub username_hash: i64,
    pub email_hash: i64,
}

impl HasPrimaryKey for User {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for User {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([
            ("username_hash".to_string(), Some(self.username_hash)),
            ("email_hash".to_string(), Some(self.email_hash)),
        ])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Connects and LISTENs on `channel`. Returns the client, and the notifications, which wait until
/// they are taken. They end with the connection.
///
/// tokio-postgres' `Connection` does its work only while it is polled. So the task that polls it is
/// spawned before LISTEN is sent: awaiting LISTEN first would wait for ever. The task never waits
/// for the cache, so PostgreSQL's queue never waits for this program. While the table is read, the
/// notifications take memory without a bound.
///
/// # Errors
/// If the server takes no session, or refuses to LISTEN.
pub async fn listen(
    config: &str,
    channel: &str,
) -> Result<(Client, UnboundedReceiver<Notification>), Box<dyn std::error::Error>> {
    let (client, mut connection) = tokio_postgres::connect(config, NoTls).await?;
    let (arrived, notifications) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    if arrived.send(notification).is_err() {
                        break;
                    }
                }
                Ok(_) => {}
                // From here on the caches are stale. An application connects again, and reads the
                // tables again.
                Err(error) => {
                    eprintln!("connection lost: {error}");
                    break;
                }
            }
        }
    });
    // The channel is an exact name. Without quotes, SQL would fold it to lower case.
    client
        .batch_execute(&format!("LISTEN \"{channel}\""))
        .await?;
    Ok((client, notifications))
}

/// Reads the rows of `users`.
///
/// # Errors
/// If the server refuses.
pub async fn read(client: &Client) -> Result<Vec<User>, tokio_postgres::Error> {
    let rows = client
        .query("SELECT id, username_hash, email_hash FROM users", &[])
        .await?;
    let users = rows.iter().map(|row| User {
        id: row.get(0),
        username_hash: row.get(1),
        email_hash: row.get(2),
    });
    Ok(users.collect())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "host=localhost user=postgres".to_string());
    let mut listener = CacheNotificationListener::new();
    let (client, mut notifications) = listen(&config, listener.channel()).await?;
    let users = Arc::new(RwLock::new(IdxModelCache::new(read(&client).await?)?));
    println!("listening, {} users", users.read().len());
    listener.register_handler(Arc::new(IndexCacheHandler::new("users".to_string(), users)));
    while let Some(notification) = notifications.recv().await {
        let outcome = listener.process_notification(notification.payload()).await;
        println!("{}: {outcome:?}", notification.channel());
    }
    Ok(())
}
