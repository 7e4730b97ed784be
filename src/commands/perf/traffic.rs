//! `bridge perf produce`, `consume` and `relay`: traffic of all partitions of a topic, a line for each interval, and
//! what it came to. The traffic itself is in `load`.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use pulsar_bridge::exit::Exit;
use pulsar_bridge::load;
use pulsar_bridge::load::consume::{Consume, Tally};
use pulsar_bridge::load::meter::{Meter, Reading};
use pulsar_bridge::load::produce::Produce;
use pulsar_bridge::pulsar::client::Client;
use pulsar_bridge::pulsar::connection::ConnectionError;
use pulsar_bridge::pulsar::topic::TopicName;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lines::{self, Side};
use crate::cli::{
    ConsumeArgs, MeasureArgs, Output, ProduceArgs, RelayArgs, SubscriptionPosition, SubscriptionType,
    TrafficArgs,
};

/// Why a measurement came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The broker, or the way to it.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The URL.
    #[error(transparent)]
    Transport(#[from] pulsar_bridge::pulsar::transport::TransportError),
    /// Signals.
    #[error("cannot listen to signals: {0}")]
    Signals(#[from] std::io::Error),
    /// Nothing is relayed.
    #[error("nothing of {0} arrives: see `bridge status` of both sites for the route that carries it")]
    NoRoute(String),
    /// A task.
    #[error("a part of the measurement ended by itself: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Runs a measurement to its end.
pub fn run(measurement: impl Future<Output = Result<Exit, TrafficError>>) -> Exit {
    let runtime = match super::super::runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    runtime.block_on(measurement).unwrap_or_else(|error| {
        eprintln!("bridge: perf: {error}");
        Exit::Unavailable
    })
}

/// `bridge perf produce`.
pub async fn produce(args: ProduceArgs) -> Result<Exit, TrafficError> {
    let stop = stop_of(&args.measure)?;
    let client = load::client(&args.service_url)?;
    let meter = Arc::new(Meter::new());
    let shown = tokio::spawn(show(Side::Produced, meter.clone(), interval(&args.measure), stop.clone()));
    let sent = produce_all(client, &args.measure, &args.traffic, args.rate, meter, stop.clone()).await;
    stop.cancel();
    shown.await?;
    sent?;
    Ok(Exit::Done)
}

/// `bridge perf consume`.
pub async fn consume(args: ConsumeArgs) -> Result<Exit, TrafficError> {
    let stop = stop_of(&args.measure)?;
    let client = load::client(&args.service_url)?;
    let meter = Arc::new(Meter::new());
    let shown = tokio::spawn(show(Side::Received, meter.clone(), interval(&args.measure), stop.clone()));
    let template = Consume {
        client,
        topic: args.measure.topic.clone(),
        subscription: args.subscription,
        exclusive: args.subscription_type == SubscriptionType::Exclusive,
        earliest: args.subscription_position == SubscriptionPosition::Earliest,
        messages: None,
        checks: false,
        leaves: false,
    };
    let taken = consume_all(template, args.measure.num_messages, meter, stop.clone()).await;
    stop.cancel();
    shown.await?;
    taken?;
    Ok(Exit::Done)
}

/// `bridge perf relay`: ends with `Fault` when something is missing, repeated or out of order.
pub async fn relay(args: RelayArgs) -> Result<Exit, TrafficError> {
    let stop = stop_of(&args.measure)?;
    let (from, to) = (load::client(&args.from)?, load::client(&args.to)?);
    let (produced, received) = (Arc::new(Meter::new()), Arc::new(Meter::new()));
    let template = Consume {
        client: to,
        topic: args.measure.topic.clone(),
        subscription: format!("perf-{}", std::process::id()),
        exclusive: true,
        earliest: false,
        messages: None,
        checks: true,
        leaves: true,
    };
    for partition in partitions(&template.client, &template.topic).await? {
        Consume { topic: partition, ..template.clone() }.prepare().await?;
    }
    let taken_stop = CancellationToken::new();
    let consumer = tokio::spawn(consume_all(template, 0, received.clone(), taken_stop.clone()));
    let probes = wait_for_route(&from, &args, &received, &stop).await?;
    let shown = tokio::spawn(show(Side::Received, received.clone(), interval(&args.measure), stop.clone()));
    let sent =
        produce_all(from, &args.measure, &args.traffic, args.rate, produced.clone(), stop.clone()).await;
    // Until everything has come, or nothing more comes.
    let (mut seen, mut since) = (0, Instant::now());
    while let Ok(sent) = sent
        && !consumer.is_finished()
        && received.messages() < sent
        && since.elapsed() < PATIENCE
    {
        tokio::time::sleep(LOOK_EVERY).await;
        if received.messages() > seen {
            (seen, since) = (received.messages(), Instant::now());
        }
    }
    let elapsed = received.elapsed_to_last();
    stop.cancel();
    shown.await?;
    taken_stop.cancel();
    let tally = consumer.await??;
    let tally = Tally { counted: tally.counted.saturating_sub(probes), ..tally };
    Ok(told(&args, sent?, elapsed, &received.read(), tally))
}

/// Sends one message into each partition and waits until they arrive: what is written before a route has its
/// subscription is nobody's. Gives how many they were.
async fn wait_for_route(
    from: &Client,
    args: &RelayArgs,
    received: &Meter,
    stop: &CancellationToken,
) -> Result<u64, TrafficError> {
    let topics = partitions(from, &args.measure.topic).await?;
    let expected = topics.len() as u64;
    let since = Instant::now();
    for topic in topics {
        let first = Produce {
            client: from.clone(),
            topic,
            size: args.traffic.size as usize,
            batch: 1,
            messages: Some(1),
            rate: None,
            outstanding_max: 1,
        };
        first.run(&Meter::new(), stop).await?;
    }
    while received.messages() < expected {
        if since.elapsed() > ROUTE_PATIENCE || stop.is_cancelled() {
            return Err(TrafficError::NoRoute(args.measure.topic.to_string()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    received.reset();
    Ok(expected)
}

fn told(args: &RelayArgs, sent: u64, elapsed: Duration, received: &Reading, tally: Tally) -> Exit {
    let lost = sent.saturating_sub(tally.counted - tally.repeated);
    let mbit_s = received.bytes as f64 * 8.0 / 1e6 / elapsed.as_secs_f64().max(1e-9);
    let line = match args.output {
        Output::Text => format!(
            "Relayed {} of {sent} messages: {mbit_s:.0} Mbit/s, lost {lost}, repeated {}, out of order {}\n",
            tally.counted, tally.repeated, tally.disordered
        ),
        Output::Json => {
            let value = json!({
                "sent": sent, "received": tally.counted, "lost": lost, "repeated": tally.repeated,
                "disordered": tally.disordered, "seconds": elapsed.as_secs_f64(), "mbit_s": mbit_s,
            });
            format!("{value}\n")
        }
    };
    let said = super::super::tell(&line);
    let clean = lost + tally.repeated + tally.disordered == 0;
    if said == Exit::Done && !clean { Exit::Fault } else { said }
}

async fn produce_all(
    client: Client,
    measure: &MeasureArgs,
    traffic: &TrafficArgs,
    rate: f64,
    meter: Arc<Meter>,
    stop: CancellationToken,
) -> Result<u64, TrafficError> {
    let topics = partitions(&client, &measure.topic).await?;
    let count = topics.len() as u64;
    let mut tasks = JoinSet::new();
    for (nth, topic) in topics.into_iter().enumerate() {
        let produce = Produce {
            client: client.clone(),
            topic,
            size: traffic.size as usize,
            batch: traffic.batch_max_messages,
            messages: share(measure.num_messages, count, nth as u64),
            rate: (rate > 0.0).then_some(rate / count as f64),
            outstanding_max: traffic.max_outstanding as usize,
        };
        let (meter, stop) = (meter.clone(), stop.clone());
        tasks.spawn(async move { produce.run(&meter, &stop).await });
    }
    let mut sent = 0;
    while let Some(ended) = tasks.join_next().await {
        sent += ended??;
    }
    Ok(sent)
}

async fn consume_all(
    template: Consume,
    messages: u64,
    meter: Arc<Meter>,
    stop: CancellationToken,
) -> Result<Tally, TrafficError> {
    let topics = partitions(&template.client, &template.topic).await?;
    let enough = stop.child_token();
    let mut tasks = JoinSet::new();
    for topic in topics {
        let consume = Consume { topic, ..template.clone() };
        let (meter, stop) = (meter.clone(), enough.clone());
        tasks.spawn(async move { consume.run(&meter, &stop).await });
    }
    // How the messages fall on the partitions is not ours to know.
    let counted = async {
        while messages == 0 || meter.messages() < messages {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let all = async {
        let mut tally = Tally::default();
        while let Some(ended) = tasks.join_next().await {
            tally += ended??;
        }
        Ok(tally)
    };
    tokio::pin!(all);
    tokio::select! {
        ended = &mut all => return ended,
        () = counted => enough.cancel(),
    }
    all.await
}

async fn partitions(client: &Client, topic: &TopicName) -> Result<Vec<TopicName>, ConnectionError> {
    let count = client.partitions(topic).await?.unwrap_or_default();
    Ok(match count {
        0 => vec![topic.clone()],
        count => (0..count).map(|index| topic.partition(index)).collect(),
    })
}

/// The nth partition's part of all messages; none means no end.
fn share(messages: u64, partitions: u64, nth: u64) -> Option<u64> {
    (messages > 0).then(|| messages / partitions + u64::from(nth < messages % partitions))
}

fn interval(measure: &MeasureArgs) -> Duration {
    Duration::from_secs(measure.stats_interval_seconds)
}

/// Cancelled by a signal, or when the test's time is over.
fn stop_of(measure: &MeasureArgs) -> Result<CancellationToken, std::io::Error> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let (stopping, seconds) = (stop.clone(), measure.test_duration);
    tokio::spawn(async move {
        let over = async {
            match seconds {
                0 => std::future::pending().await,
                seconds => tokio::time::sleep(Duration::from_secs(seconds)).await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = over => {}
        }
        stopping.cancel();
    });
    Ok(stop)
}

/// A line for each interval, and the whole at the end.
async fn show(side: Side, meter: Arc<Meter>, every: Duration, stop: CancellationToken) {
    let (mut before, mut since) = (meter.read(), Instant::now());
    let mut whole: Histogram<u64> = before.latency.clone();
    loop {
        let ending = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(every) => false,
        };
        let now = meter.read();
        // Histograms of one shape add without fail.
        let _ = whole.add(&now.latency);
        if ending {
            super::super::tell(&lines::aggregated(side, &now, &whole));
            return;
        }
        super::super::tell(&lines::interval(side, &before, &now, since.elapsed()));
        (before, since) = (now, Instant::now());
    }
}

/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a route may take to find a new topic.
const ROUTE_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
