//! What a broker answers to everything but sends: a method for each command. The other half of `connection.rs`.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message;

use super::cluster::{self, Cluster};
use super::commands::{self, Answer, Question, kind};
use super::connection::{Connection, End, NO_TXN};
use super::line::Feed;
use super::log::Position;
use super::probes::Who;
use super::seating::{ConsumerRequest, ProducerRequest, Start, Target};
use super::subscription::Kind;
use super::topic::Refused;
use super::wire;
use crate::pulsar::fields::{Fields, Value};
use crate::pulsar::proto::ServerError;

impl Connection {
    /// Answers one command.
    pub(super) fn ask(&mut self, question: Question) -> Result<(), End> {
        let r#type = question.r#type;
        if !self.is_connected && r#type != kind::CONNECT {
            return Err(End::NotConnected(r#type));
        }
        let q = question;
        match r#type {
            kind::CONNECT => self.connect(q.connect.unwrap_or_default()),
            kind::PING => self.pong(),
            kind::PONG | kind::AUTH_RESPONSE => {}
            kind::PARTITION_METADATA => self.partition_metadata(&q.partition_metadata.unwrap_or_default()),
            kind::LOOKUP => self.look_up(&q.lookup.unwrap_or_default()),
            kind::PRODUCER => self.add_producer(q)?,
            kind::SUBSCRIBE => self.subscribe(q)?,
            kind::FLOW => {
                let flow = q.flow.unwrap_or_default();
                if let Some(feed) = self.feeds.get(&flow.consumer_id) {
                    feed.topic.permit(feed, flow.permits);
                }
            }
            kind::ACK => self.ack(&q.ack.unwrap_or_default()),
            kind::REDELIVER => {
                let redeliver = q.redeliver.unwrap_or_default();
                if let Some(feed) = self.feeds.get(&redeliver.consumer_id) {
                    feed.topic.redeliver(feed, &redeliver.message_ids, redeliver.consumer_epoch);
                }
            }
            kind::SEEK => self.seek(q.seek.unwrap_or_default()),
            kind::UNSUBSCRIBE => self.unsubscribe(&q.unsubscribe.unwrap_or_default()),
            kind::CLOSE_PRODUCER => self.close_producer(&q.close_producer.unwrap_or_default()),
            kind::CLOSE_CONSUMER => self.close_consumer(&q.close_consumer.unwrap_or_default()),
            kind::GET_LAST_MESSAGE_ID => self.last_message_id(&q.get_last_message_id.unwrap_or_default()),
            kind::GET_TOPICS => self.topics(&q.get_topics.unwrap_or_default()),
            kind::GET_SCHEMA => self.schema(&q.get_schema.unwrap_or_default()),
            kind::GET_OR_CREATE_SCHEMA => self.make_schema(&q.get_or_create_schema.unwrap_or_default()),
            // An answer to a question we do not ask, or a command of no consequence.
            _ => {}
        }
        Ok(())
    }

    /// Refuses a command of a kind that this broker has no part in, by the request number that stands first in it.
    pub(super) fn refuse_unknown(&mut self, question: &Question, command: &[u8]) {
        let body =
            Fields::of(command).flatten().find(|field| i64::from(field.number) == i64::from(question.r#type));
        let Some(Value::Bytes(body)) = body.map(|field| field.value) else {
            return;
        };
        let Ok(commands::Unknown { request_id }) = commands::Unknown::decode(body) else {
            return;
        };
        let message = match question.r#type {
            kind::TXN_FIRST..=kind::TXN_LAST => NO_TXN,
            _ => "this broker does not know the command",
        };
        self.refuse(request_id, &Refused::new(ServerError::NotAllowed, message));
    }

    fn connect(&mut self, connect: commands::Connect) {
        self.is_connected = true;
        let version = connect.protocol_version.unwrap_or(0).min(PROTOCOL_VERSION);
        let connected = commands::Connected {
            server_version: SERVER_VERSION.into(),
            protocol_version: Some(version),
            max_message_size: i32::try_from(self.cluster.max_message_size).ok(),
            feature_flags: Some(commands::FeatureFlags {
                supports_topic_watchers: Some(false),
                supports_metadata_without_creation: Some(true),
            }),
        };
        self.say(Answer { r#type: kind::CONNECTED, connected: Some(connected), ..Answer::default() });
    }

    fn pong(&mut self) {
        self.say(Answer { r#type: kind::PONG, pong: Some(commands::Nothing {}), ..Answer::default() });
    }

    fn partition_metadata(&mut self, question: &commands::PartitionMetadata) {
        let mut answer = commands::PartitionMetadataResponse {
            request_id: question.request_id,
            response: Some(SUCCEEDED),
            ..Default::default()
        };
        let may_make = question.metadata_auto_creation_enabled.unwrap_or(true);
        let outcome = match self.cluster.partitions(&question.topic) {
            Ok(None) if !may_make => Err(Refused::new(ServerError::TopicNotFound, "Topic not found")),
            Ok(partitions) => Ok(partitions.unwrap_or(0)),
            Err(refused) => Err(refused),
        };
        match outcome {
            Ok(partitions) => answer.partitions = Some(partitions),
            Err(refused) => {
                answer.response = Some(METADATA_FAILED);
                answer.error = Some(refused.error as i32);
                answer.message = Some(refused.message);
            }
        }
        let r#type = kind::PARTITION_METADATA_RESPONSE;
        self.say(Answer { r#type, partition_metadata: Some(answer), ..Answer::default() });
    }

    fn look_up(&mut self, question: &commands::Lookup) {
        let request_id = question.request_id;
        let answer = match cluster::parse(&question.topic) {
            Ok(_) => commands::LookupResponse {
                broker_service_url: Some(format!("pulsar://{}", self.line.reached_at)),
                response: Some(LOOKUP_CONNECT),
                request_id,
                authoritative: Some(true),
                proxy_through_service_url: Some(false),
                ..Default::default()
            },
            Err(refused) => commands::LookupResponse {
                response: Some(LOOKUP_FAILED),
                request_id,
                error: Some(refused.error as i32),
                message: Some(refused.message),
                ..Default::default()
            },
        };
        self.say(Answer { r#type: kind::LOOKUP_RESPONSE, lookup: Some(answer), ..Answer::default() });
    }

    fn add_producer(&mut self, question: Question) -> Result<(), End> {
        let producer = question.producer.clone().unwrap_or_default();
        let request_id = producer.request_id;
        if self.sends.producers() >= SEATS_MAX {
            return Err(End::TooMany(SEATS_MAX));
        }
        if let Err(refused) = self.let_producer_in(&producer) {
            self.refuse_or_probe(Who::Producer(producer.producer_id), request_id, refused, question);
        }
        Ok(())
    }

    fn let_producer_in(&mut self, producer: &commands::Producer) -> Result<(), Refused> {
        let given = producer.producer_name.as_deref().unwrap_or_default();
        check_name(given)?;
        let is_exclusive = match producer.access_mode.unwrap_or(ACCESS_SHARED) {
            ACCESS_SHARED => false,
            ACCESS_EXCLUSIVE => true,
            _ => {
                let message = "this broker has the access modes Shared and Exclusive";
                return Err(Refused::new(ServerError::NotAllowed, message));
            }
        };
        if producer.txn_enabled.unwrap_or(false) {
            return Err(Refused::new(ServerError::NotAllowed, NO_TXN));
        }
        let topic = self.cluster.topic(&producer.topic, true)?;
        let schema_version = add_schema(&self.cluster, topic.name(), producer.schema.as_ref())?;
        let key = self.cluster.next_key();
        let name = if given.is_empty() { format!("embedded-{}", key.0) } else { given.to_owned() };
        let request = ProducerRequest {
            producer_id: producer.producer_id,
            name: name.clone(),
            epoch: producer.epoch.unwrap_or(0),
            is_exclusive,
            initial_subscription: producer.initial_subscription_name.clone().filter(|name| !name.is_empty()),
        };
        let (seat, last) = topic.add_producer(&request, key, &self.line)?;
        let success = commands::ProducerSuccess {
            request_id: producer.request_id,
            producer_name: name,
            last_sequence_id: Some(last),
            schema_version: Some(schema_version.unwrap_or_default()),
            producer_ready: Some(true),
        };
        self.sends.open(producer.producer_id, seat, success, &mut self.frames);
        Ok(())
    }

    fn subscribe(&mut self, question: Question) -> Result<(), End> {
        let subscribe = question.subscribe.clone().unwrap_or_default();
        if self.feeds.len() >= SEATS_MAX {
            return Err(End::TooMany(SEATS_MAX));
        }
        let (request_id, who) = (subscribe.request_id, Who::Consumer(subscribe.consumer_id));
        if self.feeds.get(&subscribe.consumer_id).is_some_and(|feed| feed.topic.has(feed)) {
            // `ServerCnx.handleSubscribe`: "Consumer with the same id is already created".
            self.say(wire::success(request_id));
            return Ok(());
        }
        // Its success is said by the topic, before anything else that the topic says.
        self.line.say_all(&mut self.frames);
        match self.let_consumer_in(subscribe) {
            Ok(feed) => drop(self.feeds.insert(feed.consumer_id, feed)),
            Err(refused) => self.refuse_or_probe(who, request_id, refused, question),
        }
        Ok(())
    }

    fn let_consumer_in(&mut self, subscribe: commands::Subscribe) -> Result<Arc<Feed>, Refused> {
        check_name(&subscribe.subscription)?;
        check_name(subscribe.consumer_name.as_deref().unwrap_or_default())?;
        let kind = match subscribe.sub_type {
            0 => Kind::Exclusive,
            1 => Kind::Shared,
            2 => Kind::Failover,
            _ => {
                let message = "this broker has no Key_Shared subscriptions";
                return Err(Refused::new(ServerError::NotAllowed, message));
            }
        };
        let topic = self.cluster.topic(&subscribe.topic, subscribe.force_topic_creation.unwrap_or(true))?;
        add_schema(&self.cluster, topic.name(), subscribe.schema.as_ref())?;
        let key = self.cluster.next_key();
        let durable = subscribe.durable.unwrap_or(true);
        let start = match (subscribe.start_message_id, subscribe.initial_position.unwrap_or(LATEST)) {
            (Some(id), _) if !durable => Start::At(id),
            (_, LATEST) => Start::Latest,
            (_, _) => Start::Earliest,
        };
        let rollback = subscribe.start_message_rollback_duration_sec.filter(|seconds| *seconds > 0);
        let request = ConsumerRequest {
            consumer_id: subscribe.consumer_id,
            request_id: subscribe.request_id,
            subscription: subscribe.subscription,
            kind,
            name: subscribe.consumer_name.unwrap_or_else(|| format!("consumer-{}", key.0)),
            priority: subscribe.priority_level.unwrap_or(0),
            epoch: subscribe.consumer_epoch.filter(|epoch| *epoch != u64::MAX),
            durable,
            start,
            since: rollback.map(|seconds| millis_now().saturating_sub(seconds.saturating_mul(1000))),
        };
        topic.subscribe(&request, key, &self.line)
    }

    fn ack(&mut self, ack: &commands::Ack) {
        let has_txn = ack.txn_least.is_some() || ack.txn_most.is_some();
        let feed = self.feeds.get(&ack.consumer_id);
        if let (Some(feed), false) = (feed, has_txn) {
            feed.topic.ack(feed, ack.ack_type == CUMULATIVE, &ack.message_id);
        }
        if ack.request_id.is_some() {
            let answer = commands::AckResponse {
                consumer_id: ack.consumer_id,
                error: has_txn.then_some(ServerError::NotAllowed as i32),
                message: has_txn.then(|| NO_TXN.into()),
                request_id: ack.request_id,
            };
            self.say(Answer { r#type: kind::ACK_RESPONSE, ack: Some(answer), ..Answer::default() });
        }
    }

    fn seek(&mut self, seek: commands::Seek) {
        let Some(feed) = self.feeds.get(&seek.consumer_id).filter(|feed| feed.topic.has(feed)) else {
            let refused = Refused::new(ServerError::Metadata, "Consumer not found");
            self.refuse(seek.request_id, &refused);
            return;
        };
        let target = match (seek.message_id, seek.publish_time) {
            (Some(id), _) => Target::Message(id),
            (None, Some(time)) => Target::Time(time),
            (None, None) => Target::Time(0),
        };
        feed.topic.seek(feed, &target);
        self.say(wire::success(seek.request_id));
    }

    fn unsubscribe(&mut self, unsubscribe: &commands::Numbered) {
        let outcome = match self.feeds.get(&unsubscribe.id) {
            Some(feed) => feed.topic.unsubscribe(feed),
            None => Err(Refused::new(ServerError::Metadata, "Consumer not found")),
        };
        match outcome {
            Ok(()) => {
                self.feeds.remove(&unsubscribe.id);
                self.say(wire::success(unsubscribe.request_id));
            }
            Err(refused) => self.refuse(unsubscribe.request_id, &refused),
        }
    }

    fn close_producer(&mut self, close: &commands::Numbered) {
        self.probed.remove(&Who::Producer(close.id));
        self.sends.close(close.id, close.request_id, &mut self.frames);
    }

    fn close_consumer(&mut self, close: &commands::Numbered) {
        self.probed.remove(&Who::Consumer(close.id));
        if let Some(feed) = self.feeds.remove(&close.id) {
            feed.topic.detach(&feed);
        }
        self.say(wire::success(close.request_id));
    }

    fn last_message_id(&mut self, question: &commands::Numbered) {
        let Some(feed) = self.feeds.get(&question.id) else {
            self.refuse(question.request_id, &Refused::new(ServerError::Metadata, "Consumer not found"));
            return;
        };
        let (last, mark) = feed.topic.ends(feed);
        let partition = feed.topic.partition();
        let (position, batch) = last.unwrap_or((NOWHERE, None));
        let answer = commands::LastMessageId {
            last_message_id: commands::MessageId {
                partition,
                batch_index: Some(batch.map_or(-1, |count| count as i32 - 1)),
                ..message_id(position)
            },
            request_id: question.request_id,
            consumer_mark_delete_position: mark.map(message_id),
        };
        let last_message_id = Some(answer);
        self.say(Answer { r#type: kind::LAST_MESSAGE_ID, last_message_id, ..Answer::default() });
    }

    fn topics(&mut self, question: &commands::GetTopics) {
        let names = match question.mode.unwrap_or(0) {
            ONLY_NON_PERSISTENT => Some(Vec::new()),
            _ => self.cluster.names(&question.namespace),
        };
        let Some(names) = names else {
            let message = "the namespace has more topics than an answer can name";
            self.refuse(question.request_id, &Refused::new(ServerError::NotAllowed, message));
            return;
        };
        let topics = commands::Topics {
            request_id: question.request_id,
            topics: names,
            filtered: Some(false),
            changed: Some(true),
        };
        self.say(Answer { r#type: kind::TOPICS, topics: Some(topics), ..Answer::default() });
    }

    fn schema(&mut self, question: &commands::GetSchema) {
        let wanted = question.schema_version.as_deref();
        let found =
            cluster::parse(&question.topic).ok().and_then(|name| self.cluster.schemas().get(&name, wanted));
        let mut answer =
            commands::GetSchemaResponse { request_id: question.request_id, ..Default::default() };
        match found {
            Some((schema, version)) => {
                answer.schema = Some(schema);
                answer.schema_version = Some(version);
            }
            None => {
                answer.error = Some(ServerError::TopicNotFound as i32);
                answer.message = Some("Topic not found or no-schema".into());
            }
        }
        self.say(Answer { r#type: kind::GET_SCHEMA_RESPONSE, schema: Some(answer), ..Answer::default() });
    }

    fn make_schema(&mut self, question: &commands::GetOrCreateSchema) {
        let made = cluster::parse(&question.topic).and_then(|name| match self.cluster.find(&name) {
            Some(_) => add_schema(&self.cluster, &name, Some(&question.schema)),
            None => Err(Refused::new(ServerError::TopicNotFound, format!("Topic not found {name}"))),
        });
        let mut answer =
            commands::GetOrCreateSchemaResponse { request_id: question.request_id, ..Default::default() };
        match made {
            Ok(version) => answer.schema_version = Some(version.unwrap_or_default()),
            Err(refused) => {
                answer.error = Some(refused.error as i32);
                answer.message = Some(refused.message);
            }
        }
        let r#type = kind::GET_OR_CREATE_SCHEMA_RESPONSE;
        self.say(Answer { r#type, schema_made: Some(answer), ..Answer::default() });
    }

    pub(super) fn refuse(&mut self, request_id: u64, refused: &Refused) {
        self.say(refusal(request_id, refused));
    }
}

fn refusal(request_id: u64, refused: &Refused) -> Answer {
    let error =
        commands::Refusal { request_id, error: refused.error as i32, message: refused.message.clone() };
    Answer { r#type: kind::ERROR, error: Some(error), ..Answer::default() }
}

fn check_name(name: &str) -> Result<(), Refused> {
    if name.len() > NAME_LEN_MAX {
        return Err(Refused::new(ServerError::NotAllowed, "names have at most 1024 bytes"));
    }
    Ok(())
}

/// The version of a schema that comes with a producer or consumer; `None` for types that are not kept.
fn add_schema(
    cluster: &Cluster,
    topic: &crate::pulsar::topic::TopicName,
    schema: Option<&commands::Schema>,
) -> Result<Option<Bytes>, Refused> {
    match schema.filter(|schema| SCHEMA_TYPES.contains(&schema.r#type)) {
        Some(schema) => match cluster.schemas().add(topic, schema) {
            Ok(version) => Ok(Some(version)),
            Err((error, message)) => Err(Refused::new(error, message)),
        },
        None => Ok(None),
    }
}

fn message_id(Position { ledger, entry }: Position) -> commands::MessageId {
    commands::MessageId { ledger, entry, ..commands::MessageId::default() }
}

fn millis_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What an empty topic says it ends with.
const NOWHERE: Position = Position { ledger: u64::MAX, entry: u64::MAX };
const SERVER_VERSION: &str = concat!("Pulsar Server embedded in pulsar-bridge-", env!("CARGO_PKG_VERSION"));
/// v21, as 4.x brokers have it.
const PROTOCOL_VERSION: i32 = 21;
/// `CommandPartitionedTopicMetadataResponse.LookupType`.
const SUCCEEDED: i32 = 0;
const METADATA_FAILED: i32 = 1;
/// `CommandLookupTopicResponse.LookupType`.
const LOOKUP_CONNECT: i32 = 1;
const LOOKUP_FAILED: i32 = 2;
/// `CommandSubscribe.InitialPosition`.
const LATEST: i32 = 0;
/// `CommandAck.AckType`.
const CUMULATIVE: i32 = 1;
/// `ProducerAccessMode`.
const ACCESS_SHARED: i32 = 0;
const ACCESS_EXCLUSIVE: i32 = 1;
/// `CommandGetTopicsOfNamespace.Mode`.
const ONLY_NON_PERSISTENT: i32 = 1;
/// `Schema.Type` without `None` (0) and `AutoConsume` (21).
const SCHEMA_TYPES: std::ops::RangeInclusive<i32> = 1..=20;
/// Producers, and consumers, of one connection.
const SEATS_MAX: usize = 20_000;
/// Names of producers, subscriptions, consumers.
const NAME_LEN_MAX: usize = 1024;
