//! The reading half of a broker connection: one task that owns the socket's read side and hands each frame to
//! whoever it is for. Waits for room in a consumer's inbox, and so ceases to read; never decides anything.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::connection::{
    AUTH_METHOD, CLIENT_VERSION, ConnectionError, ConsumerEvent, Credentials, Delivery, PROTOCOL_VERSION,
    ProducerEvent, next_frame,
};
use super::frame::{self, Frame, FrameError, FrameSplitter};
use super::mailboxes::Mailboxes;
use super::proto::{self, BaseCommand, ServerError, kind};
use super::writer::Outgoing;

pub(super) struct Reader {
    pub(super) splitter: FrameSplitter,
    pub(super) mailboxes: Arc<Mailboxes>,
    pub(super) pongs: mpsc::Sender<()>,
    pub(super) outbox: mpsc::WeakSender<Outgoing>,
    pub(super) credentials: Credentials,
}

/// The commands of the hot path, alone: decoding the whole envelope for each entry would cost more than the
/// rest of its way.
#[derive(Clone, PartialEq, Message)]
struct HotCommand {
    #[prost(message, optional, tag = "7")]
    send_receipt: Option<proto::SendReceipt>,
    #[prost(message, optional, tag = "9")]
    message: Option<proto::CommandMessage>,
}

impl Reader {
    /// Reads until the connection breaks.
    pub(super) async fn run<R: AsyncRead + Unpin>(mut self, mut socket: R) -> Result<(), ConnectionError> {
        loop {
            // Counted only while we read: a socket that we paused may be silent for as long as we like.
            let next = tokio::time::timeout(SILENCE_MAX, next_frame(&mut socket, &mut self.splitter)).await;
            let frame = next.map_err(|_| ConnectionError::Lost("the broker was silent".into()))??;
            self.take(frame).await?;
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), ConnectionError> {
        // BaseCommand.type is field 1 and every client and broker writes it first: `08 <type>`.
        match frame.command.first_chunk::<2>() {
            Some([0x08, 9]) => self.take_entry(frame).await,
            Some([0x08, 7]) => self.take_receipt(frame).await,
            Some(_) | None => {
                let command = frame.decode()?;
                self.take_command(command).await
            }
        }
    }

    async fn take_entry(&self, frame: Frame) -> Result<(), ConnectionError> {
        let hot = HotCommand::decode(frame.command).map_err(FrameError::Command)?;
        let Some(message) = hot.message else { return Ok(()) };
        let Some(inbox) = self.mailboxes.lock().consumers.get(&message.consumer_id).cloned() else {
            return Ok(());
        };
        let share = u32::try_from(frame.rest.len()).unwrap_or(u32::MAX).min(inbox.bytes_max);
        let Ok(share) = inbox.bytes.acquire_many_owned(share).await else {
            return Ok(());
        };
        let delivery = Delivery { id: message.message_id, stored: frame.rest, _share: share };
        // A receiver that is gone has no more use for entries.
        let _ = inbox.sender.send(ConsumerEvent::Entry(delivery)).await;
        Ok(())
    }

    async fn take_receipt(&self, frame: Frame) -> Result<(), ConnectionError> {
        let hot = HotCommand::decode(frame.command).map_err(FrameError::Command)?;
        let Some(receipt) = hot.send_receipt else {
            return Ok(());
        };
        let duplicate = receipt.message_id.is_some_and(|id| id.ledger == u64::MAX && id.entry == u64::MAX);
        self.tell_producer(
            receipt.producer_id,
            ProducerEvent::Receipt { sequence_id: receipt.sequence_id, duplicate },
        )
        .await;
        Ok(())
    }

    async fn take_command(&self, command: BaseCommand) -> Result<(), ConnectionError> {
        match command.r#type {
            kind::PING => {
                // One PONG answers any number of PINGs that were read before it was written.
                let _ = self.pongs.try_send(());
            }
            kind::SEND_ERROR => {
                if let Some(refusal) = command.send_error {
                    let error = ServerError::try_from(refusal.error).unwrap_or(ServerError::Unknown);
                    let event = ProducerEvent::SendError {
                        sequence_id: refusal.sequence_id,
                        error,
                        message: refusal.message,
                    };
                    self.tell_producer(refusal.producer_id, event).await;
                }
            }
            kind::CLOSE_PRODUCER => {
                if let Some(close) = command.close_producer {
                    self.tell_producer(close.producer_id, ProducerEvent::Closed).await;
                }
            }
            kind::CLOSE_CONSUMER => {
                if let Some(close) = command.close_consumer {
                    self.tell_consumer(close.consumer_id, ConsumerEvent::Closed).await;
                }
            }
            // The cluster moved: a fresh lookup through the configured service URL is the safe answer.
            kind::TOPIC_MIGRATED => match command.topic_migrated {
                Some(moved) if moved.resource_type == 0 => {
                    self.tell_producer(moved.resource_id, ProducerEvent::Closed).await;
                }
                Some(moved) => self.tell_consumer(moved.resource_id, ConsumerEvent::Closed).await,
                None => {}
            },
            kind::ACTIVE_CONSUMER_CHANGE => {
                if let Some(change) = command.active_consumer_change {
                    let active = ConsumerEvent::Active(change.is_active.unwrap_or(false));
                    self.tell_consumer(change.consumer_id, active).await;
                }
            }
            kind::REACHED_END => {
                if let Some(end) = command.reached_end {
                    self.tell_consumer(end.consumer_id, ConsumerEvent::EndOfTopic).await;
                }
            }
            kind::AUTH_CHALLENGE => self.answer_challenge().await?,
            kind::PRODUCER_SUCCESS if !producer_ready(&command) => {}
            _ => match answered_request(&command) {
                // Request −1 is the broker's word about the whole connection, which it closes next.
                Some(u64::MAX) | None => {}
                Some(request_id) => self.mailboxes.answer(request_id, command),
            },
        }
        Ok(())
    }

    async fn answer_challenge(&self) -> Result<(), ConnectionError> {
        // A certificate is not asked for again: it was shown when the connection was opened.
        let Some(token) = (self.credentials)().map_err(ConnectionError::Credentials)? else {
            return Ok(());
        };
        let response = BaseCommand {
            r#type: kind::AUTH_RESPONSE,
            auth_response: Some(proto::AuthResponse {
                client_version: Some(CLIENT_VERSION.into()),
                response: Some(proto::AuthPayload {
                    auth_method_name: Some(AUTH_METHOD.into()),
                    auth_data: Some(token),
                }),
                protocol_version: Some(PROTOCOL_VERSION),
            }),
            ..BaseCommand::default()
        };
        if let Some(outbox) = self.outbox.upgrade() {
            // A closed outbox means that the connection is ending.
            let _ = outbox.send(Outgoing::Command(frame::encode(&response))).await;
        }
        Ok(())
    }

    async fn tell_consumer(&self, consumer_id: u64, event: ConsumerEvent) {
        let inbox = self.mailboxes.lock().consumers.get(&consumer_id).cloned();
        if let Some(inbox) = inbox {
            let _ = inbox.sender.send(event).await;
        }
    }

    async fn tell_producer(&self, producer_id: u64, event: ProducerEvent) {
        let sender = self.mailboxes.lock().producers.get(&producer_id).cloned();
        if let Some(sender) = sender {
            let _ = sender.send(event).await;
        }
    }
}

/// A producer that waits for exclusive access gets a second success later.
fn producer_ready(command: &BaseCommand) -> bool {
    command.producer_success.as_ref().is_none_or(|success| success.producer_ready.unwrap_or(true))
}

fn answered_request(command: &BaseCommand) -> Option<u64> {
    let c = command;
    None.or(c.success.as_ref().map(|a| a.request_id))
        .or(c.error.as_ref().map(|a| a.request_id))
        .or(c.producer_success.as_ref().map(|a| a.request_id))
        .or(c.partition_metadata_response.as_ref().map(|a| a.request_id))
        .or(c.lookup_response.as_ref().map(|a| a.request_id))
        .or(c.last_message_id.as_ref().map(|a| a.request_id))
        .or(c.ack_response.as_ref().and_then(|a| a.request_id))
        .or(c.get_topics_response.as_ref().map(|a| a.request_id))
        .or(c.get_schema_response.as_ref().map(|a| a.request_id))
        .or(c.get_or_create_schema_response.as_ref().map(|a| a.request_id))
}

/// A live broker answers our PING, sent every 15 s, well within this.
const SILENCE_MAX: Duration = Duration::from_secs(40);
