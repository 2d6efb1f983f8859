//! The least that a role needs for each command, as `SECURITY.md` lists the privileges.

use crate::support::{DEADLINE, Database, Ran, run};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

const TABLE: &str = "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, name text, secret \
    text) WITH (autovacuum_enabled = off);
    INSERT INTO app.t SELECT n, 'name' || n, 'secret' FROM generate_series(1, 100) n;";

/// A database with a role that has a login and nothing else.
struct Poor {
    database: Database,
    role: String,
}

impl Poor {
    /// Creates the role, and a table whose trigger sends two of its three columns.
    async fn new() -> Self {
        let database = Database::with(TABLE).await;
        database.pgic_ok(&["install-triggers", "app.t", "--columns", "id,name"]);
        let role = format!("poor_{}", database.name);
        database
            .client()
            .await
            .batch_execute(&format!("CREATE ROLE {role} LOGIN"))
            .await
            .unwrap();
        Self { database, role }
    }

    /// Grants a privilege to the role.
    async fn grant(&self, privilege: &str) {
        let sql = format!("GRANT {privilege} TO {}", self.role);
        self.database
            .client()
            .await
            .batch_execute(&sql)
            .await
            .unwrap();
    }

    /// Prepares `pgic` with these arguments, as the role.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.database.command(arguments);
        command.env(
            "DATABASE_URL",
            self.database
                .url
                .replace("postgres@", &format!("{}@", self.role)),
        );
        command
    }

    /// Runs `pgic` with these arguments, as the role.
    fn pgic(&self, arguments: &[&str]) -> Ran {
        run(self.command(arguments))
    }

    /// Runs `pgic`, which must succeed, as the role. Returns the command's stdout.
    fn pgic_ok(&self, arguments: &[&str]) -> String {
        let ran = self.pgic(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran.stdout
    }
}

/// PostgreSQL lets any role LISTEN and read the catalogue, so `tail`, `status` and `--print-sql`
/// must not ask for more than a login.
#[tokio::test(flavor = "multi_thread")]
async fn to_listen_and_to_look_takes_a_login_alone() {
    let poor = Poor::new().await;
    let tail = crate::support::Tail::start(poor.command(&["tail", "-o", "json", "--count", "1"]));
    poor.database
        .client()
        .await
        .batch_execute("UPDATE app.t SET name = 'x' WHERE id = 1")
        .await
        .unwrap();
    assert_eq!(tail.finish().0, 0);
    // `--print-sql` is for a role that hands the script to somebody else.
    for arguments in [
        &["status"][..],
        &["status", "app.t"],
        &["install-triggers", "app.t", "--print-sql"],
    ] {
        let ran = poor.pgic(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    }
    // A command that the role may not run is refused before anything is changed.
    for (arguments, says) in [
        (&["query", "app.t"][..], "permission denied"),
        (&["install-triggers", "app.t"], "belongs to postgres"),
        (&["remove-triggers", "app.t"], "belongs to postgres"),
    ] {
        let ran = poor.pgic(arguments);
        assert!(
            ran.code == 2 && ran.stderr.contains(says),
            "{arguments:?}: {ran:?}"
        );
    }
}

/// LOCK TABLE fails for a role that has SELECT on columns alone. Such a role must still be able to
/// follow the table: a node often may not see the secret columns.
#[tokio::test(flavor = "multi_thread")]
async fn to_follow_takes_select_on_the_columns_that_are_sent() {
    let poor = Poor::new().await;
    poor.grant("USAGE ON SCHEMA app").await;
    poor.grant("SELECT (id, name) ON app.t").await;
    assert_eq!(
        poor.pgic_ok(&["query", "app.t", "name=name7", "-o", "json"]),
        "{\"id\":7,\"name\":\"name7\"}\n"
    );
    let verified = poor.pgic_ok(&["verify", "app.t", "--rounds", "1"]);
    assert!(verified.contains("equal"), "{verified}");
    // The shell follows the table with a driver of its own, and `.verify` compares the columns that
    // the role may read.
    let mut shell = poor.command(&["shell", "app.t"]);
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(b"count t name=name8\n.verify t\n")
        .unwrap();
    let shell = crate::support::ended(shell);
    assert!(
        shell.code == 0 && shell.stdout.starts_with("1\n") && shell.stdout.contains("equal"),
        "{shell:?}"
    );
}

/// A role that may not LOCK a table locks it by a query that returns no row. The snapshot of the
/// read is then older than the lock:
///
/// 1. A migration holds the table's lock. The query has its snapshot, and waits.
/// 2. The migration truncates or rewrites the table, and commits.
/// 3. The query gets the lock. The old snapshot sees none of the rows in the new files, so the
///    cache would be empty.
///
/// So the table is read again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_rewritten_between_the_snapshot_and_the_lock_is_read_again() {
    for rewrite in [
        "TRUNCATE app.t; INSERT INTO app.t VALUES (1000, 'new', '')",
        "DELETE FROM app.t; INSERT INTO app.t VALUES (1000, 'new', ''); ALTER TABLE app.t ALTER \
        name TYPE varchar(3) USING 'new'",
    ] {
        let poor = Poor::new().await;
        poor.grant("USAGE ON SCHEMA app").await;
        poor.grant("SELECT (id, name) ON app.t").await;
        let admin = poor.database.client().await;
        admin
            .batch_execute(&format!("BEGIN; LOCK TABLE app.t; {rewrite}"))
            .await
            .unwrap();
        // The query's snapshot is from before the rewrite: the migration's lock holds its read up.
        let mut query = poor.command(&["query", "app.t", "-o", "json"]);
        let query = query
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let give_up = Instant::now() + DEADLINE;
        let waiting =
            "SELECT count(*) FROM pg_locks l WHERE NOT granted AND relation = 'app.t'::regclass";
        while admin
            .query_one(waiting, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
            assert!(Instant::now() < give_up, "it does not wait for the lock");
        }
        admin.batch_execute("COMMIT").await.unwrap();
        let ran = crate::support::ended(query);
        assert_eq!(
            (ran.code, &*ran.stdout),
            (0, "{\"id\":1000,\"name\":\"new\"}\n"),
            "{rewrite}: {ran:?}"
        );
    }
}
