//! The rows of a transaction of one's own, over the cache of a replica, on a real server.

use crate::replica::{User, builder, fence, with_users};
use crate::support::{DEADLINE, Database};
use postgres_index_cache_core::{Replica, ReplicaTable, Staged, TransactionToken};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

fn user_of(row: &Row) -> User {
    let (id, username_hash, email_hash): (Uuid, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let json = serde_json::json!({
        "id": id, "username_hash": username_hash, "email_hash": email_hash
    });
    serde_json::from_value(json).unwrap()
}

async fn token(transaction: &Transaction<'_>) -> TransactionToken {
    let row = transaction
        .query_one(TransactionToken::QUERY, &[])
        .await
        .unwrap();
    row.get::<_, String>(0).parse().unwrap()
}

/// Reads what the writer sees until the replica's cache has it.
async fn until_settled(
    replica: &Replica,
    users: &ReplicaTable<User>,
    written: &Staged<User>,
    check: impl Fn(Option<&User>),
    id: Uuid,
) {
    let give_up = Instant::now() + DEADLINE;
    loop {
        {
            let rows = replica.read(users);
            let view = written.over(&rows);
            check(view.get_by_primary(&id));
            if view.is_settled() {
                return;
            }
        }
        assert!(Instant::now() < give_up, "the cache gets the transaction");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_sees_its_own_rows_and_nobody_else_does() {
    let (_database, mut client, replica, users) = with_users(
        "INSERT INTO users VALUES
            ('00000000-0000-0000-0000-000000000001', 1, 0),
            ('00000000-0000-0000-0000-000000000002', 1, 0)",
    )
    .await;
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut written = Staged::new();
    let transaction = client.transaction().await.unwrap();
    let update = "UPDATE users SET username_hash = 2 WHERE id = $1 RETURNING *";
    let row = transaction.query_one(update, &[&one]).await.unwrap();
    written.put(user_of(&row));
    let delete = "DELETE FROM users WHERE id = $1";
    transaction.execute(delete, &[&two]).await.unwrap();
    written.remove(&two);
    {
        let rows = replica.read(&users);
        let view = written.over(&rows);
        assert_eq!(view.len(), 1);
        assert_eq!(view.get_by_i64_index("username_hash", &2).len(), 1);
        assert!(view.get_by_i64_index("username_hash", &1).is_empty());
        assert_eq!(rows.len(), 2);
        assert_eq!(rows.get_by_primary(&one).unwrap().username_hash(), 1);
    }
    // Rolled back: whoever dropped the rows sees the table's.
    drop(written);
    transaction.rollback().await.unwrap();
    fence(&replica).await;
    assert_eq!(
        replica
            .read(&users)
            .get_by_primary(&one)
            .unwrap()
            .username_hash(),
        1
    );

    // A commit whose outcome was not learnt, and which was none: the cache's rows come back.
    let mut written = Staged::new();
    let transaction = client.transaction().await.unwrap();
    let row = transaction.query_one(update, &[&one]).await.unwrap();
    written.put(user_of(&row));
    let unknown = token(&transaction).await;
    transaction.rollback().await.unwrap();
    replica
        .settle_unknown(&users, &mut written, unknown)
        .await
        .unwrap();
    let is_either = |user: Option<&User>| assert!((1..=2).contains(&user.unwrap().username_hash()));
    until_settled(&replica, &users, &written, is_either, one).await;
    let rows = replica.read(&users);
    assert_eq!(
        written
            .over(&rows)
            .get_by_primary(&one)
            .unwrap()
            .username_hash(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_never_sees_the_row_before_the_own_commit() {
    count_up(&[]).await;
}

/// Rows that are read again by their keys come later than the notification.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_never_sees_the_row_before_also_where_rows_are_read_by_key() {
    count_up(&["--no-data"]).await;
}

/// The promise: whoever has committed never sees the row as it was before, and sees what others
/// commit later. Several writers count one row up, and connections are lost.
async fn count_up(options: &[&str]) {
    let sql = "INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 0, 0)";
    let (database, killer, replica, users) = with_users(sql).await;
    database.pgic_ok(&[&["install-triggers", "users"], options].concat());
    fence(&replica).await;
    let id = Uuid::from_u128(1);
    let replica = Arc::new(replica);
    let committed = Arc::new(AtomicI64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for number in 0..3 {
        let mut client: Client = database.client().await;
        let replica = Arc::clone(&replica);
        let users = users.clone();
        let committed = Arc::clone(&committed);
        let is_over = Arc::clone(&is_over);
        writers.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(number);
            let mut rounds = 0;
            while !is_over.load(Ordering::Relaxed) || rounds < 10 {
                rounds += 1;
                let mut written = Staged::new();
                let transaction = client.transaction().await.unwrap();
                let count = "UPDATE users SET username_hash = username_hash + 1 RETURNING *";
                let row = transaction.query_one(count, &[]).await.unwrap();
                let user = user_of(&row);
                let own = user.username_hash();
                written.put(user);
                {
                    let rows = replica.read(&users);
                    let view = written.over(&rows);
                    assert_eq!(view.get_by_primary(&id).unwrap().username_hash(), own);
                    // What is not committed is seen by nobody else.
                    assert!(rows.get_by_primary(&id).unwrap().username_hash() < own);
                }
                if random.u8(..5) == 0 {
                    transaction.rollback().await.unwrap();
                    continue;
                }
                let token = token(&transaction).await;
                transaction.commit().await.unwrap();
                committed.fetch_max(own, Ordering::SeqCst);
                let is_own_or_later = |user: Option<&User>| {
                    let seen = user.unwrap().username_hash();
                    assert!(seen >= own, "{seen} was before {own}");
                };
                is_own_or_later(written.over(&replica.read(&users)).get_by_primary(&id));
                replica.settle(&users, &mut written, token).await.unwrap();
                if random.bool() {
                    let before = committed.load(Ordering::SeqCst);
                    fence(&replica).await;
                    let rows = replica.read(&users);
                    let seen = written.over(&rows).get_by_primary(&id).unwrap();
                    assert!(seen.username_hash() >= before, "a fence was passed");
                } else {
                    until_settled(&replica, &users, &written, is_own_or_later, id).await;
                }
            }
        }));
    }
    for _ in 0..4 {
        let before = committed.load(Ordering::SeqCst);
        let give_up = Instant::now() + DEADLINE;
        while committed.load(Ordering::SeqCst) < before + 20 {
            assert!(Instant::now() < give_up, "the writers go on");
            tokio::task::yield_now().await;
        }
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'node%' AND datname = current_database()";
        killer.batch_execute(kill).await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    fence(&replica).await;
    let seen = replica
        .read(&users)
        .get_by_primary(&id)
        .unwrap()
        .username_hash();
    assert_eq!(seen, committed.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_replica_or_of_one_that_ended_stay_the_transactions() {
    let sql = "INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 0)";
    let (_database, mut client, replica, users) = with_users(sql).await;
    let id = Uuid::from_u128(1);
    let mut written = Staged::new();
    let transaction = client.transaction().await.unwrap();
    let update = "UPDATE users SET username_hash = 2 RETURNING *";
    written.put(user_of(&transaction.query_one(update, &[]).await.unwrap()));
    let token = token(&transaction).await;
    let other: Database = Database::with(crate::support::USERS).await;
    other.pgic_ok(&["install-triggers", "users"]);
    let mut other_builder = builder(&other);
    let _ = other_builder.table::<User>("users");
    let other = other_builder.open().await.unwrap();
    assert!(other.settle(&users, &mut written, token).await.is_err());

    replica
        .settle_unknown(&users, &mut written, token)
        .await
        .unwrap();
    replica.shutdown().await;
    transaction.commit().await.unwrap();
    let rows = replica.read(&users);
    assert!(!rows.is_live());
    let view = written.over(&rows);
    assert!(!view.is_settled());
    assert_eq!(view.get_by_primary(&id).unwrap().username_hash(), 2);
    assert!(
        replica
            .settle(&users, &mut Staged::new(), token)
            .await
            .is_err()
    );
}
