//! The parts of a route that run by themselves: each topic that it names, and what its patterns find. A reload compares
//! part by part, so that what is said of one topic touches no other. Decides; holds no socket.

use std::collections::BTreeMap;

use super::context::RouteSpec;
use crate::policy::{Patterns, Renaming};
use crate::pulsar::topic::TopicName;

/// A route's name, and a topic that it names; `None`: all that its patterns find.
pub(super) type Part = (String, Option<TopicName>);

/// The routes in their parts. Each is a route that says nothing but what is about the part.
pub(super) fn parts(routes: &[RouteSpec]) -> BTreeMap<Part, RouteSpec> {
    let parts = routes.iter().flat_map(|route| {
        let named =
            route.topics.iter().map(|topic| ((route.name.clone(), Some(topic.clone())), named(route, topic)));
        let found = (!route.patterns.is_empty()).then(|| ((route.name.clone(), None), found(route)));
        named.chain(found)
    });
    parts.collect()
}

fn named(route: &RouteSpec, topic: &TopicName) -> RouteSpec {
    let renaming = route.renaming.of(topic);
    RouteSpec { topics: vec![topic.clone()], patterns: Patterns::default(), renaming, ..head(route) }
}

/// With the topics that the patterns match and the route names: those are not theirs.
fn found(route: &RouteSpec) -> RouteSpec {
    let patterns = &route.patterns;
    let takes = |topic: &TopicName| patterns.match_all(topic);
    let renaming = route.renaming.within(takes, &patterns.namespaces());
    let topics = route.topics.iter().filter(|topic| takes(topic)).cloned().collect();
    RouteSpec { topics, patterns: patterns.clone(), renaming, ..head(route) }
}

/// What is said of all topics alike.
fn head(route: &RouteSpec) -> RouteSpec {
    let RouteSpec { name, from, to, any_partitions, onward, generation, .. } = route;
    let RouteSpec { subscription, start, joining, class, quarantine, .. } = route;
    RouteSpec {
        name: name.clone(),
        from: from.clone(),
        to: to.clone(),
        topics: Vec::new(),
        patterns: Patterns::default(),
        renaming: Renaming::default(),
        any_partitions: *any_partitions,
        onward: *onward,
        generation: *generation,
        subscription: subscription.clone(),
        start: *start,
        joining: *joining,
        class: *class,
        quarantine: quarantine.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Pattern, TopicRules};
    use crate::relay::opening::tests::declared;

    fn route(topics: &[&str], patterns: &[&str], renames: &[(&str, &str)]) -> RouteSpec {
        let patterns = patterns.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect();
        let mut renaming = Renaming::default();
        renames.iter().for_each(|(from, to)| renaming.add(from, to).unwrap());
        RouteSpec {
            topics: topics.iter().map(|topic| TopicName::parse(topic).unwrap()).collect(),
            patterns: Patterns::new(patterns, TopicRules::default()),
            ..declared(renaming)
        }
    }

    /// Which parts are the same in both.
    fn same(one: &RouteSpec, other: &RouteSpec) -> Vec<String> {
        let (one, other) = (parts(std::slice::from_ref(one)), parts(std::slice::from_ref(other)));
        let same = one.iter().filter(|(part, route)| other.get(part) == Some(route));
        same.map(|((_, topic), _)| topic.as_ref().map_or("found".into(), |topic| topic.local_name().into()))
            .collect()
    }

    #[test]
    fn what_is_said_of_one_topic_changes_its_part_alone() {
        let pattern = "persistent://a/b/x.*";
        let before = route(&["a/b/c", "a/b/d"], &[pattern], &[("persistent://a/b/c", "persistent://a/b/e")]);
        assert_eq!(same(&before, &before), ["found", "c", "d"]);
        let less = route(&["a/b/c"], &[pattern], &[("persistent://a/b/c", "persistent://a/b/e")]);
        assert_eq!(same(&before, &less), ["found", "c"]);
        let renamed = route(&["a/b/c", "a/b/d"], &[pattern], &[("persistent://a/b/c", "persistent://a/b/f")]);
        assert_eq!(same(&before, &renamed), ["found", "d"]);
        let patterns = route(
            &["a/b/c", "a/b/d"],
            &["persistent://a/b/y.*"],
            &[("persistent://a/b/c", "persistent://a/b/e")],
        );
        assert_eq!(same(&before, &patterns), ["c", "d"]);
        // What a pattern would find belongs to who names it.
        let named =
            route(&["a/b/c", "a/b/d", "a/b/x1"], &[pattern], &[("persistent://a/b/c", "persistent://a/b/e")]);
        assert_eq!(same(&before, &named), ["c", "d"]);
        // A namespace's rule is about all in it that have none of their own.
        let all = route(
            &["a/b/c", "a/b/d"],
            &[pattern],
            &[("persistent://a/b/c", "persistent://a/b/e"), ("persistent://a/b", "persistent://x/y")],
        );
        assert_eq!(same(&before, &all), ["c"]);
        let head = RouteSpec { generation: 7, ..before.clone() };
        assert_eq!(same(&before, &head), [""; 0]);
    }
}
