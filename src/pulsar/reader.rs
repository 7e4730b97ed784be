//! The reading half of a broker connection: one task that owns the socket's read side and hands each frame to
//! whoever it is for. Waits for room in a consumer's inbox, and so ceases to read; never decides anything.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use super::connection::{
    AUTH_METHOD, CLIENT_VERSION, ConnectionError, ConsumerEvent, Credentials, PROTOCOL_VERSION,
    ProducerEvent, read_more,
};
use super::frame::{self, FrameError, FrameSplitter, Lying};
use super::mailboxes::{ConsumerMail, Group, Inbox, Mailboxes, ProducerMail};
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
            while self.take_next().await? {}
            // Counted only while we read: a socket that we paused may be silent for as long as we like.
            let read = tokio::time::timeout(SILENCE_MAX, read_more(&mut socket, &mut self.splitter)).await;
            read.map_err(|_| ConnectionError::Lost("the broker was silent".into()))??;
        }
    }

    /// Takes the next whole frame, and with an entry or a receipt all that follow it of the same consumer or
    /// producer. `false` when none is whole.
    async fn take_next(&mut self) -> Result<bool, ConnectionError> {
        let Some(Lying { command, .. }) = self.splitter.whole_at(0)? else {
            return Ok(false);
        };
        // BaseCommand.type is field 1 and every client and broker writes it first: `08 <type>`.
        match command.first_chunk::<2>() {
            Some(&MESSAGE) => self.take_entries().await?,
            Some(&RECEIPT) => self.take_receipts().await?,
            Some(_) | None => {
                if let Some(frame) = self.splitter.next_frame()? {
                    let command = frame.decode()?;
                    self.take_command(command).await?;
                }
            }
        }
        Ok(true)
    }

    async fn take_entries(&mut self) -> Result<(), ConnectionError> {
        let mut of: Option<(u64, Option<Inbox>)> = None;
        let (mut taken, mut bytes, mut bytes_max, mut entries) = (0, 0, 0, Vec::new());
        // What is wrong with a frame behind the first is found when it is the first.
        while let Some(Lying { command, rest }) = self.splitter.whole_at(taken).ok().flatten() {
            if !command.starts_with(&MESSAGE) || entries.len() >= GROUP_ENTRIES_MAX {
                break;
            }
            let hot = HotCommand::decode(command).map_err(FrameError::Command);
            let hot = if taken == 0 { hot? } else { hot.unwrap_or_default() };
            let Some(message) = hot.message else {
                // One that is nobody's is passed over.
                taken = if taken == 0 { rest.end } else { taken };
                break;
            };
            let (consumer_id, inbox) = of.get_or_insert_with(|| {
                let inbox = self.mailboxes.lock().consumers.get(&message.consumer_id).cloned();
                bytes_max = inbox.as_ref().map_or(0, |inbox| inbox.bytes_max as usize);
                (message.consumer_id, inbox)
            });
            let fits = bytes + rest.len() <= (bytes_max / GROUPS_MIN).min(GROUP_LEN_MAX);
            if taken > 0 && (message.consumer_id != *consumer_id || !fits) {
                break;
            }
            (taken, bytes) = (rest.end, bytes + rest.len());
            if inbox.is_some() {
                entries.push((message.message_id, rest));
            }
        }
        let frames = self.splitter.take(taken);
        let Some((_, Some(inbox))) = of else {
            return Ok(());
        };
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(inbox.bytes_max);
        let Ok(share) = inbox.bytes.acquire_many_owned(share).await else {
            return Ok(());
        };
        let group = Group { frames, entries: entries.into_iter(), _share: share };
        // A receiver that is gone has no more use for entries.
        let _ = inbox.sender.send(ConsumerMail::Entries(group)).await;
        Ok(())
    }

    async fn take_receipts(&mut self) -> Result<(), ConnectionError> {
        let (mut taken, mut of, mut receipts) = (0, None, Vec::new());
        // What is wrong with a frame behind the first is found when it is the first.
        while let Some(Lying { command, rest }) = self.splitter.whole_at(taken).ok().flatten() {
            if !command.starts_with(&RECEIPT) || receipts.len() >= GROUP_ENTRIES_MAX {
                break;
            }
            let hot = HotCommand::decode(command).map_err(FrameError::Command);
            let hot = if taken == 0 { hot? } else { hot.unwrap_or_default() };
            let Some(receipt) = hot.send_receipt.filter(|it| of.is_none_or(|of| of == it.producer_id)) else {
                taken = if taken == 0 { rest.end } else { taken };
                break;
            };
            (taken, of) = (rest.end, Some(receipt.producer_id));
            let duplicate =
                receipt.message_id.is_some_and(|id| id.ledger == u64::MAX && id.entry == u64::MAX);
            receipts.push((receipt.sequence_id, duplicate));
        }
        drop(self.splitter.take(taken));
        if let Some(producer_id) = of {
            self.mail_producer(producer_id, ProducerMail::Receipts(receipts)).await;
        }
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
            let _ = inbox.sender.send(ConsumerMail::Event(event)).await;
        }
    }

    async fn tell_producer(&self, producer_id: u64, event: ProducerEvent) {
        self.mail_producer(producer_id, ProducerMail::Event(event)).await;
    }

    async fn mail_producer(&self, producer_id: u64, mail: ProducerMail) {
        let sender = self.mailboxes.lock().producers.get(&producer_id).cloned();
        if let Some(sender) = sender {
            let _ = sender.send(mail).await;
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

/// How the two commands of the hot path begin.
const MESSAGE: [u8; 2] = [0x08, kind::MESSAGE as u8];
const RECEIPT: [u8; 2] = [0x08, kind::SEND_RECEIPT as u8];
/// Entries that are handed on at once: what a read brings, and not so much that whoever takes them is long at it.
const GROUP_LEN_MAX: usize = 256 * 1024;
const GROUP_ENTRIES_MAX: usize = 2048;
/// At least as many groups fit into an inbox, so that one is read while another is taken.
const GROUPS_MIN: usize = 4;
/// A live broker answers our PING, sent every 15 s, well within this.
const SILENCE_MAX: Duration = Duration::from_secs(40);

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes, BytesMut};
    use tokio::sync::Semaphore;

    use super::*;

    const INBOX_LEN: u32 = 1000;

    fn message(consumer_id: u64, entry: u64, stored: &[u8]) -> Bytes {
        let message_id = proto::MessageId { ledger: 5, entry };
        let message = Some(proto::CommandMessage { consumer_id, message_id });
        let command = BaseCommand { r#type: kind::MESSAGE, message, ..BaseCommand::default() };
        let mut frame = BytesMut::from(&frame::encode_before(&command, stored.len())[..]);
        frame.put_slice(stored);
        frame.freeze()
    }

    fn receipt(sequence_id: u64, message_id: Option<proto::MessageId>) -> Bytes {
        let send_receipt = Some(proto::SendReceipt { producer_id: 3, sequence_id, message_id });
        frame::encode(&BaseCommand { r#type: kind::SEND_RECEIPT, send_receipt, ..BaseCommand::default() })
    }

    /// What lies in the inbox of consumer 1 and in that of producer 3 after these bytes.
    async fn read(bytes: &[u8]) -> (Vec<ConsumerMail>, Vec<ProducerMail>) {
        let mailboxes = Arc::new(Mailboxes::default());
        let (consumer, mut entries) = mpsc::channel(100);
        let share = Arc::new(Semaphore::new(INBOX_LEN as usize));
        let inbox = Inbox { sender: consumer, bytes: share, bytes_max: INBOX_LEN };
        mailboxes.lock().consumers.insert(1, inbox);
        let (producer, mut receipts) = mpsc::channel(100);
        mailboxes.lock().producers.insert(3, producer);
        let (pongs, _pong_asked) = mpsc::channel(1);
        let (outbox, _queued) = mpsc::channel(1);
        let reader = Reader {
            splitter: FrameSplitter::new(1000),
            mailboxes: mailboxes.clone(),
            pongs,
            outbox: outbox.downgrade(),
            credentials: Arc::new(|| Ok(None)),
        };
        assert!(reader.run(bytes).await.is_err(), "it ends with the connection");
        mailboxes.end();
        let (mut mail, mut told) = (Vec::new(), Vec::new());
        while let Some(next) = entries.recv().await {
            mail.push(next);
        }
        while let Some(next) = receipts.recv().await {
            told.push(next);
        }
        (mail, told)
    }

    /// The entries of a group, with their bytes; none of another event.
    fn entries(mail: ConsumerMail) -> Vec<(u64, Bytes)> {
        match mail {
            ConsumerMail::Entries(mut group) => {
                std::iter::from_fn(|| group.next()).map(|it| (it.id.entry, it.stored)).collect()
            }
            ConsumerMail::Event(_) => Vec::new(),
        }
    }

    #[tokio::test]
    async fn entries_and_receipts_that_came_together_are_handed_on_together_and_in_order() {
        let none = proto::MessageId { ledger: u64::MAX, entry: u64::MAX };
        let close = proto::CloseConsumer { consumer_id: 1, request_id: 9 };
        let close = BaseCommand {
            r#type: kind::CLOSE_CONSUMER,
            close_consumer: Some(close),
            ..BaseCommand::default()
        };
        let bytes = [
            message(1, 0, b"zero"),
            message(1, 1, b""),
            message(2, 7, b"nobody's"),
            message(1, 2, b"two"),
            receipt(5, None),
            receipt(6, Some(none)),
            frame::encode(&close),
            receipt(7, None),
        ]
        .concat();
        let (mail, told) = read(&bytes).await;
        let mail: Vec<_> = mail.into_iter().map(entries).collect();
        let group = |of: &[(u64, &'static str)]| -> Vec<(u64, Bytes)> {
            of.iter().map(|(id, bytes)| (*id, Bytes::from(*bytes))).collect()
        };
        assert_eq!(mail, [group(&[(0, "zero"), (1, "")]), group(&[(2, "two")]), group(&[])]);
        let told: Vec<_> = told.iter().map(|mail| format!("{mail:?}")).collect();
        assert_eq!(told, ["Receipts([(5, false), (6, true)])", "Receipts([(7, false)])"]);
    }

    #[tokio::test]
    async fn a_group_leaves_room_for_others_in_its_inbox() {
        let bytes: Vec<u8> = (0..10).flat_map(|entry| message(1, entry, &[0; 80])).collect();
        let (mail, _) = read(&bytes).await;
        let lens: Vec<usize> = mail.into_iter().map(|mail| entries(mail).len()).collect();
        assert_eq!(lens, [3, 3, 3, 1]);
        let (mail, _) = read(&message(1, 0, &[0; 900])).await;
        assert_eq!(mail.len(), 1, "a large one goes all the same");
    }
}
