//! [`Link`]: one link between a row and the nodes, with a verdict and what it rests on.

use crate::render::escape::escape;
use crate::render::json::EventLine;
use crate::render::look::{Look, Tone};
use jiff::Timestamp;

/// The verdict on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The link is in order.
    Ok,
    /// The link is the reason, or one of them.
    Broken,
    /// The link cannot be seen.
    Unknown,
}

impl Verdict {
    /// Returns the word that stands in JSON.
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }
}

/// A link.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// The name of the link: row, trigger, payload, record, delivery, log or nodes.
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    /// A stable name for what is broken; `None` if nothing is.
    code: Option<&'static str>,
    text: String,
    details: Vec<String>,
    /// What mends it now.
    now: Option<String>,
    /// What mends it for good.
    for_good: Option<String>,
}

impl Link {
    pub(super) fn new(name: &'static str, verdict: Verdict) -> Self {
        Self {
            name,
            verdict,
            code: None,
            text: String::new(),
            details: Vec::new(),
            now: None,
            for_good: None,
        }
    }

    /// Sets what is broken, as a stable name.
    pub(super) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Sets what the verdict rests on.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.text = text.to_string();
        self
    }

    /// Adds a line below.
    pub(super) fn detail(mut self, text: &str) -> Self {
        self.details.push(text.to_string());
        self
    }

    /// Sets what mends the link now.
    pub(super) fn now(mut self, command: Option<String>) -> Self {
        self.now = command;
        self
    }

    /// Sets what mends the link for good.
    pub(super) fn for_good(mut self, remedy: Option<String>) -> Self {
        self.for_good = remedy;
        self
    }

    /// Returns the link as a line of JSON.
    pub(super) fn json(&self) -> String {
        EventLine::new("link", Timestamp::now())
            .member("link", self.name)
            .member("result", self.verdict.as_str())
            .optional("code", self.code)
            .member("text", &self.text)
            .member("details", &self.details)
            .optional("now", self.now.as_ref())
            .optional("for_good", self.for_good.as_ref())
            .end()
    }

    /// Returns the link as text: a line, and lines of details below.
    pub(super) fn text_line(&self, look: &Look) -> String {
        let word = match self.verdict {
            Verdict::Ok => look.paint(Tone::Good, "ok     "),
            Verdict::Broken => look.paint(Tone::Alarm, "BROKEN "),
            Verdict::Unknown => look.paint(Tone::Changed, "unknown"),
        };
        let mut text = format!("{:<9} {word}  {}\n", self.name, escape(&self.text));
        for detail in &self.details {
            text.push_str(&format!("{:20}{}\n", "", escape(detail)));
        }
        text
    }
}

/// Returns the last lines: which link is broken, and what mends it.
pub(super) fn conclusion(look: &Look, broken: &[&Link], links: &[Link]) -> String {
    let Some(first) = broken.first() else {
        let unknown = links
            .iter()
            .filter(|link| link.verdict == Verdict::Unknown)
            .map(|link| link.name)
            .collect::<Vec<_>>();
        let text = if unknown.is_empty() {
            "nothing is broken".to_string()
        } else {
            format!(
                "nothing is broken that can be seen; unknown: {}",
                unknown.join(", ")
            )
        };
        return format!("{}\n", look.paint(Tone::Good, &text));
    };
    let names: Vec<&str> = broken.iter().map(|link| link.name).collect();
    let text = format!("broken: {}", names.join(", "));
    let mut text = format!("{}\n", look.paint(Tone::Alarm, &text));
    let now: Vec<&String> = broken.iter().filter_map(|link| link.now.as_ref()).collect();
    let good: Vec<&String> = broken
        .iter()
        .filter_map(|link| link.for_good.as_ref())
        .collect();
    // What is broken before the nodes must be mended first: they do not follow a table that nobody
    // announces.
    let is_cause = !matches!(first.name, "log" | "nodes");
    let is_before_nodes = is_cause && !now.is_empty() && !good.is_empty();
    let (good_word, now_word) = if is_before_nodes {
        ("first:   ", "then:    ")
    } else {
        ("for good:", "now:     ")
    };
    let good_lines = good
        .iter()
        .map(|remedy| format!("  {good_word} {}\n", escape(remedy)));
    let now_lines = now
        .iter()
        .map(|command| format!("  {now_word} {}\n", escape(command)));
    let lines: String = if is_before_nodes {
        good_lines.chain(now_lines).collect()
    } else {
        now_lines.chain(good_lines).collect()
    };
    text.push_str(&lines);
    text
}
