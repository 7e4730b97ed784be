//! What a destination broker's refusals mean for a session. Decides; holds no socket.

use std::time::Duration;

use super::reason::Reason;
use super::refused::Refused;
use super::session::Halt;
use crate::pulsar::connection::ConnectionError;
use crate::pulsar::proto::ServerError;

/// Why a sink ended, and at which entries.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) halt: Halt,
    pub(super) sequence_id: Option<u64>,
    /// Where the broker refused entries: all of them, as far as its answers came.
    pub(super) refused: Refused,
}

impl Refusal {
    pub(super) fn of(reason: Reason, detail: &str) -> Self {
        Self { halt: Halt::new(reason, detail), sequence_id: None, refused: Refused::default() }
    }

    pub(super) fn entries(reason: Reason, refused: Refused, detail: &str) -> Self {
        Self { halt: Halt::new(reason, detail), sequence_id: refused.lowest(), refused }
    }

    pub(super) fn at(reason: Reason, sequence_id: u64, detail: &str) -> Self {
        Self { sequence_id: Some(sequence_id), ..Self::of(reason, detail) }
    }
}

/// A newer session came while this one had waited so long for its destination. A source that hears nothing opens another
/// one after 10 s (`not_ready`), and who looks here for the cause should not read of a replica that took over.
pub(super) fn superseded_unready(waited: Duration) -> Refusal {
    if waited < UNANSWERED_AFTER {
        return Refusal::of(Reason::Superseded, "a newer session came");
    }
    let detail = format!("the destination cluster did not answer within {} s", waited.as_secs());
    Refusal::of(Reason::DestinationUnreachable, &detail)
}

/// What a destination broker's refusal of anything but an entry means.
pub(super) fn refusal_of(error: &ConnectionError) -> Refusal {
    let reason = match error.server_error() {
        Some(ServerError::Authentication | ServerError::Authorization) => Reason::DestinationNotPermitted,
        Some(ServerError::TopicNotFound) => Reason::DestinationMissing,
        Some(ServerError::TopicTerminated) => Reason::TopicTerminated,
        Some(ServerError::IncompatibleSchema) => Reason::SchemaRefused,
        Some(_) => Reason::DestinationRetry,
        None => Reason::DestinationUnreachable,
    };
    Refusal::of(reason, &error.to_string())
}

/// What a refused send means. The first three are judged before deduplication and belong to the entry; what is
/// stored after it makes a later re-send look like a duplicate (`Producer.checkAndStartPublish`, `PersistentTopic`).
pub(super) fn send_error_reason(error: ServerError, message: &str) -> Reason {
    if matches!(error, ServerError::Checksum | ServerError::NotAllowed | ServerError::Metadata) {
        return Reason::Poison;
    }
    if error == ServerError::TopicTerminated {
        return Reason::TopicTerminated;
    }
    tracing::debug!(?error, message, "the broker could not store an entry now");
    Reason::DestinationRetry
}

/// A cluster that takes so long to let a producer in has not answered.
const UNANSWERED_AFTER: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_waited_for_its_destination_says_so_when_another_one_comes() {
        let reason = |seconds| superseded_unready(Duration::from_secs(seconds)).halt.reason;
        assert_eq!([0, 1, 7].map(reason), [Reason::Superseded; 3]);
        assert_eq!([8, 10, 60].map(reason), [Reason::DestinationUnreachable; 3]);
    }
}
