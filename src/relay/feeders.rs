//! Which sites feed a topic here: who sends it, and who feeds it there, as the open sessions of this process's sinks
//! say, and as the producers of other processes say in the topic's statistics. A route that passes on what bridges
//! brought tells them to its target, so that no ring of routes is closed. Plain bookkeeping; whom a set keeps out is
//! decided in `opening.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::control;
use crate::pulsar::entry::bridged_from;
use crate::pulsar::rest::PublisherStats;
use crate::pulsar::topic::TopicName;

/// The sessions that feed topics here. Bounded by the sessions that are open.
#[derive(Default)]
pub struct Feeders {
    table: Mutex<Table>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Table {
    next: u64,
    topics: BTreeMap<TopicName, BTreeMap<u64, Sites>>,
}

struct Sites {
    from: String,
    fed_by: Vec<String>,
}

/// A session that feeds a topic, until it is dropped.
pub(super) struct Feed {
    feeders: Arc<Feeders>,
    topic: TopicName,
    number: u64,
}

impl Feeders {
    /// A session from this site feeds a topic (without partition) here, which these sites feed there.
    pub(super) fn feed(self: &Arc<Self>, topic: &TopicName, from: &str, fed_by: &[String]) -> Feed {
        let mut table = self.lock();
        table.next += 1;
        let number = table.next;
        let sites = Sites { from: from.to_owned(), fed_by: fed_by.to_vec() };
        table.topics.entry(topic.clone()).or_default().insert(number, sites);
        drop(table);
        self.changed.send_replace(());
        Feed { feeders: self.clone(), topic: topic.clone(), number }
    }

    /// The sites whose messages a route to `to` passes on: what `to` itself brought goes not back there.
    pub(super) fn of(&self, topic: &TopicName, to: &str) -> BTreeSet<String> {
        let table = self.lock();
        let others =
            table.topics.get(topic).into_iter().flat_map(BTreeMap::values).filter(|sites| sites.from != to);
        others.flat_map(|sites| std::iter::once(&sites.from).chain(&sites.fed_by)).cloned().collect()
    }

    /// Hears of every session that begins from now on.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut table = self.feeders.lock();
        if let Some(sessions) = table.topics.get_mut(&self.topic) {
            sessions.remove(&self.number);
            if sessions.is_empty() {
                table.topics.remove(&self.topic);
            }
        }
    }
}

/// The sites whose messages these producers of a topic bring, without what `to` brings.
pub(super) fn of_publishers(publishers: &[PublisherStats], to: &str) -> BTreeSet<String> {
    let mut sites = BTreeSet::new();
    for publisher in publishers {
        let from = publisher.producer_name.as_deref().and_then(bridged_from);
        let Some(from) = from.filter(|from| *from != to) else {
            continue;
        };
        let fed_by = publisher.metadata.get(FED_BY).map(String::as_str).unwrap_or_default();
        let fed_by = fed_by.split(',').filter(|site| control::is_name(site));
        // One beyond what may be is enough to refuse.
        sites.extend(std::iter::once(from).chain(fed_by).take(FED_BY_MAX + 1).map(str::to_owned));
    }
    sites
}

/// What a sink's producer says about itself, for the site's other processes.
pub(super) fn said(fed_by: &[String]) -> Vec<(&'static str, String)> {
    if fed_by.is_empty() { Vec::new() } else { vec![(FED_BY, fed_by.join(","))] }
}

/// In a producer's metadata.
const FED_BY: &str = "bridge.fed_by";
/// Sites that may feed one topic, directly or through others.
pub(super) const FED_BY_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_process_publishes_says_whose_messages_it_brings() {
        let publisher = |name: &str, fed_by: &[&str]| {
            let fed_by: Vec<String> = fed_by.iter().map(ToString::to_string).collect();
            let metadata = said(&fed_by).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            PublisherStats { producer_name: Some(name.into()), metadata }
        };
        let publishers = [
            publisher("bridge/one/here/persistent://a/b/c/1", &["two", "three"]),
            publisher("bridge/four/here/persistent://a/b/c/1", &[]),
            publisher("an application", &["nobody"]),
            PublisherStats::default(),
        ];
        let sites = |to| of_publishers(&publishers, to).into_iter().collect::<Vec<_>>();
        assert_eq!(sites("five"), ["four", "one", "three", "two"]);
        assert_eq!(sites("one"), ["four"]);
    }

    #[test]
    fn a_topic_is_fed_by_the_sites_of_its_sessions_and_by_theirs_but_not_by_the_target() {
        let feeders = Arc::new(Feeders::default());
        let topic = TopicName::parse("a/b/c").unwrap();
        let sites = |to: &str| feeders.of(&topic, to).into_iter().collect::<Vec<_>>();
        let _one = feeders.feed(&topic, "one", &["two".into(), "three".into()]);
        let watch = feeders.watch();
        let four = feeders.feed(&topic, "four", &["one".into()]);
        assert!(watch.has_changed().unwrap());
        assert_eq!(sites("five"), ["four", "one", "three", "two"]);
        assert_eq!(sites("one"), ["four", "one"]);
        drop(four);
        assert_eq!(sites("one"), [""; 0]);
        assert_eq!(feeders.of(&TopicName::parse("a/b/d").unwrap(), "five").len(), 0);
        assert_eq!(sites("five"), ["one", "three", "two"]);
    }
}
