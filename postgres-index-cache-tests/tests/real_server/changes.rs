//! The changes of a table's rows, each with the row before and after, on a real server.

use crate::replica::{User, builder, fence, with_users};
use crate::support::DEADLINE;
use postgres_index_cache_core::{Change, Changes, MissedChanges, RowChangeKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Returns the next change.
async fn next(changes: &mut Changes<User>) -> Option<Result<Arc<Change<User>>, MissedChanges>> {
    tokio::time::timeout(DEADLINE, changes.next())
        .await
        .expect("a change comes in time")
}

/// Returns a change as `key: hash before -> hash after`.
fn short(change: &Change<User>) -> String {
    let hash = |user: &Option<User>| {
        user.as_ref()
            .map_or("none".to_string(), |user| user.username_hash().to_string())
    };
    let how = match change.how {
        RowChangeKind::Added => "added",
        RowChangeKind::Changed => "changed",
        RowChangeKind::Removed => "removed",
    };
    let key = change.key.as_u128();
    format!(
        "{how} {key}: {} -> {}",
        hash(&change.old),
        hash(&change.new)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_has_the_row_before_and_after() {
    let (_database, client, replica, users) = with_users("").await;
    let mut changes = replica.changes(&users).unwrap();
    let one = "00000000-0000-0000-0000-000000000001";
    let two = "00000000-0000-0000-0000-000000000002";
    let sql = [
        format!("INSERT INTO users VALUES ('{one}', 1, 0)"),
        "UPDATE users SET username_hash = 2".to_string(),
        // Nothing in the row is another.
        "UPDATE users SET username_hash = 2".to_string(),
        format!("UPDATE users SET id = '{two}'"),
        "DELETE FROM users".to_string(),
        format!("INSERT INTO users VALUES ('{one}', 3, 0)"),
        "TRUNCATE users".to_string(),
    ];
    for statement in sql {
        client.batch_execute(&statement).await.unwrap();
        fence(&replica).await;
    }
    let mut seen = Vec::new();
    for _ in 0..7 {
        let change = next(&mut changes).await.unwrap().unwrap();
        seen.push(short(&change));
    }
    assert_eq!(
        seen,
        [
            "added 1: none -> 1",
            "changed 1: 1 -> 2",
            "removed 1: 2 -> none",
            "added 2: none -> 2",
            "removed 2: 2 -> none",
            "added 1: none -> 3",
            "removed 1: 3 -> none",
        ]
    );
    replica.shutdown().await;
    assert!(next(&mut changes).await.is_none());
}

/// The promise: the rows, with the changes from then on, are the table. Whoever begins may do so in
/// the middle of a load, and connections are lost.
#[tokio::test(flavor = "multi_thread")]
async fn rows_and_changes_are_the_table_without_a_hole() {
    let (database, client, replica, users) = with_users(
        "INSERT INTO users SELECT md5(n::text)::uuid, n, 0 FROM generate_series(1, 300) n;",
    )
    .await;
    let load = database.client().await;
    let loading = tokio::spawn(async move {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..4000 {
            let n = random.u32(1..400);
            let sql = match random.u8(0..10) {
                0..3 => format!("DELETE FROM users WHERE id = md5('{n}')::uuid"),
                3..6 => format!(
                    "INSERT INTO users VALUES (md5('{n}')::uuid, {n}, 1) ON CONFLICT DO NOTHING"
                ),
                _ => format!(
                    "UPDATE users SET email_hash = email_hash + 1 WHERE id = md5('{n}')::uuid"
                ),
            };
            load.batch_execute(&sql).await.unwrap();
        }
    });
    let mut followers = Vec::new();
    for round in 0..20 {
        let (locked, changes) = replica.read_with_changes(&users).unwrap();
        let rows: BTreeMap<Uuid, User> = locked
            .iter()
            .map(|user| (user.id(), user.clone()))
            .collect();
        drop(locked);
        followers.push((rows, changes));
        if round % 5 == 4 {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'node%'";
            client.batch_execute(end).await.unwrap();
        }
        fence(&replica).await;
    }
    loading.await.unwrap();
    fence(&replica).await;
    let rows = client
        .query("SELECT id, username_hash, email_hash FROM users", &[])
        .await
        .unwrap();
    let table: BTreeMap<Uuid, (i64, i64)> = rows
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect();
    replica.shutdown().await;
    for (mut rows, mut changes) in followers {
        while let Some(change) = next(&mut changes).await {
            let change = change.expect("nothing is missed");
            let before = match &change.new {
                Some(user) => rows.insert(change.key, user.clone()),
                None => rows.remove(&change.key),
            };
            assert_eq!(
                before, change.old,
                "the row before is the one that was told"
            );
        }
        let rows: BTreeMap<Uuid, (i64, i64)> = rows
            .into_iter()
            .map(|(key, user)| (key, user.hashes()))
            .collect();
        assert_eq!(rows, table);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_follower_is_told_how_many_changes_were_missed() {
    let (_database, client, replica, users) = with_users("").await;
    let mut changes = replica.changes(&users).unwrap();
    client
        .batch_execute(
            "INSERT INTO users SELECT md5(n::text)::uuid, n, 0 FROM generate_series(1, 20000) n",
        )
        .await
        .unwrap();
    fence(&replica).await;
    let missed = next(&mut changes).await.unwrap().unwrap_err();
    assert_eq!(missed, MissedChanges(20_000 - 16_384));
    for _ in 0..16_384 {
        let change = next(&mut changes).await.unwrap().unwrap();
        assert_eq!(change.how, RowChangeKind::Added);
    }
    // Whoever begins now has them all.
    let (rows, _changes) = replica.read_with_changes(&users).unwrap();
    assert_eq!(rows.len(), 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_of_another_replicas_table_are_refused() {
    let (database, _client, replica, _) = with_users("").await;
    let mut other = builder(&database);
    let foreign = other.table::<User>("users");
    let _other = other.open().await.unwrap();
    let refused = replica.changes(&foreign).unwrap_err();
    assert!(refused.to_string().contains("another replica"), "{refused}");
}
