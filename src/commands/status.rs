//! `pgic status`: which tables announce their changes, the problems with that, who listens, and how
//! full the notification queue is. Changes nothing.

mod near_limit;

use super::Context;
use crate::connect::Place;
use crate::exit_code::ExitCode;
use crate::render::escape::escape;
use crate::render::table::{Heading, render};
use crate::render::{Format, count, print};
use crate::tables::catalog::{self, Catalog, CatalogTable, Enabled};
use crate::triggers::observe::{Observed, Version, observe};
use crate::triggers::{OptionChanges, plan};
use anyhow::Context as _;
use near_limit::NearLimit;
use postgres_index_cache_core::tooling::one_line_json;
use postgres_index_cache_core::tooling::postgres::ADVISORY_KEY;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Remedy, Severity, diagnose};
use serde_json::{Value, json};
use std::fmt::Write as _;
use tokio_postgres::types::Type;

/// Show which tables announce their changes, who listens, and how full the queue is
///
/// Prints a row for each table with triggers, then the verdict, each problem with its code and its
/// remedy, the sessions that listen, how full the notification queue is, and where it is connected.
/// Changes nothing.
///
/// A sample says how many rows are near the limit: a payload of 8000 bytes or more is sent without
/// its data.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"' [default: every table with triggers]
    #[arg(value_name = "TABLE")]
    pub tables: Vec<String>,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic status
  pgic status users orders
  pgic status -o json | jq -r 'select(.problems[0]) | .table'

Exit codes:
  0  the triggers are as install-triggers makes them; notices may be shown
  1  a table has a problem that is more than a notice, or it was named and has no trigger; no table
     is announced; the server is a standby; the notification queue is more than half full
  2  the server could not be used, or a table was not found
  3  the server could not be reached, or took no session: trying again may help";

/// A session that listens, or seems to.
struct ListenerSeen {
    pid: i32,
    user: String,
    /// The address of the client; `local` for a socket of the server's machine.
    address: String,
    application: String,
    state: String,
    /// The time since which the session has not changed its state.
    since: String,
    /// Whether the session holds the advisory lock of a pgic or a library that listens. Other
    /// sessions are guessed from their last statement.
    is_certain: bool,
}

/// A table, and the triggers that stand on it.
struct TableSeen<'a> {
    table: &'a CatalogTable,
    /// `None` if no trigger announces changes of the table.
    seen: Option<Observed<'a>>,
    /// `None` if there is no trigger, or the sample could not be read.
    near_limit: Option<NearLimit>,
}

/// The state of the server as a whole.
struct ServerSeen {
    version: String,
    is_standby: bool,
    /// The share of the notification queue that is in use, from 0 to 1.
    queue: f64,
    listeners: Vec<ListenerSeen>,
    /// The number of sessions whose last statement this role must not see.
    unseen: i64,
    /// Where the command is connected.
    place: Option<Place>,
}

impl ServerSeen {
    /// Returns the problems of the server as a whole.
    fn problems(&self, has_announced: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.is_standby {
            problems.push(Problem {
                code: "standby",
                severity: Severity::Critical,
                text: "the server is a standby: LISTEN does not work here".to_string(),
                remedy: None,
            });
        }
        if self.queue > FULL_QUEUE {
            problems.push(Problem {
                code: "queue-full",
                severity: Severity::Critical,
                text: format!(
                    "the notification queue is {:.1} % full: when it is full, commits that notify \
                    fail; a session that listens in a long transaction holds it",
                    self.queue * 100.0
                ),
                remedy: None,
            });
        }
        if !has_announced {
            problems.push(Problem {
                code: "nothing-announced",
                severity: Severity::Critical,
                text: "no table announces its changes".to_string(),
                remedy: Some(Remedy::Command {
                    what: "install triggers",
                    command: "pgic install-triggers TABLE".to_string(),
                }),
            });
        }
        problems
    }
}

/// The share of the notification queue past which something is wrong.
const FULL_QUEUE: f64 = 0.5;

/// Reads the catalogue and prints the result.
///
/// # Errors
/// If a table is not found, or the server cannot be used.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let server = context.server("status")?;
    let mut client = server.client().await?;
    let place = server.place();
    let catalog = catalog::reading(&mut client).await?;
    let version = catalog::version_number(&catalog).await?;
    let tables = if args.tables.is_empty() {
        let oids = catalog::tables_with_triggers(&catalog).await?;
        catalog::describe(&catalog, &oids).await?
    } else {
        catalog::resolve(&catalog, &args.tables).await?
    };
    let server = read_server(&catalog, place).await?;
    let mut rows = Vec::new();
    let mut problems: Vec<(String, Problem)> = Vec::new();
    let mut plans = Vec::new();
    for table in &tables {
        plans.push(plan::install(&catalog, table, &OptionChanges::default(), version).await);
    }
    // Sampling takes locks of tables. Each sample has a transaction of its own: in one transaction
    // a migration could not touch any of the tables until the last was sampled.
    catalog.roll_back().await.context("end the transaction")?;
    for (table, planned) in tables.iter().zip(plans) {
        let seen = observe(table);
        for problem in problems_of(table, seen.as_ref(), &planned) {
            problems.push((table.display_name(), problem));
        }
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
        });
    }
    let has_announced = rows.iter().any(|row| row.seen.is_some());
    let of_server = server.problems(has_announced || !args.tables.is_empty());
    print(&match context.format {
        Format::Text => text(&rows, &problems, &of_server, &server),
        Format::Json => json_lines(&rows, &problems, &of_server, &server),
    })?;
    // A notice tells of something that a person may have chosen, for example the specification's
    // own function: it must not fail a check that runs every minute.
    let of_tables = problems.iter().map(|(_, problem)| problem);
    let is_right = of_tables
        .chain(&of_server)
        .all(|problem| problem.severity == Severity::Notice);
    Ok(if is_right {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

/// Reads the state of the server, and which sessions of this database listen.
async fn read_server(catalog: &Catalog<'_>, place: Option<Place>) -> anyhow::Result<ServerSeen> {
    let row = catalog
        .query_typed_one(
            "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(),
                    pg_catalog.pg_notification_queue_usage()",
            &[],
        )
        .await
        .context("ask for the state of the server")?;
    // PostgreSQL does not tell who listens. A session whose last statement was LISTEN probably
    // does, but any later statement hides that. So pgic and the library hold a shared advisory lock
    // while they listen, which cannot be missed.
    let listeners = catalog
        .query_typed(
            "SELECT a.pid, coalesce(a.usename::text, '') AS usename, coalesce(a.application_name, \
            '') AS application,
                    coalesce(a.state, '') AS state, l.pid IS NOT NULL AS is_certain,
                    coalesce(pg_catalog.host(a.client_addr), 'local') AS address,
                    coalesce(pg_catalog.to_char(a.state_change AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), '') AS since
             FROM pg_catalog.pg_stat_activity a
             LEFT JOIN pg_catalog.pg_locks l
               ON l.pid = a.pid AND l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted
              AND l.database = a.datid AND l.classid = 0 AND l.objid = $1::int8::oid AND \
              l.objsubid = 1
             WHERE a.datname = pg_catalog.current_database() AND a.pid <> \
             pg_catalog.pg_backend_pid()
               AND (l.pid IS NOT NULL OR a.query ~* '^\\s*listen\\s')
             ORDER BY is_certain DESC, a.pid",
            &[(&ADVISORY_KEY, Type::INT8)],
        )
        .await
        .context("look for listeners")?;
    let unseen = catalog
        .query_typed_one(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
             WHERE a.datname = pg_catalog.current_database()
               AND a.query = '<insufficient privilege>'",
            &[],
        )
        .await
        .context("look for listeners")?;
    Ok(ServerSeen {
        version: row.get(0),
        is_standby: row.get(1),
        queue: row.get(2),
        unseen: unseen.get(0),
        place,
        listeners: listeners
            .iter()
            .map(|row| ListenerSeen {
                pid: row.get("pid"),
                user: row.get("usename"),
                application: row.get("application"),
                state: row.get("state"),
                address: row.get("address"),
                since: row.get("since"),
                is_certain: row.get("is_certain"),
            })
            .collect(),
    })
}

/// Returns the problems with a table's triggers, each with a remedy. `planned` is the plan of
/// install-triggers; steps in it are a problem too, where nothing else is.
fn problems_of(
    table: &CatalogTable,
    seen: Option<&Observed<'_>>,
    planned: &anyhow::Result<plan::TablePlan>,
) -> Vec<Problem> {
    let is_ours = seen.is_some_and(|seen| seen.version != Version::Foreign);
    let is_current = seen
        .filter(|_| is_ours)
        .map(|seen| seen.version == Version::Current);
    let mut problems = diagnose(table, is_current);
    let is_right = problems
        .iter()
        .all(|problem| problem.severity == Severity::Notice);
    // Where the diagnosis finds nothing, install-triggers may still have something to do: the owner
    // of a function is another, or a trigger is left of a table's former name.
    if let Ok(plan) = planned
        && is_right
        && is_ours
        && !plan.steps.is_empty()
    {
        let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
        problems.push(Problem {
            code: "not-as-planned",
            severity: Severity::Warning,
            text: format!("not as install-triggers makes it ({})", steps.join(", ")),
            remedy: Some(Remedy::Command {
                what: "refresh it",
                command: format!("pgic install-triggers {}", table.typed_name()),
            }),
        });
    }
    problems
}

/// Returns the state of a table's triggers: the least that holds for both of them. One that is
/// disabled is a fault, though the other one fires.
fn enabled(seen: &Observed<'_>) -> &'static str {
    [seen.row, seen.truncate]
        .into_iter()
        .flatten()
        .map(|trigger| &trigger.enabled)
        .min_by_key(|enabled| match enabled {
            Enabled::Disabled => 0,
            Enabled::Replica => 1,
            Enabled::Origin => 2,
            Enabled::Always => 3,
        })
        .map_or("disabled", |enabled| enabled.as_str())
}

/// Returns the columns that are sent, in words: their names if they are few.
fn sent(table: &CatalogTable, seen: &Observed<'_>) -> String {
    /// The most names, in characters.
    const LONGEST: usize = 20;
    let Some(options) = seen.options() else {
        return "not known".to_string();
    };
    if options.no_data {
        return "keys alone".to_string();
    }
    match &options.columns {
        None => "all columns".to_string(),
        Some(columns) if columns.join(",").len() <= LONGEST => columns.join(","),
        Some(columns) => format!("{} of {} columns", columns.len(), table.columns.len()),
    }
}

/// Returns the whole answer as text.
fn text(
    rows: &[TableSeen<'_>],
    problems: &[(String, Problem)],
    of_server: &[Problem],
    server: &ServerSeen,
) -> String {
    let mut text = String::new();
    if !rows.is_empty() {
        let headings = ["", "table", "channel", "sent", "state"].map(Heading::text);
        text = render(&headings, rows.iter().map(|row| cells(row, problems)));
        text.push('\n');
    }
    let severe = problems.iter().map(|(_, problem)| problem).chain(of_server);
    let severe = severe.filter(|problem| problem.severity != Severity::Notice);
    // `let _`: writing into a String cannot fail.
    let _ = match severe.count() {
        0 => writeln!(text, "ok"),
        severe => writeln!(text, "{}", count(severe as u64, "problem")),
    };
    for (table, problem) in problems {
        text.push_str(&problem_line(Some(table), problem));
    }
    for problem in of_server {
        text.push_str(&problem_line(None, problem));
    }
    for row in rows {
        if let Some(NearLimit { rows, sampled }) = row.near_limit
            && rows > 0
        {
            let table = row.table.display_name();
            let _ = writeln!(
                text,
                "  {}: {rows} of {sampled} rows looked at are near the limit of a payload",
                escape(&table)
            );
        }
    }
    text.push_str(&listeners_text(server));
    let _ = writeln!(text, "queue: {:.1} % full", server.queue * 100.0);
    let place = match &server.place {
        Some(place) => place.to_string(),
        None => "server".to_string(),
    };
    // Behind the number stands who packaged it.
    let version = server.version.split(' ').next().unwrap_or_default();
    let _ = writeln!(text, "{} (PostgreSQL {})", escape(&place), escape(version));
    text
}

/// Returns the line of a problem: its severity, its code, the table, the text and the remedy.
fn problem_line(table: Option<&String>, problem: &Problem) -> String {
    let words = problem.to_string();
    // The words of most problems name the table already.
    let table = table.filter(|table| !words.contains(table.as_str()));
    let table = table.map(|table| format!("{table}: "));
    let line = format!(
        "{} [{}] {}{words}",
        problem.severity.as_str(),
        problem.code,
        table.unwrap_or_default()
    );
    format!("  {}\n", escape(&line))
}

fn listeners_text(server: &ServerSeen) -> String {
    let mut text = "\nlisteners: none seen\n".to_string();
    if !server.listeners.is_empty() {
        let headings = [
            Heading::number("pid"),
            Heading::text("user"),
            Heading::text("address"),
            Heading::text("application"),
            Heading::text("since"),
            Heading::text(""),
        ];
        let rows = server.listeners.iter().map(|listener| {
            // Told apart, so that nobody takes a missing guess for a listener that is missing.
            let known_by = if listener.is_certain { "" } else { "a guess" };
            vec![
                listener.pid.to_string(),
                listener.user.clone(),
                listener.address.clone(),
                listener.application.clone(),
                listener.since.clone(),
                known_by.to_string(),
            ]
        });
        text = format!("\nlisteners:\n{}", render(&headings, rows));
    }
    text.push_str(
        "  a session of another program is seen only while LISTEN is its last statement\n",
    );
    if server.unseen > 0 {
        let _ = writeln!(
            text,
            "  the statements of {} cannot be seen by this role: pg_read_all_stats shows them",
            count(server.unseen.unsigned_abs(), "session")
        );
    }
    text
}

/// Returns the row of a table. Where nothing announces its changes, most cells are a dash.
fn cells(
    TableSeen { table, seen, .. }: &TableSeen<'_>,
    problems: &[(String, Problem)],
) -> Vec<String> {
    let name = table.display_name();
    let is_wrong = problems
        .iter()
        .any(|(of, problem)| *of == name && problem.severity != Severity::Notice);
    let mark = if is_wrong { "!" } else { "ok" };
    let observed = match seen {
        Some(seen) => [
            seen.channel.clone().unwrap_or_else(|| "?".to_string()),
            sent(table, seen),
            match seen.version {
                Version::Foreign => format!("{}, not pgic's own", enabled(seen)),
                Version::Current | Version::Outdated => enabled(seen).to_string(),
            },
        ],
        None => ["-", "-", "no trigger"].map(str::to_string),
    };
    [mark.to_string(), name]
        .into_iter()
        .chain(observed)
        .collect()
}

/// Returns a problem as an object. Every JSON stream of pgic's has problems in this form.
pub(super) fn problem_json(problem: &Problem) -> Value {
    json!({
        "code": problem.code,
        "severity": problem.severity.as_str(),
        "text": problem.text,
        "remedy": problem.remedy.as_ref().map(ToString::to_string),
        "run": problem.remedy.as_ref().map(Remedy::runnable).unwrap_or_default(),
    })
}

/// Returns the whole answer as JSON: a line for each table and each listener, then one for the
/// server.
fn json_lines(
    rows: &[TableSeen<'_>],
    problems: &[(String, Problem)],
    of_server: &[Problem],
    server: &ServerSeen,
) -> String {
    let tables = rows.iter().map(|row| table_json(row, problems));
    let listeners = server.listeners.iter().map(|listener| {
        json!({
            "event": "listener",
            "pid": listener.pid,
            "user": listener.user,
            "application": listener.application,
            "state": listener.state,
            "address": listener.address,
            "since": listener.since,
            "certain": listener.is_certain,
        })
    });
    let server = json!({
        "event": "server",
        "version": server.version,
        "standby": server.is_standby,
        "queue_usage": server.queue,
        "unseen_sessions": server.unseen,
        "database": server.place.as_ref().map(|place| &place.database),
        "server": server.place.as_ref().map(|place| &place.server),
        "user": server.place.as_ref().map(|place| &place.user),
        "problems": of_server.iter().map(problem_json).collect::<Vec<_>>(),
    });
    tables
        .chain(listeners)
        .chain([server])
        .map(|value| format!("{}\n", one_line_json(&value.to_string())))
        .collect()
}

fn table_json(row: &TableSeen<'_>, problems: &[(String, Problem)]) -> Value {
    let TableSeen {
        table,
        seen,
        near_limit,
    } = row;
    let name = table.display_name();
    let own: Vec<Value> = problems
        .iter()
        .filter(|(table, _)| *table == name)
        .map(|(_, problem)| problem_json(problem))
        .collect();
    let near_limit = near_limit.map(|near| json!({"rows": near.rows, "sampled": near.sampled}));
    json!({
        "event": "table",
        "schema": table.schema,
        "table": table.name,
        "channel": seen.as_ref().and_then(|seen| seen.channel.clone()),
        "events": seen.as_ref().map(|seen| seen.events()),
        "columns": seen.as_ref().and_then(|seen| sent_columns(table, seen)),
        "options": seen.as_ref().and_then(|seen| seen.options()),
        "state": seen.as_ref().map(enabled),
        "function": seen.as_ref().map(|seen| seen.version.as_str()),
        "rows": table.estimated_rows,
        "near_limit": near_limit,
        "problems": own,
    })
}

/// Returns the names of the columns that are sent, in the table's order. Those of the key are
/// always sent. `None` if the function is not one of pgic's.
fn sent_columns<'a>(table: &'a CatalogTable, seen: &Observed<'_>) -> Option<Vec<&'a String>> {
    let options = seen.options()?;
    let key: Vec<&String> = table.key.iter().flat_map(|key| &key.columns).collect();
    let names = table.columns.iter().map(|column| &column.name);
    Some(
        names
            .filter(|name| options.sends(name) || key.contains(name))
            .collect(),
    )
}
