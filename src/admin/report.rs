//! The status as `/api/v1/status` tells it and `bridge status` reads it. Plain data.

use serde::{Deserialize, Serialize};

use super::Loaded;
use crate::forward::status::ForwardStatus;
use crate::relay::status::PartitionStatus;
use crate::tunnel::status::LinkStatus;

/// One bridge process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The bridge's version.
    pub version: String,
    /// Its site.
    pub site: String,
    /// Since when it runs.
    pub uptime_seconds: u64,
    /// Whether it serves.
    pub ready: bool,
    /// The configuration that it runs by.
    #[serde(default)]
    pub configuration: Loaded,
    /// What ends soon or has ended of what the link's trust rests on, and of links that are up what keeps them from being
    /// renewed, each with what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether links, routes and own forwards get on.
    pub progress: Progress,
    /// Its links.
    pub links: Vec<LinkStatus>,
    /// Its routes, by topic-partition and end.
    pub routes: Vec<PartitionStatus>,
    /// Its forwards, by name and end.
    #[serde(default)]
    pub forwards: Vec<ForwardStatus>,
}

/// Whether links are up, routes advance, and own forwards accept connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Nothing is in the way.
    pub ok: bool,
    /// What is in the way.
    pub reasons: Vec<Obstacle>,
}

/// One thing that is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// The link, the route with its topic, or the forward with its address.
    pub subject: String,
    /// A code of the catalogue, or what was observed.
    pub reason: String,
    /// What an operator can do about it.
    pub remedy: Option<String>,
}
