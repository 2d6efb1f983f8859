//! Remedies: each problem of the diagnosis is provoked, found under its code, and mended by the
//! remedy that is printed for the problem, word for word.
//!
//! An operator runs a printed remedy at night. One that does not help, or that no shell takes, is
//! worse than none.

use crate::doctor;
use crate::shell::Shell;
use crate::support::{DEADLINE, Database, SPECIFICATION};
use serde_json::Value;

const TABLE: &str =
    "CREATE TABLE a (id int PRIMARY KEY, n int, other int UNIQUE NOT NULL DEFAULT 0);";
const INSTALL: &[&str] = &["install-triggers", "a"];

/// A situation, with the problem that the diagnosis must find.
struct Case {
    code: &'static str,
    severity: &'static str,
    /// The SQL that creates the table `a`.
    set_up: &'static str,
    /// The arguments of `pgic` that install the triggers; none: nothing is installed.
    install: &'static [&'static str],
    /// The SQL that causes the problem.
    provoke: &'static str,
}

/// Returns a case of [`TABLE`] with the usual triggers.
const fn case(code: &'static str, severity: &'static str, provoke: &'static str) -> Case {
    Case {
        code,
        severity,
        set_up: TABLE,
        install: INSTALL,
        provoke,
    }
}

/// The arguments that install statement triggers.
const BULK: &[&str] = &["install-triggers", "a", "--bulk"];

const PARTITIONED: &str = "CREATE TABLE a (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
    CREATE TABLE a_1 PARTITION OF a FOR VALUES FROM (0) TO (100);";

const GENERIC: &[&str] = &["install-triggers", "a", "--generic"];
const ONE_COLUMN: &[&str] = &["install-triggers", "a", "--columns", "n"];

const CASES: &[Case] = &[
    Case {
        install: &[],
        ..case("not-announced", "critical", "SELECT 1")
    },
    case(
        "not-announced",
        "critical",
        "DROP TRIGGER a_cache_notify ON a",
    ),
    case(
        "trigger-disabled",
        "critical",
        "ALTER TABLE a DISABLE TRIGGER a_cache_notify",
    ),
    case(
        "trigger-disabled",
        "critical",
        "ALTER TABLE a ENABLE REPLICA TRIGGER a_cache_notify",
    ),
    Case {
        set_up: PARTITIONED,
        ..case(
            "trigger-disabled",
            "critical",
            "ALTER TABLE a_1 DISABLE TRIGGER a_cache_notify",
        )
    },
    case(
        "trigger-conditional",
        "critical",
        "DROP TRIGGER a_cache_notify ON a; CREATE TRIGGER a_cache_notify AFTER \
            INSERT OR UPDATE OR DELETE ON a FOR EACH ROW WHEN (pg_trigger_depth() = 0) \
            EXECUTE FUNCTION notify_cache_change_a()",
    ),
    case(
        "trigger-conditional",
        "critical",
        "DROP TRIGGER a_cache_notify ON a; CREATE TRIGGER a_cache_notify AFTER \
            INSERT OR UPDATE OF n OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION \
            notify_cache_change_a()",
    ),
    case(
        "trigger-timing",
        "critical",
        "DROP TRIGGER a_cache_notify ON a; CREATE TRIGGER a_cache_notify BEFORE \
            INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION \
            notify_cache_change_a()",
    ),
    case(
        "event-missing",
        "critical",
        "DROP TRIGGER a_cache_notify ON a; CREATE TRIGGER a_cache_notify AFTER \
            INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION \
            notify_cache_change_a()",
    ),
    Case {
        install: BULK,
        ..case(
            "event-missing",
            "critical",
            "DROP TRIGGER a_cache_notify_update ON a",
        )
    },
    Case {
        install: BULK,
        set_up: PARTITIONED,
        ..case(
            "event-missing",
            "critical",
            "CREATE TABLE a_2 PARTITION OF a FOR VALUES FROM (100) TO (200)",
        )
    },
    Case {
        install: BULK,
        ..case(
            "trigger-disabled",
            "critical",
            "ALTER TABLE a DISABLE TRIGGER a_cache_notify_insert",
        )
    },
    Case {
        install: BULK,
        ..case(
            "bulk-unfit",
            "critical",
            "CREATE TABLE parent (LIKE a); ALTER TABLE a INHERIT parent",
        )
    },
    Case {
        install: BULK,
        ..case(
            "several-triggers",
            "warning",
            "CREATE TRIGGER again AFTER INSERT ON a REFERENCING NEW TABLE AS pgic_new \
                FOR EACH STATEMENT EXECUTE FUNCTION notify_cache_change_a()",
        )
    },
    case(
        "another-name",
        "critical",
        "ALTER TABLE a RENAME TO b; ALTER TABLE b RENAME CONSTRAINT a_pkey TO \
            b_pkey",
    ),
    case(
        "another-name",
        "critical",
        "CREATE SCHEMA app; ALTER TABLE a SET SCHEMA app",
    ),
    case(
        "key-changed",
        "critical",
        "ALTER TABLE a DROP CONSTRAINT a_pkey; ALTER TABLE a ADD PRIMARY KEY \
            (other)",
    ),
    case(
        "key-bounds",
        "critical",
        "ALTER TABLE a ALTER id TYPE bigint[] USING ARRAY[id]",
    ),
    case(
        "key-unknown",
        "critical",
        "DO $$ BEGIN EXECUTE format('COMMENT ON FUNCTION notify_cache_change_a() IS \
            %L', replace( obj_description('notify_cache_change_a'::regproc, \
            'pg_proc'), '\"key\":[\"id\"],', '')); END $$",
    ),
    case(
        "function-edited",
        "critical",
        "CREATE OR REPLACE FUNCTION notify_cache_change_a() RETURNS trigger \
            LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    ),
    case(
        "function-outdated",
        "warning",
        "ALTER FUNCTION notify_cache_change_a() SECURITY DEFINER",
    ),
    case(
        "function-silent",
        "critical",
        "DROP FUNCTION notify_cache_change_a() CASCADE; CREATE FUNCTION \
            notify_cache_change_a() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN \
            NULL; END'; CREATE TRIGGER a_cache_notify AFTER INSERT OR UPDATE OR DELETE \
            ON a FOR EACH ROW EXECUTE FUNCTION notify_cache_change_a()",
    ),
    case(
        "event-missing",
        "critical",
        // CREATE OR REPLACE TRIGGER refuses a constraint trigger, so it must be dropped.
        "DROP TRIGGER a_cache_notify ON a; CREATE CONSTRAINT TRIGGER a_cache_notify \
            AFTER INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION \
            notify_cache_change_a()",
    ),
    Case {
        install: GENERIC,
        ..case(
            "channel-unknown",
            "critical",
            "DROP TRIGGER a_cache_notify ON a; CREATE TRIGGER a_cache_notify AFTER \
            INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION \
            notify_cache_change('')",
        )
    },
    case(
        "channel-unknown",
        "critical",
        "DROP FUNCTION notify_cache_change_a() CASCADE; CREATE FUNCTION \
            notify_cache_change_a() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
            PERFORM pg_notify('cache_' || TG_TABLE_NAME, '{}'); RETURN NULL; END$$; \
            CREATE TRIGGER a_cache_notify AFTER INSERT OR UPDATE OR DELETE ON a FOR \
            EACH ROW EXECUTE FUNCTION notify_cache_change_a()",
    ),
    case(
        "plain-form",
        "warning",
        "COMMENT ON FUNCTION notify_cache_change_a() IS NULL",
    ),
    // The remedy must leave out options that were given: the column or the key that they name is
    // gone.
    Case {
        install: GENERIC,
        ..case(
            "key-changed",
            "critical",
            "ALTER TABLE a DROP CONSTRAINT a_pkey; ALTER TABLE a ADD PRIMARY KEY \
            (other)",
        )
    },
    Case {
        install: GENERIC,
        ..case(
            "key-changed",
            "critical",
            "ALTER TABLE a RENAME id TO ident",
        )
    },
    Case {
        install: &["install-triggers", "a", "--columns", "id,n"],
        ..case(
            "key-changed",
            "critical",
            "ALTER TABLE a RENAME id TO ident",
        )
    },
    Case {
        install: ONE_COLUMN,
        ..case(
            "function-outdated",
            "warning",
            "ALTER TABLE a DROP COLUMN n",
        )
    },
    Case {
        install: ONE_COLUMN,
        ..case(
            "function-outdated",
            "warning",
            "ALTER TABLE a RENAME n TO m",
        )
    },
    Case {
        install: ONE_COLUMN,
        ..case(
            "not-announced",
            "critical",
            "ALTER TABLE a DROP COLUMN n; DROP TRIGGER a_cache_notify ON a; DROP \
            TRIGGER a_cache_notify_truncate ON a",
        )
    },
    case(
        "columns-outdated",
        "warning",
        "ALTER TABLE a ADD COLUMN since interval",
    ),
    case(
        "columns-outdated",
        "warning",
        "ALTER TABLE a ALTER n TYPE text",
    ),
    case(
        "truncate-missing",
        "warning",
        "DROP TRIGGER a_cache_notify_truncate ON a",
    ),
    case(
        "truncate-disabled",
        "warning",
        "ALTER TABLE a DISABLE TRIGGER a_cache_notify_truncate",
    ),
    Case {
        set_up: PARTITIONED,
        ..case(
            "truncate-missing",
            "warning",
            "CREATE TABLE a_2 PARTITION OF a FOR VALUES FROM (100) TO (200)",
        )
    },
    case(
        "several-triggers",
        "warning",
        "CREATE TRIGGER again AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH ROW \
            EXECUTE FUNCTION notify_cache_change_a()",
    ),
    case(
        "function-planted",
        "warning",
        "CREATE ROLE planter; ALTER FUNCTION notify_cache_change_a() OWNER TO \
            planter; ALTER TABLE a OWNER TO CURRENT_USER; CREATE ROLE keeper; GRANT \
            CREATE ON SCHEMA public TO keeper; ALTER TABLE a OWNER TO keeper",
    ),
];

/// Returns the exit code of `status` and the problems of the first table in the output. The table
/// may have been renamed.
fn problems(database: &Database) -> (i32, Vec<Value>) {
    let ran = database.pgic(&["status", "-o", "json"]);
    // A table without triggers is listed only where it is named.
    let named = if ran.json().iter().any(|line| line["event"] == "table") {
        ran
    } else {
        database.pgic(&["status", "a", "-o", "json"])
    };
    let table = named
        .json()
        .into_iter()
        .find(|line| line["event"] == "table");
    let table = table.unwrap_or_else(|| panic!("no table: {named:?}"));
    (
        named.code,
        table["problems"]
            .as_array()
            .expect("problems are a list")
            .clone(),
    )
}

/// Runs the steps of a problem's remedy, each of which must be part of the text that is printed.
pub(crate) async fn run(database: &Database, problem: &Value) {
    let steps = problem["run"].as_array().expect("a remedy can be run");
    assert!(!steps.is_empty(), "{problem}");
    for step in steps {
        let step = step.as_str().unwrap();
        assert!(
            problem["remedy"].as_str().unwrap().contains(step),
            "what is printed is what is run: {problem}"
        );
        match step.strip_prefix("pgic ") {
            Some(arguments) => {
                // No name here needs quotes for the shell.
                let arguments: Vec<&str> = arguments.split(' ').collect();
                database.pgic_ok(&arguments);
            }
            None => {
                let ran = database.client().await.batch_execute(step).await;
                ran.unwrap_or_else(|error| panic!("{step}: {error:?}"));
            }
        }
    }
}

/// Each case is found by `status`. A critical one is refused by `shell`, and `verify` says
/// `unannounced`, each with the same remedy. Then the remedy is run, and the problem must be gone.
#[tokio::test(flavor = "multi_thread")]
async fn every_remedy_mends_the_problem_that_it_is_printed_for() {
    for Case {
        code,
        severity,
        set_up,
        install,
        provoke,
    } in CASES
    {
        // One case at a time: roles belong to the cluster, so two databases cannot create the same
        // role at once.
        let database = Database::with(set_up).await;
        if !install.is_empty() {
            database.pgic_ok(install);
        }
        database
            .client()
            .await
            .batch_execute(provoke)
            .await
            .unwrap_or_else(|error| panic!("{provoke}: {error:?}"));
        let (exit, found) = problems(&database);
        let problem = found.iter().find(|problem| problem["code"] == *code);
        let problem =
            problem.unwrap_or_else(|| panic!("{code} is not found after {provoke}: {found:?}"));
        assert_eq!(
            (exit, &problem["severity"]),
            (1, &Value::from(*severity)),
            "{provoke}: {problem}"
        );
        // A renamed or moved table cannot be asked for as `a`.
        if *severity == "critical" && !provoke.contains("RENAME") && !provoke.contains("SCHEMA") {
            let remedy = problem["remedy"].as_str().unwrap();
            let refused = database.pgic(&["shell", "a"]);
            assert!(
                refused.code == 2 && refused.stderr.contains(&format!("hint: {remedy}")),
                "{provoke}: {refused:?}"
            );
            let verified = database.pgic(&["verify", "a", "--rounds", "1"]);
            let said = verified.stdout.starts_with("unannounced  public.a")
                && verified.stdout.contains(remedy);
            assert!(verified.code == 1 && said, "{provoke}: {verified:?}");
        }
        let (verdict, by_doctor) = doctor::finds(&database, &[], code)
            .or_else(|| doctor::finds(&database, &["a"], code))
            .unwrap_or_else(|| panic!("{code} is not found by doctor after {provoke}"));
        assert_eq!(verdict, *severity, "{provoke}: {by_doctor}");
        assert_eq!(by_doctor["run"], problem["run"], "{provoke}");
        run(&database, problem).await;
        assert_eq!(doctor::finds(&database, &[], code), None, "{provoke}");
        let (_, left) = problems(&database);
        assert!(
            left.iter().all(|left| left["code"] != *code),
            "{provoke}: the remedy does not help: {left:?}"
        );
        // The planter's case leaves roles behind, which belong to the cluster.
        if *code == "function-planted" {
            database
                .client()
                .await
                .batch_execute(
                    "DROP TABLE a; DROP OWNED BY planter, keeper; DROP ROLE planter, keeper",
                )
                .await
                .unwrap();
        } else {
            assert!(left.is_empty(), "{provoke}: {left:?}");
        }
    }
}

/// A trigger that pgic did not make must be replaced by name, not joined by a second one: every
/// change would be announced twice.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_s_trigger_is_replaced_by_what_is_printed() {
    let trigger = "CREATE TRIGGER mine AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE \
        FUNCTION notify_cache_change();";
    let set_up = format!("{TABLE}{SPECIFICATION}{trigger}");
    for (code, provoke) in [
        ("plain-form", "SELECT 1"),
        ("truncate-missing", "SELECT 1"),
        (
            "key-changed",
            "ALTER TABLE a DROP CONSTRAINT a_pkey; ALTER TABLE a ADD PRIMARY KEY (other)",
        ),
        ("trigger-disabled", "ALTER TABLE a DISABLE TRIGGER mine"),
    ] {
        let database = Database::with(&set_up).await;
        database
            .client()
            .await
            .batch_execute(provoke)
            .await
            .unwrap();
        let (_, found) = problems(&database);
        let problem = found
            .iter()
            .find(|problem| problem["code"] == code)
            .unwrap_or_else(|| panic!("{code}: {found:?}"));
        run(&database, problem).await;
        let (_, left) = problems(&database);
        assert!(
            left.iter().all(|left| left["code"] != code),
            "{code}: {left:?}"
        );
    }
}

/// Returns the problems that `status` finds with all tables.
fn all_problems(database: &Database) -> Vec<Value> {
    let tables = database.pgic(&["status", "-o", "json"]).json();
    tables
        .iter()
        .filter_map(|table| table["problems"].as_array())
        .flatten()
        .cloned()
        .collect()
}

/// A table's function stands in the table's schema, and the name of that schema is in the
/// function's text. After a rename the remedies must find both, and removal must leave nothing
/// behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_renamed_and_two_that_swap_are_refreshed_and_removed_as_advised() {
    let schemas = "CREATE SCHEMA one; CREATE TABLE one.users (id int PRIMARY KEY, a int);
        CREATE SCHEMA two; CREATE TABLE two.users (id int PRIMARY KEY, b text);";
    for ddl in [
        "ALTER SCHEMA one RENAME TO uno",
        "ALTER SCHEMA one RENAME TO x; ALTER SCHEMA two RENAME TO one; ALTER SCHEMA x RENAME TO \
        two",
    ] {
        let database = Database::with(schemas).await;
        database.pgic_ok(&["install-triggers", "one.users", "two.users"]);
        let client = database.client().await;
        client.batch_execute(ddl).await.unwrap();
        let found = all_problems(&database);
        assert!(
            !found.is_empty()
                && found
                    .iter()
                    .all(|problem| problem["code"] == "another-name"),
            "{ddl}: {found:?}"
        );
        for problem in &found {
            run(&database, problem).await;
        }
        assert_eq!(all_problems(&database), Vec::<Value>::new(), "{ddl}");
        assert_eq!(database.pgic(&["status"]).code, 0, "{ddl}");
        database.pgic_ok(&["remove-triggers", "--all", "--yes"]);
        let left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'notify_cache_change%'";
        assert_eq!(
            client.query_one(left, &[]).await.unwrap().get::<_, i64>(0),
            0,
            "{ddl}: nothing is left"
        );
        let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%cache_notify%'";
        assert_eq!(
            client.query_one(left, &[]).await.unwrap().get::<_, i64>(0),
            0,
            "{ddl}: nothing is left"
        );
    }
}

/// Logical replication applies rows as `session_replication_role = replica`: ordinary triggers do
/// not fire, and caches of a subscriber miss every change. The subscription may come long after the
/// triggers.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_s_trigger_must_fire_always_also_when_the_subscription_comes_later() {
    let publisher = Database::with(&format!("{TABLE} CREATE PUBLICATION p FOR TABLE a;")).await;
    let subscriber = Database::with(TABLE).await;
    subscriber.pgic_ok(INSTALL);
    let mut shell = Shell::start(&subscriber, &["-o", "json", "a"]);
    assert_eq!(shell.ask("count a").last().unwrap()["state"], "live");
    let slot = format!("slot_{}", subscriber.name);
    let admin = publisher.client().await;
    admin
        .query(
            "SELECT pg_create_logical_replication_slot($1, 'pgoutput')",
            &[&slot],
        )
        .await
        .unwrap();
    let client = subscriber.client().await;
    let connection = publisher.url.replace('\'', "''");
    client
        .batch_execute(&format!(
            "CREATE SUBSCRIPTION s CONNECTION '{connection}' PUBLICATION p WITH (create_slot = \
            false, slot_name = '{slot}')"
        ))
        .await
        .unwrap();
    // The problem is found before the first row is lost.
    assert_eq!(shell.ask("count a").last().unwrap()["state"], "stale");
    let refused = subscriber.pgic(&["query", "a", "--watch"]);
    assert!(
        refused.code == 2 && refused.stderr.contains("logical replication"),
        "{refused:?}"
    );
    let (exit, found) = problems(&subscriber);
    assert!(exit == 1 && found[0]["code"] == "subscriber", "{found:?}");
    run(&subscriber, &found[0]).await;
    assert_eq!(problems(&subscriber), (0, Vec::new()));
    admin
        .batch_execute("INSERT INTO a VALUES (1, 1, 1)")
        .await
        .unwrap();
    let arrives = async {
        while client
            .query_one("SELECT count(*) FROM a", &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, arrives)
        .await
        .expect("the row is replicated");
    let answer = shell.ask("count a");
    assert_eq!(
        (&answer[0]["count"], &answer[1]["state"]),
        (&Value::from(1), &Value::from("live"))
    );
    client
        .batch_execute(
            "ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); \
            DROP SUBSCRIPTION s",
        )
        .await
        .unwrap();
    let dropped = async {
        while admin
            .query("SELECT pg_drop_replication_slot($1)", &[&slot])
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, dropped)
        .await
        .expect("the slot is let go");
}

/// `ENABLE TRIGGER ALL` or `USER` would mend the partition, and also enable a trigger that somebody
/// disabled on purpose.
#[tokio::test(flavor = "multi_thread")]
async fn a_remedy_for_a_partition_s_trigger_leaves_the_other_triggers_as_they_are() {
    let audit =
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER audit AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION audit();";
    let database = Database::with(&format!("{PARTITIONED} {audit}")).await;
    database.pgic_ok(INSTALL);
    let client = database.client().await;
    let disable =
        "ALTER TABLE a_1 DISABLE TRIGGER audit; ALTER TABLE a_1 DISABLE TRIGGER a_cache_notify";
    client.batch_execute(disable).await.unwrap();
    let (_, found) = problems(&database);
    run(&database, &found[0]).await;
    assert_eq!(problems(&database), (0, Vec::new()));
    let audit = "SELECT tgenabled::text FROM pg_trigger WHERE tgrelid = 'a_1'::regclass AND tgname \
        = 'audit'";
    assert_eq!(
        client
            .query_one(audit, &[])
            .await
            .unwrap()
            .get::<_, String>(0),
        "D",
        "it was disabled on purpose"
    );
}

/// A subscription can write to a partition directly. Then the state of the partition's own trigger
/// counts, not that of the root.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_logical_replication_writes_to_must_have_an_always_trigger_of_its_own() {
    let database = Database::with(PARTITIONED).await;
    database.pgic_ok(&["install-triggers", "a", "--always"]);
    let mut shell = Shell::start(&database, &["-o", "json", "a"]);
    assert_eq!(shell.ask("count a").last().unwrap()["state"], "live");
    let client = database.client().await;
    // The row that CREATE SUBSCRIPTION leaves behind, without a publisher.
    client
        .batch_execute(
            "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) VALUES (1, \
            'a_1'::regclass, 'r');
             ALTER TABLE a_1 ENABLE TRIGGER a_cache_notify",
        )
        .await
        .unwrap();
    assert_eq!(shell.ask("count a").last().unwrap()["state"], "stale");
    let (exit, found) = problems(&database);
    assert!(
        exit == 1 && found[0]["code"] == "trigger-disabled",
        "{found:?}"
    );
    run(&database, &found[0]).await;
    assert_eq!(problems(&database), (0, Vec::new()));
    client
        .batch_execute("SET session_replication_role = replica; INSERT INTO a VALUES (1, 1)")
        .await
        .unwrap();
    let answer = shell.ask("count a");
    assert_eq!(
        (&answer[0]["count"], &answer[1]["state"]),
        (&Value::from(1), &Value::from("live"))
    );
}
