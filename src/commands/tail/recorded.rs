//! `pgic tail --from`: prints what was recorded, without a server.

use super::filter::{Filter, Prepared};
use super::printer::Printer;
use super::{Args, Passed, lookups, print_counts};
use crate::commands::Context;
use crate::exit_code::ExitCode;
use crate::feed::queue::Item;
use crate::record::reader::{Record, Wanted};
use crate::render::count;
use jiff::Timestamp;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Prints the record.
///
/// # Errors
/// If the record cannot be read, or the output fails.
pub(super) fn run(context: &Context, args: &Args, from: &Path) -> anyhow::Result<ExitCode> {
    let record = Record::open(from)?;
    let prepared = Prepared {
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
        rows: None,
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
    if !context.quiet {
        print_counts(context, printed);
    }
    let too_few = args.count.is_some_and(|count| printed.shown < count);
    Ok(if too_few { ExitCode::No } else { ExitCode::Yes })
}
