//! `pgic nodes`: every node that keeps caches in step, by its own answer.

mod of_log;

pub use of_log::log_node_json;

use super::{Context, interrupted};
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::Report;
use crate::fleet::Fleet;
use crate::fleet::node::{Node, Roster};
use crate::fleet::sessions::SessionSeen;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::look::{Look, Tone};
use crate::render::table::{Heading, render};
use crate::render::{Format, count, print};
use crate::tables::estimate::human;
use crate::units::{parse_duration, parse_interval};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// List the nodes that keep caches in step, with the state of each
///
/// Asks every node at once, on the channel pgic_control. Replicas of postgres-index-cache-core
/// answer, and so does any program that follows docs/fleet.md. A node that is silent is listed
/// too: it holds a lock by which it is known.
///
/// Any role can send answers. One that comes from another role or address than the session that it
/// claims to be is shown as forged, with the process that sent it.
///
/// With --from, the nodes that follow the log of a relay are asked, over NATS. One that does not
/// answer in time is not listed: nothing tells that it is there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Ask again and again, and print a node whenever its state changes
    #[arg(long)]
    pub watch: bool,
    /// With --watch: the time between two questions
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_interval)]
    #[arg(requires = "watch")]
    pub every: Duration,
    /// Ask the nodes that follow this log: nats://host:4222/shop
    #[arg(long, value_name = "URL", conflicts_with = "watch")]
    pub from: Option<String>,
    /// How long to wait for nodes that do not answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub timeout: Duration,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic nodes                       every node, and whether it is live
  pgic nodes -o json | jq 'select(.event == \"silent\" or .state != \"live\")'
  pgic nodes --watch
  pgic nodes --from nats://localhost:4222/shop

Exit codes:
  0  every node is live
  1  a node is not live or is silent, or there is none
  2  the nodes could not be asked
  3  the server could not be reached, or took no session: trying again may
     help";

/// The most answers that are not believed and are shown as text.
const SHOWN_FORGED: usize = 10;

/// Asks the nodes, and prints what they answer.
///
/// # Errors
/// If the server cannot be used.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if let Some(url) = &args.from {
        return of_log::run(context, url, args.timeout).await;
    }
    let server = context.server("nodes")?;
    let mut fleet = Fleet::open(&server).await?;
    if context.format == Format::Json {
        context.print_place(&server)?;
    }
    if args.watch {
        return watch(context, &server, fleet, &args).await;
    }
    let roster = Roster::call(&mut fleet, args.timeout).await?;
    match context.format {
        Format::Json => print(&roster_json(&roster))?,
        Format::Text => print(&roster_text(&context.look, &roster))?,
    }
    Ok(if roster.is_live() {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

/// What `--watch` has printed of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    label: String,
    state: String,
}

/// Asks again and again, until a signal comes. A connection that is lost is opened again.
async fn watch(
    context: &Context,
    server: &Server,
    fleet: Fleet,
    args: &Args,
) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let mut fleet = Some(fleet);
    let mut known: BTreeMap<i32, Shown> = BTreeMap::new();
    loop {
        let asking = async {
            let mut fleet = match fleet.take() {
                Some(fleet) => fleet,
                None => Fleet::open(server).await?,
            };
            let roster = Roster::call(&mut fleet, args.timeout).await?;
            anyhow::Ok((fleet, roster))
        };
        let asked = tokio::select! {
            asked = asking => asked,
            () = &mut interrupted => return Ok(ExitCode::Yes),
        };
        match asked {
            Ok((kept, roster)) => {
                fleet = Some(kept);
                known = show_changes(context, &roster, &known)?;
            }
            Err(error) => context.notice(&Report::new(&error).one_line()),
        }
        tokio::select! {
            () = tokio::time::sleep(args.every) => {}
            () = &mut interrupted => return Ok(ExitCode::Yes),
        }
    }
}

/// Prints the nodes whose state is another one than was printed. Returns what is known by now.
fn show_changes(
    context: &Context,
    roster: &Roster,
    known: &BTreeMap<i32, Shown>,
) -> anyhow::Result<BTreeMap<i32, Shown>> {
    let mut now = BTreeMap::new();
    for node in &roster.nodes {
        let shown = Shown {
            label: node.label(),
            state: node.state.clone(),
        };
        if known.get(&node.listener) != Some(&shown) {
            print(&changed(context, node))?;
        }
        now.insert(node.listener, shown);
    }
    for session in &roster.silent {
        // A node that has answered before is named as it named itself.
        let before = known.get(&session.pid).map(|shown| shown.label.clone());
        let shown = Shown {
            label: before.unwrap_or_else(|| session_text(session)),
            state: "silent".to_string(),
        };
        if known.get(&session.pid) != Some(&shown) {
            print(&silent_line(context, session, &shown.label))?;
        }
        now.insert(session.pid, shown);
    }
    for (pid, shown) in known {
        if !now.contains_key(pid) {
            print(&gone(context, *pid, &shown.label))?;
        }
    }
    Ok(now)
}

/// Returns the line of a node whose state has changed.
fn changed(context: &Context, node: &Node) -> String {
    if context.format == Format::Json {
        return node_json(node);
    }
    let look = &context.look;
    let mut line = format!(
        "{}  {}  {}",
        look.clock(Timestamp::now()),
        painted(look, &node.state),
        escape(&node.label())
    );
    for why in causes(node) {
        line.push_str("  ");
        line.push_str(&escape(&why));
    }
    line.push('\n');
    line
}

fn silent_line(context: &Context, session: &SessionSeen, label: &str) -> String {
    match context.format {
        Format::Json => silent_json("silent", session),
        Format::Text => format!(
            "{}  {}  {}\n",
            context.look.clock(Timestamp::now()),
            context.look.paint(Tone::Alarm, "silent"),
            escape(label)
        ),
    }
}

fn gone(context: &Context, pid: i32, label: &str) -> String {
    match context.format {
        Format::Json => EventLine::new("gone", Timestamp::now())
            .member("listener", pid)
            .end(),
        Format::Text => format!(
            "{}  {}  {}\n",
            context.look.clock(Timestamp::now()),
            context.look.paint(Tone::Bad, "gone"),
            escape(label)
        ),
    }
}

/// Returns a state in its colour.
fn painted(look: &Look, state: &str) -> String {
    let tone = match state {
        "live" => Tone::Good,
        "loading" | "behind" | "degraded" => Tone::Changed,
        _ => Tone::Alarm,
    };
    look.paint(tone, &escape(state))
}

/// Returns why the tables of a node are not live, each with its name.
fn causes(node: &Node) -> Vec<String> {
    let tables = node.tables.iter();
    let tables = tables.filter_map(|table| {
        let why = table.why.as_ref()?;
        Some(format!("{}.{}: {why}", table.schema, table.table))
    });
    tables.collect()
}

/// Returns the answer as text: a line a node, then what is wrong.
pub(in crate::commands) fn roster_text(look: &Look, roster: &Roster) -> String {
    let mut text = String::new();
    if !roster.nodes.is_empty() {
        let headings = [
            Heading::text("node"),
            Heading::text("address"),
            Heading::text("user"),
            Heading::number("pid"),
            Heading::text("state"),
            Heading::text("since"),
            Heading::number("tables"),
            Heading::number("rows"),
            Heading::number("lag"),
            Heading::number("memory"),
        ];
        let rows = roster.nodes.iter().map(|node| cells(look, node));
        text = render(&headings, rows);
    }
    for node in &roster.nodes {
        for why in causes(node) {
            text.push_str(&format!(
                "  {} {}\n",
                look.paint(Tone::Alarm, &escape(&node.label())),
                escape(&why)
            ));
        }
        let quarantined = node.quarantined();
        if quarantined > 0 {
            text.push_str(&format!(
                "  {} {} not fit the application's type and are kept out\n",
                look.paint(Tone::Changed, &escape(&node.label())),
                if quarantined == 1 {
                    "1 row does".to_string()
                } else {
                    format!("{quarantined} rows do")
                }
            ));
        }
    }
    for session in &roster.silent {
        text.push_str(&format!(
            "  {} a node does not answer: {}\n",
            look.paint(Tone::Alarm, "silent:"),
            escape(&session_text(session))
        ));
    }
    for node in roster.forged.iter().take(SHOWN_FORGED) {
        text.push_str(&format!(
            "  {} an answer in the name of {}: {}\n",
            look.paint(Tone::Alarm, "forged:"),
            escape(&node.label()),
            escape(node.forged.as_deref().unwrap_or("it came twice"))
        ));
    }
    if roster.forged.len() > SHOWN_FORGED {
        let more = roster.forged.len() - SHOWN_FORGED;
        text.push_str(&format!(
            "  and {more} more answers that are not believed\n"
        ));
    }
    for session in &roster.hiding {
        text.push_str(&format!(
            "  {} {} holds the lock of nodes exclusively: a silent node cannot be seen\n",
            look.paint(Tone::Alarm, "hidden:"),
            escape(&session_text(session))
        ));
    }
    if !roster.others.is_empty() {
        let names: Vec<String> = roster.others.iter().map(session_text).collect();
        text.push_str(&format!(
            "{} and keeps no cache that it answers for:\n",
            match names.len() {
                1 => "1 other session listens".to_string(),
                others => format!("{others} other sessions listen, none of which is a node,"),
            }
        ));
        for name in names {
            text.push_str(&format!("  {}\n", escape(&name)));
        }
    }
    text.push_str(&verdict(look, roster));
    text
}

/// Returns the last line: how many nodes are live.
fn verdict(look: &Look, roster: &Roster) -> String {
    let known = roster.nodes.len() + roster.silent.len();
    let live = roster.nodes.iter().filter(|node| node.is_live()).count();
    let line = match known {
        0 => "no node: nothing that answers keeps a cache of this database".to_string(),
        _ if live == known => format!("{} live", count(live as u64, "node")),
        _ => format!("{live} of {} live", count(known as u64, "node")),
    };
    let tone = if roster.is_live() {
        Tone::Good
    } else {
        Tone::Alarm
    };
    format!("{}\n", look.paint(tone, &line))
}

fn cells(look: &Look, node: &Node) -> Vec<String> {
    let since = node.state_since().map(|at| look.clock(at));
    let since = since.unwrap_or_default();
    let lag = node
        .lag
        .map(|lag| format!("{:.1} ms", lag.as_secs_f64() * 1000.0));
    let memory = node.memory.map(|memory| human(memory as usize));
    vec![
        node.name.clone(),
        node.address().to_string(),
        node.session
            .as_ref()
            .map_or_else(String::new, |session| session.user.clone()),
        node.pid.to_string(),
        node.state.clone(),
        // A node is live for days: no place for milliseconds.
        since.split('.').next().unwrap_or_default().to_string(),
        (node.tables.len() as u64)
            .saturating_add(node.more_tables)
            .to_string(),
        node.rows().to_string(),
        lag.unwrap_or_default(),
        memory.unwrap_or_default(),
    ]
}

/// Returns a session in words: the server's process, role, address, application.
pub(in crate::commands) fn session_text(session: &SessionSeen) -> String {
    let address = session.address.as_deref().unwrap_or("an unseen address");
    let application = match session.application.as_str() {
        "" => String::new(),
        application => format!(" ({application})"),
    };
    format!(
        "backend {} of {} at {address}{application}",
        session.pid, session.user
    )
}

/// Returns the answer as lines of JSON.
pub(in crate::commands) fn roster_json(roster: &Roster) -> String {
    let mut lines: String = roster.nodes.iter().map(node_json).collect();
    for session in &roster.silent {
        lines.push_str(&silent_json("silent", session));
    }
    for node in &roster.forged {
        let line = EventLine::new("forged", Timestamp::now())
            .member("node", &node.name)
            .member("listener", node.listener)
            .member("sender", node.sender)
            .member("why", node.forged.as_deref().unwrap_or("it came twice"));
        lines.push_str(&line.end());
    }
    for session in &roster.hiding {
        lines.push_str(&silent_json("hiding", session));
    }
    for session in &roster.others {
        lines.push_str(&silent_json("other-listener", session));
    }
    let live = roster.nodes.iter().filter(|node| node.is_live()).count();
    let line = EventLine::new("nodes", Timestamp::now())
        .member("nodes", roster.nodes.len())
        .member("live", live)
        .member("silent", roster.silent.len())
        .member("forged", roster.forged.len());
    lines.push_str(&line.end());
    lines
}

fn silent_json(event: &str, session: &SessionSeen) -> String {
    EventLine::new(event, Timestamp::now())
        .member("listener", session.pid)
        .member("user", &session.user)
        .optional("address", session.address.as_ref())
        .member("application", &session.application)
        .end()
}

fn node_json(node: &Node) -> String {
    let tables: Vec<Value> = node
        .tables
        .iter()
        .map(|table| {
            let since = table.since_ms.and_then(crate::fleet::node::time);
            let mut json = json!({
                "schema": table.schema,
                "table": table.table,
                "state": table.state,
            });
            let mut put = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    json[name] = value;
                }
            };
            put("rows", table.rows.map(Value::from));
            put("since", since.map(|at| at.to_string().into()));
            put("why", table.why.clone().map(Value::from));
            put("quarantined", table.quarantined.map(Value::from));
            json
        })
        .collect();
    let session = node.session.as_ref();
    EventLine::new("node", Timestamp::now())
        .member("node", &node.name)
        .member("host", &node.host)
        .member("pid", node.pid)
        .member("listener", node.listener)
        .optional("user", session.map(|session| &session.user))
        .optional(
            "address",
            session.and_then(|session| session.address.as_ref()),
        )
        .member("state", &node.state)
        .optional("since", node.state_since().map(|at| at.to_string()))
        .optional("started", node.since.map(|at| at.to_string()))
        .optional("version", node.version.as_ref())
        .optional("lag_us", node.lag.map(|lag| lag.as_micros() as u64))
        .optional("last_xid", node.last_xid)
        .optional("gaps", node.gaps)
        .optional("reloads", node.reloads)
        .optional("memory", node.memory)
        .optional("unanswered", node.unanswered)
        .member("after_us", node.after.as_micros() as u64)
        .member("tables", tables)
        .end()
}
