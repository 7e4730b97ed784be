//! What a source's session does to notice losses that are not its own: looks at the cursor now and then, has suspects
//! looked at, tells what was lost, and asks at its beginning whether the destination still knows what it confirmed.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::flow::Flow;
use super::frames::Ready;
use super::hole;
use super::notice::{self, Notice};
use super::session::{Answer, Session, SessionEnd, covers};
use super::survey::Found;
use super::trace::{There, Trace};
use super::window::Position;
use crate::pulsar::connection::ConnectionError;
use crate::pulsar::proto::{KeyLongValue, LastMessageId, MessageId, ServerError};
use crate::pulsar::topic::TopicName;

/// When the cursor is looked at, and the answer that is awaited.
pub(super) struct Looks {
    at: Instant,
    every: Duration,
    asked: Option<Answer>,
}

/// What is to be done.
pub(super) enum Due {
    Ask,
    Take(Result<LastMessageId, ConnectionError>),
}

impl Looks {
    /// The first look follows soon; `jitter` spreads those of many topics.
    pub(super) fn new(jitter: Duration) -> Self {
        Self { at: Instant::now() + LOOK_AGAIN + jitter, every: LOOK_EVERY + jitter * 8, asked: None }
    }

    /// What was found may have to be said at the cursor.
    fn soon(&mut self) {
        self.at = self.at.min(Instant::now() + LOOK_AGAIN);
    }

    /// Cancel-safe.
    pub(super) async fn due(&mut self) -> Due {
        let Some(asked) = &mut self.asked else {
            sleep_until(self.at).await;
            return Due::Ask;
        };
        let answer = asked.await;
        self.asked = None;
        Due::Take(answer)
    }
}

/// From 0 to about a second, by the session's number: those of one process are neighbours.
pub(super) fn jitter(session: u64) -> Duration {
    Duration::from_millis(session.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54)
}

impl Session<'_> {
    /// A session begins: what is known of the cursor, and whether the destination knows less than it confirmed.
    pub(super) fn take_stock(&mut self, ready: &Ready) {
        let (last, effectively_once) = (ready.last_sequence_id, ready.effectively_once);
        self.passed.begin(&self.trace, last, effectively_once, self.context.cluster.single_replica);
        if self.route.quarantine.is_some() {
            // What lies there the destination's producer never had.
            self.passed.doubt();
        }
        let there = There::of(&self.destination(ready));
        let Some(forgotten) = self.confirmed.begin(there, self.trace.confirmed, last, effectively_once)
        else {
            return;
        };
        let knows = forgotten.knows.map_or_else(
            || "nothing under the route's name".into(),
            |id| format!("{} as its last", Position::of_sequence_id(id)),
        );
        let detail = format!(
            "{} was confirmed, and {} knows {knows}: its topic was deleted, restored or replaced, or its \
             deduplication state collected; what was unconfirmed may come twice, and what a deleted topic held is gone",
            Position::of_sequence_id(forgotten.confirmed),
            self.route.to
        );
        self.progress.row.destination_forgotten += 1;
        Notice::DestinationForgotten.tell(self.progress, detail);
    }

    /// The topic-partition that the session leads to; which partition, only the destination knows where the numbers
    /// differ.
    fn destination(&self, ready: &Ready) -> TopicName {
        let there = self.route.renaming.destination(&self.topic.base());
        let partition =
            if self.route.any_partitions { ready.partition } else { self.topic.partition_index() };
        partition.map_or_else(|| there.clone(), |partition| there.partition(partition))
    }

    /// What every acknowledgement leaves at the cursor: the marker of what is refused, and the trace.
    pub(super) fn properties(&self, marker: Vec<KeyLongValue>, at: Option<Position>) -> Vec<KeyLongValue> {
        let at = at.max(self.passed.accounted());
        let trace = Trace { at, confirmed: self.confirmed.highest() };
        marker.into_iter().chain(trace.properties(self.route.generation)).collect()
    }

    pub(super) async fn look(
        &mut self,
        flow: &mut Flow,
        looks: &mut Looks,
        due: Due,
    ) -> Result<(), SessionEnd> {
        let answer = match due {
            Due::Ask => {
                let asked =
                    self.subscription.last_message_id().await.map_err(|_| SessionEnd::ConsumerLost)?;
                looks.asked = Some(Box::pin(asked));
                return Ok(());
            }
            Due::Take(answer) => answer.map_err(|_| SessionEnd::ConsumerLost)?,
        };
        let again = self.passed.look(&answer);
        looks.at = Instant::now() + if again { LOOK_AGAIN } else { looks.every };
        match answer.consumer_mark_delete_position {
            Some(marked) if flow.is_settled() => self.restate(flow, marked).await,
            Some(_) | None => Ok(()),
        }
    }

    /// Somebody moved the cursor and took our properties away, or they say what no longer holds: they are written
    /// again, where the cursor stands anyway.
    async fn restate(&mut self, flow: &mut Flow, marked: MessageId) -> Result<(), SessionEnd> {
        let Some(at) = self.passed.restates(&marked, self.confirmed.is_stale()) else {
            return Ok(());
        };
        self.confirmed.restated();
        self.passed.acknowledged(at);
        let marker = hole::properties(self.route.generation, &flow.refused);
        let properties = self.properties(marker, Some(at));
        self.subscription.acknowledge(marked, properties).await.map_err(|_| SessionEnd::ConsumerLost)
    }

    /// Nothing came for long. If there is something to come, the broker has forgotten us: subscribe again.
    pub(super) async fn check_silence(&mut self, flow: &mut Flow) -> Result<(), SessionEnd> {
        let asked = self.subscription.last_message_id().await.map_err(|_| SessionEnd::ConsumerLost)?;
        let answer = tokio::select! {
            answer = asked => answer.map_err(|_| SessionEnd::ConsumerLost)?,
            event = self.subscription.next() => return self.on_events(flow, event).await,
        };
        flow.heard_at = Instant::now();
        let last = Position { ledger: answer.last_message_id.ledger, entry: answer.last_message_id.entry };
        let marked = answer.consumer_mark_delete_position;
        if let Some(marked) = &marked {
            // Another replica acknowledged what this one had sent, or somebody skipped it.
            self.progress.owed.settle(|sent| covers(marked, sent));
        }
        if !flow.is_settled() || marked.is_none_or(|marked| covers(&marked, last)) {
            return Ok(());
        }
        // What is at the end may never be delivered (markers, aborted transactions): asking again is harmless.
        tracing::info!(topic = %self.topic, "backlog without deliveries: subscribing again");
        Err(SessionEnd::ConsumerLost)
    }

    /// The first entry that a session is handed, and the destination has it: whether the subscription went back. Other
    /// processes' acknowledgements are known by what they left at the cursor, and `reset-cursor` takes that away.
    pub(super) fn judge_known(&self, position: Position) {
        let is_bare =
            self.context.cluster.rest.is_some() && self.trace.at.is_none() && self.refused.is_empty();
        match *self.acknowledged {
            Some(acknowledged) if position <= acknowledged => {
                self.tell_rewind(&format!("{acknowledged} was acknowledged, {position} came again"));
            }
            None if is_bare => {
                let to = &self.route.to;
                self.tell_rewind(&format!(
                    "{to} has {position} already, and the subscription carries no acknowledgement of a bridge"
                ));
            }
            Some(_) | None => {}
        }
    }

    /// Whoever rewound the subscription may want to see these entries again at the destination, and will not.
    pub(super) fn tell_rewind(&self, detail: &str) {
        let (route, topic) = (&self.route.name, self.topic);
        tracing::warn!(
            %route, %topic, detail,
            remedy = "none needed, unless they are to be sent again: then raise the route's \"generation\"",
            "the subscription went back (rewound, or its cluster lost acknowledgements): what the destination has is \
             not stored again"
        );
    }

    /// What a look at the suspects found.
    pub(super) fn tell_skipped(&mut self, looks: &mut Looks, found: Found) {
        let findings = match found {
            Found::Findings(findings) => findings,
            Found::Failed { error, first } => {
                self.passed.give_up();
                looks.soon();
                if first {
                    let (route, topic, remedy) = (&self.route.name, self.topic, remedy_unread(&error));
                    tracing::warn!(
                        %route, %topic, %error, remedy,
                        "the subscription passed positions that no reader can be had for: losses there are not noticed"
                    );
                }
                return;
            }
        };
        if !findings.is_empty() {
            looks.soon();
        }
        for (stretch, amount) in findings {
            // What was handed on meanwhile is not lost, and the rest is looked at again.
            let is_whole = self.passed.settle(&stretch);
            let Some(amount) = amount.filter(|_| is_whole) else {
                continue;
            };
            self.progress.row.source_skipped += amount.number();
            Notice::SourceSkipped.tell(self.progress, notice::extent(&stretch, amount));
        }
    }
}

/// What helps where no reader can be had.
fn remedy_unread(error: &ConnectionError) -> &'static str {
    match error.server_error() {
        Some(ServerError::Authentication | ServerError::Authorization) => {
            "let the bridge's role read the topic by subscriptions of any name"
        }
        Some(_) | None => {
            "none needed if it does not come again; if it does, look into the source brokers' logs"
        }
    }
}

/// Soon enough for an operator, and cheap: one question for each topic.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What a broker was about to deliver has come by then.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
