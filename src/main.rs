//! The binary `bridge`: arguments, logs, the command, its exit code.

mod cli;
mod commands;
mod logs;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use pulsar_bridge::exit::Exit;

use crate::cli::{Cli, Command};

/// Buffers of a quarter of a megabyte come and go with each read. glibc gives their pages back to the kernel and asks
/// for them anew, which is a fifth of a relay's CPU time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = logs::start(cli.log_format, default_level(&cli.command)) {
        eprintln!("bridge: {error}");
        return Exit::Usage.into();
    }
    let exit = match cli.command {
        Command::Run(args) => commands::run(&args),
        Command::Init(args) => commands::init(args),
        Command::Check(args) => commands::check(&args),
        Command::Status(args) => commands::status(&args),
        Command::Kubeconfig(args) => commands::kubeconfig(&args),
        Command::Replay(args) => commands::replay(&args),
        #[cfg(any(feature = "embedded", feature = "load"))]
        Command::Perf(verb) => commands::perf(verb),
        Command::Completions { shell } => commands::completions(shell),
    };
    exit.into()
}

/// A live view and log lines in one terminal spoil each other: there only errors are logged, and why a broker in memory
/// stands still; the view itself says what waits.
fn default_level(command: &Command) -> &'static str {
    let live = matches!(command, Command::Run(args) if commands::shows_live(args));
    if live { "error,embedded=warn" } else { "info" }
}
