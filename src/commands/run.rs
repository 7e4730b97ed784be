//! `bridge run`: configuration, then the site until it is told to stop, then its drain. A second signal ends
//! at once, and so does a drain that outlives its deadline.

use std::io;
use std::process;
use std::time::Duration;

use pulsar_bridge::config::{self, ConfigErrors};
use pulsar_bridge::exit::Exit;
use pulsar_bridge::site::{Site, Summary};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Output, RunArgs};

/// Runs this site's bridge.
pub fn run(args: &RunArgs) -> Exit {
    let (site, runtime) = match opened(args).and_then(|site| Ok((site, super::runtime()?))) {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    let outcome = runtime.block_on(until_stopped(site, args.run_time));
    // What still runs was left behind by a drain that was cut off.
    runtime.shutdown_background();
    match outcome {
        Ok(summary) if args.output == Output::Json => told(&summary),
        Ok(_) => Exit::Done,
        Err(exit) => exit,
    }
}

fn opened(args: &RunArgs) -> Result<Site, Exit> {
    let file = super::config_file(args.config.file())?;
    let refused = |errors: ConfigErrors| {
        eprintln!("bridge: {errors}");
        Exit::Refused
    };
    let mut config = config::load(&file).map_err(refused)?;
    if !args.topics.is_empty() {
        config.keep_topics(&args.topics).map_err(|error| {
            eprintln!("bridge: --topics: {error}");
            Exit::Usage
        })?;
    }
    Site::open(config).map_err(|problems| refused(ConfigErrors { file, problems, files_opened: true }))
}

async fn until_stopped(site: Site, run_time: Option<Duration>) -> Result<Summary, Exit> {
    let stop = CancellationToken::new();
    let drain_time_max = site.config().drain + DRAIN_MARGIN;
    let signals = Signals::listen().map_err(|error| {
        tracing::error!(%error, "cannot listen to signals");
        Exit::Fault
    })?;
    tokio::spawn(obey(signals, run_time, stop.clone()));
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(drain_time_max).await;
    };
    // Losing the race loses only what the deadline was to cut off.
    tokio::select! {
        biased;
        outcome = site.run(stop.clone()) => outcome.map_err(|error| {
            tracing::error!(%error, "cannot run");
            error.exit()
        }),
        () = overdue => {
            tracing::error!(seconds = drain_time_max.as_secs(), "the drain did not end in time");
            Err(Exit::Fault)
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal that means "stop", as a number.
    async fn next(&mut self) -> i32 {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return SignalKind::terminate().as_raw_value(),
                _ = self.interrupt.recv() => return SignalKind::interrupt().as_raw_value(),
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP: this version does not reload; restart to read the configuration again");
                }
            }
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

fn told(summary: &Summary) -> Exit {
    match serde_json::to_string(summary) {
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
