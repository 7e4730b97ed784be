//! `bridge perf report`: what benches measured, as a Markdown table and as plots; a long run's minutes as plots.
//! Measures nothing.

mod minutes;
mod plots;
mod table;

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use pulsar_bridge::exit::Exit;
use pulsar_bridge::load::results::TestResult;

use crate::cli::ReportArgs;
use minutes::Minute;

/// Writes `report.md` and its plots, or a long run's plots.
pub fn report(args: &ReportArgs) -> Exit {
    let is_lines = args.results.extension().is_some_and(|extension| extension == "jsonl");
    let read = if is_lines { read_lines(&args.results) } else { read(&args.results) };
    let results = match read {
        Ok(results) => results,
        Err(error) => {
            eprintln!("bridge: perf report: {}: {error}", args.results.display());
            return Exit::Usage;
        }
    };
    match write(&results, &args.out) {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("bridge: perf report: {}: {error}", args.out.display());
            if error.kind() == io::ErrorKind::PermissionDenied { Exit::NotPermitted } else { Exit::Fault }
        }
    }
}

/// What there is to report.
enum Results {
    Benches(Vec<TestResult>),
    Minutes(Vec<Minute>),
}

fn read_lines(file: &Path) -> Result<Results, ReadError> {
    let minutes = minutes::minutes(&text(file)?)?;
    if minutes.is_empty() {
        return Err(ReadError::Nothing);
    }
    if !minutes.iter().all(|minute| minute.is_plausible(VALUE_MAX)) {
        return Err(ReadError::Implausible);
    }
    Ok(Results::Minutes(minutes))
}

fn text(file: &Path) -> Result<String, ReadError> {
    let mut text = String::new();
    if fs::File::open(file)?.take(RESULTS_LEN_MAX + 1).read_to_string(&mut text)? as u64 > RESULTS_LEN_MAX {
        return Err(ReadError::TooLong);
    }
    Ok(text)
}

fn read(file: &Path) -> Result<Results, ReadError> {
    let mut results: Vec<TestResult> = serde_json::from_str(&text(file)?)?;
    for relayed in results.iter_mut().filter_map(|result| result.bridge.as_mut()) {
        let cpu = relayed.cpu_seconds_per_gb.iter().flat_map(|cpu| [cpu.hub, cpu.edge]);
        let plotted =
            cpu.chain([relayed.mbit_per_second]).flat_map(|spread| [spread.min, spread.median, spread.max]);
        if !plotted.into_iter().all(|value| (0.0..VALUE_MAX).contains(&value)) {
            return Err(ReadError::Implausible);
        }
        // It stands in Markdown.
        relayed.machine.processor.retain(|c| c.is_ascii_alphanumeric() || " ()@.-_/".contains(c));
        relayed.machine.processor.truncate(PROCESSOR_LEN_MAX);
    }
    if results.iter().all(|result| result.bridge.is_none()) {
        return Err(ReadError::Nothing);
    }
    Ok(Results::Benches(results))
}

fn write(results: &Results, out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    let plots = match results {
        Results::Benches(results) => [(THROUGHPUT, plots::throughput(results)), (CPU, plots::cpu(results))],
        Results::Minutes(minutes) => {
            [(LATENCY, minutes::latency(minutes)), (MEMORY, minutes::memory(minutes))]
        }
    };
    for (name, svg) in plots {
        fs::write(out.join(name), svg.map_err(io::Error::other)?)?;
    }
    match results {
        Results::Benches(results) => fs::write(out.join("report.md"), table::report(results)),
        // Who measured wrote its own.
        Results::Minutes(_) => Ok(()),
    }
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not what `cargo bench --bench relay` or, as *.jsonl, `testbed/long/hour` leaves: {0}")]
    Json(#[from] serde_json::Error),
    #[error("larger than {RESULTS_LEN_MAX} bytes: take what a measurement leaves")]
    TooLong,
    #[error("a figure is below 0 or beyond {VALUE_MAX:e}: take what a measurement leaves")]
    Implausible,
    #[error("no result of a relay: take what a measurement leaves")]
    Nothing,
}

/// The plots' files, beside the table.
const THROUGHPUT: &str = "throughput.svg";
const CPU: &str = "cpu.svg";
/// A long run's.
const LATENCY: &str = "latency.svg";
const MEMORY: &str = "memory.svg";
const RESULTS_LEN_MAX: u64 = 64 << 20;
const VALUE_MAX: f64 = 1e12;
const PROCESSOR_LEN_MAX: usize = 100;
