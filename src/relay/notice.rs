//! What a route tells of losses that it did not cause and that do not stop it: typed, with a code and a remedy.

use super::amount::Amount;
use super::passed::Stretch;
use super::progress::Progress;
use super::status::Noticed;

/// A loss elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Entries left the source's backlog before a bridge was handed them.
    SourceSkipped,
    /// The destination does not know what it confirmed.
    DestinationForgotten,
}

impl Notice {
    /// All of them, for tests and documents.
    pub const ALL: &[Notice] = &[Self::SourceSkipped, Self::DestinationForgotten];

    /// What status and logs call it.
    pub fn code(self) -> &'static str {
        match self {
            Self::SourceSkipped => "source_skipped",
            Self::DestinationForgotten => "destination_forgotten",
        }
    }

    /// What an operator can do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::SourceSkipped => {
                "raise the TTL or the backlog quota of the source's namespace, or give the link more room; what its \
                 retention still holds (by default there is none) comes again only by the next \"generation\" on a \
                 drained route and `pulsar-admin topics reset-cursor`, with everything behind it once more"
            }
            Self::DestinationForgotten => {
                "give the destination topic a subscription, so that it is not deleted when idle, and raise \
                 brokerDeduplicationProducerInactivityTimeoutMinutes above the longest break; if the topic was \
                 deleted, what the source still holds comes again by the next \"generation\" on a drained route and \
                 `pulsar-admin topics reset-cursor`"
            }
        }
    }

    /// Says it, and keeps it in the row.
    pub(super) fn tell(self, progress: &mut Progress, detail: String) {
        let row = &mut progress.row;
        let (route, topic, code, remedy) = (&row.route, &row.topic, self.code(), self.remedy());
        match self {
            Self::SourceSkipped => {
                tracing::warn!(%route, %topic, reason = code, detail, remedy, "entries were lost at the source");
            }
            Self::DestinationForgotten => {
                tracing::warn!(
                    %route, %topic, reason = code, detail, remedy, "the destination forgot what it had confirmed"
                );
            }
        }
        row.noticed = Some(Noticed { code: code.into(), detail, remedy: remedy.into() });
        progress.show();
    }
}

/// Which entries, and how many, in words.
pub(super) fn extent(stretch: &Stretch, amount: Amount) -> String {
    let (how, number, but) = match amount {
        Amount::Exactly(number) => ("", number, ""),
        Amount::AtMost(number) => ("at most ", number, " (some may have arrived, or be no messages)"),
        Amount::AtLeast(number) => ("at least ", number, ""),
    };
    let entries = if number == 1 { "entry" } else { "entries" };
    let Stretch { from, to } = stretch;
    format!(
        "{how}{number} {entries} from {from} to before {to}: expired, evicted, skipped or cleared unread{but}"
    )
}
