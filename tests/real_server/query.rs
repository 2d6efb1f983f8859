//! `query`: a cache as an application has one, loaded and asked once, or watched.

use crate::support::{
    DEADLINE, Database, SPECIFICATION, SPECIFICATION_TRIGGER, USERS, ended, lines_of,
};
use crate::terminal::Terminal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

const PEOPLE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, name varchar(5), hash bigint, tag char(3), price \
    numeric, doc json, \"Odd Name\" text);
    INSERT INTO people VALUES
        (1, 'ann', 123, 'x', 1.10, '{\"a\":1}', 'p'),
        (2, 'bob', 123, 'y', 2, 'null', ''),
        (3, 'abcde', NULL, NULL, NULL, NULL, NULL);";

/// Creates [`PEOPLE`] with triggers.
async fn people() -> Database {
    let database = Database::with(PEOPLE).await;
    database.pgic_ok(&["install-triggers", "people"]);
    database
}

/// A condition is compared as PostgreSQL's `=` compares: by value and type, not by text. Each case
/// here is one where comparing texts gives another answer, or where the name is written in an
/// unusual way.
#[tokio::test(flavor = "multi_thread")]
async fn conditions_find_their_rows() {
    let database = people().await;
    let cases: [(&[&str], &[i64]); 34] = [
        (&[], &[1, 2, 3]),
        (&["id=2"], &[2]),
        (&["hash=123"], &[1, 2]),
        (&["hash=123", "name=bob"], &[2]),
        (&["hash=null"], &[3]),
        (&["hash!=null"], &[1, 2]),
        (&["hash:=100+23", "id=1"], &[1]),
        // char(3) is padded with blanks, numeric keeps its digits: neither counts for `=`.
        (&["tag=x"], &[1]),
        (&["price=1.1"], &[1]),
        (&["price=2.00"], &[2]),
        // The empty text is not NULL.
        (&["Odd Name="], &[2]),
        (&["\"Odd Name\"=p"], &[1]),
        (&["NAME=ann"], &[1]),
        // A cast to varchar(5) would cut this off, and find row 3.
        (&["name=abcdefgh"], &[]),
        // A JSON null is not SQL NULL.
        (&["doc=null"], &[3]),
        (&["doc!=null"], &[1, 2]),
        // NULL in any case, as answers print it; the text stands in quotes.
        (&["name=NULL"], &[]),
        (&["tag=NULL"], &[3]),
        (&["name!='null'"], &[1, 2, 3]),
        (&["\"Odd Name\"=''"], &[2]),
        // A bare value is the key.
        (&["2"], &[2]),
        (&["2", "name=bob"], &[2]),
        (&["'2'"], &[2]),
        (&["4"], &[]),
        // Order, by the type's own rule: as texts, 1.10 would be above 2 in some of these.
        (&["id>1"], &[2, 3]),
        (&["id>=2", "id<3"], &[2]),
        (&["price<2"], &[1]),
        (&["price<=2.0"], &[1, 2]),
        (&["price>1.1"], &[2]),
        (&["hash<>1"], &[1, 2]),
        // As in SQL, NULL is neither equal nor different.
        (&["price!=1.1"], &[2]),
        (&["tag!=x"], &[2]),
        (&["name~^a"], &[1, 3]),
        (&["name~(?i)^B.b$"], &[2]),
    ];
    for (conditions, expected) in cases {
        let ran = database.pgic(&[&["query", "people", "-o", "json"], conditions].concat());
        let ids: Vec<i64> = ran
            .json()
            .iter()
            .map(|row| row["id"].as_i64().unwrap())
            .collect();
        assert_eq!(ids, expected, "{conditions:?}: {ran:?}");
        assert_eq!(ran.code, i32::from(expected.is_empty()), "{conditions:?}");
    }
}

/// Scripts compare this JSON with that of an application or of `row_to_json`, so the two must be
/// equal byte by byte.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_a_table_or_json_as_postgresql_writes_it() {
    let database = people().await;
    let text = database.pgic_ok(&["query", "people", "id!=null"]);
    insta::assert_snapshot!(text, @r#"
    id  name   hash  tag   price  doc      Odd Name
     1  ann     123  x      1.10  {"a":1}  p
     2  bob     123  y         2  null
     3  abcde  NULL  NULL   NULL  NULL     NULL
    "#);
    let json = database.pgic_ok(&["query", "people", "hash=123", "-o", "json"]);
    let client = database.client().await;
    let rows = client
        .query(
            "SELECT row_to_json(p)::text FROM people p WHERE hash = 123 ORDER BY id",
            &[],
        )
        .await
        .unwrap();
    let expected: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(json.lines().collect::<Vec<_>>(), expected);
    let chosen = database.pgic_ok(&[
        "query",
        "people",
        "--columns",
        "price,id",
        "-o",
        "json",
        "--limit",
        "1",
    ]);
    assert_eq!(chosen, "{\"price\":1.10,\"id\":1}\n");
    assert_eq!(database.pgic_ok(&["query", "people", "--count"]), "3\n");
    let counted = database.pgic_ok(&["query", "people", "hash=123", "--count", "-o", "json"]);
    assert_eq!(crate::support::schema::event(&counted)["count"], 2);
    let none = database.pgic(&["query", "people", "id=9", "--count"]);
    assert_eq!((none.code, none.stdout.as_str()), (1, "0\n"));
}

/// Expressions behind `:=` are evaluated by the server: none of them may write, or end the
/// statement that they stand in. Everything else must fail before a large table is loaded.
#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_an_error_before_anything_is_loaded() {
    let sql = "CREATE VIEW v AS SELECT * FROM people; CREATE TABLE nokey (n int);
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);
        CREATE TYPE state AS ENUM ('open', 'paid'); ALTER TABLE people ADD state state;";
    let database = people().await;
    database.client().await.batch_execute(sql).await.unwrap();
    let cases: [(&[&str], &str); 19] = [
        (&["missing"], "the table missing does not exist"),
        (&["v"], "is a view"),
        (&["nokey"], "neither a primary key"),
        (&["part"], "is a partition"),
        (
            &["people", "nope=1"],
            "hint: its columns are id, name, hash",
        ),
        (&["people", "--columns", "nope"], "has no column nope"),
        (
            &["people", "hash=many"],
            "take hash=many for the column hash of type bigint: invalid input syntax",
        ),
        (&["people", "hash=99999999999999999999"], "out of range"),
        (&["people", "hash"], "hash is a column: write hash=VALUE"),
        (&["people", "1", "hash"], "is not a condition"),
        (&["people", "hash<null"], "nothing is < null"),
        (
            &["people", "name<b"],
            "the order of type character varying is not known here",
        ),
        (&["people", "name~("], "is no regular expression"),
        (
            &["people", "nam=x"],
            "hint: name may be meant; its columns are",
        ),
        (
            &["people", "state=PAID"],
            "state is of the enum public.state, which has no label PAID",
        ),
        (
            &["people", "state=PAID"],
            "hint: paid may be meant; its labels are open, paid",
        ),
        (
            &["people", "hash:=NULL"],
            "is null, which is equal to nothing",
        ),
        (
            &["people", "hash:=1); DROP TABLE people; SELECT (1"],
            "hash",
        ),
        (
            &[
                "people",
                "hash:=(WITH x AS (DELETE FROM people RETURNING id) SELECT 1)",
            ],
            "hash",
        ),
    ];
    for (arguments, because) in cases {
        let ran = database.pgic(&[&["query"], arguments].concat());
        assert!(
            ran.code == 2 && ran.stderr.contains(because) && ran.stdout.is_empty(),
            "{arguments:?}: {ran:?}"
        );
    }
    assert_eq!(database.pgic_ok(&["query", "people", "--count"]), "3\n");
    let too_big = database.pgic(&["query", "people", "--max-memory", "10"]);
    assert!(
        too_big.code == 2 && too_big.stderr.contains("hint: raise --max-memory"),
        "{too_big:?}"
    );
}

/// An answer is in the order of the key, and a label of an enum is one text.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_in_the_order_of_the_key_and_enums_are_compared_exactly() {
    let database = Database::with(
        "CREATE TYPE state AS ENUM ('open', 'paid');
         CREATE TABLE items (a numeric, b text, state state, PRIMARY KEY (a, b));
         INSERT INTO items VALUES (10, 'x', 'paid'), (9.5, 'y', 'open'), (9.50, 'x,1', 'paid');",
    )
    .await;
    database.pgic_ok(&["install-triggers", "items"]);
    let ran = database.pgic(&["query", "items", "--columns", "a,b"]);
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("   a  b\n9.50  x,1\n 9.5  y\n  10  x\n", "")
    );
    let too_few = database.pgic(&["query", "items", "9.5"]);
    assert!(
        too_few
            .stderr
            .contains("the key (a,b) has 2 columns, and 9.5 has 1"),
        "{too_few:?}"
    );
    for (words, expected) in [
        (&["state=paid", "--count"][..], "2\n"),
        (&["state!=paid", "--count"], "1\n"),
        (&["9.5,y", "--count"], "1\n"),
        (&["9.5,'x,1'", "--count"], "1\n"),
        (&["[9.50,\"x,1\"]", "--count"], "1\n"),
    ] {
        let ran = database.pgic(&[&["query", "items"], words].concat());
        assert_eq!(
            (ran.stdout.as_str(), ran.stderr.as_str()),
            (expected, ""),
            "{words:?}"
        );
    }
}

/// Columns of types whose values have several texts, each with some values: a pair of them is equal,
/// and others look alike and differ.
const SEVERAL_TEXTS: [(&str, &[&str]); 22] = [
    (
        "interval",
        &[
            "1 mon",
            "30 days",
            "720:00:00",
            "31 days",
            "-1 mons +59 days 24:00:00",
            "0",
        ],
    ),
    (
        "interval[]",
        &["{1 mon,NULL}", "{30 days,NULL}", "{31 days,NULL}", "{}"],
    ),
    (
        "numrange",
        &["[1,2)", "[1.0,2.00)", "(1,2)", "[1,)", "empty", "(3,3)"],
    ),
    ("int4range", &["[1,2]", "[1,3)", "[1,2)"]),
    (
        "tstzrange",
        &[
            "[2024-01-01 00:00+00,)",
            "[2024-01-01 02:00+02,)",
            "(2024-01-01 00:00+00,)",
        ],
    ),
    (
        "nummultirange",
        &["{[1,2),[3,4)}", "{[3,4.0),[1.0,2)}", "{}", "{[1,2)}"],
    ),
    (
        "numeric[]",
        &[
            "{1,2}",
            "{1.0,2.00}",
            "{{1,2}}",
            "{1,NULL}",
            "{NULL,1}",
            "{\"NaN\"}",
        ],
    ),
    (
        "text[]",
        &["{a,b}", "{\"a,b\"}", "{NULL}", "{\"NULL\"}", "{\"a\\\"b\"}"],
    ),
    ("char(3)[]", &["{a}", "{\"a  \"}", "{ab}"]),
    ("float8[]", &["{0}", "{-0}", "{NaN}", "{1e20}"]),
    (
        "jsonb",
        &[
            "{\"a\": 1.0}",
            "{\"a\":1}",
            "{\"a\":10}",
            "\"1.0\"",
            "1.00",
            "1",
            "null",
        ],
    ),
    ("inet", &["10.0.0.1", "10.0.0.1/32", "10.0.0.1/24"]),
    ("bit(4)", &["1010", "0010"]),
    (
        "pair",
        &["(1,\"30 days\")", "(1.0,\"1 mon\")", "(,\"1 mon\")", "(2,)"],
    ),
    (
        "pair[]",
        &[
            "{\"(1,\\\"30 days\\\")\"}",
            "{\"(1.0,\\\"1 mon\\\")\"}",
            "{NULL}",
        ],
    ),
    (
        "pairs",
        &[
            "[\"(1,1)\",\"(2,2)\")",
            "[\"(1.0,1)\",\"(2,2)\")",
            "[\"(1,1)\",\"(2,2)\"]",
        ],
    ),
    ("outer_row", &["(\"()\",1.0)", "(\"()\",1)", "(\"(1)\",1)"]),
    (
        "vectors",
        &[
            "(\"1 2\",\"3\",1.0)",
            "(\"1 2\",\"3\",1)",
            "(\"1 2\",,1)",
            "(\"1 3\",\"3\",1)",
        ],
    ),
    ("oidvector", &["1 2", "1 3"]),
    (
        "hstore",
        &["a=>1,b=>2", "b=>2, a=>1", "a=>NULL", "a=>\"NULL\""],
    ),
    ("money", &["1.00", "1", "-1"]),
    ("span", &["1 mon", "30 days", "1 day"]),
];

/// An answer that lacks rows is none: for each value, the rows are those that SQL finds with `=`, and
/// with `<>`.
#[tokio::test(flavor = "multi_thread")]
async fn values_are_equal_as_in_sql_though_their_texts_differ() {
    let mut sql = "CREATE EXTENSION hstore;
        CREATE TYPE pair AS (n numeric, i interval);
        CREATE TYPE bounds AS (n numeric, m numeric);
        CREATE TYPE pairs AS RANGE (subtype = bounds);
        CREATE TYPE inner_row AS (a int);
        CREATE TYPE outer_row AS (i inner_row, n numeric);
        CREATE TYPE vectors AS (v oidvector, i int2vector, n numeric);
        CREATE DOMAIN span AS interval;"
        .to_string();
    let columns = SEVERAL_TEXTS.iter().enumerate();
    let defined: Vec<String> = columns.map(|(at, (ty, _))| format!("c{at} {ty}")).collect();
    sql += &format!(
        "CREATE TABLE values_of (id serial PRIMARY KEY, {});",
        defined.join(", ")
    );
    for (at, (_, values)) in SEVERAL_TEXTS.iter().enumerate() {
        for value in *values {
            let value = value.replace('\'', "''");
            sql += &format!("INSERT INTO values_of (c{at}) VALUES ('{value}');");
        }
    }
    let database = Database::with(&sql).await;
    database.pgic_ok(&["install-triggers", "values_of"]);
    let client = database.client().await;
    let mut pairs = 0;
    for (at, (ty, values)) in SEVERAL_TEXTS.iter().enumerate() {
        for value in *values {
            for operator in ["=", "!="] {
                let sql = format!(
                    "SELECT id FROM values_of WHERE c{at} {operator} '{value}'::{ty} ORDER BY id"
                );
                let rows = client.query(&sql, &[]).await.expect(&sql);
                let expected: Vec<i64> =
                    rows.iter().map(|row| row.get::<_, i32>(0).into()).collect();
                let condition = format!("c{at}{operator}'{value}'");
                let ran = database.pgic(&[
                    "query",
                    "values_of",
                    &condition,
                    "--columns",
                    "id",
                    "-o",
                    "json",
                ]);
                let found: Vec<i64> = ran
                    .json()
                    .iter()
                    .map(|row| row["id"].as_i64().unwrap())
                    .collect();
                assert_eq!(
                    (found, ran.stderr.as_str()),
                    (expected, ""),
                    "{ty}: {condition}"
                );
                pairs += usize::from(operator == "=" && rows.len() > 1);
            }
        }
    }
    assert!(pairs > 30, "{pairs} values are equal to another one");
}

/// A value is read under the settings of the session, as its writer means it, and compared in the form
/// that caches have: whatever that form is in the session.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_compared_alike_under_every_setting() {
    let database = Database::with(
        "CREATE TYPE reading AS (f float8, n numeric);
         CREATE TABLE kept (id int PRIMARY KEY, span interval, spans interval[], stay tstzrange,
            moments timestamptz[], days daterange, floats float8[], reading reading, raw bytea[],
            price money);
         INSERT INTO kept VALUES
            (1, '1 mon', '{1 mon}', '[2020-10-25 00:30+00,)', '{2020-10-25 00:30+00}',
                '[2020-02-01,2020-03-04)', '{0.1}', '(0.1,1)', '{\\\\x61}', '1.5'),
            (2, '2 mons', '{2 mons}', '[2020-10-25 01:30+00,)', '{2020-10-25 01:30+00}',
                '[2020-01-02,2020-03-04)', '{0.10000000000000003}', '(0.10000000000000003,1)',
                '{\\\\x62}', '2.5')",
    )
    .await;
    database.pgic_ok(&["install-triggers", "kept"]);
    for options in [
        "-c TimeZone=Europe/Berlin -c IntervalStyle=iso_8601",
        "-c DateStyle=SQL,DMY -c IntervalStyle=sql_standard",
        "-c extra_float_digits=0 -c bytea_output=escape",
        "-c extra_float_digits=-5",
    ] {
        for (condition, id) in [
            ("span=1 mon", 1),
            ("span:=interval '1 mon'", 1),
            ("spans={2 mons}", 2),
            ("stay=[2020-10-25 00:30+00,)", 1),
            ("moments={2020-10-25 01:30+00}", 2),
            ("days=[2020-02-01,2020-03-04)", 1),
            ("floats={0.10000000000000003}", 2),
            ("floats:=ARRAY[0.1::float8]", 1),
            ("reading=(0.10000000000000003,1)", 2),
            ("raw={\\\\x61}", 1),
            ("price=1.5", 1),
        ] {
            let mut command =
                database.command(&["query", "kept", condition, "--columns", "id", "-o", "json"]);
            command.env("PGOPTIONS", options);
            let ran = crate::support::run(command);
            assert_eq!(
                ran.stdout,
                format!("{{\"id\":{id}}}\n"),
                "{options} {condition}: {ran:?}"
            );
        }
    }
    // A date without an order of its own is read as the session says.
    let mut command =
        database.command(&["query", "kept", "days=[01/02/2020,04/03/2020)", "--count"]);
    command.env("PGOPTIONS", "-c DateStyle=SQL,DMY");
    assert_eq!(crate::support::run(command).stdout, "1\n");
}

/// What `=` means for a type of somebody else's, or under a collation of its own, is a function of
/// theirs. Such a condition is refused, except for a key, which is one row's.
#[tokio::test(flavor = "multi_thread")]
async fn what_equality_is_not_known_is_refused_and_never_guessed() {
    let database = Database::with(
        "CREATE EXTENSION citext;
         CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TYPE mood AS ENUM ('sad', 'Sad');
         CREATE FUNCTION alike(mood, mood) RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR = (LEFTARG = mood, RIGHTARG = mood, FUNCTION = alike);
         CREATE DOMAIN small AS int;
         CREATE FUNCTION alike(small, small) RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR = (LEFTARG = small, RIGHTARG = small, FUNCTION = alike);
         CREATE FUNCTION blindly(text, text) RETURNS int LANGUAGE sql IMMUTABLE
            AS 'SELECT bttextcmp(lower($1), lower($2))';
         CREATE OPERATOR CLASS blind_ops FOR TYPE text USING btree AS OPERATOR 1 <, OPERATOR 2 <=,
            OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 blindly(text, text);
         CREATE TYPE blind_range AS RANGE (subtype = text, subtype_opclass = blind_ops);
         CREATE TABLE odd (id citext PRIMARY KEY, name citext, folded text COLLATE blind, box box,
            tags citext[], doc json, spot point,
            docs jsonb[], query tsquery, function regproc, mood mood, blind_range blind_range,
            small small);
         INSERT INTO odd VALUES ('a', 'Ann', 'ann', '(1,1),(0,0)', '{x}', '{\"a\":1}', '(1,2)',
            '{NULL}', 'a:B', '1397', 'sad', '[a,b)', 1)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "odd"]);
    for (condition, why) in [
        (
            "name=ann",
            "name=ann: what = means for citext is a function of its own",
        ),
        (
            "name!=ann",
            "what = means for citext is a function of its own",
        ),
        (
            "tags={x}",
            "what = means for citext is a function of its own",
        ),
        (
            "folded=ann",
            "its collation calls different texts equal, which PostgreSQL alone knows",
        ),
        ("box=(1,1),(0,0)", "what = means for box is not known here"),
        ("query=a", "what = means for tsquery is not known here"),
        (
            "function=1397",
            "what = means for regproc is not known here",
        ),
        ("mood=sad", "what = means for mood is a function of its own"),
        ("small=1", "what = means for small is a function of its own"),
        (
            "blind_range=[a,b)",
            "what = means for blind_range is a function of its own",
        ),
        (
            "docs={NULL}",
            "an array of jsonb is kept as JSON, which does not tell its nulls apart",
        ),
    ] {
        let ran = database.pgic(&["query", "odd", condition]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains(why), "{ran:?}");
        assert!(
            ran.stderr.contains("rows are found by their text: "),
            "{ran:?}"
        );
        let column = condition.split(['=', '!']).next().unwrap();
        let tail = database.pgic(&["tail", "odd", "--where", condition]);
        assert!(tail.code == 2 && tail.stderr.contains(column), "{tail:?}");
    }
    // The way that the hint shows.
    let found = database.pgic_ok(&["query", "odd", "name~(?i)^ann$", "--count"]);
    assert_eq!(found, "1\n");
    for (condition, notice) in [
        (
            "doc={\"a\":1}",
            "doc: the type json has no = in SQL; it is compared as PostgreSQL writes it",
        ),
        (
            "spot=(1,2)",
            "spot: the type point has no = in SQL; it is compared as PostgreSQL writes it",
        ),
        (
            "a",
            "id: what = means for citext is a function of its own; it is compared as",
        ),
    ] {
        let ran = database.pgic(&["query", "odd", condition, "--count"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "1\n"), "{ran:?}");
        assert!(ran.stderr.contains(notice), "{ran:?}");
    }
}

/// A single answer needs no triggers: the snapshot has everything. But who asks wants to know that
/// an application's cache of this table would never change.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_triggers_is_answered_with_a_notice() {
    let database = Database::with(PEOPLE).await;
    let ran = database.pgic(&["query", "people", "id=1", "--columns", "name", "-o", "json"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "{\"name\":\"ann\"}\n"));
    assert!(
        ran.stderr
            .contains("no trigger announces changes of public.people"),
        "{ran:?}"
    );
    let quiet = database.pgic(&["-q", "query", "people", "id=1"]);
    assert_eq!(quiet.stderr, "");
    // A trigger that does not fire is no trigger, though the table has one.
    database.pgic_ok(&["install-triggers", "people"]);
    let announced = database.pgic(&["query", "people", "id=1"]);
    assert_eq!((announced.code, announced.stderr.as_str()), (0, ""));
    let client = database.client().await;
    let silenced = [
        (
            "ALTER TABLE people DISABLE TRIGGER people_cache_notify",
            "is disabled",
        ),
        ("DROP TRIGGER people_cache_notify ON people", "is missing"),
    ];
    for (sql, problem) in silenced {
        client.batch_execute(sql).await.unwrap();
        let ran = database.pgic(&["query", "people", "id=1", "--explain"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let notice = "the answer is the table as it was when it was read: ";
        assert!(
            ran.stderr.contains(notice) && ran.stderr.contains(problem),
            "{ran:?}"
        );
        assert!(
            ran.stderr.contains("pgic install-triggers public.people"),
            "{ran:?}"
        );
    }
}

/// Databases that already have the specification's triggers must not need ours.
#[tokio::test(flavor = "multi_thread")]
async fn the_specification_s_own_function_will_do() {
    let database = Database::with(&format!("{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}")).await;
    let id = "550e8400-e29b-41d4-a716-446655440000";
    database
        .client()
        .await
        .batch_execute(&format!("INSERT INTO users VALUES ('{id}', 123, 7)"))
        .await
        .unwrap();
    let ran = database.pgic(&["query", "users", "username_hash=123", "-o", "json"]);
    assert_eq!(
        ran.json(),
        [json!({"id": id, "username_hash": 123, "email_hash": 7})]
    );
    assert_eq!(ran.stderr, "");
    let computed = database.pgic(&[
        "query",
        "users",
        "username_hash:=hashtextextended('alice',0)",
    ]);
    assert_eq!((computed.code, computed.stdout.as_str()), (1, ""));
}

/// Whoever chooses an application's indexes looks at this output.
#[tokio::test(flavor = "multi_thread")]
async fn explain_says_how_the_answer_was_found() {
    let database = people().await;
    for (condition, found) in [
        ("id=1", "by the key, 1 row "),
        ("hash=123", "by the index on hash, 2 rows"),
        ("name=ann", "by looking at every row, 3 rows"),
    ] {
        let ran = database.pgic(&["query", "people", condition, "--explain"]);
        assert!(
            ran.stderr.contains(found) && ran.stderr.contains("snapshot: 3 rows of public.people"),
            "{ran:?}"
        );
    }
}

/// Anyone who can write a row chooses text that is shown in a terminal. In JSON the same text must
/// still be the same value.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_in_a_row_reaches_no_terminal() {
    let database =
        Database::with("CREATE TABLE t (id int PRIMARY KEY, \"c\u{1b}[31m\" text)").await;
    let client = database.client().await;
    client
        .execute(
            "INSERT INTO t VALUES (1, $1)",
            &[&"\u{1b}]0;x\u{7}\u{202e}\n"],
        )
        .await
        .unwrap();
    let text = database.pgic_ok(&["-q", "query", "t"]);
    assert!(
        text.contains("c\\u{1b}[31m") && text.contains("\\u{1b}]0;x\\u{7}\\u{202e}\\n"),
        "{text}"
    );
    let json = database.pgic_ok(&["-q", "query", "t", "-o", "json"]);
    assert!(
        json.lines().count() == 1 && !json.contains('\u{1b}') && !json.contains('\u{202e}'),
        "{json}"
    );
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["c\u{1b}[31m"], "\u{1b}]0;x\u{7}\u{202e}\n");
}

/// Under row-level security COPY silently returns fewer rows. A cache of those would pass for the
/// whole table.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_sees_a_part_of_the_table_is_told_so() {
    let database = people().await;
    let role = format!("reader_{}", database.name);
    let sql = format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON people TO {role};
         ALTER TABLE people ENABLE ROW LEVEL SECURITY; CREATE POLICY first_only ON people USING \
         (id = 1);"
    );
    database.client().await.batch_execute(&sql).await.unwrap();
    let url = database.url.replace("postgres@", &format!("{role}@"));
    let ran = database.pgic(&["query", "people", "-d", &url]);
    assert!(
        ran.code == 2
            && ran.stderr.contains("row-level security")
            && ran.stderr.contains("hint: reading takes SELECT"),
        "{ran:?}"
    );
}

/// No row is an answer with exit code 1, not an error. In a wide table the last column must be
/// found as well.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_and_a_wide_table_are_tables_too() {
    let columns: Vec<String> = (0..400).map(|n| format!("c{n} int")).collect();
    let sql = format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {}); CREATE TABLE empty (id int PRIMARY KEY)",
        columns.join(",")
    );
    let database = Database::with(&sql).await;
    database.pgic_ok(&["install-triggers", "wide", "empty"]);
    let empty = database.pgic(&["query", "empty"]);
    assert_eq!(
        (empty.code, empty.stdout.as_str(), empty.stderr.as_str()),
        (1, "", "notice: no row matches\n")
    );
    database
        .client()
        .await
        .batch_execute("INSERT INTO wide (id, c399) VALUES (1, 7)")
        .await
        .unwrap();
    assert_eq!(
        database.pgic_ok(&[
            "query",
            "wide",
            "c399=7",
            "--columns",
            "c398,c399",
            "-o",
            "json"
        ]),
        "{\"c398\":null,\"c399\":7}\n"
    );
}

/// A running `query people --watch`.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    /// Starts the command. With `-o json` among the arguments it prints an event a line.
    fn start(database: &Database, arguments: &[&str]) -> Self {
        let mut command = database.command(&[&["query", "people", "--watch"], arguments].concat());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start query --watch");
        let lines = lines_of(child.stdout.take().expect("piped"));
        if arguments.contains(&"json") {
            crate::support::skip_connected(&lines);
        }
        Self { child, lines }
    }

    fn next_line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("another line")
    }

    fn next_lines(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.next_line()).collect()
    }

    fn next(&self) -> Value {
        let line = self.next_line();
        crate::support::schema::event(&line)
    }

    /// Returns all events up to `last`, which is among them.
    fn until(&self, last: &Value) -> Vec<Value> {
        let mut seen = Vec::new();
        while seen.last() != Some(last) {
            seen.push(self.next());
        }
        seen
    }

    fn skip_until_live(&self) {
        while self.next()["event"] != "live" {}
    }

    fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn next_event(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Value {
    let line = lines.next().expect("another line").unwrap();
    crate::support::schema::event(&line)
}

/// Returns the event that says that the answer of `people` is live, with so many rows.
fn live(rows: usize) -> Value {
    json!({"event": "live", "schema": "public", "table": "people", "rows": rows})
}

/// Returns the event that says that `people` is told anew.
fn reloaded(why: &str) -> Value {
    json!({"event": "reloaded", "schema": "public", "table": "people", "why": why})
}

/// Returns an event that says that a row of `people` is in the answer from now on.
fn added(row: &Value) -> Value {
    let key = &row["id"];
    json!({"event": "added", "schema": "public", "table": "people", "key": key, "row": row})
}

/// Changes that were made while the connection was lost are never announced. They are found by
/// comparing the rows of the next read with those that were shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_watched_answer_says_what_was_added_changed_and_removed_gaps_included() {
    let database = people().await;
    let client = database.client().await;
    let arguments = ["hash=123", "--columns", "id,name", "-o", "json"];
    let watch = Watch::start(&database, &arguments);
    let mut first = [watch.next(), watch.next()];
    first.sort_by_key(|line| line["row"]["id"].as_i64());
    assert_eq!(first[0], added(&json!({"id": 1, "name": "ann"})));
    assert_eq!(watch.next(), live(2));
    // A change of a column that is not shown comes first.
    client
        .batch_execute("UPDATE people SET price = 7")
        .await
        .unwrap();
    client
        .batch_execute("UPDATE people SET name = 'anna' WHERE id = 1")
        .await
        .unwrap();
    let changed = json!({
        "event": "changed",
        "schema": "public",
        "table": "people",
        "key": 1,
        "row": {"id": 1, "name": "anna"},
        "old": {"name": "ann"},
    });
    assert_eq!(watch.next(), changed, "what is not shown is not told");
    client
        .batch_execute("UPDATE people SET hash = 5 WHERE id = 2")
        .await
        .unwrap();
    // The row is still in the table.
    assert_eq!(watch.next()["event"], "left");
    client
        .batch_execute("UPDATE people SET hash = 123 WHERE id = 3")
        .await
        .unwrap();
    assert_eq!(watch.next()["row"], json!({"id":3,"name":"abcde"}));
    // The listener is ended and rows are changed in one transaction: nobody hears of them. Ours is
    // known by its advisory lock.
    let lose = "BEGIN; SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
        AND database = (
            SELECT oid FROM pg_database WHERE datname = current_database());
        DELETE FROM people WHERE id = 1; UPDATE people SET name = 'x' WHERE id = 3; COMMIT";
    client.batch_execute(lose).await.unwrap();
    // A backend that is terminated may pass on a last notification before it ends.
    let gap: Vec<Value> = (0..4).map(|_| watch.next()).collect();
    let mut events: Vec<&str> = gap
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert!(
        events.iter().position(|event| *event == "stale")
            < events.iter().position(|event| *event == "live"),
        "{gap:?}"
    );
    events.sort_unstable();
    assert_eq!(events, ["changed", "live", "removed", "stale"], "{gap:?}");
    let pid = watch.child.id().to_string();
    let interrupt = Command::new("kill").args(["-INT", &pid]).status();
    assert!(interrupt.unwrap().success());
    let ran = ended(watch.child);
    let done = json!({"event": "done", "shown": 5, "collapsed": 0});
    let said = crate::support::schema::event(&ran.stderr);
    assert_eq!((ran.code, said), (0, done));
}

/// `query --watch | head` must end when `head` does, and not with an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_watched_answer_is_printed_again_as_text_and_ends_with_its_reader() {
    let database = people().await;
    let watch = Watch::start(&database, &["hash=123", "--columns", "id,name"]);
    assert_eq!(
        watch.next_lines(4),
        ["id  name", " 1  ann", " 2  bob", "(2 rows)"]
    );
    database
        .client()
        .await
        .batch_execute("DELETE FROM people WHERE id = 1")
        .await
        .unwrap();
    assert_eq!(watch.next_lines(4), ["", "id  name", " 2  bob", "(1 row)"]);
    drop(watch.lines);
    // The thread that reads for us takes one line more before it ends.
    for name in ["x", "y"] {
        database
            .client()
            .await
            .batch_execute(&format!("UPDATE people SET name = '{name}'"))
            .await
            .unwrap();
    }
    assert_eq!(ended(watch.child).code, 0);
}

/// DDL announces nothing, and it can change the type of the condition's column, or leave another
/// table under the watched name. The watch goes on with the table as it is now: the condition is
/// parsed again, and all rows are shown again.
#[tokio::test(flavor = "multi_thread")]
async fn a_watched_table_that_is_altered_is_told_anew() {
    let database = people().await;
    let client = database.client().await;
    let arguments = ["hash=123", "--columns", "id,hash", "-o", "json"];
    let watch = Watch::start(&database, &arguments);
    watch.skip_until_live();
    // From now on the condition's value and the shown column are of another type.
    client
        .batch_execute("ALTER TABLE people ALTER hash TYPE text USING hash::text")
        .await
        .unwrap();
    let stale = watch.next();
    assert!(
        stale["event"] == "stale" && stale["why"].as_str().unwrap().contains("described afresh"),
        "{stale}"
    );
    assert_eq!(watch.next(), reloaded("the table was altered"));
    let mut rows = [watch.next(), watch.next()];
    rows.sort_by_key(|line| line["row"]["id"].as_i64());
    assert_eq!(rows[0], added(&json!({"id": 1, "hash": "123"})));
    assert_eq!(watch.next(), live(2));
    database.pgic_ok(&["install-triggers", "people"]);
    client
        .batch_execute("UPDATE people SET hash = '5' WHERE id = 2")
        .await
        .unwrap();
    // The new trigger makes the table stale for a moment, so other events may come first.
    let left = json!({
        "event": "left", "schema": "public", "table": "people", "key": 2,
        "row": {"id": 2, "hash": "123"},
        "now": {"hash": "5"},
    });
    watch.until(&left);
    // A dropped table is stale until another table has its name, and that one is followed then.
    client.batch_execute("DROP TABLE people").await.unwrap();
    let gone = loop {
        let line = watch.next();
        if line["why"]
            .as_str()
            .is_some_and(|why| why.contains("the table public.people does not exist"))
        {
            break line;
        }
    };
    assert_eq!(gone["event"], "stale");
    client
        .batch_execute(
            "CREATE TABLE people (id int PRIMARY KEY, hash text); INSERT INTO people \
            VALUES (7, '123')",
        )
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "people"]);
    let seen = watch.until(&live(1));
    let reloaded = reloaded("another table has its name");
    assert!(seen.contains(&reloaded), "{seen:?}");
    let row = added(&json!({"id": 7, "hash": "123"}));
    assert!(seen.contains(&row), "{seen:?}");
    watch.kill();
}

/// A bigint and a double both have eight bytes in COPY. If the type changes between the description
/// of the table and the read, the bytes decode without an error, to wrong numbers.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_becomes_another_of_the_same_size_is_never_taken_for_it() {
    let database = Database::with(
        "CREATE TABLE people (id int PRIMARY KEY, n int8); INSERT INTO people \
            VALUES (1, 5), (2, 6)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "people"]);
    let migration = database.client().await;
    let watcher = database.client().await;
    // The query describes the table before the migration's commit, and reads after it.
    migration
        .batch_execute("BEGIN; ALTER TABLE people ALTER n TYPE float8")
        .await
        .unwrap();
    let mut command = database.command(&["query", "people", "id=1", "-o", "json"]);
    let asking = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let waits =
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'people'::regclass::oid";
    let waiting = async {
        while watcher
            .query_one(waits, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .expect("the query waits for the migration");
    migration.batch_execute("COMMIT").await.unwrap();
    let ran = ended(asking);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "{\"id\":1,\"n\":5}\n"),
        "{ran:?}"
    );
    // The same while the table is watched, with the listener lost in the same transaction.
    let watch = Watch::start(&database, &["-o", "json"]);
    watch.skip_until_live();
    let alter = "BEGIN; ALTER TABLE people ALTER n TYPE int8; SELECT pg_terminate_backend(pid) \
        FROM pg_locks
        WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = \
        current_database()); COMMIT";
    migration.batch_execute(alter).await.unwrap();
    let seen = watch.until(&live(2));
    assert!(
        seen.iter().any(|line| line["event"] == "reloaded"),
        "{seen:?}"
    );
    let values = [json!(5), json!(6), json!(null)];
    assert!(
        seen.iter().all(|line| values.contains(&line["row"]["n"])),
        "{seen:?}"
    );
    watch.kill();
}

/// Renaming a label changes what rows print as, and touches neither the rows nor the table's
/// definition. Here the label is inside an array and inside an array of a composite type.
#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_is_renamed_deep_inside_a_type_is_seen() {
    let sql = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, m mood);
        CREATE TABLE people (id int PRIMARY KEY, moods mood[], pairs pair[]);
        INSERT INTO people VALUES (1, '{sad}', ARRAY[(1, 'sad')::pair])";
    let database = Database::with(sql).await;
    database.pgic_ok(&["install-triggers", "people"]);
    let watch = Watch::start(&database, &["-o", "json"]);
    watch.skip_until_live();
    database
        .client()
        .await
        .batch_execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
        .await
        .unwrap();
    assert_eq!(watch.next()["event"], "stale");
    assert_eq!(
        watch.next()["row"],
        json!({"id":1,"moods":["blue"],"pairs":["(1,blue)"]})
    );
    watch.kill();
}

/// A reader that pauses must neither make pgic grow without bound nor miss the last state of a row:
/// of each row the changes that wait become one.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_sees_changes_collapsed_and_none_is_lost() {
    let database = people().await;
    let mut command = database.command(&["query", "people", "--watch", "-o", "json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start query --watch");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // Unlike `Watch`, this reader has no thread that reads ahead, so that the pipe does fill.
    while next_event(&mut lines)["event"] != "live" {}
    let client = database.client().await;
    // Nobody reads meanwhile, and a pipe holds 64 kB.
    let insert = "INSERT INTO people (id, tag) SELECT n, 'x' FROM generate_series(10, 5000) n";
    client.batch_execute(insert).await.unwrap();
    for round in 0..20 {
        client
            .batch_execute(&format!("UPDATE people SET hash = {round} WHERE id >= 10"))
            .await
            .unwrap();
    }
    client
        .batch_execute("INSERT INTO people (id) VALUES (9999)")
        .await
        .unwrap();
    let mut state: BTreeMap<i64, Value> = BTreeMap::new();
    let mut collapsed = 0;
    while !state.contains_key(&9999) {
        let event = next_event(&mut lines);
        collapsed += event
            .get("collapsed")
            .map_or(0, |count| count.as_i64().unwrap());
        state.insert(
            event["row"]["id"].as_i64().unwrap(),
            event["row"]["hash"].clone(),
        );
    }
    assert_eq!(state.len(), 4992);
    assert!(
        state.iter().all(|(id, hash)| *id == 9999 || *hash == 19),
        "each ends as it is"
    );
    assert!(collapsed > 1000, "{collapsed} changes were collapsed");
    let _ = child.kill();
    let _ = child.wait();
}

/// A type that has changed back looks as if nothing had happened: names and types are those that
/// were described. Only the versions of the catalogue's rows tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_changes_and_changes_back_is_never_taken_for_the_other() {
    let database =
        Database::with("CREATE TABLE t (id int PRIMARY KEY, v int8); INSERT INTO t VALUES (5, 5)")
            .await;
    database.pgic_ok(&["install-triggers", "t"]);
    let client = database.client().await;
    // Some milliseconds of work, so that the queries get at the table in between.
    let pause = "SELECT count(*) FROM generate_series(1, 100000)";
    let altering = tokio::spawn(async move {
        loop {
            client
                .batch_execute("ALTER TABLE t ALTER v TYPE float8")
                .await
                .unwrap();
            client
                .batch_execute(&format!(
                    "{pause}; ALTER TABLE t ALTER v TYPE int8; {pause}"
                ))
                .await
                .unwrap();
        }
    });
    for _ in 0..12 {
        let database = database.clone();
        let ran = tokio::task::spawn_blocking(move || {
            database.pgic(&["query", "t", "id=5", "-o", "json"])
        })
        .await
        .unwrap();
        let is_right = ran.code == 0 && ran.stdout == "{\"id\":5,\"v\":5}\n";
        assert!(is_right || ran.code == 2, "{ran:?}");
    }
    altering.abort();
}

/// A row of twelve columns cannot be read at 80 columns. On a pipe nothing depends on a terminal.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_wider_than_the_terminal_has_its_columns_below_each_other() {
    let columns: Vec<String> = (1..12)
        .map(|n| format!("column_number_{n} text DEFAULT 'value {n}'"))
        .collect();
    let sql = format!(
        "CREATE TABLE wide (id int PRIMARY KEY, {}); INSERT INTO wide VALUES (41), (42);",
        columns.join(", ")
    );
    let database = Database::with(&sql).await;
    database.pgic_ok(&["install-triggers", "wide"]);
    let below = "-[ row 1 ]----------------\nid               | 42\n\
        column_number_1  | value 1\n";
    for (arguments, is_below) in [
        (&["42"][..], true),
        (&[][..], true),
        (&["--columns", "id,column_number_1"], false),
        (&["--wide", "42"], false),
    ] {
        let mut terminal =
            Terminal::start(database.command(&[&["query", "wide"], arguments].concat()));
        assert_eq!(terminal.end(), Some(0));
        let shown = terminal.rest().replace("\r\n", "\n");
        assert_eq!(
            shown.starts_with("-[ row 1 ]"),
            is_below,
            "{arguments:?}: {shown}"
        );
    }
    let piped = database.pgic_ok(&["query", "wide", "42"]);
    assert!(piped.starts_with("id  column_number_1 "), "{piped}");
    let asked = database.pgic_ok(&["query", "wide", "42", "-x"]);
    assert!(asked.starts_with(below), "{asked}");
}

#[tokio::test]
async fn an_answer_of_several_jobs_is_that_of_one() {
    let database = Database::with(
        "CREATE TABLE docs (id int PRIMARY KEY, doc jsonb NOT NULL);
        INSERT INTO docs SELECT g, jsonb_build_object('text', repeat(md5(g::text), 40))
            FROM generate_series(1, 12000) g;
        ANALYZE docs;",
    )
    .await;
    database.pgic_ok(&["install-triggers", "docs"]);
    let one = database.pgic_ok(&["query", "docs", "-o", "json"]);
    assert_eq!(one.lines().count(), 12_000);
    let several = database.pgic_ok(&["query", "docs", "-o", "json", "--jobs", "3"]);
    assert!(several == one, "the rows differ");
    // Statements are traced with -vv.
    let traced = database.pgic(&["verify", "docs", "-j3", "-vv"]);
    assert_eq!(traced.code, 0, "{}", traced.stderr);
    let copies = traced.stderr.lines().filter(|line| line.contains("COPY"));
    let parts = copies.filter(|line| line.contains("ctid")).count();
    assert_eq!(parts, 6, "three of the load, three of the comparison");
}
