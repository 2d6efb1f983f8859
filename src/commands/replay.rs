//! `pgic replay`: sends recorded notifications again, on a channel.

use super::install_triggers::parse_channel;
use super::{Context, interrupted};
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::feed::queue::Item;
use crate::record::entry;
use crate::record::reader::{Record, Wanted};
use crate::render::json::EventLine;
use crate::render::{Format, count, print};
use crate::server_seen::ServerSeen;
use crate::tables::catalog;
use crate::units::{Moment, parse_moment};
use anyhow::{Context as _, anyhow};
use clap::ValueHint;
use jiff::{SignedDuration, Timestamp};
use postgres_index_cache_core::tooling::postgres::quote_identifier;
use postgres_index_cache_core::tooling::{Payload, unpack};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// The transactions that are read ahead.
const AHEAD: usize = 64;
/// The most notifications of one transaction. One that had more is sent in several.
const MOST: usize = 10_000;

/// Send recorded notifications again, on a channel
///
/// Sends each payload of a folder that pgic record has written, or of one file of it, as it was: at
/// its own pace, faster with --speed, notifications of one transaction in one transaction. Nothing
/// is written to a table.
///
/// The channel must be one on which nobody is known to listen, or --yes be given: caches that
/// listen there take a payload for a change.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// The folder, or a file of it
    #[arg(value_name = "RECORD", value_hint = ValueHint::AnyPath)]
    pub record: PathBuf,
    /// The channel to send on
    #[arg(short, long, value_name = "NAME", value_parser = parse_channel)]
    #[arg(add = completion::channels())]
    pub channel: String,
    /// How many times as fast as it came: 10, 0.5, or max for no pause at all
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = parse_speed)]
    pub speed: Speed,
    /// Only notifications from this time on: 03:00, "2026-11-26 03:00", 10m (ago)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub since: Option<Moment>,
    /// Only notifications up to this time
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub until: Option<Moment>,
    /// Send even if somebody listens on the channel
    #[arg(long)]
    pub yes: bool,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic replay DIR -c test_channel --speed 10
  pgic replay DIR -c test_channel --since 03:00 --until 03:10 --speed max
  pgic tail -c test_channel & pgic replay DIR -c test_channel --yes

Exit codes:
  0  all was sent; a signal ends it in order, with the summary
  1  the record has no notification of that time
  2  somebody listens on the channel, the record could not be read, or a
     notification not be sent
  3  the server could not be reached, or took no session: trying again may
     help";

/// How fast it is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times as fast as it came.
    Times(f64),
    /// Without a pause.
    Max,
}

fn parse_speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.parse::<f64>() {
        // Slower and faster, the sums of times would leave their range.
        Ok(times) if (0.001..=1e6).contains(&times) => Ok(Speed::Times(times)),
        _ => Err(format!(
            "expected a number from 0.001 to 1000000, or max, not \"{text}\""
        )),
    }
}

/// Notifications that were sent by one transaction.
struct Sent {
    /// When the first of them came.
    at: Timestamp,
    xid: Option<u64>,
    payloads: Vec<String>,
}

/// Sends the record.
///
/// # Errors
/// If somebody listens on the channel, the record cannot be read, or the server refuses.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let record = Record::open(&args.record)?;
    let server = context.server("replay")?;
    let client = open(context, &server, &args).await?;
    context.print_place(&server)?;
    let (now, zone) = (Timestamp::now(), context.look.zone());
    let wanted = Wanted {
        since: args.since.map(|since| since.timestamp(now, zone)),
        until: args.until.map(|until| until.timestamp(now, zone)),
        ..Wanted::default()
    };
    let (sender, mut transactions) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || read(&record, &wanted, &sender));
    let mut sent = 0_u64;
    let began = Instant::now();
    let mut first: Option<Timestamp> = None;
    let sending = async {
        while let Some(Sent { at, payloads, .. }) = transactions.recv().await {
            let first = *first.get_or_insert(at);
            if let Speed::Times(times) = args.speed {
                let after = at.duration_since(first).max(SignedDuration::ZERO);
                let after = Duration::try_from(after).unwrap_or_default();
                tokio::time::sleep_until(began + after.div_f64(times)).await;
            }
            send(&client, &args.channel, &payloads).await?;
            sent += payloads.len() as u64;
        }
        anyhow::Ok(())
    };
    let is_whole = tokio::select! {
        done = sending => {
            done?;
            true
        }
        () = &mut interrupted => false,
    };
    // The reader ends when nobody takes more.
    drop(transactions);
    let left_out = reading.await.context("read the record")??;
    if left_out.torn + left_out.unread > 0 {
        context.notice(&format!(
            "{} of the record could not be read",
            count(left_out.torn + left_out.unread, "line")
        ));
    }
    let took = began.elapsed();
    print(&match context.format {
        Format::Json => EventLine::new("replayed", Timestamp::now())
            .member("channel", &args.channel)
            .member("notifications", sent)
            .member("took_ms", took.as_millis() as u64)
            .end(),
        Format::Text => format!(
            "{} sent in {:.1} s\n",
            count(sent, "notification"),
            took.as_secs_f64()
        ),
    })?;
    Ok(if sent > 0 || !is_whole {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

/// Opens the session that sends, unless somebody listens on the channel.
async fn open(context: &Context, server: &Server, args: &Args) -> anyhow::Result<Client> {
    let mut client = server.client().await?;
    let catalog = catalog::reading(&mut client).await?;
    let seen = ServerSeen::read(&catalog, None).await?;
    catalog.roll_back().await.context("end the transaction")?;
    let listens = seen.listeners.iter().find(|listener| {
        // Of a session that is certain to listen, the statement may not tell where.
        listener.channels.contains(&args.channel)
            || (listener.is_certain && listener.channels.is_empty())
    });
    match listens {
        Some(listener) if !args.yes => {
            let error = anyhow!(
                "process {} (user {}, application {}) listens on {}, and would take what is sent \
                for changes",
                listener.pid,
                listener.user,
                listener.application,
                args.channel
            );
            Err(with_hint(error, "choose another channel, or give --yes"))
        }
        _ => {
            if seen.unseen > 0 {
                context.notice(&format!(
                    "the statements of {} cannot be seen by this role: they may listen on {}",
                    count(seen.unseen.unsigned_abs(), "session"),
                    args.channel
                ));
            }
            Ok(client)
        }
    }
}

/// Sends payloads in one transaction.
async fn send(client: &Client, channel: &str, payloads: &[String]) -> anyhow::Result<()> {
    const SEND: &str = "SELECT pg_catalog.count(pg_catalog.pg_notify($1, p.payload))
        FROM pg_catalog.unnest($2::pg_catalog.text[]) WITH ORDINALITY p (payload, place)";
    let sent = client
        .query_typed(
            SEND,
            &[(&channel, Type::TEXT), (&payloads, Type::TEXT_ARRAY)],
        )
        .await;
    sent.with_context(|| format!("NOTIFY {}", quote_identifier(channel)))?;
    Ok(())
}

/// Reads the notifications by their transactions, and hands them on.
fn read(
    record: &Record,
    wanted: &Wanted,
    sender: &mpsc::Sender<Sent>,
) -> anyhow::Result<crate::record::reader::LeftOut> {
    let mut held: Option<Sent> = None;
    let hand_on = |held: &mut Option<Sent>| {
        let is_gone = held
            .take()
            .is_some_and(|sent| sender.blocking_send(sent).is_err());
        if is_gone {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let left_out = record.read(wanted, |item| {
        let (Item::Notification { message, .. }, Some(at)) = (item, entry::time(item)) else {
            // Behind a gap another transaction may have the same id, on a server that was restored.
            return Ok(hand_on(&mut held));
        };
        let text = message.payload();
        // All changes of a payload are of one transaction.
        let first = unpack(text).next().unwrap_or_default();
        let xid = Payload::parse(&first).ok().and_then(|payload| payload.xid);
        let is_same = held
            .as_ref()
            .is_some_and(|held| xid.is_some() && held.xid == xid && held.payloads.len() < MOST);
        if !is_same && hand_on(&mut held).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let own = held.get_or_insert_with(|| Sent {
            at,
            xid,
            payloads: Vec::new(),
        });
        own.payloads.push(text.to_string());
        Ok(ControlFlow::Continue(()))
    })?;
    let _ = hand_on(&mut held);
    Ok(left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_a_number_or_max() {
        assert_eq!(parse_speed("10"), Ok(Speed::Times(10.0)));
        assert_eq!(parse_speed("0.5"), Ok(Speed::Times(0.5)));
        assert_eq!(parse_speed("max"), Ok(Speed::Max));
        for bad in ["0", "-1", "1e-300", "1e300", "inf", "NaN", "x", ""] {
            assert!(parse_speed(bad).is_err(), "{bad}");
        }
    }
}
