//! The specification's own cases: its models, its listener, and payloads that its trigger function
//! sends on a real server. The cases that it leaves open (rows that do not fit, TRUNCATE, schemas,
//! a model that panics) follow behind.

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

/// The caches and the listener of one application, as the specification builds them.
struct Node {
    users: Arc<RwLock<IdxModelCache<UserIndexCache>>>,
    products: Arc<RwLock<IdxModelCache<ProductIndexCache>>>,
    listener: CacheNotificationListener,
}

/// Builds a node with the code of the specification's step 3. Only the return type differs.
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

/// Returns the ids that the specification's step 5 finds for a username hash.
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

/// Runs `sql`, hands each payload that arrives to the node's listener, and returns the outcomes.
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

/// Creates a database with `users` and `products`, announced by the specification's function.
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
        // 2^53 + 1: a JSON parser that goes through a double makes it 9007199254740992.
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
    // Two rows share the old value: the update must take one of them out of it, and leave the
    // other.
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
    // The same uuid in two tables, as a key here and as a reference there.
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
    // All tables share one channel, so an application sees tables that it has no cache of.
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
    // The name of a channel is of use only if payloads really arrive on that channel.
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

/// A handler of an application's own, as the specification shows one.
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
    // `Handled`, not `Applied`: the listener cannot know what a handler of somebody else's did.
    assert_eq!(outcome, Outcome::Handled);
    assert_eq!(handler.seen.lock().as_slice(), [Action::Delete]);
}

#[tokio::test]
async fn a_row_whose_new_value_cannot_be_used_is_removed_and_counted() {
    // The old row is known to be wrong. To keep it would be a stale answer, so it goes.
    let cases = [
        (
            r#""data":{"id":"ID","username_hash":"x","email_hash":1}"#,
            "does not fit",
        ),
        (r#""data":{"id":"ID"}"#, "missing field"),
        // `data` of another row than `id` names: that other row must not be touched.
        (
            r#""data":{"id":"OTHER","username_hash":1,"email_hash":1}"#,
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
        let data = data
            .replace("OTHER", &TWO.to_string())
            .replace("ID", &ONE.to_string());
        let payload = format!(r#"{{"table":"users","action":"update","id":"{ONE}",{data}}}"#);
        let outcome = node.listener.process_notification(&payload).await;
        assert!(
            matches!(&outcome, Outcome::RowUnfit(text) if text.contains(why)),
            "{outcome:?}"
        );
        assert!(!node.users.read().contains_primary(&ONE) && node.listener.stats().rows_unfit == 1);
    }
}

/// Statement triggers send many rows in a payload. Each is handed to the handlers by itself.
#[tokio::test]
async fn packed_rows_are_taken_one_by_one() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users", "--bulk"]);
    let node = node().unwrap();
    let sql = "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 100) n;
        UPDATE users SET username_hash = -username_hash WHERE username_hash <= 10;
        DELETE FROM users WHERE username_hash > 90";
    let payloads = follow(&database, &node, sql).await;
    assert!(payloads.len() < 10, "{}", payloads.len());
    assert!(payloads.iter().all(|outcome| *outcome == Outcome::Applied));
    assert_eq!(node.listener.stats().applied, 100 + 10 + 10);
    let seen = {
        let users = node.users.read();
        (users.len(), found(&users, -7).len())
    };
    assert_eq!(seen, (90, 1));
    // What cannot be applied is said, whichever row of the payload it is.
    let payload = format!(
        r#"{{"rows":[{{"id":"{ONE}","truncated":true}},{{"id":7}}],"table":"users","action":"update"}}"#
    );
    let outcome = node.listener.process_notification(&payload).await;
    assert_eq!(outcome, Outcome::RowTooLong);
}

/// Puts the row [`ONE`] into the cache of users.
fn fill(node: &Node) {
    node.users.write().add(UserIndexCache {
        id: ONE,
        username_hash: 1,
        email_hash: 1,
    });
}

#[tokio::test]
async fn truncate_clears_and_what_is_missing_is_said() {
    // The listener reads no table. A row that was not sent (`truncated`) and rows that are unknown
    // (`reload`) leave the cache, and the outcome tells the application to read them itself.
    let node = node().unwrap();
    let listener = &node.listener;
    fill(&node);
    let truncate = r#"{"table":"users","action":"truncate","id":null}"#;
    assert_eq!(
        listener.process_notification(truncate).await,
        Outcome::Applied
    );
    assert!(node.users.read().is_empty());
    fill(&node);
    let too_long =
        format!(r#"{{"table":"users","action":"update","id":"{ONE}","truncated":true}}"#);
    assert_eq!(
        listener.process_notification(&too_long).await,
        Outcome::RowTooLong
    );
    assert!(node.users.read().is_empty());
    fill(&node);
    let reload = r#"{"table":"users","action":"reload","id":null,"why":"x"}"#;
    assert_eq!(
        listener.process_notification(reload).await,
        Outcome::ReloadNeeded("x".to_string())
    );
    assert!(node.users.read().is_empty());
    let invalid = listener.process_notification("not json").await;
    assert!(matches!(invalid, Outcome::Invalid(_)));
    let upsert = r#"{"table":"users","action":"upsert","id":1}"#;
    assert!(matches!(
        listener.process_notification(upsert).await,
        Outcome::UnknownAction(_)
    ));
    // 7 is no uuid, so it is no key of this table.
    let delete = r#"{"table":"users","action":"delete","id":7}"#;
    assert!(matches!(
        listener.process_notification(delete).await,
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

/// Returns the payload of an insert into `users` of a schema.
fn insert_into(schema: &str, id: Uuid) -> String {
    format!(
        concat!(
            r#"{{"table":"users","schema":"{schema}","action":"insert","id":"{id}","#,
            r#""data":{{"id":"{id}","username_hash":1,"email_hash":1}}}}"#
        ),
        schema = schema,
        id = id
    )
}

#[tokio::test]
async fn a_bare_name_means_the_schema_that_the_application_says_whatever_comes_first() {
    // A bare name once meant the schema of the first payload that came. Any role can send one, and
    // so could bind an application's cache to a table of its own.
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
    let other = listener
        .process_notification(&insert_into("other", TWO))
        .await;
    assert_eq!(
        other,
        Outcome::OtherSchema {
            schema: "other".into(),
            bound_to: "public".into()
        }
    );
    assert_eq!(
        listener
            .process_notification(&insert_into("public", ONE))
            .await,
        Outcome::Applied
    );
    assert_eq!(
        listener
            .process_notification(&insert_into("app", TWO))
            .await,
        Outcome::Applied
    );
    assert_eq!(listener.stats().other_schemas, 1);
    assert!(bare.read().contains_primary(&ONE) && bare.read().len() == 1);
    assert!(qualified.read().contains_primary(&TWO) && qualified.read().len() == 1);
}

/// Returns the payload of a delete of the row [`ONE`] from `users` of a schema.
fn delete_from(schema: &str) -> String {
    format!(r#"{{"table":"users","schema":"{schema}","action":"delete","id":"{ONE}"}}"#)
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
    assert!(matches!(
        listener.process_notification(&delete_from("public")).await,
        Outcome::OtherSchema { .. }
    ));
    assert_eq!(
        listener.process_notification(&delete_from("app")).await,
        Outcome::Applied
    );
}

/// A model whose index function panics if the hash is negative.
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

/// Returns the payload of an update of a [`Fragile`] row.
fn update_of(id: Uuid, hash: i64) -> String {
    format!(
        concat!(
            r#"{{"table":"users","action":"update","id":"{id}","#,
            r#""data":{{"id":"{id}","hash":{hash}}}}}"#
        ),
        id = id,
        hash = hash
    )
}

#[tokio::test]
async fn a_model_that_panics_costs_its_row_and_nothing_else() {
    // The application's code runs before the cache is changed. If it ran in the middle of a change,
    // its panic would leave a row that some indexes know and others do not.
    let cache: Arc<RwLock<IdxModelCache<Fragile>>> =
        Arc::new(RwLock::new(IdxModelCache::new(vec![]).unwrap()));
    let mut listener = CacheNotificationListener::new();
    listener.register_handler(Arc::new(IndexCacheHandler::new(
        "users".to_string(),
        cache.clone(),
    )));
    assert_eq!(
        listener.process_notification(&update_of(ONE, 1)).await,
        Outcome::Applied
    );
    assert_eq!(
        listener.process_notification(&update_of(TWO, 1)).await,
        Outcome::Applied
    );
    let broken = listener.process_notification(&update_of(ONE, -1)).await;
    assert_eq!(
        broken,
        Outcome::RowUnfit("the model panicked: a hash is not negative".to_string())
    );
    assert!(!cache.read().contains_primary(&ONE) && cache.read().contains_primary(&TWO));
    cache.read().validate().unwrap();
}
