//! `docs/migrations.md`: the file that `--print-sql` prints, run by a tool for migrations.

use crate::support::{Database, USERS};
use refinery::{Migration, Runner};

/// refinery runs the files once each, also one that its own bookkeeping has lost.
#[tokio::test(flavor = "multi_thread")]
async fn refinery_runs_the_printed_files() {
    let database = Database::with("").await;
    let shape = Database::with(USERS).await;
    // The file is printed where the tables are, and run elsewhere.
    let up = shape.pgic_ok(&[
        "install-triggers",
        "users",
        "--columns",
        "email_hash",
        "--print-sql",
    ]);
    let down = shape.pgic_ok(&["remove-triggers", "users", "--print-sql"]);
    let migrations = |last: Option<&str>| {
        let mut files = vec![
            Migration::unapplied("V1__users", USERS).unwrap(),
            Migration::unapplied("V2__announce", &up).unwrap(),
        ];
        files.extend(last.map(|sql| Migration::unapplied("V3__silence", sql).unwrap()));
        Runner::new(&files)
    };
    let mut client = database.client().await;
    let report = migrations(None).run_async(&mut client).await.unwrap();
    assert_eq!(report.applied_migrations().len(), 2);
    let status = database.pgic(&["status", "-o", "json"]);
    assert_eq!(status.code, 0, "{status:?}");
    assert_eq!(
        status.json()[0]["columns"],
        serde_json::json!(["id", "email_hash"])
    );
    // Nothing is left of the file's settings on the session.
    let path = client.query_one("SHOW search_path", &[]).await.unwrap();
    assert_eq!(path.get::<_, String>(0), "\"$user\", public");
    let report = migrations(None).run_async(&mut client).await.unwrap();
    assert!(report.applied_migrations().is_empty());
    // A process that was killed between the file and the note runs it again.
    let forget = "DELETE FROM refinery_schema_history WHERE version = 2";
    client.batch_execute(forget).await.unwrap();
    let report = migrations(None).run_async(&mut client).await.unwrap();
    assert_eq!(report.applied_migrations().len(), 1);
    assert_eq!(database.pgic(&["status"]).code, 0);

    migrations(Some(&down))
        .run_async(&mut client)
        .await
        .unwrap();
    assert_eq!(database.pgic(&["status"]).code, 1);
}
