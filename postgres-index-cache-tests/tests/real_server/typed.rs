//! Models that are derived: keys and indexes of any type, and the columns that a model needs.

use crate::replica::{builder, fence};
use crate::support::{DEADLINE, Database};
use jiff::civil::{Date, date};
use postgres_index_cache_core::{
    CacheModel, Key, Replica, ReplicaError, ReplicaEvent, ReplicaTable, RowChangeKind, TableModel,
    Verification,
};
use serde::Deserialize;
use tokio_postgres::Client;
use uuid::Uuid;

/// A key of two columns whose order in the key is not that of the columns.
const PLACES: &str = "CREATE SCHEMA app;
    CREATE TABLE app.places (number int, country text, name text, opened date, picture bytea,
        since timestamptz NOT NULL DEFAULT '2024-01-01', PRIMARY KEY (country, number));";

#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(table = "app.places", key(country, number))]
struct Place {
    number: i32,
    country: String,
    #[cache(index)]
    name: Option<String>,
    #[cache(index, ordered)]
    opened: Option<String>,
}

/// Opens a replica of `app.places` after running `sql`.
async fn with_places(sql: &str) -> (Database, Client, Replica, ReplicaTable<Place>) {
    let database = Database::with(&format!("{PLACES}{sql}")).await;
    database.pgic_ok(&["install-triggers", "app.places"]);
    let mut builder = builder(&database);
    let places = builder.model::<Place>();
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    (database, client, replica, places)
}

fn key(country: &str, number: i32) -> (String, i32) {
    (country.to_string(), number)
}

pub async fn assert_verified<T: CacheModel>(replica: &Replica, table: &ReplicaTable<T>) {
    let verified = tokio::time::timeout(DEADLINE, replica.verify(table))
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(&verified, Verification::Compared(report) if report.differing() == 0),
        "{verified:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_composite_key_is_followed_through_every_change() {
    let (_database, client, replica, places) =
        with_places("INSERT INTO app.places VALUES (1, 'de', 'Ulm', '2020-02-29', 'x');").await;
    assert_eq!(Place::TABLE, "app.places");
    assert!(replica.is_live());
    let mut events = replica.events();
    for (sql, expected) in [
        (
            "INSERT INTO app.places VALUES (2, 'fr', 'Brest', '2019-01-01', 'y')",
            vec![("fr", 2, "Brest"), ("de", 1, "Ulm")],
        ),
        (
            "UPDATE app.places SET number = 3 WHERE country = 'de'",
            vec![("fr", 2, "Brest"), ("de", 3, "Ulm")],
        ),
        // A row that is too long to be sent: it is read again by its key.
        (
            "UPDATE app.places SET picture = decode(repeat('00', 9000), 'hex'), opened = NULL
            WHERE country = 'fr'",
            vec![("de", 3, "Ulm")],
        ),
        ("DELETE FROM app.places WHERE number = 3", vec![]),
        (
            "TRUNCATE app.places; INSERT INTO app.places VALUES (7, 'x,\"y', '', '0044-03-15 BC')",
            vec![("x,\"y", 7, "")],
        ),
    ] {
        client.batch_execute(sql).await.unwrap();
        fence(&replica).await;
        let rows = replica.read(&places);
        assert!(rows.is_live(), "{sql}: {}", rows.status());
        let in_order: Vec<(&str, i32, &str)> = rows
            .by_opened_range(..)
            .map(|row| {
                (
                    row.country.as_str(),
                    row.number,
                    row.name.as_deref().unwrap(),
                )
            })
            .collect();
        assert_eq!(in_order, expected, "{sql}");
        for (country, number, name) in expected {
            let found = rows.get_by_primary(&key(country, number)).unwrap();
            assert_eq!(rows.by_name(name).next(), Some(found), "{sql}");
        }
        rows.validate().unwrap();
        drop(rows);
        assert_verified(&replica, &places).await;
    }
    let first = events.next().await.unwrap();
    let ReplicaEvent::Row { table, key, change } = &first else {
        panic!("{first:?}")
    };
    let parts = vec![Key::Text("fr".to_string()), Key::Integer(2)];
    assert_eq!((&**table, key), ("app.places", &Key::Composite(parts)));
    assert_eq!(*change, RowChangeKind::Added);
}

/// A column that the model does not need is not read: neither its values nor its definition matter.
// So many rows are decoded by a thread of their own while those before are stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_is_exact_after_its_first_read_and_after_a_gap() {
    let rows = "INSERT INTO app.places SELECT n, 'de', 'name ' || n % 1000, '2020-02-29'
            FROM generate_series(1, 60000) n;
        ANALYZE app.places;";
    let database = Database::with(&format!("{PLACES}{rows}")).await;
    database.pgic_ok(&["install-triggers", "app.places"]);
    let client = database.client().await;
    let writes = "UPDATE app.places SET name = 'name 1000' WHERE number % 7 = 3;
        DELETE FROM app.places WHERE number % 7 = 4;
        INSERT INTO app.places SELECT n, 'fr', 'name 1001' FROM generate_series(1, 500) n;";
    let mut builder = builder(&database);
    let places = builder.model::<Place>();
    let (replica, written) = tokio::join!(builder.open(), client.batch_execute(writes));
    written.unwrap();
    let replica = replica.unwrap();
    fence(&replica).await;
    let counts = |replica: &Replica| {
        let rows = replica.read(&places);
        assert!(rows.is_live(), "{}", rows.status());
        rows.validate().unwrap();
        let of = |name| rows.by_name(name).count();
        (rows.len(), of("name 1000"), of("name 1001"), of("name 5"))
    };
    let expected = (60_000 - 8571 + 500, 8572, 500, 42);
    assert_eq!(counts(&replica), expected);
    assert_verified(&replica, &places).await;
    let mut events = replica.events();
    // In one transaction the listener is ended and rows go: nobody hears of those.
    let unheard = "BEGIN;
        DELETE FROM app.places WHERE country = 'fr';
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'node' AND datname = current_database();
        COMMIT";
    client.batch_execute(unheard).await.unwrap();
    while !matches!(events.next().await.unwrap(), ReplicaEvent::Stale { .. }) {}
    fence(&replica).await;
    assert_eq!(counts(&replica), (60_000 - 8571, 8572, 0, 42));
    assert_verified(&replica, &places).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_column_that_is_not_needed_is_nothing_to_the_cache() {
    let (_database, client, replica, places) = with_places(
        "INSERT INTO app.places SELECT n, 'de', 'n' || n, '2020-01-01',
            decode(repeat('00', 100000), 'hex') FROM generate_series(1, 50) n;",
    )
    .await;
    let mut events = replica.events();
    client
        .batch_execute("UPDATE app.places SET since = '2025-01-01' WHERE number <= 10")
        .await
        .unwrap();
    fence(&replica).await;
    client
        .batch_execute("UPDATE app.places SET name = 'other' WHERE number = 11")
        .await
        .unwrap();
    fence(&replica).await;
    // The first event is that of the second update: the first one changed nothing here.
    let first = events.next().await.unwrap();
    let ReplicaEvent::Row { key, change, .. } = &first else {
        panic!("{first:?}")
    };
    assert_eq!(
        (key.to_string().as_str(), *change),
        ("de,11", RowChangeKind::Changed)
    );
    assert_eq!(replica.read(&places).by_name("other").len(), 1);
    let memory = replica.health().tables[0].memory_bytes;
    assert!(memory < 100_000, "{memory} bytes: the pictures were read");
    assert_verified(&replica, &places).await;
}

/// Returns the error of a replica with this model, which cannot be opened.
async fn refusal<T>(database: &Database, name: &str) -> String
where
    T: postgres_index_cache_core::Model,
{
    let mut builder = builder(database);
    let _table = builder.table::<T>(name);
    let error = builder.open().await.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, ReplicaError::ModelUnfit { .. }),
        "{error:?}"
    );
    error.to_string()
}

/// A model that does not fit `app.places`, in several ways at once.
#[derive(Debug, Deserialize, CacheModel)]
#[expect(dead_code, reason = "no row is ever read")]
struct Wrong {
    #[cache(key)]
    number: String,
    nick: String,
    name: i64,
    opened: bool,
    #[serde(default)]
    not_there: i32,
}

#[derive(Debug, Deserialize, CacheModel)]
struct OtherOrder {
    #[cache(key)]
    number: i32,
    #[cache(key)]
    country: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_fit_its_table_is_refused_with_field_column_and_types() {
    let database = Database::with(PLACES).await;
    database.pgic_ok(&["install-triggers", "app.places"]);
    assert_eq!(
        refusal::<Wrong>(&database, "app.places").await,
        "app.places does not fit the model Wrong: the key of the table is (country, number), that of \
        the model (number); the field number is String, and the column number is of type integer; \
        the field nick: there is no column nick; the field name is i64, and the column name is of \
        type text; the field opened is bool, and the column opened is of type date"
    );
    assert_eq!(
        refusal::<OtherOrder>(&database, "app.places").await,
        "app.places does not fit the model OtherOrder: the key of the table is (country, number), \
        that of the model (number, country)"
    );
    // A column that the triggers do not send would never be in step.
    database.pgic_ok(&[
        "install-triggers",
        "app.places",
        "--columns",
        "country,number,opened",
    ]);
    assert_eq!(
        refusal::<Place>(&database, "app.places").await,
        "app.places does not fit the model Place: the field name: the triggers do not send the \
        column name"
    );
}

/// A column that the model reads is dropped under the open replica: the table is stale with the
/// cause, and is followed on once the column is there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_ceases_to_fit_is_stale_until_it_fits_again() {
    let (database, client, replica, places) =
        with_places("INSERT INTO app.places VALUES (1, 'de', 'Ulm', '2020-02-29', 'x');").await;
    let mut events = replica.events();
    client
        .batch_execute("ALTER TABLE app.places RENAME COLUMN name TO title")
        .await
        .unwrap();
    let why = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(ReplicaEvent::Stale { why, .. }) = events.next().await
                && why.contains("no column name")
            {
                break why;
            }
        }
    })
    .await
    .expect("the table is stale");
    assert!(why.contains("does not fit the model Place"), "{why}");
    assert!(!replica.read(&places).is_live());
    client
        .batch_execute(
            "ALTER TABLE app.places RENAME COLUMN title TO name;
            UPDATE app.places SET name = 'Neu-Ulm'",
        )
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "app.places"]);
    fence(&replica).await;
    let rows = replica.read(&places);
    assert_eq!(rows.by_name("Neu-Ulm").len(), 1);
    assert!(rows.is_live(), "{}", rows.status());
}

/// A number that does not fit the type of the key.
#[derive(Debug, Deserialize, CacheModel)]
struct Small {
    #[cache(key)]
    id: i16,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_fit_its_type_is_kept_out_and_named() {
    let database = Database::with(
        "CREATE TABLE small (id bigint PRIMARY KEY); INSERT INTO small VALUES (1), (70000)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "small"]);
    let mut builder = builder(&database);
    let small = builder.table::<Small>("small");
    let replica = builder.open().await.unwrap();
    let rows = replica.read(&small);
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [1]);
    let misfits: Vec<(Key, &str)> = rows.misfits().collect();
    let [(key, why)] = misfits.as_slice() else {
        panic!("{misfits:?}")
    };
    assert_eq!(*key, Key::Integer(70000));
    assert!(why.starts_with("its key: "), "{why}");
    assert!(rows.is_current() && !rows.is_live());
    drop(rows);
    let client = database.client().await;
    client
        .batch_execute("DELETE FROM small WHERE id = 70000")
        .await
        .unwrap();
    fence(&replica).await;
    assert!(replica.read(&small).is_live());
}

/// The model of `docs/library.md`.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
#[cache(table = "app.users", index(team, joined), ordered)]
struct User {
    #[cache(key)]
    id: Uuid,
    #[cache(index, unique)]
    email: String,
    #[cache(index)]
    team: Option<i64>,
    joined: Date,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_of_the_guide_does_as_the_guide_says() {
    let database = Database::with(
        "CREATE SCHEMA app; CREATE TABLE app.users (id uuid PRIMARY KEY, email text NOT NULL UNIQUE,
            team bigint, joined date NOT NULL, notes text);
        INSERT INTO app.users SELECT gen_random_uuid(), 'u' || n || '@example.org',
            CASE WHEN n > 2 THEN 7 + n % 2 END, date '2024-01-01' + n FROM generate_series(1, 10) n",
    )
    .await;
    database.pgic_ok(&["install-triggers", "app.users"]);
    let mut builder = builder(&database);
    let users = builder.model::<User>();
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    // An exchange of unique values: between its two notifications, both rows have one.
    client
        .batch_execute(
            "BEGIN; UPDATE app.users SET email = 'x' WHERE email = 'u1@example.org';
            UPDATE app.users SET email = 'u1@example.org' WHERE email = 'u2@example.org';
            UPDATE app.users SET email = 'u2@example.org' WHERE email = 'x'; COMMIT",
        )
        .await
        .unwrap();
    fence(&replica).await;
    let rows = replica.read(&users);
    assert!(rows.is_live(), "{}", rows.status());
    let first = rows.by_email("u1@example.org").unwrap();
    assert_eq!((first.joined, first.team), (date(2024, 1, 3), None));
    assert!(rows.by_email("x").is_none());
    assert_eq!(rows.by_team(7).len(), 4);
    assert_eq!(rows.by_team_joined(8, &date(2024, 1, 4)).len(), 1);
    let of_team = rows.by_team_joined_range((7, Date::MIN)..=(7, Date::MAX));
    let joined: Vec<i8> = of_team.map(|user| user.joined.day()).collect();
    assert_eq!(joined, [5, 7, 9, 11]);
    rows.validate().unwrap();
}

/// A row of a table whose columns change their types.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
struct Event {
    #[cache(key)]
    place: i64,
    #[cache(key)]
    number: i64,
    #[cache(index)]
    at: String,
}

/// The cells of a row may be the same under another type, and its JSON another one. And a key of
/// other types is another key.
#[tokio::test(flavor = "multi_thread")]
async fn columns_that_change_their_types_under_an_open_replica_are_followed() {
    let database = Database::with(
        "CREATE TABLE events (place int, number int, at timestamp, PRIMARY KEY (place, number));
        INSERT INTO events SELECT n % 3, n, timestamp '2024-01-01' FROM generate_series(1, 20) n",
    )
    .await;
    database.pgic_ok(&["install-triggers", "events"]);
    let mut builder = builder(&database);
    let events = builder.table::<Event>("events");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    assert_eq!(replica.read(&events).by_at("2024-01-01T00:00:00").len(), 20);
    for (sql, at) in [
        (
            "SET TimeZone = 'UTC'; ALTER TABLE events ALTER at TYPE timestamptz",
            "2024-01-01T00:00:00+00:00",
        ),
        (
            "ALTER TABLE events ALTER place TYPE bigint",
            "2024-01-01T00:00:00+00:00",
        ),
        (
            "ALTER TABLE events ALTER number TYPE smallint",
            "2024-01-01T00:00:00+00:00",
        ),
    ] {
        client.batch_execute(sql).await.unwrap();
        database.pgic_ok(&["install-triggers", "events"]);
        fence(&replica).await;
        let rows = replica.read(&events);
        assert!(rows.is_live(), "{sql}: {}", rows.status());
        assert_eq!(rows.by_at(at).len(), 20, "{sql}");
        assert_eq!(rows.get_by_primary(&(2, 5)).map(|row| row.number), Some(5));
        rows.validate().unwrap();
        drop(rows);
        assert_verified(&replica, &events).await;
        let sql =
            "UPDATE events SET at = at WHERE number = 5; DELETE FROM events WHERE number = 99";
        client.batch_execute(sql).await.unwrap();
    }
}

/// Numbers of more than 64 bits, and a uuid that stands in a text.
#[derive(Debug, Clone, PartialEq, Deserialize, CacheModel)]
struct Wide {
    #[cache(key)]
    id: Uuid,
    amount: i128,
    extra: Option<i64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_the_same_to_the_model_whichever_way_it_came() {
    let wide = "123456789012345678901234567890";
    let database = Database::with(&format!(
        "CREATE TABLE wide (id text PRIMARY KEY, amount numeric, extra jsonb);
        INSERT INTO wide VALUES ('00000000-0000-0000-0000-000000000001', {wide}, '7')"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "wide"]);
    let mut builder = builder(&database);
    let table = builder.table::<Wide>("wide");
    let replica = builder.open().await.unwrap();
    let client = database.client().await;
    client
        .batch_execute(&format!(
            "INSERT INTO wide VALUES ('00000000-0000-0000-0000-000000000002', {wide}, 'null')"
        ))
        .await
        .unwrap();
    fence(&replica).await;
    let rows = replica.read(&table);
    assert!(rows.is_live(), "{:?}", rows.misfits().collect::<Vec<_>>());
    for (number, extra) in [(1, Some(7)), (2, None)] {
        let row = rows.get_by_primary(&Uuid::from_u128(number)).unwrap();
        assert_eq!(
            (row.amount.to_string(), row.extra),
            (wide.to_string(), extra)
        );
    }
    drop(rows);
    assert_verified(&replica, &table).await;
}
