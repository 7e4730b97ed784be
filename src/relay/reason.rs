//! Why a route's partition does not run: typed, with a code that may cross the link and a remedy in our own
//! words. A peer's text is never shown as a reason.

/// Declares the catalogue: variant, code, verdict, remedy.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $code:literal $verdict:ident $remedy:literal;)*) => {
        /// A reason of the catalogue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name),* }

        impl Reason {
            /// All of them, for tests and documents.
            pub const ALL: &[Reason] = &[$(Self::$name),*];

            /// The code: what status, metrics and the other side see.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// What an operator can do.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy),* }
            }

            /// What the relay does next.
            pub fn verdict(self) -> Verdict {
                match self { $(Self::$name => Verdict::$verdict),* }
            }

            /// The reason behind a code that a peer sent; `None` for a code of a newer version.
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

impl Reason {
    /// Whether refused entries of this reason are marked at the source's cursor. A schema is refused before its entry is
    /// sent, so that by itself leaves no hole.
    pub fn marks(self, quarantines: bool) -> bool {
        self == Self::Poison || self == Self::SchemaRefused && quarantines
    }
}

/// What the relay does about a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Tries again soon: this passes by itself.
    Soon,
    /// Tries again every half minute: somebody has to act, and is noticed when they did.
    Later,
    /// Stays stopped: going on could lose or repeat entries.
    Stop,
}

reasons! {
    /// Connecting or between two attempts.
    Starting "starting" Soon "none needed: it goes on by itself";
    /// No link to the other site.
    LinkDown "link_down" Soon "see the link's own reason in `bridge status`";
    /// The source topic does not exist.
    SourceMissing "source_missing" Soon "none needed: it is picked up when it appears; if it never does, check the topic's name in the route";
    /// More topics match a route's patterns than one route may have.
    TooManyTopics "too_many_topics" Later "a route's patterns take at most 1000 topics, and the log names some of those that are left out: narrow its patterns, `exclude` topics, or make two routes of it";
    /// Another replica of this site is active on the subscription.
    Standby "standby" Soon "none needed: this replica takes over when the active one goes";
    /// The source cluster cannot be reached.
    SourceUnreachable "source_unreachable" Soon "check pulsar.service_url, pulsar.tls and the brokers of the source site; its log names the cause";
    /// The source cluster's admin API cannot be reached, so hole markers cannot be read.
    SourceAdminUnreachable "source_admin_unreachable" Soon "check pulsar.admin_url of the source site; its log names the cause";
    /// The source cluster refuses us.
    SourceNotPermitted "source_not_permitted" Later "grant the bridge's role `consume` on the source topic, or give it another token or certificate";
    /// Another consumer holds the subscription exclusively.
    SubscriptionInUse "subscription_in_use" Later "another consumer holds the bridge's subscription: another replica runs (then drop \"replicas\": 1), or another route or bridge uses the name (then set the route's \"subscription\")";
    /// The source broker went on behind entries that are not acknowledged.
    SourceGap "source_gap" Soon "none needed: the subscription is read anew; if it lasts, unload the source topic";
    /// The other side did not get ready in time.
    NotReady "not_ready" Soon "see the route's reason at the other site";
    /// The destination broker closed the producer, or the topic moved.
    DestinationMoved "destination_moved" Soon "none needed: the session is opened again";
    /// The destination cluster cannot be reached.
    DestinationUnreachable "destination_unreachable" Soon "check pulsar.service_url, pulsar.admin_url, pulsar.tls and the brokers of the destination site; its log names the cause";
    /// The destination broker could not store an entry now.
    DestinationRetry "destination_retry" Soon "if it lasts, look into the destination brokers' logs";
    /// The destination cluster refuses us.
    DestinationNotPermitted "destination_not_permitted" Later "grant the bridge's role `produce` on the destination topic (on a quarantine topic `consume` too: its log names the topic), or give it another token or certificate";
    /// The destination topic does not exist and cannot be created from here.
    DestinationMissing "destination_missing" Later "create the destination topic with the source's number of partitions, or set pulsar.admin_url there for a role that may";
    /// Source and destination differ in partitions.
    PartitionMismatch "partition_mismatch" Later "give the destination topic the source's number of partitions, or say \"partitions\": \"any\" in the route; with pulsar.admin_url there and a role that may, the bridge adds those that are missing";
    /// Somebody else published under our producer name.
    AnotherWriter "another_writer" Soon "none needed once: the session is opened anew; if it lasts, two bridges use the same site names";
    /// The route would bring the destination's own messages back to it.
    OnwardRing "onward_ring" Later "routes with \"onward\" form a ring, in which messages would come back to where they began: take \"onward\" from this one, and from the next that is refused then (the destination's log names the sites: `detail`)";
    /// The other side's policy does not allow the route.
    RefusedByPolicy "refused_by_policy" Later "have the topic added to the policy of the site that refused it";
    /// The other side's version does not know what the route asks of it.
    PeerTooOld "peer_too_old" Later "upgrade the other site's bridge: its version would pass over the route's `rename` or `onward`";
    /// The peer gave no reason that this version knows.
    RefusedByPeer "refused_by_peer" Later "look into the other site's log; its version may be newer";
    /// A newer session of the same partition took over.
    Superseded "superseded" Soon "none needed: another replica of the source site relays this partition";
    /// The route's generation is lower than one seen before.
    GenerationBehind "generation_behind" Stop "a replica or the declaring site has the route with a higher generation: give every replica that number (the destination's log names it: `detail`), and restart";
    /// The sink's process is being stopped.
    Draining "draining" Soon "none needed: the destination's agent is being restarted, or another replica takes over";
    /// The source's side has not opened a session yet.
    NotOpened "not_opened" Soon "see the link, and the route's reason at the source site";
    /// The source's ids went back behind what the destination has.
    DuplicateRun "duplicate_run" Stop "the source topic was restored or re-created, so that its ids went back: raise the route's \"generation\" by one";
    /// The destination broker refuses this very entry.
    Poison "poison" Stop "the log of the destination's bridge says why (`detail`): stop the bridge, raise the route's \"generation\" by one, then mend the cause at the destination, start again (what was not acknowledged is sent again)";
    /// The destination topic refuses a joined batch, and nothing was sent behind it.
    BatchRefused "batch_refused" Soon "none needed: the same entries go again in smaller batches, at last singly; to join as much as the destination takes, keep the route's `batching.max_bytes` below the topic's own maxMessageSize";
    /// The destination broker refused an entry, which goes to the route's quarantine topic.
    Quarantining "quarantining" Soon "none needed: the refused entry goes to the route's quarantine topic, and the route goes on behind it";
    /// An earlier run stopped on a refused entry, and the subscription says so.
    HoleMarker "hole_marker" Stop "an earlier run stopped at a refused entry: stop the bridge, raise the route's \"generation\" by one, then mend the cause at the destination, start again (what was not acknowledged is sent again)";
    /// A position that does not fit into a sequence id.
    PositionOverflow "position_overflow" Stop "a sequence id has room for entry ids below 2^28 and ledger ids below 2^35. For an entry id: stop the source site's bridge, unload the source topic (a new ledger begins) and keep managedLedgerMaxEntriesPerLedger below that, skip the entries that are beyond it (`pulsar-admin topics skip`; the log names the first), start again. For a ledger id: move the topic to a new cluster and raise the route's \"generation\" by one";
    /// The entry's bytes are no entry.
    EntryMalformed "entry_malformed" Stop "the source's storage holds an entry that cannot be read, and all before it is relayed (the log has its position): stop the source site's bridge, skip it (`pulsar-admin topics skip -n 1`, with the route's subscription), start again";
    /// The entry is larger than the destination takes.
    EntryTooLarge "entry_too_large" Stop "raise maxMessageSize at the destination brokers to the source's, then restart the source site's bridge";
    /// The destination refuses the entry's schema.
    SchemaRefused "schema_refused" Stop "make the schema compatible at the destination, or register it there, then restart the source site's bridge";
    /// The destination topic was terminated.
    TopicTerminated "topic_terminated" Stop "the destination topic was terminated: re-create it, then restart the source site's bridge";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_lead_back_to_their_reasons() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
            assert!(!reason.remedy().is_empty());
        }
        assert_eq!(Reason::from_code("from the future"), None);
    }
}
