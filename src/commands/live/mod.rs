//! What a run with a load shows while it goes on: a view in a terminal, a line each second elsewhere, and how it
//! ended. Counts nothing itself.

mod frame;
mod view;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use pulsar_bridge::stack::{LoadSummary, Outcome, Watch};
use ratatui::{Terminal, TerminalOptions, Viewport};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::Output;
use frame::Camera;

/// A showing that goes on until it is ended.
pub struct Shown {
    task: Option<(JoinHandle<()>, CancellationToken)>,
    output: Output,
}

/// Shows what there is to see; nothing where no load runs.
pub fn show(watch: Watch, output: Output) -> Shown {
    let stop = CancellationToken::new();
    let task = Camera::new(watch).map(|camera| {
        let in_terminal = output == Output::Text && io::stdout().is_terminal();
        let task = match in_terminal {
            true => tokio::spawn(draw(camera, stop.clone())),
            false => tokio::spawn(tell(camera, output, stop.clone())),
        };
        (task, stop)
    });
    Shown { task, output }
}

impl Shown {
    /// Shows the last state and how it ended.
    pub async fn end(self, outcome: Option<&Outcome>) {
        let Some((task, stop)) = self.task else { return };
        stop.cancel();
        // Nothing to show any more where the terminal is gone.
        let _ = task.await;
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
async fn tell(mut camera: Camera, output: Output, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
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

async fn draw(mut camera: Camera, stop: CancellationToken) {
    let options = TerminalOptions { viewport: Viewport::Inline(view::ROWS) };
    let backend = ratatui::backend::CrosstermBackend::new(io::stdout());
    let Ok(mut terminal) = Terminal::with_options(backend, options) else {
        return tell(camera, Output::Text, stop).await;
    };
    loop {
        let ending = stop.is_cancelled();
        let frame = camera.look();
        if terminal.draw(|canvas| view::draw(canvas, &frame)).is_err() || ending {
            break;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
    // The view stays above what comes next.
    let _ = terminal.show_cursor();
    let _ = io::stdout().write_all(b"\n");
}

/// What a tunnel has to carry to be good enough: Riskfuel's 400 Mbit/s.
const LINE_MBIT_S: f64 = 400.0;
