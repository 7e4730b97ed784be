//! What the binary can do, a file for each verb. Results go to stdout, everything else to stderr.

mod check;
mod completions;
mod init;
mod kernel;
mod kubeconfig;
#[cfg(feature = "load")]
mod live;
mod opened;
#[cfg(any(feature = "embedded", feature = "load"))]
mod perf;
mod reload;
mod replay;
mod run;
mod status;

use std::env;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use pulsar_bridge::exit::Exit;
use tokio::runtime::Runtime;

pub use check::check;
pub use completions::completions;
pub use init::init;
pub use kubeconfig::kubeconfig;
#[cfg(any(feature = "embedded", feature = "load"))]
pub use perf::perf;
pub use replay::replay;
pub use run::{run, shows_live};
pub use status::status;

/// The configuration's file: the argument's, else the environment's; without both there is the built-in one. A
/// variable that is set and says nothing is a mistake in a unit or a chart, and shall start no demonstration.
fn config_file(argument: Option<&Path>) -> Result<Option<PathBuf>, Exit> {
    let file = argument.map(Path::to_owned).or_else(|| env::var_os("BRIDGE_CONFIG").map(PathBuf::from));
    if file.as_ref().is_some_and(|file| file.as_os_str().is_empty()) {
        eprintln!(
            "bridge: $BRIDGE_CONFIG is empty: name a file, or unset it to run the built-in demonstration"
        );
        return Err(Exit::Refused);
    }
    Ok(file)
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
    runtime_of(cores())
}

/// Cores that this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn runtime_of(threads: usize) -> Result<Runtime, Exit> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build().map_err(|error| {
        eprintln!("bridge: cannot start threads: {error}");
        Exit::Fault
    })
}
