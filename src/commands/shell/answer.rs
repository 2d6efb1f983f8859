//! [`Answer`]: the result of a line. [`Reply`]: the same as text for stdout and stderr.

use super::prompt_state::PromptState;
use crate::failure::Report;
use crate::render::json::EventLine;
use crate::render::{Format, count, notice};
use jiff::Timestamp;

/// The result of a line, without the lines that frame it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The answer as text or JSON lines.
    pub(super) text: String,
    /// The number of rows or objects in `text`.
    pub(super) rows: usize,
    /// Whether `text` is rows of a table. As text they are followed by their number.
    pub(super) is_rows: bool,
    /// The table that the answer is about, whose state then counts; `None` for all tables.
    pub(super) at: Option<usize>,
    /// Texts for stderr, without the word `notice`.
    pub(super) notices: Vec<String>,
}

/// The texts that are printed for a line.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// The text for stdout.
    pub(super) answer: String,
    /// The lines for stderr.
    pub(super) beside: String,
    /// Whether the line could not be answered.
    pub(super) is_failure: bool,
    /// Whether the shell ends with this line.
    pub(super) is_last: bool,
}

impl Reply {
    /// Makes the reply to the line `command`. `state` is that of the table, or of all tables, that
    /// the answer is about; `is_quiet` leaves out notices.
    pub(super) fn new(
        command: &str,
        answer: anyhow::Result<Answer>,
        state: PromptState,
        format: Format,
        is_quiet: bool,
    ) -> Self {
        let is_failure = answer.is_err();
        let mut text = String::new();
        let mut said = Vec::new();
        let mut rows = 0;
        let mut failure = None;
        match answer {
            Ok(answer) => {
                said = notices(&answer, state, format, is_quiet);
                rows = answer.rows;
                text = with_count(answer, state, format);
            }
            Err(error) => {
                let report = Report::new(&error);
                // In JSON the error stands in the last object of the answer.
                if format == Format::Text {
                    let lines = report.lines();
                    said = lines.iter().map(|line| format!("{line}\n")).collect();
                }
                failure = Some(report);
            }
        }
        if format == Format::Json {
            // A program that reads the stream knows by this object that the answer is complete.
            text = EventLine::behind(text, "end", Timestamp::now())
                .member("command", command.trim())
                .member("rows", rows)
                .optional("error", failure.as_ref().map(|report| &report.error))
                .optional(
                    "hint",
                    failure.as_ref().and_then(|report| report.hint.as_ref()),
                )
                .member("state", state.as_str())
                .end();
        }
        Self {
            answer: text,
            beside: said.concat(),
            is_failure,
            is_last: false,
        }
    }
}

/// Returns the lines for stderr that go with an answer.
fn notices(answer: &Answer, state: PromptState, format: Format, is_quiet: bool) -> Vec<String> {
    let mut said = Vec::new();
    if !is_quiet {
        for text in &answer.notices {
            said.push(notice(format, Timestamp::now(), text));
        }
    }
    // The number behind rows has the word `stale`, and JSON has the state. Elsewhere this is part
    // of the answer, so `--quiet` does not leave it out.
    if format == Format::Text && !answer.is_rows && state == PromptState::Stale {
        let stale = "the cache is stale: it may lack what was committed since it was live";
        said.push(notice(format, Timestamp::now(), stale));
    }
    said
}

/// Returns the text of an answer. Rows are followed by their number, and by the state if that is
/// not live.
fn with_count(answer: Answer, state: PromptState, format: Format) -> String {
    let Answer {
        mut text,
        rows,
        is_rows,
        ..
    } = answer;
    if format == Format::Text && is_rows {
        let rows = count(rows as u64, "row");
        text.push_str(&match state {
            PromptState::Live => format!("({rows})\n"),
            PromptState::Loading | PromptState::Stale => format!("({rows}, {})\n", state.as_str()),
        });
    }
    text
}
