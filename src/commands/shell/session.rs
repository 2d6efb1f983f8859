//! [`Session`]: the tables that are followed, and the answers to lines.

use super::super::Context;
use super::Args;
use super::input::Completions;
use super::line::{COMMANDS, Line, Name};
use super::live::{LiveCaches, PromptState};
use super::notices::Notices;
use crate::causes::{self, Senders};
use crate::connect::Server;
use crate::failure::{self, with_hint};
use crate::render::Format;
use crate::render::escape::escape;
use crate::render::finding::finding;
use crate::render::json;
use crate::render::rows::{row_events, rows};
use crate::render::table::{Heading, render};
use crate::tables::catalog::{self, CatalogTable};
use crate::tables::conditions::{self, Conditions, Written};
use crate::tables::supervised::{AnnouncedTargets, open};
use crate::tables::target::Target;
use crate::tables::{self, estimate};
use crate::triggers::observe::observe;
use anyhow::anyhow;
use postgres_index_cache_core::postgres::Verification;
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use tokio_postgres::Client;

/// How many rows an answer shows, until `.limit` says otherwise.
const LIMIT: usize = 1000;

/// What is printed for a line.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// For stdout.
    pub(super) answer: String,
    /// For stderr, in lines.
    pub(super) beside: String,
    pub(super) is_failure: bool,
    pub(super) is_last: bool,
}

/// An answer before it is laid out.
#[derive(Debug, Default)]
struct Data {
    text: String,
    rows: usize,
    /// Whether `text` is rows of a table, which a count follows.
    is_rows: bool,
    /// The table that it is about, if it is about one: how that stands counts.
    at: Option<usize>,
    notices: Vec<String>,
}

/// The tables that are followed.
pub(super) struct Session {
    server: Server,
    /// Computes the values of conditions.
    client: Client,
    live: LiveCaches,
    limit: usize,
    format: Format,
    color: bool,
    quiet: bool,
}

impl Session {
    /// Finds the tables, loads them, and waits until they are live.
    pub(super) async fn open(context: &Context, args: &Args) -> anyhow::Result<Self> {
        let server = context.server("shell")?;
        let max_memory = args.max_memory.unwrap_or_else(estimate::default_limit);
        let mut client = server.client().await?;
        let catalog = catalog::reading(&mut client).await?;
        let mut targets = Vec::new();
        let mut notices = Vec::new();
        for table in catalog::resolve(&catalog, &args.tables).await? {
            targets.push(Target::announced(table, &mut notices)?);
        }
        context.notices(&notices);
        let say = |text: &str| context.notice(text);
        let supervisor = open(
            &server,
            catalog,
            targets,
            AnnouncedTargets,
            max_memory,
            context.quiet,
            say,
        )
        .await?;
        Ok(Self {
            server,
            client,
            live: LiveCaches::new(supervisor, context.format),
            limit: LIMIT,
            format: context.format,
            color: context.color,
            quiet: context.quiet,
        })
    }

    /// What a prompt needs.
    pub(super) fn guide(&self) -> Arc<Completions> {
        let quoted = |name: &str| {
            let is_plain = name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_plain {
                name.to_string()
            } else {
                format!("\"{}\"", name.replace('"', "\"\""))
            }
        };
        let tables = self.live.targets().map(|target| {
            let CatalogTable { schema, name, .. } = &target.table;
            let is_alone = self
                .live
                .targets()
                .filter(|other| other.table.name == *name)
                .count()
                == 1;
            let table = if is_alone {
                quoted(name)
            } else {
                format!("{}.{}", quoted(schema), quoted(name))
            };
            let columns = target
                .shape
                .columns()
                .iter()
                .map(|column| quoted(&column.name))
                .collect();
            (table, columns)
        });
        Arc::new(Completions {
            standing: self.live.standing(),
            tables: tables.collect(),
            color: self.color,
        })
    }

    /// Where to say what happens while nobody asks.
    pub(super) fn say_through(&mut self, notices: Notices) {
        self.live.say_through(notices);
    }

    /// Keeps the caches live, and never ends.
    pub(super) async fn idle(&mut self) {
        self.live.idle().await;
    }

    /// Answers a line.
    pub(super) async fn answer(&mut self, text: &str) -> Reply {
        let line = match Line::parse(text) {
            Ok(None) => return Reply::default(),
            Ok(Some(line)) => line,
            Err(error) => return self.reply(text, Err(error)),
        };
        let is_last = line == Line::Quit;
        let data = self.execute(line).await;
        Reply {
            is_last,
            ..self.reply(text, data)
        }
    }

    /// The reply to a line that was given up.
    pub(super) fn cancelled(&self, text: &str) -> Reply {
        self.reply(text, Err(anyhow!("cancelled")))
    }

    async fn execute(&mut self, line: Line) -> anyhow::Result<Data> {
        match line {
            Line::Rows { table, conditions } => {
                let (at, asked, notices) = self.ask(&table, &conditions).await?;
                self.rows(at, asked, notices)
            }
            Line::Count { table, conditions } => {
                let (at, asked, notices) = self.ask(&table, &conditions).await?;
                let conditions = asked.conditions(&self.live.target(at).shape)?;
                let count = self.live.cache(at).find(&conditions).rows.len();
                let text = match self.format {
                    Format::Text => format!("{count}\n"),
                    Format::Json => json::line([("count", json!(count))]),
                };
                Ok(Data {
                    text,
                    rows: 1,
                    at: Some(at),
                    notices,
                    ..Data::default()
                })
            }
            Line::Tables => {
                self.live.fence(None).await;
                Ok(self.tables())
            }
            Line::Stats => {
                self.live.fence(None).await;
                Ok(self.stats())
            }
            Line::Watch(None) => {
                let count = self.live.changes.stop_watching();
                let notices = if count == 0 {
                    vec!["nothing was watched".to_string()]
                } else {
                    Vec::new()
                };
                Ok(Data {
                    notices,
                    ..Data::default()
                })
            }
            Line::Watch(Some((table, conditions))) => {
                let (at, asked, notices) = self.ask(&table, &conditions).await?;
                self.live
                    .changes
                    .watch(at, asked.conditions(&self.live.target(at).shape)?);
                Ok(Data {
                    notices,
                    ..Data::default()
                })
            }
            Line::History {
                table,
                key,
                conditions,
            } => self.history(&table, key, conditions).await,
            Line::Verify(table) => self.verify(&table).await,
            Line::Reconnect => {
                self.live.reconnect().await?;
                Ok(self.tables())
            }
            Line::Limit(limit) => {
                self.limit = limit.unwrap_or(self.limit);
                let text = match self.format {
                    Format::Text => format!("{}\n", self.limit),
                    Format::Json => json::line([("limit", json!(self.limit))]),
                };
                Ok(Data {
                    text,
                    rows: 1,
                    ..Data::default()
                })
            }
            Line::Help => Ok(self.help()),
            Line::Quit => Ok(Data::default()),
        }
    }

    async fn history(
        &mut self,
        table: &Name,
        key: Option<String>,
        mut written: Vec<Written>,
    ) -> anyhow::Result<Data> {
        if let Some(key) = key {
            let Target { table, shape, .. } = self.live.target(self.position(table)?);
            let &[column] = shape.key() else {
                let hint = "name its columns: .history TABLE COLUMN=VALUE…";
                return Err(with_hint(
                    anyhow!("the key of {} has several columns", table.display_name()),
                    hint,
                ));
            };
            written = vec![Written::equals(&shape.columns()[column].name, key)];
        }
        let (at, asked, mut notices) = self.ask(table, &written).await?;
        let conditions = asked.conditions(&self.live.target(at).shape)?;
        let (text, rows, forgotten) = self.live.changes.history(at, &conditions);
        if forgotten > 0 {
            notices.push(format!(
                "the oldest {forgotten} changes of all tables are not kept any more"
            ));
        }
        if rows == 0 {
            notices.push("nothing has changed since the shell began".to_string());
        }
        Ok(Data {
            text,
            rows,
            at: Some(at),
            notices,
            ..Data::default()
        })
    }

    async fn verify(&mut self, table: &Name) -> anyhow::Result<Data> {
        let at = self.position(table)?;
        let comparison = match self.live.verify(at).await? {
            Verification::Compared(comparison) => comparison,
            Verification::Inconclusive(why) => {
                return Err(with_hint(
                    anyhow!("the comparison does not count: {why}"),
                    "ask again",
                ));
            }
        };
        let Self {
            server,
            client,
            live,
            ..
        } = self;
        let target = live.target(at).clone();
        let mut text = String::new();
        if comparison.differing() > 0 {
            if client.is_closed() {
                *client = live.alongside(server.client()).await?;
            }
            let processes = comparison
                .findings
                .iter()
                .filter_map(|found| live.changes.sender(at, &found.key_cells))
                .collect();
            let (tables, senders) = live
                .alongside(describe(client, target.table.oid, processes))
                .await?;
            let table = tables.first().unwrap_or(&target.table);
            let seen = observe(table);
            for found in &comparison.findings {
                // What was heard of the row is what its history has.
                let sender = live
                    .changes
                    .sender(at, &found.key_cells)
                    .map(|process| senders.name(process));
                let cause = causes::likely(
                    table,
                    seen.as_ref(),
                    &target.channel,
                    found,
                    sender.as_deref(),
                );
                text.push_str(&finding(
                    self.format,
                    (&table.schema, &table.name),
                    found,
                    &cause,
                ));
            }
        }
        let changes = self.live.changes_of(at);
        let began = self.live.began();
        let more = comparison.differing() - comparison.findings.len();
        let notices = (more > 0)
            .then(|| format!("{more} more rows differ"))
            .into_iter()
            .collect();
        let text = match self.format {
            Format::Json => {
                text + &json::line([
                    ("event", json!("summary")),
                    ("equal", json!(comparison.differing() == 0)),
                    ("rows", json!(comparison.rows)),
                    ("missing", json!(comparison.missing)),
                    ("stale", json!(comparison.stale)),
                    ("ghost", json!(comparison.ghosts)),
                    ("differing", json!(comparison.differing())),
                    ("changes", json!(changes)),
                ])
            }
            Format::Text if comparison.differing() == 0 => {
                super::super::verify::equal(&target.name(), &comparison, changes, began.elapsed())
            }
            Format::Text => text,
        };
        Ok(Data {
            text,
            rows: comparison.differing(),
            at: Some(at),
            notices,
            ..Data::default()
        })
    }

    /// Finds the table, computes the conditions, and catches up.
    async fn ask(
        &mut self,
        table: &Name,
        written: &[Written],
    ) -> anyhow::Result<(usize, Conditions, Vec<String>)> {
        let at = self.position(table)?;
        let Self {
            server,
            client,
            live,
            ..
        } = self;
        loop {
            let of = live.times_anew(at);
            let table = live.target(at).table.clone();
            // Without conditions the server need not be there: what a stale cache has can be shown.
            let asked = if written.is_empty() {
                Conditions::default()
            } else {
                if client.is_closed() {
                    *client = live.alongside(server.client()).await?;
                }
                match live.alongside(evaluate(client, &table, written)).await {
                    Ok(asked) => asked,
                    // A value that the column does not take may be one for what the column has
                    // become.
                    Err(error) => {
                        live.fence(Some(at)).await;
                        if live.times_anew(at) == of {
                            return Err(error);
                        }
                        continue;
                    }
                }
            };
            for column in table
                .columns
                .iter()
                .filter(|column| asked.names(&column.name))
            {
                tables::check_sent(&table, observe(&table).as_ref(), &column.name)?;
            }
            live.fence(Some(at)).await;
            // What was computed for a table that was altered meanwhile may be of another type.
            if live.times_anew(at) == of {
                let notices = asked.notices(&table).collect();
                return Ok((at, asked, notices));
            }
        }
    }

    fn position(&self, name: &Name) -> anyhow::Result<usize> {
        let is_meant = |target: &&Target| {
            let CatalogTable {
                schema, name: own, ..
            } = &target.table;
            *own == name.name && name.schema.as_ref().is_none_or(|wanted| wanted == schema)
        };
        let names = || {
            let names: Vec<String> = self.live.targets().map(Target::name).collect();
            names.join(", ")
        };
        match self.live.targets().filter(is_meant).count() {
            0 => Err(with_hint(
                anyhow!("{} is not followed here", name.name),
                format!("followed are {}; see .help for what can be asked", names()),
            )),
            1 => Ok(self
                .live
                .targets()
                .position(|target| is_meant(&target))
                .unwrap_or_default()),
            _ => Err(with_hint(
                anyhow!("{} may be one of several tables", name.name),
                format!("say which: {}", names()),
            )),
        }
    }

    fn rows(
        &mut self,
        at: usize,
        asked: Conditions,
        mut notices: Vec<String>,
    ) -> anyhow::Result<Data> {
        let Target {
            table,
            shape,
            shown,
            ..
        } = self.live.target(at);
        let conditions = asked.conditions(shape)?;
        let cache = self.live.cache(at);
        let answer = cache.find(&conditions);
        let count = answer.rows.len();
        if count > self.limit {
            notices.push(format!(
                "{} more rows match; .limit {} cut them off",
                count - self.limit,
                self.limit
            ));
        }
        let found = answer.rows.iter().take(self.limit);
        let text = match self.format {
            Format::Text => rows(self.format, shape, shown, found),
            Format::Json => row_events((&table.schema, &table.name), shape, shown, found),
        };
        Ok(Data {
            text,
            rows: count.min(self.limit),
            is_rows: true,
            at: Some(at),
            notices,
        })
    }

    fn tables(&self) -> Data {
        let memory = |at: usize| self.live.cache(at).memory_bytes();
        let count = |at: usize| self.live.cache(at).len();
        let columns = |target: &Target| -> Vec<String> {
            target
                .shown
                .iter()
                .map(|&column| target.shape.columns()[column].name.clone())
                .collect()
        };
        let numbered = self.live.targets().enumerate();
        let text = match self.format {
            Format::Text => {
                let headings = [
                    Heading::text("table"),
                    Heading::number("rows"),
                    Heading::number("memory"),
                    Heading::text("channel"),
                    Heading::text("columns"),
                ];
                let row = |(at, target): (usize, &Target)| {
                    vec![
                        target.name(),
                        count(at).to_string(),
                        estimate::human(memory(at)),
                        target.channel.clone(),
                        columns(target).join(","),
                    ]
                };
                render(&headings, numbered.map(row))
            }
            Format::Json => numbered
                .map(|(at, target)| {
                    let CatalogTable { schema, name, .. } = &target.table;
                    json::line([
                        ("schema", json!(schema)),
                        ("table", json!(name)),
                        ("rows", json!(count(at))),
                        ("memory_bytes", json!(memory(at))),
                        ("channel", json!(target.channel)),
                        ("columns", json!(columns(target))),
                    ])
                })
                .collect(),
        };
        Data {
            text,
            rows: self.live.targets().len(),
            ..Data::default()
        }
    }

    fn stats(&self) -> Data {
        let driver = self.live.driver();
        let counters = driver.engine().counters();
        let mut total = 0;
        let mut bytes = 0;
        for at in 0..self.live.targets().len() {
            let cache = self.live.cache(at);
            total += cache.len();
            bytes += cache.memory_bytes();
        }
        let counted = [
            ("rows", total as u64),
            ("memory_bytes", bytes as u64),
            ("received", counters.received),
            ("applied", counters.applied),
            ("skipped", counters.skipped),
            ("other_tables", counters.other_tables),
            ("invalid", counters.invalid),
            ("plain", counters.plain),
            ("collapsed", counters.collapsed),
            ("refetched", counters.refetched),
            ("reloads", counters.reloads),
            ("gaps", counters.gaps),
            ("reopened", counters.reopened),
        ];
        let lag_ms = driver
            .engine()
            .lag()
            .map(|lag| (lag.as_secs_f64() * 1e6).round() / 1e3);
        let state = self.live.standing().get().as_str();
        let text = match self.format {
            Format::Text => {
                let why = self
                    .live
                    .any_failure()
                    .map(|why| vec!["why".to_string(), why]);
                let counted = counted.iter().map(|(name, count)| {
                    let value = if *name == "memory_bytes" {
                        estimate::human(bytes)
                    } else {
                        count.to_string()
                    };
                    vec![
                        name.strip_suffix("_bytes")
                            .unwrap_or(name)
                            .replace('_', " "),
                        value,
                    ]
                });
                let state = vec!["state".to_string(), state.to_string()];
                let lag = lag_ms.map(|lag| vec!["lag".to_string(), format!("{lag} ms")]);
                let lines = std::iter::once(state).chain(why).chain(lag).chain(counted);
                render(&[Heading::text(""), Heading::text("")], lines)
                    .trim_start()
                    .to_string()
            }
            Format::Json => {
                let why = self.live.any_failure().map(|why| ("why", json!(why)));
                let counted = counted.iter().map(|(name, count)| (*name, json!(count)));
                let lag = std::iter::once(("lag_ms", json!(lag_ms)));
                json::line(
                    std::iter::once(("state", json!(state)))
                        .chain(why)
                        .chain(lag)
                        .chain(counted),
                )
            }
        };
        Data {
            text,
            rows: 1,
            ..Data::default()
        }
    }

    fn help(&self) -> Data {
        let text = match self.format {
            Format::Text => {
                let words = COMMANDS.iter().map(|(name, takes, does)| {
                    vec![
                        format!("{name} {takes}").trim_end().to_string(),
                        (*does).to_string(),
                    ]
                });
                let conditions = "\nconditions: COLUMN=VALUE  COLUMN='two words'  COLUMN=  \
                    COLUMN=null  COLUMN!=null  \
                    COLUMN:=SQL\n";
                render(&[Heading::text(""), Heading::text("")], words)
                    .trim_start()
                    .to_string()
                    + conditions
            }
            Format::Json => COMMANDS
                .iter()
                .map(|(name, takes, does)| {
                    json::line([
                        ("command", json!(name)),
                        ("takes", json!(takes)),
                        ("does", json!(does)),
                    ])
                })
                .collect(),
        };
        Data {
            text,
            rows: COMMANDS.len(),
            ..Data::default()
        }
    }

    fn reply(&self, command: &str, data: anyhow::Result<Data>) -> Reply {
        let at = data.as_ref().ok().and_then(|data| data.at);
        let word = at.map_or_else(|| self.live.standing().get(), |at| self.live.word(at));
        let mut reply = Reply {
            is_failure: data.is_err(),
            ..Reply::default()
        };
        let mut said: Vec<String> = Vec::new();
        let mut end = vec![("event", json!("end")), ("command", json!(command.trim()))];
        match data {
            Ok(data) => {
                if !self.quiet {
                    said.extend(
                        data.notices
                            .iter()
                            .map(|notice| format!("notice: {notice}")),
                    );
                }
                reply.answer = data.text;
                if self.format == Format::Text && !data.is_rows && word == PromptState::Stale {
                    said.push(
                        "notice: the cache is stale: it may lack what was committed since it was \
                        live"
                            .to_string(),
                    );
                }
                if self.format == Format::Text && data.is_rows {
                    let rows = if data.rows == 1 { "row" } else { "rows" };
                    let stale = if word == PromptState::Live {
                        String::new()
                    } else {
                        format!(", {}", word.as_str())
                    };
                    reply
                        .answer
                        .push_str(&format!("({} {rows}{stale})\n", data.rows));
                }
                end.push(("rows", json!(data.rows)));
            }
            Err(error) => {
                let lines = failure::lines(&error);
                let part = |prefix| lines.iter().find_map(|line| line.strip_prefix(prefix));
                end.extend([("rows", json!(0)), ("error", json!(part("error: ")))]);
                end.extend(part("hint: ").map(|hint| ("hint", json!(hint))));
                if self.format == Format::Text {
                    said.extend(lines);
                }
            }
        }
        end.push(("state", json!(word.as_str())));
        if self.format == Format::Json {
            reply.answer.push_str(&json::line(end));
        }
        reply.beside = said
            .iter()
            .map(|line| format!("{}\n", escape(line)))
            .collect();
        reply
    }
}

async fn describe(
    client: &mut Client,
    oid: u32,
    processes: HashSet<i32>,
) -> anyhow::Result<(Vec<CatalogTable>, Senders)> {
    let catalog = catalog::reading(client).await?;
    Ok((
        catalog::describe(&catalog, &[oid]).await?,
        Senders::look(&catalog, processes).await,
    ))
}

async fn evaluate(
    client: &mut Client,
    table: &CatalogTable,
    written: &[Written],
) -> anyhow::Result<Conditions> {
    let mut catalog = catalog::reading(client).await?;
    conditions::evaluate(&mut catalog, table, written).await
}
