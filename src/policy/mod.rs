//! What the other side may do; deny is the default. And which topics a route takes, by what names. Decides about
//! names only: no socket, no file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

mod patterns;
mod renaming;
mod targets;
mod topic_rules;

pub use patterns::{PATTERNS_MAX, Pattern, Patterns};
pub use renaming::{RENAMES_MAX, Renaming, RenamingError};
pub use targets::{
    CONNECTIONS_DEFAULT, CONNECTIONS_MAX, FORWARDS_MAX, ForwardLimits, Host, Target, TargetError,
    TargetRules, is_trusted_place,
};
pub use topic_rules::{BadRule, RuleError, TopicRules, is_pattern};

/// What a site lets one other site do. The default allows nothing.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Topics that may come in.
    pub receive: TopicRules,
    /// Topics that may go out.
    pub send: TopicRules,
    /// Whether a route that the other side declared may read what was there before it was allowed.
    pub from_earliest: bool,
    /// Targets that it may reach here.
    pub forward: TargetRules,
    /// Addresses that it may have opened here.
    pub listen: BTreeSet<SocketAddr>,
}

/// What each other site may do here.
#[derive(Clone, Debug)]
pub enum Policies {
    /// A hub's: by the edge's name; a name that is not there may do nothing.
    Each(BTreeMap<String, Policy>),
    /// An edge's: it has one hub, which the link has authenticated.
    One(Policy),
}

impl Policies {
    /// Whether anybody may write anything here.
    pub fn let_anything_in(&self) -> bool {
        match self {
            Self::Each(policies) => policies.values().any(|policy| !policy.receive.is_empty()),
            Self::One(policy) => !policy.receive.is_empty(),
        }
    }

    /// Whether this peer is one of those.
    pub fn knows(&self, peer: &str) -> bool {
        self.of(peer).is_some()
    }

    /// What this peer may do, if anything.
    pub fn of(&self, peer: &str) -> Option<&Policy> {
        match self {
            Self::Each(policies) => policies.get(peer),
            Self::One(policy) => Some(policy),
        }
    }
}
