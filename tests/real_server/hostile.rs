//! A database that others share who mean harm: nobody's code runs as the operator, the reader or
//! the writer.

use crate::support::{Database, run};
use std::io::Write as _;
use std::process::Stdio;
use tokio_postgres::Client;

/// A twin of every function and operator of pg_catalog that can have one, in a schema of its own:
/// whoever means one of PostgreSQL's without saying so, on a search_path that begins with the
/// schema, runs the twin.
const TWINS: &str = r"
    CREATE SCHEMA evil;
    DO $do$
    DECLARE twin record;
    BEGIN
      FOR twin IN
        SELECT format('CREATE FUNCTION evil.%I(%s) RETURNS %s%s LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''a twin of %s''''; END''',
          p.proname, pg_get_function_identity_arguments(p.oid), CASE WHEN p.proretset THEN 'SETOF ' END,
          format_type(p.prorettype, NULL), p.proname) AS sql
        FROM pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
          AND NOT ARRAY[2275, 2281]::oid[] && (p.proargtypes::oid[] || p.prorettype)
      LOOP
        BEGIN EXECUTE twin.sql; EXCEPTION WHEN OTHERS THEN NULL; END;
      END LOOP;
      FOR twin IN
        SELECT format('CREATE FUNCTION evil.twin_%s(%s) RETURNS %s LANGUAGE plpgsql AS ''BEGIN RAISE EXCEPTION ''''a twin of %s''''; END'';
          CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil.twin_%s)',
          o.oid, concat_ws(', ', nullif(format_type(o.oprleft, NULL), '-'), format_type(o.oprright, NULL)),
          format_type(o.oprresult, NULL), replace(o.oprname, '%', '%%'), o.oprname,
          CASE WHEN o.oprleft <> 0 THEN format('LEFTARG = %s,', format_type(o.oprleft, NULL)) END,
          format_type(o.oprright, NULL), o.oid) AS sql
        FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprright <> 0
      LOOP
        BEGIN EXECUTE twin.sql; EXCEPTION WHEN OTHERS THEN NULL; END;
      END LOOP;
    END $do$;
    CREATE TABLE evil.pg_class (a int); CREATE TABLE evil.pg_trigger (a int); CREATE TABLE evil.pg_attribute (a int);
    GRANT USAGE ON SCHEMA evil TO PUBLIC;";

const USERS: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE DOMAIN small AS int CHECK (VALUE < 1000);
    CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, mood mood, sizes small[], at \
    timestamptz, price numeric);
    INSERT INTO users SELECT n, 'user' || n, 'sad', '{1,2}', '2026-01-01', 1.5 FROM \
    generate_series(1, 20) n;
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (100);";

/// How many twins were called, told by the server's own statistics: also of calls that failed.
async fn calls(client: &Client) -> Vec<String> {
    let sql = "SELECT funcname FROM pg_catalog.pg_stat_user_functions WHERE schemaname \
        OPERATOR(pg_catalog.=) 'evil'";
    client
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_means_what_a_schema_of_the_search_path_holds() {
    let database = Database::with(&format!("{USERS}{TWINS}")).await;
    let admin = database.client().await;
    let twins = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'evil'::regnamespace";
    assert!(
        admin.query_one(twins, &[]).await.unwrap().get::<_, i64>(0) > 2_000,
        "there are twins"
    );
    let settings = format!(
        "ALTER DATABASE {0} SET search_path = evil, pg_catalog, public; ALTER DATABASE {0} SET \
        track_functions = 'all'",
        database.name
    );
    admin.batch_execute(&settings).await.unwrap();
    let hurt = database
        .client()
        .await
        .query("SELECT lower('A')", &[])
        .await
        .unwrap_err();
    assert!(
        format!("{hurt:?}").contains("a twin of lower"),
        "the twins are meant by others: {hurt:?}"
    );

    let ok = |arguments: &[&str]| database.pgic_ok(arguments);
    assert!(ok(&["install-triggers", "users", "parts", "--dry-run"]).contains("would be created"));
    let migration = ok(&["install-triggers", "users", "parts", "--print-sql"]);
    ok(&["install-triggers", "users", "parts"]);
    ok(&[
        "install-triggers",
        "users",
        "--defaults",
        "--columns",
        "name,mood",
        "--on-change",
    ]);
    ok(&["install-triggers", "users", "--defaults"]);
    assert!(ok(&["status"]).contains("20 of 20") || ok(&["status"]).contains("0 of 20"));
    ok(&["status", "users", "-o", "json"]);
    assert_eq!(ok(&["query", "users", "id=7", "--count"]), "1\n");
    assert_eq!(
        ok(&[
            "query",
            "users",
            "mood=sad",
            "price=1.50",
            "at=2026-01-01",
            "sizes={1,2}",
            "--count"
        ]),
        "20\n"
    );
    assert_eq!(
        ok(&[
            "query",
            "users",
            "id:=1+1",
            "name:=concat('user', 2)",
            "--count"
        ]),
        "1\n"
    );
    ok(&["verify", "users", "parts", "--rounds", "2"]);
    let tail = database.tail(&["--count", "3"]);
    let writer = database.client().await;
    let writes = "INSERT INTO public.users VALUES (101, 'x', 'glad', '{3}', NULL, 2);
        UPDATE public.users SET id = 102 WHERE id OPERATOR(pg_catalog.=) 101";
    writer.batch_execute(writes).await.unwrap();
    let (code, changes, stderr) = tail.finish();
    assert_eq!((code, changes.len()), (0, 3), "{stderr}");
    assert!(
        changes.iter().all(|change| change["action"] != "reload"),
        "{changes:?}"
    );
    let mut shell = database.command(&["shell", "users"]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "users mood=glad\ncount users price=1.5\n.verify users\n.history users \
        101\n.stats\n.tables\n";
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let shell = crate::support::ended(shell);
    assert_eq!(
        (shell.code, shell.stderr.contains("twin")),
        (0, false),
        "{shell:?}"
    );
    assert!(shell.stdout.contains("equal"), "{shell:?}");
    ok(&["remove-triggers", "--all", "--dry-run"]);
    ok(&["remove-triggers", "--all"]);
    // What is printed for a migration is run by somebody else's session.
    database
        .client()
        .await
        .batch_execute(&migration)
        .await
        .unwrap();
    assert!(ok(&["install-triggers", "users", "parts"]).contains("unchanged"));
    drop((writer, admin));
    // Each session has told the statistics by the time that it is gone.
    let admin = database.client().await;
    admin
        .batch_execute("SET search_path = pg_catalog")
        .await
        .unwrap();
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid \
        <> pg_backend_pid()";
    while admin.query_one(others, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
    let called: Vec<String> = calls(&admin)
        .await
        .into_iter()
        .filter(|name| name != "lower")
        .collect();
    assert_eq!(called, Vec::<String>::new());
}

/// Types of somebody's own, with casts to json and to text that are to be run by nobody.
const CASTS: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, m mood); CREATE DOMAIN \
    feeling AS mood;
    CREATE TYPE moods AS RANGE (subtype = mood);
    CREATE TABLE people (id int PRIMARY KEY, m mood, ms mood[], p pair, ps pair[], f feeling, fs \
    feeling[], r moods);
    CREATE TABLE moody (m mood PRIMARY KEY, n int);";

/// The casts, made after the triggers.
const MADE: &str = "
    CREATE FUNCTION to_j(mood) RETURNS json LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a cast \
    ran as %'', current_user; END';
    CREATE FUNCTION to_j(pair) RETURNS json LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a cast \
    ran as %'', current_user; END';
    CREATE FUNCTION to_j(moods) RETURNS json LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a cast \
    ran as %'', current_user; END';
    CREATE FUNCTION to_t(mood) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a cast \
    ran as %'', current_user; END';
    CREATE FUNCTION from_t(text) RETURNS mood LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''a cast \
    ran as %'', current_user; END';
    CREATE CAST (mood AS json) WITH FUNCTION to_j(mood); CREATE CAST (pair AS json) WITH FUNCTION \
    to_j(pair);
    CREATE CAST (moods AS json) WITH FUNCTION to_j(moods); CREATE CAST (mood AS text) WITH \
    FUNCTION to_t(mood);
    CREATE CAST (text AS mood) WITH FUNCTION from_t(text);";

const ROW: &str =
    "'sad', '{glad,sad}', '(1,sad)', '{\"(2,glad)\",NULL}', 'glad', '{sad}', '[sad,glad]'";

/// What the row is, of which no cast was called.
const SEEN: &str = r#""m":"sad","ms":["glad","sad"],"p":"(1,sad)","ps":["(2,glad)",null],"f":"glad","fs":["sad"],"r":"[sad,glad]""#;

#[tokio::test(flavor = "multi_thread")]
async fn no_cast_of_somebodys_own_runs_as_the_writer_or_the_reader() {
    for options in [
        &[][..],
        &["--columns", "m,ms,p,ps,f,fs,r"],
        &["--on-change"],
        &["--generic"],
    ] {
        let database = Database::with(CASTS).await;
        database.pgic_ok(&[&["install-triggers", "people"], options].concat());
        if options != ["--generic"] {
            database.pgic_ok(&["install-triggers", "moody"]);
        }
        let writer = database.client().await;
        writer.batch_execute(MADE).await.unwrap();
        let mut listening = database.listen().await;
        writer
            .batch_execute(&format!("INSERT INTO people VALUES (1, {ROW})"))
            .await
            .unwrap();
        writer
            .batch_execute(
                "UPDATE people SET id = 2; INSERT INTO moody VALUES ('sad', 1), ('glad', 2)",
            )
            .await
            .unwrap();
        let payloads = listening.payloads().await;
        assert!(
            payloads[0].contains(SEEN) && !payloads[0].contains("reload"),
            "{options:?}: {payloads:?}"
        );
        assert!(
            !payloads.iter().any(|payload| payload.contains("reload")),
            "{options:?}: {payloads:?}"
        );
        for conditions in [
            &["m=sad"][..],
            &["ms={glad,sad}", "p=(1,sad)", "f=glad", "r=[sad,glad]"],
        ] {
            let shown =
                database.pgic_ok(&[&["query", "people", "-o", "json"], conditions].concat());
            assert_eq!(
                shown,
                format!("{{\"id\":2,{SEEN}}}\n"),
                "{options:?} {conditions:?}"
            );
        }
        if options != ["--generic"] {
            let computed = database.pgic_ok(&["query", "moody", "m:=concat('sa', 'd')", "--count"]);
            assert_eq!(computed, "1\n");
        }
        let tables: &[&str] = if options == ["--generic"] {
            &["people"]
        } else {
            &["people", "moody"]
        };
        database.pgic_ok(&[&["verify", "--rounds", "1"], tables].concat());
        database.pgic_ok(&["status"]);
    }
}

/// Constraints of domains are somebody's code as well, which an input function calls.
#[tokio::test(flavor = "multi_thread")]
async fn no_constraint_of_a_domain_runs_as_the_reader() {
    let tables = "
        CREATE TABLE ran (as_whom text);
        CREATE FUNCTION checked(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN \
        coalesce(current_setting(''evil.off'', true), '''') = ''on''; END';
        CREATE DOMAIN small AS int; CREATE TYPE twin AS (a small, b small);
        CREATE TABLE a (id small PRIMARY KEY, many small[], b twin);
        CREATE TABLE b (id twin PRIMARY KEY, n int); CREATE TABLE c (id small[] PRIMARY KEY, n int);
        INSERT INTO a VALUES (1, '{1,2}', '(1,2)'); INSERT INTO b VALUES ('(1,2)', 1); INSERT INTO \
        c VALUES ('{1,2}', 1);";
    let database = Database::with(tables).await;
    database.pgic_ok(&["install-triggers", "a", "b", "c", "--no-data"]);
    let admin = database.client().await;
    admin
        .batch_execute("ALTER DOMAIN small ADD CONSTRAINT c CHECK (checked(VALUE)) NOT VALID")
        .await
        .unwrap();
    for conditions in [
        &["a", "id=1"][..],
        &["a", "many={1,2}", "b=(1,2)"],
        &["b", "id=(1,2)"],
        &["c", "id={1,2}"],
    ] {
        assert_eq!(
            database.pgic_ok(&[&["query", "--count"], conditions].concat()),
            "1\n",
            "{conditions:?}"
        );
    }
    // Keys alone are sent: the rows are read again by them.
    let mut shell = database.command(&["shell", "a", "b", "c", "-o", "json"]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let lines = crate::support::lines_of(shell.stdout.take().unwrap());
    let mut ask = |line: &str| {
        writeln!(stdin, "{line}").unwrap();
        let mut answer = Vec::new();
        loop {
            let value: serde_json::Value = serde_json::from_str(&lines.recv().unwrap()).unwrap();
            let is_end = value["event"] == "end";
            answer.push(value);
            if is_end {
                return answer;
            }
        }
    };
    ask("count a");
    let write =
        "SET evil.off = 'on'; UPDATE a SET many = '{3}'; UPDATE b SET n = 3; UPDATE c SET n = 3";
    database.client().await.batch_execute(write).await.unwrap();
    for line in ["count a many={3}", "count b n=3", "count c n=3"] {
        let answer = ask(line);
        assert!(answer[0]["count"] == 1, "{line}: {answer:?}");
    }
    let stats = ask(".stats");
    assert!(
        stats
            .iter()
            .all(|line| line["reloads"] == 0 || line["reloads"].is_null()),
        "{stats:?}"
    );
    drop(stdin);
    let _ = shell.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_policy_of_a_table_is_evaluated() {
    let database = Database::with(
        "CREATE TABLE mine (id int PRIMARY KEY); INSERT INTO mine VALUES (1);
         CREATE FUNCTION peek() RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
         ALTER TABLE mine ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON mine USING (peek());",
    )
    .await;
    database.pgic_ok(&["install-triggers", "mine"]);
    let admin = database.client().await;
    let role = format!("ops_{}", database.name);
    let setup = format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON mine TO {role}; ALTER DATABASE {} SET \
        track_functions = 'all'",
        database.name
    );
    admin.batch_execute(&setup).await.unwrap();
    for (arguments, code) in [
        (&["status"][..], 0),
        (&["status", "mine"], 0),
        (&["query", "mine"], 2),
        (&["verify", "mine", "--rounds", "1"], 2),
    ] {
        let mut command = database.command(arguments);
        command.env(
            "DATABASE_URL",
            database.url.replace("postgres@", &format!("{role}@")),
        );
        let ran = run(command);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(
            code == 0 || ran.stderr.contains("row-level security"),
            "{ran:?}"
        );
    }
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid \
        <> pg_backend_pid()";
    while admin.query_one(others, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
    let called = admin
        .query(
            "SELECT funcname FROM pg_stat_user_functions WHERE schemaname <> 'pg_catalog'",
            &[],
        )
        .await
        .unwrap();
    let called: Vec<String> = called.iter().map(|row| row.get(0)).collect();
    assert_eq!(called, Vec::<String>::new(), "a policy was evaluated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_does_not_own_a_table_installs_nothing() {
    let database = Database::with("CREATE TABLE t (id int PRIMARY KEY)").await;
    let role = format!("guest_{}", database.name);
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON t TO {role}; GRANT ALL ON SCHEMA public TO {role}"
    );
    database
        .client()
        .await
        .batch_execute(&grants)
        .await
        .unwrap();
    let mut command = database.command(&["install-triggers", "t"]);
    command.env(
        "DATABASE_URL",
        database.url.replace("postgres@", &format!("{role}@")),
    );
    let ran = run(command);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.stderr.contains("public.t belongs to postgres"),
        "{ran:?}"
    );
}

/// A role whose transactions are serializable, read-only and deferrable by default waits for
/// others' before its first statement.
#[tokio::test(flavor = "multi_thread")]
async fn no_default_of_a_role_makes_a_command_wait_without_end() {
    let database =
        Database::with("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let admin = database.client().await;
    let defaults = format!(
        "ALTER DATABASE {0} SET default_transaction_isolation = serializable; ALTER DATABASE {0} \
        SET default_transaction_deferrable = on;
         ALTER DATABASE {0} SET default_transaction_read_only = on",
        database.name
    );
    admin.batch_execute(&defaults).await.unwrap();
    // As long as this goes on, a deferrable one waits.
    let writer = database.client().await;
    writer
        .batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE; INSERT INTO t VALUES (2)")
        .await
        .unwrap();
    // It is not announced yet, which is what verify finds.
    let verify = ["verify", "t", "--rounds", "1"];
    for (arguments, code) in [
        (&["status"][..], 0),
        (&["install-triggers", "t", "--dry-run"], 0),
        (&["query", "t"], 0),
        (&verify, 1),
    ] {
        assert_eq!(database.pgic(arguments).code, code, "{arguments:?}");
    }
    let tail = database.tail(&["--count", "1"]);
    writer.batch_execute("COMMIT").await.unwrap();
    database.pgic_ok(&["install-triggers", "t"]);
    writer
        .batch_execute(
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE; INSERT INTO t VALUES (3); COMMIT",
        )
        .await
        .unwrap();
    assert_eq!(tail.finish().0, 0);
    database.pgic_ok(&["remove-triggers", "--all"]);
}

/// A table of somebody who is no superuser, whose functions run while a query of it is planned:
/// they are immutable and have constant arguments.
fn planted(role: &str, column: &str, plant: &str) -> String {
    format!(
        "CREATE ROLE {role} LOGIN; CREATE SCHEMA m AUTHORIZATION {role}; GRANT ALL ON SCHEMA \
        public TO {role}; SET ROLE {role};
         CREATE FUNCTION m.evil(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
           'BEGIN IF current_user <> ''{role}'' THEN RAISE EXCEPTION ''evil runs as %'', \
           current_user; END IF; RETURN 1; END';
         CREATE TABLE m.t (id int PRIMARY KEY, a int, v text {column}); INSERT INTO m.t (id, a) \
         SELECT g, g FROM generate_series(1, 3) g;
         {plant}; RESET ROLE"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_function_runs_while_a_query_of_a_superusers_is_planned() {
    for (number, plant) in [
        "CREATE INDEX ON m.t ((a + m.evil(1)))",
        "CREATE INDEX ON m.t (a) WHERE m.evil(1) = 1",
        "CREATE STATISTICS m.s ON (a + m.evil(1)), a FROM m.t",
    ]
    .iter()
    .enumerate()
    {
        // PostgreSQL 13 has no statistics of expressions.
        if number == 2 && crate::support::cluster().version() < 14 {
            continue;
        }
        let database = Database::with("").await;
        let role = format!("m{number}_{}", database.name);
        let admin = database.client().await;
        admin
            .batch_execute(&planted(&role, "", plant))
            .await
            .unwrap();
        let hurt = admin
            .simple_query("SELECT * FROM m.t WHERE a = 1")
            .await
            .unwrap_err();
        assert!(
            format!("{hurt:?}").contains("evil runs as postgres"),
            "{hurt:?}"
        );
        // Its own triggers run with everybody's rights; that pgic makes them is what counts here.
        database.pgic_ok(&["install-triggers", "m.t"]);
        assert_eq!(
            database.pgic_ok(&["query", "m.t", "a=2", "--columns", "a", "-o", "json"]),
            "{\"a\":2}\n",
            "{plant}"
        );
        database.pgic_ok(&["status"]);
        let mut shell = database.command(&["shell", "m.t"]);
        let mut shell = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        let lines = crate::support::lines_of(shell.stdout.take().unwrap());
        writeln!(stdin, "count m.t").unwrap();
        assert_eq!(lines.recv().unwrap(), "3");
        // A row that is too long to be sent is read again: not by its key, which would take a
        // query.
        let owner = database.client_as(&role).await;
        owner
            .batch_execute("UPDATE m.t SET v = repeat('x', 9000) WHERE id = 1")
            .await
            .unwrap();
        writeln!(stdin, "count m.t v=null").unwrap();
        assert_eq!(lines.recv().unwrap(), "2", "{plant}");
        writeln!(stdin, ".verify m.t").unwrap();
        assert!(lines.recv().unwrap().starts_with("equal"), "{plant}");
        drop(stdin);
        let _ = shell.wait();
        assert!(
            database
                .pgic_ok(&["verify", "m.t", "--rounds", "1"])
                .contains("equal")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_takes_a_query_is_refused_where_that_would_run_its_owners_functions() {
    let database = Database::with("").await;
    let role = format!("q_{}", database.name);
    let admin = database.client().await;
    admin
        .batch_execute(&planted(
            &role,
            ", i interval",
            "CREATE INDEX ON m.t ((a + m.evil(1)))",
        ))
        .await
        .unwrap();
    database.pgic_ok(&["install-triggers", "m.t"]);
    for arguments in [
        &["query", "m.t"][..],
        &["verify", "m.t", "--rounds", "1"],
        &["shell", "m.t"],
    ] {
        let ran = database.pgic(arguments);
        assert!(
            ran.code == 2
                && ran
                    .stderr
                    .contains(&format!("would run m.evil, a function of {role}")),
            "{ran:?}"
        );
    }
    database.pgic_ok(&["status"]);
    // Whose functions they are may read it, and so may a role that is no superuser.
    let mut command = database.command(&["query", "m.t", "--count"]);
    command.env(
        "DATABASE_URL",
        database.url.replace("postgres@", &format!("{role}@")),
    );
    assert_eq!(run(command).stdout, "3\n");
    admin
        .batch_execute("DROP INDEX m.t_expr_idx")
        .await
        .unwrap();
    assert_eq!(database.pgic_ok(&["query", "m.t", "--count"]), "3\n");
}
