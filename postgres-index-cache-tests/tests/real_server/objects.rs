//! Whole objects beside a table of a replica, on a real server.

use crate::replica::{builder, fence};
use crate::support::{DEADLINE, Database, USERS};
use postgres_index_cache_core::{CacheModel, Objects, Replica, ReplicaError, ReplicaTable};
use serde::Deserialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use uuid::Uuid;

/// The model has the key and an index alone.
#[derive(Deserialize, CacheModel)]
#[cache(table = "users")]
struct UserIndex {
    #[cache(key)]
    id: Uuid,
    #[cache(index)]
    username_hash: i64,
}

/// The object has a column that the model does not have.
#[derive(Debug, PartialEq)]
struct User {
    email_hash: i64,
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

async fn open(database: &Database) -> (Replica, ReplicaTable<UserIndex>) {
    let mut builder = builder(database);
    let users = builder.model::<UserIndex>();
    (builder.open().await.unwrap(), users)
}

/// Creates a database with `rows` users whose `email_hash` is 0, with triggers of these options.
async fn with_users(
    rows: u32,
    options: &[&str],
) -> (Database, Client, Replica, ReplicaTable<UserIndex>) {
    let fill = format!(
        "INSERT INTO users SELECT lpad(to_hex(n), 32, '0')::uuid, n, 0
         FROM generate_series(1, {rows}) n"
    );
    let database = Database::with(&format!("{USERS}{fill}")).await;
    database.pgic_ok(&[&["install-triggers", "users"], options].concat());
    let (replica, users) = open(&database).await;
    let client = database.client().await;
    (database, client, replica, users)
}

fn objects_of(replica: &Replica, users: &ReplicaTable<UserIndex>) -> Objects<UserIndex, User> {
    replica.objects(users, 1 << 20, |_: &User| 64).unwrap()
}

/// Lets other tasks run, so often.
async fn give_way(times: u32) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

async fn read(client: &Client, id: Uuid) -> Option<User> {
    let sql = "SELECT email_hash FROM users WHERE id = $1";
    let row = client.query_opt(sql, &[&id]).await.unwrap();
    row.map(|row| User {
        email_hash: row.get(0),
    })
}

/// Returns the object of a key, from the cache or the database.
async fn get(objects: &Objects<UserIndex, User>, client: &Client, id: Uuid) -> Option<i64> {
    let loaded = objects.get_or_load(&id, async || Ok::<_, Infallible>(read(client, id).await));
    loaded.await.unwrap().map(|user| user.email_hash)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_kept_until_its_row_changes_in_any_column() {
    let (_database, client, replica, users) = with_users(3, &[]).await;
    let objects = objects_of(&replica, &users);
    assert!(objects.get(&id(1)).is_none());
    for _ in 0..3 {
        assert_eq!(get(&objects, &client, id(1)).await, Some(0));
    }
    assert_eq!((objects.stats().loads, objects.stats().hits), (1, 2));
    assert_eq!(*objects.get(&id(1)).unwrap(), User { email_hash: 0 });
    assert_eq!(objects.stats().bytes, 64);

    // The model does not have the column.
    let update = "UPDATE users SET email_hash = 5 WHERE username_hash = 1";
    client.batch_execute(update).await.unwrap();
    fence(&replica).await;
    assert!(objects.get(&id(1)).is_none());
    assert_eq!(get(&objects, &client, id(1)).await, Some(5));

    // Another key, and back.
    let moved = "00000000-0000-0000-0000-000000000009";
    let update = format!("UPDATE users SET id = '{moved}' WHERE username_hash = 1");
    client.batch_execute(&update).await.unwrap();
    fence(&replica).await;
    assert!(objects.get(&id(1)).is_none());
    assert_eq!(get(&objects, &client, id(1)).await, None);
    assert_eq!(get(&objects, &client, id(9)).await, Some(5));
    assert!(objects.get(&id(9)).is_some());

    assert_eq!(get(&objects, &client, id(2)).await, Some(0));
    let delete = "DELETE FROM users WHERE username_hash = 2";
    client.batch_execute(delete).await.unwrap();
    fence(&replica).await;
    assert_eq!(get(&objects, &client, id(2)).await, None);

    assert_eq!(get(&objects, &client, id(3)).await, Some(0));
    client.batch_execute("TRUNCATE users").await.unwrap();
    fence(&replica).await;
    for number in [3, 9] {
        assert_eq!(get(&objects, &client, id(number)).await, None);
    }
    assert_eq!(objects.stats().objects, 0);
}

/// The classic race: what was read before a change must not be put in the cache behind the change.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_raced_with_a_change_is_not_kept() {
    let (database, client, replica, users) = with_users(2, &[]).await;
    let writer = database.client().await;
    let objects = objects_of(&replica, &users);
    let (one, two) = (id(1), id(2));
    let loaded = objects.get_or_load(&one, async || {
        let old = read(&client, id(1)).await;
        let update = "UPDATE users SET email_hash = 1 WHERE username_hash = 1";
        writer.batch_execute(update).await.unwrap();
        fence(&replica).await;
        // Whoever asks now must not wait for this load, whose object is old.
        assert_eq!(get(&objects, &writer, id(1)).await, Some(1));
        Ok::<_, Infallible>(old)
    });
    assert_eq!(loaded.await.unwrap().unwrap().email_hash, 0);
    assert_eq!(objects.get(&id(1)).unwrap().email_hash, 1);

    // A change of another row is no reason.
    let loaded = objects.get_or_load(&two, async || {
        let object = read(&client, id(2)).await;
        let update = "UPDATE users SET email_hash = 2 WHERE username_hash = 1";
        writer.batch_execute(update).await.unwrap();
        fence(&replica).await;
        Ok::<_, Infallible>(object)
    });
    assert_eq!(loaded.await.unwrap().unwrap().email_hash, 0);
    assert!(objects.get(&id(2)).is_some());
    assert!(objects.get(&id(1)).is_none());
}

/// What changed while nothing was listened to may be in columns that no snapshot compares.
#[tokio::test(flavor = "multi_thread")]
async fn no_object_outlives_a_gap() {
    let (_database, client, replica, users) = with_users(2, &[]).await;
    let objects = objects_of(&replica, &users);
    assert_eq!(get(&objects, &client, id(1)).await, Some(0));
    let end = "UPDATE users SET email_hash = 7;
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name LIKE 'node%' AND datname = current_database()";
    let disable = "ALTER TABLE users DISABLE TRIGGER ALL";
    client
        .batch_execute(&format!("{disable};{end}"))
        .await
        .unwrap();
    // A table whose triggers are off is not current: an object is loaded, and not kept.
    let give_up = Instant::now() + DEADLINE;
    while replica.read(&users).is_current() {
        assert!(Instant::now() < give_up, "the loss is noticed");
        tokio::task::yield_now().await;
    }
    assert!(objects.get(&id(1)).is_none());
    assert_eq!(get(&objects, &client, id(1)).await, Some(7));
    assert!(objects.get(&id(1)).is_none());
    client
        .batch_execute("ALTER TABLE users ENABLE TRIGGER ALL")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(get(&objects, &client, id(1)).await, Some(7));
    assert!(objects.get(&id(1)).is_some());
    replica.shutdown().await;
    assert!(objects.get(&id(1)).is_none());
    assert_eq!(get(&objects, &client, id(1)).await, Some(7));
}

/// The promise: after a fence, an object is the row's as of the fence or later. Writers count rows
/// up, readers load slowly, connections are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_fence_an_object_is_never_older() {
    const ROWS: usize = 4;
    let (database, killer, replica, users) = with_users(ROWS as u32, &[]).await;
    let objects = objects_of(&replica, &users);
    let replica = Arc::new(replica);
    let committed: Arc<Vec<AtomicI64>> = Arc::new((0..ROWS).map(|_| AtomicI64::new(0)).collect());
    let is_over = Arc::new(AtomicBool::new(false));
    let checked = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for row in 0..ROWS {
        let client = database.client().await;
        let committed = Arc::clone(&committed);
        let is_over = Arc::clone(&is_over);
        tasks.push(tokio::spawn(async move {
            let update = "UPDATE users SET email_hash = email_hash + 1 WHERE id = $1
                RETURNING email_hash";
            let mut random = fastrand::Rng::with_seed(row as u64);
            while !is_over.load(Ordering::Relaxed) {
                let row_id = id(row as u128 + 1);
                let now = client.query_one(update, &[&row_id]).await.unwrap().get(0);
                committed[row].store(now, Ordering::SeqCst);
                give_way(random.u32(..200)).await;
            }
        }));
    }
    for number in 0..4 {
        let client = database.client().await;
        let committed = Arc::clone(&committed);
        let is_over = Arc::clone(&is_over);
        let replica = Arc::clone(&replica);
        let objects = objects.clone();
        let checked = Arc::clone(&checked);
        tasks.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(100 + number);
            while !is_over.load(Ordering::Relaxed) {
                let row = random.usize(..ROWS);
                let before = committed[row].load(Ordering::SeqCst);
                if random.u8(..4) > 0 {
                    fence(&replica).await;
                } else {
                    // Without a fence no more is promised than at the last one.
                    let _ = get(&objects, &client, id(row as u128 + 1)).await;
                    continue;
                }
                let row_id = id(row as u128 + 1);
                let pause = random.u32(..200);
                let loaded = objects.get_or_load(&row_id, async || {
                    let user = read(&client, row_id).await;
                    give_way(pause).await;
                    Ok::<_, Infallible>(user)
                });
                let seen = loaded.await.unwrap().unwrap().email_hash;
                assert!(seen >= before, "row {row}: {seen} was before {before}");
                checked.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let give_up = Instant::now() + DEADLINE;
    for round in 1..=5 {
        while checked.load(Ordering::Relaxed) < round * 60 {
            assert!(Instant::now() < give_up, "the readers go on");
            assert!(
                tasks.iter().all(|task| !task.is_finished()),
                "nobody failed"
            );
            tokio::task::yield_now().await;
        }
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'node%' AND datname = current_database()";
        killer.batch_execute(kill).await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let stats = objects.stats();
    assert!(
        stats.hits > 0 && stats.not_kept > 0 && stats.written > 0,
        "{stats:?}"
    );
}

/// Polls a future once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_share_a_load_and_outlive_the_one_who_loads() {
    let (_database, client, replica, users) = with_users(2, &[]).await;
    let objects = objects_of(&replica, &users);
    let one = id(1);
    let loads = AtomicUsize::new(0);
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = async |value: i64| {
        loads.fetch_add(1, Ordering::SeqCst);
        let mut released = released.clone();
        released.wait_for(|is| *is).await.unwrap();
        Ok::<_, String>(Some(User { email_hash: value }))
    };
    {
        let first = objects.get_or_load(&one, async || slow(1).await);
        let second = objects.get_or_load(&one, async || slow(2).await);
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(poll_once(&mut first).await.is_pending());
        assert!(poll_once(&mut second).await.is_pending());
        assert_eq!(loads.load(Ordering::SeqCst), 1);
        // Who loads gives up: the other one loads.
        drop(first);
        assert!(poll_once(&mut second).await.is_pending());
        assert_eq!(loads.load(Ordering::SeqCst), 2);
        let third = objects.get_or_load(&one, async || slow(3).await);
        let mut third = Box::pin(third);
        assert!(poll_once(&mut third).await.is_pending());
        assert_eq!(loads.load(Ordering::SeqCst), 2);
        release.send_replace(true);
        assert_eq!(second.await.unwrap().unwrap().email_hash, 2);
        assert_eq!(third.await.unwrap().unwrap().email_hash, 2);
    }
    // An error is the caller's who loaded. Nothing is kept.
    let two = id(2);
    let failed = objects.get_or_load(&two, async || Err::<Option<User>, _>("no".to_string()));
    assert_eq!(failed.await.unwrap_err(), "no");
    assert_eq!(get(&objects, &client, id(2)).await, Some(0));

    objects.forget(&id(2));
    assert!(objects.get(&id(2)).is_none());
    assert!(objects.get(&id(1)).is_some());
    objects.forget_all();
    assert!(objects.get(&id(1)).is_none());
    assert_eq!(get(&objects, &client, id(1)).await, Some(0));
    let short_lived = objects.clone().max_age(Duration::ZERO);
    assert!(short_lived.get(&id(1)).is_none());
    assert!(objects.get(&id(1)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_are_bounded() {
    let (_database, client, replica, users) = with_users(500, &[]).await;
    let objects = replica.objects(&users, 4_000, |_: &User| 100).unwrap();
    for number in 1..=500 {
        assert_eq!(get(&objects, &client, id(number)).await, Some(0));
    }
    let stats = objects.stats();
    assert!(stats.bytes <= 4_000, "{stats:?}");
    assert!(stats.objects > 20, "{stats:?}");
    // An object that is larger than all is returned, and not kept.
    let large = replica
        .objects(&users, 4_000, |_: &User| usize::MAX)
        .unwrap();
    assert_eq!(get(&large, &client, id(1)).await, Some(0));
    assert_eq!(large.stats().objects, 0);
}

/// Updates that nobody is told of make no stale object.
#[tokio::test(flavor = "multi_thread")]
async fn objects_whose_updates_are_not_announced_are_not_kept() {
    let (database, client, replica, users) = with_users(2, &[]).await;
    let objects = objects_of(&replica, &users);
    assert_eq!(get(&objects, &client, id(1)).await, Some(0));
    // From now on an UPDATE of email_hash is not announced.
    let options = ["--columns", "username_hash", "--on-change"];
    database.pgic_ok(&[&["install-triggers", "users"], &options[..]].concat());
    client
        .batch_execute("UPDATE users SET email_hash = 3")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(get(&objects, &client, id(1)).await, Some(3));
    assert!(objects.get(&id(1)).is_none());
    let refused = replica.objects(&users, 1 << 20, |_: &User| 64).unwrap_err();
    assert!(
        matches!(*refused, ReplicaError::UpdatesLeftOut(_)),
        "{refused}"
    );

    // A row that does not fulfil the condition of the triggers is not announced either.
    let options = ["--defaults", "--where", "username_hash = 1"];
    database.pgic_ok(&[&["install-triggers", "users"], &options[..]].concat());
    fence(&replica).await;
    assert_eq!(get(&objects, &client, id(1)).await, Some(3));
    assert!(objects.get(&id(1)).is_some());
    assert_eq!(get(&objects, &client, id(2)).await, Some(3));
    client
        .batch_execute("UPDATE users SET email_hash = 4")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(get(&objects, &client, id(1)).await, Some(4));
    assert_eq!(get(&objects, &client, id(2)).await, Some(4));
}

/// `--no-data` announces keys alone, and a payload that is too long has none.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_read_again_by_key_are_told_too() {
    let (_database, client, replica, users) = with_users(2, &["--no-data"]).await;
    let objects = objects_of(&replica, &users);
    assert_eq!(get(&objects, &client, id(1)).await, Some(0));
    client
        .batch_execute("UPDATE users SET email_hash = 3")
        .await
        .unwrap();
    fence(&replica).await;
    assert_eq!(get(&objects, &client, id(1)).await, Some(3));
}

/// No write of such a row is told, so nobody may wait for the load of another.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_replica_lacks_are_loaded_for_each_caller() {
    let options = ["--where", "username_hash = 1"];
    let (_database, client, replica, users) = with_users(2, &options).await;
    let objects = objects_of(&replica, &users);
    let two = id(2);
    let (release, mut released) = tokio::sync::watch::channel(false);
    let old = read(&client, two).await;
    let early = objects.get_or_load(&two, async || {
        released.wait_for(|is| *is).await.unwrap();
        Ok::<_, Infallible>(old)
    });
    let mut early = Box::pin(early);
    assert!(poll_once(&mut early).await.is_pending());
    assert_eq!(objects.stats().loads, 1);
    let update = "UPDATE users SET email_hash = 9 WHERE username_hash = 2";
    client.batch_execute(update).await.unwrap();
    fence(&replica).await;
    assert_eq!(get(&objects, &client, two).await, Some(9));
    release.send_replace(true);
    early.await.unwrap();
    assert_eq!(objects.stats().objects, 0);
}

/// A reader who holds the lock delays changes. None is missed by that.
#[tokio::test(flavor = "multi_thread")]
async fn objects_outlive_a_reader_who_holds_the_rows() {
    let (_database, client, replica, users) = with_users(2, &[]).await;
    let objects = objects_of(&replica, &users);
    for number in [1, 2] {
        assert_eq!(get(&objects, &client, id(number)).await, Some(0));
    }
    let rows = replica.read(&users);
    let update = "UPDATE users SET email_hash = 2 WHERE username_hash = 2";
    client.batch_execute(update).await.unwrap();
    let give_up = Instant::now() + DEADLINE;
    while replica.is_live() {
        assert!(Instant::now() < give_up, "the change waits for the lock");
        tokio::task::yield_now().await;
    }
    // Not believed while a change waits.
    assert!(objects.get(&id(1)).is_none());
    drop(rows);
    fence(&replica).await;
    assert!(objects.get(&id(1)).is_some());
    assert!(objects.get(&id(2)).is_none());
    assert_eq!(get(&objects, &client, id(2)).await, Some(2));
}
