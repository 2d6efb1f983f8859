//! A replica over TLS, connected as psql would be: a connection string, libpq's variables, the
//! password file, certificates, several hosts.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --features connect --example tls -- \
//!     "postgresql://app@db.example/shop?sslmode=verify-full&sslrootcert=system"
//! ```
//!
//! The table `users` needs triggers: `pgic install-triggers users`. The program prints how its
//! sessions are encrypted, opens the replica, and ends with stdin.

use postgres_index_cache_core::pg_connect::{Environment, SessionOptions, Target};
use postgres_index_cache_core::{HasPrimaryKey, Indexable, Replica};
use serde::Deserialize;
use std::collections::HashMap;
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

/// A row of the table `users`.
#[derive(Debug, Deserialize)]
struct User {
    id: Uuid,
    username_hash: i64,
}

impl HasPrimaryKey for User {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for User {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("username_hash".to_string(), Some(self.username_hash))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Prints how a session of this target is encrypted, and what the user should know.
async fn print_encryption(target: &Target) -> Result<(), Box<dyn std::error::Error>> {
    let connected = target.connect(&SessionOptions::default()).await?;
    // Such as: sslmode=prefer fell back to plaintext. A replica writes these to `tracing`.
    for notice in &connected.notices {
        eprintln!("{notice}");
    }
    tokio::spawn(connected.connection);
    let question = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = connected.client.query_one(question, &[]).await?;
    match row.get::<_, Option<String>>("version") {
        Some(version) => println!("encrypted by {version}"),
        None => println!("not encrypted"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Without an argument, PGHOST, PGUSER and the like say where to connect.
    let conninfo = std::env::args().nth(1).unwrap_or_default();
    let target = Target::new(&conninfo, Environment::of_process())?.application_name("tls example");
    print_encryption(&target).await?;

    // The replica opens its sessions by the target. After a loss it opens them again, and reads the
    // password file, the certificates and the hosts' addresses anew.
    let mut builder = Replica::builder(target);
    let users = builder.table::<User>("users");
    let replica = builder.open().await?;
    println!("{} users, {}", replica.read(&users).len(), replica.status());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    replica.shutdown().await;
    Ok(())
}
