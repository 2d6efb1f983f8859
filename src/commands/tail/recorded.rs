//! `pgic tail --from`: prints a record, without a server.

use super::filter::{Filter, Prepared};
use super::printer::Printer;
use super::{Args, Passed, lookups, print_counts};
use crate::commands::Context;
use crate::exit_code::ExitCode;
use crate::failure::with_hint;
use crate::feed::queue::Item;
use crate::record::entry;
use crate::record::reader::{Record, Wanted};
use crate::render::count;
use anyhow::anyhow;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::{Payload, unpack};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The most tables of a record that are named.
const NAMED: usize = 10;

/// Prints the record.
///
/// # Errors
/// If the record cannot be read, or the output fails.
pub(super) fn run(context: &Context, args: &Args, from: &Path) -> anyhow::Result<ExitCode> {
    if from.to_string_lossy().contains("://") {
        return Err(with_hint(
            anyhow!("a log has rows, and no notifications"),
            "show the changes of a table's rows: pgic tail --diff TABLE --from URL",
        ));
    }
    if args.duration.is_some() {
        return Err(with_hint(
            anyhow!("--duration does not go with --from DIR: a record is printed at once"),
            "choose a part of it with --since and --until",
        ));
    }
    let record = Record::open(from)?;
    let prepared = Prepared {
        channels: args.channels.clone(),
        filter: Filter::of_texts(args)?,
        notices: Vec::new(),
        announced: Vec::new(),
        named: Vec::new(),
    };
    let passed = Arc::new(Passed::default());
    let mut printer = Printer::new(context, args, prepared, lookups::none(), passed)?;
    let (now, zone) = (Timestamp::now(), context.look.zone());
    let wanted = Wanted {
        since: args.since.map(|since| since.timestamp(now, zone)),
        until: args.until.map(|until| until.timestamp(now, zone)),
        ..Wanted::default()
    };
    let mut line = String::new();
    let left_out = record.read(&wanted, |item| {
        let is_other = matches!(item, Item::Notification { message, .. }
            if !args.channels.is_empty() && !args.channels.iter().any(|own| own == message.channel()));
        let goes_on = is_other || printer.take(item, &mut line)?;
        Ok(if goes_on {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    let printed = printer.end()?;
    if left_out.torn > 0 {
        context.notice("the last line is torn: it is being written, or pgic record was killed");
    }
    if left_out.unread > 0 {
        context.notice(&format!(
            "{} of the record could not be read",
            count(left_out.unread, "line")
        ));
    }
    if printed.shown == 0 {
        // Nothing may have happened, or nothing was recorded: the two must not look the same.
        context.notice(&extent(context, &record)?);
    }
    if !context.quiet {
        print_counts(context, printed);
    }
    let too_few = args.count.is_some_and(|count| printed.shown < count);
    Ok(if too_few { ExitCode::No } else { ExitCode::Yes })
}

/// Says which times, channels and tables a record has.
fn extent(context: &Context, record: &Record) -> anyhow::Result<String> {
    let mut times: Option<(Timestamp, Timestamp)> = None;
    let mut notifications = 0_u64;
    let (mut channels, mut tables) = (BTreeSet::new(), BTreeSet::new());
    record.read(&Wanted::default(), |item| {
        if let Some(at) = entry::time(item) {
            let (first, last) = times.unwrap_or((at, at));
            times = Some((first.min(at), last.max(at)));
        }
        match item {
            Item::Connected { channels: own, .. } => channels.extend(own.iter().cloned()),
            Item::Notification { message, .. } => {
                notifications += 1;
                // All changes of a payload are of one table.
                let first = unpack(message.payload()).next().unwrap_or_default();
                let payload = Payload::parse(&first).ok();
                // Anybody can make up names.
                if let Some(payload) = payload.filter(|_| tables.len() < NAMED) {
                    tables.insert(payload.table.to_string());
                }
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let Some((first, last)) = times else {
        return Ok("the record has no entry".to_string());
    };
    let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<String>>().join(", ");
    let clock = |at| context.look.clock(at);
    let tables = match tables.len() {
        0 => String::new(),
        NAMED => format!(", of {} and others", list(tables)),
        _ => format!(", of {}", list(tables)),
    };
    Ok(format!(
        "the record has {} from {} to {} on {}{tables}",
        count(notifications, "notification"),
        clock(first),
        clock(last),
        list(channels)
    ))
}
