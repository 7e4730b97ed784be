//! `bridge perf report`: what benches measured, as a Markdown table and as plots. Measures nothing.

mod plots;
mod table;

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use pulsar_bridge::exit::Exit;
use pulsar_bridge::load::results::TestResult;

use crate::cli::ReportArgs;

/// Writes `report.md` and its plots.
pub fn report(args: &ReportArgs) -> Exit {
    let results = match read(&args.results) {
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

fn read(file: &Path) -> Result<Vec<TestResult>, ReadError> {
    let mut json = Vec::new();
    if fs::File::open(file)?.take(RESULTS_LEN_MAX + 1).read_to_end(&mut json)? as u64 > RESULTS_LEN_MAX {
        return Err(ReadError::TooLong);
    }
    let mut results: Vec<TestResult> = serde_json::from_slice(&json)?;
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
    Ok(results)
}

fn write(results: &[TestResult], out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    for (name, svg) in [(THROUGHPUT, plots::throughput(results)), (CPU, plots::cpu(results))] {
        fs::write(out.join(name), svg.map_err(io::Error::other)?)?;
    }
    fs::write(out.join("report.md"), table::report(results))
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no list of results, as `cargo bench --bench relay` leaves one: {0}")]
    Json(#[from] serde_json::Error),
    #[error("larger than {RESULTS_LEN_MAX} bytes: take what `cargo bench --bench relay` leaves")]
    TooLong,
    #[error("a figure is below 0 or beyond {VALUE_MAX:e}: take what `cargo bench --bench relay` leaves")]
    Implausible,
    #[error("no result of a relay: take what `cargo bench --bench relay` leaves")]
    Nothing,
}

/// The plots' files, beside the table.
const THROUGHPUT: &str = "throughput.svg";
const CPU: &str = "cpu.svg";
const RESULTS_LEN_MAX: u64 = 64 << 20;
const VALUE_MAX: f64 = 1e12;
const PROCESSOR_LEN_MAX: usize = 100;
