//! One cluster seen from outside: which topics a namespace has, which broker serves a topic, how many partitions it
//! has, its schemas. Creates nothing by looking. Hands out connections; keeps two of its own for questions.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::connection::{Connection, ConnectionError, Credentials};
use super::proto::{self, BaseCommand, ServerError, kind};
use super::topic::{Namespace, TopicName};
use super::transport::{Address, Dialer};

/// A cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    service: Vec<Address>,
    dialer: Dialer,
    credentials: Credentials,
    turn: AtomicUsize,
    questions: Mutex<Option<Connection>>,
    /// An answer that lists more topics than a frame may hold breaks its connection, and nobody else's.
    listings: Mutex<Option<Connection>>,
}

/// What a lookup found.
struct Owner {
    address: Address,
    /// Through the service address, naming this broker to the proxy there.
    proxied: Option<String>,
}

impl Client {
    /// A client of the cluster behind any of the `service` addresses.
    pub fn new(service: Vec<Address>, dialer: Dialer, credentials: Credentials) -> Self {
        let (questions, listings) = (Mutex::new(None), Mutex::new(None));
        let inner = Inner { service, dialer, credentials, turn: AtomicUsize::new(0), questions, listings };
        Self { inner: Arc::new(inner) }
    }

    /// How many partitions a topic has: `None` when there is no such topic, `Some(0)` when it is not partitioned.
    pub async fn partitions(&self, topic: &TopicName) -> Result<Option<u32>, ConnectionError> {
        let connection = self.questions().await?;
        let request_id = connection.next_id();
        let question = BaseCommand {
            r#type: kind::PARTITION_METADATA,
            partition_metadata: Some(proto::PartitionMetadata {
                topic: topic.to_string(),
                request_id,
                metadata_auto_creation_enabled: Some(false),
            }),
            ..BaseCommand::default()
        };
        let answer =
            connection.request(request_id, &question).await?.partition_metadata_response.unwrap_or_default();
        match (answer.response, answer.error) {
            (Some(LOOKUP_TYPE_FAILED_METADATA), error) => {
                let refusal =
                    ConnectionError::refused(error.unwrap_or_default(), answer.message.unwrap_or_default());
                match refusal.server_error() {
                    Some(ServerError::TopicNotFound) => Ok(None),
                    Some(_) | None => Err(refusal),
                }
            }
            (_, _) => Ok(Some(answer.partitions.unwrap_or(0))),
        }
    }

    /// The persistent topics of a namespace, partitions folded into theirs.
    pub async fn topics_of(&self, namespace: &Namespace) -> Result<BTreeSet<TopicName>, ConnectionError> {
        let connection = self.kept(&self.inner.listings).await?;
        let request_id = connection.next_id();
        let question = BaseCommand {
            r#type: kind::GET_TOPICS,
            get_topics: Some(proto::GetTopics {
                request_id,
                namespace: namespace.to_string(),
                mode: Some(MODE_PERSISTENT),
            }),
            ..BaseCommand::default()
        };
        let answer = connection.request(request_id, &question).await?.get_topics_response.unwrap_or_default();
        // Some brokers add non-persistent ones, whatever they are asked for.
        let topics = answer.topics.iter().filter_map(|name| TopicName::parse(name).ok());
        Ok(topics.map(|topic| topic.base()).collect())
    }

    /// A new connection to the broker that serves `topic`.
    pub async fn connect_to_owner(&self, topic: &TopicName) -> Result<Connection, ConnectionError> {
        let owner = self.look_up(topic).await?;
        self.open(&owner.address, owner.proxied).await
    }

    /// The stored schema of this version; `None` when the broker knows none. The bytes are a `Schema` message.
    pub async fn schema(&self, topic: &TopicName, version: &Bytes) -> Result<Option<Bytes>, ConnectionError> {
        let connection = self.questions().await?;
        let request_id = connection.next_id();
        let question = BaseCommand {
            r#type: kind::GET_SCHEMA,
            get_schema: Some(proto::GetSchema {
                request_id,
                topic: topic.to_string(),
                schema_version: Some(version.clone()),
            }),
            ..BaseCommand::default()
        };
        let answer = connection.request(request_id, &question).await?.get_schema_response.unwrap_or_default();
        match answer.error {
            None => Ok(answer.schema),
            Some(error) => {
                let refusal = ConnectionError::refused(error, answer.message.unwrap_or_default());
                match refusal.server_error() {
                    Some(ServerError::TopicNotFound) => Ok(None),
                    Some(_) | None => Err(refusal),
                }
            }
        }
    }

    async fn look_up(&self, topic: &TopicName) -> Result<Owner, ConnectionError> {
        let mut connection = self.questions().await?;
        let service = connection.address().clone();
        let mut authoritative = false;
        for _ in 0..REDIRECTS_MAX {
            let request_id = connection.next_id();
            let question = BaseCommand {
                r#type: kind::LOOKUP,
                lookup: Some(proto::Lookup {
                    topic: topic.to_string(),
                    request_id,
                    authoritative: Some(authoritative),
                }),
                ..BaseCommand::default()
            };
            let answer = connection.request(request_id, &question).await?.lookup_response.unwrap_or_default();
            let url = if service.tls { answer.broker_service_url_tls } else { answer.broker_service_url };
            let broker = || Address::parse(url.as_deref().unwrap_or_default());
            match answer.response {
                Some(LOOKUP_CONNECT) if answer.proxy_through_service_url.unwrap_or(false) => {
                    let broker = broker()?;
                    let proxied = (broker != service).then(|| format!("{}:{}", broker.host, broker.port));
                    return Ok(Owner { address: service, proxied });
                }
                Some(LOOKUP_CONNECT) => {
                    return Ok(Owner { address: broker()?, proxied: None });
                }
                Some(LOOKUP_REDIRECT) => {
                    authoritative = answer.authoritative.unwrap_or(false);
                    connection = self.open(&broker()?, None).await?;
                }
                Some(_) | None => {
                    let error = answer.error.unwrap_or_default();
                    return Err(ConnectionError::refused(error, answer.message.unwrap_or_default()));
                }
            }
        }
        Err(ConnectionError::Lost(format!("a lookup was redirected more than {REDIRECTS_MAX} times")))
    }

    async fn questions(&self) -> Result<Connection, ConnectionError> {
        self.kept(&self.inner.questions).await
    }

    /// The connection in this place, opened anew when the last one has ended. Two callers at once may each
    /// open one; the later one is kept.
    async fn kept(&self, place: &Mutex<Option<Connection>>) -> Result<Connection, ConnectionError> {
        let kept = place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(connection) = kept.filter(|connection| !connection.is_closed()) {
            return Ok(connection);
        }
        let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        let mut outcome = Err(ConnectionError::Lost("no service address is configured".into()));
        for nth in 0..self.inner.service.len() {
            let address = &self.inner.service[(turn + nth) % self.inner.service.len()];
            outcome = self.open(address, None).await;
            if outcome.is_ok() {
                break;
            }
        }
        let connection = outcome?;
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    async fn open(&self, address: &Address, proxied: Option<String>) -> Result<Connection, ConnectionError> {
        Connection::open(&self.inner.dialer, address, &self.inner.credentials, proxied).await
    }
}

/// `CommandGetTopicsOfNamespace.Mode`.
const MODE_PERSISTENT: i32 = 0;
/// `CommandLookupTopicResponse.LookupType`.
const LOOKUP_REDIRECT: i32 = 0;
const LOOKUP_CONNECT: i32 = 1;
/// `CommandPartitionedTopicMetadataResponse.LookupType.Failed`.
const LOOKUP_TYPE_FAILED_METADATA: i32 = 1;
/// As many as the official clients follow (`BinaryProtoLookupService`).
const REDIRECTS_MAX: usize = 20;
