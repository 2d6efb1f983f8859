//! [`Plans`]: the plans of `install-triggers` and `remove-triggers` as people and programs see
//! them.

use super::Context;
use crate::render::Format;
use crate::render::escape::{escape, excerpt};
use crate::render::json::EventLine;
use crate::render::look::{Look, Tone};
use crate::render::table::{Heading, render};
use crate::triggers::TriggerOptions;
use crate::triggers::options::options_to_json;
use crate::triggers::plan::{PlanKind, TablePlan};
use jiff::Timestamp;
use similar::{ChangeTag, TextDiff};
use std::time::Duration;

/// The lines around a difference between two functions.
const AROUND: usize = 2;

/// The longest line of a function that is shown, in characters.
const LONGEST_LINE: usize = 160;

/// The most lines of a difference that are shown.
const MOST_LINES: usize = 200;

/// How long a difference is looked for. After that it is a coarse one.
const DIFFERENCE: Duration = Duration::from_millis(200);

/// How plans are shown.
pub(super) struct Plans<'a> {
    format: Format,
    look: &'a Look,
    kind: PlanKind,
    /// Whether nothing was done yet. Then steps, locks and differences are shown as well.
    is_dry: bool,
    lock_timeout: Duration,
}

impl<'a> Plans<'a> {
    pub(super) fn new(
        context: &'a Context,
        kind: PlanKind,
        is_dry: bool,
        lock_timeout: Duration,
    ) -> Self {
        Self {
            format: context.format,
            look: &context.look,
            kind,
            is_dry,
            lock_timeout,
        }
    }

    /// Returns the plans as a table with one row for each, or as JSON with one object for each.
    pub(super) fn show(&self, plans: &[TablePlan]) -> String {
        match self.format {
            Format::Json => plans.iter().map(|plan| self.json(plan)).collect(),
            Format::Text => self.text(plans),
        }
    }

    fn text(&self, plans: &[TablePlan]) -> String {
        let headings = ["table", "result", "channel", "function"].map(Heading::text);
        let mut text = render(&headings, plans.iter().map(|plan| row(plan, self.is_dry)));
        for plan in plans {
            let options = options(plan);
            if !options.is_empty() {
                let line = format!("  {}: options {}\n", plan.table, options);
                text.push_str(&escape(line.trim_end()));
                text.push('\n');
            }
            let steps = plan.steps.iter().map(|step| &step.what);
            for line in plan.notes.iter().chain(steps.filter(|_| self.is_dry)) {
                text.push_str(&format!("  {}: {}\n", escape(&plan.table), escape(line)));
            }
            if self.is_dry
                && let Some((old, new)) = &plan.function_texts
            {
                text.push_str(&self.difference(&plan.function, old, new));
            }
        }
        if self.is_dry && plans.iter().any(|plan| !plan.steps.is_empty()) {
            text.push_str(&self.locks());
        }
        text
    }

    /// Says which locks are taken, and for how long.
    fn locks(&self) -> String {
        let who = match self.kind {
            PlanKind::Install => "writers wait, readers do not",
            PlanKind::Remove => "readers and writers wait",
        };
        format!(
            "  locks: {} on each table ({who})\n  held for these steps alone; waited for {:?} at most, \
            in tries of 0.8 s or less\n",
            self.kind.lock(),
            self.lock_timeout
        )
    }

    /// Returns the lines of a function that change, as a diff with lines around.
    fn difference(&self, function: &str, old: &str, new: &str) -> String {
        // A function may have any text in it.
        let diff = TextDiff::configure()
            .timeout(DIFFERENCE)
            .diff_lines(old, new);
        let mut left = MOST_LINES;
        let mut text = format!("  {}:\n", escape(function));
        for hunk in diff.grouped_ops(AROUND) {
            for change in hunk.iter().flat_map(|group| diff.iter_changes(group)) {
                if left == 0 {
                    text.push_str("  …\n");
                    return text;
                }
                left -= 1;
                let (sign, tone) = match change.tag() {
                    ChangeTag::Delete => ('-', Tone::Bad),
                    ChangeTag::Insert => ('+', Tone::Good),
                    ChangeTag::Equal => (' ', Tone::Dim),
                };
                let line = change.value().trim_end_matches('\n');
                // What changes in a line that is longer does not show anyway; -o json has all of
                // it.
                let line = format!("  {sign} {}", excerpt(line, LONGEST_LINE));
                text.push_str(&self.look.paint(tone, line.trim_end()));
                text.push('\n');
            }
        }
        text
    }

    fn json(&self, plan: &TablePlan) -> String {
        let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).collect();
        let old = &plan.old_options;
        let new = &plan.new_options;
        let old_channel = old.as_ref().map(|options| &options.channel);
        let new_channel = new.as_ref().map(|options| &options.channel);
        // A trigger that pgic did not make has a channel, and no options that are known.
        let channel = new_channel.or(old_channel).or(plan.channel.as_ref());
        let (schema, table) = &plan.names;
        let texts = plan.function_texts.as_ref();
        EventLine::new("plan", Timestamp::now())
            .of((schema, table))
            .member("result", plan.result.as_str().replace(' ', "_"))
            .member("dry_run", self.is_dry)
            .member("channel", channel)
            .member("old_channel", old_channel)
            .member("options", new.as_ref().map(options_to_json))
            .member("old_options", old.as_ref().map(options_to_json))
            .member("function", &plan.function)
            .member("steps", steps)
            .member("notes", &plan.notes)
            .optional("lock", (!plan.steps.is_empty()).then(|| self.kind.lock()))
            .optional("old_source", texts.map(|(old, _)| old))
            .optional("new_source", texts.map(|(_, new)| new))
            .end()
    }
}

/// Returns the outcome in a word or two. With `dry_run` that is the outcome which is planned.
fn result(plan: &TablePlan, dry_run: bool) -> String {
    match (plan.steps.is_empty(), dry_run) {
        (false, true) => format!("would be {}", plan.result),
        _ => plan.result.to_string(),
    }
}

fn row(plan: &TablePlan, dry_run: bool) -> Vec<String> {
    vec![
        plan.table.clone(),
        result(plan, dry_run),
        channel(plan),
        plan.function.clone(),
    ]
}

/// Returns a property of the trigger options as text: `old -> new` if the plan changes it, else the
/// one that there is. `None` if the options are not known.
fn change(plan: &TablePlan, show: impl Fn(&TriggerOptions) -> String) -> Option<String> {
    let old = plan.old_options.as_ref().map(&show);
    let new = plan.new_options.as_ref().map(&show);
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            Some(format!("{} -> {}", or_none(&old), or_none(&new)))
        }
        (old, new) => new.or(old),
    }
}

/// Returns `text`, or the word `none` in place of an empty one: an arrow needs two ends.
fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn channel(plan: &TablePlan) -> String {
    change(plan, |options| options.channel.clone())
        .or_else(|| plan.channel.clone())
        .unwrap_or_default()
}

fn options(plan: &TablePlan) -> String {
    change(plan, TriggerOptions::describe).unwrap_or_default()
}
