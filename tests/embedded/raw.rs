//! A client of frames, on a blocking socket: what no real client would send, and as slow as it likes to be.

use std::io::{Read, Write};
use std::net::TcpStream;

use pulsar_bridge::pulsar::fields;
use pulsar_bridge::pulsar::frame::{self, Frame, FrameSplitter};
use pulsar_bridge::pulsar::proto::{self, BaseCommand, kind};
use pulsar_bridge::pulsar::publisher::Outbound;

use crate::stage::{PATIENCE, outbound};

pub struct Raw {
    socket: TcpStream,
    splitter: FrameSplitter,
}

impl Raw {
    pub fn dial(url: &str) -> Self {
        let socket = TcpStream::connect(url.strip_prefix("pulsar://").unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, splitter: FrameSplitter::new(16 << 20) }
    }

    /// Dialled, and connected.
    pub fn connect(url: &str) -> Self {
        let mut raw = Self::dial(url);
        let connect = proto::Connect { client_version: "raw".into(), ..Default::default() };
        raw.say(kind::CONNECT, |command| command.connect = Some(connect));
        raw.await_kind(kind::CONNECTED);
        raw
    }

    pub fn say(&mut self, r#type: i32, fill: impl FnOnce(&mut BaseCommand)) {
        let mut command = BaseCommand { r#type, ..BaseCommand::default() };
        fill(&mut command);
        self.write(&frame::encode(&command));
    }

    /// A command of which only the fields are given, as bytes.
    pub fn say_fields(&mut self, r#type: u32, body: &[u8]) {
        let mut command = Vec::new();
        fields::put_varint(&mut command, 1, r#type.into());
        fields::put_bytes(&mut command, r#type, body);
        let len = command.len() as u32;
        self.write(&[&(len + 4).to_be_bytes()[..], &len.to_be_bytes(), &command].concat());
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// The next frame; `None` when the broker has closed the connection.
    pub fn try_next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.splitter.next_frame().unwrap() {
                return Some(frame);
            }
            let inlet = self.splitter.inlet();
            let len = inlet.len();
            inlet.resize(len + 64 * 1024, 0);
            let read = self.socket.read(&mut inlet[len..]).unwrap_or(0);
            inlet.truncate(len + read);
            if read == 0 {
                return None;
            }
        }
    }

    pub fn try_clone(&self) -> Self {
        Self { socket: self.socket.try_clone().unwrap(), splitter: FrameSplitter::new(16 << 20) }
    }

    pub fn next(&mut self) -> Frame {
        self.try_next().expect("the connection stays")
    }

    /// The next command of this kind; what comes before it is passed over.
    pub fn await_kind(&mut self, r#type: i32) -> BaseCommand {
        loop {
            let command = self.next().decode().unwrap();
            assert!(command.error.is_none(), "{command:?}");
            if command.r#type == r#type {
                return command;
            }
            if command.r#type == kind::PING {
                self.say(kind::PONG, |command| command.pong = Some(proto::Empty {}));
            }
        }
    }

    pub fn create_producer(&mut self, topic: &str, producer_id: u64) {
        self.ask_for_producer(topic, producer_id);
        self.await_kind(kind::PRODUCER_SUCCESS);
    }

    pub fn ask_for_producer(&mut self, topic: &str, producer_id: u64) {
        let producer = proto::Producer {
            topic: topic.into(),
            producer_id,
            request_id: producer_id,
            producer_name: Some("raw".into()),
            ..Default::default()
        };
        self.say(kind::PRODUCER, |command| command.producer = Some(producer));
    }

    pub fn subscribe(&mut self, topic: &str, consumer_id: u64) {
        self.ask_to_subscribe(topic, consumer_id);
        self.await_kind(kind::SUCCESS);
    }

    pub fn ask_to_subscribe(&mut self, topic: &str, consumer_id: u64) {
        let subscribe = proto::Subscribe {
            topic: topic.into(),
            subscription: "sub".into(),
            consumer_id,
            request_id: consumer_id,
            ..Default::default()
        };
        self.say(kind::SUBSCRIBE, |command| command.subscribe = Some(subscribe));
    }

    pub fn permit(&mut self, consumer_id: u64, message_permits: u32) {
        let flow = proto::Flow { consumer_id, message_permits };
        self.say(kind::FLOW, |command| command.flow = Some(flow));
    }

    pub fn ack(&mut self, consumer_id: u64, id: proto::MessageId) {
        let ack = proto::Ack { consumer_id, ack_type: 1, message_id: vec![id], ..Default::default() };
        self.say(kind::ACK, |command| command.ack = Some(ack));
    }

    pub fn send(&mut self, producer_id: u64, sequence_id: u64, payload_len: usize) {
        assert!(self.try_send(producer_id, sequence_id, payload_len), "the connection stays");
    }

    /// Whether the broker takes it still.
    pub fn try_send(&mut self, producer_id: u64, sequence_id: u64, payload_len: usize) -> bool {
        let Outbound { head, payload, .. } = outbound("raw", sequence_id, vec![b'x'; payload_len]);
        let send = proto::Send { producer_id, sequence_id, ..Default::default() };
        let command = BaseCommand { r#type: kind::SEND, send: Some(send), ..Default::default() };
        let mut bytes = frame::encode_before(&command, head.len() + payload.len()).to_vec();
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&payload);
        self.socket.write_all(&bytes).is_ok()
    }
}
