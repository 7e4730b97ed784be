//! What a route takes: topics, patterns, and what these leave out; and what the patterns of several routes have in
//! common, as far as their texts show it. What only their topics show is seen at run time.

use std::collections::BTreeMap;

use super::Checker;
use super::text::Found;
use crate::config::Route;
use crate::config::field::{Field, Text};
use crate::config::problem::{Place, Refusal};
use crate::policy::{
    PATTERNS_MAX, Pattern, Patterns, RENAMES_MAX, Renaming, RenamingError, RuleError, TopicRules, is_pattern,
};
use crate::pulsar::topic::TopicName;

/// An item of `topics`.
enum Item {
    Topic(TopicName),
    Pattern(Pattern),
}

impl Checker<'_> {
    pub(super) fn route_topics(
        &mut self,
        topics: Field<Vec<Field<Text>>>,
        exclude: Field<Vec<Field<Text>>>,
        route: &Place,
    ) -> Option<(Vec<TopicName>, Patterns)> {
        let place = route.key("topics");
        let items = self.required(topics, &place).map(|fields| {
            let count = fields.len();
            if !(1..=TOPICS_MAX).contains(&count) {
                let refusal = Refusal::new(format!("{count} topics"), format!("name 1 to {TOPICS_MAX}"));
                self.refuse(&place, refusal);
            }
            self.texts(fields, &place, item)
        });
        let excluded_at = route.key("exclude");
        let exclude = self.rules(exclude, &excluded_at);
        let (mut topics, mut patterns) = (Vec::new(), Vec::new());
        for item in items? {
            match item {
                Item::Topic(topic) => topics.push(topic),
                Item::Pattern(pattern) => patterns.push(pattern),
            }
        }
        self.excluded(&exclude, &topics, &patterns, &excluded_at);
        Some((topics, Patterns::new(patterns, exclude)))
    }

    /// What excludes nothing was meant otherwise.
    fn excluded(&mut self, exclude: &TopicRules, topics: &[TopicName], patterns: &[Pattern], place: &Place) {
        let named = topics.iter().find(|topic| exclude.allows(topic));
        let refusal = if let Some(topic) = named {
            Refusal::new(format!("{topic} stands in `topics` by its name"), "take it away there, or here")
        } else if !exclude.is_empty() && patterns.is_empty() {
            Refusal::new(
                "there is no pattern to exclude from",
                "leave it out, or write a pattern in `topics`",
            )
        } else {
            return;
        };
        self.refuse(place, refusal);
    }

    pub(super) fn renaming(
        &mut self,
        field: Field<BTreeMap<String, Field<Text>>>,
        place: &Place,
    ) -> Renaming {
        let rules = self.optional(field, place).unwrap_or_default();
        if rules.len() > RENAMES_MAX {
            let refusal = Refusal::new(format!("{} names", rules.len()), format!("keep to {RENAMES_MAX}"));
            self.refuse(place, refusal);
        }
        let mut renaming = Renaming::default();
        for (from, to) in rules {
            let place = place.key(&from);
            self.required_text(to, &place, |found| {
                found.parse(|to| renaming.add(&from, to).map_err(not_renamed))
            });
        }
        renaming
    }

    /// Patterns beside the other routes' topics and patterns, by one subscription.
    pub(super) fn patterns_beside(&mut self, routes: &[Route], places: &[Place]) {
        let count: usize = routes.iter().map(|route| rules_of(&route.patterns)).sum();
        if let Some((place, _)) = places.iter().zip(routes).rfind(|(_, route)| !route.patterns.is_empty())
            && count > PATTERNS_MAX
        {
            let refusal = Refusal::new(
                format!("{count} patterns and exclusions in all routes"),
                format!("keep to {PATTERNS_MAX}"),
            );
            self.refuse(&place.key("topics"), refusal);
        }
        for (nth, (route, place)) in routes.iter().zip(places).enumerate() {
            let beside = |other: &&Route| {
                other.from == route.from && other.subscription_name() == route.subscription_name()
            };
            let others = routes.iter().enumerate().filter(|(at, other)| *at != nth && beside(other));
            for (at, other) in others {
                let taken = other.topics.iter().find(|topic| route.patterns.take(topic));
                // Of two with the same pattern the second is told.
                let same = |pattern: &&Pattern| at < nth && other.patterns.items().contains(pattern);
                let same = route.patterns.items().iter().find(same).map(|pattern| pattern.text().to_owned());
                let Some(what) = taken.map(TopicName::to_string).or(same) else {
                    continue;
                };
                let refusal = Refusal::new(
                    format!("route `{}` reads {what} by the same subscription", other.name),
                    "exclude it here, or give one of the routes a `subscription` of its own",
                );
                self.refuse(&place.key("topics"), refusal);
            }
        }
    }
}

fn rules_of(patterns: &Patterns) -> usize {
    patterns.items().len() + patterns.exclude().texts().len()
}

fn not_renamed(error: RenamingError) -> Refusal {
    let remedy = match error {
        RenamingError::NoName | RenamingError::Kinds => {
            "write two namespaces, persistent://tenant/namespace, or two whole topics, persistent://tenant/namespace/topic"
        }
        RenamingError::Partition => "name the whole topic: its partitions keep their numbers",
        RenamingError::Twice => "remove one of them",
    };
    Refusal::new(error.to_string(), remedy)
}

/// One topic, and no pattern.
pub(super) fn one_topic(found: &Found) -> Result<TopicName, Refusal> {
    match item(found)? {
        Item::Topic(topic) => Ok(topic),
        Item::Pattern(_) => Err(Refusal::new("a pattern does not name a topic", "name one topic")),
    }
}

fn item(found: &Found) -> Result<Item, Refusal> {
    if is_pattern(&found.text) {
        let refused = |error: RuleError| Refusal::new(error.to_string(), error.remedy());
        return found.parse(|text| Pattern::parse(text).map(Item::Pattern).map_err(refused));
    }
    let topic = found.parse(|text| {
        let remedy = "name a topic such as persistent://public/default/orders";
        TopicName::parse(text).map_err(|error| Refusal::new(error.to_string(), remedy))
    })?;
    if topic.partition_index().is_some() {
        return Err(Refusal::new(
            "names one partition",
            format!("write {}, which means all of them", topic.base()),
        ));
    }
    Ok(Item::Topic(topic))
}

/// Each has its own consumer, producer and window.
const TOPICS_MAX: usize = 1000;
