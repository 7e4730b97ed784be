//! The sink of one session: creates the producer, publishes what comes, and reports each answer of the broker.
//! Holds nothing beyond its session: when the lane, the broker or a newer session ends it, everything that is
//! queued is dropped, and the source sends again what was not confirmed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::destination::{self, Destination};
use super::feeders;
use super::frames::{EntryHead, Kind, Open, Ready, Receipts, SchemaAsk, Stop};
use super::lane::{Allowance, FromSource, LaneHandle, WINDOW_ENTRIES};
use super::progress::Progress;
use super::reason::Reason;
use super::refusal::{Refusal, refusal_of, send_error_reason};
use super::status::{End, Key};
use crate::pulsar::connection::ProducerEvent;
use crate::pulsar::entry::{Entry, Heading, SchemaVersion};
use crate::pulsar::proto::ServerError;
use crate::pulsar::publisher::{Outbound, Publisher};
use crate::pulsar::topic::TopicName;
use crate::tunnel::backoff::Backoff;

/// One session at its destination.
pub struct Sink {
    pub(super) context: Arc<Context>,
    pub(super) open: Open,
    /// The topic here, without partition.
    pub(super) destination: TopicName,
    pub(super) lane: LaneHandle,
    /// Our window, as the lane holds it against the source.
    pub(super) allowance: Arc<Allowance>,
    /// The refused entry, for the sessions that follow: its successors may be stored.
    pub(super) hole: Arc<AtomicU64>,
    /// Cancelled when a newer session of the same partition takes over.
    pub(super) superseded: CancellationToken,
}

/// An entry at the broker.
struct Sent {
    first: u64,
    highest: u64,
    entry_len: usize,
}

/// A sink that publishes.
struct Publishing {
    publisher: Publisher,
    destination: Destination,
    producer_name: String,
    /// Sent and not answered.
    outstanding: VecDeque<Sent>,
    allowance: Arc<Allowance>,
    /// The destination's version for each of the source's; `None`: it knows none.
    schemas: HashMap<Bytes, Option<Bytes>>,
    /// An entry whose schema was asked for, and what came after it.
    held: VecDeque<(EntryHead, Entry)>,
    asked: Option<Bytes>,
}

impl Sink {
    /// Runs to the session's end, and tells the source why it ended.
    pub async fn run(self, mut from_source: mpsc::Receiver<FromSource>) {
        let Open { number, session, .. } = self.open;
        let mut progress = Progress::new(
            self.context.board.clone(),
            End::Sink,
            &self.open.route,
            &self.open.topic,
            &self.open.from,
            &self.open.to,
        );
        progress.row.session = session;
        progress.row.destination = (!self.open.destination.is_empty()).then(|| self.open.destination.clone());
        if let Ok(topic) = TopicName::parse(&self.open.topic)
            && topic.partition_index().is_some()
        {
            // The row of the whole topic said only that nothing had been opened.
            let whole = Key { topic: topic.base().to_string(), ..progress.row.key() };
            self.context.board.remove(&whole);
        }
        progress.row.link = Some(format!("{:016x}", self.lane.link().id));
        progress.row.lane = Some(self.lane.index());
        let ended = self.lane.ended().clone();
        let outcome = tokio::select! {
            biased;
            () = ended.cancelled() => Err(Refusal::of(Reason::LinkDown, "the lane ended")),
            () = self.superseded.cancelled() => Err(Refusal::of(Reason::Superseded, "a newer session came")),
            prepared = self.prepare() => prepared,
        };
        let refusal = match outcome {
            Ok(mut publishing) => {
                let there = publishing.destination.topic.to_string();
                progress.row.destination = (there != self.open.topic).then_some(there);
                let refusal = self.publish(&mut publishing, &mut progress, &mut from_source).await;
                publishing.publisher.close().await;
                refusal
            }
            Err(refusal) => Some(refusal),
        };
        self.lane.forget_sink(number, session);
        let Some(refusal) = refusal else {
            progress.halted(Reason::NotOpened, "the source ended the session");
            return;
        };
        progress.halted(refusal.halt.reason, &refusal.halt.detail);
        let code = refusal.halt.reason.code().into();
        let stop = Stop { number, session, code, sequence_id: refusal.sequence_id, by_source: false };
        if !ended.is_cancelled() {
            self.lane.tell(Kind::Stop(stop)).await;
        }
    }

    async fn prepare(&self) -> Result<Publishing, Refusal> {
        let destination = destination::prepare(&self.context.cluster, &self.open, &self.destination).await?;
        let producer_name = format!(
            "bridge/{}/{}/{}/{}",
            self.open.from, self.open.to, self.open.topic, self.open.generation
        );
        let publisher = self.create_producer(&destination, &producer_name).await?;
        let outstanding = VecDeque::new();
        let (schemas, held, asked) = (HashMap::new(), VecDeque::new(), None);
        Ok(Publishing {
            publisher,
            destination,
            producer_name,
            outstanding,
            allowance: self.allowance.clone(),
            schemas,
            held,
            asked,
        })
    }

    /// The name is a lock: as long as another connection of ours is not quite gone, it is busy.
    async fn create_producer(&self, destination: &Destination, name: &str) -> Result<Publisher, Refusal> {
        let said = feeders::said(&self.open.fed_by);
        let mut backoff = Backoff::new(BUSY_RETRY_FIRST, BUSY_RETRY_MAX);
        let give_up = Instant::now() + BUSY_DEADLINE;
        loop {
            let connection = self.context.cluster.client.connect_to_owner(&destination.topic).await;
            let connection = connection.map_err(|error| refusal_of(&error))?;
            match Publisher::create_saying(connection.clone(), &destination.topic, name, &said).await {
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

    async fn publish(
        &self,
        publishing: &mut Publishing,
        progress: &mut Progress,
        from_source: &mut mpsc::Receiver<FromSource>,
    ) -> Option<Refusal> {
        let effectively_once =
            match destination::deduplicates(&self.context.cluster, &publishing.destination).await {
                Ok(effectively_once) => effectively_once,
                Err(refusal) => return Some(refusal),
            };
        let share = self.context.sink_budget.take();
        self.allowance.grant(share.bytes());
        let ready = Ready {
            number: self.open.number,
            session: self.open.session,
            last_sequence_id: publishing.publisher.last_sequence_id(),
            effectively_once,
            window_bytes: share.bytes() as u64,
            window_entries: WINDOW_ENTRIES,
        };
        self.lane.tell(Kind::Ready(ready)).await;
        progress.running(if effectively_once { "effectively-once" } else { "at-least-once" });
        let ended = self.lane.ended().clone();
        let drain = self.context.drain.clone();
        let mut answered_at = Instant::now();
        loop {
            let draining = drain.is_cancelled();
            if draining && publishing.outstanding.is_empty() {
                return Some(Refusal::of(Reason::Draining, "everything that was sent is answered"));
            }
            progress.waits(!publishing.outstanding.is_empty());
            if publishing.outstanding.is_empty() {
                answered_at = Instant::now();
            }
            let confirmed = progress.row.confirmed;
            // Losing the race loses nothing: channels take nothing before they complete. What is cut off
            // inside an arm by the lane's end belongs to a session that is over.
            let step = tokio::select! {
                biased;
                () = ended.cancelled() => Err(Some(Refusal::of(Reason::LinkDown, "the lane ended"))),
                () = self.superseded.cancelled() => Err(Some(Refusal::of(Reason::Superseded, "a newer session came"))),
                event = publishing.publisher.next() => self.on_broker(publishing, progress, event).await,
                () = drain.cancelled(), if !draining => Ok(()),
                () = sleep_until(answered_at + ANSWER_DEADLINE), if !publishing.outstanding.is_empty() => {
                    Err(Some(Refusal::of(Reason::DestinationRetry, "the broker does not answer publishes")))
                }
                () = sleep_until(progress.next_show()) => Ok(()),
                event = from_source.recv(), if !draining => tokio::select! {
                    () = ended.cancelled() => Err(Some(Refusal::of(Reason::LinkDown, "the lane ended"))),
                    () = self.superseded.cancelled() => {
                        Err(Some(Refusal::of(Reason::Superseded, "a newer session came")))
                    }
                    step = self.on_source(publishing, progress, event) => step,
                },
            };
            if progress.row.confirmed != confirmed {
                answered_at = Instant::now();
            }
            progress.row.in_flight = publishing.outstanding.len() as u64;
            progress.show_when_due();
            if let Err(refusal) = step {
                return refusal;
            }
        }
    }

    async fn on_source(
        &self,
        publishing: &mut Publishing,
        progress: &mut Progress,
        event: Option<FromSource>,
    ) -> Result<(), Option<Refusal>> {
        match event {
            // The lane ended, or the source opened a newer session on this number.
            None | Some(FromSource::Stop(_)) => Err(None),
            Some(FromSource::Entry(head, stored)) => {
                let entry = Entry::parse(stored).map_err(|error| {
                    Some(Refusal::at(Reason::EntryMalformed, head.sequence_id, &error.to_string()))
                })?;
                publishing.held.push_back((head, entry));
                self.send_held(publishing, progress).await
            }
            Some(FromSource::SchemaAnswer(answer)) => {
                if publishing.asked.as_ref() != Some(&answer.version) {
                    return Ok(());
                }
                let version = match answer.schema {
                    Some(schema) => publishing.register_schema(schema).await?,
                    None => None,
                };
                publishing.asked = None;
                if publishing.schemas.len() >= SCHEMAS_MAX {
                    publishing.schemas.clear();
                }
                publishing.schemas.insert(answer.version, version);
                self.send_held(publishing, progress).await
            }
        }
    }

    /// Sends what is held, up to an entry whose schema is not known yet.
    async fn send_held(
        &self,
        publishing: &mut Publishing,
        progress: &mut Progress,
    ) -> Result<(), Option<Refusal>> {
        while publishing.asked.is_none() {
            let Some((_, entry)) = publishing.held.front() else {
                return Ok(());
            };
            let version = entry.facts().schema_version.clone().filter(|version| !version.is_empty());
            if let Some(version) = version.filter(|version| !publishing.schemas.contains_key(version)) {
                let Open { number, session, .. } = self.open;
                publishing.asked = Some(version.clone());
                self.allowance.asks_schema();
                self.lane.tell(Kind::SchemaAsk(SchemaAsk { number, session, version })).await;
                return Ok(());
            }
            let Some((head, entry)) = publishing.held.pop_front() else {
                return Ok(());
            };
            progress.row.entries += 1;
            progress.row.messages += u64::from(entry.facts().messages());
            progress.row.bytes += entry.stored_len() as u64;
            publishing.send(&head, &entry).await?;
        }
        Ok(())
    }

    async fn on_broker(
        &self,
        publishing: &mut Publishing,
        progress: &mut Progress,
        event: Option<ProducerEvent>,
    ) -> Result<(), Option<Refusal>> {
        let mut marked = Vec::new();
        let mut next =
            Some(event.ok_or_else(|| Refusal::of(Reason::DestinationMoved, "the connection ended"))?);
        let outcome = loop {
            match next {
                Some(ProducerEvent::Receipt { sequence_id, duplicate }) => {
                    publishing.answered(sequence_id);
                    progress.row.confirmed += 1;
                    progress.row.duplicates += u64::from(duplicate);
                    marked.push(Receipts::mark(sequence_id, duplicate));
                }
                Some(ProducerEvent::SendError { sequence_id, error, message }) => {
                    let first = publishing.first_of(sequence_id);
                    break Err(Refusal::at(send_error_reason(error, &message), first, &message));
                }
                Some(ProducerEvent::Closed) => {
                    break Err(Refusal::of(Reason::DestinationMoved, "the broker closed the producer"));
                }
                None => break Ok(()),
            }
            next = publishing.publisher.try_next();
        };
        progress.advanced();
        self.report(marked).await;
        if let Err(refusal) = outcome {
            if refusal.halt.reason == Reason::Poison {
                // Before anything else can end this session.
                self.hole.store(refusal.sequence_id.unwrap_or_default(), Ordering::Relaxed);
                publishing.answered(refusal.sequence_id.unwrap_or_default());
                self.collect_rest(publishing).await;
            }
            return Err(Some(refusal));
        }
        Ok(())
    }

    /// After a refused entry: its successors' answers still count, for what lies below it and for the record.
    async fn collect_rest(&self, publishing: &mut Publishing) {
        let collect = async {
            let mut marked = Vec::new();
            while !publishing.outstanding.is_empty() {
                match publishing.publisher.next().await {
                    Some(ProducerEvent::Receipt { sequence_id, duplicate }) => {
                        publishing.answered(sequence_id);
                        marked.push(Receipts::mark(sequence_id, duplicate));
                    }
                    Some(ProducerEvent::SendError { sequence_id, .. }) => publishing.answered(sequence_id),
                    Some(ProducerEvent::Closed) | None => break,
                }
            }
            self.report(marked).await;
        };
        // What does not answer in time stays unconfirmed, as it would after a crash.
        let _ = timeout(COLLECT_DEADLINE, collect).await;
    }

    async fn report(&self, marked: Vec<u64>) {
        if !marked.is_empty() {
            let Open { number, session, .. } = self.open;
            self.lane.tell(Kind::Receipts(Receipts { number, session, marked })).await;
        }
    }
}

impl Publishing {
    async fn send(&mut self, head: &EntryHead, entry: &Entry) -> Result<(), Option<Refusal>> {
        let facts = entry.facts();
        let version =
            facts.schema_version.as_ref().and_then(|version| self.schemas.get(version).cloned().flatten());
        let heading = Heading {
            producer_name: &self.producer_name,
            sequence_id: head.sequence_id,
            highest_sequence_id: head.highest_sequence_id,
            schema_version: version.as_deref().map_or(SchemaVersion::Remove, SchemaVersion::Set),
        };
        let new_head = entry.rehead(&heading);
        let len = new_head.len() + entry.payload().len();
        if len > self.publisher.max_message_size() as usize + HEAD_PADDING {
            let detail = format!("{len} bytes, the broker takes {}", self.publisher.max_message_size());
            return Err(Some(Refusal::at(Reason::EntryTooLarge, head.sequence_id, &detail)));
        }
        self.outstanding.push_back(Sent {
            first: head.sequence_id,
            highest: head.highest_sequence_id.unwrap_or(head.sequence_id),
            entry_len: entry.stored_len(),
        });
        let outbound = Outbound {
            sequence_id: head.sequence_id,
            highest_sequence_id: head.highest_sequence_id,
            messages: facts.messages(),
            head: new_head,
            payload: entry.payload().clone(),
        };
        self.publisher.send(outbound).await.map_err(|error| Some(refusal_of(&error)))
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

    /// Receipts echo the first id; refusals name the highest.
    fn answered(&mut self, id: u64) {
        let sent = self.outstanding.iter().position(|sent| sent.first == id || sent.highest == id);
        if let Some(sent) = sent.and_then(|index| self.outstanding.remove(index)) {
            self.allowance.confirmed(sent.entry_len);
        }
    }

    fn first_of(&self, highest: u64) -> u64 {
        let sent = self.outstanding.iter().find(|sent| sent.highest == highest);
        sent.map_or(highest, |sent| sent.first)
    }
}

const BUSY_RETRY_FIRST: Duration = Duration::from_millis(50);
const BUSY_RETRY_MAX: Duration = Duration::from_millis(500);
/// A broker finds a dead holder of the name within 5 s (`connectionLivenessCheckTimeoutMillis`).
const BUSY_DEADLINE: Duration = Duration::from_secs(8);
/// A broker that answers nothing for so long will not: its producer has to be made anew, perhaps elsewhere.
const ANSWER_DEADLINE: Duration = Duration::from_secs(45);
/// How long the successors of a refused entry may take to be answered.
const COLLECT_DEADLINE: Duration = Duration::from_secs(10);
/// `Commands.MESSAGE_SIZE_FRAME_PADDING` is 10 KiB; the SEND command needs some of it.
const HEAD_PADDING: usize = 10 * 1024 - 128;
/// Versions remembered in one session; a topic has a handful.
const SCHEMAS_MAX: usize = 1024;
