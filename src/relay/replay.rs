//! Brings refused entries from a quarantine topic to the topics that refused them. Their place in the order is lost;
//! what is refused again stays where it is. Believes of a record only what the route allows.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::publishing::len_max;
use super::reason::Reason;
use super::record::Record;
use super::refusal::send_error_reason;
use super::window::Position;
use crate::pulsar::client::Client;
use crate::pulsar::connection::{ConnectionError, ConsumerEvent, ProducerEvent};
use crate::pulsar::entry::{Entry, Heading, SchemaVersion};
use crate::pulsar::proto::{MessageId, ServerError};
use crate::pulsar::publisher::{Outbound, Publisher};
use crate::pulsar::subscription::{SubscribeOptions, Subscription};
use crate::pulsar::topic::TopicName;

/// What is to be replayed.
pub struct Replay<'a> {
    /// The destination's cluster.
    pub client: Client,
    /// The quarantine topic.
    pub quarantine: TopicName,
    /// The route's name, as its records have it.
    pub route: String,
    /// The site that had the entries.
    pub from: String,
    /// The site that refused them: this one.
    pub to: String,
    /// Whether the route brings entries from where a record says to where it says.
    pub allows: Box<dyn Fn(&Record) -> bool + Send + 'a>,
    /// Only the records of entries that lay here at the source.
    pub position: Option<Position>,
    /// At most so many records.
    pub limit: u64,
    /// Sends nothing, and acknowledges nothing.
    pub dry_run: bool,
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was done to it.
    Listed,
    /// The destination has it now.
    Replayed,
    /// The destination had it already: replayed before, and not acknowledged then.
    There,
    /// The destination refuses it again, in these words. It stays.
    RefusedAgain(String),
    /// It may not go where it says. It stays.
    NotAllowed,
}

/// What a replay tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Of one record.
    Record {
        /// What it says.
        record: Box<Record>,
        /// What became of it.
        outcome: Outcome,
        /// It had a schema that the destination did not know, and goes without.
        schema_lost: bool,
    },
    /// A message of the topic is none, or of another route: it stays.
    Other(String),
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that were looked at.
    pub records: u64,
    /// That are at the destination now.
    pub replayed: u64,
    /// That stay, because they were refused again or may not go.
    pub refused: u64,
}

/// The subscription of a quarantine topic that keeps its records until they are replayed.
pub fn subscription(from: &str, to: &str) -> String {
    format!("bridge.replay.{from}.{to}")
}

impl Replay<'_> {
    /// Goes through the topic to its end, or until the limit.
    pub async fn run(&self, mut tell: impl FnMut(&Told)) -> Result<Summary, ConnectionError> {
        let mut summary = Summary::default();
        if self.client.partitions(&self.quarantine).await?.is_none() {
            return Ok(summary);
        }
        let connection = self.client.connect_to_owner(&self.quarantine).await?;
        let outcome = match Subscription::open(connection.clone(), &self.options()).await {
            Ok(mut subscription) => {
                let outcome = self.read(&mut subscription, &mut summary, &mut tell).await;
                subscription.close().await;
                outcome
            }
            Err(error) => Err(error),
        };
        connection.close();
        outcome.map(|()| summary)
    }

    fn options(&self) -> SubscribeOptions {
        SubscribeOptions {
            topic: self.quarantine.clone(),
            subscription: subscription(&self.from, &self.to),
            consumer_name: "bridge replay".into(),
            metadata: Vec::new(),
            exclusive: true,
            earliest: true,
            priority: 0,
            create_topic: false,
            inbox_bytes: INBOX_BYTES,
        }
    }

    async fn read(
        &self,
        subscription: &mut Subscription,
        summary: &mut Summary,
        tell: &mut impl FnMut(&Told),
    ) -> Result<(), ConnectionError> {
        let closed =
            || ConnectionError::Lost("the broker closed the consumer of the quarantine topic".into());
        let silent =
            || ConnectionError::Lost("the broker does not say where the quarantine topic ends".into());
        let asked = subscription.last_message_id().await?;
        tokio::pin!(asked);
        let (mut last, mut at) = (None, None);
        while summary.records < self.limit {
            if last.is_some_and(|last| at >= Some(last)) {
                return Ok(());
            }
            // The answer may wait behind entries that nobody takes.
            let event = tokio::select! {
                answer = &mut asked, if last.is_none() => {
                    let answer = answer?;
                    last = Some(order(&answer.last_message_id));
                    at = at.max(answer.consumer_mark_delete_position.as_ref().map(order));
                    continue;
                }
                event = timeout(QUIET, subscription.next()) => event,
            };
            // Where the last ones were acknowledged singly, they do not come again, and silence is all that says so. But a
            // broker that did not even say where the topic ends has told nothing.
            let Ok(event) = event else {
                return last.map(|_| ()).ok_or_else(silent);
            };
            let delivery = match event {
                Some(ConsumerEvent::Entry(delivery)) => delivery,
                Some(ConsumerEvent::Active(_)) => continue,
                Some(ConsumerEvent::EndOfTopic) => return Ok(()),
                Some(ConsumerEvent::Closed) | None => return Err(closed()),
            };
            let (id, stored_len) = (delivery.id.clone(), delivery.stored.len());
            let message = Entry::parse(delivery.stored.clone());
            let messages = message.as_ref().map_or(1, |message| message.facts().messages());
            if let Some(told) = self.one(message.ok(), subscription, id, summary).await? {
                tell(&told);
            }
            at = Some(order(&delivery.id));
            drop(delivery);
            subscription.taken(messages, stored_len).await?;
        }
        Ok(())
    }

    /// Takes one message of the topic; `None` where it is another position's.
    async fn one(
        &self,
        message: Option<Entry>,
        subscription: &Subscription,
        id: MessageId,
        summary: &mut Summary,
    ) -> Result<Option<Told>, ConnectionError> {
        let place = format!("{}:{}", id.ledger, id.entry);
        let read = message.ok_or_else(|| "not readable".to_owned());
        let (record, entry) = match read.and_then(|m| Record::read(&m).map_err(|error| error.to_string())) {
            Ok(read) => read,
            Err(error) => return Ok(Some(Told::Other(format!("message {place}: {error}")))),
        };
        if (&record.route, &record.from, &record.to) != (&self.route, &self.from, &self.to) {
            return Ok(None);
        }
        if self.position.is_some_and(|position| position != record.position) {
            return Ok(None);
        }
        summary.records += 1;
        let schema_lost = record.schema_version.is_none()
            && entry.facts().schema_version.as_ref().is_some_and(|version| !version.is_empty());
        let outcome = match (self.dry_run, (self.allows)(&record)) {
            (_, false) => Outcome::NotAllowed,
            (true, true) => Outcome::Listed,
            (false, true) => self.publish(&record, &entry).await?,
        };
        match outcome {
            Outcome::Replayed | Outcome::There => {
                subscription.acknowledge_one(id).await?;
                summary.replayed += 1;
            }
            Outcome::RefusedAgain(_) | Outcome::NotAllowed => summary.refused += 1,
            Outcome::Listed => {}
        }
        Ok(Some(Told::Record { record: Box::new(record), outcome, schema_lost }))
    }

    /// Under a name of its own for each entry: deduplication compares with the highest id of a name, and what is replayed
    /// need not be in order. So a duplicate is this very entry.
    async fn publish(&self, record: &Record, entry: &Entry) -> Result<Outcome, ConnectionError> {
        let Record { from, to, topic, generation, position, .. } = record;
        let name = format!("bridge/{from}/{to}/{topic}/{generation}/replay/{position}");
        let index = record.destination.partition_index();
        let partitions = self.client.partitions(&record.destination.base()).await?.unwrap_or_default();
        if index.is_some_and(|index| index >= partitions) {
            // Publishing would make an ordinary topic of that name, which no consumer of the whole sees.
            return Ok(Outcome::RefusedAgain(format!("{} does not exist any more", record.destination)));
        }
        let connection = self.client.connect_to_owner(&record.destination).await?;
        let mut publisher = match Publisher::create(connection.clone(), &record.destination, &name).await {
            Ok(publisher) => publisher,
            Err(error) => {
                connection.close();
                // What this topic refuses holds up no record of another.
                return match error.server_error() {
                    Some(ServerError::ProducerBusy | ServerError::ServiceNotReady) | None => Err(error),
                    Some(_) => Ok(Outcome::RefusedAgain(error.to_string())),
                };
            }
        };
        let outcome = send(&mut publisher, &name, record, entry).await;
        publisher.close().await;
        outcome
    }
}

async fn send(
    publisher: &mut Publisher,
    name: &str,
    record: &Record,
    entry: &Entry,
) -> Result<Outcome, ConnectionError> {
    let lost = |what: &str| ConnectionError::Lost(format!("{}: {what}", record.destination));
    let sequence_id = record.position.sequence_id().unwrap_or_default();
    let version: Option<&Bytes> = record.schema_version.as_ref();
    let head = entry.rehead(&Heading {
        producer_name: name,
        sequence_id,
        highest_sequence_id: None,
        schema_version: version.map_or(SchemaVersion::Remove, |version| SchemaVersion::Set(version)),
    });
    let len = head.len() + entry.payload().len();
    if len > len_max(publisher) {
        let detail = format!("{len} bytes, the broker takes {}", publisher.max_message_size());
        return Ok(Outcome::RefusedAgain(detail));
    }
    let messages = entry.facts().messages();
    let payload = entry.payload().clone();
    let outbound = Outbound { sequence_id, highest_sequence_id: None, messages, head, payload };
    publisher.send(outbound).await?;
    let answer = timeout(ANSWER_DEADLINE, publisher.next()).await;
    match answer.map_err(|_| lost("the broker does not answer"))? {
        Some(ProducerEvent::Receipt { duplicate: false, .. }) => Ok(Outcome::Replayed),
        Some(ProducerEvent::Receipt { duplicate: true, .. }) => Ok(Outcome::There),
        Some(ProducerEvent::SendError { error, message, .. }) => {
            if send_error_reason(error, &message) == Reason::Poison {
                return Ok(Outcome::RefusedAgain(message));
            }
            Err(ConnectionError::refused(error as i32, message))
        }
        Some(ProducerEvent::Closed) | None => Err(lost("the broker closed the producer")),
    }
}

/// The order of a topic's messages; the broker's −1 are "before everything".
fn order(id: &MessageId) -> (i64, i64) {
    (id.ledger as i64, id.entry as i64)
}

/// A topic that gives nothing for so long has been read to its end.
const QUIET: Duration = Duration::from_secs(10);
const ANSWER_DEADLINE: Duration = Duration::from_secs(45);
/// Unread records: one at a time is worked on.
const INBOX_BYTES: usize = 1 << 20;
