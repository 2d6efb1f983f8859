//! `pgic verify --nodes`: the caches of all nodes, compared with their tables at one exact cut.

use super::{Args, worst};
use crate::causes;
use crate::commands::announce::announce_command;
use crate::commands::{Context, interrupted};
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::{Report, with_hint};
use crate::fleet::Fleet;
use crate::fleet::compare::{Compared, TRIES, compare_nodes, pause_after};
use crate::fleet::cut::{DifferingRow, Outcome, Verdict};
use crate::fleet::node::{Roster, label};
use crate::render::escape::escape;
use crate::render::finding::word;
use crate::render::json::EventLine;
use crate::render::look::Tone;
use crate::render::{Format, count, print};
use crate::tables::catalog::{self, CatalogTable};
use crate::tables::target::Target;
use crate::tables::{self, key, row};
use crate::triggers::observe::observe;
use anyhow::anyhow;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::SnapshotReader;
use std::time::Duration;

/// The most rows of a node that are shown as text.
const SHOWN: usize = 20;

/// The verdicts over all tables and rounds.
#[derive(Debug, Default)]
struct Tally {
    /// Verdicts that a cache was its table.
    equal: usize,
    /// Verdicts that rows differ.
    differs: usize,
    /// Verdicts that prove nothing.
    inconclusive: usize,
    /// Nodes that were silent.
    silent: usize,
    /// Tables that no node has.
    without_node: usize,
    /// Comparisons that were made again.
    retries: usize,
}

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Equal { .. } => self.equal += 1,
            Verdict::Differs { .. } => self.differs += 1,
            Verdict::Inconclusive(_) => self.inconclusive += 1,
            Verdict::Silent => self.silent += 1,
        }
    }
}

/// Compares the caches of all nodes with the tables.
///
/// # Errors
/// If a table is refused, the nodes cannot be asked, or there is none.
pub async fn run(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let server = context.server("verify")?;
    let mut session = Some(Asking::open(&server).await?);
    if context.format == Format::Json {
        context.print_place(&server)?;
    }
    let mut stop = std::pin::pin!(interrupted());
    let mut tally = Tally::default();
    let mut rounds = 0;
    // How long the last round must be paused for.
    let mut pause = Duration::ZERO;
    loop {
        let round = async {
            let mut asking = match session.take() {
                Some(asking) => asking,
                None => Asking::open(&server).await?,
            };
            let targets = describe(&server, args).await?;
            if args.every.is_some() && context.format == Format::Text {
                print(&format!("{}\n", context.look.clock(Timestamp::now())))?;
            }
            let mut rows = 0;
            for target in &targets {
                rows += verify_table(context, &mut asking, target, &mut tally).await?;
            }
            anyhow::Ok((asking, rows))
        };
        tokio::select! {
            done = round => match done {
                Ok((asking, rows)) => {
                    session = Some(asking);
                    pause = pause_after(rows, args.max_rows_per_second);
                }
                // A command that goes on for days outlives a server that is restarted.
                Err(error) if args.every.is_some() && rounds > 0 => {
                    context.notice(&Report::new(&error).one_line());
                }
                Err(error) => return Err(error),
            },
            () = &mut stop => break,
        }
        rounds += 1;
        let last = args.rounds.unwrap_or(1);
        let Some(every) = args.every else {
            // More rounds would find the same rows again.
            if rounds >= last || tally.differs > 0 {
                break;
            }
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep(every.max(pause)) => {}
            () = &mut stop => break,
        }
    }
    if rounds == 0 {
        // An answer that was given up is neither yes nor no.
        return Err(anyhow!("interrupted before the comparison was done"));
    }
    finish(context, rounds, &tally)
}

/// The sessions that ask the nodes, and read the tables.
struct Asking {
    fleet: Fleet,
    reader: SnapshotReader,
}

impl Asking {
    async fn open(server: &Server) -> anyhow::Result<Self> {
        Ok(Self {
            fleet: Fleet::open(server).await?,
            reader: row::reader(server).await?,
        })
    }
}

/// Describes the tables afresh: they may have been altered since the last round.
async fn describe(server: &Server, args: &Args) -> anyhow::Result<Vec<Target>> {
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let mut targets = Vec::new();
    for table in catalog::resolve(&catalog, &args.tables).await? {
        tables::check_kind(&table)?;
        // That a table is not announced is told with the rows that differ.
        targets.push(Target::whole(table, &mut Vec::new())?);
    }
    Ok(targets)
}

/// Compares one table, again for the nodes that are inconclusive, and prints the verdicts. Returns
/// the number of its rows.
async fn verify_table(
    context: &Context,
    asking: &mut Asking,
    target: &Target,
    tally: &mut Tally,
) -> anyhow::Result<u64> {
    let compared = compare_nodes(&mut asking.fleet, &mut asking.reader, target).await?;
    let Compared {
        roster,
        outcome,
        retries,
    } = compared;
    tally.retries += retries;
    if outcome.nodes.is_empty() {
        tally.without_node += 1;
    }
    for verdict in outcome.nodes.values() {
        tally.count(verdict);
    }
    print(&report(context, target, &roster, &outcome))?;
    Ok(outcome.rows)
}

/// Returns the verdicts on a table, a line a node, each followed by the rows that differ.
fn report(context: &Context, target: &Target, roster: &Roster, outcome: &Outcome) -> String {
    let mut text = String::new();
    let table = target.name();
    if outcome.nodes.is_empty() && context.format == Format::Text {
        let word = context.look.paint(Tone::Alarm, "no node");
        text.push_str(&format!(
            "{word}  {}: no node has this table\n",
            escape(&table)
        ));
    }
    for (listener, verdict) in &outcome.nodes {
        let node = roster.node(*listener);
        let name = node.map_or_else(
            || format!("process {listener}"),
            |node| label(&node.name, &node.host, node.pid),
        );
        let label = Label {
            name: &name,
            node: node.map_or("", |node| &node.name),
            listener: *listener,
        };
        text.push_str(&match context.format {
            Format::Json => verdict_json(target, &label, verdict, outcome.rows),
            Format::Text => verdict_text(context, target, &label, verdict, outcome.rows),
        });
        if let Verdict::Differs { rows, more } = verdict {
            text.push_str(&findings(context, target, &label, rows, *more, outcome));
        }
    }
    text
}

/// Returns the rows that differ at a node. As text, the causes and the remedy follow once.
fn findings(
    context: &Context,
    target: &Target,
    label: &Label<'_>,
    rows: &[DifferingRow],
    more: bool,
    outcome: &Outcome,
) -> String {
    let mut text = String::new();
    let mut causes: Vec<String> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let cause = cause(target, row, outcome);
        if context.format == Format::Json {
            text.push_str(&finding_json(target, label, row, &cause));
        } else if at < SHOWN {
            let kind = context
                .look
                .paint(Tone::Bad, &format!("{:<7}", word(row.kind)));
            text.push_str(&format!("  {kind}  {}\n", escape(&key_text(row))));
        }
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    if context.format == Format::Json {
        return text;
    }
    if more || rows.len() > SHOWN {
        text.push_str("  and more\n");
    }
    for cause in causes {
        text.push_str(&format!("  likely: {}\n", escape(&cause)));
    }
    let remedy = remedy(target, rows, more);
    text.push_str(&format!("  now: {}\n", escape(&remedy)));
    text
}

/// Returns the command that makes the nodes read these rows again.
fn remedy(target: &Target, rows: &[DifferingRow], more: bool) -> String {
    let keys: Option<Vec<String>> = rows
        .iter()
        .map(|row| row.key.as_deref().map(key::typed))
        .collect();
    let name = target.table.typed_name();
    let announce = match keys {
        Some(keys) if !more && !keys.is_empty() && keys.len() <= SHOWN => {
            announce_command(&name, &keys)
        }
        Some(_) | None => format!("pgic announce {name} --all"),
    };
    // Nodes do not follow a table whose trigger is broken.
    match worst(&target.table).and_then(|problem| problem.remedy) {
        Some(first) => format!("{first}; then {announce}"),
        None => announce,
    }
}

/// A node, as the lines about it name it.
struct Label<'a> {
    /// Name, machine and process.
    name: &'a str,
    /// The name alone.
    node: &'a str,
    listener: i32,
}

fn verdict_text(
    context: &Context,
    target: &Target,
    label: &Label<'_>,
    verdict: &Verdict,
    rows: u64,
) -> String {
    let (tone, word, rest) = match verdict {
        Verdict::Equal { quarantined, .. } => {
            let mut rest = format!("{} at one exact cut", count(rows, "row"));
            if *quarantined > 0 {
                rest.push_str(&format!(
                    ", {quarantined} that do not fit its type left out"
                ));
            }
            (Tone::Good, "equal       ", rest)
        }
        Verdict::Differs { rows, more } => {
            let rest = match (rows.len(), more) {
                (0, _) => {
                    "rows differed, and were written again before they were named".to_string()
                }
                (found, true) => format!("{found} rows and more"),
                (found, false) => count(found as u64, "row"),
            };
            (Tone::Bad, "differs     ", rest)
        }
        Verdict::Inconclusive(why) => (Tone::Changed, "inconclusive", why.clone()),
        Verdict::Silent => (
            Tone::Alarm,
            "silent      ",
            "it does not answer".to_string(),
        ),
    };
    format!(
        "{}  {}\n",
        context.look.paint(tone, word),
        escape(&format!("{}  {}  {rest}", target.name(), label.name))
    )
}

fn verdict_json(target: &Target, label: &Label<'_>, verdict: &Verdict, rows: u64) -> String {
    let line = EventLine::new("node-verdict", Timestamp::now()).of(target.names());
    let word = match verdict {
        Verdict::Equal { .. } => "equal",
        Verdict::Differs { .. } => "differs",
        Verdict::Inconclusive(_) => "inconclusive",
        Verdict::Silent => "silent",
    };
    let line = line
        .member("node", label.node)
        .member("listener", label.listener)
        .member("verdict", word);
    match verdict {
        Verdict::Equal { quarantined, .. } => line
            .member("rows", rows)
            .member("quarantined", *quarantined)
            .end(),
        Verdict::Differs {
            rows: differing,
            more,
        } => line
            .member("rows", rows)
            .member("differing", differing.len())
            .member("more", *more)
            .end(),
        Verdict::Inconclusive(why) => line.member("why", why).end(),
        Verdict::Silent => line.end(),
    }
}

fn finding_json(target: &Target, label: &Label<'_>, row: &DifferingRow, cause: &str) -> String {
    let now = remedy(target, std::slice::from_ref(row), false);
    let line = EventLine::new("node-finding", Timestamp::now()).of(target.names());
    let line = match &row.key {
        Some(key) => line.key(key),
        None => line,
    };
    line.member("node", label.node)
        .member("listener", label.listener)
        .member("kind", word(row.kind))
        .member("key_digest", row.digest.to_string())
        .member("cause", cause)
        .member("now", now)
        .end()
}

/// Returns the key of a row as it can be typed, or the digest if nobody knows the key.
fn key_text(row: &DifferingRow) -> String {
    match &row.key {
        Some(key) => key::typed(key),
        None => format!("a row whose key has the digest {}", row.digest),
    }
}

/// Returns the likely cause of a row that differs.
fn cause(target: &Target, row: &DifferingRow, outcome: &Outcome) -> String {
    let table: &CatalogTable = &target.table;
    if let Some(problem) = worst(table) {
        return problem.to_string();
    }
    let has_row = |verdict: &Verdict| match verdict {
        Verdict::Differs { rows, .. } => !rows.iter().any(|own| own.digest == row.digest),
        Verdict::Equal { .. } => true,
        Verdict::Inconclusive(_) | Verdict::Silent => false,
    };
    if outcome.nodes.values().any(has_row) {
        // Another node has it, so it was announced.
        return "other nodes have it right: this node lost the change, or its own code dropped it"
            .to_string();
    }
    let likely = causes::likely(
        table,
        observe(table).as_ref(),
        &target.channel,
        row.kind,
        &[],
        None,
    );
    format!("no node has it right: {likely}")
}

/// Prints the summary, and returns the exit code.
fn finish(context: &Context, rounds: u32, tally: &Tally) -> anyhow::Result<ExitCode> {
    let Tally {
        equal,
        differs,
        inconclusive,
        silent,
        without_node,
        retries,
    } = tally;
    if context.format == Format::Json {
        let line = EventLine::new("nodes-summary", Timestamp::now())
            .member("rounds", rounds)
            .member("equal", equal)
            .member("differs", differs)
            .member("inconclusive", inconclusive)
            .member("silent", silent)
            .member("without_node", without_node)
            .member("retries", retries);
        print(&line.end())?;
    } else if rounds > 1 {
        print(&format!(
            "{} in {}: {equal} equal, {differs} differ, {inconclusive} inconclusive\n",
            count((equal + differs + inconclusive) as u64, "verdict"),
            count(u64::from(rounds), "round"),
        ))?;
    }
    if *differs > 0 || *silent > 0 || *without_node > 0 {
        return Ok(ExitCode::No);
    }
    if *inconclusive > 0 {
        return Err(with_hint(
            anyhow!("a node could not be compared: {TRIES} comparisons in a row were inconclusive"),
            "the reasons stand above; pgic nodes shows the states",
        ));
    }
    Ok(ExitCode::Yes)
}
