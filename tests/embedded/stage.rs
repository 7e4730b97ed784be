//! A broker in this process, the bridge's own client for it, and entries to send. Judges nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use pulsar_bridge::embedded::{Broker, Settings, Stats};
use pulsar_bridge::pulsar::client::Client;
use pulsar_bridge::pulsar::connection::{Connection, ConsumerEvent, ProducerEvent};
use pulsar_bridge::pulsar::proto::MessageId;
use pulsar_bridge::pulsar::publisher::{Outbound, Publisher};
use pulsar_bridge::pulsar::subscription::{SubscribeOptions, Subscription};
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::pulsar::transport::{Address, Dialer};
use pulsar_bridge::pulsar::{crc, fields};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Stage {
    pub url: String,
    pub stats: Stats,
    _stop: DropGuard,
}

impl Stage {
    pub async fn start(settings: Settings) -> Self {
        Self::with_partitions(settings, &[]).await
    }

    pub async fn with_partitions(settings: Settings, partitioned: &[(&str, u32)]) -> Self {
        let broker = Broker::bind(SocketAddr::from(([127, 0, 0, 1], 0)), settings).await.unwrap();
        for (name, count) in partitioned {
            broker.create_partitioned(&topic(name), *count).unwrap();
        }
        let (url, stats) = (broker.service_url(), broker.watch());
        let stop = CancellationToken::new();
        tokio::spawn(broker.run(stop.clone()));
        Self { url, stats, _stop: stop.drop_guard() }
    }

    pub fn client(&self) -> Client {
        client(&self.url)
    }

    pub async fn publisher(&self, name: &str, producer: &str) -> Publisher {
        let connection = self.connection(name).await;
        Publisher::create(connection, &topic(name), producer).await.unwrap()
    }

    pub async fn connection(&self, name: &str) -> Connection {
        self.client().connect_to_owner(&topic(name)).await.unwrap()
    }

    pub async fn subscription(&self, name: &str, consumer: &str, priority: i32) -> Subscription {
        let connection = self.connection(name).await;
        Subscription::open(connection, &options(name, consumer, priority)).await.unwrap()
    }
}

pub fn client(url: &str) -> Client {
    Client::new(
        vec![Address::parse(url).unwrap()],
        Dialer::new(&Default::default()).unwrap(),
        Arc::new(|| Ok(None)),
    )
}

pub fn options(name: &str, consumer: &str, priority: i32) -> SubscribeOptions {
    SubscribeOptions {
        topic: topic(name),
        subscription: "sub".into(),
        consumer_name: consumer.into(),
        metadata: Vec::new(),
        exclusive: false,
        earliest: true,
        priority,
        create_topic: false,
        inbox_bytes: 8 << 20,
    }
}

pub fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

/// An entry of one message, as a client would write it.
pub fn outbound(producer: &str, sequence_id: u64, payload: impl Into<Bytes>) -> Outbound {
    let payload = payload.into();
    let mut metadata = Vec::new();
    fields::put_bytes(&mut metadata, 1, producer.as_bytes());
    fields::put_varint(&mut metadata, 2, sequence_id);
    fields::put_varint(&mut metadata, 3, 1_800_000_000_000 + sequence_id);
    let len = (metadata.len() as u32).to_be_bytes();
    let mut head = Vec::new();
    head.put_u16(0x0e01);
    head.put_u32(crc::of(&[&len, &metadata, &payload]));
    head.extend_from_slice(&len);
    head.extend_from_slice(&metadata);
    Outbound { sequence_id, highest_sequence_id: None, messages: 1, head: head.into(), payload }
}

/// Sends, and awaits the answer.
pub async fn send(publisher: &mut Publisher, outbound: Outbound) -> ProducerEvent {
    publisher.send(outbound).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, publisher.next()).await;
    event.expect("an answer to a send").expect("the connection stays")
}

pub fn receipt(sequence_id: u64, duplicate: bool) -> ProducerEvent {
    ProducerEvent::Receipt { sequence_id, duplicate }
}

/// The next entry: its position, and its payload when that is text.
pub async fn next_entry(subscription: &mut Subscription) -> (MessageId, String) {
    loop {
        match next_event(subscription).await {
            ConsumerEvent::Entry(delivery) => {
                let entry = pulsar_bridge::pulsar::entry::Entry::parse(delivery.stored.clone()).unwrap();
                assert!(entry.checksum_holds());
                subscription.taken(1, delivery.stored.len()).await.unwrap();
                return (delivery.id, String::from_utf8_lossy(entry.payload()).into_owned());
            }
            ConsumerEvent::Active(_) => {}
            ConsumerEvent::Closed | ConsumerEvent::EndOfTopic => panic!("closed"),
        }
    }
}

pub async fn next_event(subscription: &mut Subscription) -> ConsumerEvent {
    let event = tokio::time::timeout(PATIENCE, subscription.next()).await;
    event.expect("something for the consumer").expect("the connection stays")
}

/// Waits until a condition holds that another task brings about.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let looked = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect(what);
}
