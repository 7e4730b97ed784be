//! What a sink has at its destination broker: its producer, what was sent and not answered, the schemas it knows, and
//! what has to wait. Says what becomes of each entry next; awaits no source.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::destination::Destination;
use super::frames::EntryHead;
use super::lane::Allowance;
use super::quarantine::Quarantine;
use super::reason::Reason;
use super::refusal::{Refusal, refusal_of};
use super::refused::{REFUSED_MAX, Range, Refused};
use crate::pulsar::client::Client;
use crate::pulsar::entry::{Entry, Heading, SchemaVersion};
use crate::pulsar::proto::ServerError;
use crate::pulsar::publisher::{Outbound, Publisher};
use crate::pulsar::topic::TopicName;
use crate::tunnel::backoff::Backoff;

/// An entry at the broker.
pub(super) struct Sent {
    pub(super) range: Range,
    entry_len: usize,
    /// On the wire.
    len: usize,
    /// A joined batch behind which nothing is sent until it is answered.
    pub(super) alone: bool,
}

/// A sink that publishes.
pub(super) struct Publishing {
    pub(super) publisher: Publisher,
    pub(super) destination: Destination,
    producer_name: String,
    /// Where refused entries go in this session.
    pub(super) quarantine: Option<Quarantine>,
    /// Sent and not answered.
    outstanding: VecDeque<Sent>,
    /// The largest that the broker stored in this session, on the wire.
    stored_len_max: usize,
    pub(super) allowance: Arc<Allowance>,
    /// The destination's version for each of the source's; `None`: it knows none.
    schemas: HashMap<Bytes, Option<Bytes>>,
    /// What the destination refuses, and its words.
    refused_schemas: HashMap<Bytes, String>,
    /// Entries that wait: the first for its schema, or to be set aside; the others behind it.
    held: VecDeque<(EntryHead, Entry)>,
    asked: Option<Bytes>,
}

/// What becomes of the first entry that waits.
pub(super) enum Step {
    /// It waits on, or there is none.
    Wait,
    /// The source has to say what schema this version is.
    Ask(Bytes),
    /// It goes to the destination.
    Send(EntryHead, Entry),
    /// It was refused before, and everything before it is answered.
    SetAside(EntryHead, Entry),
}

impl Publishing {
    pub(super) fn new(
        publisher: Publisher,
        destination: Destination,
        producer_name: String,
        quarantine: Option<Quarantine>,
        allowance: Arc<Allowance>,
    ) -> Self {
        Self {
            publisher,
            destination,
            producer_name,
            quarantine,
            outstanding: VecDeque::new(),
            stored_len_max: 0,
            allowance,
            schemas: HashMap::new(),
            refused_schemas: HashMap::new(),
            held: VecDeque::new(),
            asked: None,
        }
    }

    /// An entry came from the source.
    pub(super) fn hold(&mut self, head: EntryHead, entry: Entry) {
        self.held.push_back((head, entry));
    }

    /// Entries wait here.
    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Entries at the brokers that are not answered.
    pub(super) fn unanswered(&self) -> usize {
        let aside = self.quarantine.as_ref().is_some_and(Quarantine::is_waiting);
        self.outstanding.len() + usize::from(aside)
    }

    /// What becomes of the first entry that waits. One that is set aside waits until everything before it is answered,
    /// and everything behind it until it is: so what lies in the quarantine is in order, and a duplicate there is its own.
    /// A joined batch larger than all that was stored may be too large for the topic (`PersistentTopic` asks that before
    /// deduplication), though its entries are not: were anything stored behind it, those would be taken for duplicates.
    pub(super) fn next_step(&mut self) -> Result<Step, Refusal> {
        let behind_batch = self.outstanding.back().is_some_and(|sent| sent.alone);
        let behind_aside = self.quarantine.as_ref().is_some_and(Quarantine::is_waiting);
        if self.asked.is_some() || behind_batch || behind_aside {
            return Ok(Step::Wait);
        }
        let Some((head, entry)) = self.held.front() else {
            return Ok(Step::Wait);
        };
        let aside = self.quarantine.as_ref().is_some_and(|quarantine| quarantine.takes(head.sequence_id));
        if let Some(version) = schema_version(entry) {
            if let Some(detail) = self.refused_schemas.get(version).filter(|_| !aside) {
                return Err(Refusal::entries(Reason::SchemaRefused, self.held_of(version), detail));
            }
            if !self.schemas.contains_key(version) && !self.refused_schemas.contains_key(version) {
                let version = version.clone();
                self.asked = Some(version.clone());
                self.allowance.asks_schema();
                return Ok(Step::Ask(version));
            }
        }
        if aside && !self.outstanding.is_empty() {
            return Ok(Step::Wait);
        }
        let Some((head, entry)) = self.held.pop_front() else {
            return Ok(Step::Wait);
        };
        Ok(if aside { Step::SetAside(head, entry) } else { Step::Send(head, entry) })
    }

    /// What waits and has this schema, as far as it can be named. None of it was sent: the rest is refused in its turn.
    fn held_of(&self, version: &Bytes) -> Refused {
        let mut refused = Refused::default();
        let of_schema = self.held.iter().filter(|(_, entry)| schema_version(entry) == Some(version));
        for (head, _) in of_schema.take(REFUSED_MAX - 1) {
            let last = head.highest_sequence_id.unwrap_or(head.sequence_id);
            refused.insert(Range { first: head.sequence_id, last });
        }
        refused
    }

    pub(super) async fn send(&mut self, head: &EntryHead, entry: &Entry) -> Result<(), Refusal> {
        let facts = entry.facts();
        let version = self.mapped(entry);
        let heading = Heading {
            producer_name: &self.producer_name,
            sequence_id: head.sequence_id,
            highest_sequence_id: head.highest_sequence_id,
            schema_version: version.as_deref().map_or(SchemaVersion::Remove, SchemaVersion::Set),
        };
        let new_head = entry.rehead(&heading);
        let len = new_head.len() + entry.payload().len();
        if len > len_max(&self.publisher) {
            let detail = format!("{len} bytes, the broker takes {}", self.publisher.max_message_size());
            return Err(Refusal::at(Reason::EntryTooLarge, head.sequence_id, &detail));
        }
        let last = head.highest_sequence_id.unwrap_or(head.sequence_id);
        let range = Range { first: head.sequence_id, last };
        let alone = head.highest_sequence_id.is_some() && len > self.stored_len_max;
        self.outstanding.push_back(Sent { range, entry_len: entry.stored_len(), len, alone });
        let outbound = Outbound {
            sequence_id: head.sequence_id,
            highest_sequence_id: head.highest_sequence_id,
            messages: facts.messages(),
            head: new_head,
            payload: entry.payload().clone(),
        };
        self.publisher.send(outbound).await.map_err(|error| refusal_of(&error))
    }

    /// The entry's schema version as the destination counts it.
    pub(super) fn mapped(&self, entry: &Entry) -> Option<Bytes> {
        self.schemas.get(schema_version(entry)?).cloned().flatten()
    }

    /// Whether the destination refuses the entry's schema.
    pub(super) fn is_schema_refused(&self, entry: &Entry) -> bool {
        schema_version(entry).is_some_and(|version| self.refused_schemas.contains_key(version))
    }

    /// The source says what schema a version is; what was not asked for is not taken.
    pub(super) async fn take_schema(&mut self, version: Bytes, schema: Option<Bytes>) -> Result<(), Refusal> {
        if self.asked.as_ref() != Some(&version) {
            return Ok(());
        }
        let mapped = match schema {
            Some(schema) => self.register_schema(schema).await,
            None => Ok(None),
        };
        self.asked = None;
        if self.schemas.len() + self.refused_schemas.len() >= SCHEMAS_MAX {
            self.schemas.clear();
            self.refused_schemas.clear();
        }
        match mapped {
            Ok(mapped) => drop(self.schemas.insert(version, mapped)),
            Err(refusal) if refusal.halt.reason == Reason::SchemaRefused => {
                self.refused_schemas.insert(version, refusal.halt.detail);
            }
            Err(refusal) => return Err(refusal),
        }
        Ok(())
    }

    async fn register_schema(&self, schema: Bytes) -> Result<Option<Bytes>, Refusal> {
        self.publisher.register_schema(&self.destination.topic.base(), schema).await.map_err(|error| {
            let refusal = refusal_of(&error);
            match error.server_error() {
                Some(ServerError::IncompatibleSchema | ServerError::NotAllowed) => {
                    Refusal::of(Reason::SchemaRefused, &error.to_string())
                }
                Some(_) | None => refusal,
            }
        })
    }

    /// The broker has stored it, or had it.
    pub(super) fn confirmed(&mut self, id: u64, duplicate: bool) {
        if let Some(sent) = self.answered(id)
            && !duplicate
        {
            self.stored_len_max = self.stored_len_max.max(sent.len);
        }
    }

    /// The broker answered; gives what for. Receipts echo the first id; refusals name the highest.
    pub(super) fn answered(&mut self, id: u64) -> Option<Sent> {
        let sent = self.outstanding.iter().position(|sent| sent.range.first == id || sent.range.last == id);
        let sent = sent.and_then(|index| self.outstanding.remove(index))?;
        self.allowance.confirmed(sent.entry_len);
        Some(sent)
    }

    /// Closes its producers.
    pub(super) async fn close(self) {
        self.publisher.close().await;
        if let Some(quarantine) = self.quarantine {
            quarantine.close().await;
        }
    }
}

fn schema_version(entry: &Entry) -> Option<&Bytes> {
    entry.facts().schema_version.as_ref().filter(|version| !version.is_empty())
}

/// What fits into a SEND: the broker's bound, and its padding for what stands before the payload.
pub(super) fn len_max(publisher: &Publisher) -> usize {
    publisher.max_message_size() as usize + HEAD_PADDING
}

/// The name is a lock: as long as another connection of ours is not quite gone, it is busy.
pub(super) async fn create_producer(
    client: &Client,
    topic: &TopicName,
    name: &str,
    said: &[(&str, String)],
) -> Result<Publisher, Refusal> {
    let mut backoff = Backoff::new(BUSY_RETRY_FIRST, BUSY_RETRY_MAX);
    let give_up = Instant::now() + BUSY_DEADLINE;
    loop {
        let connection = client.connect_to_owner(topic).await.map_err(|error| refusal_of(&error))?;
        match Publisher::create_saying(connection.clone(), topic, name, said).await {
            Ok(publisher) => return Ok(publisher),
            Err(error) => {
                connection.close();
                let busy = error.server_error() == Some(ServerError::ProducerBusy);
                if !busy || Instant::now() > give_up {
                    return Err(refusal_of(&error));
                }
            }
        }
        sleep(backoff.next_delay()).await;
    }
}

const BUSY_RETRY_FIRST: Duration = Duration::from_millis(50);
const BUSY_RETRY_MAX: Duration = Duration::from_millis(500);
/// A broker finds a dead holder of the name within 5 s (`connectionLivenessCheckTimeoutMillis`).
const BUSY_DEADLINE: Duration = Duration::from_secs(8);
/// `Commands.MESSAGE_SIZE_FRAME_PADDING` is 10 KiB; the SEND command needs some of it.
const HEAD_PADDING: usize = 10 * 1024 - 128;
/// Versions remembered in one session; a topic has a handful.
const SCHEMAS_MAX: usize = 1024;
