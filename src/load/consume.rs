//! A measured consumer: counts messages and bytes, takes latencies from publish times, and has the numbers checked
//! that measured producers write into their messages.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::message::{now_ms, places, unpacked};
use super::meter::Meter;
use super::numbers::Numbers;
use super::run_name;
use crate::pulsar::client::Client;
use crate::pulsar::connection::{ConnectionError, ConsumerEvent, Delivery};
use crate::pulsar::entry::Entry;
use crate::pulsar::subscription::{SubscribeOptions, Subscription};
use crate::pulsar::topic::TopicName;

/// What is consumed.
#[derive(Clone)]
pub struct Consume {
    /// Where.
    pub client: Client,
    /// One topic-partition.
    pub topic: TopicName,
    /// The durable subscription.
    pub subscription: String,
    /// Exclusive, or Failover.
    pub exclusive: bool,
    /// Where a new subscription begins.
    pub earliest: bool,
    /// Messages, or until it is stopped.
    pub messages: Option<u64>,
    /// Where the messages' numbers go, if they are checked: messages have to be uncompressed, or packed by zstd.
    pub checks: Option<Arc<Numbers>>,
    /// Whether the subscription is removed at the end, so that nothing is kept for it any more.
    pub leaves: bool,
}

impl Consume {
    /// Consumes until all have come or it is stopped.
    pub async fn run(self, meter: &Meter, stop: &CancellationToken) -> Result<(), ConnectionError> {
        let connection = self.client.connect_to_owner(&self.topic).await?;
        let mut subscription = Subscription::open(connection, &self.options()).await?;
        let mut taken = 0u64;
        loop {
            if self.messages.is_some_and(|messages| taken >= messages) {
                break;
            }
            // Losing the race loses nothing: the channel takes nothing before it completes.
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                event = subscription.next() => event,
            };
            match event {
                Some(ConsumerEvent::Entry(delivery)) => {
                    taken += self.take(&mut subscription, delivery, meter).await?;
                }
                Some(ConsumerEvent::Active(_) | ConsumerEvent::EndOfTopic) => {}
                Some(ConsumerEvent::Closed) | None => {
                    return Err(ConnectionError::Lost("the consumer was closed".into()));
                }
            }
        }
        if self.leaves {
            subscription.unsubscribe().await?;
        } else {
            subscription.close().await;
        }
        Ok(())
    }

    /// Makes topic and subscription, so that what is produced from now on is kept for it.
    pub async fn prepare(&self) -> Result<(), ConnectionError> {
        let connection = self.client.connect_to_owner(&self.topic).await?;
        let outcome = Subscription::create(connection.clone(), &self.options()).await;
        connection.close();
        outcome
    }

    async fn take(
        &self,
        subscription: &mut Subscription,
        delivery: Delivery,
        meter: &Meter,
    ) -> Result<u64, ConnectionError> {
        meter.begin();
        let (id, len) = (delivery.id, delivery.stored.len());
        let entry = Entry::parse(delivery.stored.clone()).ok();
        let messages = entry.as_ref().map_or(1, |entry| entry.facts().messages());
        if let Some(entry) = &entry {
            let latency = Duration::from_millis(now_ms().saturating_sub(entry.facts().publish_time));
            meter.saw(messages, entry.payload().len(), latency);
            if let Some(numbers) = &self.checks {
                let payload = unpacked(entry).unwrap_or_default();
                let places = places(&payload, entry.facts().num_messages_in_batch);
                numbers.take(places.unwrap_or_default().into_iter().map(|place| &payload[place]));
            }
        } else {
            meter.failed(1);
        }
        subscription.acknowledge(id, Vec::new()).await?;
        subscription.taken(messages, len).await?;
        Ok(messages.into())
    }

    fn options(&self) -> SubscribeOptions {
        SubscribeOptions {
            topic: self.topic.clone(),
            subscription: self.subscription.clone(),
            consumer_name: run_name("perf"),
            metadata: Vec::new(),
            exclusive: self.exclusive,
            earliest: self.earliest,
            priority: 0,
            create_topic: true,
            inbox_bytes: 8 << 20,
        }
    }
}
