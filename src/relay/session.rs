//! One session of a source: open on a lane, send what the subscription gives while the window has room, and
//! acknowledge what the destination confirmed. Ends at the first thing that is not as it should be; says what it
//! was, and leaves it to `source.rs` what follows.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::batching::Limits;
use super::context::{Context, RouteSpec};
use super::flow::{Flow, GATHERED_MAX};
use super::forgotten::Confirmed;
use super::frames::{ENTRY_LEN_MAX, Kind, Open, Ready, SchemaAnswer, SchemaAsk, Stop};
use super::hole;
use super::lane::{FromSink, LaneHandle};
use super::onward::Fed;
use super::passed::Passed;
use super::progress::Progress;
use super::reason::Reason;
use super::refused::Refused;
use super::revoked::Revoked;
use super::survey::Survey;
use super::trace::Trace;
use super::watching::{self, Looks};
use super::window::Position;
use crate::pulsar::connection::{ConnectionError, ConsumerEvent, Delivery};
use crate::pulsar::entry::EntryRef;
use crate::pulsar::proto::{self, MessageId};
use crate::pulsar::subscription::Subscription;
use crate::pulsar::topic::TopicName;
use crate::tunnel::features::NAMES;

/// Why something does not run.
#[derive(Debug)]
pub struct Halt {
    /// The typed reason.
    pub reason: Reason,
    /// For our own log.
    pub detail: String,
    /// Entries had flowed before.
    pub had_run: bool,
}

impl Halt {
    /// A halt before anything ran.
    pub fn new(reason: Reason, detail: &str) -> Self {
        Self { reason, detail: detail.into(), had_run: false }
    }
}

/// How a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The process drains, and everything that was sent is acknowledged.
    Drained,
    /// The lane's link retires, and everything that was sent is acknowledged: the next lane goes on behind it.
    Moved,
    /// The lane is gone.
    LaneLost,
    /// The source broker closed the consumer, or its connection ended.
    ConsumerLost,
    /// Another replica became the active consumer.
    Inactive,
    /// A typed reason.
    Halted(Halt),
}

/// What a session works with.
pub struct Session<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) route: &'a RouteSpec,
    pub(super) topic: &'a TopicName,
    pub(super) partitions: u32,
    pub(super) lane: LaneHandle,
    /// Nothing new is read once it is cancelled.
    pub(super) stop: CancellationToken,
    /// Whether that is because the topic may no longer go out.
    pub(super) revoked: &'a Revoked,
    pub(super) subscription: &'a mut Subscription,
    pub(super) progress: &'a mut Progress,
    /// Where an earlier session's reading has to go on; left where the next one's has to.
    pub(super) resume_at: &'a mut Option<Position>,
    /// Sites from which bridges brought what earlier sessions read.
    pub(super) seen_feeders: &'a mut BTreeSet<String>,
    /// What this process acknowledged last.
    pub(super) acknowledged: &'a mut Option<Position>,
    /// What the subscription passed without us.
    pub(super) passed: &'a mut Passed,
    /// Finds out whether that was a loss.
    pub(super) survey: &'a mut Survey,
    /// What the destination confirmed.
    pub(super) confirmed: &'a mut Confirmed,
    /// What the last acknowledgement left at the cursor, as far as that can be read.
    pub(super) trace: Trace,
    /// What the subscription's marker says was refused: it goes to the quarantine.
    pub(super) refused: Refused,
    /// Whether small entries are joined, and how far.
    pub(super) joining: Option<Limits>,
}

impl Session<'_> {
    /// Runs it to its end, and tells the sink.
    pub async fn run(mut self) -> SessionEnd {
        let fed = Fed::find(self.context, self.route, self.topic, self.seen_feeders).await;
        let fed = match fed {
            Ok(fed) => fed,
            Err(halt) => return SessionEnd::Halted(halt),
        };
        let (registration, mut from_sink) = self.lane.register_source();
        let session = self.context.next_session();
        let number = registration.number;
        self.progress.row.session = session;
        self.progress.row.link = Some(format!("{:016x}", self.lane.link().id));
        self.progress.row.lane = Some(self.lane.index());
        let open = Open {
            number,
            session,
            route: self.route.name.clone(),
            from: self.route.from.clone(),
            to: self.route.to.clone(),
            topic: self.topic.to_string(),
            partitions: self.partitions,
            generation: self.route.generation,
            destination: self.route.renamed(self.topic),
            fed_by: fed.sites(),
            any_partitions: self.route.any_partitions,
            quarantine: self.quarantine().map(ToString::to_string),
            refused: self.refused.pairs(),
        };
        let needs_names = !open.destination.is_empty() || !open.fed_by.is_empty();
        if needs_names && self.lane.link().features & NAMES == 0 {
            let detail =
                format!("{}'s version knows neither other names nor what feeds a topic", self.route.to);
            return SessionEnd::Halted(Halt::new(Reason::PeerTooOld, &detail));
        }
        self.lane.tell(Kind::Open(open)).await;
        let ready = match self.await_ready(&mut from_sink, session).await {
            Ok(ready) => self.hold_to_quarantine(&ready).map(|()| ready),
            Err(end) => Err(end),
        };
        let end = match ready {
            Ok(ready) => {
                let promise = if ready.effectively_once { "effectively-once" } else { "at-least-once" };
                self.progress.running(promise);
                self.take_stock(&ready);
                let refused = self.refused.clone();
                let mut flow = Flow::new(registration, session, &ready, self.joining, fed, refused);
                let end = self.stream(&mut flow, &mut from_sink).await;
                if flow.read_to.is_some() {
                    *self.resume_at = flow.lowest_unconfirmed();
                }
                end
            }
            Err(end) => end,
        };
        if !self.lane.ended().is_cancelled() {
            let code = Reason::Starting.code().into();
            let stop = Stop { number, session, code, by_source: true, ..Stop::default() };
            self.lane.tell(Kind::Stop(stop)).await;
        }
        end
    }

    async fn await_ready(
        &mut self,
        from_sink: &mut mpsc::Receiver<FromSink>,
        session: u64,
    ) -> Result<Ready, SessionEnd> {
        let ended = self.lane.ended().clone();
        let answer = async {
            loop {
                match from_sink.recv().await {
                    None => return Err(SessionEnd::LaneLost),
                    Some(FromSink::Ready(ready)) if ready.session == session => return Ok(Ok(ready)),
                    Some(FromSink::Stop(stop)) if stop.session == session => return Ok(Err(stop)),
                    Some(_) => {}
                }
            }
        };
        let answer = tokio::select! {
            () = ended.cancelled() => Err(SessionEnd::LaneLost),
            () = self.stop.cancelled() => Err(SessionEnd::Drained),
            answer = timeout(READY_DEADLINE, answer) => answer.unwrap_or_else(|_| {
                Err(SessionEnd::Halted(Halt::new(Reason::NotReady, "no Ready came in time")))
            }),
        }?;
        match answer {
            Ok(ready) => Ok(ready),
            // The sink remembers an entry that was refused in an earlier session.
            Err(stop) => Err(self.halted_by_peer(&stop, None).await),
        }
    }

    async fn stream(&mut self, flow: &mut Flow, from_sink: &mut mpsc::Receiver<FromSink>) -> SessionEnd {
        let drain = self.stop.clone();
        let lane = self.lane.clone();
        let source = self.subscription.connection().clone();
        let mut last_position: Option<Answer> = None;
        let mut settle_by = None;
        let jitter = watching::jitter(flow.session);
        let mut looks = Looks::new(jitter);
        self.survey.begin(jitter);
        loop {
            let moves = lane.link().retiring.is_begun() && !drain.is_cancelled();
            let settles = drain.is_cancelled() || moves || flow.ends_with.is_some();
            if settles && flow.is_settled() {
                return self.acknowledge(flow).await.err().unwrap_or_else(|| flow.settled(moves));
            }
            if drain.is_cancelled() && !flow.is_withheld() && self.revoked.forbids(self.route, self.topic) {
                settle_by = Some(Instant::now() + REVOKED_SETTLE_DEADLINE);
                self.withhold(flow);
                continue;
            }
            settle_by = settle_by.or(settles.then(|| Instant::now() + SETTLE_DEADLINE));
            if flow.window.is_catching_up() && last_position.is_none() {
                // Answered in its time; entries go on being read meanwhile, and nothing is acknowledged.
                last_position = match self.subscription.last_message_id().await {
                    Ok(answer) => Some(Box::pin(answer)),
                    Err(_) => return SessionEnd::ConsumerLost,
                };
            }
            self.progress.waits(!flow.is_settled() || self.progress.owed.count() > 0);
            let reads = flow.wants_more() && !drain.is_cancelled() && !moves;
            let (held_until, ack_at) = (flow.held_until().filter(|_| reads), flow.ack_at);
            let (watchdog, show_at) = (flow.heard_at + SILENCE_CHECKED_AFTER, self.progress.next_show());
            // Losing the race loses nothing: channels and reservations take nothing before they complete.
            let step = tokio::select! {
                biased;
                () = drain.cancelled(), if !drain.is_cancelled() => Ok(()),
                () = self.revoked.begun(self.route, self.topic), if drain.is_cancelled() && !flow.is_withheld() => Ok(()),
                () = lane.ended().cancelled() => Err(SessionEnd::LaneLost),
                () = lane.link().retiring.begun(), if !moves => Ok(()),
                // Also while nothing is read for want of room: what is gone shall hold nobody's place.
                () = source.closed() => Err(SessionEnd::ConsumerLost),
                event = from_sink.recv() => self.on_sink(flow, event).await,
                // A sink that confirms nothing keeps nobody from stopping: what is open is sent again some day.
                () = at(settle_by), if settle_by.is_some() => self.acknowledge(flow).await.and(Err(flow.unsettled(moves))),
                () = at(ack_at), if ack_at.is_some() => self.acknowledge(flow).await,
                () = at(held_until), if held_until.is_some() => Ok(()),
                grown = flow.fed.grown(self.context, self.route, self.topic), if !drain.is_cancelled() => Err(grown),
                place = lane.entry_place(), if held_until.is_none() && flow.has_to_send() => match place {
                    Some(place) => flow.send_waiting(&lane, place, self.route.class, self.progress),
                    None => Err(SessionEnd::LaneLost),
                },
                answer = answered(&mut last_position), if last_position.is_some() => {
                    last_position = Some(Box::pin(std::future::pending()));
                    flow.on_last_position(answer)
                }
                found = self.survey.next(self.context, self.route, self.topic, self.passed) => {
                    self.tell_skipped(&mut looks, found);
                    Ok(())
                }
                event = self.subscription.next(), if reads => self.on_events(flow, event).await,
                // Only while nothing waits to be read.
                due = looks.due(), if reads => self.look(flow, &mut looks, due).await,
                () = sleep_until(watchdog), if reads => self.check_silence(flow).await,
                () = sleep_until(show_at) => Ok(()),
            };
            if let Err(end) = step {
                return self.judge_run(flow, end).await;
            }
            if flow.window.take_went_back() {
                self.tell_rewind("more came again than can have been unconfirmed");
            }
            self.progress.show_when_due();
        }
    }

    /// The rules changed: nothing more leaves, and only for the answers to what has left there is a moment left.
    fn withhold(&mut self, flow: &mut Flow) {
        flow.withhold();
        let remedy =
            format!("add {} to a route or to the policy (`send`) here, if it may go out", self.topic);
        let detail = "neither a route nor the policy (`send`) of this site lets the topic go out any more";
        self.progress.halted_until(Reason::RefusedByPolicy, detail, &remedy);
    }

    async fn on_sink(&mut self, flow: &mut Flow, event: Option<FromSink>) -> Result<(), SessionEnd> {
        match event {
            None => Err(SessionEnd::LaneLost),
            Some(FromSink::Receipts(receipts)) if receipts.session == flow.session => {
                for (sequence_id, duplicate) in receipts.iter() {
                    self.progress.row.confirmed += 1;
                    self.progress.row.quarantined += u64::from(flow.refused.holds(sequence_id));
                    self.progress.row.duplicates += u64::from(duplicate);
                    flow.window.receipt(sequence_id, duplicate).map_err(|reason| {
                        let detail = format!("receipt {sequence_id}, duplicate: {duplicate}");
                        SessionEnd::Halted(Halt::new(reason, &detail))
                    })?;
                    if !flow.refused.holds(sequence_id) {
                        self.confirmed.confirm(sequence_id);
                    }
                }
                flow.settle_skip();
                if flow.window.has_acknowledgeable() && flow.ack_at.is_none() {
                    flow.ack_at = Some(Instant::now() + ACK_DELAY);
                }
                Ok(())
            }
            Some(FromSink::SchemaAsk(ask)) if ask.session == flow.session && !flow.is_withheld() => {
                self.answer_schema(flow, ask).await
            }
            Some(FromSink::Stop(stop)) if stop.session == flow.session => {
                Err(self.stopped_by_peer(flow, &stop).await)
            }
            // Of a session that is over, or out of turn; or for more of what may no longer go out.
            Some(_) => Ok(()),
        }
    }

    /// Takes an event and what has come with it: one round of the loop for all of them.
    pub(super) async fn on_events(
        &mut self,
        flow: &mut Flow,
        event: Option<ConsumerEvent>,
    ) -> Result<(), SessionEnd> {
        flow.heard_at = Instant::now();
        self.on_event(flow, event).await?;
        for _ in 0..GATHERED_MAX {
            let Some(event) = flow.gathers().then(|| self.subscription.try_next()).flatten() else { break };
            self.on_event(flow, Some(event)).await?;
        }
        Ok(())
    }

    async fn on_event(&mut self, flow: &mut Flow, event: Option<ConsumerEvent>) -> Result<(), SessionEnd> {
        match event {
            Some(ConsumerEvent::Entry(delivery)) => self.on_entry(flow, delivery).await,
            Some(ConsumerEvent::Active(true) | ConsumerEvent::EndOfTopic) => Ok(()),
            Some(ConsumerEvent::Active(false)) => Err(SessionEnd::Inactive),
            Some(ConsumerEvent::Closed) | None => Err(SessionEnd::ConsumerLost),
        }
    }

    async fn on_entry(&mut self, flow: &mut Flow, delivery: Delivery) -> Result<(), SessionEnd> {
        let position = Position { ledger: delivery.id.ledger, entry: delivery.id.entry };
        let is_repeated = flow.read_to == Some(position);
        if flow.read_to.is_none() {
            self.hold_to_order(position).await?;
            if position.sequence_id().is_some_and(|id| flow.window.has_seen(id)) {
                self.judge_known(position);
            }
        }
        flow.read_to = Some(position);
        self.passed.read(position);
        let entry = match readable(&delivery.stored, position) {
            Ok(entry) => entry,
            Err(halt) => {
                flow.ends_with = Some(halt);
                return Ok(());
            }
        };
        let (messages, stored_len) = (entry.facts().messages(), delivery.stored.len());
        let skips = flow.fed.skips(self.route, entry.facts(), self.seen_feeders)?;
        if is_repeated {
            // pulsar-lite does at times. It is on its way already.
            tracing::debug!(route = %self.route.name, topic = %self.topic, %position, "delivered twice");
        } else if skips {
            self.progress.row.skipped += 1;
            flow.skip = Some(position);
            flow.settle_skip();
            flow.ack_at.get_or_insert_with(|| Instant::now() + ACK_DELAY);
        } else if let Some(id) = position.sequence_id() {
            let went_back =
                |error: &dyn std::error::Error| halt(Reason::DuplicateRun, position, &error.to_string());
            flow.batching.push(id, &entry).map_err(|error| SessionEnd::Halted(went_back(&error)))?;
        } else {
            flow.ends_with = Some(halt(Reason::PositionOverflow, position, "no sequence id has room for it"));
            return Ok(());
        }
        // Last: what cannot be told to the broker any more has been taken all the same.
        self.subscription.taken(messages, stored_len).await.map_err(|_| SessionEnd::ConsumerLost)
    }

    /// The first entry of a session has to lie where the last one's reading ended, or else somebody moved the
    /// cursor on. Going on behind a gap would acknowledge what was never sent.
    async fn hold_to_order(&mut self, first: Position) -> Result<(), SessionEnd> {
        let Some(expected) = self.resume_at.filter(|expected| first > *expected) else {
            return Ok(());
        };
        let marked = hole::mark_delete_position(self.subscription).await;
        let marked = marked.map_err(|_| SessionEnd::ConsumerLost)?;
        let halt = if covers(&marked, expected) {
            *self.resume_at = None;
            self.progress.owed.settle(|sent| covers(&marked, sent));
            let detail = format!("{expected} was acknowledged by another replica, or skipped, or expired");
            Halt::new(Reason::Starting, &detail)
        } else {
            let detail = format!("the source broker went on at {first}, {expected} is not acknowledged");
            Halt::new(Reason::SourceGap, &detail)
        };
        Err(SessionEnd::Halted(halt))
    }

    /// An entry that the destination has and that did not come again while catching up may have left by the
    /// front: expired, skipped or cleared meanwhile. Then the ids did not go back.
    async fn judge_run(&mut self, flow: &mut Flow, end: SessionEnd) -> SessionEnd {
        let (SessionEnd::Halted(Halt { reason: Reason::DuplicateRun, .. }), Some(meet)) =
            (&end, flow.window.to_meet())
        else {
            return end;
        };
        match hole::mark_delete_position(self.subscription).await {
            Err(_) => SessionEnd::ConsumerLost,
            Ok(marked) if covers(&marked, Position::of_sequence_id(meet)) => {
                // Nothing that was read says where reading has to go on.
                flow.read_to = None;
                *self.resume_at = None;
                self.progress.owed.settle(|sent| covers(&marked, sent));
                let detail = "entries that the destination has were skipped or expired at the source";
                SessionEnd::Halted(Halt::new(Reason::Starting, detail))
            }
            Ok(_) => end,
        }
    }

    async fn acknowledge(&mut self, flow: &mut Flow) -> Result<(), SessionEnd> {
        flow.ack_at = None;
        let Some(position) = flow.window.take_acknowledgeable() else {
            return Ok(());
        };
        let id = MessageId { ledger: position.ledger, entry: position.entry };
        // An acknowledgement before a refused entry has to keep the marker; one behind it ends it.
        if let Some(id) = position.sequence_id() {
            flow.refused.forget_through(id);
        }
        self.passed.acknowledged(position);
        let marker = hole::properties(self.route.generation, &flow.refused);
        let properties = self.properties(marker, Some(position));
        self.subscription.acknowledge(id, properties).await.map_err(|_| SessionEnd::ConsumerLost)?;
        flow.last_acknowledged = Some(position);
        *self.acknowledged = Some(position);
        self.progress.owed.settle(|sent| sent <= position);
        self.progress.row.acknowledged = Some(position.to_string());
        self.progress.advanced();
        Ok(())
    }

    async fn answer_schema(&mut self, flow: &Flow, ask: SchemaAsk) -> Result<(), SessionEnd> {
        let schema = self.context.cluster.client.schema(&self.topic.base(), &ask.version).await;
        let schema = schema.map_err(|error| SessionEnd::Halted(super::source::broker_halt(error)))?;
        let number = flow.registration.number;
        let answer = SchemaAnswer { number, session: flow.session, version: ask.version, schema };
        self.lane.tell(Kind::SchemaAnswer(answer)).await;
        Ok(())
    }
}

/// Whether the subscription's mark-delete position covers `position`. The broker's −1 are "before everything".
pub(super) fn covers(marked: &MessageId, position: Position) -> bool {
    (marked.ledger as i64, marked.entry as i64) >= (position.ledger as i64, position.entry as i64)
}

/// The entry, or why it is none that can be relayed.
fn readable(stored: &Bytes, position: Position) -> Result<EntryRef<'_>, Halt> {
    let entry = EntryRef::parse(stored);
    let entry = entry.map_err(|error| halt(Reason::EntryMalformed, position, &error.to_string()))?;
    if entry.stored_len() > ENTRY_LEN_MAX {
        return Err(halt(Reason::EntryTooLarge, position, "larger than a lane carries"));
    }
    Ok(entry)
}

fn halt(reason: Reason, position: Position, detail: &str) -> Halt {
    Halt::new(reason, &format!("{position}: {detail}"))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The answer about the topic's end, still to come.
pub(super) type Answer = Pin<Box<dyn Future<Output = Result<proto::LastMessageId, ConnectionError>> + Send>>;

async fn answered(answer: &mut Option<Answer>) -> Result<proto::LastMessageId, ConnectionError> {
    match answer {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

/// A sink that gets no producer within this leaves the partition to another replica.
const READY_DEADLINE: Duration = Duration::from_secs(10);
/// Acknowledgements are cumulative and persisted once a second anyway (`managedLedgerDefaultMarkDeleteRateLimit`).
const ACK_DELAY: Duration = Duration::from_millis(50);
/// As long as a stop waits for what is on its way, whatever the process's own drain allows.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
/// And of what may no longer go out: what is confirmed by then is not sent again, should it be allowed again.
const REVOKED_SETTLE_DEADLINE: Duration = Duration::from_secs(1);
/// A consumer that hears nothing asks whether there was something to hear.
const SILENCE_CHECKED_AFTER: Duration = Duration::from_secs(30);
