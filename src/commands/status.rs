//! `bridge status`: asks a running bridge and shows what it tells.

use std::io::{self, IsTerminal};
use std::time::Duration;

use pulsar_bridge::admin::client::{self, AskError};
use pulsar_bridge::admin::report::Status;
use pulsar_bridge::admin::table;
use pulsar_bridge::exit::Exit;

use crate::cli::{Output, StatusArgs};

/// Shows the status, once or until it is interrupted.
pub fn status(args: &StatusArgs) -> Exit {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    if args.watch {
        return runtime.block_on(watch(args));
    }
    match runtime.block_on(client::status(&args.admin)) {
        Ok(status) => super::tell(&shown(&status, args.output)),
        Err(error) => {
            eprintln!("bridge: {error}");
            exit(&error)
        }
    }
}

async fn watch(args: &StatusArgs) -> Exit {
    let clear = if io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        match client::status(&args.admin).await {
            Ok(status) => {
                let told = super::tell(&format!("{clear}{}", shown(&status, args.output)));
                if told != Exit::Done {
                    return told;
                }
            }
            Err(error @ AskError::Url(_)) => {
                eprintln!("bridge: {error}");
                return exit(&error);
            }
            // It may be restarting: whoever watches wants to see it come back.
            Err(error) => eprintln!("{clear}bridge: {error}"),
        }
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return if interrupted.is_ok() { Exit::Done } else { Exit::Fault },
            () = tokio::time::sleep(WATCH_DELAY) => {}
        }
    }
}

fn shown(status: &Status, output: Output) -> String {
    match output {
        Output::Text => table::render(status),
        Output::Json => serde_json::to_string(status).unwrap_or_default() + "\n",
    }
}

fn exit(error: &AskError) -> Exit {
    match error {
        AskError::Url(_) => Exit::Usage,
        AskError::Unreachable { .. } | AskError::Foreign { .. } => Exit::Unavailable,
    }
}

const WATCH_DELAY: Duration = Duration::from_secs(2);
/// Erases the terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";
