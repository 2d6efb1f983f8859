//! An application node: a cache of the table `users` is kept in step, and read without asking the
//! database.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example app_node -- \
//!     "host=localhost user=postgres dbname=mydb"
//! ```
//!
//! The table `users` needs triggers: `pgic install-triggers users`. Each line of stdin is a
//! `username_hash` to look up. The program prints the changes of the cache as they happen, and ends
//! at the end of stdin.

use postgres_index_cache_core::{HasPrimaryKey, Indexable};
use postgres_index_cache_core::{Replica, ReplicaEvent, ReplicaTable};
use serde::Deserialize;
use std::collections::HashMap;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use uuid::Uuid;

/// A row of the table `users`. The fields have the names of the columns.
#[derive(Debug, Deserialize)]
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

/// Prints the users with this `username_hash`. The answer has everything that was committed before
/// the call.
async fn look_up(replica: &Replica, users: &ReplicaTable<User>, username_hash: i64) {
    // Without the fence, the answer would be as of the last change that has arrived.
    if let Err(error) = replica.fence().await {
        return println!("the cache is not kept in step any more: {error}");
    }
    // Holds the lock of the cache: drop it soon, since no change is applied meanwhile.
    let reading = replica.read(users);
    let found: Vec<&User> = reading
        .get_by_i64_index("username_hash", &username_hash)
        .into_iter()
        .flatten()
        .filter_map(|id| reading.get_by_primary(id))
        .collect();
    println!("found {found:?}, live: {}", reading.is_live());
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "host=localhost user=postgres".to_string());
    let mut builder = Replica::builder(config.parse::<tokio_postgres::Config>()?);
    let users = builder.table::<User>("users");
    // Returns when the table is loaded and live.
    let replica = builder.open().await?;
    println!("live, {} users", replica.read(&users).len());

    let mut events = replica.events();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(ReplicaEvent::Row { table, key, change }) => {
                    println!("{table} {key}: {change:?}");
                }
                Some(event) => println!("{event:?}"),
                // The replica has ended.
                None => break,
            },
            line = lines.next_line() => match line? {
                Some(line) => look_up(&replica, &users, line.trim().parse()?).await,
                None => break,
            },
        }
    }
    println!("{} changes applied", replica.stats().counters.applied);
    replica.shutdown().await;
    Ok(())
}
