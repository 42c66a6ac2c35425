//! Draws a history: nothing but what it says decides what is drawn.

use std::time::Duration;

use nvme_core::ana::AnaState;
use nvme_core::controller::State;
use nvme_mpath::{ControllerSnapshot, HeadSnapshot, HeadState, PathSnapshot, Snapshot};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Gauge, Paragraph, Sparkline};

use super::history::History;
use crate::meter::Sample;
use crate::size::human;
use crate::terminal::{grouped, latency};

const GOOD: Color = Color::Green;
const MIDDLING: Color = Color::Yellow;
const BAD: Color = Color::Red;
const FAINT: Style = Style::new().fg(Color::DarkGray);

/// Columns of a path: its address gets what is left.
const COLUMNS: [Constraint; 9] = [
    Constraint::Length(2),
    Constraint::Min(20),
    Constraint::Length(18),
    Constraint::Length(16),
    Constraint::Length(9),
    Constraint::Length(9),
    Constraint::Length(9),
    Constraint::Length(9),
    Constraint::Length(26),
];

/// Draws what `history` says, and what a load does if there is one.
pub fn draw(frame: &mut Frame<'_>, history: &History, load: Option<&Sample>) {
    let Some(now) = history.now() else { return };
    let lonely: Vec<&ControllerSnapshot> =
        now.controllers.iter().filter(|c| !has_path(now, c)).collect();
    let mut heights = vec![Constraint::Length(2)];
    heights.extend(now.heads.iter().map(|h| Constraint::Length(head_height(h))));
    let lonely_height = if lonely.is_empty() { 0 } else { lonely.len() as u16 + 2 };
    heights.extend([Constraint::Length(lonely_height), Constraint::Min(4)]);
    let areas = Layout::vertical(heights).split(frame.area());
    title(frame, areas[0], history, now, load);
    for (head, area) in now.heads.iter().zip(&areas[1..]) {
        draw_head(frame, *area, history, now, head);
    }
    let rest = &areas[1 + now.heads.len()..];
    if !lonely.is_empty() {
        controllers(frame, rest[0], &lonely);
    }
    let below =
        Layout::horizontal([Constraint::Percentage(35), Constraint::Min(30)]).split(rest[1]);
    pins(frame, below[0], now);
    events(frame, below[1], history);
}

fn has_path(now: &Snapshot, controller: &ControllerSnapshot) -> bool {
    now.heads.iter().flat_map(|h| &h.paths).any(|p| p.controller == controller.id)
}

fn title(
    frame: &mut Frame<'_>,
    area: Rect,
    history: &History,
    now: &Snapshot,
    load: Option<&Sample>,
) {
    let up = now.at.saturating_sub(history.begun());
    let name = Span::styled("nvmeh watch", Style::new().add_modifier(Modifier::BOLD));
    let counts = format!(
        "  {:.1} s   {} subsystem(s), {} controller(s), {} head(s), {} pin(s), {} at most   q quits",
        up.as_secs_f64(),
        now.subsystems.len(),
        now.controllers.len(),
        now.heads.len(),
        now.pins.len(),
        now.pins_peak,
    );
    let mut lines = vec![Line::from(vec![name, Span::raw(counts)])];
    lines.push(match load {
        Some(sample) if sample.bad > 0 => {
            Line::styled(format!("load, verified: {sample}"), Style::new().fg(BAD))
        }
        Some(sample) => Line::from(format!("load, verified: {sample}")),
        None => Line::styled("no load of our own (--load)", FAINT),
    });
    frame.render_widget(Paragraph::new(lines), area);
}

const fn pending(head: &HeadSnapshot) -> bool {
    matches!(head.state, HeadState::RemovalPending { .. })
}

fn head_height(head: &HeadSnapshot) -> u16 {
    // Borders, the counts, the names of columns, the paths, the countdown.
    4 + head.paths.len() as u16 + pending(head) as u16
}

fn draw_head(
    frame: &mut Frame<'_>,
    area: Rect,
    history: &History,
    now: &Snapshot,
    head: &HeadSnapshot,
) {
    let usable = head.paths.iter().any(|p| p.usable);
    let (color, state) = match &head.state {
        HeadState::Live if usable => (GOOD, "live"),
        HeadState::Live => (MIDDLING, "live, no usable path"),
        other => (BAD, other.name()),
    };
    let title = Line::from(vec![
        Span::styled(format!(" {} ", head.name), Style::new().add_modifier(Modifier::BOLD)),
        Span::styled(format!("{state} "), Style::new().fg(color)),
    ]);
    let block = Block::bordered().border_type(BorderType::Rounded).border_style(color).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let mut heights = vec![Constraint::Length(1)];
    heights.extend(pending(head).then_some(Constraint::Length(1)));
    heights.extend(std::iter::repeat_n(Constraint::Length(1), 1 + head.paths.len()));
    let lines = Layout::vertical(heights).split(inner);
    frame.render_widget(Paragraph::new(counts(head)), lines[0]);
    let mut lines = &lines[1..];
    if pending(head) {
        countdown(frame, lines[0], &head.state);
        lines = &lines[1..];
    }
    let names = ["", "path", "controller", "ANA", "IOPS", "flight", "p50", "p99", "latency"];
    let columns = Layout::horizontal(COLUMNS).spacing(1).split(lines[0]);
    for (name, column) in names.into_iter().zip(columns.iter()) {
        frame.render_widget(Paragraph::new(Line::styled(name, FAINT)), *column);
    }
    for (path, line) in head.paths.iter().zip(&lines[1..]) {
        draw_path(frame, *line, history, now, path);
    }
}

fn counts(head: &HeadSnapshot) -> Line<'static> {
    let s = &head.stats;
    let size = human(head.blocks.saturating_mul(head.block_size.into()));
    let mut spans = vec![Span::raw(format!("{size}, {}   ", head.policy))];
    let errors = head.errors.iter().map(|e| e.count).sum::<u64>();
    for (name, count, color) in [
        ("parked", s.parked_now, Some(MIDDLING)),
        ("held", s.held_now, Some(MIDDLING)),
        ("failovers", s.failovers, None),
        ("retries", s.retries, None),
        ("lost", s.lost, None),
        ("errors", errors, None),
        ("no path", s.failed_no_path, Some(BAD)),
    ] {
        let style = match color {
            Some(color) if count > 0 => Style::new().fg(color).add_modifier(Modifier::BOLD),
            _ if count == 0 => FAINT,
            _ => Style::new(),
        };
        spans.push(Span::styled(format!("{name} {}   ", grouped(count)), style));
    }
    Line::from(spans)
}

/// The time that is left of the window.
fn countdown(frame: &mut Frame<'_>, area: Rect, state: &HeadState) {
    let HeadState::RemovalPending { cause, lost_for, remaining } = state else { return };
    let (ratio, text) = match remaining {
        Some(left) => {
            let all = (*left + *lost_for).as_secs_f64();
            let ratio = if all > 0.0 { left.as_secs_f64() / all } else { 0.0 };
            (ratio, format!("{cause}: removal in {:.1} s", left.as_secs_f64()))
        }
        None => (1.0, format!("{cause}: waits for a path without end")),
    };
    let gauge = Gauge::default().ratio(ratio.clamp(0.0, 1.0)).label(text);
    frame.render_widget(gauge.gauge_style(Style::new().fg(BAD).bg(Color::Black)), area);
}

fn draw_path(
    frame: &mut Frame<'_>,
    area: Rect,
    history: &History,
    now: &Snapshot,
    path: &PathSnapshot,
) {
    let columns = Layout::horizontal(COLUMNS).spacing(1).split(area);
    let (mark, color) = match path.usable {
        true if path.marginal => ("◐", MIDDLING),
        true => ("●", GOOD),
        false => ("○", BAD),
    };
    let controller = now.controller(path.controller);
    let state = controller.map_or(Line::raw("gone"), state_line);
    let ana = match path.ana {
        AnaState::Optimized => Style::new(),
        AnaState::NonOptimized => Style::new().fg(MIDDLING),
        _ => Style::new().fg(BAD),
    };
    let trend = history.trend(path.controller);
    let iops = trend.and_then(|t| t.iops.back()).copied().unwrap_or(0);
    let time =
        |t: Option<Duration>| t.filter(|t| !t.is_zero()).map_or_else(|| "-".to_owned(), latency);
    let mut address = vec![Span::raw(path.address.clone())];
    if path.held > 0 {
        address.push(Span::styled(format!(" {} held", path.held), Style::new().fg(MIDDLING)));
    }
    for (column, text) in columns.iter().zip([
        Line::styled(mark, Style::new().fg(color)),
        Line::from(address),
        state,
        Line::styled(path.ana.name(), ana),
        Line::raw(grouped(iops)).right_aligned(),
        Line::raw(grouped(controller.map_or(0, |c| c.in_flight))).right_aligned(),
        Line::raw(time(trend.map(|t| t.p50))).right_aligned(),
        Line::raw(time(trend.map(|t| t.p99))).right_aligned(),
    ]) {
        frame.render_widget(Paragraph::new(text), *column);
    }
    if let Some(trend) = trend {
        let room = usize::from(columns[8].width);
        let skip = trend.latency.len().saturating_sub(room);
        let points: Vec<u64> = trend.latency.iter().skip(skip).copied().collect();
        frame.render_widget(Sparkline::default().data(points).style(color), columns[8]);
    }
}

fn state_line(c: &ControllerSnapshot) -> Line<'static> {
    let color = match c.state {
        State::Live => GOOD,
        State::New | State::Connecting | State::Resetting => MIDDLING,
        _ => BAD,
    };
    let age = format!(" {:.0} s", c.state_for.as_secs_f64());
    Line::from(vec![Span::styled(c.state.name(), Style::new().fg(color)), Span::styled(age, FAINT)])
}

/// Controllers that are no path at the moment.
fn controllers(frame: &mut Frame<'_>, area: Rect, list: &[&ControllerSnapshot]) {
    let line = |c: &&ControllerSnapshot| {
        let mut spans = vec![Span::raw(format!("{}  ", c.address))];
        spans.extend(state_line(c).spans);
        spans.push(Span::raw(format!("  {}", c.last_error.as_deref().unwrap_or(""))));
        Line::from(spans)
    };
    let block =
        Block::bordered().border_type(BorderType::Rounded).title(" controllers without a path ");
    let lines: Vec<Line<'_>> = list.iter().map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(block.border_style(MIDDLING)), area);
}

fn pins(frame: &mut Frame<'_>, area: Rect, now: &Snapshot) {
    let line = |pin: &nvme_mpath::PinSnapshot| {
        let age = Span::styled(format!("{:5.1} s ", pin.held_for.as_secs_f64()), FAINT);
        Line::from(vec![age, Span::raw(pin.holder.clone())])
    };
    let mut lines: Vec<Line<'_>> = now.pins.iter().map(line).collect();
    if lines.is_empty() {
        lines.push(Line::styled("none", FAINT));
    }
    let block = Block::bordered().border_type(BorderType::Rounded).title(" pins, by holder ");
    let text = Paragraph::new(lines).wrap(ratatui::widgets::Wrap { trim: true });
    frame.render_widget(text.block(block), area);
}

fn events(frame: &mut Frame<'_>, area: Rect, history: &History) {
    let room = usize::from(area.height.saturating_sub(2));
    let line = |h: &super::Happening| {
        let at = h.at.saturating_sub(history.begun()).as_secs_f64();
        Line::from(vec![
            Span::styled(format!("{at:7.2} s "), FAINT),
            Span::styled(format!("{} ", h.who), Style::new().fg(Color::Cyan)),
            Span::raw(h.text.clone()),
        ])
    };
    let mut lines: Vec<Line<'_>> = history.events().rev().take(room).map(line).collect();
    lines.reverse();
    let block = Block::bordered().border_type(BorderType::Rounded).title(" events ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
