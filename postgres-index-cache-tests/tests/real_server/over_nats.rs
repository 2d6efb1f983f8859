//! Replicas of an application's own types that follow a log on a real NATS server.

use crate::relay::{Running, relay, shop};
use crate::support::nats::Nats;
use crate::support::{DEADLINE, Database, Tail, execute};
use postgres_index_cache_core::tooling::nats::RelayEvent;
use postgres_index_cache_core::{
    CacheModel, Key, NatsReplicaBuilder, OnMisfit, ReadGuard, Replica, ReplicaError, ReplicaEvent,
    ReplicaStatus, ReplicaTable, RowChangeKind, TransactionToken, Verification, async_nats,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// A row of `kv`, without the column `j`.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(table = "kv")]
struct Kv {
    #[cache(key)]
    id: i32,
    #[cache(index)]
    v: Option<String>,
}

/// A row of `orders`.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(table = "public.orders", key(customer, number))]
struct Order {
    customer: i32,
    number: i32,
    total: Option<serde_json::Number>,
}

async fn client(nats: &Nats) -> async_nats::Client {
    async_nats::connect(nats.url()).await.expect("connect")
}

async fn builder(nats: &Nats) -> NatsReplicaBuilder {
    Replica::over_nats(client(nats).await, "shop")
}

async fn open(builder: NatsReplicaBuilder) -> Replica {
    let opened = tokio::time::timeout(DEADLINE, builder.open()).await;
    opened.expect("in time").expect("a replica")
}

async fn refused(builder: NatsReplicaBuilder) -> ReplicaError {
    let opened = tokio::time::timeout(DEADLINE, builder.open()).await;
    opened.expect("in time").expect_err("no replica")
}

async fn fence(replica: &Replica) {
    let fence = tokio::time::timeout(DEADLINE, replica.fence()).await;
    fence.expect("a fence in time").expect("a fence");
}

fn kv_rows(rows: &ReadGuard<'_, Kv>) -> BTreeMap<i32, Option<String>> {
    rows.iter().map(|row| (row.id, row.v.clone())).collect()
}

async fn kv_of(client: &Client) -> BTreeMap<i32, Option<String>> {
    let rows = client.query("SELECT id, v FROM kv", &[]).await;
    let rows = rows.expect("the rows");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Waits for the status of a replica to be one of which `is_it` is true.
async fn until_status(replica: &Replica, is_it: impl Fn(&ReplicaStatus) -> bool) {
    let mut events = replica.events();
    let wait = async {
        while !is_it(&replica.status()) {
            events.next().await.expect("an event");
        }
    };
    let waited = tokio::time::timeout(DEADLINE, wait).await;
    assert!(waited.is_ok(), "{}", replica.status());
}

/// A replica of `kv`, for the tests of relays.
#[derive(Clone)]
pub(crate) struct KvReplica {
    replica: Arc<Replica>,
    kv: ReplicaTable<Kv>,
}

impl KvReplica {
    /// Opens a replica once one of the relays has written a snapshot.
    pub(crate) async fn open(nats: &Nats, relays: &mut [Running; 2]) -> Self {
        let is_there = |event: &RelayEvent| matches!(event, RelayEvent::Snapshot { .. });
        let [first, second] = relays;
        tokio::select! {
            () = first.until(is_there) => {}
            () = second.until(is_there) => {}
        }
        let (replica, kv) = replica_of_kv(nats).await;
        let replica = Arc::new(replica);
        Self { replica, kv }
    }

    pub(crate) async fn fence(&self) {
        fence(&self.replica).await;
    }

    /// Returns the value of the row with this key.
    pub(crate) fn value(&self, id: i32) -> Option<String> {
        self.replica.read(&self.kv).get_by_primary(&id)?.v.clone()
    }

    /// Returns the value of the row with this key, if the rows are live.
    pub(crate) fn live_value(&self, id: i32) -> Option<String> {
        let rows = self.replica.read(&self.kv);
        let row = rows.get_by_primary(&id).filter(|_| rows.is_live())?;
        row.v.clone()
    }

    /// Checks that the replica has the rows of the table.
    pub(crate) async fn is_equal(&self, client: &Client) {
        self.fence().await;
        let expected = kv_of(client).await;
        assert_eq!(kv_rows(&self.replica.read(&self.kv)), expected);
    }
}

/// Starts a relay, and waits until its log can be loaded.
async fn ready(database: &Database, nats: &Nats) -> Running {
    let mut relay = relay(database, nats);
    relay
        .until(|event| matches!(event, RelayEvent::Snapshot { .. }))
        .await;
    relay
}

/// Two tables behind a relay, and a replica of one of them.
async fn replica_of_kv(nats: &Nats) -> (Replica, ReplicaTable<Kv>) {
    let mut builder = builder(nats).await;
    let kv = builder.model::<Kv>();
    (open(builder).await, kv)
}

/// Whoever is on call must learn that the rows differed, and not that nobody proves them.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_rows_differ_says_so() {
    let (database, nats) = (shop().await, Nats::start());
    let relay = ready(&database, &nats).await;
    let (replica, _kv) = replica_of_kv(&nats).await;
    drop(relay);
    // The relay's last proof once more, as the entry behind it, and with another digest.
    let client = client(&nats).await;
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("PGIC_shop").await.expect("the log");
    let last = stream
        .get_last_raw_message_by_subject("pgic.shop.log.ctl")
        .await;
    let last = last.expect("the last proof");
    let mut proof: serde_json::Value = serde_json::from_slice(&last.payload).expect("JSON");
    assert_eq!(proof["kind"], "proof", "{proof}");
    let position = proof["position"].as_str().expect("a position").to_string();
    let (term, number) = position.rsplit_once('.').expect("a term");
    let next = format!("{term}.{}", number.parse::<u64>().expect("a number") + 1);
    for table in proof["tables"].as_array_mut().expect("the tables") {
        table["digest"] = "00000000000000000000000000000001".into();
    }
    proof["behind"] = position.into();
    proof["position"] = next.into();
    let published = context
        .publish("pgic.shop.log.ctl", proof.to_string().into())
        .await;
    published.expect("publish").await.expect("stored");
    until_status(&replica, |status| {
        matches!(status, ReplicaStatus::Stale { why, .. } if why.contains("by its digest"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_over_a_log_reads_what_was_written_before_its_fence() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let (replica, kv) = replica_of_kv(&nats).await;
    assert!(replica.is_live());
    let client = database.client().await;
    for sql in [
        "INSERT INTO kv VALUES (0, 'null', 'null'), (-1, NULL, '{\"a\": null}')",
        // A column that the model does not read.
        "UPDATE kv SET j = '[1]' WHERE id < 20",
        "UPDATE kv SET id = -id WHERE id BETWEEN 10 AND 400",
        "UPDATE kv SET v = repeat('x', 12000) WHERE id = 1",
        "DELETE FROM kv WHERE id % 7 = 0",
        "TRUNCATE kv",
        "INSERT INTO kv SELECT n, 'again' FROM generate_series(1, 3000) n",
    ] {
        execute(&client, sql).await;
        fence(&replica).await;
        let expected = kv_of(&client).await;
        let rows = replica.read(&kv);
        assert!(rows.is_live(), "{sql}: {}", rows.status());
        assert_eq!(kv_rows(&rows), expected, "{sql}");
        let values = expected.iter().take(5);
        for (id, v) in values.filter_map(|(id, v)| Some((id, v.as_deref()?))) {
            let mut found = rows.by_v(v);
            assert!(found.any(|row| row.id == *id), "{sql}: {id}");
        }
    }
    assert_eq!(replica.stats().counters.reloads, 0);
    replica.shutdown().await;
    assert!(!replica.read(&kv).is_live());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_as_events_and_with_their_rows() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let mut builder = builder(&nats).await;
    let (kv, orders) = (builder.model::<Kv>(), builder.model::<Order>());
    let replica = open(builder).await;
    let mut events = replica.events();
    let mut changes = replica.changes(&orders).expect("the changes");
    let client = database.client().await;
    execute(
        &client,
        "UPDATE orders SET number = 3 WHERE number = 2; DELETE FROM kv WHERE id = 5",
    )
    .await;
    fence(&replica).await;
    assert!(replica.read(&kv).get_by_primary(&5).is_none());
    assert!(replica.read(&orders).get_by_primary(&(1, 3)).is_some());
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = tokio::time::timeout(DEADLINE, events.next()).await;
        if let Some(ReplicaEvent::Row { table, key, change }) = event.expect("an event") {
            told.push((table.to_string(), key.to_string(), change));
        }
    }
    told.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.cmp(&b.1)));
    let kinds: Vec<(&str, RowChangeKind)> = told
        .iter()
        .map(|(table, _, change)| (table.as_str(), *change))
        .collect();
    assert_eq!(
        kinds,
        [
            ("kv", RowChangeKind::Removed),
            ("public.orders", RowChangeKind::Removed),
            ("public.orders", RowChangeKind::Added),
        ],
        "{told:?}"
    );
    let first = tokio::time::timeout(DEADLINE, changes.next()).await;
    assert!(first.expect("a change").expect("a change").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_are_kept_out_and_the_others_are_proven() {
    /// A row of `kv` whose `v` must be there.
    #[derive(Debug, Deserialize, CacheModel)]
    #[cache(table = "kv")]
    struct Strict {
        #[cache(key)]
        id: i32,
        #[cache(index)]
        v: String,
    }
    let (database, nats) = (shop().await, Nats::start());
    let client = database.client().await;
    execute(&client, "UPDATE kv SET v = NULL WHERE id IN (3, 4)").await;
    let _relay = ready(&database, &nats).await;
    let mut strict = builder(&nats).await;
    let kv = strict.model::<Strict>();
    let replica = open(strict).await;
    let misfits = || -> Vec<Key> {
        let rows = replica.read(&kv);
        assert!(rows.is_current(), "{}", rows.status());
        rows.misfits().map(|(key, _)| key).collect()
    };
    assert_eq!(misfits().len(), 2);
    for (sql, expected) in [
        ("UPDATE kv SET v = 'fits' WHERE id = 3", 1),
        ("UPDATE kv SET v = NULL WHERE id = 9", 2),
        // A row that is kept out changes, and another one goes.
        (
            "UPDATE kv SET j = '{}' WHERE id = 9; DELETE FROM kv WHERE id = 4",
            1,
        ),
        ("UPDATE kv SET id = -9 WHERE id = 9", 1),
        ("TRUNCATE kv", 0),
    ] {
        execute(&client, sql).await;
        fence(&replica).await;
        assert_eq!(misfits().len(), expected, "{sql}");
    }
    assert!(replica.is_live(), "{}", replica.status());
    // Had a digest been another one than the relay's, a snapshot would have been loaded.
    assert_eq!(replica.stats().counters.reloads, 0);

    // Where rows are refused that do not fit, the table is stale until the row fits.
    let mut refusing = builder(&nats).await;
    let kv = refusing.model::<Strict>();
    refusing.on_misfit(OnMisfit::Refuse);
    let replica = open(refusing).await;
    execute(&client, "INSERT INTO kv VALUES (1, NULL)").await;
    until_status(&replica, |status| {
        matches!(status, ReplicaStatus::Stale { table: Some(table), .. } if &**table == "kv")
    })
    .await;
    let mut late = builder(&nats).await;
    late.model::<Strict>();
    late.on_misfit(OnMisfit::Refuse);
    let error = refused(late).await;
    assert!(
        matches!(&error, ReplicaError::NotKept(why) if why.starts_with("1: ")),
        "{error}"
    );
    execute(&client, "UPDATE kv SET v = 'fits' WHERE id = 1").await;
    fence(&replica).await;
    let rows = replica.read(&kv);
    assert!(rows.is_live() && rows.len() == 1, "{}", rows.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_whose_answer_was_lost_is_not_made_again() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let asking = client(&nats).await;
    let ask = async |number: u64| -> serde_json::Value {
        let verify =
            serde_json::json!({"verify": {"schema": "public", "table": "kv", "ask": number}});
        let asked = asking.request("pgic.shop.ask", verify.to_string().into());
        let answer = tokio::time::timeout(DEADLINE, asked).await;
        let answer = answer.expect("in time").expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    };
    let first = ask(1).await;
    assert_eq!(
        (&first["rows"], &first["ghosts"]),
        (&5000.into(), &0.into())
    );
    // Nobody announces this.
    let client = database.client().await;
    let sql = "SET session_replication_role = replica; DELETE FROM kv WHERE id = 9";
    execute(&client, sql).await;
    assert_eq!(ask(1).await, first);
    let began = Instant::now();
    let second = loop {
        let report = ask(2).await;
        if report["is_busy"] != true {
            break report;
        }
        assert!(began.elapsed() < DEADLINE, "{report}");
    };
    assert_eq!(second["ghosts"], 1);
}

/// The relay may publish where a node may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_answers_into_inboxes_alone() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let (replica, kv) = replica_of_kv(&nats).await;
    let asking = client(&nats).await;
    for reply in [
        "pgic.shop.log.ctl",
        "pgic.shop.snap.list",
        "$JS.API.STREAM.PURGE.PGIC_shop",
    ] {
        for question in ["", "x", r#"{"verify":{"schema":"a","table":"b"}}"#] {
            let published = asking.publish_with_reply("pgic.shop.ask", reply, question.into());
            published.await.expect("publish");
        }
    }
    asking.flush().await.expect("flush");
    let client = database.client().await;
    execute(&client, "UPDATE kv SET v = 'still' WHERE id = 1").await;
    fence(&replica).await;
    let rows = replica.read(&kv);
    assert_eq!(
        rows.get_by_primary(&1).and_then(|row| row.v.as_deref()),
        Some("still")
    );
    drop(rows);
    assert_eq!(replica.stats().counters.reloads, 0);
    let (late, kv) = replica_of_kv(&nats).await;
    assert_eq!(late.read(&kv).len(), 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_relay_is_stale_and_comes_back_by_itself() {
    let (database, nats) = (shop().await, Nats::start());
    let first = ready(&database, &nats).await;
    let (replica, kv) = replica_of_kv(&nats).await;
    drop(first);
    let client = database.client().await;
    execute(&client, "UPDATE kv SET v = 'alone' WHERE id = 1").await;
    until_status(&replica, |status| {
        matches!(status, ReplicaStatus::Stale { table: None, why, .. } if why.contains("no relay"))
    })
    .await;
    // The old rows stay readable.
    assert_eq!(
        replica
            .read(&kv)
            .get_by_primary(&1)
            .and_then(|row| row.v.as_deref()),
        Some("v1")
    );
    let waiting = tokio::time::timeout(Duration::from_millis(300), replica.fence()).await;
    assert!(waiting.is_err(), "a fence without a relay");
    let _second = relay(&database, &nats);
    fence(&replica).await;
    let rows = replica.read(&kv);
    assert!(rows.is_live(), "{}", rows.status());
    assert_eq!(
        rows.get_by_primary(&1).and_then(|row| row.v.as_deref()),
        Some("alone")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_the_log_does_not_have_are_told_with_those_that_it_has() {
    #[derive(Debug, Deserialize, CacheModel)]
    #[cache(table = "kv")]
    struct Other {
        #[cache(key)]
        id: i32,
        #[cache(index)]
        w: i64,
    }
    let (database, nats) = (shop().await, Nats::start());
    let mut none = builder(&nats).await;
    none.model::<Kv>();
    let error = refused(none).await;
    assert!(matches!(error, ReplicaError::NoLog(_)), "{error}");

    let _relay = ready(&database, &nats).await;
    let _live = replica_of_kv(&nats).await;
    let mut missing = builder(&nats).await;
    missing.model::<Kv>();
    missing.table::<Kv>("app.kv");
    let error = refused(missing).await;
    assert_eq!(
        error.to_string(),
        "the log shop has no table app.kv; it has public.kv, public.orders"
    );
    let mut twice = builder(&nats).await;
    twice.table::<Kv>("kv");
    twice.table::<Kv>("Public.KV");
    let error = refused(twice).await;
    assert!(matches!(error, ReplicaError::Twice(_)), "{error}");
    let mut unfit = builder(&nats).await;
    unfit.model::<Other>();
    let error = refused(unfit).await;
    assert!(
        error
            .to_string()
            .contains("the field w: there is no column w"),
        "{error}"
    );
    let mut full = builder(&nats).await;
    full.model::<Kv>();
    full.max_memory(10_000);
    let error = refused(full).await;
    assert!(error.to_string().contains("max_memory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_waited_for_over_the_log() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let (replica, kv) = replica_of_kv(&nats).await;
    let mut client = database.client().await;
    let transaction = client.transaction().await.expect("a transaction");
    let token = transaction.query_one(TransactionToken::QUERY, &[]).await;
    let token: TransactionToken = token
        .expect("a token")
        .get::<_, &str>(0)
        .parse()
        .expect("one");
    let written = transaction.batch_execute("UPDATE kv SET v = 'mine' WHERE id = 7");
    written.await.expect("the update");
    // The transaction is in progress.
    let early = tokio::time::timeout(Duration::from_millis(300), replica.wait_for(token)).await;
    assert!(
        early.is_err(),
        "a transaction that is not committed was reached"
    );
    let waiting = async {
        let waited = tokio::time::timeout(DEADLINE, replica.wait_for_in(&kv, token)).await;
        waited.expect("in time").expect("the transaction");
        let rows = replica.read(&kv);
        assert_eq!(
            rows.get_by_primary(&7).and_then(|row| row.v.as_deref()),
            Some("mine")
        );
    };
    let committing = async { transaction.commit().await.expect("commit") };
    tokio::join!(waiting, committing);
    assert!(
        !replica.reached(token).await.expect("an answer"),
        "a log does not know"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_compares_for_its_nodes() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let (replica, kv) = replica_of_kv(&nats).await;
    let verify = async || {
        let verified = tokio::time::timeout(DEADLINE, replica.verify(&kv)).await;
        match verified.expect("in time").expect("an answer") {
            Verification::Compared(report) => report,
            Verification::Inconclusive(why) => panic!("{why}"),
        }
    };
    let (other, _) = replica_of_kv(&nats).await;
    let mut events = other.events();
    // Another table is written to all the time.
    let client = database.client().await;
    let written = async {
        loop {
            execute(&client, "UPDATE orders SET total = 1 WHERE number = 1").await;
        }
    };
    let report = tokio::select! {
        report = verify() => report,
        () = written => unreachable!("writes have no end"),
    };
    assert_eq!((report.rows, report.differing()), (5000, 0));
    let unheard = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
    assert!(
        unheard.is_err(),
        "a comparison is no matter to other nodes: {unheard:?}"
    );
    // Nobody announces this.
    execute(
        &client,
        "SET session_replication_role = replica; UPDATE kv SET v = 'silent' WHERE id = 8;
        DELETE FROM kv WHERE id = 9",
    )
    .await;
    let report = verify().await;
    assert_eq!((report.stale, report.ghosts, report.missing), (1, 1, 0));
    let mut keys: Vec<&str> = report
        .findings
        .iter()
        .map(|finding| &*finding.key)
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["8", "9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_table_is_followed_on() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let mut builder = builder(&nats).await;
    let (kv, orders) = (builder.model::<Kv>(), builder.model::<Order>());
    let replica = open(builder).await;
    let client = database.client().await;
    execute(
        &client,
        "ALTER TABLE kv ADD more int; UPDATE kv SET more = id, v = 'new'",
    )
    .await;
    database.pgic_ok(&["install-triggers", "kv", "-q"]);
    fence(&replica).await;
    let expected = kv_of(&client).await;
    assert_eq!(kv_rows(&replica.read(&kv)), expected);
    // A table that the model does not fit any more is stale, and the other one goes on.
    execute(
        &client,
        "ALTER TABLE kv RENAME v TO w; UPDATE orders SET total = 1",
    )
    .await;
    let fenced = tokio::time::timeout(DEADLINE, replica.fence_for(&orders)).await;
    fenced.expect("in time").expect("a fence");
    let status = replica.status();
    assert!(
        matches!(&status, ReplicaStatus::Stale { table: Some(table), why, .. }
            if &**table == "kv" && why.contains("there is no column v")),
        "{status}"
    );
    let rows = replica.read(&orders);
    assert!(rows.is_live(), "{}", rows.status());
    assert!(rows.iter().all(|row| row.total == Some(1.into())));
    drop(rows);
    execute(&client, "ALTER TABLE kv RENAME w TO v").await;
    fence(&replica).await;
    assert!(replica.is_live());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_holds_the_rows_holds_up_their_table_and_is_told() {
    let (database, nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let (replica, kv) = replica_of_kv(&nats).await;
    let client = database.client().await;
    let guard = replica.read(&kv);
    execute(&client, "UPDATE kv SET v = 'late' WHERE id = 1").await;
    let begun = Instant::now();
    while !matches!(replica.status(), ReplicaStatus::Loading) {
        assert!(begun.elapsed() < DEADLINE, "{}", replica.status());
        tokio::task::yield_now().await;
    }
    assert_eq!(
        guard.get_by_primary(&1).and_then(|row| row.v.as_deref()),
        Some("v1")
    );
    drop(guard);
    fence(&replica).await;
    assert_eq!(
        replica
            .read(&kv)
            .get_by_primary(&1)
            .and_then(|row| row.v.as_deref()),
        Some("late")
    );
    let error = replica.objects::<Kv, String>(&kv, 1 << 20, String::len);
    let error = error.expect_err("no objects over a log");
    assert!(matches!(&*error, ReplicaError::NotOverLog(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_outlives_nats_and_its_log() {
    let (database, mut nats) = (shop().await, Nats::start());
    let _relay = ready(&database, &nats).await;
    let (replica, kv) = replica_of_kv(&nats).await;
    let client = database.client().await;
    nats.kill();
    until_status(&replica, |status| {
        matches!(status, ReplicaStatus::Stale { .. })
    })
    .await;
    execute(&client, "UPDATE kv SET v = 'meanwhile' WHERE id < 50").await;
    nats.restart();
    fence(&replica).await;
    let expected = kv_of(&client).await;
    assert_eq!(kv_rows(&replica.read(&kv)), expected);
}

/// What a new user does: the front page's example, with the relay of the command line.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_relays_for_a_replica() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let arguments = ["relay", "kv", "--to", &url, "--name", "shop", "-o", "json"];
    let relay = Tail::start(database.command(&arguments));
    while relay.next()["state"] != "snapshot" {}
    let (replica, kv) = replica_of_kv(&nats).await;
    assert_eq!(replica.read(&kv).len(), 5000);
}
