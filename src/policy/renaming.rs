//! By what name a route's topic is written at its destination: whole topics renamed, or all of a namespace. Pure.
//! The nearer rule wins: a topic's before its namespace's. A partition keeps its number.

use std::collections::{BTreeMap, BTreeSet};

use crate::pulsar::topic::{Namespace, TopicName};

/// A route's renaming. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renaming {
    topics: BTreeMap<TopicName, TopicName>,
    namespaces: BTreeMap<Namespace, Namespace>,
}

/// Why two names are no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenamingError {
    /// Neither a topic nor a namespace.
    #[error("neither a topic nor a namespace")]
    NoName,
    /// A topic to a namespace, or the other way.
    #[error("one names a topic, the other a namespace")]
    Kinds,
    /// One partition of a topic.
    #[error("names one partition")]
    Partition,
    /// The same name was renamed before.
    #[error("is renamed twice")]
    Twice,
}

impl Renaming {
    /// Adds a rule: two whole topics, or two namespaces, in full (`persistent://…`).
    pub fn add(&mut self, from: &str, to: &str) -> Result<(), RenamingError> {
        let is_first = match (Name::parse(from)?, Name::parse(to)?) {
            (Name::Topic(from), Name::Topic(to)) => self.topics.insert(from, to).is_none(),
            (Name::Namespace(from), Name::Namespace(to)) => self.namespaces.insert(from, to).is_none(),
            (Name::Topic(_), Name::Namespace(_)) | (Name::Namespace(_), Name::Topic(_)) => {
                return Err(RenamingError::Kinds);
            }
        };
        if is_first { Ok(()) } else { Err(RenamingError::Twice) }
    }

    /// The name at the destination; of a partition, the partition's.
    pub fn destination(&self, topic: &TopicName) -> TopicName {
        let base = topic.base();
        let renamed = match (self.topics.get(&base), self.namespaces.get(&base.namespace())) {
            (Some(renamed), _) => renamed.clone(),
            (None, Some(namespace)) => base.moved_to(namespace),
            (None, None) => base,
        };
        topic.partition_index().map_or(renamed.clone(), |index| renamed.partition(index))
    }

    /// What it says of one topic.
    pub fn of(&self, topic: &TopicName) -> Self {
        let own = self.topics.get_key_value(topic);
        let all = self.namespaces.get_key_value(&topic.namespace()).filter(|_| own.is_none());
        let (topics, namespaces) = (own.into_iter(), all.into_iter());
        Self {
            topics: topics.map(|(from, to)| (from.clone(), to.clone())).collect(),
            namespaces: namespaces.map(|(from, to)| (from.clone(), to.clone())).collect(),
        }
    }

    /// What it says of these topics, which lie in these namespaces.
    pub fn within(&self, takes: impl Fn(&TopicName) -> bool, namespaces: &BTreeSet<&Namespace>) -> Self {
        let topics = self.topics.iter().filter(|(from, _)| takes(from));
        let all = self.namespaces.iter().filter(|(from, _)| namespaces.contains(from));
        Self {
            topics: topics.map(|(from, to)| (from.clone(), to.clone())).collect(),
            namespaces: all.map(|(from, to)| (from.clone(), to.clone())).collect(),
        }
    }

    /// Whether nothing is renamed.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.namespaces.is_empty()
    }

    /// The rules in full names, as [`Renaming::add`] takes them.
    pub fn rules(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let topics = self.topics.iter().map(|(from, to)| (from.to_string(), to.to_string()));
        let full = |namespace: &Namespace| format!("persistent://{namespace}");
        topics.chain(self.namespaces.iter().map(move |(from, to)| (full(from), full(to))))
    }
}

enum Name {
    Topic(TopicName),
    Namespace(Namespace),
}

impl Name {
    fn parse(text: &str) -> Result<Self, RenamingError> {
        // In full, because `a` or `a/b` could be either.
        if !text.starts_with("persistent://") || !text.is_ascii() {
            return Err(RenamingError::NoName);
        }
        if let Ok(namespace) = Namespace::parse(text) {
            return Ok(Self::Namespace(namespace));
        }
        let topic = TopicName::parse(text).map_err(|_| RenamingError::NoName)?;
        if super::is_pattern(text) {
            return Err(RenamingError::NoName);
        }
        if topic.partition_index().is_some() { Err(RenamingError::Partition) } else { Ok(Self::Topic(topic)) }
    }
}

/// Names that one site renames in what it declares to another.
pub const RENAMES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topics_rule_goes_before_its_namespaces_and_partitions_keep_their_numbers() {
        let mut renaming = Renaming::default();
        renaming.add("persistent://public/default", "persistent://bank/datagen").unwrap();
        renaming.add("persistent://public/default/orders", "persistent://bank/trade/buys").unwrap();
        for (from, to) in [
            ("public/default/orders", "persistent://bank/trade/buys"),
            ("public/default/orders-partition-3", "persistent://bank/trade/buys-partition-3"),
            ("public/default/points", "persistent://bank/datagen/points"),
            ("public/default/points-partition-0", "persistent://bank/datagen/points-partition-0"),
            ("public/other/points", "persistent://public/other/points"),
        ] {
            assert_eq!(renaming.destination(&TopicName::parse(from).unwrap()).to_string(), to);
        }
        for topic in ["public/default/orders", "public/default/points", "public/other/points"] {
            let topic = TopicName::parse(topic).unwrap();
            assert_eq!(renaming.of(&topic).destination(&topic), renaming.destination(&topic));
            assert!(renaming.of(&topic).rules().count() <= 1);
        }
        let mut again = Renaming::default();
        renaming.rules().for_each(|(from, to)| again.add(&from, &to).unwrap());
        assert_eq!(again, renaming);
    }

    #[test]
    fn what_is_no_pair_of_names_is_refused() {
        use RenamingError::{Kinds, NoName, Partition, Twice};
        let mut renaming = Renaming::default();
        renaming.add("persistent://a/b", "persistent://c/d").unwrap();
        for (from, to, error) in [
            ("persistent://a/b", "persistent://c/e", Twice),
            ("persistent://a/x", "persistent://c/d/e", Kinds),
            ("persistent://a/x/y", "persistent://c/d", Kinds),
            ("persistent://a/x/y-partition-1", "persistent://c/d/e", Partition),
            ("persistent://a/x/y", "persistent://c/d/e-partition-0", Partition),
            ("persistent://a/x/.*", "persistent://c/d/e", NoName),
            ("a/x", "c/d", NoName),
            ("orders", "buys", NoName),
            ("non-persistent://a/x/y", "persistent://c/d/e", NoName),
            ("persistent://a", "persistent://b", NoName),
        ] {
            assert_eq!(renaming.add(from, to), Err(error), "{from} {to}");
        }
    }
}
