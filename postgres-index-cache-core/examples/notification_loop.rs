//! A notification loop of your own: LISTEN, hand each payload to a [`CacheNotificationListener`],
//! read the cache.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example notification_loop -- "host=localhost user=postgres dbname=mydb"
//! ```
//!
//! It prints what becomes of each notification of the table `users` until the connection ends.

use futures_util::future::poll_fn;
use parking_lot::RwLock;
use postgres_index_cache_core::postgres::quote_identifier;
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

/// Connects and LISTENs. The task hands on what arrives, and ends with the connection.
///
/// tokio-postgres' `Connection` does its work only while it is polled, so the task that polls it is
/// spawned before LISTEN is sent; awaiting LISTEN first would wait for ever. The channel is an
/// exact name, so it is quoted.
async fn start_notification_loop(
    config: &str,
    listener: Arc<CacheNotificationListener>,
) -> Result<(Client, JoinHandle<()>), Box<dyn std::error::Error>> {
    let (client, mut connection) = tokio_postgres::connect(config, NoTls).await?;
    let channel = quote_identifier(listener.channel());
    let task = tokio::spawn(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    let outcome = listener.process_notification(notification.payload()).await;
                    println!("{}: {outcome:?}", notification.channel());
                }
                Ok(_) => {}
                // From here on the caches are stale: connect again, and read the tables again.
                Err(error) => {
                    eprintln!("connection lost: {error}");
                    break;
                }
            }
        }
    });
    client.batch_execute(&format!("LISTEN {channel}")).await?;
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

    // LISTEN before the rows are read: what changes in between is announced, and not missed.
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
