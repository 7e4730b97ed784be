//! What a source's session does about refused entries: marks the subscription before anything else, and decides whether
//! the route stops there or goes on with them in quarantine. Sends no entry.

use std::sync::Arc;

use super::context::{Context, RouteSpec};
use super::flow::Flow;
use super::frames::{Ready, Stop};
use super::hole::{self, Hole};
use super::kept;
use super::reason::{Reason, Verdict};
use super::refused::Refused;
use super::session::{Halt, Session, SessionEnd};
use super::window::Position;
use crate::pulsar::rest::RestError;
use crate::pulsar::topic::TopicName;

impl Session<'_> {
    pub(super) async fn stopped_by_peer(&mut self, flow: &mut Flow, stop: &Stop) -> SessionEnd {
        // All answers came before this: what is confirmed below a refused entry is the prefix to keep.
        let last = flow.window.take_acknowledgeable().or(flow.last_acknowledged);
        self.halted_by_peer(stop, last).await
    }

    /// What a Stop means; after refused entries the subscription is marked first, at `last` or where it stands.
    pub(super) async fn halted_by_peer(&mut self, stop: &Stop, last: Option<Position>) -> SessionEnd {
        let reason = Reason::from_code(&stop.code).unwrap_or(Reason::RefusedByPeer);
        let at = stop.sequence_id.map(Position::of_sequence_id);
        let quarantines = self.quarantine().is_some();
        let (true, Some(refused)) = (reason.marks(quarantines), at) else {
            let ended = if reason.verdict() == Verdict::Soon { "ended" } else { "refused" };
            let at = at.map_or_else(String::new, |at| format!(" at {at}"));
            let detail = format!("{ended} by {}{at}: its log has the detail", self.route.to);
            return SessionEnd::Halted(Halt::new(reason, &detail));
        };
        // What a marker names it names completely: an earlier version tells one id, perhaps of a batch.
        let told = Refused::of_pairs(&stop.refused).filter(|told| !told.is_empty());
        let is_news = told.as_ref().is_some_and(|told| !self.refused.covers(told));
        let mut all = self.refused.clone();
        let passed = last.and_then(Position::sequence_id);
        if let Some(id) = passed {
            all.forget_through(id);
        }
        let (marker, kept) = match &told {
            Some(told) => {
                all.merge(told);
                (hole::properties(self.route.generation, &all), Hole::named(all.clone()))
            }
            None => (hole::unnamed(self.route.generation, refused), Hole::Unnamed),
        };
        let marker = self.properties(marker, last);
        let marked = match keep(self.context, self.topic, self.route, &kept, passed).await {
            Ok(()) => hole::mark(self.subscription, marker, last).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = marked {
            // The sink remembers it and says so again, until the marker stands.
            let detail = format!("{refused} was refused by the destination; marking failed: {error}");
            return SessionEnd::Halted(Halt::new(Reason::SourceUnreachable, &detail));
        }
        self.progress.owed.settle(|sent| last.is_some_and(|last| sent <= last));
        let (reason, then) = match (quarantines, is_news) {
            (true, true) if all.is_full() => {
                (Reason::Poison, ", with more than may go to the quarantine at once")
            }
            (true, true) => (Reason::Quarantining, ", and goes to the quarantine"),
            (true, false) if told.is_some() => {
                (Reason::Poison, ", and by the quarantine as well: its log has both")
            }
            (_, _) => (Reason::Poison, ""),
        };
        let detail = format!("{refused} was refused by the destination{then}; the subscription is marked");
        SessionEnd::Halted(Halt::new(reason, &detail))
    }

    /// Where refused entries go, if they may: the marker, which makes it safe, has to be readable.
    pub(super) fn quarantine(&self) -> Option<&TopicName> {
        self.route.quarantine.as_ref().filter(|_| self.context.cluster.rest.is_some())
    }

    /// What was refused before is sent to a sink that sets it aside, and to no other.
    pub(super) fn hold_to_quarantine(&self, ready: &Ready) -> Result<(), SessionEnd> {
        if self.refused.is_empty() || ready.quarantines {
            return Ok(());
        }
        let detail = format!("the bridge of {} knows no quarantine: upgrade it", self.route.to);
        Err(SessionEnd::Halted(Halt::new(Reason::HoleMarker, &detail)))
    }
}

/// The marker's copy, which survives a crash of the broker and an operator's `skip`.
async fn keep(
    context: &Arc<Context>,
    topic: &TopicName,
    route: &RouteSpec,
    hole: &Hole,
    passed: Option<u64>,
) -> Result<(), RestError> {
    let Some(rest) = &context.cluster.rest else {
        return Ok(());
    };
    if !kept::write(rest, topic, &route.subscription, route.generation, hole, passed).await? {
        tracing::warn!(
            route = %route.name, %topic,
            remedy = "raise the route's \"generation\" before this broker is restarted or entries are skipped",
            "the source's brokers keep no properties of subscriptions: a crash may take the marker along"
        );
    }
    Ok(())
}
