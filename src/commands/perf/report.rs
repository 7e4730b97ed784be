//! `bridge perf report`: what benches measured, as a Markdown table and as plots. Measures nothing.

mod plots;
mod table;

use std::fs;
use std::io;
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
    let results: Vec<TestResult> = serde_json::from_slice(&fs::read(file)?)?;
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
    #[error("no result of a relay: take what `cargo bench --bench relay` leaves")]
    Nothing,
}

/// The plots' files, beside the table.
const THROUGHPUT: &str = "throughput.svg";
const CPU: &str = "cpu.svg";
