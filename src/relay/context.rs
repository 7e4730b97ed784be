//! What all partitions of one agent share: the own cluster, the lanes, the board, the budgets. Plain wiring.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::feeders::Feeders;
use super::lanes::Lanes;
use super::nudges::Nudges;
use super::status::Board;
use crate::policy::{Patterns, Renaming};
use crate::pulsar::client::Client;
use crate::pulsar::rest::AdminRest;
use crate::pulsar::topic::TopicName;
use crate::tunnel::budget::Class;

/// The own site's cluster.
#[derive(Clone)]
pub struct Cluster {
    /// Binary protocol.
    pub client: Client,
    /// Admin REST, where it is configured.
    pub rest: Option<AdminRest>,
    /// The operator asserts that deduplication is on.
    pub deduplication_asserted: bool,
    /// Only one process of this site can run.
    pub single_replica: bool,
}

/// Where a subscription begins that the bridge creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first message that is still there.
    Earliest,
    /// At the first message after its creation.
    Latest,
    /// At the latest where the topic exists already, else at its beginning: for what the other side declared.
    FromGrant,
}

/// A route as the relay needs it, ours or declared by the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name.
    pub name: String,
    /// The site that consumes.
    pub from: String,
    /// The site that publishes.
    pub to: String,
    /// The topics that it names, without partitions.
    pub topics: Vec<TopicName>,
    /// And those that match, whenever they appear.
    pub patterns: Patterns,
    /// Their names at the destination.
    pub renaming: Renaming,
    /// The destination may have another number of partitions.
    pub any_partitions: bool,
    /// Passes on what bridges brought from other sites than `to`.
    pub onward: bool,
    /// Part of the producer name: raised to send under a new one.
    pub generation: u32,
    /// The durable subscription at the source.
    pub subscription: String,
    /// Where that begins if we create it.
    pub start: Start,
    /// Whether small entries are joined, and how far.
    pub joining: Option<super::batching::Limits>,
    /// How urgent its entries are, where a link has a budget.
    pub class: Class,
    /// The topic at the destination for what its broker refuses; without one the route stops.
    pub quarantine: Option<TopicName>,
}

impl RouteSpec {
    /// Whether it relays the topic, or would if it were there.
    pub fn carries(&self, topic: &TopicName) -> bool {
        self.topics.contains(&topic.base()) || self.patterns.take(topic)
    }

    /// The topic's name at the destination, without its partition; empty where it is the same.
    pub fn renamed(&self, topic: &TopicName) -> String {
        let (base, there) = (topic.base(), self.renaming.destination(&topic.base()));
        if there == base { String::new() } else { there.to_string() }
    }
}

/// What every task of the relay gets.
pub struct Context {
    /// This site.
    pub site: String,
    /// This process, in short, as brokers show it.
    pub instance: String,
    /// Its cluster.
    pub cluster: Cluster,
    /// The lanes to other sites.
    pub lanes: Lanes,
    /// Where it is told that another site's rules changed.
    pub nudges: Nudges,
    /// What is published about routes.
    pub board: Board,
    /// Which sites feed the topics here.
    pub feeders: Arc<Feeders>,
    /// Bytes that sources hold between broker and lane.
    pub source_budget: Budget,
    /// Bytes that may be on their way to a sink or held by it until its broker confirms them.
    pub sink_budget: Budget,
    /// Cancelled when the process is to stop: nothing new is read, what is on its way is finished.
    pub drain: CancellationToken,
    sessions: AtomicU64,
}

impl Context {
    /// A context of a new process. Sessions are numbered upwards from a random beginning, so that those of two
    /// processes are hardly ever equal in two logs.
    pub fn new(site: &str, cluster: Cluster, board: Board, drain: CancellationToken) -> Self {
        let first_session = RandomState::new().hash_one(site) >> 16 << 16;
        Self {
            site: site.to_owned(),
            instance: format!("{:012x}", first_session >> 16),
            cluster,
            lanes: Lanes::new(),
            nudges: Nudges::default(),
            feeders: Arc::default(),
            board,
            source_budget: Budget::new(SOURCE_BYTES, SOURCE_SHARE_MIN, SOURCE_SHARE_MAX),
            sink_budget: Budget::new(SINK_BYTES, SINK_SHARE_MIN, SINK_SHARE_MAX),
            drain,
            sessions: AtomicU64::new(first_session),
        }
    }

    /// A session number that no other session of this process had.
    pub fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }
}

const MIB: usize = 1 << 20;
/// Unread entries in all inboxes of an agent.
const SOURCE_BYTES: usize = 16 * MIB;
const SOURCE_SHARE_MIN: usize = MIB / 8;
const SOURCE_SHARE_MAX: usize = 4 * MIB;
/// Unconfirmed entries of all sinks of an agent.
const SINK_BYTES: usize = 128 * MIB;
const SINK_SHARE_MIN: usize = MIB / 8;
/// 1 Gbit/s over 200 ms and the broker's answer; and 1.7 Gbit/s at a broker on a busy machine, which answers after 100 ms
/// and more.
pub const SINK_SHARE_MAX: usize = 32 * MIB;
