//! [`TransactionToken`]: what one node has written is read on another, on a real server.

use crate::replica::{User, builder, fence, with_users};
use crate::support::{DEADLINE, Database, USERS};
use postgres_index_cache_core::{Replica, ReplicaTable, TransactionToken};
use std::future::Future;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// One user, whose hash the tests change.
const ONE_USER: &str = "INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000001', 1, 0);";

/// Begins a transaction that sets the hash of the one user, and returns its token.
async fn write(client: &Client, hash: i64) -> TransactionToken {
    let update = format!("BEGIN; UPDATE users SET username_hash = {hash}");
    client.batch_execute(&update).await.unwrap();
    token_of(client).await
}

/// Returns the token of the transaction that is open.
async fn token_of(client: &Client) -> TransactionToken {
    let row = client
        .query_one(TransactionToken::QUERY, &[])
        .await
        .unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}

async fn end(client: &Client, how: &str) {
    client.batch_execute(how).await.unwrap();
}

/// Returns what a future returns, which must come in time.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it comes in time")
}

/// Returns the hash of the one user in a cache.
fn hash(replica: &Replica, users: &ReplicaTable<User>) -> i64 {
    let rows = replica.read(users);
    assert_eq!(rows.len(), 1);
    let hash = rows.iter().next().map(User::username_hash);
    hash.expect("one user")
}

/// Waits until a cache has a hash, without asking the server for anything.
async fn until_hash(replica: &Replica, users: &ReplicaTable<User>, wanted: i64) {
    let end = Instant::now() + DEADLINE;
    while hash(replica, users) != wanted {
        assert!(Instant::now() < end, "the hash is {}", hash(replica, users));
        tokio::task::yield_now().await;
    }
}

/// The promise: whoever is handed a token reads what its transaction wrote, on any node, while
/// others write.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_writes_is_read_on_another() {
    let (database, client, first, first_users) = with_users(ONE_USER).await;
    let mut second = builder(&database);
    let second_users = second.table::<User>("users");
    let second = second.open().await.unwrap();
    let load = database.client().await;
    let noise = tokio::spawn(async move {
        // Transactions that begin and end in an order of their own, and write to no followed table.
        for _ in 0..2000 {
            let sql = "SELECT pg_notify('cache_invalidation', 'junk')";
            load.batch_execute(sql).await.unwrap();
        }
    });
    for number in 10..210 {
        let token = write(&client, number).await;
        end(&client, "COMMIT").await;
        if number % 2 == 0 {
            in_time(second.wait_for(token)).await.unwrap();
            assert_eq!(hash(&second, &second_users), number);
            assert!(second.reached(token).await.unwrap());
        } else {
            in_time(first.wait_for_in(&first_users, token))
                .await
                .unwrap();
            assert_eq!(hash(&first, &first_users), number);
            assert!(first.reached_in(&first_users, token).await.unwrap());
        }
    }
    noise.await.unwrap();
}

/// The order of transaction ids is not that of commits: a later transaction that is reached says
/// nothing of an earlier one.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_in_progress_is_waited_for_though_later_ones_are_reached() {
    let (database, client, replica, users) = with_users(ONE_USER).await;
    let slow = write(&client, 7).await;
    let other = database.client().await;
    other
        .batch_execute("BEGIN; INSERT INTO users VALUES (gen_random_uuid(), 5, 5)")
        .await
        .unwrap();
    let fast = token_of(&other).await;
    assert!(fast.xid() > slow.xid());
    end(&other, "COMMIT").await;
    in_time(replica.wait_for(fast)).await.unwrap();
    assert_eq!(replica.read(&users).len(), 2);
    assert!(!replica.reached(slow).await.unwrap());
    {
        let waiting = replica.wait_for(slow);
        tokio::pin!(waiting);
        // Fences come meanwhile, and do not answer for a transaction that is in progress.
        for _ in 0..20 {
            tokio::select! {
                biased;
                waited = &mut waiting => panic!("it did not wait: {waited:?}"),
                () = fence(&replica) => {}
            }
        }
        end(&client, "COMMIT").await;
        in_time(waiting).await.unwrap();
    }
    let rows = replica.read(&users);
    assert!(rows.iter().any(|user| user.username_hash() == 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_rolled_back_is_not_waited_for() {
    let (_database, client, replica, users) = with_users(ONE_USER).await;
    let token = write(&client, 9).await;
    end(&client, "ROLLBACK").await;
    in_time(replica.wait_for(token)).await.unwrap();
    assert_eq!(hash(&replica, &users), 1);
}

/// In a busy service the next transaction's notification is behind a transaction's own: no fence
/// is sent, and PostgreSQL is asked nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_heard_is_known_without_asking_the_server() {
    let database = Database::with(&format!("{USERS}{ONE_USER}")).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let mut builder = builder(&database);
    let mut limits = postgres_index_cache_core::Limits::default();
    // No fence of the replica's own comes in between.
    limits.heartbeat = Duration::from_secs(3600);
    builder.limits(limits);
    let users = builder.table::<User>("users");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    let first = write(&client, 3).await;
    end(&client, "COMMIT").await;
    until_hash(&replica, &users, 3).await;
    assert!(
        !replica.reached_in(&users, first).await.unwrap(),
        "more of its notifications may follow"
    );
    let second = write(&client, 4).await;
    end(&client, "COMMIT").await;
    until_hash(&replica, &users, 4).await;
    assert!(replica.reached_in(&users, first).await.unwrap());
    assert!(!replica.reached_in(&users, second).await.unwrap());
    // The id alone could be anybody's notification.
    let id = TransactionToken::from(first.xid());
    assert!(!replica.reached_in(&users, id).await.unwrap());
    in_time(replica.wait_for(id)).await.unwrap();
    assert!(replica.reached(first).await.unwrap() && replica.reached(second).await.unwrap());
}

/// Any role can notify, and sees the ids of the transactions that are in progress.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_say_that_the_transaction_of_another_has_arrived() {
    let (database, client, replica, users) = with_users(ONE_USER).await;
    let token = write(&client, 8).await;
    let forger = database.client().await;
    let oid: u32 = forger
        .query_one("SELECT 'users'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0);
    for key in ["2", "3"] {
        let payload = format!(
            r#"{{"table":"users","action":"delete","schema":"public","rel":{oid},"xid":"{}",
                "id":"00000000-0000-0000-0000-00000000000{key}"}}"#,
            token.xid()
        );
        let sql = format!("NOTIFY cache_invalidation, '{payload}'");
        forger.batch_execute(&sql).await.unwrap();
    }
    fence(&replica).await;
    assert!(!replica.reached_in(&users, token).await.unwrap());
    end(&client, "COMMIT").await;
    in_time(replica.wait_for(token)).await.unwrap();
    assert_eq!(hash(&replica, &users), 8);
}

/// What no notification tells is not reached before a look has found it: "live" must not be said of
/// a cache that lacks the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_nobody_announces_is_not_reached() {
    let (database, client, replica, users) = with_users(ONE_USER).await;
    let admin = database.client().await;
    for number in 20..40 {
        end(&admin, "ALTER TABLE users DISABLE TRIGGER USER").await;
        let token = write(&client, number).await;
        end(&client, "COMMIT").await;
        let waiting = replica.wait_for(token);
        let mend = async {
            // The table is held until its triggers are there again, and then read.
            end(&admin, "ALTER TABLE users ENABLE TRIGGER USER").await;
        };
        let (waited, ()) = in_time(async { tokio::join!(waiting, mend) }).await;
        waited.unwrap();
        assert_eq!(hash(&replica, &users), number);
    }
}

/// A client can make a token up. Who waits for it in vain costs nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_tokens_hold_up_nobody() {
    let (_database, client, replica, users) = with_users(ONE_USER).await;
    let replica = std::sync::Arc::new(replica);
    let made_up: Vec<_> = (0..100)
        .map(|number| {
            let replica = std::sync::Arc::clone(&replica);
            let token = TransactionToken::new(u64::MAX - number, 1);
            tokio::spawn(async move { replica.wait_for(token).await })
        })
        .collect();
    for number in 60..80 {
        let token = write(&client, number).await;
        if number % 2 == 0 {
            // In progress, as the made-up ones seem to be.
            let early = tokio::time::timeout(Duration::from_millis(5), replica.wait_for(token));
            assert!(early.await.is_err());
        }
        end(&client, "COMMIT").await;
        in_time(replica.wait_for_in(&users, token)).await.unwrap();
        assert_eq!(hash(&replica, &users), number);
    }
    for waiting in made_up {
        assert!(!waiting.is_finished());
        waiting.abort();
    }
}

/// While rows are refetched without end there is always one missing, and fences are reached all the
/// same.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_reached_while_rows_are_refetched_without_end() {
    let (database, client, replica, users) = with_users(ONE_USER).await;
    let load = database.client().await;
    let oid: u32 = load
        .query_one("SELECT 'users'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0);
    let loading = tokio::spawn(async move {
        for xid in 1_000_000.. {
            let payload = format!(
                r#"{{"table":"users","action":"update","schema":"public","rel":{oid},"xid":"{xid}",
                    "id":"00000000-0000-0000-0000-000000000001","truncated":true}}"#,
            );
            let sql = format!("NOTIFY cache_invalidation, '{payload}'");
            load.batch_execute(&sql).await.unwrap();
        }
    });
    for number in 80..120 {
        let token = write(&client, number).await;
        end(&client, "COMMIT").await;
        in_time(replica.wait_for_in(&users, token)).await.unwrap();
        assert_eq!(hash(&replica, &users), number);
    }
    loading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_waited_for_through_lost_connections() {
    let (_database, client, replica, users) = with_users(ONE_USER).await;
    for (number, lost) in (50..).zip(["node", "node (fences)", "node (reads)", "node%"]) {
        let token = write(&client, number).await;
        let end_sessions = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE '{lost}'"
        );
        end(&client, "COMMIT").await;
        client.batch_execute(&end_sessions).await.unwrap();
        in_time(replica.wait_for(token)).await.unwrap();
        assert_eq!(hash(&replica, &users), number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_replica_is_refused() {
    let (database, client, replica, _) = with_users(ONE_USER).await;
    let mut other = builder(&database);
    let foreign = other.table::<User>("users");
    let _other = other.open().await.unwrap();
    let token = write(&client, 2).await;
    end(&client, "COMMIT").await;
    let refused = replica.wait_for_in(&foreign, token).await.unwrap_err();
    assert!(refused.to_string().contains("another replica"), "{refused}");
    replica.shutdown().await;
    let ended = replica.wait_for(token).await.unwrap_err();
    assert!(ended.to_string().contains("shut down"), "{ended}");
}
