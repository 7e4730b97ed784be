//! Whole entries in and out of one topic, byte for byte, for tests that need an entry no client would write.
//! Decompresses nothing, mends nothing, joins nothing.
//!
//! ```text
//! raw_entries publish --url pulsar://a:6650 --topic T --producer NAME < lines of {"sequence_id", "stored_hex", …}
//! raw_entries read    --url pulsar://a:6650 --topic T --subscription S --count 3
//! ```
#![allow(clippy::print_stdout, reason = "its results are lines of JSON")]

use std::error::Error;
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use clap::{Args, Parser};
use pulsar_bridge::pulsar::client::Client;
use pulsar_bridge::pulsar::connection::{ConsumerEvent, Delivery, ProducerEvent};
use pulsar_bridge::pulsar::entry::Entry;
use pulsar_bridge::pulsar::proto::MessageId;
use pulsar_bridge::pulsar::publisher::{Outbound, Publisher};
use pulsar_bridge::pulsar::subscription::{SubscribeOptions, Subscription};
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::pulsar::transport::{Address, Dialer};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Parser)]
enum Command {
    /// Publishes what the lines on stdin hold, one after the other, and prints each answer.
    Publish {
        #[command(flatten)]
        place: Place,
        /// The name under which the producer is registered; the metadata may say another.
        #[arg(long)]
        producer: String,
    },
    /// Prints the topic's entries from its beginning; fails when fewer than `count` come.
    Read {
        #[command(flatten)]
        place: Place,
        /// A subscription of its own; made at the earliest entry.
        #[arg(long)]
        subscription: String,
        /// Entries to wait for; what comes beyond them is printed too.
        #[arg(long)]
        count: usize,
        /// Seconds of nothing after which no more will come.
        #[arg(long, default_value_t = 10.0)]
        idle: f64,
        /// Seconds to look for surplus when all are there.
        #[arg(long, default_value_t = 1.0)]
        linger: f64,
    },
}

#[derive(Args)]
struct Place {
    /// The cluster.
    #[arg(long)]
    url: String,
    /// The topic-partition.
    #[arg(long)]
    topic: String,
}

/// One line of stdin.
#[derive(Deserialize)]
struct Line {
    sequence_id: u64,
    highest_sequence_id: Option<u64>,
    messages: Option<u32>,
    stored_hex: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    match Command::parse() {
        Command::Publish { place, producer } => publish(&place, &producer).await,
        Command::Read { place, subscription, count, idle, linger } => {
            let [idle, linger] = [idle, linger].map(Duration::from_secs_f64);
            read(&place, &subscription, count, idle, linger).await
        }
    }
}

async fn publish(place: &Place, name: &str) -> Result<ExitCode, Box<dyn Error>> {
    let topic = TopicName::parse(&place.topic)?;
    let connection = place.client()?.connect_to_owner(&topic).await?;
    let mut publisher = Publisher::create(connection, &topic, name).await?;
    for line in std::io::stdin().lock().lines() {
        let line: Line = serde_json::from_str(&line?)?;
        let outbound = Outbound {
            sequence_id: line.sequence_id,
            highest_sequence_id: line.highest_sequence_id,
            messages: line.messages.unwrap_or(1),
            head: from_hex(&line.stored_hex)?,
            payload: Bytes::new(),
        };
        publisher.send(outbound).await?;
        let answer = publisher.next().await;
        println!("{}", described(line.sequence_id, answer.as_ref()));
        if answer.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    publisher.close().await;
    Ok(ExitCode::SUCCESS)
}

fn described(sent: u64, answer: Option<&ProducerEvent>) -> Value {
    match answer {
        Some(ProducerEvent::Receipt { sequence_id, duplicate }) => {
            let answer = if *duplicate { "duplicate" } else { "stored" };
            json!({"sent": sent, "answer": answer, "sequence_id": sequence_id})
        }
        Some(ProducerEvent::SendError { sequence_id, error, message }) => {
            let error = format!("{error:?}");
            json!({"sent": sent, "answer": "refused", "sequence_id": sequence_id, "error": error, "message": message})
        }
        Some(ProducerEvent::Closed) => json!({"sent": sent, "answer": "producer closed"}),
        None => json!({"sent": sent, "answer": "connection lost"}),
    }
}

async fn read(
    place: &Place,
    subscription: &str,
    count: usize,
    idle: Duration,
    linger: Duration,
) -> Result<ExitCode, Box<dyn Error>> {
    let topic = TopicName::parse(&place.topic)?;
    let options = SubscribeOptions {
        topic: topic.clone(),
        subscription: subscription.to_owned(),
        consumer_name: "raw_entries".into(),
        metadata: Vec::new(),
        exclusive: true,
        earliest: true,
        priority: 0,
        create_topic: false,
        inbox_bytes: 1 << 20,
    };
    let connection = place.client()?.connect_to_owner(&topic).await?;
    let mut subscription = Subscription::open(connection, &options).await?;
    let mut seen = 0;
    loop {
        let patience = if seen < count { idle } else { linger };
        match tokio::time::timeout(patience, subscription.next()).await {
            Ok(Some(ConsumerEvent::Entry(delivery))) => {
                seen += 1;
                println!("{}", shown(&delivery));
                let messages =
                    Entry::parse(delivery.stored.clone()).map_or(1, |entry| entry.facts().messages());
                subscription.taken(messages, delivery.stored.len()).await?;
                let MessageId { ledger, entry } = delivery.id;
                subscription.acknowledge(MessageId { ledger, entry }, Vec::new()).await?;
            }
            Ok(Some(ConsumerEvent::Active(_) | ConsumerEvent::EndOfTopic)) => {}
            Ok(Some(ConsumerEvent::Closed) | None) => return Err("the broker closed the consumer".into()),
            Err(_) => break,
        }
    }
    subscription.close().await;
    let code = if seen >= count { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok(code)
}

fn shown(delivery: &Delivery) -> Value {
    let (ledger, at) = (delivery.id.ledger, delivery.id.entry);
    let entry = match Entry::parse(delivery.stored.clone()) {
        Ok(entry) => entry,
        Err(error) => {
            return json!({"ledger": ledger, "entry": at, "malformed": error.to_string(),
                "stored_hex": to_hex(&delivery.stored)});
        }
    };
    let payload = entry.payload();
    let sha256 = digest::digest(&digest::SHA256, payload);
    let facts = entry.facts();
    json!({
        "ledger": ledger,
        "entry": at,
        "metadata_hex": to_hex(entry.metadata()),
        "payload_sha256": to_hex(sha256.as_ref()),
        "payload_len": payload.len(),
        "payload_hex": (payload.len() <= SHOWN_LEN_MAX).then(|| to_hex(payload)),
        "has_checksum": entry.checksum().is_some(),
        "checksum_holds": entry.checksum_holds(),
        "facts": {
            "sequence_id": facts.sequence_id,
            "highest_sequence_id": facts.highest_sequence_id,
            "num_messages_in_batch": facts.num_messages_in_batch,
            "compression": facts.compression,
            "encrypted": facts.encrypted,
            "chunked": facts.chunked,
            "null_value": facts.null_value,
            "unknown": facts.unknown,
        },
    })
}

impl Place {
    fn client(&self) -> Result<Client, Box<dyn Error>> {
        let service = vec![Address::parse(&self.url)?];
        Ok(Client::new(service, Dialer::default(), Arc::new(|| Ok(None))))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Bytes, Box<dyn Error>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| Ok::<_, Box<dyn Error>>(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    if !digits.len().is_multiple_of(2) {
        return Err("stored_hex has an odd number of digits".into());
    }
    digits.chunks(2).map(pair).collect()
}

/// A larger payload is shown by its hash alone.
const SHOWN_LEN_MAX: usize = 256;
