//! `pgic relay`, and `--from`: what a node of its log has.

use crate::support::nats::Nats;
use crate::support::proxy::Proxy;
use crate::support::schema::check_all;
use crate::support::{DEADLINE, Database, Tail, execute, own_cluster, pgic, run};
use postgres_index_cache_core::{CacheModel, Replica, ReplicaStatus, async_nats};
use serde_json::Value;
use throwaway_postgres::Cluster;

/// Two tables.
const SHOP: &str = "CREATE TABLE users (id uuid PRIMARY KEY, name text);
    CREATE TABLE orders (customer int, number int, total numeric, PRIMARY KEY (customer, number));
    INSERT INTO users SELECT gen_random_uuid(), 'u' || n FROM generate_series(1, 500) n;
    INSERT INTO orders VALUES (1, 1, 2.50), (1, 2, NULL), (2, 1, 7);";

/// Two tables with announced changes.
pub async fn shop() -> Database {
    let database = Database::with(SHOP).await;
    database.pgic_ok(&["install-triggers", "users", "orders", "-q"]);
    database
}

/// Starts a relay, and waits until nodes can load a snapshot.
pub fn relay(database: &Database, url: &str) -> Tail {
    relay_until(database, url, "snapshot")
}

/// Starts a relay, and waits until it says that it has come so far.
pub fn relay_until(database: &Database, url: &str, state: &str) -> Tail {
    relay_of(database, &["users", "orders"], url, state)
}

/// Starts a relay of these tables, and waits until it says that it has come so far.
pub fn relay_of(database: &Database, tables: &[&str], url: &str, state: &str) -> Tail {
    let arguments = ["relay", "--to", url, "--name", "shop", "-o", "json"];
    let relay = Tail::start(database.command(&[&arguments, tables].concat()));
    while relay.next()["state"] != state {}
    relay
}

/// Describes the log's stream, as `nats stream edit` does.
async fn describe_stream(url: &str, description: &str) {
    let client = async_nats::connect(url).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("PGIC_shop").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.description = Some(description.to_string());
    context.update_stream(config).await.unwrap();
}

/// Runs a command on the log.
fn of_log(url: &str, arguments: &[&str]) -> crate::support::Ran {
    let from = format!("{url}/shop");
    let mut all = arguments.to_vec();
    all.extend(["--from", &from]);
    run(pgic(&all))
}

#[tokio::test]
async fn a_node_answers_with_what_was_committed() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let relay = relay(&database, &url);
    let client = database.client().await;
    for total in ["8.10", "9.00", "10"] {
        execute(
            &client,
            &format!("UPDATE orders SET total = {total} WHERE customer = 2"),
        )
        .await;
        let ran = of_log(&url, &["query", "orders", "2,1", "-o", "json"]);
        assert_eq!(
            ran.stdout,
            format!("{{\"customer\":2,\"number\":1,\"total\":{total}}}\n"),
            "{ran:?}"
        );
    }
    let ran = of_log(
        &url,
        &[
            "query",
            "public.orders",
            "-n",
            "2",
            "--columns",
            "number,total",
        ],
    );
    assert_eq!(
        ran.stdout, "number  total\n     1   2.50\n     2   NULL\n",
        "{ran:?}"
    );
    assert!(ran.stderr.contains("1 more rows match"), "{ran:?}");
    let ran = of_log(&url, &["query", "users", "--count"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "500\n"), "{ran:?}");
    let ran = of_log(&url, &["query", "orders", "3,1"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let ran = of_log(&url, &["status", "-o", "json"]);
    let log = &check_all(&ran.stdout)[0];
    assert_eq!(log["tables"][0]["rows"], 500, "{log}");
    let (code, events, stderr) = {
        relay.signal("TERM");
        relay.finish()
    };
    assert_eq!(code, 0, "{stderr}");
    let text: Vec<String> = events.iter().map(Value::to_string).collect();
    check_all(&text.join("\n"));
}

#[tokio::test]
async fn the_changes_of_a_node_s_rows_are_shown_old_to_new() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let first = relay(&database, &url);
    let from = format!("{url}/shop");
    let arguments = ["tail", "--diff", "orders", "--from", &from, "-o", "json"];
    let tail = Tail::of_log(pgic(&arguments));
    assert_eq!(tail.next()["event"], "live");
    let client = database.client().await;
    let sql = "BEGIN; UPDATE orders SET total = 9 WHERE customer = 2; DELETE FROM orders WHERE \
        number = 2; INSERT INTO orders VALUES (3, 1, 1); COMMIT";
    execute(&client, sql).await;
    let mut changes: Vec<Value> = (0..3).map(|_| tail.next()).collect();
    changes.sort_by_key(|change| change["key"].to_string());
    let shown: Vec<String> = changes
        .iter()
        .map(|change| format!("{} {}", change["event"], change["key"]))
        .collect();
    assert_eq!(
        shown,
        [
            r#""removed" [1,2]"#,
            r#""changed" [2,1]"#,
            r#""added" [3,1]"#
        ],
        "{changes:?}"
    );
    let key = ["query", "orders", "2,1", "--watch", "--columns", "total"];
    let watch = [&key[..], &["--from", &from, "-o", "json"]].concat();
    let watch = Tail::of_log(pgic(&watch));
    assert_eq!(watch.next()["row"]["total"], 9);
    assert_eq!(watch.next()["event"], "live");
    execute(&client, "UPDATE orders SET total = 5 WHERE customer = 3").await;
    assert_eq!(tail.next()["event"], "changed");
    execute(&client, "UPDATE orders SET total = 6 WHERE customer = 2").await;
    assert_eq!(tail.next()["event"], "changed");
    // Of the other row nothing is said.
    let changed = watch.next();
    assert_eq!(
        (&changed["event"], &changed["row"]["total"]),
        (&"changed".into(), &6.into())
    );
    watch.signal("INT");
    assert_eq!(watch.finish().0, 0);
    // Nobody proves the rows.
    first.signal("KILL");
    let _ = first.finish();
    let stale = tail.next();
    assert_eq!(stale["event"], "stale", "{stale}");
    // What was written meanwhile is told row by row, and the table is live behind it.
    execute(&client, "UPDATE orders SET total = 10 WHERE customer = 2").await;
    let second = relay_until(&database, &url, "live");
    let missed = tail.next();
    assert_eq!(
        (&missed["event"], &missed["key"]),
        (&"changed".into(), &serde_json::json!([2, 1]))
    );
    assert_eq!(tail.next()["event"], "live");
    // Another table is altered: all nodes load a snapshot. An older one may come first, and of its
    // rows nothing is said.
    execute(&client, "ALTER TABLE users ADD COLUMN note text").await;
    let stale = tail.next();
    assert_eq!(stale["event"], "stale", "{stale}");
    let live = tail.next();
    assert_eq!(live["event"], "live", "{live}");
    // An altered table is another one.
    execute(&client, "ALTER TABLE orders ADD COLUMN note text").await;
    let until = |event: &str| {
        let mut last = tail.next();
        while last["event"] != event {
            last = tail.next();
        }
        last
    };
    assert_eq!(until("reloaded")["why"], "the table was altered");
    assert_eq!(tail.next()["event"], "live");
    database.pgic_ok(&["install-triggers", "orders", "-q"]);
    execute(&client, "UPDATE orders SET note = 'new' WHERE customer = 3").await;
    let mut change = until("changed");
    while change["row"]["note"] != "new" {
        change = until("changed");
    }
    tail.signal("INT");
    let (code, _, stderr) = tail.finish();
    assert_eq!(code, 0, "{stderr}");
    for (arguments, says) in [
        (&["tail", "--from", &from] as &[&str], "--diff TABLE"),
        (
            &["tail", "--diff", "order", "--from", &from],
            "did you mean orders?",
        ),
        (
            &["tail", "--from", "x", "--duration", "1s"],
            "a record is printed at once",
        ),
    ] {
        let ran = run(pgic(arguments));
        assert!(ran.code == 2 && ran.stderr.contains(says), "{ran:?}");
    }
    drop(second);
}

// All nodes would have the rows of the other database, and call them live.
#[tokio::test]
async fn a_relay_of_another_database_is_refused() {
    let (database, other, nats) = (shop().await, shop().await, Nats::start());
    let url = nats.url();
    let first = relay(&database, &url);
    let row = ["query", "orders", "2,1", "-o", "json"];
    let before = of_log(&url, &row);
    let client = other.client().await;
    execute(&client, "UPDATE orders SET total = 666").await;
    let arguments = [
        "relay", "users", "orders", "--to", &url, "--name", "shop", "-q",
    ];
    let refused = other.pgic(&arguments);
    assert_eq!(refused.code, 2, "{refused:?}");
    let (said, command) = refused
        .stderr
        .split_once("nats stream edit PGIC_shop --description ")
        .expect("a command");
    assert!(
        said.contains("has the tables of another database"),
        "{said}"
    );
    assert!(said.contains(&database.name), "{said}");
    assert!(command.contains(&other.name), "{command}");
    assert_eq!(of_log(&url, &row).stdout, before.stdout);
    // Nor if nobody leads.
    first.signal("TERM");
    assert_eq!(first.finish().0, 0);
    assert_eq!(other.pgic(&arguments).code, 2);
    // The database of the log goes on.
    let quiet = relay_until(&database, &url, "live");
    quiet.signal("TERM");
    assert_eq!(quiet.finish().2, "");
    // A stream that does not say is taken by anybody, who is told.
    describe_stream(&url, "by hand").await;
    let told = relay_until(&database, &url, "live");
    told.signal("TERM");
    let told = told.finish().2;
    let says = "nats stream edit PGIC_shop --description";
    assert!(
        told.contains(says) && told.contains(&database.name),
        "{told}"
    );
    // The tables have moved.
    describe_stream(&url, command.trim().trim_matches('\'')).await;
    let moved = relay_until(&other, &url, "live");
    let ran = of_log(&url, &row);
    assert!(ran.stdout.contains("666"), "{ran:?}");
    drop(moved);
}

// As above, while the relay runs: after a move, or by a name that leads elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_address_leads_to_another_database_publishes_nothing_of_there() {
    let (ours, theirs) = (own_cluster(&[]), own_cluster(&[]));
    let name = "shop".to_string();
    let database = Database::on(&ours, name.clone()).await;
    let other = Database::on(&theirs, name).await;
    for database in [&database, &other] {
        execute(&database.client().await, SHOP).await;
        database.pgic_ok(&["install-triggers", "users", "orders", "-q"]);
    }
    execute(&other.client().await, "UPDATE orders SET total = 666").await;
    let socket = |cluster: &Cluster| cluster.socket_folder().join(".s.PGSQL.5432");
    let proxy = Proxy::to(socket(&ours)).await;
    let nats = Nats::start();
    let url = nats.url();
    let relay = relay(&database.behind(proxy.port), &url);
    proxy.lead_to(socket(&theirs));
    let said = loop {
        let event = relay.next();
        assert_ne!(event["state"], "live", "{event}");
        let text = event["text"].as_str().unwrap_or_default().to_string();
        if text.contains("has the tables of another database") {
            break text;
        }
    };
    let client = async_nats::connect(&url).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("PGIC_shop").await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    for sequence in stream.cached_info().state.first_sequence..=last {
        if let Ok(message) = stream.get_raw_message(sequence).await {
            let text = String::from_utf8_lossy(&message.payload);
            assert!(!text.contains("666"), "{text}");
        }
    }
    // The tables have moved. The error says how a log of the other database is described.
    let own = said.rsplit_once("a log of this database as \"").unwrap().1;
    assert!(own.contains("; database "), "{said}");
    describe_stream(&url, own.trim_end_matches('"')).await;
    while relay.next()["state"] != "live" {}
    let row = of_log(&url, &["query", "orders", "2,1", "-o", "json"]);
    assert!(row.stdout.contains("666"), "{row:?}");
}

#[tokio::test]
async fn what_a_node_cannot_answer_is_refused() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let ran = of_log(&url, &["query", "orders"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("there is no log"),
        "{ran:?}"
    );
    let relay = relay(&database, &url);
    for (arguments, says) in [
        (
            &["query", "orders", "total=7"] as &[&str],
            "a node has no SQL",
        ),
        (&["query", "orders", "1"], "has 2 columns"),
        (&["query", "orders", "a,b"], "read the key"),
        (&["query", "order"], "did you mean orders?"),
        (&["query", "orders", "--columns", "sum"], "no column sum"),
    ] {
        let ran = of_log(&url, arguments);
        assert!(
            ran.code == 2 && ran.stderr.contains(says),
            "{arguments:?}: {ran:?}"
        );
    }
    let ran = of_log(&url, &["verify", "users", "public.orders"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout.contains("public.users  500 rows")
            && ran.stdout.contains("public.orders  3 rows"),
        "{ran:?}"
    );
    // Nobody announces this.
    let client = database.client().await;
    execute(
        &client,
        "SET session_replication_role = replica; UPDATE orders SET total = 8 WHERE customer = 2",
    )
    .await;
    let ran = of_log(&url, &["verify", "users", "orders", "-o", "json"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let events = check_all(&ran.stdout);
    let finding = events.iter().find(|event| event["event"] == "finding");
    let finding = finding.expect("a finding");
    assert_eq!(
        (&finding["key"], &finding["kind"]),
        (&serde_json::json!([2, 1]), &"stale".into())
    );
    let ran = of_log(&url, &["verify", "order"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("did you mean orders?"),
        "{ran:?}"
    );
    drop(relay);
    let gone = of_log("nats://127.0.0.1:1", &["query", "orders"]);
    assert_eq!(gone.code, 3, "{gone:?}");
    let arguments = ["relay", "users", "--to", "nats://u:secret@127.0.0.1:1/shop"];
    let ran = database.pgic(&arguments);
    assert!(ran.code == 3 && !ran.stderr.contains("secret"), "{ran:?}");
    let ran = database.pgic(&["relay", "nosuch", "--to", &format!("{url}/shop")]);
    assert!(ran.code == 2 && ran.stderr.contains("nosuch"), "{ran:?}");
}

/// A user as a node has it.
#[derive(serde::Deserialize, CacheModel)]
#[cache(table = "users")]
struct User {
    #[cache(key)]
    id: uuid::Uuid,
}

/// Opens a replica of the users over the log.
/// Starts a node that follows the log.
pub async fn open(client: async_nats::Client, name: &str) -> Replica {
    let mut builder = Replica::over_nats(client, "shop");
    builder.name(name);
    builder.model::<User>();
    let opened = tokio::time::timeout(DEADLINE, builder.open()).await;
    opened.expect("in time").expect("a replica")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_listed_by_their_own_answers() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let relay = relay(&database, &url);
    let none = of_log(&url, &["nodes", "--timeout", "300ms"]);
    assert!(
        none.code == 1 && none.stdout.contains("no node has answered"),
        "{none:?}"
    );
    let client = async_nats::connect(&url).await.expect("connect");
    let first = open(client.clone(), "web-1").await;
    let second = open(
        async_nats::connect(&url).await.expect("connect"),
        "web-\u{1b}[2J",
    )
    .await;
    let ran = of_log(&url, &["nodes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("2 nodes live"), "{ran:?}");
    assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
    // Whatever else is published there is no node.
    client
        .publish("pgic.shop.node.forged", "{\"node\":1}".into())
        .await
        .expect("publish");
    let events = check_all(&of_log(&url, &["nodes", "-o", "json"]).stdout);
    let node = &events[0];
    assert_eq!(node["event"], "log-node", "{events:?}");
    assert_eq!(
        (&node["node"], &node["state"]),
        (&"web-\u{1b}[2J".into(), &"live".into())
    );
    assert_eq!(node["tables"][0]["rows"], 500, "{node}");
    assert_eq!(events.last().expect("the end")["live"], 2, "{events:?}");
    drop(second);
    drop(relay);
    let mut status = first.events();
    while !matches!(first.status(), ReplicaStatus::Stale { .. }) {
        let event = tokio::time::timeout(DEADLINE, status.next()).await;
        event.expect("an event");
    }
    let ran = of_log(&url, &["nodes"]);
    assert!(
        ran.code == 1
            && ran
                .stdout
                .contains("web-1 stale: no relay has proven the rows")
            && ran.stdout.contains("0 of 1 node live"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn rows_that_nobody_proves_are_not_shown() {
    let (database, nats) = (shop().await, Nats::start());
    let relay = relay(&database, &nats.url());
    relay.signal("KILL");
    drop(relay);
    let ran = of_log(&nats.url(), &["query", "orders", "1,1"]);
    assert!(ran.code == 2 && ran.stdout.is_empty(), "{ran:?}");
    assert!(
        ran.stderr.contains("no relay has proven the rows"),
        "{ran:?}"
    );
}

/// The configuration in docs/relay.md gives relay and node what they need, and a node no right to
/// write.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rights_suffice() {
    let page = include_str!("../../docs/relay.md");
    let start = page.find("```conf\n").expect("the configuration") + "```conf\n".len();
    let end = page[start..].find("```").expect("its end") + start;
    let configuration = page[start..end]
        .replace("jetstream { store_dir: \"/var/lib/nats\" }", "")
        .replace("relay's password", "r")
        .replace("node's password", "n");
    let (database, nats) = (shop().await, Nats::configured(&configuration));
    let _relay = relay(&database, &nats.url_of("relay", "r"));
    let node = nats.url_of("node", "n");
    let ran = of_log(&node, &["query", "users", "--count"]);
    assert_eq!(ran.stdout, "500\n", "{ran:?}");
    // A node of an application, and whoever asks for the nodes.
    let client = async_nats::ConnectOptions::with_user_and_password("node".into(), "n".into());
    let client = client.connect(nats.url()).await.expect("connect as a node");
    let replica = open(client, "web-1").await;
    let ran = of_log(&nats.url_of("relay", "r"), &["nodes"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("1 node live"), "{ran:?}");
    let ran = of_log(&node, &["nodes"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("Permissions Violation"),
        "{ran:?}"
    );
    replica.shutdown().await;
    // The error names the right that is missing.
    let ran = database.pgic(&["relay", "users", "--to", &format!("{node}/other")]);
    assert!(
        ran.code == 2 && ran.stderr.contains("Permissions Violation"),
        "{ran:?}"
    );
    let ran = of_log(&nats.url_of("node", "wrong"), &["query", "users"]);
    assert!(
        ran.code == 2 && ran.stderr.contains("authorization"),
        "{ran:?}"
    );
    // A node may not write what other nodes take for the relay's.
    let (refused_tx, mut refused) = tokio::sync::mpsc::unbounded_channel();
    let note = move |event| {
        let refused = refused_tx.clone();
        async move {
            if let async_nats::Event::ServerError(error) = event {
                refused.send(error.to_string()).expect("the test");
            }
        }
    };
    let options = async_nats::ConnectOptions::with_user_and_password("node".into(), "n".into());
    let client = options.event_callback(note).connect(nats.url()).await;
    let client = client.expect("connect as a node");
    for subject in [
        "pgic.shop.log.ctl",
        "pgic.shop.live.ctl",
        "pgic.shop.snap.list",
    ] {
        client.publish(subject, "x".into()).await.expect("publish");
        client.flush().await.expect("flush");
        let said = tokio::time::timeout(DEADLINE, refused.recv()).await;
        let said = said.expect("a refusal").expect("a refusal");
        assert!(
            said.contains("Permissions Violation") && said.contains(subject),
            "{said}"
        );
    }
}

/// Writes a context of the tool `nats` into the folder `config`, and selects it.
fn select_context(config: &std::path::Path, name: &str, context: &Value) {
    let folder = config.join("nats");
    std::fs::create_dir_all(folder.join("context")).expect("a folder");
    let file = folder.join("context").join(format!("{name}.json"));
    std::fs::write(file, context.to_string()).expect("a context");
    std::fs::write(folder.join("context.txt"), name).expect("the selected context");
}

/// Servers and credentials that the tool `nats` knows need not be said again.
#[tokio::test]
async fn a_log_is_found_by_its_name_on_the_servers_of_a_context() {
    let users = "authorization { users: [{ user: u, password: \"s3cret\" }] }";
    let (database, nats) = (shop().await, Nats::configured(users));
    let config = tempfile::tempdir().expect("a folder");
    let context = serde_json::json!({
        "description": "of a test", "url": nats.url(), "user": "u", "password": "s3cret",
        "inbox_prefix": "_INBOX.test", "nsc": "",
    });
    select_context(config.path(), "right", &context);
    let with_contexts = |mut command: std::process::Command| {
        command.env("XDG_CONFIG_HOME", config.path());
        command
    };
    let arguments = ["relay", "users", "--name", "shop", "-o", "json"];
    let relay = Tail::start(with_contexts(database.command(&arguments)));
    while relay.next()["state"] != "snapshot" {}
    let count = ["query", "users", "--count", "--from", "shop"];
    let ran = run(with_contexts(pgic(&count)));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "500\n"), "{ran:?}");
    // Another context than the selected one, and variables that come before it.
    let wrong = serde_json::json!({ "url": nats.url(), "user": "u", "password": "wr0ng" });
    select_context(config.path(), "wrong", &wrong);
    let ran = run(with_contexts(pgic(&count)));
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(!ran.stderr.contains("wr0ng"), "{ran:?}");
    for (name, value) in [
        ("NATS_CONTEXT", "right"),
        ("NATS_URL", &nats.url_of("u", "s3cret")),
    ] {
        let mut command = with_contexts(pgic(&count));
        command.env(name, value);
        let ran = run(command);
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
    }
    let mut command = with_contexts(pgic(&count));
    command.env("NATS_USER", "u").env("NATS_PASSWORD", "s3cret");
    assert_eq!(run(command).code, 0);
    for (name, because) in [("gone", "read"), ("../x", "that is no name of a context")] {
        let mut command = with_contexts(pgic(&count));
        command.env("NATS_CONTEXT", name);
        let ran = run(command);
        assert!(ran.code == 2 && ran.stderr.contains(because), "{ran:?}");
    }
}

/// Asks `why` of a row in the log, and returns the exit code and the events.
async fn why(database: &Database, url: &str, arguments: &[&str]) -> (i32, Vec<Value>) {
    let from = format!("{url}/shop");
    let all = ["why", "-o", "json", "--from", &from, "--timeout", "500ms"];
    let all: Vec<String> = all
        .iter()
        .chain(arguments)
        .map(ToString::to_string)
        .collect();
    let database = database.clone();
    let ran = tokio::task::spawn_blocking(move || {
        database.pgic(&all.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let ran = ran.await.expect("pgic");
    (ran.code, check_all(&ran.stdout))
}

/// Returns what `why` says of a link: the verdict, and what is broken.
fn link<'a>(events: &'a [Value], name: &str) -> (&'a str, &'a str, &'a str) {
    let link = events.iter().find(|event| event["link"] == name);
    let link = link.unwrap_or_else(|| panic!("no link {name}: {events:?}"));
    let text = |member: &str| link[member].as_str().unwrap_or_default();
    (text("result"), text("code"), text("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_followed_into_the_log_and_to_its_nodes() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let _relay = relay(&database, &url);
    let _node = open(async_nats::connect(&url).await.expect("connect"), "web-1").await;
    let client = database.client().await;
    let id = client.query_one("SELECT id::text FROM users LIMIT 1", &[]);
    let id: String = id.await.expect("a user").get(0);
    let (code, events) = why(&database, &url, &["users", &id]).await;
    assert_eq!(code, 0, "{events:?}");
    let (result, _, text) = link(&events, "log");
    assert!(
        result == "ok" && text.ends_with("has the row as it is"),
        "{text}"
    );
    assert_eq!(link(&events, "nodes").0, "ok", "{events:?}");
    let of_node = events.iter().find(|event| event["event"] == "log-node");
    assert_eq!(of_node.expect("the node")["node"], "web-1");
    // It is written anew, and seen in the log behind that.
    let (code, events) = why(&database, &url, &["users", &id, "--touch"]).await;
    assert_eq!(code, 0, "{events:?}");
    assert!(
        link(&events, "log").2.contains("ms after the commit"),
        "{events:?}"
    );
    // What neither has is right. A table that the relay does not follow is nowhere.
    let nobody = "00000000-0000-4000-8000-000000000000";
    let (code, events) = why(&database, &url, &["users", nobody]).await;
    assert!(
        code == 0 && link(&events, "log").2.ends_with("no such row either"),
        "{events:?}"
    );
    execute(
        &client,
        "CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)",
    )
    .await;
    let (code, events) = why(&database, &url, &["other", "1"]).await;
    assert_eq!(
        (code, link(&events, "log").1),
        (1, "not-in-log"),
        "{events:?}"
    );
    // A row that was written past the trigger is another one in the log.
    let past = "BEGIN; SET LOCAL session_replication_role = replica; \
                UPDATE orders SET total = 99 WHERE customer = 2; COMMIT";
    execute(&client, past).await;
    let (code, events) = why(&database, &url, &["orders", "2,1"]).await;
    assert_eq!(
        (code, link(&events, "log").1),
        (1, "log-stale"),
        "{events:?}"
    );
    let stale = events
        .iter()
        .find(|event| event["link"] == "log")
        .expect("the log");
    let now = stale["now"].as_str().unwrap_or_default();
    assert!(
        now.starts_with("pgic announce public.orders 2,1 --from "),
        "{stale}"
    );
    assert_eq!(
        link(&events, "nodes").0,
        "unknown",
        "no node has orders: {events:?}"
    );
    // What mends it does, and says so.
    let from = format!("{url}/shop");
    let announce = [
        "announce",
        "public.orders",
        "2,1",
        "--from",
        &from,
        "-o",
        "json",
    ];
    let announce = announce.map(ToString::to_string);
    let other = database.clone();
    let announced =
        tokio::task::spawn_blocking(move || other.pgic(&announce.each_ref().map(String::as_str)));
    let announced = announced.await.expect("pgic");
    assert_eq!(announced.code, 0, "{announced:?}");
    let in_log = check_all(&announced.stdout);
    let in_log = in_log.iter().find(|event| event["event"] == "log-row");
    assert_eq!(
        in_log.expect("the log")["result"],
        "current",
        "{announced:?}"
    );
    let (code, events) = why(&database, &url, &["orders", "2,1"]).await;
    assert_eq!((code, link(&events, "log").0), (0, "ok"), "{events:?}");
}

/// Without a relay nobody knows what the log is worth.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_proves_is_the_broken_link() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let relay = relay(&database, &url);
    let node = open(async_nats::connect(&url).await.expect("connect"), "web-1").await;
    relay.signal("KILL");
    drop(relay);
    let mut status = node.events();
    while !matches!(node.status(), ReplicaStatus::Stale { .. }) {
        let event = tokio::time::timeout(DEADLINE, status.next()).await;
        event.expect("an event");
    }
    let nobody = "00000000-0000-4000-8000-000000000000";
    let (code, events) = why(&database, &url, &["users", nobody]).await;
    assert_eq!(
        (code, link(&events, "log").1),
        (1, "log-not-proven"),
        "{events:?}"
    );
    assert_eq!(link(&events, "nodes").1, "node-stale", "{events:?}");
}

/// The log of another database has other rows, whatever they look like.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_database_is_not_asked_for_a_row() {
    let (database, other, nats) = (shop().await, shop().await, Nats::start());
    let url = nats.url();
    let _relay = relay(&database, &url);
    let from = format!("{url}/shop");
    for command in ["why", "announce"] {
        let arguments = [command, "orders", "1,1", "--from", &from].map(ToString::to_string);
        let other = other.clone();
        let ran = tokio::task::spawn_blocking(move || {
            other.pgic(&arguments.each_ref().map(String::as_str))
        });
        let ran = ran.await.expect("pgic");
        assert!(
            ran.code == 2 && ran.stderr.contains("the tables of another database"),
            "{ran:?}"
        );
    }
}

/// A row that goes to and fro looks as before when it is read again, and the log may have the other
/// one rightly.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_goes_to_and_fro_is_not_called_wrong() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let _relay = relay(&database, &url);
    let client = database.client().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let flip = "UPDATE orders SET total = 1 - coalesce(total, 0) WHERE number = 2";
        while stopped.try_recv().is_err() {
            client.batch_execute(flip).await.expect("write");
        }
    });
    for _ in 0..5 {
        let (code, events) = why(&database, &url, &["orders", "1,2"]).await;
        assert!(
            code == 0 && link(&events, "log").0 != "broken",
            "{events:?}"
        );
    }
    stop.send(()).expect("the writer");
    writing.await.expect("the writer");
}

/// A node's word that it is live says nothing of a position that it does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_be_behind_is_not_called_right() {
    let (database, nats) = (shop().await, Nats::start());
    let url = nats.url();
    let _relay = relay(&database, &url);
    let client = async_nats::connect(&url).await.expect("connect");
    let mut calls = client.subscribe("pgic.shop.nodes").await.expect("listen");
    client.flush().await.expect("NATS");
    let answering = tokio::spawn(async move {
        while let Some(_call) = futures_util::StreamExt::next(&mut calls).await {
            let answer = serde_json::json!({
                "node": "old", "host": "h", "instance": "0000000000000001", "version": "1",
                "state": "live", "position": "1.0000000000000001.1",
                "tables": [{"table": "orders", "state": "live", "rows": 3, "memory": 1,
                    "kept_out": 0}],
            });
            let subject = "pgic.shop.node.0000000000000001";
            let answered = client.publish(subject, answer.to_string().into()).await;
            answered.expect("publish");
        }
    });
    let (code, events) = why(&database, &url, &["orders", "1,1"]).await;
    assert_eq!(code, 0, "{events:?}");
    assert_eq!(link(&events, "log").0, "ok", "{events:?}");
    let (result, _, text) = link(&events, "nodes");
    assert_eq!(
        (result, text),
        ("unknown", "0 of 1 node are known to have it")
    );
    answering.abort();
}
