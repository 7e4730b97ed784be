//! A measured consumer: counts messages and bytes, takes latencies from publish times, and checks the numbers that
//! the measured producer writes into its messages.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::message::{now_ms, payloads};
use super::meter::Meter;
use super::produce::HEAD_LEN;
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
    /// Whether numbers are checked: messages have to be a measured producer's, uncompressed.
    pub checks: bool,
    /// Whether the subscription is removed at the end, so that nothing is kept for it any more.
    pub leaves: bool,
}

/// What the numbers say, for each producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages with a number.
    pub counted: u64,
    /// Numbers that came again.
    pub repeated: u64,
    /// Numbers that came behind a higher one for the first time.
    pub disordered: u64,
    /// Numbers that never came, up to the highest.
    pub missing: u64,
}

impl Consume {
    /// Consumes until all have come or it is stopped.
    pub async fn run(self, meter: &Meter, stop: &CancellationToken) -> Result<Tally, ConnectionError> {
        let connection = self.client.connect_to_owner(&self.topic).await?;
        let mut subscription = Subscription::open(connection, &self.options()).await?;
        let mut numbers = Numbers::default();
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
                    taken += self.take(&mut subscription, delivery, &mut numbers, meter).await?;
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
        Ok(numbers.tally())
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
        numbers: &mut Numbers,
        meter: &Meter,
    ) -> Result<u64, ConnectionError> {
        meter.begin();
        let (id, len) = (delivery.id, delivery.stored.len());
        let entry = Entry::parse(delivery.stored.clone()).ok();
        let messages = entry.as_ref().map_or(1, |entry| entry.facts().messages());
        if let Some(entry) = &entry {
            let latency = Duration::from_millis(now_ms().saturating_sub(entry.facts().publish_time));
            meter.saw(messages, entry.payload().len(), latency);
            if self.checks {
                numbers.take(&payloads(entry).unwrap_or_default());
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

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        let Self { counted, repeated, disordered, missing } = more;
        self.counted += counted;
        self.repeated += repeated;
        self.disordered += disordered;
        self.missing += missing;
    }
}

/// The numbers of each writer: those below `next` have all come, those above it lie in `ahead`.
#[derive(Default)]
struct Numbers {
    writers: BTreeMap<u64, Writer>,
    tally: Tally,
}

#[derive(Default)]
struct Writer {
    next: u64,
    /// Ranges above `next`: first, and one past the last.
    ahead: BTreeMap<u64, u64>,
}

impl Numbers {
    fn take(&mut self, payloads: &[Bytes]) {
        for payload in payloads {
            let Some(head) = payload.first_chunk::<HEAD_LEN>() else { continue };
            let head = u128::from_be_bytes(*head);
            self.tally.counted += 1;
            // The upper half is the writer, the lower one its number.
            self.writers.entry((head >> 64) as u64).or_default().take(head as u64, &mut self.tally);
        }
    }

    fn tally(self) -> Tally {
        let gaps = |writer: &Writer| {
            let mut from = writer.next;
            writer.ahead.iter().fold(0, |sum, (first, past)| {
                let gap = first - from;
                from = *past;
                sum + gap
            })
        };
        Tally { missing: self.writers.values().map(gaps).sum(), ..self.tally }
    }
}

impl Writer {
    fn take(&mut self, number: u64, tally: &mut Tally) {
        if number == self.next && self.ahead.is_empty() {
            self.next += 1;
            return;
        }
        let below = self.ahead.range(..=number).next_back().map(|(first, past)| (*first, *past));
        if number < self.next || below.is_some_and(|(_, past)| number < past) {
            tally.repeated += 1;
            return;
        }
        let highest = self.ahead.last_key_value().map_or(self.next, |(_, past)| *past);
        tally.disordered += u64::from(number < highest);
        let (mut first, mut past) = (number, number + 1);
        if let Some((before, end)) = below.filter(|(_, end)| *end == number) {
            self.ahead.remove(&before);
            first = before;
            debug_assert_eq!(end, number);
        }
        if let Some(end) = self.ahead.remove(&past) {
            past = end;
        }
        if first == self.next {
            self.next = past;
        } else {
            self.ahead.insert(first, past);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(numbers: &[u64]) -> Tally {
        let mut all = Numbers::default();
        let head = |number: &u64| Bytes::copy_from_slice(&(7 << 64 | u128::from(*number)).to_be_bytes());
        all.take(&numbers.iter().map(head).collect::<Vec<_>>());
        all.tally()
    }

    #[test]
    fn what_is_missing_repeated_or_out_of_order_is_counted() {
        let counts =
            |counted, missing, repeated, disordered| Tally { counted, repeated, disordered, missing };
        assert_eq!(tally(&[0, 1, 2, 3]), counts(4, 0, 0, 0));
        assert_eq!(tally(&[0, 1, 3]), counts(3, 1, 0, 0));
        assert_eq!(tally(&[2, 3]), counts(2, 2, 0, 0));
        assert_eq!(tally(&[0, 2, 1, 3]), counts(4, 0, 0, 1));
        assert_eq!(tally(&[0, 1, 1, 2, 0]), counts(5, 0, 2, 0));
        assert_eq!(tally(&[0, 5, 5, 7, 6, 3]), counts(6, 3, 1, 2));
    }
}
