//! `pgic relay`: one listener for any number of nodes, through a log on NATS.

use super::announce::in_shell;
use super::{Context, interrupted};
use crate::completion;
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::nats::LogAddress;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::{Format, count, print};
use crate::tables::bounds::{BoundArgs, Bounds};
use crate::tables::catalog;
use crate::tables::estimate::human;
use crate::tables::explain_failure;
use crate::tables::target::{Target, prepare};
use crate::units::parse_bytes;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::nats::{
    LogDatabase, LogError, LogStorage, Relay, RelayError, RelayEvent, RelayOptions,
};
use postgres_index_cache_core::tooling::postgres::describe_named;
use tokio::sync::mpsc;

/// Publish the changes of tables as a log on NATS, for any number of nodes
///
/// PostgreSQL wakes every listening session at every commit: beyond ten nodes or so, writers pay for
/// that. A relay is the one listener. It keeps an exact cache of the tables, and publishes what
/// changes there on NATS JetStream, with proofs and snapshots. Nodes follow the log without a
/// connection to PostgreSQL, and know at each moment whether their rows are live.
///
/// Run two of them: one writes, and the other goes on within seconds if the first is gone. The
/// streams are made if they are missing; one that is there is never changed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"'
    #[arg(value_name = "TABLE", required = true, add = completion::announced_tables())]
    pub tables: Vec<String>,
    /// The NATS servers: nats://host:4222, or nats://host/shop with the log's name; else those of
    /// NATS_URL, or of the context that the tool nats uses
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// The log's name: letters, digits, - and _
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where NATS keeps the log
    #[arg(long, value_enum, default_value_t = Storage::File)]
    pub storage: Storage,
    /// How many NATS servers keep it
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=5))]
    pub replicas: u8,
    /// The most bytes of changes that NATS keeps, as 512MB or 2GB
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = parse_bytes)]
    pub max_log: usize,
    #[command(flatten)]
    pub bounds: BoundArgs,
}

/// Where NATS keeps a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Storage {
    /// In files
    File,
    /// In memory: a server that restarts has lost the log, and all nodes load a snapshot
    Memory,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic relay users orders --to nats://n1,n2,n3 --name shop --replicas 3
  pgic status --from nats://n1/shop
  pgic query users 42 --from nats://n1/shop

Credentials: in the URL, or NATS_CREDS, NATS_NKEY, NATS_USER and
NATS_PASSWORD, NATS_CA, NATS_CERT and NATS_KEY, as for the tool nats, or
its context (NATS_CONTEXT, else the selected one) if that names the servers.

Exit codes:
  0  ended by a signal
  2  a table cannot be followed, or NATS or PostgreSQL refused
  3  a server could not be reached, or took no session: trying again may
     help";

/// Publishes until a signal comes.
///
/// # Errors
/// If a table cannot be followed, or NATS or PostgreSQL refuse.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let name = args.name.as_deref();
    let address = match &args.to {
        Some(url) => LogAddress::new(url, name, &context.environment)?,
        None => LogAddress::named(name, &context.environment)?,
    };
    let bounds = args.bounds.bounds();
    let server = context.server("relay")?;
    let names = tokio::select! {
        names = check(context, &server, &args.tables, bounds) => names?,
        () = &mut interrupted => return Ok(ExitCode::Yes),
    };
    context.print_place(&server)?;
    let (events_tx, mut events) = mpsc::unbounded_channel();
    let log = address.name.to_string();
    let host = gethostname::gethostname();
    let relay = Relay {
        connector: server.clone(),
        name: address.name.clone(),
        connect: address.clone().into_connect("relay"),
        describe: describe_named(server, names),
        options: RelayOptions {
            writer: format!("{}:{}", host.to_string_lossy(), std::process::id()),
            storage: LogStorage {
                in_memory: args.storage == Storage::Memory,
                replicas: usize::from(args.replicas),
                max_bytes: i64::try_from(args.max_log).unwrap_or(i64::MAX),
            },
            driver: bounds.driver_options(),
        },
        events: events_tx,
    };
    let mut relay = std::pin::pin!(relay.run());
    loop {
        tokio::select! {
            // News come before the end that they explain.
            biased;
            Some(event) = events.recv() => match &event {
                RelayEvent::DatabaseUnknown(database) => context.notice(&unknown(database)),
                event => print(&show(context.format, &log, event))?,
            },
            () = &mut interrupted => return Ok(ExitCode::Yes),
            ended = &mut relay => return match ended {
                Ok(()) => Ok(ExitCode::Yes),
                Err(error) => Err(explained(error, &address)),
            },
        }
    }
}

/// Checks that the tables can be followed, and returns their names with the schemas.
async fn check(
    context: &Context,
    server: &crate::connect::Server,
    tables: &[String],
    bounds: Bounds,
) -> anyhow::Result<Vec<String>> {
    let mut client = server.client().await?;
    let mut catalog = catalog::reading(&mut client).await?;
    let mut targets = Vec::new();
    let mut notices = Vec::new();
    for name in tables {
        let table = catalog::resolve_one(&catalog, name).await?;
        targets.push(Target::announced(table, &mut notices)?);
    }
    prepare(&mut catalog, &targets, bounds).await?;
    context.notices(&notices);
    let names = targets.iter().map(|target| target.table.written_name());
    Ok(names.collect())
}

fn explained(error: RelayError, log: &LogAddress) -> anyhow::Error {
    match error {
        RelayError::Driver(error) => explain_failure(error),
        RelayError::Log(LogError::OfAnotherDatabase {
            ref stream,
            ref own,
            ..
        }) => {
            let hint = format!(
                "choose another --name; or if the tables have moved to this database, say so to \
                NATS: nats stream edit {stream} --description {}",
                in_shell(own)
            );
            with_hint(
                anyhow::Error::from(error).context(format!("publish on {log}")),
                hint,
            )
        }
        error => log.explain(anyhow::Error::from(error).context(format!("publish on {log}"))),
    }
}

/// Returns why a log of another database would not be refused.
fn unknown(database: &LogDatabase) -> String {
    match database {
        LogDatabase::Unsaid { stream, own } => format!(
            "the stream {stream} does not say of which database it is, so a relay of another one \
            would not be refused; say so to NATS: nats stream edit {stream} --description {}",
            in_shell(own)
        ),
        LogDatabase::Same | LogDatabase::Unknown => {
            "this role may not know which database it is in (pg_control_system), so a log of another \
            one would not be refused"
                .to_string()
        }
    }
}

/// Returns the line of an event.
fn show(format: Format, log: &str, event: &RelayEvent) -> String {
    let line = |state: &str| {
        EventLine::new("relay", Timestamp::now())
            .member("log", log)
            .member("state", state)
    };
    let json = match event {
        RelayEvent::StandingBy => line("standing-by"),
        RelayEvent::Leading { term, is_anew } => {
            line("leading").member("term", term).member("anew", is_anew)
        }
        RelayEvent::Live { is_live: true, .. } => line("live"),
        RelayEvent::Live {
            is_live: false,
            why,
        } => line("stale").member("text", why),
        RelayEvent::Snapshot { rows, bytes } => {
            line("snapshot").member("rows", rows).member("bytes", bytes)
        }
        RelayEvent::Failed(why) => line("failed").member("text", why),
        _ => return String::new(),
    };
    if format == Format::Json {
        return json.end();
    }
    let text = match event {
        RelayEvent::StandingBy => "standing by: another relay writes".to_string(),
        RelayEvent::Leading {
            term,
            is_anew: true,
        } => format!("leading, term {term}: the log begins anew"),
        RelayEvent::Leading { term, .. } => format!("leading, term {term}: the log goes on"),
        RelayEvent::Live { is_live: true, .. } => "live".to_string(),
        RelayEvent::Live { why, .. } => format!("stale: {}", escape(why)),
        RelayEvent::Snapshot { rows, bytes } => format!(
            "snapshot of {}, {}",
            count(*rows, "row"),
            human(*bytes as usize)
        ),
        RelayEvent::Failed(why) => format!("failed, and is tried again: {}", escape(why)),
        _ => return String::new(),
    };
    format!("{log}: {text}\n")
}
