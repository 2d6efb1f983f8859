//! A database that is shared with somebody who means harm: none of their code runs with the rights
//! of the operator, the reader or the writer.
//!
//! PostgreSQL runs the code of others in more places than one expects: a name that is not
//! qualified, a cast, a domain's constraint, a policy, a constant part of an index. Each test here
//! plants code in one of these places that fails or is counted when called, and then runs the
//! commands.

use crate::support::{Database, Ran, cluster, ended, lines_of, run};
use serde_json::Value;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::Receiver;
use tokio_postgres::Client;

/// A twin of every function and operator of pg_catalog that can have one, in the schema `evil`.
/// Whoever uses one of PostgreSQL's without its schema, on a search_path that begins with `evil`,
/// runs the twin, which fails. Those that take or return pseudo-types (2275 is cstring, 2281 is
/// internal) can have no twin in PL/pgSQL.
const TWINS: &str = r"
    CREATE SCHEMA evil;
    DO $do$
    DECLARE twin record;
    BEGIN
      FOR twin IN
        SELECT format('CREATE FUNCTION evil.%I(%s) RETURNS %s%s LANGUAGE plpgsql
            AS ''BEGIN RAISE EXCEPTION ''''a twin of %s''''; END''',
          p.proname, pg_get_function_identity_arguments(p.oid),
          CASE WHEN p.proretset THEN 'SETOF ' END,
          format_type(p.prorettype, NULL), p.proname) AS sql
        FROM pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
          AND NOT ARRAY[2275, 2281]::oid[] && (p.proargtypes::oid[] || p.prorettype)
      LOOP
        BEGIN EXECUTE twin.sql; EXCEPTION WHEN OTHERS THEN NULL; END;
      END LOOP;
      FOR twin IN
        SELECT format('CREATE FUNCTION evil.twin_%s(%s) RETURNS %s LANGUAGE plpgsql
            AS ''BEGIN RAISE EXCEPTION ''''a twin of %s''''; END'';
          CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil.twin_%s)',
          o.oid,
          concat_ws(', ', nullif(format_type(o.oprleft, NULL), '-'), format_type(o.oprright, NULL)),
          format_type(o.oprresult, NULL), replace(o.oprname, '%', '%%'), o.oprname,
          CASE WHEN o.oprleft <> 0 THEN format('LEFTARG = %s,', format_type(o.oprleft, NULL)) END,
          format_type(o.oprright, NULL), o.oid) AS sql
        FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprright <> 0
      LOOP
        BEGIN EXECUTE twin.sql; EXCEPTION WHEN OTHERS THEN NULL; END;
      END LOOP;
    END $do$;
    CREATE TABLE evil.pg_class (a int);
    CREATE TABLE evil.pg_trigger (a int);
    CREATE TABLE evil.pg_attribute (a int);
    GRANT USAGE ON SCHEMA evil TO PUBLIC;";

/// A table with columns of the kinds that take functions of their own, and a partitioned one.
const USERS: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE DOMAIN small AS int CHECK (VALUE < 1000);
    CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, mood mood, sizes small[], at \
    timestamptz, price numeric);
    INSERT INTO users SELECT n, 'user' || n, 'sad', '{1,2}', '2026-01-01', 1.5 FROM \
    generate_series(1, 20) n;
    CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (100);";

/// Returns the names of the twins that were called, by the server's statistics. They count calls
/// that failed as well.
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

/// Waits until all other sessions of the database are gone.
async fn until_alone(admin: &Client) {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid \
        <> pg_backend_pid()";
    while count(admin, others).await > 0 {
        tokio::task::yield_now().await;
    }
}

/// Returns the number that `sql` counts.
async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Runs `pgic` as `role` instead of the superuser.
fn run_as(database: &Database, role: &str, arguments: &[&str]) -> Ran {
    let mut command = database.command(arguments);
    let url = database.url.replace("postgres@", &format!("{role}@"));
    command.env("DATABASE_URL", url);
    run(command)
}

/// A `pgic shell` whose answers the test reads.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn start(database: &Database, arguments: &[&str]) -> Self {
        let mut child = database
            .command(&[&["shell"], arguments].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        if arguments.contains(&"json") {
            crate::support::skip_connected(&lines);
        }
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// Gives the shell a line, and returns the first line of its answer.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.lines.recv().unwrap()
    }

    /// Gives a shell with `-o json` a line, and returns its answer up to the line that ends it.
    fn ask_json(&mut self, line: &str) -> Vec<Value> {
        writeln!(self.stdin, "{line}").unwrap();
        let mut answer = Vec::new();
        loop {
            let value = crate::support::schema::event(&self.lines.recv().unwrap());
            let is_end = value["event"] == "end";
            answer.push(value);
            if is_end {
                return answer;
            }
        }
    }

    /// Ends stdin, and waits for the shell's end.
    fn end(self) {
        let Self {
            mut child, stdin, ..
        } = self;
        drop(stdin);
        let _ = child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_means_what_a_schema_of_the_search_path_holds() {
    let database = Database::with(&format!("{USERS}{TWINS}")).await;
    let admin = database.client().await;
    let twins = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'evil'::regnamespace";
    assert!(count(&admin, twins).await > 2_000, "there are twins");
    let settings = format!(
        "ALTER DATABASE {0} SET search_path = evil, pg_catalog, public; ALTER DATABASE {0} SET \
        track_functions = 'all'",
        database.name
    );
    admin.batch_execute(&settings).await.unwrap();
    // The trap works: a careless session runs the twin.
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

    let dry = database.pgic_ok(&["install-triggers", "users", "parts", "--dry-run"]);
    assert!(dry.contains("would be created"));
    let migration = database.pgic_ok(&["install-triggers", "users", "parts", "--print-sql"]);
    run_each_command(&database);
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
    run_the_shell(&database);
    database.pgic_ok(&["remove-triggers", "--all", "--dry-run"]);
    database.pgic_ok(&["remove-triggers", "--all", "--yes"]);
    // A migration is run by a migration tool, whose session has the evil search_path.
    database
        .client()
        .await
        .batch_execute(&migration)
        .await
        .unwrap();
    let again = database.pgic_ok(&["install-triggers", "users", "parts"]);
    assert!(again.contains("unchanged"));
    drop((writer, admin));
    // A session hands its statistics over when it ends, so wait until all have ended. This one must
    // call no twin itself.
    let admin = database.client().await;
    admin
        .batch_execute("SET search_path = pg_catalog")
        .await
        .unwrap();
    until_alone(&admin).await;
    // `lower` was called by the test above.
    let called: Vec<String> = calls(&admin)
        .await
        .into_iter()
        .filter(|name| name != "lower")
        .collect();
    assert_eq!(called, Vec::<String>::new());
}

/// Installs triggers with several options, and runs `status`, `query` and `verify`.
fn run_each_command(database: &Database) {
    database.pgic_ok(&["install-triggers", "users", "parts"]);
    let chosen = ["--defaults", "--columns", "name,mood", "--on-change"];
    database.pgic_ok(&[&["install-triggers", "users"], &chosen[..]].concat());
    database.pgic_ok(&["install-triggers", "users", "--defaults"]);
    database.pgic_ok(&["status"]);
    let status = database.pgic_ok(&["status", "users", "-o", "json"]);
    assert!(status.contains("\"sampled\":20"), "{status}");
    // Values of conditions are parsed by the server, and `:=` computes them there.
    for (conditions, found) in [
        (&["id=7"][..], "1\n"),
        (
            &["mood=sad", "price=1.50", "at=2026-01-01", "sizes={1,2}"],
            "20\n",
        ),
        (&["id:=1+1", "name:=concat('user', 2)"], "1\n"),
    ] {
        let arguments = [&["query", "users", "--count"], conditions].concat();
        assert_eq!(database.pgic_ok(&arguments), found, "{conditions:?}");
    }
    database.pgic_ok(&["verify", "users", "parts", "--rounds", "2"]);
}

/// Runs the shell's commands.
fn run_the_shell(database: &Database) {
    let mut child = database
        .command(&["shell", "users"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "users mood=glad\ncount users price=1.5\n.verify users\n.history users \
        101\n.stats\n.tables\n";
    // The end of the input ends the shell.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).unwrap();
    drop(stdin);
    let shell = ended(child);
    assert_eq!(shell.code, 0, "{shell:?}");
    assert!(!shell.stderr.contains("twin"), "{shell:?}");
    assert!(shell.stdout.contains("equal"), "{shell:?}");
}

/// Tables with columns of user-defined types of all kinds: enum, composite, domain, range, and
/// arrays of these.
const CASTS: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, m mood); CREATE DOMAIN \
    feeling AS mood;
    CREATE TYPE moods AS RANGE (subtype = mood);
    CREATE TABLE people (id int PRIMARY KEY, m mood, ms mood[], p pair, ps pair[], f feeling, fs \
    feeling[], r moods);
    CREATE TABLE moody (m mood PRIMARY KEY, n int);";

/// Casts of these types to json and to text, which fail when called. They are made after the
/// triggers: a check at installation would not see them.
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

/// The values of a row of `people`, as literals of SQL.
const ROW: &str =
    "'sad', '{glad,sad}', '(1,sad)', '{\"(2,glad)\",NULL}', 'glad', '{sad}', '[sad,glad]'";

/// The row [`ROW`] as JSON by the types' output functions, without any cast.
const SEEN: &str = concat!(
    r#""m":"sad","ms":["glad","sad"],"p":"(1,sad)","ps":["(2,glad)",null],"#,
    r#""f":"glad","fs":["sad"],"r":"[sad,glad]""#
);

#[tokio::test(flavor = "multi_thread")]
async fn no_cast_of_somebodys_own_runs_as_the_writer_or_the_reader() {
    // `to_json` and `row_to_json` call a cast to json if the type has one, and whoever owns the
    // type can make one. It would run as whoever writes a row.
    for options in [
        &[][..],
        &["--columns", "m,ms,p,ps,f,fs,r"],
        &["--on-change"],
        &["--generic"],
    ] {
        let database = Database::with(CASTS).await;
        database.pgic_ok(&[&["install-triggers", "people"], options].concat());
        // The generic function needs a key called id, which `moody` has not.
        let is_generic = options == ["--generic"];
        if !is_generic {
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
        // A cast that was called would fail inside the trigger's guard, and come out as a `reload`.
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
        if !is_generic {
            let computed = database.pgic_ok(&["query", "moody", "m:=concat('sa', 'd')", "--count"]);
            assert_eq!(computed, "1\n");
        }
        let tables: &[&str] = if is_generic {
            &["people"]
        } else {
            &["people", "moody"]
        };
        database.pgic_ok(&[&["verify", "--rounds", "1"], tables].concat());
        database.pgic_ok(&["status"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_constraint_of_a_domain_runs_as_the_reader() {
    // A domain's constraint is a stranger's code too. The input function of the domain calls it,
    // also deep inside arrays and composite types: each text that is turned into such a value.
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
    // The constraint is false unless the session says otherwise, so a reader that calls it fails.
    // Only the writer below sets `evil.off`.
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
    // The triggers send keys alone, so changed rows are refetched by their keys, which are such
    // values.
    let mut shell = Shell::start(&database, &["a", "b", "c", "-o", "json"]);
    shell.ask_json("count a");
    let write =
        "SET evil.off = 'on'; UPDATE a SET many = '{3}'; UPDATE b SET n = 3; UPDATE c SET n = 3";
    database.client().await.batch_execute(write).await.unwrap();
    for line in ["count a many={3}", "count b n=3", "count c n=3"] {
        let answer = shell.ask_json(line);
        assert!(answer[0]["count"] == 1, "{line}: {answer:?}");
    }
    // A reload would have hidden that the refetch failed.
    let stats = shell.ask_json(".stats");
    assert!(
        stats
            .iter()
            .all(|line| line["reloads"] == 0 || line["reloads"].is_null()),
        "{stats:?}"
    );
    shell.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_policy_of_a_table_is_evaluated() {
    // A policy is code of the table's owner, and it hides rows: a cache of a part of the table
    // would pass for the whole. Commands refuse such a table instead, and `status` reads no rows.
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
        let ran = run_as(&database, &role, arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(
            code == 0 || ran.stderr.contains("row-level security"),
            "{ran:?}"
        );
    }
    until_alone(&admin).await;
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
    // GRANT ALL includes TRIGGER, so PostgreSQL would let the role create one.
    let ran = run_as(&database, &role, &["install-triggers", "t"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.stderr.contains("public.t belongs to postgres"),
        "{ran:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_default_of_a_role_makes_a_command_wait_without_end() {
    // A transaction that is serializable, read-only and deferrable waits before its first statement
    // until no serializable writer is left. All three can be the default of a database, so every
    // transaction of ours names its modes.
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
    // As long as this transaction is open, a deferrable one waits.
    let writer = database.client().await;
    writer
        .batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE; INSERT INTO t VALUES (2)")
        .await
        .unwrap();
    // `status` and `verify` end with 1 because no trigger announces the table yet.
    let verify = ["verify", "t", "--rounds", "1"];
    for (arguments, code) in [
        (&["status"][..], 1),
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
    database.pgic_ok(&["remove-triggers", "--all", "--yes"]);
}

/// Returns statements that make a table of `role`, who is no superuser: the table has the further
/// columns `column`, and `plant` is run as `role`.
///
/// `m.evil` is immutable, so PostgreSQL computes a call with constant arguments while it plans a
/// query of the table, as whoever asks. The function fails if that is not `role`.
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
    // A mere SELECT of a superuser runs the owner's function with all rights. COPY of the table
    // does not plan a query, so the rows are read by COPY alone.
    for (number, plant) in [
        "CREATE INDEX ON m.t ((a + m.evil(1)))",
        "CREATE INDEX ON m.t (a) WHERE m.evil(1) = 1",
        "CREATE STATISTICS m.s ON (a + m.evil(1)), a FROM m.t",
    ]
    .iter()
    .enumerate()
    {
        // PostgreSQL 13 has no statistics of expressions.
        if number == 2 && cluster().version() < 14 {
            continue;
        }
        let database = Database::with("").await;
        let role = format!("m{number}_{}", database.name);
        let admin = database.client().await;
        admin
            .batch_execute(&planted(&role, "", plant))
            .await
            .unwrap();
        // The trap works.
        let hurt = admin
            .simple_query("SELECT * FROM m.t WHERE a = 1")
            .await
            .unwrap_err();
        assert!(
            format!("{hurt:?}").contains("evil runs as postgres"),
            "{hurt:?}"
        );
        // Triggers of the role's own would run as each writer. Here it matters that pgic makes the
        // triggers without planning a query of the table.
        database.pgic_ok(&["install-triggers", "m.t"]);
        assert_eq!(
            database.pgic_ok(&["query", "m.t", "a=2", "--columns", "a", "-o", "json"]),
            "{\"a\":2}\n",
            "{plant}"
        );
        database.pgic_ok(&["status"]);
        let mut shell = Shell::start(&database, &["m.t"]);
        assert_eq!(shell.ask("count m.t"), "3");
        // A row that is too long to be sent is not refetched by its key, since that would take a
        // query: the table is read again.
        let owner = database.client_as(&role).await;
        owner
            .batch_execute("UPDATE m.t SET v = repeat('x', 9000) WHERE id = 1")
            .await
            .unwrap();
        assert_eq!(shell.ask("count m.t v=null"), "2", "{plant}");
        assert!(shell.ask(".verify m.t").starts_with("equal"), "{plant}");
        shell.end();
        assert!(
            database
                .pgic_ok(&["verify", "m.t", "--rounds", "1"])
                .contains("equal")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_takes_a_query_is_refused_where_that_would_run_its_owners_functions() {
    // `interval` has no codec of its own here, so its text must be asked for by a query.
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
    // The owner may read the table: the functions are the owner's. So may any role that is no
    // superuser.
    let ran = run_as(&database, &role, &["query", "m.t", "--count"]);
    assert_eq!(ran.stdout, "3\n");
    admin
        .batch_execute("DROP INDEX m.t_expr_idx")
        .await
        .unwrap();
    assert_eq!(database.pgic_ok(&["query", "m.t", "--count"]), "3\n");
}
