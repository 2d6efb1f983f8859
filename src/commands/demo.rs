//! `pgic demo`: the other commands at work on a throw-away server. They are run as a person runs
//! them, by the same binary.

use super::{Context, interrupted};
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::render::print;
use anyhow::{Context as _, bail};
use std::process::Stdio;
use std::time::Duration;
use throwaway_postgres::{Cluster, INSTALL_HINT, Setup, ThrowawayError, variables_of_others};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

/// Past this the demo gives up, its server's start included: it takes a few seconds.
const LONGEST: Duration = Duration::from_secs(28);

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
    ANALYZE;";

/// What the writer does while `tail` listens: one notification each.
const WRITES: [&str; 7] = [
    "INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440000', 'ann', 123, 7)",
    "UPDATE users SET email_hash = 8 WHERE username_hash = 123",
    "INSERT INTO products VALUES ('00000000-0000-4000-8000-000000000001', 42, 19.90)",
    "UPDATE users SET username = repeat('very long ', 1000) WHERE username_hash = 1000",
    "DELETE FROM products WHERE sku_hash = 500",
    "INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440001', 'bob', 123, 9)",
    "TRUNCATE products",
];

/// `pgic demo`.
///
/// Starts a PostgreSQL server of its own in a private folder, creates users and products, installs
/// the triggers, writes, and shows tail, query and status. Ends by itself, and leaves nothing
/// behind.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the server running, and print its URL
    #[arg(long)]
    pub keep: bool,
}

/// Shows it all.
///
/// # Errors
/// When there is no server to be had, or a command fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let deadline = tokio::time::Instant::now() + LONGEST;
    let mut interrupted = std::pin::pin!(interrupted());
    say("# a PostgreSQL server for this demo alone")?;
    let starting = tokio::task::spawn_blocking(|| Cluster::start(&Setup::default()));
    let cluster = tokio::select! {
        cluster = starting => cluster.context("start a server")?,
        // What is started by now goes with this process.
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    let cluster = cluster.map_err(no_server)?;
    say(&format!("{cluster}\n"))?;
    let shown = tokio::select! {
        shown = tokio::time::timeout_at(deadline, show(context, &cluster)) => {
            shown.unwrap_or_else(|_| bail!("the demo did not end within {LONGEST:?}"))
        }
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    shown?;
    if args.keep {
        let url = cluster.url("postgres");
        let stop = cluster.stop_command();
        cluster.keep()?;
        say(&format!(
            "\n# the server stays; for the other commands:\nexport DATABASE_URL='{url}'\n# to stop \
            it and remove its files:\n{stop}"
        ))?;
    }
    Ok(ExitCode::Yes)
}

/// A missing server, with how to install it.
fn no_server(error: ThrowawayError) -> anyhow::Error {
    match error {
        ThrowawayError::NoServer | ThrowawayError::TooOld { .. } => with_hint(error, INSTALL_HINT),
        ThrowawayError::NoUser | ThrowawayError::Io { .. } | ThrowawayError::Program { .. } => {
            error.into()
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}

async fn show(context: &Context, cluster: &Cluster) -> anyhow::Result<()> {
    let url = cluster.url("postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls)
        .await
        .context("connect to the demo's server")?;
    let connection = tokio::spawn(connection);
    say("# tables users and products, with 10000 and 500 rows")?;
    client
        .batch_execute(TABLES)
        .await
        .context("create the tables")?;
    let pgic = |line: &str| pgic(context, &url, line);
    say("\n# triggers that announce every change")?;
    finish(pgic("install-triggers users products")?).await?;
    say("\n# what the channel carries while somebody writes")?;
    let count = WRITES.len();
    tail_while_writing(
        pgic(&format!(
            "tail --channel cache_invalidation --count {count}"
        ))?,
        &client,
    )
    .await?;
    say("\n# the cache of an application, asked")?;
    finish(pgic("query users username_hash=123")?).await?;
    say("\n# how it was found, as JSON")?;
    finish(pgic(
        "query users username_hash:=100*100 --explain --output json",
    )?)
    .await?;
    say("\n# is such a cache right? compared with the tables, row by row, at one exact cut")?;
    finish(pgic("verify users products --rounds 1")?).await?;
    say("\n# are the triggers there, and who listens?")?;
    finish(pgic("status")?).await?;
    drop(client);
    connection
        .await
        .context("end the demo's own connection")??;
    Ok(())
}

/// Starts this binary with the words of `line`, after showing them.
fn pgic(context: &Context, url: &str, line: &str) -> anyhow::Result<Child> {
    say(&format!("$ pgic {line}"))?;
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(line.split(' ')).env("DATABASE_URL", url);
    variables_of_others().for_each(|name| {
        command.env_remove(name);
    });
    command.args(["--color", if context.color { "always" } else { "never" }]);
    // What the commands say beside their answers stands where they say it.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().context("start a command")
}

/// Copies the command's output to ours until it ends.
async fn finish(mut child: Child) -> anyhow::Result<()> {
    let reading = "read the command's output";
    let mut stderr = BufReader::new(child.stderr.take().context(reading)?).lines();
    let mut stdout = BufReader::new(child.stdout.take().context(reading)?).lines();
    while let Some(line) = stderr.next_line().await.context(reading)? {
        say(&line)?;
    }
    while let Some(line) = stdout.next_line().await.context(reading)? {
        say(&line)?;
    }
    let status = child.wait().await.context("wait for the command")?;
    if status.success() {
        Ok(())
    } else {
        bail!("the command ended with {status}")
    }
}

/// Writes once `tail` listens: its banner, on stderr, says so.
async fn tail_while_writing(mut child: Child, client: &Client) -> anyhow::Result<()> {
    let reading = "read the command's output";
    let mut lines = BufReader::new(child.stdout.take().context(reading)?).lines();
    let mut banners = BufReader::new(child.stderr.take().context(reading)?).lines();
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
