//! Several sites, each with an agent and a broker in memory of its own, joined by lanes and links in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use pulsar_bridge::embedded::{Broker, Settings};
use pulsar_bridge::policy::{Pattern, Renaming};
use pulsar_bridge::policy::{Patterns, Policy, TopicRules};
use pulsar_bridge::pulsar::client::Client;
use pulsar_bridge::pulsar::connection::{ConsumerEvent, ProducerEvent};
use pulsar_bridge::pulsar::entry::Entry;
use pulsar_bridge::pulsar::publisher::{Outbound, Publisher};
use pulsar_bridge::pulsar::subscription::{SubscribeOptions, Subscription};
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::pulsar::transport::{Address, Dialer};
use pulsar_bridge::relay::context::RouteSpec;
use pulsar_bridge::relay::status::{End, PartitionStatus};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::journal::PATIENCE;
use crate::pair::{Side, metadata, route};

/// One site.
pub struct Site {
    pub name: &'static str,
    pub side: Side,
    pub client: Client,
    url: String,
    policy: Policy,
    _broker: DropGuard,
}

impl Site {
    /// Declares `routes`, and lets everything in and out that `allows` names.
    pub async fn start(name: &'static str, routes: Vec<RouteSpec>, allows: &[&str]) -> Self {
        Self::with_partitions(name, routes, allows, &[]).await
    }

    pub async fn with_partitions(
        name: &'static str,
        routes: Vec<RouteSpec>,
        allows: &[&str],
        partitioned: &[(&str, u32)],
    ) -> Self {
        let settings = Settings { retain: true, ..Settings::default() };
        let broker = Broker::bind(SocketAddr::from(([127, 0, 0, 1], 0)), settings).await.unwrap();
        for (topic, count) in partitioned {
            broker.create_partitioned(&parsed(topic), *count).unwrap();
        }
        let (url, stop) = (broker.service_url(), CancellationToken::new());
        tokio::spawn(broker.run(stop.clone()));
        let rules = rules(allows);
        let policy = Policy { receive: rules.clone(), send: rules, from_earliest: true, ..Policy::default() };
        let side = Side::start_at(name, &url, routes, policy.clone(), true);
        let service = vec![Address::parse(&url).unwrap()];
        let client = Client::new(service, Dialer::default(), Arc::new(|| Ok(None)));
        Self { name, side, client, url, policy, _broker: stop.drop_guard() }
    }

    /// The agent stops and starts with other routes; it has no lane yet.
    pub async fn start_again(self, routes: Vec<RouteSpec>) -> Self {
        let Self { name, side, client, url, policy, _broker } = self;
        side.stop().await;
        let side = Side::start_at(name, &url, routes, policy.clone(), true);
        Self { name, side, client, url, policy, _broker }
    }

    /// A lane and a link to another site.
    pub async fn join(&self, other: &Self) {
        let (here, there) = tokio::io::duplex(1 << 16);
        self.side.give_lane(other.name, Box::new(here)).await;
        other.side.give_lane(self.name, Box::new(there)).await;
        let ((to_other, from_here), (to_here, from_other)) = (mpsc::channel(16), mpsc::channel(16));
        self.side.give_link_end(other.name, to_other, from_other).await;
        other.side.give_link_end(self.name, to_here, from_here).await;
    }

    /// Publishes these texts, in order, and awaits their receipts.
    pub async fn publish(&self, topic: &str, texts: impl IntoIterator<Item = String>) {
        let topic = parsed(topic);
        let connection = self.client.connect_to_owner(&topic).await.unwrap();
        let mut publisher =
            Publisher::create(connection, &topic, &format!("writer at {}", self.name)).await.unwrap();
        let first = (publisher.last_sequence_id() + 1) as u64;
        for (nth, text) in (first..).zip(texts) {
            publisher.send(outbound(nth, text)).await.unwrap();
            let event = tokio::time::timeout(PATIENCE, publisher.next()).await.unwrap().unwrap();
            assert_eq!(event, ProducerEvent::Receipt { sequence_id: nth, duplicate: false });
        }
        publisher.close().await;
    }

    /// The first `count` texts of a topic.
    pub async fn read(&self, topic: &str, count: usize) -> Vec<String> {
        let mut reading = Reading::open(self, topic).await;
        let mut texts = Vec::new();
        while texts.len() < count {
            texts.push(reading.next().await);
        }
        texts
    }

    pub fn rows(&self, wanted: impl Fn(&PartitionStatus) -> bool) -> Vec<PartitionStatus> {
        self.side.board.rows().into_iter().filter(wanted).collect()
    }

    /// Looks until a row is as wanted; the board itself wakes nobody.
    pub async fn until_row(&self, what: &str, wanted: impl Fn(&PartitionStatus) -> bool) -> PartitionStatus {
        let look = async {
            loop {
                match self.rows(&wanted).pop() {
                    Some(row) => return row,
                    None => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        found.unwrap_or_else(|_| panic!("never: {what}; {:#?}", self.side.board.rows()))
    }

    /// Everything that its sources took on is acknowledged.
    pub async fn until_settled(&self, entries: u64) {
        let done = |rows: Vec<PartitionStatus>| {
            let taken: u64 = rows.iter().map(|row| row.confirmed + row.skipped).sum();
            taken >= entries && rows.iter().all(|row| row.in_flight == 0)
        };
        let look = async {
            while !done(self.rows(|row| row.end == End::Source)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let settled = tokio::time::timeout(PATIENCE, look).await;
        assert!(settled.is_ok(), "{} is not settled at {entries}: {:#?}", self.name, self.side.board.rows());
    }
}

/// A topic being read from its beginning.
pub struct Reading(Subscription);

impl Reading {
    pub async fn open(site: &Site, topic: &str) -> Self {
        let topic = parsed(topic);
        let connection = site.client.connect_to_owner(&topic).await.unwrap();
        let options = SubscribeOptions {
            topic,
            subscription: "the test".into(),
            consumer_name: "the test".into(),
            metadata: Vec::new(),
            exclusive: true,
            earliest: true,
            priority: 0,
            create_topic: true,
            inbox_bytes: 8 << 20,
        };
        Self(Subscription::open(connection, &options).await.unwrap())
    }

    pub async fn next(&mut self) -> String {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("another entry");
            if let Some(ConsumerEvent::Entry(delivery)) = event {
                self.0.taken(1, delivery.stored.len()).await.unwrap();
                let entry = Entry::parse(delivery.stored.clone()).unwrap();
                return String::from_utf8_lossy(entry.payload()).into_owned();
            }
        }
    }
}

/// A route with nothing but its ends and what it carries: topics and patterns.
pub fn carrying(name: &str, from: &str, to: &str, topics: &[&str]) -> RouteSpec {
    let (patterns, topics): (Vec<&str>, Vec<&str>) = topics.iter().partition(|topic| topic.contains('*'));
    let patterns = patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect();
    RouteSpec {
        name: name.into(),
        from: from.into(),
        to: to.into(),
        topics: topics.iter().map(|topic| parsed(topic)).collect(),
        patterns: Patterns::new(patterns, TopicRules::default()),
        subscription: format!("bridge.{from}.{to}"),
        ..route()
    }
}

pub fn renaming(from: &str, to: &str) -> Renaming {
    let mut renaming = Renaming::default();
    renaming.add(from, to).unwrap();
    renaming
}

pub fn rules(items: &[&str]) -> TopicRules {
    TopicRules::parse(&items.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

pub fn parsed(topic: &str) -> TopicName {
    TopicName::parse(topic).unwrap()
}

fn outbound(sequence_id: u64, text: String) -> Outbound {
    let (metadata, payload) = (metadata(sequence_id), Bytes::from(text));
    let len = (metadata.len() as u32).to_be_bytes();
    let mut head = Vec::new();
    head.put_u16(0x0e01);
    head.put_u32(pulsar_bridge::pulsar::crc::of(&[&len, &metadata, &payload]));
    head.extend_from_slice(&len);
    head.extend_from_slice(&metadata);
    Outbound { sequence_id, highest_sequence_id: None, messages: 1, head: head.into(), payload }
}
