//! `record`, and what reads it: `tail --from`, `why --record`, `replay`. Recorders are killed,
//! servers restarted, disks full.

use crate::support::{DEADLINE, Database, Tail, USERS, ended, execute, own_cluster};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use tokio_postgres::Client;

/// Starts a recorder, and waits until it listens.
fn recorder(database: &Database, folder: &Path, options: &[&str]) -> Tail {
    let folder = folder.to_str().unwrap();
    let arguments = [&["record", "--dir", folder, "-o", "json"], options].concat();
    Tail::start(database.command(&arguments))
}

/// Ends a recorder in order, and returns its summary.
fn end(recorder: Tail) -> Value {
    recorder.signal("INT");
    let (code, lines, stderr) = recorder.finish();
    assert_eq!(code, 0, "{stderr}");
    let summary = lines.into_iter().next_back().unwrap();
    assert_eq!(summary["event"], "record");
    summary
}

/// Returns what `tail --from` prints of a record, but for times.
fn recorded(database: &Database, folder: &Path, options: &[&str]) -> Vec<Value> {
    let folder = folder.to_str().unwrap();
    let mut command =
        database.command(&[&["tail", "--from", folder, "-o", "json"], options].concat());
    // No server is needed.
    command.env("DATABASE_URL", "postgresql://nowhere.invalid/none");
    let ran = crate::support::run(command);
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.json()
}

/// Returns the events of a stream that are of this kind.
fn of<'a>(lines: &'a [Value], event: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["event"] == event)
}

/// Waits until a plain file of the record has this text in a line.
fn has(folder: &Path, holds: impl Fn(&Value) -> bool) {
    let began = Instant::now();
    loop {
        let files = std::fs::read_dir(folder).unwrap().flatten();
        let texts = files
            .filter(|file| file.file_name().to_string_lossy().ends_with(".ndjson"))
            .filter_map(|file| std::fs::read_to_string(file.path()).ok());
        let lines: Vec<Value> = texts
            .flat_map(|text| {
                let lines = text
                    .lines()
                    .filter_map(|line| serde_json::from_str(line).ok());
                lines.collect::<Vec<Value>>()
            })
            .collect();
        if lines.iter().any(&holds) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{lines:?}");
        std::thread::yield_now();
    }
}

/// What is read from a record is what a tail beside it has printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_what_a_tail_has_printed() {
    let database = Database::with(
        "CREATE TABLE a (id int PRIMARY KEY, t text); CREATE TABLE b (x int, y text, PRIMARY KEY (x, y))",
    )
    .await;
    database.pgic_ok(&["install-triggers", "a", "b"]);
    let folder = tempfile::tempdir().unwrap();
    let tail = database.tail(&["--count", "506"]);
    // Small files, so that there are many.
    let recorder = recorder(&database, folder.path(), &["--max-size", "10kB"]);
    let client = database.client().await;
    for n in 0..5 {
        let from = n * 100;
        let sql = format!(
            "INSERT INTO a SELECT n, repeat('ä', 50) FROM generate_series({from}, {from} + 99) n"
        );
        execute(&client, &sql).await;
    }
    execute(&client, "INSERT INTO b VALUES (1, 'x,y'), (2, 'y')").await;
    execute(&client, "UPDATE b SET y = 'new' WHERE x = 1").await;
    execute(
        &client,
        "DELETE FROM b WHERE x = 2; NOTIFY cache_invalidation, 'what \u{1b}[2J nobody knows'",
    )
    .await;
    let (_, printed, _) = tail.finish();
    let summary = end(recorder);
    assert_eq!(summary["notifications"], 506, "{summary}");
    assert!(std::fs::read_dir(folder.path()).unwrap().count() >= 3);

    // The same, but for the times at which they came.
    let without_time = |line: &Value| {
        let mut line = line.clone();
        for name in ["at", "age_ms"] {
            line.as_object_mut().unwrap().remove(name);
        }
        line
    };
    let changes = |lines: &[Value]| -> Vec<Value> {
        let data = lines
            .iter()
            .filter(|line| line["event"] == "change" || line["event"] == "payload");
        data.map(without_time).collect()
    };
    let read = recorded(&database, folder.path(), &[]);
    assert_eq!(changes(&read), changes(&printed));
    assert_eq!(of(&read, "connected").count(), 1);
    assert_eq!(of(&read, "gap").count(), 0);

    // Filters, by what the payloads have.
    let number =
        |options: &[&str]| of(&recorded(&database, folder.path(), options), "change").count();
    assert_eq!(number(&["a"]), 500);
    assert_eq!(number(&["public.b", "--action", "insert"]), 2);
    // The insert, and both halves of the change of the key.
    assert_eq!(number(&["b", "--id", "1,x,y"]), 3);
    assert_eq!(number(&["a", "--id", "7"]), 1);
    assert_eq!(number(&["b", "y=new"]), 1);
    assert_eq!(number(&["nosuch"]), 0);
    assert_eq!(number(&["-c", "another"]), 0);
    assert_eq!(number(&["-n", "3"]), 3);
    // Nothing that fits is told from nothing that was recorded.
    let name = folder.path().to_str().unwrap();
    let ran = database.pgic(&["tail", "--from", name, "nosuch"]);
    let says = "the record has 506 notifications from ";
    assert!(
        ran.stderr.contains(says) && ran.stderr.contains("of a, b"),
        "{ran:?}"
    );
    // Times: all, then none.
    assert_eq!(number(&["--since", "10m", "b"]), 5);
    assert_eq!(number(&["--until", "10m"]), 0);
    let times: Vec<&str> = of(&read, "change")
        .map(|line| line["at"].as_str().unwrap())
        .collect();
    let between = number(&["--since", times[100], "--until", times[199]]);
    assert!((100..=505).contains(&between), "{between}");
    let ran = database.pgic(&[
        "tail",
        "--from",
        folder.path().to_str().unwrap(),
        "--count",
        "600",
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
}

/// A recorder that is killed loses nothing that it has written. The next one says what it has cut,
/// and the time between is a gap.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_that_is_killed_leaves_a_whole_record() {
    let database = Database::with("CREATE TABLE a (id int PRIMARY KEY)").await;
    database.pgic_ok(&["install-triggers", "a"]);
    let client = database.client().await;
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let recorder = recorder(&database, folder.path(), &[]);
        execute(&client, &format!("INSERT INTO a VALUES ({round})")).await;
        has(folder.path(), |line| line["key"] == round);
        recorder.signal("KILL");
        recorder.finish();
        // Nobody hears this one.
        execute(&client, &format!("INSERT INTO a VALUES ({})", 100 + round)).await;
    }
    // The last line is torn.
    let files = std::fs::read_dir(folder.path()).unwrap().flatten();
    let plain = files
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|end| end == "ndjson"));
    let plain = plain.unwrap();
    let text = std::fs::read_to_string(&plain).unwrap();
    std::fs::write(&plain, format!("{text}{{\"event\":\"recor")).unwrap();
    let folder_name = folder.path().to_str().unwrap();
    let read = database.pgic(&["tail", "--from", folder_name, "-o", "json"]);
    assert!(read.stderr.contains("the last line is torn"), "{read:?}");

    let last = recorder(&database, folder.path(), &[]);
    execute(&client, "INSERT INTO a VALUES (3)").await;
    has(folder.path(), |line| line["key"] == 3);
    last.signal("INT");
    let (code, _, stderr) = last.finish();
    assert!(
        code == 0 && stderr.contains("cut 15 bytes of a line that was torn"),
        "{stderr}"
    );
    let read = recorded(&database, folder.path(), &[]);
    let keys: Vec<&Value> = of(&read, "change").map(|line| &line["key"]).collect();
    assert_eq!(keys, [0, 1, 2, 3]);
    assert_eq!(of(&read, "gap").count(), 3);
}

/// The server is restarted: the record says in which time nothing could be received, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_is_a_gap_in_the_record() {
    let cluster = own_cluster(&[]);
    let database = Database::on(&cluster, "recorded".to_string()).await;
    execute(
        &database.client().await,
        "CREATE TABLE a (id int PRIMARY KEY)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "a"]);
    let folder = tempfile::tempdir().unwrap();
    let recorder = recorder(&database, folder.path(), &[]);
    execute(&database.client().await, "INSERT INTO a VALUES (1)").await;
    has(folder.path(), |line| line["key"] == 1);
    cluster.restart("immediate").unwrap();
    has(folder.path(), |line| line["event"] == "resumed");
    execute(&database.client().await, "INSERT INTO a VALUES (2)").await;
    has(folder.path(), |line| line["key"] == 2);
    assert_eq!(end(recorder)["gaps"], 1);
    let events: Vec<String> = recorded(&database, folder.path(), &[])
        .iter()
        .map(|line| line["event"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(
        events,
        [
            "connected",
            "change",
            "disconnected",
            "gap",
            "resumed",
            "change"
        ]
    );
}

/// The disk takes no more: said at once, with exit code 2, and what was written before is whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_at_once_and_loses_nothing() {
    let database = Database::with("CREATE TABLE a (id int PRIMARY KEY, t text)").await;
    database.pgic_ok(&["install-triggers", "a"]);
    let folder = tempfile::tempdir().unwrap();
    let pgic = database.command(&[
        "record",
        "--dir",
        folder.path().to_str().unwrap(),
        "-o",
        "json",
    ]);
    // A file may have 16 blocks of 512 bytes; a write beyond fails, as on a disk that is full.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""]);
    command.arg(pgic.get_program()).args(pgic.get_args());
    for (name, value) in pgic.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let client = database.client().await;
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name LIKE 'pgic record%' AND query LIKE '%LISTEN%'";
    let began = Instant::now();
    while client
        .query_one(listens, &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        == 0
    {
        assert!(began.elapsed() < DEADLINE);
    }
    let mut written = 0;
    let writing = tokio::spawn(async move {
        loop {
            let sql = format!("INSERT INTO a VALUES ({written}, repeat('x', 200))");
            execute(&client, &sql).await;
            written += 1;
        }
    });
    let ran = ended(child);
    writing.abort();
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.stderr.contains("write ") && ran.stderr.contains("make room"),
        "{ran:?}"
    );
    // Each line that is there is whole, and none is missing between them.
    let read = recorded(&database, folder.path(), &[]);
    let keys: Vec<u64> = of(&read, "change")
        .map(|line| line["key"].as_u64().unwrap())
        .collect();
    let first = keys[0];
    let expected: Vec<u64> = (first..first + keys.len() as u64).collect();
    assert!(keys.len() > 10 && keys == expected, "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_record_is_told() {
    let database = Database::with(USERS).await;
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    for (arguments, says) in [
        (["tail", "--from", name], "has no record"),
        (
            ["tail", "--from", "/nonexistent/x"],
            "open the record /nonexistent/x",
        ),
        (
            ["tail", "--from", "/etc/passwd"],
            "is no segment of a record",
        ),
        (
            ["record", "--dir", "/proc/none"],
            "make the folder /proc/none",
        ),
    ] {
        let ran = database.pgic(&arguments);
        assert!(
            ran.code == 2 && ran.stderr.contains(says),
            "{arguments:?}: {ran:?}"
        );
    }
    let first = recorder(&database, folder.path(), &[]);
    let ran = database.pgic(&["record", "--dir", name]);
    assert!(
        ran.code == 2 && ran.stderr.contains("another pgic record writes into"),
        "{ran:?}"
    );
    end(first);
}

/// Waits until the record has all that came until two seconds from now: the clocks of server and
/// recorder may differ by one.
async fn reaches_past_now(client: &Client, folder: &Path) {
    const PAST: &str = "SELECT to_char((clock_timestamp() + interval '2 s') AT TIME ZONE 'UTC', \
        'YYYY-MM-DD\"T\"HH24:MI:SS')";
    let past: String = client.query_one(PAST, &[]).await.unwrap().get(0);
    has(folder, |line| {
        line["event"] == "covered" && line["at"].as_str().unwrap() > past.as_str()
    });
}

/// A row that was written while triggers were silent: the record proves that nobody was told. One
/// that was announced is found, also under a savepoint, and where the record has a gap nothing is
/// proven.
#[tokio::test(flavor = "multi_thread")]
async fn why_proves_by_a_record_that_a_change_was_never_announced() {
    let cluster = own_cluster(&[("track_commit_timestamp", "on")]);
    let database = Database::on(&cluster, "proven".to_string()).await;
    let client = database.client().await;
    execute(&client, "CREATE TABLE a (id int PRIMARY KEY, n int)").await;
    database.pgic_ok(&["install-triggers", "a"]);
    execute(&client, "INSERT INTO a VALUES (0, 0)").await;
    let folder = tempfile::tempdir().unwrap();
    let recorder = recorder(&database, folder.path(), &[]);
    reaches_past_now(&client, folder.path()).await;
    execute(&client, "INSERT INTO a VALUES (1, 1)").await;
    execute(
        &client,
        "BEGIN; INSERT INTO a VALUES (50, 1); SAVEPOINT s; INSERT INTO a VALUES (2, 1); COMMIT",
    )
    .await;
    execute(
        &client,
        "SET session_replication_role = replica; INSERT INTO a VALUES (3, 1);
        SET session_replication_role = origin",
    )
    .await;
    reaches_past_now(&client, folder.path()).await;
    let why = |key: &str| {
        let ran = database.pgic(&[
            "why",
            "a",
            key,
            "-o",
            "json",
            "--record",
            folder.path().to_str().unwrap(),
        ]);
        let links = ran.json();
        let link = links.iter().find(|line| line["link"] == "record").cloned();
        (ran.code, link.unwrap_or_else(|| panic!("{ran:?}")))
    };
    let (_, link) = why("1");
    assert_eq!(link["result"], "ok", "{link}");
    assert!(
        link["text"].as_str().unwrap().contains("was announced at"),
        "{link}"
    );
    let (_, link) = why("2");
    assert_eq!(link["result"], "ok", "{link}");
    assert!(
        link["text"].as_str().unwrap().contains("savepoint"),
        "{link}"
    );
    let (code, link) = why("3");
    assert_eq!(
        (code, &link["result"], &link["code"]),
        (1, &json!("broken"), &json!("never-announced"))
    );
    assert_eq!(link["now"], "pgic announce public.a 3");
    // Before the record began, nothing is proven.
    let (_, link) = why("0");
    assert_eq!(link["result"], "unknown", "{link}");
    end(recorder);
    // Nor is it behind its end.
    execute(
        &client,
        "SET session_replication_role = replica; INSERT INTO a VALUES (4, 1)",
    )
    .await;
    let (_, link) = why("4");
    assert_eq!(link["result"], "unknown", "{link}");
}

/// What was recorded comes again, in the same order, in the same transactions, on another channel.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_sent_again_as_it_was() {
    let database = Database::with("CREATE TABLE a (id int PRIMARY KEY, t text)").await;
    database.pgic_ok(&["install-triggers", "a"]);
    let client = database.client().await;
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    let recorder = recorder(
        &database,
        folder.path(),
        &["-c", "cache_invalidation", "-c", "other"],
    );
    let mut original = database.listen().await;
    execute(
        &client,
        "INSERT INTO a SELECT n, 'it''s' FROM generate_series(1, 100) n",
    )
    .await;
    execute(
        &client,
        "UPDATE a SET t = E'\\\\ \"' WHERE id < 10; DELETE FROM a WHERE id = 10",
    )
    .await;
    // Equal payloads of two transactions are two.
    execute(&client, "NOTIFY cache_invalidation, 'plain'").await;
    execute(&client, "NOTIFY cache_invalidation, 'plain'").await;
    execute(&client, "NOTIFY cache_invalidation, 'last'").await;
    let original = original.payloads().await;
    assert_eq!(original.len(), 113);
    // That this session has heard all of them does not mean that the recorder has.
    has(folder.path(), |line| line["payload"] == "last");
    assert_eq!(end(recorder)["notifications"], 113);

    let mut listening = database.listen_on("again").await;
    // This session listens: it would take them for changes.
    let ran = database.pgic(&["replay", name, "-c", "again", "--speed", "max"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("give --yes"),
        "{ran:?}"
    );
    assert_eq!(listening.payloads().await, Vec::<String>::new());
    let ran = database.pgic(&[
        "replay", name, "-c", "again", "--speed", "max", "--yes", "-o", "json",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json().last().unwrap()["notifications"], 113);
    assert_eq!(listening.payloads().await, original);
    // At its own pace it comes as well, from one file of the record.
    let file = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .map(|file| file.path());
    let file = file
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "zst"))
        .unwrap();
    let ran = database.pgic(&["replay", file.to_str().unwrap(), "-c", "again", "--yes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(listening.payloads().await, original);
    // Of a time in which nothing came there is nothing to send.
    let ran = database.pgic(&["replay", name, "-c", "again", "--yes", "--until", "10m"]);
    assert_eq!(ran.code, 1, "{ran:?}");
}

/// Files of others in the folder are left as they are, also if they are called like ours: a link, a
/// pipe.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_others_are_left_alone() {
    const STAMP: &str = "20260101T000000.000000Z";
    let database = Database::with("CREATE TABLE a (id int PRIMARY KEY)").await;
    database.pgic_ok(&["install-triggers", "a"]);
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("record");
    std::fs::create_dir(&own).unwrap();
    let outside = folder.path().join("important.conf");
    let files = [
        (
            own.join("customers.ndjson"),
            "{\"my\":\"export\"}\nno newline",
        ),
        (own.join("both.ndjson"), "irreplaceable"),
        (own.join("both.ndjson.zst"), "older"),
        (outside.clone(), "alias a=b\nno newline"),
    ];
    for (path, text) in &files {
        std::fs::write(path, text).unwrap();
    }
    std::os::unix::fs::symlink(&outside, own.join(format!("{STAMP}.ndjson"))).unwrap();
    let pipe = own.join("20260101T000001.000000Z.ndjson");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let ran = database.pgic(&[
        "record",
        "--dir",
        own.to_str().unwrap(),
        "--duration",
        "100ms",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for (path, text) in &files {
        assert_eq!(
            &std::fs::read_to_string(path).unwrap(),
            text,
            "{}",
            path.display()
        );
    }
    let read = recorded(&database, &own, &[]);
    assert_eq!(of(&read, "connected").count(), 1, "{read:?}");
    let ran = database.pgic(&["tail", "--from", pipe.to_str().unwrap()]);
    assert!(
        ran.code == 2 && ran.stderr.contains("no regular file"),
        "{ran:?}"
    );
}

/// Everything that takes a record its proof: each makes the link unknown, never broken.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_may_lack_something_proves_nothing() {
    let cluster = own_cluster(&[("track_commit_timestamp", "on")]);
    let database = Database::on(&cluster, "doubted".to_string()).await;
    let other = Database::on(&cluster, "other".to_string()).await;
    let client = database.client().await;
    execute(
        &client,
        "CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE nu (id numeric PRIMARY KEY);
        CREATE TABLE old_name (id int PRIMARY KEY)",
    )
    .await;
    database.pgic_ok(&["install-triggers", "a", "nu", "old_name"]);
    let folders = tempfile::tempdir().unwrap();
    let folder = |name: &str| folders.path().join(name);
    let recorders = [
        recorder(&database, &folder("right"), &["--max-age", "3s"]),
        recorder(&database, &folder("channel"), &["-c", "jobs"]),
        recorder(&other, &folder("database"), &[]),
    ];
    reaches_past_now(&client, &folder("right")).await;
    execute(
        &client,
        "INSERT INTO a VALUES (1, 1); INSERT INTO nu VALUES (1.10)",
    )
    .await;
    execute(&client, "INSERT INTO old_name VALUES (5)").await;
    execute(
        &client,
        "SET session_replication_role = replica; INSERT INTO a VALUES (2, 1);
        SET session_replication_role = origin",
    )
    .await;
    for name in ["right", "channel", "database"] {
        reaches_past_now(&client, &folder(name)).await;
    }
    for recorder in recorders {
        end(recorder);
    }
    execute(&client, "ALTER TABLE old_name RENAME TO new_name").await;
    database.pgic_ok(&["install-triggers", "new_name"]);
    let why = |table: &str, key: &str, folder: &Path| link_of_record(&database, table, key, folder);
    let right = folder("right");
    let link = why("a", "2", &right);
    assert_eq!(link["result"], "broken", "{link}");
    for (table, key, record, result) in [
        ("a", "1", "right", "ok"),
        ("nu", "1.1", "right", "unknown"),
        ("new_name", "5", "right", "ok"),
        ("a", "2", "channel", "unknown"),
        ("a", "2", "database", "unknown"),
    ] {
        let link = why(table, key, &folder(record));
        assert_eq!(link["result"], result, "{table} {key} {record}: {link}");
    }
    damaged_files_prove_nothing(&database, &right, folders.path());
    // A payload that anybody can send does not pass for the transaction's own.
    let forged = recorder(&database, &right, &[]);
    execute(
        &client,
        "NOTIFY cache_invalidation, '{\"table\":\"a\",\"action\":\"update\",\"id\":2}'",
    )
    .await;
    has(&right, |line| line["key"] == 2);
    end(forged);
    assert_eq!(why("a", "2", &right)["result"], "broken");
}

/// Returns the link of the record that `why` prints.
fn link_of_record(database: &Database, table: &str, key: &str, folder: &Path) -> Value {
    let folder = folder.to_str().unwrap();
    let ran = database.pgic(&["why", table, key, "-o", "json", "--record", folder]);
    let links = ran.json();
    let link = links.iter().find(|line| line["link"] == "record").cloned();
    link.unwrap_or_else(|| panic!("{ran:?}"))
}

/// Copies the record `right` into `folders`, each copy damaged in another way.
fn damaged_files_prove_nothing(database: &Database, right: &Path, folders: &Path) {
    let folder = |name: &str| folders.join(name);
    let why = |table: &str, key: &str, folder: &Path| link_of_record(database, table, key, folder);
    // Damage to the files: a copy each, of which the row that was announced must not be taken for
    // one that was not.
    let files = |folder: &Path, end: &str| {
        let files = std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|file| file.path());
        let mut files: Vec<_> = files
            .filter(|path| path.to_str().unwrap().ends_with(end))
            .collect();
        files.sort();
        files
    };
    let copy = |name: &str| {
        let copied = Command::new("cp")
            .arg("-r")
            .arg(right)
            .arg(folder(name))
            .status();
        assert!(copied.unwrap().success());
        folder(name)
    };
    let zst = files(right, ".zst");
    assert!(zst.len() >= 3, "{zst:?}");
    // The segments between the first and the last are gone.
    let gone = copy("gone");
    for path in &files(&gone, ".zst")[1..zst.len() - 1] {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(why("a", "2", &gone)["result"], "unknown");
    // Indexes that name no row, and those that name no frame.
    let emptied = copy("emptied");
    let cut = copy("cut");
    for (from, to) in files(&emptied, ".idx").iter().zip(files(&cut, ".idx")) {
        let text = std::fs::read_to_string(from).unwrap();
        let lines = text
            .lines()
            .map(|line| match line.split_once("\"rows\":[") {
                Some((begin, rest)) => {
                    format!("{begin}\"rows\":[{}\n", &rest[rest.find(']').unwrap()..])
                }
                None => format!("{line}\n"),
            });
        std::fs::write(from, lines.collect::<String>()).unwrap();
        std::fs::write(to, format!("{}\n", text.lines().next().unwrap())).unwrap();
    }
    for record in [&emptied, &cut] {
        assert_eq!(why("a", "1", record)["result"], "ok");
    }
    let read = recorded(database, &cut, &[]);
    assert!(of(&read, "change").count() >= 3, "{read:?}");
    // A line that cannot be read.
    let damaged = copy("damaged");
    let last = files(&damaged, ".zst").pop().unwrap();
    let plain = last.with_extension("");
    std::fs::remove_file(&last).unwrap();
    std::fs::write(plain, "{\"event\":\"recXrded\"}\n").unwrap();
    assert_eq!(why("a", "2", &damaged)["result"], "unknown");
}
