//! A service that installs its triggers itself, reads what its open transaction has written, and
//! keeps whole rows beside the index.
//!
//! ```text
//! cargo run -p postgres-index-cache-core --example transaction -- \
//!     "host=localhost user=postgres dbname=mydb"
//! ```
//!
//! The table `users` is that of the other examples: `id uuid`, `username_hash bigint`, `email_hash
//! bigint`. Each line of stdin is `USERNAME_HASH EMAIL_HASH`: a user is inserted and read, within the
//! transaction, right behind the commit, and from the cache of whole rows. A line `rollback` undoes
//! an insert of the same kind.

use postgres_index_cache_core::triggers::{self, InstallOptions};
use postgres_index_cache_core::{
    CacheModel, Objects, Replica, ReplicaTable, Staged, TransactionToken,
};
use serde::Deserialize;
use std::error::Error;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// What the index needs of a row of the table `users`.
#[derive(Debug, Clone, Deserialize, CacheModel)]
#[cache(table = "users")]
struct User {
    #[cache(key)]
    id: Uuid,
    #[cache(index)]
    username_hash: i64,
}

/// The whole row.
#[derive(Debug)]
struct WholeUser {
    email_hash: i64,
}

struct Service {
    client: Client,
    replica: Replica,
    users: ReplicaTable<User>,
    whole: Objects<User, WholeUser>,
    /// The last transaction that was committed.
    last: Option<TransactionToken>,
}

impl Service {
    /// Counts the users with a hash, as whoever has written `written` sees them.
    fn count(&self, written: &Staged<User>, username_hash: i64) -> usize {
        let rows = self.replica.read(&self.users);
        let view = written.over(&rows);
        view.find(|cache| cache.by_username_hash(username_hash))
            .count()
    }

    /// Inserts a user. Returns how many users of the hash the transaction saw, and how many were
    /// seen right behind its end.
    async fn insert(
        &mut self,
        user: &User,
        email_hash: i64,
        commits: bool,
    ) -> Result<(usize, usize), Box<dyn Error>> {
        // What an earlier request has written is read by this one.
        if let Some(last) = self.last {
            self.replica.wait_for_in(&self.users, last).await?;
        }
        let transaction = self.client.transaction().await?;
        let insert = "INSERT INTO users VALUES ($1, $2, $3)";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&user.id, &user.username_hash, &email_hash];
        transaction.execute(insert, &values).await?;
        let mut written = Staged::new();
        written.put(user.clone());
        let within = {
            let rows = self.replica.read(&self.users);
            let view = written.over(&rows);
            view.find(|cache| cache.by_username_hash(user.username_hash))
                .count()
        };
        if commits {
            let row = transaction.query_one(TransactionToken::QUERY, &[]).await?;
            let token: TransactionToken = row.get::<_, String>(0).parse()?;
            transaction.commit().await?;
            self.last = Some(token);
            // The notification may be on its way: the rows are shown until the cache has them.
            self.replica
                .settle(&self.users, &mut written, token)
                .await?;
        } else {
            transaction.rollback().await?;
            written = Staged::new();
        }
        Ok((within, self.count(&written, user.username_hash)))
    }

    /// Returns the whole row of a user: kept, or read from the database.
    async fn whole(&self, id: Uuid) -> Result<Option<i64>, Box<dyn Error>> {
        let loading = self.whole.get_or_load(&id, async || {
            let select = "SELECT email_hash FROM users WHERE id = $1";
            let row = self.client.query_opt(select, &[&id]).await?;
            Ok::<_, tokio_postgres::Error>(row.map(|row| WholeUser {
                email_hash: row.get(0),
            }))
        });
        Ok(loading.await?.map(|user| user.email_hash))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "host=localhost user=postgres".to_string());
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    for table in triggers::install(&mut client, &["users"], &InstallOptions::default()).await? {
        println!("triggers of {}: {}", table.name, table.result);
    }

    let mut builder = Replica::builder(url.parse::<tokio_postgres::Config>()?);
    let users = builder.model::<User>();
    let replica = builder.open().await?;
    let whole = replica.objects(&users, 64 << 20, |_: &WholeUser| size_of::<WholeUser>())?;
    println!("{}", replica.status());
    let mut service = Service {
        client,
        replica,
        users,
        whole,
        last: None,
    };

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let hashes: Vec<i64> = line.split(' ').flat_map(str::parse).collect();
        let commits = line != "rollback";
        let user = User {
            id: Uuid::new_v4(),
            username_hash: hashes.first().copied().unwrap_or_default(),
        };
        let email_hash = hashes.get(1).copied().unwrap_or_default();
        let (within, after) = service.insert(&user, email_hash, commits).await?;
        let whole = service.whole(user.id).await?;
        println!("within {within}, after {after}, whole {whole:?}");
    }
    service.replica.shutdown().await;
    Ok(())
}
