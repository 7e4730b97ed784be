//! The sink of one session: creates the producer, publishes what comes, and reports each answer of the broker.
//! Holds nothing beyond its session: when the lane, the broker or a newer session ends it, everything that is
//! queued is dropped, and the source sends again what was not confirmed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::context::Context;
use super::destination;
use super::feeders;
use super::frames::{EntryHead, Kind, Open, Ready, Receipts, SchemaAsk, Stop};
use super::lane::{Allowance, FromSource, LaneHandle, WINDOW_ENTRIES};
use super::leave::Leave;
use super::progress::Progress;
use super::publishing::{Publishing, Sent, Step, create_producer};
use super::quarantine::Quarantine;
use super::reason::Reason;
use super::record::Record;
use super::refusal::{Refusal, send_error_reason};
use super::refused::{Range, Refused};
use super::status::{End, Key};
use super::window::Position;
use crate::pulsar::connection::ProducerEvent;
use crate::pulsar::entry::Entry;
use crate::pulsar::topic::TopicName;

/// One session at its destination.
pub struct Sink {
    pub(super) context: Arc<Context>,
    pub(super) open: Open,
    /// The topic here, without partition.
    pub(super) destination: TopicName,
    pub(super) lane: LaneHandle,
    /// Our window, as the lane holds it against the source.
    pub(super) allowance: Arc<Allowance>,
    /// The refused entries, for the sessions that follow: their successors may be stored.
    pub(super) holes: Arc<Mutex<Refused>>,
    /// Tells when it has to go: a newer session of the same partition takes over, or the rules changed.
    pub(super) leave: Leave,
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
        progress.row.quarantine.clone_from(&self.open.quarantine);
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
        let began = Instant::now();
        let outcome = tokio::select! {
            biased;
            () = ended.cancelled() => Err(Refusal::of(Reason::LinkDown, "the lane ended")),
            () = self.leave.told() => Err(self.leave.refusal_unready(began.elapsed())),
            prepared = self.prepare() => prepared,
        };
        let refusal = match outcome {
            Ok(mut publishing) => {
                let there = publishing.destination.topic.to_string();
                progress.row.destination = (there != self.open.topic).then_some(there);
                let refusal = self.publish(&mut publishing, &mut progress, &mut from_source).await;
                // Whatever ended the session: a refusal that nobody read would be forgotten, and what it refused be taken
                // for a duplicate when its successors are stored.
                self.collect_rest(&mut publishing, &mut Refused::default(), LAST_ANSWERS_DEADLINE).await;
                publishing.close().await;
                refusal
            }
            Err(refusal) => Some(refusal),
        };
        self.lane.forget_sink(number, session);
        let Some(refusal) = refusal else {
            progress.halted(Reason::NotOpened, "the source ended the session");
            return;
        };
        let reason = if self.goes_on(&refusal) { Reason::Quarantining } else { refusal.halt.reason };
        match self.leave.remedy() {
            Some(remedy) => progress.halted_until(reason, &refusal.halt.detail, remedy),
            None => progress.halted(reason, &refusal.halt.detail),
        }
        let Refusal { halt, sequence_id, refused } = refusal;
        let (code, refused) = (halt.reason.code().into(), refused.pairs());
        let stop = Stop { number, session, code, sequence_id, by_source: false, refused };
        if !ended.is_cancelled() {
            self.lane.tell(Kind::Stop(stop)).await;
        }
    }

    /// Whether the source will open a session in which these entries go to the quarantine; as it decides itself.
    fn goes_on(&self, refusal: &Refusal) -> bool {
        let known = Refused::of_pairs(&self.open.refused).unwrap_or_default();
        let Refusal { halt, refused, .. } = refusal;
        self.open.quarantine.is_some()
            && halt.reason.marks(true)
            && !refused.is_full()
            && !known.covers(refused)
    }

    async fn prepare(&self) -> Result<Publishing, Refusal> {
        let destination = destination::prepare(&self.context.cluster, &self.open, &self.destination).await?;
        let producer_name = format!(
            "bridge/{}/{}/{}/{}",
            self.open.from, self.open.to, self.open.topic, self.open.generation
        );
        let client = &self.context.cluster.client;
        let said = feeders::said(&self.open.fed_by);
        let publisher = create_producer(client, &destination.topic, &producer_name, &said).await?;
        let refused = Refused::of_pairs(&self.open.refused).unwrap_or_default();
        let quarantine = match &self.open.quarantine {
            Some(topic) if !refused.is_empty() => {
                Some(Quarantine::open(&self.context, &self.open, topic, refused).await?)
            }
            Some(_) | None => None,
        };
        Ok(Publishing::new(publisher, destination, producer_name, quarantine, self.allowance.clone()))
    }

    /// What was refused, for the sessions that follow.
    fn holes(&self) -> MutexGuard<'_, Refused> {
        self.holes.lock().unwrap_or_else(PoisonError::into_inner)
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
            quarantines: self.open.quarantine.is_some(),
            partition: publishing.destination.topic.partition_index(),
        };
        self.lane.tell(Kind::Ready(ready)).await;
        progress.running(if effectively_once { "effectively-once" } else { "at-least-once" });
        let ended = self.lane.ended().clone();
        let drain = self.context.drain.clone();
        let mut answered_at = Instant::now();
        loop {
            let draining = drain.is_cancelled();
            let answers_due = publishing.unanswered() > 0;
            if draining && !answers_due {
                return Some(Refusal::of(Reason::Draining, "everything that was sent is answered"));
            }
            progress.waits(answers_due);
            if !answers_due {
                answered_at = Instant::now();
            }
            let confirmed = progress.row.confirmed;
            // Losing the race loses nothing: channels take nothing before they complete. What is cut off
            // inside an arm by the lane's end belongs to a session that is over.
            let step = tokio::select! {
                biased;
                () = ended.cancelled() => Err(Some(Refusal::of(Reason::LinkDown, "the lane ended"))),
                () = self.leave.told() => Err(Some(self.leave.refusal())),
                event = publishing.publisher.next() => self.on_broker(publishing, progress, event).await,
                event = next_of(&mut publishing.quarantine) => self.on_quarantine(publishing, progress, event).await,
                () = drain.cancelled(), if !draining => Ok(()),
                () = sleep_until(answered_at + ANSWER_DEADLINE), if answers_due => {
                    Err(Some(Refusal::of(Reason::DestinationRetry, "the broker does not answer publishes")))
                }
                () = sleep_until(progress.next_show()) => Ok(()),
                event = from_source.recv(), if !draining => tokio::select! {
                    () = ended.cancelled() => Err(Some(Refusal::of(Reason::LinkDown, "the lane ended"))),
                    () = self.leave.told() => Err(Some(self.leave.refusal())),
                    step = self.on_source(publishing, event) => step,
                },
            };
            // Also after an answer: something may have waited for it.
            let step = match step {
                Ok(()) if !draining && publishing.has_held() => self.go_on(publishing, progress).await,
                step => step,
            };
            if progress.row.confirmed != confirmed {
                answered_at = Instant::now();
            }
            progress.row.in_flight = publishing.unanswered() as u64;
            progress.show_when_due();
            if let Err(refusal) = step {
                return refusal;
            }
        }
    }

    async fn on_source(
        &self,
        publishing: &mut Publishing,
        event: Option<FromSource>,
    ) -> Result<(), Option<Refusal>> {
        match event {
            // The lane ended, or the source opened a newer session on this number.
            None | Some(FromSource::Stop(_)) => Err(None),
            Some(FromSource::Entry(head, stored)) => {
                let entry = Entry::parse(stored).map_err(|error| {
                    Some(Refusal::at(Reason::EntryMalformed, head.sequence_id, &error.to_string()))
                })?;
                publishing.hold(head, entry);
                Ok(())
            }
            Some(FromSource::SchemaAnswer(answer)) => {
                publishing.take_schema(answer.version, answer.schema).await.map_err(Some)
            }
        }
    }

    /// Sends what waits, as long as the session lives.
    async fn go_on(
        &self,
        publishing: &mut Publishing,
        progress: &mut Progress,
    ) -> Result<(), Option<Refusal>> {
        tokio::select! {
            biased;
            () = self.lane.ended().cancelled() => Err(Some(Refusal::of(Reason::LinkDown, "the lane ended"))),
            () = self.leave.told() => Err(Some(self.leave.refusal())),
            step = self.send_held(publishing, progress) => step,
        }
    }

    /// Sends what waits, up to an entry that has to wait on.
    async fn send_held(
        &self,
        publishing: &mut Publishing,
        progress: &mut Progress,
    ) -> Result<(), Option<Refusal>> {
        loop {
            let step = publishing.next_step()?;
            if let Step::Send(head, entry) | Step::SetAside(head, entry) = &step {
                // The source sends in order: what was refused before this one is done with.
                if let Some(before) = head.sequence_id.checked_sub(1) {
                    self.holes().forget_through(before);
                }
                progress.row.entries += 1;
                progress.row.messages += u64::from(entry.facts().messages());
                progress.row.bytes += entry.stored_len() as u64;
            }
            match step {
                Step::Wait => return Ok(()),
                Step::Ask(version) => {
                    let Open { number, session, .. } = self.open;
                    self.lane.tell(Kind::SchemaAsk(SchemaAsk { number, session, version })).await;
                    return Ok(());
                }
                Step::Send(head, entry) => publishing.send(&head, &entry).await?,
                Step::SetAside(head, entry) => self.set_aside(publishing, &head, &entry).await?,
            }
        }
    }

    /// Writes a refused entry to the quarantine.
    async fn set_aside(
        &self,
        publishing: &mut Publishing,
        head: &EntryHead,
        entry: &Entry,
    ) -> Result<(), Refusal> {
        let is_schema = publishing.is_schema_refused(entry);
        let reason = if is_schema { Reason::SchemaRefused } else { Reason::Poison };
        let source = TopicName::parse(&self.open.topic)
            .map_err(|error| Refusal::of(Reason::RefusedByPolicy, &error.to_string()))?;
        let record = Record {
            reason: reason.code().into(),
            from: self.open.from.clone(),
            to: self.open.to.clone(),
            route: self.open.route.clone(),
            topic: source,
            destination: publishing.destination.topic.clone(),
            position: Position::of_sequence_id(head.sequence_id),
            generation: self.open.generation,
            messages: entry.facts().messages(),
            publish_time: entry.facts().publish_time,
            schema_version: publishing.mapped(entry),
        };
        let Some(quarantine) = &mut publishing.quarantine else {
            return Ok(());
        };
        if quarantine.is_news() {
            tracing::warn!(
                route = %record.route, topic = %record.topic, position = %record.position, reason = record.reason,
                quarantine = %quarantine.topic(), "refused entries go to the quarantine"
            );
        }
        tracing::debug!(topic = %record.topic, position = %record.position, "a refused entry goes to the quarantine");
        quarantine.publish(head.sequence_id, &record, entry.stored().clone()).await
    }

    async fn on_quarantine(
        &self,
        publishing: &mut Publishing,
        progress: &mut Progress,
        event: Option<ProducerEvent>,
    ) -> Result<(), Option<Refusal>> {
        let Some(quarantine) = &mut publishing.quarantine else {
            return Ok(());
        };
        if let Some((id, entry_len)) = quarantine.answered(event)? {
            publishing.allowance.confirmed(entry_len);
            progress.row.confirmed += 1;
            progress.row.quarantined += 1;
            progress.advanced();
            self.holes().forget_through(id);
            self.report(vec![Receipts::mark(id, false)]).await;
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
                    publishing.confirmed(sequence_id, duplicate);
                    progress.row.confirmed += 1;
                    progress.row.duplicates += u64::from(duplicate);
                    marked.push(Receipts::mark(sequence_id, duplicate));
                }
                Some(ProducerEvent::SendError { sequence_id, error, message }) => {
                    break Err((sequence_id, send_error_reason(error, &message), message));
                }
                Some(ProducerEvent::Closed) => {
                    let refusal = Refusal::of(Reason::DestinationMoved, "the broker closed the producer");
                    self.report(marked).await;
                    return Err(Some(refusal));
                }
                None => break Ok(()),
            }
            next = publishing.publisher.try_next();
        };
        progress.advanced();
        self.report(marked).await;
        let Err((id, reason, message)) = outcome else {
            return Ok(());
        };
        let sent = publishing.answered(id);
        let is_alone = sent.as_ref().is_some_and(|sent| sent.alone);
        let range = sent.map_or(Range { first: id, last: id }, |sent| sent.range);
        if reason != Reason::Poison || is_alone {
            let reason = if reason == Reason::Poison { Reason::BatchRefused } else { reason };
            return Err(Some(Refusal::at(reason, range.first, &message)));
        }
        // Before anything else can end this session.
        self.holes().insert(range);
        let mut refused = Refused::default();
        refused.insert(range);
        self.collect_rest(publishing, &mut refused, COLLECT_DEADLINE).await;
        Err(Some(Refusal::entries(Reason::Poison, refused, &message)))
    }

    /// At a session's end, or after a refused entry: what is on its way is still answered, and counts, for what lies below
    /// it and for the record.
    async fn collect_rest(&self, publishing: &mut Publishing, refused: &mut Refused, deadline: Duration) {
        let mut marked = Vec::new();
        let collect = async {
            while publishing.unanswered() > 0 {
                match publishing.publisher.next().await {
                    Some(ProducerEvent::Receipt { sequence_id, duplicate }) => {
                        publishing.confirmed(sequence_id, duplicate);
                        marked.push(Receipts::mark(sequence_id, duplicate));
                    }
                    Some(ProducerEvent::SendError { sequence_id, error, message }) => {
                        // Nothing was sent behind one that went alone: it leaves no hole.
                        let sent = publishing.answered(sequence_id).filter(|sent| !sent.alone);
                        let is_poison = send_error_reason(error, &message) == Reason::Poison;
                        if let Some(Sent { range, .. }) = sent.filter(|_| is_poison) {
                            self.holes().insert(range);
                            refused.insert(range);
                        }
                    }
                    Some(ProducerEvent::Closed) | None => break,
                }
            }
        };
        // What does not answer in time stays unconfirmed, as it would after a crash.
        let _ = timeout(deadline, collect).await;
        self.report(marked).await;
    }

    async fn report(&self, marked: Vec<u64>) {
        if !marked.is_empty() {
            let Open { number, session, .. } = self.open;
            self.lane.tell(Kind::Receipts(Receipts { number, session, marked })).await;
        }
    }
}

/// The next answer from the quarantine topic, where there is one.
async fn next_of(quarantine: &mut Option<Quarantine>) -> Option<ProducerEvent> {
    match quarantine {
        Some(quarantine) => quarantine.next().await,
        None => std::future::pending().await,
    }
}

/// A broker that answers nothing for so long will not: its producer has to be made anew, perhaps elsewhere.
const ANSWER_DEADLINE: Duration = Duration::from_secs(45);
/// How long the successors of a refused entry may take to be answered.
const COLLECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long the answers on their way may keep the partition from the next session.
const LAST_ANSWERS_DEADLINE: Duration = Duration::from_secs(2);
