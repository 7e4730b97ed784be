//! What a run with a load shows while it goes on: a view in a terminal, a line each second elsewhere, and how it
//! ended. Counts nothing itself.

mod frame;
mod view;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use pulsar_bridge::stack::{LoadSummary, Outcome, Watch};
use ratatui::{Terminal, TerminalOptions, Viewport};
use tokio::sync::oneshot;

use crate::cli::Output;
use frame::Camera;

/// A showing that goes on until it is ended. On a thread of its own: who does not read its output holds up nothing.
pub struct Shown {
    showing: Option<Showing>,
    output: Output,
}

struct Showing {
    /// Dropped to end it.
    stop: Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// Shows what there is to see; nothing where no load runs.
pub fn show(watch: Watch, output: Output) -> Shown {
    let showing = Camera::new(watch).map(|camera| {
        let in_terminal = output == Output::Text && io::stdout().is_terminal();
        let (stop, stopped) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        thread::spawn(move || {
            match in_terminal {
                true => draw(camera, &stopped),
                false => tell(camera, output, &stopped),
            }
            let _ = end.send(());
        });
        Showing { stop, ended }
    });
    Shown { showing, output }
}

impl Shown {
    /// Shows the last state and how it ended.
    pub async fn end(self, outcome: Option<&Outcome>) {
        let Some(Showing { stop, ended: last_look }) = self.showing else { return };
        drop(stop);
        // Nothing to show any more where the terminal is gone, or nobody reads.
        let _ = tokio::time::timeout(LAST_LOOK_MAX, last_look).await;
        if let (Some(Outcome::Load(summary)), Output::Text) = (outcome, self.output) {
            super::tell(&ended(summary));
        }
    }
}

fn ended(summary: &LoadSummary) -> String {
    let LoadSummary { requests, results, points, lost, repeated, wrong, seconds, mbit_s } = summary;
    format!(
        "requests {requests}  results {results}  points {points}  lost {lost}  repeated {repeated}  wrong {wrong}  \
         in {seconds:.1} s: {mbit_s:.0} Mbit/s of results relayed (the line is {LINE_MBIT_S:.0})\n"
    )
}

/// A line each second: to stdout, or where that is kept for JSON, to stderr.
fn tell(mut camera: Camera, output: Output, stop: &Receiver<()>) {
    while stop.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
        let line = view::line(&camera.look()) + "\n";
        // A reader that went away ends the showing, not the run.
        let written = match output {
            Output::Text => io::stdout().write_all(line.as_bytes()),
            Output::Json => io::stderr().write_all(line.as_bytes()),
        };
        if written.is_err() {
            return;
        }
    }
}

fn draw(mut camera: Camera, stop: &Receiver<()>) {
    let options = TerminalOptions { viewport: Viewport::Inline(view::ROWS) };
    let backend = ratatui::backend::CrosstermBackend::new(io::stdout());
    let Ok(mut terminal) = Terminal::with_options(backend, options) else {
        // Nothing but the view says it where one was expected.
        let brokers = camera.look().brokers.join(", ");
        eprintln!(
            "bridge: this terminal does not say where its cursor is: a line each second instead; brokers: {brokers}"
        );
        return tell(camera, Output::Text, stop);
    };
    let mut ending = false;
    loop {
        let frame = camera.look();
        if terminal.draw(|canvas| view::draw(canvas, &frame)).is_err() || ending {
            break;
        }
        ending = stop.recv_timeout(Duration::from_millis(500)) != Err(RecvTimeoutError::Timeout);
    }
    // The view stays above what comes next.
    let _ = terminal.show_cursor();
    let _ = io::stdout().write_all(b"\n");
}

const LAST_LOOK_MAX: Duration = Duration::from_secs(2);
/// What a tunnel has to carry to be good enough: Riskfuel's 400 Mbit/s.
const LINE_MBIT_S: f64 = 400.0;
