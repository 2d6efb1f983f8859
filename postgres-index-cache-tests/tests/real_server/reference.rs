//! What the suite of the public reference library checks, on this one: its three files of tests, in
//! their order, each test by its name there without `test_`. The caches are fed by hand, as there.
//! `docs/from-postgres-index-cache.md` is for people; here stands that it is true.

use crate::support::{DEADLINE, Database};
use parking_lot::RwLock;
use postgres_index_cache_core::triggers::{self, InstallOptions};
use postgres_index_cache_core::{
    CacheNotification, CacheNotificationListener, DEFAULT_CACHE_CHANNEL, HasPrimaryKey,
    IdxModelCache, IndexCacheHandler, Indexable, Outcome, Staged,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

/// The index of a user: hashes of what the user is looked up by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// The index of a product of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ProductIndex {
    id: Uuid,
    user_id: Uuid,
    product_name_hash: i64,
}

impl HasPrimaryKey for ProductIndex {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for ProductIndex {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([(
            "product_name_hash".to_string(),
            Some(self.product_name_hash),
        )])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::from([("user_id".to_string(), Some(self.user_id))])
    }
}

fn user(username_hash: i64, email_hash: i64) -> User {
    User {
        id: Uuid::new_v4(),
        username_hash,
        email_hash,
    }
}

fn product(user: &User, product_name_hash: i64) -> ProductIndex {
    ProductIndex {
        id: Uuid::new_v4(),
        user_id: user.id,
        product_name_hash,
    }
}

// Its `cache_test`.

#[test]
fn basic_cache_operations() {
    let (alice, bob) = (user(1, 11), user(2, 22));
    let mut cache = IdxModelCache::new(vec![alice.clone()]).unwrap();
    assert_eq!(cache.get_by_primary(&alice.id), Some(&alice));
    assert!(cache.contains_primary(&alice.id));
    assert!(!cache.contains_primary(&bob.id));
    cache.add(bob.clone());
    assert!(cache.contains_primary(&bob.id));
    assert_eq!(cache.remove(&alice.id), Some(alice.clone()));
    assert!(!cache.contains_primary(&alice.id));
    let changed = User {
        email_hash: 999_999,
        ..bob.clone()
    };
    cache.update(changed);
    assert_eq!(
        cache.get_by_primary(&bob.id).map(|user| user.email_hash),
        Some(999_999)
    );
}

#[test]
fn i64_index_queries() {
    let users = vec![user(1, 11), user(2, 22), user(1, 33)];
    let cache = IdxModelCache::new(users).unwrap();
    let found = cache.get_by_i64_index("username_hash", &1).unwrap();
    assert_eq!(found.len(), 2);
    let found = cache.get_by_i64_index("email_hash", &11).unwrap();
    assert_eq!(found.len(), 1);
}

#[test]
fn uuid_index_queries() {
    let (alice, bob) = (user(1, 11), user(2, 22));
    let products = vec![product(&alice, 1), product(&alice, 2), product(&bob, 3)];
    let cache = IdxModelCache::new(products).unwrap();
    let found = cache.get_by_uuid_index("user_id", &alice.id).unwrap();
    assert_eq!(found.len(), 2);
    let found = cache.get_by_uuid_index("user_id", &bob.id).unwrap();
    assert_eq!(found.len(), 1);
}

#[test]
fn duplicate_primary_key_error() {
    let alice = user(1, 11);
    assert!(IdxModelCache::new(vec![alice.clone(), alice]).is_err());
}

#[test]
fn transaction_aware_cache_staging() {
    let (alice, bob) = (user(1, 11), user(2, 22));
    let cache = IdxModelCache::new(vec![alice.clone()]).unwrap();
    let mut staged = Staged::new();
    staged.put(bob.clone());
    staged.put(User {
        email_hash: 777_777,
        ..alice.clone()
    });
    let view = staged.over(&cache);
    assert!(view.contains_primary(&bob.id));
    assert_eq!(view.get_by_primary(&alice.id).unwrap().email_hash, 777_777);
    assert!(!cache.contains_primary(&bob.id));
    assert_eq!(cache.get_by_primary(&alice.id), Some(&alice));
}

#[test]
fn transaction_aware_cache_remove_staging() {
    let alice = user(1, 11);
    let cache = IdxModelCache::new(vec![alice.clone()]).unwrap();
    let mut staged = Staged::new();
    staged.remove(&alice.id);
    assert!(!staged.over(&cache).contains_primary(&alice.id));
    assert!(staged.over(&cache).get_by_primary(&alice.id).is_none());
    assert!(cache.contains_primary(&alice.id));
}

#[test]
fn transaction_aware_cache_commit() {
    let (alice, bob) = (user(1, 11), user(2, 22));
    let mut cache = IdxModelCache::new(vec![alice.clone()]).unwrap();
    let mut staged = Staged::new();
    staged.put(bob.clone());
    staged.put(User {
        email_hash: 888_888,
        ..alice.clone()
    });
    assert!(!cache.contains_primary(&bob.id));
    staged.apply_to(&mut cache);
    assert_eq!(cache.get_by_primary(&bob.id), Some(&bob));
    assert_eq!(cache.get_by_primary(&alice.id).unwrap().email_hash, 888_888);
}

#[test]
fn transaction_aware_cache_rollback() {
    let (alice, bob) = (user(1, 11), user(2, 22));
    let cache = IdxModelCache::new(vec![alice.clone()]).unwrap();
    let mut staged = Staged::new();
    staged.put(bob.clone());
    staged.put(User {
        email_hash: 999_999,
        ..alice.clone()
    });
    staged.remove(&alice.id);
    assert!(staged.over(&cache).contains_primary(&bob.id));
    assert!(!staged.over(&cache).contains_primary(&alice.id));
    drop(staged);
    assert_eq!(cache.get_by_primary(&alice.id), Some(&alice));
    let staged = Staged::new();
    assert!(staged.over(&cache).get_by_primary(&alice.id).is_some());
    assert!(staged.over(&cache).get_by_primary(&bob.id).is_none());
}

#[test]
fn transaction_aware_cache_i64_index_with_staging() {
    let (alice, bob) = (user(1, 11), user(2, 22));
    let cache = IdxModelCache::new(vec![alice, bob.clone()]).unwrap();
    let mut staged = Staged::new();
    staged.put(user(1, 33));
    let count = |staged: &Staged<User>| {
        let view = staged.over(&cache);
        view.get_by_i64_index("username_hash", &1).len()
    };
    assert_eq!(count(&staged), 2);
    staged.put(User {
        username_hash: 1,
        ..bob
    });
    assert_eq!(count(&staged), 3);
    drop(staged);
    let found = cache.get_by_i64_index("username_hash", &1).unwrap();
    assert_eq!(found.len(), 1);
}

#[test]
fn transaction_aware_cache_uuid_index_with_staging() {
    let alice = user(1, 11);
    let mut cache = IdxModelCache::new(vec![product(&alice, 1)]).unwrap();
    let mut staged = Staged::new();
    staged.put(product(&alice, 2));
    staged.put(product(&alice, 3));
    let view = staged.over(&cache);
    assert_eq!(view.get_by_uuid_index("user_id", &alice.id).len(), 3);
    staged.apply_to(&mut cache);
    let found = cache.get_by_uuid_index("user_id", &alice.id).unwrap();
    assert_eq!(found.len(), 3);
}

// Its `listener_test`.

type Shared<T> = Arc<RwLock<IdxModelCache<T>>>;

fn shared<T: HasPrimaryKey + Indexable>(rows: Vec<T>) -> Shared<T> {
    Arc::new(RwLock::new(IdxModelCache::new(rows).unwrap()))
}

/// Returns a listener that feeds the caches of both tables.
fn listener_of(users: &Shared<User>, products: &Shared<ProductIndex>) -> CacheNotificationListener {
    let mut listener = CacheNotificationListener::new();
    listener.register_handler(Arc::new(IndexCacheHandler::new(
        "user_index_cache".to_string(),
        Arc::clone(users),
    )));
    listener.register_handler(Arc::new(IndexCacheHandler::new(
        "product_index_cache".to_string(),
        Arc::clone(products),
    )));
    listener
}

/// Processes a notification as it comes from the server: as text.
async fn process(
    listener: &CacheNotificationListener,
    notification: &CacheNotification,
) -> Outcome {
    let payload = serde_json::to_string(notification).unwrap();
    listener.process_notification(&payload).await
}

#[tokio::test]
async fn user_cache_notification_insert_update_and_delete() {
    let users = shared(vec![]);
    let listener = listener_of(&users, &shared(vec![]));
    let alice = user(1, 11);
    let insert = CacheNotification::insert("user_index_cache", alice.id, &alice);
    process(&listener, &insert.unwrap()).await;
    assert_eq!(users.read().get_by_primary(&alice.id), Some(&alice));
    let changed = User {
        email_hash: 12,
        ..alice.clone()
    };
    let update = CacheNotification::update("user_index_cache", alice.id, &changed);
    process(&listener, &update.unwrap()).await;
    assert_eq!(users.read().get_by_primary(&alice.id), Some(&changed));
    let delete = CacheNotification::delete("user_index_cache", alice.id);
    process(&listener, &delete).await;
    assert!(!users.read().contains_primary(&alice.id));
}

#[tokio::test]
async fn product_cache_notification_insert_and_multi_table_listener() {
    let (users, products) = (shared(vec![]), shared(vec![]));
    let listener = listener_of(&users, &products);
    let bob = user(2, 22);
    let gadget = product(&bob, 5);
    let insert = CacheNotification::insert("user_index_cache", bob.id, &bob);
    process(&listener, &insert.unwrap()).await;
    let insert = CacheNotification::insert("product_index_cache", gadget.id, &gadget);
    process(&listener, &insert.unwrap()).await;
    assert!(users.read().contains_primary(&bob.id));
    let products = products.read();
    assert_eq!(products.get_by_primary(&gadget.id), Some(&gadget));
    let found = products.get_by_uuid_index("user_id", &bob.id).unwrap();
    assert_eq!(found.collect::<Vec<_>>(), [&gadget.id]);
}

#[tokio::test]
async fn notification_with_unknown_table() {
    let listener = CacheNotificationListener::new();
    let insert = CacheNotification::insert("unknown_table", Uuid::new_v4(), &user(1, 11));
    // Not applied, and said: the reference library writes a line of debug.
    let outcome = process(&listener, &insert.unwrap()).await;
    assert!(matches!(outcome, Outcome::UnknownTable(table) if table == "unknown_table"));
}

#[test]
fn custom_channel_name() {
    let listener = CacheNotificationListener::with_channel("my_custom_channel".to_string());
    assert_eq!(listener.channel(), "my_custom_channel");
    assert_eq!(
        CacheNotificationListener::new().channel(),
        DEFAULT_CACHE_CHANNEL
    );
}

// Its `db_trigger_test`. There a script makes the triggers, and each step sleeps for half a second.

const TABLES: &str = "
    CREATE TABLE user_index_cache
        (id uuid PRIMARY KEY, username_hash bigint NOT NULL, email_hash bigint NOT NULL);
    CREATE TABLE product_index_cache
        (id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES user_index_cache ON DELETE CASCADE,
        product_name_hash bigint NOT NULL);";

/// A database with triggers, and a listener that feeds two caches.
struct Node {
    _database: Database,
    client: Client,
    users: Shared<User>,
    products: Shared<ProductIndex>,
    listening: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Node {
    /// Makes the tables and their triggers, listens, and fills the caches, which are empty.
    async fn start() -> Self {
        let database = Database::with(TABLES).await;
        let mut client = database.client().await;
        let options = InstallOptions::default();
        let tables = ["user_index_cache", "product_index_cache"];
        triggers::install(&mut client, &tables, &options)
            .await
            .unwrap();
        let (users, products) = (shared(vec![]), shared(vec![]));
        let listener = listener_of(&users, &products);
        let config: tokio_postgres::Config = database.url.parse().unwrap();
        let (loaded, is_loaded) = tokio::sync::oneshot::channel();
        let listening = tokio::spawn(async move {
            let load = async move {
                // Nothing to load. The server listens from here on.
                loaded.send(()).unwrap();
                Ok::<_, std::io::Error>(())
            };
            let ended: Result<Infallible, _> = listener.listen(&config, load).await;
            panic!("{}", ended.unwrap_err());
        });
        is_loaded.await.unwrap();
        Self {
            _database: database,
            client,
            users,
            products,
            listening,
        }
    }

    async fn put_user(&self, user: &User) {
        let sql = "INSERT INTO user_index_cache VALUES ($1, $2, $3) ON CONFLICT (id)
            DO UPDATE SET username_hash = $2, email_hash = $3";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&user.id, &user.username_hash, &user.email_hash];
        self.client.execute(sql, &values).await.unwrap();
    }

    async fn put_product(&self, product: &ProductIndex) {
        let sql = "INSERT INTO product_index_cache VALUES ($1, $2, $3) ON CONFLICT (id)
            DO UPDATE SET user_id = $2, product_name_hash = $3";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&product.id, &product.user_id, &product.product_name_hash];
        self.client.execute(sql, &values).await.unwrap();
    }
}

/// Waits until a cache is as it should be.
async fn until(is: impl Fn() -> bool) {
    let give_up = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < give_up, "the notification comes");
        tokio::task::yield_now().await;
    }
}

/// Waits until a cache has this row.
fn has<T>(cache: &Shared<T>, row: &T) -> impl Future<Output = ()>
where
    T: HasPrimaryKey + Indexable + PartialEq,
{
    until(|| cache.read().get_by_primary(&row.primary_key()) == Some(row))
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_product_insert_update_and_delete_trigger_cache_notifications() {
    let node = Node::start().await;
    let alice = user(1, 11);
    node.put_user(&alice).await;
    has(&node.users, &alice).await;
    let laptop = product(&alice, 5);
    node.put_product(&laptop).await;
    has(&node.products, &laptop).await;

    let alice = User {
        email_hash: 12,
        ..alice
    };
    node.put_user(&alice).await;
    has(&node.users, &alice).await;
    let laptop = ProductIndex {
        product_name_hash: 6,
        ..laptop
    };
    node.put_product(&laptop).await;
    has(&node.products, &laptop).await;

    let delete = "DELETE FROM product_index_cache WHERE id = $1";
    node.client.execute(delete, &[&laptop.id]).await.unwrap();
    until(|| !node.products.read().contains_primary(&laptop.id)).await;
    let delete = "DELETE FROM user_index_cache WHERE id = $1";
    node.client.execute(delete, &[&alice.id]).await.unwrap();
    until(|| !node.users.read().contains_primary(&alice.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn multi_table_operations_with_cache() {
    let node = Node::start().await;
    let grace = user(7, 77);
    node.put_user(&grace).await;
    has(&node.users, &grace).await;
    let monitor = product(&grace, 8);
    node.put_product(&monitor).await;
    has(&node.products, &monitor).await;
    {
        let products = node.products.read();
        let found = products.get_by_uuid_index("user_id", &grace.id).unwrap();
        assert_eq!(found.len(), 1);
    }
    // A cascade is announced as what it is: a delete of each row.
    let delete = "DELETE FROM user_index_cache WHERE id = $1";
    node.client.execute(delete, &[&grace.id]).await.unwrap();
    until(|| !node.products.read().contains_primary(&monitor.id)).await;
}
