//! Two nodes: what one has written, the other reads, without a look at the clock.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example causal -- \
//!     "host=localhost user=postgres dbname=mydb"
//! ```
//!
//! The table `users` needs triggers: `pgic install-triggers users`. Each line of stdin is the
//! `username_hash` that a new user gets. One node writes the user and hands on the token of the
//! transaction. The other one waits until its cache has that transaction, and reads the user.

use postgres_index_cache_core::{CacheModel, Replica, ReplicaTable, TransactionToken};
use serde::Deserialize;
use std::error::Error;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// A row of the table `users`. The fields have the names of the columns.
#[derive(Debug, Clone, Deserialize, CacheModel)]
#[cache(table = "users")]
struct User {
    #[cache(key)]
    id: Uuid,
    #[cache(index)]
    username_hash: i64,
}

/// The node that writes: inserts a user, and returns the token of the transaction.
async fn insert(client: &mut Client, username_hash: i64) -> Result<String, Box<dyn Error>> {
    let transaction = client.transaction().await?;
    let insert = "INSERT INTO users VALUES (gen_random_uuid(), $1, 0)";
    transaction.execute(insert, &[&username_hash]).await?;
    // In the transaction that writes, and handed on after the commit: as a header or a cookie.
    let row = transaction.query_one(TransactionToken::QUERY, &[]).await?;
    transaction.commit().await?;
    Ok(row.get(0))
}

/// The node that reads: waits for the transaction, and finds the user.
async fn find(
    replica: &Replica,
    users: &ReplicaTable<User>,
    token: &str,
    username_hash: i64,
) -> Result<Option<User>, Box<dyn Error>> {
    let token: TransactionToken = token.parse()?;
    // A token may be of a transaction that never ends, so the wait has a bound.
    let waiting = replica.wait_for_in(users, token);
    tokio::time::timeout(Duration::from_secs(2), waiting).await??;
    let rows = replica.read(users);
    Ok(rows.by_username_hash(username_hash).next().cloned())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "host=localhost user=postgres".to_string());
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let mut builder = Replica::builder(url.parse::<tokio_postgres::Config>()?);
    let users = builder.model::<User>();
    let replica = builder.open().await?;
    println!("{}", replica.status());

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let username_hash: i64 = line.parse()?;
        let token = insert(&mut client, username_hash).await?;
        let began = Instant::now();
        let user = find(&replica, &users, &token, username_hash).await?;
        let micros = began.elapsed().as_micros();
        match user {
            Some(user) => println!("found {} in {micros} us", user.id),
            None => println!("not found"),
        }
    }
    replica.shutdown().await;
    Ok(())
}
