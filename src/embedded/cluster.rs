//! All of a broker's topics, and what is known of them: partitions, schemas, which of them there are. Finds and makes
//! topics; what happens in one is its own business.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use super::Settings;
use super::delivery::Key;
use super::ledgers::Ledgers;
use super::memory::Memory;
use super::schemas::Schemas;
use super::topic::{Refused, Rules, Topic};
use crate::pulsar::proto::ServerError;
use crate::pulsar::topic::{TopicError, TopicName};

/// What the connections of a broker share.
#[derive(Debug)]
pub struct Cluster {
    pub rules: Arc<Rules>,
    pub max_message_size: u32,
    topics: RwLock<BTreeMap<TopicName, Arc<Topic>>>,
    partitioned: RwLock<BTreeMap<TopicName, u32>>,
    schemas: Mutex<Schemas>,
    keys: AtomicU64,
}

impl Cluster {
    /// Without topics.
    pub fn new(settings: &Settings) -> Self {
        let rules = Rules {
            // Whatever is let in has to fit.
            memory: Memory::new(settings.memory_max.max(2 * settings.max_message_size as usize)),
            ledgers: Ledgers::begin(SystemTime::now()),
            deduplication: settings.deduplication,
            retain: settings.retain,
        };
        Self {
            rules: Arc::new(rules),
            max_message_size: settings.max_message_size.min(MESSAGE_SIZE_BOUND),
            topics: RwLock::default(),
            partitioned: RwLock::default(),
            schemas: Mutex::default(),
            keys: AtomicU64::new(0),
        }
    }

    /// A number for a producer or consumer.
    pub fn next_key(&self) -> Key {
        Key(self.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// A topic by the name that a client wrote; it is made unless it is there, or may not be.
    pub fn topic(&self, text: &str, may_make: bool) -> Result<Arc<Topic>, Refused> {
        let name = parse(text)?;
        if let Some(topic) = self.find(&name) {
            return Ok(topic);
        }
        if !may_make {
            return Err(Refused::new(ServerError::TopicNotFound, format!("Topic {name} does not exist")));
        }
        self.check_partition(&name)?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= TOPICS_MAX && !topics.contains_key(&name) {
            return Err(Refused::new(ServerError::NotAllowed, "this broker has as many topics as it may"));
        }
        let make = || Arc::new(Topic::new(name.clone(), self.rules.clone()));
        Ok(topics.entry(name.clone()).or_insert_with(make).clone())
    }

    /// A topic that is there.
    pub fn find(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// How many partitions a topic has; `None` when there is no such topic.
    pub fn partitions(&self, text: &str) -> Result<Option<u32>, Refused> {
        let name = parse(text)?;
        let partitions = self.partitioned_as(&name);
        Ok(partitions.or_else(|| self.find(&name).map(|_| 0)))
    }

    /// Gives a topic partitions, and makes them; more than before, if it has some.
    pub fn partition(&self, name: &TopicName, count: u32) -> Result<(), Refused> {
        let has = self.partitioned_as(name).unwrap_or(0);
        if count == 0 || count > PARTITIONS_MAX || count < has || name.partition_index().is_some() {
            let message = format!("{name} cannot have {count} partitions");
            return Err(Refused::new(ServerError::NotAllowed, message));
        }
        if self.find(name).is_some() {
            return Err(Refused::new(ServerError::NotAllowed, format!("{name} has no partitions")));
        }
        let mut partitioned = self.partitioned.write().unwrap_or_else(PoisonError::into_inner);
        partitioned.insert(name.clone(), count);
        drop(partitioned);
        for index in 0..count {
            self.topic(&name.partition(index).to_string(), true)?;
        }
        Ok(())
    }

    /// The topics of `tenant/namespace`, partitions by themselves; `None` when their names do not fit into a frame.
    pub fn names(&self, namespace: &str) -> Option<Vec<String>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let is_in = |name: &&TopicName| {
            let [tenant, its_namespace, _] = name.rest_parts();
            namespace.split_once('/') == Some((tenant, its_namespace))
        };
        let (mut names, mut room) = (Vec::new(), self.max_message_size as usize);
        for name in topics.keys().filter(is_in) {
            let name = name.to_string();
            room = room.checked_sub(name.len() + NAME_EXTRA)?;
            names.push(name);
        }
        Some(names)
    }

    /// Everything.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How many topics there are.
    pub fn count(&self) -> usize {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All topics' schemas.
    pub fn schemas(&self) -> MutexGuard<'_, Schemas> {
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops retained entries that everybody has acknowledged, so that there is room again; how many bytes.
    pub fn evict(&self) -> usize {
        if !self.rules.retain {
            return 0;
        }
        let wanted = self.rules.memory.to_evict();
        let mut freed = 0;
        for topic in self.all() {
            if freed >= wanted {
                break;
            }
            freed += topic.evict(wanted - freed);
        }
        freed
    }

    fn partitioned_as(&self, name: &TopicName) -> Option<u32> {
        self.partitioned.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// A partitioned topic holds nothing itself, and has no partitions but its own
    /// (`BrokerService.createPersistentTopic`).
    fn check_partition(&self, name: &TopicName) -> Result<(), Refused> {
        let refuse = |what: &str| Err(Refused::new(ServerError::NotAllowed, format!("{name} {what}")));
        if self.partitioned_as(name).is_some() {
            return refuse("is partitioned: use its partitions");
        }
        match (name.partition_index(), self.partitioned_as(&name.base())) {
            (Some(index), Some(count)) if index >= count => refuse("is not one of its topic's partitions"),
            _ => Ok(()),
        }
    }
}

/// A topic's name as a client wrote it.
pub fn parse(text: &str) -> Result<TopicName, Refused> {
    if text.len() > NAME_LEN_MAX {
        return Err(Refused::new(ServerError::InvalidTopicName, "a topic's name has at most 1024 bytes"));
    }
    TopicName::parse(text).map_err(|error| match error {
        TopicError::NonPersistent => {
            Refused::new(ServerError::NotAllowed, "this broker has no non-persistent topics")
        }
        TopicError::Malformed(_) => Refused::new(ServerError::InvalidTopicName, error.to_string()),
    })
}

/// A topic's name, however it is written.
const NAME_LEN_MAX: usize = 1024;
/// What a name takes in an answer besides its bytes, at most.
const NAME_EXTRA: usize = 4;
/// Each takes about 1 KiB without entries.
const TOPICS_MAX: usize = 100_000;
const PARTITIONS_MAX: u32 = 10_000;
/// A frame is held whole while it is read.
const MESSAGE_SIZE_BOUND: u32 = 64 << 20;
