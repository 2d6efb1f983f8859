//! `install-triggers --long-numbers-as-text`: what a double does not hold comes as a text, and all
//! else as before. To a cache both are one value.

use crate::support::Database;
use serde_json::{Value, json};

/// 2^53 - 1 is the last integer of which a double holds it and its neighbours.
const TABLES: &str = "
    CREATE TABLE one (id bigint PRIMARY KEY, n bigint, x numeric, few bigint[]);
    CREATE TABLE two (region numeric, id bigint, n int, PRIMARY KEY (region, id));";

/// Each number of a statement, with the JSON that is expected of it.
const NUMBERS: [(&str, &str); 10] = [
    ("9007199254740991", "9007199254740991"),
    ("9007199254740992", "\"9007199254740992\""),
    ("9007199254740993", "\"9007199254740993\""),
    ("-9007199254740991", "-9007199254740991"),
    ("-9007199254740992", "\"-9007199254740992\""),
    ("9223372036854775807", "\"9223372036854775807\""),
    ("-9223372036854775808", "\"-9223372036854775808\""),
    ("7", "7"),
    ("0", "0"),
    ("-1", "-1"),
];

async fn installed(options: &[&str]) -> Database {
    let database = Database::with(TABLES).await;
    let install = ["install-triggers", "one", "two", "--long-numbers-as-text"];
    database.pgic_ok(&[&install[..], options].concat());
    database
}

/// Returns the changes that a statement announces.
async fn announced(database: &Database, sql: &str) -> Vec<Value> {
    let mut listening = database.listen().await;
    database.client().await.batch_execute(sql).await.unwrap();
    listening.changes().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_double_does_not_hold_is_a_text() {
    for options in [&[][..], &["--bulk"]] {
        let database = installed(options).await;
        for (number, expected) in NUMBERS {
            let sql = format!("INSERT INTO one VALUES ({number}, {number}, 1.5, '{{1}}')");
            let change = &announced(&database, &sql).await[0];
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(change["id"], expected, "{options:?}: {change}");
            assert_eq!(change["data"]["id"], expected, "{options:?}: {change}");
            assert_eq!(change["data"]["n"], expected, "{options:?}: {change}");
            assert_eq!(change["data"]["x"], json!(1.5));
            assert_eq!(change["data"]["few"], json!([1]), "arrays stay as they are");
        }
        for (number, expected) in [
            ("0.10", json!(0.10)),
            ("1234567890123.4", json!(1_234_567_890_123.4)),
            ("12345678901234.5", json!("12345678901234.5")),
            ("'NaN'", json!("NaN")),
            ("NULL", json!(null)),
        ] {
            let sql = format!("UPDATE one SET x = {number} WHERE id = 7");
            let change = &announced(&database, &sql).await[0];
            assert_eq!(change["data"]["x"], expected, "{options:?}: {change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_changed_is_a_text_in_both_places() {
    let database = installed(&[]).await;
    let insert =
        "INSERT INTO one VALUES (9007199254740993); INSERT INTO two VALUES (1.5, 9007199254740993)";
    announced(&database, insert).await;
    let long = json!("9007199254740993");
    let changes = announced(&database, "UPDATE one SET id = 8").await;
    assert_eq!(
        (&changes[0]["id"], &changes[0]["new_id"]),
        (&long, &json!(8))
    );
    assert_eq!(
        (&changes[1]["id"], &changes[1]["old_id"]),
        (&json!(8), &long)
    );
    let changes = announced(&database, "UPDATE two SET id = id - 1").await;
    assert_eq!(changes[0]["id"], json!([1.5, long]));
    assert_eq!(changes[1]["id"], json!([1.5, "9007199254740992"]));
    let changes = announced(&database, "DELETE FROM two").await;
    assert_eq!(changes[0]["id"], json!([1.5, "9007199254740992"]));
}

/// A cache takes both forms for one value, in keys too: those of changes that were announced before
/// the option was installed are numbers.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_the_table_all_the_same() {
    for options in [&[][..], &["--bulk"]] {
        let database = installed(options).await;
        let big = "9007199254740993";
        let ran = database
            .verify_while_running(
                "one",
                &[
                    &format!(
                        "INSERT INTO one VALUES ({big}, {big}, {big}.25) ON CONFLICT DO NOTHING"
                    ),
                    &format!("UPDATE one SET n = n + 1, few = '{{{big}}}' WHERE id = {big}"),
                    "UPDATE one SET id = id - 1, x = 1 / 3.0",
                    "UPDATE one SET few = array_fill(1::bigint, ARRAY[3000])",
                    "DELETE FROM one",
                ],
            )
            .await;
        assert_eq!(ran.code, 0, "{options:?}: {ran:?}");
        let ran = database
            .verify_while_running(
                "two",
                &[
                    &format!("INSERT INTO two VALUES ({big}.125, {big}, 1)"),
                    "UPDATE two SET id = id + 1, n = n + 1",
                    "UPDATE two SET region = region / 7",
                    "DELETE FROM two",
                ],
            )
            .await;
        assert_eq!(ran.code, 0, "{options:?}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_option_is_shown_kept_and_taken_away() {
    let database = installed(&[]).await;
    let shows = |database: &Database| {
        database
            .pgic_ok(&["status", "one", "-o", "json"])
            .contains("long_numbers_as_text")
    };
    assert!(shows(&database));
    database.pgic_ok(&["install-triggers", "one", "--on-change"]);
    assert!(shows(&database), "it stays as installed");
    database.pgic_ok(&["install-triggers", "one", "--defaults"]);
    assert!(!shows(&database));
    let change = &announced(&database, "INSERT INTO one VALUES (9007199254740993)").await[0];
    assert!(change["id"].is_number(), "{change}");
    let refused = database.pgic(&[
        "install-triggers",
        "one",
        "--generic",
        "--long-numbers-as-text",
    ]);
    assert_eq!(refused.code, 2, "{refused:?}");
}

/// A column that becomes one of another kind makes the old function fail, which asks for a reload:
/// it must not send a text for what is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_asks_for_a_reload() {
    for change in ["jsonb USING to_jsonb(x)", "char(20)", "text"] {
        let database = installed(&[]).await;
        let client = database.client().await;
        let sql = format!("ALTER TABLE one ALTER x TYPE {change}");
        client.batch_execute(&sql).await.unwrap();
        let changes = announced(
            &database,
            "INSERT INTO one VALUES (1, 1, '12345678901234567')",
        )
        .await;
        assert_eq!(changes.len(), 1, "{change}: {changes:?}");
        assert_eq!(changes[0]["action"], "reload", "{change}: {changes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn why_sees_the_notification_of_a_long_key() {
    let database = installed(&[]).await;
    let client = database.client().await;
    let insert = "INSERT INTO one VALUES (9007199254740993)";
    client.batch_execute(insert).await.unwrap();
    let ran = database.pgic(&["why", "one", "9007199254740993", "--touch", "-o", "json"]);
    assert!(ran.stdout.contains("\"touched\""), "{ran:?}");
    assert!(ran.stdout.contains("\"arrived_us\":"), "{ran:?}");
}
