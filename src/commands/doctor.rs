//! `pgic doctor`: examines the whole pipeline, and prints the problems, their remedies, and the
//! checks that could not look.

use super::Context;
use super::status::problem_json;
use crate::completion;
use crate::connect::Server;
use crate::doctor::{
    CHECKS, Check, Diagnosis, Examination, Found, Outcome, Verdict, examine, find_check, metrics,
};
use crate::exit_code::ExitCode;
use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::look::{Look, Tone};
use crate::render::{Format, print, wrapped};
use crate::tables::nearest::nearest;
use crate::units::parse_duration;
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::triggers::Severity;
use serde_json::Value;
use std::time::Duration;

/// The most problems of a check that are shown as text.
const SHOWN: usize = 10;

/// Examine the whole pipeline, and print problems with their remedies
///
/// Looks at triggers, columns and rows, at channels and listeners, at transactions, the
/// notification queue and the notify lock, at limits, privileges and the server itself. Each check
/// has a code that never changes, a verdict (ok, unknown, warning or critical), what it looked at,
/// and for each problem a remedy that can be run as it is printed.
///
/// Nothing is written, but for one notification on a random channel. Rows are sampled for 0.3 s
/// at most. A check that cannot see enough says unknown, and why. With -q, checks that are ok are
/// left out.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_LONG_HELP)]
pub struct Args {
    /// Tables: users, app.users or '"Odd Name"' [default: every table with triggers]
    #[arg(value_name = "TABLE", add = completion::announced_tables())]
    pub tables: Vec<String>,
    /// Only these checks, by code or name; several with commas
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = parse_check)]
    pub only: Vec<&'static Check>,
    /// Leave these checks out, by code or name; several with commas
    #[arg(long, value_name = "CHECK", value_delimiter = ',', value_parser = parse_check)]
    pub skip: Vec<&'static Check>,
    /// The verdict from which the exit code is 1
    #[arg(long, value_name = "VERDICT", default_value = "critical")]
    pub fail_on: FailOn,
    /// Listen to the traffic for at least so long, to find updates that change nothing
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0s")]
    pub traffic: Duration,
    /// The age from which a transaction is long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5m")]
    pub long_transaction: Duration,
    /// Print the page of a check instead
    #[arg(long, value_name = "CHECK", value_parser = parse_check)]
    #[arg(exclusive = true)]
    pub explain: Option<&'static Check>,
}

const AFTER_LONG_HELP: &str = "\
Examples:
  pgic doctor
  pgic doctor orders --traffic 30s
  pgic doctor --fail-on warning --skip tls,PGIC027
  pgic doctor --explain PGIC022
  pgic doctor -o json | jq -r '.problems[]?.run[]'
  pgic doctor -o prometheus --fail-on never > pgic.tmp && mv pgic.tmp pgic.prom

Exit codes:
  0  no check is as bad as --fail-on
  1  one is
  2  the catalogue could not be read, or a table was not found
  3  the server could not be reached, or took no session: trying again may
     help";

/// The verdict from which the command fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FailOn {
    /// Also when a check could not look.
    Unknown,
    /// When something may become wrong.
    Warning,
    /// When changes are lost, or can be at any time.
    Critical,
    /// Never.
    Never,
}

/// Finds a check by its code or name, for clap.
fn parse_check(text: &str) -> Result<&'static Check, String> {
    find_check(text).ok_or_else(|| {
        let names = CHECKS.iter().map(|check| check.name);
        match nearest(text, names) {
            Some(near) => format!("no such check; {near} may be meant"),
            None => {
                let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
                format!("no such check; the checks are {}", names.join(", "))
            }
        }
    })
}

/// Examines, and prints the outcomes.
///
/// # Errors
/// If the server cannot be used, or a table is not found.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    if let Some(check) = args.explain {
        print(&match context.layout.width {
            Some(width) => wrapped(check.page, width).into_owned(),
            None => check.page.to_string(),
        })?;
        return Ok(ExitCode::Yes);
    }
    let server = context.server("doctor")?;
    let examination = Examination {
        tables: args.tables.clone(),
        traffic: args.traffic,
        long_transaction: args.long_transaction,
    };
    let mut diagnosis = examine(&server, &context.settings, &examination).await?;
    diagnosis.outcomes.retain(|outcome| {
        let is_asked = args.only.is_empty() || args.only.contains(&outcome.check);
        is_asked && !args.skip.contains(&outcome.check)
    });
    print(&if context.metrics {
        metrics::of_diagnosis(&diagnosis)
    } else {
        match context.format {
            Format::Text => {
                let text = text(&context.look, &server, &diagnosis, context.quiet);
                match context.layout.width {
                    Some(width) => wrapped(&text, width).into_owned(),
                    None => text,
                }
            }
            Format::Json => json(&server, &diagnosis),
        }
    })?;
    let worst = diagnosis
        .outcomes
        .iter()
        .map(|outcome| outcome.verdict)
        .max();
    let worst = worst.unwrap_or(Verdict::Ok);
    let fails = match args.fail_on {
        FailOn::Unknown => worst >= Verdict::Unknown,
        FailOn::Warning => worst >= Verdict::Warning,
        FailOn::Critical => worst >= Verdict::Critical,
        FailOn::Never => false,
    };
    Ok(if fails { ExitCode::No } else { ExitCode::Yes })
}

/// Returns the answer as text: the worst last, where a person reads first.
fn text(look: &Look, server: &Server, diagnosis: &Diagnosis, is_quiet: bool) -> String {
    let place = server.place().map(|place| place.to_string());
    let mut text = format!("{}\n", escape(&place.unwrap_or_default()));
    let mut outcomes: Vec<&Outcome> = diagnosis.outcomes.iter().collect();
    outcomes.sort_by_key(|outcome| outcome.verdict);
    for outcome in outcomes {
        if is_quiet && outcome.verdict == Verdict::Ok {
            continue;
        }
        let tone = tone(outcome.verdict);
        let word = look.paint(tone, &format!("{:8}", outcome.verdict.as_str()));
        let (code, name) = (outcome.check.code, outcome.check.name);
        text.push_str(&format!(
            "{word}  {code}  {name:21}  {}\n",
            escape(&outcome.looked_at)
        ));
        for found in outcome.found.iter().take(SHOWN) {
            text.push_str(&format!("          {}\n", escape(&words(found))));
        }
        if let Some(more) = outcome
            .found
            .len()
            .checked_sub(SHOWN)
            .filter(|more| *more > 0)
        {
            text.push_str(&format!("          and {more} more: -o json has all\n"));
        }
    }
    let counts = [
        Verdict::Ok,
        Verdict::Unknown,
        Verdict::Warning,
        Verdict::Critical,
    ];
    let counts = counts.into_iter().filter_map(|verdict| {
        let number = diagnosis.count(verdict);
        let is_shown = number > 0 || verdict == Verdict::Ok;
        is_shown.then(|| look.paint(tone(verdict), &format!("{number} {}", verdict.as_str())))
    });
    let counts: Vec<String> = counts.collect();
    text.push_str(&format!(
        "{}, in {:.1} s; pgic doctor --explain CODE says more\n",
        counts.join(", "),
        diagnosis.took.as_secs_f64()
    ));
    text
}

/// Returns a problem in words, with its remedy.
fn words(found: &Found) -> String {
    let words = found.problem.to_string();
    match &found.table {
        // The words of most problems name the table already.
        Some((schema, name)) if !words.contains(name.as_str()) => {
            format!("{schema}.{name}: {words}")
        }
        _ if found.problem.severity == Severity::Notice => format!("note: {words}"),
        _ => words,
    }
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Ok => Tone::Good,
        Verdict::Unknown => Tone::Dim,
        Verdict::Warning => Tone::Changed,
        Verdict::Critical => Tone::Alarm,
    }
}

/// Returns the answer as lines of JSON.
fn json(server: &Server, diagnosis: &Diagnosis) -> String {
    let at = Timestamp::now();
    let place = server.place();
    let mut text = EventLine::new("connected", at).place(place.as_ref()).end();
    for outcome in &diagnosis.outcomes {
        let problems: Vec<Value> = outcome.found.iter().map(found_json).collect();
        text = EventLine::behind(text, "check", at)
            .member("code", outcome.check.code)
            .member("name", outcome.check.name)
            .member("verdict", outcome.verdict.as_str())
            .member("looked_at", &outcome.looked_at)
            .member("problems", problems)
            .end();
    }
    EventLine::behind(text, "doctor", at)
        .member("ok", diagnosis.count(Verdict::Ok))
        .member("unknown", diagnosis.count(Verdict::Unknown))
        .member("warning", diagnosis.count(Verdict::Warning))
        .member("critical", diagnosis.count(Verdict::Critical))
        .member("took_ms", diagnosis.took.as_millis() as u64)
        .end()
}

/// Returns a problem as an object, with the table that it is about.
fn found_json(found: &Found) -> Value {
    let mut object = problem_json(&found.problem);
    let (schema, table) = match &found.table {
        Some((schema, table)) => (schema.as_str().into(), table.as_str().into()),
        None => (Value::Null, Value::Null),
    };
    object["schema"] = schema;
    object["table"] = table;
    object
}
