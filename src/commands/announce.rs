//! `pgic announce`: asks every node to read a row, or a table, again.

use super::{Context, confirm};
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::fleet::Fleet;
use crate::fleet::cut::table_ref;
use crate::fleet::node::{NodeTable, Roster, label};
use crate::fleet::rows::{Has, ask_for_row};
use crate::nats::LogAddress;
use crate::nats::logged_row::{RowInLog, compare_row, logged_table};
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::look::{Look, Tone};
use crate::render::{Format, print};
use crate::tables::catalog;
use crate::tables::key;
use crate::tables::row::{key_of, read_row, reader};
use crate::tables::target::Target;
use crate::units::parse_duration;
use anyhow::{Context as _, anyhow, bail};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::nats::Follow;
use postgres_index_cache_core::tooling::postgres::{SnapshotReader, Traced};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// The longest time that the announcements of one row are repeated because writers change it.
const TRIES: usize = 5;
/// The time between two questions whether a table was read again.
const POLL: Duration = Duration::from_millis(100);

/// Ask every node to read a row, or a table, again
///
/// For a cache that missed a change: sends a notification about the row on the table's channel.
/// Replicas of this library read the row from the table when it arrives. Other consumers get an
/// update with the row's data, or a delete if there is no such row, as the trigger would send it.
/// Then every node is asked whether it has the row as it is now.
///
/// With --all, a notification asks for the whole table to be read again. Consumers that do not know
/// it ignore it. A node reads a table that was read a moment ago only after a while, so that
/// announcements without end cannot keep it busy.
///
/// Nothing is written to the table.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The table: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", add = completion::announced_tables())]
    pub table: String,
    /// The keys of the rows: 42, or 42,2 for a key of two columns
    #[arg(
        value_name = "KEY",
        required_unless_present = "all",
        allow_negative_numbers = true
    )]
    pub keys: Vec<String>,
    /// Ask for the whole table
    #[arg(long, conflicts_with = "keys")]
    pub all: bool,
    /// Do not ask before the whole table is announced
    #[arg(short, long)]
    pub yes: bool,
    /// Look whether a log that pgic relay writes has the row then: nats://host:4222/shop
    #[arg(long, value_name = "URL", conflicts_with = "all")]
    pub from: Option<String>,
    /// How long to wait for the nodes
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic announce orders 42          every node reads this row again
  pgic announce order_items 42,2 42,3
  pgic announce orders --all       every node reads the table again
  pgic announce orders 42 --from nats://n1/shop

Exit codes:
  0  every node that has the table did, if any has it; the log has the row
  1  a node did not, or does not answer
  2  it could not be announced: no such table or trigger, usage, …
  3  the server could not be reached, or took no session: trying again may
     help";

/// Returns the command that announces the rows with these keys, as they are typed. A key that
/// begins with a dash would pass for an option.
pub(super) fn announce_command(table: &str, keys: &[String]) -> String {
    let has_dash = keys.iter().any(|key| key.starts_with('-'));
    let dashes = if has_dash { "-- " } else { "" };
    let keys: Vec<String> = keys.iter().map(|key| in_shell(key)).collect();
    format!("pgic announce {dashes}{table} {}", keys.join(" "))
}

/// Returns a word as a shell reads it; one with control characters as bash, zsh and ksh do.
pub(super) fn in_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.,:@+%/=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_string()
    } else if word.chars().any(char::is_control) {
        // A terminal shows no such character, so what is copied from there would lack it.
        let mut quoted = String::from("$'");
        for c in word.chars() {
            match c {
                '\'' | '\\' => quoted.extend(['\\', c]),
                c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => quoted.push(c),
            }
        }
        quoted + "'"
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Announces, and prints what the nodes say.
///
/// # Errors
/// If the table is refused, or the server cannot be used.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let server = context.server("announce")?;
    let address = args
        .from
        .as_deref()
        .map(|url| LogAddress::new(url, None, &context.environment))
        .transpose()?;
    let target = find(context, &server, &args.table).await?;
    if args.all && !args.yes && !confirmed(&server, &target)? {
        bail!("nothing was announced");
    }
    // Every key is read before the first is announced.
    let mut keys = Vec::new();
    for key in &args.keys {
        keys.push(key_of(&server, &target, key).await?);
    }
    // A log that nobody proves is known before anything is announced.
    let mut log = match &address {
        Some(address) => Some(Log::open(address, &server, &target).await?),
        None => None,
    };
    let mut fleet = Fleet::open(&server).await?;
    if context.format == Format::Json {
        context.print_place(&server)?;
    }
    let roster = Roster::call(&mut fleet, Duration::from_secs(2)).await?;
    let mut announcer = Announcer {
        reader: reader(&server).await?,
        fleet: &mut fleet,
        target: &target,
        roster: &roster,
        timeout: args.timeout,
    };
    let mut is_done = true;
    if args.all {
        let done = announcer.announce_table().await?;
        is_done &= report(context, &target, None, &roster, &done, None)?;
    }
    for key in keys {
        let done = announcer.announce_row(&key).await?;
        let in_log = match &mut log {
            Some(log) => {
                let session = announcer.fleet.client();
                let looked = log.look(&server, session, &target, &key, args.timeout);
                Some(looked.await?)
            }
            None => None,
        };
        is_done &= report(
            context,
            &target,
            Some(&key),
            &roster,
            &done,
            in_log.as_ref(),
        )?;
    }
    Ok(if is_done { ExitCode::Yes } else { ExitCode::No })
}

/// A log that is followed as a node does.
struct Log<'a> {
    address: &'a LogAddress,
    follow: Box<Follow>,
}

/// What a log has of a row that was announced.
struct InLog {
    /// The log, and where it was.
    log: String,
    found: RowInLog,
}

impl InLog {
    /// Returns what the log has, in words.
    fn has(&self) -> String {
        match &self.found {
            RowInLog::Same { exists: true } => "has the row as it is".to_string(),
            RowInLog::Same { exists: false } => "has no such row either".to_string(),
            RowInLog::Other(what) => (*what).to_string(),
            RowInLog::Unsettled(why) => format!("could not be compared: {why}"),
            RowInLog::NotProven(why) => format!("is not proven: {why}"),
        }
    }

    /// Returns whether the log has the row as the table has it.
    fn is_current(&self) -> bool {
        matches!(self.found, RowInLog::Same { .. })
    }
}

impl<'a> Log<'a> {
    /// Follows the log until its rows are live.
    ///
    /// # Errors
    /// If they are not, or the log does not have the table.
    async fn open(
        address: &'a LogAddress,
        server: &Server,
        target: &Target,
    ) -> anyhow::Result<Self> {
        let session = server.client().await?;
        let mut follow = Box::new(Box::pin(address.open("announce", &session)).await?);
        address.prove(&mut follow).await?;
        if logged_table(&follow, target).is_none() {
            let error = anyhow!("the relay of {address} does not follow {}", target.name());
            return Err(with_hint(error, "pgic status --from shows what it follows"));
        }
        Ok(Self { address, follow })
    }

    /// Waits until the log has a row as the table has it, and looks what it has else.
    ///
    /// # Errors
    /// If the table cannot be read.
    async fn look(
        &mut self,
        server: &Server,
        session: &Traced<Client>,
        target: &Target,
        key: &str,
        patience: Duration,
    ) -> anyhow::Result<InLog> {
        let deadline = Instant::now() + patience;
        loop {
            let (address, follow) = (self.address, &mut self.follow);
            let found = compare_row(address, follow, server, session, target, key).await?;
            if !matches!(found, RowInLog::Other(_)) || Instant::now() >= deadline {
                let position = self.follow.position();
                let at = position.map_or_else(String::new, |at| format!(" at {at}"));
                return Ok(InLog {
                    log: format!("{address}{at}"),
                    found,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Finds the table, whose changes must be announced: else nobody would know the channel.
async fn find(context: &Context, server: &Server, name: &str) -> anyhow::Result<Target> {
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let table = catalog::resolve_one(&catalog, name).await?;
    let mut notices = Vec::new();
    let target = Target::announced(table, &mut notices)
        .with_context(|| format!("announce rows of {name}"))?;
    context.notices(&notices);
    Ok(target)
}

/// Asks on a terminal whether a whole table shall be announced. Elsewhere it takes `--yes`.
fn confirmed(server: &Server, target: &Target) -> anyhow::Result<bool> {
    let place = server.place().map(|place| place.to_string());
    let what = format!(
        "make every node read {} again, in {}",
        target.name(),
        place.unwrap_or_default()
    );
    confirm(&what, "give --yes")
}

/// Announces rows of one table, and asks the nodes.
pub(super) struct Announcer<'a> {
    pub(super) reader: SnapshotReader,
    pub(super) fleet: &'a mut Fleet,
    pub(super) target: &'a Target,
    pub(super) roster: &'a Roster,
    pub(super) timeout: Duration,
}

impl Announcer<'_> {
    /// Announces a row, until it was not changed in between.
    ///
    /// A node of this library reads the row itself. Other consumers take the row from the
    /// notification, and a writer may have changed it in between. Without the second look:
    /// 1. We read version 1 of the row.
    /// 2. A writer commits version 2 and announces it.
    /// 3. Our notification arrives behind that, and such a consumer has version 1 for good.
    ///
    /// # Errors
    /// If the row cannot be read, or the notification not be sent.
    pub(super) async fn announce_row(&mut self, key: &str) -> anyhow::Result<BTreeMap<i32, Has>> {
        for _ in 0..TRIES {
            let before = read_row(&mut self.reader, self.target, key).await?;
            self.notify(|xid| before.payload(self.target, key, xid))
                .await?;
            let after = read_row(&mut self.reader, self.target, key).await?;
            if after.digest == before.digest {
                let nodes = self.roster.with_table(&table_ref(self.target));
                let answers =
                    ask_for_row(self.fleet, self.target, key, &after, &nodes, self.timeout);
                let answers = answers.await?.into_iter();
                return Ok(answers.map(|(node, answer)| (node, answer.has)).collect());
            }
        }
        Err(with_hint(
            anyhow!("the row {key} is changed again and again"),
            "its writers announce it; nothing more is needed",
        ))
    }

    /// Announces that the whole table is to be read again.
    ///
    /// # Errors
    /// If the notification cannot be sent.
    async fn announce_table(&mut self) -> anyhow::Result<BTreeMap<i32, Has>> {
        let before = self.roster;
        let target = self.target;
        self.notify(|xid| {
            serde_json::json!({
                "table": target.table.name,
                "schema": target.table.schema,
                "action": "reload",
                "id": null,
                "rel": target.table.oid,
                "xid": xid,
                "why": "pgic announce --all",
            })
            .to_string()
        })
        .await?;
        let table = table_ref(self.target);
        let mut missing = before.with_table(&table);
        let mut done: BTreeMap<i32, Has> = BTreeMap::new();
        let deadline = Instant::now() + self.timeout;
        while !missing.is_empty() && Instant::now() < deadline {
            let now = Roster::call(self.fleet, self.timeout.min(Duration::from_secs(2))).await?;
            for listener in missing.clone() {
                let reads = |roster: &Roster| {
                    let node = roster.node(listener)?;
                    node.table(&table)?.reads
                };
                let own = now.node(listener).and_then(|node| node.table(&table));
                if reads(&now) > reads(before) && own.is_some_and(|own| own.state == "live") {
                    missing.remove(&listener);
                    done.insert(listener, Has::Current);
                } else {
                    done.insert(listener, waits(own));
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(done)
    }

    /// Sends a notification on the table's channel, with the id of its own transaction, from which
    /// a node tells what it has seen.
    async fn notify(&self, payload: impl FnOnce(&str) -> String) -> anyhow::Result<()> {
        self.fleet
            .notify_with_xid(&self.target.channel, payload)
            .await
    }
}

/// Returns why a table was not read again yet.
fn waits(table: Option<&NodeTable>) -> Has {
    match table {
        None => Has::Silent,
        Some(table) if table.state == "live" => {
            Has::Not("it has not read the table again yet".to_string())
        }
        Some(table) => {
            let why = table.why.as_deref().unwrap_or("it is being read");
            Has::Not(format!("{}: {why}", table.state))
        }
    }
}

/// Prints how the nodes have answered. Returns whether all of them did what was asked.
fn report(
    context: &Context,
    target: &Target,
    key: Option<&str>,
    roster: &Roster,
    done: &BTreeMap<i32, Has>,
    in_log: Option<&InLog>,
) -> anyhow::Result<bool> {
    let mut text = String::new();
    for (listener, done) in done {
        let node = roster.node(*listener);
        let name = node.map_or_else(
            || format!("process {listener}"),
            |node| label(&node.name, &node.host, node.pid),
        );
        text.push_str(&match context.format {
            Format::Json => {
                let line = EventLine::new("announced", Timestamp::now()).of(target.names());
                let line = match key {
                    Some(key) => line.key(key),
                    None => line,
                };
                let (word, why) = match done {
                    Has::Current => ("current", None),
                    Has::Not(why) => ("not-current", Some(why.as_str())),
                    Has::Silent => ("silent", None),
                };
                line.member("node", node.map_or("", |node| &node.name))
                    .member("listener", *listener)
                    .member("result", word)
                    .optional("why", why)
                    .end()
            }
            Format::Text => line(&context.look, &name, done),
        });
    }
    if context.format == Format::Json {
        if let (Some(in_log), Some(key)) = (in_log, key) {
            let is_current = in_log.is_current();
            let line = EventLine::new("log-row", Timestamp::now())
                .of(target.names())
                .key(key)
                .member("log", &in_log.log)
                .member("result", if is_current { "current" } else { "not-current" });
            let why = (!is_current).then(|| in_log.has());
            text.push_str(&line.optional("why", why).end());
        }
        for session in &roster.silent {
            let line = EventLine::new("announced", Timestamp::now()).of(target.names());
            let line = match key {
                Some(key) => line.key(key),
                None => line,
            };
            let line = line.member("node", "").member("listener", session.pid);
            text.push_str(&line.member("result", "silent").end());
        }
    }
    let current = done.values().filter(|done| **done == Has::Current).count();
    let is_in_log = in_log.is_none_or(InLog::is_current);
    let is_done = current == done.len() && roster.silent.is_empty() && is_in_log;
    if context.format == Format::Text {
        let what = match key {
            Some(key) => format!("{} {}", target.name(), key::typed(key)),
            None => target.name(),
        };
        let mut answers = Vec::new();
        if !done.is_empty() {
            answers.push(format!(
                "{current} of {} current",
                crate::render::count((done.len() + roster.silent.len()) as u64, "node")
            ));
        } else if in_log.is_none() {
            answers.push("no node has this table; other consumers cannot be asked".to_string());
        }
        answers.extend(in_log.map(|in_log| format!("{} {}", in_log.log, in_log.has())));
        let nodes = answers.join("; ");
        let tone = if is_done { Tone::Good } else { Tone::Alarm };
        let word = context.look.paint(tone, "announced");
        text.push_str(&format!("{word}  {}: {nodes}\n", escape(&what)));
        for session in &roster.silent {
            text.push_str(&format!(
                "  {} a node does not answer: {}\n",
                context.look.paint(Tone::Alarm, "silent"),
                escape(&super::nodes::session_text(session))
            ));
        }
    }
    print(&text)?;
    Ok(is_done)
}

fn line(look: &Look, name: &str, done: &Has) -> String {
    let (tone, word, why) = match done {
        Has::Current => (Tone::Good, "current", String::new()),
        Has::Not(why) => (Tone::Alarm, "not current", format!(": {why}")),
        Has::Silent => (Tone::Alarm, "silent", ": it did not answer".to_string()),
    };
    format!(
        "  {}  {}{}\n",
        escape(name),
        look.paint(tone, word),
        escape(&why)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_each_word_as_it_is() {
        for (word, in_a_shell) in [
            ("42,2", "42,2"),
            ("", "''"),
            ("it's; rm", "'it'\\''s; rm'"),
            ("a\u{1b}[31m\\'b\u{85}", "$'a\\u001b[31m\\\\\\'b\\u0085'"),
        ] {
            assert_eq!(in_shell(word), in_a_shell, "{word:?}");
        }
    }
}
