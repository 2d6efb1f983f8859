//! `wait`: for the server, for triggers and for nodes, until they are there or the time is over.

use super::fleet::{Node, fleet};
use crate::support::proxy::{Mood, Proxy};
use crate::support::{DEADLINE, Database, Ran, USERS, cluster, ended, lines_of};
use serde_json::Value;
use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;

/// A `pgic wait` that goes on, and what it says on stderr.
struct Waiting {
    child: Child,
    notices: Receiver<String>,
}

impl Waiting {
    fn start(database: &Database, arguments: &[&str]) -> Self {
        let mut command = database.command(&[&["wait"], arguments, &["-o", "json"]].concat());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let notices = lines_of(child.stderr.take().unwrap());
        Self { child, notices }
    }

    /// Waits until it says that it waits for this.
    fn says(&self, text: &str) {
        loop {
            let line = self.notices.recv_timeout(DEADLINE).expect("it says more");
            let notice = crate::support::schema::check(&line);
            if notice["text"].as_str().unwrap().contains(text) {
                return;
            }
        }
    }

    /// Waits until it ends, and returns its answer.
    fn ends(self) -> (i32, Value) {
        let ran = ended(self.child);
        (ran.code, crate::support::schema::check(&ran.stdout))
    }
}

fn answer(ran: &Ran) -> Value {
    crate::support::schema::check(ran.stdout.trim_end())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_is_waited_for() {
    let database = Database::with(USERS).await;
    let proxy = Proxy::to(cluster().socket_folder().join(".s.PGSQL.5432")).await;
    proxy.set(Mood::Starts);
    let behind = database.behind(proxy.port);
    let waiting = Waiting::start(&behind, &["--timeout", "60s"]);
    proxy.is_dialled().await;
    proxy.set(Mood::Passes);
    let (code, answer) = waiting.ends();
    assert_eq!(code, 0, "{answer}");
    assert_eq!(
        (&answer["for"], &answer["result"]),
        (&"reachable".into(), &"holds".into())
    );
    assert_eq!(answer["database"], database.name.as_str());
}

/// A server that does not come is exit code 3. An error that no time mends ends the wait at once:
/// the test's own deadline comes long before that of --timeout.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_time_mends_is_not_waited_for() {
    let database = Database::with(USERS).await;
    let nobody = Database {
        name: "nobody".to_string(),
        url: "postgresql://postgres@127.0.0.1:1/nobody".to_string(),
    };
    let ran = nobody.pgic(&["wait", "--timeout", "300ms"]);
    assert!(
        ran.code == 3 && ran.stderr.contains("error: not reachable after 0.3 s"),
        "{ran:?}"
    );
    let other = Database {
        name: "nosuch".to_string(),
        url: database.url.replace(&database.name, "nosuch"),
    };
    for (database, arguments, says) in [
        (&other, &["wait", "--timeout", "1h"][..], "does not exist"),
        (&database, &["wait", "users"], "TABLE needs --for"),
        (
            &database,
            &["wait", "--nodes", "2"],
            "--nodes needs --for live",
        ),
        (&database, &["wait", "--for", "announced"], "<TABLE>"),
        (
            &database,
            &["wait", "--for", "announced", "a.b\"", "--timeout", "1h"],
            "is no table's name",
        ),
    ] {
        let ran = database.pgic(arguments);
        assert!(ran.code == 2 && ran.stderr.contains(says), "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_are_waited_for_until_the_migration_has_run() {
    let database = Database::with("SELECT").await;
    let client = database.client().await;
    let waiting = Waiting::start(&database, &["--for", "announced", "users"]);
    waiting.says("the table users does not exist");
    client.batch_execute(USERS).await.unwrap();
    waiting.says("no trigger announces changes of public.users");
    database.pgic_ok(&["install-triggers", "users"]);
    let (code, answer) = waiting.ends();
    assert_eq!(
        (code, &answer["text"]),
        (0, &"public.users".into()),
        "{answer}"
    );

    // One that does not fire is none.
    let disable = "ALTER TABLE users DISABLE TRIGGER ALL";
    client.batch_execute(disable).await.unwrap();
    let ran = database.pgic(&["wait", "--for", "announced", "users", "--timeout", "300ms"]);
    assert!(
        ran.code == 1 && ran.stdout.starts_with("not announced after 0.3 s: "),
        "{ran:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_waited_for_until_there_are_enough() {
    let (database, _client, nodes) = fleet(1).await;
    let ran = database.pgic(&["wait", "--for", "live", "items", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(answer(&ran)["text"], "public.items at web-0");
    let short = [
        "wait",
        "--for",
        "live",
        "--nodes",
        "2",
        "--timeout",
        "500ms",
    ];
    let ran = database.pgic(&short);
    assert!(
        ran.code == 1 && ran.stdout.contains("live at 1 of 2 nodes"),
        "{ran:?}"
    );
    let waiting = Waiting::start(&database, &["--for", "live", "--nodes", "2"]);
    waiting.says("live at 1 of 2 nodes");
    let second = Node::start(&database, "web-1").await;
    let (code, answer) = waiting.ends();
    assert_eq!(code, 0, "{answer}");
    assert_eq!(answer["text"], "at web-0, web-1");
    // A table that no node has is waited for in vain.
    let sql = "CREATE TABLE others (id int PRIMARY KEY)";
    database.client().await.batch_execute(sql).await.unwrap();
    database.pgic_ok(&["install-triggers", "others"]);
    let ran = database.pgic(&["wait", "--for", "live", "others", "--timeout", "500ms"]);
    assert!(
        ran.code == 1 && ran.stdout.contains("public.others live at 0 of 1 node"),
        "{ran:?}"
    );
    drop((nodes, second));
}
