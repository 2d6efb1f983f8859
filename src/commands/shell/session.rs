//! [`Session`]: the tables that are followed, and the answers to lines.

use super::super::Context;
use super::super::query::sort_by_key;
use super::super::verify::verdict_json;
use super::Args;
use super::answer::{Answer, Reply};
use super::changes::{Watched, column_types};
use super::guide::{Completions, TableWords};
use super::line::{Line, Name, Wanted};
use super::live::LiveCaches;
use super::notices::Notices;
use super::overview;
use super::prompt_state::PromptState;
use crate::causes::{self, LastHeard, Senders};
use crate::commands::nodes::{roster_json, roster_text};
use crate::connect::Server;
use crate::failure::{lost_session, with_hint};
use crate::fleet::Fleet;
use crate::fleet::node::Roster;
use crate::render::Format;
use crate::render::escape::escape;
use crate::render::finding::finding;
use crate::render::json::EventLine;
use crate::render::layout::Layout;
use crate::render::look::Look;
use crate::render::rows::{row_events, rows};
use crate::tables;
use crate::tables::catalog::{self, Catalog, CatalogTable};
use crate::tables::conditions::{self, Conditions, Written};
use crate::tables::key;
use crate::tables::nearest::nearest;
use crate::tables::supervised::{AnnouncedTargets, open};
use crate::tables::target::Target;
use crate::tables::written_by::writers;
use crate::triggers::observe::observe;
use anyhow::{Context as _, anyhow};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::{ComparisonReport, Finding, Verification};
use postgres_index_cache_core::tooling::{Condition, QueryResult, TableCache};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Client;

/// The most rows that an answer shows, until `.limit` says otherwise.
const LIMIT: usize = 1000;

/// How long `.nodes` waits for nodes that do not answer.
const NODES_PATIENCE: Duration = Duration::from_secs(2);

/// How long a question waits for a session of the server. After that it is answered from what is
/// there.
const REOPENING: Duration = Duration::from_secs(1);

/// How long the values of conditions may take to be computed while the table is live.
const EVALUATING: Duration = Duration::from_secs(10);

/// The tables that are followed.
pub(super) struct Session {
    server: Server,
    /// The session of the server that describes tables and computes the values of conditions.
    /// Opened again when needed, if lost.
    client: Client,
    live: LiveCaches,
    /// The columns of each table at the start, with their values where those are few and known.
    columns: Vec<Vec<(String, Vec<String>)>>,
    /// The most rows that an answer shows.
    limit: usize,
    format: Format,
    layout: Layout,
    look: Look,
    quiet: bool,
}

/// A question about a table, ready to be answered from the cache.
struct Question {
    /// The place of the table in the driver.
    at: usize,
    /// The conditions, with values of the types that the columns have now.
    asked: Conditions,
    /// Texts about the conditions, for stderr.
    notices: Vec<String>,
}

impl Session {
    /// Finds the tables, loads them, and waits until they are live.
    ///
    /// # Errors
    /// If a table is refused, or the server cannot be used.
    pub(super) async fn open(context: &Context, args: &Args) -> anyhow::Result<Self> {
        let server = context.server("shell")?;
        let bounds = args.bounds.bounds();
        let mut client = server.client().await?;
        let catalog = catalog::reading(&mut client).await?;
        let mut targets = Vec::new();
        let mut notices = Vec::new();
        for table in catalog::resolve(&catalog, &args.tables).await? {
            targets.push(Target::announced(table, &mut notices)?);
        }
        let mut columns = Vec::new();
        for target in &targets {
            columns.push(known_columns(&catalog, target).await);
        }
        context.notices(&notices);
        let supervisor = open(
            &server,
            catalog,
            targets,
            AnnouncedTargets,
            bounds,
            context.quiet,
            |text| context.notice(text),
        )
        .await?;
        Ok(Self {
            server,
            client,
            columns,
            live: LiveCaches::new(supervisor, context.format, &context.look),
            limit: LIMIT,
            format: context.format,
            layout: context.layout,
            look: context.look.clone(),
            quiet: context.quiet,
        })
    }

    /// Returns the server that the shell is connected to.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Returns where the shell is connected, escaped.
    pub(super) fn place(&self) -> String {
        match self.server.place() {
            Some(place) => escape(&place.to_string()).into_owned(),
            None => escape(&self.server.to_string()).into_owned(),
        }
    }

    /// Returns the words that a prompt completes, and the state that is shown. Names are those of
    /// the start, also for a table that is altered later.
    pub(super) fn guide(&self) -> Arc<Completions> {
        let targets = self.live.targets().zip(&self.columns);
        let tables = targets.map(|(target, columns)| {
            let CatalogTable { name, .. } = &target.table;
            let others = self.live.targets().map(|other| &other.table.name);
            let of_this_name = others.filter(|other| *other == name).count();
            TableWords::new(&target.table, columns, of_this_name > 1)
        });
        Arc::new(Completions {
            status: self.live.status(),
            tables: tables.collect(),
            color: self.look.color,
        })
    }

    /// Sends notices and watched changes to `notices` from now on.
    pub(super) fn say_through(&mut self, notices: Notices) {
        self.live.say_through(notices);
    }

    /// Keeps the caches live, and never ends.
    pub(super) async fn idle(&mut self) {
        self.live.idle().await;
    }

    /// Answers a line. May be dropped at any point, when the line is given up with Ctrl-C.
    pub(super) async fn answer(&mut self, text: &str) -> Reply {
        let line = match Line::parse(text) {
            Ok(None) => return Reply::default(),
            Ok(Some(line)) => line,
            Err(error) => return self.reply(text, Err(error)),
        };
        let is_last = line == Line::Quit;
        let answer = self.execute(line).await;
        Reply {
            is_last,
            ..self.reply(text, answer)
        }
    }

    /// Returns the reply to a line that was given up.
    pub(super) fn cancelled(&self, text: &str) -> Reply {
        self.reply(text, Err(anyhow!("cancelled")))
    }

    fn reply(&self, text: &str, answer: anyhow::Result<Answer>) -> Reply {
        // An answer about one table has the state of that table: that another one is stale is no
        // reason to doubt it.
        let at = answer.as_ref().ok().and_then(|answer| answer.at);
        let state = at.map_or_else(|| self.live.status().get(), |at| self.live.state(at));
        Reply::new(text, answer, state, self.format, self.quiet)
    }

    async fn execute(&mut self, line: Line) -> anyhow::Result<Answer> {
        match line {
            Line::Rows(wanted) => {
                let written = self.written(&wanted)?;
                let question = self.ask(&wanted.table, &written).await?;
                self.rows(question)
            }
            Line::Count(wanted) => {
                let written = self.written(&wanted)?;
                let question = self.ask(&wanted.table, &written).await?;
                self.count(question)
            }
            Line::Tables => {
                self.live.fence(None).await;
                Ok(overview::tables(&self.live, self.format))
            }
            Line::Stats => {
                self.live.fence(None).await;
                Ok(overview::stats(&self.live, self.format))
            }
            Line::Watches => {
                let watched = self.live.changes.watched();
                Ok(overview::watches(&self.live, watched, self.format))
            }
            Line::WatchOff => {
                let count = self.live.changes.stop_watching();
                let nothing = (count == 0).then(|| "nothing was watched".to_string());
                Ok(Answer {
                    notices: nothing.into_iter().collect(),
                    ..Answer::default()
                })
            }
            Line::Watch(wanted) => {
                let written = self.written(&wanted)?;
                let Question { at, asked, notices } = self.ask(&wanted.table, &written).await?;
                let target = self.live.target(at);
                let watched = Watched {
                    table: at,
                    conditions: asked.clone().conditions(&target.shape)?,
                    types: column_types(&target.table, &asked),
                    asked,
                    written,
                };
                self.live.changes.watch(watched);
                Ok(Answer {
                    notices,
                    ..Answer::default()
                })
            }
            Line::History(wanted) => self.history(&wanted).await,
            Line::Verify(table) => self.verify(&table).await,
            Line::Nodes => self.nodes().await,
            Line::Reconnect => {
                self.live.reconnect().await?;
                Ok(overview::tables(&self.live, self.format))
            }
            Line::Limit(limit) => {
                self.limit = limit.unwrap_or(self.limit);
                let text = match self.format {
                    Format::Text => format!("{}\n", self.limit),
                    Format::Json => event("limit").member("limit", self.limit).end(),
                };
                Ok(Answer {
                    text,
                    rows: 1,
                    ..Answer::default()
                })
            }
            Line::Help => Ok(overview::help(self.format)),
            Line::Quit => Ok(Answer::default()),
        }
    }

    /// Returns the conditions of a line, those of the key first.
    ///
    /// # Errors
    /// If the table is not one of the shell's, or its key has more or fewer columns.
    fn written(&self, wanted: &Wanted) -> anyhow::Result<Vec<Written>> {
        let mut written = Vec::new();
        if let Some(key) = &wanted.key {
            let Target { table, shape, .. } = self.live.target(self.position(&wanted.table)?);
            let names = shape.key().iter();
            let names: Vec<String> = names
                .map(|column| shape.columns()[*column].name.clone())
                .collect();
            written = key::conditions(&names, key).with_context(|| {
                format!(
                    "find the row of {} with the key {key}",
                    table.display_name()
                )
            })?;
        }
        written.extend(wanted.conditions.iter().cloned());
        Ok(written)
    }

    /// Finds the table, computes the conditions, and waits for the fence that makes the cache fit
    /// to answer.
    ///
    /// # Errors
    /// If the table is not one of the shell's, or a condition is refused or cannot be computed.
    async fn ask(&mut self, table: &Name, written: &[Written]) -> anyhow::Result<Question> {
        let at = self.position(table)?;
        let Self {
            server,
            client,
            live,
            columns,
            ..
        } = self;
        let labels = columns[at].as_slice();
        // The table may be altered while we wait: 1. The value of `id=5` is computed for a column
        // of type integer. 2. The column becomes text, and the table is reloaded. 3. The integer 5
        // would be compared with texts, and fit none. So compute the conditions again whenever the
        // table was redefined meanwhile.
        loop {
            let definition = live.times_redefined(at);
            let table = live.target(at).table.clone();
            // Without conditions the server need not be there: the rows of a stale cache can be
            // shown.
            let asked = if written.is_empty() {
                Conditions::default()
            } else if !reopen(server, client, live).await {
                conditions::evaluate_offline(&table, written, labels)?
            } else {
                // A server that is there and says nothing is away as well.
                let patience = match live.state(at) {
                    PromptState::Stale => REOPENING,
                    PromptState::Live | PromptState::Loading => EVALUATING,
                };
                let evaluating = live.alongside(evaluate(client, &table, written));
                match tokio::time::timeout(patience, evaluating).await {
                    Err(_) => conditions::evaluate_offline(&table, written, labels)?,
                    Ok(Ok(asked)) => asked,
                    // The server went away just now. The reason arrives before the connection ends.
                    Ok(Err(error)) if client.is_closed() || lost_session(&error) => continue,
                    // A value that is refused may be right for the type that the column has by now,
                    // of which the session does not know yet. The fence comes behind that news.
                    Ok(Err(error)) => {
                        live.fence(Some(at)).await;
                        if live.times_redefined(at) == definition {
                            return Err(error);
                        }
                        continue;
                    }
                }
            };
            // A column that the trigger does not send is not in the cache.
            for column in &table.columns {
                if asked.names(&column.name) {
                    tables::check_sent(&table, observe(&table).as_ref(), &column.name)?;
                }
            }
            live.fence(Some(at)).await;
            if live.times_redefined(at) == definition {
                let notices = asked.notices().collect();
                return Ok(Question { at, asked, notices });
            }
        }
    }

    /// Asks every node who it is, while the caches are kept live.
    ///
    /// # Errors
    /// If the nodes cannot be asked.
    async fn nodes(&mut self) -> anyhow::Result<Answer> {
        let server = &self.server;
        let asking = async {
            let mut fleet = Fleet::open(server).await?;
            Roster::call(&mut fleet, NODES_PATIENCE).await
        };
        let roster = self.live.alongside(asking).await?;
        let text = match self.format {
            Format::Text => roster_text(&self.look, &roster),
            Format::Json => roster_json(&roster),
        };
        Ok(Answer {
            text,
            rows: roster.nodes.len(),
            ..Answer::default()
        })
    }

    /// Returns the place of the table that a name means.
    ///
    /// # Errors
    /// If no table of the shell has the name, or several have it in different schemas.
    fn position(&self, name: &Name) -> anyhow::Result<usize> {
        let found: Vec<usize> = self
            .live
            .targets()
            .enumerate()
            .filter(|(_, target)| name.means(&target.table))
            .map(|(at, _)| at)
            .collect();
        let names: Vec<String> = self.live.targets().map(Target::name).collect();
        match found[..] {
            [at] => Ok(at),
            [] => {
                let known = self.live.targets().map(|target| target.table.name.as_str());
                let meant = match nearest(&name.name, known) {
                    Some(near) => format!("{near} may be meant; "),
                    None => String::new(),
                };
                Err(with_hint(
                    anyhow!("{} is not followed here", name.name),
                    format!(
                        "{meant}followed are {}; see .help for what can be asked",
                        names.join(", ")
                    ),
                ))
            }
            _ => Err(with_hint(
                anyhow!("{} may be one of several tables", name.name),
                format!("say which: {}", names.join(", ")),
            )),
        }
    }

    /// Answers with the rows that fulfil the conditions, at most as many as `.limit` says.
    fn rows(&mut self, question: Question) -> anyhow::Result<Answer> {
        let Question {
            at,
            asked,
            mut notices,
        } = question;
        let Target {
            table,
            shape,
            shown,
            ..
        } = self.live.target(at);
        let conditions = asked.conditions(shape)?;
        let cache = self.live.indexed_cache(at, &conditions);
        let mut answer = found(&cache, &conditions);
        sort_by_key(&mut answer.rows, cache.shape());
        let count = answer.rows.len();
        // A prompt that prints a million rows by mistake is of no use, and `.limit` is quickly
        // typed.
        if count > self.limit {
            notices.push(format!(
                "{} more rows match; .limit {} cut them off",
                count - self.limit,
                self.limit
            ));
        }
        let found = answer.rows.iter().take(self.limit);
        let text = match self.format {
            Format::Text => rows(self.format, self.layout, &self.look, shape, shown, found),
            Format::Json => {
                let table = (table.schema.as_str(), table.name.as_str());
                row_events(Timestamp::now(), table, shape, shown, found)
            }
        };
        Ok(Answer {
            text,
            rows: count.min(self.limit),
            is_rows: true,
            at: Some(at),
            notices,
        })
    }

    /// Answers with the number of rows that fulfil the conditions. `.limit` has no effect here.
    fn count(&mut self, question: Question) -> anyhow::Result<Answer> {
        let Question { at, asked, notices } = question;
        let conditions = asked.conditions(&self.live.target(at).shape)?;
        let cache = self.live.indexed_cache(at, &conditions);
        let count = found(&cache, &conditions).rows.len();
        let text = match self.format {
            Format::Text => format!("{count}\n"),
            Format::Json => event("count")
                .of(self.live.target(at).names())
                .member("count", count)
                .end(),
        };
        Ok(Answer {
            text,
            rows: 1,
            at: Some(at),
            notices,
            ..Answer::default()
        })
    }

    /// Answers with the changes of the rows that have the key, or fulfil the conditions.
    async fn history(&mut self, wanted: &Wanted) -> anyhow::Result<Answer> {
        let written = self.written(wanted)?;
        let Question {
            at,
            asked,
            mut notices,
        } = self.ask(&wanted.table, &written).await?;
        let conditions = asked.conditions(&self.live.target(at).shape)?;
        let history = self.live.changes.history(at, &conditions);
        // Whoever looks for a change must know that it may have been there.
        if history.forgotten > 0 {
            notices.push(format!(
                "the oldest {} changes of all tables are not kept any more",
                history.forgotten
            ));
        }
        if history.count == 0 {
            notices.push("nothing has changed since the shell began".to_string());
        }
        Ok(Answer {
            text: history.text,
            rows: history.count,
            at: Some(at),
            notices,
            ..Answer::default()
        })
    }

    /// Answers with the rows that differ between the cache and its table, or with the verdict that
    /// both are equal.
    async fn verify(&mut self, table: &Name) -> anyhow::Result<Answer> {
        let at = self.position(table)?;
        // Other than `pgic verify`, a person can ask again: nothing is retried.
        let comparison = match self.live.verify(at).await? {
            Verification::Compared(comparison) => comparison,
            Verification::Inconclusive(why) => {
                return Err(with_hint(
                    anyhow!("the comparison is inconclusive: {why}"),
                    "ask again",
                ));
            }
        };
        let mut text = String::new();
        if comparison.differing() > 0 {
            text = self.findings(at, &comparison).await?;
        }
        let changes = self.live.changes_of(at);
        match self.format {
            Format::Json => {
                let names = self.live.target(at).names();
                let time = self.live.began().elapsed();
                text.push_str(&verdict_json(names, &comparison, changes, time, None));
            }
            Format::Text if comparison.differing() == 0 => {
                let name = self.live.target(at).name();
                let time = self.live.began().elapsed();
                text = super::super::verify::equal(&self.look, &name, &comparison, changes, time);
            }
            Format::Text => {}
        }
        let more = comparison.differing() - comparison.findings.len();
        let notices = (more > 0)
            .then(|| format!("{more} more rows differ"))
            .into_iter()
            .collect();
        Ok(Answer {
            text,
            rows: comparison.differing(),
            at: Some(at),
            notices,
            ..Answer::default()
        })
    }

    /// Returns the rows that differ as lines, with their likely causes.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    async fn findings(
        &mut self,
        at: usize,
        comparison: &ComparisonReport,
    ) -> anyhow::Result<String> {
        let Self {
            server,
            client,
            live,
            ..
        } = self;
        let target = live.target(at).clone();
        if client.is_closed() {
            *client = live.alongside(server.client()).await?;
        }
        let was_heard = |found: &Finding| live.changes.last_heard(at, &found.key_cells);
        let findings = comparison.findings.iter();
        let processes = findings
            .clone()
            .filter_map(|found| Some(was_heard(found)?.sender))
            .collect();
        let keys: Vec<String> = findings
            .filter(|found| was_heard(found).is_some())
            .map(|found| found.key.clone())
            .collect();
        let described = live
            .alongside(describe(client, &target, processes, keys))
            .await?;
        // A table that has just been dropped is shown as it was.
        let table = described.table.as_ref().unwrap_or(&target.table);
        let seen = observe(table);
        let mut text = String::new();
        for found in &comparison.findings {
            // The notification of a row's last change is known only while that change is kept.
            let heard = live.changes.last_heard(at, &found.key_cells);
            let heard = heard
                .map(|heard| LastHeard::of(heard, found, &described.senders, &described.writers));
            let cause = causes::likely(
                table,
                seen.as_ref(),
                &target.channel,
                found.kind,
                &found.columns,
                heard.as_ref(),
            );
            let names = (table.schema.as_str(), table.name.as_str());
            let at = Timestamp::now();
            text.push_str(&finding(self.format, &self.look, at, names, found, &cause));
        }
        Ok(text)
    }
}

/// Begins an event of JSON.
fn event(event: &str) -> EventLine {
    EventLine::new(event, Timestamp::now())
}

/// Returns the rows that fulfil the conditions. The trace (`-v`) says how they were found.
fn found<'a>(cache: &'a TableCache, conditions: &[Condition]) -> QueryResult<'a> {
    let answer = cache.find(conditions);
    tracing::debug!(access = ?answer.access, looked_at = answer.looked_at, "found");
    answer
}

/// A table and sessions of the server, as the catalogue has them now.
struct Described {
    /// `None` if the table is gone.
    table: Option<CatalogTable>,
    senders: Senders,
    /// By the keys of rows, as JSON, the transactions that wrote them.
    writers: HashMap<String, u32>,
}

/// Describes a table as it is now, and looks up processes of the server, and who wrote the rows with
/// these keys.
async fn describe(
    client: &mut Client,
    target: &Target,
    processes: HashSet<i32>,
    keys: Vec<String>,
) -> anyhow::Result<Described> {
    let catalog = catalog::reading(client).await?;
    let oid = target.table.oid;
    Ok(Described {
        table: catalog::describe(&catalog, &[oid]).await?.pop(),
        senders: Senders::look(&catalog, processes).await,
        writers: writers(&catalog, target, keys.iter().map(String::as_str)).await,
    })
}

/// Opens the session of the shell's own again if it was lost. Returns whether there is one: without
/// a server, or if it refuses or does not answer soon, there is none.
async fn reopen(server: &Server, client: &mut Client, live: &mut LiveCaches) -> bool {
    if !client.is_closed() {
        return true;
    }
    let opening = tokio::time::timeout(REOPENING, server.client());
    match live.alongside(opening).await {
        Ok(Ok(opened)) => {
            *client = opened;
            true
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "there is no session");
            false
        }
        Err(_) => false,
    }
}

/// Returns the columns of a table, with their values where those are few and known, for a prompt.
async fn known_columns(catalog: &Catalog<'_>, target: &Target) -> Vec<(String, Vec<String>)> {
    let mut columns = Vec::new();
    for column in &target.table.columns {
        if target.shape.position(&column.name).is_some() {
            let values = conditions::known_values(catalog, column).await;
            columns.push((column.name.clone(), values));
        }
    }
    columns
}

/// Computes the values of conditions for the columns of a table.
async fn evaluate(
    client: &mut Client,
    table: &CatalogTable,
    written: &[Written],
) -> anyhow::Result<Conditions> {
    let mut catalog = catalog::reading(client).await?;
    conditions::evaluate(&mut catalog, table, written).await
}
