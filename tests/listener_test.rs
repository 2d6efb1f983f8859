//! The specification's cases: its models, its listener and its payloads, which its own function
//! sends on a real server.

mod support;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use postgres_index_cache_core::{
    Action, CacheNotification, CacheNotificationHandler, CacheNotificationListener,
    DEFAULT_CACHE_CHANNEL, HasPrimaryKey, IdxModelCache, IndexCacheHandler, Indexable, Outcome,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use support::{Database, SPECIFICATION, SPECIFICATION_TRIGGER, USERS};
use uuid::Uuid;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserIndexCache {
    pub id: Uuid,
    pub username_hash: i64,
    pub email_hash: i64,
}

impl HasPrimaryKey for UserIndexCache {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for UserIndexCache {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        let mut map = HashMap::new();
        map.insert("username_hash".to_string(), Some(self.username_hash));
        map.insert("email_hash".to_string(), Some(self.email_hash));
        map
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProductIndexCache {
    pub id: Uuid,
    pub owner: Option<Uuid>,
}

impl HasPrimaryKey for ProductIndexCache {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for ProductIndexCache {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::new()
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::from([("owner".to_string(), self.owner)])
    }
}

const PRODUCTS: &str = "CREATE TABLE products (id uuid PRIMARY KEY, owner uuid);
    CREATE TRIGGER products_cache_notify AFTER INSERT OR UPDATE OR DELETE ON products
        FOR EACH ROW EXECUTE FUNCTION notify_cache_change();";

struct Node {
    users: Arc<RwLock<IdxModelCache<UserIndexCache>>>,
    products: Arc<RwLock<IdxModelCache<ProductIndexCache>>>,
    listener: CacheNotificationListener,
}

/// The specification's step 3, to the letter but for what it returns.
fn node() -> Result<Node, Box<dyn std::error::Error>> {
    let user_cache: Arc<RwLock<IdxModelCache<UserIndexCache>>> =
        Arc::new(RwLock::new(IdxModelCache::new(vec![])?));

    let product_cache: Arc<RwLock<IdxModelCache<ProductIndexCache>>> =
        Arc::new(RwLock::new(IdxModelCache::new(vec![])?));

    let user_handler = Arc::new(IndexCacheHandler::new(
        "users".to_string(),
        user_cache.clone(),
    ));

    let product_handler = Arc::new(IndexCacheHandler::new(
        "products".to_string(),
        product_cache.clone(),
    ));

    let mut listener = CacheNotificationListener::new();
    listener.register_handler(user_handler);
    listener.register_handler(product_handler);
    Ok(Node {
        users: user_cache,
        products: product_cache,
        listener,
    })
}

/// What the specification's step 5 finds.
fn found(cache: &IdxModelCache<UserIndexCache>, hash: i64) -> Vec<Uuid> {
    let mut found = Vec::new();
    if let Some(user_ids) = cache.get_by_i64_index("username_hash", &hash) {
        for id in user_ids {
            if let Some(user) = cache.get_by_primary(id) {
                found.push(user.id);
            }
        }
    }
    found
}

/// Runs `sql` where the specification's function announces it, and hands what arrives to the node.
async fn follow(database: &Database, node: &Node, sql: &str) -> Vec<Outcome> {
    let mut listening = database.listen().await;
    database
        .client()
        .await
        .batch_execute(sql)
        .await
        .expect("write");
    let mut outcomes = Vec::new();
    for payload in listening.payloads().await {
        outcomes.push(node.listener.process_notification(&payload).await);
    }
    outcomes
}

async fn specification() -> Database {
    Database::with(&format!(
        "{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}{PRODUCTS}"
    ))
    .await
}

const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);

#[tokio::test]
async fn an_insert_is_found_by_key_and_by_index() {
    let database = specification().await;
    let node = node().unwrap();
    let outcomes = follow(
        &database,
        &node,
        &format!("INSERT INTO users VALUES ('{ONE}', 123, 9007199254740993)"),
    )
    .await;
    assert_eq!(outcomes, [Outcome::Applied]);
    let cache = node.users.read();
    assert!(cache.contains_primary(&ONE));
    assert_eq!(found(&cache, 123), [ONE]);
    assert_eq!(
        cache.get_by_primary(&ONE).map(|user| user.email_hash),
        Some(9_007_199_254_740_993)
    );
}

#[tokio::test]
async fn an_update_moves_the_row_in_its_indexes() {
    let database = specification().await;
    let node = node().unwrap();
    let sql = format!(
        "INSERT INTO users VALUES ('{ONE}', 123, 1), ('{TWO}', 123, 2); UPDATE users SET \
        username_hash = 456 WHERE id = '{TWO}'"
    );
    assert_eq!(
        follow(&database, &node, &sql).await,
        [Outcome::Applied, Outcome::Applied, Outcome::Applied]
    );
    let cache = node.users.read();
    assert_eq!(
        (found(&cache, 123), found(&cache, 456)),
        (vec![ONE], vec![TWO])
    );
}

#[tokio::test]
async fn a_delete_removes_the_row_from_its_indexes() {
    let database = specification().await;
    let node = node().unwrap();
    let sql = format!("INSERT INTO users VALUES ('{ONE}', 123, 1); DELETE FROM users");
    follow(&database, &node, &sql).await;
    let cache = node.users.read();
    assert!(cache.is_empty() && found(&cache, 123).is_empty());
}

#[tokio::test]
async fn each_table_has_its_own_cache() {
    let database = specification().await;
    let node = node().unwrap();
    let sql = format!(
        "INSERT INTO users VALUES ('{ONE}', 1, 1); INSERT INTO products VALUES ('{TWO}', '{ONE}')"
    );
    follow(&database, &node, &sql).await;
    assert_eq!(
        (node.users.read().len(), node.products.read().len()),
        (1, 1)
    );
    let products = node.products.read();
    assert_eq!(
        products
            .get_by_uuid_index("owner", &ONE)
            .into_iter()
            .flatten()
            .collect::<Vec<_>>(),
        [&TWO]
    );
}

#[tokio::test]
async fn an_unknown_table_is_counted_and_changes_nothing() {
    let database = specification().await;
    let node = node().unwrap();
    let sql = format!(
        "CREATE TABLE orders (id uuid PRIMARY KEY);
         CREATE TRIGGER t AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION \
         notify_cache_change();
         INSERT INTO orders VALUES ('{ONE}')"
    );
    assert_eq!(
        follow(&database, &node, &sql).await,
        [Outcome::UnknownTable("orders".to_string())]
    );
    assert!(node.users.read().is_empty() && node.products.read().is_empty());
    assert_eq!(node.listener.stats().unknown_tables, 1);
}

#[tokio::test]
async fn a_custom_channel_is_kept() {
    let listener = CacheNotificationListener::with_channel("my_custom_channel".to_string());
    assert_eq!(listener.channel(), "my_custom_channel");
    assert_eq!(
        CacheNotificationListener::new().channel(),
        DEFAULT_CACHE_CHANNEL
    );
    let database = specification().await;
    let sql = SPECIFICATION.replace("cache_invalidation", "my_custom_channel");
    database.client().await.batch_execute(&sql).await.unwrap();
    let mut listening = database.listen_on(listener.channel()).await;
    database
        .client()
        .await
        .batch_execute(&format!("INSERT INTO users VALUES ('{ONE}', 1, 1)"))
        .await
        .unwrap();
    assert_eq!(listening.payloads().await.len(), 1);
}

struct MyCustomHandler {
    seen: Mutex<Vec<Action>>,
}

#[async_trait]
impl CacheNotificationHandler for MyCustomHandler {
    async fn handle_notification(&self, notification: CacheNotification) {
        self.seen.lock().push(notification.action);
    }

    #[expect(
        clippy::unnecessary_literal_bound,
        reason = "the specification writes it so"
    )]
    fn table_name(&self) -> &str {
        "my_table"
    }
}

#[tokio::test]
async fn a_custom_handler_is_given_its_table() {
    let handler = Arc::new(MyCustomHandler {
        seen: Mutex::new(Vec::new()),
    });
    let mut listener = CacheNotificationListener::new();
    listener.register_handler(handler.clone());
    let outcome = listener
        .process_notification(r#"{"table":"my_table","action":"delete","id":1}"#)
        .await;
    assert_eq!(
        (outcome, handler.seen.lock().as_slice()),
        (Outcome::Handled, &[Action::Delete][..])
    );
}

#[tokio::test]
async fn a_row_whose_new_value_cannot_be_used_is_removed_and_counted() {
    let cases = [
        (
            r#""data":{"id":"ID","username_hash":"x","email_hash":1}"#,
            "does not fit",
        ),
        (r#""data":{"id":"ID"}"#, "missing field"),
        (
            r#""data":{"id":"00000000-0000-0000-0000-000000000002","username_hash":1,"email_hash":1}"#,
            "the row's key is",
        ),
        (r#""data":null"#, "without \"data\""),
    ];
    for (data, why) in cases {
        let node = node().unwrap();
        for id in [ONE, TWO] {
            node.users.write().add(UserIndexCache {
                id,
                username_hash: 1,
                email_hash: 1,
            });
        }
        let data = data.replace("ID", &ONE.to_string());
        let payload = format!(r#"{{"table":"users","action":"update","id":"{ONE}",{data}}}"#);
        let outcome = node.listener.process_notification(&payload).await;
        assert!(
            matches!(&outcome, Outcome::RowUnfit(text) if text.contains(why)),
            "{outcome:?}"
        );
        assert!(!node.users.read().contains_primary(&ONE) && node.listener.stats().rows_unfit == 1);
    }
}

#[tokio::test]
async fn truncate_clears_and_what_is_missing_is_said() {
    let node = node().unwrap();
    let fill = || {
        node.users.write().add(UserIndexCache {
            id: ONE,
            username_hash: 1,
            email_hash: 1,
        })
    };
    let process = async |payload: &str| node.listener.process_notification(payload).await;
    fill();
    assert_eq!(
        process(r#"{"table":"users","action":"truncate","id":null}"#).await,
        Outcome::Applied
    );
    assert!(node.users.read().is_empty());
    fill();
    let truncated =
        format!(r#"{{"table":"users","action":"update","id":"{ONE}","truncated":true}}"#);
    assert_eq!(
        (process(&truncated).await, node.users.read().len()),
        (Outcome::RowTooLong, 0)
    );
    fill();
    let reload = process(r#"{"table":"users","action":"reload","id":null,"why":"x"}"#).await;
    assert_eq!(
        (reload, node.users.read().len()),
        (Outcome::ReloadNeeded("x".to_string()), 0)
    );
    assert!(matches!(process("not json").await, Outcome::Invalid(_)));
    assert!(matches!(
        process(r#"{"table":"users","action":"upsert","id":1}"#).await,
        Outcome::UnknownAction(_)
    ));
    assert!(matches!(
        process(r#"{"table":"users","action":"delete","id":7}"#).await,
        Outcome::RowUnfit(_)
    ));
    let stats = node.listener.stats();
    assert_eq!(
        (stats.applied, stats.rows_too_long, stats.reloads_needed),
        (1, 1, 1)
    );
    assert_eq!(
        (stats.invalid, stats.unknown_actions, stats.rows_unfit),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn a_bare_name_means_the_schema_that_the_application_says_whatever_comes_first() {
    let bare: Arc<RwLock<IdxModelCache<UserIndexCache>>> =
        Arc::new(RwLock::new(IdxModelCache::new(vec![]).unwrap()));
    let qualified: Arc<RwLock<IdxModelCache<UserIndexCache>>> =
        Arc::new(RwLock::new(IdxModelCache::new(vec![]).unwrap()));
    let mut listener = CacheNotificationListener::new();
    listener.register_handler(Arc::new(IndexCacheHandler::new(
        "users".to_string(),
        bare.clone(),
    )));
    listener.register_handler(Arc::new(IndexCacheHandler::new(
        "app.users".to_string(),
        qualified.clone(),
    )));
    let insert = |schema: &str, id: Uuid| {
        format!(
            r#"{{"table":"users","schema":"{schema}","action":"insert","id":"{id}","data":{{"id":"{id}","username_hash":1,"email_hash":1}}}}"#
        )
    };
    // A foreign payload that comes first binds nothing.
    let other = listener.process_notification(&insert("other", TWO)).await;
    assert_eq!(
        other,
        Outcome::OtherSchema {
            schema: "other".into(),
            bound_to: "public".into()
        }
    );
    assert_eq!(
        listener.process_notification(&insert("public", ONE)).await,
        Outcome::Applied
    );
    assert_eq!(
        listener.process_notification(&insert("app", TWO)).await,
        Outcome::Applied
    );
    assert_eq!(listener.stats().other_schemas, 1);
    assert!(bare.read().contains_primary(&ONE) && bare.read().len() == 1);
    assert!(qualified.read().contains_primary(&TWO) && qualified.read().len() == 1);
}

#[tokio::test]
async fn the_schema_of_bare_names_can_be_another_than_public() {
    let cache: Arc<RwLock<IdxModelCache<UserIndexCache>>> =
        Arc::new(RwLock::new(IdxModelCache::new(vec![]).unwrap()));
    let mut listener = CacheNotificationListener::new().with_default_schema("app");
    listener.register_handler(Arc::new(IndexCacheHandler::new(
        "users".to_string(),
        cache.clone(),
    )));
    let delete = |schema: &str| {
        format!(r#"{{"table":"users","schema":"{schema}","action":"delete","id":"{ONE}"}}"#)
    };
    assert!(matches!(
        listener.process_notification(&delete("public")).await,
        Outcome::OtherSchema { .. }
    ));
    assert_eq!(
        listener.process_notification(&delete("app")).await,
        Outcome::Applied
    );
}

/// A model that panics over some of its rows.
#[derive(Debug, Clone, serde::Deserialize)]
struct Fragile {
    id: Uuid,
    hash: i64,
}

impl HasPrimaryKey for Fragile {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Fragile {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        assert!(self.hash >= 0, "a hash is not negative");
        HashMap::from([("hash".to_string(), Some(self.hash))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

#[tokio::test]
async fn a_model_that_panics_costs_its_row_and_nothing_else() {
    let cache: Arc<RwLock<IdxModelCache<Fragile>>> =
        Arc::new(RwLock::new(IdxModelCache::new(vec![]).unwrap()));
    let mut listener = CacheNotificationListener::new();
    listener.register_handler(Arc::new(IndexCacheHandler::new(
        "users".to_string(),
        cache.clone(),
    )));
    let update = |id: Uuid, hash: i64| {
        format!(
            r#"{{"table":"users","action":"update","id":"{id}","data":{{"id":"{id}","hash":{hash}}}}}"#
        )
    };
    assert_eq!(
        listener.process_notification(&update(ONE, 1)).await,
        Outcome::Applied
    );
    assert_eq!(
        listener.process_notification(&update(TWO, 1)).await,
        Outcome::Applied
    );
    let broken = listener.process_notification(&update(ONE, -1)).await;
    assert_eq!(
        broken,
        Outcome::RowUnfit("the model panicked: a hash is not negative".to_string())
    );
    assert!(!cache.read().contains_primary(&ONE) && cache.read().contains_primary(&TWO));
    cache.read().validate().unwrap();
}
