//! A consumer of one topic-partition: subscribe, grant permits, acknowledge. Hands on whole entries as
//! stored; never decompresses, never decides what an entry is worth.

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::{CLOSE_DEADLINE, Connection, ConnectionError, ConsumerEvent, Delivery};
use super::mailboxes::{ConsumerMail, Group};
use super::permits::Permits;
use super::proto::{self, BaseCommand, MessageId, kind};
use super::topic::TopicName;

/// How to subscribe.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// The topic-partition.
    pub topic: TopicName,
    /// The durable subscription.
    pub subscription: String,
    /// This consumer, as the broker's stats show it.
    pub consumer_name: String,
    /// Shown with it.
    pub metadata: Vec<(String, String)>,
    /// Exclusive instead of Failover: right where only one consumer can be.
    pub exclusive: bool,
    /// Where a subscription begins that this creates: at the earliest message, or the latest.
    pub earliest: bool,
    /// Failover: a higher number stands behind a lower one.
    pub priority: i32,
    /// Have a missing topic made, where the broker allows that.
    pub create_topic: bool,
    /// Bytes that may wait unread in the inbox (or one entry).
    pub inbox_bytes: usize,
}

/// An attached consumer.
pub struct Subscription {
    connection: Connection,
    consumer_id: u64,
    untouched: bool,
    mail: mpsc::Receiver<ConsumerMail>,
    /// What came together and is not handed on yet.
    group: Option<Group>,
    permits: Permits,
    exclusive: bool,
}

impl Subscription {
    /// Subscribes and grants the first permits, in that order: a FLOW before SUCCESS is silently dropped
    /// (`ServerCnx.handleFlow`), and the consumer would wait for ever.
    pub async fn open(connection: Connection, options: &SubscribeOptions) -> Result<Self, ConnectionError> {
        let mut subscription = Self::attach(connection, options).await?;
        subscription.grant().await?;
        Ok(subscription)
    }

    /// Makes sure that the durable subscription exists, without taking anything from it.
    pub async fn create(connection: Connection, options: &SubscribeOptions) -> Result<(), ConnectionError> {
        Self::attach(connection, options).await?.close().await;
        Ok(())
    }

    /// Reads a topic behind `after` without a durable subscription: nothing is acknowledged, and nothing is left behind.
    pub async fn browse(
        connection: Connection,
        topic: &TopicName,
        name: &str,
        after: MessageId,
        inbox_bytes: usize,
    ) -> Result<Self, ConnectionError> {
        let subscribe = proto::Subscribe {
            topic: topic.to_string(),
            subscription: name.into(),
            sub_type: EXCLUSIVE,
            consumer_name: Some(name.into()),
            durable: Some(false),
            start_message_id: Some(after),
            read_compacted: Some(false),
            force_topic_creation: Some(false),
            ..proto::Subscribe::default()
        };
        let subscription = Self::attach_as(connection, subscribe, inbox_bytes).await?;
        let mut subscription = Self { permits: Permits::sparing(), ..subscription };
        subscription.grant().await?;
        Ok(subscription)
    }

    async fn attach(connection: Connection, options: &SubscribeOptions) -> Result<Self, ConnectionError> {
        let pair =
            |(key, value): &(String, String)| proto::KeyValue { key: key.clone(), value: value.clone() };
        let subscribe = proto::Subscribe {
            topic: options.topic.to_string(),
            subscription: options.subscription.clone(),
            sub_type: if options.exclusive { EXCLUSIVE } else { FAILOVER },
            consumer_name: Some(options.consumer_name.clone()),
            priority_level: Some(options.priority),
            durable: Some(true),
            metadata: options.metadata.iter().map(pair).collect(),
            read_compacted: Some(false),
            initial_position: Some(if options.earliest { EARLIEST } else { LATEST }),
            force_topic_creation: Some(options.create_topic),
            ..proto::Subscribe::default()
        };
        Self::attach_as(connection, subscribe, options.inbox_bytes).await
    }

    /// `subscribe` without its ids.
    async fn attach_as(
        connection: Connection,
        subscribe: proto::Subscribe,
        inbox_bytes: usize,
    ) -> Result<Self, ConnectionError> {
        let consumer_id = connection.next_id();
        let request_id = connection.next_id();
        let mail = connection.register_consumer(consumer_id, inbox_bytes);
        let exclusive = subscribe.sub_type == EXCLUSIVE;
        let subscribe = BaseCommand {
            r#type: kind::SUBSCRIBE,
            subscribe: Some(proto::Subscribe { consumer_id, request_id, ..subscribe }),
            ..BaseCommand::default()
        };
        let outcome = connection.request(request_id, &subscribe).await;
        if outcome.is_err() {
            connection.forget_consumer(consumer_id);
        }
        outcome?;
        let (untouched, group, permits) = (true, None, Permits::new());
        Ok(Self { connection, consumer_id, untouched, mail, group, permits, exclusive })
    }

    /// Its connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Exclusive consumers are active from the start; Failover ones when the broker says so.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// The next event; `None` when the connection has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<ConsumerEvent> {
        loop {
            if let Some(delivery) = self.next_of_group() {
                return Some(ConsumerEvent::Entry(delivery));
            }
            match self.mail.recv().await? {
                ConsumerMail::Entries(group) => self.group = Some(group),
                ConsumerMail::Event(event) => return Some(event),
            }
        }
    }

    /// What has already come, without waiting.
    pub fn try_next(&mut self) -> Option<ConsumerEvent> {
        loop {
            if let Some(delivery) = self.next_of_group() {
                return Some(ConsumerEvent::Entry(delivery));
            }
            match self.mail.try_recv().ok()? {
                ConsumerMail::Entries(group) => self.group = Some(group),
                ConsumerMail::Event(event) => return Some(event),
            }
        }
    }

    fn next_of_group(&mut self) -> Option<Delivery> {
        let delivery = self.group.as_mut()?.next();
        match delivery {
            Some(_) => self.untouched = false,
            // Only now: the last entry was taken by whoever asks for the next one.
            None => self.group = None,
        }
        delivery
    }

    /// No entry was handed on yet: what comes next is the first behind the mark-delete position.
    ///
    /// There is no going back on a subscription that was touched: a REDELIVER races with the broker's reads, which
    /// move the cursor on after it was rewound (`PersistentDispatcherSingleActiveConsumer`,
    /// `OpReadEntry.checkReadCompletion`), and entries are then skipped without a word. Subscribing anew is safe:
    /// a read that was begun for another consumer is thrown away and the cursor rewound.
    pub fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// An entry was taken: returns its permits when enough of them are due.
    pub async fn taken(&mut self, messages: u32, entry_len: usize) -> Result<(), ConnectionError> {
        self.permits.spent(messages, entry_len);
        self.grant().await
    }

    /// Acknowledges everything up to and including `position`; `properties` are stored beside it.
    pub async fn acknowledge(
        &self,
        position: MessageId,
        properties: Vec<proto::KeyLongValue>,
    ) -> Result<(), ConnectionError> {
        self.connection.tell(&self.ack_command(position, properties, None)).await
    }

    /// The same; the answer says that the broker has taken it. Answered only while the socket is read, so go on
    /// taking entries while awaiting it.
    pub async fn acknowledge_surely(
        &self,
        position: MessageId,
        properties: Vec<proto::KeyLongValue>,
    ) -> Result<impl Future<Output = Result<(), ConnectionError>> + Send + use<>, ConnectionError> {
        let request_id = self.connection.next_id();
        let command = self.ack_command(position, properties, Some(request_id));
        let answer = self.connection.begin_request(request_id, &command).await?;
        Ok(async move {
            let answer = answer.await?.ack_response.unwrap_or_default();
            match answer.error {
                None => Ok(()),
                Some(error) => Err(ConnectionError::refused(error, answer.message.unwrap_or_default())),
            }
        })
    }

    /// Acknowledges only this one. Not for a subscription that acknowledges cumulatively.
    pub async fn acknowledge_one(&self, position: MessageId) -> Result<(), ConnectionError> {
        let mut command = self.ack_command(position, Vec::new(), None);
        command.ack.iter_mut().for_each(|ack| ack.ack_type = INDIVIDUAL);
        self.connection.tell(&command).await
    }

    fn ack_command(
        &self,
        position: MessageId,
        properties: Vec<proto::KeyLongValue>,
        request_id: Option<u64>,
    ) -> BaseCommand {
        BaseCommand {
            r#type: kind::ACK,
            ack: Some(proto::Ack {
                consumer_id: self.consumer_id,
                ack_type: CUMULATIVE,
                message_id: vec![position],
                properties,
                request_id,
            }),
            ..BaseCommand::default()
        }
    }

    /// Asks for the topic's last message id and the subscription's mark-delete position. Answered only while
    /// the socket is read, so go on taking entries while awaiting it.
    pub async fn last_message_id(
        &self,
    ) -> Result<
        impl Future<Output = Result<proto::LastMessageId, ConnectionError>> + Send + use<>,
        ConnectionError,
    > {
        let request_id = self.connection.next_id();
        let question = BaseCommand {
            r#type: kind::GET_LAST_MESSAGE_ID,
            get_last_message_id: Some(proto::GetLastMessageId { consumer_id: self.consumer_id, request_id }),
            ..BaseCommand::default()
        };
        let answer = self.connection.begin_request(request_id, &question).await?;
        Ok(async move { Ok(answer.await?.last_message_id.unwrap_or_default()) })
    }

    /// Detaches. The subscription stays.
    pub async fn close(mut self) {
        self.forget();
        let request_id = self.connection.next_id();
        let close = BaseCommand {
            r#type: kind::CLOSE_CONSUMER,
            close_consumer: Some(proto::CloseConsumer { consumer_id: self.consumer_id, request_id }),
            ..BaseCommand::default()
        };
        // Best effort: a connection that is gone has closed the consumer for us.
        let _ = timeout(CLOSE_DEADLINE, self.connection.request(request_id, &close)).await;
    }

    /// Removes the durable subscription, and its consumer with it: nothing is kept for it any more.
    pub async fn unsubscribe(mut self) -> Result<(), ConnectionError> {
        self.forget();
        let request_id = self.connection.next_id();
        let unsubscribe = BaseCommand {
            r#type: kind::UNSUBSCRIBE,
            unsubscribe: Some(proto::CloseConsumer { consumer_id: self.consumer_id, request_id }),
            ..BaseCommand::default()
        };
        self.connection.request(request_id, &unsubscribe).await.map(drop)
    }

    /// Takes nothing more. What still waits would keep the reader from reading the answer.
    fn forget(&mut self) {
        self.mail.close();
        while self.mail.try_recv().is_ok() {}
        self.group = None;
        self.connection.forget_consumer(self.consumer_id);
    }

    async fn grant(&mut self) -> Result<(), ConnectionError> {
        let message_permits = self.permits.due();
        if message_permits == 0 {
            return Ok(());
        }
        let flow = BaseCommand {
            r#type: kind::FLOW,
            flow: Some(proto::Flow { consumer_id: self.consumer_id, message_permits }),
            ..BaseCommand::default()
        };
        self.connection.tell(&flow).await
    }
}

/// `CommandSubscribe.SubType`.
const EXCLUSIVE: i32 = 0;
const FAILOVER: i32 = 2;
/// `CommandSubscribe.InitialPosition`.
const LATEST: i32 = 0;
const EARLIEST: i32 = 1;
/// `CommandAck.AckType`.
const INDIVIDUAL: i32 = 0;
const CUMULATIVE: i32 = 1;
