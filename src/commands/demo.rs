//! `pgic demo`: shows the other commands at work on a throw-away server. The demo starts them as a
//! person does, as processes of the same binary, so that the output is that which a person will
//! see.

mod nats;
mod relay;

use super::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::render::print;
use anyhow::{Context as _, bail};
use postgres_index_cache_core::uuid::Uuid;
use postgres_index_cache_core::{HasPrimaryKey, Indexable, Replica};
use serde::Deserialize;
use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;
use throwaway_postgres::{Cluster, INSTALL_HINT, Setup, ThrowawayError, variables_of_others};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

/// The time after which the demo gives up, the start of the server included. A demo takes a few
/// seconds.
const LONGEST: Duration = Duration::from_secs(28);

/// The same with relays, one of which must notice that the other is gone.
const LONGEST_WITH_RELAY: Duration = Duration::from_secs(80);

/// The time between two writes while a command follows the table.
const PAUSE: Duration = Duration::from_millis(50);

/// The statements that make and fill the tables. No triggers are made for `orders`, so that whoever
/// keeps the server can see what the commands say of such a table.
const TABLES: &str = "
    CREATE TABLE users (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        username text NOT NULL,
        username_hash bigint NOT NULL,
        email_hash bigint NOT NULL
    );
    CREATE TABLE products (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), sku_hash bigint NOT \
    NULL, price numeric NOT NULL);
    INSERT INTO users (username, username_hash, email_hash) SELECT 'user' || n, n, n % 100 FROM \
    generate_series(1000, 10999) n;
    INSERT INTO products (sku_hash, price) SELECT n, n / 100.0 FROM generate_series(1, 500) n;
    CREATE TABLE orders (id int PRIMARY KEY, total numeric NOT NULL);
    INSERT INTO orders SELECT n, n FROM generate_series(1, 20) n;
    COMMENT ON TABLE users IS 'of pgic demo';
    ANALYZE;";

/// The statements that are run while `tail` listens. Each causes one notification, since `tail`
/// ends after as many notifications as there are statements.
const WRITES: [&str; 7] = [
    "INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440000', 'ann', 123, 7)",
    "UPDATE users SET email_hash = 8 WHERE username_hash = 123",
    "INSERT INTO products VALUES ('00000000-0000-4000-8000-000000000001', 42, 19.90)",
    "UPDATE users SET username = repeat('very long ', 1000) WHERE username_hash = 1000",
    "DELETE FROM products WHERE sku_hash = 500",
    "INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440001', 'bob', 123, 9)",
    "TRUNCATE products",
];

/// Show the other commands at work on a throw-away PostgreSQL
///
/// Starts a PostgreSQL server in a private folder, creates the tables users, products and orders,
/// installs triggers on the first two, writes, and shows tail, query, verify and status. Then it
/// starts two nodes, breaks the pipeline, finds the row that went stale, and mends it. Ends by
/// itself after some seconds, and leaves nothing behind. Needs PostgreSQL's server programs, and no
/// running server: --database-url has no effect.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Leave the server running with a writer, and print the URL
    #[arg(long)]
    pub keep: bool,
    /// Show a relay instead: its log on a throw-away NATS server, a second relay that takes over, and
    /// nodes without a session on PostgreSQL. Needs nats-server
    #[arg(long, conflicts_with = "keep")]
    pub relay: bool,
    /// Write to the server of DATABASE_URL until it stops: the writer of --keep
    #[arg(long, hide = true, conflicts_with = "keep")]
    pub write: bool,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic demo
  pgic demo --keep    leave the server running with a writer, to play with
  pgic demo --relay   nodes that follow a log instead of listening

Exit codes:
  0  done
  2  no server could be started, or one of the commands failed";

/// Runs the demo.
///
/// # Errors
/// If no server can be started, or one of the commands fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if args.write {
        return write_on(context).await;
    }
    let longest = if args.relay {
        LONGEST_WITH_RELAY
    } else {
        LONGEST
    };
    let deadline = tokio::time::Instant::now() + longest;
    let mut interrupted = std::pin::pin!(interrupted());
    say("# a PostgreSQL server for this demo alone")?;
    let starting = tokio::task::spawn_blocking(|| Cluster::start(&Setup::default()));
    let cluster = tokio::select! {
        cluster = starting => cluster.context("start a server")?,
        // A server that has been started by now ends with this process: its watchdog sees to that.
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    let cluster = cluster.map_err(no_server)?;
    say(&format!("{cluster}\n"))?;
    let showing = async {
        if args.relay {
            relay::show(context, &cluster).await
        } else {
            show(context, &cluster).await
        }
    };
    let shown = tokio::select! {
        shown = tokio::time::timeout_at(deadline, showing) => {
            shown.unwrap_or_else(|_| bail!("the demo did not end within {longest:?}"))
        }
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    shown?;
    if args.keep {
        let url = kept_url(&cluster);
        let stop = cluster.stop_command();
        cluster.keep()?;
        start_writer(&url)?;
        say(&format!(
            "\n# the server stays, with somebody who writes each second; for the other \
            commands:\nexport DATABASE_URL='{url}'\n# to stop it and remove its files:\n{stop}"
        ))?;
    }
    Ok(ExitCode::Yes)
}

/// Returns the URL of a server that is kept. It names what a variable of the person's own would
/// otherwise decide, `PGPORT` for example.
fn kept_url(cluster: &Cluster) -> String {
    format!(
        "{}&port=5432&connect_timeout=10&target_session_attrs=any&channel_binding=prefer",
        cluster.url("postgres")
    )
}

/// Starts the writer of a server that is kept: a process of its own, which ends with the server.
fn start_writer(url: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = std::process::Command::new(program);
    command
        .args(["--config", "/dev/null", "demo", "--write"])
        .env("DATABASE_URL", url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for name in variables_of_others() {
        command.env_remove(name);
    }
    // A Ctrl-C that is meant for the person's next command must not end it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().context("start the writer")?;
    Ok(())
}

/// Changes a row each second, until the server is stopped.
async fn write_on(context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.server("demo")?.client().await?;
    let marked = "SELECT pg_catalog.obj_description('public.users'::regclass) = 'of pgic demo'";
    let row = client.query_one(marked, &[]).await;
    let is_demo = row.ok().and_then(|row| row.get::<_, Option<bool>>(0));
    anyhow::ensure!(is_demo == Some(true), "this is no server of pgic demo");
    let mut number = 1000_i64;
    loop {
        number = if number < 10_999 { number + 1 } else { 1000 };
        let update =
            "UPDATE users SET email_hash = (email_hash + 1) % 100 WHERE username_hash = $1";
        if client.execute(update, &[&number]).await.is_err() {
            return Ok(ExitCode::Yes);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Adds how to install PostgreSQL to an error that says that there is none, or an old one.
fn no_server(error: ThrowawayError) -> anyhow::Error {
    match error {
        ThrowawayError::NoServer | ThrowawayError::TooOld { .. } => with_hint(error, INSTALL_HINT),
        ThrowawayError::NoUser | ThrowawayError::Io { .. } | ThrowawayError::Program { .. } => {
            error.into()
        }
    }
}

/// Prints a line of the demo's own on stdout.
fn say(text: &str) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}

/// Makes the tables, then runs one command after another on them.
async fn show(context: &Context, cluster: &Cluster) -> anyhow::Result<()> {
    let url = cluster.url("postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls)
        .await
        .context("connect to the demo's server")?;
    let connection = tokio::spawn(connection);
    say("# tables users, products and orders, with 10000, 500 and 20 rows")?;
    client
        .batch_execute(TABLES)
        .await
        .context("create the tables")?;
    say("\n# triggers that announce every change")?;
    finish(start(context, &url, "install-triggers users products")?).await?;
    say("\n# what the channel carries while somebody writes")?;
    let tail = format!("tail --channel cache_invalidation --count {}", WRITES.len());
    tail_while_writing(start(context, &url, &tail)?, &client).await?;
    say("\n# the cache of an application, asked")?;
    finish(start(context, &url, "query users username_hash=123")?).await?;
    say("\n# how it was found, as JSON")?;
    let explained = "query users username_hash:=100*100 --explain --output json";
    finish(start(context, &url, explained)?).await?;
    say("\n# is such a cache right? compared with the tables, row by row, at one exact cut")?;
    finish(start(context, &url, "verify users products --rounds 1")?).await?;
    say("\n# are the triggers there, and who listens?")?;
    finish(start(context, &url, "status")?).await?;
    nodes_that_differ(context, &url, &client).await?;
    break_and_find(context, &url, &client).await?;
    drop(client);
    connection
        .await
        .context("end the demo's own connection")??;
    Ok(())
}

/// A row of the table `users`, as the demo's nodes keep it.
#[derive(Debug, Deserialize)]
struct User {
    id: Uuid,
    username_hash: i64,
}

impl HasPrimaryKey for User {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for User {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("username_hash".to_string(), Some(self.username_hash))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Starts a node, as an application does.
async fn node(url: &str, name: &str) -> anyhow::Result<Replica> {
    let config: tokio_postgres::Config = url.parse().context("read the demo's URL")?;
    let mut builder = Replica::builder(config);
    builder.name(name);
    builder.table::<User>("users");
    builder.open().await.context("start a node of the demo")
}

/// Starts two nodes, changes a row behind their backs, lets `why` name the link that is broken, and
/// mends it.
async fn nodes_that_differ(context: &Context, url: &str, client: &Client) -> anyhow::Result<()> {
    say("\n# two nodes of an application, each with a cache of users")?;
    let nodes = [node(url, "web-1").await?, node(url, "web-2").await?];
    finish(start(context, url, "nodes")?).await?;
    let key = change_a_row_silently(client).await?;
    say("# why does no node have the row as it is?")?;
    let why = format!("why users {key}");
    finish_with(start(context, url, &why)?, 1).await?;
    say("\n# what is advised now: every node reads the row again")?;
    finish(start(context, url, &format!("announce users {key}"))?).await?;
    say("\n# the caches of all nodes, compared with the table at one exact cut")?;
    finish(start(context, url, "verify users --nodes")?).await?;
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}

/// Changes a row past the triggers, and returns the key.
async fn change_a_row_silently(client: &Client) -> anyhow::Result<String> {
    say("\n# something breaks: a change that nobody announces")?;
    let key = client
        .query_one("SELECT id::text FROM users WHERE username_hash = 2000", &[])
        .await
        .context("find a row")?;
    silently(client, true).await?;
    client
        .batch_execute("UPDATE users SET email_hash = -1 WHERE username_hash = 2000")
        .await
        .context("write")?;
    silently(client, false).await?;
    Ok(key.get(0))
}

/// Writes past the triggers, lets `verify` find the row, and does what it advises.
async fn break_and_find(context: &Context, url: &str, client: &Client) -> anyhow::Result<()> {
    const VERIFY: &str = "verify users --for 1s";
    say("\n# something breaks: a writer whose session fires no triggers, as a restore or logical")?;
    say("# replication does; the row in the cache goes stale")?;
    silently(client, true).await?;
    finish_while_writing(start(context, url, VERIFY)?, client, ExitStatus::Differs).await?;
    say("\n# what is advised: triggers that fire for such sessions too")?;
    finish(start(context, url, "install-triggers users --always")?).await?;
    say("\n# the same writer once more")?;
    finish_while_writing(start(context, url, VERIFY)?, client, ExitStatus::Equal).await?;
    silently(client, false).await
}

/// Lets the session fire no ordinary triggers from now on, or fire them again.
async fn silently(client: &Client, is_silent: bool) -> anyhow::Result<()> {
    let role = if is_silent { "replica" } else { "origin" };
    let sql = format!("SET session_replication_role = {role}");
    client
        .batch_execute(&sql)
        .await
        .context("change the session")
}

/// The end that a command should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExitStatus {
    Equal,
    Differs,
}

/// Changes a row again and again until a command has ended, and prints the command's output.
async fn finish_while_writing(
    mut child: Child,
    client: &Client,
    expected: ExitStatus,
) -> anyhow::Result<()> {
    let mut changes = 0;
    while child.try_wait().context("wait for the command")?.is_none() {
        changes += 1;
        let sql = format!("UPDATE users SET email_hash = {changes} WHERE username_hash = 1001");
        client.batch_execute(&sql).await.context("write")?;
        tokio::time::sleep(PAUSE).await;
    }
    let output = child
        .wait_with_output()
        .await
        .context("wait for the command")?;
    for text in [&output.stderr, &output.stdout] {
        print(&String::from_utf8_lossy(text))?;
    }
    let code = match expected {
        ExitStatus::Equal => 0,
        ExitStatus::Differs => 1,
    };
    if output.status.code() == Some(code) {
        Ok(())
    } else {
        bail!("the command ended with {}", output.status)
    }
}

/// Prints the command `line`, and starts this binary with the words of that line. No shell is
/// involved, so a word cannot hold a space.
fn start(context: &Context, url: &str, line: &str) -> anyhow::Result<Child> {
    say(&format!("$ pgic {line}"))?;
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(line.split(' ')).env("DATABASE_URL", url);
    // A PGHOST, PGOPTIONS or NATS_URL of the person's own is meant for another server.
    let of_nats = std::env::vars_os().map(|(name, _)| name);
    let of_nats = of_nats.filter(|name| name.to_string_lossy().starts_with("NATS_"));
    for name in variables_of_others().chain(of_nats) {
        command.env_remove(name);
    }
    command.args([
        "--color",
        if context.look.color {
            "always"
        } else {
            "never"
        },
    ]);
    // Nor is a pgic.toml of the person's.
    command.args(["--config", "/dev/null"]);
    // stderr is read as well: notices and banners are printed on stdout, at their place in the
    // demo. A command must not outlive the demo, for example when that is interrupted.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().context("start a command")
}

/// Copies the output of a command to ours until it ends: notices first, then the answer.
async fn finish(child: Child) -> anyhow::Result<()> {
    finish_with(child, 0).await
}

/// Copies the output of a command as [`finish`] does. The command must end with this code.
async fn finish_with(mut child: Child, code: i32) -> anyhow::Result<()> {
    let reading = "read the command's output";
    let mut stderr = BufReader::new(child.stderr.take().context(reading)?).lines();
    let mut stdout = BufReader::new(child.stdout.take().context(reading)?).lines();
    // stderr is read to its end first. The answers of these commands are shorter than a pipe holds,
    // so none of them waits for its stdout to be read meanwhile.
    while let Some(line) = stderr.next_line().await.context(reading)? {
        say(&line)?;
    }
    while let Some(line) = stdout.next_line().await.context(reading)? {
        say(&line)?;
    }
    let status = child.wait().await.context("wait for the command")?;
    if status.code() == Some(code) {
        Ok(())
    } else {
        bail!("the command ended with {status}")
    }
}

/// Runs the statements one after another, and prints the line of `tail` after each.
async fn tail_while_writing(mut child: Child, client: &Client) -> anyhow::Result<()> {
    let reading = "read the command's output";
    let mut lines = BufReader::new(child.stdout.take().context(reading)?).lines();
    let mut banners = BufReader::new(child.stderr.take().context(reading)?).lines();
    // The banner on stderr says that `tail` listens: a change that is written earlier is never
    // seen.
    let first = banners.next_line().await.context(reading)?;
    say(&first.context("tail ended before it listened")?)?;
    for write in WRITES {
        client
            .batch_execute(write)
            .await
            .with_context(|| format!("write: {write}"))?;
        let line = lines.next_line().await.context(reading)?;
        say(&line.context("tail ended before the last write")?)?;
    }
    let status = child.wait().await.context("wait for tail")?;
    while let Some(line) = banners.next_line().await.context(reading)? {
        say(&line)?;
    }
    if status.success() {
        Ok(())
    } else {
        bail!("tail ended with {status}")
    }
}
