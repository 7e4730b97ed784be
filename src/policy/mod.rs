//! What the other side may do; deny is the default. Decides about names only: no socket, no file.

mod topic_rules;

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
}
