//! `pgic verify`.

use super::{Context, Signals};
use crate::causes::{self, Senders};
use crate::cli::{parse_bytes, parse_duration};
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::render::progress::Progress;
use crate::render::{Format, finding, json, print};
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::target::{Target, open};
use crate::tables::{self, estimate, explain_failure};
use crate::triggers::observe::observe;
use anyhow::anyhow;
use postgres_index_cache_core::KeyBuf;
use postgres_index_cache_core::postgres::triggers::{Problem, Severity, diagnose};
use postgres_index_cache_core::postgres::{
    ComparisonReport, Driver, DriverEvent, DriverOptions, RowChange, Verification,
};
use postgres_index_cache_core::sync::{State, TableId};
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How often a round that does not count is repeated.
const TRIES: usize = 20;
/// How many keys are remembered that notifications told of.
const HEARD: usize = 1_000_000;
/// How many rows that differ are shown as text, a table.
const SHOWN: usize = 100;
/// How long a lost connection is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// `pgic verify TABLE…`.
///
/// Is a cache that is fed by the notifications equal to the table? Loads the tables into the cache
/// that an application has, follows them for a while, then compares cache and table row by row at
/// one exact cut, while writers go on. A line for each row that is missing, stale or a ghost, with
/// the likely cause; exit code 1 when there is one. Takes a COPY of each table, and no lock that a
/// writer waits for.
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
    /// Exit with 1 when fewer changes than this were followed: with none, nothing was proven
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub min_changes: u64,
    /// What the caches may take [default: a quarter of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<usize>,
}

/// What is counted over all tables.
#[derive(Debug, Default)]
struct Summary {
    rows: usize,
    missing: usize,
    stale: usize,
    ghost: usize,
    compared: u32,
    inconclusive: u32,
    /// How many changes were followed, and the tables of which fewer came than were asked for.
    changes: u64,
    unproven: usize,
    /// The tables whose changes are not announced as they should be.
    unannounced: usize,
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
    let max_memory = args.max_memory.unwrap_or_else(estimate::default_limit);
    // What notifications miss is to be found, not mended.
    let adjust = |options: &mut DriverOptions| options.limits.watch_ddl = false;
    let describe = async |catalog: &mut Catalog<'_>| describe(context, catalog, args).await;
    let (targets, mut driver) = open(
        &server,
        max_memory,
        context.quiet,
        adjust,
        |text| context.notice(text),
        describe,
    )
    .await?;
    driver.record_row_events();
    let followed = targets.into_iter().map(|target| VerifiedTable {
        problem: worst(&target.table),
        target,
        heard: HashMap::new(),
        loaded_anew: None,
        began: Instant::now(),
    });
    let mut verifier = Verifier {
        context,
        driver,
        followed: followed.collect(),
        stale: None,
    };
    if args.rounds.is_none() {
        verifier.follow(args.follow).await?;
    }
    let mut summary = Summary::default();
    for _ in 0..args.rounds.unwrap_or(1) {
        for at in 0..verifier.followed.len() {
            let comparison = verifier.compare(at, &mut summary).await?;
            let changes = verifier.driver.engine().changes(TableId(at));
            let followed = &mut verifier.followed[at];
            let name = followed.target.name();
            if let Some(since) = followed.loaded_anew {
                let seconds = since.elapsed().as_secs_f64();
                context.notice(&format!(
                    "{name} was loaded anew {seconds:.1} s ago: a change that was lost before that \
                    does not show"
                ));
            }
            summary.add(&comparison);
            let mut client = server.client().await?;
            let catalog = catalog::reading(&mut client).await?;
            let tables = catalog::describe(&catalog, &[followed.target.table.oid]).await?;
            let table = tables.first().unwrap_or(&followed.target.table);
            let processes = comparison
                .findings
                .iter()
                .filter_map(|found| followed.heard.get(&found.key_cells)?.as_ref());
            let senders = &Senders::look(&catalog, processes.copied().collect()).await;
            // A trigger that is silent now, or was when it began, has proven nothing.
            followed.problem = followed.problem.take().or_else(|| worst(table));
            let min_changes = args.min_changes;
            let verdict = TableVerdict {
                table,
                comparison: &comparison,
                changes,
                followed,
                min_changes,
                senders,
            };
            verdict.print(context, &mut summary)?;
        }
        if summary.differing() > 0 {
            break;
        }
    }
    finish(context, verifier.followed.len(), &summary)
}

async fn describe(
    context: &Context,
    catalog: &Catalog<'_>,
    args: &Args,
) -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for table in catalog::resolve(catalog, &args.tables).await? {
        tables::check_kind(&table)?;
        // A table that is not announced is what this is for: the verdict says so.
        if let Ok(notices) = tables::check_announced(&table) {
            context.notices(&notices);
        }
        let mut target = Target::whole(table, &mut Vec::new())?;
        // A trigger that is disabled meanwhile is to be found out, not to end this.
        target.follow.announced_by = Vec::new();
        targets.push(target);
    }
    Ok(targets)
}

/// A table that is verified.
struct VerifiedTable {
    target: Target,
    /// The keys of the rows that changed, each with the server's process whose notification told of
    /// it last.
    heard: HashMap<KeyBuf, Option<i32>>,
    /// When it was loaded again, if it was: what was lost before is mended.
    loaded_anew: Option<Instant>,
    /// When it was live first.
    began: Instant,
    /// Why its changes are not announced as they should be, if they are not.
    problem: Option<Problem>,
}

/// The worst problem with what announces a table, if changes are lost by it.
fn worst(table: &CatalogTable) -> Option<Problem> {
    diagnose(table, None)
        .into_iter()
        .find(|problem| problem.severity == Severity::Critical)
}

/// What is to be said of a table that was compared.
struct TableVerdict<'a> {
    table: &'a CatalogTable,
    comparison: &'a ComparisonReport,
    /// How many changes of it were followed.
    changes: u64,
    followed: &'a VerifiedTable,
    min_changes: u64,
    senders: &'a Senders,
}

impl TableVerdict<'_> {
    fn print(&self, context: &Context, summary: &mut Summary) -> anyhow::Result<()> {
        let Self {
            table,
            comparison,
            changes,
            followed,
            min_changes,
            senders,
        } = self;
        summary.changes += changes;
        let name = followed.target.name();
        if comparison.differing() > 0 {
            report(context, table, followed, senders, comparison)?;
        }
        if let Some(problem) = &followed.problem {
            summary.unannounced += 1;
            return print(&match context.format {
                Format::Text => {
                    let text =
                        crate::render::escape::escape(&format!("unannounced  {name}  {problem}"))
                            .into_owned();
                    format!("{text}\n")
                }
                Format::Json => json::line([
                    ("event", json!("unannounced")),
                    ("schema", json!(table.schema)),
                    ("table", json!(table.name)),
                    ("problem", super::status::problem_json(problem)),
                ]),
            });
        }
        summary.unproven += usize::from(changes < min_changes);
        if comparison.differing() > 0 || context.format == Format::Json {
            return Ok(());
        }
        print(&equal(
            &name,
            comparison,
            *changes,
            followed.began.elapsed(),
        ))
    }
}

/// The line that says that a cache is its table, and what that rests on.
pub(super) fn equal(
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
    let text = format!(
        "equal    {name}  {} rows at one exact cut, {rests_on}",
        comparison.rows
    );
    format!("{}\n", crate::render::escape::escape(&text))
}

struct Verifier<'a> {
    context: &'a Context,
    driver: Driver,
    followed: Vec<VerifiedTable>,
    /// Since when it is not live, and why.
    stale: Option<(Instant, String)>,
}

impl Verifier<'_> {
    /// Follows for a while.
    async fn follow(&mut self, time: Duration) -> anyhow::Result<()> {
        let names: Vec<String> = self
            .followed
            .iter()
            .map(|followed| followed.target.name())
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

    /// Waits for something to happen, or until then. Gives up when it has not been live for long.
    async fn step(&mut self, until: Instant) -> anyhow::Result<()> {
        let give_up = self.stale.as_ref().map(|(since, _)| *since + PATIENCE);
        let until = give_up.map_or(until, |give_up| give_up.min(until));
        tokio::select! {
            stepped = self.driver.step() => stepped.map_err(explain_failure)?,
            () = tokio::time::sleep_until(until) => {}
        }
        self.hear();
        // While the tables are read again, the connection is there.
        if let (Some((since, _)), State::Snapshotting | State::Degraded | State::CatchingUp) =
            (&mut self.stale, self.driver.state())
        {
            *since = Instant::now();
        }
        match &self.stale {
            Some((since, why)) if since.elapsed() >= PATIENCE => Err(with_hint(
                anyhow!("nothing was heard for {} s: {why}", PATIENCE.as_secs()),
                "try again when the server is there",
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Says what came in the way, and remembers which rows notifications changed.
    fn hear(&mut self) {
        let told: Vec<DriverEvent> = self.driver.take_events().collect();
        for event in told {
            match event {
                DriverEvent::Row {
                    table,
                    change,
                    sender,
                } => {
                    let VerifiedTable { target, heard, .. } = &mut self.followed[table.0];
                    let (RowChange::Added(row)
                    | RowChange::Changed { new: row, .. }
                    | RowChange::Removed(row)) = change;
                    if heard.len() < HEARD {
                        heard.insert(KeyBuf::of_row(&target.shape, &row), sender);
                    }
                }
                DriverEvent::Disconnected { why, .. } if self.stale.is_none() => {
                    self.context.notice(&format!(
                        "the connection was lost ({why}); connecting again"
                    ));
                    self.stale = Some((Instant::now(), why));
                }
                DriverEvent::State(State::Live) if self.stale.take().is_some() => {
                    self.context.notice("live again: all was loaded anew");
                    self.followed
                        .iter_mut()
                        .for_each(|followed| followed.loaded_anew = Some(Instant::now()));
                }
                DriverEvent::ReadScheduled { table, why } => {
                    let followed = &mut self.followed[table.0];
                    followed.loaded_anew = Some(Instant::now());
                    let name = followed.target.name();
                    self.context.notice(&format!("{name} is read again: {why}"));
                }
                DriverEvent::CommitsBlocked => {
                    self.context.notice(
                        "commits are blocked: nothing is announced until whoever \
                        blocks them is done",
                    );
                }
                _ => {}
            }
        }
    }

    /// Compares a table, as often as it takes for the round to count.
    async fn compare(
        &mut self,
        at: usize,
        summary: &mut Summary,
    ) -> anyhow::Result<ComparisonReport> {
        let name = self.followed[at].target.name();
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
                        "a round of {name} does not count, and is repeated: {why}"
                    ));
                    last = why;
                }
            }
            // What makes a round fail takes a moment to pass.
            let until = Instant::now() + Duration::from_millis(200);
            while Instant::now() < until {
                self.step(until).await?;
            }
        }
        Err(with_hint(
            anyhow!("{name} could not be compared: {TRIES} rounds in a row did not count: {last}"),
            "try again when the table is not altered, truncated or moved; a plain-form trigger \
            needs a quiet moment",
        ))
    }
}

/// Prints the findings, with causes as the catalogue has them now.
fn report(
    context: &Context,
    table: &CatalogTable,
    followed: &VerifiedTable,
    senders: &Senders,
    comparison: &ComparisonReport,
) -> anyhow::Result<()> {
    let VerifiedTable { target, heard, .. } = followed;
    let seen = observe(table);
    let shown = if context.format == Format::Text {
        SHOWN
    } else {
        ComparisonReport::FINDINGS
    };
    let lines = comparison.findings.iter().take(shown).map(|found| {
        let sender = heard
            .get(&found.key_cells)
            .copied()
            .flatten()
            .map(|process| senders.name(process));
        let cause = causes::likely(
            table,
            seen.as_ref(),
            &target.channel,
            found,
            sender.as_deref(),
        );
        finding::finding(context.format, (&table.schema, &table.name), found, &cause)
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

fn finish(context: &Context, tables: usize, summary: &Summary) -> anyhow::Result<ExitCode> {
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
        Format::Json => print(&json::line([
            ("event", json!("summary")),
            ("equal", json!(is_equal)),
            ("tables", json!(tables)),
            ("rows", json!(rows)),
            ("missing", json!(missing)),
            ("stale", json!(stale)),
            ("ghost", json!(ghost)),
            ("unannounced", json!(unannounced)),
            ("changes", json!(changes)),
            ("rounds", json!(compared)),
            ("inconclusive", json!(inconclusive)),
        ]))?,
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
    fn add(&mut self, comparison: &ComparisonReport) {
        self.rows += comparison.rows;
        self.missing += comparison.missing;
        self.stale += comparison.stale;
        self.ghost += comparison.ghosts;
    }

    fn differing(&self) -> usize {
        self.missing + self.stale + self.ghost
    }
}
