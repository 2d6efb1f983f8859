//! A notification loop of the application's own: LISTEN, hand each payload to a
//! [`CacheNotificationListener`], read the cache.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example notification_loop -- \
//!     "host=localhost user=postgres dbname=mydb"
//! ```
//!
//! The program prints the outcome of each notification of the table `users` until the connection
//! ends.

use futures_util::future::poll_fn;
use parking_lot::RwLock;
use postgres_index_cache_core::{
    CacheNotificationListener, HasPrimaryKey, IdxModelCache, IndexCacheHandler, Indexable,
    parking_lot,
};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use uuid::Uuid;

/// A row of the table `users`. The fields have the names of the columns.
#[derive(Debug, Clone, Deserialize)]
struct User {
    id: Uuid,
    username_hash: i64,
    email_hash: i64,
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

/// Connects and LISTENs. Returns the client, and a task that passes notifications to `listener`
/// until the connection ends.
///
/// tokio-postgres' `Connection` does its work only while it is polled. So the task that polls it is
/// spawned before LISTEN is sent: awaiting LISTEN first would wait for ever.
async fn start_notification_loop(
    config: &str,
    listener: Arc<CacheNotificationListener>,
) -> Result<(Client, JoinHandle<()>), Box<dyn std::error::Error>> {
    let (client, mut connection) = tokio_postgres::connect(config, NoTls).await?;
    // The channel is an exact name. Without quotes, SQL would fold it to lower case.
    let listen = format!("LISTEN \"{}\"", listener.channel());
    let task = tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    let outcome = listener.process_notification(notification.payload()).await;
                    println!("{}: {outcome:?}", notification.channel());
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
    client.batch_execute(&listen).await?;
    Ok((client, task))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "host=localhost user=postgres".to_string());
    let users: Arc<RwLock<IdxModelCache<User>>> =
        Arc::new(RwLock::new(IdxModelCache::new(vec![])?));
    let mut listener = CacheNotificationListener::new();
    listener.register_handler(Arc::new(IndexCacheHandler::new(
        "users".to_string(),
        users.clone(),
    )));

    // LISTEN before the rows are read: a change in between is announced then, and not missed.
    let (client, task) = start_notification_loop(&config, Arc::new(listener)).await?;
    for row in client
        .query("SELECT id, username_hash, email_hash FROM users", &[])
        .await?
    {
        users.write().add(User {
            id: row.get(0),
            username_hash: row.get(1),
            email_hash: row.get(2),
        });
    }
    println!("listening, {} users", users.read().len());
    task.await?;
    Ok(())
}
