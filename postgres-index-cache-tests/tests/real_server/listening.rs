//! The hand-driven way: [`CacheNotificationListener::listen`], with a key of two columns.

use crate::support::{DEADLINE, Database};
use parking_lot::RwLock;
use postgres_index_cache_core::{
    CacheModel, CacheNotificationListener, IdxModelCache, IndexCacheHandler, ListenError,
};
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::oneshot;

#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
struct Seat {
    #[cache(key)]
    hall: String,
    #[cache(key)]
    number: i32,
    #[cache(index)]
    guest: Option<String>,
}

/// What is written while the tables are read is neither lost nor put under an older row, and the
/// end of the session is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_loads_listens_and_says_that_its_session_was_lost() {
    let database = Database::with(
        "CREATE TABLE seats (hall text, number int, guest text, PRIMARY KEY (hall, number));
        INSERT INTO seats VALUES ('red', 1, 'ann'), ('red', 2, NULL)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "seats"]);
    let client = database.client().await;
    let seats = Arc::new(RwLock::new(IdxModelCache::<Seat>::new(vec![]).unwrap()));
    let mut listener = CacheNotificationListener::new();
    let handler = IndexCacheHandler::new("seats".to_string(), Arc::clone(&seats));
    listener.register_handler(Arc::new(handler));
    let mut config: tokio_postgres::Config = database.url.parse().unwrap();
    config.application_name("by hand");
    let (read, is_read) = oneshot::channel();
    let (go_on, goes_on) = oneshot::channel::<()>();
    let cache = Arc::clone(&seats);
    let reader = database.client().await;
    let load = async move {
        let rows = reader
            .query("SELECT hall, number, guest FROM seats", &[])
            .await?;
        read.send(()).unwrap();
        goes_on.await.unwrap();
        for row in rows {
            cache.write().upsert(Seat {
                hall: row.get(0),
                number: row.get(1),
                guest: row.get(2),
            });
        }
        Ok::<(), tokio_postgres::Error>(())
    };
    let listening = tokio::spawn(async move { listener.listen(&config, load).await });
    // The rows are read, and not yet in the cache. Meanwhile they change.
    is_read.await.unwrap();
    client
        .batch_execute(
            "UPDATE seats SET guest = 'bob' WHERE number = 1;
            UPDATE seats SET number = 3 WHERE number = 2",
        )
        .await
        .unwrap();
    go_on.send(()).unwrap();
    let [moved, former] = [3, 2].map(|number| ("red".to_string(), number));
    let arrived = async {
        // A poll of a lock: the cache tells nobody of its changes. A listener applies a
        // transaction's notifications one by one, so that the first of them says nothing of the
        // second.
        while seats.read().by_guest("bob").len() == 0 || !seats.read().contains_primary(&moved) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, arrived)
        .await
        .expect("the changes arrive");
    assert!(!seats.read().contains_primary(&former));
    assert_eq!(seats.read().len(), 2);
    seats.read().validate().unwrap();
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'by hand'",
        )
        .await
        .unwrap();
    let ended = tokio::time::timeout(DEADLINE, listening)
        .await
        .unwrap()
        .unwrap();
    let Err(error) = ended;
    assert!(matches!(error, ListenError::Lost(Some(_))), "{error:?}");
    assert!(
        error
            .to_string()
            .starts_with("the listening session was lost: "),
        "{error}"
    );
}

#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
struct Numbered {
    #[cache(key)]
    id: i64,
    #[cache(index)]
    name: String,
}

/// With `--long-numbers-as-text` a long key comes in quotes. A row that is deleted must go.
#[tokio::test]
async fn a_long_key_that_comes_as_a_text_is_the_number() {
    const LONG: i64 = 9_007_199_254_740_993;
    let cache = Arc::new(RwLock::new(IdxModelCache::<Numbered>::new(vec![]).unwrap()));
    for (id, name) in [(LONG, "long"), (7, "short")] {
        let name = name.to_string();
        cache.write().upsert(Numbered { id, name });
    }
    let mut listener = CacheNotificationListener::new();
    let handler = IndexCacheHandler::new("numbered".to_string(), Arc::clone(&cache));
    listener.register_handler(Arc::new(handler));
    let payload = format!(r#"{{"table":"numbered","action":"delete","id":"{LONG}"}}"#);
    listener.process_notification(&payload).await;
    assert_eq!(cache.read().len(), 1);
    assert!(cache.read().get_by_primary(&7).is_some());
}
