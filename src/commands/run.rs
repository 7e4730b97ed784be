//! `bridge run`: configuration, then what it starts until it is told to stop, then the drain. A second signal ends
//! at once, and so does a drain that outlives its deadline.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use pulsar_bridge::exit::Exit;
use pulsar_bridge::stack::{Outcome, Stack, StackError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::opened::{self, Opened};
use super::reload::Reloader;
use crate::cli::{Output, RunArgs};

/// Whether a person looks at the built-in load: then the view has the terminal.
pub fn shows_live(args: &RunArgs) -> bool {
    let built_in = matches!(super::config_file(args.config.file()), Ok(None));
    built_in && args.output == Output::Text && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Runs what the configuration says.
pub fn run(args: &RunArgs) -> Exit {
    let file = match super::config_file(args.config.file()) {
        Ok(file) => file,
        Err(exit) => return exit,
    };
    if file.is_none() {
        tracing::warn!(
            "no configuration is named (--config, $BRIDGE_CONFIG): this is the built-in demonstration, with brokers \
             in memory that keep nothing, and nothing of yours is relayed"
        );
    }
    let opened = match opened::open(file.clone(), &args.topics) {
        Ok(opened) => opened,
        Err(not) => return not.told(),
    };
    let runtime = match super::runtime_of(threads(opened.sites.len())) {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let outcome = runtime.block_on(until_stopped(opened, file, args));
    // What still runs was left behind by a drain that was cut off.
    runtime.shutdown_background();
    match outcome {
        Ok(outcome) if args.output == Output::Json => told(&outcome),
        Ok(_) => Exit::Done,
        Err(exit) => exit,
    }
}

/// One site gets a thread for every second core. Its tasks wake each other with every piece that they hand on; on two
/// threads that is a system call and another core's cache, a tenth of a relay's CPU time. One thread passes on more than
/// 5 Gbit/s.
fn threads(sites: usize) -> usize {
    let cores = super::cores();
    if sites == 1 { cores.div_ceil(2) } else { cores }
}

async fn until_stopped(mut opened: Opened, file: Option<PathBuf>, args: &RunArgs) -> Result<Outcome, Exit> {
    let stop = CancellationToken::new();
    let sites = std::mem::take(&mut opened.sites);
    #[cfg_attr(not(feature = "embedded"), expect(unused_mut, reason = "only brokers in memory are bound"))]
    let mut stack = Stack::new(
        sites,
        #[cfg(feature = "load")]
        opened.load.take(),
    );
    #[cfg(feature = "embedded")]
    stack.bind().await.map_err(cannot_run)?;
    let hands = stack.hands();
    let signals = Signals::listen().map_err(|error| {
        tracing::error!(%error, "cannot listen to signals");
        Exit::Fault
    })?;
    let hangup = signal(SignalKind::hangup()).map_err(|error| {
        tracing::error!(%error, "cannot listen to SIGHUP");
        Exit::Fault
    })?;
    tokio::spawn(obey(signals, args.run_time, stop.clone()));
    let reloader = Reloader { file, topics: args.topics.clone(), hands: hands.clone(), keys: opened.keys };
    tokio::spawn(reloader.run(hangup, stop.clone()));
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(hands.drain_time_max() + DRAIN_MARGIN).await;
    };
    #[cfg(feature = "load")]
    let shown = super::live::show(stack.watch(), args.output);
    // Losing the race loses only what the deadline was to cut off.
    let outcome = tokio::select! {
        biased;
        outcome = stack.run(stop.clone()) => outcome.map_err(cannot_run),
        () = overdue => {
            tracing::error!(seconds = hands.drain_time_max().as_secs(), "the drain did not end in time");
            Err(Exit::Fault)
        }
    };
    #[cfg(feature = "load")]
    shown.end(outcome.as_ref().ok()).await;
    outcome
}

fn cannot_run(error: StackError) -> Exit {
    tracing::error!(%error, "cannot run");
    error.exit()
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal that means "stop", as a number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}

/// Stops the site at the first signal or when its time is over; ends the process at a later one.
async fn obey(mut signals: Signals, run_time: Option<Duration>, stop: CancellationToken) {
    let over = async {
        match run_time {
            Some(run_time) => tokio::time::sleep(run_time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = signals.next() => tracing::info!("told to stop: draining; a second signal ends at once"),
        () = over => tracing::info!("the time of --for is over: draining"),
    }
    stop.cancel();
    let number = signals.next().await;
    tracing::warn!("told to stop again: ending at once");
    process::exit(SHELL_SIGNAL_BASE + number);
}

fn told(outcome: &Outcome) -> Exit {
    match serde_json::to_string(outcome) {
        Ok(line) => super::tell(&(line + "\n")),
        Err(error) => {
            eprintln!("bridge: the summary: {error}");
            Exit::Fault
        }
    }
}

/// What a site may take beyond its own deadline to close what it has.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// How shells report a process that a signal ended.
const SHELL_SIGNAL_BASE: i32 = 128;
