//! What the scripted broker says on one connection: just the commands that the bridge speaks.

use std::sync::Arc;

use bytes::Bytes;
use pulsar_bridge::pulsar::frame::{self, FrameSplitter};
use pulsar_bridge::pulsar::proto::{self, BaseCommand, MessageId, ServerError, kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::broker::{Answer, Held, Manner, Order, Shared};
use crate::journal::Event;

/// One connection's side of things.
struct Conversation {
    shared: Arc<Shared>,
    number: u64,
    consumer: Option<Consumer>,
    /// Id and name.
    producer: Option<(u64, String)>,
    out: Vec<Bytes>,
}

struct Consumer {
    id: u64,
    next: usize,
    permits: u64,
    /// The request that waits for its success.
    unanswered: Option<u64>,
    failover: bool,
    /// A reader, which is given what lies before the mark-delete position as well.
    browses: bool,
}

/// Serves one connection to its end.
pub async fn serve(shared: Arc<Shared>, socket: TcpStream, number: u64) {
    let mut changed = shared.changed.subscribe();
    let mut orders = shared.orders.subscribe();
    let mut splitter = FrameSplitter::new(64 << 20);
    let (mut read_half, mut write_half) = socket.into_split();
    let mut conversation =
        Conversation { shared: shared.clone(), number, consumer: None, producer: None, out: Vec::new() };
    loop {
        conversation.pump();
        for bytes in std::mem::take(&mut conversation.out) {
            if write_half.write_all(&bytes).await.is_err() {
                return conversation.forget();
            }
        }
        tokio::select! {
            frame = next_frame(&mut read_half, &mut splitter) => match frame {
                Some((command, rest)) => conversation.take(command, rest),
                None => return conversation.forget(),
            },
            _ = changed.changed() => {}
            order = orders.recv() => if conversation.obey(order.unwrap()) {
                conversation.forget();
                let _ = read_half.reunite(write_half).unwrap().set_zero_linger();
                return;
            },
        }
    }
}

async fn next_frame(
    socket: &mut OwnedReadHalf,
    splitter: &mut FrameSplitter,
) -> Option<(BaseCommand, Bytes)> {
    loop {
        if let Some(frame) = splitter.next_frame().unwrap() {
            return Some((frame.decode().unwrap(), frame.rest));
        }
        if socket.read_buf(splitter.inlet()).await.ok()? == 0 {
            return None;
        }
    }
}

impl Conversation {
    fn say(&mut self, r#type: i32, fill: impl FnOnce(&mut BaseCommand)) {
        let mut command = of_kind(r#type);
        fill(&mut command);
        self.out.push(frame::encode(&command));
    }

    fn forget(&mut self) {
        if let Some((_, name)) = self.producer.take() {
            self.shared.lock().owners.remove(&name);
        }
        self.shared.changed.send_replace(());
    }

    /// Whether the socket is to be reset.
    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Reset => return true,
            Order::Ping => self.ping(),
            Order::CloseProducer => {
                if let Some((producer_id, _)) = &self.producer {
                    let close_producer =
                        Some(proto::CloseProducer { producer_id: *producer_id, request_id: u64::MAX });
                    self.say(kind::CLOSE_PRODUCER, |command| command.close_producer = close_producer);
                    self.forget();
                }
            }
            Order::CloseConsumer => {
                if let Some(consumer) = self.consumer.take() {
                    let close_consumer =
                        Some(proto::CloseConsumer { consumer_id: consumer.id, request_id: u64::MAX });
                    self.say(kind::CLOSE_CONSUMER, |command| command.close_consumer = close_consumer);
                }
            }
        }
        false
    }

    /// Delivers what permits allow, and writes released answers.
    fn pump(&mut self) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if let Some(consumer) = self.consumer.as_mut().filter(|consumer| consumer.unanswered.is_none()) {
            while let Some(((ledger, entry), stored)) =
                state.log.get(consumer.next).filter(|_| consumer.permits > 0)
            {
                let is_passed =
                    state.mark_delete.is_some_and(|mark| signed((*ledger, *entry)) <= signed(mark));
                if !consumer.browses && (is_passed || state.acked.contains(&(*ledger, *entry))) {
                    consumer.next += 1;
                    continue;
                }
                let message = Some(proto::CommandMessage {
                    consumer_id: consumer.id,
                    message_id: MessageId { ledger: *ledger, entry: *entry },
                });
                let command = BaseCommand { message, ..of_kind(kind::MESSAGE) };
                self.out.push(frame::encode_before(&command, stored.len()));
                self.out.push(stored.clone());
                consumer.permits -= 1;
                consumer.next += 1;
            }
        }
        let number = self.number;
        let (mine, others) = state.released.drain(..).partition(|held| held.connection == number);
        state.released = others;
        drop(state);
        let mine: Vec<Held> = mine;
        for held in mine {
            match held.refusal {
                Some((error, message)) => self.refuse(held.producer_id, held.sequence_id, error, message),
                None => self.confirm(held.producer_id, held.sequence_id, false),
            }
        }
    }

    fn take(&mut self, command: BaseCommand, rest: Bytes) {
        self.shared.journal.note(Event::Command(self.shared.name, command.r#type));
        match command.r#type {
            kind::CONNECT => self.connected(),
            kind::PING => {
                let pong = Some(proto::Empty {});
                self.say(kind::PONG, |command| command.pong = pong);
            }
            kind::PONG => self.answer_subscribe(),
            kind::PARTITION_METADATA => {
                let partition_metadata_response = Some(proto::PartitionMetadataResponse {
                    partitions: Some(0),
                    request_id: command.partition_metadata.unwrap().request_id,
                    response: Some(0),
                    ..Default::default()
                });
                let r#type = kind::PARTITION_METADATA_RESPONSE;
                self.say(r#type, |command| command.partition_metadata_response = partition_metadata_response);
            }
            kind::LOOKUP => {
                let lookup_response = Some(proto::LookupResponse {
                    broker_service_url: Some(self.shared.url()),
                    response: Some(1),
                    request_id: command.lookup.unwrap().request_id,
                    ..Default::default()
                });
                self.say(kind::LOOKUP_RESPONSE, |command| command.lookup_response = lookup_response);
            }
            kind::SUBSCRIBE => self.subscribe(command.subscribe.unwrap()),
            kind::FLOW => self.flow(command.flow.unwrap()),
            kind::ACK => self.ack(command.ack.unwrap()),
            kind::GET_LAST_MESSAGE_ID => self.last_message_id(command.get_last_message_id.unwrap()),
            kind::CLOSE_CONSUMER => {
                self.consumer = None;
                self.succeed(command.close_consumer.unwrap().request_id);
            }
            kind::PRODUCER => self.create_producer(command.producer.unwrap()),
            kind::SEND => self.send(command.send.unwrap(), rest),
            kind::CLOSE_PRODUCER => {
                self.forget();
                self.succeed(command.close_producer.unwrap().request_id);
            }
            other => panic!("{}: no script for command {other}", self.shared.name),
        }
    }

    fn connected(&mut self) {
        let connected = Some(proto::Connected {
            server_version: "scripted".into(),
            protocol_version: Some(21),
            max_message_size: Some(5 << 20),
            feature_flags: None,
        });
        self.say(kind::CONNECTED, |command| command.connected = connected);
    }

    fn succeed(&mut self, request_id: u64) {
        let success = Some(proto::Success { request_id });
        self.say(kind::SUCCESS, |command| command.success = success);
    }

    fn subscribe(&mut self, subscribe: proto::Subscribe) {
        let mark_delete = self.shared.lock().mark_delete;
        // As Pulsar has it, a reader begins with the very entry that it names.
        let before = |start: &MessageId| {
            (start.ledger, if start.entry == u64::MAX { start.entry } else { start.entry.wrapping_sub(1) })
        };
        let start = subscribe.start_message_id.as_ref().map(before);
        self.consumer = Some(Consumer {
            id: subscribe.consumer_id,
            next: self.after(start.or(mark_delete)),
            permits: 0,
            unanswered: Some(subscribe.request_id),
            failover: subscribe.sub_type == 2,
            browses: subscribe.durable == Some(false),
        });
        let manner = self.shared.lock().manner;
        match manner {
            Manner::Plain => self.answer_subscribe(),
            Manner::Slow => self.ping(),
            Manner::Talkative => {
                self.say_active();
                self.answer_subscribe();
                self.say_active();
            }
        }
    }

    fn ping(&mut self) {
        let ping = Some(proto::Empty {});
        self.say(kind::PING, |command| command.ping = ping);
    }

    fn answer_subscribe(&mut self) {
        let Some(consumer) = &mut self.consumer else {
            return;
        };
        let (waiting, failover) = (consumer.unanswered.take(), consumer.failover);
        if let Some(request_id) = waiting {
            self.succeed(request_id);
            if failover {
                self.say_active();
            }
        }
    }

    fn say_active(&mut self) {
        let Some(consumer) = &self.consumer else { return };
        let active_consumer_change =
            Some(proto::ActiveConsumerChange { consumer_id: consumer.id, is_active: Some(true) });
        let r#type = kind::ACTIVE_CONSUMER_CHANGE;
        self.say(r#type, |command| command.active_consumer_change = active_consumer_change);
    }

    fn after(&self, mark: Option<(u64, u64)>) -> usize {
        let state = self.shared.lock();
        state
            .log
            .iter()
            .position(|(at, _)| mark.is_none_or(|mark| signed(*at) > signed(mark)))
            .unwrap_or(state.log.len())
    }

    fn flow(&mut self, flow: proto::Flow) {
        let Some(consumer) = &mut self.consumer else {
            return;
        };
        if consumer.unanswered.is_some() {
            return self.shared.journal.note(Event::EarlyFlow);
        }
        consumer.permits += u64::from(flow.message_permits);
    }

    fn ack(&mut self, ack: proto::Ack) {
        let at = (ack.message_id[0].ledger, ack.message_id[0].entry);
        // What a client that was thrown out still sends is ignored.
        if self.consumer.is_none() {
            return;
        }
        if ack.ack_type == 0 {
            self.shared.lock().acked.insert(at);
            self.shared.changed.send_replace(());
            return;
        }
        let properties: Vec<_> = ack.properties.into_iter().map(|pair| (pair.key, pair.value)).collect();
        {
            let mut state = self.shared.lock();
            if state.mark_delete.is_none_or(|mark| signed(mark) <= signed(at)) {
                state.mark_delete = Some(at);
                state.properties.clone_from(&properties);
            }
        }
        self.shared.journal.note(Event::Acked { at, properties });
        if let Some(request_id) = ack.request_id {
            let ack_response = Some(proto::AckResponse {
                consumer_id: ack.consumer_id,
                error: None,
                message: None,
                request_id: Some(request_id),
            });
            self.say(kind::ACK_RESPONSE, |command| command.ack_response = ack_response);
        }
        self.shared.changed.send_replace(());
    }

    fn last_message_id(&mut self, question: proto::GetLastMessageId) {
        let mut state = self.shared.lock();
        if state.mute {
            return;
        }
        state.mark_delete = state.mark_delete.max(state.expires);
        let id = |(ledger, entry)| MessageId { ledger, entry };
        let none = (u64::MAX, u64::MAX);
        let last_message_id = Some(proto::LastMessageId {
            last_message_id: id(state.log.last().map_or(none, |(at, _)| *at)),
            request_id: question.request_id,
            consumer_mark_delete_position: Some(id(state.mark_delete.unwrap_or(none))),
        });
        drop(state);
        self.say(kind::LAST_MESSAGE_ID, |command| command.last_message_id = last_message_id);
    }

    fn create_producer(&mut self, producer: proto::Producer) {
        let name = producer.producer_name.unwrap();
        let request_id = producer.request_id;
        let owner = *self.shared.lock().owners.entry(name.clone()).or_insert(self.number);
        if owner != self.number {
            let error = Some(proto::CommandError {
                request_id,
                error: ServerError::ProducerBusy as i32,
                message: "the name is taken".into(),
            });
            return self.say(kind::ERROR, |command| command.error = error);
        }
        let last = self.shared.lock().pushed.get(&name).copied();
        self.producer = Some((producer.producer_id, name.clone()));
        let producer_success = Some(proto::ProducerSuccess {
            request_id,
            producer_name: name,
            last_sequence_id: Some(last.unwrap_or(-1)),
            producer_ready: Some(true),
        });
        self.say(kind::PRODUCER_SUCCESS, |command| command.producer_success = producer_success);
    }

    fn send(&mut self, send: proto::Send, stored: Bytes) {
        // As a real broker, for 30 s after it closed the producer.
        let Some((producer_id, name)) = self.producer.clone() else {
            return;
        };
        let sequence_id = send.sequence_id;
        let mut state = self.shared.lock();
        if state.pushed.get(&name).is_some_and(|pushed| sequence_id as i64 <= *pushed) {
            drop(state);
            return self.confirm(producer_id, sequence_id, true);
        }
        let highest = send.highest_sequence_id.unwrap_or(sequence_id);
        let is_quarantine = name.ends_with("/quarantine");
        let joined = send.highest_sequence_id.and_then(|_| (state.joined_script)());
        let answer = match joined {
            Some(answer) => answer,
            None if is_quarantine => (state.quarantine_script)(sequence_id),
            None => (state.script)(sequence_id),
        };
        if !matches!(answer, Answer::Refuse(..) | Answer::RefuseLater(..)) {
            state.pushed.insert(name, highest as i64);
            let topic = if is_quarantine { &mut state.quarantined } else { &mut state.stored };
            topic.push((sequence_id, stored));
        }
        let held = |refusal, sequence_id| Held { connection: self.number, producer_id, sequence_id, refusal };
        match answer {
            Answer::StoreLater => state.held.push(held(None, sequence_id)),
            // A refusal names the highest id, a receipt the first.
            Answer::RefuseLater(error, message) => state.held.push(held(Some((error, message)), highest)),
            Answer::Store | Answer::Anothers | Answer::Refuse(..) => {}
        }
        drop(state);
        match answer {
            Answer::Store => self.confirm(producer_id, sequence_id, false),
            Answer::Anothers => self.confirm(producer_id, sequence_id, true),
            Answer::Refuse(error, message) => self.refuse(producer_id, highest, error, message),
            Answer::StoreLater | Answer::RefuseLater(..) => {}
        }
        self.shared.changed.send_replace(());
    }

    fn confirm(&mut self, producer_id: u64, sequence_id: u64, duplicate: bool) {
        self.shared.journal.note(Event::Receipt { sequence_id, duplicate });
        let id = if duplicate { u64::MAX } else { sequence_id };
        let send_receipt = Some(proto::SendReceipt {
            producer_id,
            sequence_id,
            message_id: Some(MessageId { ledger: id, entry: id }),
        });
        self.say(kind::SEND_RECEIPT, |command| command.send_receipt = send_receipt);
    }

    fn refuse(&mut self, producer_id: u64, sequence_id: u64, error: ServerError, message: &str) {
        self.shared.journal.note(Event::Refused { sequence_id });
        let send_error =
            Some(proto::SendError { producer_id, sequence_id, error: error as i32, message: message.into() });
        self.say(kind::SEND_ERROR, |command| command.send_error = send_error);
    }
}

/// As a broker compares: its −1 are before everything.
fn signed((ledger, entry): (u64, u64)) -> (i64, i64) {
    (ledger.cast_signed(), entry.cast_signed())
}

fn of_kind(r#type: i32) -> BaseCommand {
    BaseCommand { r#type, ..BaseCommand::default() }
}
