//! Typed caches whose keys are an integer and two columns, under load and faults: at every quiet
//! point each is its table, in all of its indexes.

use super::several_tables::{SEVERAL, SEVERAL_TABLES, several};
use super::{Injector, Load, limits, rounds, seed};
use crate::support::DEADLINE;
use postgres_index_cache_core::tooling::postgres::Verification;
use postgres_index_cache_core::{CacheModel, Replica, ReplicaTable};
use serde::Deserialize;
use std::collections::BTreeMap;
use tokio_postgres::Client;

/// A table whose rows swap their keys.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
struct Swapped {
    #[cache(key)]
    id: i32,
    #[cache(index)]
    v: Option<String>,
}

/// A partitioned table whose rows move between partitions.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(index(part, v))]
struct Moved {
    #[cache(key)]
    id: i32,
    #[cache(key)]
    part: i32,
    #[cache(index, ordered)]
    v: Option<String>,
}

/// A table whose rows are changed again by a trigger, and some of which are too long to send. The
/// long column is not read.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
struct Nested {
    #[cache(key)]
    id: i32,
    #[cache(index, ordered)]
    n: i32,
}

struct Tables {
    swapped: ReplicaTable<Swapped>,
    moved: ReplicaTable<Moved>,
    nested: ReplicaTable<Nested>,
}

/// Returns the numbers of a table's rows.
async fn keys(client: &Client, sql: &str) -> Vec<i32> {
    let rows = client.query(sql, &[]).await.expect("read a table");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Compares the caches with their tables, at a quiet point.
async fn compare(client: &Client, replica: &Replica, tables: &Tables, context: &str) {
    {
        let sql = "SELECT id, v FROM swapped";
        let stored = client.query(sql, &[]).await.expect("read a table");
        let rows: BTreeMap<i32, Option<String>> =
            stored.iter().map(|row| (row.get(0), row.get(1))).collect();
        let found_by_v = keys(client, "SELECT id FROM swapped WHERE v = 'a' ORDER BY id").await;
        let cache = replica.read(&tables.swapped);
        let cached: BTreeMap<i32, Option<String>> =
            cache.iter().map(|row| (row.id, row.v.clone())).collect();
        assert_eq!(cached, rows, "{context}");
        let mut by_v: Vec<i32> = cache.by_v("a").map(|row| row.id).collect();
        by_v.sort_unstable();
        assert_eq!(by_v, found_by_v, "{context}");
        assert!(cache.is_live(), "{context}: {:?}", cache.status());
        cache.validate().unwrap();
    }
    {
        let sql = "SELECT id, part, v FROM moved";
        let stored = client.query(sql, &[]).await.expect("read a table");
        let rows: BTreeMap<(i32, i32), Option<String>> = stored
            .iter()
            .map(|row| ((row.get(0), row.get(1)), row.get(2)))
            .collect();
        let in_order = keys(client, "SELECT id FROM moved WHERE v >= 'b' ORDER BY id").await;
        let together = keys(
            client,
            "SELECT id FROM moved WHERE part = 1 AND v = 'c' ORDER BY id",
        )
        .await;
        let cache = replica.read(&tables.moved);
        let cached: BTreeMap<(i32, i32), Option<String>> =
            cache.iter().map(|row| (row.key(), row.v.clone())).collect();
        assert_eq!(cached, rows, "{context}");
        let mut by_range: Vec<i32> = cache.by_v_range("b"..).map(|row| row.id).collect();
        by_range.sort_unstable();
        assert_eq!(by_range, in_order, "{context}");
        let mut by_both: Vec<i32> = cache.by_part_v(1, "c").map(|row| row.id).collect();
        by_both.sort_unstable();
        assert_eq!(by_both, together, "{context}");
        cache.validate().unwrap();
    }
    {
        let stored = keys(client, "SELECT n FROM nested ORDER BY n DESC").await;
        let cache = replica.read(&tables.nested);
        let backward: Vec<i32> = cache.by_n_range(..).rev().map(|row| row.n).collect();
        assert_eq!(backward, stored, "{context}");
        cache.validate().unwrap();
    }
}

/// Verifies a table, as often as it takes to be conclusive.
async fn verify<T: CacheModel>(replica: &Replica, table: &ReplicaTable<T>, context: &str) {
    let compared = async {
        loop {
            if let Verification::Compared(report) = replica.verify(table).await.unwrap() {
                break report;
            }
        }
    };
    let report = tokio::time::timeout(DEADLINE, compared)
        .await
        .expect("a comparison is conclusive");
    assert_eq!(report.findings, Vec::new(), "{context}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_quiet_point_caches_with_keys_of_other_types_are_their_tables() {
    let rounds = rounds(5);
    let seed = seed();
    let mut injector = Injector::start(SEVERAL, &SEVERAL_TABLES).await;
    let load = Load::start(&injector.database, several);
    let mut config: tokio_postgres::Config = injector.through.url.parse().unwrap();
    config.application_name("node");
    let mut builder = Replica::builder(config);
    builder.limits(limits());
    let tables = Tables {
        swapped: builder.table("swapped"),
        moved: builder.table("moved"),
        nested: builder.table("nested"),
    };
    let replica = builder.open().await.unwrap();
    for round in 0..rounds {
        let until = load.commits() + 100;
        while load.commits() < until {
            tokio::time::timeout(DEADLINE, replica.fence())
                .await
                .expect("a fence comes back")
                .unwrap();
        }
        let fault = injector.inject("node", &load, std::future::pending()).await;
        let context = format!("PGIC_FAULT_SEED={seed} round {round}, {fault:?}");
        let _nobody_writes = load.pause().await;
        // The replica's own session may be gone with a restart: a fence waits for a new one.
        tokio::time::timeout(DEADLINE, replica.fence())
            .await
            .expect("a fence comes back")
            .unwrap();
        let client = injector.database.client().await;
        compare(&client, &replica, &tables, &context).await;
        verify(&replica, &tables.swapped, &context).await;
        verify(&replica, &tables.moved, &context).await;
        verify(&replica, &tables.nested, &context).await;
    }
    let commits = load.end().await;
    let stats = replica.stats();
    println!(
        "{rounds} rounds, {commits} commits, {:?}, {stats:?}",
        injector.injected
    );
    assert!(stats.counters.applied > 0, "{stats:?}");
    replica.shutdown().await;
}
