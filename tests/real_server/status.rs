//! `status`: the triggers of each table, the problems with them, and who listens.

use crate::support::{
    DEADLINE, Database, SPECIFICATION, SPECIFICATION_TRIGGER, USERS, ended, lines_of, run,
};
use crate::terminal::Terminal;
use serde_json::{Value, json};
use std::process::Stdio;

const TABLE: &str = "CREATE TABLE a (id int PRIMARY KEY, note text);";

/// Runs `status` and returns the exit code with the first table of the output.
fn table(database: &Database, arguments: &[&str]) -> (i32, Value) {
    let ran = database.pgic(&[&["status", "-o", "json"], arguments].concat());
    let table = ran
        .json()
        .into_iter()
        .find(|line| line["event"] == "table")
        .unwrap_or_else(|| panic!("no table: {ran:?}"));
    (ran.code, table)
}

/// Deployment scripts ask by the exit code. The whole object is compared: a key that is renamed
/// breaks those who read the JSON.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_as_it_should_be_is_a_yes() {
    let database = Database::with(&format!(
        "{TABLE} INSERT INTO a SELECT n FROM generate_series(1, 50) n; ANALYZE a"
    ))
    .await;
    database.pgic_ok(&["install-triggers", "a"]);
    let (code, mut found) = table(&database, &[]);
    assert_eq!(code, 0);
    found.as_object_mut().unwrap().remove("at");
    assert_eq!(
        found,
        json!({
            "event": "table",
            "schema": "public",
            "table": "a",
            "channel": "cache_invalidation",
            "events": ["insert", "update", "delete", "truncate"],
            "columns": ["id", "note"],
            "state": "enabled",
            "function": "current",
            "options": {"channel": "cache_invalidation"},
            "rows": 50,
            "near_limit": {"rows": 0, "sampled": 50},
            "problems": [],
        })
    );
    let text = database.pgic_ok(&["status"]);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[..4],
        [
            "    table     channel             sent         state",
            "ok  public.a  cache_invalidation  all columns  enabled",
            "",
            "ok",
        ],
        "{text}"
    );
    assert!(text.contains("\nqueue: 0.0 % full\n"), "{text}");
    let last = lines[lines.len() - 1];
    let place = format!("database {} on /", database.name);
    assert!(
        last.starts_with(&place) && last.contains(" as postgres (PostgreSQL "),
        "{text}"
    );
    let server = server(&database);
    assert_eq!(
        (&server["database"], &server["user"], &server["problems"]),
        (&json!(database.name), &json!("postgres"), &json!([]))
    );
}

/// Returns the object of the server.
fn server(database: &Database) -> Value {
    let ran = database.pgic(&["status", "-o", "json"]);
    let lines = ran.json();
    lines
        .into_iter()
        .find(|line| line["event"] == "server")
        .unwrap()
}

/// A check that is pointed at the wrong database, or at a standby, must not say that all is well.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_server_as_a_whole_is_a_no() {
    let database = Database::with(TABLE).await;
    let ran = database.pgic(&["status"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout.starts_with(
            "1 problem\n  critical [nothing-announced] no table announces its changes; install \
            triggers: pgic install-triggers TABLE\n"
        ),
        "{ran:?}"
    );
    let problems = server(&database)["problems"].clone();
    assert_eq!(problems[0]["code"], "nothing-announced");

    database.pgic_ok(&["install-triggers", "a"]);
    let own = throwaway_postgres::Cluster::start(&throwaway_postgres::Setup::default()).unwrap();
    let other = Database::on(&own, "other".to_string()).await;
    other.client().await.batch_execute(TABLE).await.unwrap();
    other.pgic_ok(&["install-triggers", "a"]);
    let standby = own.standby().unwrap();
    let url = standby.url("other");
    let mut command = other.command(&["status"]);
    command.env("DATABASE_URL", &url);
    let ran = run(command);
    assert!(
        ran.code == 1
            && ran
                .stdout
                .contains("critical [standby] the server is a standby")
            && ran.stdout.contains("\n1 problem\n"),
        "{ran:?}"
    );
}

/// A role that must not see the statements of others cannot see who listens, and is told so.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_cannot_be_seen_are_counted() {
    let database = Database::with(TABLE).await;
    database.pgic_ok(&["install-triggers", "a"]);
    let role = format!("blind_{}", database.name);
    let admin = database.client().await;
    let sql = format!("CREATE ROLE {role} LOGIN; LISTEN x");
    admin.batch_execute(&sql).await.unwrap();
    let mut command = database.command(&["status"]);
    command.env(
        "DATABASE_URL",
        database.url.replace("postgres@", &format!("{role}@")),
    );
    let ran = run(command);
    assert!(
        ran.code == 0
            && ran.stdout.contains("listeners: none seen")
            && ran
                .stdout
                .contains("the statements of 1 session cannot be seen by this role"),
        "{ran:?}"
    );
}

/// Each of these leaves caches stale in silence, or soon will. The same command mends all of them,
/// which the problem names.
#[tokio::test(flavor = "multi_thread")]
async fn drift_is_a_no_with_the_remedy() {
    let cases = [
        (
            "ALTER TABLE a DISABLE TRIGGER a_cache_notify",
            "is disabled",
        ),
        (
            "ALTER TABLE a ENABLE REPLICA TRIGGER a_cache_notify",
            "is replica only",
        ),
        (
            "DROP TRIGGER a_cache_notify ON a",
            "the row trigger of public.a is missing",
        ),
        (
            "DROP TRIGGER a_cache_notify_truncate ON a",
            "no trigger announces TRUNCATE of public.a",
        ),
        (
            "ALTER TABLE a ADD COLUMN more jsonb; ALTER TABLE a RENAME note TO remark",
            "have changed since the function of its trigger was made: remark is new, more is new, \
            note is gone",
        ),
        (
            "CREATE OR REPLACE FUNCTION notify_cache_change_a() RETURNS trigger LANGUAGE plpgsql \
            AS 'BEGIN RETURN NULL; END'",
            "was edited by hand",
        ),
        (
            "ALTER FUNCTION notify_cache_change_a() SECURITY DEFINER",
            "is not what this version of pgic makes",
        ),
        (
            "DROP TRIGGER a_cache_notify ON a; CREATE TRIGGER a_cache_notify AFTER INSERT OR \
            UPDATE OR DELETE ON a
             FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION notify_cache_change_a()",
            "has a condition or a list of columns",
        ),
    ];
    for (sql, problem) in cases {
        let database = Database::with(TABLE).await;
        database.pgic_ok(&["install-triggers", "a"]);
        database.client().await.batch_execute(sql).await.unwrap();
        let (code, found) = table(&database, &["a"]);
        let problems = found["problems"].to_string();
        assert!(
            code == 1
                && problems.contains(problem)
                && problems.contains("pgic install-triggers public.a"),
            "{sql}: {found}"
        );
        database.pgic_ok(&["install-triggers", "a"]);
        assert_eq!(table(&database, &["a"]).0, 0, "{sql}: the remedy helps");
    }
}

/// Without a name, a table without triggers is none of `status`'s business. With one, somebody asks
/// whether that table is announced.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_table_without_triggers_is_a_no() {
    let database = Database::with(TABLE).await;
    // Not named: the table is not even listed.
    assert!(!database.pgic(&["status"]).stdout.contains("public.a"));
    let (code, found) = table(&database, &["a"]);
    assert!(
        code == 1
            && found["function"].is_null()
            && found["problems"]
                .to_string()
                .contains("no trigger announces"),
        "{found}"
    );
    assert_eq!(database.pgic(&["status", "missing"]).code, 2);
}

/// `foreign` is a function that pgic did not make. Such a function is used as found, and never
/// replaced unasked.
#[tokio::test(flavor = "multi_thread")]
async fn the_specification_s_own_trigger_is_shown_as_somebody_else_s() {
    let database = Database::with(&format!("{USERS}{SPECIFICATION}{SPECIFICATION_TRIGGER}")).await;
    let (code, found) = table(&database, &[]);
    assert_eq!(
        (&found["function"], &found["channel"]),
        (&json!("foreign"), &json!("cache_invalidation"))
    );
    assert!(
        code == 1
            && found["problems"]
                .to_string()
                .contains("no trigger announces TRUNCATE"),
        "{found}"
    );
}

/// PostgreSQL tells nobody who listens. Sessions of pgic hold an advisory lock by which they are
/// known. Of any other session only the last statement is known, and a LISTEN there is a guess.
#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_shown_ours_for_certain_and_others_by_guess() {
    let database = Database::with("").await;
    // A session of somebody else, known by its last statement alone.
    let other = database.client().await;
    other.batch_execute("LISTEN something").await.unwrap();
    let tail = database.tail(&["--channel", "x"]);
    let ran = database.pgic(&["status", "-o", "json"]);
    let listeners: Vec<Value> = ran
        .json()
        .into_iter()
        .filter(|line| line["event"] == "listener")
        .collect();
    let seen: Vec<_> = listeners
        .iter()
        .map(|listener| (&listener["application"], &listener["certain"]))
        .collect();
    assert_eq!(
        seen,
        [
            (&json!("pgic tail"), &json!(true)),
            (&json!(""), &json!(false))
        ],
        "{ran:?}"
    );
    drop(tail);
}

/// Rows that are longer than a payload are read again by their keys, which costs a query each.
/// Whoever plans wants the share of such rows, without a scan of a large table.
#[tokio::test(flavor = "multi_thread")]
async fn rows_near_the_payload_limit_are_counted_in_a_bounded_sample() {
    let rows = "INSERT INTO a SELECT n, (SELECT string_agg(md5(n::text || m), '') FROM \
        generate_series(1, CASE WHEN n % 10 = 0 THEN 230 ELSE 1 END) m)
        FROM generate_series(1, 100) n; ANALYZE a";
    let database = Database::with(&format!("{TABLE} {rows}")).await;
    database.pgic_ok(&["install-triggers", "a"]);
    assert_eq!(
        table(&database, &[]).1["near_limit"],
        json!({"rows": 10, "sampled": 100})
    );
    database.pgic_ok(&["install-triggers", "a", "--columns", "id"]);
    assert_eq!(
        table(&database, &[]).1["near_limit"]["rows"],
        0,
        "what is not sent does not count"
    );
    // A larger table is sampled, not scanned.
    let more = "INSERT INTO a SELECT n, 'x' FROM generate_series(101, 50000) n; ANALYZE a";
    database.client().await.batch_execute(more).await.unwrap();
    let sampled = table(&database, &[]).1["near_limit"]["sampled"]
        .as_i64()
        .unwrap();
    assert!((1..=1_000).contains(&sampled), "{sampled}");
    // Compression makes these rows a hundred bytes on disk, and a payload has eight thousand: the
    // stored size must not be taken for the sent one.
    let compressed = "TRUNCATE a; INSERT INTO a SELECT n, repeat('x', 7990) FROM \
        generate_series(1, 50) n; ANALYZE a";
    database
        .client()
        .await
        .batch_execute(compressed)
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "a", "--defaults"]);
    assert_eq!(
        table(&database, &[]).1["near_limit"],
        json!({"rows": 50, "sampled": 50})
    );
    let text = database.pgic_ok(&["status"]);
    assert!(
        text.contains("  public.a: 50 of 50 rows looked at are near the limit of a payload\n"),
        "{text}"
    );
}

/// A migration holds its lock for hours. Somebody who wonders why nothing moves runs `status`,
/// which must not wait as well. The sample, which reads the table, is left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_does_not_hold_it_up() {
    let parts = "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 \
        PARTITION OF p FOR VALUES FROM (0) TO (9);";
    let database = Database::with(&format!("{TABLE}{parts}")).await;
    database.pgic_ok(&["install-triggers", "a", "p"]);
    let migration = database.client().await;
    migration
        .batch_execute("BEGIN; LOCK TABLE a, p1 IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    // If `status` waited for the lock, it would be killed at the deadline and fail.
    let ran = database.pgic(&["status", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let tables: Vec<Value> = ran
        .json()
        .into_iter()
        .filter(|line| line["event"] == "table")
        .collect();
    assert!(
        tables.len() == 2 && tables.iter().all(|table| table["near_limit"].is_null()),
        "{tables:?}"
    );
}

/// Colour has one meaning in every command, on stderr too. On a pipe there is none unless it is
/// asked for.
#[tokio::test(flavor = "multi_thread")]
async fn problems_verdicts_null_and_errors_have_their_colours() {
    let database = Database::with(
        "CREATE TABLE a (id int PRIMARY KEY, note text); INSERT INTO a VALUES (1, NULL)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "a"]);
    for (arguments, expected) in [
        (&["status"][..], "\u{1b}[32mok\u{1b}[0m"),
        (
            &["verify", "a", "--rounds", "1"],
            "\u{1b}[33mequal\u{1b}[0m",
        ),
        (&["query", "a"], "\u{1b}[2mNULL\u{1b}[0m"),
        (&["query", "nosuch"], "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m"),
        (&["query", "a", "2"], "\u{1b}[33mnotice:\u{1b}[0m"),
    ] {
        let coloured = database.pgic(&[&["--color", "always"], arguments].concat());
        let all = coloured.stdout + &coloured.stderr;
        assert!(all.contains(expected), "{arguments:?}: {all:?}");
        let plain = database.pgic(arguments);
        let all = plain.stdout + &plain.stderr;
        assert!(!all.contains('\u{1b}'), "{arguments:?}: {all:?}");
    }
    let sql = "ALTER TABLE a DISABLE TRIGGER USER";
    database.client().await.batch_execute(sql).await.unwrap();
    let status = database.pgic(&["--color", "always", "status"]);
    for expected in ["\u{1b}[31m!\u{1b}[0m", "\u{1b}[31mcritical\u{1b}[0m"] {
        assert!(status.stdout.contains(expected), "{status:?}");
    }
}

/// Times are local, or UTC if that is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn times_are_local_unless_utc_is_asked_for() {
    let database = Database::with("CREATE TABLE a (id int PRIMARY KEY)").await;
    database.pgic_ok(&["install-triggers", "a"]);
    let mut hours = Vec::new();
    for more in [&[][..], &["--utc"]] {
        let mut command = database.command(&[&["tail", "--duration", "1ms"], more].concat());
        // Twelve hours from UTC, so that no two hours are alike.
        command.env("TZ", "Etc/GMT-12");
        let ran = run(command);
        let banner = ran.stderr.lines().find(|line| line.contains("listening"));
        let clock = banner.unwrap_or_else(|| panic!("{ran:?}")).trim_start();
        hours.push(clock[..2].parse::<i32>().unwrap());
    }
    // The hour may have changed between both.
    assert!(
        [11, 12].contains(&((hours[0] - hours[1]).rem_euclid(24))),
        "{hours:?}"
    );
}

/// `--watch` looks again and again: in place on a terminal, one answer after the other on a pipe.
/// It outlives a restart, and its exit code is that of the last look.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_changes() {
    let database = Database::with(USERS).await;
    database.pgic_ok(&["install-triggers", "users"]);
    let client = database.client().await;
    let mut terminal = Terminal::start(database.command(&["status", "--watch=100ms"]));
    terminal.shows(|screen| {
        screen.contains("ok  public.users") && screen.contains("queue: 0.0 % full")
    });
    let disable = "ALTER TABLE users DISABLE TRIGGER users_cache_notify";
    client.batch_execute(disable).await.unwrap();
    let screen = terminal.shows(|screen| screen.contains("[trigger-disabled]"));
    assert!(
        screen.contains("!  public.users") && !screen.contains("ok  public.users"),
        "{screen}"
    );
    terminal.signal("INT");
    assert_eq!(terminal.end(), Some(1));

    let arguments = ["status", "--watch=100ms", "-o", "json"];
    let mut child = database
        .command(&arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    let next_server = || loop {
        let line = crate::support::schema::check(&lines.recv_timeout(DEADLINE).unwrap());
        if line["event"] == "server" {
            return;
        }
    };
    next_server();
    next_server();
    let enable = "ALTER TABLE users ENABLE TRIGGER users_cache_notify";
    client.batch_execute(enable).await.unwrap();
    next_server();
    next_server();
    // However many rounds, one thread watches whether somebody reads.
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let names = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    assert_eq!(names.filter(|name| name == "output\n").count(), 1);
    // Nobody reads any more.
    drop(lines);
    assert_eq!(ended(child).code, 0);
}
