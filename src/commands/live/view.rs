//! How a look at a run is drawn: lines for a terminal of any width, and one line for everything else.

use std::time::Duration;

use ratatui::Frame as Canvas;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

use super::LINE_MBIT_S;
use super::frame::Frame;

/// How high the view is.
pub const ROWS: u16 = 8;

/// Draws a look; a wide terminal also gets the last minute.
pub fn draw(canvas: &mut Canvas<'_>, frame: &Frame) {
    let area = canvas.area();
    if area.width < WIDE {
        return canvas.render_widget(Paragraph::new(lines(frame, area.width)), area);
    }
    let [left, right] = Layout::horizontal([Constraint::Length(WIDE - 38), Constraint::Fill(1)]).areas(area);
    canvas.render_widget(Paragraph::new(lines(frame, left.width)), left);
    let [title, graph] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(right);
    let width = usize::from(graph.width).min(frame.past.len());
    let past = &frame.past[frame.past.len() - width..];
    let highest = past.iter().copied().max().unwrap_or_default().max(LINE_MBIT_S as u64);
    let label = format!("results, last minute, up to {highest} Mbit/s");
    canvas.render_widget(Line::from(label).dim(), title);
    canvas.render_widget(Sparkline::default().data(past).max(highest).style(colour(frame)), graph);
}

fn lines(frame: &Frame, width: u16) -> Vec<Line<'static>> {
    let Frame { load, .. } = frame;
    let seconds = frame.elapsed.as_secs();
    let clock = format!("{:02}:{:02}", seconds / 60, seconds % 60);
    let title = Line::from(vec![Span::from("bridge ").bold(), Span::from(clock).dim()]);
    let mut requests = format!("requests  {} sent", grouped(load.requests));
    let mut results = "results   ".to_owned();
    if frame.relays {
        requests += &format!(
            "  {} relayed  lag {}  {:.1} Mbit/s",
            grouped(frame.requests_relayed),
            grouped(load.requests.saturating_sub(frame.requests_relayed)),
            frame.requests_mbit_s
        );
        results += &format!("{} relayed  ", grouped(frame.results_relayed));
    } else {
        requests += &format!("  {} served", grouped(load.served));
    }
    results += &format!(
        "{} checked  {} points  {:.0} Mbit/s",
        grouped(load.answered),
        grouped(load.points),
        frame.results_mbit_s
    );
    let answers = format!(
        "latency   p50 {}  p99 {}  unanswered {}  all answered in {}",
        short(load.p50),
        short(load.p99),
        grouped(frame.unanswered()),
        frame.eta().map_or("–".into(), short),
    );
    let faults =
        format!("faults    wrong {}  repeated {}  refused {}", load.wrong, load.repeated, load.refused);
    let faulty = load.wrong + load.repeated + load.refused > 0;
    let note = match frame.waiting.first() {
        Some(first) => Line::from(format!("waits     {first}")).yellow(),
        None => Line::from(format!("brokers   {}", frame.brokers.join("  "))).dim(),
    };
    vec![
        title,
        Line::from(requests),
        Line::from(results),
        bar(frame, width),
        Line::from(answers),
        if faulty { Line::from(faults).red() } else { Line::from(faults).dim() },
        note,
    ]
}

/// Results in Mbit/s as a bar, with the line at 400.
fn bar(frame: &Frame, width: u16) -> Line<'static> {
    let room = usize::from(width).saturating_sub(BAR_INDENT + BAR_LABEL);
    let scale = (2.5 * LINE_MBIT_S).max(frame.results_mbit_s);
    let at = |mbit_s: f64| ((mbit_s / scale * room as f64) as usize).min(room);
    let (filled, line) = (at(frame.results_mbit_s), at(LINE_MBIT_S));
    let cell = |nth: usize| match nth {
        _ if nth == line => '│',
        _ if nth < filled => '█',
        _ => '·',
    };
    let cells: String = (0..room).map(cell).collect();
    Line::from(vec![
        Span::from(" ".repeat(BAR_INDENT)),
        Span::styled(cells, colour(frame)),
        Span::from(" │ 400").dim(),
    ])
}

fn colour(frame: &Frame) -> Style {
    let enough = frame.results_mbit_s >= LINE_MBIT_S;
    Style::new().fg(if enough { Color::Green } else { Color::Yellow })
}

/// One line, for files and pipes.
pub fn line(frame: &Frame) -> String {
    let load = &frame.load;
    if !frame.relays {
        return line_of_load(frame);
    }
    let eta = frame.eta().map_or("-".into(), short);
    let mut line = format!(
        "{:.0} s  sent {}  relayed {}  lag {}  {:.1} Mbit/s | results relayed {}  checked {}  points {}  \
         {:.0} Mbit/s (line {LINE_MBIT_S:.0}) | p50 {}  p99 {}  unanswered {}  eta {eta}",
        frame.elapsed.as_secs_f64(),
        load.requests,
        frame.requests_relayed,
        load.requests.saturating_sub(frame.requests_relayed),
        frame.requests_mbit_s,
        frame.results_relayed,
        load.answered,
        load.points,
        frame.results_mbit_s,
        short(load.p50),
        short(load.p99),
        frame.unanswered(),
    );
    if load.wrong + load.repeated + load.refused > 0 {
        line += &format!(" | wrong {}  repeated {}  refused {}", load.wrong, load.repeated, load.refused);
    }
    if let Some(first) = frame.waiting.first() {
        line += &format!(" | waits: {first}");
    }
    line
}

/// The line of a requester or a worker by itself: what is relayed elsewhere is not known here.
fn line_of_load(frame: &Frame) -> String {
    let load = &frame.load;
    let mut line = format!("{:.0} s", frame.elapsed.as_secs_f64());
    if load.requests > 0 {
        line += &format!(
            "  sent {}  checked {}  points {}  {:.0} Mbit/s | p50 {}  p99 {}  unanswered {}  wrong {}  repeated {}",
            load.requests,
            load.answered,
            load.points,
            frame.results_mbit_s,
            short(load.p50),
            short(load.p99),
            frame.unanswered(),
            load.wrong,
            load.repeated,
        );
    }
    if load.served + load.refused > 0 {
        line += &format!("  served {}  refused {}", load.served, load.refused);
    }
    if load.requests + load.served + load.refused == 0 {
        line += "  nothing to do yet";
    }
    line
}

fn short(time: Duration) -> String {
    match time.as_secs_f64() {
        0.0 => "–".into(),
        seconds if seconds >= 100.0 => format!("{seconds:.0} s"),
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut grouped = digits[..first].to_owned();
    for at in (first..digits.len()).step_by(3) {
        if !grouped.is_empty() {
            grouped.push(',');
        }
        grouped += &digits[at..at + 3];
    }
    grouped
}

/// From this width on the last minute stands beside the lines.
const WIDE: u16 = 118;
const BAR_INDENT: usize = 10;
const BAR_LABEL: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use pulsar_bridge::load::figures::Snapshot;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn frame() -> Frame {
        Frame {
            elapsed: Duration::from_secs(83),
            load: Snapshot {
                requests: 1_234_567,
                answered: 1_234_311,
                points: 631_967_232,
                p50: Duration::from_micros(12_345),
                p99: Duration::from_micros(1_400_000),
                ..Snapshot::default()
            },
            relays: true,
            requests_relayed: 1_234_500,
            results_relayed: 1_234_320,
            requests_mbit_s: 3.2,
            results_mbit_s: 812.0,
            past: vec![100, 500, 812],
            answers_s: 1280.0,
            brokers: vec!["riskfuel pulsar://127.0.0.1:6650".into(), "bank pulsar://127.0.0.1:6750".into()],
            waiting: Vec::new(),
        }
    }

    fn drawn(frame: &Frame, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, ROWS)).unwrap();
        terminal.draw(|canvas| draw(canvas, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
        (0..ROWS).map(row).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nothing_is_cut_off_at_80_columns() {
        let drawn = drawn(&frame(), 80);
        for wanted in [
            "01:23",
            "1,234,567 sent  1,234,500 relayed  lag 67  3.2 Mbit/s",
            "1,234,311 checked  631,967,232 points  812 Mbit/s",
            "p50 12.3 ms  p99 1.4 s  unanswered 256  all answered in 200.0 ms",
            "│ 400",
            "bank pulsar://127.0.0.1:6750",
        ] {
            assert!(drawn.contains(wanted), "{wanted} is not in\n{drawn}");
        }
    }

    #[test]
    fn a_wide_terminal_shows_the_last_minute_too() {
        let drawn = drawn(&frame(), 140);
        assert!(drawn.contains("results, last minute, up to 812 Mbit/s"), "{drawn}");
        assert!(drawn.contains("bank pulsar://127.0.0.1:6750"), "{drawn}");
    }

    #[test]
    fn a_pipe_gets_one_line_with_everything() {
        let line = line(&frame());
        assert!(!line.contains('\n'));
        assert!(line.starts_with("83 s  sent 1234567  relayed 1234500  lag 67  3.2 Mbit/s | "), "{line}");
        assert!(line.contains("812 Mbit/s (line 400) | p50 12.3 ms"), "{line}");
    }

    #[test]
    fn who_runs_without_a_site_does_not_tell_what_is_relayed() {
        let requester = line(&Frame { relays: false, ..frame() });
        let wanted = "83 s  sent 1234567  checked 1234311  points 631967232  812 Mbit/s | p50 12.3 ms  p99 1.4 s  unanswered 256";
        assert!(requester.starts_with(wanted), "{requester}");
        let served = Snapshot { served: 3, ..Snapshot::default() };
        let worker = Frame { relays: false, load: served, ..frame() };
        assert_eq!(line(&worker), "83 s  served 3  refused 0");
        let idle = Frame { load: Snapshot::default(), ..worker.clone() };
        assert_eq!(line(&idle), "83 s  nothing to do yet");
        let view = drawn(&worker, 80);
        assert!(view.contains("3 served") && !view.contains("relayed"), "{view}");
    }
}
