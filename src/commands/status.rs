//! `pgic status`: which tables announce their changes, the problems with that, who listens, and how
//! full the notification queue is. Changes nothing.

mod json;
mod of_log;
mod text;

use super::{Context, interrupted};
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::{Report, with_hint};
use crate::render::{Format, print, reader_gone, terminal_height, wrapped};
use crate::server_seen::ServerSeen;
use crate::tables::catalog::{self, CatalogTable, Enabled};
use crate::tables::near_limit::{self, NearLimit};
use crate::triggers::configured::{Configured, NOT_AS_CONFIGURED};
use crate::triggers::observe::{Observed, observe};
use crate::triggers::plan::{self, FunctionFacts};
use crate::triggers::{check, condition};
use crate::units::parse_interval;
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
pub(super) use json::problem_json;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Severity, diagnose};
use std::time::Duration;

/// Show which tables announce their changes, who listens, and how full the queue is
///
/// Prints a row for each table with triggers, then the verdict, each problem with its code and its
/// remedy, the sessions that listen, how full the notification queue is, and where it is connected.
/// Tables that pgic.toml names are compared with their options there. Changes nothing.
///
/// A sample says how many rows are near the limit: a payload of 8000 bytes or more is sent without
/// its data.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"' [default: every table with triggers]
    #[arg(value_name = "TABLE", add = completion::announced_tables())]
    pub tables: Vec<String>,
    /// Look again and again, after so long [default: 2s]: on a terminal in place, else one answer
    /// after the other
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "2s", value_parser = parse_interval)]
    pub watch: Option<Duration>,
    /// Show a log that pgic relay writes, as a node has it: nats://host:4222/shop
    #[arg(long, value_name = "URL", conflicts_with_all = ["tables", "watch"])]
    pub from: Option<String>,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic status
  pgic status users orders
  pgic status --watch=5s
  pgic status --from nats://n1/shop
  pgic status -o json | jq -r 'select(.problems[0]) | .table'

Exit codes:
  0  the triggers are as install-triggers makes them; notices may be shown
  1  a table has a problem that is more than a notice, or was named, here or
     in pgic.toml, and has no trigger; no table is announced; the server is a
     standby; the queue is more than half full
  2  the server could not be used, or a table was not found
  3  the server could not be reached, or took no session: trying again may
     help";

/// A table, and the triggers that stand on it.
struct TableSeen<'a> {
    table: &'a CatalogTable,
    /// `None` if no trigger announces changes of the table.
    seen: Option<Observed<'a>>,
    /// `None` if there is no trigger, or the sample could not be read.
    near_limit: Option<NearLimit>,
    /// The problems with the triggers.
    problems: Vec<Problem>,
}

impl TableSeen<'_> {
    /// Tells whether a problem is more than a notice.
    fn is_wrong(&self) -> bool {
        self.problems.iter().any(is_severe)
    }
}

/// Tells whether a problem is more than a notice. A notice tells of something that a person may
/// have chosen, for example the specification's own function: it must not fail a check that runs
/// every minute.
fn is_severe(problem: &Problem) -> bool {
    problem.severity != Severity::Notice
}

/// Reads the catalogue and prints the result; with `--watch` again and again, until a signal comes.
///
/// # Errors
/// If a table is not found, or the server cannot be used. With `--watch`, the first time.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if let Some(url) = &args.from {
        return of_log::run(context, url).await;
    }
    let server = context.server("status")?;
    // `--watch 5s` is what one types: the time stands behind a `=`, or a table could not follow.
    if let (Some(_), Some(time)) = (args.watch, args.tables.first())
        && parse_interval(time).is_ok()
    {
        let error = anyhow!("{time} is a time, and no table");
        return Err(with_hint(error, format!("--watch={time}")));
    }
    let Some(every) = args.watch else {
        let (text, code) = look(context, &server, &args).await?;
        print(&text)?;
        return Ok(code);
    };
    let mut stop = std::pin::pin!(interrupted());
    // Once for all rounds: each call starts a thread, which ends with the process.
    let mut gone = std::pin::pin!(reader_gone());
    let mut last: Option<ExitCode> = None;
    loop {
        let looked = tokio::select! {
            looked = look(context, &server, &args) => looked,
            () = &mut stop => break,
        };
        match looked {
            Ok((text, code)) => {
                last = Some(code);
                print(&watched(context, &text))?;
            }
            Err(error) if last.is_none() => return Err(error),
            // A watch outlives a server that is restarted.
            Err(error) => context.notice(&Report::new(&error).one_line()),
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = &mut stop => break,
            () = &mut gone => break,
        }
    }
    Ok(last.unwrap_or(ExitCode::Yes))
}

/// Returns an answer as `--watch` prints it: on a terminal in the place of the last one, cut to the
/// screen.
fn watched(context: &Context, text: &str) -> String {
    if context.format == Format::Json {
        return text.to_string();
    }
    let clock = context.look.clock(Timestamp::now());
    let Some(height) = terminal_height() else {
        return format!("{clock}\n{text}\n");
    };
    let lines: Vec<&str> = text.lines().collect();
    // The first line is the time, and the cursor stands on the last.
    let room = height.saturating_sub(2).max(1);
    // From the top left, each line over the old one, and then the rest of the screen is cleared.
    let mut screen = format!("\x1b[H{clock}\x1b[K\n");
    let is_cut = lines.len() > room;
    let fits = if is_cut { room - 1 } else { lines.len() };
    for line in &lines[..fits] {
        screen.push_str(&format!("{line}\x1b[K\n"));
    }
    if is_cut {
        screen.push_str(&format!("and {} more lines\x1b[K\n", lines.len() - fits));
    }
    screen + "\x1b[J"
}

/// Reads the catalogue. Returns the answer, and the exit code.
async fn look(
    context: &Context,
    server: &Server,
    args: &Args,
) -> anyhow::Result<(String, ExitCode)> {
    let mut client = server.client().await?;
    let place = server.place();
    let catalog = catalog::reading(&mut client).await?;
    let version = catalog.version_number().await?;
    let configured = Configured::find(&catalog, &context.settings).await?;
    let tables = if args.tables.is_empty() {
        let mut oids = catalog::tables_with_triggers(&catalog).await?;
        for oid in configured.oids() {
            if !oids.contains(&oid) {
                oids.push(oid);
            }
        }
        catalog::describe(&catalog, &oids).await?
    } else {
        catalog::resolve(&catalog, &args.tables).await?
    };
    let server = ServerSeen::read(&catalog, place).await?;
    let mut rows = Vec::new();
    let mut plans = Vec::new();
    let facts = FunctionFacts::read(&catalog, &tables).await?;
    for table in &tables {
        // As they are, unless the file wants them otherwise.
        let changes = configured.options(table).cloned().unwrap_or_default();
        let planned = plan::install(&facts, table, &changes, version);
        plans.push(planned.map_err(anyhow::Error::from));
    }
    // Sampling takes locks of tables. Each sample has a transaction of its own: in one transaction
    // a migration could not touch any of the tables until the last was sampled.
    catalog.roll_back().await.context("end the transaction")?;
    for (table, planned) in tables.iter().zip(plans) {
        let seen = observe(table);
        let differs = configured.problem(table, &planned, seen.is_some());
        let mut problems = problems_of(table, seen.as_ref(), &planned, differs);
        problems.splice(..0, condition::problem(&mut client, table).await);
        let near_limit = match &seen {
            Some(seen) => {
                let options = seen.options().cloned().unwrap_or_default();
                near_limit::sample(&mut client, table, &options).await
            }
            None => None,
        };
        rows.push(TableSeen {
            table,
            seen,
            near_limit,
            problems,
        });
    }
    let has_announced = rows.iter().any(|row| row.seen.is_some());
    let mut of_server = server.problems(has_announced || !args.tables.is_empty());
    if args.tables.is_empty() {
        of_server.extend(configured.missing());
    }
    let answer = match context.format {
        Format::Text => {
            let answer = text::answer(&context.look, &rows, &of_server, &server);
            match context.layout.width {
                Some(width) => wrapped(&answer, width).into_owned(),
                None => answer,
            }
        }
        Format::Json => json::answer(&rows, &of_server, &server),
    };
    let is_wrong = rows.iter().any(TableSeen::is_wrong) || of_server.iter().any(is_severe);
    let code = if is_wrong {
        ExitCode::No
    } else {
        ExitCode::Yes
    };
    Ok((answer, code))
}

/// Returns the problems with a table's triggers, each with a remedy. `planned` is the plan of
/// install-triggers; steps in it are a problem too, where nothing else is. `differs` is the problem
/// that the table is not as `pgic.toml` wants it.
fn problems_of(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    planned: &anyhow::Result<plan::TablePlan>,
    differs: Option<Problem>,
) -> Vec<Problem> {
    let mut problems = diagnose(table, check::is_current(seen));
    if let Some(differs) = differs {
        // Both have one cause, and what the file wants is made by one command.
        if differs.code == NOT_AS_CONFIGURED {
            problems.retain(|problem| {
                problem.code != "function-outdated" && problem.code != "columns-outdated"
            });
        }
        problems.push(differs);
    }
    let planned = planned.as_ref().ok();
    problems.extend(check::not_as_planned(table, seen, planned, &problems));
    problems
}

/// Returns the state of a table's triggers: the least that holds for all of them. One that is
/// disabled is a fault, though the others fire.
fn enabled(seen: &Observed<'_>) -> &'static str {
    seen.all()
        .map(|trigger| &trigger.enabled)
        .min_by_key(|enabled| match enabled {
            Enabled::Disabled => 0,
            Enabled::Replica => 1,
            Enabled::Origin => 2,
            Enabled::Always => 3,
        })
        .map_or("disabled", |enabled| enabled.as_str())
}
