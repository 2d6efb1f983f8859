//! `pgic verify`: compares a cache that is fed by notifications with its table, at one exact cut.
//!
//! The comparison itself is the engine's. This file follows the tables for a while, remembers which
//! session's notification changed a row last, and prints findings with their likely causes.

mod nodes;
mod of_log;

use super::{Context, Signals};
use crate::causes::{self, LastHeard, Senders};
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::look::{Look, Tone};
use crate::render::progress::Progress;
use crate::render::{Format, finding, print};
use crate::tables::bounds::BoundArgs;
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::target::{Opened, Target, open};
use crate::tables::written_by::writers;
use crate::tables::{self, explain_failure};
use crate::triggers::observe::observe;
use crate::units::{parse_duration, parse_interval};
use anyhow::anyhow;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::KeyBuf;
use postgres_index_cache_core::tooling::postgres::triggers::{Problem, Severity, diagnose};
use postgres_index_cache_core::tooling::postgres::{
    ComparisonReport, Driver, DriverEvent, DriverOptions, Notified, RowChange, Verification,
};
use postgres_index_cache_core::tooling::sync::{State, TableId};
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::Duration;
use tokio::time::Instant;

/// The number of comparisons in a row that may be inconclusive before the command gives up.
const TRIES: usize = 20;
/// The most keys of one table for which the sender of the last change is remembered. Findings of
/// other keys name no sender.
const REMEMBERED_KEYS: usize = 1_000_000;
/// The most findings of one table that are shown as text.
const SHOWN: usize = 100;
/// The time after which a lost connection ends the command.
const PATIENCE: Duration = Duration::from_secs(60);

/// Compare a cache that is fed by notifications with its table, at one exact cut
///
/// Loads the tables into the cache that an application has, follows them for a while, then compares
/// cache and table row by row, while writers go on. Prints a line for each row that is missing,
/// stale or a ghost, with the likely cause.
///
/// The verdict says how many changes were followed: without any, nothing was proven. A table
/// without a trigger that works is unannounced, never equal. A comparison that something came in
/// the way of, such as a lost connection or DDL, is repeated.
///
/// Takes a COPY of each table, and no lock for which a writer waits.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The tables: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", required = true, add = completion::announced_tables())]
    pub tables: Vec<String>,
    /// How long to follow before the comparison: 500ms, 30s, 5m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    #[arg(default_value = "10s", conflicts_with = "rounds")]
    pub follow: Duration,
    /// Compare so many times, at once and one after another, until a row differs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Compare the caches of all nodes instead, by digests at one cut
    ///
    /// Every node is asked on pgic_control for digests of its rows, as of one snapshot. Where they
    /// differ from the table's, the rows are found: which node, which row. Writers go on. A node
    /// that reloads or was lost meanwhile is inconclusive. See pgic nodes.
    #[arg(long, conflicts_with_all = ["follow", "min_changes", "max_memory", "jobs"])]
    pub nodes: bool,
    /// With --nodes: compare again and again, after so long
    #[arg(long, value_name = "TIME", value_parser = parse_interval, requires = "nodes")]
    #[arg(conflicts_with = "rounds")]
    pub every: Option<Duration>,
    /// With --every: pause longer after a large table, so that on average no more rows than this
    /// are compared in a second
    #[arg(long, value_name = "N", requires = "every")]
    pub max_rows_per_second: Option<NonZeroU64>,
    /// Compare what a node of this log has: nats://host:4222/shop
    ///
    /// The relay of the log compares its cache with the table, and a node's rows are proven to be the
    /// relay's.
    #[arg(long, value_name = "URL")]
    #[arg(conflicts_with_all = ["follow", "nodes", "min_changes", "max_memory", "jobs"])]
    pub from: Option<String>,
    /// Exit with 1 when fewer changes than this were followed: with none, nothing was proven
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub min_changes: u64,
    #[command(flatten)]
    pub bounds: BoundArgs,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic verify users
  pgic verify users orders --for 5m --min-changes 1
  pgic verify users --rounds 1
  pgic verify users --nodes          the caches of your own nodes
  pgic verify users --from nats://localhost:4222/shop

Exit codes:
  0  every cache is equal to its table
  1  a row differs, a table is unannounced, fewer changes than --min-changes
     were followed, or (--nodes) a node does not answer
  2  no comparison could be finished, or it was interrupted
  3  the server could not be reached, or took no session: trying again may
     help";

/// The counts over all tables and rounds.
#[derive(Debug, Default)]
struct Summary {
    /// The rows of the tables, at the cuts.
    rows: usize,
    /// The rows that are missing from a cache.
    missing: usize,
    /// The rows that the cache has with other values.
    stale: usize,
    /// The rows that only a cache has.
    ghost: usize,
    /// The comparisons that were finished.
    compared: u32,
    /// The comparisons that something came in the way of.
    inconclusive: u32,
    /// The changes that were followed.
    changes: u64,
    /// The verdicts that rest on fewer changes than `--min-changes`.
    unproven: usize,
    /// The verdicts on tables whose changes are not announced as they should be.
    unannounced: usize,
}

/// Loads the tables, follows them, compares each with its cache, and prints the verdicts.
///
/// # Errors
/// If a table is refused, the server cannot be used, no comparison can be finished, or a signal
/// comes first.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if args.nodes {
        return nodes::run(context, &args).await;
    }
    let mut signals = Signals::catch();
    let verified = async {
        match &args.from {
            Some(url) => Box::pin(of_log::run(context, &args, url)).await,
            None => Box::pin(verify(context, &args)).await,
        }
    };
    tokio::select! {
        verified = verified => verified,
        // An answer that was given up is neither yes nor no.
        _ = signals.next() => Err(anyhow!("interrupted before the comparison was done")),
    }
}

async fn verify(context: &Context, args: &Args) -> anyhow::Result<ExitCode> {
    let server = context.server("verify")?;
    let bounds = args.bounds.bounds();
    let Opened {
        targets,
        mut driver,
        ..
    } = open(
        &server,
        bounds,
        context.quiet,
        // A look that finds DDL reloads the table, which mends a cache that missed a change. Here
        // such a cache is to be found.
        |options: &mut DriverOptions| options.limits.watch_ddl = false,
        |text| context.notice(text),
        async |catalog: &mut Catalog<'_>| describe(context, catalog, args).await,
    )
    .await?;
    if context.format == Format::Json {
        context.print_place(&server)?;
    }
    driver.record_row_events();
    let tables = targets.into_iter().map(|target| VerifiedTable {
        problem: worst(&target.table),
        target,
        heard: HashMap::new(),
        reloaded_at: None,
        began: Instant::now(),
    });
    let mut verifier = Verifier {
        context,
        driver,
        tables: tables.collect(),
        stale: None,
    };
    if args.rounds.is_none() {
        verifier.follow(args.follow).await?;
    }
    let mut summary = Summary::default();
    for _ in 0..args.rounds.unwrap_or(1) {
        for at in 0..verifier.tables.len() {
            let comparison = verifier.compare(at, &mut summary).await?;
            summary.add(&comparison);
            let verdict = verifier.verdict(at, comparison, &server).await?;
            verdict.print(context, args.min_changes, &mut summary)?;
        }
        // More rounds would find the same rows again.
        if summary.differing() > 0 {
            break;
        }
    }
    finish(context, verifier.tables.len(), &summary)
}

/// Makes targets of the tables that were named, also of tables whose changes are not announced.
async fn describe(
    context: &Context,
    catalog: &Catalog<'_>,
    args: &Args,
) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for table in catalog::resolve(catalog, &args.tables).await? {
        tables::check_kind(&table)?;
        // A table that is not announced is no error here: the verdict says so.
        if let Ok(notices) = tables::check_announced(&table) {
            context.notices(&notices);
        }
        let mut target = Target::whole(table, &mut Vec::new())?;
        // The driver must not watch for the triggers: one that is disabled meanwhile would make the
        // table stale, where a finding should tell which rows were missed.
        target.follow.announced_by = Vec::new();
        targets.push(target);
    }
    Ok(targets)
}

/// A table that is verified.
struct VerifiedTable {
    target: Target,
    /// The process of the server whose notification changed a row last, by the row's key. `None` if
    /// the row was read.
    heard: HashMap<KeyBuf, Option<Notified>>,
    /// When the table was reloaded; `None` if never. Changes that were lost before cannot be found.
    reloaded_at: Option<Instant>,
    /// When the table was live for the first time.
    began: Instant,
    /// The reason why changes of the table are not announced as they should be, if there is one.
    problem: Option<Problem>,
}

/// Returns the first problem with a table's triggers by which changes are lost.
fn worst(table: &CatalogTable) -> Option<Problem> {
    diagnose(table, None)
        .into_iter()
        .find(|problem| problem.severity == Severity::Critical)
}

/// The outcome of the comparison of one table.
struct TableVerdict<'a> {
    /// The table as the catalogue has it after the comparison.
    table: CatalogTable,
    comparison: ComparisonReport,
    /// The number of changes of the table that were followed.
    changes: u64,
    followed: &'a VerifiedTable,
    /// The names of the sessions whose notifications changed the rows that differ.
    senders: Senders,
    /// By the keys of rows, as JSON, the transactions that wrote them.
    writers: HashMap<String, u32>,
}

impl TableVerdict<'_> {
    /// Prints findings and verdict, and counts the verdict.
    fn print(
        &self,
        context: &Context,
        min_changes: u64,
        summary: &mut Summary,
    ) -> anyhow::Result<()> {
        let Self {
            table, comparison, ..
        } = self;
        summary.changes += self.changes;
        let name = self.followed.target.name();
        if comparison.differing() > 0 {
            self.print_findings(context)?;
        }
        // Such a table is no case for `min_changes`: no number of changes would prove anything.
        let problem = self.followed.problem.as_ref();
        if problem.is_some() {
            summary.unannounced += 1;
        } else {
            summary.unproven += usize::from(self.changes < min_changes);
        }
        let time = self.followed.began.elapsed();
        match (context.format, problem) {
            (Format::Json, _) => {
                let names = (table.schema.as_str(), table.name.as_str());
                print(&verdict_json(
                    names,
                    comparison,
                    self.changes,
                    time,
                    problem,
                ))
            }
            (Format::Text, Some(problem)) => {
                let word = context.look.paint(Tone::Bad, "unannounced");
                let text = format!("{name}  {problem}");
                print(&format!("{word}  {}\n", escape(&text)))
            }
            (Format::Text, None) if comparison.differing() > 0 => Ok(()),
            (Format::Text, None) => {
                print(&equal(&context.look, &name, comparison, self.changes, time))
            }
        }
    }

    /// Prints the rows that differ, with their likely causes.
    fn print_findings(&self, context: &Context) -> anyhow::Result<()> {
        let Self {
            table, comparison, ..
        } = self;
        let VerifiedTable { target, heard, .. } = self.followed;
        let seen = observe(table);
        // A person reads a page, a program all that the engine kept.
        let shown = if context.format == Format::Text {
            SHOWN
        } else {
            ComparisonReport::FINDINGS
        };
        let lines = comparison.findings.iter().take(shown).map(|found| {
            let heard = heard.get(&found.key_cells).copied().flatten();
            let heard =
                heard.map(|heard| LastHeard::of(heard, found, &self.senders, &self.writers));
            let cause = causes::likely(
                table,
                seen.as_ref(),
                &target.channel,
                found.kind,
                &found.columns,
                heard.as_ref(),
            );
            let names = (table.schema.as_str(), table.name.as_str());
            finding::finding(
                context.format,
                &context.look,
                Timestamp::now(),
                names,
                found,
                &cause,
            )
        });
        print(&lines.collect::<String>())?;
        let kept = comparison.findings.len();
        let more = comparison.differing() - kept.min(shown);
        if more > 0 {
            let kept = if kept > shown {
                format!("; -o json shows {kept}")
            } else {
                String::new()
            };
            context.notice(&format!(
                "{more} more rows of {} differ{kept}",
                table.display_name()
            ));
        }
        Ok(())
    }
}

/// Returns the line that says that a cache is equal to its table, with the number of changes on
/// which that rests. `time` is how long they were followed.
pub(super) fn equal(
    look: &Look,
    name: &str,
    comparison: &ComparisonReport,
    changes: u64,
    time: Duration,
) -> String {
    let rests_on = match changes {
        0 => "but no change came: nothing was proven".to_string(),
        _ => format!(
            "after {} in {:.1} s",
            crate::render::count(changes, "change"),
            time.as_secs_f64()
        ),
    };
    // Equal without a change is no proof, and not as good.
    let tone = if changes == 0 {
        Tone::Changed
    } else {
        Tone::Good
    };
    let text = format!(
        "{name}  {} rows at one exact cut, {rests_on}",
        comparison.rows
    );
    format!("{}    {}\n", look.paint(tone, "equal"), escape(&text))
}

/// Returns the verdict on a table as a line of JSON. `problem` is the one by which the changes of
/// the table are not announced.
pub(super) fn verdict_json(
    names: (&str, &str),
    comparison: &ComparisonReport,
    changes: u64,
    time: Duration,
    problem: Option<&Problem>,
) -> String {
    let verdict = if problem.is_some() {
        "unannounced"
    } else if comparison.differing() > 0 {
        "differs"
    } else if changes == 0 {
        "unproven"
    } else {
        "equal"
    };
    verdict_line(names, verdict, comparison, changes, time)
        .optional("problem", problem.map(super::status::problem_json))
        .end()
}

/// Begins the line of JSON with the verdict on a table.
pub(super) fn verdict_line(
    names: (&str, &str),
    verdict: &str,
    comparison: &ComparisonReport,
    changes: u64,
    time: Duration,
) -> EventLine {
    EventLine::new("verdict", Timestamp::now())
        .of(names)
        .member("verdict", verdict)
        .member("rows", comparison.rows)
        .member("missing", comparison.missing)
        .member("stale", comparison.stale)
        .member("ghost", comparison.ghosts)
        .member("changes", changes)
        .member("followed_ms", time.as_millis() as u64)
}

/// The tables at work.
struct Verifier<'a> {
    context: &'a Context,
    driver: Driver,
    /// By their places in the driver.
    tables: Vec<VerifiedTable>,
    /// The loss of the connection, until every table is live again.
    stale: Option<Stale>,
}

/// A loss of the connection.
struct Stale {
    /// When the connection was lost, or the server was last seen to answer.
    since: Instant,
    why: String,
}

impl Verifier<'_> {
    /// Follows the tables for a while, with a line of progress.
    async fn follow(&mut self, time: Duration) -> anyhow::Result<()> {
        let names: Vec<String> = self
            .tables
            .iter()
            .map(|table| table.target.name())
            .collect();
        let waiting = Progress::waiting(
            &format!("following {} for {time:?}", names.join(", ")),
            !self.context.quiet,
        );
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.step(until).await?;
        }
        drop(waiting);
        Ok(())
    }

    /// Waits until the driver has done something, at most until `until`.
    ///
    /// # Errors
    /// If the driver cannot go on, or the connection has been lost for longer than [`PATIENCE`].
    async fn step(&mut self, until: Instant) -> anyhow::Result<()> {
        let give_up = self.stale.as_ref().map(|stale| stale.since + PATIENCE);
        let until = give_up.map_or(until, |give_up| give_up.min(until));
        tokio::select! {
            stepped = self.driver.step() => stepped.map_err(explain_failure)?,
            () = tokio::time::sleep_until(until) => {}
        }
        self.take_events();
        // A large table may take longer than `PATIENCE` to be read again: as long as tables are
        // read, the connection is there.
        if let (Some(stale), State::Snapshotting | State::Degraded | State::CatchingUp) =
            (&mut self.stale, self.driver.state())
        {
            stale.since = Instant::now();
        }
        match &self.stale {
            Some(Stale { since, why }) if since.elapsed() >= PATIENCE => Err(with_hint(
                anyhow!(
                    "no notification could be received for {} s: {why}",
                    PATIENCE.as_secs()
                ),
                "try again when the server is there",
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes the driver's events: prints notices about interruptions, and remembers who
    /// changed which row.
    fn take_events(&mut self) {
        let events: Vec<DriverEvent> = self.driver.take_events().collect();
        for event in events {
            match event {
                DriverEvent::Row { table, change, by } => {
                    let VerifiedTable { target, heard, .. } = &mut self.tables[table.0];
                    let (RowChange::Added(row)
                    | RowChange::Changed { new: row, .. }
                    | RowChange::Removed(row)) = change;
                    if heard.len() < REMEMBERED_KEYS {
                        heard.insert(KeyBuf::of_row(&target.shape, &row), by);
                    }
                }
                // Attempts to connect that fail are events of the same kind: only the loss is told.
                DriverEvent::Disconnected { why, .. } if self.stale.is_none() => {
                    self.context.notice(&format!(
                        "the connection was lost ({why}); connecting again"
                    ));
                    let since = Instant::now();
                    self.stale = Some(Stale { since, why });
                }
                DriverEvent::State(State::Live) if self.stale.take().is_some() => {
                    self.context.notice("live again: every table was reloaded");
                    for table in &mut self.tables {
                        table.reloaded_at = Some(Instant::now());
                    }
                }
                DriverEvent::ReloadScheduled { table, why } => {
                    let table = &mut self.tables[table.0];
                    table.reloaded_at = Some(Instant::now());
                    let name = table.target.name();
                    self.context
                        .notice(&format!("{name} is being reloaded: {why}"));
                }
                DriverEvent::CommitsBlocked => {
                    self.context.notice(tables::COMMITS_BLOCKED);
                }
                _ => {}
            }
        }
    }

    /// Compares a table with its cache, until a comparison is conclusive.
    ///
    /// # Errors
    /// If the driver cannot go on, or [`TRIES`] comparisons in a row were inconclusive.
    async fn compare(
        &mut self,
        at: usize,
        summary: &mut Summary,
    ) -> anyhow::Result<ComparisonReport> {
        let name = self.tables[at].target.name();
        let mut last = String::new();
        for _ in 0..TRIES {
            let question = self
                .driver
                .ask_to_verify(TableId(at))
                .map_err(explain_failure)?;
            let verified = loop {
                match self.driver.take_verification(question) {
                    Some(verified) => break verified,
                    None => self.step(Instant::now() + PATIENCE).await?,
                }
            };
            match verified {
                Verification::Compared(comparison) => {
                    summary.compared += 1;
                    return Ok(comparison);
                }
                Verification::Inconclusive(why) => {
                    summary.inconclusive += 1;
                    self.context.notice(&format!(
                        "the comparison of {name} is inconclusive, retrying: {why}"
                    ));
                    last = why;
                }
            }
            // The cause, a migration for example, takes a moment to pass: without a pause all tries
            // would be over before it has.
            let until = Instant::now() + Duration::from_millis(200);
            while Instant::now() < until {
                self.step(until).await?;
            }
        }
        Err(with_hint(
            anyhow!(
                "{name} could not be compared: {TRIES} comparisons in a row were inconclusive: \
                {last}"
            ),
            "try again when the table is not altered, truncated or moved; a plain-form trigger \
            needs a quiet moment",
        ))
    }

    /// Looks at the table's triggers again, and at the sessions that changed the rows which differ.
    ///
    /// # Errors
    /// If the server cannot be asked.
    async fn verdict(
        &mut self,
        at: usize,
        comparison: ComparisonReport,
        server: &Server,
    ) -> anyhow::Result<TableVerdict<'_>> {
        let changes = self.driver.engine().changes(TableId(at));
        let followed = &mut self.tables[at];
        if let Some(since) = followed.reloaded_at {
            self.context.notice(&format!(
                "{} was reloaded {:.1} s ago: a change that was lost before that does not show",
                followed.target.name(),
                since.elapsed().as_secs_f64()
            ));
        }
        // A session of its own: the driver's are busy with following.
        let mut client = server.client().await?;
        let catalog = catalog::reading(&mut client).await?;
        let mut tables = catalog::describe(&catalog, &[followed.target.table.oid]).await?;
        // A table that has just been dropped is shown as it was.
        let table = tables
            .pop()
            .unwrap_or_else(|| followed.target.table.clone());
        let was_heard = |key: &KeyBuf| followed.heard.get(key).copied().flatten();
        let findings = comparison.findings.iter();
        let processes = findings
            .clone()
            .filter_map(|found| Some(was_heard(&found.key_cells)?.sender));
        let senders = Senders::look(&catalog, processes.collect()).await;
        let keys = findings
            .filter(|found| was_heard(&found.key_cells).is_some())
            .map(|found| found.key.as_str());
        let writers = writers(&catalog, &followed.target, keys).await;
        // A trigger that is silent now, or was when the following began, has proven nothing.
        followed.problem = followed.problem.take().or_else(|| worst(&table));
        Ok(TableVerdict {
            table,
            comparison,
            changes,
            followed,
            senders,
            writers,
        })
    }
}

/// Prints the summary, and returns the exit code.
fn finish(context: &Context, tables: usize, summary: &Summary) -> anyhow::Result<ExitCode> {
    // Taken apart without `..`, so that a count that is added later is not forgotten here.
    let Summary {
        rows,
        missing,
        stale,
        ghost,
        compared,
        inconclusive,
        changes,
        unproven,
        unannounced,
    } = summary;
    let is_equal = summary.differing() == 0 && *unannounced == 0;
    match context.format {
        Format::Json => {
            let line = EventLine::new("summary", Timestamp::now())
                .member("equal", is_equal)
                .member("tables", tables)
                .member("rows", rows)
                .member("missing", missing)
                .member("stale", stale)
                .member("ghost", ghost)
                .member("unannounced", unannounced)
                .member("changes", changes)
                .member("rounds", compared)
                .member("inconclusive", inconclusive);
            print(&line.end())?;
        }
        Format::Text if summary.differing() > 0 => {
            let ghosts = crate::render::count(*ghost as u64, "ghost");
            context.notice(&format!("{missing} missing, {stale} stale, {ghosts}"));
        }
        Format::Text => {}
    }
    if *unproven > 0 {
        context.notice("fewer changes were followed than --min-changes asks for");
    }
    Ok(if is_equal && *unproven == 0 {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

impl Summary {
    /// Adds the rows and findings of one comparison.
    fn add(&mut self, comparison: &ComparisonReport) {
        self.rows += comparison.rows;
        self.missing += comparison.missing;
        self.stale += comparison.stale;
        self.ghost += comparison.ghosts;
    }

    /// Returns the number of rows that differ.
    fn differing(&self) -> usize {
        self.missing + self.stale + self.ghost
    }
}
