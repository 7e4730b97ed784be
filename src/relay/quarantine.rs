//! The quarantine topic of one session: where the sink puts, one by one, the entries that the destination refused
//! before. Decides nothing about what was refused; writes nothing without a subscription that keeps it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::context::Context;
use super::destination;
use super::frames::Open;
use super::publishing::{create_producer, len_max};
use super::reason::Reason;
use super::record::{Record, producer_name};
use super::refusal::{Refusal, refusal_of, send_error_reason};
use super::refused::{Range, Refused};
use super::replay;
use crate::pulsar::connection::ProducerEvent;
use crate::pulsar::message;
use crate::pulsar::proto::ServerError;
use crate::pulsar::publisher::Publisher;
use crate::pulsar::subscription::{SubscribeOptions, Subscription};
use crate::pulsar::topic::TopicName;

/// A producer on the quarantine topic, and what goes there.
pub(super) struct Quarantine {
    topic: TopicName,
    publisher: Publisher,
    refused: Refused,
    /// At the broker and not answered: its id, and the length of the entry.
    waiting: Option<(u64, usize)>,
    told: bool,
}

impl Quarantine {
    /// Makes topic and subscription where they are missing, and the producer.
    pub(super) async fn open(
        context: &Context,
        open: &Open,
        topic: &str,
        refused: Refused,
    ) -> Result<Self, Refusal> {
        let placed = |refusal: Refusal| {
            let detail = format!("quarantine topic {topic}: {}", refusal.halt.detail);
            Refusal::of(refusal.halt.reason, &detail)
        };
        let name = TopicName::parse(topic)
            .map_err(|error| placed(Refusal::of(Reason::RefusedByPolicy, &error.to_string())))?;
        prepare(context, open, &name).await.map_err(placed)?;
        let producer_name = producer_name(&open.from, &open.to, &open.topic, open.generation);
        let publisher =
            create_producer(&context.cluster.client, &name, &producer_name, &[]).await.map_err(placed)?;
        Ok(Self { topic: name, publisher, refused, waiting: None, told: false })
    }

    /// Whether this entry goes here.
    pub(super) fn takes(&self, id: u64) -> bool {
        self.refused.holds(id)
    }

    /// A record is on its way.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Nobody was told of this session's: status and metrics count each, the log names the first.
    pub(super) fn is_news(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// The topic.
    pub(super) fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Sends a record with the entry in it.
    pub(super) async fn publish(
        &mut self,
        id: u64,
        record: &Record,
        stored: bytes::Bytes,
    ) -> Result<(), Refusal> {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let entry_len = stored.len();
        let metadata = record.metadata(id, now_ms);
        let outbound = message::outbound(id, 1, &metadata, stored);
        let len = outbound.head.len() + entry_len;
        if len > len_max(&self.publisher) {
            let detail = format!("{len} bytes, the broker takes {}", self.publisher.max_message_size());
            return Err(self.refused_here(id, &detail));
        }
        self.waiting = Some((id, entry_len));
        self.publisher.send(outbound).await.map_err(|error| refusal_of(&error))
    }

    /// The next answer.
    pub(super) async fn next(&mut self) -> Option<ProducerEvent> {
        self.publisher.next().await
    }

    /// What the answer says: the entry that lies here now, and its length. A duplicate is the record of an earlier
    /// session: records are in order, and nothing else has this name.
    pub(super) fn answered(&mut self, event: Option<ProducerEvent>) -> Result<Option<(u64, usize)>, Refusal> {
        match event {
            Some(ProducerEvent::Receipt { sequence_id, .. }) => {
                Ok(self.waiting.take_if(|waiting| waiting.0 == sequence_id))
            }
            Some(ProducerEvent::SendError { sequence_id, error, message }) => {
                let reason = send_error_reason(error, &message);
                if matches!(reason, Reason::Poison | Reason::TopicTerminated) {
                    return Err(self.refused_here(sequence_id, &message));
                }
                Err(Refusal::of(reason, &format!("quarantine topic {}: {message}", self.topic)))
            }
            Some(ProducerEvent::Closed) | None => {
                let detail = format!("the broker closed the producer on the quarantine topic {}", self.topic);
                Err(Refusal::of(Reason::DestinationMoved, &detail))
            }
        }
    }

    /// Both refuse it: the route stops.
    fn refused_here(&self, id: u64, said: &str) -> Refusal {
        let mut refused = Refused::default();
        refused.insert(Range { first: id, last: id });
        let detail = format!(
            "the destination broker refused the entry before, and the quarantine topic {} refuses its record: {said}",
            self.topic
        );
        Refusal::entries(Reason::Poison, refused, &detail)
    }

    pub(super) async fn close(self) {
        self.publisher.close().await;
    }
}

/// A topic without partitions, and the subscription that replay reads it by: without one, nothing that is written there
/// would stay (`ManagedLedgerImpl.internalTrimLedgers`).
async fn prepare(context: &Context, open: &Open, topic: &TopicName) -> Result<(), Refusal> {
    let client = &context.cluster.client;
    match client.partitions(topic).await.map_err(|error| refusal_of(&error))? {
        Some(0) => {}
        Some(partitions) => {
            let detail = format!("it has {partitions} partitions: name one that has none");
            return Err(Refusal::of(Reason::PartitionMismatch, &detail));
        }
        None => destination::create(&context.cluster, topic, 0).await?,
    }
    let connection = client.connect_to_owner(topic).await.map_err(|error| refusal_of(&error))?;
    let options = SubscribeOptions {
        topic: topic.clone(),
        subscription: replay::subscription(&open.from, &open.to),
        consumer_name: format!("bridge/{}/{}", context.site, context.instance),
        metadata: Vec::new(),
        exclusive: true,
        earliest: true,
        priority: 0,
        create_topic: true,
        inbox_bytes: 1,
    };
    let created = Subscription::create(connection.clone(), &options).await;
    connection.close();
    match created {
        // Somebody reads it: it exists.
        Err(error) if error.server_error() == Some(ServerError::ConsumerBusy) => Ok(()),
        created => created.map_err(|error| refusal_of(&error)),
    }
}
