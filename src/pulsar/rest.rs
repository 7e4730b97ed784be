//! A cluster's admin REST API, as far as routes need it: is deduplication on, what topics, partitions and
//! subscriptions are there, what a cursor remembers. Creates topics when told to; changes no policy.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hyper::{Method, StatusCode};
use serde::Deserialize;

pub use self::exchange::RestError;
use self::exchange::{Answer, Exchange};
use super::connection::Credentials;
use super::topic::TopicName;
use super::transport::Dialer;

mod exchange;

/// The admin API of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct AdminRest {
    exchange: Exchange,
}

/// What `…/stats` says about a topic or one partition, as far as routes care.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStats {
    /// `Enabled` when the broker drops what it has already.
    pub deduplication_status: Option<String>,
    /// Its producers.
    pub publishers: Vec<PublisherStats>,
    /// Its subscriptions by name.
    pub subscriptions: BTreeMap<String, SubscriptionStats>,
}

/// One producer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PublisherStats {
    /// Its name.
    pub producer_name: Option<String>,
    /// What it said about itself when it was created.
    pub metadata: BTreeMap<String, String>,
}

/// One subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionStats {
    /// Entries (not messages) that are not acknowledged.
    pub msg_backlog: i64,
    /// Who is attached.
    pub consumers: Vec<ConsumerStats>,
}

/// One attached consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerStats {
    /// Its name.
    pub consumer_name: Option<String>,
    /// What it said about itself when it subscribed.
    pub metadata: BTreeMap<String, String>,
}

/// Where a subscription stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Its mark-delete position: ledger and entry, which is −1 before a ledger's first.
    pub mark_delete: Option<(u64, i64)>,
    /// What the last acknowledgement left (ack properties).
    pub properties: BTreeMap<String, u64>,
}

/// One of a topic's ledgers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// BookKeeper's id.
    pub ledger_id: u64,
    /// How many entries it holds.
    pub entries: u64,
}

/// Whether a topic's broker drops what it has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deduplication {
    /// It does.
    Enabled,
    /// On its way there (the switch is asynchronous, and a reload replays): ask again.
    Changing,
    /// It does not.
    Disabled,
}

impl TopicStats {
    /// Its deduplication (MessageDeduplication.Status).
    pub fn deduplication(&self) -> Deduplication {
        match self.deduplication_status.as_deref() {
            Some("Enabled") => Deduplication::Enabled,
            Some("Initialized" | "Recovering") => Deduplication::Changing,
            Some(_) | None => Deduplication::Disabled,
        }
    }
}

impl AdminRest {
    /// The API behind `http://host:8080` or `https://…`.
    pub fn new(url: &str, dialer: Dialer, credentials: Credentials) -> Result<Self, RestError> {
        let exchange = Exchange::new(url, dialer, credentials)?;
        Ok(Self { exchange })
    }

    /// Statistics of a topic that is not partitioned, or of one partition; `None` when there is none such.
    pub async fn stats(&self, topic: &TopicName) -> Result<Option<TopicStats>, RestError> {
        let path = topic_path(topic, "/stats?getPreciseBacklog=true");
        self.get(&path, NEEDS_LOOKUP).await
    }

    /// Deduplication of a topic: the weakest of its partitions. `None` when there is no such topic.
    pub async fn deduplication(&self, topic: &TopicName) -> Result<Option<Deduplication>, RestError> {
        let Some(partitions) = self.partitions(topic).await? else {
            return Ok(None);
        };
        let mut weakest = None;
        if partitions == 0 {
            weakest = self.stats(topic).await?.map(|stats| stats.deduplication());
        }
        for index in 0..partitions {
            // A partition nobody has touched yet has no statistics and says nothing.
            if let Some(stats) = self.stats(&topic.partition(index)).await? {
                weakest = weakest.max(Some(stats.deduplication()));
            }
        }
        Ok(weakest)
    }

    /// How many partitions; `Some(0)` is a topic that is not partitioned, `None` no topic.
    pub async fn partitions(&self, topic: &TopicName) -> Result<Option<u32>, RestError> {
        #[derive(Deserialize)]
        struct Metadata {
            partitions: u32,
        }
        let path = topic_path(topic, "/partitions");
        let metadata: Option<Metadata> = self.get(&path, NEEDS_LOOKUP).await?;
        Ok(metadata.map(|metadata| metadata.partitions))
    }

    /// Creates a partitioned topic; `false` when it is there already, with however many partitions.
    pub async fn create_partitioned(&self, topic: &TopicName, partitions: u32) -> Result<bool, RestError> {
        let path = topic_path(topic, "/partitions");
        self.create(Method::PUT, &path, partitions.to_string()).await
    }

    /// Creates a topic without partitions; `false` when it is there already.
    pub async fn create_unpartitioned(&self, topic: &TopicName) -> Result<bool, RestError> {
        self.create(Method::PUT, &topic_path(topic, ""), String::new()).await
    }

    /// Raises the number of partitions. A broker refuses to lower it.
    pub async fn grow(&self, topic: &TopicName, partitions: u32) -> Result<(), RestError> {
        let path = topic_path(topic, "/partitions");
        let answer = self.exchange.run(Method::POST, &path, partitions.to_string(), NEEDS_ADMIN).await?;
        answer.accepted(&path)
    }

    /// The names of its subscriptions; `None` when there is no such topic.
    pub async fn subscriptions(&self, topic: &TopicName) -> Result<Option<Vec<String>>, RestError> {
        self.get(&topic_path(topic, "/subscriptions"), NEEDS_CONSUME).await
    }

    /// Where a subscription's cursor stands, and what its last acknowledgement left there; `None` when there is no
    /// such topic or subscription.
    pub async fn cursor(&self, topic: &TopicName, subscription: &str) -> Result<Option<Cursor>, RestError> {
        #[derive(Deserialize)]
        struct Internal {
            #[serde(default)]
            cursors: BTreeMap<String, Told>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Told {
            #[serde(default)]
            mark_delete_position: String,
            #[serde(default)]
            properties: Option<BTreeMap<String, i64>>,
        }
        let path = topic_path(topic, "/internalStats");
        let internal: Option<Internal> = self.get(&path, NEEDS_LOOKUP).await?;
        // Cursors go by the subscription's encoded name, with `+` for a space (common.util.Codec).
        let name = encode(subscription).replace("%20", "+");
        let told = internal.and_then(|mut internal| internal.cursors.remove(&name));
        // The wire has u64, the broker prints Java's signed long.
        let unsigned = |(name, value): (String, i64)| (name, value.cast_unsigned());
        Ok(told.map(|told| Cursor {
            mark_delete: position(&told.mark_delete_position),
            properties: told.properties.into_iter().flatten().map(unsigned).collect(),
        }))
    }

    /// A subscription's own properties; `None` when there is no such topic or subscription, or the brokers have no such
    /// properties.
    pub async fn subscription_properties(
        &self,
        topic: &TopicName,
        subscription: &str,
    ) -> Result<Option<BTreeMap<String, String>>, RestError> {
        self.get(&properties_path(topic, subscription), NEEDS_CONSUME).await
    }

    /// Replaces them all.
    pub async fn set_subscription_properties(
        &self,
        topic: &TopicName,
        subscription: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<(), RestError> {
        let path = properties_path(topic, subscription);
        let body = serde_json::json!(properties).to_string();
        self.exchange.run(Method::PUT, &path, body, NEEDS_CONSUME).await?.accepted(&path)
    }

    /// The ledgers that still hold entries of a topic, ascending, each with how many; `None` when there is no such topic.
    pub async fn ledgers(&self, topic: &TopicName) -> Result<Option<Vec<Ledger>>, RestError> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Internal {
            ledgers: Vec<Ledger>,
            current_ledger_entries: u64,
        }
        let internal: Option<Internal> = self.get(&topic_path(topic, "/internalStats"), NEEDS_LOOKUP).await?;
        Ok(internal.map(|Internal { mut ledgers, current_ledger_entries }| {
            // The one that is written to has no count of its own there.
            if let Some(current) = ledgers.last_mut() {
                current.entries = current.entries.max(current_ledger_entries);
            }
            ledgers
        }))
    }

    /// Entries a subscription has not acknowledged; `None` when there is no such topic or subscription.
    pub async fn backlog(&self, topic: &TopicName, subscription: &str) -> Result<Option<u64>, RestError> {
        let stats = self.stats(topic).await?;
        let found = stats.and_then(|mut stats| stats.subscriptions.remove(subscription));
        // A broker that has just started may count below nothing.
        Ok(found.map(|found| u64::try_from(found.msg_backlog).unwrap_or(0)))
    }

    /// The clusters a topic's namespace replicates to, its own among them; `None` without such a namespace.
    pub async fn replication_clusters(&self, topic: &TopicName) -> Result<Option<Vec<String>>, RestError> {
        let [tenant, namespace, _] = topic.rest_parts();
        let path = format!("/admin/v2/namespaces/{}/{}/replication", encode(tenant), encode(namespace));
        self.get(&path, NEEDS_ADMIN).await
    }

    async fn get<T>(&self, path: &str, needs: &'static str) -> Result<Option<T>, RestError>
    where
        T: for<'de> Deserialize<'de>,
    {
        let answer = self.exchange.run(Method::GET, path, String::new(), needs).await?;
        if answer.says_missing() {
            return Ok(None);
        }
        answer.read(path).map(Some)
    }

    async fn create(&self, method: Method, path: &str, body: String) -> Result<bool, RestError> {
        let answer: Answer = self.exchange.run(method, path, body, NEEDS_ADMIN).await?;
        if answer.status == StatusCode::CONFLICT {
            return Ok(false);
        }
        answer.accepted(path)?;
        Ok(true)
    }
}

fn properties_path(topic: &TopicName, subscription: &str) -> String {
    topic_path(topic, &format!("/subscription/{}/properties", encode(subscription)))
}

/// `ledger:entry`, as the broker writes a position.
fn position(text: &str) -> Option<(u64, i64)> {
    let (ledger, entry) = text.split_once(':')?;
    ledger.parse().ok().zip(entry.parse().ok())
}

fn topic_path(topic: &TopicName, rest: &str) -> String {
    let [tenant, namespace, name] = topic.rest_parts();
    format!("/admin/v2/persistent/{}/{}/{}{rest}", encode(tenant), encode(namespace), encode(name))
}

/// One path segment, as Pulsar's own client (java.net.URLEncoder) writes it. Dots alone would be taken for a
/// way up.
fn encode(segment: &str) -> String {
    let only_dots = segment.bytes().all(|byte| byte == b'.');
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
        if plain || (byte == b'.' && !only_dots) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

// Who may ask what: PulsarAuthorizationProvider.
const NEEDS_LOOKUP: &str = "grant its role `produce` or `consume` on the namespace";
const NEEDS_CONSUME: &str = "grant its role `consume` on the namespace";
const NEEDS_ADMIN: &str = "make its role an admin of the tenant, or let an admin do it beforehand";

#[cfg(test)]
mod tests;
