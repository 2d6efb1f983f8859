//! [`draw`]: the model as a screen, of 80 columns and 24 lines or more.

use super::model::{Model, Row};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

/// The most nodes that have a line.
const NODES: usize = 4;

const HELP: &[&str] = &[
    "q         quit",
    "p, space  hold the screen; counting goes on",
    "s         sort by the next column",
    "/         filter by table, key or value; Esc takes it away",
    "up, down  scroll the changes, Page Up and Down by ten",
    "c         count from zero",
    "",
    "per s     over the last ten seconds",
    "age       from the trigger to the arrival, by two clocks",
];

const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const HEADING: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws the screen.
pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    let rows = model.rows();
    let nodes = model.looked.nodes.len().min(NODES);
    // The table takes a line for each row, a third of the screen at most. The changes have the
    // rest.
    let area = frame.area();
    let most = (area.height / 3).max(3);
    let table = (rows.len() as u16 + 1).clamp(2, most);
    let parts = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(nodes as u16),
        Constraint::Length(table),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .split(area);
    frame.render_widget(title(model, usize::from(area.width)), parts[0]);
    frame.render_widget(server(model, &rows), parts[1]);
    for (at, node) in model.looked.nodes.iter().take(nodes).enumerate() {
        let style = if node.is_live { GOOD } else { BAD };
        let lag = node
            .lag
            .map(|lag| format!(", lag {:.1} ms", lag.as_secs_f64() * 1000.0));
        let line = Line::from(vec![
            Span::raw("node  "),
            Span::styled(format!("{:10}", shown(&node.state)), style),
            Span::raw(format!(
                "{}, {} rows{}",
                shown(&node.name),
                node.rows,
                lag.unwrap_or_default()
            )),
        ]);
        let line_area = Rect {
            y: parts[2].y + at as u16,
            height: 1,
            ..parts[2]
        };
        frame.render_widget(line, line_area);
    }
    frame.render_widget(kinds(model, &rows, parts[3]), parts[3]);
    frame.render_widget(changes(model, parts[4]), parts[4]);
    frame.render_widget(footer(model), parts[5]);
    if model.shows_help {
        help(frame, area);
    }
}

/// Returns text from outside as it may stand on a terminal.
fn shown(text: &str) -> String {
    crate::render::escape::escape(text).into_owned()
}

fn title(model: &Model, width: usize) -> Line<'_> {
    let state = match (&model.lost, model.is_held()) {
        (Some(_), _) => Span::styled("CONNECTION LOST", BAD),
        (None, true) => Span::styled("HELD", Style::new().fg(Color::Yellow)),
        (None, false) => Span::styled("live", GOOD),
    };
    let state_width = state.width();
    Line::from(vec![
        Span::styled("pgic top  ", Style::new().add_modifier(Modifier::BOLD)),
        state,
        Span::raw(cut(
            &format!("  {}  {}", model.clock(), shown(&model.place)),
            width.saturating_sub(11 + state_width),
        )),
    ])
}

/// The line of the server: rate, queue, listeners, nodes, gaps.
fn server<'a>(model: &Model, rows: &[Row]) -> Line<'a> {
    let rate: f64 = rows.iter().map(|row| row.rate).sum();
    let mut spans = vec![Span::raw(format!("{rate:.1}/s"))];
    let looked = &model.looked;
    if let Some(queue) = looked.queue {
        let style = if queue > 0.01 { BAD } else { Style::new() };
        spans.push(Span::styled(
            format!("  queue {:.1} %", queue * 100.0),
            style,
        ));
    }
    if let Some(listeners) = looked.listeners {
        spans.push(Span::raw(format!("  listeners {listeners}")));
    }
    let live = looked.nodes.iter().filter(|node| node.is_live).count();
    spans.push(Span::raw(match looked.nodes.len() {
        0 => "  no node".to_string(),
        nodes => format!("  nodes {live}/{nodes} live"),
    }));
    if looked.silent > 0 {
        spans.push(Span::styled(format!("  {} silent", looked.silent), BAD));
    }
    if model.gaps > 0 {
        spans.push(Span::styled(format!("  gaps {}", model.gaps), BAD));
    }
    if model.dropped > 0 {
        spans.push(Span::styled(format!("  dropped {}", model.dropped), BAD));
    }
    if let Some(why) = model.lost.as_ref().or(looked.failed.as_ref()) {
        spans.push(Span::styled(format!("  {}", shown(why)), BAD));
    }
    Line::from(spans)
}

/// The table of rates.
fn kinds<'a>(model: &Model, rows: &[Row], area: Rect) -> Paragraph<'a> {
    // The other columns take 54; the name has the rest.
    let width = usize::from(area.width).saturating_sub(54).max(10);
    let heading = format!(
        "{:width$}  {:8} {:>9} {:>9} {:>7} {:>7} {:>7}",
        format!("table (by {})", model.sort.word()),
        "action",
        "per s",
        "total",
        "bytes",
        "age p50",
        "p99 ms"
    );
    let mut lines = vec![Line::styled(heading, HEADING)];
    if rows.is_empty() {
        lines.push(Line::styled("nothing has come yet", DIM));
    }
    let room = usize::from(area.height).saturating_sub(1);
    // The last line says how many are left out.
    let is_cut = rows.len() > room;
    let fits = if is_cut { room.saturating_sub(1) } else { room };
    for row in rows.iter().take(fits) {
        let age = |age: Option<f64>| age.map_or("-".to_string(), |age| format!("{age:.1}"));
        lines.push(Line::raw(format!(
            "{:width$}  {:8} {:>9.1} {:>9} {:>7} {:>7} {:>7}",
            cut(&row.name, width),
            row.action,
            row.rate,
            row.total,
            row.bytes / row.total.max(1),
            age(row.p50),
            age(row.p99)
        )));
    }
    if is_cut {
        let more = rows.len() - fits;
        lines.push(Line::styled(format!("and {more} more: / filters"), DIM));
    }
    Paragraph::new(lines)
}

/// Returns a text that takes no more than so many columns.
fn cut(text: &str, width: usize) -> String {
    use unicode_width::UnicodeWidthChar as _;
    let mut used = 0;
    let mut short = String::new();
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            short.pop();
            short.push('…');
            break;
        }
        short.push(c);
    }
    short
}

/// The last changes, the newest on top.
fn changes<'a>(model: &Model, area: Rect) -> Paragraph<'a> {
    let all = model.changes();
    let heading = if model.filter.is_empty() {
        "last changes".to_string()
    } else {
        format!("last changes with \"{}\"", shown(&model.filter))
    };
    let heading = format!("{heading:width$}", width = usize::from(area.width));
    let mut lines = vec![Line::styled(heading, HEADING)];
    let room = usize::from(area.height).saturating_sub(1);
    for line in all.iter().skip(model.scrolled).take(room) {
        lines.push(Line::raw(cut(line, usize::from(area.width))));
    }
    Paragraph::new(lines)
}

fn footer(model: &Model) -> Line<'_> {
    if model.is_typing {
        return Line::raw(format!(
            "filter: {}_   Enter keeps it, Esc takes it away",
            shown(&model.filter)
        ));
    }
    let hold = if model.is_held() { "go on" } else { "hold" };
    let seconds = model.time().as_secs();
    Line::styled(
        format!(
            "q quit  p {hold}  s sort  / filter  ↑↓ scroll  c count anew  ? help   {seconds} s"
        ),
        DIM,
    )
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let (width, height) = (62.min(area.width), (HELP.len() as u16 + 2).min(area.height));
    let middle = Rect {
        x: (area.width - width) / 2,
        y: (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, middle);
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::raw(*line)).collect();
    let block = Block::bordered().title(" keys ");
    frame.render_widget(Paragraph::new(lines).block(block), middle);
}

#[cfg(test)]
mod tests {
    use super::super::look::{Looked, NodeLine};
    use super::super::model::Key;
    use super::*;
    use crate::feed::queue::{Item, Message};
    use crate::render::look::Look;
    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn model() -> Model {
        let now: Timestamp = "2026-11-26T10:00:00Z".parse().unwrap();
        let mut model = Model::new(&Look::new(false, TimeZone::UTC, now), false);
        for (table, action, number) in [("users", "update", 3), ("orders", "insert", 40)] {
            for key in 0..number {
                let payload = format!(
                    "{{\"table\":\"{table}\",\"schema\":\"public\",\"action\":\"{action}\",\"id\":{key},\
                     \"data\":{{\"id\":{key},\"status\":\"paid\"}}}}"
                );
                model.take(&notification(now, &payload));
            }
        }
        model
    }

    fn notification(at: Timestamp, payload: &str) -> Item {
        Item::Notification {
            at,
            message: Message::Recorded {
                channel: "cache_invalidation".to_string(),
                pid: 7,
                payload: payload.to_string(),
            },
        }
    }

    /// Returns the lines of the screen.
    fn lines(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(model, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = (0..height).map(|y| {
            let cells = (0..width).map(|x| buffer[(x, y)].symbol());
            cells.collect::<String>().trim_end().to_string()
        });
        lines.collect()
    }

    fn has(lines: &[String], text: &str) -> bool {
        lines.iter().any(|line| line.contains(text))
    }

    #[test]
    fn a_small_terminal_has_everything() {
        let mut model = model();
        model.looked = Looked {
            queue: Some(0.02),
            listeners: Some(3),
            nodes: vec![NodeLine {
                name: "web-1 \u{1b}[2J".to_string(),
                state: "live".to_string(),
                is_live: true,
                rows: 1000,
                lag: None,
            }],
            silent: 1,
            failed: None,
        };
        let lines = lines(&model, 80, 24);
        for text in [
            "pgic top  live",
            "queue 2.0 %  listeners 3  nodes 1/1 live  1 silent",
            "node  live      web-1 \\u{1b}[2J, 1000 rows",
            "table (by rate)",
            "public.orders",
            "public.users",
            "last changes",
            "insert   public.orders  39  id=39 status=paid",
            "q quit",
        ] {
            assert!(has(&lines, text), "{text}: {lines:#?}");
        }
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }

    /// Larger and smaller ones, down to one that holds nothing, are drawn as well.
    #[test]
    fn every_size_can_be_drawn() {
        let mut model = model();
        for _ in 0..2 {
            for width in [1, 2, 20, 79, 81, 200] {
                for height in [1, 2, 3, 5, 10, 25, 60] {
                    lines(&model, width, height);
                }
            }
            model.press(Key::Char('?'));
        }
    }

    #[test]
    fn keys_filter_sort_hold_and_scroll() {
        let mut model = model();
        let order = |model: &Model| -> Vec<String> {
            model.rows().iter().map(|row| row.name.clone()).collect()
        };
        model.press(Key::Char('s'));
        assert_eq!(order(&model), ["public.orders", "public.users"]);
        for key in "/USERS".chars() {
            model.press(Key::Char(key));
        }
        model.press(Key::Enter);
        assert_eq!(order(&model), ["public.users"]);
        assert_eq!(model.changes().len(), 3);
        model.press(Key::Escape);
        assert_eq!(model.changes().len(), 43);

        // Held: a change is counted, and not shown.
        model.press(Key::Char('p'));
        model.take(&notification(
            Timestamp::UNIX_EPOCH,
            "{\"table\":\"new\",\"action\":\"delete\",\"id\":1}",
        ));
        assert_eq!(model.changes().len(), 43);
        assert!(has(&lines(&model, 80, 24), "HELD"));
        let first = model.changes()[0].clone();
        model.press(Key::Down(10));
        assert!(!has(&lines(&model, 120, 24), &first));
        model.press(Key::Down(1000));
        assert_eq!(model.scrolled, 42);
        model.press(Key::Char('p'));
        assert_eq!((model.changes().len(), model.scrolled), (44, 0));
        model.press(Key::Char('c'));
        assert!(model.changes().is_empty() && model.rows().is_empty());
        assert!(!model.is_over);
        model.press(Key::Char('q'));
        assert!(model.is_over);
    }

    #[test]
    fn a_lost_connection_is_not_live() {
        let mut model = model();
        model.take(&Item::Disconnected {
            at: Timestamp::UNIX_EPOCH,
            why: "terminated \u{1b}]0;x\u{7}".to_string(),
        });
        let shown = lines(&model, 120, 24);
        assert!(
            has(&shown, "CONNECTION LOST") && has(&shown, "terminated \\u{1b}]0;x"),
            "{shown:#?}"
        );
        model.take(&Item::Resumed {
            at: Timestamp::UNIX_EPOCH,
        });
        assert!(has(&lines(&model, 80, 24), "pgic top  live"));
    }
}
