//! Keys of every type, and names of every form, all the way through trigger, engine and cache.
//!
//! A key takes two ways into a cache: as binary COPY when the table is loaded, and as JSON in a
//! payload. If the two do not give the same cell, a change creates a second row, or deletes none.

use crate::support::{Database, ended, lines_of, quoted};
use serde_json::Value;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::Receiver;

/// A table's name, the types of its key's columns, and four keys as literals of SQL: two that stay,
/// one to change, and the key that it becomes.
type Keyed = (&'static str, &'static [&'static str], [&'static str; 4]);

const KEYS: &[Keyed] = &[
    ("small", &["int2"], ["-32768", "0", "1", "32767"]),
    ("int", &["int4"], ["-1", "0", "1", "2147483647"]),
    // 2^53 + 1 and 2^53 are one number for a parser that goes through a double.
    (
        "big",
        &["int8"],
        [
            "-9223372036854775808",
            "9007199254740993",
            "9007199254740992",
            "9223372036854775807",
        ],
    ),
    (
        "uuid",
        &["uuid"],
        [
            "'00000000-0000-0000-0000-000000000000'",
            "'550e8400-e29b-41d4-a716-446655440000'",
            "'550e8400-e29b-41d4-a716-446655440001'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
        ],
    ),
    (
        "words",
        &["text"],
        ["''", "'a'", "'it''s \"q\" \\ é 😀'", "'null'"],
    ),
    // A trailing space counts in varchar and not in char.
    ("varchar", &["varchar(9)"], ["'x'", "'y'", "'z '", "'z'"]),
    ("char", &["char(5)"], ["'x'", "'y'", "'z'", "'zz'"]),
    // To PostgreSQL the changed key equals the old one: `carl` is `CARL`, and 2.0 is 2.00.
    (
        "caseless",
        &["citext"],
        ["'Anna'", "'b'", "'carl'", "'CARL'"],
    ),
    ("numbers", &["numeric"], ["1.5", "-7", "2.0", "2.00"]),
    (
        "days",
        &["date"],
        [
            "'0044-03-15 BC'",
            "'infinity'",
            "'2024-02-29'",
            "'10000-01-01'",
        ],
    ),
    // COPY sends microseconds of UTC, a payload the text of the writer's time zone.
    (
        "moment",
        &["timestamptz"],
        [
            "'-infinity'",
            "'1900-01-01 00:00:00+00:19:32'",
            "'2024-02-29 12:34:56.789+05:45'",
            "'2024-02-29 12:34:56.79+05:45'",
        ],
    ),
    (
        "feelings",
        &["mood"],
        ["'sad'", "'it''s ok'", "'glad'", "'so so'"],
    ),
    ("evens", &["even"], ["2", "4", "6", "8"]),
    (
        "array",
        &["int4[]"],
        ["'{}'", "'{1,NULL}'", "'{1,2}'", "'{{1,2},{3,4}}'"],
    ),
    (
        "texts",
        &["text[]"],
        ["'{}'", "'{\"a,b\"}'", "'{\"\\\"\"}'", "'{null,\"null\"}'"],
    ),
    // The third key has a text that looks like the JSON array of a composite key.
    (
        "composite",
        &["text", "int8", "date"],
        [
            "'a', 1, '2024-01-01'",
            "'a', 2, '2024-01-01'",
            "'[\"a\",1]', 1, '2024-01-01'",
            "'a', 1, '2024-01-02'",
        ],
    ),
    (
        "arrays",
        &["int4[]", "int4"],
        ["'{1}', 1", "'{}', 1", "'{1,2}', 3", "'{1}', 2"],
    ),
];

/// Returns a type's name with its schema, as `COLUMN:=SQL` needs it: names there are looked up in
/// pg_catalog alone.
fn with_schema(ty: &str) -> String {
    if matches!(ty, "citext" | "mood" | "even") {
        format!("public.{ty}")
    } else {
        ty.to_string()
    }
}

/// Creates a table for each of [`KEYS`].
async fn keyed() -> Database {
    let mut sql =
        "CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'glad', 'so so');
        CREATE DOMAIN even AS int8 CHECK (VALUE % 2 = 0);"
            .to_string();
    for (name, types, _) in KEYS {
        let columns: Vec<String> = types
            .iter()
            .enumerate()
            .map(|(n, ty)| format!("k{n} {ty}"))
            .collect();
        let key: Vec<String> = (0..types.len()).map(|n| format!("k{n}")).collect();
        let name = quoted(name);
        sql.push_str(&format!(
            "CREATE TABLE {name} ({}, v int, PRIMARY KEY ({}));",
            columns.join(", "),
            key.join(", ")
        ));
    }
    Database::with(&sql).await
}

/// A `pgic shell -o json` whose answers the test reads.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn start(database: &Database, tables: &[&str]) -> Self {
        let mut child = database
            .command(&[&["shell", "-o", "json"], tables].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        crate::support::skip_connected(&lines);
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// Gives the shell a line, and returns the rows or other values of its answer.
    fn ask(&mut self, line: &str) -> Vec<Value> {
        writeln!(self.stdin, "{line}").unwrap();
        let mut values = Vec::new();
        for text in &self.lines {
            let value = crate::support::schema::event(&text);
            if value["event"] == "end" {
                assert_eq!(value.get("error"), None, "{line}: {value}");
                break;
            }
            let is_row = value["event"] == "row";
            values.push(if is_row { value["row"].clone() } else { value });
        }
        values
    }

    /// Returns the cells `v` of the rows that a question finds.
    fn ask_v(&mut self, line: &str) -> Vec<Option<i64>> {
        let rows = self.ask(line);
        rows.iter().map(|row| row["v"].as_i64()).collect()
    }
}

/// Returns conditions that find the row with the key `key`, one for each column of the key.
fn conditions(key: &str, types: &[&str]) -> Vec<String> {
    // A key of one column may have a comma in it.
    if let [ty] = types {
        return vec![format!("k0:={key}::{}", with_schema(ty))];
    }
    key.split(", ")
        .zip(types)
        .enumerate()
        .map(|(n, (value, ty))| format!("k{n}:={value}::{}", with_schema(ty)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_type_are_followed() {
    let database = keyed().await;
    let names: Vec<String> = KEYS
        .iter()
        .map(|(name, _, _)| format!("public.{}", quoted(name)))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    database.pgic_ok(&[&["install-triggers"], &names[..]].concat());
    let client = database.client().await;
    for (name, _, keys) in KEYS {
        let table = quoted(name);
        client
            .batch_execute(&format!(
                "INSERT INTO {table} VALUES ({}, 1), ({}, 2)",
                keys[0], keys[2]
            ))
            .await
            .unwrap();
    }
    // The first answer comes when all tables are loaded, so the writes below arrive as payloads.
    let mut shell = Shell::start(&database, &names);
    shell.ask("count small");
    for (name, types, keys) in KEYS {
        let table = quoted(name);
        let columns: Vec<String> = (0..types.len()).map(|n| format!("k{n}")).collect();
        let columns = columns.join(", ");
        // The writer's settings change how its session writes times. Payloads must not follow them.
        let write = format!(
            "SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY';
             INSERT INTO {table} VALUES ({}, 3); UPDATE {table} SET ({columns}) = ROW ({}), v = 4 \
             WHERE v = 2;
             UPDATE {table} SET v = 5 WHERE v = 3",
            keys[1], keys[3]
        );
        client
            .batch_execute(&write)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        client
            .batch_execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'")
            .await
            .unwrap();
        // An array in a key is kept as text, with its bounds.
        let kept = types.iter().enumerate().map(|(n, ty)| {
            if ty.ends_with("[]") {
                format!("k{n}::text AS k{n}")
            } else {
                format!("k{n}")
            }
        });
        let kept: Vec<String> = kept.collect();
        let kept = format!("SELECT {}, v FROM {table}", kept.join(", "));
        let stored = client
            .query(&format!("SELECT row_to_json(t)::text FROM ({kept}) t"), &[])
            .await
            .unwrap();
        let mut stored: Vec<Value> = stored
            .iter()
            .map(|row| serde_json::from_str(row.get(0)).unwrap())
            .collect();
        let mut cached = shell.ask(&table);
        stored.sort_by_key(|row| row["v"].as_i64());
        cached.sort_by_key(|row| row["v"].as_i64());
        assert_eq!(cached, stored, "{name}");
        assert_eq!(cached.len(), 3, "{name}");
        // The row is found by its new key, and gone when it is deleted by that key.
        let wanted = conditions(keys[3], types);
        let found = shell.ask_v(&format!("{table} {}", wanted.join(" ")));
        assert_eq!(found, [Some(4)], "{name}: {wanted:?}");
        client
            .batch_execute(&format!("DELETE FROM {table} WHERE v IN (4, 1)"))
            .await
            .unwrap();
        assert_eq!(shell.ask_v(&table), [Some(5)], "{name}");
    }
    // A reload would have put right whatever a payload did wrong.
    let stats = shell.ask(".stats");
    assert_eq!(
        stats[0]["reloads"], 0,
        "every change was applied as it came: {stats:?}"
    );
    let Shell { child, stdin, .. } = shell;
    drop(stdin);
    assert_eq!(ended(child).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_of_63_bytes_reserved_words_and_signs_are_followed() {
    // Each name is a table and a column at once, and goes through SQL, PL/pgSQL, format strings,
    // JSON, the command line and a terminal. PostgreSQL allows 63 bytes, which are fewer letters
    // than that.
    let names = [
        "x".repeat(63),
        format!("{}é", "x".repeat(61)),
        "😀".repeat(15) + "abc",
        "select".to_string(),
        "a.b".to_string(),
        "UPPER Case".to_string(),
        "quote\"d".to_string(),
        "it's".to_string(),
        "user".to_string(),
        "%s %I $1 {{x}}".to_string(),
        "\u{202e}bidi".to_string(),
    ];
    let create: Vec<String> = names
        .iter()
        .map(|name| {
            let name = quoted(name);
            format!("CREATE TABLE {name} ({name} int PRIMARY KEY, \"table\" text);")
        })
        .collect();
    // Names of functions and triggers are longer than the table's, and are shortened. These two
    // differ only in the part that shortening cuts off.
    let twins = [
        format!("{}1", "y".repeat(62)),
        format!("{}2", "y".repeat(62)),
    ];
    let more: String = twins
        .iter()
        .map(|name| format!("CREATE TABLE {name} (id int PRIMARY KEY);"))
        .collect();
    let database = Database::with(&(create.join("") + &more)).await;
    let given: Vec<String> = names
        .iter()
        .chain(&twins)
        .map(|name| quoted(name))
        .collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let made = database.pgic_ok(&[&["install-triggers"], &given[..]].concat());
    assert_eq!(made.matches("created").count(), given.len(), "{made}");
    // The sign that turns the direction of writing must not reach a terminal.
    assert!(!made.contains('\u{202e}'));
    let again = database.pgic_ok(&[&["install-triggers"], &given[..]].concat());
    assert_eq!(again.matches("unchanged").count(), given.len(), "{again}");
    // An insert, and a changed key, which is announced as two changes.
    let client = database.client().await;
    let mut listening = database.listen().await;
    for (number, name) in (1_i32..).zip(&names) {
        let name = quoted(name);
        client
            .batch_execute(&format!(
                "INSERT INTO {name} VALUES ({number}, 't'); UPDATE {name} SET {name} = -{number}"
            ))
            .await
            .unwrap();
    }
    for name in &twins {
        client
            .batch_execute(&format!("INSERT INTO {name} VALUES (1)"))
            .await
            .unwrap();
    }
    let changes = listening.changes().await;
    assert_eq!(changes.len(), 3 * names.len() + 2);
    for (name, of_table) in names.iter().zip(changes.chunks(3)) {
        for change in of_table {
            assert_eq!(change["table"], *name);
        }
        assert_eq!(of_table[0]["data"]["table"], "t");
        assert!(of_table[0]["data"].get(name).is_some(), "{name}");
    }
    for (number, name) in (1..).zip(&names) {
        let row = database.pgic_ok(&[
            "query",
            &quoted(name),
            &format!("{}=-{number}", quoted(name)),
            "-o",
            "json",
        ]);
        assert_eq!(
            serde_json::from_str::<Value>(&row).unwrap()["table"],
            "t",
            "{name}"
        );
    }
    assert_eq!(database.pgic(&[&["status"], &given[..]].concat()).code, 0);
    database.pgic_ok(&[&["remove-triggers"], &given[..]].concat());
}
