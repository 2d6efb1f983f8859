//! [`Lookups`]: what the printer asks the server about notifications: who sent them, and whether a
//! cache would take them.
//!
//! ```text
//! printer (a thread) ─ Question ─→ serve (a task, with a session of its own) ─ Answer ─→ printer
//! ```
//!
//! The printer waits for an answer for a moment only: a server that is away must not keep
//! notifications from being shown.

use crate::connect::Server;
use crate::render::change::Sender;
use crate::tables::catalog::{self, CatalogTable};
use crate::triggers::observe::{Version, observe};
use postgres_index_cache_core::tooling::Payload;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// How long the printer waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a sender is taken for the same: its session may change its name, or end and leave its
/// number to another one.
const FRESH: Duration = Duration::from_secs(10);

/// The least time between two looks at the triggers.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a look is waited for. A later answer counts for the next notifications.
const SETTLING: Duration = Duration::from_millis(50);

/// The most senders that are remembered.
const MOST_SENDERS: usize = 10_000;

/// A table that is announced, as far as payloads are concerned.
#[derive(Debug, Clone)]
struct Announced {
    schema: String,
    name: String,
    /// The oids of the table and of its partitions.
    relations: Vec<u32>,
    /// Whether the trigger's function is one of pgic's, which names schema and transaction.
    is_ours: bool,
}

/// The reason why a cache does not take a payload as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distrust {
    /// No trigger announces such a table.
    NotAnnounced,
    /// The payload lacks what the trigger of the table sends.
    NotTheTrigger,
    /// The payload names another relation.
    OtherRelation,
}

impl Distrust {
    /// Returns the word for JSON.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::NotAnnounced => "not_announced",
            Self::NotTheTrigger => "not_the_trigger",
            Self::OtherRelation => "other_relation",
        }
    }

    /// Returns the reason in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::NotAnnounced => "caches ignore it: no trigger announces such a table",
            Self::NotTheTrigger => "caches ignore it: the table's trigger sends more than that",
            Self::OtherRelation => "caches look again: it names another relation",
        }
    }
}

/// A question of the printer.
enum Question {
    /// Who are these processes?
    Senders(Vec<i32>, std::sync::mpsc::Sender<HashMap<i32, Sender>>),
    /// Which tables are announced now?
    Tables(std::sync::mpsc::Sender<Vec<Announced>>),
}

/// The printer's end.
pub(super) struct Lookups {
    questions: mpsc::UnboundedSender<Question>,
    senders: HashMap<i32, (Instant, Option<Sender>)>,
    /// The tables that are announced, by their names.
    announced: HashMap<String, Vec<Announced>>,
    /// When the triggers were looked at last.
    looked_at: Instant,
    /// Whether nothing is known of the tables: then no payload is distrusted.
    knows_nothing: bool,
    /// A look that is on its way.
    looking: Option<Receiver<Vec<Announced>>>,
}

/// The server's end.
pub(super) struct Service(mpsc::UnboundedReceiver<Question>);

/// Makes both ends. `announced` has the tables that are announced now.
pub(super) fn lookups(announced: &[CatalogTable]) -> (Lookups, Service) {
    let (questions, receiver) = mpsc::unbounded_channel();
    let lookups = Lookups {
        questions,
        senders: HashMap::new(),
        announced: by_name(announced.iter().filter_map(Announced::of)),
        looked_at: Instant::now(),
        knows_nothing: false,
        looking: None,
    };
    (lookups, Service(receiver))
}

/// Makes the printer's end where no server is asked.
pub(super) fn none() -> Lookups {
    Lookups {
        knows_nothing: true,
        ..lookups(&[]).0
    }
}

/// Sorts tables by their names.
fn by_name(tables: impl IntoIterator<Item = Announced>) -> HashMap<String, Vec<Announced>> {
    let mut by_name: HashMap<String, Vec<Announced>> = HashMap::new();
    for table in tables {
        by_name.entry(table.name.clone()).or_default().push(table);
    }
    by_name
}

impl Announced {
    fn of(table: &CatalogTable) -> Option<Self> {
        let seen = observe(table)?;
        let leaves = table.leaves.iter().map(|leaf| leaf.oid);
        Some(Self {
            schema: table.schema.clone(),
            name: table.name.clone(),
            relations: [table.oid].into_iter().chain(leaves).collect(),
            is_ours: seen.version != Version::Foreign,
        })
    }
}

impl Lookups {
    /// Asks who these processes are, unless that is known already.
    pub(super) fn look_up(&mut self, processes: impl IntoIterator<Item = i32>) {
        let now = Instant::now();
        let mut unknown: Vec<i32> = processes
            .into_iter()
            .filter(|process| match self.senders.get(process) {
                Some((since, _)) => now.duration_since(*since) > FRESH,
                None => true,
            })
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return;
        }
        let (answer, answered) = std::sync::mpsc::channel();
        if self
            .questions
            .send(Question::Senders(unknown.clone(), answer))
            .is_err()
        {
            return;
        }
        let found = answered.recv_timeout(PATIENCE).unwrap_or_default();
        if self.senders.len() >= MOST_SENDERS {
            self.senders.clear();
        }
        for process in unknown {
            let sender = found.get(&process).cloned();
            self.senders.insert(process, (now, sender));
        }
    }

    /// Returns the session of a process; `None` if it is gone, or was not found in time.
    pub(super) fn sender(&self, process: i32) -> Option<&Sender> {
        self.senders.get(&process)?.1.as_ref()
    }

    /// Returns the reason why a cache would not take a payload as it stands. Hardly waits: a table
    /// that is announced since the last look may be known a moment later only.
    pub(super) fn distrust(&mut self, payload: &Payload<'_>) -> Option<Distrust> {
        if self.knows_nothing {
            return None;
        }
        if let Some(looking) = &self.looking {
            match looking.try_recv() {
                Ok(announced) => {
                    self.announced = by_name(announced);
                    self.looking = None;
                }
                Err(TryRecvError::Disconnected) => self.looking = None,
                Err(TryRecvError::Empty) => {}
            }
        }
        let reason = self.reason(payload)?;
        // A payload may have any name in it: one look for all of them, now and then.
        if self.looking.is_some() || self.looked_at.elapsed() < PAUSE {
            return Some(reason);
        }
        let (answer, answered) = std::sync::mpsc::channel();
        self.looked_at = Instant::now();
        if self.questions.send(Question::Tables(answer)).is_ok() {
            match answered.recv_timeout(SETTLING) {
                Ok(announced) => self.announced = by_name(announced),
                Err(_) => self.looking = Some(answered),
            }
        }
        self.reason(payload)
    }

    fn reason(&self, payload: &Payload<'_>) -> Option<Distrust> {
        let of_this_name = self.announced.get(&*payload.table);
        let table = of_this_name.into_iter().flatten().find(|table| {
            let schema = payload.schema.as_ref();
            schema.is_none_or(|schema| *schema == table.schema)
        });
        let Some(table) = table else {
            return Some(Distrust::NotAnnounced);
        };
        match payload.rel {
            Some(rel) if !table.relations.contains(&rel) => Some(Distrust::OtherRelation),
            None if table.is_ours => Some(Distrust::NotTheTrigger),
            Some(_) | None => None,
        }
    }
}

impl Service {
    /// Answers questions, and never ends.
    pub(super) async fn serve(mut self, server: &Server) {
        // Senders are asked for again and again, so their session is kept.
        let mut kept: Option<Client> = None;
        let mut keeps = false;
        while let Some(question) = self.0.recv().await {
            let client = match kept.take().filter(|client| !client.is_closed()) {
                Some(client) => Ok(client),
                None => server.client().await,
            };
            // Without a session the question is not answered, and the printer goes on without.
            let Ok(mut client) = client else {
                continue;
            };
            match question {
                Question::Senders(processes, answer) => {
                    let _ = answer.send(senders(&client, &processes).await);
                    keeps = true;
                }
                Question::Tables(answer) => {
                    if let Ok(tables) = announced(&mut client).await {
                        let _ = answer.send(tables);
                    }
                }
            }
            kept = Some(client).filter(|_| keeps);
        }
        std::future::pending::<()>().await;
    }
}

/// Asks the server whom these processes serve.
async fn senders(client: &Client, processes: &[i32]) -> HashMap<i32, Sender> {
    const ASK: &str = "SELECT a.pid, coalesce(a.usename::pg_catalog.text, ''),
            coalesce(a.application_name, ''), coalesce(pg_catalog.host(a.client_addr), 'local')
        FROM pg_catalog.pg_stat_activity a WHERE a.pid OPERATOR(pg_catalog.=) ANY ($1)";
    let rows = client
        .query_typed(ASK, &[(&processes, Type::INT4_ARRAY)])
        .await;
    let found = rows.unwrap_or_default().into_iter().map(|row| {
        let sender = Sender {
            user: row.get(1),
            application: row.get(2),
            address: row.get(3),
        };
        (row.get(0), sender)
    });
    found.collect()
}

/// Describes the tables that are announced.
async fn announced(client: &mut Client) -> anyhow::Result<Vec<Announced>> {
    let catalog = catalog::reading(client).await?;
    let oids = catalog::tables_with_triggers(&catalog).await?;
    let tables = catalog::describe(&catalog, &oids).await?;
    Ok(tables.iter().filter_map(Announced::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookups() -> Lookups {
        let (mut lookups, _) = super::lookups(&[]);
        let tables = [("users", true), ("plain", false)];
        lookups.announced = by_name(tables.map(|(name, is_ours)| Announced {
            schema: "app".to_string(),
            name: name.to_string(),
            relations: vec![7, 8],
            is_ours,
        }));
        lookups
    }

    #[test]
    fn a_payload_that_no_trigger_of_the_table_sent_is_distrusted() {
        let mut lookups = lookups();
        for (rest, expected) in [
            (r#""table":"users","schema":"app","rel":8"#, None),
            (
                r#""table":"users","schema":"app","rel":9"#,
                Some(Distrust::OtherRelation),
            ),
            (r#""table":"users""#, Some(Distrust::NotTheTrigger)),
            (r#""table":"plain""#, None),
            (
                r#""table":"users","schema":"other","rel":7"#,
                Some(Distrust::NotAnnounced),
            ),
            (r#""table":"jobs""#, Some(Distrust::NotAnnounced)),
        ] {
            let text = format!(r#"{{{rest},"action":"update","id":1,"data":{{"id":1}}}}"#);
            let payload = Payload::parse(&text).unwrap();
            assert_eq!(lookups.distrust(&payload), expected, "{text}");
        }
    }
}
