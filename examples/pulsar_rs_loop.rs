//! The obvious relay: a consumer and a producer of the `pulsar` crate in a loop, as one would write it in an
//! afternoon. Benches put the bridge beside it. Promises at-least-once: an acknowledgement follows its receipt.
//!
//! ```text
//! cargo run --release --example pulsar_rs_loop -- --from-url pulsar://a:6650 --to-url pulsar://b:6650 \
//!     --topic persistent://public/default/orders --messages 600000
//! ```
#![allow(clippy::print_stdout, reason = "its result is one line of JSON")]

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::TryStreamExt;
use pulsar::consumer::InitialPosition;
use pulsar::producer::SendFuture;
use pulsar::{
    Consumer, ConsumerOptions, Producer, ProducerOptions, Pulsar, SubType, TokioExecutor, producer,
};

#[derive(Parser)]
struct Args {
    /// Where the topic is consumed.
    #[arg(long)]
    from_url: String,
    /// Where it is produced.
    #[arg(long)]
    to_url: String,
    /// The topic at both sides.
    #[arg(long)]
    topic: String,
    /// Ends after this many messages.
    #[arg(long)]
    messages: u64,
    /// Subscription at the source; created at the earliest message.
    #[arg(long, default_value = "pulsar-rs-loop")]
    subscription: String,
}

type Source = Consumer<Vec<u8>, TokioExecutor>;
type Received = pulsar::consumer::Message<Vec<u8>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut source = consumer(&args).await?;
    let mut sink = producer(&args).await?;
    let mut in_flight: VecDeque<(SendFuture, Received)> = VecDeque::new();
    let (mut began, mut payload_len) = (Instant::now(), 0);
    for count in 0..args.messages {
        let Some(received) = source.try_next().await? else {
            break;
        };
        if count == 0 {
            began = Instant::now();
        }
        payload_len += received.payload.data.len();
        in_flight.push_back((sink.send_non_blocking(copy(&received)).await?, received));
        if in_flight.len() >= IN_FLIGHT_MAX {
            settle(&mut source, in_flight.pop_front()).await?;
        }
    }
    sink.send_batch().await?;
    while !in_flight.is_empty() {
        settle(&mut source, in_flight.pop_front()).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let result = serde_json::json!({
        "messages": args.messages,
        "payload_bytes": payload_len,
        "seconds": seconds,
        "mbit_s": payload_len as f64 * 8.0 / 1e6 / seconds,
        "cpu_seconds": cpu_seconds()?,
    });
    println!("{result}");
    Ok(())
}

async fn consumer(args: &Args) -> Result<Source, pulsar::Error> {
    let options = ConsumerOptions::default().with_initial_position(InitialPosition::Earliest);
    let client = Pulsar::builder(&args.from_url, TokioExecutor).build().await?;
    client
        .consumer()
        .with_topic(&args.topic)
        .with_subscription(&args.subscription)
        .with_subscription_type(SubType::Exclusive)
        .with_options(options)
        .build()
        .await
}

/// Without a name of its own: a named producer of this crate starts its sequence ids at 0 again and would be
/// deduplicated away.
async fn producer(args: &Args) -> Result<Producer<TokioExecutor>, pulsar::Error> {
    let options = ProducerOptions {
        batch_size: Some(1000),
        batch_byte_size: Some(128 << 10),
        batch_timeout: Some(Duration::from_millis(10)),
        block_queue_if_full: true,
        ..ProducerOptions::default()
    };
    let client = Pulsar::builder(&args.to_url, TokioExecutor).build().await?;
    client.producer().with_topic(&args.topic).with_options(options).build().await
}

/// The oldest message's receipt, then its acknowledgement.
async fn settle(source: &mut Source, oldest: Option<(SendFuture, Received)>) -> Result<(), pulsar::Error> {
    if let Some((receipt, received)) = oldest {
        receipt.await?;
        source.ack(&received).await?;
    }
    Ok(())
}

fn copy(received: &Received) -> producer::Message {
    let metadata = received.metadata();
    let pair = |property: &pulsar::proto::KeyValue| (property.key.clone(), property.value.clone());
    producer::Message {
        payload: received.payload.data.clone(),
        properties: metadata.properties.iter().map(pair).collect::<HashMap<_, _>>(),
        partition_key: metadata.partition_key.clone(),
        partition_key_b64_encoded: metadata.partition_key_b64_encoded,
        ordering_key: metadata.ordering_key.clone(),
        event_time: metadata.event_time,
        ..producer::Message::default()
    }
}

/// User and system time of this process, all threads (proc(5): fields 14 and 15, 100 ticks a second).
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no process name in /proc/self/stat")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).map_or(Ok(0), |text| text.parse::<u64>());
    Ok((ticks(14)? + ticks(15)?) as f64 / 100.0)
}

/// Messages without a receipt: some tens of batches, so that neither end waits for the other.
const IN_FLIGHT_MAX: usize = 10_000;
