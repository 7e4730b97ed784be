//! What a listing of a namespace changes for a route's patterns: which topics begin, which may be gone, which are
//! too many. Decides; holds no socket. A listing that failed is no listing, and ends nothing.

use std::collections::BTreeSet;

use crate::policy::Patterns;
use crate::pulsar::topic::{Namespace, TopicName};

/// The topics that a route's patterns have found.
pub(super) struct Matching {
    patterns: Patterns,
    /// The route names these itself.
    named: BTreeSet<TopicName>,
    running: BTreeSet<TopicName>,
}

/// What a listing changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// These begin.
    pub(super) begin: Vec<TopicName>,
    /// They run, and the listing has them not.
    pub(super) gone: Vec<TopicName>,
    /// They match, and the route has no place for them.
    pub(super) left_out: Vec<TopicName>,
    /// So many match that may not go out.
    pub(super) withheld: usize,
}

impl Matching {
    pub(super) fn new(patterns: Patterns, named: &[TopicName]) -> Self {
        let named = named.iter().cloned().collect();
        Self { patterns, named, running: BTreeSet::new() }
    }

    /// A namespace has these topics.
    pub(super) fn listed(&mut self, namespace: &Namespace, topics: &BTreeSet<TopicName>) -> Change {
        let mut change = Change::default();
        let lies_here = |topic: &&TopicName| topic.namespace() == *namespace;
        change.gone =
            self.running.iter().filter(lies_here).filter(|topic| !topics.contains(topic)).cloned().collect();
        let matching = topics.iter().filter(lies_here).filter(|topic| self.patterns.match_all(topic));
        for topic in matching {
            if self.named.contains(topic) || self.running.contains(topic) {
                continue;
            }
            if !self.patterns.take(topic) {
                change.withheld += 1;
            } else if self.named.len() + self.running.len() + change.begin.len() < TOPICS_MAX {
                change.begin.push(topic.clone());
            } else {
                change.left_out.push(topic.clone());
            }
        }
        self.running.extend(change.begin.iter().cloned());
        change
    }

    /// A topic that runs no longer.
    pub(super) fn ended(&mut self, topic: &TopicName) {
        self.running.remove(topic);
    }
}

/// Topics that the patterns of one route match and it relays: each has its own consumer, producer and window.
pub(super) const TOPICS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Pattern, TopicRules};

    fn topics(names: &[&str]) -> BTreeSet<TopicName> {
        names.iter().map(|name| TopicName::parse(name).unwrap()).collect()
    }

    fn matching(named: &[&str], exclude: &[&str]) -> (Matching, Namespace) {
        let exclude: Vec<String> = exclude.iter().map(ToString::to_string).collect();
        let pattern = Pattern::parse("persistent://a/b/.*").unwrap();
        let patterns = Patterns::new(vec![pattern], TopicRules::parse(&exclude).unwrap());
        let named: Vec<TopicName> = topics(named).into_iter().collect();
        (Matching::new(patterns, &named), Namespace::parse("a/b").unwrap())
    }

    #[test]
    fn a_topic_begins_once() {
        let (mut matching, namespace) = matching(&["a/b/named"], &["a/b/x"]);
        let first = matching.listed(&namespace, &topics(&["a/b/named", "a/b/x", "a/b/y", "a/b/__system"]));
        assert_eq!(first, Change { begin: vec![TopicName::parse("a/b/y").unwrap()], ..Change::default() });
        let second = matching.listed(&namespace, &topics(&["a/b/named", "a/b/y", "a/b/z"]));
        let begin = vec![TopicName::parse("a/b/z").unwrap()];
        assert_eq!(second, Change { begin, ..Change::default() });
    }

    #[test]
    fn a_topic_that_is_gone_may_come_again() {
        let (mut matching, namespace) = matching(&[], &[]);
        let both = topics(&["a/b/x", "a/b/y"]);
        matching.listed(&namespace, &both);
        let change = matching.listed(&namespace, &topics(&["a/b/y"]));
        assert_eq!((change.gone.len(), change.begin.len()), (1, 0));
        // Until it is said to have ended, it runs.
        assert_eq!(matching.listed(&namespace, &both).begin, []);
        matching.ended(&change.gone[0]);
        let again = matching.listed(&namespace, &both);
        assert_eq!(again.begin, change.gone);
    }

    #[test]
    fn a_thousand_topics_are_a_routes_most_and_the_rest_is_named() {
        let (mut matching, namespace) = matching(&["a/b/named"], &[]);
        let many: BTreeSet<_> =
            (0..TOPICS_MAX + 4).map(|n| TopicName::parse(&format!("a/b/t{n:05}")).unwrap()).collect();
        let change = matching.listed(&namespace, &many);
        assert_eq!((change.begin.len(), change.left_out.len()), (TOPICS_MAX - 1, 5));
        matching.ended(&change.begin[0]);
        let next = matching.listed(&namespace, &many);
        // The first of those without a place has the one that is free again.
        assert_eq!((next.begin.len(), next.left_out.len()), (1, 5));
    }

    #[test]
    fn what_may_not_go_out_is_counted_and_does_not_begin() {
        let (matching, namespace) = matching(&[], &[]);
        let patterns = matching.patterns.within(&TopicRules::parse(&["a/b/x".into()]).unwrap());
        let mut narrowed = Matching::new(patterns, &[]);
        let change = narrowed.listed(&namespace, &topics(&["a/b/x", "a/b/y", "a/b/z"]));
        assert_eq!((change.begin.len(), change.withheld), (1, 2));
    }
}
