//! What a replica tells a health endpoint, and the metrics of its service.

use crate::replica::{builder, fence, with_users};
use crate::support::{DEADLINE, Database, USERS};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use postgres_index_cache_core::{Replica, ReplicaEvent};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

fn health(replica: &Replica) -> Value {
    serde_json::to_value(replica.health()).expect("it is JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_told_what_is_wrong_with_which_table() {
    let (database, client, replica, users) = with_users(
        "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 9) n;",
    )
    .await;
    fence(&replica).await;
    let live = health(&replica);
    assert_eq!(live["status"], json!({"state": "live"}));
    let table = &live["tables"][0];
    assert_eq!(
        (
            &table["name"],
            &table["status"],
            &table["is_current"],
            &table["rows"],
            &table["kept_out"]
        ),
        (
            &json!("users"),
            &json!({"state": "live"}),
            &json!(true),
            &json!(9),
            &json!(0)
        )
    );
    assert!(table["memory_bytes"].as_u64() > Some(9 * 16), "{table}");
    assert!(live["stats"]["lag_ms"].as_f64() > Some(0.0), "{live}");
    // What nobody announces any more is stale, and named.
    let mut events = replica.events();
    let trigger = "ALTER TABLE users DISABLE TRIGGER users_cache_notify";
    client.batch_execute(trigger).await.unwrap();
    tokio::time::timeout(DEADLINE, async {
        while !matches!(events.next().await, Some(ReplicaEvent::Stale { .. })) {}
    })
    .await
    .expect("it is stale");
    let stale = health(&replica);
    let status = &stale["tables"][0]["status"];
    assert_eq!(&stale["status"], status);
    assert_eq!(
        (&status["state"], &status["table"]),
        (&json!("stale"), &json!("users"))
    );
    let why = status["why"].as_str().unwrap_or_default();
    assert!(why.contains("users_cache_notify"), "{why}");
    let since: jiff::Timestamp = status["since"].as_str().unwrap().parse().unwrap();
    let age = jiff::Timestamp::now().duration_since(since);
    assert!(
        age.as_secs().unsigned_abs() <= DEADLINE.as_secs(),
        "{age:?}"
    );
    // The end is told of every table.
    replica.shutdown().await;
    let ended = health(&replica);
    assert_eq!(ended["status"]["state"], "ended");
    assert_eq!(ended["tables"][0]["status"], ended["status"]);
    assert_eq!(replica.read(&users).len(), 9);
    drop(database);
}

/// A recorder of counters and gauges. The name of a metric has its labels behind it.
#[derive(Default)]
struct Recorded {
    values: Mutex<HashMap<String, Arc<AtomicU64>>>,
}

impl Recorded {
    fn register(&self, key: &Key) -> Arc<AtomicU64> {
        let labels = key
            .labels()
            .map(|label| format!(" {}={}", label.key(), label.value()));
        let name = format!("{}{}", key.name(), labels.collect::<String>());
        Arc::clone(self.values.lock().unwrap().entry(name).or_default())
    }

    /// Returns the bits of a metric.
    fn bits(&self, name: &str) -> u64 {
        let values = self.values.lock().unwrap();
        let value = values.get(name);
        let value = value.unwrap_or_else(|| panic!("{name} in {:?}", values.keys()));
        value.load(Ordering::Relaxed)
    }

    fn counter(&self, name: &str) -> u64 {
        self.bits(name)
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.bits(name))
    }

    /// Waits until a gauge has a value.
    async fn until(&self, name: &str, wanted: f64) {
        let reached = tokio::time::timeout(DEADLINE, async {
            while self.gauge(name).to_bits() != wanted.to_bits() {
                tokio::task::yield_now().await;
            }
        });
        reached
            .await
            .unwrap_or_else(|_| panic!("{name} is {}, not {wanted}", self.gauge(name)));
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.register(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.register(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_s_metrics_have_the_figures_and_never_say_live_of_what_is_not() {
    let database = Database::with(&format!(
        "{USERS} CREATE TABLE others (id uuid PRIMARY KEY, username_hash bigint, email_hash bigint)"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "users", "others"]);
    let recorded = Arc::new(Recorded::default());
    let replica = {
        let _recorder = metrics::set_default_local_recorder(&*recorded);
        let mut builder = builder(&database);
        builder.name("shop");
        builder.table::<crate::replica::User>("users");
        builder.table::<crate::replica::User>("others");
        builder.open().await.unwrap()
    };
    let live = |table: &str| format!("pgic_table_live node=shop table={table}");
    recorded.until(&live("users"), 1.0).await;
    let client = database.client().await;
    client
        .batch_execute(
            "INSERT INTO users SELECT gen_random_uuid(), n, n FROM generate_series(1, 5) n;
            SELECT pg_notify('cache_invalidation', 'no notification')",
        )
        .await
        .unwrap();
    fence(&replica).await;
    recorded
        .until("pgic_table_rows node=shop table=users", 5.0)
        .await;
    for (name, wanted) in [
        ("pgic_notifications_total", 6),
        ("pgic_applied_changes_total", 5),
        ("pgic_invalid_payloads_total", 1),
        ("pgic_gaps_total", 0),
    ] {
        assert_eq!(
            recorded.counter(&format!("{name} node=shop")),
            wanted,
            "{name}"
        );
    }
    assert!(recorded.gauge("pgic_table_memory_bytes node=shop table=users") > 0.0);
    assert!(recorded.gauge("pgic_lag_seconds node=shop") > 0.0);
    // One table that is not live, then none.
    let trigger = "ALTER TABLE users DISABLE TRIGGER users_cache_notify";
    client.batch_execute(trigger).await.unwrap();
    recorded.until(&live("users"), 0.0).await;
    assert_eq!(recorded.gauge(&live("others")).to_bits(), 1_f64.to_bits());
    drop(replica);
    recorded.until(&live("others"), 0.0).await;
}
