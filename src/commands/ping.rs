//! `pgic ping`: how long a notification takes from its commit to a session that listens, or a write
//! from its start to a cache.

mod via_trigger;

use super::{Context, interrupted};
use crate::completion;
use crate::connect::Server;
use crate::exit_code::ExitCode;
use crate::fleet::Fleet;
use crate::render::json::EventLine;
use crate::render::{Format, print};
use crate::units::parse_duration;
use hdrhistogram::Histogram;
use jiff::Timestamp;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;
use via_trigger::ViaTrigger;

/// The longest round trip that is told apart from longer ones, in microseconds.
const LONGEST: u64 = 3_600_000_000;
/// The sessions of the way over a trigger: the three of a replica, one that describes the table,
/// and one that writes.
const VIA_TRIGGER: usize = 5;
/// The digits of a time that are kept for percentiles.
const DIGITS: u8 = 3;

/// Measure how long a notification takes to come back
///
/// Sends notifications to a session of its own, one after the other, each in a transaction of its
/// own, and prints how long each took from the first byte sent to its arrival. The channel is
/// random, so that nobody else receives them.
///
/// One that takes long, or is lost, tells of commits that wait for each other, of the network, or
/// of a server that has no time.
///
/// With --via-trigger the whole way is measured: a row is written by an UPDATE that changes
/// nothing, its trigger announces that, and the change is applied to a cache like an application's.
/// The time is that from the first byte of the UPDATE until the change is in the cache. Without a
/// TABLE, a table is made for that, on a channel of its own, and dropped at the end. A TABLE that
/// is named is loaded, and one of its rows is written: every cache of the table is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// How many notifications to send
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// The time from one to the next
    #[arg(short, long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    pub interval: Duration,
    /// When one that has not come is lost
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Write a row, of TABLE or of a table made for that, and measure until it is in a cache
    #[arg(long, value_name = "TABLE", num_args = 0..=1, default_missing_value = "")]
    #[arg(add = completion::announced_tables())]
    pub via_trigger: Option<String>,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic ping
  pgic ping -n 1000 -i 0 -q          without a line for each
  pgic ping --via-trigger            from a write to a cache
  pgic ping --via-trigger orders     the same, by a row of orders
  pgic ping -o json | jq 'select(.event == \"ping\") | .p99_us'

Exit codes:
  0  each came back; a signal ends it in order, with the summary
  1  one was lost
  2  a notification could not be sent, or the row not be written
  3  the server could not be reached, or took no session: trying again may
     help";

/// The round trips so far.
struct Tally {
    sent: u64,
    /// The times in microseconds, with [`DIGITS`] digits.
    times: Histogram<u64>,
    /// The shortest and the longest of them, with all digits.
    shortest: u64,
    longest: u64,
}

impl Tally {
    /// Returns a tally of none.
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            sent: 0,
            times: Histogram::new_with_bounds(1, LONGEST, DIGITS)?,
            shortest: u64::MAX,
            longest: 0,
        })
    }

    /// Counts one that was sent, with its time if it came back.
    fn add(&mut self, micros: Option<u64>) {
        self.sent += 1;
        if let Some(micros) = micros {
            self.times.saturating_record(micros.max(1));
            self.shortest = self.shortest.min(micros);
            self.longest = self.longest.max(micros);
        }
    }

    /// Returns the time that this share of those that came back does not exceed.
    fn quantile(&self, share: f64) -> u64 {
        // A time that lost its last digits may lie past the longest.
        let time = self.times.value_at_quantile(share);
        time.clamp(self.shortest, self.longest)
    }

    /// Returns how many did not come back.
    fn lost(&self) -> u64 {
        self.sent - self.times.len()
    }

    /// Returns the last line.
    fn text(&self, format: Format) -> String {
        let (sent, arrived, lost) = (self.sent, self.times.len(), self.lost());
        // Without any that came there is no time to tell.
        let shares = (arrived > 0).then(|| {
            [
                ("min", self.shortest),
                ("p50", self.quantile(0.5)),
                ("p99", self.quantile(0.99)),
                ("max", self.longest),
            ]
        });
        let shares = shares.into_iter().flatten();
        if format == Format::Json {
            let line = EventLine::new("ping", Timestamp::now())
                .member("sent", sent)
                .member("arrived", arrived)
                .member("lost", lost);
            return shares
                .fold(line, |line, (name, micros)| {
                    line.member(&format!("{name}_us"), micros)
                })
                .end();
        }
        let shares: Vec<String> = shares
            .map(|(name, micros)| format!("{name} {}", millis(micros)))
            .collect();
        let times = if shares.is_empty() {
            String::new()
        } else {
            format!("; {}", shares.join(", "))
        };
        format!("{sent} sent, {arrived} came back, {lost} lost{times}\n")
    }
}

/// Sends the notifications, or writes the row, and prints how long each took.
///
/// # Errors
/// If the server cannot be used, a session ends, or the table that was made cannot be dropped.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupted = std::pin::pin!(interrupted());
    let mut server = context.server("ping")?;
    if args.via_trigger.is_some() {
        server = server.with_sessions(VIA_TRIGGER);
    }
    let opening = Box::pin(async {
        anyhow::Ok(match args.via_trigger.as_deref() {
            None => Way::Notify(Box::new(Fleet::connect(&server).await?)),
            Some("") => Way::Trigger(Box::new(
                Box::pin(ViaTrigger::by_own_table(context, &server)).await?,
            )),
            Some(table) => Way::Trigger(Box::new(
                Box::pin(ViaTrigger::by_table(context, &server, table)).await?,
            )),
        })
    });
    let mut way = if args.via_trigger.as_deref() == Some("") {
        // A table that is being made is not left behind: the signal waits for that.
        opening.await?
    } else {
        tokio::select! {
            opened = opening => opened?,
            () = &mut interrupted => return Ok(ExitCode::Yes),
        }
    };
    let measured = measure(context, &args, &server, &mut way, interrupted).await;
    // The table that was made is dropped, also after an error.
    let closed = way.close().await;
    let lost = measured?;
    closed?;
    Ok(if lost == 0 {
        ExitCode::Yes
    } else {
        ExitCode::No
    })
}

/// The way that is measured.
enum Way {
    /// From the NOTIFY of one session to another session.
    Notify(Box<Fleet>),
    /// From the UPDATE of a row to a cache.
    Trigger(Box<ViaTrigger>),
}

impl Way {
    /// Goes the way once. Returns how long that took; `None` if it was not at its end in time.
    async fn round_trip(&mut self, timeout: Duration) -> anyhow::Result<Option<Duration>> {
        match self {
            Self::Notify(fleet) => fleet.round_trip(timeout).await,
            Self::Trigger(trigger) => trigger.round_trip(timeout).await,
        }
    }

    /// Waits, and keeps the sessions alive meanwhile.
    async fn wait(&mut self, until: Instant) -> anyhow::Result<()> {
        match self {
            Self::Notify(_) => {
                tokio::time::sleep_until(until).await;
                Ok(())
            }
            Self::Trigger(trigger) => trigger.wait(until).await,
        }
    }

    /// Drops the table that was made for the measurement.
    async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Notify(_) => Ok(()),
            Self::Trigger(trigger) => trigger.close().await,
        }
    }
}

/// Goes the way as often as is asked for, until a signal comes, and prints the times. Returns how
/// many were lost.
async fn measure(
    context: &Context,
    args: &Args,
    server: &Server,
    way: &mut Way,
    mut interrupted: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<u64> {
    context.print_place(server)?;
    let mut tally = Tally::new()?;
    let mut next = Instant::now();
    let ended = loop {
        // One that a signal cuts short was not lost.
        let took = tokio::select! {
            took = way.round_trip(args.timeout) => took,
            () = &mut interrupted => break Ok(()),
        };
        let took = match took {
            Ok(took) => took,
            Err(error) => break Err(error),
        };
        let micros = took.map(|took| took.as_micros() as u64);
        tally.add(micros);
        if !context.quiet || micros.is_none() {
            print(&line(context, tally.sent, micros, args.timeout))?;
        }
        if tally.sent == args.count {
            break Ok(());
        }
        next += args.interval;
        tokio::select! {
            waited = way.wait(next) => waited?,
            () = &mut interrupted => break Ok(()),
        }
        // After one that took long, the next ones do not come in a burst.
        next = next.max(Instant::now());
    };
    print(&tally.text(context.format))?;
    ended?;
    Ok(tally.lost())
}

/// Returns the line of one notification.
fn line(context: &Context, number: u64, micros: Option<u64>, timeout: Duration) -> String {
    if context.format == Format::Json {
        return EventLine::new("round-trip", Timestamp::now())
            .member("number", number)
            .optional("took_us", micros)
            .member("lost", micros.is_none())
            .end();
    }
    match micros {
        Some(micros) => format!("{number}  {}\n", millis(micros)),
        None => format!(
            "{number}  lost: not back after {} s\n",
            timeout.as_secs_f64()
        ),
    }
}

/// Returns a time as people read it: `0.42 ms`.
fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(times: &[Option<u64>]) -> Tally {
        let mut tally = Tally::new().unwrap();
        for micros in times {
            tally.add(*micros);
        }
        tally
    }

    #[test]
    fn what_did_not_come_back_is_lost() {
        assert_eq!(
            tally(&[Some(4223), None, Some(420)]).text(Format::Text),
            "3 sent, 2 came back, 1 lost; min 0.42 ms, p50 0.42 ms, p99 4.22 ms, max 4.22 ms\n"
        );
        assert_eq!(
            tally(&[None, None]).text(Format::Text),
            "2 sent, 0 came back, 2 lost\n"
        );
    }

    #[test]
    fn a_time_past_the_longest_is_counted_as_that() {
        let tally = tally(&[Some(u64::MAX)]);
        assert_eq!((tally.lost(), tally.longest), (0, u64::MAX));
    }
}
