//! [`Answer`]: the result of a line. [`Reply`]: the same as text for stdout and stderr.

use super::live::PromptState;
use crate::failure::Report;
use crate::render::escape::escape;
use crate::render::{Format, count, json};
use serde_json::{Value, json};

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
        let (mut text, said, result) = match answer {
            Ok(answer) => {
                let said = notices(&answer, state, format, is_quiet);
                let result = vec![("rows", json!(answer.rows))];
                (with_count(answer, state, format), said, result)
            }
            Err(error) => {
                let report = Report::new(&error);
                let result = failure_json(&report);
                // In JSON the error stands in the last object of the answer.
                let said = match format {
                    Format::Text => report.lines(),
                    Format::Json => Vec::new(),
                };
                (String::new(), said, result)
            }
        };
        if format == Format::Json {
            // A program that reads the stream knows by this object that the answer is complete.
            let mut end = vec![("event", json!("end")), ("command", json!(command.trim()))];
            end.extend(result);
            end.push(("state", json!(state.as_str())));
            text.push_str(&json::line(end));
        }
        Self {
            answer: text,
            beside: said
                .iter()
                .map(|line| format!("{}\n", escape(line)))
                .collect(),
            is_failure,
            is_last: false,
        }
    }
}

/// Returns the lines for stderr that go with an answer.
fn notices(answer: &Answer, state: PromptState, format: Format, is_quiet: bool) -> Vec<String> {
    let mut said = Vec::new();
    if !is_quiet {
        for notice in &answer.notices {
            said.push(format!("notice: {notice}"));
        }
    }
    // The number behind rows has the word `stale`, and JSON has the state. Elsewhere this is part
    // of the answer, so `--quiet` does not leave it out.
    if format == Format::Text && !answer.is_rows && state == PromptState::Stale {
        let stale = "notice: the cache is stale: it may lack what was committed since it was live";
        said.push(stale.to_string());
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

/// Returns the members of a failure's last object: no rows, the error, and the hint if there is
/// one.
fn failure_json(report: &Report) -> Vec<(&'static str, Value)> {
    let mut members = vec![("rows", json!(0)), ("error", json!(report.error))];
    members.extend(report.hint.iter().map(|hint| ("hint", json!(hint))));
    members
}
