//! `bridge perf broker`: a broker in memory until it is told to stop. Its service URL is the first line on stdout.

use std::io;

use pulsar_bridge::embedded::{Broker, Settings};
use pulsar_bridge::exit::Exit;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::BrokerArgs;

/// Runs a broker.
pub fn broker(args: BrokerArgs) -> Exit {
    let runtime = match super::super::runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    match runtime.block_on(serve(args)) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("bridge: perf broker: {error}");
            Exit::Unavailable
        }
    }
}

async fn serve(args: BrokerArgs) -> io::Result<Exit> {
    let settings = Settings {
        memory_max: args.memory,
        deduplication: !args.no_deduplication,
        retain: args.retain,
        ..Settings::default()
    };
    if !args.listen.ip().is_loopback() && !args.expose {
        eprintln!(
            "bridge: perf broker: it lets everybody in, and {} is not on this machine alone: listen on 127.0.0.1, \
             or say --expose",
            args.listen
        );
        return Ok(Exit::Usage);
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let broker = Broker::bind(args.listen, settings).await?;
    for (topic, count) in &args.partitions {
        if let Err(refused) = broker.create_partitioned(topic, *count) {
            eprintln!("bridge: perf broker: {refused}");
            return Ok(Exit::Usage);
        }
    }
    let said = super::super::tell(&format!("{}\n", broker.service_url()));
    if said != Exit::Done {
        return Ok(said);
    }
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    broker.run(stop).await;
    Ok(Exit::Done)
}
