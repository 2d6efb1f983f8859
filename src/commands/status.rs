//! `pgic status`.

mod near_limit;

use super::Context;
use crate::catalog::{self, Enabled, Table};
use crate::exit_code::ExitCode;
use crate::render::escape::escape;
use crate::render::table::{Heading, render};
use crate::render::{Format, print};
use crate::triggers::observe::{Observed, ROW_EVENTS, TRUNCATE_EVENT, Version, announces, observe};
use crate::triggers::{Asked, plan};
use anyhow::Context as _;
use near_limit::NearLimit;
use postgres_index_cache_core::one_line_json;
use postgres_index_cache_core::postgres::ADVISORY_KEY;
use postgres_index_cache_core::postgres::announced::read_comment;
use serde_json::{Value, json};
use std::fmt::Write as _;
use tokio_postgres::Client;

/// `pgic status [TABLE…]`.
///
/// A row a table with triggers, then who listens, how full the notification queue is, and the server's version. Exit code
/// 1 when something is not as `pgic install-triggers` would make it, or a table that is named has no trigger.
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
    table: &'a Table,
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
    let version = catalog::version_number(&client).await?;
    let tables = if args.tables.is_empty() {
        let oids = catalog::tables_with_triggers(&client).await?;
        catalog::describe(&client, &oids).await?
    } else {
        catalog::resolve(&client, &args.tables).await?
    };
    let server = look(&client).await?;
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    for table in &tables {
        let seen = observe(table);
        let planned = plan::install(&client, table, &Asked::default(), version).await;
        problems.extend(problems_of(table, seen.as_ref(), &planned));
        let near_limit = match &seen {
            Some(seen) => near_limit::sample(&mut client, table, &seen.options().cloned().unwrap_or_default()).await,
            None => None,
        };
        rows.push(TableSeen { table, seen, near_limit });
    }
    print(&match context.format {
        Format::Text => text(&rows, &problems, &server),
        Format::Json => json_lines(&rows, &problems, &server),
    })?;
    Ok(if problems.is_empty() { ExitCode::Yes } else { ExitCode::No })
}

async fn look(client: &Client) -> anyhow::Result<ServerSeen> {
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(),
                    pg_catalog.pg_notification_queue_usage()",
            &[],
        )
        .await
        .context("ask for the state of the server")?;
    // A statement that follows LISTEN hides it, so a guess misses listeners; the lock of ours cannot be missed.
    let listeners = client
        .query(
            "SELECT a.pid, coalesce(a.usename::text, '') AS usename, coalesce(a.application_name, '') AS application,
                    coalesce(a.state, '') AS state, l.pid IS NOT NULL AS is_certain
             FROM pg_catalog.pg_stat_activity a
             LEFT JOIN pg_catalog.pg_locks l
               ON l.pid = a.pid AND l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted
              AND l.database = a.datid AND l.classid = 0 AND l.objid = $1::int8::oid AND l.objsubid = 1
             WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
               AND (l.pid IS NOT NULL OR a.query ~* '^\\s*listen\\s')
             ORDER BY is_certain DESC, a.pid",
            &[&ADVISORY_KEY],
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
    table: &Table,
    seen: Option<&Observed<'_>>,
    planned: &anyhow::Result<plan::TablePlan>,
) -> Vec<(String, String)> {
    let name = table.display_name();
    let remedy = format!("pgic install-triggers {}", table.typed_name());
    let Some(seen) = seen else {
        if let Err(error) = planned {
            return vec![(name, format!("no trigger can announce its changes: {}", error.root_cause()))];
        }
        return vec![(name, format!("no trigger announces its changes; install them: {remedy}"))];
    };
    let mut problems = Vec::new();
    let is_ours = seen.version != Version::Foreign;
    if let Some(comment) =
        seen.comment.as_ref().filter(|comment| (&comment.schema, &comment.table) != (&table.schema, &table.name))
    {
        let made_for = format!("{}.{}", comment.schema, comment.table);
        problems.push(format!(
            "its changes are announced as those of {made_for}, which it was called once; refresh it: {remedy}"
        ));
    }
    let of_rows: Vec<&str> = seen
        .announcing
        .iter()
        .filter(|trigger| trigger.kind & ROW_EVENTS & !1 != 0)
        .map(|trigger| trigger.name.as_str())
        .collect();
    if of_rows.len() > 1 {
        problems.push(format!(
            "{} triggers announce its rows: {}; drop all but one",
            of_rows.len(),
            of_rows.join(", ")
        ));
    }
    if seen.version == Version::Outdated {
        let is_edited = seen.row.is_some_and(|trigger| crate::triggers::observe::is_edited(&trigger.function));
        let why =
            if is_edited { "was edited by hand" } else { "is not what this version of pgic makes for these columns" };
        problems.push(format!("the function {why}; refresh it: {remedy}"));
    }
    if seen.row.is_none() {
        problems.push(format!("the row trigger is missing; create it: {remedy}"));
    }
    if seen.truncate.is_none() && !seen.options().is_some_and(|options| options.no_truncate) {
        // The specification's own set-up has none: said, with what follows.
        let cure = if is_ours { format!("; create it: {remedy}") } else { String::new() };
        problems.push(format!("TRUNCATE is not announced: caches keep every row{cure}"));
    }
    for trigger in [seen.row, seen.truncate].into_iter().flatten() {
        if matches!(trigger.enabled, Enabled::Disabled | Enabled::Replica) {
            let cure =
                if is_ours { remedy.clone() } else { format!("ALTER TABLE {} ENABLE TRIGGER …", table.sql_name()) };
            problems.push(format!("the trigger {} is {}; enable it: {cure}", trigger.name, trigger.enabled.as_str()));
        }
    }
    let lacking: Vec<String> = table
        .leaves
        .iter()
        .filter(|leaf| !leaf.triggers.iter().any(|trigger| trigger.kind == TRUNCATE_EVENT && announces(trigger)))
        .map(catalog::Leaf::display_name)
        .collect();
    if !lacking.is_empty() && is_ours && !seen.options().is_some_and(|options| options.no_truncate) {
        problems
            .push(format!("TRUNCATE of its partitions {} is not announced; create it: {remedy}", lacking.join(", ")));
    }
    // Whatever else install-triggers would change: a condition on a trigger, an owner.
    if problems.is_empty() && is_ours {
        match planned {
            Ok(plan) if plan.steps.is_empty() => {}
            Ok(plan) => {
                let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
                problems.push(format!("not as install-triggers makes it ({}); refresh it: {remedy}", steps.join(", ")));
            }
            Err(error) => problems.push(format!("install-triggers would refuse it: {}", error.root_cause())),
        }
    }
    // A function with our comment and an owner who may have planted it.
    if seen
        .announcing
        .iter()
        .any(|trigger| !trigger.function.is_trusted && read_comment(trigger.function.comment.as_deref()).is_some())
    {
        problems
            .push(format!("its function belongs to neither the table's owner ({}) nor a member of it", table.owner));
    }
    problems.into_iter().map(|problem| (name.clone(), problem)).collect()
}

fn enabled(seen: &Observed<'_>) -> &'static str {
    // The least that holds for both.
    let rank = |enabled: &Enabled| match enabled {
        Enabled::Disabled => 0,
        Enabled::Replica => 1,
        Enabled::Origin => 2,
        Enabled::Always => 3,
    };
    let states = [seen.row, seen.truncate].into_iter().flatten().map(|trigger| trigger.enabled);
    states.min_by_key(rank).map_or("disabled", Enabled::as_str)
}

/// The columns that are sent, in words.
fn columns(seen: &Observed<'_>) -> String {
    match seen.options() {
        None => "?".to_string(),
        Some(options) if options.no_data => "key only".to_string(),
        Some(options) => options.columns.as_ref().map_or_else(|| "all".to_string(), |columns| columns.join(",")),
    }
}

fn estimated(table: &Table) -> String {
    table.estimated_rows.map_or_else(|| "?".to_string(), |rows| rows.to_string())
}

fn text(rows: &[TableSeen<'_>], problems: &[(String, String)], server: &ServerSeen) -> String {
    let mut text = if rows.is_empty() {
        "no table announces its changes; install triggers with: pgic install-triggers TABLE\n".to_string()
    } else {
        let mut headings: Vec<Heading> =
            ["schema", "table", "channel", "events", "columns", "state", "function"].map(Heading::text).into();
        headings.extend(["rows", "near limit"].map(Heading::number));
        render(&headings, rows.iter().map(cells))
    };
    for (table, problem) in problems {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {}: {}", escape(table), escape(problem));
    }
    let _ = writeln!(text, "\nlisteners:{}", if server.listeners.is_empty() { " none seen" } else { "" });
    if !server.listeners.is_empty() {
        let headings = [
            Heading::number("pid"),
            Heading::text("user"),
            Heading::text("application"),
            Heading::text("state"),
            Heading::text("known by"),
        ];
        let known_by =
            |listener: &ListenerSeen| if listener.is_certain { "its lock" } else { "its last statement (a guess)" };
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
    let standby = if server.is_standby { ", a standby: LISTEN does not work here" } else { "" };
    let _ = writeln!(text, "server: PostgreSQL {}{standby}", escape(&server.version));
    text
}

fn cells(TableSeen { table, seen, near_limit }: &TableSeen<'_>) -> Vec<String> {
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
    names.chain(observed).chain([estimated(table), near_limit]).collect()
}

fn json_lines(rows: &[TableSeen<'_>], problems: &[(String, String)], server: &ServerSeen) -> String {
    let tables = rows.iter().map(|TableSeen { table, seen, near_limit }| {
        let name = table.display_name();
        let own: Vec<&str> =
            problems.iter().filter(|(table, _)| *table == name).map(|(_, problem)| problem.as_str()).collect();
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
