//! `pgic wait`: ends as soon as the server, the triggers or the nodes are ready.

use super::Context;
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::{ConnectFailure, Report};
use crate::fleet::Fleet;
use crate::fleet::cut::table_ref;
use crate::fleet::node::Roster;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::{Format, count, print};
use crate::tables::catalog::{self, CatalogTable};
use crate::tables::target::Target;
use crate::units::parse_duration;
use anyhow::bail;
use clap::ValueEnum;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::catalog::{CatalogError, parse_name};
use postgres_index_cache_core::tooling::postgres::triggers::{Severity, diagnose};
use std::time::Duration;
use tokio::time::Instant;

/// The time between two looks.
const POLL: Duration = Duration::from_millis(250);
/// How long nodes may take to answer. One that is silent is asked again at the next look.
const PATIENCE: Duration = Duration::from_secs(2);

/// Wait until the server, the triggers or the nodes are ready
///
/// For scripts and containers that start before their database does. Ends as soon as the condition
/// of --for holds, and says what is missing whenever that changes.
///
/// A wrong password, or a database that does not exist, ends the wait at once: no time mends it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", add = completion::announced_tables())]
    #[arg(required_if_eq("condition", "announced"))]
    pub tables: Vec<String>,
    /// What to wait for
    #[arg(long = "for", id = "condition", value_enum, value_name = "CONDITION")]
    #[arg(default_value_t = Condition::Reachable)]
    pub condition: Condition,
    /// With --for live: at how many nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub nodes: u32,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Condition {
    /// The server takes a session
    Reachable,
    /// The triggers of each TABLE announce all changes
    Announced,
    /// Each TABLE, or every table of theirs, is live at --nodes nodes
    Live,
}

impl Condition {
    /// Returns the word of the command line.
    fn as_str(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Announced => "announced",
            Self::Live => "live",
        }
    }
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic wait                                 until the server takes a session
  pgic wait --for announced users orders    until the migration has run
  pgic wait --for live users --nodes 3 --timeout 5m

Exit codes:
  0  the condition holds
  1  it does not hold within --timeout
  2  it never will: usage, password, privilege, database error
  3  the server could not be reached within --timeout";

/// What a look has found.
enum Found {
    /// The condition holds, for these.
    Holds(String),
    /// It does not hold yet: why.
    NotYet(String),
}

/// Looks until the condition holds or the time is over, and prints which.
///
/// A signal ends the process as it always does: a script that goes on after exit code 0 must not be
/// told so by Ctrl-C.
///
/// # Errors
/// If the condition can never hold, or the server was not reached to the end.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    check(&args)?;
    let server = context.server("wait")?;
    let began = Instant::now();
    let deadline = began + args.timeout;
    let mut fleet = None;
    let mut said = String::new();
    let mut last = None;
    loop {
        let look = look(&server, &args, &mut fleet);
        let why = match tokio::time::timeout_at(deadline, look).await {
            Ok(Ok(Found::Holds(what))) => {
                report(context, &server, &args, Ok(&what), began.elapsed())?;
                return Ok(ExitCode::Yes);
            }
            Ok(Ok(Found::NotYet(why))) => {
                last = None;
                why
            }
            Ok(Err(error)) if is_final(&error) => return Err(error),
            Ok(Err(error)) => {
                fleet = None;
                let why = Report::new(&error).error;
                last = Some(error);
                why
            }
            // The look itself took too long; what was found before it is what is known.
            Err(_) if said.is_empty() => "there was no answer".to_string(),
            Err(_) => said.clone(),
        };
        if why != said {
            context.notice(&format!("waiting: {why}"));
            said = why;
        }
        if Instant::now() + POLL >= deadline {
            tokio::time::sleep_until(deadline).await;
            return match last {
                Some(error) => Err(error.context(format!(
                    "not {} after {}",
                    args.condition.as_str(),
                    seconds(args.timeout)
                ))),
                None => {
                    report(context, &server, &args, Err(&said), began.elapsed())?;
                    Ok(ExitCode::No)
                }
            };
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Checks what no time would mend.
fn check(args: &Args) -> anyhow::Result<()> {
    if args.condition == Condition::Reachable && !args.tables.is_empty() {
        bail!("TABLE needs --for announced or --for live");
    }
    if args.condition != Condition::Live && args.nodes != 1 {
        bail!("--nodes needs --for live");
    }
    for name in &args.tables {
        if parse_name(name).is_none() {
            return Err(CatalogError::NoName(name.clone()).into());
        }
    }
    Ok(())
}

/// Tells whether an attempt to connect failed in a way that no time mends.
fn is_final(error: &anyhow::Error) -> bool {
    let mut failures = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<ConnectFailure>());
    failures.any(|failure| !failure.source.may_pass())
}

/// Looks once whether the condition holds.
async fn look(server: &Server, args: &Args, fleet: &mut Option<Fleet>) -> anyhow::Result<Found> {
    let mut client = server.client().await?;
    if args.condition == Condition::Reachable {
        // A pooler takes a session while no server is behind it.
        client.simple_query("SELECT 1").await?;
        let place = server.place().map(|place| place.to_string());
        return Ok(Found::Holds(place.unwrap_or_default()));
    }
    let catalog = catalog::reading(&mut client).await?;
    let mut tables = Vec::new();
    for name in &args.tables {
        if catalog.find(name).await?.is_none() {
            return Ok(Found::NotYet(format!("the table {name} does not exist")));
        }
        tables.push(catalog::resolve_one(&catalog, name).await?);
    }
    if let Some(why) = tables.iter().find_map(not_announced) {
        return Ok(Found::NotYet(why));
    }
    if args.condition == Condition::Announced {
        let names: Vec<String> = tables.iter().map(CatalogTable::display_name).collect();
        return Ok(Found::Holds(names.join(", ")));
    }
    drop(catalog);
    drop(client);
    live(server, tables, args.nodes as usize, fleet).await
}

/// Returns why not every change of a table is announced; `None` if it is. A notice is no reason:
/// see `status`.
fn not_announced(table: &CatalogTable) -> Option<String> {
    diagnose(table, None)
        .into_iter()
        .find(|problem| problem.severity != Severity::Notice)
        .map(|problem| problem.to_string())
}

/// Asks the nodes whether enough of them are live.
async fn live(
    server: &Server,
    tables: Vec<CatalogTable>,
    wanted: usize,
    fleet: &mut Option<Fleet>,
) -> anyhow::Result<Found> {
    let mut targets = Vec::new();
    for table in tables {
        targets.push(Target::announced(table, &mut Vec::new())?);
    }
    let fleet = match fleet {
        Some(fleet) => fleet,
        None => fleet.insert(Fleet::open(server).await?),
    };
    let roster = Roster::call(fleet, PATIENCE).await?;
    // Without a table every table of a node counts.
    let live_at = |target: Option<&Target>| {
        let nodes = roster.nodes.iter().filter(|node| match target {
            None => node.is_live(),
            Some(target) => {
                let table = node.table(&table_ref(target));
                table.is_some_and(|table| table.state == "live")
            }
        });
        nodes.map(|node| node.name.clone()).collect::<Vec<String>>()
    };
    let mut held = Vec::new();
    let asked = targets.iter().map(Some);
    let asked = asked.chain(targets.is_empty().then_some(None));
    for target in asked {
        let names = live_at(target);
        let of_table = target.map(|target| format!("{} ", target.name()));
        let of_table = of_table.unwrap_or_default();
        if names.len() < wanted {
            let at = format!("{} of {}", names.len(), count(wanted as u64, "node"));
            return Ok(Found::NotYet(format!("{of_table}live at {at}")));
        }
        held.push(format!("{of_table}at {}", names.join(", ")));
    }
    Ok(Found::Holds(held.join("; ")))
}

/// Prints that the condition holds for these, or does not and why.
fn report(
    context: &Context,
    server: &Server,
    args: &Args,
    found: Result<&str, &str>,
    waited: Duration,
) -> anyhow::Result<()> {
    let word = args.condition.as_str();
    let (result, text) = match found {
        Ok(text) => ("holds", text),
        Err(text) => ("timed-out", text),
    };
    if context.format == Format::Json {
        let line = EventLine::new("waited", Timestamp::now())
            .place(server.place().as_ref())
            .member("for", word)
            .member("result", result)
            .member("text", text)
            .member("waited_ms", waited.as_millis() as u64);
        return print(&line.end());
    }
    let waited = seconds(waited);
    let text = escape(text);
    print(&match found {
        Ok(_) => format!("{word} after {waited}: {text}\n"),
        Err(_) => format!("not {word} after {waited}: {text}\n"),
    })
}

/// Returns a time as people read it: `2.3 s`.
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
