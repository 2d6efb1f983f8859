//! `pgic status`.

mod near_limit;

use super::Context;
use crate::exit_code::ExitCode;
use crate::render::escape::escape;
use crate::render::table::{Heading, render};
use crate::render::{Format, print};
use crate::tables::catalog::{self, Catalog, CatalogTable, Enabled};
use crate::triggers::observe::{Observed, Version, observe};
use crate::triggers::{OptionChanges, plan};
use anyhow::Context as _;
use near_limit::NearLimit;
use postgres_index_cache_core::one_line_json;
use postgres_index_cache_core::postgres::ADVISORY_KEY;
use postgres_index_cache_core::postgres::triggers::{Problem, Remedy, Severity, diagnose};
use serde_json::{Value, json};
use std::fmt::Write as _;
use tokio_postgres::types::Type;

/// `pgic status [TABLE…]`.
///
/// A row a table with triggers, then who listens, how full the notification queue is, and the
/// server's version. Exit code 1 when something is not as `pgic install-triggers` would make it, or
/// a table that is named has no trigger.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"' [default: every table with triggers]
    #[arg(value_name = "TABLE")]
    pub tables: Vec<String>,
}

/// Somebody who listens.
struct ListenerSeen {
    pid: i32,
    user: String,
    application: String,
    state: String,
    /// Whether its advisory lock proves it; others are guessed from their last statement.
    is_certain: bool,
}

/// A table and what stands on it.
struct TableSeen<'a> {
    table: &'a CatalogTable,
    seen: Option<Observed<'a>>,
    near_limit: Option<NearLimit>,
}

/// What holds for the server as a whole.
struct ServerSeen {
    version: String,
    is_standby: bool,
    /// The share of the notification queue in use, 0 to 1.
    queue: f64,
    listeners: Vec<ListenerSeen>,
}

/// Looks and prints.
///
/// # Errors
/// When the server refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut client = context.server("status")?.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let version = catalog::version_number(&catalog).await?;
    let tables = if args.tables.is_empty() {
        let oids = catalog::tables_with_triggers(&catalog).await?;
        catalog::describe(&catalog, &oids).await?
    } else {
        catalog::resolve(&catalog, &args.tables).await?
    };
    let server = look(&catalog).await?;
    let mut rows = Vec::new();
    let mut problems: Vec<(String, Problem)> = Vec::new();
    let mut plans = Vec::new();
    for table in &tables {
        plans.push(plan::install(&catalog, table, &OptionChanges::default(), version).await);
    }
    // What comes now takes locks of tables, each for itself.
    catalog.roll_back().await.context("end the transaction")?;
    for (table, planned) in tables.iter().zip(plans) {
        let seen = observe(table);
        let own = problems_of(table, seen.as_ref(), &planned);
        problems.extend(
            own.into_iter()
                .map(|problem| (table.display_name(), problem)),
        );
        let near_limit = match &seen {
            Some(seen) => {
                near_limit::sample(
                    &mut client,
                    table,
                    &seen.options().cloned().unwrap_or_default(),
                )
                .await
            }
            None => None,
        };
        rows.push(TableSeen {
            table,
            seen,
            near_limit,
        });
    }
    print(&match context.format {
        Format::Text => text(&rows, &problems, &server),
        Format::Json => json_lines(&rows, &problems, &server),
    })?;
    let is_right = problems
        .iter()
        .all(|(_, problem)| problem.severity == Severity::Notice);
    Ok(if is_right {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

async fn look(catalog: &Catalog<'_>) -> anyhow::Result<ServerSeen> {
    let row = catalog
        .query_typed_one(
            "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(),
                    pg_catalog.pg_notification_queue_usage()",
            &[],
        )
        .await
        .context("ask for the state of the server")?;
    // A statement that follows LISTEN hides it, so a guess misses listeners; the lock of ours
    // cannot be missed.
    let listeners = catalog
        .query_typed(
            "SELECT a.pid, coalesce(a.usename::text, '') AS usename, coalesce(a.application_name, \
            '') AS application,
                    coalesce(a.state, '') AS state, l.pid IS NOT NULL AS is_certain
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
    Ok(ServerSeen {
        version: row.get(0),
        is_standby: row.get(1),
        queue: row.get(2),
        listeners: listeners
            .iter()
            .map(|row| ListenerSeen {
                pid: row.get("pid"),
                user: row.get("usename"),
                application: row.get("application"),
                state: row.get("state"),
                is_certain: row.get("is_certain"),
            })
            .collect(),
    })
}

/// What is not as it should be, with the remedy. `planned` is what install-triggers would do.
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
    // Whatever else install-triggers would change: an owner, what is left of another name.
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

fn enabled(seen: &Observed<'_>) -> &'static str {
    // The least that holds for both.
    let rank = |enabled: &Enabled| match enabled {
        Enabled::Disabled => 0,
        Enabled::Replica => 1,
        Enabled::Origin => 2,
        Enabled::Always => 3,
    };
    let states = [seen.row, seen.truncate]
        .into_iter()
        .flatten()
        .map(|trigger| trigger.enabled);
    states.min_by_key(rank).map_or("disabled", Enabled::as_str)
}

/// The columns that are sent, in words.
fn columns(seen: &Observed<'_>) -> String {
    match seen.options() {
        None => "?".to_string(),
        Some(options) if options.no_data => "key only".to_string(),
        Some(options) => options
            .columns
            .as_ref()
            .map_or_else(|| "all".to_string(), |columns| columns.join(",")),
    }
}

fn estimated(table: &CatalogTable) -> String {
    table
        .estimated_rows
        .map_or_else(|| "?".to_string(), |rows| rows.to_string())
}

fn text(rows: &[TableSeen<'_>], problems: &[(String, Problem)], server: &ServerSeen) -> String {
    let mut text = if rows.is_empty() {
        "no table announces its changes; install triggers with: pgic install-triggers TABLE\n"
            .to_string()
    } else {
        let mut headings: Vec<Heading> = [
            "schema", "table", "channel", "events", "columns", "state", "function",
        ]
        .map(Heading::text)
        .into();
        headings.extend(["rows", "near limit"].map(Heading::number));
        render(&headings, rows.iter().map(cells))
    };
    for (table, problem) in problems {
        // Writing into a String cannot fail.
        // The words of most problems name the table already.
        let problem = problem.to_string();
        let lead = if problem.contains(table.as_str()) {
            String::new()
        } else {
            format!("{table}: ")
        };
        let _ = writeln!(text, "  {}", escape(&(lead + &problem)));
    }
    let _ = writeln!(
        text,
        "\nlisteners:{}",
        if server.listeners.is_empty() {
            " none seen"
        } else {
            ""
        }
    );
    if !server.listeners.is_empty() {
        let headings = [
            Heading::number("pid"),
            Heading::text("user"),
            Heading::text("application"),
            Heading::text("state"),
            Heading::text("known by"),
        ];
        let known_by = |listener: &ListenerSeen| {
            if listener.is_certain {
                "its lock"
            } else {
                "its last statement (a guess)"
            }
        };
        let row = |listener: &ListenerSeen| {
            vec![
                listener.pid.to_string(),
                listener.user.clone(),
                listener.application.clone(),
                listener.state.clone(),
                known_by(listener).to_string(),
            ]
        };
        text.push_str(&render(&headings, server.listeners.iter().map(row)));
    }
    let _ = writeln!(text, "queue: {:.1} % full", server.queue * 100.0);
    let standby = if server.is_standby {
        ", a standby: LISTEN does not work here"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "server: PostgreSQL {}{standby}",
        escape(&server.version)
    );
    text
}

fn cells(
    TableSeen {
        table,
        seen,
        near_limit,
    }: &TableSeen<'_>,
) -> Vec<String> {
    let observed = match seen {
        Some(seen) => [
            seen.channel.clone().unwrap_or_else(|| "?".to_string()),
            seen.events().join(","),
            columns(seen),
            enabled(seen).to_string(),
            seen.version.as_str().to_string(),
        ],
        None => ["-", "-", "-", "none", "-"].map(str::to_string),
    };
    let near_limit = match near_limit {
        Some(NearLimit { rows, sampled }) => format!("{rows} of {sampled}"),
        None => "?".to_string(),
    };
    let names = [table.schema.clone(), table.name.clone()].into_iter();
    names
        .chain(observed)
        .chain([estimated(table), near_limit])
        .collect()
}

/// A problem as every stream has it.
pub(super) fn problem_json(problem: &Problem) -> Value {
    json!({
        "code": problem.code,
        "severity": problem.severity.as_str(),
        "text": problem.text,
        "remedy": problem.remedy.as_ref().map(ToString::to_string),
        "run": problem.remedy.as_ref().map(Remedy::runnable).unwrap_or_default(),
    })
}

fn json_lines(
    rows: &[TableSeen<'_>],
    problems: &[(String, Problem)],
    server: &ServerSeen,
) -> String {
    let tables = rows.iter().map(|TableSeen { table, seen, near_limit }| {
        let name = table.display_name();
        let own: Vec<Value> =
            problems.iter().filter(|(table, _)| *table == name).map(|(_, problem)| problem_json(problem)).collect();
        json!({
            "event": "table",
            "schema": table.schema,
            "table": table.name,
            "channel": seen.as_ref().and_then(|seen| seen.channel.clone()),
            "events": seen.as_ref().map(|seen| seen.events()),
            "columns": seen.as_ref().and_then(|seen| {
                let options = seen.options()?;
                let key = table.key.iter().flat_map(|key| &key.columns);
                let sent = |column: &&String| options.sends(column) || key.clone().any(|name| name == *column);
                Some(table.columns.iter().map(|column| &column.name).filter(sent).collect::<Vec<_>>())
            }),
            "options": seen.as_ref().and_then(|seen| seen.options()),
            "state": seen.as_ref().map(enabled),
            "function": seen.as_ref().map(|seen| seen.version.as_str()),
            "rows": table.estimated_rows,
            "near_limit": near_limit.map(|near| json!({"rows": near.rows, "sampled": near.sampled})),
            "problems": own,
        })
    });
    let listeners = server.listeners.iter().map(|listener| {
        json!({
            "event": "listener",
            "pid": listener.pid,
            "user": listener.user,
            "application": listener.application,
            "state": listener.state,
            "certain": listener.is_certain,
        })
    });
    let server = json!({
        "event": "server",
        "version": server.version,
        "standby": server.is_standby,
        "queue_usage": server.queue,
    });
    let line = |value: Value| format!("{}\n", one_line_json(&value.to_string()));
    tables.chain(listeners).chain([server]).map(line).collect()
}
