//! `pgic verify`.

use super::{Context, Signals};
use crate::catalog;
use crate::causes;
use crate::cli::{parse_bytes, parse_duration};
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::following::subject::{Subject, load, prepare};
use crate::following::{self, estimate, explain_failure};
use crate::render::{Format, finding, json, print};
use crate::triggers::observe::observe;
use anyhow::anyhow;
use postgres_index_cache_core::KeyBuf;
use postgres_index_cache_core::postgres::{Comparison, Driver, DriverEvent, DriverOptions, RowChange, Verified};
use postgres_index_cache_core::sync::TableId;
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// How often a round that does not count is repeated.
const TRIES: usize = 20;
/// How many keys are remembered that notifications told of.
const HEARD: usize = 1_000_000;

/// `pgic verify TABLE…`.
///
/// Is a cache that is fed by the notifications equal to the table? Loads the tables into the cache that an application has,
/// follows them for a while, then compares cache and table row by row at one exact cut, while writers go on. A line for each
/// row that is missing, stale or a ghost, with the likely cause; exit code 1 when there is one. Takes a COPY of each table,
/// and no lock that a writer waits for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tables: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", required = true)]
    pub tables: Vec<String>,
    /// How long to follow before the comparison
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, default_value = "10s", conflicts_with = "rounds")]
    pub follow: Duration,
    /// Compare so many times, at once and one after another
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// What the caches may take [default: a quarter of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<usize>,
}

/// The keys of the rows that notifications changed, a table each.
type Heard = Vec<HashSet<KeyBuf>>;

/// What is counted over all tables.
#[derive(Debug, Default)]
struct Summary {
    rows: usize,
    missing: usize,
    stale: usize,
    ghost: usize,
    compared: u32,
    inconclusive: u32,
}

/// Loads, follows, compares.
///
/// # Errors
/// When a table is refused, or the server refuses, or no round could be finished.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch();
    let verified = tokio::select! {
        verified = verify(context, &args) => verified,
        _ = signals.next() => Err(anyhow!("interrupted before the comparison was done")),
    };
    verified
}

async fn verify(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let server = context.server("verify")?;
    let client = server.client().await?;
    let subjects = describe(context, &client, args).await?;
    let max_memory = args.max_memory.unwrap_or_else(estimate::default_limit);
    // What notifications miss is to be found, not mended.
    let options = DriverOptions { looks: false, ..prepare(&client, &subjects, max_memory).await? };
    drop(client);
    let mut driver = load(&server, &subjects, options, context.quiet).await?;
    let mut heard: Heard = subjects.iter().map(|_| HashSet::new()).collect();
    driver.tell_of_rows();
    if args.rounds.is_none() {
        follow(&mut driver, &subjects, &mut heard, args.follow).await?;
    }
    let mut summary = Summary::default();
    for _ in 0..args.rounds.unwrap_or(1) {
        for at in 0..subjects.len() {
            let comparison = compare(context, &mut driver, &subjects, &mut heard, at, &mut summary).await?;
            summary.add(&comparison);
            if comparison.differing() > 0 {
                report(context, &server, &subjects[at], &heard[at], &comparison).await?;
            } else if context.format == Format::Text {
                let name = crate::render::escape::escape(&subjects[at].name()).into_owned();
                print(&format!("equal    {name}  {} rows at one exact cut\n", comparison.rows))?;
            }
        }
        if summary.differing() > 0 {
            break;
        }
    }
    finish(context, &subjects, &summary)
}

async fn describe(context: &Context, client: &Client, args: &Args) -> anyhow::Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for table in catalog::resolve(client, &args.tables).await? {
        following::check_kind(&table)?;
        // A table that is not announced is what this is for: it says so.
        match following::check_announced(&table, observe(&table).as_ref()) {
            Ok(notices) => context.notices(&notices),
            Err(error) => context.notice(&error.root_cause().to_string()),
        }
        let mut subject = Subject::whole(table, &mut Vec::new())?;
        // A trigger that is disabled meanwhile is to be found out, not to end this.
        subject.follow.announced_by = Vec::new();
        subjects.push(subject);
    }
    Ok(subjects)
}

/// Follows for a while.
async fn follow(driver: &mut Driver, subjects: &[Subject], heard: &mut Heard, time: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    loop {
        tokio::select! {
            stepped = driver.step() => stepped.map_err(explain_failure)?,
            () = tokio::time::sleep_until(until) => return Ok(()),
        }
        hear(driver, subjects, heard);
    }
}

/// Remembers which rows notifications changed.
fn hear(driver: &mut Driver, subjects: &[Subject], heard: &mut Heard) {
    let told: Vec<DriverEvent> = driver.take_events().collect();
    for event in told {
        if let DriverEvent::Row { table, change } = event {
            let (shape, heard) = (&subjects[table.0].shape, &mut heard[table.0]);
            let (RowChange::Added(row) | RowChange::Changed { new: row, .. } | RowChange::Removed(row)) = change;
            if heard.len() < HEARD {
                heard.insert(KeyBuf::of_row(shape, &row));
            }
        }
    }
}

/// Compares a table, as often as it takes for the round to count.
async fn compare(
    context: &Context,
    driver: &mut Driver,
    subjects: &[Subject],
    heard: &mut Heard,
    at: usize,
    summary: &mut Summary,
) -> anyhow::Result<Comparison> {
    let name = subjects[at].name();
    let mut last = String::new();
    for _ in 0..TRIES {
        let verified = driver.verify(TableId(at)).await.map_err(explain_failure)?;
        hear(driver, subjects, heard);
        match verified {
            Verified::Compared(comparison) => {
                summary.compared += 1;
                return Ok(comparison);
            }
            Verified::Inconclusive(why) => {
                summary.inconclusive += 1;
                context.notice(&format!("a round of {name} does not count, and is repeated: {why}"));
                last = why;
            }
        }
        // What makes a round fail takes a moment to pass.
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            tokio::select! {
                stepped = driver.step() => stepped.map_err(explain_failure)?,
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
    Err(with_hint(
        anyhow!("{name} could not be compared: {TRIES} rounds in a row did not count: {last}"),
        "try again when the table is not altered, truncated or moved; a plain-form trigger needs a quiet moment",
    ))
}

/// Prints what was found, with causes as the catalogue has them now.
async fn report(
    context: &Context,
    server: &Server,
    subject: &Subject,
    heard: &HashSet<KeyBuf>,
    comparison: &Comparison,
) -> anyhow::Result<()> {
    let client = server.client().await?;
    let tables = catalog::describe(&client, &[subject.table.oid]).await?;
    let table = tables.first().unwrap_or(&subject.table);
    let seen = observe(table);
    let lines = comparison.findings.iter().map(|found| {
        let was_heard = heard.contains(&found.key_cells);
        let cause = causes::likely(table, seen.as_ref(), &subject.channel, found.kind, was_heard);
        finding::finding(context.format, (&table.schema, &table.name), found, &cause)
    });
    print(&lines.collect::<String>())?;
    let more = comparison.differing() - comparison.findings.len();
    if more > 0 {
        context.notice(&format!("{more} more rows of {} differ", table.display_name()));
    }
    Ok(())
}

fn finish(context: &Context, subjects: &[Subject], summary: &Summary) -> anyhow::Result<ExitCode> {
    let Summary { rows, missing, stale, ghost, compared, inconclusive } = summary;
    let is_equal = summary.differing() == 0;
    match context.format {
        Format::Json => print(&json::line([
            ("event", json!("summary")),
            ("equal", json!(is_equal)),
            ("tables", json!(subjects.len())),
            ("rows", json!(rows)),
            ("missing", json!(missing)),
            ("stale", json!(stale)),
            ("ghost", json!(ghost)),
            ("rounds", json!(compared)),
            ("inconclusive", json!(inconclusive)),
        ]))?,
        Format::Text if !is_equal => {
            context.notice(&format!("{missing} missing, {stale} stale, {ghost} ghosts"));
        }
        Format::Text => {}
    }
    Ok(if is_equal { ExitCode::Yes } else { ExitCode::No })
}

impl Summary {
    fn add(&mut self, comparison: &Comparison) {
        self.rows += comparison.rows;
        self.missing += comparison.missing;
        self.stale += comparison.stale;
        self.ghost += comparison.ghosts;
    }

    fn differing(&self) -> usize {
        self.missing + self.stale + self.ghost
    }
}
