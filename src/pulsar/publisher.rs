//! A producer on one topic-partition under a name of the caller's: create, send, receipts. Sends entries as
//! they are given; the caller heads them and keeps the order.

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::{CLOSE_DEADLINE, Connection, ConnectionError, ProducerEvent};
use super::frame;
use super::mailboxes::ProducerMail;
use super::proto::{self, BaseCommand, kind};
use super::topic::TopicName;

/// A producer that the broker has accepted.
pub struct Publisher {
    connection: Connection,
    producer_id: u64,
    last_sequence_id: i64,
    mail: mpsc::Receiver<ProducerMail>,
    /// What came together and is not handed on yet.
    receipts: std::vec::IntoIter<(u64, bool)>,
}

/// One entry to be sent.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Its sequence id, as in its metadata.
    pub sequence_id: u64,
    /// The last id of a joined batch, as in its metadata.
    pub highest_sequence_id: Option<u64>,
    /// How many messages it claims.
    pub messages: u32,
    /// Magic, checksum, metadata.
    pub head: Bytes,
    /// The payload.
    pub payload: Bytes,
}

impl Publisher {
    /// Creates the producer. The name is a lock: `ProducerBusy` while another connection holds it.
    pub async fn create(
        connection: Connection,
        topic: &TopicName,
        name: &str,
    ) -> Result<Self, ConnectionError> {
        Self::create_saying(connection, topic, name, &[]).await
    }

    /// The same; what it says about itself is in the topic's statistics.
    pub async fn create_saying(
        connection: Connection,
        topic: &TopicName,
        name: &str,
        said: &[(&str, String)],
    ) -> Result<Self, ConnectionError> {
        let pair =
            |(key, value): &(&str, String)| proto::KeyValue { key: (*key).into(), value: value.clone() };
        let producer_id = connection.next_id();
        let request_id = connection.next_id();
        let mail = connection.register_producer(producer_id);
        let create = BaseCommand {
            r#type: kind::PRODUCER,
            producer: Some(proto::Producer {
                topic: topic.to_string(),
                producer_id,
                request_id,
                producer_name: Some(name.to_owned()),
                encrypted: Some(false),
                metadata: said.iter().map(pair).collect(),
                epoch: Some(0),
                user_provided_producer_name: Some(true),
            }),
            ..BaseCommand::default()
        };
        let outcome = connection.request(request_id, &create).await;
        if outcome.is_err() {
            connection.forget_producer(producer_id);
        }
        let success = outcome?.producer_success.unwrap_or_default();
        let last_sequence_id = success.last_sequence_id.unwrap_or(-1);
        Ok(Self { connection, producer_id, last_sequence_id, mail, receipts: Vec::new().into_iter() })
    }

    /// The highest sequence id that was pushed under this name, −1 if the broker knows none. A hint, never an
    /// acknowledgement: pushed is not persisted (`MessageDeduplication.getLastPublishedSequenceId`).
    pub fn last_sequence_id(&self) -> i64 {
        self.last_sequence_id
    }

    /// The broker's bound on a message.
    pub fn max_message_size(&self) -> u32 {
        self.connection.max_message_size()
    }

    /// Queues an entry for the socket.
    pub async fn send(&self, outbound: Outbound) -> Result<(), ConnectionError> {
        let frame_head = self.frame_head(&outbound);
        self.connection.send_entry(frame_head, outbound.head, outbound.payload).await
    }

    /// Queues small entries for the socket, copied together: many cost little more than one.
    pub async fn send_together(&self, outbounds: &[Outbound]) -> Result<(), ConnectionError> {
        let mut frames = BytesMut::new();
        for outbound in outbounds {
            let frame_head = self.frame_head(outbound);
            frames.reserve(frame_head.len() + outbound.head.len() + outbound.payload.len());
            for part in [&frame_head, &outbound.head, &outbound.payload] {
                frames.extend_from_slice(part);
            }
        }
        self.connection.send_frames(frames.freeze()).await
    }

    fn frame_head(&self, outbound: &Outbound) -> Bytes {
        let command = SendCommand {
            r#type: kind::SEND,
            send: Some(proto::Send {
                producer_id: self.producer_id,
                sequence_id: outbound.sequence_id,
                num_messages: Some(i32::try_from(outbound.messages).unwrap_or(i32::MAX)),
                highest_sequence_id: outbound.highest_sequence_id,
            }),
        };
        frame::encode_before(&command, outbound.head.len() + outbound.payload.len())
    }

    /// The next receipt or refusal; `None` when the connection has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<ProducerEvent> {
        loop {
            if let Some(receipt) = self.next_receipt() {
                return Some(receipt);
            }
            match self.mail.recv().await? {
                ProducerMail::Receipts(receipts) => self.receipts = receipts.into_iter(),
                ProducerMail::Event(event) => return Some(event),
            }
        }
    }

    /// What has already come, without waiting.
    pub fn try_next(&mut self) -> Option<ProducerEvent> {
        loop {
            if let Some(receipt) = self.next_receipt() {
                return Some(receipt);
            }
            match self.mail.try_recv().ok()? {
                ProducerMail::Receipts(receipts) => self.receipts = receipts.into_iter(),
                ProducerMail::Event(event) => return Some(event),
            }
        }
    }

    fn next_receipt(&mut self) -> Option<ProducerEvent> {
        let (sequence_id, duplicate) = self.receipts.next()?;
        Some(ProducerEvent::Receipt { sequence_id, duplicate })
    }

    /// Registers a schema on the topic and gives the version it has there; `None` for "no version".
    pub async fn register_schema(
        &self,
        topic: &TopicName,
        schema: Bytes,
    ) -> Result<Option<Bytes>, ConnectionError> {
        let request_id = self.connection.next_id();
        let question = BaseCommand {
            r#type: kind::GET_OR_CREATE_SCHEMA,
            get_or_create_schema: Some(proto::GetOrCreateSchema {
                request_id,
                topic: topic.to_string(),
                schema,
            }),
            ..BaseCommand::default()
        };
        let answer = self.connection.request(request_id, &question).await?;
        let answer = answer.get_or_create_schema_response.unwrap_or_default();
        match answer.error {
            None => Ok(answer.schema_version.filter(|version| !version.is_empty())),
            Some(error) => Err(ConnectionError::refused(error, answer.message.unwrap_or_default())),
        }
    }

    /// Closes the producer, so that its name is free when this returns; then its connection.
    pub async fn close(self) {
        let request_id = self.connection.next_id();
        let close = BaseCommand {
            r#type: kind::CLOSE_PRODUCER,
            close_producer: Some(proto::CloseProducer { producer_id: self.producer_id, request_id }),
            ..BaseCommand::default()
        };
        // Best effort: a connection that is gone has closed the producer for us.
        let _ = timeout(CLOSE_DEADLINE, self.connection.request(request_id, &close)).await;
        self.connection.forget_producer(self.producer_id);
        self.connection.close();
    }
}

/// A `BaseCommand` with nothing but a send: built for every entry.
#[derive(Clone, PartialEq, prost::Message)]
struct SendCommand {
    #[prost(int32, required, tag = "1")]
    r#type: i32,
    #[prost(message, optional, tag = "6")]
    send: Option<proto::Send>,
}
