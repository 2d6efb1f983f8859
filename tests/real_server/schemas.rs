//! Whole schemas: filled, announced, written to, asked and cleared.
//!
//! The schemas of `tests/schemas` have what real ones have. `scripts/schemas FOLDER` runs the same
//! test over any folder.

use crate::shell::Shell;
use crate::support::{Database, cluster};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// The rows that each table is filled with.
const ROWS: i32 = 12;

/// How many tables of a schema that has more than a hundred are asked about. All are verified.
const ASKED: usize = 12;

/// The types in the project's own schemas whose `=` is a function of somebody's own.
const REFUSED: [&str; 1] = ["citext"];

/// The types in them that have no `=`.
const INCOMPARABLE: [&str; 2] = ["json", "point"];

/// The functions that fill tables and write to them.
const LOAD: &str = include_str!("../schemas/load.sql");

/// The tables that can be filled: no partition, and nobody's extension's.
const TABLES: &str = "SELECT c.oid::regclass::text AS sql_name, c.oid, n.nspname AS schema,
        EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                WHERE t.tgrelid = c.oid AND p.proname LIKE 'notify_cache_change%') AS is_announced
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_|^information_schema$'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
    ORDER BY c.oid";

/// Returns the folder of schemas: that of the environment, else the project's own.
fn folder() -> PathBuf {
    std::env::var_os("PGIC_SCHEMAS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas"),
        PathBuf::from,
    )
}

/// Runs one of PostgreSQL's programs on a database, and returns its stdout.
fn program(name: &str, database: &Database, arguments: &[&str]) -> String {
    let ran = Command::new(cluster().program(name))
        .arg("--dbname")
        .arg(&database.url)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("run {name}: {error}"));
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{name} {arguments:?}: {stderr}");
    String::from_utf8(ran.stdout).expect("UTF-8")
}

/// A table of a schema.
struct Table {
    /// The name as SQL takes it, and pgic too.
    name: String,
    schema: String,
    oid: u32,
}

/// The counts of a run, for whoever looks on.
#[derive(Debug, Default)]
struct Counts {
    tables: usize,
    announced: usize,
    rows: i64,
    updates: usize,
    inserts: usize,
    deletes: usize,
    answers: usize,
    /// The types for which a question was refused.
    refused: BTreeSet<String>,
    /// The types that have no `=` in SQL.
    incomparable: BTreeSet<String>,
}

/// A database with a schema, and a session that fills it.
struct Loaded {
    database: Database,
    client: Client,
    counts: Counts,
}

impl Loaded {
    async fn with(file: &Path) -> Self {
        let name = file.file_stem().and_then(|name| name.to_str());
        let database = Database::with("").await;
        let file = file.to_str().expect("a path in UTF-8");
        program(
            "psql",
            &database,
            &[
                "--quiet",
                "--no-psqlrc",
                "--set=ON_ERROR_STOP=1",
                "--file",
                file,
            ],
        );
        let client = database.client().await;
        client.batch_execute(LOAD).await.expect("the functions");
        println!("{}:", name.unwrap_or_default());
        Self {
            database,
            client,
            counts: Counts::default(),
        }
    }

    /// Returns the tables; with `announced`, those that have triggers of ours.
    async fn tables(&self, announced: bool) -> Vec<Table> {
        let rows = self.client.query(TABLES, &[]).await.expect("the tables");
        rows.iter()
            .filter(|row| !announced || row.get("is_announced"))
            .map(|row| Table {
                name: row.get("sql_name"),
                schema: row.get("schema"),
                oid: row.get("oid"),
            })
            .collect()
    }

    /// Runs a function that returns whether a write was possible.
    async fn does(&self, call: &str) -> bool {
        let row = self.client.query_one(call, &[]).await;
        row.unwrap_or_else(|error| panic!("{call}: {error:?}"))
            .get(0)
    }

    /// Fills every table. Neither foreign keys nor triggers of the schema's own stand in the way.
    async fn fill(&mut self) {
        let settings = "SET session_replication_role = replica; SET search_path = ''";
        self.client.batch_execute(settings).await.expect("settings");
        let tables = self.tables(false).await;
        for Table { oid, .. } in &tables {
            for n in 1..=ROWS {
                let inserted = self
                    .does(&format!("SELECT pg_temp.insert_row({oid}, {n})"))
                    .await;
                self.counts.rows += i64::from(inserted);
            }
        }
        self.counts.tables = tables.len();
        let settings = "SET session_replication_role = origin";
        self.client.batch_execute(settings).await.expect("settings");
    }

    /// Writes to a table, as far as the schema's own rules let us. Returns the number of writes.
    async fn write(&mut self, Table { oid, .. }: &Table) -> usize {
        let mut writes = 0;
        for n in 1..=4 {
            let update = format!("SELECT pg_temp.update_row({oid}, {n})");
            let insert = format!("SELECT pg_temp.insert_row({oid}, {})", ROWS + n);
            let delete = format!("SELECT pg_temp.delete_row({oid})");
            let (updated, inserted) = (self.does(&update).await, self.does(&insert).await);
            let deleted = self.does(&delete).await;
            self.counts.updates += usize::from(updated);
            self.counts.inserts += usize::from(inserted);
            self.counts.deletes += usize::from(deleted);
            writes += usize::from(updated) + usize::from(inserted) + usize::from(deleted);
        }
        writes
    }

    /// Compares the answers of a shell with those of PostgreSQL: for each column some values.
    async fn compare(&mut self, shell: &mut Shell, table: &Table) {
        let Table { name, oid, .. } = table;
        let columns =
            "SELECT quote_ident(attname), format_type(atttypid, atttypmod) FROM pg_attribute
            WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped";
        let columns = self.client.query(columns, &[oid]).await.expect("columns");
        let counted = format!("SELECT count(*) FROM {name}");
        let expected: i64 = self
            .client
            .query_one(&counted, &[])
            .await
            .expect("a count")
            .get(0);
        let answer = shell.ask(&format!("count {name}"));
        assert_eq!(answer[0]["count"], expected, "{name}: {answer:?}");
        for column in columns {
            let (column, ty): (String, String) = (column.get(0), column.get(1));
            let values = format!(
                "SELECT DISTINCT {column}::text FROM {name} WHERE {column}::text !~ '[\\n\\r]' LIMIT 3"
            );
            for row in self.client.query(&values, &[]).await.expect("values") {
                let literal = row.get::<_, String>(0).replace('\'', "''");
                // A type without `=`, such as json and point, has no answer to compare with.
                let equal =
                    format!("SELECT count(*) FROM {name} WHERE {column} = '{literal}'::{ty}");
                let row = match self.client.query_one(&equal, &[]).await {
                    Ok(row) => row,
                    Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => {
                        self.counts.incomparable.insert(ty.clone());
                        continue;
                    }
                    Err(error) => panic!("{equal}: {error:?}"),
                };
                let expected: i64 = row.get(0);
                let question = format!("count {name} {column}='{literal}'");
                let answer = shell.ask(&question);
                // What `=` means for some types nobody knows but PostgreSQL, and pgic says so.
                let hint = answer[0]["hint"].as_str().unwrap_or_default();
                if hint.starts_with("rows are found by their text") {
                    self.counts.refused.insert(ty.clone());
                } else {
                    assert_eq!(answer[0]["count"], expected, "{question}: {answer:?}");
                    self.counts.answers += 1;
                }
            }
        }
    }
}

/// Runs one schema through everything.
async fn run(file: &Path) {
    let mut loaded = Loaded::with(file).await;
    loaded.fill().await;
    let schema = ["--schema-only"];
    let before = program("pg_dump", &loaded.database, &schema);
    let schemas: BTreeSet<String> = loaded
        .tables(false)
        .await
        .into_iter()
        .map(|table| table.schema)
        .collect();
    let mut install = vec!["install-triggers", "--all", "--skip-refused"];
    for schema in &schemas {
        install.extend(["--schema", schema]);
    }
    loaded.database.pgic_ok(&install);
    let tables = loaded.tables(true).await;
    loaded.counts.announced = tables.len();
    let names = tables.iter().map(|table| table.name.as_str());
    let arguments: Vec<&str> = ["-o", "json"].into_iter().chain(names).collect();
    let mut shell = Shell::start(&loaded.database, &arguments);
    // What is written before a table is in its cache would prove nothing.
    for table in &tables {
        shell.ask(&format!("count {}", table.name));
    }
    let mut writes = Vec::new();
    for table in &tables {
        writes.push(loaded.write(table).await);
    }
    // The operators of extensions are found by the path.
    let settings = "RESET search_path";
    loaded
        .client
        .batch_execute(settings)
        .await
        .expect("settings");
    // Each question waits for a look at every table: of many tables some are asked about.
    let every = if tables.len() > 100 {
        tables.len() / ASKED
    } else {
        1
    };
    for (at, table) in tables.iter().enumerate() {
        let verified = shell.ask(&format!(".verify {}", table.name));
        let expected = if writes[at] > 0 { "equal" } else { "unproven" };
        assert_eq!(
            verified[0]["verdict"], expected,
            "{}: {verified:?}",
            table.name
        );
        if at % every == 0 {
            loaded.compare(&mut shell, table).await;
        }
    }
    let (code, stderr) = shell.close();
    // A refused question is a failed command.
    let expected = if loaded.counts.refused.is_empty() {
        0
    } else {
        2
    };
    assert_eq!(code, expected, "{stderr}");
    loaded
        .database
        .pgic_ok(&["remove-triggers", "--all", "--yes"]);
    let after = program("pg_dump", &loaded.database, &schema);
    assert_eq!(first_difference(&before, &after), None);
    println!("  {:?}", loaded.counts);
    let counts = &loaded.counts;
    assert!(counts.rows > 0 && counts.answers > 0, "nothing was proven");
    if std::env::var_os("PGIC_SCHEMAS").is_none() {
        check_own(counts, &loaded).await;
    }
}

/// Checks what is known of the project's own schemas: that nothing was left out but what cannot be
/// done.
async fn check_own(counts: &Counts, loaded: &Loaded) {
    let keyless = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND n.nspname IN ('Shop', 'parts', 'many') AND NOT EXISTS (SELECT FROM pg_index i
                WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident))";
    let keyless: i64 = loaded
        .client
        .query_one(keyless, &[])
        .await
        .expect("a count")
        .get(0);
    assert_eq!(counts.tables, counts.announced + keyless as usize);
    assert!(
        counts.updates > 0 && counts.inserts > 0 && counts.deletes > 0,
        "{counts:?}"
    );
    let refused: Vec<&str> = counts.refused.iter().map(String::as_str).collect();
    assert!(refused.iter().all(|ty| REFUSED.contains(ty)), "{refused:?}");
    let others: Vec<&str> = counts.incomparable.iter().map(String::as_str).collect();
    assert!(
        others.iter().all(|ty| INCOMPARABLE.contains(ty)),
        "{others:?}"
    );
}

/// Returns the first line in which two dumps differ. Newer ones name a random key, which is no part
/// of the schema.
fn first_difference(before: &str, after: &str) -> Option<String> {
    let lines = |dump: &str| -> Vec<String> {
        dump.lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
            .map(str::to_string)
            .collect()
    };
    let (before, after) = (lines(before), lines(after));
    let mut difference = String::new();
    for at in 0..before.len().max(after.len()) {
        let (was, is) = (before.get(at), after.get(at));
        if was != is {
            write!(difference, "line {at}: {was:?}, then {is:?}").expect("a String");
            return Some(difference);
        }
    }
    None
}

/// What pgic says of a schema is what PostgreSQL says, and it leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn whole_schemas_are_followed_and_left_as_they_were() {
    let folder = folder();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        // Not a schema, but the functions above.
        .filter(|path| path.file_name().is_some_and(|name| name != "load.sql"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no schema", folder.display());
    for file in files {
        run(&file).await;
    }
}
