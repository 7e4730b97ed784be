//! What has been seen of a route's topics, kept when another route takes its place: what was not there before and was
//! looked for all the time begins at its beginning, also when the rules change meanwhile. Holds no socket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::RouteSpec;
use super::matching::Change;
use crate::policy::Patterns;
use crate::pulsar::topic::{Namespace, TopicName};

/// What is known by now. Cheap to clone; all clones hold the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Arc<Mutex<Seen>>);

/// Bounded by the topics that the route names, and by the `TOPICS_MAX` that its patterns may find.
#[derive(Debug, Default)]
struct Seen {
    listed: BTreeMap<Namespace, Listed>,
    /// Topics, and partitions of topics, that were not there before.
    appeared: BTreeSet<TopicName>,
    /// How many partitions a topic has; 0 where it is not partitioned.
    partitions: BTreeMap<TopicName, u32>,
}

/// How a namespace was listed last.
#[derive(Debug)]
struct Listed {
    /// What was looked for.
    patterns: Patterns,
    /// What they take of it; `None` where not all of that had a place: what had none may have been there all the time.
    taken: Option<BTreeSet<TopicName>>,
}

impl Known {
    /// Another route takes the place: what is about other topics than its own is forgotten.
    pub(super) fn keep_to(&self, route: &RouteSpec) {
        let Seen { listed, appeared, partitions } = &mut *self.lock();
        let (named, namespaces) = (route.topics.iter().collect::<BTreeSet<_>>(), route.patterns.namespaces());
        listed.retain(|namespace, _| namespaces.contains(namespace));
        let is_there = |topic: &TopicName| {
            let taken = listed.get(&topic.namespace()).and_then(|listed| listed.taken.as_ref());
            taken.is_none_or(|taken| taken.contains(&topic.base()))
        };
        let keeps = |topic: &TopicName| {
            named.contains(&topic.base()) || route.patterns.take(topic) && is_there(topic)
        };
        appeared.retain(|topic| keeps(topic));
        partitions.retain(|topic, _| keeps(topic));
    }

    /// A namespace has these topics, `patterns` are looked for, and this changes. What begins, matched when it was
    /// listed before, and was not there then, has appeared.
    pub(super) fn listed(
        &self,
        namespace: &Namespace,
        topics: BTreeSet<TopicName>,
        patterns: &Patterns,
        change: &Change,
    ) {
        let taken = || topics.into_iter().filter(|topic| patterns.take(topic)).collect();
        let taken = change.left_out.is_empty().then(taken);
        let mut seen = self.lock();
        let now = Listed { patterns: patterns.clone(), taken };
        let Some(Listed { patterns: looked_for, taken: Some(before) }) =
            seen.listed.insert(namespace.clone(), now)
        else {
            return;
        };
        let news = change.begin.iter().filter(|topic| looked_for.take(topic) && !before.contains(topic));
        seen.appeared.extend(news.cloned());
    }

    /// It is not there now: when it is, it begins at its beginning.
    pub(super) fn missing(&self, topic: &TopicName) {
        let mut seen = self.lock();
        seen.partitions.remove(topic);
        seen.appeared.insert(topic.clone());
    }

    /// What a pattern found was deleted, and ended: another topic may come by its name.
    pub(super) fn ended(&self, topic: &TopicName) {
        let mut seen = self.lock();
        seen.partitions.remove(topic);
        seen.appeared.retain(|it| it.base() != *topic);
    }

    /// Whether it was not there when its route was first looked at.
    pub(super) fn has_appeared(&self, topic: &TopicName) -> bool {
        self.lock().appeared.contains(topic)
    }

    /// A topic that has so many partitions now. Those that it had not before have appeared; all of them, where it is
    /// another topic by its shape.
    pub(super) fn counted(&self, topic: &TopicName, partitions: u32) {
        let mut seen = self.lock();
        match seen.partitions.insert(topic.clone(), partitions) {
            None => {}
            Some(before) if before > partitions || (before == 0) != (partitions == 0) => {
                seen.appeared.insert(topic.clone());
            }
            Some(before) => {
                seen.appeared.extend((before..partitions).map(|index| topic.partition(index)));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Pattern, TopicRules};
    use crate::relay::matching::{Matching, TOPICS_MAX};
    use crate::relay::opening::tests::declared;

    fn topic(name: &str) -> TopicName {
        TopicName::parse(name).unwrap()
    }

    fn topics(names: &[&str]) -> BTreeSet<TopicName> {
        names.iter().map(|name| topic(name)).collect()
    }

    fn patterns(pattern: &str, exclude: &[&str]) -> Patterns {
        let exclude: Vec<String> = exclude.iter().map(ToString::to_string).collect();
        Patterns::new(vec![Pattern::parse(pattern).unwrap()], TopicRules::parse(&exclude).unwrap())
    }

    fn route(topics: &[&str], patterns: Patterns) -> RouteSpec {
        let topics = topics.iter().map(|name| topic(name)).collect();
        RouteSpec { topics, patterns, ..declared(Default::default()) }
    }

    /// A route that looks again and again.
    struct Looking {
        matching: Matching,
        known: Known,
        patterns: Patterns,
    }

    impl Looking {
        fn new(known: &Known, patterns: Patterns) -> Self {
            known.keep_to(&route(&[], patterns.clone()));
            Self { matching: Matching::new(patterns.clone(), &[]), known: known.clone(), patterns }
        }

        fn finds(&mut self, topics: BTreeSet<TopicName>) {
            let namespace = Namespace::parse("a/b").unwrap();
            let change = self.matching.listed(&namespace, &topics);
            for gone in &change.gone {
                self.matching.ended(gone);
                self.known.ended(gone);
            }
            self.known.listed(&namespace, topics, &self.patterns, &change);
        }
    }

    const ALL: &str = "persistent://a/b/.*";

    #[test]
    fn what_came_since_the_last_listing_of_the_route_before_has_appeared() {
        let known = Known::default();
        Looking::new(&known, patterns(ALL, &[])).finds(topics(&["a/b/old"]));
        Looking::new(&known, patterns(ALL, &["a/b/x"])).finds(topics(&["a/b/old", "a/b/new", "a/b/x"]));
        assert!(known.has_appeared(&topic("a/b/new")));
        assert!(!known.has_appeared(&topic("a/b/old")) && !known.has_appeared(&topic("a/b/x")));
        // Before its task got to its subscription, another change.
        Looking::new(&known, patterns(ALL, &[])).finds(topics(&["a/b/old", "a/b/new", "a/b/x"]));
        assert!(known.has_appeared(&topic("a/b/new")));
        // It was there when it was allowed.
        assert!(!known.has_appeared(&topic("a/b/x")));
    }

    #[test]
    fn what_comes_before_it_is_allowed_begins_when_it_is() {
        let known = Known::default();
        let within = |rule: &str| patterns(ALL, &[]).within(&TopicRules::parse(&[rule.to_owned()]).unwrap());
        Looking::new(&known, within("persistent://a/b/x.*")).finds(topics(&[]));
        Looking::new(&known, within(ALL)).finds(topics(&["a/b/x1", "a/b/y1"]));
        assert!(known.has_appeared(&topic("a/b/x1")) && !known.has_appeared(&topic("a/b/y1")));
        // Of a namespace that was not looked into, nothing is known.
        let elsewhere = Known::default();
        Looking::new(&elsewhere, patterns("persistent://a/c/.*", &[])).finds(topics(&[]));
        Looking::new(&elsewhere, patterns(ALL, &[])).finds(topics(&["a/b/z"]));
        assert!(!elsewhere.has_appeared(&topic("a/b/z")));
    }

    #[test]
    fn what_is_gone_is_forgotten_and_comes_again_as_new() {
        let known = Known::default();
        let mut looking = Looking::new(&known, patterns(ALL, &[]));
        for names in [&[][..], &["a/b/x"], &[]] {
            looking.finds(topics(names));
        }
        assert!(known.lock().appeared.is_empty());
        looking.finds(topics(&["a/b/x"]));
        assert!(known.has_appeared(&topic("a/b/x")));
        // And what goes while its route is replaced.
        Looking::new(&known, patterns(ALL, &["a/b/y"])).finds(topics(&[]));
        Looking::new(&known, patterns(ALL, &[]));
        assert!(known.lock().appeared.is_empty());
    }

    #[test]
    fn no_more_is_remembered_than_a_route_has_places_for_and_what_had_none_has_not_appeared() {
        let many = |count| (0..count).map(|n| topic(&format!("a/b/t{n:05}"))).collect::<BTreeSet<_>>();
        let known = Known::default();
        let mut looking = Looking::new(&known, patterns(ALL, &[]));
        looking.finds(many(TOPICS_MAX + 4));
        assert!(known.lock().listed.values().all(|listed| listed.taken.is_none()));
        let mut left: BTreeSet<_> = many(TOPICS_MAX + 4);
        left.pop_first();
        looking.finds(left.clone());
        left.retain(|it| {
            *it != topic("a/b/t00001") && *it != topic("a/b/t00002") && *it != topic("a/b/t00003")
        });
        looking.finds(left);
        assert!(known.lock().appeared.is_empty());
        looking.finds(many(TOPICS_MAX + 4));
        let seen = known.lock();
        assert!(seen.appeared.is_empty() && seen.listed.values().all(|listed| listed.taken.is_none()));
    }

    #[test]
    fn a_topic_that_was_missing_begins_at_its_beginning_as_long_as_a_route_names_it() {
        let known = Known::default();
        known.missing(&topic("a/b/x"));
        known.keep_to(&route(&["a/b/x", "a/b/y"], Patterns::default()));
        assert!(known.has_appeared(&topic("a/b/x")) && !known.has_appeared(&topic("a/b/y")));
        known.keep_to(&route(&["a/b/y"], Patterns::default()));
        known.keep_to(&route(&["a/b/x"], Patterns::default()));
        assert!(!known.has_appeared(&topic("a/b/x")));
    }

    #[test]
    fn partitions_that_were_added_have_appeared() {
        let (known, x) = (Known::default(), topic("a/b/x"));
        known.counted(&x, 2);
        known.counted(&x, 3);
        assert!(!known.has_appeared(&x) && !known.has_appeared(&x.partition(1)));
        assert!(known.has_appeared(&x.partition(2)));
        known.counted(&x, 0);
        assert!(known.has_appeared(&x), "re-created in another shape");
    }
}
