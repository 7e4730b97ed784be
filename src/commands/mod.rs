//! What the binary can do, a file for each verb. Results go to stdout, everything else to stderr.

mod check;
mod completions;
mod init;
#[cfg(feature = "embedded")]
mod perf;
mod run;
mod status;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pulsar_bridge::exit::Exit;
use tokio::runtime::Runtime;

pub use check::check;
pub use completions::completions;
pub use init::init;
#[cfg(feature = "embedded")]
pub use perf::perf;
pub use run::run;
pub use status::status;

/// The configuration's file: the argument's, else the environment's.
fn config_file(argument: Option<&Path>) -> Result<PathBuf, Exit> {
    if let Some(file) = argument {
        return Ok(file.to_owned());
    }
    match env::var_os("BRIDGE_CONFIG") {
        Some(file) if !file.is_empty() => Ok(file.into()),
        Some(_) | None => {
            eprintln!("{NO_CONFIG}");
            Err(Exit::Refused)
        }
    }
}

/// Writes a result. A reader that went away is no fault of ours.
fn tell(text: &str) -> Exit {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            eprintln!("bridge: stdout: {error}");
            Exit::Fault
        }
    }
}

fn runtime() -> Result<Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        eprintln!("bridge: cannot start threads: {error}");
        Exit::Fault
    })
}

const NO_CONFIG: &str = "\
bridge: no configuration: give --config FILE or set BRIDGE_CONFIG
  this version has no built-in one; `bridge init` makes the configurations of a hub and its edges";
