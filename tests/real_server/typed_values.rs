//! One value, two ways: a value that comes by COPY and the same value in a payload become the same
//! cell, and print as PostgreSQL prints the value.
//!
//! If the two differed, a row would change in the cache although it did not change in the table,
//! and `verify` would accuse rows that are right.

use crate::support::{Database, cluster};
use serde_json::json;
use tokio_postgres::Client;

/// Each type with values that are easy to get wrong: limits, signs of zero, infinities, escapes,
/// years before Christ, text that looks like another value.
const VALUES: [(&str, &[&str]); 52] = [
    ("bool", &["true", "false"]),
    ("int2", &["-32768", "32767"]),
    ("int4", &["-2147483648"]),
    ("int8", &["9007199254740993", "-9223372036854775808"]),
    (
        "float4",
        &[
            "1.1",
            "1e20",
            "1e-7",
            "NaN",
            "-Infinity",
            "-0",
            "123456",
            "1234567",
        ],
    ),
    (
        "float8",
        &[
            "0.1",
            "1e15",
            "1e-5",
            "NaN",
            "Infinity",
            "-0",
            "123456789012345",
            "5e-324",
        ],
    ),
    (
        "numeric",
        &[
            "1.10",
            "1.1",
            "NaN",
            "0.00000000000000000001",
            "123456789012345678901234567890",
            "-0.5",
            "1000000",
            "0",
        ],
    ),
    ("numeric(10,3)", &["1", "12345.678"]),
    ("uuid", &["550e8400-e29b-41d4-a716-446655440000"]),
    ("text", &["", "é \"q\" \\ \t \u{1}", "null", "a\nb"]),
    ("varchar(3)", &["abc"]),
    ("char(5)", &["ab", ""]),
    ("name", &["pg_class"]),
    (
        "date",
        &[
            "2024-02-29",
            "infinity",
            "-infinity",
            "0044-03-15 BC",
            "10000-01-01",
        ],
    ),
    (
        "timestamp",
        &[
            "2024-02-29 12:34:56.789",
            "infinity",
            "0001-01-01 BC",
            "20000-01-01 00:00:00.000001",
        ],
    ),
    (
        "timestamptz",
        &[
            "2024-02-29 12:34:56.789+05:45",
            "-infinity",
            "1900-01-01 00:00:00+00",
            "0001-01-01 BC",
        ],
    ),
    ("time", &["12:34:56.5"]),
    ("timetz", &["12:34:56+05:45"]),
    ("interval", &["1 mon 2 days 03:04:05.6", "-1 year"]),
    ("bytea", &["\\x00ff41", ""]),
    ("json", &["{\"a\": 1,  \"a\": 2}", " [1,\n2] ", "null"]),
    ("jsonb", &["{\"b\": 1.10, \"a\": null}", "null", "\"x\""]),
    ("int4[]", &["{1,NULL,3}", "{}", "{{1,2},{3,4}}"]),
    ("timestamptz[]", &["{2024-02-29 12:34:56+05:45}"]),
    ("text[]", &["{a,\"b \\\"q\\\"\",NULL}"]),
    (
        "tstzrange",
        &["[2024-01-01 00:00:00+02,2024-01-02 00:00:00+02)"],
    ),
    ("daterange", &["[2024-01-01,2024-01-05)"]),
    ("inet", &["10.0.0.1/8", "::1"]),
    ("oid", &["4294967295"]),
    ("money", &["12.34"]),
    ("regclass", &["pg_class"]),
    ("mood", &["sad"]),
    ("pair", &["(1,\"2024-02-29 12:34:56+05:45\")"]),
    // Settings change how these are written, through the types that they are made of.
    ("moment", &["2024-02-29 12:34:56+05:45", "infinity"]),
    ("moment[]", &["{2024-02-29 12:34:56+05:45}"]),
    (
        "wrapped",
        &["(\"2024-02-29 12:34:56+05:45\",\"{1 mon 2 days}\",1.1)"],
    ),
    (
        "wrapped[]",
        &["{\"(\\\"2024-02-29 12:34:56+05:45\\\",,1e-7)\"}"],
    ),
    ("float8range", &["[0.1,0.30000000000000004)"]),
    ("spans", &["[2024-02-29 12:34:56+05:45,)"]),
    ("blobs", &["{\"\\\\x00ff\"}"]),
    ("bit(5)", &["10110"]),
    ("varbit", &["101", ""]),
    ("tsvector", &["'a':1A 'fat':2B,4C 'cat''s':5"]),
    ("tsquery", &["'fat' & ( 'rat' | !'cat' )"]),
    ("xml", &["<a b=\"c\">d\n&lt;</a>"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("cidr", &["10.0.0.0/8"]),
    ("point", &["(1.1,-1e-7)"]),
    ("pg_lsn", &["16/B374D848"]),
    ("numrange", &["[1.10,1.100)", "empty"]),
    ("regtype", &["integer", "mood"]),
    ("interval[]", &["{1 mon 2 days 03:04:05.6,-1 year}"]),
];

/// The types that servers from PostgreSQL 14 on have.
const MULTIRANGES: [(&str, &[&str]); 3] = [
    ("int4multirange", &["{[1,3),[5,9)}", "{}"]),
    ("nummultirange", &["{[1.10,2.0],(3,)}"]),
    (
        "tstzmultirange",
        &["{[2024-01-01 00:00:00+05:45,2024-01-02 00:00:00+05:45)}"],
    ),
];

/// Returns the types that the tests' server has, with their values.
fn values() -> Vec<(&'static str, &'static [&'static str])> {
    let multiranges = MULTIRANGES.iter().filter(|_| cluster().version() >= 14);
    VALUES.iter().chain(multiranges).copied().collect()
}

/// Opens a session whose settings change how values are written: see [`WRITER`].
///
/// The locale of money is `PGIC_LOCALE`, which the server must know. If that is not set, it is the
/// first of a list that the server knows.
async fn writer(database: &Database) -> Client {
    let client = database.client().await;
    client.batch_execute(WRITER).await.unwrap();
    let named = std::env::var("PGIC_LOCALE").ok();
    let usual = ["de_DE.UTF-8", "en_US.UTF-8", "fr_FR.UTF-8", "C.UTF-8", "C"].map(str::to_string);
    for locale in named.clone().map_or(usual.to_vec(), |named| vec![named]) {
        if client
            .batch_execute(&format!("SET lc_monetary = '{locale}'"))
            .await
            .is_ok()
        {
            return client;
        }
    }
    panic!(
        "the server does not know the locale {named:?}; make it: localedef -i de_DE -f UTF-8 \
        de_DE.UTF-8"
    )
}

/// Settings of a writer that change how values are written. No payload may follow them.
const WRITER: &str = "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET \
    IntervalStyle = 'sql_standard';
    SET bytea_output = 'escape'; SET extra_float_digits = -5; SET search_path = \
    information_schema, public;";

/// Creates a table with a column of each type, and its triggers. Column `c0` has the first type of
/// [`values`], and so on.
async fn all_types() -> Database {
    let columns: Vec<String> = values()
        .iter()
        .enumerate()
        .map(|(n, (ty, _))| format!("c{n} {ty}"))
        .collect();
    let sql = format!(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b timestamptz);
         CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN spans AS tstzrange; CREATE DOMAIN \
         blobs AS bytea[];
         CREATE TYPE wrapped AS (m moment, i interval[], f float4);
         CREATE TYPE float8range AS RANGE (subtype = float8);
         CREATE TABLE all_types (id int PRIMARY KEY, {});",
        columns.join(", ")
    );
    let database = Database::with(&sql).await;
    database.pgic_ok(&["install-triggers", "all_types"]);
    database
}

/// Three texts of each row must be equal: that of pgic, that of PostgreSQL under the settings that
/// a trigger pins, and that of the payload.
#[tokio::test(flavor = "multi_thread")]
async fn copy_and_payload_give_the_same_cell() {
    let database = all_types().await;
    let mut listening = database.listen().await;
    let writer = writer(&database).await;
    let mut id = 0;
    for (n, (ty, values)) in values().iter().enumerate() {
        for value in *values {
            id += 1;
            let sql = format!("INSERT INTO all_types (id, c{n}) VALUES ({id}, $1::text::{ty})");
            writer
                .execute(&sql, &[value])
                .await
                .unwrap_or_else(|error| panic!("{ty} {value}: {error:?}"));
        }
    }
    // The text of pgic, from COPY.
    let shown = database.pgic_ok(&["query", "all_types", "-o", "json"]);
    // The text of PostgreSQL, under the settings that a trigger pins.
    let reader = database.client().await;
    let pinned =
        "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET \
        bytea_output = 'hex';
        SET extra_float_digits = 1; SET lc_monetary = 'C'; SET search_path = pg_catalog, pg_temp";
    reader.batch_execute(pinned).await.unwrap();
    // Types that are not built in are sent by their output functions, since a cast to JSON would
    // run a function of the type's owner. So these count as text.
    let columns = values()
        .into_iter()
        .enumerate()
        .map(|(n, (ty, _))| match ty {
            "pair" | "wrapped" => format!("c{n}::text"),
            "wrapped[]" => format!("c{n}::text[]"),
            _ => format!("c{n}"),
        });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT row_to_json(t)::text FROM (SELECT id, {columns} FROM public.all_types ORDER BY id) \
        t"
    );
    let rows = reader.query(&sql, &[]).await.unwrap();
    let payloads = listening.payloads().await;
    assert_eq!(payloads.len(), rows.len());
    for ((line, row), payload) in shown.lines().zip(&rows).zip(&payloads) {
        let stored: String = row.get(0);
        let one_line = postgres_index_cache_core::tooling::one_line_json(&stored).into_owned();
        // White space around a json value is not part of the value.
        assert_eq!(
            line.replace(" [1, 2] ", "[1, 2]"),
            one_line.replace(" [1, 2] ", "[1, 2]")
        );
        assert!(
            payload.contains(&format!("\"data\":{stored}")),
            "{payload}\nis not\n{stored}"
        );
    }
}

/// The cells themselves are compared, not their texts: two cells may print alike and still differ,
/// and each notification would then look like a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_from_a_payload_equals_the_same_row_from_copy() {
    use postgres_index_cache_core::tooling::postgres::CopyDecoder;
    use postgres_index_cache_core::tooling::postgres::catalog::{Catalog, CatalogAccess, describe};
    use postgres_index_cache_core::tooling::{
        Column, JsonNulls, Payload, RowBuf, TableCache, TableShape, Upserted,
    };
    let database = all_types().await;
    let mut client = database.client().await;
    let catalog = Catalog::begin(&mut client, CatalogAccess::ReadOnly)
        .await
        .unwrap();
    let oid = catalog.find("all_types").await.unwrap().unwrap();
    let table = describe(&catalog, &[oid]).await.unwrap().remove(0);
    drop(catalog);
    let shape_columns = table.columns.iter().map(|column| Column {
        name: column.name.clone(),
        kind: column.kind,
        nullable: !column.not_null,
    });
    let shape =
        std::sync::Arc::new(TableShape::new(shape_columns.collect(), &["id".to_string()]).unwrap());
    let mut listening = database.listen().await;
    let writer = writer(&database).await;
    let longest = values()
        .iter()
        .map(|(_, values)| values.len())
        .max()
        .unwrap();
    // A row has the first value of each type, the next row the second, and so on, then NULL.
    for id in 0..longest {
        let values = values()
            .into_iter()
            .map(|(ty, values)| match values.get(id) {
                Some(value) => format!("'{}'::{ty}", value.replace('\'', "''")),
                None => "NULL".to_string(),
            });
        let sql = format!(
            "INSERT INTO all_types VALUES ({id}, {})",
            values.collect::<Vec<_>>().join(", ")
        );
        writer.batch_execute(&sql).await.unwrap();
    }
    // COPY runs under the settings that the driver uses for its reads.
    for (name, value) in postgres_index_cache_core::tooling::postgres::triggers::PINNED {
        client
            .batch_execute(&format!("SET {name} = '{value}'"))
            .await
            .unwrap();
    }
    let selected: Vec<String> = table
        .columns
        .iter()
        .map(|column| {
            column
                .kind
                .select_expression(&format!("\"{}\"", column.name))
        })
        .collect();
    let copy = format!(
        "COPY (SELECT {} FROM public.all_types) TO STDOUT (FORMAT binary)",
        selected.join(", ")
    );
    let stream = client.copy_out(&copy).await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let mut cache = TableCache::new(shape.clone(), 0);
    let mut decoder = CopyDecoder::default();
    let mut row = RowBuf::default();
    while let Some(piece) = futures_util::StreamExt::next(&mut stream).await {
        decoder
            .push::<anyhow::Error>(&piece.unwrap(), |tuple| {
                row.read_copy_tuple(&shape, tuple)?;
                Ok(cache.insert_unique(&row)?)
            })
            .unwrap();
    }
    // Each payload must find its row in the cache, and change nothing.
    assert_eq!(cache.len(), longest);
    for text in listening.payloads().await {
        let payload = Payload::parse(&text).unwrap();
        row.read_json(
            &shape,
            payload.data.unwrap(),
            JsonNulls::Listed(&payload.nulls),
        )
        .unwrap();
        assert_eq!(
            cache.upsert(&row).unwrap(),
            Upserted::Unchanged,
            "{text}\n{:?}",
            cache.rows().collect::<Vec<_>>()
        );
    }
}

/// An INSERT of a row with one value.
struct Insert {
    sql: String,
    value: &'static str,
}

async fn insert(writer: &Client, inserts: impl Iterator<Item = &Insert>) {
    for Insert { sql, value } in inserts {
        writer
            .execute(sql, &[value])
            .await
            .unwrap_or_else(|error| panic!("{sql} with {value}: {error:?}"));
    }
}

/// A false alarm makes an operator distrust every later finding.
#[tokio::test(flavor = "multi_thread")]
async fn no_odd_value_is_a_false_alarm_of_verify() {
    use postgres_index_cache_core::tooling::postgres::{Driver, Verification};
    use postgres_index_cache_core::tooling::sync::TableId;
    let database = all_types().await;
    let writer = writer(&database).await;
    let mut rows = Vec::new();
    for (n, (ty, values)) in values().iter().enumerate() {
        for value in *values {
            let id = rows.len();
            let sql = format!("INSERT INTO all_types (id, c{n}) VALUES ({id}, $1::text::{ty})");
            rows.push(Insert { sql, value });
        }
    }
    // Half of the rows are in the snapshot, and half come by notification.
    insert(&writer, rows.iter().step_by(2)).await;
    let (server, follow, options) = crate::verify::follow(&database, "all_types").await;
    let mut driver = Driver::open(server, vec![follow], options).await.unwrap();
    driver.until_live(|_| {}).await.unwrap();
    insert(&writer, rows.iter().skip(1).step_by(2)).await;
    // Then a third of all rows gets new keys.
    for sql in [
        "SELECT 1",
        "UPDATE all_types SET id = id + 1000 WHERE id % 3 = 0",
    ] {
        writer.batch_execute(sql).await.unwrap();
        let verified = driver.verify(TableId(0)).await.unwrap();
        let Verification::Compared(comparison) = verified else {
            panic!("{verified:?}")
        };
        assert_eq!(
            (comparison.rows, comparison.findings),
            (rows.len(), Vec::new()),
            "after {sql}"
        );
    }
}

/// Two things that used to be wrong of arrays:
///
/// - With `array_nulls` off, PostgreSQL reads an unquoted NULL in an array's text as a string. The
///   trigger's function reads the texts of arrays whose type is not built in.
/// - The row of a payload that is too long is looked up by its key's JSON, which has no array
///   bounds. An array made of that JSON has the usual bounds, and a key with others was not found.
#[tokio::test(flavor = "multi_thread")]
async fn arrays_are_the_same_whatever_a_writer_has_set_and_whatever_their_bounds() {
    let sql = "CREATE TYPE mood AS ENUM ('a', 'b', 'NULL'); CREATE TYPE pair AS (x int, y text);
        CREATE TABLE es (id int PRIMARY KEY, es mood[], ps pair[]); CREATE TABLE generic (id int \
        PRIMARY KEY, es mood[]);
        CREATE TABLE ints (id int[] PRIMARY KEY, v text); CREATE TABLE moods (id mood[] PRIMARY \
        KEY, v text);";
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "es", "ints", "moods"]);
    database.pgic_ok(&["install-triggers", "generic", "--generic"]);
    let mut shell =
        crate::shell::Shell::start(&database, &["-o", "json", "es", "generic", "ints", "moods"]);
    shell.ask("count es");
    let writer = writer(&database).await;
    writer
        .batch_execute(
            "SET array_nulls = off;
             INSERT INTO public.es VALUES (1, ARRAY['a'::public.mood, NULL], ARRAY[(1, \
             NULL)::public.pair, NULL]);
             INSERT INTO public.generic VALUES (1, ARRAY['a'::public.mood, NULL]);
             INSERT INTO public.ints VALUES ('[0:1]={1,2}', repeat('x', 9000)), ('{3}', \
             repeat('x', 9000));
             INSERT INTO public.moods VALUES ('[0:0]={a}', 'short'), ('{b}', 'x'); UPDATE \
             public.moods SET v = repeat('x', 9000)",
        )
        .await
        .unwrap();
    for (table, count) in [("es", 1), ("generic", 1), ("ints", 2), ("moods", 2)] {
        assert_eq!(shell.ask(&format!("count {table}"))[0]["count"], count);
        let verified = shell.ask(&format!(".verify {table}"));
        assert_eq!(verified[0]["verdict"], "equal", "{table}: {verified:?}");
        assert!(
            verified[0]["changes"].as_u64() > Some(0),
            "{table}: {verified:?}"
        );
    }
}

/// Two keys may differ in the bounds of an array alone, which JSON does not have. All kinds of
/// triggers send them, and a row that is refetched is found by them.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_differ_in_the_bounds_of_an_array_are_two() {
    let sql = "CREATE TYPE mood AS ENUM ('a', 'b');
        CREATE DOMAIN several AS interval[];
        CREATE TABLE ints (id int[] PRIMARY KEY, v text);
        CREATE TABLE moods (id mood[] PRIMARY KEY, v text);
        CREATE TABLE pairs (shop text, days date[], v text, PRIMARY KEY (days, shop));
        CREATE TABLE spans (id several PRIMARY KEY, v text);
        CREATE TABLE packed (id int[] PRIMARY KEY, v text);
        INSERT INTO ints VALUES ('[0:1]={1,2}', 'x'), ('{1,2}', 'y'), ('{}', 'z'),
            ('[2:2][3:4]={{1,NULL}}', 'w');
        INSERT INTO moods VALUES ('[0:0]={a}', 'x'), ('{a}', 'y');
        INSERT INTO pairs VALUES ('s', '[0:0]={2024-01-02}', 'x'), ('s', '{2024-01-02}', 'y');
        INSERT INTO spans VALUES ('[0:0]={1 mon}', 'x'), ('{1 mon}', 'y');
        INSERT INTO packed SELECT id, v FROM ints;";
    let tables = ["ints", "moods", "pairs", "spans", "packed"];
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "ints", "moods", "pairs", "spans"]);
    database.pgic_ok(&["install-triggers", "packed", "--bulk"]);
    let counted: [u64; 5] = [4, 2, 2, 2, 4];
    let mut arguments = vec!["-o", "json"];
    arguments.extend(tables);
    let mut shell = crate::shell::Shell::start(&database, &arguments);
    let writer = writer(&database).await;
    for (table, count) in std::iter::zip(tables, counted) {
        assert_eq!(shell.ask(&format!("count {table}"))[0]["count"], count);
    }
    for change in [
        // Short, then too long for a payload: the row is refetched by its key.
        "UPDATE public.{} SET v = v || '1'",
        "UPDATE public.{} SET v = repeat('x', 9000) WHERE v = 'x1'",
        "DELETE FROM public.{} WHERE v = 'y1'",
    ] {
        for table in tables {
            writer
                .batch_execute(&change.replace("{}", table))
                .await
                .unwrap();
            let verified = shell.ask(&format!(".verify {table}"));
            assert_eq!(
                verified[0]["verdict"], "equal",
                "{change} of {table}: {verified:?}"
            );
        }
    }
    // The key is found as it is written, and no other.
    writer
        .batch_execute("INSERT INTO public.ints VALUES ('{1,2}', 'back')")
        .await
        .unwrap();
    let found = shell.ask("ints id={1,2}");
    assert_eq!(found[0], json!({"id": "{1,2}", "v": "back"}));
    assert_eq!(found.len(), 2, "the row and the end: {found:?}");
    let found = shell.ask("ints id=[0:1]={1,2}");
    assert_eq!(
        found[0]["v"].as_str().map(str::len),
        Some(9000),
        "{found:?}"
    );
}

/// Functions of an earlier version sent such keys as arrays of texts.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_sends_the_key_as_an_array_is_not_followed() {
    let sql = "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE moods (id mood[] PRIMARY KEY)";
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "moods"]);
    let client = database.client().await;
    client
        .batch_execute(
            "DO $do$ BEGIN EXECUTE replace(pg_get_functiondef('notify_cache_change_moods'::regproc),
                'concat(NEW.\"id\") END', 'concat(NEW.\"id\") END::pg_catalog.text[]'); END $do$",
        )
        .await
        .unwrap();
    let status = database.pgic(&["status", "moods"]);
    assert_eq!(status.code, 1, "{status:?}");
    let why = "without the bounds of its arrays";
    let text = status
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(text.contains(why), "{text}");
    database.pgic_ok(&["install-triggers", "moods"]);
    database.pgic_ok(&["status", "moods"]);
}

/// The literal of a key is read as an array, also where the elements are of a domain.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_an_array_of_a_domain_is_found_however_it_is_spelled() {
    let sql = "CREATE DOMAIN small AS int CHECK (VALUE < 10);
        CREATE TABLE ds (id small[] PRIMARY KEY, v int);
        INSERT INTO ds VALUES ('{1,2}', 1), ('[0:1]={1,2}', 2)";
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "ds"]);
    for (condition, v) in [
        ("id='{1, 2}'", 1),
        ("id='[1:2]={1,2}'", 1),
        ("id='[0:1]={ 1,2}'", 2),
    ] {
        let found = database
            .pgic(&["query", "ds", condition, "-o", "json"])
            .json();
        assert_eq!(found.len(), 1, "{condition}: {found:?}");
        assert_eq!(found[0]["v"], v, "{condition}");
    }
}

/// The generic function sends arrays as JSON, without their bounds.
#[tokio::test(flavor = "multi_thread")]
async fn the_generic_function_announces_no_key_with_an_array() {
    let sql = "CREATE TABLE ints (id int[] PRIMARY KEY, v text)";
    let database = Database::with(sql).await;
    let refused = database.pgic(&["install-triggers", "ints", "--generic"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.stderr.contains("called id that is no array"),
        "{refused:?}"
    );
    // Somebody's own function may do the same, and is not followed.
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE FUNCTION notify_cache_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_notify('cache_invalidation', json_build_object('table', 'ints',
                    'action', lower(TG_OP), 'id', NEW.id, 'data', row_to_json(NEW))::text);
                RETURN NULL; END $$;
             CREATE TRIGGER n AFTER INSERT OR UPDATE OR DELETE ON ints FOR EACH ROW
                EXECUTE FUNCTION notify_cache_change()",
        )
        .await
        .unwrap();
    let refused = database.pgic(&["query", "ints", "id={1}"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(
        refused.stderr.contains("without the bounds of its arrays"),
        "{refused:?}"
    );
    database.pgic_ok(&["install-triggers", "ints"]);
    database.pgic_ok(&["verify", "ints"]);
}
