//! A Pulsar broker in memory, on a real port: for tests and measurements that need a broker and no cluster. It
//! answers as a 4.0 broker does, to the official clients as well; what it lacks (transactions, Key_Shared,
//! non-persistent topics, delayed delivery, compaction, authentication, topic watchers, an admin API) it refuses or
//! leaves out, and nothing of it outlives the process.
//!
//! It shares nothing with the relay but the room `pulsar`, of which it uses frames and fields, not the commands: what
//! is misunderstood there is not misunderstood here in the same way.

mod cluster;
mod commands;
mod connection;
mod cursor;
mod dedup;
mod delivery;
mod heading;
mod ledgers;
mod line;
mod log;
mod memory;
mod probes;
mod questions;
mod schemas;
mod seating;
mod sends;
mod sharing;
mod single;
mod stats;
mod subscription;
mod topic;
mod wire;
mod writer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cluster::Cluster;
use crate::pulsar::topic::TopicName;

pub use self::stats::Stats;
pub use self::topic::Counts;

/// How a broker behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What entries and waiting sends may hold, in bytes; then publishers wait. At least two of the largest messages.
    pub memory_max: usize,
    /// Repeated sends of a producer name are answered, not stored.
    pub deduplication: bool,
    /// Acknowledged entries stay until their room is needed. Otherwise they go when the last subscription has
    /// acknowledged them, and without a subscription at once.
    pub retain: bool,
    /// The largest message, without headers.
    pub max_message_size: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { memory_max: 256 << 20, deduplication: true, retain: false, max_message_size: 5 << 20 }
    }
}

/// A broker that listens.
#[derive(Debug)]
pub struct Broker {
    listener: TcpListener,
    address: SocketAddr,
    cluster: Arc<Cluster>,
}

/// A topic cannot have these partitions.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PartitionsRefused(String);

impl Broker {
    /// Listens; port 0 takes a free one.
    pub async fn bind(address: SocketAddr, settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, cluster: Arc::new(Cluster::new(&settings)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients connect to.
    pub fn service_url(&self) -> String {
        format!("pulsar://{}", self.address)
    }

    /// A view that stays when the broker runs.
    pub fn watch(&self) -> Stats {
        Stats { cluster: self.cluster.clone() }
    }

    /// Gives a topic partitions, or more of them.
    pub fn create_partitioned(&self, topic: &TopicName, partitions: u32) -> Result<(), PartitionsRefused> {
        self.cluster.partition(topic, partitions).map_err(|refused| PartitionsRefused(refused.message))
    }

    /// Serves until told to stop; then all connections are closed.
    pub async fn run(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            // Losing the race loses nothing: a connection is accepted or it is not.
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(connection::serve(self.cluster.clone(), socket, stop.child_token()));
                }
                Ok(_) => tracing::warn!(max = CONNECTIONS_MAX, "a connection too many was closed"),
                // Out of descriptors, mostly: what is open may end.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_DELAY).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }
}

/// Each holds a read buffer of 256 KiB.
const CONNECTIONS_MAX: usize = 4096;
const ACCEPT_DELAY: Duration = Duration::from_millis(100);
