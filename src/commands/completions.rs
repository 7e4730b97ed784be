//! `bridge completions`: a script for a shell, made of the arguments.

use clap::CommandFactory;
use clap_complete::Shell;
use pulsar_bridge::exit::Exit;

use crate::cli::Cli;

/// Prints the script.
pub fn completions(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bridge", &mut script);
    super::tell(&String::from_utf8_lossy(&script))
}
