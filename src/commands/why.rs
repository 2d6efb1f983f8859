//! `pgic why`: follows one row from the table to every node, and names the link that is broken.
//!
//! ```text
//! row ─→ trigger ─→ payload ─→ (record) ─→ delivery ─→ nodes
//!                                              └─────→ log ─→ nodes of the log (--from)
//! ```
//!
//! Each link is looked at by itself, and says what its verdict rests on. A link that cannot be seen
//! is unknown, not in order.

mod at_log;
mod at_nodes;
mod at_row;
mod delivery;
mod link;
mod recorded;
mod touch;

use super::Context;
use super::announce::announce_command;
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::fleet::Fleet;
use crate::fleet::cut::table_ref;
use crate::fleet::node::Roster;
use crate::nats::LogAddress;
use crate::record::reader::Record;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::{Format, print};
use crate::tables::catalog;
use crate::tables::key;
use crate::tables::row::{RowNow, key_of, read_row, reader};
use crate::tables::target::Target;
use crate::triggers::observe::observe;
use crate::units::parse_duration;
use anyhow::Context as _;
use at_log::Log;
use clap::ValueHint;
use jiff::Timestamp;
use link::{Link, Verdict};
use postgres_index_cache_core::tooling::fleet::LONGEST_PAYLOAD;
use postgres_index_cache_core::tooling::postgres::triggers::{Remedy, Severity, diagnose};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use touch::Touched;

/// What a trigger sends beside key and row: the names of the members, xid, time, place.
const AROUND_A_ROW: usize = 220;

/// Find out why a node does not have a row as it is: follow the row to every node
///
/// Looks at each link in turn: the row in the table, the trigger that announces it, the payload
/// that would be sent, the delivery of notifications, and what every node has. A link is ok, BROKEN
/// or unknown, with what that rests on. Behind it stands what mends it now, and for good.
///
/// Nothing is written, unless --touch or --explain is given.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The table: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", add = completion::announced_tables())]
    pub table: String,
    /// The key of the row: 42, or 42,2 for a key of two columns
    #[arg(value_name = "KEY", allow_negative_numbers = true)]
    pub key: String,
    /// The channel that your application listens on, to compare it with the trigger's
    #[arg(short, long, value_name = "NAME")]
    pub channel: Option<String>,
    /// Write the row anew: an UPDATE that changes nothing, and how long it takes to each node
    #[arg(long, conflicts_with = "explain")]
    pub touch: bool,
    /// Show which triggers an UPDATE runs: EXPLAIN ANALYZE of one that changes nothing, rolled back
    ///
    /// Locks the row for a moment, runs every trigger of the table, announces nothing.
    #[arg(long)]
    pub explain: bool,
    /// Look for the row's notifications in what pgic record has written: proves whether the
    /// transaction that wrote the row was announced
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub record: Option<PathBuf>,
    /// Look at a log that pgic relay writes, and at the nodes that follow it, instead of nodes that
    /// listen: nats://host:4222/shop
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// How long to wait for nodes that do not answer
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub timeout: Duration,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic why orders 42               which link is broken, and what mends it
  pgic why orders 42 --touch       write the row anew, and time each node
  pgic why orders 42 --record DIR  was it ever announced?
  pgic why orders 42 --from nats://n1/shop
  pgic why orders 42 -o json | jq 'select(.result == \"broken\")'

Exit codes:
  0  no link is broken
  1  a link is broken
  2  it could not be found out: no such table, a bad key, …
  3  the server could not be reached, or took no session: trying again may
     help";

/// A row that is followed, with what its links have in common.
struct Case<'a> {
    context: &'a Context,
    target: &'a Target,
    /// The key as JSON.
    key: &'a str,
    row: RowNow,
    timeout: Duration,
}

impl Case<'_> {
    /// Returns the command that makes every node read the row again.
    fn announce(&self) -> String {
        let name = self.target.table.typed_name();
        announce_command(&name, &[key::typed(self.key)])
    }
}

/// Follows the row, and prints each link as soon as it is known.
///
/// # Errors
/// If the table or the key is refused, or the server cannot be used.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let server = context.server("why")?;
    let address = args
        .from
        .as_deref()
        .map(|url| LogAddress::new(url, None, &context.environment))
        .transpose()?;
    let record = args.record.as_deref().map(Record::open).transpose()?;
    let target = find(context, &server, &args.table).await?;
    let key = key_of(&server, &target, &args.key).await?;
    let mut fleet = Fleet::connect(&server).await?;
    context.print_place(&server)?;
    let row = read_row(&mut reader(&server).await?, &target, &key).await?;
    let mut case = Case {
        context,
        target: &target,
        key: &key,
        row,
        timeout: args.timeout,
    };
    let mut links = Vec::new();
    let seen = at_row::look(&fleet, &case).await?;
    show(context, &mut links, seen.link(&context.look))?;
    show(context, &mut links, trigger(&target, &seen))?;
    if args.explain && seen.exists {
        let triggers = touch::explain(&server, &target, &key).await?;
        print(&explained(&case, &triggers))?;
    }
    show(context, &mut links, payload(&case, args.channel.as_deref()))?;
    if let Some(record) = record {
        let link = recorded::look(&case, &seen, server.place(), record).await?;
        show(context, &mut links, link)?;
    }
    let (link, is_delivered) = delivery::look(&mut fleet, &server).await?;
    show(context, &mut links, link)?;
    if let Some(address) = &address {
        let mut log = Log::open(address, &server).await?;
        let mut touched = None;
        if args.touch && seen.exists && log.is_of_use(&target) {
            touched = Some(touch(&mut fleet, &server, &mut case, &BTreeSet::new()).await?);
        }
        let link = log.look(&server, fleet.client(), &case, touched.as_ref());
        let link = link.await?;
        show(context, &mut links, link)?;
        show(context, &mut links, log.look_at_nodes(&case).await?)?;
        return conclude(context, &case, &links);
    }
    if !is_delivered {
        let unknown = Link::new("nodes", Verdict::Unknown);
        let link = unknown.text("they cannot be asked while nothing is delivered");
        show(context, &mut links, link)?;
        return conclude(context, &case, &links);
    }
    let roster = Roster::call(&mut fleet, args.timeout).await?;
    let nodes = roster.with_table(&table_ref(&target));
    let mut touched = None;
    if args.touch && seen.exists {
        touched = Some(touch(&mut fleet, &server, &mut case, &nodes).await?);
    }
    let is_trigger_broken = links
        .iter()
        .any(|link| link.name == "trigger" && link.verdict == Verdict::Broken);
    let touched = touched.as_ref();
    let link = at_nodes::look(
        &mut fleet,
        &roster,
        &case,
        &seen,
        touched,
        is_trigger_broken,
    );
    show(context, &mut links, link.await?)?;
    conclude(context, &case, &links)
}

/// Writes the row anew, and prints how long that took.
///
/// # Errors
/// If the row cannot be written, or the nodes cannot be asked.
async fn touch(
    fleet: &mut Fleet,
    server: &Server,
    case: &mut Case<'_>,
    nodes: &BTreeSet<i32>,
) -> anyhow::Result<Touched> {
    let (row, touched) = touch::write(server, fleet, case, nodes).await?;
    case.row = row;
    print(&touched.text(case.context, case))?;
    Ok(touched)
}

/// Returns the triggers that an UPDATE of the row runs.
fn explained(case: &Case<'_>, triggers: &[String]) -> String {
    if case.context.format == Format::Json {
        return EventLine::new("explained", Timestamp::now())
            .of(case.target.names())
            .key(case.key)
            .member("triggers", triggers)
            .end();
    }
    let runs = if triggers.is_empty() {
        "no trigger".to_string()
    } else {
        triggers.join("; ")
    };
    format!("{:20}an UPDATE of the row runs {}\n", "", escape(&runs))
}

/// Describes the table. It need not be announced: that it is not may be the answer.
async fn find(context: &Context, server: &Server, name: &str) -> anyhow::Result<Target> {
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let table = catalog::resolve_one(&catalog, name).await?;
    crate::tables::check_kind(&table)?;
    let mut notices = Vec::new();
    let target = Target::whole(table, &mut notices).with_context(|| format!("follow {name}"))?;
    // That nothing announces the table is said by the link of the trigger.
    if observe(&target.table).is_some() {
        context.notices(&notices);
    }
    Ok(target)
}

/// Prints a link, and keeps it.
fn show(context: &Context, links: &mut Vec<Link>, link: Link) -> anyhow::Result<()> {
    print(&match context.format {
        Format::Json => link.json(),
        Format::Text => link.text_line(&context.look),
    })?;
    links.push(link);
    Ok(())
}

/// Returns the link of the trigger: the one diagnosis, and what this row's own history says.
fn trigger(target: &Target, seen: &at_row::Seen) -> Link {
    let table = &target.table;
    let problems = diagnose(table, None);
    let worst = problems
        .iter()
        .find(|problem| problem.severity == Severity::Critical);
    if let Some(problem) = worst {
        return Link::new("trigger", Verdict::Broken)
            .code(problem.code)
            .text(&problem.text)
            .for_good(problem.remedy.as_ref().map(Remedy::to_string));
    }
    let observed = observe(table);
    let row = observed.as_ref().and_then(|observed| observed.row);
    let always = row.is_some_and(|row| row.enabled == catalog::Enabled::Always);
    if let (Some(origin), false) = (&seen.origin, always) {
        return Link::new("trigger", Verdict::Broken)
            .code("origin-only")
            .text(&format!(
                "the row was written by logical replication (origin {origin}), for which the \
                trigger does not fire"
            ))
            .for_good(Some(format!(
                "pgic install-triggers {} --always",
                table.typed_name()
            )));
    }
    let name = row.map_or("?", |row| row.name.as_str());
    let mut link = Link::new("trigger", Verdict::Ok).text(&format!(
        "{name} is enabled{}, its function is as it was made",
        if always { " for every session" } else { "" }
    ));
    if table.kind == catalog::RelationKind::Partitioned {
        link = link.detail(&format!(
            "{} with the trigger",
            crate::render::count(table.leaves.len() as u64, "leaf partition")
        ));
    }
    for problem in problems
        .iter()
        .filter(|problem| problem.severity == Severity::Warning)
    {
        link = link.detail(&problem.to_string());
    }
    if !always {
        link = link.detail(
            "not for sessions with session_replication_role = replica: what they wrote was \
            announced by nobody",
        );
    }
    link
}

/// Returns the link of the payload: how long it would be, what it has, and on which channel.
fn payload(case: &Case<'_>, listened: Option<&str>) -> Link {
    let target = case.target;
    let Some(observed) = observe(&target.table) else {
        return Link::new("payload", Verdict::Unknown).text("nothing is sent without a trigger");
    };
    let Some(channel) = observed.channel.clone() else {
        return Link::new("payload", Verdict::Unknown)
            .code("channel-unknown")
            .text("the channel of the trigger's function is not known");
    };
    let wanted = listened.or(case.context.settings.channel.as_deref());
    if let Some(wanted) = wanted.filter(|wanted| *wanted != channel) {
        return Link::new("payload", Verdict::Broken)
            .code("other-channel")
            .text(&format!(
                "the trigger notifies on {channel}, and {wanted} is listened to"
            ))
            .for_good(Some(format!(
                "listen on {channel}, or, if every node shall listen on {wanted}: pgic \
                install-triggers {} --channel {wanted}",
                target.table.typed_name()
            )));
    }
    let length = case.row.json.as_ref().map_or(0, String::len) + case.key.len() + AROUND_A_ROW;
    let columns = target.shape.columns().len();
    let keys_alone = observed.options().is_some_and(|options| options.no_data);
    let text = if keys_alone {
        format!("the key alone, on {channel}: each node reads the row by its key")
    } else if length > LONGEST_PAYLOAD {
        format!(
            "about {length} bytes, too long for a notification: the row is left out, on \
            {channel}, and each node reads it by its key"
        )
    } else {
        format!(
            "about {length} bytes, {}, on {channel}",
            crate::render::count(columns as u64, "column")
        )
    };
    Link::new("payload", Verdict::Ok).text(&text)
}

/// Prints the verdict, and returns the exit code.
fn conclude(context: &Context, case: &Case<'_>, links: &[Link]) -> anyhow::Result<ExitCode> {
    let broken: Vec<&Link> = links
        .iter()
        .filter(|link| link.verdict == Verdict::Broken)
        .collect();
    match context.format {
        Format::Json => {
            let names: Vec<&str> = broken.iter().map(|link| link.name).collect();
            let line = EventLine::new("why", Timestamp::now())
                .of(case.target.names())
                .key(case.key)
                .member("broken", names);
            print(&line.end())?;
        }
        Format::Text if broken.is_empty() && case.row.digest.is_none() => {
            let has_log = links.iter().any(|link| link.name == "log");
            print(match (&case.target.follow.condition, has_log) {
                (Some(_), true) => "no row of this key is announced, and the log has none\n",
                (Some(_), false) => {
                    "no row of this key is announced, and no node that answers has one\n"
                }
                (None, true) => "neither the table nor the log has this row\n",
                (None, false) => "neither the table nor a node that answers has this row\n",
            })?;
        }
        Format::Text => print(&link::conclusion(&context.look, &broken, links))?,
    }
    Ok(if broken.is_empty() {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}
