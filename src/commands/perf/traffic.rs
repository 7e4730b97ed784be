//! `bridge perf produce`, `consume` and `relay`: traffic of all partitions of a topic, a line for each interval, and
//! what it came to. The traffic itself is in `load`.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use pulsar_bridge::exit::Exit;
use pulsar_bridge::load::consume::Consume;
use pulsar_bridge::load::meter::Meter;
use pulsar_bridge::load::numbers::{Numbers, new_writer, writer_of};
use pulsar_bridge::load::produce::Produce;
use pulsar_bridge::pulsar::client::Client;
use pulsar_bridge::pulsar::connection::ConnectionError;
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::site::plain_client;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lines::{self, Side};
use crate::cli::{
    ConsumeArgs, MeasureArgs, ProduceArgs, RelayArgs, RelayOutput, SubscriptionPosition, SubscriptionType,
    TrafficArgs,
};

/// Why a measurement came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The broker, or the way to it.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
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
        // A broker's words may be in it.
        let printable = error.to_string().replace(char::is_control, " ");
        eprintln!("bridge: perf: {printable}");
        Exit::Unavailable
    })
}

/// `bridge perf produce`.
pub async fn produce(args: ProduceArgs) -> Result<Exit, TrafficError> {
    let stop = stop_of(&args.measure)?;
    let client = plain_client(&args.service_url);
    let meter = Arc::new(Meter::new());
    let shown = tokio::spawn(show(
        Telling::Text(Side::Produced),
        meter.clone(),
        interval(&args.measure),
        stop.clone(),
    ));
    let topics = written(partitions(&client, &args.measure.topic).await?, None);
    let sent =
        produce_all(client, topics, &args.measure, &args.traffic, args.rate, meter, stop.clone()).await;
    stop.cancel();
    shown.await?;
    sent?;
    Ok(Exit::Done)
}

/// `bridge perf consume`.
pub async fn consume(args: ConsumeArgs) -> Result<Exit, TrafficError> {
    let stop = stop_of(&args.measure)?;
    let client = plain_client(&args.service_url);
    let meter = Arc::new(Meter::new());
    let shown = tokio::spawn(show(
        Telling::Text(Side::Received),
        meter.clone(),
        interval(&args.measure),
        stop.clone(),
    ));
    let template = Consume {
        client,
        topic: args.measure.topic.clone(),
        subscription: args.subscription,
        exclusive: args.subscription_type == SubscriptionType::Exclusive,
        earliest: args.subscription_position == SubscriptionPosition::Earliest,
        messages: None,
        checks: None,
        leaves: false,
    };
    let kept = format!(
        "bridge: perf consume: the subscription {} stays, and keeps what comes",
        template.subscription
    );
    let taken = consume_all(template, args.measure.num_messages, meter, stop.clone()).await;
    stop.cancel();
    shown.await?;
    taken?;
    eprintln!("{kept}");
    Ok(Exit::Done)
}

/// `bridge perf relay`: ends with `Fault` when something is missing, repeated or out of order.
pub async fn relay(args: RelayArgs) -> Result<Exit, TrafficError> {
    let stop = stop_of(&args.measure)?;
    let (from, to) = (plain_client(&args.from), plain_client(&args.to));
    let (produced, received) = (Arc::new(Meter::new()), Arc::new(Meter::new()));
    let topics = written(partitions(&from, &args.measure.topic).await?, args.seed);
    let numbers = Arc::new(Numbers::of(topics.iter().map(|(writer, _)| *writer)));
    let template = Consume {
        client: to,
        topic: args.measure.topic.clone(),
        subscription: format!("perf-{}", std::process::id()),
        exclusive: true,
        earliest: false,
        messages: None,
        checks: Some(numbers.clone()),
        leaves: true,
    };
    for partition in partitions(&template.client, &template.topic).await? {
        Consume { topic: partition, ..template.clone() }.prepare().await?;
    }
    let taken_stop = CancellationToken::new();
    let taken = consume_all(template, 0, received.clone(), taken_stop.clone());
    let ending = stop.clone();
    let consumer = tokio::spawn(async move {
        let outcome = taken.await;
        // Whatever is sent from now on would be sent to nobody.
        ending.cancel();
        outcome
    });
    wait_for_route(&from, &args, &received, &stop).await?;
    let telling = match args.output {
        RelayOutput::Text | RelayOutput::Json => Telling::Text(Side::Received),
        RelayOutput::JsonLines => {
            Telling::Json { size: args.traffic.size, produced: produced.clone(), numbers: numbers.clone() }
        }
    };
    let shown = tokio::spawn(show(telling, received.clone(), interval(&args.measure), stop.clone()));
    received.begin();
    let traffic = &args.traffic;
    let sent = produce_all(from, topics, &args.measure, traffic, args.rate, produced, stop.clone()).await;
    // Until everything has come, or nothing more comes.
    let (mut seen, mut since) = (0, Instant::now());
    while let Ok(sent) = sent
        && !consumer.is_finished()
        && numbers.distinct() < sent
        && since.elapsed() < PATIENCE
    {
        tokio::time::sleep(LOOK_EVERY).await;
        if numbers.distinct() > seen {
            (seen, since) = (numbers.distinct(), Instant::now());
        }
    }
    let elapsed = received.elapsed_to_last();
    stop.cancel();
    shown.await?;
    taken_stop.cancel();
    consumer.await??;
    Ok(told(&args, sent?, elapsed, &numbers))
}

/// Sends one message into each partition and waits until they arrive: what is written before a route has its
/// subscription is nobody's.
async fn wait_for_route(
    from: &Client,
    args: &RelayArgs,
    received: &Meter,
    stop: &CancellationToken,
) -> Result<(), TrafficError> {
    let topics = partitions(from, &args.measure.topic).await?;
    let expected = topics.len() as u64;
    let since = Instant::now();
    for topic in topics {
        let first = Produce {
            client: from.clone(),
            topic,
            writer: new_writer(),
            size: args.traffic.size as usize,
            text: args.traffic.text,
            batch: 1,
            messages: Some(1),
            rate: None,
            outstanding_max: 1,
        };
        first.run(&Meter::new(), stop).await?;
    }
    eprintln!("bridge: perf relay: waiting for a route that carries {}", args.measure.topic);
    while received.messages() < expected {
        if since.elapsed() > ROUTE_PATIENCE || stop.is_cancelled() {
            return Err(TrafficError::NoRoute(args.measure.topic.to_string()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    received.reset();
    Ok(())
}

fn told(args: &RelayArgs, sent: u64, elapsed: Duration, numbers: &Numbers) -> Exit {
    let (tally, distinct) = (numbers.tally(), numbers.distinct());
    let lost = sent - distinct.min(sent);
    let bytes = distinct as f64 * f64::from(args.traffic.size);
    let mbit_s = bytes * 8.0 / 1e6 / elapsed.as_secs_f64().max(1e-9);
    let line = match args.output {
        RelayOutput::Text => format!(
            "Relayed {} of {sent} messages: {mbit_s:.0} Mbit/s, lost {lost}, repeated {}, out of order {}\n",
            tally.counted, tally.repeated, tally.disordered
        ),
        RelayOutput::Json | RelayOutput::JsonLines => {
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

/// Each partition, and who writes into it: of a seed the same ones each time.
fn written(partitions: Vec<TopicName>, seed: Option<u64>) -> Vec<(u64, TopicName)> {
    let writer = |nth| seed.map_or_else(new_writer, |seed| writer_of(seed, nth));
    partitions.into_iter().zip(0..).map(|(partition, nth)| (writer(nth), partition)).collect()
}

async fn produce_all(
    client: Client,
    topics: Vec<(u64, TopicName)>,
    measure: &MeasureArgs,
    traffic: &TrafficArgs,
    rate: f64,
    meter: Arc<Meter>,
    stop: CancellationToken,
) -> Result<u64, TrafficError> {
    let count = topics.len() as u64;
    let mut tasks = JoinSet::new();
    for (nth, (writer, topic)) in topics.into_iter().enumerate() {
        let produce = Produce {
            client: client.clone(),
            topic,
            writer,
            size: traffic.size as usize,
            text: traffic.text,
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
) -> Result<(), TrafficError> {
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
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
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

/// How a measurement is told while it runs.
enum Telling {
    /// In pulsar-perf's words.
    Text(Side),
    /// Of a relay: each interval as a line of JSON.
    Json { size: u32, produced: Arc<Meter>, numbers: Arc<Numbers> },
}

/// A line for each interval; of text, the whole at the end.
async fn show(telling: Telling, meter: Arc<Meter>, every: Duration, stop: CancellationToken) {
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
        if ending && now.messages + now.failures == 0 {
            return;
        }
        let line = match &telling {
            Telling::Text(side) if ending => lines::aggregated(*side, &now, &whole),
            Telling::Text(side) => lines::interval(*side, &before, &now, since.elapsed()),
            // An interval that was cut short says little; the result has the whole.
            Telling::Json { .. } if ending => return,
            Telling::Json { size, produced, numbers } => {
                let (sent, tally) = (produced.messages(), numbers.tally());
                lines::json_interval(*size, sent, &tally, &before, &now, since.elapsed())
            }
        };
        super::super::tell(&line);
        if ending {
            return;
        }
        (before, since) = (now, Instant::now());
    }
}

/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a route may take to find a new topic.
const ROUTE_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
